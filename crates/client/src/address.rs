//! Calls as requests: method, path, query, body.

use api::interface::{
    Call, Collection, DeleteOptions, GetOptions, ListOptions, PatchKind, Propagation, Target, Watch,
    WriteOptions,
};
use api::json;
use api::names::Resource;
use api::value::Value;
use bytes::Bytes;
use http::Method;

/// The media type of bodies that are no patches.
const JSON: &str = "application/json";

/// A request without server and credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// GET, POST, ...
    pub method: Method,
    /// Path with query.
    pub path: String,
    /// Empty for reads.
    pub body: Bytes,
    /// The body's media type.
    pub content_type: &'static str,
}

impl Ask {
    /// The request that a call means.
    pub fn of(call: &Call) -> Self {
        match call {
            Call::Get(target, options) => Self::read(object_path(target), get_query(options)),
            Call::List(collection, options) => Self::read(collection_path(collection), list_query(options)),
            Call::Create(target, body, options) => {
                // A subresource is posted to its object, an object to its collection.
                let path = if target.subresource.is_empty() {
                    prefix(&target.resource, &target.namespace)
                } else {
                    object_path(target)
                };
                Self::write(Method::POST, path, write_query(options, false), body.clone(), JSON)
            }
            Call::Update(target, body, options) => {
                Self::write(Method::PUT, object_path(target), write_query(options, false), body.clone(), JSON)
            }
            Call::Patch(target, kind, body, options) => {
                let query = write_query(options, *kind == PatchKind::Apply);
                Self::write(Method::PATCH, object_path(target), query, body.clone(), kind.media_type())
            }
            Call::Delete(target, options) => Self::delete(object_path(target), Query::default(), options),
            Call::DeleteCollection(collection, choice, options) => {
                Self::delete(collection_path(collection), list_query(choice), options)
            }
        }
    }

    /// The request that opens a watch; the server ends it after `seconds`.
    pub fn watching(watch: &Watch, seconds: u64) -> Self {
        let mut query = Query::default();
        query.add("watch", "1");
        query.add("labelSelector", &watch.label_selector);
        query.add("fieldSelector", &watch.field_selector);
        if let Some(from) = watch.from {
            query.add("resourceVersion", &from.to_string());
        }
        if watch.bookmarks || watch.initial_events {
            query.add("allowWatchBookmarks", "true");
        }
        if watch.initial_events {
            query.add("sendInitialEvents", "true");
            query.add("resourceVersionMatch", "NotOlderThan");
        }
        query.add("timeoutSeconds", &seconds.to_string());
        Self::read(collection_path(&watch.collection), query)
    }

    /// Whether it can be sent twice without harm.
    pub fn is_idempotent(&self) -> bool {
        self.method == Method::GET
    }

    fn read(path: String, query: Query) -> Self {
        Self { method: Method::GET, path: query.after(path), body: Bytes::new(), content_type: JSON }
    }

    fn write(method: Method, path: String, query: Query, body: Bytes, content_type: &'static str) -> Self {
        Self { method, path: query.after(path), body, content_type }
    }

    fn delete(path: String, query: Query, options: &DeleteOptions) -> Self {
        Self::write(Method::DELETE, path, query, delete_body(options).to_bytes().into(), JSON)
    }
}

/// `/api/v1/...` or `/apis/group/version/...`, to the collection.
fn prefix(resource: &Resource, namespace: &str) -> String {
    let mut path = if resource.group.is_empty() {
        format!("/api/{}", wire::path::encode(&resource.version))
    } else {
        format!("/apis/{}/{}", wire::path::encode(&resource.group), wire::path::encode(&resource.version))
    };
    if !namespace.is_empty() {
        path.push_str("/namespaces/");
        path.push_str(&wire::path::encode(namespace));
    }
    path.push('/');
    path.push_str(&wire::path::encode(&resource.resource));
    path
}

fn collection_path(collection: &Collection) -> String {
    prefix(&collection.resource, &collection.namespace)
}

fn object_path(target: &Target) -> String {
    let mut path = prefix(&target.resource, &target.namespace);
    for segment in [&target.name, &target.subresource] {
        if !segment.is_empty() {
            path.push('/');
            path.push_str(&wire::path::encode(segment));
        }
    }
    path
}

#[derive(Default)]
struct Query(String);

impl Query {
    fn add(&mut self, key: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(key);
        self.0.push('=');
        self.0.push_str(&wire::path::encode(value));
    }

    fn after(self, path: String) -> String {
        path + &self.0
    }
}

fn get_query(options: &GetOptions) -> Query {
    let mut query = Query::default();
    query.add("resourceVersion", &options.resource_version);
    query
}

fn list_query(options: &ListOptions) -> Query {
    let mut query = Query::default();
    query.add("labelSelector", &options.label_selector);
    query.add("fieldSelector", &options.field_selector);
    if options.limit > 0 {
        query.add("limit", &options.limit.to_string());
    }
    query.add("continue", &options.continue_token);
    query.add("resourceVersion", &options.resource_version);
    query.add("resourceVersionMatch", &options.resource_version_match);
    query
}

fn write_query(options: &WriteOptions, is_apply: bool) -> Query {
    let mut query = Query::default();
    if options.dry_run {
        query.add("dryRun", "All");
    }
    query.add("fieldManager", &options.field_manager);
    query.add("fieldValidation", &options.field_validation);
    if is_apply && options.force {
        query.add("force", "true");
    }
    query
}

fn delete_body(options: &DeleteOptions) -> Value {
    let mut body = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
    if let Some(seconds) = options.grace_period_seconds {
        body.set(&["gracePeriodSeconds"], seconds);
    }
    if let Some(uid) = &options.uid {
        body.set(&["preconditions", "uid"], uid.as_str());
    }
    if let Some(revision) = &options.resource_version {
        body.set(&["preconditions", "resourceVersion"], revision.as_str());
    }
    if let Some(propagation) = options.propagation {
        body.set(
            &["propagationPolicy"],
            match propagation {
                Propagation::Orphan => "Orphan",
                Propagation::Background => "Background",
                Propagation::Foreground => "Foreground",
            },
        );
    }
    if options.dry_run {
        body.set(&["dryRun"], Value::Array(vec![Value::from("All")]));
    }
    if options.ignore_read_error {
        body.set(&["ignoreStoreReadErrorWithClusterBreakingPotential"], true);
    }
    body
}

#[cfg(test)]
mod tests {
    use api::names::{DEPLOYMENTS, NODES, PODS};

    use super::*;

    #[test]
    fn objects_collections_and_subresources_have_upstreams_paths() {
        let get =
            Ask::of(&Call::Get(Target::new(&PODS, "a", "b").subresource("status"), GetOptions::default()));
        assert_eq!((get.method.as_str(), get.path.as_str()), ("GET", "/api/v1/namespaces/a/pods/b/status"));
        let create = Ask::of(&Call::Create(
            Target::new(&DEPLOYMENTS, "a", "b"),
            Bytes::new(),
            WriteOptions::default(),
        ));
        assert_eq!(
            (create.method.as_str(), create.path.as_str()),
            ("POST", "/apis/apps/v1/namespaces/a/deployments")
        );
        let bind = Target::new(&PODS, "a", "b").subresource("binding");
        let bind = Ask::of(&Call::Create(bind, Bytes::new(), WriteOptions::default()));
        assert_eq!(bind.path, "/api/v1/namespaces/a/pods/b/binding");
        let list = ListOptions {
            label_selector: "a in (b, c)".into(),
            limit: 500,
            continue_token: "x=".into(),
            ..ListOptions::default()
        };
        let list = Ask::of(&Call::List(Collection::new(&NODES, ""), list));
        assert_eq!(list.path, "/api/v1/nodes?labelSelector=a%20in%20%28b%2C%20c%29&limit=500&continue=x%3D");
    }

    #[test]
    fn patches_carry_their_media_type_and_force_only_for_apply() {
        let options = WriteOptions { force: true, dry_run: true, ..WriteOptions::default() };
        let patch =
            |kind| Ask::of(&Call::Patch(Target::new(&PODS, "a", "b"), kind, Bytes::new(), options.clone()));
        let merge = patch(PatchKind::Merge);
        assert_eq!(merge.content_type, "application/merge-patch+json");
        assert_eq!(merge.path, "/api/v1/namespaces/a/pods/b?dryRun=All");
        assert!(patch(PatchKind::Apply).path.ends_with("?dryRun=All&force=true"));
    }

    #[test]
    fn deletions_carry_their_options_as_a_body() {
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            uid: Some("u".into()),
            propagation: Some(Propagation::Foreground),
            ..DeleteOptions::default()
        };
        let delete = Ask::of(&Call::Delete(Target::new(&PODS, "a", "b"), options));
        let body = api::value::parse(&delete.body).unwrap();
        assert_eq!(body.int_at(&["gracePeriodSeconds"]), Some(0));
        assert_eq!(body.str_at(&["preconditions", "uid"]), Some("u"));
        assert_eq!(body.str_at(&["propagationPolicy"]), Some("Foreground"));
    }

    #[test]
    fn a_watch_says_from_where_and_for_how_long() {
        let watch = Watch {
            collection: Collection::new(&PODS, ""),
            label_selector: "".into(),
            field_selector: "spec.nodeName=n".into(),
            from: Some(7),
            bookmarks: true,
            initial_events: false,
        };
        assert_eq!(
            Ask::watching(&watch, 300).path,
            "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn&resourceVersion=7&allowWatchBookmarks=true\
             &timeoutSeconds=300"
        );
    }
}

//! What a request asks for: path and method read as upstream's RequestInfo reads them. Pure.

use api::names::Resource;
use api::value::Str;
use http::Method;

use crate::query::Query;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Something of the API's objects.
    Resource(Box<Info>),
    /// Anything else, by its path: discovery, health, version.
    Other {
        /// The HTTP method in lower case, which is the verb of authorisation here.
        verb: Str,
        /// The path.
        path: String,
    },
}

/// What a request for an object or a collection asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: &'static str,
    /// Group, version and resource.
    pub resource: Resource,
    /// Empty where there is none. For `namespaces` themselves it is the name, as upstream has it.
    pub namespace: Str,
    /// Empty for collections. A list or watch with a field selector for one name has it here.
    pub name: Str,
    /// Whether the path named the object (the name is not from a field selector).
    pub name_in_path: bool,
    /// Empty where there is none.
    pub subresource: Str,
    /// What follows the subresource, for `proxy`.
    pub rest: String,
    /// Whether the path began with the old `/watch/`.
    pub watch_path: bool,
}

/// Subresources of a namespace, which are no resources in it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

/// Reads a request's method, path (still percent-encoded) and query.
pub fn route(method: &Method, path: &str, query: &Query<'_>) -> Route {
    let other = || Route::Other { verb: method.as_str().to_ascii_lowercase().into(), path: path.to_owned() };
    let trimmed = path.trim_matches('/');
    let mut parts: Vec<&str> = trimmed.split('/').collect();
    let least = match parts.first() {
        Some(&"api") => 3,
        Some(&"apis") => 4,
        _ => return other(),
    };
    if parts.len() < least {
        return other();
    }
    let (group, version) = if least == 3 { ("", parts[1]) } else { (parts[1], parts[2]) };
    parts.drain(..least - 1);
    let mut verb = match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    };
    let watch_path = parts[0] == "watch";
    if watch_path {
        parts.remove(0);
        if parts.is_empty() {
            return other();
        }
        verb = "watch";
    }
    let mut namespace = "";
    if parts[0] == "namespaces" && parts.len() > 1 {
        namespace = parts[1];
        if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2]) {
            parts.drain(..2);
        }
    }
    let mut info = Info {
        verb,
        resource: Resource { group: group.into(), version: version.into(), resource: parts[0].into() },
        namespace: decoded(namespace),
        name: parts.get(1).map(|name| decoded(name)).unwrap_or_default(),
        name_in_path: parts.len() > 1,
        subresource: parts.get(2).map(|part| Str::from(*part)).unwrap_or_default(),
        rest: rest_of(path, &parts),
        watch_path,
    };
    if info.name.is_empty() {
        info.name_in_path = false;
        collection_verb(&mut info, query);
    }
    Route::Resource(Box::new(info))
}

fn collection_verb(info: &mut Info, query: &Query<'_>) {
    match info.verb {
        "get" => info.verb = if query.flag("watch") { "watch" } else { "list" },
        "delete" => info.verb = "deletecollection",
        _ => return,
    }
    if let Some(name) = query.get("fieldSelector").as_deref().and_then(single_name) {
        info.name = name;
    }
}

/// The name in a field selector that admits one name only.
fn single_name(selector: &str) -> Option<Str> {
    selector.split(',').find_map(|requirement| {
        let value = requirement.strip_prefix("metadata.name=")?;
        let value = value.strip_prefix('=').unwrap_or(value);
        (!value.is_empty() && !value.contains(['/', '%', '!', '\\']) && value != "." && value != "..")
            .then(|| value.into())
    })
}

/// What follows the subresource, with its slash if there is one.
fn rest_of(path: &str, parts: &[&str]) -> String {
    if parts.len() < 3 {
        return String::new();
    }
    let mut rest = parts[3..].join("/");
    if parts.len() > 3 {
        rest.insert(0, '/');
    }
    if path.ends_with('/') {
        rest.push('/');
    }
    rest
}

fn decoded(part: &str) -> Str {
    if part.contains('%') { crate::query::percent_decode(part, false).into() } else { part.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(method: Method, path_and_query: &str, expect: &str) {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let got = match route(&method, path, &Query::new(query)) {
            Route::Other { verb, path } => format!("other {verb} {path}"),
            Route::Resource(info) => format!(
                "{} {} ns={} name={} sub={} rest={}",
                info.verb, info.resource, info.namespace, info.name, info.subresource, info.rest
            ),
        };
        assert_eq!(got, expect, "{path_and_query}");
    }

    #[test]
    fn paths_are_read_as_upstream_reads_them() {
        check(Method::GET, "/api/v1/pods", "list /v1/pods ns= name= sub= rest=");
        check(Method::GET, "/api/v1/pods?watch=1", "watch /v1/pods ns= name= sub= rest=");
        check(Method::GET, "/api/v1/watch/pods", "watch /v1/pods ns= name= sub= rest=");
        check(Method::GET, "/api/v1/namespaces/a/pods/b/log", "get /v1/pods ns=a name=b sub=log rest=");
        check(
            Method::PUT,
            "/api/v1/namespaces/a/finalize",
            "update /v1/namespaces ns=a name=a sub=finalize rest=",
        );
        check(Method::GET, "/api/v1/namespaces/a", "get /v1/namespaces ns=a name=a sub= rest=");
        check(
            Method::DELETE,
            "/apis/apps/v1/namespaces/a/deployments",
            "deletecollection apps/v1/deployments ns=a name= sub= rest=",
        );
        check(Method::GET, "/apis/apps/v1", "other get /apis/apps/v1");
        check(Method::GET, "/api/v1", "other get /api/v1");
        check(
            Method::GET,
            "/api/v1/namespaces/a/services/http:b:80/proxy/x/y/",
            "get /v1/services ns=a name=http:b:80 sub=proxy rest=/x/y/",
        );
        check(
            Method::GET,
            "/api/v1/pods?fieldSelector=metadata.name%3Dx",
            "list /v1/pods ns= name=x sub= rest=",
        );
        check(
            Method::GET,
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Aa",
            "get rbac.authorization.k8s.io/v1/clusterroles ns= name=system:a sub= rest=",
        );
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "[/a-z%?.]{0,60}", query in ".{0,30}") {
            let _ = route(&Method::GET, &path, &Query::new(&query));
        }
    }
}

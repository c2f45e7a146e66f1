//! Discovery: what is served, plain and aggregated, made of the table once and kept as bytes.

use std::sync::OnceLock;

use api::json;
use api::names::api_version;
use api::table::{self, Group, KindFacts};
use api::value::{Map, Value};
use bytes::Bytes;

use crate::kinds;
use crate::negotiate::ranges;

/// The parameters of `Accept` that ask for the aggregated form.
const AGGREGATED: &str = "APIGroupDiscoveryList";
/// The media type of the aggregated form.
pub const AGGREGATED_TYPE: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A document of discovery.
pub struct Document {
    /// JSON.
    pub body: Bytes,
    /// Its `Content-Type`.
    pub content_type: &'static str,
    /// Its `ETag`; empty for the plain form.
    pub etag: String,
}

/// The document at a path, if there is one. `address` is told to clients of `/api`.
pub fn document(path: &str, accept: &str, address: &str) -> Option<Document> {
    let path = path.trim_end_matches('/');
    let as_json = |body: Vec<u8>| {
        Some(Document { body: body.into(), content_type: "application/json", etag: String::new() })
    };
    let plain = |tree: Value| as_json(tree.to_bytes());
    match path {
        "/api" if wants_aggregated(accept) => Some(aggregated(true)),
        "/apis" if wants_aggregated(accept) => Some(aggregated(false)),
        "/api" => plain(json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
        })),
        "/apis" => {
            let groups: Vec<Value> = named_groups().map(group).collect();
            plain(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        "/api/v1" => as_json(resources("", "v1")),
        _ => {
            let rest = path.strip_prefix("/apis/")?;
            let (name, version) = rest.split_once('/').unwrap_or((rest, ""));
            let found = named_groups().find(|group| group.name == name)?;
            if version.is_empty() {
                let mut tree = group(found);
                tree.set(&["kind"], "APIGroup");
                tree.set(&["apiVersion"], "v1");
                return plain(tree);
            }
            found.versions.contains(&version).then(|| resources(name, version)).and_then(as_json)
        }
    }
}

fn wants_aggregated(accept: &str) -> bool {
    for range in ranges(accept) {
        let json = range.kind == "application" && range.subtype == "json";
        let any = range.kind == "*" || (range.kind == "application" && range.subtype == "*");
        match range.parameter("as") {
            Some(AGGREGATED)
                if json
                    && range.parameter("g") == Some("apidiscovery.k8s.io")
                    && range.parameter("v") == Some("v2") =>
            {
                return true;
            }
            None if json || any => return false,
            _ => {}
        }
    }
    false
}

fn named_groups() -> impl Iterator<Item = &'static Group> {
    table::kinds().groups().iter().filter(|group| !group.name.is_empty())
}

fn group(group: &'static Group) -> Value {
    let version = |version: &&'static str| json!({"groupVersion": (api_version(group.name, version)), "version": (*version)});
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    let preferred = versions.first().cloned().unwrap_or_default();
    json!({"name": (group.name), "versions": versions, "preferredVersion": preferred})
}

fn resources(group: &str, version: &str) -> Vec<u8> {
    let mut list = Vec::new();
    for facts in
        kinds::iter().map(|kind| kind.facts).filter(|facts| facts.group == group && facts.version == version)
    {
        list.push(resource(facts));
        for sub in &facts.subresources {
            let mut entry = Map::new();
            entry.insert("name", format!("{}/{}", facts.resource, sub.name));
            entry.insert("singularName", "");
            entry.insert("namespaced", facts.namespaced);
            if (sub.group, sub.version) != (group, version) {
                entry.insert("group", sub.group);
                entry.insert("version", sub.version);
            }
            entry.insert("kind", sub.kind);
            entry.insert("verbs", sub.verbs.clone());
            list.push(entry.into());
        }
    }
    list.sort_by(|a, b| a.str_at(&["name"]).cmp(&b.str_at(&["name"])));
    let api = if group.is_empty() { "" } else { r#""apiVersion":"v1","# };
    let entries: Vec<String> = list.iter().map(in_order).collect();
    format!(
        r#"{{"kind":"APIResourceList",{api}"groupVersion":"{}","resources":[{}]}}"#,
        api_version(group, version),
        entries.join(",")
    )
    .into_bytes()
}

/// A resource with its fields in upstream's order, for scripts read these lists with patterns.
fn in_order(entry: &Value) -> String {
    let fields = [
        "name",
        "singularName",
        "namespaced",
        "group",
        "version",
        "kind",
        "verbs",
        "shortNames",
        "categories",
        "storageVersionHash",
    ];
    let written: Vec<String> = fields
        .iter()
        .filter_map(|field| {
            let value = entry.get(field)?.to_bytes();
            Some(format!("\"{field}\":{}", String::from_utf8_lossy(&value)))
        })
        .collect();
    format!("{{{}}}", written.join(","))
}

fn resource(facts: &KindFacts) -> Value {
    let mut entry = Map::new();
    entry.insert("name", facts.resource);
    entry.insert("singularName", facts.singular);
    entry.insert("namespaced", facts.namespaced);
    entry.insert("kind", facts.kind);
    entry.insert("verbs", facts.verbs.clone());
    if !facts.short_names.is_empty() {
        entry.insert("shortNames", facts.short_names.clone());
    }
    if !facts.categories.is_empty() {
        entry.insert("categories", facts.categories.clone());
    }
    if let Some(storage) = facts.storage {
        entry.insert("storageVersionHash", storage.hash);
    }
    entry.into()
}

fn aggregated(core: bool) -> Document {
    static DOCUMENTS: [OnceLock<(Bytes, String)>; 2] = [OnceLock::new(), OnceLock::new()];
    let (body, etag) = DOCUMENTS[usize::from(core)].get_or_init(|| {
        let groups = table::kinds().groups().iter().filter(|group| group.name.is_empty() == core);
        let items: Vec<Value> = groups.map(discovered_group).collect();
        let tree = json!({
            "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items
        });
        let body = Bytes::from(tree.to_bytes());
        let etag = crate::server::etag(&body);
        (body, etag)
    });
    Document { body: body.clone(), content_type: AGGREGATED_TYPE, etag: etag.clone() }
}

fn discovered_group(group: &Group) -> Value {
    let version = |version: &&'static str| {
        let resources: Vec<Value> = kinds::iter()
            .map(|kind| kind.facts)
            .filter(|facts| facts.group == group.name && facts.version == *version)
            .map(discovered_resource)
            .collect();
        json!({"version": (*version), "resources": resources, "freshness": "Current"})
    };
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    let mut metadata = Map::new();
    if !group.name.is_empty() {
        metadata.insert("name", group.name);
    }
    json!({"metadata": metadata, "versions": versions})
}

fn discovered_resource(facts: &KindFacts) -> Value {
    let mut entry = Map::new();
    entry.insert("resource", facts.resource);
    entry.insert(
        "responseKind",
        // Upstream leaves out what the document says above.
        json!({"group": "", "version": "", "kind": (facts.kind)}),
    );
    entry.insert("scope", if facts.namespaced { "Namespaced" } else { "Cluster" });
    entry.insert("singularResource", facts.singular);
    entry.insert("verbs", facts.verbs.clone());
    if !facts.short_names.is_empty() {
        entry.insert("shortNames", facts.short_names.clone());
    }
    if !facts.categories.is_empty() {
        entry.insert("categories", facts.categories.clone());
    }
    let subresources: Vec<Value> = facts
        .subresources
        .iter()
        .map(|sub| {
            let own = (sub.group, sub.version) == (facts.group, facts.version);
            let (group, version) = if own { ("", "") } else { (sub.group, sub.version) };
            let kind = json!({"group": group, "version": version, "kind": (sub.kind)});
            json!({"subresource": (sub.name), "responseKind": kind, "verbs": (sub.verbs.clone())})
        })
        .collect();
    if !subresources.is_empty() {
        entry.insert("subresources", subresources);
    }
    entry.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_tell_of_deployments() {
        let plain = document("/apis/apps/v1", "", "").unwrap();
        assert!(String::from_utf8_lossy(&plain.body).contains("\"name\":\"deployments/scale\""));
        let both = format!("{AGGREGATED_TYPE},application/json");
        let aggregated = document("/apis", &both, "").unwrap();
        assert_eq!(aggregated.content_type, AGGREGATED_TYPE);
        assert!(String::from_utf8_lossy(&aggregated.body).contains("\"resource\":\"deployments\""));
        assert!(!document("/apis", "application/json", "").unwrap().body.is_empty());
        assert!(document("/apis/none/v1", "", "").is_none());
    }
}

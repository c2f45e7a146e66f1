//! The served kinds as the gate needs them: the table's facts, with what is looked up for each request beside them.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use api::names::{GroupResource, GroupVersionKind, Resource};
use api::status::{Reason, Status};
use api::table::{self, KindFacts, Shape};
use api::validation::names::NameRule;
use api::value::{Str, Value};

use crate::storage::stored_name;
use crate::strategy::{self, Strategy};
use crate::verbs::method_not_allowed;

/// One resource in one version.
pub struct Kind {
    /// The table's facts.
    pub facts: &'static KindFacts,
    /// What a URL names.
    pub resource: Resource,
    /// The same without version.
    pub group_resource: GroupResource,
    /// What an object of it says of itself.
    pub kind: Arc<GroupVersionKind>,
    /// The kind that is stored; the same unless another version or group is.
    pub stored_kind: Arc<GroupVersionKind>,
    /// The facts of the stored kind.
    pub stored_facts: &'static KindFacts,
    /// The first part of its keys.
    pub key: store::Resource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// The fields that a field selector may name.
    pub selectors: Vec<Str>,
    /// Whether there is a subresource `status`.
    pub has_status: bool,
    /// Whether `metadata.generation` is kept.
    pub counts_generation: bool,
    /// Whether its objects go by themselves (Events).
    pub expires: bool,
    /// Whether a deletion answers with the object rather than with a status.
    pub returns_deleted: bool,
    /// How its names must look.
    pub name_rule: NameRule,
    /// What upstream does in code for it.
    pub strategy: &'static dyn Strategy,
    /// Values of selectable fields that are absent: `false`, `0` or empty.
    absent: Vec<&'static str>,
}

impl Kind {
    fn new(facts: &'static KindFacts) -> Self {
        let stored_facts = facts
            .storage
            .and_then(|storage| table::kinds().by_kind(storage.group, storage.version, facts.kind))
            .unwrap_or(facts);
        let group_resource = GroupResource { group: facts.group.into(), resource: facts.resource.into() };
        let gvk = |facts: &KindFacts| {
            Arc::new(GroupVersionKind {
                group: facts.group.into(),
                version: facts.version.into(),
                kind: facts.kind.into(),
            })
        };
        let kind = gvk(facts);
        let is_stored = std::ptr::eq(facts, stored_facts);
        Self {
            facts,
            resource: Resource {
                group: facts.group.into(),
                version: facts.version.into(),
                resource: facts.resource.into(),
            },
            stored_kind: if is_stored { Arc::clone(&kind) } else { gvk(stored_facts) },
            key: store::Resource::new(stored_name(stored_facts.resource, stored_facts.group)),
            namespaced: facts.namespaced,
            selectors: facts.selectable.iter().map(|path| Str::from(*path)).collect(),
            has_status: facts.subresource("status").is_some(),
            counts_generation: strategy::counts_generation(&group_resource),
            expires: stored_facts.kind == "Event",
            returns_deleted: api::schema::openapi::RETURNED.contains(&(facts.group, facts.resource)),
            name_rule: strategy::name_rule(&group_resource),
            strategy: strategy::of(&group_resource),
            absent: facts.selectable.iter().map(|path| absent(facts, path)).collect(),
            group_resource,
            kind,
            stored_facts,
        }
    }

    /// Whether requests speak the version that is stored.
    pub fn is_stored_version(&self) -> bool {
        std::ptr::eq(self.facts, self.stored_facts)
    }

    /// Whether nothing of it is stored: reviews, bindings.
    pub fn is_virtual(&self) -> bool {
        self.facts.storage.is_none()
    }

    /// Refuses a verb that the kind does not have.
    pub fn require_verb(&self, verb: &str) -> Result<(), Status> {
        if self.facts.can(verb) { Ok(()) } else { Err(method_not_allowed()) }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        self.kind.api_version()
    }
}

/// What upstream says of a selectable field that is not set: Go's zero value of its type.
fn absent(facts: &KindFacts, path: &str) -> &'static str {
    let types = table::types();
    let mut ty = types.get(facts.ty);
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        let Some(field) = ty.field(part) else { return "" };
        if parts.peek().is_none() {
            return match types.bare(field.shape) {
                Shape::Bool => "false",
                Shape::Int32 | Shape::Int64 => "0",
                _ => "",
            };
        }
        match types.struct_of(field.shape) {
            Some(inner) => ty = inner,
            None => return "",
        }
    }
    ""
}

struct All {
    kinds: Vec<Kind>,
    by_resource: HashMap<(&'static str, &'static str, &'static str), usize>,
    by_key: HashMap<String, usize>,
}

fn all() -> &'static All {
    static ALL: OnceLock<All> = OnceLock::new();
    ALL.get_or_init(|| {
        let kinds: Vec<Kind> = table::kinds().iter().map(Kind::new).collect();
        let index = |kind: &Kind| (kind.facts.group, kind.facts.version, kind.facts.resource);
        let by_resource = kinds.iter().enumerate().map(|(at, kind)| (index(kind), at)).collect();
        let by_key = kinds
            .iter()
            .enumerate()
            .filter(|(_, kind)| !kind.is_virtual() && kind.is_stored_version())
            .map(|(at, kind)| (kind.key.as_str().to_owned(), at))
            .collect();
        All { kinds, by_resource, by_key }
    })
}

/// All kinds, in upstream's order.
pub fn iter() -> impl Iterator<Item = &'static Kind> {
    all().kinds.iter()
}

/// What a URL names.
pub fn find(resource: &Resource) -> Option<&'static Kind> {
    let all = all();
    // The map's keys live as long as the program, the words asked for do not; a lookup needs no longer life.
    let key: (&str, &str, &str) = (&resource.group, &resource.version, &resource.resource);
    lookup(&all.by_resource, key).map(|at| &all.kinds[at])
}

fn lookup<'a>(
    map: &HashMap<(&'a str, &'a str, &'a str), usize>,
    key: (&'a str, &'a str, &'a str),
) -> Option<usize> {
    map.get(&key).copied()
}

/// What a URL names, or upstream's error.
pub fn require(resource: &Resource) -> Result<&'static Kind, Status> {
    find(resource).ok_or_else(not_found)
}

/// There is nothing at this path.
pub fn not_found() -> Status {
    let mut status = Status::new(Reason::NotFound, "the server could not find the requested resource");
    status.details = Some(Box::default());
    status
}

/// The kind whose objects are stored under the first part of a key.
pub fn stored(key: &str) -> Option<&'static Kind> {
    let all = all();
    all.by_key.get(key).map(|at| &all.kinds[*at])
}

/// The kind by which another version (`apps/v1`) of its group knows the objects of `kind`, if it does.
pub fn in_version(kind: &Kind, api_version: &str) -> Option<&'static Kind> {
    let (group, version) = api::names::split_api_version(api_version);
    let resource =
        Resource { group: group.into(), version: version.into(), resource: kind.facts.resource.into() };
    (group == kind.facts.group).then(|| find(&resource)).flatten()
}

/// The values of a stored kind's selectable fields, but for name and namespace.
pub fn selectable(kind: &Kind, tree: &Value) -> Vec<(Str, Str)> {
    kind.selectors
        .iter()
        .zip(&kind.absent)
        .filter(|(path, _)| !path.starts_with("metadata."))
        .map(|(path, absent)| {
            let value = field(kind, tree, path);
            (path.clone(), value.unwrap_or_else(|| Str::from(*absent)))
        })
        .collect()
}

fn field(kind: &Kind, tree: &Value, path: &str) -> Option<Str> {
    // Upstream's labels that are no paths.
    let special: &[&str] = match (kind.facts.kind, path) {
        ("Event", "source") => &["source", "component"],
        ("Event", "reportingComponent") => &["reportingComponent"],
        ("Job", "status.successful") => {
            return Some(tree.int_at(&["status", "succeeded"]).unwrap_or_default().to_string().into());
        }
        ("Pod", "status.podIPs") => {
            let ips = tree.array_at(&["status", "podIPs"]);
            let joined: Vec<&str> = ips.iter().filter_map(|ip| ip.str_at(&["ip"])).collect();
            return (!joined.is_empty()).then(|| joined.join(",").into());
        }
        _ => &[],
    };
    let value = if special.is_empty() {
        path.split('.').try_fold(tree, |value, part| value.get(part))?
    } else {
        let found = tree.str_at(special).filter(|text| !text.is_empty());
        return found.or_else(|| tree.str_at(&["reportingComponent"])).map(Str::from);
    };
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Null => None,
        other => Some(other.to_string().into()),
    }
}

/// The name of a selectable field in the stored kind.
pub fn stored_field<'a>(kind: &Kind, path: &'a str) -> std::borrow::Cow<'a, str> {
    if kind.is_stored_version() || kind.facts.kind != "Event" {
        return path.into();
    }
    match path.strip_prefix("regarding.") {
        Some(rest) => format!("involvedObject.{rest}").into(),
        None if path == "reportingController" => "reportingComponent".into(),
        None => path.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;
    use api::names;

    #[test]
    fn kinds_are_found_by_resource_and_by_key() {
        let pods = find(&names::PODS).unwrap();
        assert_eq!(pods.kind.kind, "Pod");
        assert!(std::ptr::eq(stored("pods").unwrap(), pods));
        let deployments = find(&names::DEPLOYMENTS).unwrap();
        assert!(std::ptr::eq(stored("deployments.apps").unwrap(), deployments));
        assert!(find(&Resource::known("", "v2", "pods")).is_none());
    }

    #[test]
    fn the_two_events_share_their_key() {
        let new = find(&Resource::known("events.k8s.io", "v1", "events")).unwrap();
        assert_eq!(new.key, find(&names::EVENTS).unwrap().key);
        assert!(new.expires);
        assert_eq!(stored_field(new, "regarding.name"), "involvedObject.name");
    }

    #[test]
    fn selectable_fields_that_are_absent_are_zero() {
        let nodes = find(&names::NODES).unwrap();
        let fields = selectable(nodes, &json!({"metadata": {"name": "a"}, "spec": {}}));
        assert_eq!(fields, [(Str::from("spec.unschedulable"), Str::from("false"))]);
        let pods = find(&names::PODS).unwrap();
        let fields = selectable(pods, &json!({"spec": {"nodeName": "a"}}));
        assert!(fields.contains(&("spec.nodeName".into(), "a".into())));
        assert!(fields.contains(&("spec.hostNetwork".into(), "false".into())));
    }
}

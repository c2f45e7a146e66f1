//! An object as everybody shares it.

mod indexed;

use std::any::Any;
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::names::GroupVersionKind;
use crate::status::Status;
use crate::value::{Str, Value, write_number, write_string};

pub use indexed::{Indexed, Owner};

/// How every body begins. The resource version goes right behind it when the object is written out.
const BODY_START: &[u8] = br#"{"metadata":{"#;

/// Room for a body while it is written: most fit, so that it does not grow step by step.
const BODY_USUAL_BYTES: usize = 8 * 1024;

/// One object: its encoded body, and beside it the few fields that generic code asks for.
///
/// The body is JSON without `apiVersion`, `kind` and `metadata.resourceVersion`: the first two are facts of the
/// kind, the third is the store's revision. It begins with `metadata`, so that all three can be spliced in while
/// it is copied out, and it is never decoded for a read.
#[derive(Debug)]
pub struct Object {
    kind: Arc<GroupVersionKind>,
    revision: u64,
    indexed: Indexed,
    body: Bytes,
    beside: OnceLock<Box<dyn Any + Send + Sync>>,
}

/// Why bytes are not an object.
#[derive(Debug, thiserror::Error)]
#[error("the stored body of an object cannot be read: {0}; it was not written by this program")]
pub struct BodyError(String);

/// Finds one member and passes over the others.
struct Member<'a>(&'a str);

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = access.next_key::<Cow<'de, str>>()? {
            if key == self.0 {
                found = Some(access.next_value()?);
            } else {
                access.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

impl Object {
    /// The body of a tree: `metadata` first, without what the envelope carries.
    pub fn body_of(tree: &Value) -> Vec<u8> {
        let mut out = Vec::with_capacity(BODY_USUAL_BYTES);
        out.extend_from_slice(BODY_START);
        let mut first = true;
        let mut member = |out: &mut Vec<u8>, key: &str, value: &Value| {
            if !first {
                out.push(b',');
            }
            first = false;
            write_string(key, out);
            out.push(b':');
            value.write_to(out);
        };
        for (key, value) in
            tree.get("metadata").and_then(Value::as_object).into_iter().flat_map(crate::value::Map::iter)
        {
            if key != "resourceVersion" {
                member(&mut out, key, value);
            }
        }
        out.push(b'}');
        for (key, value) in tree.as_object().into_iter().flat_map(crate::value::Map::iter) {
            if !matches!(key.as_str(), "metadata" | "apiVersion" | "kind") {
                out.push(b',');
                write_string(key, &mut out);
                out.push(b':');
                value.write_to(&mut out);
            }
        }
        out.push(b'}');
        // Bodies are kept as long as their objects are. Shrinking would leave them in blocks of up to twice their size,
        // for the allocator moves nothing that fills half of its block.
        out.as_slice().to_vec()
    }

    /// From a stored body. `fields` are the values of the kind's selectable fields, in the kind's order.
    pub fn from_body(
        kind: Arc<GroupVersionKind>,
        revision: u64,
        body: Bytes,
        fields: Vec<(Str, Str)>,
    ) -> Result<Self, BodyError> {
        let indexed = Indexed::of_body(&body, fields)?;
        Ok(Self::of_parts(kind, revision, body, indexed))
    }

    /// From a body and what was read out of it, or out of the tree that it was written from, before.
    pub fn of_parts(kind: Arc<GroupVersionKind>, revision: u64, body: Bytes, indexed: Indexed) -> Self {
        debug_assert!(body.starts_with(BODY_START), "bodies are what `body_of` writes");
        Self { kind, revision, indexed, body, beside: OnceLock::new() }
    }

    /// From a whole tree, as an HTTP client gets it: envelope and resource version are taken from the tree.
    /// No selectable fields are indexed.
    pub fn from_tree(tree: &Value) -> Result<Self, BodyError> {
        let text = |path: &[&str]| tree.str_at(path).unwrap_or_default();
        let kind = GroupVersionKind::parse(text(&["apiVersion"]), text(&["kind"]));
        let revision = text(&["metadata", "resourceVersion"]).parse().unwrap_or_default();
        Self::from_body(Arc::new(kind), revision, Self::body_of(tree).into(), Vec::new())
    }

    /// What it is.
    pub fn kind(&self) -> &Arc<GroupVersionKind> {
        &self.kind
    }

    /// `metadata.resourceVersion`: the store's revision of the last write.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// `metadata.namespace`; empty where the kind has none.
    pub fn namespace(&self) -> &str {
        &self.indexed.namespace
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        &self.indexed.name
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        &self.indexed.uid
    }

    /// Whether `metadata.deletionTimestamp` is set.
    pub fn is_deleting(&self) -> bool {
        self.indexed.deleting
    }

    /// `metadata.labels`, sorted by key.
    pub fn labels(&self) -> &[(Str, Str)] {
        self.indexed.labels()
    }

    /// The label `key`.
    pub fn label(&self, key: &str) -> Option<&str> {
        let labels = self.labels();
        let at = labels.binary_search_by(|(other, _)| other.as_str().cmp(key)).ok()?;
        Some(labels[at].1.as_str())
    }

    /// `metadata.ownerReferences`.
    pub fn owners(&self) -> &[Owner] {
        &self.indexed.owners
    }

    /// The managing controller among the owners.
    pub fn controller(&self) -> Option<&Owner> {
        self.owners().iter().find(|owner| owner.controller)
    }

    /// The value of a selectable field; every kind has `metadata.name` and `metadata.namespace`.
    pub fn field(&self, path: &str) -> Option<&str> {
        match path {
            "metadata.name" => Some(self.name()),
            "metadata.namespace" => Some(self.namespace()),
            _ => {
                self.indexed.fields().iter().find(|(other, _)| other == path).map(|(_, value)| value.as_str())
            }
        }
    }

    /// The encoded body, without envelope and resource version.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// What a server keeps beside the object for as long as it lives, such as an encoding of it. The first value
    /// that is kept stays.
    pub fn beside<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.beside.get()?.downcast_ref()
    }

    /// Keeps a value beside the object, unless one is there.
    pub fn keep_beside<T: Any + Send + Sync>(&self, value: T) {
        // Whoever came first has kept as good a one.
        let _ = self.beside.set(Box::new(value));
    }

    /// Appends the beginning of the object as an item of a typed list; [`Self::item_rest`] follows it.
    pub fn write_item_start(&self, out: &mut Vec<u8>) {
        self.write_start(0, out);
    }

    /// The beginning of the body from `at`, with the revision.
    fn write_start(&self, at: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&BODY_START[at..]);
        if self.revision > 0 {
            out.extend_from_slice(br#""resourceVersion":""#);
            write_number(self.revision, out);
            out.push(b'"');
            if !self.item_rest().starts_with(b"}") {
                out.push(b',');
            }
        }
    }

    /// What follows [`Self::write_item_start`].
    pub fn item_rest(&self) -> &[u8] {
        &self.body[BODY_START.len()..]
    }

    /// Appends the object as JSON. Items of a typed list carry no `apiVersion` and `kind` (`with_type` false).
    pub fn write_json(&self, with_type: bool, out: &mut Vec<u8>) {
        out.reserve(self.body.len() + 96);
        if !with_type {
            self.write_item_start(out);
            out.extend_from_slice(self.item_rest());
            return;
        }
        out.extend_from_slice(br#"{"kind":"#);
        write_string(&self.kind.kind, out);
        out.extend_from_slice(br#","apiVersion":""#);
        if !self.kind.group.is_empty() {
            out.extend_from_slice(self.kind.group.as_bytes());
            out.push(b'/');
        }
        out.extend_from_slice(self.kind.version.as_bytes());
        out.extend_from_slice(br#"","#);
        self.write_start(1, out);
        out.extend_from_slice(self.item_rest());
    }

    /// The whole object as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_json(true, &mut out);
        out
    }

    /// The whole object as a tree, for the write path.
    pub fn to_tree(&self) -> Value {
        crate::value::parse(&self.to_json()).expect("a body was written by `body_of`, so it is JSON")
    }

    /// Reads what `T` names of the body and passes over the rest: for readers of a few fields, who need no view. `T`
    /// may borrow from the body; neither `apiVersion`, `kind` nor the resource version is there.
    pub fn part<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Status> {
        serde_json::from_slice(&self.body).map_err(|error| self.unreadable(&error))
    }

    /// The text of one member of the body, such as `spec`: equal members of two objects have equal texts.
    pub fn member(&self, name: &str) -> Option<&str> {
        let mut reader = serde_json::Deserializer::from_slice(&self.body);
        reader.deserialize_map(Member(name)).ok().flatten().map(RawValue::get)
    }

    /// A typed, read-only view (`k8s_openapi`'s), made anew: a view is many times as large as the body, so the object
    /// remembers none, and whoever looks again shares the one that it has. Never write one back: it has dropped the
    /// fields that it does not know.
    pub fn view<T: DeserializeOwned>(&self) -> Result<Arc<T>, Status> {
        serde_json::from_slice(&self.to_json()).map(Arc::new).map_err(|error| self.unreadable(&error))
    }

    fn unreadable(&self, error: &serde_json::Error) -> Status {
        Status::internal(format_args!(
            "{} {}/{} cannot be viewed as its kind: {error}",
            self.kind.kind,
            self.namespace(),
            self.name()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn an_object_is_written_with_envelope_and_revision() {
        let tree = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a", "namespace": "b", "resourceVersion": "7", "labels": {"z": "1", "a": "2"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "u", "controller": true}]},
            "spec": {"replicas": 1}
        });
        let object = Object::from_tree(&tree).unwrap();
        assert_eq!(object.revision(), 7);
        assert_eq!(object.label("a"), Some("2"));
        assert_eq!(object.controller().unwrap().kind, "X");
        assert_eq!(object.to_tree(), tree);
        assert_eq!(Indexed::of_tree(&tree, Vec::new()), Indexed::of_body(object.body(), Vec::new()).unwrap());
        let mut item = Vec::new();
        object.write_json(false, &mut item);
        assert!(item.starts_with(br#"{"metadata":{"resourceVersion":"7","#));
    }

    #[test]
    fn a_part_of_an_object_is_read_without_the_rest() {
        #[derive(Deserialize)]
        struct Part<'a> {
            #[serde(borrow)]
            spec: Spec<'a>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Spec<'a> {
            node_name: &'a str,
        }
        let tree = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "c"}], "nodeName": "n"}});
        let object = Object::from_tree(&tree).unwrap();
        assert_eq!(object.part::<Part>().unwrap().spec.node_name, "n");
        assert_eq!(object.member("spec"), Some(r#"{"containers":[{"name":"c"}],"nodeName":"n"}"#));
        assert_eq!(object.member("status"), None);
        let view = object.view::<k8s_openapi::api::core::v1::Pod>().unwrap();
        assert_eq!(view.spec.as_ref().unwrap().node_name.as_deref(), Some("n"));
    }
}

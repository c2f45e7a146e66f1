//! What generic code asks of an object: read once, from the tree that is written or from a stored body.

use std::borrow::Cow;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{BODY_START, BodyError};
use crate::value::{Str, Value};

/// What generic code asks of an object, read out of it once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexed {
    pub(super) namespace: Str,
    pub(super) name: Str,
    pub(super) uid: Str,
    pub(super) deleting: bool,
    labels: Box<[(Str, Str)]>,
    pub(super) owners: Box<[Owner]>,
    fields: Box<[(Str, Str)]>,
}

/// One entry of `metadata.ownerReferences`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// As `apps/v1`.
    pub api_version: Str,
    /// As `ReplicaSet`.
    pub kind: Str,
    /// Name of the owner.
    pub name: Str,
    /// Its uid.
    pub uid: Str,
    /// Whether it is the managing controller.
    pub controller: bool,
    /// Whether foreground deletion of the owner waits for this object.
    pub block_owner_deletion: bool,
}

impl Indexed {
    /// Reads it out of a body. `fields` are the values of the kind's selectable fields, in the kind's order.
    pub fn of_body(body: &[u8], fields: Vec<(Str, Str)>) -> Result<Self, BodyError> {
        if !body.starts_with(BODY_START) {
            return Err(BodyError("it does not begin with metadata".to_owned()));
        }
        let Body { metadata } = serde_json::from_slice(body).map_err(|error| BodyError(error.to_string()))?;
        Ok(Self {
            namespace: metadata.namespace.into(),
            name: metadata.name.into(),
            uid: metadata.uid.into(),
            deleting: metadata.deletion_timestamp.is_some(),
            labels: metadata.labels.into(),
            owners: metadata.owner_references.into_iter().map(Owner::from).collect(),
            fields: fields.into(),
        })
    }

    /// Reads it out of the tree that a body is written from: the same, without reading the body again.
    pub fn of_tree(tree: &Value, fields: Vec<(Str, Str)>) -> Self {
        let empty = Value::object();
        let metadata = tree.get("metadata").unwrap_or(&empty);
        let text = |value: &Value, key: &str| -> Str {
            value.get(key).and_then(Value::as_str).unwrap_or_default().into()
        };
        let labels =
            metadata.get("labels").and_then(Value::as_object).into_iter().flat_map(crate::value::Map::iter);
        let owners = metadata.get("ownerReferences").and_then(Value::as_array).unwrap_or(&[]).iter();
        Self {
            namespace: text(metadata, "namespace"),
            name: text(metadata, "name"),
            uid: text(metadata, "uid"),
            deleting: metadata.get("deletionTimestamp").is_some_and(|time| !time.is_null()),
            // A map is sorted by key.
            labels: labels
                .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().into()))
                .collect(),
            owners: owners
                .map(|owner| Owner {
                    api_version: text(owner, "apiVersion"),
                    kind: text(owner, "kind"),
                    name: text(owner, "name"),
                    uid: text(owner, "uid"),
                    controller: owner.get("controller").and_then(Value::as_bool).unwrap_or_default(),
                    block_owner_deletion: owner
                        .get("blockOwnerDeletion")
                        .and_then(Value::as_bool)
                        .unwrap_or_default(),
                })
                .collect(),
            fields: fields.into(),
        }
    }

    /// `metadata.labels`, sorted by key.
    pub fn labels(&self) -> &[(Str, Str)] {
        &self.labels
    }

    /// The values of selectable fields.
    pub fn fields(&self) -> &[(Str, Str)] {
        &self.fields
    }
}

impl From<OwnerReference> for Owner {
    fn from(reference: OwnerReference) -> Self {
        Self {
            api_version: reference.api_version,
            kind: reference.kind,
            name: reference.name,
            uid: reference.uid,
            controller: reference.controller.unwrap_or_default(),
            block_owner_deletion: reference.block_owner_deletion.unwrap_or_default(),
        }
    }
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

/// Only what is indexed; strings borrow from the body where they carry no escapes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    uid: Cow<'a, str>,
    #[serde(default)]
    deletion_timestamp: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "pairs")]
    labels: Vec<(Str, Str)>,
    #[serde(default)]
    owner_references: Vec<OwnerReference>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OwnerReference {
    api_version: Str,
    kind: Str,
    name: Str,
    uid: Str,
    #[serde(default)]
    controller: Option<bool>,
    #[serde(default)]
    block_owner_deletion: Option<bool>,
}

fn pairs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(Str, Str)>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(Str, Str)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a map of strings")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = access.next_entry()? {
                pairs.push(pair);
            }
            pairs.sort();
            Ok(pairs)
        }
    }
    deserializer.deserialize_any(Pairs)
}

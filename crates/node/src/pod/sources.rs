//! ConfigMaps and Secrets that pods of this node name.

use std::collections::BTreeMap;

/// Bytes by key, as both kinds have them.
pub type Data = BTreeMap<String, Vec<u8>>;

/// Where their contents come from.
pub trait Sources: Send + Sync {
    /// `data` of a ConfigMap: what may become a variable.
    fn config_map_text(&self, namespace: &str, name: &str) -> Result<Data, Missing>;

    /// `data` and `binaryData` of a ConfigMap: what becomes files.
    fn config_map(&self, namespace: &str, name: &str) -> Result<Data, Missing>;

    /// `data` of a Secret.
    fn secret(&self, namespace: &str, name: &str) -> Result<Data, Missing>;
}

/// What is not there, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// The whole object.
    #[error("{kind} \"{name}\" not found", kind = .kind.to_lowercase())]
    Object {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A key of it.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// It cannot be asked for at the moment.
    #[error("{kind} \"{name}\" cannot be read: {why}")]
    Unreachable {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
}

impl Missing {
    /// No such key.
    pub fn key(kind: &'static str, namespace: &str, name: &str, key: &str) -> Self {
        Self::Key { kind, namespace: namespace.to_owned(), name: name.to_owned(), key: key.to_owned() }
    }
}

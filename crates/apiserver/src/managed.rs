//! Who wrote what: `metadata.managedFields`, kept for every write.

use api::fields::managed::{self, Write};
use api::fields::reset::reset_fields;
use api::value::Value;
use jiff::Timestamp;

use crate::kinds::Kind;

/// Records the fields of a new object as its manager's.
pub fn on_create(kind: &Kind, tree: &mut Value, manager: &str, now: Timestamp) {
    on_update(kind, tree, &Value::object(), manager, "", now);
}

/// Records what a change changed as its manager's.
pub fn on_update(
    kind: &Kind,
    new: &mut Value,
    old: &Value,
    manager: &str,
    subresource: &str,
    now: Timestamp,
) {
    let about = &kind.group_resource;
    let reset = reset_fields(&about.group, &about.resource, subresource);
    let api_version = kind.stored_kind.api_version();
    let write = Write {
        manager,
        api_version: &api_version,
        subresource,
        now,
        ty: kind.stored_facts.ty,
        reset: &reset,
    };
    managed::update(old, new, &write);
}

/// Lets a write that changed nothing but the record of who wrote be no write at all.
pub fn settle(new: &mut Value, old: &Value) {
    managed::revert_times(old, new);
}

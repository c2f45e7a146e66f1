//! Who wrote what: `metadata.managedFields`, kept for every write.

use api::fields::managed::{self, Write};
use api::fields::reset::reset_fields;
use api::status::Status;
use api::value::Value;
use jiff::Timestamp;

use crate::convert;
use crate::kinds::{self, Kind};

/// Records the fields of a new object as its manager's.
pub fn on_create(kind: &'static Kind, tree: &mut Value, manager: &str, now: Timestamp) -> Result<(), Status> {
    on_update(kind, tree, &Value::object(), manager, "", now)
}

/// Records what a change changed as its manager's. Fields are named as the version of the request has them.
pub fn on_update(
    kind: &'static Kind,
    new: &mut Value,
    old: &Value,
    manager: &str,
    subresource: &str,
    now: Timestamp,
) -> Result<(), Status> {
    let about = &kind.group_resource;
    let reset = reset_fields(&about.group, &about.resource, subresource);
    let api_version = kind.api_version();
    let write =
        Write { manager, api_version: &api_version, subresource, now, ty: kind.facts.ty, reset: &reset };
    let versions = |tree: &Value, api_version: &str| {
        // Not in another group: upstream cannot convert an Event there, and forgets who wrote it as the other sort.
        let other = kinds::in_version(kind, api_version)?;
        if tree.is_empty() {
            return Some((Value::object(), other.facts.ty));
        }
        let stored = convert::to_stored(kind, tree.clone()).ok()?;
        Some((convert::from_stored(other, stored).ok()?, other.facts.ty))
    };
    if kind.is_stored_version() {
        managed::update(old, new, &write, &versions);
        return Ok(());
    }
    const PATH: [&str; 2] = ["metadata", "managedFields"];
    let old = if old.is_empty() { old.clone() } else { convert::from_stored(kind, old.clone())? };
    let mut shown = convert::from_stored(kind, new.clone())?;
    managed::update(&old, &mut shown, &write, &versions);
    match shown.at(&PATH) {
        Some(entries) => new.set(&PATH, entries.clone()),
        None => {
            new.remove(&PATH);
        }
    }
    Ok(())
}

/// Lets a write that changed nothing but the record of who wrote be no write at all.
pub fn settle(new: &mut Value, old: &Value) {
    managed::revert_times(old, new);
}

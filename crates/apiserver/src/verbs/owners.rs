//! `metadata.ownerReferences`: each is kept once.

use std::collections::HashSet;

use api::value::{Str, Value};

use crate::caller::Caller;

const PATH: [&str; 2] = ["metadata", "ownerReferences"];

/// Keeps the first of references that are equal, and tells the client of the others in upstream's words. References
/// of one uid that differ are kept.
pub fn keep_once(tree: &mut Value, patched: bool, caller: &Caller<'_>) {
    let Some(owners) = tree.at_mut(&PATH).and_then(Value::as_array_mut).filter(|owners| owners.len() > 1)
    else {
        return;
    };
    let mut seen = HashSet::with_capacity(owners.len());
    let mut doubled: Vec<Str> = Vec::new();
    owners.retain(|owner| {
        let is_new = seen.insert(owner.to_bytes());
        if !is_new {
            doubled.push(owner.str_at(&["uid"]).unwrap_or_default().into());
        }
        is_new
    });
    if doubled.is_empty() {
        return;
    }
    // A patch is looked at once, at the end.
    let when = if patched { " after mutating admission happens" } else { "" };
    caller.warn(format!(
        ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and \
         may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
        doubled.join(", ")
    ));
}

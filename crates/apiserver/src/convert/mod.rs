//! Between a kind's versions, where more than one is served.

mod annotations;
mod autoscalers;

use api::status::Status;
use api::value::Value;

use crate::kinds::Kind;

/// The kind that has two versions.
const AUTOSCALER: &str = "HorizontalPodAutoscaler";

/// Names of an Event's members: core's, and those of `events.k8s.io`.
const EVENT_MEMBERS: &[(&str, &str)] = &[
    ("count", "deprecatedCount"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("involvedObject", "regarding"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
];

/// A tree in the version of the request, as it is stored.
pub fn to_stored(kind: &'static Kind, tree: Value) -> Result<Value, Status> {
    if !kind.is_stored_version() {
        return between(kind, tree, true);
    }
    let mut tree = tree;
    if kind.facts.kind == AUTOSCALER {
        // What version 1 keeps in annotations has fields here.
        autoscalers::drop_annotations(&mut tree);
    }
    Ok(tree)
}

/// A stored tree in the version of the request.
pub fn from_stored(kind: &'static Kind, tree: Value) -> Result<Value, Status> {
    if kind.is_stored_version() { Ok(tree) } else { between(kind, tree, false) }
}

fn between(kind: &'static Kind, mut tree: Value, to_stored: bool) -> Result<Value, Status> {
    match kind.facts.kind {
        "Event" => rename(&mut tree, to_stored),
        AUTOSCALER if to_stored => {
            autoscalers::to_v2(&mut tree);
            api::schema::apply_defaults(kind.stored_facts.ty, &mut tree);
        }
        AUTOSCALER => autoscalers::to_v1(&mut tree),
        _ => {
            return Err(Status::internal(format_args!(
                "{} in version {} cannot be converted to the version that is stored; use {}",
                kind.kind.kind,
                kind.api_version(),
                kind.stored_kind.api_version()
            )));
        }
    }
    let target = if to_stored { &kind.stored_kind } else { &kind.kind };
    tree.set(&["apiVersion"], target.api_version());
    Ok(tree)
}

fn rename(tree: &mut Value, to_stored: bool) {
    let Some(map) = tree.as_object_mut() else { return };
    for (core, new) in EVENT_MEMBERS {
        let (from, to) = if to_stored { (new, core) } else { (core, new) };
        if let Some(value) = map.remove(from) {
            map.insert(*to, value);
        }
    }
    // Core always writes these two, the other group only where they say something.
    if !to_stored {
        for member in ["reportingController", "reportingInstance"] {
            if map.get(member).and_then(Value::as_str) == Some("") {
                map.remove(member);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;
    use api::names::Resource;

    #[test]
    fn an_event_is_the_same_in_both_groups() {
        let kind = crate::kinds::find(&Resource::known("events.k8s.io", "v1", "events")).unwrap();
        let tree = json!({"apiVersion": "events.k8s.io/v1", "note": "n", "regarding": {"name": "p"}});
        let stored = to_stored(kind, tree.clone()).unwrap();
        assert_eq!(stored, json!({"apiVersion": "v1", "message": "n", "involvedObject": {"name": "p"}}));
        assert_eq!(from_stored(kind, stored).unwrap(), tree);
    }
}

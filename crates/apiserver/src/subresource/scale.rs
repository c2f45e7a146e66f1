//! `scale`: the size of what has replicas, as one small object for all such kinds.

use std::sync::Arc;

use api::interface::{Answer, Target, WriteOptions};
use api::json;
use api::names::GroupVersionKind;
use api::object::Object;
use api::selector::label;
use api::status::{Cause, Status};
use api::value::Value;

use crate::caller::Caller;
use crate::gate::Gate;
use crate::kinds::Kind;
use crate::verbs::Outcome;
use crate::verbs::write::Change;

/// The kind of a `scale`.
pub(super) fn kind(kind: &Kind, target: &Target) -> Result<GroupVersionKind, Status> {
    let facts = kind.facts.subresource(&target.subresource).ok_or_else(crate::kinds::not_found)?;
    Ok(GroupVersionKind { group: facts.group.into(), version: facts.version.into(), kind: facts.kind.into() })
}

/// Reads it.
pub(super) fn get(gate: &Gate, kind: &'static Kind, target: &Target) -> Result<Outcome, Status> {
    let object = gate.storage().require(kind, &target.namespace, &target.name)?;
    Ok(Outcome::done(Answer::Object(of_tree(&scale_of(&object.to_tree()))?)))
}

/// Changes the size. `make` gives the new scale of the present one.
pub(super) async fn change(
    gate: &Gate,
    caller: &Caller<'_>,
    kind: &'static Kind,
    target: &Target,
    options: &WriteOptions,
    make: &mut (dyn FnMut(&Value) -> Result<Value, Status> + Send),
) -> Result<Outcome, Status> {
    // The change goes by the ordinary way of the object, under the name of the subresource.
    let change = Change { caller, kind, target, options };
    let outcome = change
        .run(gate, &mut |old| {
            let scale = make(&scale_of(old))?;
            let replicas = scale.int_at(&["spec", "replicas"]).unwrap_or_default();
            if replicas < 0 {
                let cause = Cause {
                    reason: "FieldValueInvalid".into(),
                    message: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
                    field: "spec.replicas".into(),
                };
                return Err(Status::invalid("autoscaling", "Scale", &target.name, vec![cause]));
            }
            let mut new = old.clone();
            new.set(&["spec", "replicas"], replicas);
            for key in ["resourceVersion", "uid", "name", "namespace"] {
                match scale.str_at(&["metadata", key]).filter(|text| !text.is_empty()) {
                    Some(text) => new.set(&["metadata", key], text),
                    None if key == "resourceVersion" => {
                        new.remove(&["metadata", key]);
                    }
                    None => {}
                }
            }
            Ok(new)
        })
        .await?;
    let object = outcome.answer.object()?;
    Ok(Outcome::done(Answer::Object(of_tree(&scale_of(&object.to_tree()))?)))
}

fn of_tree(tree: &Value) -> Result<Arc<Object>, Status> {
    Object::from_tree(tree).map(Arc::new).map_err(Status::internal)
}

/// The scale of an object. Pure.
fn scale_of(tree: &Value) -> Value {
    let mut scale =
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {}, "spec": {}, "status": {}});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = tree.at(&["metadata", key]) {
            scale.set(&["metadata", key], value.clone());
        }
    }
    let spec = tree.int_at(&["spec", "replicas"]).unwrap_or_default();
    if spec != 0 {
        scale.set(&["spec", "replicas"], spec);
    }
    scale.set(&["status", "replicas"], tree.int_at(&["status", "replicas"]).unwrap_or_default());
    let selector = match tree.at(&["spec", "selector"]) {
        // ReplicationControllers select by a plain map.
        Some(Value::Object(map))
            if !map.contains_key("matchLabels") && !map.contains_key("matchExpressions") =>
        {
            let pairs: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
                .collect();
            pairs.join(",")
        }
        other => label::format(other),
    };
    if !selector.is_empty() {
        scale.set(&["status", "selector"], selector);
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_tells_size_and_selector() {
        let tree = json!({"metadata": {"name": "a", "resourceVersion": "3"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"b": "c"}}}, "status": {"replicas": 1}});
        let scale = scale_of(&tree);
        assert_eq!(scale.int_at(&["spec", "replicas"]), Some(2));
        assert_eq!(scale.str_at(&["status", "selector"]), Some("b=c"));
        let old = json!({"spec": {"selector": {"b": "c", "d": "e"}}});
        assert_eq!(scale_of(&old).str_at(&["status", "selector"]), Some("b=c,d=e"));
    }
}

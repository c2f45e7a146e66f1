//! A pod's priority is the number of its PriorityClass, and only one class is the default.

use std::sync::Arc;

use api::names::PRIORITY_CLASSES;
use api::object::Object;
use api::status::Status;
use api::value::{Str, Value};

use super::{Attributes, Operation, Plugin};
use crate::lookups::Lookups;

/// What pods may preempt when their class does not say.
const PREEMPT_LOWER: &str = "PreemptLowerPriority";

/// What stands in the body of a class that is the default.
const GLOBAL_DEFAULT: &[u8] = br#""globalDefault":true"#;

pub(super) struct Priority;

/// What a class gives a pod.
struct Established {
    class: Str,
    value: i64,
    preemption: Str,
}

impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn mutate(&self, attributes: &mut Attributes<'_>, lookups: &dyn Lookups) -> Result<(), Status> {
        if !attributes.is("", "pods") {
            return Ok(());
        }
        match attributes.operation {
            Operation::Create => admit(attributes, lookups),
            Operation::Update => {
                keep(attributes);
                Ok(())
            }
            Operation::Delete | Operation::Connect => Ok(()),
        }
    }

    fn validate(&self, attributes: &Attributes<'_>, lookups: &dyn Lookups) -> Result<(), Status> {
        let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
        if !attributes.is("scheduling.k8s.io", "priorityclasses") || !writes {
            return Ok(());
        }
        let Some(class) = attributes.object.as_deref() else { return Ok(()) };
        if class.bool_at(&["globalDefault"]) != Some(true) {
            return Ok(());
        }
        match default_class(lookups) {
            Some(other) if other.name() != attributes.object_name() => Err(attributes.forbidden(&format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                other.name()
            ))),
            _ => Ok(()),
        }
    }
}

fn admit(attributes: &mut Attributes<'_>, lookups: &dyn Lookups) -> Result<(), Status> {
    let Some(pod) = attributes.object.as_deref() else { return Ok(()) };
    let asked = pod.str_at(&["spec", "priorityClassName"]).unwrap_or_default();
    let class =
        if asked.is_empty() {
            default_class(lookups)
        } else {
            let class = lookups.get(&PRIORITY_CLASSES, "", asked);
            Some(class.ok_or_else(|| {
                attributes.forbidden(&format!("no PriorityClass with name {asked} was found"))
            })?)
        };
    let established = establish(class.as_deref());
    if let Some(own) = pod.int_at(&["spec", "priority"]).filter(|own| *own != established.value) {
        return Err(attributes.forbidden(&format!(
            "the integer value of priority ({own}) must not be provided in pod spec; priority admission controller \
             computed {} from the given PriorityClass name",
            established.value
        )));
    }
    if let Some(own) = pod.str_at(&["spec", "preemptionPolicy"]).filter(|own| *own != established.preemption)
    {
        return Err(attributes.forbidden(&format!(
            "the string value of PreemptionPolicy ({own}) must not be provided in pod spec; priority admission \
             controller computed {} from the given PriorityClass name",
            established.preemption
        )));
    }
    if let Some(pod) = attributes.object.as_deref_mut() {
        if !established.class.is_empty() {
            pod.set(&["spec", "priorityClassName"], established.class);
        }
        pod.set(&["spec", "priority"], established.value);
        pod.set(&["spec", "preemptionPolicy"], established.preemption);
    }
    Ok(())
}

fn establish(class: Option<&Object>) -> Established {
    let Some(class) = class else {
        return Established { class: Str::default(), value: 0, preemption: PREEMPT_LOWER.into() };
    };
    let tree = class.to_tree();
    Established {
        class: class.name().into(),
        value: tree.int_at(&["value"]).unwrap_or_default(),
        preemption: tree.str_at(&["preemptionPolicy"]).unwrap_or(PREEMPT_LOWER).into(),
    }
}

/// The class of pods that name none: of several defaults the one with the lowest value.
fn default_class(lookups: &dyn Lookups) -> Option<Arc<Object>> {
    lookups
        .list(&PRIORITY_CLASSES, "")
        .into_iter()
        // Every pod passes here, and hardly any class is one: only what may be one is read as a tree.
        .filter(|class| class.body().windows(GLOBAL_DEFAULT.len()).any(|bytes| bytes == GLOBAL_DEFAULT))
        .filter_map(|class| {
            let tree = class.to_tree();
            let is_default = tree.bool_at(&["globalDefault"]) == Some(true);
            is_default.then(|| (tree.int_at(&["value"]).unwrap_or_default(), class))
        })
        .min_by_key(|(value, _)| *value)
        .map(|(_, class)| class)
}

/// What was computed once stays where an update leaves it out.
fn keep(attributes: &mut Attributes<'_>) {
    let (Some(pod), Some(old)) = (attributes.object.as_deref_mut(), attributes.old) else { return };
    for field in ["priority", "preemptionPolicy"] {
        if pod.at(&["spec", field]).is_none_or(Value::is_null)
            && let Some(value) = old.at(&["spec", field])
        {
            pod.set(&["spec", field], value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Case;
    use super::*;
    use api::json;

    fn class(name: &str, value: i64, default: bool) -> Value {
        let mut class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"});
        class.set(&["metadata", "name"], name);
        class.set(&["value"], value);
        class.set(&["globalDefault"], default);
        class
    }

    #[test]
    fn the_class_gives_the_number() {
        let check = |spec: Value, default: bool, expect: &str| {
            let mut pod = json!({"metadata": {"name": "p"}});
            pod.set(&["spec"], spec);
            let outcome = Case::pod(pod)
                .within("n")
                .having(PRIORITY_CLASSES, class("high", 100, false))
                .having(PRIORITY_CLASSES, class("usual", 7, default))
                .mutate(&Priority);
            let shown = match outcome {
                Ok(pod) => pod.get("spec").unwrap().to_string(),
                Err(status) => status.message,
            };
            assert_eq!(shown, expect);
        };
        check(json!({}), false, r#"{"preemptionPolicy":"PreemptLowerPriority","priority":0}"#);
        check(
            json!({}),
            true,
            r#"{"preemptionPolicy":"PreemptLowerPriority","priority":7,"priorityClassName":"usual"}"#,
        );
        check(
            json!({"priorityClassName": "high"}),
            true,
            r#"{"preemptionPolicy":"PreemptLowerPriority","priority":100,"priorityClassName":"high"}"#,
        );
        check(
            json!({"priorityClassName": "none"}),
            false,
            "pods \"p\" is forbidden: no PriorityClass with name none was found",
        );
        check(
            json!({"priority": 5}),
            false,
            "pods \"p\" is forbidden: the integer value of priority (5) must not be provided in pod spec; priority \
             admission controller computed 0 from the given PriorityClass name",
        );
    }
}

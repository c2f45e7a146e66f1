//! A pod's RuntimeClass says what it costs beside its containers, and on which nodes it may run.

use api::names::RUNTIME_CLASSES;
use api::quantity::Quantity;
use api::status::Status;
use api::value::Value;

use super::{Attributes, Operation, Plugin};
use crate::lookups::Lookups;

const OTHER_OVERHEAD: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
const OWN_OVERHEAD: &str =
    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";

pub(super) struct RuntimeClass;

impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn mutate(&self, attributes: &mut Attributes<'_>, lookups: &dyn Lookups) -> Result<(), Status> {
        let Some(class) = class_of(attributes, lookups)? else { return Ok(()) };
        let Some(pod) = attributes.object.as_deref_mut() else { return Ok(()) };
        let changed = overhead(pod, &class).and_then(|()| scheduling(pod, &class));
        changed.map_err(|why| attributes.forbidden(&why))
    }

    fn validate(&self, attributes: &Attributes<'_>, lookups: &dyn Lookups) -> Result<(), Status> {
        let class = class_of(attributes, lookups)?;
        let Some(pod) = attributes.object.as_deref().filter(|_| concerns(attributes)) else { return Ok(()) };
        let own = pod.at(&["spec", "overhead"]).filter(|own| !own.is_null());
        match class.as_ref().and_then(fixed) {
            Some(fixed) if !same(fixed, own) => Err(attributes.forbidden(OTHER_OVERHEAD)),
            None if own.is_some_and(|own| !own.is_empty()) => Err(attributes.forbidden(OWN_OVERHEAD)),
            _ => Ok(()),
        }
    }
}

fn concerns(attributes: &Attributes<'_>) -> bool {
    attributes.is("", "pods") && attributes.operation == Operation::Create
}

/// The class that a new pod names; one that is not there is refused.
fn class_of(attributes: &Attributes<'_>, lookups: &dyn Lookups) -> Result<Option<Value>, Status> {
    let pod = attributes.object.as_deref().filter(|_| concerns(attributes));
    let Some(name) = pod.and_then(|pod| pod.str_at(&["spec", "runtimeClassName"])) else { return Ok(None) };
    match lookups.get(&RUNTIME_CLASSES, "", name) {
        Some(class) => Ok(Some(class.to_tree())),
        None => {
            let quoted = api::validation::cause::quoted(name);
            Err(attributes.forbidden(&format!("pod rejected: RuntimeClass {quoted} not found")))
        }
    }
}

/// What a class says that each of its pods costs.
fn fixed(class: &Value) -> Option<&Value> {
    class.get("overhead").filter(|overhead| !overhead.is_null())?.get("podFixed")
}

/// Whether two lists name the same amounts.
fn same(one: &Value, other: Option<&Value>) -> bool {
    let amounts = |list: Option<&Value>| -> Vec<(String, Option<Quantity>)> {
        let members = list.and_then(Value::as_object).into_iter().flat_map(api::value::Map::iter);
        let amount = |value: &Value| value.as_str().and_then(|text| Quantity::parse(text).ok());
        let mut all: Vec<_> = members.map(|(name, value)| (name.to_string(), amount(value))).collect();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all
    };
    amounts(Some(one)) == amounts(other)
}

fn overhead(pod: &mut Value, class: &Value) -> Result<(), String> {
    let Some(fixed) = fixed(class) else { return Ok(()) };
    let own = pod.at(&["spec", "overhead"]).filter(|own| !own.is_empty());
    if own.is_some_and(|own| !same(fixed, Some(own))) {
        return Err(OTHER_OVERHEAD.to_owned());
    }
    pod.set(&["spec", "overhead"], fixed.clone());
    Ok(())
}

fn scheduling(pod: &mut Value, class: &Value) -> Result<(), String> {
    let Some(scheduling) = class.get("scheduling").filter(|scheduling| !scheduling.is_null()) else {
        return Ok(());
    };
    let labels = scheduling.get("nodeSelector").and_then(Value::as_object);
    for (key, value) in labels.into_iter().flat_map(api::value::Map::iter) {
        let wanted = value.as_str().unwrap_or_default();
        if let Some(own) = pod.str_at(&["spec", "nodeSelector", key]).filter(|own| *own != wanted) {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {own}"
            ));
        }
        pod.set(&["spec", "nodeSelector", key], wanted.to_owned());
    }
    let mut all = pod.array_at(&["spec", "tolerations"]).to_vec();
    all.extend_from_slice(scheduling.array_at(&["tolerations"]));
    if !all.is_empty() {
        pod.set(&["spec", "tolerations"], merged(&all));
    }
    Ok(())
}

/// The tolerations without those that another one covers; of equal ones the first stays.
fn merged(all: &[Value]) -> Vec<Value> {
    let mut kept: Vec<Value> = Vec::new();
    for (index, toleration) in all.iter().enumerate() {
        let later = &all[index + 1..];
        let is_covered = kept.iter().any(|other| covers(other, toleration))
            || later.iter().any(|other| other != toleration && covers(other, toleration));
        if !is_covered {
            kept.push(toleration.clone());
        }
    }
    kept
}

/// Whether `wide` tolerates all that `narrow` does.
fn covers(wide: &Value, narrow: &Value) -> bool {
    fn text<'a>(toleration: &'a Value, key: &str) -> &'a str {
        toleration.str_at(&[key]).unwrap_or_default()
    }
    if wide == narrow {
        return true;
    }
    let any_key = text(wide, "key").is_empty() && text(wide, "operator") == "Exists";
    if text(wide, "key") != text(narrow, "key") && !any_key {
        return false;
    }
    if !text(wide, "effect").is_empty() && text(wide, "effect") != text(narrow, "effect") {
        return false;
    }
    let seconds = |toleration: &Value| toleration.int_at(&["tolerationSeconds"]);
    if text(wide, "effect") == "NoExecute"
        && seconds(wide).is_some_and(|most| seconds(narrow).is_none_or(|own| own > most))
    {
        return false;
    }
    match text(wide, "operator") {
        "Equal" | "" => text(narrow, "operator") == "Equal" && text(wide, "value") == text(narrow, "value"),
        "Exists" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Case;
    use super::*;
    use api::json;

    fn admitted(spec: Value) -> Result<Value, String> {
        let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "rt"},
            "handler": "runc", "overhead": {"podFixed": {"cpu": "250m"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "t", "operator": "Exists"}]}});
        let plain = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "rtp"},
            "handler": "runc"});
        let mut pod = json!({"metadata": {"name": "p"}});
        pod.set(&["spec"], spec);
        let case = Case::pod(pod).having(RUNTIME_CLASSES, class).having(RUNTIME_CLASSES, plain);
        let admitted = case.admit(&RuntimeClass).map_err(|status| status.message)?;
        Ok(admitted.get("spec").cloned().unwrap_or_default())
    }

    #[test]
    fn a_class_gives_its_pods_what_they_cost_and_where_they_run() {
        let spec = admitted(json!({"runtimeClassName": "rt", "nodeSelector": {"z": "c"},
            "tolerations": [{"key": "a", "operator": "Exists"}, {"key": "t", "operator": "Equal", "value": "x"}]}));
        let expect = json!({"runtimeClassName": "rt", "nodeSelector": {"a": "b", "z": "c"},
            "tolerations": [{"key": "a", "operator": "Exists"}, {"key": "t", "operator": "Exists"}],
            "overhead": {"cpu": "250m"}});
        assert_eq!(spec.unwrap(), expect);
        assert!(admitted(json!({"runtimeClassName": "rt", "overhead": {"cpu": "0.25"}})).is_ok());
        assert!(admitted(json!({"runtimeClassName": "rtp"})).is_ok());
        assert!(admitted(json!({})).is_ok());
    }

    #[test]
    fn a_pod_that_contradicts_its_class_is_refused() {
        let check = |spec: Value, why: &str| {
            assert_eq!(admitted(spec).unwrap_err(), format!("pods \"p\" is forbidden: {why}"));
        };
        check(json!({"runtimeClassName": "none"}), "pod rejected: RuntimeClass \"none\" not found");
        check(json!({"runtimeClassName": "rt", "overhead": {"cpu": "1"}}), OTHER_OVERHEAD);
        check(json!({"overhead": {"cpu": "1"}}), OWN_OVERHEAD);
        check(json!({"runtimeClassName": "rtp", "overhead": {"cpu": "1"}}), OWN_OVERHEAD);
        check(
            json!({"runtimeClassName": "rt", "nodeSelector": {"a": "c"}}),
            "conflict: runtimeClass.scheduling.nodeSelector[a] = b; pod.spec.nodeSelector[a] = c",
        );
    }
}

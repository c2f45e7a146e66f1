//! Which taints keep a pod away from a node, why the node has them, and what to do.

use api::value::Value;

use super::Finding;
use super::node::pressure_advice;
use super::world::{World, condition, message, name_of};

/// Taints that follow from a condition of the node, which says more.
const OF_CONDITIONS: [(&str, &str); 5] = [
    ("node.kubernetes.io/disk-pressure", "DiskPressure"),
    ("node.kubernetes.io/memory-pressure", "MemoryPressure"),
    ("node.kubernetes.io/pid-pressure", "PIDPressure"),
    ("node.kubernetes.io/not-ready", "Ready"),
    ("node.kubernetes.io/unreachable", "Ready"),
];
/// The taint of a cordoned node.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// What keeps `pod` away from each node.
pub fn keeping_away(pod: &Value, world: &World) -> Vec<Finding> {
    world.all("Node").iter().flat_map(|node| of_node(pod, node)).collect()
}

fn of_node(pod: &Value, node: &Value) -> Vec<Finding> {
    let name = name_of(node);
    let mut found = Vec::new();
    if node.bool_at(&["spec", "unschedulable"]) == Some(true) {
        found.push(Finding::new(
            format!("node {name} takes no new pods: it is cordoned"),
            format!("kubectl uncordon {name}"),
        ));
    }
    for taint in node.array_at(&["spec", "taints"]) {
        let key = taint.str_at(&["key"]).unwrap_or_default();
        let effect = taint.str_at(&["effect"]).unwrap_or_default();
        let is_tolerated =
            || pod.array_at(&["spec", "tolerations"]).iter().any(|toleration| tolerates(toleration, taint));
        if key == UNSCHEDULABLE || !matches!(effect, "NoSchedule" | "NoExecute") || is_tolerated() {
            continue;
        }
        let of_condition = OF_CONDITIONS.iter().find(|(taint, _)| *taint == key);
        found.push(match of_condition {
            Some((_, kind)) => {
                let words = condition(node, kind).map(message).unwrap_or_default();
                let advice = match *kind {
                    "Ready" => format!("ondol why node/{name}"),
                    kind => pressure_advice(kind).to_owned(),
                };
                Finding::new(format!("node {name} keeps it away by its taint {key}: {words}"), advice)
            }
            None => {
                let value = taint.str_at(&["value"]).filter(|value| !value.is_empty());
                let value = value.map(|value| format!("={value}")).unwrap_or_default();
                Finding::new(
                    format!("node {name} keeps it away by its taint {key}{value}:{effect}"),
                    format!(
                        "add a toleration to the pod, or remove the taint: kubectl taint node {name} {key}:{effect}-"
                    ),
                )
            }
        });
    }
    found
}

/// Whether a toleration is for a taint.
fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let text = |of: &Value, field: &str| of.str_at(&[field]).unwrap_or_default().to_owned();
    let same_or_any = |field: &str| {
        let meant = text(toleration, field);
        meant.is_empty() || meant == text(taint, field)
    };
    if !same_or_any("effect") || !same_or_any("key") {
        return false;
    }
    let (meant, value) = (text(toleration, "value"), text(taint, "value"));
    let compared = |fits: fn(i64, i64) -> bool| match (value.parse(), meant.parse()) {
        (Ok(value), Ok(meant)) => fits(value, meant),
        _ => false,
    };
    match text(toleration, "operator").as_str() {
        "Exists" => true,
        "" | "Equal" => meant == value,
        "Lt" => compared(|value, meant| value < meant),
        "Gt" => compared(|value, meant| value > meant),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn a_toleration_is_for_taints_of_its_key_effect_and_value() {
        let taint = json!({"key": "a", "value": "5", "effect": "NoSchedule"});
        let check = |toleration: Value, expect: bool| {
            assert_eq!(tolerates(&toleration, &taint), expect, "{toleration:?}");
        };
        check(json!({"operator": "Exists"}), true);
        check(json!({"key": "a", "operator": "Exists", "effect": "NoSchedule"}), true);
        check(json!({"key": "a", "operator": "Exists", "effect": "NoExecute"}), false);
        check(json!({"key": "b", "operator": "Exists"}), false);
        check(json!({"key": "a", "value": "5"}), true);
        check(json!({"key": "a", "operator": "Equal", "value": "6"}), false);
        check(json!({"key": "a", "operator": "Lt", "value": "6"}), true);
        check(json!({"key": "a", "operator": "Gt", "value": "6"}), false);
        check(json!({"key": "a", "operator": "Gt", "value": "x"}), false);
    }
}

//! `matchLabelKeys`: selectors that take a value from the pod's own labels.

use api::json;
use api::value::Value;

/// Writes the values of the pod's labels into the selectors of its affinities and spreading constraints.
pub(super) fn merge_match_labels(pod: &mut Value) {
    let labels = pod.at(&["metadata", "labels"]).cloned().unwrap_or_default();
    for side in ["podAffinity", "podAntiAffinity"] {
        let path = ["spec", "affinity", side];
        let required = [path[0], path[1], path[2], "requiredDuringSchedulingIgnoredDuringExecution"];
        for term in pod.at_mut(&required).and_then(Value::as_array_mut).into_iter().flatten() {
            merge(term, &labels);
        }
        let preferred = [path[0], path[1], path[2], "preferredDuringSchedulingIgnoredDuringExecution"];
        for weighted in pod.at_mut(&preferred).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(term) = weighted.at_mut(&["podAffinityTerm"]) {
                merge(term, &labels);
            }
        }
    }
    let spread = pod.at_mut(&["spec", "topologySpreadConstraints"]).and_then(Value::as_array_mut);
    for constraint in spread.into_iter().flatten() {
        merge(constraint, &labels);
    }
}

fn merge(term: &mut Value, labels: &Value) {
    if term.get("labelSelector").is_none_or(Value::is_null) {
        return;
    }
    let mut expressions = term.array_at(&["labelSelector", "matchExpressions"]).to_vec();
    let before = expressions.len();
    for (keys, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in term.array_at(&[keys]).iter().filter_map(Value::as_str) {
            if let Some(value) = labels.str_at(&[key]) {
                expressions.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    if expressions.len() > before {
        term.set(&["labelSelector", "matchExpressions"], expressions);
    }
}

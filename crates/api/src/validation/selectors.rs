//! Labels, and label selectors as objects.

use crate::status::Cause;
use crate::value::{Map, Value};

use super::{Path, cause, names};

/// What is wrong with a set of labels.
pub fn labels(labels: &Map, path: &Path) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (key, value) in labels.iter() {
        causes.extend(names::is_label_key(key).iter().map(|words| cause::invalid(path, key.as_str(), words)));
        let value = value.as_str().unwrap_or_default();
        causes.extend(names::is_label_value(value).iter().map(|words| cause::invalid(path, value, words)));
    }
    causes
}

/// What is wrong with a label selector (`matchLabels`, `matchExpressions`).
pub fn label_selector(selector: &Value, path: &Path) -> Vec<Cause> {
    let mut causes = Vec::new();
    if let Some(map) = selector.get("matchLabels").and_then(Value::as_object) {
        causes.extend(labels(map, &path.child("matchLabels")));
    }
    for (index, expression) in selector.array_at(&["matchExpressions"]).iter().enumerate() {
        requirement(expression, &path.child("matchExpressions").index(index), &mut causes);
    }
    causes
}

fn requirement(expression: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let values = expression.array_at(&["values"]);
    match expression.str_at(&["operator"]).unwrap_or_default() {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            causes.push(cause::required(path.child("values"), detail));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            causes.push(cause::forbidden(path.child("values"), detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => causes.push(cause::invalid(path.child("operator"), other, "not a valid selector operator")),
    }
    let key = expression.str_at(&["key"]).unwrap_or_default();
    for words in names::is_label_key(key) {
        causes.push(cause::invalid(path.child("key"), key, &words));
    }
    for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
        for words in names::is_label_value(value) {
            causes.push(cause::invalid(path.child("values").index(index), value, &words));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn operators_say_whether_values_are_needed() {
        let selector = json!({"matchExpressions": [
            {"key": "a", "operator": "In"},
            {"key": "a", "operator": "Exists", "values": ["b"]},
            {"key": "a", "operator": "Like", "values": ["b"]}
        ]});
        let causes: Vec<String> =
            label_selector(&selector, &Path::root("s")).iter().map(ToString::to_string).collect();
        assert_eq!(
            causes,
            [
                "s.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                "s.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or \
             'DoesNotExist'",
                "s.matchExpressions[2].operator: Invalid value: \"Like\": not a valid selector operator",
            ]
        );
    }
}

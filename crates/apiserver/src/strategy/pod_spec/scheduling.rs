//! What tells the scheduler where a pod may go.

use std::collections::HashMap;

use api::status::Cause;
use api::validation::{Path, cause, names, selectors};
use api::value::Value;

use super::text;

pub(in crate::strategy) fn tolerations(tolerations: &[Value], path: &Path, causes: &mut Vec<Cause>) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = path.index(index);
        let member = |key| text(toleration, key);
        let (operator, value) = (member("operator"), member("value"));
        if !member("key").is_empty() {
            let wrong = names::is_label_key(member("key"));
            causes.extend(wrong.iter().map(|why| cause::invalid(path.child("key"), member("key"), why)));
        }
        if member("key").is_empty() && operator != "Exists" {
            let why =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            causes.push(cause::invalid(path.child("operator"), operator, why));
        }
        let seconds = toleration.get("tolerationSeconds").is_some_and(|seconds| !seconds.is_null());
        if seconds && member("effect") != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            causes.push(cause::invalid(path.child("effect"), member("effect"), why));
        }
        match operator {
            "Equal" | "" => {
                let wrong = names::is_label_value(value);
                if !wrong.is_empty() {
                    causes.push(cause::invalid(path.child("operator"), value, &wrong.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                let why = "value must be empty when `operator` is 'Exists'";
                causes.push(cause::invalid(path.child("operator"), value, why));
            }
            "Exists" => {}
            // Upstream knows these, behind a gate that is off.
            "Lt" | "Gt" => {
                let known = ["Equal", "Exists", "Lt", "Gt"];
                causes.push(cause::not_supported(path.child("operator"), operator, &known));
            }
            _ => causes.push(cause::not_supported(path.child("operator"), operator, &["Equal", "Exists"])),
        }
        let (effect, known) = (member("effect"), ["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        if !effect.is_empty() && !known.contains(&effect) {
            causes.push(cause::not_supported(path.child("effect"), effect, &known));
        }
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn affinity(spec: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let Some(affinity) = spec.get("affinity").filter(|affinity| !affinity.is_null()) else { return };
    if let Some(node) = affinity.get("nodeAffinity") {
        node_affinity(node, &path.child("nodeAffinity"), causes);
    }
    for side in ["podAffinity", "podAntiAffinity"] {
        let Some(terms) = affinity.get(side) else { continue };
        let path = path.child(side);
        for (index, term) in terms.array_at(&[REQUIRED]).iter().enumerate() {
            pod_term(term, &path.child(REQUIRED).index(index), causes);
        }
        for (index, weighted) in terms.array_at(&[PREFERRED]).iter().enumerate() {
            let path = path.child(PREFERRED).index(index);
            weight(weighted, &path, causes);
            if let Some(term) = weighted.get("podAffinityTerm") {
                pod_term(term, &path.child("podAffinityTerm"), causes);
            }
        }
    }
}

fn weight(weighted: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let weight = weighted.int_at(&["weight"]).unwrap_or_default();
    if !(1..=100).contains(&weight) {
        causes.push(cause::invalid(path.child("weight"), weight, "must be in the range 1-100"));
    }
}

fn node_affinity(affinity: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let required = path.child(REQUIRED).child("nodeSelectorTerms");
    let selector = affinity.get(REQUIRED).filter(|selector| !selector.is_null());
    if selector.is_some_and(|selector| selector.array_at(&["nodeSelectorTerms"]).is_empty()) {
        causes.push(cause::required(&required, "must have at least one node selector term"));
    }
    for (index, term) in affinity.array_at(&[REQUIRED, "nodeSelectorTerms"]).iter().enumerate() {
        node_term(term, &required.index(index), causes);
    }
    for (index, weighted) in affinity.array_at(&[PREFERRED]).iter().enumerate() {
        let path = path.child(PREFERRED).index(index);
        weight(weighted, &path, causes);
        if let Some(term) = weighted.get("preference") {
            node_term(term, &path.child("preference"), causes);
        }
    }
}

fn node_term(term: &Value, path: &Path, causes: &mut Vec<Cause>) {
    for (index, requirement) in term.array_at(&["matchExpressions"]).iter().enumerate() {
        node_requirement(requirement, &path.child("matchExpressions").index(index), causes);
    }
    for (index, requirement) in term.array_at(&["matchFields"]).iter().enumerate() {
        node_field(requirement, &path.child("matchFields").index(index), causes);
    }
}

fn node_requirement(requirement: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let values = requirement.array_at(&["values"]);
    let place = path.child("values");
    match text(requirement, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            causes.push(cause::required(place, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            causes.push(cause::forbidden(place, why));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            causes.push(cause::required(
                place,
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            ));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => causes.push(cause::invalid(path.child("operator"), other, "not a valid selector operator")),
    }
    let key = text(requirement, "key");
    causes.extend(names::is_label_key(key).iter().map(|why| cause::invalid(path.child("key"), key, why)));
    for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
        let place = path.child("values").index(index);
        causes.extend(names::is_label_value(value).iter().map(|why| cause::invalid(&place, value, why)));
    }
}

/// A node is chosen by its name alone.
fn node_field(requirement: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let values = requirement.array_at(&["values"]);
    match text(requirement, "operator") {
        "In" | "NotIn" if values.len() != 1 => {
            let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            causes.push(cause::required(path.child("values"), why));
        }
        "In" | "NotIn" => {}
        other => causes.push(cause::invalid(path.child("operator"), other, "not a valid selector operator")),
    }
    let key = text(requirement, "key");
    if key != "metadata.name" {
        causes.push(cause::invalid(path.child("key"), key, "not a valid field selector key"));
        return;
    }
    for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
        let place = path.child("values").index(index);
        causes.extend(names::is_subdomain(value).iter().map(|why| cause::invalid(&place, value, why)));
    }
}

fn pod_term(term: &Value, path: &Path, causes: &mut Vec<Cause>) {
    for selector in ["labelSelector", "namespaceSelector"] {
        if let Some(value) = term.get(selector).filter(|value| !value.is_null()) {
            causes.extend(selectors::label_selector(value, &path.child(selector)));
        }
    }
    for namespace in term.array_at(&["namespaces"]).iter().filter_map(Value::as_str) {
        let path = path.child("namespace");
        causes.extend(names::is_label(namespace).iter().map(|why| cause::invalid(&path, namespace, why)));
    }
    let key = text(term, "topologyKey");
    let path = path.child("topologyKey");
    causes.extend(names::is_label_key(key).iter().map(|why| cause::invalid(&path, key, why)));
}

pub(super) fn spread(spec: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let constraints = spec.array_at(&["topologySpreadConstraints"]);
    let pair = |constraint: &'_ Value| {
        (text(constraint, "topologyKey").to_owned(), text(constraint, "whenUnsatisfiable").to_owned())
    };
    // Upstream says it of the earlier of two.
    let mut left: HashMap<(String, String), usize> = HashMap::new();
    for constraint in constraints {
        *left.entry(pair(constraint)).or_default() += 1;
    }
    for (index, constraint) in constraints.iter().enumerate() {
        let path = path.index(index);
        positive(constraint.int_at(&["maxSkew"]).unwrap_or_default(), &path.child("maxSkew"), causes);
        let (key, action) = (text(constraint, "topologyKey"), text(constraint, "whenUnsatisfiable"));
        let comes_again = left.get_mut(&pair(constraint)).is_some_and(|left| {
            *left -= 1;
            *left > 0
        });
        if comes_again {
            let path = path.child("{topologyKey, whenUnsatisfiable}");
            causes.push(cause::duplicate(path, format!("{{{key}, {action}}}")));
        }
        if let Some(domains) = constraint.int_at(&["minDomains"]) {
            let path = path.child("minDomains");
            positive(domains, &path, causes);
            if action != "DoNotSchedule" {
                let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                causes.push(cause::invalid(path, domains, &why));
            }
        }
        if let Some(selector) = constraint.get("labelSelector").filter(|selector| !selector.is_null()) {
            causes.extend(selectors::label_selector(selector, &path.child("labelSelector")));
        } else if !constraint.array_at(&["matchLabelKeys"]).is_empty() {
            let why = "must not be specified when labelSelector is not set";
            causes.push(cause::forbidden(path.child("matchLabelKeys"), why));
        }
    }
}

fn positive(number: i64, path: &Path, causes: &mut Vec<Cause>) {
    if number <= 0 {
        causes.push(cause::invalid(path, number, "must be greater than zero"));
    }
}

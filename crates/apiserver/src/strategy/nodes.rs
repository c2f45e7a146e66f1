//! Nodes: they register with a status, and their networks never change.

use std::collections::HashSet;

use api::quantity::Quantity;
use api::status::Cause;
use api::validation::{Path, address, cause, names};
use api::value::Value;

use super::{Context, Strategy, words};

pub(super) struct Nodes;

impl Strategy for Nodes {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "nodes")]
    }

    fn default(&self, object: &mut Value) {
        // Old clients know one network, new ones a list; each stands for the other.
        let one = object.str_at(&["spec", "podCIDR"]).unwrap_or_default().to_owned();
        let first =
            object.array_at(&["spec", "podCIDRs"]).first().and_then(Value::as_str).unwrap_or_default();
        if one.is_empty() && !first.is_empty() {
            let first = first.to_owned();
            object.set(&["spec", "podCIDR"], first);
        } else if !one.is_empty() && one != first {
            object.set(&["spec", "podCIDRs"], vec![one]);
        }
    }

    fn keeps_status(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let mut causes = Vec::new();
        taints(object, &mut causes);
        networks(object, &mut causes);
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        update(new, old)
    }

    fn validate_status(&self, new: &Value, old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let mut causes = Vec::new();
        let addresses = new.array_at(&["status", "addresses"]);
        let mut seen = HashSet::new();
        for (index, address) in addresses.iter().enumerate() {
            if !seen.insert(address.to_bytes()) {
                let path = Path::root("status").child("addresses").index(index);
                causes.push(cause::duplicate(path, address.clone()));
            }
        }
        for list in ["capacity", "allocatable"] {
            amounts(new, list, &mut causes);
        }
        causes.extend(update(new, old));
        causes
    }
}

/// What is counted in whole pieces among upstream's own resources.
const COUNTED: [&str; 9] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

/// No node has less than nothing, nor a part of a device.
fn amounts(node: &Value, list: &str, causes: &mut Vec<Cause>) {
    let amounts = node.at(&["status", list]).and_then(Value::as_object);
    for (name, amount) in amounts.into_iter().flat_map(api::value::Map::iter) {
        let Some(quantity) = amount.as_str().and_then(|text| Quantity::parse(text).ok()) else { continue };
        let path = Path::root("status").child(list).child(name);
        if quantity.is_negative() {
            let why = "must be greater than or equal to 0";
            causes.push(cause::invalid(&path, amount.clone(), why));
        }
        let is_device =
            name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.");
        if (is_device || COUNTED.contains(&name.as_str())) && quantity.milli_value() % 1000 != 0 {
            causes.push(cause::invalid(&path, amount.clone(), "must be an integer"));
        }
    }
}

fn taints(node: &Value, causes: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for (index, taint) in node.array_at(&["spec", "taints"]).iter().enumerate() {
        // Upstream says `metadata`, although taints are in the spec.
        let path = Path::root("metadata").child("taints").index(index);
        let text = |key: &str| taint.str_at(&[key]).unwrap_or_default();
        let key = text("key");
        causes.extend(names::is_label_key(key).iter().map(|why| cause::invalid(path.child("key"), key, why)));
        let wrong = names::is_label_value(text("value"));
        if !wrong.is_empty() {
            causes.push(cause::invalid(path.child("value"), text("value"), &wrong.join(";")));
        }
        let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        words::one_of(text("effect"), &known, &path.child("effect"), causes);
        if !seen.insert((text("effect"), key)) {
            let empty = Value::from("");
            let value = taint.get("value").unwrap_or(&empty);
            let members = [
                ("Key", taint.get("key")),
                ("Value", Some(value)),
                ("Effect", taint.get("effect")),
                ("TimeAdded", taint.get("timeAdded")),
            ];
            let why = "taints must be unique by key and effect pair";
            causes.push(words::shown("FieldValueDuplicate", &path, "Duplicate value", &members, why));
        }
    }
}

fn networks(node: &Value, causes: &mut Vec<Cause>) {
    let cidrs: Vec<&str> = node.array_at(&["spec", "podCIDRs"]).iter().filter_map(Value::as_str).collect();
    let path = Path::root("spec").child("podCIDRs");
    for (index, cidr) in cidrs.iter().enumerate() {
        causes.extend(address::cidr_for_legacy_field(path.index(index), cidr));
    }
    if cidrs.len() > 1
        && let Some((index, cidr)) =
            cidrs.iter().enumerate().find(|(_, cidr)| address::Cidr::parse(cidr).is_none())
    {
        let why = format!(
            "invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR[{index}]: <nil> (invalid CIDR \
             address: {cidr})"
        );
        causes.push(cause::internal(&path, &why));
    }
    let is_v4 = |cidr: &str| !cidr.contains(':');
    if cidrs.len() > 2 || (cidrs.len() == 2 && is_v4(cidrs[0]) == is_v4(cidrs[1])) {
        let value = node.at(&["spec", "podCIDRs"]).cloned().unwrap_or_default();
        causes.push(cause::invalid(path, value, "may specify no more than one CIDR for each IP family"));
    }
}

fn update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let before = old.array_at(&["spec", "podCIDRs"]);
    if !before.is_empty() && before != new.array_at(&["spec", "podCIDRs"]) {
        let why = "node updates may not change podCIDR except from \"\" to valid";
        causes.push(cause::forbidden("spec.podCIDRs", why));
    }
    let provider = |node: &'_ Value| node.str_at(&["spec", "providerID"]).unwrap_or_default().to_owned();
    if !provider(old).is_empty() && provider(new) != provider(old) {
        let what = if provider(new).is_empty() { "cleared" } else { "modified" };
        let why = format!("field cannot be {what} once set");
        causes.push(cause::invalid("spec.providerID", Value::Null, &why));
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn networks_never_change() {
        let old = json!({"spec": {"podCIDRs": ["10.244.0.0/24"]}});
        assert_eq!(update(&old, &old), []);
        let causes = update(&json!({"spec": {"podCIDRs": ["10.244.1.0/24"]}}), &old);
        assert_eq!(
            causes[0].to_string(),
            "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"
        );
    }

    #[test]
    fn a_node_has_whole_devices_and_no_less_than_nothing() {
        let node =
            json!({"status": {"capacity": {"cpu": "1500m", "memory": "-1", "example.com/gpu": "1500m"}}});
        let mut causes = Vec::new();
        amounts(&node, "capacity", &mut causes);
        let causes: Vec<String> = causes.iter().map(ToString::to_string).collect();
        assert_eq!(
            causes,
            [
                "status.capacity.example.com/gpu: Invalid value: \"1500m\": must be an integer",
                "status.capacity.memory: Invalid value: \"-1\": must be greater than or equal to 0",
            ]
        );
    }

    #[test]
    fn taints_are_there_once() {
        let taint = json!({"key": "a", "effect": "NoSchedule"});
        let mut node = json!({});
        node.set(&["spec", "taints"], vec![taint.clone(), taint]);
        let mut causes = Vec::new();
        taints(&node, &mut causes);
        assert_eq!(
            causes[0].to_string(),
            "metadata.taints[1]: Duplicate value: {\"Key\":\"a\",\"Value\":\"\",\"Effect\":\"NoSchedule\",\"TimeAdded\":null}: \
             taints must be unique by key and effect pair"
        );
    }
}

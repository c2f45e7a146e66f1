//! What a node or controller may write of a pod's status.

use std::collections::HashMap;

use api::status::Cause;
use api::validation::{Path, address, cause, names};
use api::value::{Str, Value};

/// What a client that does not know it left out stays: owners, quality of service, observed generations.
pub(super) fn prepare(new: &mut Value, old: &Value) {
    match old.at(&["metadata", "ownerReferences"]) {
        Some(owners) => new.set(&["metadata", "ownerReferences"], owners.clone()),
        None => {
            new.remove(&["metadata", "ownerReferences"]);
        }
    }
    for field in ["qosClass", "observedGeneration", "resourceClaimStatuses", "extendedResourceClaimStatus"] {
        let missing = new.at(&["status", field]).is_none_or(Value::is_empty);
        if let Some(value) = old.at(&["status", field]).filter(|_| missing) {
            new.set(&["status", field], value.clone());
        }
    }
    let mut observed: HashMap<Str, Vec<i64>> = HashMap::new();
    for condition in old.array_at(&["status", "conditions"]) {
        let generation = condition.int_at(&["observedGeneration"]).unwrap_or_default();
        let kind = condition.str_at(&["type"]).unwrap_or_default();
        observed.entry(kind.into()).or_default().insert(0, generation);
    }
    let conditions = new.at_mut(&["status", "conditions"]).and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        let before = condition.str_at(&["type"]).and_then(|kind| observed.get_mut(kind)).and_then(Vec::pop);
        let missing = condition.int_at(&["observedGeneration"]).unwrap_or_default() == 0;
        if let Some(generation) = before.filter(|generation| missing && *generation != 0) {
            condition.set(&["observedGeneration"], generation);
        }
    }
}

/// Upstream's rules of `pods/status`.
pub(super) fn validate(new: &Value, old: &Value) -> Vec<Cause> {
    let path = Path::root("status");
    let mut causes = Vec::new();
    if let Some(node) = new.str_at(&["status", "nominatedNodeName"]).filter(|node| !node.is_empty()) {
        let path = path.child("nominatedNodeName");
        causes.extend(names::is_subdomain(node).iter().map(|why| cause::invalid(&path, node, why)));
    }
    let quality = |pod: &Value| pod.at(&["status", "qosClass"]).cloned();
    if quality(new) != quality(old) {
        let value = quality(new).unwrap_or_default();
        causes.push(cause::invalid(path.child("qosClass"), value, "field is immutable"));
    }
    for (list, places) in [("containers", "containerStatuses"), ("initContainers", "initContainerStatuses")] {
        restarts(new, old, list, places, &mut causes);
    }
    for (index, ip) in new.array_at(&["status", "podIPs"]).iter().enumerate() {
        let ip = ip.str_at(&["ip"]).unwrap_or_default();
        causes.extend(address::ip_for_legacy_field(path.child("podIPs").index(index), ip));
    }
    host_addresses(new, &path.child("hostIPs"), &mut causes);
    causes
}

/// The first is the one that old clients know, and there is one of each family.
fn host_addresses(new: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let addresses: Vec<&str> = new
        .array_at(&["status", "hostIPs"])
        .iter()
        .map(|address| address.str_at(&["ip"]).unwrap_or_default())
        .collect();
    let Some(first) = addresses.first() else { return };
    if *first != new.str_at(&["status", "hostIP"]).unwrap_or_default() {
        causes.push(cause::invalid(path.index(0).child("ip"), *first, "must be equal to `hostIP`"));
    }
    for (index, address) in addresses.iter().enumerate() {
        causes.extend(address::ip_for_legacy_field(path.index(index).child("ip"), address));
    }
    let is_v6 = |address: &str| address.contains(':');
    if addresses.len() > 2 || (addresses.len() == 2 && is_v6(addresses[0]) == is_v6(addresses[1])) {
        // Upstream shows its inner form.
        let shown: Vec<Value> = addresses.iter().map(|address| api::json!({"IP": (*address)})).collect();
        causes.push(cause::invalid(path, shown, "may specify no more than one IP for each IP family"));
    }
}

/// A container that ended for good does not run again.
fn restarts(new: &Value, old: &Value, list: &str, places: &str, causes: &mut Vec<Cause>) {
    let policy = new.str_at(&["spec", "restartPolicy"]).unwrap_or_default();
    if policy == "Always" {
        return;
    }
    let path = Path::root("status").child(places);
    for (index, was) in old.array_at(&["status", places]).iter().enumerate() {
        let Some(code) = was.int_at(&["state", "terminated", "exitCode"]) else { continue };
        let name = was.str_at(&["name"]);
        let restarts_itself = new
            .array_at(&["spec", list])
            .iter()
            .any(|container| container.str_at(&["name"]) == name && container.get("restartPolicy").is_some());
        if restarts_itself || (policy == "OnFailure" && code != 0) {
            continue;
        }
        let now = new.array_at(&["status", places]).iter().find(|status| status.str_at(&["name"]) == name);
        if now.is_some_and(|now| now.at(&["state", "terminated"]).is_none()) {
            let why = "may not be transitioned to non-terminated state";
            causes.push(cause::forbidden(path.index(index).child("state"), why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn a_pod_is_on_a_host_with_one_address_of_each_family() {
        let check = |status: Value, expect: &str| {
            let mut causes = Vec::new();
            host_addresses(&json!({"status": status}), &Path::root("status").child("hostIPs"), &mut causes);
            let causes: Vec<String> = causes.iter().map(ToString::to_string).collect();
            assert_eq!(causes.join("; "), expect);
        };
        check(json!({}), "");
        check(json!({"hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}), "");
        check(
            json!({"hostIP": "10.0.0.2", "hostIPs": [{"ip": "10.0.0.1"}]}),
            "status.hostIPs[0].ip: Invalid value: \"10.0.0.1\": must be equal to `hostIP`",
        );
        check(
            json!({"hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}),
            "status.hostIPs: Invalid value: [{\"IP\":\"10.0.0.1\"},{\"IP\":\"10.0.0.2\"}]: may specify no more than \
             one IP for each IP family",
        );
    }
}

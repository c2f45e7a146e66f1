//! Requests and limits.

use api::quantity::Quantity;
use api::status::Cause;
use api::validation::{Path, cause, names};
use api::value::Value;

use super::text;

/// What a container may ask for by a plain name, beside pages of other sizes.
const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Plain names that are known, but not for containers.
const KNOWN: [&str; 10] = [
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "services.nodeports",
    "services.loadbalancers",
];
const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

pub(super) fn all(resources: Option<&Value>, path: &Path, causes: &mut Vec<Cause>) {
    let Some(resources) = resources else { return };
    let amounts = |side: &str| resources.get(side).and_then(Value::as_object);
    let limits = path.child("limits");
    for (name, amount) in amounts("limits").into_iter().flat_map(api::value::Map::iter) {
        one(name, amount, &limits.key(name), causes);
    }
    let requests = path.child("requests");
    for (name, amount) in amounts("requests").into_iter().flat_map(api::value::Map::iter) {
        one(name, amount, &requests.key(name), causes);
        let (Some(request), limit) = (parse(amount), amounts("limits").and_then(|map| map.get(name))) else {
            continue;
        };
        let overcommits = STANDARD.contains(&name.as_str()) || is_native(name) && !is_huge_page(name);
        match limit.and_then(|limit| Some((limit.as_str()?, parse(limit)?))) {
            Some((shown, limit)) if request != limit && !overcommits => {
                let why = format!("must be equal to {name} limit of {shown}");
                causes.push(cause::invalid(&requests, amount.clone(), &why));
            }
            Some((shown, limit)) if request > limit => {
                let why = format!("must be less than or equal to {name} limit of {shown}");
                causes.push(cause::invalid(&requests, amount.clone(), &why));
            }
            None if !overcommits => {
                causes.push(cause::required(&limits, "Limit must be set for non overcommitable resources"));
            }
            _ => {}
        }
    }
}

fn parse(amount: &Value) -> Option<Quantity> {
    Quantity::parse(amount.as_str()?).ok()
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether the name is one of Kubernetes' own.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.split_once('/').is_some_and(|(domain, _)| domain.ends_with("kubernetes.io"))
}

fn one(name: &str, amount: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let wrong = names::is_label_key(name);
    causes.extend(wrong.iter().map(|why| cause::invalid(path, name, why)));
    if !name.contains('/') && !STANDARD.contains(&name) && !is_huge_page(name) {
        if wrong.is_empty() && !KNOWN.contains(&name) {
            causes.push(cause::invalid(path, name, "must be a standard resource type or fully qualified"));
        }
        causes.push(cause::invalid(path, name, "must be a standard resource for containers"));
    } else if name.contains('/') && !is_native(name) && name.starts_with("requests.") {
        causes.push(cause::invalid(path, name, "doesn't follow extended resource name standard"));
    }
    let Some(quantity) = parse(amount) else { return };
    if quantity.is_negative() {
        causes.push(cause::invalid(path, amount.clone(), NOT_NEGATIVE));
    }
    if !is_native(name) && quantity.milli_value() % 1000 != 0 {
        causes.push(cause::invalid(path, amount.clone(), "must be an integer"));
    }
}

/// How a change of resources is taken.
pub(super) fn resize(container: &Value, pod_policy: &str, path: &Path, causes: &mut Vec<Cause>) {
    let path = path.child("resizePolicy");
    let policies = container.array_at(&["resizePolicy"]);
    for (index, policy) in policies.iter().enumerate() {
        let (resource, restart) = (text(policy, "resourceName"), text(policy, "restartPolicy"));
        if !matches!(resource, "cpu" | "memory") {
            causes.push(cause::not_supported(&path, resource, &["cpu", "memory"]));
        }
        if !matches!(restart, "NotRequired" | "RestartContainer") {
            causes.push(cause::not_supported(&path, restart, &["NotRequired", "RestartContainer"]));
        }
        if pod_policy == "Never" && restart != "NotRequired" {
            let path = path.index(index).child("restartPolicy");
            causes.push(cause::invalid(
                path,
                restart,
                "must be 'NotRequired' when `restartPolicy` is 'Never'",
            ));
        }
    }
}

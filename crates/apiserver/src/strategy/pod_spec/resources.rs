//! Requests and limits.

use std::collections::BTreeMap;

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

/// How a resource may be named in one place; says what is wrong with a name.
type Named = fn(&str, &Path, &mut Vec<Cause>);

pub(super) fn all(resources: Option<&Value>, path: &Path, causes: &mut Vec<Cause>) {
    if let Some(resources) = resources {
        amounts_of(resources, for_containers, path, causes);
    }
}

/// What a pod costs beside its containers; upstream judges it like limits, and names it so.
pub(super) fn overhead(overhead: Option<&Value>, path: &Path, causes: &mut Vec<Cause>) {
    if let Some(overhead) = overhead.filter(|overhead| !overhead.is_null()) {
        let mut resources = Value::object();
        resources.set(&["limits"], overhead.clone());
        amounts_of(&resources, for_containers, path, causes);
    }
}

/// What the containers of a pod have together.
pub(super) fn pod(spec: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let Some(resources) = spec.get("resources").filter(|resources| !resources.is_null()) else { return };
    if spec.str_at(&["os", "name"]) == Some("windows") {
        causes.push(cause::forbidden(path, "may not be set for a windows pod"));
        return;
    }
    if !resources.array_at(&["claims"]).is_empty() {
        let why = "claims may not be set for Resources at pod-level";
        causes.push(cause::forbidden(path.child("claims"), why));
    }
    amounts_of(resources, for_pods, path, causes);
    for (side, judged) in [("requests", ""), ("limits", "hugepages-")] {
        for (name, needed) in together(spec, side).iter().filter(|(name, _)| name.starts_with(judged)) {
            let Some(given) = resources.at(&[side, name]) else { continue };
            if parse(given).is_some_and(|given| *needed > given) {
                let why = format!("must be greater than or equal to aggregate container {side} of {needed}");
                causes.push(cause::invalid(path.child(side).key(name), given.clone(), &why));
            }
        }
    }
    for (index, container) in spec.array_at(&["containers"]).iter().enumerate() {
        let limits = container.at(&["resources", "limits"]).and_then(Value::as_object);
        for (name, own) in limits.into_iter().flat_map(api::value::Map::iter) {
            let Some(most) = resources.at(&["limits", name]) else { continue };
            if let (Some(amount), Some(bound), Some(shown)) = (parse(own), parse(most), most.as_str())
                && amount > bound
            {
                let path = path.child("containers").index(index).key(name).child("limits");
                let why = format!("must be less than or equal to pod limits of {shown}");
                causes.push(cause::invalid(path, own.clone(), &why));
            }
        }
    }
}

/// What all containers of a pod need at one time: those that run on together, and each that runs before them beside
/// those that were begun by then.
fn together(spec: &Value, side: &str) -> BTreeMap<String, Quantity> {
    let of = |container: &Value| -> Vec<(String, Quantity)> {
        let amounts = container.at(&["resources", side]).and_then(Value::as_object);
        let members = amounts.into_iter().flat_map(api::value::Map::iter);
        members.filter_map(|(name, amount)| Some((name.to_string(), parse(amount)?))).collect()
    };
    let (mut running, mut begun, mut most) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let add = |sums: &mut BTreeMap<String, Quantity>, amounts: &[(String, Quantity)]| {
        for (name, amount) in amounts {
            sums.entry(name.clone()).and_modify(|sum| sum.add(amount)).or_insert_with(|| amount.clone());
        }
    };
    for container in spec.array_at(&["containers"]) {
        add(&mut running, &of(container));
    }
    for container in spec.array_at(&["initContainers"]) {
        let own = of(container);
        let mut now: BTreeMap<String, Quantity> = begun.clone();
        add(&mut now, &own);
        if text(container, "restartPolicy") == "Always" {
            add(&mut running, &own);
            add(&mut begun, &own);
        }
        for (name, amount) in now {
            let known = most.entry(name).or_insert_with(Quantity::default);
            *known = known.clone().max(amount);
        }
    }
    for (name, amount) in most {
        let sum = running.entry(name).or_insert_with(Quantity::default);
        if amount > *sum {
            *sum = amount;
        }
    }
    running
}

fn amounts_of(resources: &Value, named: Named, path: &Path, causes: &mut Vec<Cause>) {
    let amounts = |side: &str| resources.get(side).and_then(Value::as_object);
    let limits = path.child("limits");
    for (name, amount) in amounts("limits").into_iter().flat_map(api::value::Map::iter) {
        named(name, &limits.key(name), causes);
        one(name, amount, &limits.key(name), causes);
    }
    let requests = path.child("requests");
    for (name, amount) in amounts("requests").into_iter().flat_map(api::value::Map::iter) {
        named(name, &requests.key(name), causes);
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
    let any = |is: fn(&str) -> bool| {
        let sides = ["limits", "requests"].into_iter().filter_map(amounts);
        sides.flat_map(api::value::Map::keys).any(|name| is(name))
    };
    if any(is_huge_page) && !any(|name| matches!(name, "cpu" | "memory")) {
        causes.push(cause::forbidden(path, "HugePages require cpu or memory"));
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

fn for_pods(name: &str, path: &Path, causes: &mut Vec<Cause>) {
    let wrong = names::is_label_key(name);
    if !wrong.is_empty() {
        causes.extend(wrong.iter().map(|why| cause::invalid(path, name, why)));
    } else if !name.contains('/')
        && !STANDARD.contains(&name)
        && !is_huge_page(name)
        && !KNOWN.contains(&name)
    {
        causes.push(cause::invalid(path, name, "must be a standard resource type or fully qualified"));
    } else if !matches!(name, "cpu" | "memory") && !is_huge_page(name) {
        causes.push(cause::not_supported(path, name, &["cpu", "hugepages-", "memory"]));
    }
}

fn for_containers(name: &str, path: &Path, causes: &mut Vec<Cause>) {
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
}

fn one(name: &str, amount: &Value, path: &Path, causes: &mut Vec<Cause>) {
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

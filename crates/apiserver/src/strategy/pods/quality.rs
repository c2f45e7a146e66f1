//! The quality of service that a pod's requests and limits amount to.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use api::value::Value;

/// What counts.
const COUNTED: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(super) fn class(pod: &Value) -> &'static str {
    let own = pod.at(&["spec", "resources"]).filter(|resources| {
        ["requests", "limits"]
            .iter()
            .any(|side| resources.get(side).is_some_and(|amounts| !amounts.is_empty()))
    });
    let all: Vec<&Value> = match own {
        Some(resources) => vec![resources],
        None => containers(pod).filter_map(|container| container.get("resources")).collect(),
    };
    let mut requests: BTreeMap<&str, Quantity> = BTreeMap::new();
    let mut limits: BTreeMap<&str, Quantity> = BTreeMap::new();
    let count = if own.is_some() { 1 } else { containers(pod).count() };
    let mut limited = all.len() == count;
    for resources in all {
        add(resources, "requests", &mut requests);
        limited &= add(resources, "limits", &mut limits) == COUNTED.len();
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let equal = requests.iter().all(|(name, amount)| limits.get(name).is_some_and(|limit| limit == amount));
    if limited && equal && requests.len() == limits.len() { "Guaranteed" } else { "Burstable" }
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    pod.array_at(&["spec", "containers"]).iter().chain(pod.array_at(&["spec", "initContainers"]))
}

/// Adds up what is more than nothing; returns how many resources that were.
fn add<'a>(resources: &'a Value, side: &str, sums: &mut BTreeMap<&'a str, Quantity>) -> usize {
    let Some(amounts) = resources.get(side).and_then(Value::as_object) else { return 0 };
    let mut count = 0;
    for (name, amount) in amounts.iter().filter(|(name, _)| COUNTED.contains(&name.as_str())) {
        let Some(amount) = amount.as_str().and_then(|text| Quantity::parse(text).ok()) else { continue };
        if amount.is_zero() || amount.is_negative() {
            continue;
        }
        count += 1;
        match sums.get_mut(name.as_str()) {
            Some(sum) => sum.add(&amount),
            None => {
                sums.insert(name, amount);
            }
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn classes_are_upstreams() {
        let check = |resources: Value, expect: &str| {
            let mut container = json!({"name": "c"});
            container.set(&["resources"], resources);
            let mut pod = json!({"spec": {}});
            pod.set(&["spec", "containers"], vec![container]);
            assert_eq!(class(&pod), expect, "{pod}");
        };
        check(json!({}), "BestEffort");
        check(json!({"requests": {"cpu": "0"}}), "BestEffort");
        check(json!({"requests": {"cpu": "1"}}), "Burstable");
        check(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}), "Burstable");
        let full =
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}});
        check(full, "Guaranteed");
    }
}

//! Endpoints, the older form of EndpointSlices.

use std::collections::BTreeMap;

use api::interface::Target;
use api::json;
use api::names::{ENDPOINTS, NODES, PODS, SERVICES};
use api::value::Value;
use control::mirror::Key;
use control::plan::{Controller, Plan, Watches, Write};
use control::world::World;
use jiff::Timestamp;

use super::backends::{Backend, Port, Service};
use super::trigger::{LAST_CHANGE, Triggers};
use super::{HEADLESS, services_of_pod};

/// What the object is marked with.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// Annotation that says that not all addresses fit.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one object.
const CAPACITY: usize = 1000;

/// The Endpoints controller.
#[derive(Default)]
pub struct Endpoints {
    triggers: Triggers,
}

impl Controller for Endpoints {
    fn name(&self) -> &'static str {
        "endpoint-controller"
    }

    fn watches(&self) -> Vec<Watches> {
        vec![
            Watches::itself(&SERVICES),
            Watches::mapped(&PODS, services_of_pod),
            Watches::itself(&ENDPOINTS),
            Watches::looked_up(&NODES),
        ]
    }

    fn plan(&self, world: &World, key: &Key, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let present = world.get(&ENDPOINTS, &key.namespace, &key.name);
        let Some(object) = world.get(&SERVICES, &key.namespace, &key.name) else {
            self.triggers.forget(key);
            // What users have written by hand for no Service is theirs.
            if let Some(ours) = present.filter(|endpoints| endpoints.label(MANAGED_BY) == Some(MANAGER)) {
                plan.write(Write::delete(&ENDPOINTS, &ours, api::interface::DeleteOptions::default()));
            }
            return plan;
        };
        let tree = object.to_tree();
        let service = Service { object: &object, tree: &tree };
        if !service.selects() || object.is_deleting() {
            return plan;
        }
        let pods = service.pods(world);
        let change = self.triggers.last_change(&service, &pods);
        let (subsets, over) = subsets(&service, &service.backends(world, &pods));
        let mut labels = tree.at(&["metadata", "labels"]).cloned().unwrap_or(Value::object());
        labels.remove(&[HEADLESS]);
        if service.is_headless() {
            labels.set(&[HEADLESS], "");
        }
        labels.set(&[MANAGED_BY], MANAGER);
        match present {
            None => {
                let mut endpoints = json!({
                    "apiVersion": "v1", "kind": "Endpoints",
                    "metadata": {"name": (object.name()), "namespace": (object.namespace()), "labels": labels},
                    "subsets": subsets
                });
                if change != Value::Null {
                    endpoints.set(&["metadata", "annotations", LAST_CHANGE], change);
                }
                if over {
                    endpoints.set(&["metadata", "annotations", OVER_CAPACITY], "truncated");
                }
                plan.write(Write::create(&ENDPOINTS, object.namespace(), &endpoints));
            }
            Some(present) => {
                let old = present.to_tree();
                let marked = old.str_at(&["metadata", "annotations", OVER_CAPACITY]).is_some();
                if old.array_at(&["subsets"]) == subsets
                    && old.at(&["metadata", "labels"]) == Some(&labels)
                    && marked == over
                {
                    return plan;
                }
                for (key, _) in present.labels() {
                    if labels.get(key).is_none() {
                        labels.set(&[key], Value::Null);
                    }
                }
                let mut patch =
                    json!({"metadata": {"uid": (present.uid()), "labels": labels}, "subsets": subsets});
                let mark = if over { Value::from("truncated") } else { Value::Null };
                patch.set(&["metadata", "annotations", OVER_CAPACITY], mark);
                patch.set(&["metadata", "annotations", LAST_CHANGE], change);
                plan.write(Write::merge(Target::new(&ENDPOINTS, object.namespace(), object.name()), &patch));
            }
        }
        plan
    }
}

/// Addresses grouped by the ports that they answer on, and whether some had to be left out.
fn subsets(service: &Service, backends: &[Backend]) -> (Vec<Value>, bool) {
    let wants_v4 = service.families().first().is_none_or(|family| *family == "IPv4");
    let mut groups: BTreeMap<Vec<Port>, (Vec<Value>, Vec<Value>)> = BTreeMap::new();
    let mut count = 0;
    // A pod that is going away is no address here: this form has no word for it.
    for backend in backends.iter().filter(|backend| !backend.terminating || service.publishes_unready()) {
        let Some(ip) = backend.addresses.iter().find(|address| address.is_ipv4() == wants_v4) else {
            continue;
        };
        if backend.ports.is_empty() && !service.is_headless() {
            continue;
        }
        if count == CAPACITY {
            return (group_values(groups), true);
        }
        count += 1;
        let mut address = json!({"ip": (ip.to_string()), "targetRef": (backend.target.clone())});
        if !backend.node.is_empty() {
            address.set(&["nodeName"], backend.node.as_str());
        }
        if let Some(hostname) = &backend.hostname {
            address.set(&["hostname"], hostname.as_str());
        }
        let (ready, not_ready) = groups.entry(backend.ports.clone()).or_default();
        if backend.ready { ready.push(address) } else { not_ready.push(address) }
    }
    (group_values(groups), false)
}

fn group_values(groups: BTreeMap<Vec<Port>, (Vec<Value>, Vec<Value>)>) -> Vec<Value> {
    let groups = groups.into_iter().map(|(ports, (ready, not_ready))| {
        let mut subset = Value::object();
        for (field, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
            if !addresses.is_empty() {
                subset.set(&[field], addresses);
            }
        }
        let ports: Vec<Value> = ports
            .iter()
            .map(|port| {
                let mut value = port.to_slice_port();
                if port.name.is_empty() {
                    value.remove(&["name"]);
                }
                value
            })
            .collect();
        if !ports.is_empty() {
            subset.set(&["ports"], ports);
        }
        subset
    });
    groups.collect()
}

//! Slices for Endpoints that users write by hand, for Services without a selector.

use std::sync::Arc;

use api::interface::{DeleteOptions, Target};
use api::json;
use api::names::{ENDPOINT_SLICES, ENDPOINTS, SERVICES};
use api::object::Object;
use api::value::Value;
use control::mirror::{Change, Key};
use control::plan::{Controller, Plan, Watches, Write};
use control::world::World;
use jiff::Timestamp;

use super::{LEADER, MANAGED_BY, SERVICE_NAME, SKIP_MIRROR};
use crate::owner::controller_reference;

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Addresses of one subset that are mirrored.
const ADDRESSES_PER_SUBSET: usize = 1000;

/// The EndpointSlice mirroring controller.
pub struct Mirroring;

impl Controller for Mirroring {
    fn name(&self) -> &'static str {
        "endpointslice-mirroring-controller"
    }

    fn watches(&self) -> Vec<Watches> {
        vec![
            Watches::itself(&ENDPOINTS),
            Watches::itself(&SERVICES),
            Watches::mapped(&ENDPOINT_SLICES, |_, change: &Change| {
                let ours = change.sides().filter(|slice| slice.label(MANAGED_BY) == Some(MANAGER));
                ours.filter_map(|slice| Some(Key::new(slice.namespace(), slice.label(SERVICE_NAME)?)))
                    .collect()
            }),
        ]
    }

    fn plan(&self, world: &World, key: &Key, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let service = world.get(&SERVICES, &key.namespace, &key.name);
        let selects =
            service.as_ref().is_some_and(|service| service.to_tree().at(&["spec", "selector"]).is_some());
        let endpoints = world.get(&ENDPOINTS, &key.namespace, &key.name);
        let source = endpoints.filter(|endpoints| service.is_some() && !selects && is_mirrored(endpoints));

        let slices = world.list(&ENDPOINT_SLICES, &key.namespace);
        let mut present: Vec<Arc<Object>> = slices
            .into_iter()
            .filter(|slice| {
                slice.label(MANAGED_BY) == Some(MANAGER)
                    && slice.label(SERVICE_NAME) == Some(key.name.as_str())
                    && !slice.is_deleting()
            })
            .collect();
        for wanted in source.map(|endpoints| mirrored(&endpoints)).unwrap_or_default() {
            let same_family =
                |slice: &Arc<Object>| slice.to_tree().get("addressType") == wanted.get("addressType");
            match present.iter().position(same_family) {
                None => plan.write(Write::create(&ENDPOINT_SLICES, &key.namespace, &wanted)),
                Some(at) => {
                    let slice = present.swap_remove(at);
                    let tree = slice.to_tree();
                    let fields = ["endpoints", "ports"];
                    if fields.iter().any(|field| tree.array_at(&[field]) != wanted.array_at(&[field])) {
                        let patch = json!({
                            "metadata": {"uid": (slice.uid())},
                            "endpoints": (wanted.get("endpoints").cloned().unwrap_or_default()),
                            "ports": (wanted.get("ports").cloned().unwrap_or_default())
                        });
                        let target = Target::new(&ENDPOINT_SLICES, slice.namespace(), slice.name());
                        plan.write(Write::merge(target, &patch));
                    }
                }
            }
        }
        for slice in present {
            plan.write(Write::delete(&ENDPOINT_SLICES, &slice, DeleteOptions::default()));
        }
        plan
    }
}

fn is_mirrored(endpoints: &Object) -> bool {
    let tree = endpoints.to_tree();
    let leads = tree.at(&["metadata", "annotations", LEADER]).is_some();
    !leads && endpoints.label(SKIP_MIRROR) != Some("true") && !endpoints.is_deleting()
}

/// One slice for each subset and address family.
fn mirrored(endpoints: &Object) -> Vec<Value> {
    let tree = endpoints.to_tree();
    let mut slices = Vec::new();
    for subset in tree.array_at(&["subsets"]) {
        for (family, is_family) in [("IPv4", false), ("IPv6", true)] {
            let ready = subset.array_at(&["addresses"]).iter().map(|address| (address, true));
            let not_ready = subset.array_at(&["notReadyAddresses"]).iter().map(|address| (address, false));
            let all: Vec<Value> = ready
                .chain(not_ready)
                .filter(|(address, _)| {
                    address.str_at(&["ip"]).is_some_and(|ip| ip.contains(':') == is_family)
                })
                .take(ADDRESSES_PER_SUBSET)
                .map(|(address, ready)| endpoint(address, ready))
                .collect();
            if all.is_empty() {
                continue;
            }
            let mut labels = tree.at(&["metadata", "labels"]).cloned().unwrap_or(Value::object());
            labels.set(&[SERVICE_NAME], endpoints.name());
            labels.set(&[MANAGED_BY], MANAGER);
            slices.push(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "generateName": (format!("{}-", endpoints.name())),
                    "namespace": (endpoints.namespace()),
                    "labels": labels,
                    "ownerReferences": [(controller_reference(endpoints))]
                },
                "addressType": family,
                "endpoints": all,
                "ports": (subset.get("ports").cloned().unwrap_or(Value::Array(Vec::new())))
            }));
        }
    }
    slices
}

fn endpoint(address: &Value, ready: bool) -> Value {
    let ip = address.str_at(&["ip"]).unwrap_or_default();
    let mut endpoint = json!({"addresses": [ip], "conditions": {"ready": ready}});
    for field in ["hostname", "nodeName", "targetRef"] {
        if let Some(value) = address.get(field) {
            endpoint.set(&[field], value.clone());
        }
    }
    endpoint
}

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

use super::trigger::LAST_CHANGE;
use super::{LEADER, MANAGED_BY, SERVICE_NAME, SKIP_MIRROR};
use crate::owner::controller_reference;

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Annotations that speak of the Endpoints alone.
const NOT_MIRRORED: [&str; 2] = [LAST_CHANGE, "kubectl.kubernetes.io/last-applied-configuration"];
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
                    let (labels, annotations) =
                        (replaced("labels", &tree, &wanted), replaced("annotations", &tree, &wanted));
                    if fields.iter().any(|field| tree.array_at(&[field]) != wanted.array_at(&[field]))
                        || has_any(&labels)
                        || has_any(&annotations)
                    {
                        let patch = json!({
                            "metadata": {"uid": (slice.uid()), "labels": labels, "annotations": annotations},
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

fn has_any(map: &Value) -> bool {
    map.as_object().is_some_and(|map| map.iter().next().is_some())
}

/// What a merge patch says of a map of the metadata, so that it is as wanted: other values, and null for what goes.
fn replaced(map: &str, present: &Value, wanted: &Value) -> Value {
    let of = |tree: &Value| tree.at(&["metadata", map]).cloned().unwrap_or(Value::object());
    let (present, wanted) = (of(present), of(wanted));
    let mut patch = Value::object();
    for (key, _) in present.as_object().iter().flat_map(|map| map.iter()) {
        if wanted.get(key).is_none() {
            patch.set(&[key.as_str()], Value::Null);
        }
    }
    for (key, value) in wanted.as_object().iter().flat_map(|map| map.iter()) {
        if present.get(key) != Some(value) {
            patch.set(&[key.as_str()], value.clone());
        }
    }
    patch
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
            let mut annotations = Value::object();
            let own = tree.at(&["metadata", "annotations"]).and_then(Value::as_object);
            for (key, value) in own.iter().flat_map(|map| map.iter()) {
                if !NOT_MIRRORED.contains(&key.as_str()) {
                    annotations.set(&[key.as_str()], value.clone());
                }
            }
            slices.push(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "generateName": (format!("{}-", endpoints.name())),
                    "namespace": (endpoints.namespace()),
                    "labels": labels,
                    "annotations": annotations,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::{Stage, spell};

    #[test]
    fn slices_follow_their_endpoints_in_labels_and_annotations_too() {
        let stage = Stage::new(Mirroring);
        let meta = |more: Value| {
            let mut meta = json!({"name": "s", "namespace": "d", "uid": "s"});
            more.as_object().into_iter().flat_map(api::value::Map::iter).for_each(|(key, value)| {
                meta.set(&[key.as_str()], value.clone());
            });
            meta
        };
        let put = |labels: Value, annotations: Value| {
            let metadata = meta(json!({"labels": labels, "annotations": annotations}));
            let subsets = json!([{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}]);
            let tree =
                json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets});
            stage.put(&ENDPOINTS, tree);
        };
        stage.put(
            &SERVICES,
            json!({"apiVersion": "v1", "kind": "Service", "metadata": (meta(json!({}))), "spec": {}}),
        );
        put(json!({"l": "1"}), json!({"a": "b", "kubectl.kubernetes.io/last-applied-configuration": "{}"}));
        let lines = spell(&stage.plan("d/s"));
        assert_eq!(lines.len(), 1, "{lines:?}");
        let body = lines[0].strip_prefix("create endpointslices d/ ").expect("it is made");
        assert!(body.contains(r#""annotations":{"a":"b"}"#), "{body}");
        let mut slice = api::value::parse(body.as_bytes()).expect("JSON");
        slice.set(&["metadata", "name"], "s-1");
        slice.set(&["metadata", "uid"], "s-1");
        stage.put(&ENDPOINT_SLICES, slice);
        stage.check("d/s", &[]);
        put(json!({"m": "2"}), json!({"a": "c"}));
        let lines = spell(&stage.plan("d/s"));
        assert_eq!(lines.len(), 1, "{lines:?}");
        let start = r#"patch endpointslices d/s-1 {"endpoints":"#;
        assert!(lines[0].starts_with(start), "{lines:?}");
        let metadata = r#""metadata":{"annotations":{"a":"c"},"labels":{"l":null,"m":"2"},"uid":"s-1"}"#;
        assert!(lines[0].contains(metadata), "{lines:?}");
    }
}

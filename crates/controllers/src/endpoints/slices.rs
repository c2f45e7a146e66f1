//! EndpointSlices of Services that select pods.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use api::interface::{DeleteOptions, Target};
use api::json;
use api::names::{ENDPOINT_SLICES, NODES, PODS, SERVICES};
use api::object::Object;
use api::value::Value;
use control::mirror::{Change, Key};
use control::plan::{Controller, Plan, Watches, Write};
use control::world::World;
use jiff::Timestamp;

use super::backends::{Backend, Port, Service};
use super::trigger::{LAST_CHANGE, Triggers};
use super::{HEADLESS, MANAGED_BY, SERVICE_NAME, services_of_pod};
use crate::owner::controller_reference;

/// What its slices are marked with.
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Endpoints in one slice; more make another.
const ENDPOINTS_PER_SLICE: usize = 100;

/// The EndpointSlice controller.
#[derive(Default)]
pub struct Slices {
    triggers: Triggers,
}

impl Controller for Slices {
    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    fn watches(&self) -> Vec<Watches> {
        vec![
            Watches::itself(&SERVICES),
            Watches::mapped(&PODS, services_of_pod),
            Watches::mapped(&ENDPOINT_SLICES, service_of_slice),
            Watches::mapped(&NODES, services_of_new_node),
        ]
    }

    fn plan(&self, world: &World, key: &Key, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        // A Service that is gone takes its slices along: they are owned by it.
        let Some(object) = world.get(&SERVICES, &key.namespace, &key.name) else {
            self.triggers.forget(key);
            return plan;
        };
        let tree = object.to_tree();
        let service = Service { object: &object, tree: &tree };
        if !service.selects() || object.is_deleting() {
            return plan;
        }
        let pods = service.pods(world);
        let change = self.triggers.last_change(&service, &pods);
        let service = Changed { service, change };
        let backends = service.backends(world, &pods);
        let (ours, stale): (Vec<_>, Vec<_>) = existing(world, &object).into_iter().partition(|slice| {
            let family = slice.tree.str_at(&["addressType"]).unwrap_or_default();
            service.families().contains(&family)
                && slice.object.owners().iter().any(|o| o.uid == object.uid())
        });
        for family in service.families() {
            let of_family = |slice: &&Slice| slice.tree.str_at(&["addressType"]) == Some(family);
            let present: Vec<&Slice> = ours.iter().filter(of_family).collect();
            reconcile(&mut plan, &service, family, &backends, present);
        }
        for slice in stale {
            plan.write(Write::delete(&ENDPOINT_SLICES, &slice.object, DeleteOptions::default()));
        }
        plan
    }
}

/// A Service, and what its slices are to say of what has changed them.
struct Changed<'a> {
    service: Service<'a>,
    change: Value,
}

impl<'a> Deref for Changed<'a> {
    type Target = Service<'a>;

    fn deref(&self) -> &Service<'a> {
        &self.service
    }
}

struct Slice {
    object: Arc<Object>,
    tree: Value,
}

fn existing(world: &World, service: &Object) -> Vec<Slice> {
    let slices = world.list(&ENDPOINT_SLICES, service.namespace());
    slices
        .into_iter()
        .filter(|slice| {
            slice.label(SERVICE_NAME) == Some(service.name())
                && slice.label(MANAGED_BY) == Some(MANAGER)
                && !slice.is_deleting()
        })
        .map(|object| Slice { tree: object.to_tree(), object })
        .collect()
}

/// Brings the slices of one address family to what the backends are, moving as few endpoints as possible.
fn reconcile(plan: &mut Plan, service: &Changed, family: &str, backends: &[Backend], present: Vec<&Slice>) {
    let mut wanted: BTreeMap<Vec<Port>, BTreeMap<String, Value>> = BTreeMap::new();
    for backend in backends {
        if let Some((identity, endpoint)) = endpoint(backend, family) {
            wanted.entry(backend.ports.clone()).or_default().insert(identity, endpoint);
        }
    }
    // A Service that nobody answers for has one empty slice, so that watchers know that they know.
    if wanted.is_empty() {
        wanted.insert(Vec::new(), BTreeMap::new());
    }
    let mut free: Vec<&Slice> = Vec::new();
    let mut by_ports: BTreeMap<Vec<Port>, Vec<&Slice>> = BTreeMap::new();
    for slice in present {
        let ports = ports_of(&slice.tree);
        if wanted.contains_key(&ports) {
            by_ports.entry(ports).or_default().push(slice)
        } else {
            free.push(slice)
        }
    }
    for (ports, mut left) in wanted {
        let mut filled: Vec<(Option<&Slice>, Vec<Value>)> = Vec::new();
        for slice in by_ports.remove(&ports).unwrap_or_default() {
            let kept =
                slice.tree.array_at(&["endpoints"]).iter().filter_map(|old| left.remove(&identity_of(old)));
            filled.push((Some(slice), kept.collect()));
        }
        let mut rest = left.into_values();
        for (_, endpoints) in &mut filled {
            endpoints.extend(rest.by_ref().take(ENDPOINTS_PER_SLICE.saturating_sub(endpoints.len())));
        }
        let rest: Vec<Value> = rest.collect();
        for chunk in rest.chunks(ENDPOINTS_PER_SLICE) {
            filled.push((free.pop(), chunk.to_vec()));
        }
        if filled.is_empty() {
            filled.push((free.pop(), Vec::new()));
        }
        // Of empty slices one stays, and only if there is no other.
        let mut keep_empty = filled.iter().all(|(_, endpoints)| endpoints.is_empty());
        for (slice, endpoints) in filled {
            let keep = !endpoints.is_empty() || std::mem::take(&mut keep_empty);
            match slice {
                Some(slice) if keep => update(plan, service, slice, &ports, endpoints),
                Some(slice) => free.push(slice),
                None => plan.write(create(service, family, &ports, endpoints)),
            }
        }
    }
    for slice in free {
        plan.write(Write::delete(&ENDPOINT_SLICES, &slice.object, DeleteOptions::default()));
    }
}

/// What tells one endpoint from another: the pod, or without one the address.
fn identity_of(endpoint: &Value) -> String {
    match endpoint.str_at(&["targetRef", "uid"]) {
        Some(uid) => uid.to_owned(),
        None => {
            endpoint.array_at(&["addresses"]).first().and_then(Value::as_str).unwrap_or_default().to_owned()
        }
    }
}

fn endpoint(backend: &Backend, family: &str) -> Option<(String, Value)> {
    let of_family = backend.addresses.iter().filter(|address| address.is_ipv4() == (family == "IPv4"));
    let addresses: Vec<Value> = of_family.map(|address| Value::from(address.to_string())).collect();
    if addresses.is_empty() {
        return None;
    }
    let mut endpoint = json!({
        "addresses": addresses,
        "conditions": {
            "ready": (backend.ready), "serving": (backend.serving), "terminating": (backend.terminating)
        },
        "targetRef": (backend.target.clone())
    });
    if !backend.node.is_empty() {
        endpoint.set(&["nodeName"], backend.node.as_str());
    }
    if let Some(zone) = &backend.zone {
        endpoint.set(&["zone"], zone.as_str());
    }
    if let Some(hostname) = &backend.hostname {
        endpoint.set(&["hostname"], hostname.as_str());
    }
    Some((identity_of(&endpoint), endpoint))
}

fn ports_of(slice: &Value) -> Vec<Port> {
    let ports = slice.array_at(&["ports"]).iter().map(|port| Port {
        name: port.str_at(&["name"]).unwrap_or_default().to_owned(),
        port: port.int_at(&["port"]).unwrap_or_default(),
        protocol: port.str_at(&["protocol"]).unwrap_or("TCP").to_owned(),
        app_protocol: port.str_at(&["appProtocol"]).map(str::to_owned),
    });
    ports.collect()
}

/// The labels of a slice: the Service's, and ours.
fn labels(service: &Service) -> Value {
    let mut labels = service.tree.at(&["metadata", "labels"]).cloned().unwrap_or(Value::object());
    for reserved in [SERVICE_NAME, MANAGED_BY, HEADLESS] {
        labels.remove(&[reserved]);
    }
    if service.is_headless() {
        labels.set(&[HEADLESS], "");
    }
    labels.set(&[SERVICE_NAME], service.object.name());
    labels.set(&[MANAGED_BY], MANAGER);
    labels
}

fn create(service: &Changed, family: &str, ports: &[Port], endpoints: Vec<Value>) -> Write {
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "generateName": (format!("{}-", service.object.name())),
            "namespace": (service.object.namespace()),
            "labels": (labels(service)),
            "ownerReferences": [(controller_reference(service.object))]
        },
        "addressType": family,
        "ports": (ports.iter().map(Port::to_slice_port).collect::<Vec<_>>()),
        "endpoints": endpoints
    });
    if service.change != Value::Null {
        slice.set(&["metadata", "annotations", LAST_CHANGE], service.change.clone());
    }
    Write::create(&ENDPOINT_SLICES, service.object.namespace(), &slice)
}

fn update(plan: &mut Plan, service: &Changed, slice: &Slice, ports: &[Port], endpoints: Vec<Value>) {
    let labels = labels(service);
    let same = slice.tree.array_at(&["endpoints"]) == endpoints
        && ports_of(&slice.tree) == ports
        && slice.tree.at(&["metadata", "labels"]) == Some(&labels);
    if same {
        return;
    }
    // A merge patch adds labels; those that the Service has lost must be named to go.
    let mut changed = labels.clone();
    let present: BTreeSet<_> = slice.object.labels().iter().map(|(key, _)| key.clone()).collect();
    for key in present.into_iter().filter(|key| labels.get(key).is_none()) {
        changed.set(&[&key], Value::Null);
    }
    let mut patch = json!({
        "metadata": {"uid": (slice.object.uid()), "labels": changed},
        "ports": (ports.iter().map(Port::to_slice_port).collect::<Vec<_>>()),
        "endpoints": endpoints
    });
    patch.set(&["metadata", "annotations", LAST_CHANGE], service.change.clone());
    let target = Target::new(&ENDPOINT_SLICES, slice.object.namespace(), slice.object.name());
    plan.write(Write::merge(target, &patch));
}

fn service_of_slice(_: &World, change: &Change) -> Vec<Key> {
    let ours = change.sides().filter(|slice| slice.label(MANAGED_BY) == Some(MANAGER));
    ours.filter_map(|slice| Some(Key::new(slice.namespace(), slice.label(SERVICE_NAME)?))).collect()
}

/// Pods whose node was not known have been left out; when a node comes, all Services look again.
fn services_of_new_node(world: &World, change: &Change) -> Vec<Key> {
    let zone = |node: &Option<Arc<Object>>| {
        node.as_ref().map(|node| node.label("topology.kubernetes.io/zone").map(str::to_owned))
    };
    if zone(&change.old) == zone(&change.new) {
        return Vec::new();
    }
    world.list(&SERVICES, "").iter().map(|service| Key::of(service)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::interface::{Call, WatchEvent};

    fn world(pods: usize, node: &str) -> World {
        let mut world = World::new();
        [&SERVICES, &PODS, &ENDPOINT_SLICES, &NODES].into_iter().for_each(|resource| world.ensure(resource));
        put(&world, &NODES, json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}));
        put(
            &world,
            &SERVICES,
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "s", "namespace": "d", "uid": "svc"},
                "spec": {"selector": {"app": "a"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
                    "ports": [{"port": 80, "targetPort": "web", "protocol": "TCP"}]}
            }),
        );
        for n in 0..pods {
            put(
                &world,
                &PODS,
                json!({
                    "apiVersion": "v1", "kind": "Pod",
                    "metadata": {"name": (format!("p{n}")), "namespace": "d", "uid": (format!("u{n:03}")), "labels": {"app": "a"}},
                    "spec": {"nodeName": node, "containers": [
                        {"name": "c", "ports": [{"name": "web", "containerPort": 6000, "protocol": "TCP"}]}]},
                    "status": {"phase": "Running", "podIP": (format!("10.1.{}.{}", n / 200, n % 200 + 1)),
                        "conditions": [{"type": "Ready", "status": "True"}]}
                }),
            );
        }
        world
    }

    fn put(world: &World, resource: &api::names::Resource, tree: Value) {
        world.mirror(resource).apply(WatchEvent::Added(Arc::new(Object::from_tree(&tree).unwrap())));
    }

    fn step(world: &World) -> Vec<Value> {
        let plan = Slices::default().plan(world, &Key::new("d", "s"), Timestamp::UNIX_EPOCH);
        let mut made = Vec::new();
        for (n, write) in plan.writes().enumerate() {
            let Call::Create(_, body, _) = &write.call else {
                panic!("only creations are expected: {write:?}")
            };
            let mut tree = api::value::parse(body).unwrap();
            tree.set(&["metadata", "name"], format!("s-{n}"));
            put(world, &ENDPOINT_SLICES, tree.clone());
            made.push(tree);
        }
        made
    }

    #[test]
    fn endpoints_fill_slices_of_a_hundred_and_then_rest() {
        let world = world(150, "n");
        let slices = step(&world);
        let sizes: Vec<usize> = slices.iter().map(|slice| slice.array_at(&["endpoints"]).len()).collect();
        assert_eq!(sizes, [100, 50]);
        assert_eq!(slices[0].array_at(&["ports"])[0].int_at(&["port"]), Some(6000));
        assert!(step(&world).is_empty(), "a second plan finds nothing to do");
    }

    #[test]
    fn a_slice_says_what_has_changed_it_last() {
        let world = world(1, "n");
        let slices = Slices::default();
        let mut service = world.get(&SERVICES, "d", "s").unwrap().to_tree();
        service.set(&["metadata", "creationTimestamp"], "2026-01-01T00:00:05Z");
        put(&world, &SERVICES, service);
        let lines = |slices: &Slices| {
            crate::stage::spell(&slices.plan(&world, &Key::new("d", "s"), Timestamp::UNIX_EPOCH))
        };
        let made = lines(&slices).remove(0);
        assert!(made.contains(r#"{"annotations":{"endpoints.kubernetes.io/last-change-trigger-time":"2026-01-01T00:00:05Z"}"#), "{made}");
        let body = made.strip_prefix("create endpointslices d/ ").unwrap();
        let mut slice = api::value::parse(body.as_bytes()).unwrap();
        slice.set(&["metadata", "name"], "s-1");
        put(&world, &ENDPOINT_SLICES, slice);
        assert_eq!(lines(&slices), Vec::<String>::new());
        let mut pod = world.get(&PODS, "d", "p0").unwrap().to_tree();
        let condition =
            json!({"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:01:00Z"});
        pod.set(&["status", "conditions"], vec![condition]);
        put(&world, &PODS, pod);
        let changed = lines(&slices).remove(0);
        assert!(changed.contains(r#"last-change-trigger-time":"2026-01-01T00:01:00Z""#), "{changed}");
        // Another plan, as after a conflict, knows of nothing that is new.
        let again = lines(&slices).remove(0);
        assert!(again.contains(r#"last-change-trigger-time":null"#), "{again}");
    }

    #[test]
    fn a_service_without_pods_has_one_empty_slice() {
        let world = world(0, "n");
        assert_eq!(step(&world).len(), 1);
        assert!(step(&world).is_empty());
    }

    #[test]
    fn pods_of_an_unknown_node_are_left_out() {
        let world = world(2, "elsewhere");
        assert!(step(&world)[0].array_at(&["endpoints"]).is_empty());
    }
}

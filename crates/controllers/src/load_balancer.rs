//! Services of type LoadBalancer: the nodes themselves are the load balancer.
//!
//! A Service gets the nodes' addresses as soon as its ports are free on them; every node forwards what is sent to
//! these. All Services are one key, so that no two plans give the same port away.
//!
//! Which ports other programs of a machine hold, its node sees and tells in an annotation
//! ([`api::names::PORTS_ANNOTATION`]): of a node that has one, an address is given only for ports that it calls free.
//!
//! What is deliberately absent: the finalizer `service.kubernetes.io/load-balancer-cleanup`. It makes a Service
//! wait until a machine elsewhere is torn down; here nothing is left behind. Services with a `loadBalancerClass`
//! belong to others and are not touched.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use api::interface::Target;
use api::json;
use api::names::{NODES, PODS, PORTS_ANNOTATION, SERVICES};
use api::object::Object;
use api::value::Value;
use control::mirror::{Change, Key};
use control::plan::{Controller, Plan, Watches, Write};
use control::recorder::Note;
use control::world::World;
use jiff::Timestamp;

use crate::condition;

/// The condition of a Service that waits for its address, with the reason.
pub const PENDING: &str = "LoadBalancerPending";
/// Label of nodes that take no part.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The controller of load balancers.
pub struct LoadBalancers {
    reserved_ports: Vec<u16>,
}

impl LoadBalancers {
    /// Never gives these ports of the nodes away.
    pub fn new(reserved_ports: &[u16]) -> Self {
        Self { reserved_ports: reserved_ports.to_vec() }
    }
}

/// Protocol and number of a port of the nodes.
type Port = (String, i64);

/// Ports that are taken, each with its holder in words; of a Service also its key.
type Taken = BTreeMap<Port, (Option<Key>, String)>;

impl Controller for LoadBalancers {
    fn name(&self) -> &'static str {
        "service-lb-controller"
    }

    fn watches(&self) -> Vec<Watches> {
        vec![
            Watches::mapped(&SERVICES, |_, _| vec![Key::default()]),
            Watches::mapped(&NODES, changed_node),
            Watches::mapped(&PODS, changed_host_ports),
        ]
    }

    fn plan(&self, world: &World, _key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let mut services: Vec<(Arc<Object>, Value)> =
            world.list(&SERVICES, "").into_iter().map(|object| (object.clone(), object.to_tree())).collect();
        if !services.iter().any(|(_, tree)| is_balanced(tree) || has_ingress(tree)) {
            return plan;
        }
        let places = places(world);
        // Who has its address keeps its ports; of the others the older comes first.
        services.sort_by_cached_key(|(object, tree)| {
            let created = tree.str_at(&["metadata", "creationTimestamp"]).unwrap_or_default().to_owned();
            (!(has_ingress(tree) && is_ours(tree)), created, Key::of(object))
        });
        let mut taken = self.reserved();
        let mut all_taken = false;
        for (object, tree) in &services {
            // Pods and node ports that came later do not drive a placed Service away.
            if !all_taken && !has_ingress(tree) {
                all_taken = true;
                add_others(&mut taken, world, &services);
            }
            if is_ours(tree) {
                if let Some(outcome) = place(object, tree, &places, &mut taken).transpose() {
                    report(&mut plan, object, tree, outcome, now);
                }
            } else if !is_balanced(tree) && (has_ingress(tree) || pending(tree).is_some()) {
                report(&mut plan, object, tree, Ok(Vec::new()), now);
            }
        }
        plan
    }
}

impl LoadBalancers {
    fn reserved(&self) -> Taken {
        let both = |number: &u16| ["TCP", "UDP"].map(|protocol| (protocol.to_owned(), i64::from(*number)));
        let ports = self.reserved_ports.iter().flat_map(both);
        ports.map(|port| (port, (None, "the node itself".to_owned()))).collect()
    }
}

/// Adds what holds ports of the nodes besides load balancers.
fn add_others(taken: &mut Taken, world: &World, services: &[(Arc<Object>, Value)]) {
    for (object, tree) in services {
        for port in tree.array_at(&["spec", "ports"]) {
            if let Some(number) = port.int_at(&["nodePort"]).filter(|number| *number != 0) {
                let key = Key::of(object);
                let words = format!("the node port of Service {key}");
                taken.entry((protocol(port), number)).or_insert((Some(key), words));
            }
        }
    }
    for pod in world.list(&PODS, "").into_iter().filter(|pod| claims_host_ports(pod)) {
        let tree = pod.to_tree();
        let phase = tree.str_at(&["status", "phase"]).unwrap_or_default();
        let on_node = tree.str_at(&["spec", "nodeName"]).is_some_and(|node| !node.is_empty());
        if on_node && !matches!(phase, "Succeeded" | "Failed") {
            let words = format!("the host port of Pod {}", Key::of(&pod));
            host_ports(&tree).into_iter().for_each(|port| {
                taken.entry(port).or_insert_with(|| (None, words.clone()));
            });
        }
    }
}

fn is_balanced(service: &Value) -> bool {
    service.str_at(&["spec", "type"]) == Some("LoadBalancer")
}

fn is_ours(service: &Value) -> bool {
    is_balanced(service) && service.str_at(&["spec", "loadBalancerClass"]).is_none()
}

fn ingress(service: &Value) -> &[Value] {
    service.array_at(&["status", "loadBalancer", "ingress"])
}

fn has_ingress(service: &Value) -> bool {
    !ingress(service).is_empty()
}

fn pending(service: &Value) -> Option<&Value> {
    condition::find(service.array_at(&["status", "conditions"]), PENDING)
}

fn protocol(port: &Value) -> String {
    port.str_at(&["protocol"]).unwrap_or("TCP").to_owned()
}

/// Why a Service has no address: a machine's word and a sentence.
type Refusal = (&'static str, String);

/// An address that Services may be given.
struct Place {
    address: IpAddr,
    node: String,
    /// Who holds ports of the node, by `address:port/PROTOCOL`; nobody if that is empty. `None` of a node that does not
    /// tell.
    told: Option<Value>,
}

/// What a node says of a Service's ports.
enum Word {
    Free,
    /// It has not looked yet.
    Wait,
    Taken(Port, String),
}

impl Place {
    /// A Service that `has` the address keeps it as long as nothing else is told.
    fn word(&self, ports: &[Port], has: bool) -> Word {
        let Some(told) = &self.told else { return Word::Free };
        let mut word = Word::Free;
        for port in ports {
            let (protocol, number) = port;
            let at = SocketAddr::new(self.address, u16::try_from(*number).unwrap_or_default());
            match told.get(&format!("{at}/{protocol}")).and_then(Value::as_str) {
                Some("") => {}
                Some(program) => {
                    return Word::Taken(port.clone(), format!("{program} on node {}", self.node));
                }
                None if has => {}
                None => word = Word::Wait,
            }
        }
        word
    }
}

fn port_taken((protocol, number): &Port, words: &str) -> Refusal {
    ("PortTaken", format!("port {number}/{protocol} is taken by {words}; free it or choose another port"))
}

/// The addresses of one Service; `None` as long as a node has to look first. Its ports are its own from now on if it
/// gets any.
fn place(
    service: &Object,
    tree: &Value,
    places: &[Place],
    taken: &mut Taken,
) -> Result<Option<Vec<IpAddr>>, Refusal> {
    let key = Key::of(service);
    let listed = tree.array_at(&["spec", "ports"]).iter();
    let ports: Vec<Port> =
        listed.filter_map(|port| Some((protocol(port), port.int_at(&["port"])?))).collect();
    for port in &ports {
        if let Some((holder, words)) = taken.get(port)
            && holder.as_ref() != Some(&key)
        {
            return Err(port_taken(port, words));
        }
    }
    let families = tree.array_at(&["spec", "ipFamilies"]);
    let meant = |address: &IpAddr| {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        if families.is_empty() {
            address.is_ipv4()
        } else {
            families.iter().any(|other| other.as_str() == Some(family))
        }
    };
    let mut meant: Vec<&Place> = places.iter().filter(|place| meant(&place.address)).collect();
    if let Some(wish) = tree.str_at(&["spec", "loadBalancerIP"]).filter(|wish| !wish.is_empty()) {
        meant.retain(|place| wish.parse() == Ok(place.address));
        if meant.is_empty() {
            let words = format!("{wish} is no address of a node; give one of theirs, or no loadBalancerIP");
            return Err(("AddressUnknown", words));
        }
    }
    if meant.is_empty() {
        return Err(("NoAddress", "no node has an address of the Service's family".to_owned()));
    }
    let (mut addresses, mut refusal) = (Vec::new(), None);
    for place in meant {
        let address = place.address.to_string();
        let has = ingress(tree).iter().any(|entry| entry.str_at(&["ip"]) == Some(&address));
        match place.word(&ports, has) {
            Word::Free => addresses.push(place.address),
            Word::Wait => return Ok(None),
            Word::Taken(port, words) => refusal = Some(port_taken(&port, &words)),
        }
    }
    match refusal {
        // It is reached at the other nodes.
        Some(refusal) if addresses.is_empty() => Err(refusal),
        _ => {
            let own = |port| (port, (Some(key.clone()), format!("Service {key}")));
            taken.extend(ports.into_iter().map(own));
            Ok(Some(addresses))
        }
    }
}

/// Writes what has changed, and tells it.
fn report(
    plan: &mut Plan,
    service: &Object,
    tree: &Value,
    outcome: Result<Vec<IpAddr>, Refusal>,
    now: Timestamp,
) {
    let old = tree.array_at(&["status", "conditions"]);
    let mut conditions = old.to_vec();
    let mut wanted: Vec<Value> = Vec::new();
    match &outcome {
        Ok(addresses) => {
            condition::remove(&mut conditions, PENDING);
            let entry = |address: &IpAddr| json!({"ip": (address.to_string()), "ipMode": "VIP"});
            wanted.extend(addresses.iter().map(entry));
        }
        Err((reason, message)) => {
            if pending(tree).and_then(|old| old.str_at(&["message"])) != Some(message) {
                // The same reason may have other words now, as another port.
                condition::remove(&mut conditions, PENDING);
                condition::set(&mut conditions, condition::new(PENDING, "True", reason, message, now));
                let words = format!("Error syncing load balancer: {message}");
                plan.note(Note::warning(service, "SyncLoadBalancerFailed", words));
            }
        }
    }
    if wanted == ingress(tree) && conditions == old {
        return;
    }
    if !has_ingress(tree) && !wanted.is_empty() {
        plan.note(Note::normal(service, "EnsuredLoadBalancer", "Ensured load balancer"));
    }
    let list = |values: Vec<Value>| if values.is_empty() { Value::Null } else { Value::Array(values) };
    let patch = json!({
        "metadata": {"uid": (service.uid())},
        "status": {"conditions": (list(conditions)), "loadBalancer": {"ingress": (list(wanted))}}
    });
    let target = Target::new(&SERVICES, service.namespace(), service.name()).subresource("status");
    plan.write(Write::merge(target, &patch));
}

/// The addresses at which nodes can be reached from outside. Nodes that are not ready count only if none is.
fn places(world: &World) -> Vec<Place> {
    let nodes = world.list(&NODES, "").into_iter();
    let nodes: Vec<Value> = nodes
        .filter(|node| !node.is_deleting() && node.label(EXCLUDED).is_none())
        .map(|node| node.to_tree())
        .collect();
    let any_ready = nodes.iter().any(is_ready);
    let chosen = nodes.iter().filter(|node| !any_ready || is_ready(node));
    let of_node = |node: &Value| -> Vec<Place> {
        let name = node.str_at(&["metadata", "name"]).unwrap_or_default().to_owned();
        let told = told(node);
        let place = |address| Place { address, node: name.clone(), told: told.clone() };
        outer_addresses(node).into_iter().map(place).collect()
    };
    let mut places: Vec<Place> = chosen.flat_map(of_node).collect();
    places.sort_by_key(|place| place.address);
    places.dedup_by_key(|place| place.address);
    places
}

/// What a node tells of its ports. What cannot be read says nothing of any port, so that Services wait.
fn told(node: &Value) -> Option<Value> {
    let text = node.str_at(&["metadata", "annotations", PORTS_ANNOTATION])?;
    Some(api::value::parse(text.as_bytes()).unwrap_or_default())
}

fn is_ready(node: &Value) -> bool {
    let ready = condition::find(node.array_at(&["status", "conditions"]), "Ready");
    ready.and_then(|ready| ready.str_at(&["status"])) == Some("True")
}

/// Its external addresses; if it has none, its internal ones.
fn outer_addresses(node: &Value) -> Vec<IpAddr> {
    let of_type = |kind: &str| -> Vec<IpAddr> {
        let all = node.array_at(&["status", "addresses"]).iter();
        let some = all.filter(|address| address.str_at(&["type"]) == Some(kind));
        some.filter_map(|address| address.str_at(&["address"])?.parse().ok()).collect()
    };
    let external = of_type("ExternalIP");
    if external.is_empty() { of_type("InternalIP") } else { external }
}

/// Whether a pod says anything of host ports at all; reads no tree, for most say nothing.
fn claims_host_ports(pod: &Object) -> bool {
    const WORD: &[u8] = b"\"hostPort\"";
    pod.body().windows(WORD.len()).any(|window| window == WORD)
}

fn host_ports(pod: &Value) -> Vec<Port> {
    let containers = pod.array_at(&["spec", "containers"]).iter();
    let containers = containers.chain(pod.array_at(&["spec", "initContainers"]));
    let ports = containers.flat_map(|container| container.array_at(&["ports"]));
    let used = ports.filter_map(|port| {
        let number = port.int_at(&["hostPort"]).filter(|number| *number != 0)?;
        let address: Option<IpAddr> = port.str_at(&["hostIP"]).and_then(|text| text.parse().ok());
        // A port of the loopback is in nobody's way.
        (!address.is_some_and(|address| address.is_loopback())).then(|| (protocol(port), number))
    });
    used.collect()
}

fn changed_node(_: &World, change: &Change) -> Vec<Key> {
    let facts = |side: &Option<Arc<Object>>| {
        side.as_ref().map(|node| {
            let tree = node.to_tree();
            let excluded = node.label(EXCLUDED).is_some();
            (outer_addresses(&tree), told(&tree), is_ready(&tree), excluded, node.is_deleting())
        })
    };
    if facts(&change.old) == facts(&change.new) { Vec::new() } else { vec![Key::default()] }
}

fn changed_host_ports(_: &World, change: &Change) -> Vec<Key> {
    if change.sides().any(claims_host_ports) { vec![Key::default()] } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Stage;

    fn stage() -> Stage<LoadBalancers> {
        let stage = Stage::new(LoadBalancers::new(&[6443]));
        stage.put(
            &NODES,
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "uid": "n"},
                "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "n"}]}}),
        );
        stage
    }

    fn service(name: &str, kind: &str, port: i64, status: Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "d", "uid": name},
            "spec": {"type": kind, "ipFamilies": ["IPv4"], "ports": [{"port": port, "protocol": "TCP"}]},
            "status": status
        })
    }

    fn placed() -> Value {
        json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]}})
    }

    #[test]
    fn a_service_gets_the_nodes_address_at_once() {
        let stage = stage();
        stage.put(&SERVICES, service("s", "LoadBalancer", 80, json!({"loadBalancer": {}})));
        stage.check(
            "/",
            &[
                r#"patch services d/s/status {"metadata":{"uid":"s"},"status":{"conditions":null,"loadBalancer":{"ingress":[{"ip":"192.0.2.1","ipMode":"VIP"}]}}}"#,
                "Normal EnsuredLoadBalancer: Ensured load balancer",
            ],
        );
        stage.put(&SERVICES, service("s", "LoadBalancer", 80, placed()));
        stage.check("/", &[]);
        stage.put(&SERVICES, service("s", "ClusterIP", 80, placed()));
        stage.check(
            "/",
            &[r#"patch services d/s/status {"metadata":{"uid":"s"},"status":{"conditions":null,"loadBalancer":{"ingress":null}}}"#],
        );
    }

    #[track_caller]
    fn check_refused(stage: &Stage<LoadBalancers>, message: &str) {
        let plan = stage.plan("/");
        assert_eq!(plan.notes.len(), 1);
        assert_eq!(plan.notes[0].message, format!("Error syncing load balancer: {message}"));
        let word = if message.starts_with("port") { "PortTaken" } else { "AddressUnknown" };
        let pending = condition::new(PENDING, "True", word, message, stage.now);
        let mut waiting = service("a", "LoadBalancer", 80, json!({"conditions": [pending]}));
        if word != "PortTaken" {
            waiting.set(&["spec", "loadBalancerIP"], "203.0.113.1");
        }
        stage.put(&SERVICES, waiting);
        stage.check("/", &[]);
    }

    #[test]
    fn a_port_of_another_service_leaves_it_pending_and_is_told_once() {
        let stage = stage();
        stage.put(&SERVICES, service("a", "LoadBalancer", 80, json!({})));
        stage.put(&SERVICES, service("b", "LoadBalancer", 80, placed()));
        check_refused(&stage, "port 80/TCP is taken by Service d/b; free it or choose another port");
        stage.keys_of_going(&SERVICES, service("b", "LoadBalancer", 80, placed()));
        assert_eq!(stage.plan("/").notes[0].reason, "EnsuredLoadBalancer");
    }

    fn tells(stage: &Stage<LoadBalancers>, ports: &str) {
        let node = json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "n", "uid": "n", "annotations": {"ondol.dev/ports": ports}},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
        stage.put(&NODES, node);
    }

    #[test]
    fn a_node_that_tells_of_its_ports_is_heard_before_an_address_is_given() {
        let stage = stage();
        stage.put(&SERVICES, service("a", "LoadBalancer", 80, json!({})));
        for silent in ["{}", "damaged", r#"{"192.0.2.1:80/UDP":"","192.0.2.2:80/TCP":""}"#] {
            tells(&stage, silent);
            stage.check("/", &[]);
        }
        tells(&stage, r#"{"192.0.2.1:80/TCP":"the program x"}"#);
        check_refused(
            &stage,
            "port 80/TCP is taken by the program x on node n; free it or choose another port",
        );
        tells(&stage, r#"{"192.0.2.1:80/TCP":""}"#);
        assert_eq!(stage.plan("/").notes[0].reason, "EnsuredLoadBalancer");
    }

    #[test]
    fn a_placed_service_stays_until_its_node_says_that_the_port_is_taken() {
        let stage = stage();
        stage.put(&SERVICES, service("a", "LoadBalancer", 80, placed()));
        tells(&stage, "{}");
        stage.check("/", &[]);
        tells(&stage, r#"{"192.0.2.1:80/TCP":"the program x"}"#);
        let plan = stage.plan("/");
        assert_eq!(plan.notes[0].reason, "SyncLoadBalancerFailed");
        assert_eq!(plan.writes().count(), 1);
    }

    #[test]
    fn a_host_port_of_a_pod_leaves_it_pending() {
        let stage = stage();
        stage.put(&SERVICES, service("a", "LoadBalancer", 80, json!({})));
        stage.put(
            &PODS,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d"},
                "spec": {"nodeName": "n", "containers": [{"ports": [{"containerPort": 8080, "hostPort": 80}]}]}}),
        );
        check_refused(
            &stage,
            "port 80/TCP is taken by the host port of Pod d/p; free it or choose another port",
        );
    }

    #[test]
    fn an_address_that_no_node_has_is_refused() {
        let stage = stage();
        let mut wish = service("a", "LoadBalancer", 80, json!({}));
        wish.set(&["spec", "loadBalancerIP"], "203.0.113.1");
        stage.put(&SERVICES, wish);
        check_refused(
            &stage,
            "203.0.113.1 is no address of a node; give one of theirs, or no loadBalancerIP",
        );
    }

    #[test]
    fn reserved_ports_and_services_of_other_classes_are_spared() {
        let stage = stage();
        stage.put(&SERVICES, service("s", "LoadBalancer", 6443, json!({})));
        assert_eq!(stage.plan("/").notes[0].reason, "SyncLoadBalancerFailed");
        let mut other = service("s", "LoadBalancer", 80, placed());
        other.set(&["spec", "loadBalancerClass"], "example.com/x");
        stage.put(&SERVICES, other);
        stage.check("/", &[]);
    }
}

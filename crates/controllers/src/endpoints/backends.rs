//! The pods behind a Service, as facts.

use std::net::IpAddr;

use api::json;
use api::names::{NODES, PODS};
use api::object::Object;
use api::selector::label::Selector;
use api::value::Value;
use control::world::World;

use crate::pods::PodView;

/// A Service as its controllers read it.
pub struct Service<'a> {
    /// As stored.
    pub object: &'a Object,
    /// As read.
    pub tree: &'a Value,
}

/// One pod that answers, or may soon or still.
#[derive(Clone, Debug)]
pub struct Backend {
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Ports of the Service, resolved for this pod.
    pub ports: Vec<Port>,
    /// Takes new connections.
    pub ready: bool,
    /// Its probes succeed, whether it is going away or not.
    pub serving: bool,
    /// It is going away.
    pub terminating: bool,
    /// Its node.
    pub node: String,
    /// The node's zone.
    pub zone: Option<String>,
    /// Its own name in DNS.
    pub hostname: Option<String>,
    /// Reference to the pod.
    pub target: Value,
}

/// A resolved port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Name in the Service; empty if it has none.
    pub name: String,
    /// Port of the pod.
    pub port: i64,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `appProtocol`, if given.
    pub app_protocol: Option<String>,
}

impl Port {
    /// As in an EndpointSlice.
    pub fn to_slice_port(&self) -> Value {
        let mut port = json!({
            "name": (self.name.as_str()), "port": (self.port), "protocol": (self.protocol.as_str())
        });
        if let Some(app) = &self.app_protocol {
            port.set(&["appProtocol"], app.as_str());
        }
        port
    }
}

impl Service<'_> {
    /// Whether pods are selected by this Service at all.
    pub fn selects(&self) -> bool {
        self.tree.at(&["spec", "selector"]).is_some() && self.kind() != "ExternalName"
    }

    fn kind(&self) -> &str {
        self.tree.str_at(&["spec", "type"]).unwrap_or("ClusterIP")
    }

    /// Whether it has no address of its own.
    pub fn is_headless(&self) -> bool {
        self.tree.str_at(&["spec", "clusterIP"]) == Some("None")
    }

    /// Whether pods count before they are ready.
    pub fn publishes_unready(&self) -> bool {
        self.tree.bool_at(&["spec", "publishNotReadyAddresses"]).unwrap_or_default()
    }

    /// `IPv4`, `IPv6` or both.
    pub fn families(&self) -> Vec<&str> {
        let families: Vec<&str> =
            self.tree.array_at(&["spec", "ipFamilies"]).iter().filter_map(Value::as_str).collect();
        if families.is_empty() { vec!["IPv4"] } else { families }
    }

    /// All pods that it selects, sorted by name.
    pub fn pods(&self, world: &World) -> Vec<PodView> {
        let Some(selector) = self.tree.at(&["spec", "selector"]).and_then(Value::as_object) else {
            return Vec::new();
        };
        let selector = Selector::from_map(selector);
        let pods = world.list(&PODS, self.object.namespace());
        let selected = pods.into_iter().filter(|pod| selector.matches(pod.labels())).collect();
        PodView::of(selected)
    }

    /// Those of its pods that count: not the ones that have ended, have no address, or are on a node that is not there.
    pub fn backends(&self, world: &World, pods: &[PodView]) -> Vec<Backend> {
        pods.iter().filter_map(|pod| self.backend(world, pod)).collect()
    }

    fn backend(&self, world: &World, view: &PodView) -> Option<Backend> {
        let addresses = view.addresses();
        if addresses.is_empty() || view.is_terminal() {
            return None;
        }
        let node = world.get(&NODES, "", view.node());
        if node.is_none() && !self.publishes_unready() {
            return None;
        }
        let serving = view.is_ready();
        let terminating = view.object.is_deleting();
        let has_own_name = !view.hostname().is_empty() && view.subdomain() == self.object.name();
        Some(Backend {
            addresses,
            ports: self.ports(view),
            ready: self.publishes_unready() || (serving && !terminating),
            serving,
            terminating,
            node: view.node().to_owned(),
            zone: node.and_then(|node| node.label("topology.kubernetes.io/zone").map(str::to_owned)),
            hostname: has_own_name.then(|| view.hostname().to_owned()),
            target: json!({
                "kind": "Pod",
                "namespace": (view.object.namespace()),
                "name": (view.object.name()),
                "uid": (view.object.uid())
            }),
        })
    }

    fn ports(&self, pod: &PodView) -> Vec<Port> {
        let ports = self.tree.array_at(&["spec", "ports"]).iter().filter_map(|port| {
            let protocol = port.str_at(&["protocol"]).unwrap_or("TCP");
            let number = match port.get("targetPort") {
                None => port.int_at(&["port"]),
                Some(Value::String(name)) => pod.named_port(name, protocol),
                Some(number) => {
                    number.as_int().filter(|number| *number != 0).or_else(|| port.int_at(&["port"]))
                }
            };
            Some(Port {
                name: port.str_at(&["name"]).unwrap_or_default().to_owned(),
                port: number?,
                protocol: protocol.to_owned(),
                app_protocol: port.str_at(&["appProtocol"]).map(str::to_owned),
            })
        });
        ports.collect()
    }
}

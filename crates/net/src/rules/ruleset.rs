//! What a node's packets are to do, as plain data.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::address::{Cidr, Protocol};

/// The whole packet configuration of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// One entry for each port of each Service. Where two claim the same address and port, the first key wins.
    pub services: BTreeMap<ServiceKey, Arc<VirtualService>>,
    /// What changes rarely: a change of it reloads the table.
    pub frame: Frame,
}

/// The part of a rule set that does not depend on Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The ranges of this node's pods.
    pub pods: Vec<Cidr>,
    /// The ranges of the Services' own addresses: what is addressed to them and meets no Service is rejected.
    pub service_ranges: Vec<Cidr>,
    /// The addresses that node ports answer on. The bridge's, until the user names others.
    pub node_addresses: Vec<IpAddr>,
    /// Where pods keep their own address as they leave this node: other nodes' pods, a flat network.
    pub masquerade_except: Vec<Cidr>,
    /// What is closed to the outside.
    pub filter: Filter,
}

/// What is closed to the outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Ranges that no other interface than the bridge may open connections to: pods, Services, the bridge itself.
    pub guarded: Vec<Cidr>,
    /// Sources that may nevertheless: the pods of other nodes.
    pub trusted: Vec<Cidr>,
    /// Packets that neither come from nor go to a bridge of ours are not forwarded. Right when forwarding was off
    /// before we turned it on: the machine then becomes no router for its neighbours.
    pub seal_forwarding: bool,
}

/// What names one port of one Service: `namespace/name:port`. Opaque here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey(pub String);

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One port of a Service and what answers on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualService {
    /// The transport protocol of the port.
    pub protocol: Protocol,
    /// The Service's port.
    pub port: u16,
    /// The addresses inside the cluster (ClusterIPs).
    pub cluster_addresses: Vec<IpAddr>,
    /// The addresses outside: of load balancers, and external IPs.
    pub external_addresses: Vec<IpAddr>,
    /// The port on the node's own addresses.
    pub node_port: Option<u16>,
    /// What answers. The order matters for nothing but the size of a change: see [`keep_places`].
    pub endpoints: Vec<Endpoint>,
    /// Whether a client comes back to the same endpoint.
    pub affinity: Affinity,
    /// Which endpoints serve the cluster addresses.
    pub internal_policy: TrafficPolicy,
    /// Which endpoints serve the external addresses and the node port.
    pub external_policy: TrafficPolicy,
}

/// One address that answers for a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Address and port.
    pub address: SocketAddr,
    /// Whether it runs on this node.
    pub local: bool,
}

/// Whether a client comes back to the same endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Affinity {
    /// Each connection finds its own.
    #[default]
    None,
    /// By the client's address.
    ClientIp {
        /// How long after its last connection a client is remembered. At least 1.
        timeout_s: u32,
    },
}

/// Which endpoints may serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficPolicy {
    /// All of the cluster.
    #[default]
    Cluster,
    /// Those of this node only; with endpoints elsewhere but none here, packets are dropped.
    Local,
}

/// Orders `wanted` so that as many endpoints as possible keep the place that they have in `former`: a change of
/// one endpoint then changes one or two elements in the kernel, whatever their number.
pub fn keep_places(former: &[Endpoint], wanted: impl IntoIterator<Item = Endpoint>) -> Vec<Endpoint> {
    let mut rest: std::collections::BTreeSet<Endpoint> = wanted.into_iter().collect();
    let count = rest.len();
    let mut places: Vec<Option<Endpoint>> =
        former.iter().take(count).map(|endpoint| rest.take(endpoint)).collect();
    places.resize(count, None);
    let mut rest = rest.into_iter();
    places.into_iter().filter_map(|place| place.or_else(|| rest.next())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(last: &[u8]) -> Vec<Endpoint> {
        last.iter()
            .map(|n| Endpoint { address: SocketAddr::from(([10, 0, 0, *n], 80)), local: true })
            .collect()
    }

    #[test]
    fn endpoints_keep_their_places() {
        let check = |former: &[u8], wanted: &[u8], expect: &[u8]| {
            assert_eq!(keep_places(&endpoints(former), endpoints(wanted)), endpoints(expect));
        };
        check(&[], &[3, 1, 2], &[1, 2, 3]);
        check(&[3, 1, 2], &[1, 2, 3], &[3, 1, 2]);
        check(&[3, 1, 2], &[1, 2], &[2, 1]);
        check(&[3, 1], &[4, 1], &[4, 1]);
        check(&[3, 1], &[], &[]);
        check(&[3, 1], &[0, 1, 3, 4], &[3, 1, 0, 4]);
    }
}

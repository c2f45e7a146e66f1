//! Host ports of one pod, as rules and loopback ports: what upstream leaves to the CNI plugin `portmap`. Pure.
//!
//! A host port leads to its one pod, whose address sees the client's own. Without a `hostIP` it answers where node
//! ports do: on the node's addresses and on 127.0.0.1. A pod in the host's network listens by itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod};
use net::address::Protocol;
use net::loopback::LoopbackPort;
use net::rules::{Affinity, Endpoint, ServiceKey, TrafficPolicy, VirtualService};

use super::compile::{Compiled, number, parse_protocol};

/// Whether a pod has host ports for which the node has to do something.
pub fn wants_any(pod: &Pod) -> bool {
    ports(pod).next().is_some()
}

/// Compiles one pod of this node; one that has no address yet, or has come to its end, is nothing.
pub fn pod(pod: &Pod) -> Compiled {
    let mut compiled = Compiled::default();
    let status = pod.status.as_ref();
    let over = matches!(status.and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
    let Some(address) = address(pod).filter(|_| !over) else { return compiled };
    for port in ports(pod) {
        let (Some(protocol), Some(host), Some(own)) = (
            parse_protocol(port.protocol.as_deref()),
            number(port.host_port),
            number(Some(port.container_port)),
        ) else {
            continue;
        };
        let (external, anywhere) = match host_ip(port) {
            Ok(None) => (None, true),
            Ok(Some(ip)) => (Some(ip), false),
            Err(why) => {
                compiled.complaints.push(why);
                continue;
            }
        };
        let target = SocketAddr::new(address, own);
        let on_loopback = external.is_none_or(|ip| ip == IpAddr::V4(Ipv4Addr::LOCALHOST));
        // User space has no SCTP here; the node's own addresses serve it.
        if on_loopback && protocol != Protocol::Sctp {
            compiled.loopback.push((LoopbackPort { protocol, port: host }, target));
        }
        if external.is_some() && on_loopback {
            continue;
        }
        let service = VirtualService {
            protocol,
            port: host,
            cluster_addresses: Vec::new(),
            external_addresses: external.into_iter().collect(),
            node_port: anywhere.then_some(host),
            endpoints: vec![Endpoint { address: target, local: true }],
            affinity: Affinity::None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
        };
        compiled.rules.push((key(pod, protocol, external, host), service));
    }
    compiled
}

/// Sidecars serve beside the mains; an init container that runs to its end serves nobody, as upstream.
fn ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    let spec = pod.spec.as_ref().filter(|spec| spec.host_network != Some(true));
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let containers = spec.into_iter().flat_map(move |spec| {
        spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar))
    });
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter(|port| port.host_port.is_some_and(|port| port > 0))
}

/// The pod's IPv4 address.
fn address(pod: &Pod) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    let listed = status.pod_ips.iter().flatten().map(|listed| listed.ip.as_str());
    listed.chain(status.pod_ip.as_deref()).filter_map(|text| text.parse().ok()).find(IpAddr::is_ipv4)
}

/// The address that is asked for; `None` for all.
fn host_ip(port: &ContainerPort) -> Result<Option<IpAddr>, String> {
    let text = port.host_ip.as_deref().unwrap_or_default();
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() => Ok(None),
        Ok(IpAddr::V4(ip)) if ip.is_loopback() && ip != Ipv4Addr::LOCALHOST => {
            Err(format!("hostIP {ip} is not served: of the loopback addresses use 127.0.0.1"))
        }
        Ok(IpAddr::V4(ip)) => Ok(Some(IpAddr::V4(ip))),
        Ok(IpAddr::V6(ip)) => Err(format!("hostIP {ip} is not served: host ports are of IPv4 on this node")),
        // Validation lets nothing else in than addresses and what is empty.
        Err(_) => Ok(None),
    }
}

/// Sorted behind those of Services, so that a Service keeps its node port.
fn key(pod: &Pod, protocol: Protocol, external: Option<IpAddr>, port: u16) -> ServiceKey {
    let metadata = &pod.metadata;
    let (namespace, name) =
        (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default());
    let external = external.map(|ip| format!("{ip}:")).unwrap_or_default();
    ServiceKey(format!("~host port {external}{port}/{protocol} of {namespace}/{name}"))
}

#[cfg(test)]
mod tests {
    use api::json;
    use api::value::Value;

    use super::*;

    /// What becomes of these ports, a line each.
    fn show(spec: Value, status: Value) -> Vec<String> {
        let tree = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec, "status": status});
        let typed: Pod = serde_json::from_slice(&tree.to_bytes()).expect("the test's pod is right");
        let Compiled { rules, loopback, complaints, .. } = pod(&typed);
        let rules = rules.iter().map(|(_, service)| {
            let at = service.external_addresses.first().map_or("node".to_owned(), ToString::to_string);
            let port = service.node_port.unwrap_or(service.port);
            format!("{at}:{port}/{} -> {}", service.protocol, service.endpoints[0].address)
        });
        let loopback = loopback
            .iter()
            .map(|(port, target)| format!("127.0.0.1:{}/{} -> {target}", port.port, port.protocol));
        rules.chain(loopback).chain(complaints).collect()
    }

    fn with(ports: Value) -> Value {
        json!({"containers": [{"name": "a", "ports": ports}]})
    }

    fn running() -> Value {
        json!({"phase": "Running", "podIP": "10.1.0.5", "podIPs": [{"ip": "10.1.0.5"}]})
    }

    #[test]
    fn a_host_port_leads_to_the_pods_own() {
        let ports = json!([
            {"containerPort": 80, "hostPort": 8080},
            {"containerPort": 53, "hostPort": 5353, "protocol": "UDP", "hostIP": "0.0.0.0"},
            {"containerPort": 90}
        ]);
        assert_eq!(
            show(with(ports), running()),
            [
                "node:8080/tcp -> 10.1.0.5:80",
                "node:5353/udp -> 10.1.0.5:53",
                "127.0.0.1:8080/tcp -> 10.1.0.5:80",
                "127.0.0.1:5353/udp -> 10.1.0.5:53"
            ]
        );
    }

    #[test]
    fn a_host_ip_narrows_where_it_answers() {
        let ports = json!([
            {"containerPort": 80, "hostPort": 1, "hostIP": "192.0.2.1"},
            {"containerPort": 80, "hostPort": 2, "hostIP": "127.0.0.1"},
            {"containerPort": 80, "hostPort": 3, "hostIP": "127.0.0.9"},
            {"containerPort": 80, "hostPort": 4, "hostIP": "fd00::1"}
        ]);
        assert_eq!(
            show(with(ports), running()),
            [
                "192.0.2.1:1/tcp -> 10.1.0.5:80",
                "127.0.0.1:2/tcp -> 10.1.0.5:80",
                "hostIP 127.0.0.9 is not served: of the loopback addresses use 127.0.0.1",
                "hostIP fd00::1 is not served: host ports are of IPv4 on this node"
            ]
        );
    }

    #[test]
    fn only_pods_that_live_and_have_an_address_of_their_own_are_led_to() {
        let ports = json!([{"containerPort": 80, "hostPort": 8080}]);
        for status in [json!({}), json!({"phase": "Succeeded", "podIP": "10.1.0.5"})] {
            assert_eq!(show(with(ports.clone()), status), Vec::<String>::new());
        }
        let on_host = json!({"hostNetwork": true, "containers": [{"name": "a", "ports": (ports.clone())}]});
        assert_eq!(show(on_host, running()), Vec::<String>::new());
        let inits = json!({"containers": [], "initContainers": [
            {"name": "a", "ports": (ports.clone())}, {"name": "b", "restartPolicy": "Always", "ports": ports}
        ]});
        assert_eq!(show(inits, running()).len(), 2, "of the sidecar alone");
    }
}

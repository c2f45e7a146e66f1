//! What a proxied path names: `[scheme:]name[:port]` of a pod, a service or a node.

use std::net::{IpAddr, SocketAddr};

use api::names;
use api::object::Object;
use api::status::{Reason, Status};
use api::value::Value;

use super::Way;
use super::dial::{dial_pod, unreachable_end};
use crate::gate::Gate;
use crate::kinds;
use crate::lookups::Lookups;
use crate::route::Info;

/// The kubelet's port where a node does not tell.
const KUBELET_PORT: u16 = 10250;

/// A name as a proxied path writes it.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    secure: bool,
    name: &'a str,
    port: &'a str,
}

/// Reads a name; `sort` is what it should be of.
fn split<'a>(sort: &str, id: &'a str) -> Result<Named<'a>, Status> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => ("", "", ""),
    };
    if name.is_empty() || !matches!(scheme, "" | "http" | "https") {
        return Err(Status::bad_request(format!("invalid {sort} request {id:?}")));
    }
    Ok(Named { secure: scheme == "https", name, port })
}

fn target_path(info: &Info, query: &str) -> String {
    let path = if info.rest.is_empty() { "/" } else { &info.rest };
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// The way to a pod's port: the named one, else the first that its containers tell of.
pub(super) async fn to_pod(gate: &Gate, info: &Info, query: &str) -> Result<Way, Status> {
    let Named { secure, name, port } = split("pod", &info.name)?;
    let kind = kinds::require(&names::PODS)?;
    let pod = gate.storage().require(kind, &info.namespace, name)?.to_tree();
    let first = || {
        let mut ports =
            pod.array_at(&["spec", "containers"]).iter().flat_map(|container| container.array_at(&["ports"]));
        ports
            .next()
            .and_then(|port| port.int_at(&["containerPort"]))
            .and_then(|port| u16::try_from(port).ok())
    };
    let port = if port.is_empty() { first().unwrap_or(usual(secure)) } else { number(port, name)? };
    let address = SocketAddr::new(allowed(pod_ips(&pod).next().unwrap_or_default())?, port);
    let stream = dial_pod(gate, &info.name, address, secure).await?;
    Ok(Way { stream, path: target_path(info, query), host: address.to_string(), judged: false })
}

fn pod_ips(pod: &Value) -> impl Iterator<Item = &str> {
    pod.array_at(&["status", "podIPs"]).iter().filter_map(|ip| ip.str_at(&["ip"]))
}

fn usual(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

fn number(port: &str, name: &str) -> Result<u16, Status> {
    let wrong = |_| Status::bad_request(format!("invalid port \"{port}\" of \"{name}\"; use a number"));
    port.parse().map_err(wrong)
}

/// An address that may be proxied to: nobody gets at what listens on this machine alone.
fn allowed(text: &str) -> Result<IpAddr, Status> {
    let special = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    text.parse()
        .ok()
        .filter(|ip: &IpAddr| !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || special(ip)))
        .ok_or_else(|| Status::bad_request("address not allowed"))
}

/// The way to one of the pods behind a service, chosen by chance.
pub(super) async fn to_service(gate: &Gate, info: &Info, query: &str) -> Result<Way, Status> {
    let Named { secure, name, port } = split("service", &info.name)?;
    let mut port_name = port.to_owned();
    if let Ok(number) = port.parse::<i64>() {
        let kind = kinds::require(&names::SERVICES)?;
        let service = gate.storage().require(kind, &info.namespace, name)?.to_tree();
        let mut ports = service.array_at(&["spec", "ports"]).iter();
        let declared = ports.find(|entry| entry.int_at(&["port"]) == Some(number)).ok_or_else(|| {
            let why = format!("no service port {number} found for service {name:?}");
            Status::new(Reason::ServiceUnavailable, why)
        })?;
        declared.str_at(&["name"]).unwrap_or_default().clone_into(&mut port_name);
    }
    let mut ends = endpoints(gate.storage(), &info.namespace, name, &port_name);
    if ends.is_empty() {
        let why = format!("no endpoints available for service {name:?}");
        return Err(Status::new(Reason::ServiceUnavailable, why));
    }
    let chosen = usize::try_from(gate.random().below(ends.len() as u64)).unwrap_or_default();
    let address = ends.swap_remove(chosen);
    let stream = dial_pod(gate, &info.name, address, secure).await?;
    Ok(Way { stream, path: target_path(info, query), host: address.to_string(), judged: false })
}

/// The ready endpoints of a service that have a port of that name and are pods, so that who may write EndpointSlices
/// does not get the gate to speak to anything else.
fn endpoints(state: &dyn Lookups, namespace: &str, service: &str, port_name: &str) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    let of_service = |slice: &&std::sync::Arc<Object>| {
        slice.label("kubernetes.io/service-name").is_some_and(|name| name == service)
    };
    for slice in state.list(&names::ENDPOINT_SLICES, namespace).iter().filter(of_service) {
        let tree = slice.to_tree();
        let mut ports = tree.array_at(&["ports"]).iter();
        let port = ports.find(|port| port.str_at(&["name"]).unwrap_or_default() == port_name);
        let Some(port) =
            port.and_then(|port| port.int_at(&["port"])).and_then(|port| u16::try_from(port).ok())
        else {
            continue;
        };
        for endpoint in tree.array_at(&["endpoints"]) {
            if endpoint.bool_at(&["conditions", "ready"]).unwrap_or(true)
                && let Some(ip) = pod_behind(state, namespace, endpoint)
            {
                found.push(SocketAddr::new(ip, port));
            }
        }
    }
    found
}

/// The first address of an endpoint, if it is one of the pod's that the endpoint says it is.
fn pod_behind(state: &dyn Lookups, namespace: &str, endpoint: &Value) -> Option<IpAddr> {
    let ip = endpoint.array_at(&["addresses"]).first()?.as_str()?;
    let pod = endpoint.str_at(&["targetRef", "name"])?;
    if endpoint.str_at(&["targetRef", "namespace"]) != Some(namespace) {
        return None;
    }
    let pod = state.get(&names::PODS, namespace, pod)?.to_tree();
    pod_ips(&pod).any(|own| own == ip).then(|| ip.parse().ok())?
}

/// The way to a node: to its agent, or to what else listens at a port of it.
pub(super) async fn to_node(gate: &Gate, info: &Info, query: &str) -> Result<Way, Status> {
    let Named { secure, name, port } = split("node", &info.name)?;
    let agent = Agent::of(gate, name)?;
    let path = target_path(info, query);
    if port.is_empty() || port == agent.port.to_string() {
        return Ok(Way { judged: false, ..agent.dial(gate, name, path).await? });
    }
    let address = SocketAddr::new(allowed(&agent.address)?, number(port, name)?);
    let stream = dial_pod(gate, &info.name, address, secure).await?;
    Ok(Way { stream, path, host: address.to_string(), judged: false })
}

/// The way to a path of a node's agent.
pub(super) async fn dial_agent(gate: &Gate, node: &str, path: String) -> Result<Way, Status> {
    Agent::of(gate, node)?.dial(gate, node, path).await
}

/// Where a node says that its agent listens.
struct Agent {
    address: String,
    port: u16,
}

impl Agent {
    fn of(gate: &Gate, node: &str) -> Result<Self, Status> {
        let kind = kinds::require(&names::NODES)?;
        let tree = gate.storage().require(kind, "", node)?.to_tree();
        let addresses = tree.array_at(&["status", "addresses"]);
        let of_type = |wanted: &str| {
            let mut all = addresses.iter();
            all.find(|address| address.str_at(&["type"]) == Some(wanted))?.str_at(&["address"])
        };
        let mut types = ["InternalIP", "Hostname", "InternalDNS", "ExternalIP", "ExternalDNS"].into_iter();
        let address = types.find_map(of_type).ok_or_else(|| {
            Status::internal(format_args!("node {node} tells no address; wait until its agent is up"))
        })?;
        let told = tree.int_at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]);
        let port = told.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        Ok(Self { address: address.to_owned(), port: port.unwrap_or(KUBELET_PORT) })
    }

    async fn dial(&self, gate: &Gate, node: &str, path: String) -> Result<Way, Status> {
        let Self { address, port } = self;
        let dialed = gate.dialer().node(node, address, *port).await;
        let stream = dialed.map_err(|error| unreachable_end(node, address, *port, &error))?;
        Ok(Way { stream, path, host: format!("{address}:{port}"), judged: true })
    }
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;
    use crate::lookups::fake::Fake;

    #[test]
    fn names_carry_a_scheme_and_a_port() {
        let named = |secure, name, port| Named { secure, name, port };
        assert_eq!(split("pod", "p").unwrap(), named(false, "p", ""));
        assert_eq!(split("pod", "p:8080").unwrap(), named(false, "p", "8080"));
        assert_eq!(split("pod", "https:p:").unwrap(), named(true, "p", ""));
        for wrong in ["", ":80", "ftp:p:21", "http:p:80:x"] {
            let message = split("pod", wrong).unwrap_err().message;
            assert_eq!(message, format!("invalid pod request {wrong:?}"));
        }
    }

    #[test]
    fn what_is_not_in_the_network_is_not_proxied_to() {
        for ip in ["127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.1", "::1", "fe80::1", "", "host"] {
            assert_eq!(allowed(ip).unwrap_err().message, "address not allowed", "{ip}");
        }
        assert!(allowed("10.244.0.3").is_ok());
    }

    #[test]
    fn only_ready_endpoints_that_are_pods_are_proxied_to() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d"},
            "status": {"podIPs": [{"ip": "10.0.0.1"}]}});
        let end = |ip: &str, pod: &str, ready: bool| {
            json!({"addresses": [(ip)], "conditions": {"ready": ready},
                "targetRef": {"kind": "Pod", "namespace": "d", "name": pod}})
        };
        let foreign = json!({"addresses": ["10.0.0.9"], "conditions": {"ready": true}});
        let all = vec![
            end("10.0.0.1", "p", true),
            end("10.0.0.1", "p", false),
            end("10.0.0.2", "p", true),
            end("10.0.0.1", "q", true),
            foreign,
        ];
        let mut slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "s-1", "namespace": "d", "labels": {"kubernetes.io/service-name": "s"}},
            "ports": [{"name": "web", "port": 8080}]});
        slice.set(&["endpoints"], all);
        let state = Fake::new(vec![(names::PODS, pod), (names::ENDPOINT_SLICES, slice)]);
        assert_eq!(endpoints(&state, "d", "s", "web"), ["10.0.0.1:8080".parse().unwrap()]);
        assert!(endpoints(&state, "d", "s", "other").is_empty());
        assert!(endpoints(&state, "d", "t", "web").is_empty());
    }
}

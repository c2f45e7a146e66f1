//! The objects themselves, as upstream makes them.

use std::net::{IpAddr, SocketAddr};

use api::json;
use api::value::Value;

use super::Config;

/// The namespaces of every cluster.
pub(super) const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// The port of the API as pods know it.
const API_PORT: i64 = 443;
/// The port of the name server as pods know it.
const DNS_PORT: i64 = 53;
/// The priority of what a cluster cannot be without; what a node cannot be without is above it.
const CLUSTER_CRITICAL: i64 = 2_000_000_000;
const NODE_CRITICAL: i64 = CLUSTER_CRITICAL + 1000;

pub(super) fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

pub(super) fn client_authority(pem: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {"client-ca-file": pem}
    })
}

/// Says since when the use of lasting tokens is written down: a Secret that names no day was not used since.
pub(super) fn token_tracking(since: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system"},
        "data": {"since": since}
    })
}

pub(super) fn priority_classes() -> [Value; 2] {
    let class = |name: &str, value: i64, description: &str| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "description": description
        })
    };
    [
        class(
            "system-node-critical",
            NODE_CRITICAL,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        class(
            "system-cluster-critical",
            CLUSTER_CRITICAL,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ]
}

pub(super) fn service_range(range: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": (super::DEFAULT_CIDR)},
        "spec": {"cidrs": [range]}
    })
}

fn with_address(mut service: Value, address: IpAddr) -> Value {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    service.set(&["spec", "clusterIP"], address.to_string());
    service.set(&["spec", "clusterIPs"], vec![address.to_string()]);
    service.set(&["spec", "ipFamilies"], vec![family]);
    service
}

pub(super) fn api_service(config: &Config) -> Value {
    let target = i64::from(config.api.port());
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP",
            "sessionAffinity": "None",
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "port": API_PORT, "protocol": "TCP", "targetPort": target}]
        }
    });
    with_address(service, config.api_service())
}

pub(super) fn api_endpoints(config: &Config) -> Value {
    let (ip, port) = (config.api.ip().to_string(), i64::from(config.api.port()));
    json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{
            "addresses": [{"ip": ip}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}]
        }]
    })
}

fn slice(service: &str, address: SocketAddr, ports: Value) -> Value {
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "addressType": (if address.is_ipv4() { "IPv4" } else { "IPv6" }),
        "endpoints": [{"addresses": [(address.ip().to_string())], "conditions": {"ready": true}}]
    });
    slice.set(&["ports"], ports);
    slice
}

pub(super) fn api_slice(config: &Config) -> Value {
    let port = i64::from(config.api.port());
    slice("kubernetes", config.api, json!([{"name": "https", "port": port, "protocol": "TCP"}]))
}

/// The name server is no pod here, so that the service selects none and its slice is ours.
pub(super) fn dns_service(config: &Config) -> Value {
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "labels": {
            "k8s-app": "kube-dns",
            "kubernetes.io/cluster-service": "true",
            "kubernetes.io/name": "CoreDNS"
        }},
        "spec": {
            "type": "ClusterIP",
            "sessionAffinity": "None",
            "ipFamilyPolicy": "SingleStack",
            "ports": [
                {"name": "dns", "port": DNS_PORT, "protocol": "UDP", "targetPort": DNS_PORT},
                {"name": "dns-tcp", "port": DNS_PORT, "protocol": "TCP", "targetPort": DNS_PORT}
            ]
        }
    });
    with_address(service, config.dns_service())
}

pub(super) fn dns_slice(address: SocketAddr) -> Value {
    let port = i64::from(address.port());
    let ports = json!([
        {"name": "dns", "port": port, "protocol": "UDP"},
        {"name": "dns-tcp", "port": port, "protocol": "TCP"}
    ]);
    slice("kube-dns", address, ports)
}

/// The named members of an object and its labels, as a merge patch.
pub(super) fn parts(object: &Value, names: &[&str]) -> Value {
    let mut patch = Value::object();
    for name in names {
        patch.set(&[name], object.get(name).cloned().unwrap_or_default());
    }
    if let Some(labels) = object.at(&["metadata", "labels"]) {
        patch.set(&["metadata", "labels"], labels.clone());
    }
    patch
}

/// What of a service must be so.
pub(super) fn service_parts(service: &Value) -> Value {
    let mut patch = parts(service, &[]);
    for field in ["type", "sessionAffinity", "ports"] {
        patch.set(&["spec", field], service.at(&["spec", field]).cloned().unwrap_or_default());
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::validation::address::Cidr;

    #[test]
    fn the_first_and_tenth_address_are_known() {
        let config = Config {
            service_range: Cidr::parse("10.96.0.0/16").unwrap(),
            api: "10.244.0.1:6443".parse().unwrap(),
            dns: Some("10.244.0.1:53".parse().unwrap()),
        };
        assert_eq!(api_service(&config).str_at(&["spec", "clusterIP"]), Some("10.96.0.1"));
        assert_eq!(dns_service(&config).str_at(&["spec", "clusterIP"]), Some("10.96.0.10"));
        assert_eq!(api_slice(&config).array_at(&["ports"])[0].int_at(&["port"]), Some(6443));
    }
}

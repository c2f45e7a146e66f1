//! Services and what routes to them.

use crate::value::Value;

use super::view::{View, with_more};

/// How many endpoints, ports or hosts are shown.
const SHOWN: usize = 3;

pub(super) fn service(view: View<'_>) -> Vec<Value> {
    let address = view.texts(&["spec", "clusterIPs"]).first().copied().unwrap_or("<none>");
    let ports: Vec<String> = view
        .list(&["spec", "ports"])
        .map(|port| {
            let (number, protocol) = (port.int(&["port"]), port.text(&["protocol"]));
            match port.int(&["nodePort"]) {
                0 => format!("{number}/{protocol}"),
                node_port => format!("{number}:{node_port}/{protocol}"),
            }
        })
        .collect();
    let ports = if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") };
    vec![
        view.name().into(),
        view.text(&["spec", "type"]).into(),
        address.into(),
        external_address(view).into(),
        ports.into(),
        view.age(),
        view.labels(&["spec", "selector"]).into(),
    ]
}

fn external_address(view: View<'_>) -> String {
    let external = view.texts(&["spec", "externalIPs"]);
    match view.text(&["spec", "type"]) {
        "ClusterIP" | "NodePort" if external.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => external.join(","),
        "LoadBalancer" => {
            let balancer = balancer_addresses(view);
            let all: Vec<&str> = balancer.iter().map(String::as_str).chain(external).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => view.text(&["spec", "externalName"]).to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn balancer_addresses(view: View<'_>) -> Vec<String> {
    let ingress = view.list(&["status", "loadBalancer", "ingress"]);
    let mut addresses: Vec<String> =
        ingress.map(|one| one.text_or(&["ip"], one.text(&["hostname"])).to_owned()).collect();
    addresses.retain(|address| !address.is_empty());
    addresses.sort();
    addresses.dedup();
    addresses
}

pub(super) fn endpoints(view: View<'_>) -> Vec<Value> {
    let mut shown = Vec::new();
    for subset in view.list(&["subsets"]) {
        let ports: Vec<i64> = subset.list(&["ports"]).map(|port| port.int(&["port"])).collect();
        let addresses = || subset.list(&["addresses"]).map(|address| address.text(&["ip"]));
        if ports.is_empty() {
            shown.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            shown.extend(addresses().map(|address| {
                if address.contains(':') {
                    format!("[{address}]:{port}")
                } else {
                    format!("{address}:{port}")
                }
            }));
        }
    }
    // Upstream shows nothing, not even a word, for subsets without addresses.
    let absent = if view.list(&["subsets"]).len() == 0 { "<none>" } else { "" };
    vec![view.name().into(), with_more(&shown, SHOWN, absent).into(), view.age()]
}

pub(super) fn endpoint_slice(view: View<'_>) -> Vec<Value> {
    let ports: Vec<String> = view
        .list(&["ports"])
        .map(|port| match port.at(&["port"]) {
            Some(number) => number.to_string(),
            None if port.has(&["name"]) => port.text(&["name"]).to_owned(),
            None => "*".to_owned(),
        })
        .collect();
    let addresses: Vec<String> = view
        .list(&["endpoints"])
        .flat_map(|endpoint| endpoint.texts(&["addresses"]))
        .map(str::to_owned)
        .collect();
    vec![
        view.name().into(),
        view.text(&["addressType"]).into(),
        with_more(&ports, SHOWN, "<unset>").into(),
        with_more(&addresses, SHOWN, "<unset>").into(),
        view.age(),
    ]
}

pub(super) fn ingress(view: View<'_>) -> Vec<Value> {
    let rules = view.list(&["spec", "rules"]);
    let count = rules.len();
    let hosts: Vec<&str> = rules.map(|rule| rule.text(&["host"])).filter(|host| !host.is_empty()).collect();
    let shown = hosts.iter().take(SHOWN).copied().collect::<Vec<_>>().join(",");
    // Rules behind the third host count as more, whether they name a host or not.
    let position =
        view.list(&["spec", "rules"]).enumerate().filter(|(_, rule)| !rule.text(&["host"]).is_empty());
    let third = position.map(|(index, _)| index).nth(SHOWN - 1);
    let hosts = match third {
        _ if hosts.is_empty() => "*".to_owned(),
        Some(third) if count > third + 1 => format!("{shown} + {} more...", count - SHOWN),
        _ => shown,
    };
    let ports = if view.list(&["spec", "tls"]).len() > 0 { "80, 443" } else { "80" };
    vec![
        view.name().into(),
        view.text_or(&["spec", "ingressClassName"], "<none>").into(),
        hosts.into(),
        balancer_addresses(view).join(",").into(),
        ports.into(),
        view.age(),
    ]
}

pub(super) fn ingress_class(view: View<'_>) -> Vec<Value> {
    let annotation = ["metadata", "annotations", "ingressclass.kubernetes.io/is-default-class"];
    let default = if view.text(&annotation) == "true" { " (default)" } else { "" };
    let parameter = |key| view.text(&["spec", "parameters", key]);
    let parameters = if view.has(&["spec", "parameters"]) {
        let dot = if view.has(&["spec", "parameters", "apiGroup"]) { "." } else { "" };
        format!("{}{dot}{}/{}", parameter("kind"), parameter("apiGroup"), parameter("name"))
    } else {
        "<none>".to_owned()
    };
    vec![
        format!("{}{default}", view.name()).into(),
        view.text(&["spec", "controller"]).into(),
        parameters.into(),
        view.age(),
    ]
}

pub(super) fn network_policy(view: View<'_>) -> Vec<Value> {
    vec![view.name().into(), view.selector(&["spec", "podSelector"]).into(), view.age()]
}

pub(super) fn service_cidr(view: View<'_>) -> Vec<Value> {
    vec![view.name().into(), view.texts(&["spec", "cidrs"]).join(",").into(), view.age()]
}

pub(super) fn ip_address(view: View<'_>) -> Vec<Value> {
    let parent = |key| view.text(&["spec", "parentRef", key]);
    let reference = if view.has(&["spec", "parentRef"]) {
        let mut words = parent("resource").to_lowercase();
        for (before, key) in [(".", "group"), ("/", "namespace"), ("/", "name")] {
            if !parent(key).is_empty() {
                words.push_str(before);
                words.push_str(parent(key));
            }
        }
        words
    } else {
        "<none>".to_owned()
    };
    vec![view.name().into(), reference.into(), view.age()]
}

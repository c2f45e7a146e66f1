//! What the linked fields of a service say, and what a client meant who set only some of them.

use api::value::{Str, Value};

use super::addresses::Ranges;

/// The address of services that want none.
pub(super) const NONE: &str = "None";
pub(super) const SINGLE_STACK: &str = "SingleStack";
pub(super) const REQUIRE_DUAL_STACK: &str = "RequireDualStack";
const PREFER_DUAL_STACK: &str = "PreferDualStack";

/// A text of the spec; empty if it is not there.
pub(super) fn text<'a>(service: &'a Value, field: &str) -> &'a str {
    service.str_at(&["spec", field]).unwrap_or_default()
}

/// The texts of a list of the spec.
pub(super) fn texts<'a>(service: &'a Value, field: &str) -> Vec<&'a str> {
    service.array_at(&["spec", field]).iter().filter_map(Value::as_str).collect()
}

pub(super) fn is_external_name(service: &Value) -> bool {
    text(service, "type") == "ExternalName"
}

pub(super) fn is_headless(service: &Value) -> bool {
    match service.array_at(&["spec", "clusterIPs"]).first() {
        Some(first) => first.as_str() == Some(NONE),
        None => text(service, "clusterIP") == NONE,
    }
}

/// Headless, and whoever made it cares for its endpoints.
pub(super) fn is_selectorless_headless(service: &Value) -> bool {
    text(service, "clusterIP") == NONE && service.at(&["spec", "selector"]).is_none_or(Value::is_empty)
}

pub(super) fn needs_node_ports(service: &Value) -> bool {
    matches!(text(service, "type"), "NodePort" | "LoadBalancer")
}

pub(super) fn needs_health_check(service: &Value) -> bool {
    text(service, "type") == "LoadBalancer" && text(service, "externalTrafficPolicy") == "Local"
}

/// Whether anybody outside of the cluster may reach it.
pub(super) fn is_external(service: &Value) -> bool {
    needs_node_ports(service)
        || (text(service, "type") == "ClusterIP" && !service.array_at(&["spec", "externalIPs"]).is_empty())
}

/// The addresses that were allocated for it.
pub(super) fn addresses(service: &Value) -> Vec<Str> {
    if is_external_name(service) || is_headless(service) {
        return Vec::new();
    }
    texts(service, "clusterIPs").into_iter().filter(|address| !address.is_empty()).map(Str::from).collect()
}

fn same(new: &Value, old: &Value, field: &str) -> bool {
    let member = |service: &Value| service.at(&["spec", field]).filter(|value| !value.is_empty()).cloned();
    member(new) == member(old)
}

fn same_addresses(new: &Value, old: &Value) -> bool {
    same(new, old, "clusterIP") && same(new, old, "clusterIPs")
}

/// An old client names one address, a new one a list of them as well.
pub(super) fn normalize_created(service: &mut Value) {
    let one = Str::from(text(service, "clusterIP"));
    if !one.is_empty() && service.array_at(&["spec", "clusterIPs"]).is_empty() {
        service.set(&["spec", "clusterIPs"], vec![one]);
    }
}

/// The same for updates: the one address speaks where only it was changed.
pub(super) fn normalize_updated(new: &mut Value, old: &Value) {
    let old_list = old.array_at(&["spec", "clusterIPs"]).to_vec();
    let (was, is) = (Str::from(text(old, "clusterIP")), Str::from(text(new, "clusterIP")));
    if was == is {
        if !old_list.is_empty() && new.array_at(&["spec", "clusterIPs"]).is_empty() {
            new.set(&["spec", "clusterIPs"], old_list);
        }
    } else if same(new, old, "clusterIPs") {
        if is.is_empty() {
            new.remove(&["spec", "clusterIPs"]);
        } else {
            new.set(&["spec", "clusterIPs"], vec![is]);
        }
    }
}

/// What was allocated stays where an update leaves it out.
pub(super) fn keep_allocated(new: &mut Value, old: &Value) {
    if !is_external_name(old) && !is_external_name(new) {
        for field in ["clusterIP", "clusterIPs"] {
            let there = new.at(&["spec", field]).is_some_and(|value| !value.is_empty());
            if let Some(value) = old.at(&["spec", field]).filter(|_| !there) {
                new.set(&["spec", field], value.clone());
            }
        }
    }
    if needs_node_ports(old) && needs_node_ports(new) {
        keep_node_ports(new, old);
    }
    if needs_health_check(old) && needs_health_check(new) {
        let there = new.int_at(&["spec", "healthCheckNodePort"]).unwrap_or_default() != 0;
        if let Some(port) = old.at(&["spec", "healthCheckNodePort"]).filter(|_| !there) {
            new.set(&["spec", "healthCheckNodePort"], port.clone());
        }
    }
}

/// The node ports that a service names.
pub(super) fn node_ports(service: &Value) -> Vec<i64> {
    let ports = service.array_at(&["spec", "ports"]).iter();
    ports.filter_map(|port| port.int_at(&["nodePort"])).filter(|port| *port != 0).collect()
}

/// Ports are known by name; a node port that the client gave to another port is not given twice.
fn keep_node_ports(new: &mut Value, old: &Value) {
    let (before, asked) = (node_ports(old), node_ports(new));
    let Some(ports) = new.at_mut(&["spec", "ports"]).and_then(Value::as_array_mut) else { return };
    for port in ports {
        if port.int_at(&["nodePort"]).unwrap_or_default() != 0 {
            continue;
        }
        let name = port.str_at(&["name"]).unwrap_or_default();
        let known = old
            .array_at(&["spec", "ports"])
            .iter()
            .rfind(|other| other.str_at(&["name"]).unwrap_or_default() == name)
            .and_then(|other| other.int_at(&["nodePort"]))
            .filter(|known| *known != 0 && !(before.contains(known) && asked.contains(known)));
        if let Some(known) = known {
            port.set(&["nodePort"], known);
        }
    }
}

/// A change of type drops what the new type has no use for, unless the client changed it at the same time: then
/// validation speaks.
pub(super) fn drop_unneeded(new: &mut Value, old: &Value) {
    if !is_external_name(old) && is_external_name(new) {
        if same_addresses(new, old) {
            new.remove(&["spec", "clusterIP"]);
            new.remove(&["spec", "clusterIPs"]);
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if same(new, old, field) {
                new.remove(&["spec", field]);
            }
        }
    }
    if needs_node_ports(old) && !needs_node_ports(new) {
        let before = node_ports(old);
        if node_ports(new).iter().all(|port| before.contains(port)) {
            for port in new.at_mut(&["spec", "ports"]).and_then(Value::as_array_mut).into_iter().flatten() {
                port.remove(&["nodePort"]);
            }
        }
    }
    let drop_if = |new: &mut Value, unneeded: bool, field: &str| {
        if unneeded && same(new, old, field) {
            new.remove(&["spec", field]);
        }
    };
    let unneeded = is_external_name(new) && !is_external_name(old);
    drop_if(new, unneeded, "internalTrafficPolicy");
    let unneeded = needs_health_check(old) && !needs_health_check(new);
    drop_if(new, unneeded, "healthCheckNodePort");
    let was_balanced = text(old, "type") == "LoadBalancer";
    let is_balanced = text(new, "type") == "LoadBalancer";
    drop_if(new, was_balanced && !is_balanced, "allocateLoadBalancerNodePorts");
    drop_if(new, was_balanced && !is_balanced, "loadBalancerClass");
    let unneeded = is_external(old) && !is_external(new);
    drop_if(new, unneeded, "externalTrafficPolicy");
    if !is_balanced {
        new.set(&["status", "loadBalancer"], Value::object());
    }
}

/// Fills `ipFamilyPolicy` and `ipFamilies`. What cannot be filled is left for validation to name.
pub(super) fn default_families(service: &mut Value, old: Option<&Value>, ranges: &Ranges) {
    if is_external_name(service) || stays_preferred(service, old) {
        return;
    }
    if text(service, "ipFamilyPolicy").is_empty() {
        let inherited = old.map(|old| text(old, "ipFamilyPolicy")).filter(|policy| !policy.is_empty());
        let own = if is_selectorless_headless(service) { REQUIRE_DUAL_STACK } else { SINGLE_STACK };
        service.set(&["spec", "ipFamilyPolicy"], inherited.unwrap_or(own));
    }
    let single = text(service, "ipFamilyPolicy") == SINGLE_STACK;
    if let Some(old) = old.filter(|_| single) {
        for field in ["clusterIPs", "ipFamilies"] {
            let mut list = service.array_at(&["spec", field]).to_vec();
            if list.len() > 1 && same(service, old, field) {
                list.truncate(1);
                service.set(&["spec", field], list);
            }
        }
    }
    let mut families: Vec<Str> = texts(service, "ipFamilies").into_iter().map(Str::from).collect();
    for address in texts(service, "clusterIPs").into_iter().skip(families.len()) {
        match address.parse() {
            Ok(address) => families.push(family(address).into()),
            Err(_) => break,
        }
    }
    if families.is_empty() {
        families.push(ranges.default_family().into());
    }
    let wants_other = !single && families.len() == 1;
    if wants_other && (is_selectorless_headless(service) || ranges.is_dual_stack()) {
        families.push(if families[0] == "IPv4" { "IPv6" } else { "IPv4" }.into());
    }
    service.set(&["spec", "ipFamilies"], families);
}

/// `IPv4` or `IPv6`.
pub(super) fn family(address: std::net::IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// A service that prefers two families is not changed when the cluster gains or loses one.
fn stays_preferred(service: &Value, old: Option<&Value>) -> bool {
    old.is_some_and(|old| {
        text(service, "ipFamilyPolicy") == PREFER_DUAL_STACK
            && text(old, "ipFamilyPolicy") == PREFER_DUAL_STACK
            && !service.array_at(&["spec", "clusterIPs"]).is_empty()
            && same(service, old, "clusterIPs")
            && same(service, old, "ipFamilies")
    })
}

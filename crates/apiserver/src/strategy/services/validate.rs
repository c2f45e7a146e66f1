//! What a service must be. The table checked enums and required members of ports already.

use std::collections::HashSet;
use std::net::IpAddr;

use api::status::Cause;
use api::validation::{Path, address, cause, names, selectors};
use api::value::Value;

use super::addresses::Ranges;
use super::fields::{
    REQUIRE_DUAL_STACK, SINGLE_STACK, family, is_external, is_external_name, is_headless,
    is_selectorless_headless, needs_health_check, text, texts,
};
use crate::strategy::words;

/// The longest time that a client stays with an endpoint, in seconds: a day.
const AFFINITY_SECONDS_MAX: i64 = 86_400;

/// Whether policy and families fit one another and the cluster. What is wrong here is said before all else.
pub(super) fn families(service: &Value, ranges: &Ranges) -> Vec<Cause> {
    if is_external_name(service) {
        return Vec::new();
    }
    let mut causes = related_addresses(service);
    if !causes.is_empty() {
        return causes;
    }
    let policy = text(service, "ipFamilyPolicy");
    let spec = Path::root("spec");
    if policy == SINGLE_STACK {
        for (field, words) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
            if texts(service, field).len() == 2 {
                let why = format!(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple {words} are specified"
                );
                causes.push(cause::invalid(spec.child("ipFamilyPolicy"), policy, &why));
            }
        }
    }
    for (index, ip) in texts(service, "clusterIPs").into_iter().enumerate() {
        if let Ok(ip) = ip.parse::<IpAddr>()
            && !ranges.has(family(ip))
        {
            let list = service.at(&["spec", "clusterIPs"]).cloned().unwrap_or_default();
            let why = format!("{} is not configured on this cluster", family(ip));
            causes.push(cause::invalid(spec.child("clusterIPs").index(index), list, &why));
        }
    }
    if !causes.is_empty() || is_selectorless_headless(service) {
        return causes;
    }
    if policy == REQUIRE_DUAL_STACK && !ranges.is_dual_stack() {
        let why = "this cluster is not configured for dual-stack services";
        causes.push(cause::invalid(spec.child("ipFamilyPolicy"), policy, why));
    }
    for (index, family) in texts(service, "ipFamilies").into_iter().enumerate() {
        if matches!(family, "IPv4" | "IPv6") && !ranges.has(family) {
            let path = spec.child("ipFamilies").index(index);
            causes.push(cause::invalid(path, family, "not configured on this cluster"));
        }
    }
    causes
}

/// `clusterIP`, `clusterIPs` and `ipFamilies` must tell the same.
fn related_addresses(service: &Value) -> Vec<Cause> {
    let path = Path::root("spec").child("clusterIPs");
    let (one, all) = (text(service, "clusterIP"), texts(service, "clusterIPs"));
    let list = || service.at(&["spec", "clusterIPs"]).cloned().unwrap_or_default();
    let mut causes = Vec::new();
    match all.first() {
        None if !one.is_empty() => causes.push(cause::required(&path, "")),
        Some(_) if one.is_empty() => {
            causes.push(cause::invalid(&path, list(), "must be empty when `clusterIP` is not specified"));
        }
        Some(first) if *first != one => {
            causes.push(cause::invalid(&path, list(), "first value must match `clusterIP`"));
        }
        _ => {}
    }
    let before = causes.len();
    for (index, ip) in all.iter().enumerate() {
        if index == 0 && *ip == "None" {
            if all.len() > 1 {
                causes.push(cause::invalid(&path, list(), "'None' must be the first and only value"));
            }
            continue;
        }
        causes.extend(address::ip_for_legacy_field(path.index(index), ip));
    }
    let has_wrong = causes.len() > before;
    if all.len() > 2 {
        causes.push(cause::invalid(&path, list(), "may only hold up to 2 values"));
    }
    if has_wrong {
        return causes;
    }
    let parsed: Vec<IpAddr> = all.iter().filter_map(|ip| ip.parse().ok()).collect();
    if all.len() > 1 && parsed.windows(2).any(|pair| pair[0].is_ipv4() == pair[1].is_ipv4()) {
        let why = "may specify no more than one IP for each IP family";
        causes.push(cause::invalid(&path, list(), why));
    }
    if !is_headless(service) {
        for (index, (ip, said)) in parsed.iter().zip(texts(service, "ipFamilies")).enumerate() {
            if family(*ip) != said {
                let why = format!("expected an {said} value as indicated by `ipFamilies[{index}]`");
                causes.push(cause::invalid(path.index(index), all[index], &why));
            }
        }
    }
    causes
}

/// All other rules.
pub(super) fn service(service: &Value) -> Vec<Cause> {
    let spec = Path::root("spec");
    let mut causes = of_type(service, &spec);
    ports(service, &spec, &mut causes);
    if let Some(selector) = service.at(&["spec", "selector"]).and_then(Value::as_object) {
        causes.extend(selectors::labels(selector, &spec.child("selector")));
    }
    affinity(service, &spec, &mut causes);
    for (index, ip) in texts(service, "externalIPs").into_iter().enumerate() {
        let path = spec.child("externalIPs").index(index);
        let wrong = address::ip_for_legacy_field(&path, ip);
        causes.extend(if wrong.is_empty() { words::endpoint_address(ip, &path) } else { wrong });
    }
    let known = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    words::one_of(text(service, "type"), &known, &spec.child("type"), &mut causes);
    node_ports(service, &spec, &mut causes);
    balancer(service, &spec, &mut causes);
    traffic(service, &spec, &mut causes);
    causes
}

fn of_type(service: &Value, spec: &Path) -> Vec<Cause> {
    let mut causes = Vec::new();
    let headless = is_headless(service);
    if service.array_at(&["spec", "ports"]).is_empty() && !headless && !is_external_name(service) {
        causes.push(cause::required(spec.child("ports"), ""));
    }
    match text(service, "type") {
        kind @ ("LoadBalancer" | "NodePort") if headless => {
            let why = format!("may not be set to 'None' for {kind} services");
            causes.push(cause::invalid(spec.child("clusterIPs").index(0), "None", &why));
        }
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if service.at(&["spec", field]).is_some_and(|value| !value.is_empty()) {
                    causes.push(cause::forbidden(
                        spec.child(field),
                        "may not be set for ExternalName services",
                    ));
                }
            }
            let name = text(service, "externalName");
            let name = name.strip_suffix('.').unwrap_or(name);
            let path = spec.child("externalName");
            if name.is_empty() {
                causes.push(cause::required(path, ""));
            } else {
                causes.extend(names::is_subdomain(name).iter().map(|why| cause::invalid(&path, name, why)));
            }
        }
        _ => {}
    }
    causes
}

fn ports(service: &Value, spec: &Path, causes: &mut Vec<Cause>) {
    let ports = service.array_at(&["spec", "ports"]);
    for (index, port) in ports.iter().enumerate() {
        let path = spec.child("ports").index(index);
        let name = port.str_at(&["name"]).unwrap_or_default();
        if name.is_empty() {
            if ports.len() > 1 {
                causes.push(cause::required(path.child("name"), ""));
            }
        } else {
            causes.extend(
                names::is_label(name).iter().map(|why| cause::invalid(path.child("name"), name, why)),
            );
        }
        words::port_number(port.int_at(&["port"]).unwrap_or_default(), &path.child("port"), causes);
        words::port_number_or_name(port.get("targetPort"), &path.child("targetPort"), causes);
        if let Some(protocol) = port.str_at(&["appProtocol"]) {
            let path = path.child("appProtocol");
            causes
                .extend(names::is_label_key(protocol).iter().map(|why| cause::invalid(&path, protocol, why)));
        }
    }
}

fn affinity(service: &Value, spec: &Path, causes: &mut Vec<Cause>) {
    let affinity = text(service, "sessionAffinity");
    words::one_of(affinity, &["ClientIP", "None"], &spec.child("sessionAffinity"), causes);
    let path = spec.child("sessionAffinityConfig");
    let config = service.at(&["spec", "sessionAffinityConfig"]).filter(|config| !config.is_null());
    match affinity {
        "ClientIP" => {
            let seconds = config.and_then(|config| config.int_at(&["clientIP", "timeoutSeconds"]));
            match seconds {
                None => {
                    let why = "when session affinity type is ClientIP";
                    causes.push(cause::required(path, why));
                }
                Some(seconds) if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds) => {
                    let path = path.child("clientIP").child("timeoutSeconds");
                    let why = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
                    causes.push(cause::invalid(path, seconds, &why));
                }
                Some(_) => {}
            }
        }
        "None" if config.is_some() => {
            causes.push(cause::forbidden(path, "must not be set when session affinity is None"));
        }
        _ => {}
    }
}

fn node_ports(service: &Value, spec: &Path, causes: &mut Vec<Cause>) {
    let path = |index| spec.child("ports").index(index);
    let ports = service.array_at(&["spec", "ports"]);
    let number = |port: &Value, key: &str| port.int_at(&[key]).unwrap_or_default();
    let protocol = |port: &Value| port.str_at(&["protocol"]).unwrap_or_default().to_owned();
    if text(service, "type") == "ClusterIP" {
        for (index, _) in ports.iter().enumerate().filter(|(_, port)| number(port, "nodePort") != 0) {
            let why = "may not be used when `type` is 'ClusterIP'";
            causes.push(cause::forbidden(path(index).child("nodePort"), why));
        }
    }
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let node_port = number(port, "nodePort");
        if node_port != 0 && !seen.insert((protocol(port), node_port)) {
            causes.push(cause::duplicate(path(index).child("nodePort"), node_port));
        }
    }
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        if !seen.insert((protocol(port), number(port, "port"))) {
            // Upstream shows its inner form of a port, with nothing but what was compared.
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":\"{}\",\"AppProtocol\":null,\"Port\":{},\"TargetPort\":0,\"NodePort\":0}}",
                protocol(port),
                number(port, "port")
            );
            causes.push(Cause {
                reason: "FieldValueDuplicate".into(),
                message: format!("Duplicate value: {shown}"),
                field: path(index).to_string(),
            });
        }
    }
}

fn balancer(service: &Value, spec: &Path, causes: &mut Vec<Cause>) {
    let balanced = text(service, "type") == "LoadBalancer";
    let only = "may only be used when `type` is 'LoadBalancer'";
    let ranges = texts(service, "loadBalancerSourceRanges");
    if !ranges.is_empty() {
        let path = spec.child("LoadBalancerSourceRanges");
        if !balanced {
            causes.push(cause::forbidden(&path, only));
        }
        for (index, range) in ranges.iter().enumerate() {
            causes.extend(address::cidr_for_legacy_field(path.index(index), range.trim()));
        }
    }
    let allocates =
        service.at(&["spec", "allocateLoadBalancerNodePorts"]).is_some_and(|value| !value.is_null());
    if allocates && !balanced {
        causes.push(cause::forbidden(spec.child("allocateLoadBalancerNodePorts"), only));
    }
    if balanced && !allocates {
        causes.push(cause::required("allocateLoadBalancerNodePorts", ""));
    }
    if let Some(class) = service.str_at(&["spec", "loadBalancerClass"]) {
        let path = spec.child("loadBalancerClass");
        if balanced {
            causes.extend(names::is_label_key(class).iter().map(|why| cause::invalid(&path, class, why)));
        } else {
            causes.push(cause::forbidden(path, only));
        }
    }
}

fn traffic(service: &Value, spec: &Path, causes: &mut Vec<Cause>) {
    let (policy, path) = (text(service, "externalTrafficPolicy"), spec.child("externalTrafficPolicy"));
    if is_external(service) {
        words::one_of(policy, &["Cluster", "Local"], &path, causes);
    } else if !policy.is_empty() {
        causes.push(cause::invalid(path, policy, "may only be set for externally-accessible services"));
    }
    let check = service.int_at(&["spec", "healthCheckNodePort"]).unwrap_or_default();
    if check != 0 {
        let path = spec.child("healthCheckNodePort");
        if needs_health_check(service) {
            words::port_number(check, &path, causes);
        } else {
            let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            causes.push(cause::invalid(path, check, why));
        }
    }
    let path = spec.child("internalTrafficPolicy");
    match service.str_at(&["spec", "internalTrafficPolicy"]) {
        None if matches!(text(service, "type"), "ClusterIP" | "NodePort" | "LoadBalancer") => {
            causes.push(cause::required(path, ""))
        }
        Some(policy) => words::one_of(policy, &["Cluster", "Local"], &path, causes),
        None => {}
    }
    if let Some(spread) = service.str_at(&["spec", "trafficDistribution"]) {
        let known = ["PreferClose", "PreferSameZone", "PreferSameNode"];
        words::one_of(spread, &known, &spec.child("trafficDistribution"), causes);
    }
}

/// What a balancer may report.
pub(super) fn status(service: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let ingress = service.array_at(&["status", "loadBalancer", "ingress"]);
    let path = Path::root("status").child("loadBalancer").child("ingress");
    if !ingress.is_empty() && text(service, "type") != "LoadBalancer" {
        causes.push(cause::forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'"));
    }
    for (index, each) in ingress.iter().enumerate() {
        if let Some(ip) = each.str_at(&["ip"]).filter(|ip| !ip.is_empty()) {
            causes.extend(address::ip_for_legacy_field(path.index(index).child("ip"), ip));
        }
        if let Some(host) = each.str_at(&["hostname"]).filter(|host| !host.is_empty()) {
            let path = path.index(index).child("hostname");
            causes.extend(names::is_subdomain(host).iter().map(|why| cause::invalid(&path, host, why)));
        }
    }
    causes
}

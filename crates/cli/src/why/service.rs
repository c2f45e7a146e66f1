//! Why a Service does not answer.

use api::names::PORTS_ANNOTATION;
use api::value::Value;
use jiff::Timestamp;

use super::world::{World, condition, deletion, has_labels, holds, lasting, message, name_of};
use super::{Finding, answers, pod};

/// The condition of a Service whose load balancer has no address yet, with the reason.
const PENDING: &str = "LoadBalancerPending";

/// Headline and findings of a Service.
pub fn service(service: &Value, world: &World, now: Timestamp) -> (String, Vec<Finding>) {
    let name = name_of(service);
    let mut found: Vec<Finding> = deletion(service, now).into_iter().collect();
    let kind = service.str_at(&["spec", "type"]).unwrap_or("ClusterIP");
    if kind == "ExternalName" {
        let target = service.str_at(&["spec", "externalName"]).unwrap_or_default();
        return (format!("service/{name} is another name of {target}"), found);
    }
    if kind == "LoadBalancer" && service.array_at(&["status", "loadBalancer", "ingress"]).is_empty() {
        found.push(pending(service, world, now));
    }
    found.extend(unsupported(service, world));
    found.extend(taken_ports(service, world));
    let (ready, all) = endpoints(service, world);
    if ready == 0 {
        found.extend(no_endpoints(service, world, now));
    }
    found.extend(ports(service, world));
    found.extend(answers::findings(service, &selected(service, world), world));
    let headline = match (ready, found.is_empty()) {
        (0, _) => format!("service/{name} has no endpoint that is ready: nothing answers"),
        (_, true) => {
            format!("service/{name} is as it should be: {}", answers::words(service, ready, world))
        }
        _ => format!("service/{name} has {ready} of {all} endpoints ready"),
    };
    (headline, found)
}

/// Why a load balancer has no address.
fn pending(service: &Value, world: &World, now: Timestamp) -> Finding {
    let since = lasting(service, &["metadata", "creationTimestamp"], now);
    if let Some(class) = service.str_at(&["spec", "loadBalancerClass"]) {
        return Finding::new(
            format!(
                "its load balancer has been pending{since}: nobody here serves the loadBalancerClass {class}"
            ),
            "make the Service without a loadBalancerClass; then it gets the node's address",
        );
    }
    // Events tell also of what is over, the condition of what is.
    let told = condition(service, PENDING).or_else(|| {
        let about = |event: &&&Value| event.str_at(&["reason"]) != Some(UNSUPPORTED);
        world.warnings(service).iter().find(about).copied()
    });
    let words = told.map_or("no reason was told", message);
    let advice = match told.and_then(|told| told.str_at(&["reason"])) {
        Some("AddressUnknown") => format!(
            "{}; then it gets the address of a node by itself",
            without_field(service, "loadBalancerIP")
        ),
        Some("NoAddress") => {
            "give the Service the family of the nodes' addresses (spec.ipFamilies; kubectl get nodes -o wide)"
                .to_owned()
        }
        _ if words.contains("port") => {
            "give the Service another port, or free the one it asks for (kubectl get services -A)".to_owned()
        }
        _ => format!("\"kubectl describe service {}\" shows its events", name_of(service)),
    };
    Finding::new(format!("its load balancer has been pending{since}: {words}"), advice)
}

/// The reason of events about fields that are not honoured.
const UNSUPPORTED: &str = "UnsupportedField";

/// Fields that have no effect here, as long as the Service has them.
fn unsupported(service: &Value, world: &World) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    let events = world.warnings(service).into_iter();
    for event in events.filter(|event| event.str_at(&["reason"]) == Some(UNSUPPORTED)) {
        let words = message(event);
        let path = words.split_whitespace().next().unwrap_or_default();
        let field = path.strip_prefix("spec.").unwrap_or_default();
        let parts: Vec<&str> = path.split('.').collect();
        // Of what is named otherwise than by its path nobody knows whether it is still there.
        let is_plain = !field.is_empty() && field.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if is_plain && service.at(&parts).is_none_or(Value::is_null) {
            continue;
        }
        let advice = if is_plain { without_field(service, field) } else { String::new() };
        let finding = Finding::new(words, advice);
        if !found.contains(&finding) {
            found.push(finding);
        }
    }
    found
}

/// The command that takes a field of the spec away.
fn without_field(service: &Value, field: &str) -> String {
    let namespace = match service.str_at(&["metadata", "namespace"]) {
        None | Some("default" | "") => String::new(),
        Some(namespace) => format!(" -n {namespace}"),
    };
    format!(
        "kubectl patch service{namespace} {} --type=merge -p '{{\"spec\":{{\"{field}\":null}}}}'",
        name_of(service)
    )
}

/// Ports of nodes and outer addresses that other programs of the machines hold, as the nodes tell it now.
fn taken_ports(service: &Value, world: &World) -> Vec<Finding> {
    let mut found = Vec::new();
    for node in world.all("Node") {
        let told = node.str_at(&["metadata", "annotations", PORTS_ANNOTATION]).unwrap_or_default();
        let Ok(told) = api::value::parse(told.as_bytes()) else { continue };
        let taken = told.as_object().into_iter().flat_map(api::value::Map::iter);
        let taken = taken
            .filter_map(|(at, program)| Some((at, program.as_str()?)))
            .filter(|(_, program)| !program.is_empty());
        for (at, program) in taken.filter(|(at, _)| asks_for(service, at)) {
            found.push(Finding::new(
                format!("it is not served at {at} of node {}, which {program} holds", name_of(node)),
                "stop that program, or choose another port; then it is served at once",
            ));
        }
    }
    found
}

/// Whether the Service wants to be reached at `address:port/PROTOCOL`: a node port on any address, others on its own.
fn asks_for(service: &Value, at: &str) -> bool {
    let Some((at, protocol)) = at.rsplit_once('/') else { return false };
    let Some((address, number)) = at.rsplit_once(':') else { return false };
    let Ok(number) = number.parse::<i64>() else { return false };
    let external = service.array_at(&["spec", "externalIPs"]);
    let is_own = external.iter().any(|own| own.as_str() == Some(address.trim_matches(['[', ']'])));
    service.array_at(&["spec", "ports"]).iter().any(|port| {
        port.str_at(&["protocol"]).unwrap_or("TCP") == protocol
            && (port.int_at(&["nodePort"]) == Some(number)
                || is_own && port.int_at(&["port"]) == Some(number))
    })
}

fn endpoints(service: &Value, world: &World) -> (usize, usize) {
    let slices: Vec<&Value> = answers::slices(service, world).collect();
    let ready = slices.iter().flat_map(|slice| answers::ready(slice)).count();
    (ready, slices.iter().map(|slice| slice.array_at(&["endpoints"]).len()).sum())
}

fn selected<'a>(service: &Value, world: &'a World) -> Vec<&'a Value> {
    let Some(selector) = service.at(&["spec", "selector"]) else { return Vec::new() };
    let namespace = service.str_at(&["metadata", "namespace"]);
    let pods = world.all("Pod").iter().filter(|pod| pod.str_at(&["metadata", "namespace"]) == namespace);
    pods.filter(|pod| has_labels(pod, selector)).collect()
}

fn no_endpoints(service: &Value, world: &World, now: Timestamp) -> Vec<Finding> {
    let Some(selector) = service.at(&["spec", "selector"]).filter(|selector| !selector.is_empty()) else {
        return vec![Finding::new(
            "it has no selector, so its endpoints are for you to make",
            "make an EndpointSlice with the label kubernetes.io/service-name, or set spec.selector",
        )];
    };
    let pods = selected(service, world);
    if pods.is_empty() {
        let pairs = selector.as_object().into_iter().flat_map(api::value::Map::iter);
        let words: Vec<String> =
            pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
        return vec![Finding::new(
            format!("no pod has the labels that it selects: {}", words.join(",")),
            "compare with \"kubectl get pods --show-labels\"",
        )];
    }
    let mut found = Vec::new();
    for one in pods.iter().filter(|one| !holds(one, "Ready")) {
        for finding in pod::findings(one, world, now) {
            found.push(Finding { what: format!("pod {}: {}", name_of(one), finding.what), ..finding });
        }
    }
    if found.is_empty() {
        found.push(Finding::new(format!("it selects {} pods, and none is ready yet", pods.len()), ""));
    }
    found
}

/// Target ports by a name that no container has.
fn ports(service: &Value, world: &World) -> Vec<Finding> {
    let pods = selected(service, world);
    if pods.is_empty() {
        return Vec::new();
    }
    let named = service.array_at(&["spec", "ports"]).iter().filter_map(|port| port.str_at(&["targetPort"]));
    let has = |name: &str| {
        pods.iter().flat_map(|pod| pod.array_at(&["spec", "containers"])).any(|container| {
            container.array_at(&["ports"]).iter().any(|port| port.str_at(&["name"]) == Some(name))
        })
    };
    named
        .filter(|name| !has(name))
        .map(|name| {
            Finding::new(
                format!("its targetPort {name:?} is the name of no container's port"),
                "name the port in the pod's template, or give its number",
            )
        })
        .collect()
}

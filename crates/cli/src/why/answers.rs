//! Whether what stands behind a Service takes connections. Which doors to knock at and what the answers mean is decided
//! here, purely; [`crate::commands`] knocks.

use std::net::{IpAddr, SocketAddr};

use api::value::Value;

use super::Finding;
use super::world::{World, name_of};

/// The label by which a slice names its Service.
const SLICE_OF: &str = "kubernetes.io/service-name";
/// Doors that are knocked at, at most; endpoints of one Service mostly are alike.
const DOORS_MAX: usize = 32;

/// What came of a try to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The connection was taken.
    Taken,
    /// It was refused: the address is there, and nothing listens.
    Refused,
    /// Nothing came in time, or there is no way there from here.
    Silent,
}

/// Where a Service's ready endpoints listen, as far as TCP goes. Empty if there is no such Service.
pub fn doors(namespace: &str, service: &str, world: &World) -> Vec<SocketAddr> {
    let Some(service) = world.find("Service", namespace, service) else { return Vec::new() };
    let mut doors = Vec::new();
    for slice in slices(service, world) {
        let ports = slice.array_at(&["ports"]).iter();
        let ports: Vec<u16> = ports.filter(|port| protocol(port) == "TCP").filter_map(number_of).collect();
        for endpoint in ready(slice) {
            let addresses = endpoint.array_at(&["addresses"]).iter().filter_map(Value::as_str);
            for ip in addresses.filter_map(|address| address.parse::<IpAddr>().ok()) {
                doors.extend(ports.iter().map(|port| SocketAddr::new(ip, *port)));
            }
        }
    }
    doors.truncate(DOORS_MAX);
    doors
}

/// Slices of a Service.
pub fn slices<'a>(service: &Value, world: &'a World) -> impl Iterator<Item = &'a Value> + use<'a> {
    let namespace = service.str_at(&["metadata", "namespace"]).map(str::to_owned);
    let name = name_of(service).to_owned();
    world.all("EndpointSlice").iter().filter(move |slice| {
        slice.str_at(&["metadata", "namespace"]) == namespace.as_deref()
            && slice.str_at(&["metadata", "labels", SLICE_OF]) == Some(&name)
    })
}

/// Endpoints that new connections go to.
pub fn ready(slice: &Value) -> impl Iterator<Item = &Value> {
    let endpoints = slice.array_at(&["endpoints"]).iter();
    endpoints.filter(|endpoint| endpoint.bool_at(&["conditions", "ready"]) != Some(false))
}

/// What is known of the endpoints, for a headline without a finding.
pub fn words(service: &Value, ready: usize, world: &World) -> String {
    let doors = doors_of(service, world);
    let all_taken = doors.iter().all(|door| world.answers.get(door) == Some(&Answer::Taken));
    match (all_taken && !doors.is_empty() && !has_other_protocols(service), ready) {
        (true, 1) => "1 endpoint takes connections".to_owned(),
        (true, _) => format!("{ready} endpoints take connections"),
        (false, 1) => {
            "1 endpoint is ready; whether it takes connections cannot be tried from here".to_owned()
        }
        (false, _) => {
            format!("{ready} endpoints are ready; whether they take connections cannot be tried from here")
        }
    }
}

/// Ports at which endpoints refuse connections, and ports that could not be tried and that no container declares.
pub fn findings(service: &Value, pods: &[&Value], world: &World) -> Vec<Finding> {
    let doors = doors_of(service, world);
    let mut found = Vec::new();
    let mut ports: Vec<u16> = doors.iter().map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports.dedup();
    for port in ports {
        let at: Vec<&SocketAddr> = doors.iter().filter(|door| door.port() == port).collect();
        let count = |answer| at.iter().filter(|door| world.answers.get(**door) == Some(&answer)).count();
        let (refused, silent) = (count(Answer::Refused), count(Answer::Silent));
        if refused > 0 {
            found.push(Finding::new(
                format!(
                    "{refused} of {} endpoints refuse connections: nothing listens on port {port} there",
                    at.len()
                ),
                refused_advice(pods, port),
            ));
        } else if silent > 0 {
            found.extend(undeclared(pods, "TCP", port));
        }
    }
    for slice in slices(service, world) {
        for port in slice.array_at(&["ports"]).iter().filter(|port| protocol(port) != "TCP") {
            if let Some(finding) = number_of(port).and_then(|number| undeclared(pods, protocol(port), number))
                && !found.contains(&finding)
            {
                found.push(finding);
            }
        }
    }
    found
}

fn doors_of(service: &Value, world: &World) -> Vec<SocketAddr> {
    doors(service.str_at(&["metadata", "namespace"]).unwrap_or_default(), name_of(service), world)
}

fn has_other_protocols(service: &Value) -> bool {
    service.array_at(&["spec", "ports"]).iter().any(|port| protocol(port) != "TCP")
}

fn protocol(port: &Value) -> &str {
    port.str_at(&["protocol"]).unwrap_or("TCP")
}

fn number_of(port: &Value) -> Option<u16> {
    port.int_at(&["port"]).and_then(|number| u16::try_from(number).ok())
}

/// Ports that containers of these pods say they listen on.
fn declared(pods: &[&Value], of: &str) -> Vec<u16> {
    let containers = pods.iter().flat_map(|pod| pod.array_at(&["spec", "containers"]));
    let ports = containers.flat_map(|container| container.array_at(&["ports"]));
    let numbers =
        ports.filter(|port| protocol(port) == of).filter_map(|port| port.int_at(&["containerPort"]));
    let mut numbers: Vec<u16> = numbers.filter_map(|number| u16::try_from(number).ok()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn listed(numbers: &[u16]) -> String {
    numbers.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

fn refused_advice(pods: &[&Value], port: u16) -> String {
    match declared(pods, "TCP").as_slice() {
        [] => "set the Service's targetPort to the port on which the program in the pods listens".to_owned(),
        numbers if numbers.contains(&port) => {
            "the containers declare it: see whether the program has begun to listen (kubectl logs), and that it listens on \
             0.0.0.0 and not on 127.0.0.1 alone"
                .to_owned()
        }
        numbers => format!(
            "set the Service's targetPort to the port on which the program listens; the containers declare {}",
            listed(numbers)
        ),
    }
}

/// Many images declare nothing, so that only what declares other ports is strange.
fn undeclared(pods: &[&Value], of: &str, port: u16) -> Option<Finding> {
    let numbers = declared(pods, of);
    (!numbers.is_empty() && !numbers.contains(&port)).then(|| {
        Finding::new(
            format!("no container of its pods declares port {port}/{of}; they declare {}", listed(&numbers)),
            "if nothing listens there, set the Service's targetPort to the port on which the program listens",
        )
    })
}

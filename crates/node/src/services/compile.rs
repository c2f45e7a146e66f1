//! One Service and its EndpointSlices, as rules, names and loopback ports. Pure.
//!
//! Which endpoints serve is kube-proxy's rule (`CategorizeEndpoints`): those that are ready, or else those that
//! still serve while they end; for the traffic policy `Local` the same question is asked of this node's alone. What
//! is deliberately absent: hints of topology, for which there must be several zones.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use net::address::Protocol;
use net::dns;
use net::loopback::LoopbackPort;
use net::rules::{self, Affinity, Frontend, ServiceKey, TrafficPolicy, VirtualService};

use super::health::Check;

/// How long a client is remembered unless the Service says so, in seconds.
const AFFINITY_SECONDS: u32 = 10_800;
/// The Service that names are asked of.
const DNS_SERVICE: (&str, &str) = ("kube-system", "kube-dns");

/// What of this node matters to Services.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Name of the node.
    pub node: String,
    /// Our own name server, which answers for the cluster's DNS Service.
    pub dns: Option<SocketAddr>,
    /// Where the node itself listens; no Service takes these away.
    pub own: Vec<SocketAddr>,
    /// The addresses that the Node tells, which load balancers are given.
    pub addresses: Vec<IpAddr>,
}

/// What one Service becomes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compiled {
    /// One entry for each port; two where inner and outer traffic have different endpoints.
    pub rules: Vec<(ServiceKey, VirtualService)>,
    /// What its name stands for.
    pub name: Option<dns::Service>,
    /// Node ports on 127.0.0.1 and where they lead.
    pub loopback: Vec<(LoopbackPort, SocketAddr)>,
    /// Ports of this node that a load balancer waits for.
    pub claims: Vec<Frontend>,
    /// What is told at its health check port.
    pub health: Option<Check>,
    /// Fields that this node cannot honour, as a person reads it.
    pub complaints: Vec<String>,
}

/// One endpoint with what decides whether it serves.
#[derive(Clone, Copy)]
struct Candidate {
    endpoint: rules::Endpoint,
    ready: bool,
    /// It still serves although it ends.
    leaving: bool,
}

/// Compiles one Service. `slices` are those of this Service.
pub fn service<'a>(
    facts: &Facts,
    service: &Service,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
) -> Compiled {
    let slices: Vec<&EndpointSlice> = slices.into_iter().collect();
    let Some(spec) = &service.spec else { return Compiled::default() };
    if spec.type_.as_deref() == Some("ExternalName") {
        let target = spec.external_name.as_deref().unwrap_or_default().trim_end_matches('.').to_owned();
        let name = (!target.is_empty()).then_some(dns::Service::ExternalName(target));
        return Compiled { name, ..Compiled::default() };
    }
    let cluster = cluster_addresses(spec);
    if cluster.is_empty() {
        let headless = spec.cluster_ip.as_deref() == Some("None");
        let name = headless.then(|| dns::Service::Headless { endpoints: headless_endpoints(&slices) });
        return Compiled { name, ..Compiled::default() };
    }
    let mut compiled = Compiled { claims: claims(facts, service, spec), ..Compiled::default() };
    let external = external_addresses(service, spec, &mut compiled.complaints);
    let mut ready_here: BTreeSet<IpAddr> = BTreeSet::new();
    for port in spec.ports.iter().flatten() {
        let Some((protocol, number)) = protocol_and_number(port) else { continue };
        let candidates = match facts.dns.filter(|_| is_dns(service)) {
            Some(server) => vec![Candidate::always(server)],
            None => candidates(facts, &slices, port, protocol),
        };
        // Those that only still serve while they end count no more.
        let ready = candidates.iter().filter(|candidate| candidate.ready && candidate.endpoint.local);
        ready_here.extend(ready.map(|candidate| candidate.endpoint.address.ip()));
        let template = VirtualService {
            protocol,
            port: number,
            cluster_addresses: cluster.clone(),
            external_addresses: not_our_own(facts, &external, number, &mut compiled.complaints),
            node_port: node_port(spec, port),
            endpoints: Vec::new(),
            affinity: affinity(spec),
            internal_policy: policy(&spec.internal_traffic_policy),
            external_policy: policy(&spec.external_traffic_policy),
        };
        if let (Some(node_port), Some(address)) = (template.node_port, cluster.iter().find(|a| a.is_ipv4())) {
            let loopback = LoopbackPort { protocol, port: node_port };
            compiled.loopback.push((loopback, SocketAddr::new(*address, number)));
        }
        compiled.rules.extend(virtual_services(&key(service, port), template, &candidates));
    }
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let (protocol, number) = protocol_and_number(port)?;
        Some(dns::Port { name: port.name.clone().unwrap_or_default(), protocol, port: number })
    });
    compiled.name = Some(dns::Service::Cluster { addresses: cluster, ports: ports.collect() });
    let checked = number(spec.health_check_node_port).filter(|_| is_checked(spec));
    compiled.health = checked.map(|port| Check { port, endpoints: ready_here.len() });
    compiled
}

impl Candidate {
    fn always(address: SocketAddr) -> Self {
        Self { endpoint: rules::Endpoint { address, local: true }, ready: true, leaving: false }
    }
}

/// One entry if all traffic has the same endpoints, else one for the cluster's own and one for what comes from
/// outside.
fn virtual_services(
    key: &str,
    template: VirtualService,
    candidates: &[Candidate],
) -> Vec<(ServiceKey, VirtualService)> {
    let inside = usable(candidates, template.internal_policy);
    let outside = usable(candidates, template.external_policy);
    if inside == outside {
        return vec![(ServiceKey(key.to_owned()), VirtualService { endpoints: inside, ..template })];
    }
    let inner = VirtualService {
        external_addresses: Vec::new(),
        node_port: None,
        endpoints: inside,
        ..template.clone()
    };
    let outer = VirtualService { cluster_addresses: Vec::new(), endpoints: outside, ..template };
    vec![(ServiceKey(key.to_owned()), inner), (ServiceKey(format!("{key} from outside")), outer)]
}

/// The endpoints for traffic under `policy`, in the order of their addresses.
fn usable(candidates: &[Candidate], policy: TrafficPolicy) -> Vec<rules::Endpoint> {
    let pick = |wanted: &dyn Fn(&Candidate) -> bool| -> BTreeSet<rules::Endpoint> {
        candidates.iter().filter(|candidate| wanted(candidate)).map(|candidate| candidate.endpoint).collect()
    };
    let mut usable = pick(&|candidate| candidate.ready);
    if usable.is_empty() {
        usable = pick(&|candidate| candidate.leaving);
    }
    if policy == TrafficPolicy::Local && !usable.iter().any(|endpoint| endpoint.local) {
        usable.extend(pick(&|candidate| candidate.leaving && candidate.endpoint.local));
    }
    usable.into_iter().collect()
}

fn candidates(
    facts: &Facts,
    slices: &[&EndpointSlice],
    port: &ServicePort,
    protocol: Protocol,
) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for slice in slices.iter().filter(|slice| slice.address_type != "FQDN") {
        let wanted = port.name.as_deref().unwrap_or_default();
        let numbers = slice.ports.iter().flatten().filter(|offered| {
            offered.name.as_deref().unwrap_or_default() == wanted
                && parse_protocol(offered.protocol.as_deref()) == Some(protocol)
        });
        let numbers: Vec<u16> = numbers.filter_map(|offered| number(offered.port)).collect();
        for endpoint in slice.endpoints.iter().flatten() {
            let Some(address) = first_address(endpoint) else { continue };
            let conditions = endpoint.conditions.as_ref();
            let ready = is_ready(endpoint);
            let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
            let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or_default();
            let local = endpoint.node_name.as_deref() == Some(&facts.node);
            candidates.extend(numbers.iter().map(|number| Candidate {
                endpoint: rules::Endpoint { address: SocketAddr::new(address, *number), local },
                ready,
                leaving: serving && terminating,
            }));
        }
    }
    candidates
}

fn headless_endpoints(slices: &[&EndpointSlice]) -> Vec<dns::HeadlessEndpoint> {
    let mut published: Vec<dns::HeadlessEndpoint> = Vec::new();
    for slice in slices.iter().filter(|slice| slice.address_type != "FQDN") {
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            let protocol = parse_protocol(port.protocol.as_deref())?;
            let name = port.name.clone().unwrap_or_default();
            Some(dns::Port { name, protocol, port: number(port.port)? })
        });
        let ports: Vec<dns::Port> = ports.collect();
        for endpoint in slice.endpoints.iter().flatten().filter(|endpoint| is_ready(endpoint)) {
            let Some(address) = first_address(endpoint) else { continue };
            let hostname = endpoint.hostname.clone().filter(|name| !name.is_empty());
            let same =
                published.iter_mut().find(|other| other.address == address && other.hostname == hostname);
            match same {
                Some(same) => {
                    same.ports.extend(ports.iter().cloned());
                    same.ports.dedup();
                }
                None => published.push(dns::HeadlessEndpoint { hostname, address, ports: ports.clone() }),
            }
        }
    }
    published.sort_by_key(|endpoint| endpoint.address);
    published
}

/// `publishNotReadyAddresses` is the endpoint controller's: it writes such endpoints as ready.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

/// Consumers use the first address alone, as the field says.
fn first_address(endpoint: &Endpoint) -> Option<IpAddr> {
    endpoint.addresses.first()?.parse().ok()
}

fn cluster_addresses(spec: &ServiceSpec) -> Vec<IpAddr> {
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in all.filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn external_addresses(service: &Service, spec: &ServiceSpec, complaints: &mut Vec<String>) -> Vec<IpAddr> {
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = ingress.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let balanced = ingress
        .iter()
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_deref());
    let sources = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let open = sources.is_empty() || sources.iter().any(|range| matches!(range.trim(), "0.0.0.0/0" | "::/0"));
    if !open {
        complaints.push(
            "spec.loadBalancerSourceRanges is not supported on this node yet, so the load balancer's address is \
             closed; remove the field to open it"
                .to_owned(),
        );
    }
    let balanced = balanced.filter(|_| open && spec.type_.as_deref() == Some("LoadBalancer"));
    let addresses = balanced.chain(spec.external_ips.iter().flatten().map(String::as_str));
    let addresses: BTreeSet<IpAddr> = addresses.filter_map(|text| text.parse().ok()).collect();
    addresses.into_iter().collect()
}

/// What a load balancer without an address waits for. Those of other classes are others' concern.
fn claims(facts: &Facts, service: &Service, spec: &ServiceSpec) -> Vec<Frontend> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let has_address = status.and_then(|status| status.ingress.as_ref()).is_some_and(|list| !list.is_empty());
    let balanced = spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none();
    if has_address || !balanced {
        return Vec::new();
    }
    let ports = spec.ports.iter().flatten().filter_map(protocol_and_number);
    let at = |(protocol, port): (Protocol, u16)| {
        facts.addresses.iter().map(move |address| Frontend { address: *address, protocol, port })
    };
    ports.flat_map(at).collect()
}

/// Whether balancers ask which nodes serve it.
fn is_checked(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("LoadBalancer")
        && policy(&spec.external_traffic_policy) == TrafficPolicy::Local
}

/// Without the addresses at which the node itself listens on this port: whoever took its kubelet's port would cut it
/// off from the API server.
fn not_our_own(facts: &Facts, external: &[IpAddr], port: u16, complaints: &mut Vec<String>) -> Vec<IpAddr> {
    let (own, free): (Vec<IpAddr>, Vec<IpAddr>) =
        external.iter().copied().partition(|address| facts.own.contains(&SocketAddr::new(*address, port)));
    complaints.extend(own.iter().map(|address| {
        format!("port {port} of {address} is the node's own, so the Service is not served there; choose another port")
    }));
    free
}

fn node_port(spec: &ServiceSpec, port: &ServicePort) -> Option<u16> {
    let kind = spec.type_.as_deref();
    matches!(kind, Some("NodePort" | "LoadBalancer")).then(|| number(port.node_port)).flatten()
}

fn affinity(spec: &ServiceSpec) -> Affinity {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return Affinity::None;
    }
    let client = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = client.and_then(|client| client.timeout_seconds);
    let seconds = seconds.and_then(|seconds| u32::try_from(seconds).ok());
    Affinity::ClientIp { timeout_s: seconds.filter(|seconds| *seconds > 0).unwrap_or(AFFINITY_SECONDS) }
}

fn policy(text: &Option<String>) -> TrafficPolicy {
    if text.as_deref() == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

fn protocol_and_number(port: &ServicePort) -> Option<(Protocol, u16)> {
    Some((parse_protocol(port.protocol.as_deref())?, number(Some(port.port))?))
}

pub(super) fn parse_protocol(text: Option<&str>) -> Option<Protocol> {
    match text.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

pub(super) fn number(port: Option<i32>) -> Option<u16> {
    u16::try_from(port?).ok().filter(|port| *port > 0)
}

fn names(service: &Service) -> (&str, &str) {
    let metadata = &service.metadata;
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

fn is_dns(service: &Service) -> bool {
    names(service) == DNS_SERVICE
}

/// `namespace/name:port`; only a single port may be without a name.
fn key(service: &Service, port: &ServicePort) -> String {
    let (namespace, name) = names(service);
    match port.name.as_deref().filter(|name| !name.is_empty()) {
        Some(port) => format!("{namespace}/{name}:{port}"),
        None => format!("{namespace}/{name}:"),
    }
}

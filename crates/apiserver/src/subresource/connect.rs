//! Ways through the gate to nodes, pods and services: `log`, `exec`, `attach`, `portforward`, `proxy`.
//!
//! The gate speaks HTTP/1.1 to the other end and passes everything on. An upgrade (WebSocket, SPDY) that the other
//! end agrees to becomes two pumps of bytes; the gate never looks into them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use api::names;
use api::object::Object;
use api::status::{Reason, Status};
use api::value::Value;
use base::Clock;
use futures::future::BoxFuture;
use http::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderValue, LOCATION, TRANSFER_ENCODING, UPGRADE,
};
use http::{StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsConnector;
use wire::{Body, Request, Response};

use crate::gate::Gate;
use crate::lookups::Lookups as _;
use crate::query::Query;
use crate::route::Info;
use crate::{kinds, limits};

/// How much of an error text from the other end is read.
const ERROR_BYTES: usize = 64 * 1024;
/// The kubelet's port where a node does not tell.
const KUBELET_PORT: i64 = 10250;

/// Bytes both ways.
pub trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}
/// A connection.
pub type Stream = Box<dyn Bytes>;

/// Opens connections to the other ends. Given by who builds the gate, for it knows the networks.
pub trait Dialer: Send + Sync + 'static {
    /// TLS to a node's agent, with the gate's client certificate. `node` is the name that the certificate must
    /// have.
    fn node(&self, node: &str, address: &str, port: u16) -> BoxFuture<'_, io::Result<Stream>>;

    /// Plain TCP to a pod or an endpoint of a service.
    fn pod(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Stream>>;
}

/// The dialer of a server that is in the nodes' and pods' network itself.
pub struct NetworkDialer {
    tls: Arc<rustls::ClientConfig>,
    clock: Clock,
}

impl NetworkDialer {
    /// Believes nodes whose certificates lead to `roots`, and shows them `presented`.
    pub fn new(
        roots: Arc<wire::tls::Roots>,
        presented: Arc<wire::tls::Presented>,
        clock: Clock,
    ) -> Result<Self, wire::tls::Error> {
        Ok(Self { tls: wire::tls::client_config(roots, presented, &[b"http/1.1"])?, clock })
    }

    async fn tcp(&self, address: &str, port: u16) -> io::Result<TcpStream> {
        let dialing = TcpStream::connect((address, port));
        self.clock.timeout(limits::DIAL_TIMEOUT, dialing).await.ok_or(io::ErrorKind::TimedOut)?
    }
}

impl Dialer for NetworkDialer {
    fn node(&self, _node: &str, address: &str, port: u16) -> BoxFuture<'_, io::Result<Stream>> {
        let address = address.to_owned();
        Box::pin(async move {
            let tcp = self.tcp(&address, port).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from(address).map_err(io::Error::other)?;
            let handshake = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp);
            let stream = self
                .clock
                .timeout(limits::DIAL_TIMEOUT, handshake)
                .await
                .ok_or(io::ErrorKind::TimedOut)??;
            Ok(Box::new(stream) as Stream)
        })
    }

    fn pod(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Stream>> {
        Box::pin(async move {
            let tcp = self.tcp(&address.ip().to_string(), address.port()).await?;
            Ok(Box::new(tcp) as Stream)
        })
    }
}

/// Where a request goes.
struct Way {
    stream: Stream,
    /// Path and query at the other end.
    path: String,
    host: String,
    /// Whether errors of the other end become statuses (the agent's do, those of an application are its own).
    judged: bool,
}

/// Whether a subresource is a way through.
pub fn is_way(subresource: &str) -> bool {
    matches!(subresource, "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// Passes a request through. It was authorised.
pub async fn connect(
    gate: &Arc<Gate>,
    info: &Info,
    request: Request,
    query: &str,
    slot: OwnedSemaphorePermit,
) -> Result<Response, Status> {
    let kind = kinds::require(&info.resource)?;
    if kind.facts.subresource(&info.subresource).is_none() {
        return Err(kinds::not_found());
    }
    if info.subresource == "proxy" && info.rest.is_empty() {
        return Ok(redirect(request.uri()));
    }
    if info.subresource == "log" && is_unplaced(gate, info)? {
        // Upstream has nothing to say of a pod that nobody runs yet.
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    let way = match (info.resource.resource.as_str(), info.subresource.as_str()) {
        ("pods", "proxy") => to_pod(gate, info, query).await?,
        ("services", "proxy") => to_service(gate, info, query).await?,
        ("nodes", "proxy") => to_node(gate, info, query).await?,
        ("pods", _) => to_container(gate, info, query).await?,
        _ => return Err(kinds::not_found()),
    };
    pass(gate, way, request, slot).await
}

/// A proxied page links relative to its folder, so the path must end like one.
fn redirect(uri: &Uri) -> Response {
    let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

async fn to_container(gate: &Gate, info: &Info, query: &str) -> Result<Way, Status> {
    let kind = kinds::require(&names::PODS)?;
    let pod = gate.storage().require(kind, &info.namespace, &info.name)?.to_tree();
    let node = node_of(&pod, &info.name)?;
    let parameters = Query::new(query);
    let container =
        |pod: &Value| container(pod, &info.name, parameters.get("container").as_deref().unwrap_or_default());
    let place = format!("{}/{}", info.namespace, info.name);
    let path = match info.subresource.as_str() {
        "log" => format!("/containerLogs/{place}/{}{}", container(&pod)?, renamed(query, &[])),
        "portforward" => format!("/portForward/{place}{}", renamed(query, &[])),
        verb => {
            let names = [("stdin", "input"), ("stdout", "output"), ("stderr", "error")];
            format!("/{verb}/{place}/{}{}", container(&pod)?, renamed(query, &names))
        }
    };
    dial_node(gate, &node, 0, path, true).await
}

/// The query with the names that the agent knows; the container is in the path.
fn renamed(query: &str, names: &[(&str, &str)]) -> String {
    let parameters: Vec<String> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if key == "container" {
                return None;
            }
            let key = names.iter().find(|(from, _)| *from == key).map_or(key, |(_, to)| *to);
            let value = if names.is_empty() || value != "true" { value } else { "1" };
            Some(format!("{key}={value}"))
        })
        .collect();
    if parameters.is_empty() { String::new() } else { format!("?{}", parameters.join("&")) }
}

fn is_unplaced(gate: &Gate, info: &Info) -> Result<bool, Status> {
    let kind = kinds::require(&names::PODS)?;
    let pod = gate.storage().require(kind, &info.namespace, &info.name)?.to_tree();
    Ok(pod.str_at(&["spec", "nodeName"]).unwrap_or_default().is_empty())
}

fn node_of(pod: &Value, name: &str) -> Result<String, Status> {
    pod.str_at(&["spec", "nodeName"])
        .filter(|node| !node.is_empty())
        .map(str::to_owned)
        .ok_or_else(|| Status::bad_request(format!("pod {name} does not have a host assigned")))
}

/// The container that is meant, or upstream's error.
fn container(pod: &Value, name: &str, wanted: &str) -> Result<String, Status> {
    let names = |list: &str| -> Vec<String> {
        pod.array_at(&["spec", list])
            .iter()
            .filter_map(|container| container.str_at(&["name"]).map(str::to_owned))
            .collect()
    };
    let (containers, inits) = (names("containers"), names("initContainers"));
    let others = names("ephemeralContainers");
    if !wanted.is_empty() {
        let known = [&containers, &inits, &others].into_iter().flatten().any(|known| known == wanted);
        return if known {
            Ok(wanted.to_owned())
        } else {
            Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}")))
        };
    }
    match containers.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
        many => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                many.join(" ")
            );
            if !inits.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", inits.join(" ")));
            }
            Err(Status::bad_request(message))
        }
    }
}

async fn to_node(gate: &Gate, info: &Info, query: &str) -> Result<Way, Status> {
    let (_, name, port) = split(&info.name);
    let port = port.parse().unwrap_or(0);
    dial_node(gate, name, port, target_path(info, query), false).await
}

async fn dial_node(gate: &Gate, node: &str, port: u16, path: String, judged: bool) -> Result<Way, Status> {
    let kind = kinds::require(&names::NODES)?;
    let tree = gate.storage().require(kind, "", node)?.to_tree();
    let addresses = tree.array_at(&["status", "addresses"]);
    let of_type = |wanted: &str| {
        addresses
            .iter()
            .find(|address| address.str_at(&["type"]) == Some(wanted))
            .and_then(|address| address.str_at(&["address"]))
    };
    let address = ["InternalIP", "Hostname", "InternalDNS", "ExternalIP", "ExternalDNS"]
        .into_iter()
        .find_map(of_type)
        .ok_or_else(|| {
            Status::internal(format_args!("node {node} tells no address; wait until its agent is up"))
        })?;
    let told =
        tree.int_at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).filter(|port| *port > 0);
    let told = u16::try_from(told.unwrap_or(KUBELET_PORT)).unwrap_or_default();
    let port = if port == 0 { told } else { port };
    let stream = gate
        .dialer()
        .node(node, address, port)
        .await
        .map_err(|error| unreachable_end(node, address, port, &error))?;
    Ok(Way { stream, path, host: format!("{address}:{port}"), judged })
}

fn unreachable_end(what: &str, address: &str, port: u16, error: &io::Error) -> Status {
    Status {
        code: 502,
        ..Status::new(
            Reason::ServiceUnavailable,
            format!(
                "error dialing {what} at {address}:{port}: {error}; see whether it runs and listens there"
            ),
        )
    }
}

/// `[scheme:]name[:port]`.
fn split(name: &str) -> (&str, &str, &str) {
    let parts: Vec<&str> = name.splitn(3, ':').collect();
    match parts.as_slice() {
        [scheme, name, port] => (*scheme, *name, *port),
        [name, port] => ("", *name, *port),
        _ => ("", name, ""),
    }
}

fn target_path(info: &Info, query: &str) -> String {
    let path = if info.rest.is_empty() { "/" } else { &info.rest };
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

async fn to_pod(gate: &Gate, info: &Info, query: &str) -> Result<Way, Status> {
    let (scheme, name, port) = split(&info.name);
    refuse_tls(scheme)?;
    let kind = kinds::require(&names::PODS)?;
    let pod = gate.storage().require(kind, &info.namespace, name)?.to_tree();
    let ip = pod
        .str_at(&["status", "podIP"])
        .filter(|ip| !ip.is_empty())
        .ok_or_else(|| Status::bad_request(format!("address not allowed: pod {name} has no address yet")))?;
    let first = || {
        let mut ports =
            pod.array_at(&["spec", "containers"]).iter().flat_map(|container| container.array_at(&["ports"]));
        ports.next().and_then(|port| port.int_at(&["containerPort"]))
    };
    let port = if port.is_empty() { first().unwrap_or(80) } else { number(port, name)? };
    dial_pod(gate, name, ip, port, target_path(info, query)).await
}

fn number(port: &str, name: &str) -> Result<i64, Status> {
    port.parse()
        .map_err(|_| Status::bad_request(format!("invalid port \"{port}\" of \"{name}\"; use a number")))
}

fn refuse_tls(scheme: &str) -> Result<(), Status> {
    match scheme {
        "" | "http" => Ok(()),
        other => Err(Status::bad_request(format!(
            "the proxy speaks plain http to pods and services, not \"{other}\"; use a port-forward for TLS"
        ))),
    }
}

async fn dial_pod(gate: &Gate, name: &str, ip: &str, port: i64, path: String) -> Result<Way, Status> {
    let address = ip
        .parse()
        .ok()
        .and_then(|ip| Some(SocketAddr::new(ip, u16::try_from(port).ok()?)))
        .ok_or_else(|| Status::bad_request(format!("{ip}:{port} of \"{name}\" is no address")))?;
    let port = address.port();
    let stream = gate.dialer().pod(address).await.map_err(|error| unreachable_end(name, ip, port, &error))?;
    Ok(Way { stream, path, host: address.to_string(), judged: false })
}

async fn to_service(gate: &Gate, info: &Info, query: &str) -> Result<Way, Status> {
    let (scheme, name, port) = split(&info.name);
    refuse_tls(scheme)?;
    let kind = kinds::require(&names::SERVICES)?;
    let service = gate.storage().require(kind, &info.namespace, name)?.to_tree();
    let ports = service.array_at(&["spec", "ports"]);
    let wanted = ports.iter().find(|entry| {
        (port.is_empty() && ports.len() == 1)
            || entry.str_at(&["name"]) == Some(port).filter(|port| !port.is_empty())
            || entry.int_at(&["port"]).is_some_and(|number| number.to_string() == port)
    });
    let none = || {
        Status::new(
            Reason::ServiceUnavailable,
            format!("no endpoints available for service \"{}\"", info.name),
        )
    };
    let Some(wanted) = wanted else {
        return Err(Status::new(
            Reason::ServiceUnavailable,
            format!("no service port \"{port}\" found for service \"{name}\""),
        ));
    };
    let port_name = wanted.str_at(&["name"]).unwrap_or_default();
    let slices = gate.storage().list(&names::ENDPOINT_SLICES, &info.namespace);
    let mut ends = Vec::new();
    for slice in slices.iter().filter(|slice| slice.label("kubernetes.io/service-name") == Some(name)) {
        endpoints(slice, port_name, &mut ends);
    }
    if ends.is_empty() {
        return Err(none());
    }
    let at = usize::try_from(gate.random().below(ends.len() as u64)).unwrap_or_default();
    let (ip, port) = ends.swap_remove(at);
    dial_pod(gate, name, &ip, port, target_path(info, query)).await
}

/// The ready endpoints of a slice that have a port of that name.
fn endpoints(slice: &Object, port_name: &str, ends: &mut Vec<(String, i64)>) {
    let tree = slice.to_tree();
    let ports = tree.array_at(&["ports"]);
    let Some(port) = ports
        .iter()
        .find(|port| port.str_at(&["name"]).unwrap_or_default() == port_name)
        .and_then(|port| port.int_at(&["port"]))
    else {
        return;
    };
    for endpoint in tree.array_at(&["endpoints"]) {
        if endpoint.bool_at(&["conditions", "ready"]).unwrap_or(true)
            && let Some(ip) = endpoint.array_at(&["addresses"]).first().and_then(Value::as_str)
        {
            ends.push((ip.to_owned(), port));
        }
    }
}

/// Sends the request on, and the answer back.
async fn pass(
    gate: &Arc<Gate>,
    way: Way,
    mut request: Request,
    slot: OwnedSemaphorePermit,
) -> Result<Response, Status> {
    let broken = |error: hyper::Error| Status {
        code: 502,
        ..Status::new(Reason::ServiceUnavailable, format!("error on the way: {error}; try again"))
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(way.stream)).await.map_err(broken)?;
    gate.tasks().spawn("proxied connection", async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended with an error");
        }
    });
    let upgrades = request.headers().contains_key(UPGRADE);
    let client = upgrades.then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let mut onward = http::Request::new(body);
    *onward.method_mut() = parts.method;
    *onward.uri_mut() = way
        .path
        .parse()
        .map_err(|_| Status::bad_request(format!("{} is no path that can be asked for", way.path)))?;
    *onward.headers_mut() = forwarded(parts.headers, upgrades, &way.host);
    let mut response = sender.send_request(onward).await.map_err(broken)?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = client else {
            return Err(Status::internal("the other end upgraded a connection that was not asked for it"));
        };
        let other = hyper::upgrade::on(&mut response);
        pump(gate, client, other, slot);
        let (parts, _) = response.into_parts();
        return Ok(Response::from_parts(parts, Body::Empty));
    }
    let (mut parts, body) = response.into_parts();
    // The place is held as long as the body flows: a followed log is a stream too.
    let body = held(Body::from(body), slot);
    if way.judged && !parts.status.is_success() && !parts.status.is_redirection() {
        let text = wire::body::read(body, ERROR_BYTES).await.unwrap_or_default();
        return Err(end_status(parts.status.as_u16(), &String::from_utf8_lossy(&text)));
    }
    parts.headers.remove(CONNECTION);
    parts.headers.remove(TRANSFER_ENCODING);
    Ok(Response::from_parts(parts, body))
}

/// A body that holds a place until its end.
fn held(body: Body, slot: OwnedSemaphorePermit) -> Body {
    use http_body_util::BodyExt as _;
    Body::stream(futures::stream::unfold((body, slot), |(mut body, slot)| async move {
        loop {
            let frame = body.frame().await?;
            match frame.map(hyper::body::Frame::into_data) {
                Ok(Ok(data)) => return Some((Ok(data), (body, slot))),
                Ok(Err(_)) => {}
                Err(error) => return Some((Err(error), (body, slot))),
            }
        }
    }))
}

/// The headers that go on: none that say who asks here, none that belong to this hop alone.
fn forwarded(mut headers: HeaderMap, upgrades: bool, host: &str) -> HeaderMap {
    headers.remove(AUTHORIZATION);
    headers.remove(TRANSFER_ENCODING);
    if !upgrades {
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);
    }
    let own: Vec<_> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in own {
        headers.remove(name);
    }
    // A token in a WebSocket's protocols is for the gate alone.
    if let Some(protocols) =
        headers.get(http::header::SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok())
        && protocols.contains("base64url.bearer.authorization.k8s.io.")
    {
        let kept: Vec<&str> = protocols
            .split(',')
            .map(str::trim)
            .filter(|protocol| !protocol.starts_with("base64url.bearer.authorization.k8s.io."))
            .collect();
        if let Ok(value) = HeaderValue::from_str(&kept.join(", ")) {
            headers.insert(http::header::SEC_WEBSOCKET_PROTOCOL, value);
        }
    }
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(HOST, host);
    }
    headers
}

/// Moves bytes both ways until both ends are done or the server stops.
fn pump(
    gate: &Arc<Gate>,
    client: hyper::upgrade::OnUpgrade,
    other: hyper::upgrade::OnUpgrade,
    slot: OwnedSemaphorePermit,
) {
    let stop = gate.stop().clone();
    gate.tasks().spawn("upgraded stream", async move {
        let (client, other) = match futures::future::try_join(client, other).await {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "an upgrade did not come about"),
        };
        let (mut client, mut other) = (TokioIo::new(client), TokioIo::new(other));
        if let Some(Err(error)) = stop.or(tokio::io::copy_bidirectional(&mut client, &mut other)).await {
            tracing::debug!(%error, "an upgraded stream was cut");
        }
        drop(slot);
    });
}

/// An error of the node's agent as a status: its text is the message.
fn end_status(code: u16, text: &str) -> Status {
    let reason = match code {
        400 => Reason::BadRequest,
        401 => Reason::Unauthorized,
        403 => Reason::Forbidden,
        404 => Reason::NotFound,
        429 => Reason::TooManyRequests,
        503 => Reason::ServiceUnavailable,
        504 => Reason::Timeout,
        _ => Reason::InternalError,
    };
    let text = text.trim();
    let message = if text.is_empty() {
        "an error on the server has prevented the request from succeeding"
    } else {
        text
    };
    Status { code, ..Status::new(reason, message) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn the_agent_gets_the_names_that_it_knows() {
        let names = [("stdin", "input"), ("stdout", "output")];
        assert_eq!(
            renamed("command=ls&container=c&stdin=true&tty=true", &names),
            "?command=ls&input=1&tty=1"
        );
        assert_eq!(renamed("follow=true&container=c", &[]), "?follow=true");
        assert_eq!(renamed("", &[]), "");
    }

    #[test]
    fn the_only_container_need_not_be_named() {
        let pod = json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(container(&pod, "p", "").unwrap(), "a");
        assert_eq!(container(&pod, "p", "i").unwrap(), "i");
        assert_eq!(container(&pod, "p", "x").unwrap_err().message, "container x is not valid for pod p");
        let two = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert!(container(&two, "p", "").unwrap_err().message.ends_with("choose one of: [a b]"));
    }

    #[test]
    fn tokens_do_not_go_on() {
        let headers = HeaderMap::from_iter([
            (AUTHORIZATION, HeaderValue::from_static("Bearer x")),
            (UPGRADE, HeaderValue::from_static("websocket")),
            (
                http::header::SEC_WEBSOCKET_PROTOCOL,
                HeaderValue::from_static("v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.abc"),
            ),
        ]);
        let onward = forwarded(headers, true, "h:1");
        assert!(onward.get(AUTHORIZATION).is_none());
        assert_eq!(onward[http::header::SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
    }
}

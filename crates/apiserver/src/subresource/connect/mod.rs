//! Ways through the gate to nodes, pods and services: `log`, `exec`, `attach`, `portforward`, `proxy`.
//!
//! The gate speaks HTTP/1.1 to the other end and passes everything on. An upgrade (WebSocket, SPDY) that the other
//! end agrees to becomes two pumps of bytes; the gate never looks into them.

mod container;
mod dial;
mod options;
mod pass;
mod target;

use std::net::IpAddr;
use std::sync::Arc;

use api::status::Status;
use http::header::{HeaderValue, LOCATION};
use http::{StatusCode, Uri};
use wire::{Body, Request, Response};

use crate::gate::Gate;
use crate::kinds;
use crate::route::Info;
use crate::shares::Place;

pub use dial::{Dialer, NetworkDialer, Stream};

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

/// Passes a request through that came from `peer`. It was authorised.
pub async fn connect(
    gate: &Arc<Gate>,
    info: &Info,
    request: Request,
    query: &str,
    peer: IpAddr,
    slot: Place,
) -> Result<Response, Status> {
    let kind = kinds::require(&info.resource)?;
    if kind.facts.subresource(&info.subresource).is_none() {
        return Err(kinds::not_found());
    }
    if info.subresource == "proxy" && info.rest.is_empty() {
        return Ok(redirect(request.uri()));
    }
    let way = match (info.resource.resource.as_str(), info.subresource.as_str()) {
        ("pods", "proxy") => target::to_pod(gate, info, query).await?,
        ("services", "proxy") => target::to_service(gate, info, query).await?,
        ("nodes", "proxy") => target::to_node(gate, info, query).await?,
        ("pods", "log") => match container::to_log(gate, info, query).await? {
            Some(way) => way,
            None => {
                let mut response = Response::new(Body::Empty);
                *response.status_mut() = StatusCode::NO_CONTENT;
                return Ok(response);
            }
        },
        ("pods", _) => container::to_container(gate, info, query).await?,
        _ => return Err(kinds::not_found()),
    };
    pass::pass(gate, way, request, peer, slot).await
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

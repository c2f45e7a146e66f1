//! Passing a request on and its answer back.

use std::net::IpAddr;
use std::sync::Arc;

use api::status::{Reason, Status};
use http::StatusCode;
use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue};
use hyper_util::rt::TokioIo;
use wire::{Body, Request, Response};

use super::Way;
use crate::gate::Gate;
use crate::limits;
use crate::shares::Place;

/// How much of an error text from the other end is read.
const ERROR_BYTES: usize = 64 * 1024;

/// Sends the request on, and the answer back.
pub(super) async fn pass(
    gate: &Arc<Gate>,
    way: Way,
    mut request: Request,
    peer: IpAddr,
    slot: Place,
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
    let upgrades = wire::proxy::wants_upgrade(request.headers());
    let client = upgrades.then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let mut onward = http::Request::new(body);
    *onward.method_mut() = parts.method;
    *onward.uri_mut() = way
        .path
        .parse()
        .map_err(|_| Status::bad_request(format!("{} is no path that can be asked for", way.path)))?;
    *onward.headers_mut() = forwarded(parts.headers, peer, &way.host);
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
    wire::proxy::strip_hop_by_hop(&mut parts.headers);
    Ok(Response::from_parts(parts, body))
}

/// A body that holds a place until its end.
fn held(body: Body, slot: Place) -> Body {
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

/// The headers that go on: none that say as whom somebody asks here, none that belong to this hop alone, and from which
/// address it came.
fn forwarded(mut headers: HeaderMap, peer: IpAddr, host: &str) -> HeaderMap {
    headers.remove(AUTHORIZATION);
    wire::proxy::next_hop(&mut headers);
    wire::proxy::add_forwarded_for(&mut headers, peer);
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

/// Moves bytes both ways until both ends are done, neither has said anything for long, or the server stops.
fn pump(gate: &Arc<Gate>, client: hyper::upgrade::OnUpgrade, other: hyper::upgrade::OnUpgrade, slot: Place) {
    let (stop, clock) = (gate.stop().clone(), gate.clock().clone());
    gate.tasks().spawn("upgraded stream", async move {
        let (client, other) = match futures::future::try_join(client, other).await {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "an upgrade did not come about"),
        };
        let (client, other) = (TokioIo::new(client), TokioIo::new(other));
        wire::proxy::pump(client, other, &clock, limits::STREAM_IDLE, &stop).await;
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

    #[test]
    fn tokens_do_not_go_on() {
        let headers = HeaderMap::from_iter([
            (AUTHORIZATION, HeaderValue::from_static("Bearer x")),
            (http::header::CONNECTION, HeaderValue::from_static("Upgrade, X-Private")),
            (http::header::UPGRADE, HeaderValue::from_static("websocket")),
            (http::HeaderName::from_static("x-private"), HeaderValue::from_static("1")),
            (http::HeaderName::from_static("impersonate-user"), HeaderValue::from_static("root")),
            (
                http::header::SEC_WEBSOCKET_PROTOCOL,
                HeaderValue::from_static("v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.abc"),
            ),
        ]);
        let onward = forwarded(headers, "10.0.0.9".parse().unwrap(), "h:1");
        let mut names: Vec<&str> = onward.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        let expect = ["connection", "host", "sec-websocket-protocol", "upgrade", "x-forwarded-for"];
        assert_eq!(names, expect);
        assert_eq!(onward["x-forwarded-for"], "10.0.0.9");
        assert_eq!(onward[http::header::SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
    }
}

//! Handing requests on to another server, upgrades included.

use std::net::SocketAddr;

use base::{Stop, Tasks};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};

use crate::connect::{Client, Error, Upgrade};
use crate::{Request, Response};

/// Headers that concern one connection only (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Whether a request asks to switch protocols.
pub fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
        && headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|option| option.trim().eq_ignore_ascii_case("upgrade")))
}

/// Removes the headers that concern one connection only.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Tells the server behind us whom we ask for.
pub fn add_forwarded_for(headers: &mut HeaderMap, peer: SocketAddr) {
    const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
    let before: Vec<&str> =
        headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    let all = before.into_iter().chain([peer.ip().to_string().as_str()]).collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::from_str(&all) {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// Sends `request` to `target` and returns the answer, bodies streamed both ways. A request to upgrade is handed on
/// as such, and once both sides have switched, bytes are pumped until one side ends or `stop` comes.
pub async fn forward(
    client: &Client,
    mut request: Request,
    target: Uri,
    tasks: &Tasks,
    stop: &Stop,
) -> Result<Response, Error> {
    if wants_upgrade(request.headers()) {
        return forward_upgrade(client, request, target, tasks, stop).await;
    }
    *request.uri_mut() = target;
    request.headers_mut().remove(header::HOST);
    strip_hop_by_hop(request.headers_mut());
    let mut response = client.send(request).await?;
    strip_hop_by_hop(response.headers_mut());
    Ok(response)
}

/// The part of [`forward`] for requests to upgrade. The server's connection is asked for first, so that its refusal
/// reaches the client as the answer.
pub async fn forward_upgrade(
    client: &Client,
    mut request: Request,
    target: Uri,
    tasks: &Tasks,
    stop: &Stop,
) -> Result<Response, Error> {
    let ours = hyper::upgrade::on(&mut request);
    let mut asked = http::Request::new(crate::Body::Empty);
    *asked.method_mut() = request.method().clone();
    *asked.uri_mut() = target;
    *asked.headers_mut() = request.headers().clone();
    asked.headers_mut().remove(header::HOST);
    asked.headers_mut().remove(header::CONTENT_LENGTH);
    asked.headers_mut().remove(header::TRANSFER_ENCODING);
    let (response, theirs) = match client.upgrade(asked).await? {
        Upgrade::Refused(mut response) => {
            strip_hop_by_hop(response.headers_mut());
            return Ok(response);
        }
        Upgrade::Switched(response, theirs) => (response, theirs),
    };
    let stop = stop.clone();
    tasks.spawn("upgraded proxy", async move {
        let Some(Ok(ours)) = stop.or(ours).await else { return };
        pump(TokioIo::new(ours), theirs, &stop).await;
    });
    let mut answer = Response::new(crate::Body::Empty);
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = response.headers().clone();
    Ok(answer)
}

/// Copies both ways until both sides have ended, one fails, or `stop` comes.
pub async fn pump(
    mut one: impl AsyncRead + AsyncWrite + Unpin,
    mut other: impl AsyncRead + AsyncWrite + Unpin,
    stop: &Stop,
) {
    if let Some(Err(error)) = stop.or(copy_bidirectional(&mut one, &mut other)).await {
        tracing::debug!(%error, "a proxied connection broke");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_connection_stay_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("accept", "*/*"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        assert!(!wants_upgrade(&headers));
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), [header::ACCEPT]);
    }
}

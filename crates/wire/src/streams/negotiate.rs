//! Which protocol a request asks for, and which one it gets.

use http::StatusCode;
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};

use crate::websocket::HandshakeError;
use crate::{Body, Response, proxy};

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_VERSIONS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";

/// A request that does not become streams.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It asks for no protocol that carries streams.
    #[error("unable to upgrade: send Connection: Upgrade with Upgrade: websocket or Upgrade: SPDY/3.1")]
    NotAsked,
    /// SPDY without a version of the protocol inside of it.
    #[error("unable to upgrade: the header X-Stream-Protocol-Version is missing or empty")]
    NoVersion,
    /// No version is known to both.
    #[error(
        "unable to upgrade: unable to negotiate protocol: client supports {asked:?}, server accepts {spoken:?}"
    )]
    Version {
        /// What the client asked for.
        asked: Vec<String>,
        /// What is spoken here.
        spoken: Vec<&'static str>,
    },
    /// No stream is asked for.
    #[error("you must specify at least 1 of stdin, stdout, stderr")]
    Nothing,
    /// WebSocket channels need to know the ports at once.
    #[error("query parameter \"port\" is required, at most {0} times")]
    Ports(usize),
    /// Not a WebSocket as it should be.
    #[error(transparent)]
    WebSocket(#[from] HandshakeError),
}

impl Refusal {
    /// The answer to the client. Callers that have a richer form of errors use status and text of this one.
    pub fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(format!("{self}\n")));
        *response.status_mut() = self.status();
        match self {
            Self::WebSocket(error) => return error.into_response(),
            Self::Version { spoken, .. } => {
                for version in spoken {
                    response.headers_mut().append(ACCEPTED_VERSIONS, HeaderValue::from_static(version));
                }
            }
            _ => {}
        }
        response
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Version { .. } | Self::WebSocket(HandshakeError::Protocol { .. }) => StatusCode::FORBIDDEN,
            Self::WebSocket(HandshakeError::Method) => StatusCode::METHOD_NOT_ALLOWED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// Agrees on SPDY with the first of the client's versions that is in `spoken`.
pub(super) fn spdy(
    headers: &HeaderMap,
    spoken: &[&'static str],
) -> Result<(Response, &'static str), Refusal> {
    let is_spdy = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(SPDY.as_bytes());
    if !proxy::wants_upgrade(headers) || !headers.get(UPGRADE).is_some_and(is_spdy) {
        return Err(Refusal::NotAsked);
    }
    let lists = headers.get_all(PROTOCOL_VERSION).iter().filter_map(|value| value.to_str().ok());
    let asked: Vec<&str> =
        lists.flat_map(|list| list.split(',')).map(str::trim).filter(|name| !name.is_empty()).collect();
    if asked.is_empty() {
        return Err(Refusal::NoVersion);
    }
    let chosen = asked.iter().find_map(|name| spoken.iter().find(|known| *known == name)).copied();
    let version = chosen.ok_or_else(|| Refusal::Version {
        asked: asked.iter().map(ToString::to_string).collect(),
        spoken: spoken.to_vec(),
    })?;
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(SPDY));
    headers.insert(PROTOCOL_VERSION, HeaderValue::from_static(version));
    Ok((response, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(versions: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("spdy/3.1"));
        for version in versions {
            headers.append(PROTOCOL_VERSION, HeaderValue::from_static(version));
        }
        headers
    }

    #[test]
    fn the_clients_first_known_version_is_taken() {
        let spoken = ["v4", "v3", "v1"];
        assert_eq!(spdy(&asking(&["v9", "v3, v4"]), &spoken).unwrap().1, "v3");
        assert_eq!(spdy(&asking(&[]), &spoken).unwrap_err(), Refusal::NoVersion);
        let refused = spdy(&asking(&["v9"]), &spoken).unwrap_err().into_response();
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        assert_eq!(refused.headers().get_all(ACCEPTED_VERSIONS).iter().count(), 3);
        assert_eq!(spdy(&HeaderMap::new(), &spoken).unwrap_err(), Refusal::NotAsked);
    }
}

//! The opening handshake.

use std::future::Future;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use ring::rand::SecureRandom as _;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Socket;
use crate::{Body, Request, Response, proxy};

/// The only version there is (RFC 6455, 4.1).
const VERSION: &str = "13";
const KEY_BYTES: usize = 16;

/// A request that cannot become a WebSocket.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// It asks for something else.
    #[error("the request does not ask for a WebSocket; send Connection: Upgrade and Upgrade: websocket")]
    NotAsked,
    /// RFC 6455, 4.2.1: it is a GET.
    #[error("a WebSocket is asked for by GET alone")]
    Method,
    /// Another version.
    #[error("only WebSocket version 13 is spoken here")]
    Version,
    /// The key is missing or broken.
    #[error("Sec-WebSocket-Key is not 16 bytes in base64")]
    Key,
    /// No protocol is known to both.
    #[error("none of the protocols {asked:?} is spoken here; ask for one of {spoken:?}")]
    Protocol {
        /// What the client asked for.
        asked: Vec<String>,
        /// What the server speaks.
        spoken: Vec<String>,
    },
    /// The server's answer does not fit the request.
    #[error("the server's answer is no WebSocket handshake")]
    Answer,
}

impl HandshakeError {
    /// The answer to the client.
    pub fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(format!("{self}\n")));
        *response.status_mut() = match self {
            Self::Protocol { .. } => StatusCode::FORBIDDEN,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            _ => StatusCode::BAD_REQUEST,
        };
        if self == Self::Version {
            response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
        }
        response
    }
}

/// What a request offers.
pub struct Offer<'a> {
    /// The protocols, most wanted first; none at all is an offer too.
    pub protocols: Vec<&'a str>,
    key: &'a str,
}

impl<'a> Offer<'a> {
    /// Whether the headers ask for a WebSocket.
    pub fn is_made(headers: &HeaderMap) -> bool {
        proxy::wants_upgrade(headers)
            && headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
    }

    /// Reads the headers.
    pub fn read(headers: &'a HeaderMap) -> Result<Self, HandshakeError> {
        if !Self::is_made(headers) {
            return Err(HandshakeError::NotAsked);
        }
        if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|value| value != VERSION) {
            return Err(HandshakeError::Version);
        }
        let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if STANDARD.decode(key).map_or(0, |bytes| bytes.len()) != KEY_BYTES {
            return Err(HandshakeError::Key);
        }
        let lists = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
        let protocols = lists.flat_map(|list| list.split(',')).map(str::trim).filter(|name| !name.is_empty());
        Ok(Self { protocols: protocols.collect(), key })
    }

    /// The first of the client's protocols that is in `spoken`; the empty one if it named none.
    pub fn choose<'s>(&self, spoken: &[&'s str]) -> Result<&'s str, HandshakeError> {
        let asked = if self.protocols.is_empty() { &[""][..] } else { &self.protocols };
        asked.iter().find_map(|name| spoken.iter().find(|known| *known == name)).copied().ok_or_else(|| {
            let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
            HandshakeError::Protocol { asked: owned(asked), spoken: owned(spoken) }
        })
    }
}

/// An upgraded HTTP connection.
pub type UpgradedIo = TokioIo<hyper::upgrade::Upgraded>;

/// Accepts a WebSocket in one of the protocols in `spoken` (the empty one is for clients that name none). Gives the
/// answer to send, the protocol that was chosen, and the socket, which comes once the answer is sent.
#[expect(clippy::type_complexity, reason = "three parts that are used once each")]
pub fn accept<'s>(
    request: &mut Request,
    spoken: &[&'s str],
) -> Result<
    (Response, &'s str, impl Future<Output = Result<Socket<UpgradedIo>, hyper::Error>> + Send + use<>),
    HandshakeError,
> {
    let offer = Offer::read(request.headers())?;
    if request.method() != Method::GET {
        return Err(HandshakeError::Method);
    }
    let protocol = offer.choose(spoken)?;
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(value) = HeaderValue::from_str(&derive_accept_key(offer.key.as_bytes())) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, value);
    }
    if !protocol.is_empty()
        && let Ok(value) = HeaderValue::from_str(protocol)
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    let upgraded = hyper::upgrade::on(request);
    let socket = async move { Ok(Socket::server(TokioIo::new(upgraded.await?)).await) };
    Ok((response, protocol, socket))
}

/// A client's request for a WebSocket.
pub fn request(uri: Uri, protocols: &[&str]) -> Request {
    let mut key = [0; KEY_BYTES];
    // The key only tells caches apart from servers; without randomness it still does.
    let _ = ring::rand::SystemRandom::new().fill(&mut key);
    let mut request = Request::new(Body::Empty);
    *request.method_mut() = Method::GET;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
    if let Ok(value) = HeaderValue::from_str(&STANDARD.encode(key)) {
        headers.insert(SEC_WEBSOCKET_KEY, value);
    }
    if !protocols.is_empty()
        && let Ok(value) = HeaderValue::from_str(&protocols.join(", "))
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    request
}

/// Checks the answer to a [`request`] with these headers and returns the protocol that the server chose.
pub fn switched(request: &HeaderMap, response: &Response) -> Result<String, HandshakeError> {
    let offer = Offer::read(request)?;
    let headers = response.headers();
    let proof = derive_accept_key(offer.key.as_bytes());
    let chosen = headers.get(SEC_WEBSOCKET_PROTOCOL).map_or(Some(""), |value| value.to_str().ok());
    let chosen = chosen.filter(|name| offer.protocols.contains(name) || name.is_empty());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS
        || headers.get(SEC_WEBSOCKET_ACCEPT).is_none_or(|value| *value != proof)
    {
        return Err(HandshakeError::Answer);
    }
    chosen.map(ToOwned::to_owned).ok_or(HandshakeError::Answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_first_wish_that_can_be_met_is_met() {
        let request = request(Uri::from_static("https://a/"), &["v9", "v5", "v4"]);
        let offer = Offer::read(request.headers()).unwrap();
        assert_eq!(offer.choose(&["v4", "v5"]), Ok("v5"));
        assert!(matches!(offer.choose(&["", "v1"]), Err(HandshakeError::Protocol { .. })));
        let bare = super::request(Uri::from_static("https://a/"), &[]);
        assert_eq!(Offer::read(bare.headers()).unwrap().choose(&["v4", ""]), Ok(""));
    }

    #[test]
    fn an_answer_must_prove_that_it_belongs_to_the_request() {
        let mut asked = request(Uri::from_static("https://a/"), &["v4"]);
        let headers = asked.headers().clone();
        let (answer, protocol, _socket) = accept(&mut asked, &["v4"]).unwrap();
        assert_eq!((protocol, switched(&headers, &answer).as_deref()), ("v4", Ok("v4")));
        let other = request(Uri::from_static("https://a/"), &["v4"]);
        assert_eq!(switched(other.headers(), &answer), Err(HandshakeError::Answer));
    }

    #[test]
    fn broken_requests_are_refused() {
        let refused = |name: http::header::HeaderName, value: &'static str| {
            let mut asked = request(Uri::from_static("https://a/"), &[]);
            asked.headers_mut().insert(name, HeaderValue::from_static(value));
            Offer::read(asked.headers()).err().unwrap()
        };
        assert_eq!(refused(UPGRADE, "h2c"), HandshakeError::NotAsked);
        assert_eq!(refused(CONNECTION, "close"), HandshakeError::NotAsked);
        assert_eq!(refused(SEC_WEBSOCKET_VERSION, "8"), HandshakeError::Version);
        assert_eq!(refused(SEC_WEBSOCKET_KEY, "c2hvcnQ="), HandshakeError::Key);
        let mut posted = request(Uri::from_static("https://a/"), &[]);
        *posted.method_mut() = Method::POST;
        let refusal = accept(&mut posted, &[""]).err().unwrap();
        assert_eq!(refusal.into_response().status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}

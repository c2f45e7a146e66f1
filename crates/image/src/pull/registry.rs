//! One repository at one registry: manifests and blobs by their paths, and the way in.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE, RETRY_AFTER};
use http::{Method, Response, StatusCode, Uri};
use hyper::body::Incoming;
use serde::Deserialize;

use super::auth::{self, Challenge};
use super::transport::{Call, Origin, Transport};
use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::document::{MANIFEST_MAX_BYTES, media};
use crate::error::Error;
use crate::reference::{DEFAULT_REGISTRY, Reference};

/// The largest answer of a token server, and the largest error text, in bytes.
const SMALL_MAX_BYTES: u64 = 256 << 10;

/// A pull's way into one repository: the authorisation is found once and used for all requests.
pub(super) struct Session<'a> {
    transport: &'a Transport,
    reference: Reference,
    base: String,
    credentials: Option<Credentials>,
    authorization: Mutex<Option<HeaderValue>>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    #[serde(default)]
    errors: Vec<ErrorItem>,
}

#[derive(Deserialize)]
struct ErrorItem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        transport: &'a Transport,
        reference: &Reference,
        credentials: Option<Credentials>,
    ) -> Result<Self, Error> {
        let host = match reference.registry() {
            DEFAULT_REGISTRY => "registry-1.docker.io",
            other => other,
        };
        let scheme = if transport.is_plain(host) { "http" } else { "https" };
        let base = format!("{scheme}://{host}/v2/{}", reference.path());
        let authorization = match &credentials {
            Some(Credentials::Bearer(token)) => auth::bearer(token),
            _ => None,
        };
        let authorization = Mutex::new(authorization);
        Ok(Self { transport, reference: reference.clone(), base, credentials, authorization })
    }

    /// The bytes of a manifest or an index, by tag or digest.
    pub(super) async fn manifest(&self, wanted: &str) -> Result<Vec<u8>, Error> {
        let types = [media::MANIFEST, media::INDEX, media::DOCKER_MANIFEST, media::DOCKER_INDEX].join(", ");
        let accept = HeaderValue::from_str(&types).map_err(|_| Error::invalid("the media types", "a bug"))?;
        let headers = HeaderMap::from_iter([(ACCEPT, accept)]);
        let response = self.get(&format!("{}/manifests/{wanted}", self.base), headers).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response, &self.reference.to_string()).await);
        }
        let bytes = self.transport.read(response, "the image's manifest", MANIFEST_MAX_BYTES).await?;
        Ok(bytes.to_vec())
    }

    /// The answer to a request for a blob from byte `from` on: 200 (from the start) or 206.
    pub(super) async fn blob(&self, digest: Digest, from: u64) -> Result<Response<Incoming>, Error> {
        let mut headers = HeaderMap::new();
        if from > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={from}-"))
        {
            headers.insert(RANGE, range);
        }
        let response = self.get(&format!("{}/blobs/{digest}", self.base), headers).await?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
            _ => Err(self.refusal(response, &format!("the layer {digest} of {}", self.reference)).await),
        }
    }

    /// A request with what authorisation there is; if that is refused, with a new one.
    async fn get(&self, address: &str, headers: HeaderMap) -> Result<Response<Incoming>, Error> {
        let uri: Uri = address
            .parse()
            .map_err(|_| Error::invalid(format!("the address {address}"), "it is no address"))?;
        let mut call = Call { method: Method::GET, uri, headers, body: Bytes::new() };
        let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(value) = known {
            call.headers.insert(AUTHORIZATION, value);
        }
        let response = self.transport.send(call.clone()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let Some(challenge) = auth::challenge(response.headers()) else { return Ok(response) };
        let Some(value) = self.authorize(&challenge).await? else { return Ok(response) };
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(value.clone());
        call.headers.insert(AUTHORIZATION, value);
        self.transport.send(call).await
    }

    async fn authorize(&self, challenge: &Challenge) -> Result<Option<HeaderValue>, Error> {
        match challenge {
            Challenge::Basic => Ok(self.credentials.as_ref().and_then(auth::basic)),
            Challenge::Bearer { realm, service, scope } => {
                // A token that was given as it is has just been refused.
                if matches!(self.credentials, Some(Credentials::Bearer(_))) {
                    return Ok(None);
                }
                let scope =
                    scope.clone().unwrap_or_else(|| format!("repository:{}:pull", self.reference.path()));
                self.token(realm, service.as_deref(), &scope).await.map(Some)
            }
        }
    }

    async fn token(&self, realm: &str, service: Option<&str>, scope: &str) -> Result<HeaderValue, Error> {
        let call = self.token_call(realm, service, scope)?;
        let response = self.transport.send(call).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response, &self.reference.to_string()).await);
        }
        let bytes = self.transport.read(response, "the token server's answer", SMALL_MAX_BYTES).await?;
        let wrong = || Error::invalid("the token server's answer", "it holds no token");
        let answer: TokenAnswer = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
        let token =
            answer.token.or(answer.access_token).filter(|token| !token.is_empty()).ok_or_else(wrong)?;
        auth::bearer(&token).ok_or_else(wrong)
    }

    fn token_call(&self, realm: &str, service: Option<&str>, scope: &str) -> Result<Call, Error> {
        let wrong = || Error::invalid(format!("the token server {realm}"), "it is no http or https address");
        let base: Uri = realm.parse().map_err(|_| wrong())?;
        Origin::of(&base)?;
        let secure = base.scheme_str() == Some("https");
        let authority = base.authority().map_or("", http::uri::Authority::as_str);
        if self.credentials.is_some() && !secure && !self.transport.is_plain(authority) {
            return Err(Error::Unauthorized {
                registry: self.reference.registry().to_owned(),
                what: self.reference.to_string(),
                hint: format!("its token server {realm} is not encrypted, so no password is sent there"),
            });
        }
        let mut query = vec![format!("scope={}", auth::encoded(scope))];
        query.extend(service.map(|service| format!("service={}", auth::encoded(service))));
        if let Some(Credentials::Refresh(token)) = &self.credentials {
            // OAuth2 with a refresh token, as docker does for identity tokens.
            query.extend([
                "grant_type=refresh_token".to_owned(),
                "client_id=ondol".to_owned(),
                format!("refresh_token={}", auth::encoded(token)),
            ]);
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, form)]);
            return Ok(Call { method: Method::POST, uri: base, headers, body: query.join("&").into() });
        }
        let separator = if base.query().is_some() { '&' } else { '?' };
        let uri: Uri = format!("{realm}{separator}{}", query.join("&")).parse().map_err(|_| wrong())?;
        let mut headers = HeaderMap::new();
        if let Some(value) = self.credentials.as_ref().and_then(auth::basic) {
            headers.insert(AUTHORIZATION, value);
        }
        Ok(Call { method: Method::GET, uri, headers, body: Bytes::new() })
    }

    /// What an answer that is no success means for the caller.
    async fn refusal(&self, response: Response<Incoming>, what: &str) -> Error {
        let status = response.status();
        let retry_after =
            response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let said = match self.transport.read(response, "the registry's answer", SMALL_MAX_BYTES).await {
            Ok(bytes) => said(&bytes),
            Err(_) => String::new(),
        };
        let registry = self.reference.registry().to_owned();
        let (what, what_it_says) =
            (what.to_owned(), if said.is_empty() { String::new() } else { format!(" ({said})") });
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let hint = match &self.credentials {
                    None => {
                        "check the name; if the image is private, give credentials (imagePullSecrets of a pod, \
                         --credentials of \"ondol image pull\")"
                    }
                    Some(_) => "check the credentials and that they may read this repository",
                };
                Error::Unauthorized { registry, what, hint: format!("{hint}{what_it_says}") }
            }
            StatusCode::NOT_FOUND => Error::NotFound {
                what,
                hint: format!("check the name and its tag at {registry}{what_it_says}"),
            },
            StatusCode::TOO_MANY_REQUESTS => {
                Error::Throttled { registry, retry_after: retry_after.map(Duration::from_secs) }
            }
            status if status.is_server_error() => Error::Unreachable {
                registry,
                reason: format!("it answers {status}{what_it_says}"),
                hint: "the registry itself has a problem; try again later".to_owned(),
            },
            status => Error::invalid(what, format!("{registry} answers {status}{what_it_says}")),
        }
    }
}

/// The registry's own words, in one line.
fn said(bytes: &[u8]) -> String {
    const SAID_MAX: usize = 200;
    let Ok(answer) = serde_json::from_slice::<ErrorAnswer>(bytes) else { return String::new() };
    let Some(first) = answer.errors.first() else { return String::new() };
    let text = format!("{}: {}", first.code, first.message);
    text.chars().filter(|character| !character.is_control()).take(SAID_MAX).collect()
}

//! HTTP to registries: names, connections, TLS, redirects. It knows no images.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{Clock, Tasks};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, LOCATION, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Options;
use crate::error::Error;

/// For one connection to one address, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From the request to the head of the answer.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two pieces of a body.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Redirects that are followed for one request.
const REDIRECTS_MAX: u32 = 8;
/// Idle connections that are kept for one origin.
const IDLE_MAX: usize = 8;

/// A request that can be sent again.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    https: bool,
    host: String,
    port: u16,
}

pub(super) struct Transport {
    tls: Arc<rustls::ClientConfig>,
    insecure: Vec<String>,
    user_agent: HeaderValue,
    pub(super) clock: Clock,
    tasks: Tasks,
    idle: Mutex<HashMap<Origin, Vec<SendRequest<Full<Bytes>>>>>,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Origin {
    pub(super) fn of(uri: &Uri) -> Result<Self, Error> {
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(Error::invalid(format!("the address {uri}"), "it is neither http nor https")),
        };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(Error::invalid(format!("the address {uri}"), "it has no host"));
        }
        Ok(Self { https, host, port: uri.port_u16().unwrap_or(if https { 443 } else { 80 }) })
    }

    fn unreachable(&self, reason: impl Into<String>, hint: &str) -> Error {
        Error::Unreachable { registry: self.to_string(), reason: reason.into(), hint: hint.to_owned() }
    }
}

impl Transport {
    pub(super) fn new(options: &Options, clock: Clock, tasks: Tasks) -> Result<Self, Error> {
        let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for certificate in CertificateDer::pem_slice_iter(&options.extra_ca_pem) {
            let certificate = certificate.map_err(|error| {
                Error::invalid("the extra certificate authorities", format!("no PEM: {error}"))
            })?;
            roots
                .add(certificate)
                .map_err(|error| Error::invalid("the extra certificate authorities", error.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::invalid("the TLS setup", error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let user_agent = HeaderValue::from_str(&options.user_agent)
            .map_err(|_| Error::invalid("the user agent", "it has characters that HTTP does not allow"))?;
        let insecure = options.insecure.clone();
        Ok(Self { tls: Arc::new(tls), insecure, user_agent, clock, tasks, idle: Mutex::default() })
    }

    /// Whether `registry` (`host` or `host:port`) is spoken to in plain HTTP.
    pub(super) fn is_plain(&self, registry: &str) -> bool {
        let host = registry.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(host, _)| host);
        let host = host.unwrap_or_else(|| registry.rsplit_once(':').map_or(registry, |(host, _)| host));
        let loopback =
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        loopback || self.insecure.iter().any(|listed| listed == registry || listed == host)
    }

    /// Sends a call and follows redirects. Credentials never go to another origin than the first, nor from
    /// HTTPS to HTTP.
    pub(super) async fn send(&self, mut call: Call) -> Result<Response<Incoming>, Error> {
        let first = Origin::of(&call.uri)?;
        for _ in 0..=REDIRECTS_MAX {
            let origin = Origin::of(&call.uri)?;
            let response = self.send_once(&origin, &call).await?;
            let redirected = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            let Some(location) = response.headers().get(LOCATION).filter(|_| redirected) else {
                return Ok(response);
            };
            let next = redirect(&call.uri, location)
                .ok_or_else(|| Error::invalid("a redirect of the registry", "its location is no address"))?;
            let target = Origin::of(&next)?;
            if origin.https && !target.https {
                return Err(Error::invalid(
                    "a redirect of the registry",
                    "it leads from HTTPS to plain HTTP",
                ));
            }
            if target != first {
                call.headers.remove(AUTHORIZATION);
            }
            if response.status() == StatusCode::SEE_OTHER {
                (call.method, call.body) = (Method::GET, Bytes::new());
            }
            call.uri = next;
        }
        Err(first.unreachable("it redirects in circles", "check the registry's configuration"))
    }

    async fn send_once(&self, origin: &Origin, call: &Call) -> Result<Response<Incoming>, Error> {
        // A kept connection may have been closed by the other side just now, which is no reason to fail.
        if let Some(mut sender) = self.take_idle(origin)
            && let Some(Ok(response)) =
                self.clock.timeout(HEAD_TIMEOUT, sender.send_request(self.request(call)?)).await
        {
            self.keep(origin, sender);
            return Ok(response);
        }
        let mut sender = self.connect(origin).await?;
        let hint = "check the network and the registry, then try again";
        match self.clock.timeout(HEAD_TIMEOUT, sender.send_request(self.request(call)?)).await {
            None => Err(origin.unreachable(format!("no answer within {} s", HEAD_TIMEOUT.as_secs()), hint)),
            Some(Err(error)) => Err(origin.unreachable(base::with_causes(&error), hint)),
            Some(Ok(response)) => {
                self.keep(origin, sender);
                Ok(response)
            }
        }
    }

    fn request(&self, call: &Call) -> Result<Request<Full<Bytes>>, Error> {
        let path = call.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.method.clone();
        let wrong = |_| {
            Error::invalid(format!("the address {}", call.uri), "it has characters that HTTP does not allow")
        };
        *request.uri_mut() = path.parse().map_err(wrong)?;
        *request.headers_mut() = call.headers.clone();
        let host = call.uri.authority().map_or("", |authority| {
            // Credentials in an address are not for the Host field.
            authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host)
        });
        let host = HeaderValue::from_str(host).map_err(|_| {
            Error::invalid("the registry's host", "it has characters that HTTP does not allow")
        })?;
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(USER_AGENT, self.user_agent.clone());
        Ok(request)
    }

    fn take_idle(&self, origin: &Origin) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(origin)?;
        kept.retain(|sender| !sender.is_closed());
        let at = kept.iter().position(SendRequest::is_ready)?;
        Some(kept.swap_remove(at))
    }

    /// Keeps a connection whose answer may still be coming in: it is ready only after that.
    fn keep(&self, origin: &Origin, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.entry(origin.clone()).or_default();
        kept.retain(|sender| !sender.is_closed());
        if kept.len() < IDLE_MAX {
            kept.push(sender);
        }
    }

    async fn connect(&self, origin: &Origin) -> Result<SendRequest<Full<Bytes>>, Error> {
        let addresses = self.resolve(origin).await?;
        let mut last = None;
        for address in addresses {
            let address = SocketAddr::new(address, origin.port);
            match self.clock.timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Some(Ok(stream)) => {
                    // Small requests must not wait for Nagle; a failure costs only time.
                    let _ = stream.set_nodelay(true);
                    return self.begin(origin, stream).await;
                }
                Some(Err(error)) => last = Some(format!("{address}: {error}")),
                None => {
                    last = Some(format!("{address}: no connection within {} s", CONNECT_TIMEOUT.as_secs()))
                }
            }
        }
        let hint = "check the registry's name and port, and that this machine may reach it";
        Err(origin.unreachable(last.unwrap_or_else(|| "its name has no address".to_owned()), hint))
    }

    async fn begin(&self, origin: &Origin, stream: TcpStream) -> Result<SendRequest<Full<Bytes>>, Error> {
        if !origin.https {
            return self.speak(origin, stream).await;
        }
        let name = ServerName::try_from(origin.host.clone()).map_err(|_| {
            Error::invalid("the registry's host", "it is no name that a certificate can have")
        })?;
        let connecting = TlsConnector::from(self.tls.clone()).connect(name, stream);
        match self.clock.timeout(CONNECT_TIMEOUT, connecting).await {
            Some(Ok(stream)) => self.speak(origin, stream).await,
            Some(Err(error)) => Err(tls_error(origin, &error)),
            None => Err(origin.unreachable("TLS did not begin in time", "check the network, then try again")),
        }
    }

    async fn speak<S>(&self, origin: &Origin, stream: S) -> Result<SendRequest<Full<Bytes>>, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| origin.unreachable(base::with_causes(&error), "check that it is a registry"))?;
        self.tasks.spawn("a connection to a registry", async move {
            // Whoever waits for an answer gets the error; here nobody does.
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn resolve(&self, origin: &Origin) -> Result<Vec<IpAddr>, Error> {
        if let Ok(address) = origin.host.parse::<IpAddr>() {
            return Ok(vec![address]);
        }
        if origin.host == "localhost" {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let hint = "check the name for a typo, and /etc/resolv.conf";
        // Made anew each time, so that a changed resolv.conf counts at once.
        let resolver = hickory_resolver::TokioResolver::builder_tokio()
            .and_then(hickory_resolver::ResolverBuilder::build)
            .map_err(|error| origin.unreachable(error.to_string(), "check /etc/resolv.conf"))?;
        let found = self.clock.timeout(CONNECT_TIMEOUT, resolver.lookup_ip(origin.host.as_str())).await;
        match found {
            None => Err(origin.unreachable("its name was not answered in time", hint)),
            Some(Err(error)) => Err(origin.unreachable(format!("its name is not known: {error}"), hint)),
            Some(Ok(found)) => {
                let mut addresses: Vec<IpAddr> = found.iter().collect();
                // Machines without a way out by IPv6 often still have an address of it.
                addresses.sort_by_key(IpAddr::is_ipv6);
                Ok(addresses)
            }
        }
    }

    /// Reads a whole small body.
    pub(super) async fn read(
        &self,
        response: Response<Incoming>,
        what: &str,
        limit: u64,
    ) -> Result<Bytes, Error> {
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        loop {
            match self.clock.timeout(STALL_TIMEOUT, body.frame()).await {
                Some(None) => return Ok(bytes.into()),
                Some(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        bytes.extend_from_slice(data);
                        crate::document::limit(what, &bytes, limit)?;
                    }
                }
                Some(Some(Err(error))) => return Err(broken_off(what, base::with_causes(&error))),
                None => return Err(broken_off(what, "nothing came for a while".to_owned())),
            }
        }
    }
}

pub(super) fn broken_off(what: &str, reason: String) -> Error {
    let hint = "check the network, then try again".to_owned();
    Error::Unreachable {
        registry: "the registry".to_owned(),
        reason: format!("{what} broke off: {reason}"),
        hint,
    }
}

fn tls_error(origin: &Origin, error: &std::io::Error) -> Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let hint = match tls {
        Some(rustls::Error::InvalidCertificate(_)) => {
            "its certificate is not trusted here: give its authority as an extra CA, or list the registry as insecure"
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            "it does not speak TLS: if it is a plain HTTP registry, list it as insecure"
        }
        _ => "check that it speaks TLS on this port",
    };
    origin.unreachable(format!("TLS: {error}"), hint)
}

/// The address that `location` means, seen from `base`.
fn redirect(base: &Uri, location: &HeaderValue) -> Option<Uri> {
    let text = location.to_str().ok()?;
    if let Ok(uri) = text.parse::<Uri>()
        && uri.scheme().is_some()
    {
        return Some(uri);
    }
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let text = if let Some(rest) = text.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if text.starts_with('/') {
        format!("{scheme}://{authority}{text}")
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{text}")
    };
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_read_from_where_they_are_said() {
        let check = |location: &str, expect: &str| {
            let base: Uri = "https://r.example/v2/a/blobs/x?y=1".parse().unwrap();
            let found = redirect(&base, &HeaderValue::from_str(location).unwrap()).unwrap();
            assert_eq!(found.to_string(), expect);
        };
        check("https://cdn.example/b?c=d", "https://cdn.example/b?c=d");
        check("/up?z", "https://r.example/up?z");
        check("//cdn.example/b", "https://cdn.example/b");
        check("next", "https://r.example/v2/a/blobs/next");
    }

    #[test]
    fn only_loopback_and_listed_registries_are_plain() {
        let options =
            Options { insecure: vec!["lab:5000".into(), "old.example".into()], ..Options::default() };
        let transport = Transport::new(&options, Clock::system(), Tasks::new()).unwrap();
        for plain in
            ["localhost", "localhost:5000", "127.0.0.1:1", "[::1]:5000", "lab:5000", "old.example:80"]
        {
            assert!(transport.is_plain(plain), "{plain}");
        }
        for secure in ["lab:5001", "example.com", "10.0.0.1:5000"] {
            assert!(!transport.is_plain(secure), "{secure}");
        }
    }

    /// A server that speaks TLS with a certificate of its own making, for one connection.
    async fn tls_server() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key)
                .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Tasks::new().spawn("the TLS server", async move {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = hyper::service::service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from_static(b"warm"))))
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        (address, made.cert.pem())
    }

    async fn get(options: &Options, uri: &str) -> Result<Bytes, Error> {
        let transport = Transport::new(options, Clock::system(), Tasks::new()).unwrap();
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        let response =
            transport.send(Call { method: Method::GET, uri: uri.parse().unwrap(), headers, body }).await?;
        transport.read(response, "the answer", 100).await
    }

    #[tokio::test]
    async fn a_certificate_counts_only_if_its_authority_was_given() {
        let (address, pem) = tls_server().await;
        let trusting = Options { extra_ca_pem: pem.into_bytes(), ..Options::default() };
        assert_eq!(get(&trusting, &format!("https://{address}/")).await.unwrap(), "warm");
        let (address, _) = tls_server().await;
        let error = get(&Options::default(), &format!("https://{address}/")).await.unwrap_err();
        assert!(matches!(&error, Error::Unreachable { hint, .. } if hint.contains("extra CA")), "{error}");
    }

    #[tokio::test]
    async fn plain_http_where_tls_is_expected_is_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Tasks::new().spawn("the plain server", async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ =
                tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        });
        let error = get(&Options::default(), &format!("https://{address}/")).await.unwrap_err();
        assert!(matches!(&error, Error::Unreachable { hint, .. } if hint.contains("insecure")), "{error}");
    }

    #[test]
    fn a_wrong_extra_authority_is_told() {
        let pem = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec();
        let options = Options { extra_ca_pem: pem, ..Options::default() };
        assert!(Transport::new(&options, Clock::system(), Tasks::new()).is_err());
    }
}

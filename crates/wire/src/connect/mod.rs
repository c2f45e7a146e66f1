//! An HTTP client: pooled HTTP/1.1 and HTTP/2, client certificates. It follows no redirects, keeps no cookies and upgrades
//! nothing: what a server answers is what the caller sees.

mod dial;

pub use dial::{DialError, Resolve, dial};

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base::{Clock, Tasks};
use http::{HeaderValue, Uri, header};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::legacy::{self, Client as Pool};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{Body, Request, Response, tls};

/// How a client connects.
#[derive(Clone)]
pub struct Config {
    /// Whom it believes.
    pub roots: Arc<tls::Roots>,
    /// Which certificate it shows when asked.
    pub presented: Arc<tls::Presented>,
    /// The name that servers must prove, if it is not the host of the URI.
    pub server_name: Option<String>,
    /// Who finds addresses; `None` asks the system's name servers.
    pub resolver: Option<Arc<dyn Resolve>>,
    /// For name, connection and handshake together.
    pub connect_timeout: Duration,
    /// Unused connections are kept this long.
    pub idle_timeout: Duration,
    /// Unused connections kept for one server.
    pub idle_per_host: usize,
    /// Whether HTTP/2 is offered. All requests to a server then share one connection, and with it the server's limit
    /// of requests at once: what is beyond waits, so that whatever lasts should not be asked for by such a client.
    pub http2: bool,
}

impl Config {
    /// The common settings, with the two that have no default.
    pub fn new(roots: Arc<tls::Roots>, presented: Arc<tls::Presented>) -> Self {
        Self {
            roots,
            presented,
            server_name: None,
            resolver: None,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(90),
            idle_per_host: 32,
            http2: true,
        }
    }
}

/// How often an HTTP/2 server is asked whether it lives, and how long it may take to answer: a cut connection with
/// a watch on it would hang for ever otherwise.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection.
    #[error("cannot connect")]
    Connect(#[source] legacy::Error),
    /// The connection broke before the response; whether the server acted is unknown.
    #[error("the connection broke before the answer")]
    Broken(#[source] legacy::Error),
    /// The URI has no host, or the wrong scheme.
    #[error("the address {uri} is not an absolute http or https URI; write scheme://host:port/path")]
    Address {
        /// What was given.
        uri: Uri,
    },
}

/// An HTTP client. Clones share connections.
#[derive(Clone)]
pub struct Client {
    pool: Pool<Connector, Body>,
}

impl Client {
    /// A client. Its background work joins `tasks`.
    pub fn new(config: Config, clock: &Clock, tasks: &Tasks) -> Result<Self, tls::Error> {
        let alpn = if config.http2 { &tls::ALPN[..] } else { &tls::ALPN[1..] };
        let session = tls::client_config(config.roots.clone(), config.presented.clone(), alpn)?;
        let (idle_timeout, idle_per_host) = (config.idle_timeout, config.idle_per_host);
        let connector = Connector { config: Arc::new(config), session, clock: clock.clone() };
        let pool = Pool::builder(Spawner(tasks.clone()))
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(idle_timeout)
            .pool_max_idle_per_host(idle_per_host)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
            .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .build(connector);
        Ok(Self { pool })
    }

    /// Sends `request`, whose URI is absolute, and returns the head of the response; its body follows as it comes.
    pub async fn send(&self, mut request: Request) -> Result<Response, Error> {
        let uri = request.uri();
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err(Error::Address { uri: uri.clone() });
        }
        request.headers_mut().remove(header::EXPECT);
        *request.version_mut() = http::Version::HTTP_11;
        let sent = self.pool.request(request).await;
        sent.map(|response| response.map(Body::Incoming))
            .map_err(|error| if error.is_connect() { Error::Connect(error) } else { Error::Broken(error) })
    }
}

/// A header value that is kept out of debug output, such as a bearer token.
pub fn secret(value: &str) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(value)?;
    value.set_sensitive(true);
    Ok(value)
}

#[derive(Clone)]
struct Connector {
    config: Arc<Config>,
    session: Arc<rustls::ClientConfig>,
    clock: Clock,
}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, DialError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(&uri).await })
    }
}

impl Connector {
    async fn connect(&self, uri: &Uri) -> Result<Stream, DialError> {
        let timeout = self.config.connect_timeout;
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let connect = async {
            let stream = dial(host, port, self.config.resolver.as_deref()).await?;
            if !secure {
                return Ok(Stream::Plain(TokioIo::new(stream)));
            }
            let name = self.config.server_name.as_deref().unwrap_or(host);
            let name = ServerName::try_from(name.to_owned())
                .map_err(|_| DialError::Name { name: name.to_owned() })?;
            let handshake = TlsConnector::from(self.session.clone()).connect(name, stream).await;
            handshake
                .map(|stream| Stream::Tls(Box::new(TokioIo::new(stream))))
                .map_err(|source| DialError::Handshake { host: host.to_owned(), source })
        };
        self.clock
            .timeout(timeout, connect)
            .await
            .unwrap_or_else(|| Err(DialError::TimedOut { host: host.to_owned(), port, timeout }))
    }
}

/// A connection of the pool. Public in name only: hyper-util's traits want it so.
#[doc(hidden)]
pub enum Stream {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Self::Tls(stream) if stream.inner().get_ref().1.alpn_protocol() == Some(tls::ALPN[0]) => {
                Connected::new().negotiated_h2()
            }
            _ => Connected::new(),
        }
    }
}

macro_rules! on_stream {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Plain($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Stream::Tls($stream) => {
                let $stream = Pin::new(&mut **$stream);
                $call
            }
        }
    };
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        on_stream!(self, stream => stream.poll_read(context, buffer))
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        on_stream!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        on_stream!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        on_stream!(self, stream => stream.poll_shutdown(cx))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        on_stream!(self, stream => stream.poll_write_vectored(cx, buffers))
    }
}

#[derive(Clone)]
struct Spawner(Tasks);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, future: F) {
        self.0.spawn("http client", future);
    }
}

//! One connection: its handshake, its requests, its end.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use base::{Clock, Stop, Tasks};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use http::StatusCode;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::gather::{self, Cork, Corked};
use super::lasting::{self, Lasting, Spawner};
use super::limits::REQUEST_TARGET_BYTES;
use super::peers::Peers;
use super::refusals::{Refusals, Worded};
use super::{Limits, ServerTls, Service};
use crate::{Body, Request, Response, tls};

/// How long tasks may take to notice that they were cut.
pub(super) const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// What is known about the connection that a request came by.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// The client's end.
    pub peer: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// The handshake's outcome; `None` without TLS.
    pub tls: Option<Tls>,
}

/// What a TLS handshake told.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The name that the client asked for.
    pub server_name: Option<String>,
    /// The certificate that the client showed, trusted or not.
    pub client: Option<tls::ClientCertificate>,
}

impl ConnectionInfo {
    /// The certificate that the client showed, trusted or not.
    pub fn client_certificate(&self) -> Option<&tls::ClientCertificate> {
        self.tls.as_ref()?.client.as_ref()
    }
}

pub(super) struct Shared<S> {
    pub service: S,
    pub tls: Option<ServerTls>,
    pub limits: Limits,
    pub peers: Arc<Peers>,
    pub refusals: Option<Refusals>,
    pub clock: Clock,
    pub stop: Stop,
    pub abort: Stop,
    pub tasks: Tasks,
}

/// Serves one connection to its end.
pub(super) async fn serve<S: Service>(shared: Arc<Shared<S>>, stream: TcpStream, peer: SocketAddr) {
    let Ok(local) = stream.local_addr() else { return };
    // Small answers must not wait for the peer's acknowledgement; failing to ask for that is harmless.
    let _ = stream.set_nodelay(true);
    let mut info = ConnectionInfo { peer, local, tls: None };
    let Some(server) = &shared.tls else {
        let http2 = shared.limits.http2_plaintext;
        let version = if http2 { Version::Either } else { Version::Http1 };
        return exchange(&shared, stream, info, version, Cork::default()).await;
    };
    let cork = Cork::default();
    let handshake = TlsAcceptor::from(server.config.clone()).accept(Corked::new(stream, cork.clone()));
    let limited = shared.clock.timeout(shared.limits.handshake_timeout, shared.abort.or(handshake));
    let mut stream = match limited.await {
        Some(Some(Ok(stream))) => stream,
        Some(Some(Err(error))) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
        _ => return tracing::debug!(%peer, "TLS handshake took too long"),
    };
    let (_, session) = stream.get_ref();
    let chain = session.peer_certificates().unwrap_or_default();
    info.tls = Some(Tls {
        server_name: session.server_name().map(ToOwned::to_owned),
        client: tls::ClientCertificate::check(chain, &server.client_roots, shared.clock.now()),
    });
    let http2 = session.alpn_protocol() == Some(tls::ALPN[0]);
    if http2 {
        stream.get_mut().1.set_buffer_limit(Some(gather::HELD_BYTES));
    }
    exchange(&shared, stream, info, if http2 { Version::Http2 } else { Version::Http1 }, cork).await;
}

enum Version {
    Http1,
    Http2,
    Either,
}

fn builder(limits: &Limits, version: &Version, spawner: Spawner) -> auto::Builder<Spawner> {
    let mut builder = auto::Builder::new(spawner);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout)
        .max_headers(limits.header_fields)
        // hyper wants room for two buffers of 8 KiB at least.
        .max_buf_size((limits.header_bytes as usize).max(16 * 1024));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.http2_streams)
        .max_header_list_size(limits.header_bytes.min(REQUEST_TARGET_BYTES))
        .initial_stream_window_size(limits.http2_stream_window_bytes)
        .initial_connection_window_size(limits.http2_connection_window_bytes)
        .max_send_buf_size(limits.http2_send_buffer_bytes)
        .keep_alive_interval(limits.http2_ping_interval)
        .keep_alive_timeout(limits.http2_ping_timeout);
    match version {
        Version::Http1 => builder.http1_only(),
        Version::Http2 => builder.http2_only(),
        Version::Either => builder,
    }
}

async fn exchange<S: Service, I>(
    shared: &Arc<Shared<S>>,
    io: I,
    info: ConnectionInfo,
    version: Version,
    cork: Cork,
) where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let limits = &shared.limits;
    let activity = Arc::new(Activity::default());
    let (info, shared_of_requests, activity_of_requests) = (Arc::new(info), shared.clone(), activity.clone());
    let peer = info.peer;
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let (info, shared) = (info.clone(), shared_of_requests.clone());
        let running = activity_of_requests.begin();
        async move {
            let request = request.map(Body::Incoming);
            let response = answer(&shared.service, request, info).await;
            if response.body().lasts() {
                lasting::mark();
            }
            // A response counts as running until its body is gone: a watch is not idleness.
            let (parts, body) = response.into_parts();
            Ok::<_, Infallible>(http::Response::from_parts(parts, Counted { body, _running: running }))
        }
    });
    let (lasting, spawner) = lasting::lasting(&shared.tasks);
    let builder = builder(limits, &version, spawner);
    if matches!(version, Version::Http2) {
        let (gathering, sender) = gather::gathering(io, cork);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(gathering), service);
        drive(shared, connection, lasting, |context| sender.send(context), peer, &activity).await;
    } else {
        // Who begins with HTTP/2 is never answered with a head of HTTP/1.1, so that nothing is replaced there.
        let io = Worded::new(io, activity.clone(), shared.refusals);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
        drive(shared, connection, lasting, |_| Poll::Ready(Ok(())), peer, &activity).await;
    }
}

/// What comes to a connection beside its traffic.
enum Turn {
    /// No new requests.
    Stop,
    /// No further waiting.
    Abort,
    /// Time to see whether the connection was used at all.
    First,
    /// Time to see whether the connection is used.
    Idle,
}

/// Polls a connection to its end: what lasts before it, `send` after it.
async fn drive<S: Service, C: Connection>(
    shared: &Arc<Shared<S>>,
    connection: C,
    mut lasting: Lasting,
    mut send: impl FnMut(&mut Context<'_>) -> Poll<std::io::Result<()>>,
    peer: SocketAddr,
    activity: &Arc<Activity>,
) {
    let mut connection = pin!(connection);
    let (stop, abort) = (shared.stop.clone(), shared.abort.clone());
    // Looked at only when one has come: what wakes a connection is nearly always its traffic.
    let mut turns: FuturesUnordered<BoxFuture<'static, Turn>> = FuturesUnordered::new();
    let idle = || {
        let (clock, timeout) = (shared.clock.clone(), shared.limits.idle_timeout);
        async move { clock.sleep(timeout).await }.map(|()| Turn::Idle).boxed()
    };
    turns.push(async move { stop.stopped().await }.map(|()| Turn::Stop).boxed());
    turns.push(async move { abort.stopped().await }.map(|()| Turn::Abort).boxed());
    let (clock, timeout) = (shared.clock.clone(), shared.limits.first_request_timeout);
    turns.push(async move { clock.sleep(timeout).await }.map(|()| Turn::First).boxed());
    turns.push(idle());
    let mut seen = activity.begun();
    loop {
        let traffic = std::future::poll_fn(|context| {
            lasting.poll(context);
            let outcome = connection.as_mut().poll(context);
            // A stream that is broken tells the connection so when it is used next.
            let _ = send(context);
            outcome
        });
        tokio::select! {
            biased;
            outcome = traffic => {
                if let Err(error) = outcome {
                    tracing::debug!(%peer, %error, "connection ended with an error");
                }
                return;
            }
            Some(turn) = turns.next() => match turn {
                Turn::Abort => return,
                // Before its first request a client is owed no farewell, and HTTP/2 would wait for one of its.
                Turn::First if activity.begun() == 0 => return,
                Turn::First => {}
                Turn::Stop => connection.as_mut().graceful_shutdown(),
                // HTTP/2 in hyper knows no idle timeout.
                Turn::Idle => {
                    let begun = activity.begun();
                    if begun == seen && activity.is_idle() {
                        connection.as_mut().graceful_shutdown();
                    }
                    seen = begun;
                    turns.push(idle());
                }
            }
        }
    }
}

/// A connection of hyper's.
trait Connection: Future<Output = Result<(), crate::body::Error>> {
    /// Ends after the requests that run.
    fn graceful_shutdown(self: std::pin::Pin<&mut Self>);
}

impl<I, S, B> Connection for auto::UpgradeableConnection<'_, I, S, Spawner>
where
    S: hyper::service::Service<http::Request<Incoming>, Response = http::Response<B>> + 'static,
    S::Future: Send + 'static,
    S::Error: Into<crate::body::Error>,
    B: http_body::Body<Data = bytes::Bytes, Error = crate::body::Error> + Send + 'static,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    fn graceful_shutdown(self: std::pin::Pin<&mut Self>) {
        Self::graceful_shutdown(self);
    }
}

async fn answer<S: Service>(service: &S, request: Request, info: Arc<ConnectionInfo>) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // The call itself may panic too, before there is a future.
    let call = AssertUnwindSafe(async { service.call(request, info).await });
    call.catch_unwind().await.unwrap_or_else(|panic| {
        let message = base::panics::caught(panic);
        tracing::error!(%method, path, message, "a request panicked; this is a bug");
        let mut response =
            Response::new(Body::from("internal error: the request panicked; the log says where\n"));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}

/// Counts the requests of a connection.
#[derive(Default)]
pub(super) struct Activity {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Activity {
    fn begin(self: &Arc<Self>) -> Running {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Running(self.clone())
    }

    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.begun() == self.ended.load(Ordering::Relaxed)
    }
}

struct Running(Arc<Activity>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

struct Counted {
    body: Body,
    _running: Running,
}

impl http_body::Body for Counted {
    type Data = bytes::Bytes;
    type Error = crate::body::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

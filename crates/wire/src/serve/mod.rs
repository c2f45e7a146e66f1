//! An HTTP server: HTTP/1.1 and HTTP/2, with TLS or without.
//!
//! Handshakes, idle connections, headers and the number of connections are bounded ([`Limits`]); request bodies are
//! bounded by whoever reads them ([`crate::body::read`]). A panic in a request is answered with 500 and spreads no
//! further.

mod connection;
mod gather;
mod lasting;
mod limits;
mod listen;
mod peers;
mod refusals;

pub use connection::{ConnectionInfo, Tls};
pub use limits::{Limits, REQUEST_TARGET_BYTES};
pub use listen::{BindError, listen};
pub use refusals::{Refusal, Refusals};

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Stop, Tasks};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::{Request, Response, tls};

/// Answers requests. Implemented by every `Fn(Request, Arc<ConnectionInfo>) -> impl Future<Output = Response>`.
pub trait Service: Send + Sync + 'static {
    /// Answers one request. Dropped in the middle when the client goes away.
    fn call(
        &self,
        request: Request,
        connection: Arc<ConnectionInfo>,
    ) -> impl Future<Output = Response> + Send;
}

impl<F, A> Service for F
where
    F: Fn(Request, Arc<ConnectionInfo>) -> A + Send + Sync + 'static,
    A: Future<Output = Response> + Send,
{
    fn call(
        &self,
        request: Request,
        connection: Arc<ConnectionInfo>,
    ) -> impl Future<Output = Response> + Send {
        self(request, connection)
    }
}

/// A server that listens already and does not answer yet.
pub struct Server {
    listeners: Vec<TcpListener>,
    tls: Option<ServerTls>,
    limits: Limits,
    refusals: Option<Refusals>,
    clock: Clock,
}

/// A server's TLS: what it presents and whose client certificates it trusts. Both can be swapped while it runs.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<rustls::ServerConfig>,
    client_roots: Arc<tls::Roots>,
}

impl ServerTls {
    /// Presents `presented`; client certificates are judged by `client_roots` (see [`tls::ClientCertificate`]).
    pub fn new(presented: Arc<tls::Presented>, client_roots: Arc<tls::Roots>) -> Result<Self, tls::Error> {
        Ok(Self { config: tls::server_config(presented)?, client_roots })
    }
}

impl Server {
    /// Listens on `addresses`. Call it inside a runtime.
    pub fn bind(addresses: &[SocketAddr], clock: Clock) -> Result<Self, BindError> {
        let listeners = addresses.iter().map(|address| listen(*address)).collect::<Result<_, _>>()?;
        Ok(Self::on(listeners, clock))
    }

    /// Serves on sockets that were bound elsewhere.
    pub fn on(listeners: Vec<TcpListener>, clock: Clock) -> Self {
        Self { listeners, tls: None, limits: Limits::default(), refusals: None, clock }
    }

    /// Speaks TLS only.
    pub fn with_tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Uses other limits than the default ones.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Has words for requests whose line (414) or headers (431) are too long; without, such answers are empty.
    pub fn with_refusals(mut self, refusals: Refusals) -> Self {
        self.refusals = Some(refusals);
        self
    }

    /// Where it listens, in the order of binding; tells the port that the system chose for port 0.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves until `stop`; then takes no more connections, lets running requests end until `drain` has passed, and
    /// cuts what is left. Returns whether all ended by themselves.
    pub async fn run(self, service: impl Service, stop: Stop, drain: Duration) -> bool {
        let tasks = Tasks::new();
        let abort = base::Stopper::new();
        let shared = Arc::new(connection::Shared {
            service,
            tls: self.tls,
            peers: peers::Peers::new(self.limits.connections_of_peer),
            limits: self.limits,
            refusals: self.refusals,
            clock: self.clock.clone(),
            stop: stop.clone(),
            abort: abort.signal(),
            tasks: tasks.clone(),
        });
        let slots = Arc::new(Semaphore::new(shared.limits.connections));
        let accepting = self.listeners.into_iter().map(|listener| accept(listener, &shared, &slots, &stop));
        futures::future::join_all(accepting).await;
        stop.stopped().await;
        let drained = tasks.join(drain).await;
        if !drained {
            tracing::warn!(connections = tasks.running(), "connections did not end in time; cutting them");
            abort.stop();
            tasks.join(connection::CUT_TIMEOUT).await;
        }
        drained
    }
}

async fn accept<S: Service>(
    listener: TcpListener,
    shared: &Arc<connection::Shared<S>>,
    slots: &Arc<Semaphore>,
    stop: &Stop,
) {
    let mut fails = false;
    loop {
        let Some(Ok(slot)) = stop.or(slots.clone().acquire_owned()).await else { return };
        match stop.or(listener.accept()).await {
            None => return,
            Some(Ok((stream, peer))) => {
                fails = false;
                let Some(place) = shared.peers.take(peer) else {
                    tracing::debug!(%peer, "a peer has all connections that it may have");
                    continue;
                };
                let shared_of_task = shared.clone();
                shared.tasks.spawn("connection", async move {
                    connection::serve(shared_of_task, stream, peer).await;
                    drop((slot, place));
                });
            }
            Some(Err(error)) if listen::concerns_one_connection(&error) => {}
            Some(Err(error)) => {
                // Mostly there are no file descriptors left. Told once, for this goes on until some are free.
                if !std::mem::replace(&mut fails, true) {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "cannot accept connections; trying again until it works"
                    );
                }
                if stop.or(shared.clock.sleep(listen::ACCEPT_PAUSE)).await.is_none() {
                    return;
                }
            }
        }
    }
}

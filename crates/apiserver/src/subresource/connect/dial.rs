//! Opening connections to nodes, pods and endpoints.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use api::status::{Reason, Status};
use base::Clock;
use futures::future::BoxFuture;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wire::tls::{Presented, Roots};

use crate::gate::Gate;
use crate::limits;

/// Bytes both ways.
pub trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}
/// A connection.
pub type Stream = Box<dyn Bytes>;

/// Opens connections to the other ends. Given by who builds the gate, for it knows the networks.
pub trait Dialer: Send + Sync + 'static {
    /// TLS to a node's agent, with the gate's client certificate. `node` is the name that the certificate must
    /// have.
    fn node(&self, node: &str, address: &str, port: u16) -> BoxFuture<'_, io::Result<Stream>>;

    /// Plain TCP to a pod or an endpoint of a service.
    fn pod(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Stream>>;
}

/// The dialer of a server that is in the nodes' and pods' network itself.
pub struct NetworkDialer {
    tls: Arc<rustls::ClientConfig>,
    clock: Clock,
}

impl NetworkDialer {
    /// Believes nodes whose certificates lead to `roots`, and shows them `presented`.
    pub fn new(
        roots: Arc<wire::tls::Roots>,
        presented: Arc<wire::tls::Presented>,
        clock: Clock,
    ) -> Result<Self, wire::tls::Error> {
        Ok(Self { tls: wire::tls::client_config(roots, presented, &[b"http/1.1"])?, clock })
    }

    async fn tcp(&self, address: &str, port: u16) -> io::Result<TcpStream> {
        let dialing = TcpStream::connect((address, port));
        let stream =
            self.clock.timeout(limits::DIAL_TIMEOUT, dialing).await.ok_or(io::ErrorKind::TimedOut)??;
        // A stream may be silent for long; a node or pod that is gone must not keep it.
        wire::keepalive::ask(&stream)?;
        Ok(stream)
    }
}

impl Dialer for NetworkDialer {
    fn node(&self, _node: &str, address: &str, port: u16) -> BoxFuture<'_, io::Result<Stream>> {
        let address = address.to_owned();
        Box::pin(async move {
            let tcp = self.tcp(&address, port).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from(address).map_err(io::Error::other)?;
            let handshake = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp);
            let stream = self
                .clock
                .timeout(limits::DIAL_TIMEOUT, handshake)
                .await
                .ok_or(io::ErrorKind::TimedOut)??;
            Ok(Box::new(stream) as Stream)
        })
    }

    fn pod(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Stream>> {
        Box::pin(async move {
            let tcp = self.tcp(&address.ip().to_string(), address.port()).await?;
            Ok(Box::new(tcp) as Stream)
        })
    }
}

/// A connection to a pod or endpoint; `what` is its name for people.
pub(super) async fn dial_pod(
    gate: &Gate,
    what: &str,
    address: SocketAddr,
    secure: bool,
) -> Result<Stream, Status> {
    let dialed = async {
        let stream = gate.dialer().pod(address).await?;
        if secure { over_tls(gate.clock(), address, stream).await } else { Ok(stream) }
    };
    dialed.await.map_err(|error| {
        Status::new(
            Reason::ServiceUnavailable,
            format!(
                "error trying to reach service: dial tcp {address}: {error}; see whether {what} listens there"
            ),
        )
    })
}

/// TLS over a connection. The other end is a pod, whose certificate nobody vouches for; as upstream, none is asked
/// of it, and none of ours is shown.
async fn over_tls(clock: &Clock, address: SocketAddr, stream: Stream) -> io::Result<Stream> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    let config = match CONFIG.get() {
        Some(config) => config,
        None => {
            let made = wire::tls::client_config(Roots::any_server(), Presented::none(), &[b"http/1.1"]);
            CONFIG.get_or_init(|| made.expect("a configuration without certificates is a good one"))
        }
    };
    let handshake = TlsConnector::from(Arc::clone(config)).connect(ServerName::from(address.ip()), stream);
    let stream = clock.timeout(limits::DIAL_TIMEOUT, handshake).await.ok_or(io::ErrorKind::TimedOut)??;
    Ok(Box::new(stream))
}

/// What to say of a node that cannot be reached.
pub(super) fn unreachable_end(what: &str, address: &str, port: u16, error: &io::Error) -> Status {
    Status {
        code: 502,
        ..Status::new(
            Reason::ServiceUnavailable,
            format!(
                "error dialing {what} at {address}:{port}: {error}; see whether it runs and listens there"
            ),
        )
    }
}

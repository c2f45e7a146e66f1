//! From a host's name to a TCP connection.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

/// How many of a name's addresses are tried.
const ADDRESSES_MAX: usize = 8;

/// Finds the addresses of a name.
pub trait Resolve: Send + Sync {
    /// The addresses of `host`, best first.
    fn resolve<'a>(
        &'a self,
        host: &'a str,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("the name {host} is not known; check it for a typo, and /etc/resolv.conf")]
    Unknown {
        /// The name.
        host: String,
        /// What the name server said.
        #[source]
        source: io::Error,
    },
    /// No address answers.
    #[error("{address} does not take the connection; see whether the server runs")]
    Refused {
        /// The last address that was tried.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The time is up.
    #[error("{host}:{port} did not answer within {timeout:?}; see whether it can be reached")]
    TimedOut {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// How long was waited.
        timeout: Duration,
    },
    /// No name that a certificate could prove.
    #[error("{name} is neither a host name nor an address")]
    Name {
        /// The name.
        name: String,
    },
    /// TLS was not agreed.
    #[error("no TLS with {host}; check the certificate authorities on both sides")]
    Handshake {
        /// The host.
        host: String,
        /// What rustls said.
        #[source]
        source: io::Error,
    },
}

/// Connects to `host`, a name or an address, trying its addresses one after the other. The caller bounds the time.
pub async fn dial(host: &str, port: u16, resolver: Option<&dyn Resolve>) -> Result<TcpStream, DialError> {
    let found = match (host.parse::<IpAddr>(), resolver) {
        (Ok(address), _) => Ok(vec![address]),
        (_, Some(resolver)) => resolver.resolve(host).await,
        (_, None) => system(host).await,
    };
    let unknown = |source| DialError::Unknown { host: host.to_owned(), source };
    let addresses = found.map_err(unknown)?;
    let mut refused = unknown(io::ErrorKind::NotFound.into());
    for address in addresses.into_iter().take(ADDRESSES_MAX) {
        let address = SocketAddr::new(address, port);
        match connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(source) => refused = DialError::Refused { address, source },
        }
    }
    Err(refused)
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_nodelay(true)?;
    crate::keepalive::ask(&socket)?;
    socket.connect(address).await
}

async fn system(host: &str) -> io::Result<Vec<IpAddr>> {
    if host == "localhost" {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    // Made anew each time, so that a changed resolv.conf counts at once; connections are pooled, so this is rare.
    let resolver = hickory_resolver::TokioResolver::builder_tokio()
        .and_then(hickory_resolver::ResolverBuilder::build)
        .map_err(io::Error::other)?;
    let found = resolver.lookup_ip(host).await.map_err(io::Error::other)?;
    let mut addresses: Vec<IpAddr> = found.iter().collect();
    // Machines without a way out by IPv6 often still have an address of it.
    addresses.sort_by_key(IpAddr::is_ipv6);
    Ok(addresses)
}

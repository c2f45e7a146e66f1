//! What a stranger may use of a server.

use std::time::Duration;

/// The longest request line's target, in bytes, and over HTTP/2 the longest list of headers. It is the bound of
/// [`http::Uri`], which cannot hold more, so that no setting moves it. Over HTTP/1.1 more is answered with 414 and words
/// ([`super::Server::with_refusals`]). Over HTTP/2 the target is a header, and a server can answer none that is too
/// long but by breaking the stream; therefore clients are told this bound for all headers together: most then refuse to
/// send (`request header list larger than peer's advertised limit`), others get an empty 431.
pub const REQUEST_TARGET_BYTES: u32 = u16::MAX as u32 - 1;

/// Bounds of one server. The defaults suit an API server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; further ones wait in the listen queue.
    pub connections: usize,
    /// Those of one peer: an address of IPv4, or a /64 of IPv6. Further ones are closed at once.
    pub connections_of_peer: usize,
    /// From the connection to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From there to the first whole head of a request; who connects and says nothing costs memory.
    pub first_request_timeout: Duration,
    /// A connection without a request for this long is closed. It also bounds how long an HTTP/1.1 header may take.
    pub idle_timeout: Duration,
    /// All headers of a request together; over HTTP/2 at most [`REQUEST_TARGET_BYTES`].
    pub header_bytes: u32,
    /// Header fields of a request (HTTP/1.1).
    pub header_fields: usize,
    /// Requests at once on one HTTP/2 connection.
    pub http2_streams: u32,
    /// Flow-control window of one HTTP/2 stream.
    pub http2_stream_window_bytes: u32,
    /// Flow-control window of one HTTP/2 connection.
    pub http2_connection_window_bytes: u32,
    /// Unsent bytes that one HTTP/2 stream may hold.
    pub http2_send_buffer_bytes: usize,
    /// How often an HTTP/2 peer is asked whether it lives.
    pub http2_ping_interval: Duration,
    /// How long it may take to answer.
    pub http2_ping_timeout: Duration,
    /// Whether HTTP/2 without TLS is taken from clients that begin with it.
    pub http2_plaintext: bool,
}

/// The most connections of one server.
const CONNECTIONS_MAX: usize = 16_384;
/// So many peers must come together to take all connections.
const PEERS: usize = 4;
/// What a peer has in any case, where there are few connections at all.
const OF_PEER_LEAST: usize = 32;

impl Limits {
    /// The default ones for one of `servers` servers of a process that may have `descriptors` files open: the
    /// connections of all of them together leave half of those for everything else.
    pub fn within(descriptors: u64, servers: u64) -> Self {
        let share = usize::try_from(descriptors / 2 / servers.max(1)).unwrap_or(usize::MAX);
        let connections = share.clamp(1, CONNECTIONS_MAX);
        let connections_of_peer = (connections / PEERS).max(OF_PEER_LEAST.min(connections));
        Self { connections, connections_of_peer, ..Self::default() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: CONNECTIONS_MAX,
            connections_of_peer: CONNECTIONS_MAX / PEERS,
            handshake_timeout: Duration::from_secs(5),
            first_request_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(90),
            // Go's http.DefaultMaxHeaderBytes is 1 MiB; bearer tokens and impersonation need far less.
            header_bytes: 256 * 1024,
            header_fields: 256,
            // Upstream serves 250 too; clients count on at least 100.
            http2_streams: 250,
            http2_stream_window_bytes: 256 * 1024,
            http2_connection_window_bytes: 25 * 256 * 1024,
            http2_send_buffer_bytes: 400 * 1024,
            http2_ping_interval: Duration::from_secs(30),
            http2_ping_timeout: Duration::from_secs(15),
            http2_plaintext: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_what_a_process_may_have() {
        let of = |descriptors| {
            let limits = Limits::within(descriptors, 3);
            (limits.connections, limits.connections_of_peer)
        };
        assert_eq!(of(1_048_576), (16_384, 4096));
        assert_eq!(of(u64::MAX), (16_384, 4096));
        assert_eq!(of(20_000), (3333, 833));
        assert_eq!(of(1024), (170, 42));
        assert_eq!(of(12), (2, 2));
        assert_eq!(of(0), (1, 1));
    }
}

//! What a stranger may use of a server.

use std::time::Duration;

/// Bounds of one server. The defaults suit an API server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; further ones wait in the listen queue.
    pub connections: usize,
    /// From the connection to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// A connection without a request for this long is closed. It also bounds how long an HTTP/1.1 header may take.
    pub idle_timeout: Duration,
    /// All headers of a request together.
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

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            handshake_timeout: Duration::from_secs(10),
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

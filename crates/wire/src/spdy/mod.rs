//! SPDY/3.1: many streams over one connection, as Kubernetes' clients use it for exec, attach and port-forward.
//!
//! Source: the draft "SPDY Protocol - Draft 3.1". Deliberately absent: everything that concerns HTTP inside of SPDY,
//! server push, priorities and credentials. Clients of Kubernetes ignore flow control; we tell our windows, and heed
//! the peer's only once it has shown that it has any.

mod connection;
mod frame;
mod headers;
mod reader;
mod stream;
#[cfg(test)]
mod tests;

pub use connection::{Connection, OpenError, Role};
pub use frame::{Frame, FrameError, Header};
pub use headers::{Deflater, Headers, HeadersError, Inflater};
pub use stream::Stream;

/// Status of a reset (draft 3.1, 2.6.3).
pub mod status {
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// The stream was refused before it began.
    pub const REFUSED_STREAM: u32 = 3;
    /// The stream is wanted no more.
    pub const CANCEL: u32 = 5;
}

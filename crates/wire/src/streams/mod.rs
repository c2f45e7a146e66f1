//! The streams of exec, attach and port-forward, however the client speaks: WebSocket channels in all their versions,
//! SPDY, or SPDY in a WebSocket. Who serves pods consumes only this.

mod negotiate;
mod output;
mod port_forward;
mod read_only;
mod remote_command;

pub use negotiate::Refusal;
pub use port_forward::{ErrorSink, Forwarded, PortForward, accept_port_forward};
pub use read_only::accept_read_only;
pub use remote_command::{RemoteCommand, Resizes, Size, Wanted, accept_remote_command};

use std::time::Duration;

use base::{Clock, Stop, Tasks};
use tokio::io::{AsyncRead, AsyncWrite};

/// How long a client may take to open the streams that belong together.
pub const CREATION_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes that come from the client.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;
/// Bytes that go to the client. Dropping it ends it after what was written.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// What streams live in.
#[derive(Clone, Debug)]
pub struct Context {
    /// For timeouts.
    pub clock: Clock,
    /// Where the tasks that move bytes run.
    pub tasks: Tasks,
    /// Cuts all streams.
    pub stop: Stop,
}

/// Why an accepted session did not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection was not handed over.
    #[error("the connection broke before the streams began; connect again")]
    Upgrade(#[from] hyper::Error),
    /// The client opened too few streams.
    #[error("the client did not open its streams within {CREATION_TIMEOUT:?}; it misses {missing}")]
    Missing {
        /// The first stream that is missing.
        missing: &'static str,
    },
    /// The client went away.
    #[error("the client went away before the streams began")]
    Gone,
}

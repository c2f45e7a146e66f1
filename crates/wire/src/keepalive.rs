//! Noticing peers that have gone without a word. Over a connection on which we only wait, nothing else ever would: the
//! system's own two hours are far too long for an open terminal or a watch.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

/// A connection that is silent for so long is asked whether its peer lives.
const IDLE: Duration = Duration::from_secs(30);
/// How long until it is asked again.
const INTERVAL: Duration = Duration::from_secs(15);
/// How often it is asked before it is given up.
const PROBES: u32 = 3;

/// Has the kernel ask on a TCP socket. A listening one hands that on to all that it accepts.
pub fn ask(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_keepidle(&socket, IDLE)?;
    sockopt::set_tcp_keepintvl(&socket, INTERVAL)?;
    sockopt::set_tcp_keepcnt(&socket, PROBES)?;
    Ok(sockopt::set_socket_keepalive(&socket, true)?)
}

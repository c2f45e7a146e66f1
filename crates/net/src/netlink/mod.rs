//! Netlink: sockets, and messages as bytes.
//!
//! The kernel handles a request before `send` returns, so the answers of a batch are read without waiting.

pub(crate) mod message;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use thiserror::Error;

use crate::sys;
use message::{Attributes, Batch, HEADER_BYTES, Header};

/// How much one read takes: the kernel cuts its dumps to the size of the reader's buffer, at most 32 KiB.
const RECEIVE_BYTES: usize = 65_536;
/// The receive buffer of a socket: acknowledgements of a large batch and dumps wait here.
const RECEIVE_QUEUE_BYTES: usize = 4 << 20;

/// Which kernel subsystem a socket speaks to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subsystem {
    /// Links, addresses, routes.
    Route,
    /// nftables and connection tracking.
    Netfilter,
    /// Sockets of all programs.
    Sockets,
}

/// What went wrong between us and the kernel.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// The socket itself failed.
    #[error("netlink socket: {action} failed")]
    Socket { action: &'static str, source: io::Error },
    /// The kernel said no.
    #[error("the kernel refused to {action}{}{explanation}", if explanation.is_empty() { "" } else { ": " })]
    Refused { action: String, explanation: String, source: io::Error },
    /// An answer that does not follow the protocol.
    #[error("the kernel's answer to {action} cannot be read; this is a bug or an unknown kernel")]
    Garbled { action: String },
}

impl NetlinkError {
    /// The errno of a refusal.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } | Self::Socket { source, .. } => source.raw_os_error(),
            Self::Garbled { .. } => None,
        }
    }

    pub(crate) fn is(&self, errno: Errno) -> bool {
        self.errno() == Some(errno.raw_os_error())
    }
}

/// A blocking netlink socket. It belongs to the network namespace that it was opened in.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    sent_queue_bytes: usize,
}

/// One refused message of a batch.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) errno: i32,
    pub(crate) explanation: String,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open(subsystem: Subsystem) -> Result<Self, NetlinkError> {
        let protocol = match subsystem {
            // NETLINK_ROUTE is number 0.
            Subsystem::Route => None,
            Subsystem::Netfilter => Some(netlink::NETFILTER),
            Subsystem::Sockets => Some(netlink::SOCK_DIAG),
        };
        let failed =
            |action| move |errno: Errno| NetlinkError::Socket { action, source: io::Error::from(errno) };
        let fd =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
                .map_err(failed("opening"))?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0)).map_err(failed("binding"))?;
        // Without the capability the plain limit has to do; large batches then fail with a clear ENOBUFS.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&fd, RECEIVE_QUEUE_BYTES).is_err() {
            rustix::net::sockopt::set_socket_recv_buffer_size(&fd, RECEIVE_QUEUE_BYTES)
                .map_err(failed("setting the buffer"))?;
        }
        sys::explain_errors(fd.as_fd())
            .map_err(|source| NetlinkError::Socket { action: "setting options", source })?;
        Ok(Self { fd, sequence: 0, sent_queue_bytes: 0 })
    }

    /// An empty batch whose messages carry the socket's next sequence numbers.
    pub(crate) fn batch(&self) -> Batch {
        Batch::new(self.sequence.wrapping_add(1))
    }

    /// Sends all messages of `batch` at once and returns those that were refused.
    pub(crate) fn submit(&mut self, batch: &Batch) -> Result<Vec<Refusal>, NetlinkError> {
        self.send(batch)?;
        let mut refusals = Vec::new();
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let bytes = match self.receive(&mut buffer, RecvFlags::DONTWAIT) {
                Ok(bytes) => bytes,
                Err(Errno::AGAIN) => return Ok(refusals),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(NetlinkError::Socket { action: "receiving", source: errno.into() }),
            };
            let mut rest = &buffer[..bytes];
            while let Some((header, payload, next)) = Header::split(rest) {
                rest = next;
                if header.kind == message::NLMSG_ERROR
                    && let Some(refusal) = refusal(&header, payload)
                {
                    refusals.push(refusal);
                }
            }
        }
    }

    /// Sends `batch` and fails with the first refusal; `action` names it in words (`create bridge x`).
    pub(crate) fn execute(&mut self, batch: &Batch, action: &str) -> Result<(), NetlinkError> {
        match self.submit(batch)?.into_iter().next() {
            None => Ok(()),
            Some(refusal) => Err(refused(refusal, action)),
        }
    }

    /// Sends one request and collects the answers: each message's type and payload.
    pub(crate) fn query(
        &mut self,
        batch: &Batch,
        action: &str,
    ) -> Result<VecDeque<(u16, Vec<u8>)>, NetlinkError> {
        self.send(batch)?;
        let mut answers = VecDeque::new();
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let bytes = match self.receive(&mut buffer, RecvFlags::empty()) {
                Ok(bytes) => bytes,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(NetlinkError::Socket { action: "receiving", source: errno.into() }),
            };
            let mut rest = &buffer[..bytes];
            while let Some((header, payload, next)) = Header::split(rest) {
                rest = next;
                if header.sequence != self.sequence {
                    continue;
                }
                match header.kind {
                    message::NLMSG_DONE => return Ok(answers),
                    message::NLMSG_ERROR => match refusal(&header, payload) {
                        Some(refusal) => return Err(refused(refusal, action)),
                        None => return Ok(answers),
                    },
                    kind => answers.push_back((kind, payload.to_vec())),
                }
            }
            if !rest.is_empty() {
                return Err(NetlinkError::Garbled { action: action.to_owned() });
            }
        }
    }

    fn send(&mut self, batch: &Batch) -> Result<(), NetlinkError> {
        self.sequence = batch.last_sequence();
        let bytes = batch.bytes();
        // One batch is one buffer in the kernel, so the send queue must hold it whole.
        if bytes.len() + 4096 > self.sent_queue_bytes {
            let wanted = (bytes.len() + 4096).next_power_of_two().max(1 << 18);
            if rustix::net::sockopt::set_socket_send_buffer_size_force(&self.fd, wanted).is_ok() {
                self.sent_queue_bytes = wanted;
            }
        }
        loop {
            match rustix::net::sendto(&self.fd, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(NetlinkError::Socket { action: "sending", source: errno.into() }),
            }
        }
    }

    fn receive(&self, buffer: &mut [u8], flags: RecvFlags) -> Result<usize, Errno> {
        rustix::net::recv(&self.fd, buffer, flags).map(|(bytes, _)| bytes)
    }
}

/// `None` is an acknowledgement.
fn refusal(header: &Header, payload: &[u8]) -> Option<Refusal> {
    let errno = -i32::from_ne_bytes(payload.first_chunk::<4>().copied()?);
    if errno == 0 {
        return None;
    }
    // With NETLINK_CAP_ACK the payload is errno and the refused header; attributes that explain follow.
    let explanation = (header.flags & message::NLM_F_ACK_TLVS != 0)
        .then(|| payload.get(4 + HEADER_BYTES..))
        .flatten()
        .and_then(|attributes| {
            Attributes::new(attributes).find(|(kind, _)| *kind == message::NLMSGERR_ATTR_MSG)
        })
        .map(|(_, text)| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
        .unwrap_or_default();
    Some(Refusal { errno, explanation })
}

pub(crate) fn refused(refusal: Refusal, action: &str) -> NetlinkError {
    NetlinkError::Refused {
        action: action.to_owned(),
        explanation: refusal.explanation,
        source: io::Error::from_raw_os_error(refusal.errno),
    }
}

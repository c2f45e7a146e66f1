//! An agent's connection: frames in, frames out, never waiting.

use std::collections::VecDeque;
use std::io::{ErrorKind, Result};
use std::os::fd::{AsFd, OwnedFd};

use crate::protocol::{self, HEADER_BYTES, Request, Response, Wire};
use crate::sys::io::{self, READABLE, WRITABLE};

/// An agent that lets this much pile up is no longer listening.
const MAX_OUTGOING_BYTES: usize = 1 << 20;
const READ_BYTES: usize = 16 << 10;

/// One connection.
pub struct Connection {
    pub socket: OwnedFd,
    pub token: u64,
    /// Is told of changes.
    pub watching: bool,
    incoming: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    outgoing: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    written: usize,
    waiting: usize,
}

/// A request as it came.
pub struct Incoming {
    pub number: u32,
    pub request: std::result::Result<Request, protocol::Malformed>,
    pub descriptors: Vec<OwnedFd>,
}

impl Connection {
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            token: 0,
            watching: false,
            incoming: Vec::new(),
            descriptors: Vec::new(),
            outgoing: VecDeque::new(),
            written: 0,
            waiting: 0,
        }
    }

    /// Reads what is there. An error or `UnexpectedEof` means that the other side is gone.
    pub fn fill(&mut self) -> Result<()> {
        let mut buffer = [0; READ_BYTES];
        match io::receive(self.socket.as_fd(), &mut buffer, &mut self.descriptors) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.incoming.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The next whole request.
    pub fn next(&mut self) -> Result<Option<Incoming>> {
        let malformed = |_| std::io::Error::from(ErrorKind::InvalidData);
        let Some(head) = self.incoming.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let (length, count) = protocol::header(*head).map_err(malformed)?;
        let Some(body) = self.incoming.get(HEADER_BYTES..HEADER_BYTES + length) else { return Ok(None) };
        let (number, request) = protocol::body(body).map_err(malformed)?;
        if count > self.descriptors.len() {
            return Err(ErrorKind::InvalidData.into());
        }
        let descriptors = self.descriptors.drain(..count).collect();
        self.incoming.drain(..HEADER_BYTES + length);
        if self.incoming.is_empty() {
            // A large request should not cost memory for the life of the pod.
            self.incoming = Vec::new();
        }
        Ok(Some(Incoming { number, request, descriptors }))
    }

    /// Sends or queues a message.
    pub fn push(&mut self, number: u32, response: &Response, descriptors: Vec<OwnedFd>) -> Result<()> {
        let frame = protocol::frame(number, response, descriptors.len());
        self.waiting += frame.len();
        self.outgoing.push_back((frame, descriptors));
        self.flush()
    }

    /// Sends what is queued as far as it goes.
    pub fn flush(&mut self) -> Result<()> {
        while let Some((frame, descriptors)) = self.outgoing.front() {
            let fds: Vec<_> = descriptors.iter().filter(|_| self.written == 0).map(AsFd::as_fd).collect();
            match io::send(self.socket.as_fd(), &frame[self.written..], &fds) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock && self.waiting <= MAX_OUTGOING_BYTES => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            if self.written == frame.len() {
                self.waiting -= frame.len();
                self.written = 0;
                self.outgoing.pop_front();
            }
        }
        Ok(())
    }

    /// What to wait for.
    pub fn interest(&self) -> u32 {
        if self.outgoing.is_empty() { READABLE } else { READABLE | WRITABLE }
    }
}

/// Reads one value from a whole message of a child.
pub fn decode<T: Wire>(bytes: &[u8]) -> Option<T> {
    T::get(&mut protocol::Reader::new(bytes)).ok()
}

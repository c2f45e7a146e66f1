//! One client: bytes in, requests one after another, bytes out.

use alloc::vec::Vec;

use crate::request::{self, Parsed, Request};
use crate::sys::{self, Address, EAGAIN, EINTR, EPOLLIN, EPOLLOUT, File};

/// Buffers above this are given back after an answer.
const KEPT_BYTES: usize = 4096;

pub struct Connection {
    pub file: File,
    pub peer: Address,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    /// Body of the current request that is still to come and is thrown away.
    body_left: u64,
    /// The request whose body is coming in.
    waiting: Option<Request>,
    /// An answer that is held back, and until when.
    pub delayed: Option<(u64, Vec<u8>)>,
    close_after: bool,
    eof: bool,
    /// What epoll is asked to tell.
    pub interest: u32,
}

/// What the server does next with a connection.
pub enum Next {
    /// Answer this.
    Answer(Request),
    /// Answer with this status and close: the request makes no sense.
    Refuse(u16),
    /// Wait for the peer or for time.
    Wait,
    /// It is over.
    Close,
}

impl Connection {
    pub fn new(file: File, peer: Address) -> Self {
        Self {
            file,
            peer,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            body_left: 0,
            waiting: None,
            delayed: None,
            close_after: false,
            eof: false,
            interest: EPOLLIN,
        }
    }

    /// Whether no request is under way.
    pub fn is_idle(&self) -> bool {
        self.input.is_empty() && self.output.is_empty() && self.waiting.is_none() && self.delayed.is_none()
    }

    /// Reads what has come.
    pub fn receive(&mut self) {
        let mut buffer = [0_u8; 4096];
        while !self.eof && self.input.len() <= request::HEAD_MAX_BYTES {
            match sys::read(&self.file, &mut buffer) {
                Ok(0) => self.eof = true,
                Ok(count) => self.take(&buffer[..count]),
                Err(EINTR) => {}
                Err(EAGAIN) => return,
                Err(_) => {
                    self.eof = true;
                    self.output.clear();
                    self.close_after = true;
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let body = usize::try_from(self.body_left).unwrap_or(usize::MAX).min(bytes.len());
        self.body_left -= body as u64;
        self.input.extend_from_slice(&bytes[body..]);
    }

    /// What is to be done now; call it until it says to wait.
    pub fn next(&mut self) -> Next {
        if self.delayed.is_some() {
            return Next::Wait;
        }
        if !self.flush() {
            return if self.close_after && self.output.is_empty() { Next::Close } else { Next::Wait };
        }
        if self.close_after {
            return Next::Close;
        }
        if let Some(request) = self.waiting.take() {
            if self.body_left == 0 {
                return Next::Answer(request);
            }
            self.waiting = Some(request);
            return if self.eof { Next::Close } else { Next::Wait };
        }
        match request::parse(&self.input) {
            Parsed::Partial if self.eof => Next::Close,
            Parsed::Partial => Next::Wait,
            Parsed::Broken(status) => Next::Refuse(status),
            Parsed::Head(request, length) => {
                self.input.drain(..length);
                self.body_left = request.body_bytes;
                let rest = core::mem::take(&mut self.input);
                self.take(&rest);
                if request.expects_continue && self.body_left > 0 {
                    self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                self.waiting = Some(request);
                self.next()
            }
        }
    }

    /// Puts an answer in line.
    pub fn answer(&mut self, bytes: &[u8], close: bool) {
        self.output.extend_from_slice(bytes);
        self.close_after |= close;
    }

    pub fn hold_back(&mut self, until_ms: u64, bytes: Vec<u8>, close: bool) {
        self.delayed = Some((until_ms, bytes));
        self.close_after |= close;
    }

    /// Sends what can be sent; says whether all is out.
    pub fn flush(&mut self) -> bool {
        while self.sent < self.output.len() {
            match sys::send(&self.file, &self.output[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(EINTR) => {}
                Err(EAGAIN) => return false,
                Err(_) => {
                    self.output.clear();
                    self.sent = 0;
                    self.close_after = true;
                    return false;
                }
            }
        }
        self.output.clear();
        self.sent = 0;
        if self.output.capacity() > KEPT_BYTES {
            self.output = Vec::new();
        }
        if self.input.is_empty() && self.input.capacity() > KEPT_BYTES {
            self.input = Vec::new();
        }
        true
    }

    /// What to wait for. While an answer is held back nothing is read, or a peer that sends on would keep the loop
    /// busy.
    pub fn wanted(&self) -> u32 {
        match (self.sent < self.output.len(), self.delayed.is_some()) {
            (true, _) => EPOLLOUT,
            (false, true) => 0,
            (false, false) => EPOLLIN,
        }
    }
}

//! One attempt: its state, its streams and its log.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use crate::log::{Line, LogFile, STREAMS};
use crate::poller::{Poller, Source};
use crate::protocol::{Container, ContainerState, Ended, Failure};
use crate::sys::io::{self, READABLE, WRITABLE};
use crate::sys::process::{self, Birth};

/// Phases as the protocol numbers them.
pub const STARTING: u8 = 1;
pub const RUNNING: u8 = 2;
pub const ENDED: u8 = 3;
pub const FAILED: u8 = 4;

/// How much of a stream is taken at once.
const READ_BYTES: usize = 32 << 10;

/// An attempt.
pub struct Attempt {
    pub serial: u32,
    /// What it was started with; mounts and the like are dropped once it runs.
    pub spec: Container,
    pub state: ContainerState,
    pub handle: Option<OwnedFd>,
    /// Where to look for who is born in the place of the one that was forked.
    pub birth: Option<Birth>,
    pub report: Option<(OwnedFd, u64)>,
    /// Who waits for the start: connection and request.
    pub waiting: Vec<(u32, u32)>,
    /// The program's input, or its terminal's master.
    pub input: Option<OwnedFd>,
    pub terminal: Option<OwnedFd>,
    streams: [Option<Output>; 2],
    log: Option<LogFile>,
    attachers: Vec<Attacher>,
}

struct Output {
    descriptor: OwnedFd,
    token: u64,
    line: Line,
}

/// Somebody who gets a copy of a stream.
struct Attacher {
    serial: u32,
    stream: usize,
    descriptor: OwnedFd,
    token: u64,
    pending: Vec<u8>,
}

impl Attempt {
    pub fn new(serial: u32, spec: Container) -> Self {
        let state = ContainerState {
            name: spec.name.clone(),
            attempt: spec.attempt,
            phase: STARTING,
            ..ContainerState::default()
        };
        Self {
            serial,
            spec,
            state,
            handle: None,
            birth: None,
            report: None,
            waiting: Vec::new(),
            input: None,
            terminal: None,
            streams: [None, None],
            log: None,
            attachers: Vec::new(),
        }
    }

    pub fn is(&self, name: &str, attempt: u32) -> bool {
        self.state.name == name && self.state.attempt == attempt
    }

    pub fn lives(&self) -> bool {
        self.handle.is_some()
    }

    pub fn open_log(&mut self) -> std::io::Result<()> {
        self.log = Some(LogFile::open(&self.spec.log)?);
        Ok(())
    }

    pub fn rotate_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.rotate(io::now());
        }
    }

    /// If somebody was born in the place of the one that was forked, that is whom this is about from now on.
    pub fn meet_newborn(&mut self) {
        let Some(pid) = self.birth.as_ref().and_then(Birth::pid) else { return };
        self.birth = None;
        self.state.pid = pid as u32;
        // Without a handle of its own it is still found by its group and its number.
        self.handle = process::handle(pid).ok().or(self.handle.take());
    }

    /// Begins to read a stream.
    pub fn listen(&mut self, poller: &mut Poller, stream: usize, descriptor: OwnedFd) -> std::io::Result<()> {
        io::set_nonblocking(descriptor.as_fd())?;
        let token = poller.add(descriptor.as_fd(), Source::Output(self.serial, stream), READABLE)?;
        self.streams[stream] = Some(Output { descriptor, token, line: Line::default() });
        Ok(())
    }

    /// The program was executed.
    pub fn executed(&mut self) {
        self.state.phase = RUNNING;
        self.state.started_at_ns = nanoseconds(io::now());
        // Only what commands need is kept: identity, environment, groups.
        self.spec.mounts = Vec::new();
        self.spec.devices = Vec::new();
        self.spec.masked_paths = Vec::new();
        self.spec.read_only_paths = Vec::new();
        self.spec.root.lower = Vec::new();
        self.spec.cgroup.mounts = Vec::new();
    }

    /// The program was never executed.
    pub fn failed(&mut self, poller: &mut Poller, failure: Failure) {
        self.state.phase = FAILED;
        self.state.failure = Some(failure);
        self.close(poller);
    }

    /// The program ended: what is left in its pipes belongs to it, then everything is closed.
    pub fn ended(&mut self, poller: &mut Poller, code: i32, signal: i32) {
        (self.handle, self.birth) = (None, None);
        if self.state.phase == FAILED {
            return;
        }
        for stream in 0..2 {
            // Bounded: a process that escaped into the host's processes could write for ever.
            for _ in 0..64 {
                if !self.pump(poller, stream) {
                    break;
                }
            }
        }
        let out_of_memory = oom_kills(&self.spec.cgroup.oom_file) > 0;
        self.close(poller);
        self.state.phase = ENDED;
        self.state.pid = 0;
        self.state.ended = Ended { code, signal, at_ns: nanoseconds(io::now()), out_of_memory };
        self.spec.process = Default::default();
    }

    fn close(&mut self, poller: &mut Poller) {
        for stream in 0..2 {
            self.close_stream(poller, stream);
        }
        // Whoever has not taken everything yet still gets it, and is removed then.
        for index in (0..self.attachers.len()).rev() {
            if self.attachers[index].pending.is_empty() {
                self.remove_attacher(poller, index);
            }
        }
        if let Some((report, token)) = self.report.take() {
            poller.remove(report.as_fd(), token);
        }
        self.input = None;
        self.terminal = None;
        self.log = None;
    }

    fn close_stream(&mut self, poller: &mut Poller, stream: usize) {
        let Some(mut output) = self.streams[stream].take() else { return };
        let (mut records, now) = (Vec::new(), io::now());
        output.line.finish(STREAMS[stream], now, &mut records);
        if let Some(log) = &mut self.log {
            log.append(&records, now);
        }
        poller.remove(output.descriptor.as_fd(), output.token);
        for index in (0..self.attachers.len()).rev() {
            let attacher = &self.attachers[index];
            if attacher.stream == stream && attacher.pending.is_empty() {
                self.remove_attacher(poller, index);
            }
        }
    }

    /// Moves what a stream has to the log and to those attached; whether there may be more.
    pub fn pump(&mut self, poller: &mut Poller, stream: usize) -> bool {
        let Some(output) = &mut self.streams[stream] else { return false };
        let mut buffer = [0; READ_BYTES];
        let bytes = match io::read(output.descriptor.as_fd(), &mut buffer) {
            Ok(count) if count > 0 => &buffer[..count],
            Err(error) if error.kind() == ErrorKind::WouldBlock || error.kind() == ErrorKind::Interrupted => {
                return false;
            }
            // The end, or a terminal that nobody holds any more.
            _ => {
                self.close_stream(poller, stream);
                return false;
            }
        };
        let (mut records, now) = (Vec::new(), io::now());
        output.line.feed(STREAMS[stream], bytes, now, &mut records);
        if let Some(log) = &mut self.log {
            log.append(&records, now);
        }
        for index in (0..self.attachers.len()).rev() {
            if self.attachers[index].stream == stream {
                self.attachers[index].pending.extend_from_slice(bytes);
                self.flush(poller, index);
            }
        }
        true
    }

    /// Gives a copy of a stream from now on.
    pub fn attach(
        &mut self,
        poller: &mut Poller,
        serial: u32,
        stream: usize,
        descriptor: OwnedFd,
    ) -> std::io::Result<()> {
        io::set_nonblocking(descriptor.as_fd())?;
        // Without interests the kernel still tells when the reader is gone.
        let token = poller.add(descriptor.as_fd(), Source::Attacher(self.serial, serial), 0)?;
        self.attachers.push(Attacher { serial, stream, descriptor, token, pending: Vec::new() });
        Ok(())
    }

    /// An attacher has room, or is gone.
    pub fn attacher_ready(&mut self, poller: &mut Poller, serial: u32, events: u32) {
        let Some(index) = self.attachers.iter().position(|attacher| attacher.serial == serial) else {
            return;
        };
        if events & WRITABLE == 0 {
            self.remove_attacher(poller, index);
        } else {
            self.flush(poller, index);
        }
    }

    /// Writes what is pending. While somebody cannot take more, the program's stream waits: nothing is lost, and no
    /// memory piles up.
    fn flush(&mut self, poller: &mut Poller, index: usize) {
        let attacher = &mut self.attachers[index];
        let stream = attacher.stream;
        while !attacher.pending.is_empty() {
            match io::write(attacher.descriptor.as_fd(), &attacher.pending) {
                Ok(count) => drop(attacher.pending.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.remove_attacher(poller, index);
                    return self.resume(poller, stream);
                }
            }
        }
        let blocked = !attacher.pending.is_empty();
        poller.change(attacher.descriptor.as_fd(), attacher.token, if blocked { WRITABLE } else { 0 });
        if !blocked {
            attacher.pending = Vec::new();
            if self.streams[stream].is_none() {
                self.remove_attacher(poller, index);
            }
        }
        self.resume(poller, stream);
    }

    fn resume(&self, poller: &Poller, stream: usize) {
        let blocked = self.attachers.iter().any(|other| other.stream == stream && !other.pending.is_empty());
        if let Some(output) = &self.streams[stream] {
            poller.change(output.descriptor.as_fd(), output.token, if blocked { 0 } else { READABLE });
        }
    }

    fn remove_attacher(&mut self, poller: &mut Poller, index: usize) {
        let attacher = self.attachers.swap_remove(index);
        poller.remove(attacher.descriptor.as_fd(), attacher.token);
        self.resume(poller, attacher.stream);
    }
}

/// How often the kernel killed for memory in this group: the same line in both versions.
fn oom_kills(file: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

pub fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

//! The reading side of a connection.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader, ReadHalf};
use tokio::sync::mpsc;

use super::connection::{Core, Entry, OpenError, STREAM_BUFFER_BYTES, STREAMS_MAX};
use super::frame::HEADER_BYTES;
use super::stream::{Stream, Window};
use super::{Frame, FrameError, Header, Headers, Inflater, status};

/// Data is handed on in parts of this size, however long its frame is.
const STEP_BYTES: usize = 16 * 1024;

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// The peer broke the protocol.
    #[error("the peer broke the protocol")]
    Frame(#[from] FrameError),
}

pub(super) struct Reader<S> {
    input: BufReader<ReadHalf<S>>,
    inflater: Inflater,
    core: Arc<Core>,
    arrivals: mpsc::Sender<Stream>,
    /// Weak, so that a connection that nobody uses any more closes.
    output: mpsc::WeakSender<Frame>,
    buffer: Vec<u8>,
}

impl<S: AsyncRead> Reader<S> {
    pub(super) fn new(
        input: ReadHalf<S>,
        core: Arc<Core>,
        arrivals: mpsc::Sender<Stream>,
        output: mpsc::WeakSender<Frame>,
    ) -> Self {
        let input = BufReader::with_capacity(STEP_BYTES, input);
        Self { input, inflater: Inflater::default(), core, arrivals, output, buffer: Vec::new() }
    }

    /// Reads until the peer closes or breaks the protocol.
    pub(super) async fn run(mut self) -> Result<(), ReadError> {
        let mut header = [0; HEADER_BYTES];
        loop {
            match self.input.read_exact(&mut header).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                other => other?,
            };
            match Header::parse(&header)? {
                Header::Data { id, fin, length } => self.data(id, fin, length).await?,
                Header::Control { kind, flags, length } => {
                    self.buffer.resize(length, 0);
                    self.input.read_exact(&mut self.buffer).await?;
                    let frame = Frame::parse(kind, flags, &self.buffer, &mut self.inflater)?;
                    self.act(frame);
                }
            }
        }
    }

    async fn data(&mut self, id: u32, fin: bool, length: usize) -> Result<(), ReadError> {
        let entry =
            self.core.table().entries.get_mut(&id).map(|entry| (entry.pipe.take(), entry.window.clone()));
        let (mut pipe, window) = entry.unzip();
        let mut left = length;
        while left > 0 {
            self.buffer.resize(left.min(STEP_BYTES), 0);
            self.input.read_exact(&mut self.buffer).await?;
            left -= self.buffer.len();
            let taken = match &mut pipe {
                Some(Some(pipe)) => pipe.write_all(&self.buffer).await.is_ok(),
                _ => false,
            };
            match &window {
                Some(window) if taken => window.add_unread(self.buffer.len() as i64),
                // Nobody reads it, or it ended: what still comes is thrown away, as upstream does.
                _ => {
                    pipe = None;
                    self.core.consumed(self.buffer.len() as u32);
                }
            }
        }
        if !fin && let Some(entry) = self.core.table().entries.get_mut(&id) {
            entry.pipe = pipe.flatten();
        }
        Ok(())
    }

    fn act(&mut self, frame: Frame) {
        match frame {
            Frame::SynStream { id, fin, unidirectional, headers } => {
                self.arrive(id, fin, unidirectional, headers);
            }
            Frame::SynReply { id, fin, .. } => self.with_entry(id, |entry| {
                if let Some(reply) = entry.reply.take() {
                    let _ = reply.send(Ok(()));
                }
                if fin {
                    entry.pipe = None;
                }
            }),
            Frame::Headers { id, fin: true, .. } => self.with_entry(id, |entry| entry.pipe = None),
            Frame::Reset { id, status } => {
                let entry = self.core.table().entries.remove(&id);
                if let Some(mut entry) = entry {
                    entry.window.close();
                    if let Some(reply) = entry.reply.take() {
                        let _ = reply.send(Err(OpenError::Refused { status }));
                    }
                }
            }
            Frame::Ping { id } if self.core.role.is_peers(id) => self.core.control(Frame::Ping { id }),
            Frame::GoAway { .. } => self.core.table().goes_away = true,
            Frame::Settings { initial_window: Some(window) } => self.set_initial_window(i64::from(window)),
            Frame::WindowUpdate { id, delta } => {
                self.core.heed_windows();
                match id {
                    0 => self.core.window.grow(i64::from(delta)),
                    _ => self.with_entry(id, |entry| entry.window.grow(i64::from(delta))),
                }
            }
            Frame::Headers { .. }
            | Frame::Ping { .. }
            | Frame::Settings { initial_window: None }
            | Frame::Data { .. }
            | Frame::Unknown(_) => {}
        }
    }

    fn with_entry(&self, id: u32, act: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.core.table().entries.get_mut(&id) {
            act(entry);
        }
    }

    fn set_initial_window(&self, bytes: i64) {
        self.core.heed_windows();
        let mut table = self.core.table();
        let change = bytes - std::mem::replace(&mut table.initial_window_bytes, bytes);
        table.entries.values().for_each(|entry| entry.window.grow(change));
        drop(table);
        self.core.window.wake();
    }

    fn arrive(&self, id: u32, fin: bool, unidirectional: bool, headers: Headers) {
        let refuse = |status| self.core.control(Frame::Reset { id, status });
        let mut table = self.core.table();
        if !self.core.role.is_peers(id) || id <= table.last_peer_id {
            drop(table);
            return refuse(status::PROTOCOL_ERROR);
        }
        table.last_peer_id = id;
        let (Some(output), true) = (self.output.upgrade(), table.entries.len() < STREAMS_MAX) else {
            drop(table);
            return refuse(status::REFUSED_STREAM);
        };
        let (input, pipe) = tokio::io::duplex(STREAM_BUFFER_BYTES);
        let window = Arc::new(Window::new(table.initial_window_bytes));
        let pipe = (!fin).then_some(pipe);
        table.entries.insert(id, Entry { pipe, window: window.clone(), reply: None });
        drop(table);
        let mut stream = Stream::new(id, headers, input, window, self.core.clone(), output);
        stream.finished = unidirectional;
        // If nobody takes it, dropping it resets it.
        drop(self.arrivals.try_send(stream));
    }
}

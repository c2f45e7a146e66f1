//! One connection and its streams. A task reads its frames, another writes them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::{Clock, Stop, Stopper, Tasks};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream, WriteHalf};
use tokio::sync::{mpsc, oneshot};

use super::reader::Reader;
use super::stream::{INITIAL_WINDOW_BYTES, Stream, Window};
use super::{Deflater, Frame, Headers};

/// Streams at once.
pub(super) const STREAMS_MAX: usize = 256;
/// What may wait to be read on one stream. When it is full, the whole connection waits, as it does upstream.
pub(super) const STREAM_BUFFER_BYTES: usize = 256 * 1024;
/// Data frames that may wait to be written.
const DATA_QUEUE_FRAMES: usize = 32;
/// Other frames that may wait to be written. A peer that makes us answer more without reading is cut.
const CONTROL_QUEUE_FRAMES: usize = 4096;
/// Frames are gathered up to here before they are written.
const WRITE_BUFFER_BYTES: usize = 64 * 1024;
/// How long the peer may take to close after we did.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// So much is consumed on all streams before the peer is told.
const TELL_CONSUMED_BYTES: u32 = 32 * 1024;

/// Which side of a connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We open odd streams.
    Client,
    /// We open even streams.
    Server,
}

impl Role {
    /// Whether streams and pings with `id` are begun by the peer.
    pub(super) fn is_peers(self, id: u32) -> bool {
        (id % 2 == 1) == (self == Self::Server)
    }
}

/// Why a stream was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer said no.
    #[error("the peer refused the stream (status {status})")]
    Refused {
        /// Why: see [`super::status`].
        status: u32,
    },
    /// There are too many.
    #[error("the connection has {STREAMS_MAX} streams already; close one first")]
    TooMany,
    /// The connection is gone or going.
    #[error("the connection takes no more streams; connect again")]
    Gone,
}

/// A connection. It closes when it and all of its streams are dropped.
pub struct Connection {
    core: Arc<Core>,
    output: mpsc::Sender<Frame>,
    incoming: mpsc::Receiver<Stream>,
    opening: tokio::sync::Mutex<()>,
}

/// What streams and tasks share.
pub(super) struct Core {
    pub role: Role,
    pub window: Window,
    table: Mutex<Table>,
    control: mpsc::Sender<Frame>,
    ended: Stopper,
    heeds_windows: AtomicBool,
    consumed_bytes: AtomicU32,
}

/// The streams.
pub(super) struct Table {
    pub entries: HashMap<u32, Entry>,
    pub last_peer_id: u32,
    pub initial_window_bytes: i64,
    pub goes_away: bool,
    next_id: u32,
}

/// What the reader knows about a stream.
pub(super) struct Entry {
    /// Where its bytes go; `None` once the peer has ended it.
    pub pipe: Option<DuplexStream>,
    pub window: Arc<Window>,
    /// Who waits for the peer to accept it.
    pub reply: Option<oneshot::Sender<Result<(), OpenError>>>,
}

impl Core {
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a frame that goes before all data.
    pub(super) fn control(&self, frame: Frame) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.control.try_send(frame) {
            tracing::debug!("a SPDY peer does not read our answers; cutting it");
            self.ended.stop();
        }
    }

    pub(super) fn forget(&self, id: u32) {
        self.table().entries.remove(&id);
    }

    pub(super) fn heeds_windows(&self) -> bool {
        self.heeds_windows.load(Ordering::Relaxed)
    }

    pub(super) fn heed_windows(&self) {
        self.heeds_windows.store(true, Ordering::Relaxed);
    }

    /// Bytes were read by us or thrown away: the connection's window opens again.
    pub(super) fn consumed(&self, bytes: u32) {
        let before = self.consumed_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.wrapping_add(bytes) >= TELL_CONSUMED_BYTES {
            let delta = self.consumed_bytes.swap(0, Ordering::Relaxed);
            if delta > 0 {
                self.control(Frame::WindowUpdate { id: 0, delta });
            }
        }
    }
}

impl Connection {
    /// Speaks SPDY over `stream` until it ends or `stop` comes.
    pub fn start<S>(stream: S, role: Role, clock: &Clock, tasks: &Tasks, stop: &Stop) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (output, data) = mpsc::channel(DATA_QUEUE_FRAMES);
        let (control_sender, control) = mpsc::channel(CONTROL_QUEUE_FRAMES);
        let (arrivals, incoming) = mpsc::channel(STREAMS_MAX);
        let core = Arc::new(Core {
            role,
            window: Window::new(INITIAL_WINDOW_BYTES),
            table: Mutex::new(Table {
                entries: HashMap::new(),
                last_peer_id: 0,
                initial_window_bytes: INITIAL_WINDOW_BYTES,
                goes_away: false,
                next_id: if role == Role::Client { 1 } else { 2 },
            }),
            control: control_sender,
            ended: Stopper::child(stop),
            heeds_windows: AtomicBool::new(false),
            consumed_bytes: AtomicU32::new(0),
        });
        let (read_half, write_half) = tokio::io::split(stream);
        let (core_of_writer, clock) = (core.clone(), clock.clone());
        tasks.spawn("spdy writer", async move {
            let ended = core_of_writer.ended.signal();
            if let Some(Ok(())) = ended.or(write(write_half, control, data)).await {
                let _ = clock.timeout(CLOSE_TIMEOUT, ended.stopped()).await;
            }
            core_of_writer.ended.stop();
        });
        let reader = Reader::new(read_half, core.clone(), arrivals, output.downgrade());
        let core_of_reader = core.clone();
        tasks.spawn("spdy reader", async move {
            if let Some(Err(error)) = core_of_reader.ended.signal().or(reader.run()).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "a SPDY connection broke");
            }
            core_of_reader.ended.stop();
            // Dropping the pipes ends all reading; closing the windows ends all writing.
            let entries = std::mem::take(&mut core_of_reader.table().entries);
            entries.values().for_each(|entry| entry.window.close());
            core_of_reader.window.close();
        });
        Self { core, output, incoming, opening: tokio::sync::Mutex::default() }
    }

    /// The next stream that the peer opens, to be accepted or refused; `None` once the connection is gone.
    pub async fn next(&mut self) -> Option<Stream> {
        self.incoming.recv().await
    }

    /// Opens a stream and waits until the peer accepts it.
    pub async fn open(&self, headers: Headers) -> Result<Stream, OpenError> {
        let (reply, replied) = oneshot::channel();
        let (input, pipe) = tokio::io::duplex(STREAM_BUFFER_BYTES);
        // Streams must appear on the wire in the order of their numbers.
        let turn = self.opening.lock().await;
        let (id, window) = {
            let mut table = self.core.table();
            if table.goes_away || self.core.ended.signal().is_stopped() || table.next_id > i32::MAX as u32 {
                return Err(OpenError::Gone);
            }
            if table.entries.len() >= STREAMS_MAX {
                return Err(OpenError::TooMany);
            }
            let id = table.next_id;
            table.next_id += 2;
            let window = Arc::new(Window::new(table.initial_window_bytes));
            let entry = Entry { pipe: Some(pipe), window: window.clone(), reply: Some(reply) };
            table.entries.insert(id, entry);
            (id, window)
        };
        let stream = Stream::new(id, headers.clone(), input, window, self.core.clone(), self.output.clone());
        let frame = Frame::SynStream { id, fin: false, unidirectional: false, headers };
        self.output.send(frame).await.map_err(|_| OpenError::Gone)?;
        drop(turn);
        match self.core.ended.signal().or(replied).await {
            Some(Ok(Ok(()))) => Ok(stream),
            Some(Ok(Err(refused))) => Err(refused),
            Some(Err(_)) | None => Err(OpenError::Gone),
        }
    }

    /// Comes when the connection is gone.
    pub fn ended(&self) -> Stop {
        self.core.ended.signal()
    }
}

async fn write<S: AsyncWrite>(
    mut stream: WriteHalf<S>,
    mut control: mpsc::Receiver<Frame>,
    mut data: mpsc::Receiver<Frame>,
) -> std::io::Result<()> {
    let (mut deflater, mut out) = (Deflater::default(), Vec::new());
    loop {
        let frame = tokio::select! {
            biased;
            Some(frame) = control.recv() => Some(frame),
            frame = data.recv() => frame,
        };
        let Some(frame) = frame else { break };
        frame.write(&mut deflater, &mut out);
        while out.len() < WRITE_BUFFER_BYTES {
            let Ok(frame) = control.try_recv().or_else(|_| data.try_recv()) else { break };
            frame.write(&mut deflater, &mut out);
        }
        stream.write_all(&out).await?;
        stream.flush().await?;
        out.clear();
    }
    // All that could write data is gone; answers that wait still count.
    while let Ok(frame) = control.try_recv() {
        frame.write(&mut deflater, &mut out);
    }
    stream.write_all(&out).await?;
    stream.shutdown().await
}

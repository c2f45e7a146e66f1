//! One stream: bytes both ways, each way with an end of its own.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::connection::Core;
use super::{Frame, Headers, status};

/// Longer writes become several frames.
const WRITE_MAX_BYTES: usize = 32 * 1024;
/// The window of a stream and of a connection until it is changed (draft 3.1, 2.6.8).
pub(super) const INITIAL_WINDOW_BYTES: i64 = 64 * 1024;
/// So much is read before the peer is told.
const TELL_READ_BYTES: u32 = 32 * 1024;

/// How much the peer will take.
#[derive(Debug)]
pub(super) struct Window {
    state: Mutex<WindowState>,
    /// The other direction: bytes that wait to be read by us.
    unread_bytes: AtomicI64,
}

#[derive(Debug)]
struct WindowState {
    left: i64,
    closed: bool,
    waiting: Vec<Waker>,
}

impl Window {
    pub(super) fn new(bytes: i64) -> Self {
        let state = WindowState { left: bytes, closed: false, waiting: Vec::new() };
        Self { state: Mutex::new(state), unread_bytes: AtomicI64::new(0) }
    }

    fn change(&self, change: impl FnOnce(&mut WindowState)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    pub(super) fn grow(&self, bytes: i64) {
        self.change(|state| state.left = state.left.saturating_add(bytes));
    }

    pub(super) fn close(&self) {
        self.change(|state| state.closed = true);
    }

    pub(super) fn wake(&self) {
        self.change(|_| {});
    }

    /// How many bytes may be sent now: any number while windows are not `heeded`.
    fn poll_left(&self, heeded: bool, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        match usize::try_from(state.left) {
            _ if !heeded => Poll::Ready(Ok(usize::MAX)),
            Ok(left) if left > 0 => Poll::Ready(Ok(left)),
            _ => {
                if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                    state.waiting.push(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    pub(super) fn add_unread(&self, bytes: i64) {
        self.unread_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn spend(&self, bytes: usize) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).left -= bytes as i64;
    }
}

/// A stream. Shutting it down ends our side; dropping it before that resets it.
pub struct Stream {
    pub(super) id: u32,
    pub(super) headers: Headers,
    pub(super) input: DuplexStream,
    pub(super) window: Arc<Window>,
    pub(super) core: Arc<Core>,
    pub(super) output: PollSender<Frame>,
    pub(super) finished: bool,
    pub(super) untold_bytes: u32,
}

impl Stream {
    pub(super) fn new(
        id: u32,
        headers: Headers,
        input: DuplexStream,
        window: Arc<Window>,
        core: Arc<Core>,
        output: mpsc::Sender<Frame>,
    ) -> Self {
        let output = PollSender::new(output);
        Self { id, headers, input, window, core, output, finished: false, untold_bytes: 0 }
    }

    /// What its opener says that it is for.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Its number; odd if a client opened it.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Accepts a stream that the peer opened. Peers wait for that before they send.
    pub fn accept(&self) {
        self.core.control(Frame::SynReply { id: self.id, fin: false, headers: Headers::default() });
    }

    /// Refuses a stream that the peer opened.
    pub fn refuse(mut self) {
        self.finished = true;
        self.core.control(Frame::Reset { id: self.id, status: status::REFUSED_STREAM });
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.core.forget(self.id);
        // What was never read leaves the connection's window all the same.
        self.core.consumed(u32::try_from(self.window.unread_bytes.swap(0, Ordering::Relaxed)).unwrap_or(0));
        if !self.finished {
            self.core.control(Frame::Reset { id: self.id, status: status::CANCEL });
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.input).poll_read(context, buffer))?;
        let count = (buffer.filled().len() - before) as u32;
        self.untold_bytes += count;
        if self.untold_bytes >= TELL_READ_BYTES {
            let delta = std::mem::take(&mut self.untold_bytes);
            self.core.control(Frame::WindowUpdate { id: self.id, delta });
        }
        self.window.add_unread(-i64::from(count));
        self.core.consumed(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        if self.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let heeded = self.core.heeds_windows();
        let left =
            ready!(self.window.poll_left(heeded, cx))?.min(ready!(self.core.window.poll_left(heeded, cx))?);
        ready!(self.output.poll_reserve(cx)).map_err(gone)?;
        let part = Bytes::copy_from_slice(&bytes[..bytes.len().min(WRITE_MAX_BYTES).min(left)]);
        let count = part.len();
        self.window.spend(count);
        self.core.window.spend(count);
        let frame = Frame::Data { id: self.id, fin: false, bytes: part };
        Poll::Ready(self.output.send_item(frame).map(|()| count).map_err(gone))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.output.poll_reserve(cx)).map_err(gone)?;
        self.finished = true;
        let frame = Frame::Data { id: self.id, fin: true, bytes: Bytes::new() };
        Poll::Ready(self.output.send_item(frame).map_err(gone))
    }
}

//! Writes of one turn in one piece.
//!
//! HTTP/2 writes and flushes every frame by itself. Each of these costs a system call, which is more than all else when
//! many streams have something to say at once. So below TLS there is a cork: what a connection writes while it is
//! polled once becomes TLS records at once, and these go out together when the poll ends, or when there are many.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much goes out in the middle of a poll. A call into the kernel costs as much as the encryption of some of this, and
/// wakes the client, too.
const CORKED_BYTES: usize = 128 * 1024;
/// How much TLS may hold back: what is corked, and a record that was not yet looked at.
pub(super) const HELD_BYTES: usize = 2 * CORKED_BYTES;

/// Whether a stream is corked. It is not until somebody says so.
#[derive(Clone, Default)]
pub(super) struct Cork(Arc<AtomicBool>);

impl Cork {
    fn set(&self, corked: bool) {
        self.0.store(corked, Ordering::Relaxed);
    }
}

/// A stream that takes only much at once while it is corked.
pub(super) struct Corked<I> {
    io: I,
    cork: Cork,
}

impl<I> Corked<I> {
    pub(super) fn new(io: I, cork: Cork) -> Self {
        Self { io, cork }
    }

    fn takes(&self, bytes: usize) -> bool {
        bytes >= CORKED_BYTES || !self.cork.0.load(Ordering::Relaxed)
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Corked<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Corked<I> {
    /// Where it takes nothing, nobody is woken: whoever corked it uncorks it (see [`Sender::send`]).
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.takes(bytes.len()) {
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.takes(slices.iter().map(|slice| slice.len()).sum()) {
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

struct Inner<I> {
    io: I,
    /// Whether something could not be written in this turn.
    starved: bool,
}

/// What a connection writes to: TLS over a corked stream. It is locked by one task only, so nobody ever waits for
/// the lock.
pub(super) struct Gathering<I> {
    inner: Arc<Mutex<Inner<I>>>,
    cork: Cork,
}

/// Sends what a turn has gathered.
pub(super) struct Sender<I> {
    inner: Arc<Mutex<Inner<I>>>,
    cork: Cork,
}

/// Splits a stream, whose cork is given, into what a connection uses and what sends at the end of each poll of it.
pub(super) fn gathering<I>(io: I, cork: Cork) -> (Gathering<I>, Sender<I>) {
    cork.set(true);
    let inner = Arc::new(Mutex::new(Inner { io, starved: false }));
    (Gathering { inner: Arc::clone(&inner), cork: cork.clone() }, Sender { inner, cork })
}

fn locked<I>(inner: &Mutex<Inner<I>>) -> MutexGuard<'_, Inner<I>> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<I: AsyncWrite + Unpin> Sender<I> {
    /// Sends what was gathered. What cannot go yet wakes the task when it can.
    pub(super) fn send(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = locked(&self.inner);
        self.cork.set(false);
        let sent = Pin::new(&mut inner.io).poll_flush(context);
        self.cork.set(true);
        if sent.is_ready() && std::mem::take(&mut inner.starved) {
            // There is room now, and nothing else would tell.
            context.waker().wake_by_ref();
        }
        sent
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Gathering<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut locked(&self.inner).io).poll_read(context, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Gathering<I> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = locked(&self.inner);
        let written = Pin::new(&mut inner.io).poll_write(context, bytes);
        inner.starved |= written.is_pending();
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = locked(&self.inner);
        let written = Pin::new(&mut inner.io).poll_write_vectored(context, slices);
        inner.starved |= written.is_pending();
        written
    }

    fn is_write_vectored(&self) -> bool {
        locked(&self.inner).io.is_write_vectored()
    }

    /// Nothing: the end of the poll sends.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cork.set(false);
        let ended = Pin::new(&mut locked(&self.inner).io).poll_shutdown(context);
        ready!(ended)?;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_corked_stream_takes_only_much_at_once_until_the_turn_ends() {
        let (near, mut far) = tokio::io::duplex(3 * CORKED_BYTES);
        let cork = Cork::default();
        let (mut gathering, sender) = gathering(Corked::new(near, cork.clone()), cork);
        let turn = async |gathering: &mut Gathering<_>, bytes: &[u8]| {
            std::future::poll_fn(|context| {
                Poll::Ready(Pin::new(&mut *gathering).poll_write(context, bytes).is_pending())
            })
            .await
        };
        assert!(turn(&mut gathering, b"little").await);
        // The one who was starved is woken once the turn has ended.
        let woken = Arc::new(Woken::default());
        let waker = std::task::Waker::from(woken.clone());
        let sent = sender.send(&mut Context::from_waker(&waker));
        assert!(matches!(sent, Poll::Ready(Ok(()))), "{sent:?}");
        assert_eq!(woken.0.swap(0, Ordering::Relaxed), 1);
        // Nobody else is.
        assert!(sender.send(&mut Context::from_waker(&waker)).is_ready());
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        assert!(!turn(&mut gathering, &vec![7; CORKED_BYTES]).await);
        gathering.shutdown().await.unwrap();
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, vec![7; CORKED_BYTES]);
    }
}

//! One body type for both directions and both sides.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::mpsc;

/// Why a body ended early. The connection is then cut, so that the peer cannot take the part for the whole.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A message body. The common ones (empty, one buffer) need no heap block.
#[derive(Default)]
pub enum Body {
    /// No bytes.
    #[default]
    Empty,
    /// One buffer, sent with its length.
    Full(Bytes),
    /// Several buffers, sent with their total length and written vectored, never joined.
    Chunks(Chunks),
    /// Buffers from a bounded channel: a watch. Ends when all senders are gone.
    Channel(mpsc::Receiver<Bytes>),
    /// Buffers from any stream, which may fail.
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>),
    /// What hyper reads from a connection.
    Incoming(Incoming),
}

/// Buffers with their total length.
pub struct Chunks {
    buffers: VecDeque<Bytes>,
    left: u64,
}

impl Body {
    /// Buffers that are written one after the other without being joined.
    pub fn chunks(buffers: impl IntoIterator<Item = Bytes>) -> Self {
        let buffers: VecDeque<Bytes> = buffers.into_iter().filter(|buffer| !buffer.is_empty()).collect();
        let left = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        Self::Chunks(Chunks { buffers, left })
    }

    /// A body that is fed through a channel of `capacity` buffers. When the peer goes away, `send` fails.
    pub fn channel(capacity: usize) -> (mpsc::Sender<Bytes>, Self) {
        let (sender, receiver) = mpsc::channel(capacity);
        (sender, Self::Channel(receiver))
    }

    /// Whether it goes on as long as somebody has something to say: nobody knows how long it is.
    pub fn lasts(&self) -> bool {
        matches!(self, Self::Channel(_) | Self::Stream(_))
    }

    /// A body that is polled from a stream.
    pub fn stream(stream: impl Stream<Item = Result<Bytes, Error>> + Send + 'static) -> Self {
        Self::Stream(Box::pin(stream))
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, hint) = match self {
            Self::Empty => ("Empty", self.size_hint()),
            Self::Full(_) => ("Full", self.size_hint()),
            Self::Chunks(_) => ("Chunks", self.size_hint()),
            Self::Channel(_) => ("Channel", self.size_hint()),
            Self::Stream(_) => ("Stream", self.size_hint()),
            Self::Incoming(_) => ("Incoming", self.size_hint()),
        };
        write!(f, "{kind}({:?})", hint.exact())
    }
}

macro_rules! from_bytes {
    ($($source:ty),*) => {$(
        impl From<$source> for Body {
            fn from(source: $source) -> Self {
                let bytes = Bytes::from(source);
                if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
            }
        }
    )*};
}
from_bytes!(Bytes, Vec<u8>, String, &'static str, &'static [u8]);

impl From<Incoming> for Body {
    fn from(incoming: Incoming) -> Self {
        Self::Incoming(incoming)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Chunks(chunks) => Poll::Ready(chunks.buffers.pop_front().map(|bytes| {
                chunks.left -= bytes.len() as u64;
                Ok(Frame::data(bytes))
            })),
            Self::Channel(receiver) => {
                receiver.poll_recv(context).map(|next| next.map(|b| Ok(Frame::data(b))))
            }
            Self::Stream(stream) => {
                stream.as_mut().poll_next(context).map(|next| next.map(|item| item.map(Frame::data)))
            }
            Self::Incoming(incoming) => Pin::new(incoming)
                .poll_frame(context)
                .map(|next| next.map(|frame| frame.map_err(Error::from))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Chunks(chunks) => chunks.buffers.is_empty(),
            Self::Channel(_) | Self::Stream(_) => false,
            Self::Incoming(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Chunks(chunks) => SizeHint::with_exact(chunks.left),
            Self::Channel(_) | Self::Stream(_) => SizeHint::default(),
            Self::Incoming(incoming) => incoming.size_hint(),
        }
    }
}

/// Why a body could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Answer 413.
    #[error("the body is larger than {limit_bytes} bytes; send less at once")]
    TooLarge {
        /// The limit that was met.
        limit_bytes: usize,
    },
    /// The peer stopped in the middle.
    #[error("the body could not be read to its end; send it again")]
    Broken(#[source] Error),
}

/// Of a body that is too large, bytes that are still taken and thrown away: over HTTP/1.1 a client hears the answer
/// only when it has sent all, and one whose connection is closed while it sends hears none.
const DISCARD_BYTES: usize = 32 << 20;

/// Reads a body whole, holding at most `limit_bytes`. A body that came in one buffer is not copied.
pub async fn read(body: Body, limit_bytes: usize) -> Result<Bytes, ReadError> {
    let too_large = || ReadError::TooLarge { limit_bytes };
    match body {
        Body::Empty => return Ok(Bytes::new()),
        Body::Full(bytes) if bytes.len() <= limit_bytes => return Ok(bytes),
        Body::Full(_) => return Err(too_large()),
        _ => {}
    }
    let announced = body.size_hint().lower();
    let mut body = std::pin::pin!(body);
    if announced > limit_bytes as u64 {
        discard(body).await;
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await {
        let Ok(data) = frame.map_err(ReadError::Broken)?.into_data() else { continue };
        let held = first.len() + joined.len();
        if data.len() > limit_bytes - held {
            discard(body).await;
            return Err(too_large());
        }
        if held == 0 {
            first = data;
            continue;
        }
        if !first.is_empty() {
            joined.reserve(first.len() + data.len());
            joined.extend_from_slice(&std::mem::take(&mut first));
        }
        joined.extend_from_slice(&data);
    }
    Ok(if joined.is_empty() { first } else { joined.freeze() })
}

/// Reads on without keeping anything, up to [`DISCARD_BYTES`].
async fn discard(mut body: Pin<&mut Body>) {
    let mut left = DISCARD_BYTES;
    while let Some(Ok(frame)) = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reads_up_to_the_limit_and_not_beyond() {
        let body = || Body::chunks(["ab", "", "cd", "e"].map(Bytes::from));
        assert_eq!(read(body(), 5).await.unwrap(), "abcde");
        assert!(matches!(read(body(), 4).await, Err(ReadError::TooLarge { limit_bytes: 4 })));
        let streamed = || Body::stream(futures::stream::iter(["ab", "cde"].map(|s| Ok(Bytes::from(s)))));
        assert_eq!(read(streamed(), 5).await.unwrap(), "abcde");
        assert!(matches!(read(streamed(), 4).await, Err(ReadError::TooLarge { .. })));
    }

    #[tokio::test]
    async fn what_is_too_large_is_taken_to_its_end_within_bounds() {
        let taken = std::sync::atomic::AtomicUsize::new(0);
        let taken: &'static _ = Box::leak(Box::new(taken));
        let buffers = |count: usize| {
            futures::stream::iter((0..count).map(move |_| {
                taken.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Ok(Bytes::from(vec![0; 1 << 20]))
            }))
        };
        assert!(matches!(read(Body::stream(buffers(9)), 1 << 20).await, Err(ReadError::TooLarge { .. })));
        assert_eq!(taken.swap(0, std::sync::atomic::Ordering::Relaxed), 9);
        assert!(matches!(read(Body::stream(buffers(99)), 1 << 20).await, Err(ReadError::TooLarge { .. })));
        let bound = (DISCARD_BYTES >> 20) + 3;
        assert_eq!(taken.load(std::sync::atomic::Ordering::Relaxed), bound);
    }

    #[tokio::test]
    async fn a_channel_body_ends_with_its_senders_and_a_failure_is_told() {
        let (sender, body) = Body::channel(2);
        sender.send("x".into()).await.unwrap();
        drop(sender);
        assert_eq!(read(body, 9).await.unwrap(), "x");
        let broken = Body::stream(futures::stream::iter([Ok(Bytes::from("x")), Err(Error::from("cut"))]));
        assert!(matches!(read(broken, 9).await, Err(ReadError::Broken(_))));
    }
}

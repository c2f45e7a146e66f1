//! Words for what hyper refuses by itself.
//!
//! A request line or headers that are too long never become a request: hyper answers with an empty 414 or 431. Over
//! HTTP/1.1 that answer is replaced on its way out by one that says what to do. Over HTTP/2 nobody can: there the
//! client learns the bound from our settings (and tells of it itself), or gets an empty 431.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Activity;

/// What a client is told.
pub struct Refusal {
    /// The body's media type.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

/// Says it for a status code.
pub type Refusals = fn(StatusCode) -> Refusal;

/// What hyper begins such answers with.
const HEADS: [(&[u8], StatusCode); 2] = [
    (b"HTTP/1.1 414 ", StatusCode::URI_TOO_LONG),
    (b"HTTP/1.1 431 ", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
];

/// A stream under a connection of HTTP/1.1.
pub(super) struct Worded<I> {
    io: I,
    activity: Arc<Activity>,
    refusals: Option<Refusals>,
    /// How many requests had begun when something was written last.
    begun: u64,
    /// What goes out in place of an answer of `replaced` bytes, and how much of it has gone.
    words: Vec<u8>,
    sent: usize,
    replaced: usize,
}

impl<I> Worded<I> {
    pub(super) fn new(io: I, activity: Arc<Activity>, refusals: Option<Refusals>) -> Self {
        Self { io, activity, refusals, begun: 0, words: Vec::new(), sent: 0, replaced: 0 }
    }

    /// Whether these bytes are an answer of hyper's own: no request has begun since the last answer.
    fn replace(&mut self, bytes: &[u8]) -> bool {
        let begun = self.activity.begun();
        let is_own = begun == self.begun && self.activity.is_idle();
        self.begun = begun;
        let found = HEADS.iter().find(|(head, _)| bytes.starts_with(head)).filter(|_| is_own);
        let (Some((_, code)), Some(refusals)) = (found, self.refusals) else { return false };
        let Refusal { content_type, body } = refusals(*code);
        self.words = format!(
            "HTTP/1.1 {code}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        )
        .into_bytes();
        self.words.extend_from_slice(&body);
        (self.sent, self.replaced) = (0, bytes.len());
        true
    }
}

impl<I: AsyncWrite + Unpin> Worded<I> {
    /// Writes the words; then tells that the bytes in whose place they are have gone.
    fn poll_words(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        while self.sent < self.words.len() {
            let count = ready!(Pin::new(&mut self.io).poll_write(context, &self.words[self.sent..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        self.words.clear();
        Poll::Ready(Ok(self.replaced))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Worded<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Worded<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.words.is_empty() || self.replace(bytes) {
            return self.poll_words(context);
        }
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first: &[u8] = slices.iter().find(|slice| !slice.is_empty()).map_or(&[], |slice| slice);
        if !self.words.is_empty() || self.replace(first) {
            return self.poll_words(context);
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

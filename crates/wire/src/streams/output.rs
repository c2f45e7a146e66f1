//! SPDY streams that end gently.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use base::Tasks;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use crate::spdy::Stream;

/// A stream whose end, when it is dropped, follows what was written instead of overtaking it.
pub(super) struct Gentle {
    stream: Option<Stream>,
    tasks: Tasks,
}

impl Gentle {
    pub(super) fn new(stream: Stream, tasks: &Tasks) -> Self {
        Self { stream: Some(stream), tasks: tasks.clone() }
    }

    fn stream(&mut self) -> Pin<&mut Stream> {
        Pin::new(self.stream.as_mut().expect("it is taken by drop only"))
    }
}

impl Drop for Gentle {
    fn drop(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            self.tasks.spawn("end of a stream", async move {
                // A connection that is gone has no ends to tell.
                let _ = stream.shutdown().await;
            });
        }
    }
}

impl AsyncRead for Gentle {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for Gentle {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

//! A byte stream in the binary messages of a WebSocket (`SPDY/3.1+portforward.k8s.io`).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::Socket;

/// Longer writes become several messages.
const WRITE_MAX_BYTES: usize = 32 * 1024;

/// The byte stream. Boundaries of messages mean nothing in it.
pub struct Tunnel<S> {
    socket: WebSocketStream<S>,
    unread: Bytes,
    /// Whether we have said that all is done.
    closing: bool,
}

impl<S> Tunnel<S> {
    /// Uses `socket` as a byte stream.
    pub fn new(socket: Socket<S>) -> Self {
        Self { socket: socket.0, unread: Bytes::new(), closing: false }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(context)) {
                None | Some(Ok(Message::Close(_))) => return Poll::Ready(Ok(())),
                Some(Ok(Message::Binary(bytes))) => self.unread = bytes,
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the tunnel carries binary messages only; send no text",
                    )));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let count = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread[..count]);
        self.unread.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut socket = Pin::new(&mut self.socket);
        ready!(socket.as_mut().poll_ready(cx)).map_err(io::Error::other)?;
        let count = bytes.len().min(WRITE_MAX_BYTES);
        socket
            .start_send(Message::Binary(Bytes::copy_from_slice(&bytes[..count])))
            .map_err(io::Error::other)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            let mut socket = Pin::new(&mut self.socket);
            // Without a status the end would be a failure to clients of Kubernetes.
            let told = match ready!(socket.as_mut().poll_ready(cx)) {
                Ok(()) => socket.start_send(Message::Close(Some(super::normal()))),
                Err(error) => Err(error),
            };
            self.closing = true;
            match told {
                // The peer was first.
                Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Protocol(_)) => {}
                Err(error) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        Pin::new(&mut self.socket).poll_close(cx).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn the_end_of_a_tunnel_is_said_to_be_a_good_one() {
        let (near, far) = tokio::io::duplex(1 << 12);
        let (mut tunnel, mut client) = (Tunnel::new(Socket::server(near).await), Socket::client(far).await.0);
        tunnel.write_all(b"bytes").await.unwrap();
        let hear = async {
            assert_eq!(client.next().await.unwrap().unwrap(), Message::Binary(Bytes::from_static(b"bytes")));
            assert_eq!(client.next().await.unwrap().unwrap(), Message::Close(Some(super::super::normal())));
        };
        let (ended, ()) = tokio::join!(tunnel.shutdown(), hear);
        ended.unwrap();
    }
}

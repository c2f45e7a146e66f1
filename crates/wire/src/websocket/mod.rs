//! WebSocket (RFC 6455), both sides, over upgraded HTTP/1.1 connections, and Kubernetes' channels on top of it.

mod channels;
mod handshake;
mod tunnel;

pub use channels::{Channels, Encoding, HalfClose, Layout};
pub use handshake::{HandshakeError, Offer, UpgradedIo, accept, request, switched};
pub use tunnel::Tunnel;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Utf8Bytes};

/// The longest message that is taken; clients of Kubernetes send 32 KiB at once.
pub const MESSAGE_MAX_BYTES: usize = 4 * 1024 * 1024;
/// What may wait to be written.
const WRITE_BUFFER_MAX_BYTES: usize = 2 * MESSAGE_MAX_BYTES;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Text: watch events, and the base64 protocols.
    Text(String),
    /// Bytes.
    Binary(Bytes),
}

/// Why a connection does not go on.
#[derive(Debug, thiserror::Error)]
#[error("the WebSocket connection broke; connect again")]
pub struct Error(#[from] tungstenite::Error);

/// A WebSocket connection. Pings are answered while it is read.
pub struct Socket<S>(WebSocketStream<S>);

/// The half of a connection that sends.
pub struct Sender<S>(futures::stream::SplitSink<WebSocketStream<S>, tungstenite::Message>);

/// The half of a connection that receives, and answers pings.
pub struct Receiver<S>(futures::stream::SplitStream<WebSocketStream<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// The server's side of `stream`, after the handshake.
    pub async fn server(stream: S) -> Self {
        Self(WebSocketStream::from_raw_socket(stream, Role::Server, Some(config())).await)
    }

    /// The client's side of `stream`, after the handshake.
    pub async fn client(stream: S) -> Self {
        Self(WebSocketStream::from_raw_socket(stream, Role::Client, Some(config())).await)
    }

    /// Sends a message.
    pub async fn send(&mut self, message: Message) -> Result<(), Error> {
        Ok(self.0.send(message.into()).await?)
    }

    /// The next message; `None` once the peer has closed.
    pub async fn receive(&mut self) -> Result<Option<Message>, Error> {
        next(&mut self.0).await
    }

    /// Says that all is done.
    pub async fn close(&mut self) -> Result<(), Error> {
        Ok(self.0.close(Some(normal())).await?)
    }

    /// Both halves, for two tasks.
    pub fn split(self) -> (Sender<S>, Receiver<S>) {
        let (sender, receiver) = self.0.split();
        (Sender(sender), Receiver(receiver))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Sender<S> {
    /// Takes a message without sending it yet.
    pub async fn feed(&mut self, message: Message) -> Result<(), Error> {
        Ok(self.0.feed(message.into()).await?)
    }

    /// Sends what was fed.
    pub async fn flush(&mut self) -> Result<(), Error> {
        Ok(self.0.flush().await?)
    }

    /// Says that all is done.
    pub async fn close(&mut self) -> Result<(), Error> {
        Ok(self.0.send(tungstenite::Message::Close(Some(normal()))).await?)
    }

    /// Says that it does not go on, and why.
    pub async fn fail(&mut self, reason: &'static str) -> Result<(), Error> {
        let frame = CloseFrame { code: CloseCode::Error, reason: Utf8Bytes::from_static(reason) };
        Ok(self.0.send(tungstenite::Message::Close(Some(frame))).await?)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Receiver<S> {
    /// The next message; `None` once the peer has closed.
    pub async fn receive(&mut self) -> Result<Option<Message>, Error> {
        next(&mut self.0).await
    }
}

async fn next(
    stream: &mut (impl futures::Stream<Item = Result<tungstenite::Message, tungstenite::Error>> + Unpin),
) -> Result<Option<Message>, Error> {
    loop {
        match stream.next().await.transpose()? {
            None | Some(tungstenite::Message::Close(_)) => return Ok(None),
            Some(tungstenite::Message::Text(text)) => {
                return Ok(Some(Message::Text(text.as_str().to_owned())));
            }
            Some(tungstenite::Message::Binary(bytes)) => return Ok(Some(Message::Binary(bytes))),
            // Pings are answered by the library; a bare frame never comes out of reading.
            Some(_) => {}
        }
    }
}

impl From<Message> for tungstenite::Message {
    fn from(message: Message) -> Self {
        match message {
            Message::Text(text) => Self::Text(text.into()),
            Message::Binary(bytes) => Self::Binary(bytes),
        }
    }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX_BYTES))
        .max_frame_size(Some(MESSAGE_MAX_BYTES))
        .max_write_buffer_size(WRITE_BUFFER_MAX_BYTES)
}

/// The close that clients of Kubernetes take for success; any other is an error to them.
fn normal() -> CloseFrame {
    CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::from_static("") }
}

//! Kubernetes' channels: the first byte of each message says which stream the rest belongs to.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base::{Clock, Stop, Stopper, Tasks};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::{Message, Receiver, Sender, Socket};

/// The channel of `v5.channel.k8s.io` on which the end of another channel is told.
const CLOSE: u8 = 255;
/// What may wait to be read on one channel. When it is full, the whole connection waits, as it does upstream.
const CHANNEL_BUFFER_BYTES: usize = 256 * 1024;
/// Messages that may wait to be sent.
const QUEUE_MESSAGES: usize = 16;
/// Longer writes become several messages.
const WRITE_MAX_BYTES: usize = 32 * 1024;
/// How long the peer may take to answer our close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How bytes are written into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// The channel's number as a byte, then the bytes.
    Binary,
    /// The channel's number as a digit, then base64, as text.
    Base64,
}

/// What is known about ends of single channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfClose {
    /// Nothing: channels end with the connection.
    Never,
    /// The peer tells (the server's side of `v5.channel.k8s.io`).
    Received,
    /// We tell (the client's side of `v5.channel.k8s.io`).
    Sent,
}

/// Which channels there are.
#[derive(Clone, Debug)]
pub struct Layout {
    /// How messages are written.
    pub encoding: Encoding,
    /// What is known about ends.
    pub half_close: HalfClose,
    /// Channels that we read. What comes on others is thrown away.
    pub reads: Vec<u8>,
}

/// The channels of one connection. Two tasks move its messages; they end when the connection ends, when everything
/// that came from here is dropped, or on [`Channels::close`].
pub struct Channels {
    layout: Layout,
    readers: HashMap<u8, DuplexStream>,
    outgoing: mpsc::Sender<Outgoing>,
    ended: Stop,
}

enum Outgoing {
    Message(Message),
    Close,
}

impl Channels {
    /// Starts moving messages.
    pub fn start<S>(socket: Socket<S>, layout: Layout, clock: &Clock, tasks: &Tasks, stop: &Stop) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (outgoing, queue) = mpsc::channel(QUEUE_MESSAGES);
        let ended = Stopper::child(stop);
        let (mut readers, mut pipes) = (HashMap::new(), HashMap::new());
        for channel in &layout.reads {
            let (ours, theirs) = tokio::io::duplex(CHANNEL_BUFFER_BYTES);
            readers.insert(*channel, ours);
            pipes.insert(*channel, theirs);
        }
        let (sender, receiver) = socket.split();
        let (signal, layout_of_reader, ended_of_writer) = (ended.signal(), layout.clone(), ended.clone());
        let clock = clock.clone();
        tasks.spawn("websocket writer", async move {
            if ended_of_writer.signal().or(write(sender, queue)).await.is_some() {
                // The peer answers our close; the reader sees that, or gives up.
                let _ = clock.timeout(CLOSE_TIMEOUT, ended_of_writer.signal().stopped()).await;
            }
            ended_of_writer.stop();
        });
        let ended_of_reader = ended.signal();
        tasks.spawn("websocket reader", async move {
            if let Some(Err(error)) = signal.or(read(receiver, pipes, &layout_of_reader)).await {
                tracing::debug!(%error, "a WebSocket ended with an error");
            }
            ended.stop();
        });
        Self { layout, readers, outgoing, ended: ended_of_reader }
    }

    /// The stream that comes in on `channel`; once.
    pub fn take_reader(&mut self, channel: u8) -> Option<impl AsyncRead + Send + Unpin + use<>> {
        self.readers.remove(&channel)
    }

    /// A stream that goes out on `channel`.
    pub fn writer(&self, channel: u8) -> impl AsyncWrite + Send + Unpin + use<> {
        ChannelWriter {
            channel,
            encoding: self.layout.encoding,
            tell_end: self.layout.half_close == HalfClose::Sent,
            outgoing: PollSender::new(self.outgoing.clone()),
        }
    }

    /// Sends an empty message on `channel`, which tells clients that the streams have begun.
    pub async fn greet(&self, channel: u8) {
        let _ = self.outgoing.send(Outgoing::Message(encode(channel, &[], self.layout.encoding))).await;
    }

    /// Comes when the connection is gone.
    pub fn ended(&self) -> Stop {
        self.ended.clone()
    }

    /// Sends what was written before, then closes the connection in peace.
    pub async fn close(&self) {
        if self.outgoing.send(Outgoing::Close).await.is_ok() {
            self.ended.stopped().await;
        }
    }
}

async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    mut sender: Sender<S>,
    mut queue: mpsc::Receiver<Outgoing>,
) {
    while let Some(Outgoing::Message(message)) = queue.recv().await {
        let sent = match sender.feed(message).await {
            // More is there already: one flush will do for all.
            Ok(()) if !queue.is_empty() => Ok(()),
            Ok(()) => sender.flush().await,
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            return tracing::debug!(%error, "a WebSocket cannot be written");
        }
    }
    if let Err(error) = sender.close().await {
        tracing::debug!(%error, "a WebSocket cannot be closed");
    }
}

async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    mut receiver: Receiver<S>,
    mut pipes: HashMap<u8, DuplexStream>,
    layout: &Layout,
) -> Result<(), super::Error> {
    while let Some(message) = receiver.receive().await? {
        match decode(message, layout) {
            Some(Incoming::Data(channel, data)) => {
                let Some(pipe) = pipes.get_mut(&channel) else { continue };
                if pipe.write_all(&data).await.is_err() {
                    // Nobody reads it any more; the rest of the connection goes on.
                    pipes.remove(&channel);
                }
            }
            Some(Incoming::End(channel)) => {
                pipes.remove(&channel);
            }
            None => {
                tracing::debug!("a message that fits no channel ended a WebSocket");
                break;
            }
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Incoming {
    Data(u8, Bytes),
    End(u8),
}

/// Reads a message; `None` if it breaks the protocol. An empty message is data of no channel.
fn decode(message: Message, layout: &Layout) -> Option<Incoming> {
    let mut bytes = match message {
        Message::Text(text) => Bytes::from(text),
        Message::Binary(bytes) => bytes,
    };
    if bytes.is_empty() {
        return Some(Incoming::Data(CLOSE, bytes));
    }
    let data = bytes.split_off(1);
    match (layout.encoding, bytes[0]) {
        (Encoding::Binary, CLOSE) if layout.half_close == HalfClose::Received => match data[..] {
            [channel] => Some(Incoming::End(channel)),
            _ => None,
        },
        (Encoding::Binary, channel) => Some(Incoming::Data(channel, data)),
        (Encoding::Base64, digit) => {
            let channel = digit.wrapping_sub(b'0');
            STANDARD.decode(&data).ok().map(|data| Incoming::Data(channel, data.into()))
        }
    }
}

fn encode(channel: u8, data: &[u8], encoding: Encoding) -> Message {
    match encoding {
        Encoding::Binary => {
            let mut message = BytesMut::with_capacity(data.len() + 1);
            message.put_u8(channel);
            message.put_slice(data);
            Message::Binary(message.freeze())
        }
        Encoding::Base64 => {
            let mut text = String::from(char::from(b'0' + channel));
            STANDARD.encode_string(data, &mut text);
            Message::Text(text)
        }
    }
}

struct ChannelWriter {
    channel: u8,
    encoding: Encoding,
    tell_end: bool,
    outgoing: PollSender<Outgoing>,
}

impl ChannelWriter {
    fn poll_send(&mut self, cx: &mut Context<'_>, message: impl FnOnce() -> Message) -> Poll<io::Result<()>> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.outgoing.poll_reserve(cx)).map_err(gone)?;
        Poll::Ready(self.outgoing.send_item(Outgoing::Message(message())).map_err(gone))
    }
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let part = &bytes[..bytes.len().min(WRITE_MAX_BYTES)];
        let (channel, encoding) = (self.channel, self.encoding);
        ready!(self.poll_send(cx, || encode(channel, part, encoding)))?;
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.tell_end {
            let end = Bytes::copy_from_slice(&[CLOSE, self.channel]);
            ready!(self.poll_send(cx, || Message::Binary(end)))?;
            self.tell_end = false;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout(encoding: Encoding, half_close: HalfClose) -> Layout {
        Layout { encoding, half_close, reads: vec![0] }
    }

    #[test]
    fn the_end_of_a_channel_is_heard_in_v5_only() {
        let end = |bytes: &'static [u8], half_close| {
            decode(Message::Binary(bytes.into()), &layout(Encoding::Binary, half_close))
        };
        assert_eq!(end(&[255, 0], HalfClose::Received), Some(Incoming::End(0)));
        assert_eq!(end(&[255, 0, 0], HalfClose::Received), None);
        let data = Incoming::Data(255, Bytes::from_static(&[0]));
        assert_eq!(end(&[255, 0], HalfClose::Never), Some(data));
    }

    proptest! {
        #[test]
        fn messages_come_back(channel in 0_u8..80, data in proptest::collection::vec(any::<u8>(), 0..99)) {
            for encoding in [Encoding::Binary, Encoding::Base64] {
                let back = decode(encode(channel, &data, encoding), &layout(encoding, HalfClose::Received));
                prop_assert_eq!(back, Some(Incoming::Data(channel, data.clone().into())));
            }
        }

        #[test]
        fn strange_messages_do_not_panic(data in proptest::collection::vec(any::<u8>(), 0..99)) {
            for encoding in [Encoding::Binary, Encoding::Base64] {
                let _ = decode(Message::Binary(data.clone().into()), &layout(encoding, HalfClose::Received));
            }
        }
    }

    #[tokio::test]
    async fn both_sides_understand_each_other() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (clock, tasks, stopper) = (Clock::system(), Tasks::new(), Stopper::new());
        let stop = stopper.signal();
        let start = |socket, half_close| {
            Channels::start(socket, layout(Encoding::Binary, half_close), &clock, &tasks, &stop)
        };
        let mut server = start(Socket::server(near).await, HalfClose::Received);
        let mut client = start(Socket::client(far).await, HalfClose::Sent);
        let long = vec![7; 300_000];
        let mut stdin = client.writer(0);
        let (mut got, mut input) = (Vec::new(), server.take_reader(0).unwrap());
        let sending = async {
            stdin.write_all(&long).await.unwrap();
            stdin.shutdown().await.unwrap();
        };
        tokio::join!(sending, tokio::io::AsyncReadExt::read_to_end(&mut input, &mut got)).1.unwrap();
        assert_eq!(got, long);
        let mut stdout = server.writer(0);
        stdout.write_all(b"bye").await.unwrap();
        server.close().await;
        let mut back = String::new();
        let mut output = client.take_reader(0).unwrap();
        tokio::io::AsyncReadExt::read_to_string(&mut output, &mut back).await.unwrap();
        assert_eq!(back, "bye");
        assert!(client.ended().or(std::future::pending::<()>()).await.is_none());
        drop((client, server, stdin, stdout));
        assert!(tasks.join(Duration::from_secs(5)).await);
    }
}

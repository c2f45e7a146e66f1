//! port-forward.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use base::Stop;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::output::Gentle;
use super::{CREATION_TIMEOUT, Context, Error, Input, Output, Refusal, negotiate};
use crate::spdy::{Connection, Role, Stream};
use crate::websocket::{self, Channels, Encoding, HalfClose, Layout, Tunnel};
use crate::{Request, Response};

const SPDY_PROTOCOL: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const V4: &str = "v4.channel.k8s.io";
const V4_BASE64: &str = "v4.base64.channel.k8s.io";
const WEBSOCKET_PROTOCOLS: [&str; 4] = [TUNNEL, "", V4, V4_BASE64];
/// Each port takes two channels.
const PORTS_MAX: usize = 60;
/// In base64 a channel's number is one character of ASCII, counted from the zero.
const PORTS_MAX_BASE64: usize = 40;
/// Streams that wait for their other half.
const PENDING_MAX: usize = 64;

/// The connections that one client forwards.
pub struct PortForward {
    source: Source,
    context: Context,
}

enum Source {
    Spdy { connection: Box<Connection>, pending: HashMap<String, Pending> },
    WebSocket { ready: VecDeque<Forwarded>, ended: Stop },
}

/// A pair of streams of which one half has come.
struct Pending {
    port: u16,
    error: Option<Stream>,
    data: Option<Stream>,
    expires: Duration,
}

/// One forwarded connection.
pub struct Forwarded {
    /// The pod's port.
    pub port: u16,
    /// The bytes, both ways. Shut it down when the pod's side has ended; dropping it ends it after what was written.
    pub data: Box<dyn Duplex>,
    /// Where a failure is told.
    pub error: ErrorSink,
}

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Tells a failure of one forwarded connection; dropping it says that there was none.
pub struct ErrorSink(Output);

impl ErrorSink {
    /// Tells the client why its connection failed.
    pub async fn fail(mut self, message: &str) {
        // A client that is gone cannot be told.
        let _ = self.0.write_all(message.as_bytes()).await;
        let _ = self.0.shutdown().await;
    }
}

/// Accepts a request for port-forward. `ports` are those of the query, which only WebSocket channels need. Send the
/// response; the connections come after it.
pub fn accept_port_forward(
    request: &mut Request,
    ports: &[u16],
    context: &Context,
) -> Result<(Response, BoxFuture<'static, Result<PortForward, Error>>), Refusal> {
    let context = context.clone();
    if websocket::Offer::is_made(request.headers()) {
        let (response, protocol, socket) = websocket::accept(request, &WEBSOCKET_PROTOCOLS)?;
        let most = if protocol == V4_BASE64 { PORTS_MAX_BASE64 } else { PORTS_MAX };
        if protocol != TUNNEL && !(1..=most).contains(&ports.len()) {
            return Err(Refusal::Ports(most));
        }
        let ports = ports.to_vec();
        let session = async move {
            let socket = socket.await?;
            if protocol == TUNNEL {
                return Ok(over_spdy(Tunnel::new(socket), context));
            }
            over_channels(socket, protocol, &ports, context).await
        };
        return Ok((response, session.boxed()));
    }
    let (response, _) = negotiate::spdy(request.headers(), &[SPDY_PROTOCOL])?;
    let upgraded = hyper::upgrade::on(request);
    let session = async move { Ok(over_spdy(TokioIo::new(upgraded.await?), context)) };
    Ok((response, session.boxed()))
}

fn over_spdy(stream: impl AsyncRead + AsyncWrite + Send + 'static, context: Context) -> PortForward {
    let Context { clock, tasks, stop } = &context;
    let connection = Box::new(Connection::start(stream, Role::Server, clock, tasks, stop));
    PortForward { source: Source::Spdy { connection, pending: HashMap::new() }, context }
}

async fn over_channels(
    socket: websocket::Socket<websocket::UpgradedIo>,
    protocol: &str,
    ports: &[u16],
    context: Context,
) -> Result<PortForward, Error> {
    let layout = Layout {
        encoding: if protocol == V4_BASE64 { Encoding::Base64 } else { Encoding::Binary },
        half_close: HalfClose::Never,
        reads: (0..ports.len()).map(|index| index as u8 * 2).collect(),
    };
    let mut channels = Channels::start(socket, layout, &context.clock, &context.tasks, &context.stop);
    let mut ready = VecDeque::new();
    for (index, port) in ports.iter().enumerate() {
        let data = index as u8 * 2;
        let mut writers = [channels.writer(data), channels.writer(data + 1)];
        for writer in &mut writers {
            // Each channel begins with its port, so that the client knows which one it is.
            writer.write_all(&port.to_le_bytes()).await.map_err(|_| Error::Gone)?;
        }
        let [output, error] = writers.map(|writer| Box::new(writer) as Output);
        let input = Box::new(channels.take_reader(data).ok_or(Error::Gone)?);
        let data = Box::new(Joined { input, output });
        ready.push_back(Forwarded { port: *port, data, error: ErrorSink(error) });
    }
    // From here on the writers alone keep the connection: it closes when the last forwarded connection ends.
    let ended = channels.ended();
    Ok(PortForward { source: Source::WebSocket { ready, ended }, context })
}

impl PortForward {
    /// The next connection that the client forwards; `None` once the client is gone. Serve each in a task of its
    /// own. Dropping this refuses further ones.
    pub async fn next(&mut self) -> Option<Forwarded> {
        let (connection, pending_pairs) = match &mut self.source {
            Source::WebSocket { ready, ended } => {
                if let Some(forwarded) = ready.pop_front() {
                    return Some(forwarded);
                }
                ended.stopped().await;
                return None;
            }
            Source::Spdy { connection, pending } => (connection, pending),
        };
        let Context { clock, tasks, .. } = &self.context;
        loop {
            let now = clock.monotonic();
            pending_pairs.retain(|_, pair| pair.expires > now);
            let soonest = pending_pairs.values().map(|pair| pair.expires).min();
            let expiry = async {
                match soonest {
                    Some(expires) => clock.sleep(expires.saturating_sub(now)).await,
                    None => pending().await,
                }
            };
            let stream = tokio::select! {
                stream = connection.next() => stream?,
                () = expiry => continue,
            };
            if let Some((port, error, data)) = pair_up(pending_pairs, stream, now + CREATION_TIMEOUT) {
                let data = Box::new(Gentle::new(data, tasks));
                let error = ErrorSink(Box::new(Gentle::new(error, tasks)));
                return Some(Forwarded { port, data, error });
            }
        }
    }
}

/// Puts `stream` to its other half, if that has come. Streams that make no sense are refused.
fn pair_up(
    pending: &mut HashMap<String, Pending>,
    stream: Stream,
    expires: Duration,
) -> Option<(u16, Stream, Stream)> {
    let Some((key, port, is_error)) = describe(&stream) else {
        stream.refuse();
        return None;
    };
    let full = pending.len() >= PENDING_MAX && !pending.contains_key(&key);
    let pair = match full {
        true => None,
        false => {
            Some(pending.entry(key.clone()).or_insert(Pending { port, error: None, data: None, expires }))
        }
    };
    let slot = match pair {
        Some(pair) if pair.port == port => Some(if is_error { &mut pair.error } else { &mut pair.data }),
        _ => None,
    };
    let Some(slot @ None) = slot else {
        stream.refuse();
        return None;
    };
    stream.accept();
    *slot = Some(stream);
    let complete = pending.get(&key).is_some_and(|pair| pair.error.is_some() && pair.data.is_some());
    let pair = complete.then(|| pending.remove(&key)).flatten()?;
    Some((pair.port, pair.error?, pair.data?))
}

/// Which pair a stream belongs to, its port, and whether it is the half for errors.
fn describe(stream: &Stream) -> Option<(String, u16, bool)> {
    let headers = stream.headers();
    let port = headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
    let is_error = match headers.get("streamType")? {
        "error" => true,
        "data" => false,
        _ => return None,
    };
    // The oldest clients number no pairs: their data stream follows the stream for errors.
    let key = match headers.get("requestID") {
        Some(key) if !key.is_empty() => key.to_owned(),
        _ if is_error => stream.id().to_string(),
        _ => stream.id().checked_sub(2)?.to_string(),
    };
    Some((key, port, is_error))
}

/// Two halves as one.
struct Joined {
    input: Input,
    output: Output,
}

impl AsyncRead for Joined {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_read(cx, buf)
    }
}

impl AsyncWrite for Joined {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.output).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_shutdown(cx)
    }
}

//! exec and attach.

use base::Stop;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::output::Gentle;
use super::{CREATION_TIMEOUT, Context, Error, Input, Output, Refusal, negotiate};
use crate::spdy::{Connection, Role};
use crate::websocket::{self, Channels, Encoding, HalfClose, Layout};
use crate::{Request, Response};

const V1: &str = "channel.k8s.io";
const V1_BASE64: &str = "base64.channel.k8s.io";
const V2: &str = "v2.channel.k8s.io";
const V3: &str = "v3.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";
const V4_BASE64: &str = "v4.base64.channel.k8s.io";
const V5: &str = "v5.channel.k8s.io";

const WEBSOCKET_PROTOCOLS: [&str; 6] = ["", V1, V1_BASE64, V4, V4_BASE64, V5];
const SPDY_PROTOCOLS: [&str; 4] = [V4, V3, V2, V1];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// A message about a terminal's size is shorter than this.
const RESIZE_MAX_BYTES: usize = 4096;

/// Which streams the request's query asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Input.
    pub stdin: bool,
    /// Output.
    pub stdout: bool,
    /// Errors; with a terminal they come by stdout.
    pub stderr: bool,
    /// A terminal, whose size may change.
    pub tty: bool,
}

/// The streams of one command. Take what is there, and [`RemoteCommand::finish`] at the end.
pub struct RemoteCommand {
    /// What the client types; ends when it ends, or goes away.
    pub stdin: Option<Input>,
    /// What the client sees.
    pub stdout: Option<Output>,
    /// What the client sees as errors.
    pub stderr: Option<Output>,
    /// The terminal's sizes.
    pub resizes: Option<Resizes>,
    status: Output,
    takes_status: bool,
    disconnected: Stop,
    transport: Transport,
}

/// Kept for as long as the streams shall live.
enum Transport {
    WebSocket(Channels),
    Spdy(Connection),
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The sizes of a terminal, as they change.
pub struct Resizes {
    input: Input,
    buffer: Vec<u8>,
}

impl Resizes {
    fn new(input: Input) -> Self {
        Self { input, buffer: Vec::new() }
    }

    /// The next size; `None` once there will be no more.
    pub async fn next(&mut self) -> Option<Size> {
        loop {
            let mut sizes = serde_json::Deserializer::from_slice(&self.buffer).into_iter::<Size>();
            match sizes.next() {
                Some(Ok(size)) => {
                    let used = sizes.byte_offset();
                    self.buffer.drain(..used);
                    return Some(size);
                }
                Some(Err(error)) if !error.is_eof() => {
                    tracing::debug!(%error, "a terminal's size cannot be read");
                    return None;
                }
                Some(Err(_)) | None => {}
            }
            if self.buffer.len() > RESIZE_MAX_BYTES
                || !matches!(self.input.read_buf(&mut self.buffer).await, Ok(1..))
            {
                return None;
            }
        }
    }
}

impl RemoteCommand {
    /// Comes when the client is gone.
    pub fn disconnected(&self) -> Stop {
        self.disconnected.clone()
    }

    /// Tells how the command ended and closes. `status` is the status as JSON; clients of the oldest protocols get
    /// `failure` as text instead, or nothing if there was none. Drop the outputs before, so that all of them is sent.
    pub async fn finish(mut self, status: Bytes, failure: Option<&str>) {
        self.stdin = None;
        self.stdout = None;
        self.stderr = None;
        self.resizes = None;
        let told = match (self.takes_status, failure) {
            (true, _) => &status[..],
            (false, Some(failure)) => failure.as_bytes(),
            (false, None) => &[],
        };
        // A client that is gone cannot be told.
        let _ = self.status.write_all(told).await;
        let _ = self.status.shutdown().await;
        drop(self.status);
        match self.transport {
            Transport::WebSocket(channels) => channels.close().await,
            Transport::Spdy(connection) => {
                drop(connection);
                self.disconnected.stopped().await;
            }
        }
    }
}

/// Accepts a request for exec or attach. Send the response; the streams come after it.
pub fn accept_remote_command(
    request: &mut Request,
    mut wanted: Wanted,
    context: &Context,
) -> Result<(Response, BoxFuture<'static, Result<RemoteCommand, Error>>), Refusal> {
    wanted.stderr &= !wanted.tty;
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        return Err(Refusal::Nothing);
    }
    let context = context.clone();
    if websocket::Offer::is_made(request.headers()) {
        let (response, protocol, socket) = websocket::accept(request, &WEBSOCKET_PROTOCOLS)?;
        let session = async move { Ok(over_websocket(socket.await?, protocol, wanted, &context).await) };
        return Ok((response, session.boxed()));
    }
    let (response, version) = negotiate::spdy(request.headers(), &SPDY_PROTOCOLS)?;
    let upgraded = hyper::upgrade::on(request);
    let session = async move {
        let Context { clock, tasks, stop } = &context;
        let connection = Connection::start(TokioIo::new(upgraded.await?), Role::Server, clock, tasks, stop);
        over_spdy(connection, version, wanted, &context).await
    };
    Ok((response, session.boxed()))
}

async fn over_websocket(
    socket: websocket::Socket<websocket::UpgradedIo>,
    protocol: &str,
    wanted: Wanted,
    context: &Context,
) -> RemoteCommand {
    let base64 = matches!(protocol, V1_BASE64 | V4_BASE64);
    let layout = Layout {
        encoding: if base64 { Encoding::Base64 } else { Encoding::Binary },
        half_close: if protocol == V5 { HalfClose::Received } else { HalfClose::Never },
        reads: [(STDIN, wanted.stdin), (RESIZE, wanted.tty)].iter().filter(|r| r.1).map(|r| r.0).collect(),
    };
    let mut channels = Channels::start(socket, layout, &context.clock, &context.tasks, &context.stop);
    // An empty message tells clients that the streams have begun.
    let first = if wanted.stdout { STDOUT } else { STDERR };
    channels.greet(first).await;
    let mut input = |channel| channels.take_reader(channel).map(|reader| Box::new(reader) as Input);
    let (stdin, resizes) = (input(STDIN), input(RESIZE).map(Resizes::new));
    let output = |channel, wanted: bool| wanted.then(|| Box::new(channels.writer(channel)) as Output);
    RemoteCommand {
        stdin,
        stdout: output(STDOUT, wanted.stdout),
        stderr: output(STDERR, wanted.stderr),
        resizes,
        status: Box::new(channels.writer(ERROR)),
        takes_status: matches!(protocol, V4 | V4_BASE64 | V5),
        disconnected: channels.ended(),
        transport: Transport::WebSocket(channels),
    }
}

async fn over_spdy(
    mut connection: Connection,
    version: &str,
    wanted: Wanted,
    context: &Context,
) -> Result<RemoteCommand, Error> {
    let resizable = wanted.tty && matches!(version, V3 | V4);
    let expected = [
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr),
        ("error", true),
        ("resize", resizable),
    ];
    let mut slots = expected.map(|(name, wanted)| (name, wanted, None));
    let collecting = collect(&mut connection, &mut slots);
    let collected = context.clock.timeout(CREATION_TIMEOUT, collecting).await;
    if collected == Some(false) {
        return Err(Error::Gone);
    }
    if let Some((missing, ..)) = slots.iter().find(|(_, wanted, stream)| *wanted && stream.is_none()) {
        return Err(Error::Missing { missing });
    }
    let [stdin, stdout, stderr, error, resize] =
        slots.map(|(_, _, stream)| stream.map(|stream| Gentle::new(stream, &context.tasks)));
    let output = |stream: Option<Gentle>| stream.map(|stream| Box::new(stream) as Output);
    let input = |stream: Option<Gentle>| stream.map(|stream| Box::new(stream) as Input);
    Ok(RemoteCommand {
        stdin: input(stdin),
        stdout: output(stdout),
        stderr: output(stderr),
        resizes: input(resize).map(Resizes::new),
        status: output(error).ok_or(Error::Missing { missing: "error" })?,
        takes_status: version == V4,
        disconnected: connection.ended(),
        transport: Transport::Spdy(connection),
    })
}

type Slot = (&'static str, bool, Option<crate::spdy::Stream>);

/// Takes streams until every wanted slot is filled; false if the client went away before.
async fn collect(connection: &mut Connection, slots: &mut [Slot; 5]) -> bool {
    while slots.iter().any(|(_, wanted, stream)| *wanted && stream.is_none()) {
        let Some(stream) = connection.next().await else { return false };
        let kind = stream.headers().get("streamType").unwrap_or_default();
        match slots.iter_mut().find(|(name, wanted, held)| *name == kind && *wanted && held.is_none()) {
            Some((_, _, held)) => {
                stream.accept();
                *held = Some(stream);
            }
            None => stream.refuse(),
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sizes(text: &'static str) -> Vec<Size> {
        let mut resizes = Resizes::new(Box::new(text.as_bytes()));
        let mut sizes = Vec::new();
        while let Some(size) = resizes.next().await {
            sizes.push(size);
        }
        sizes
    }

    #[tokio::test]
    async fn sizes_are_read_one_after_the_other() {
        let (small, large) = (Size { width: 80, height: 24 }, Size { width: 200, height: 60 });
        let both = "{\"Width\":80,\"Height\":24}\n{\"Width\":200,\"Height\":60}\n";
        assert_eq!(sizes(both).await, [small, large]);
        assert_eq!(sizes("{\"Width\":80,\"Height\":24}{\"Width\":").await, [small]);
        assert_eq!(sizes("nonsense").await, []);
        assert_eq!(sizes("{\"Width\":99999999,\"Height\":1}").await, []);
    }
}

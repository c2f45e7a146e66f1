//! exec and port-forward through a server, as clients of each protocol see them.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use wire::spdy::{Connection, Headers, Role, Stream};
use wire::streams::{
    Context, PortForward, RemoteCommand, Wanted, accept_port_forward, accept_read_only, accept_remote_command,
};
use wire::websocket::{Channels, Encoding, HalfClose, Layout, Message, Socket, Tunnel};
use wire::{Request, Response, websocket};

use crate::world::{Upgrade, World, get, service, soon};

const STATUS: &str = r#"{"status":"Success"}"#;

/// A server that runs a pretended command on `/exec`, forwards to an echo on `/forward`, and logs on `/log`.
fn serve(world: &World) -> SocketAddr {
    let context = context(world);
    world.serve(service(move |mut request: Request, _| {
        let context = context.clone();
        async move {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let has = |name: &str| query.split('&').any(|pair| pair == name);
            let accepted = match request.uri().path() {
                "/exec" => {
                    let wanted = Wanted {
                        stdin: has("stdin"),
                        stdout: has("stdout"),
                        stderr: has("stderr"),
                        tty: has("tty"),
                    };
                    accept_remote_command(&mut request, wanted, &context).map(|(response, session)| {
                        context.tasks.spawn("command", async move { run(session.await.unwrap()).await });
                        response
                    })
                }
                "/forward" => {
                    accept_port_forward(&mut request, &[80, 81], &context).map(|(response, session)| {
                        let tasks = context.tasks.clone();
                        context.tasks.spawn("forward", async move {
                            let mut session: PortForward = session.await.unwrap();
                            while let Some(mut one) = session.next().await {
                                tasks.spawn("forwarded", async move {
                                    if one.port == 81 {
                                        return one.error.fail("nobody listens on 81").await;
                                    }
                                    let mut said = [0; 5];
                                    one.data.read_exact(&mut said).await.unwrap();
                                    one.data.write_all(&said).await.unwrap();
                                    one.data.shutdown().await.unwrap();
                                });
                            }
                        });
                        response
                    })
                }
                "/broken" => {
                    let pieces = [Ok(&b"half"[..]), Err(std::io::Error::other("the disk"))];
                    let source = tokio_util::io::StreamReader::new(futures::stream::iter(pieces));
                    accept_read_only(&mut request, source, &context)
                }
                _ => accept_read_only(&mut request, &b"line 1\nline 2\n"[..], &context),
            };
            accepted.unwrap_or_else(wire::streams::Refusal::into_response)
        }
    }))
}

fn context(world: &World) -> Context {
    Context { clock: world.clock.clone(), tasks: world.tasks.clone(), stop: world.stopper.signal() }
}

/// Says the terminal's size, gives stdin back, complains, and ends.
async fn run(mut command: RemoteCommand) {
    let mut stdout = command.stdout.take().unwrap();
    if let Some(resizes) = &mut command.resizes {
        let size = resizes.next().await.unwrap();
        stdout.write_all(format!("{}x{} ", size.width, size.height).as_bytes()).await.unwrap();
    }
    if let Some(mut stdin) = command.stdin.take() {
        tokio::io::copy(&mut stdin, &mut stdout).await.unwrap();
    }
    if let Some(mut stderr) = command.stderr.take() {
        stderr.write_all(b"oh").await.unwrap();
    }
    drop(stdout);
    command.finish(Bytes::from_static(STATUS.as_bytes()), None).await;
}

async fn upgrade(world: &World, request: Request) -> (Response, websocket::UpgradedIo) {
    match soon(world.upgrade(request)).await {
        Upgrade::Switched(response, io) => (response, io),
        Upgrade::Refused(response) => panic!("refused: {}", crate::world::text(response).await),
    }
}

async fn text(mut reader: impl AsyncRead + Unpin) -> String {
    let mut text = String::new();
    soon(reader.read_to_string(&mut text)).await.unwrap();
    text
}

fn websocket_request(address: SocketAddr, path: &str, protocol: &str) -> Request {
    websocket::request(get(address, path).uri().clone(), &[protocol])
}

#[tokio::test]
async fn exec_by_websocket_v5_hears_the_end_of_stdin() {
    let world = World::new();
    let address = serve(&world);
    let request = websocket_request(address, "/exec?stdin&stdout&stderr", "v5.channel.k8s.io");
    let headers = request.headers().clone();
    let (response, io) = upgrade(&world, request).await;
    assert_eq!(websocket::switched(&headers, &response).unwrap(), "v5.channel.k8s.io");
    let layout = Layout { encoding: Encoding::Binary, half_close: HalfClose::Sent, reads: vec![1, 2, 3] };
    let context = context(&world);
    let socket = Socket::client(io).await;
    let mut channels = Channels::start(socket, layout, &context.clock, &context.tasks, &context.stop);
    let mut stdin = channels.writer(0);
    let long = "x".repeat(500_000);
    let typing = async {
        stdin.write_all(long.as_bytes()).await.unwrap();
        stdin.shutdown().await.unwrap();
    };
    let [stdout, stderr, error] = [1, 2, 3].map(|channel| channels.take_reader(channel).unwrap());
    let ((), out, err, status) = tokio::join!(typing, text(stdout), text(stderr), text(error));
    assert!(out == long);
    assert_eq!((err.as_str(), status.as_str()), ("oh", STATUS));
}

#[tokio::test]
async fn exec_by_the_oldest_websocket_protocol_and_by_base64() {
    let world = World::new();
    let address = serve(&world);
    for (protocol, encoding, status) in
        [("channel.k8s.io", Encoding::Binary, ""), ("v4.base64.channel.k8s.io", Encoding::Base64, STATUS)]
    {
        let (_, io) = upgrade(&world, websocket_request(address, "/exec?stdout&stderr", protocol)).await;
        let layout = Layout { encoding, half_close: HalfClose::Never, reads: vec![2, 3] };
        let context = context(&world);
        let socket = Socket::client(io).await;
        let mut channels = Channels::start(socket, layout, &context.clock, &context.tasks, &context.stop);
        assert_eq!(text(channels.take_reader(2).unwrap()).await, "oh");
        assert_eq!(text(channels.take_reader(3).unwrap()).await, status, "{protocol}");
    }
}

fn spdy_request(address: SocketAddr, path: &str, version: &str) -> Request {
    let mut request = get(address, path);
    for (name, value) in
        [("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", version)]
    {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

fn spdy(world: &World, io: impl AsyncRead + AsyncWrite + Send + 'static) -> Connection {
    Connection::start(io, Role::Client, &world.clock, &world.tasks, &world.stopper.signal())
}

async fn open(connection: &Connection, pairs: &[(&str, &str)]) -> Stream {
    soon(connection.open(Headers::new(pairs.iter().copied()))).await.unwrap()
}

#[tokio::test]
async fn exec_by_spdy_with_a_terminal() {
    let world = World::new();
    let address = serve(&world);
    let request =
        spdy_request(address, "/exec?stdin&stdout&stderr&tty", "v9.channel.k8s.io, v4.channel.k8s.io");
    let (response, io) = upgrade(&world, request).await;
    assert_eq!(response.headers()["x-stream-protocol-version"], "v4.channel.k8s.io");
    let connection = spdy(&world, io);
    let mut streams = Vec::new();
    for kind in ["error", "stdin", "stdout", "resize"] {
        streams.push(open(&connection, &[("streamType", kind)]).await);
    }
    let [error, mut stdin, stdout, mut resize] = <[Stream; 4]>::try_from(streams).ok().unwrap();
    resize.write_all(b"{\"Width\":80,\"Height\":24}\n").await.unwrap();
    let long = "y".repeat(500_000);
    let typing = async {
        stdin.write_all(long.as_bytes()).await.unwrap();
        stdin.shutdown().await.unwrap();
    };
    let ((), out, status) = tokio::join!(typing, text(stdout), text(error));
    assert!(out == format!("80x24 {long}"));
    assert_eq!(status, STATUS);
}

#[tokio::test]
async fn a_request_that_agrees_on_nothing_gets_a_clear_answer() {
    let world = World::new();
    let address = serve(&world);
    for (request, status) in [
        (get(address, "/exec?stdout"), 400),
        (spdy_request(address, "/exec", "v4.channel.k8s.io"), 400),
        (spdy_request(address, "/exec?stdout", "v9.channel.k8s.io"), 403),
        (websocket_request(address, "/exec?stdout", "v9.channel.k8s.io"), 403),
    ] {
        let Upgrade::Refused(answer) = soon(world.upgrade(request)).await else { panic!("accepted") };
        assert_eq!(answer.status(), status);
    }
}

/// Forwards to port 80 twice and to port 81 once over one connection.
async fn forward_by_spdy(connection: Connection) {
    for (id, port) in [("0", "80"), ("1", "81"), ("2", "80")] {
        let pair = |kind| [("streamType", kind), ("port", port), ("requestID", id)];
        let mut error = open(&connection, &pair("error")).await;
        error.shutdown().await.unwrap();
        let mut data = open(&connection, &pair("data")).await;
        data.write_all(b"hello").await.unwrap();
        let (said, failed) = tokio::join!(text(data), text(error));
        match port {
            "80" => assert_eq!((said.as_str(), failed.as_str()), ("hello", "")),
            _ => assert_eq!((said.as_str(), failed.as_str()), ("", "nobody listens on 81")),
        }
    }
}

#[tokio::test]
async fn port_forward_by_spdy_and_through_the_tunnel() {
    let world = World::new();
    let address = serve(&world);
    let (_, io) = upgrade(&world, spdy_request(address, "/forward", "portforward.k8s.io")).await;
    forward_by_spdy(spdy(&world, io)).await;
    let request = websocket_request(address, "/forward", "SPDY/3.1+portforward.k8s.io");
    let (_, io) = upgrade(&world, request).await;
    forward_by_spdy(spdy(&world, Tunnel::new(Socket::client(io).await))).await;
}

#[tokio::test]
async fn port_forward_by_websocket_channels_names_ports_first() {
    let world = World::new();
    let address = serve(&world);
    let (_, io) = upgrade(&world, websocket_request(address, "/forward", "v4.channel.k8s.io")).await;
    let layout = Layout { encoding: Encoding::Binary, half_close: HalfClose::Never, reads: vec![0, 1, 2, 3] };
    let context = context(&world);
    let socket = Socket::client(io).await;
    let mut channels = Channels::start(socket, layout, &context.clock, &context.tasks, &context.stop);
    channels.writer(0).write_all(b"hello").await.unwrap();
    for (channel, expect) in [(0, "P\0hello"), (1, "P\0"), (2, "Q\0"), (3, "Q\0nobody listens on 81")] {
        assert_eq!(text(channels.take_reader(channel).unwrap()).await, expect, "{channel}");
    }
}

#[tokio::test]
async fn logs_come_by_websocket() {
    let world = World::new();
    let address = serve(&world);
    let (_, io) = upgrade(&world, websocket_request(address, "/log", "binary.k8s.io")).await;
    let mut socket = Socket::client(io).await;
    let mut all = Vec::new();
    while let Some(Message::Binary(bytes)) = soon(socket.receive()).await.unwrap() {
        all.extend_from_slice(&bytes);
    }
    assert_eq!(all, b"line 1\nline 2\n");
}

#[tokio::test]
async fn a_log_that_breaks_off_is_not_taken_for_a_whole_one() {
    use futures::StreamExt as _;
    use tokio_tungstenite::tungstenite::{self, protocol::Role};
    let world = World::new();
    let address = serve(&world);
    for (path, code) in [("/log", 1000), ("/broken", 1011)] {
        let (_, io) = upgrade(&world, websocket_request(address, path, "binary.k8s.io")).await;
        let mut socket = tokio_tungstenite::WebSocketStream::from_raw_socket(io, Role::Client, None).await;
        let close = loop {
            let message = soon(socket.next()).await.unwrap().unwrap();
            if let tungstenite::Message::Close(Some(frame)) = message {
                break u16::from(frame.code);
            }
        };
        assert_eq!(close, code, "{path}");
    }
}

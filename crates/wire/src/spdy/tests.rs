//! Two of our own ends over a pipe, and strangers.

use std::time::Duration;

use base::{Clock, Stop, Stopper, Tasks};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::{Connection, Deflater, Frame, Header, Headers, Inflater, OpenError, Role, status};

struct World {
    clock: Clock,
    tasks: Tasks,
    stopper: Stopper,
}

impl World {
    fn new() -> Self {
        Self { clock: Clock::system(), tasks: Tasks::new(), stopper: Stopper::new() }
    }

    fn start(&self, stream: DuplexStream, role: Role) -> Connection {
        let stop: Stop = self.stopper.signal();
        Connection::start(stream, role, &self.clock, &self.tasks, &stop)
    }

    fn pair(&self) -> (Connection, Connection) {
        let (near, far) = tokio::io::duplex(1 << 16);
        (self.start(near, Role::Client), self.start(far, Role::Server))
    }
}

async fn send(stream: &mut DuplexStream, deflater: &mut Deflater, frame: Frame) {
    let mut out = Vec::new();
    frame.write(deflater, &mut out);
    stream.write_all(&out).await.unwrap();
}

async fn receive(stream: &mut DuplexStream, inflater: &mut Inflater) -> Frame {
    let mut header = [0; 8];
    stream.read_exact(&mut header).await.unwrap();
    match Header::parse(&header).unwrap() {
        Header::Data { id, fin, length } => {
            let mut bytes = vec![0; length];
            stream.read_exact(&mut bytes).await.unwrap();
            Frame::Data { id, fin, bytes: bytes.into() }
        }
        Header::Control { kind, flags, length } => {
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.unwrap();
            Frame::parse(kind, flags, &body, inflater).unwrap()
        }
    }
}

#[tokio::test]
async fn bytes_go_both_ways_and_end_each_way() {
    let world = World::new();
    let (client, mut server) = world.pair();
    let long: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    let echo = async {
        let mut stream = server.next().await.unwrap();
        assert_eq!(stream.headers().get("streamType"), Some("data"));
        stream.accept();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        stream.write_all(&got).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let ask = async {
        let mut stream = client.open(Headers::new([("streamType", "data")])).await.unwrap();
        stream.write_all(&long).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        back
    };
    let (back, ()) = tokio::join!(ask, echo);
    assert!(back == long);
    drop((client, server));
    assert!(world.tasks.join(Duration::from_secs(5)).await, "what nobody uses closes");
}

#[tokio::test]
async fn refused_and_dropped_streams_are_reset() {
    let world = World::new();
    let (client, mut server) = world.pair();
    let refusing = async { server.next().await.unwrap().refuse() };
    let (opened, ()) = tokio::join!(client.open(Headers::default()), refusing);
    assert_eq!(opened.err(), Some(OpenError::Refused { status: status::REFUSED_STREAM }));
    let dropping = async { drop(server.next().await.unwrap()) };
    let (opened, ()) = tokio::join!(client.open(Headers::default()), dropping);
    assert_eq!(opened.err(), Some(OpenError::Refused { status: status::CANCEL }));
}

#[tokio::test]
async fn windows_are_heeded_once_the_peer_has_shown_one() {
    let world = World::new();
    let (ours, mut peer) = tokio::io::duplex(1 << 20);
    let mut server = world.start(ours, Role::Server);
    let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
    send(&mut peer, &mut deflater, Frame::Settings { initial_window: Some(10) }).await;
    let syn = Frame::SynStream { id: 1, fin: true, unidirectional: false, headers: Headers::default() };
    send(&mut peer, &mut deflater, syn).await;
    let mut stream = server.next().await.unwrap();
    stream.accept();
    let reply = Frame::SynReply { id: 1, fin: false, headers: Headers::default() };
    assert_eq!(receive(&mut peer, &mut inflater).await, reply);
    let writing = async {
        stream.write_all(b"0123456789abcdef").await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let reading = async {
        let first = Frame::Data { id: 1, fin: false, bytes: "0123456789".into() };
        assert_eq!(receive(&mut peer, &mut inflater).await, first);
        send(&mut peer, &mut deflater, Frame::Ping { id: 1 }).await;
        assert_eq!(receive(&mut peer, &mut inflater).await, Frame::Ping { id: 1 }, "nothing came between");
        send(&mut peer, &mut deflater, Frame::WindowUpdate { id: 1, delta: 100 }).await;
        let second = Frame::Data { id: 1, fin: false, bytes: "abcdef".into() };
        assert_eq!(receive(&mut peer, &mut inflater).await, second);
        let last = Frame::Data { id: 1, fin: true, bytes: "".into() };
        assert_eq!(receive(&mut peer, &mut inflater).await, last);
    };
    tokio::join!(writing, reading);
}

#[tokio::test]
async fn what_is_read_opens_the_window_again() {
    let world = World::new();
    let (ours, mut peer) = tokio::io::duplex(1 << 20);
    let mut server = world.start(ours, Role::Server);
    let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
    let syn = Frame::SynStream { id: 1, fin: false, unidirectional: false, headers: Headers::default() };
    send(&mut peer, &mut deflater, syn).await;
    let mut stream = server.next().await.unwrap();
    send(&mut peer, &mut deflater, Frame::Data { id: 1, fin: true, bytes: vec![0; 40_000].into() }).await;
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), 40_000);
    let mut told = [0, 0];
    while told.iter().any(|sum| *sum < 32 * 1024) {
        let Frame::WindowUpdate { id, delta } = receive(&mut peer, &mut inflater).await else {
            panic!("no update")
        };
        told[id as usize] += delta;
    }
}

#[tokio::test]
async fn streams_out_of_order_are_reset_and_the_rest_goes_on() {
    let world = World::new();
    let (ours, mut peer) = tokio::io::duplex(1 << 20);
    let mut server = world.start(ours, Role::Server);
    let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
    let syn = |id| Frame::SynStream { id, fin: false, unidirectional: false, headers: Headers::default() };
    for (id, refused) in [(5, false), (5, true), (3, true), (2, true), (7, false)] {
        send(&mut peer, &mut deflater, syn(id)).await;
        if refused {
            let reset = Frame::Reset { id, status: status::PROTOCOL_ERROR };
            assert_eq!(receive(&mut peer, &mut inflater).await, reset);
        } else {
            let stream = server.next().await.unwrap();
            assert_eq!(stream.id(), id);
            // Kept open, so that its own reset does not come in between.
            std::mem::forget(stream);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn strangers_do_not_make_it_panic_or_hang(
        noise in proptest::collection::vec(any::<u8>(), 0..400), kinds in proptest::collection::vec(1_u8..11, 0..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ended = runtime.block_on(async {
            let world = World::new();
            let (ours, mut peer) = tokio::io::duplex(1 << 20);
            let mut server = world.start(ours, Role::Server);
            for (kind, part) in kinds.iter().zip(noise.chunks(50)) {
                peer.write_all(&[0x80, 3, 0, *kind, 0, 0, 0, part.len() as u8]).await.unwrap();
                peer.write_all(part).await.unwrap();
            }
            // It may have been cut already.
            let _ = peer.write_all(&noise).await;
            drop(peer);
            while let Some(mut stream) = server.next().await {
                stream.accept();
                let _ = stream.write_all(b"x").await;
            }
            drop(server);
            world.tasks.join(Duration::from_secs(5)).await
        });
        prop_assert!(ended);
    }
}

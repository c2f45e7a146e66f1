//! Requests, certificates, limits and proxies.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wire::connect::Upgrade;
use wire::serve::{Limits, ServerTls};
use wire::tls::{Authority, Presented, Roots};
use wire::{Body, Request, Response, proxy};

use crate::world::{World, get, service, soon, text};

#[tokio::test]
async fn both_versions_carry_requests_and_bodies() {
    let world = World::new();
    let address = world.serve(service(|request: Request, _| async move {
        let version = format!("{:?}", request.version());
        let sent = wire::body::read(request.into_body(), 1 << 20).await.unwrap();
        Response::new(Body::chunks([Bytes::from(version), Bytes::from_static(b" "), sent]))
    }));
    for (http2, version) in [(false, "HTTP/1.1"), (true, "HTTP/2.0")] {
        let mut request = get(address, "/");
        *request.method_mut() = http::Method::POST;
        *request.body_mut() = Body::from("x".repeat(300_000));
        let response = soon(world.client(http2).send(request)).await.unwrap();
        assert_eq!(text(response).await, format!("{version} {}", "x".repeat(300_000)));
    }
}

#[tokio::test]
async fn a_client_is_known_by_its_certificate_and_a_stranger_is_seen_as_one() {
    let world = World::new();
    let now = world.clock.now();
    let address = world.serve(service(move |_, connection: Arc<wire::serve::ConnectionInfo>| async move {
        let told = match connection.client_certificate() {
            None => "nobody".to_owned(),
            Some(certificate) => match certificate.trusted_at(now) {
                Some(peer) => format!("{} {:?}", peer.common_name, peer.organizations),
                None => format!("untrusted: {}", certificate.verified.is_err()),
            },
        };
        Response::new(Body::from(told))
    }));
    let known = Presented::new(&world.issue("alice", "admins")).unwrap();
    let stranger = Presented::new(&World::new().issue("alice", "admins")).unwrap();
    for (presented, expect) in
        [(Presented::none(), "nobody"), (known, "alice [\"admins\"]"), (stranger, "untrusted: true")]
    {
        let response = soon(world.client_showing(true, presented).send(get(address, "/"))).await.unwrap();
        assert_eq!(text(response).await, expect);
    }
}

#[tokio::test]
async fn a_new_connection_shows_the_certificate_of_now_and_not_of_an_earlier_session() {
    let world = World::new();
    let address = world.serve(service(|_, connection: Arc<wire::serve::ConnectionInfo>| async move {
        let shown = connection.client_certificate().and_then(|shown| shown.identity.clone());
        Response::new(Body::from(shown.map(|peer| peer.common_name).unwrap_or_default()))
    }));
    let presented = Presented::new(&world.issue("before", "x")).unwrap();
    let client = world.client_showing(false, presented.clone());
    for name in ["before", "after"] {
        presented.set(&world.issue(name, "x")).unwrap();
        let mut request = get(address, "/");
        request.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
        assert_eq!(text(soon(client.send(request)).await.unwrap()).await, name);
    }
}

#[tokio::test]
async fn certificates_and_roots_are_swapped_while_serving() {
    let world = World::new();
    let presented = Presented::new(&world.issue("old", "x")).unwrap();
    let tls = ServerTls::new(presented.clone(), Roots::none()).unwrap();
    let hello = service(|_, _| async { Response::new(Body::from("hello")) });
    let address = world.serve_with(hello, Limits::default(), tls);
    let other = World::new();
    assert!(soon(other.client(true).send(get(address, "/"))).await.is_err());
    presented.set(&other.issue("new", "x")).unwrap();
    assert_eq!(text(soon(other.client(true).send(get(address, "/"))).await.unwrap()).await, "hello");
    assert!(soon(world.client(true).send(get(address, "/"))).await.is_err());

    let roots = Roots::none();
    let config = wire::connect::Config::new(roots.clone(), Presented::none());
    let client = wire::connect::Client::new(config, &world.clock, &world.tasks).unwrap();
    assert!(soon(client.send(get(address, "/"))).await.is_err());
    roots.set(other.authority.certificate_pem()).unwrap();
    assert!(soon(client.send(get(address, "/"))).await.is_ok());
    let _: &Authority = &other.authority;
}

#[tokio::test]
async fn a_panic_is_answered_and_the_connection_lives_on() {
    let world = World::new();
    let address = world.serve(service(|request: Request, _| async move {
        assert_ne!(request.uri().path(), "/panic", "on purpose");
        Response::new(Body::from("fine"))
    }));
    let client = world.client(true);
    let response = soon(client.send(get(address, "/panic"))).await.unwrap();
    assert_eq!(response.status(), http::StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(text(soon(client.send(get(address, "/"))).await.unwrap()).await, "fine");
}

#[tokio::test]
async fn what_is_too_large_or_too_slow_is_cut() {
    let world = World::new();
    let hello = || service(|_, _| async { Response::new(Body::from("hello")) });
    let hasty = Limits { handshake_timeout: Duration::from_millis(50), ..Limits::default() };
    let address = world.serve_with(hello(), hasty, world.tls());
    let mut silent = tokio::net::TcpStream::connect(address).await.unwrap();
    assert_eq!(soon(silent.read(&mut [0; 8])).await.unwrap(), 0, "a silent client is cut");
    let narrow = Limits { header_bytes: 16 * 1024, ..Limits::default() };
    let address = world.serve_with(hello(), narrow, world.tls());
    for http2 in [false, true] {
        let mut request = get(address, "/");
        request.headers_mut().insert("x-large", "x".repeat(40_000).parse().unwrap());
        let response = soon(world.client(http2).send(request)).await.unwrap();
        assert_eq!(response.status(), http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "http2: {http2}");
    }
}

#[tokio::test]
async fn stopping_lets_requests_end_and_cuts_what_does_not() {
    let world = World::new();
    let (started, mut seen) = tokio::sync::mpsc::channel(4);
    let release = Arc::new(tokio::sync::Notify::new());
    let released = release.clone();
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let server = wire::serve::Server::bind(&[any], world.clock.clone()).unwrap().with_tls(world.tls());
    let address = server.addresses()[0];
    let slow = service(move |request: Request, _| {
        let (started, released) = (started.clone(), released.clone());
        async move {
            started.send(()).await.unwrap();
            match request.uri().path() {
                "/slow" => released.notified().await,
                _ => std::future::pending().await,
            }
            Response::new(Body::from("done"))
        }
    });
    let (stop, ended) = (world.stopper.signal(), tokio::sync::oneshot::channel());
    world.tasks.spawn("server", async move {
        ended.0.send(server.run(slow, stop, Duration::from_secs(2)).await).unwrap();
    });
    let (client, other) = (world.client(true), world.client(false));
    let (slow, never) = (client.send(get(address, "/slow")), other.send(get(address, "/never")));
    let stopper = async {
        seen.recv().await;
        seen.recv().await;
        world.stopper.stop();
        release.notify_one();
    };
    let (slow, never, ()) = soon(async { tokio::join!(slow, never, stopper) }).await;
    assert_eq!(text(slow.unwrap()).await, "done");
    assert!(never.is_err());
    assert!(!ended.1.await.unwrap(), "one request did not end by itself");
    assert!(soon(world.client(true).send(get(address, "/"))).await.is_err());
}

fn upgrade_request(address: std::net::SocketAddr) -> Request {
    let mut request = get(address, "/up");
    request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "echo".parse().unwrap());
    request
}

#[tokio::test]
async fn an_upgrade_goes_through_a_proxy_and_a_refusal_too() {
    let world = World::new();
    let tasks = world.tasks.clone();
    let backend = world.serve(service(move |mut request: Request, _| {
        let tasks = tasks.clone();
        async move {
            if request.headers().get("upgrade").is_none_or(|value| value != "echo") {
                return Response::new(Body::from("no upgrade"));
            }
            let upgraded = hyper::upgrade::on(&mut request);
            tasks.spawn("echo", async move {
                let io = hyper_util::rt::TokioIo::new(upgraded.await.unwrap());
                let (mut reader, mut writer) = tokio::io::split(io);
                tokio::io::copy(&mut reader, &mut writer).await.unwrap();
                writer.shutdown().await.unwrap();
            });
            let mut response = Response::new(Body::Empty);
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("upgrade", "echo".parse().unwrap());
            response.headers_mut().insert("connection", "Upgrade".parse().unwrap());
            response
        }
    }));
    let (client, tasks, stop) = (world.client(true), world.tasks.clone(), world.stopper.signal());
    let front = world.serve(service(move |request: Request, _| {
        let (client, tasks, stop) = (client.clone(), tasks.clone(), stop.clone());
        async move {
            let target = format!("https://{backend}{}", request.uri().path()).parse().unwrap();
            proxy::forward(&client, request, target, &tasks, &stop).await.unwrap()
        }
    }));
    let client = world.client(true);
    let Upgrade::Switched(_, mut io) = soon(client.upgrade(upgrade_request(front))).await.unwrap() else {
        panic!("not switched")
    };
    io.write_all(b"over two hops").await.unwrap();
    io.shutdown().await.unwrap();
    let mut back = String::new();
    soon(io.read_to_string(&mut back)).await.unwrap();
    assert_eq!(back, "over two hops");
    let mut other = upgrade_request(front);
    other.headers_mut().insert("upgrade", "unknown".parse().unwrap());
    let Upgrade::Refused(answer) = soon(client.upgrade(other)).await.unwrap() else { panic!("switched") };
    assert_eq!(text(answer).await, "no upgrade");
    assert_eq!(text(soon(client.send(get(front, "/"))).await.unwrap()).await, "no upgrade");
}

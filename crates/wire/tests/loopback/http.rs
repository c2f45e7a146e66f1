//! Requests, certificates, limits and proxies.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wire::serve::{Limits, ServerTls};
use wire::tls::{Authority, Presented, Roots};
use wire::{Body, Request, Response};

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
async fn who_says_nothing_after_the_handshake_is_cut() {
    let world = World::new();
    let hello = service(|_, _| async { Response::new(Body::from("hello")) });
    let hasty = Limits { first_request_timeout: Duration::from_millis(50), ..Limits::default() };
    let address = world.serve_with(hello, hasty, world.tls());
    for http2 in [false, true] {
        let mut silent = world.raw(http2, address).await;
        assert_eq!(soon(silent.read(&mut [0; 64])).await.unwrap_or(0), 0, "http2: {http2}");
        // Others, and those who have asked once, are not concerned.
        let client = world.client(http2);
        assert_eq!(text(soon(client.send(get(address, "/"))).await.unwrap()).await, "hello");
    }
}

#[tokio::test]
async fn one_peer_does_not_take_all_connections() {
    let world = World::new();
    let hello = service(|_, _| async { Response::new(Body::from("hello")) });
    let narrow = Limits { connections_of_peer: 1, ..Limits::default() };
    let address = world.serve_with(hello, narrow, world.tls());
    let first = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut second = tokio::net::TcpStream::connect(address).await.unwrap();
    assert_eq!(soon(second.read(&mut [0; 8])).await.unwrap_or(0), 0, "the second is closed");
    drop(first);
    // The place is free again when the server has seen the end.
    let client = world.client(true);
    let answered = async {
        loop {
            if let Ok(response) = client.send(get(address, "/")).await {
                return text(response).await;
            }
        }
    };
    assert_eq!(soon(answered).await, "hello");
}

#[tokio::test]
async fn a_line_that_is_too_long_is_answered_with_words() {
    let world = World::new();
    let hello = || service(|_, _| async { Response::new(Body::from("hello")) });
    let words = |code: http::StatusCode| wire::serve::Refusal {
        content_type: "text/plain",
        body: format!("{}: shorten it", code.as_u16()).into_bytes(),
    };
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let server = wire::serve::Server::bind(&[any], world.clock.clone()).unwrap();
    let server = server.with_tls(world.tls()).with_refusals(words);
    let (address, stop) = (server.addresses()[0], world.stopper.signal());
    world.tasks.spawn("server", async move {
        server.run(hello(), stop, Duration::from_secs(1)).await;
    });
    for (head, expect) in [
        (format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(70_000)), "414: shorten it"),
        (format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(300)), "431: shorten it"),
    ] {
        let mut io = world.raw(false, address).await;
        // A request before it does not hide it.
        io.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut seen = vec![0; 5];
        while !seen.ends_with(b"hello") {
            seen.push(soon(io.read_u8()).await.unwrap());
        }
        io.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = soon(io.read_to_end(&mut answer)).await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {}", &expect[..3])), "{answer}");
        assert!(answer.contains("content-type: text/plain") && answer.ends_with(expect), "{answer}");
    }
    // Over HTTP/2 the bound of all headers is that of the line.
    let mut request = get(address, "/");
    request.headers_mut().insert("x-large", "x".repeat(66_000).parse().unwrap());
    let response = soon(world.client(true).send(request)).await.unwrap();
    assert_eq!(response.status(), http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
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

#[tokio::test]
async fn connections_fields_and_idleness_are_bounded() {
    let world = World::new();
    let hello = || service(|_, _| async { Response::new(Body::from("hello")) });
    let one = Limits { connections: 1, ..Limits::default() };
    let address = world.serve_with(hello(), one, world.tls());
    let first = world.raw(false, address).await;
    let client = world.client(false);
    let mut second = std::pin::pin!(client.send(get(address, "/")));
    let early = world.clock.timeout(Duration::from_millis(50), &mut second).await;
    assert!(early.is_none(), "the second waits until the first has gone");
    drop(first);
    assert_eq!(text(soon(second).await.unwrap()).await, "hello");

    let few = Limits { header_fields: 8, ..Limits::default() };
    let address = world.serve_with(hello(), few, world.tls());
    let mut request = get(address, "/");
    for number in 0..9 {
        request.headers_mut().append("x-many", number.into());
    }
    let response = soon(world.client(false).send(request)).await.unwrap();
    assert_eq!(response.status(), http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);

    let brief = Limits { idle_timeout: Duration::from_millis(50), ..Limits::default() };
    let address = world.serve_with(hello(), brief, world.tls());
    let io = hyper_util::rt::TokioIo::new(world.raw(true, address).await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let asking = async {
        let response = sender.send_request(get(address, "/")).await.unwrap();
        assert_eq!(text(response.map(Body::from)).await, "hello");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = soon(connection) => ended.unwrap(),
        () = asking => {}
    }
}

//! Probes against real servers on loopback.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Stopper, Tasks};
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::HTTPGetAction;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpListener;
use wire::serve::{ConnectionInfo, Server, ServerTls};
use wire::tls::{Authority, Leaf, Presented, Roots, Usage};

use super::{Failure, grpc, http as http_probe};

const PATIENCE: Duration = Duration::from_secs(10);
const HOST: &str = "127.0.0.1";

/// A server that ends with the test.
struct Running {
    port: u16,
    tasks: Tasks,
    stopper: Stopper,
}

impl Running {
    async fn end(self) {
        self.stopper.stop();
        assert!(self.tasks.join(PATIENCE).await);
    }
}

/// Answers by path: `/ok`, `/to?<location>`, anything else with 500.
fn serve_http(tls: bool) -> Running {
    let clock = Clock::system();
    let mut server = Server::bind(&[SocketAddr::from((Ipv4Addr::LOCALHOST, 0))], clock.clone()).unwrap();
    let port = server.addresses()[0].port();
    if tls {
        let authority = Authority::create("nobody's authority", clock.now()).unwrap();
        let leaf = Leaf {
            common_name: "somebody else".into(),
            organizations: Vec::new(),
            dns_names: vec!["elsewhere.example".into()],
            ips: Vec::new(),
            usages: vec![Usage::Server],
            lifetime: Duration::from_secs(60),
        };
        let pair = authority.issue(&leaf, clock.now()).unwrap();
        server = server.with_tls(ServerTls::new(Presented::new(&pair).unwrap(), Roots::none()).unwrap());
    }
    let (tasks, stopper) = (Tasks::new(), Stopper::new());
    let stop = stopper.signal();
    let answer = async |request: wire::Request, _: Arc<ConnectionInfo>| {
        let mut response = wire::Response::new(wire::Body::Empty);
        *response.status_mut() = match request.uri().path() {
            "/ok" => http::StatusCode::OK,
            "/to" => http::StatusCode::FOUND,
            _ => http::StatusCode::INTERNAL_SERVER_ERROR,
        };
        if let Some(location) = request.uri().query() {
            response.headers_mut().insert("location", location.parse().unwrap());
        }
        response
    };
    let answer = move |request, connection| answer(request, connection);
    tasks.spawn("server", async move {
        server.run(answer, stop, Duration::ZERO).await;
    });
    Running { port, tasks, stopper }
}

async fn ask(port: u16, scheme: &str, path: &str) -> Result<(), String> {
    let action = HTTPGetAction {
        path: Some(path.to_owned()),
        scheme: Some(scheme.to_owned()),
        port: IntOrString::Int(i32::from(port)),
        ..HTTPGetAction::default()
    };
    let asked = http_probe::get(&action, HOST.to_owned(), port);
    Clock::system().timeout(PATIENCE, asked).await.expect("answered").map_err(|Failure(why)| why)
}

#[tokio::test]
async fn https_probes_take_any_certificate_and_judge_the_answer() {
    let server = serve_http(true);
    assert_eq!(
        ask(server.port, "HTTPS", "/ok").await,
        Ok(()),
        "the authority is unknown, and the name another"
    );
    let refused = ask(server.port, "HTTPS", "/sick").await;
    assert_eq!(refused.unwrap_err(), "HTTP probe failed with statuscode: 500");
    let plain = ask(server.port, "HTTP", "/ok").await.unwrap_err();
    assert!(plain.starts_with(&format!("Get \"http://127.0.0.1:{}/ok\": ", server.port)), "{plain}");
    server.end().await;
    let server = serve_http(false);
    assert!(ask(server.port, "HTTPS", "/ok").await.is_err(), "a server without TLS");
    server.end().await;
}

/// A hook tells something; what the server makes of it is the server's affair.
#[tokio::test]
async fn http_hooks_take_any_answer() {
    let tell = async |port: u16, scheme: &str| {
        let action = HTTPGetAction {
            path: Some("/sick".to_owned()),
            scheme: Some(scheme.to_owned()),
            port: IntOrString::Int(i32::from(port)),
            ..HTTPGetAction::default()
        };
        let told = http_probe::tell(&action, HOST.to_owned(), port);
        Clock::system().timeout(PATIENCE, told).await.expect("answered").map_err(|Failure(why)| why)
    };
    let server = serve_http(false);
    assert_eq!(tell(server.port, "HTTP").await, Ok(()));
    assert_eq!(tell(server.port, "HTTPS").await, Ok(()), "a server without TLS is told in plain words");
    let port = server.port;
    server.end().await;
    let refused = tell(port, "HTTPS").await.unwrap_err();
    assert!(refused.starts_with(&format!("Get \"https://127.0.0.1:{port}/sick\": dial tcp")), "{refused}");
}

#[tokio::test]
async fn http_probes_follow_redirects_to_the_same_host() {
    let server = serve_http(false);
    assert_eq!(ask(server.port, "HTTP", "/to?/ok").await, Ok(()));
    assert_eq!(
        ask(server.port, "HTTP", "/to?/sick").await.unwrap_err(),
        "HTTP probe failed with statuscode: 500"
    );
    assert_eq!(
        ask(server.port, "HTTP", "/to?http://192.0.2.1/sick").await,
        Ok(()),
        "another host is not asked"
    );
    let round = ask(server.port, "HTTP", "/to?/to?/to").await;
    // The last of these redirects has no place to lead to.
    assert_eq!(round, Ok(()));
    server.end().await;
}

/// A gRPC server's answers by the service that is asked for.
async fn health(
    request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let (head, body) = request.into_parts();
    let question = body.collect().await.unwrap().to_bytes();
    let service = String::from_utf8_lossy(question.get(7..).unwrap_or_default()).into_owned();
    let (status, code, message) = match service.as_str() {
        _ if head.uri.path() != "/grpc.health.v1.Health/Check" => (None, "12", "unknown%20service"),
        "" | "warm" => (Some(1_u8), "0", ""),
        "cold" => (Some(2), "0", ""),
        "never" => std::future::pending().await,
        "old" => (None, "12", "unknown service grpc.health.v1.Health"),
        _ => (None, "5", "unknown%20service"),
    };
    assert_eq!(head.headers["content-type"], "application/grpc");
    let mut frames: Vec<Result<Frame<Bytes>, Infallible>> = Vec::new();
    let mut response = http::Response::builder().header("content-type", "application/grpc");
    match status {
        Some(status) => {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", code.parse().unwrap());
            frames.push(Ok(Frame::data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]))));
            frames.push(Ok(Frame::trailers(trailers)));
        }
        None => response = response.header("grpc-status", code).header("grpc-message", message),
    }
    Ok(response.body(StreamBody::new(futures::stream::iter(frames))).unwrap())
}

#[tokio::test]
async fn grpc_probes_ask_for_a_service_and_tell_why_it_is_not_well() {
    let listener = TcpListener::bind((HOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tasks, stopper) = (Tasks::new(), Stopper::new());
    let stop = stopper.signal();
    tasks.spawn("grpc server", async move {
        while let Some(Ok((stream, _))) = stop.or(listener.accept()).await {
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), hyper::service::service_fn(health));
            let _ = stop.or(serving).await;
        }
    });
    let clock = Clock::system();
    let ask = async |service: &str, within: Duration| {
        clock
            .timeout(within, grpc::check(HOST, port, service))
            .await
            .map(|asked| asked.map_err(|Failure(why)| why))
    };
    let call_failed = "error: health rpc probe failed: rpc error: code =";
    assert_eq!(ask("", PATIENCE).await, Some(Ok(())));
    assert_eq!(ask("warm", PATIENCE).await, Some(Ok(())));
    let cold = "service unhealthy (responded with \"NOT_SERVING\")".to_owned();
    assert_eq!(ask("cold", PATIENCE).await, Some(Err(cold)));
    let unknown = format!("{call_failed} NotFound desc = unknown service");
    assert_eq!(ask("other", PATIENCE).await, Some(Err(unknown)));
    let old = ask("old", PATIENCE).await.unwrap().unwrap_err();
    assert!(old.starts_with("error: this server does not implement the grpc health protocol"), "{old}");
    assert_eq!(ask("never", Duration::from_millis(50)).await, None, "who asks gives up in time");
    stopper.stop();
    assert!(tasks.join(PATIENCE).await);
    let gone = grpc::check(HOST, port, "").await.unwrap_err();
    assert!(
        gone.0.starts_with(&format!("error: failed to connect service at \"127.0.0.1:{port}\"")),
        "{gone:?}"
    );
}

#[tokio::test]
async fn a_server_of_http_1_is_no_grpc_server() {
    let server = serve_http(true);
    let asked = Clock::system().timeout(PATIENCE, grpc::check(HOST, server.port, "")).await;
    assert!(asked.expect("answered").is_err());
    server.end().await;
}

//! The server on loopback with pods that are not there.

use std::path::Path;
use std::sync::Mutex;

use api::interface::{Answer, Call, Watch, WatchStream};
use api::json;
use api::status::Status;
use api::value::Value;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::AUTHORIZATION;
use hyper_util::rt::TokioIo;

use super::*;

/// Reviews tokens and access: the token `good` is `jane`, who may read logs but not connect.
#[derive(Default)]
struct Reviews(Mutex<Vec<String>>);

impl Api for Reviews {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Status>> {
        let Call::Create(target, body, _) = call else { panic!("reviews are created") };
        let mut review = api::value::parse(&body).unwrap();
        self.0.lock().unwrap().push(target.resource.resource.to_string());
        let status = match target.resource.resource.as_str() {
            "tokenreviews" if review.str_at(&["spec", "token"]) == Some("good") => {
                json!({"authenticated": true, "user": {"username": "jane", "groups": ["dev"]}})
            }
            "tokenreviews" => json!({"authenticated": false}),
            _ => json!({"allowed": (review.str_at(&["spec", "resourceAttributes", "verb"]) == Some("get"))}),
        };
        review.set(&["status"], status);
        review.set(&["metadata", "name"], "x");
        let object = Object::from_tree(&review).unwrap();
        async move { Ok(Answer::Object(Arc::new(object))) }.boxed()
    }

    fn watch(&self, _: Watch) -> BoxFuture<'_, Result<WatchStream, Status>> {
        panic!("nothing is watched")
    }
}

struct OnePod(PodHandle);

impl Pods for OnePod {
    fn find(&self, namespace: &str, name: &str) -> Option<PodHandle> {
        let object = &self.0.object;
        (object.namespace() == namespace && object.name() == name).then(|| self.0.clone())
    }

    fn list(&self) -> Vec<PodHandle> {
        vec![self.0.clone()]
    }
}

fn pod(logs: &Path) -> PodHandle {
    let tree = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "a", "uid": "u"},
        "spec": {"containers": [{"name": "c"}, {"name": "new"}]},
        "status": {"containerStatuses": [
            {"name": "c", "containerID": "ondol://u/c/1", "state": {"running": {}},
             "lastState": {"terminated": {"containerID": "ondol://u/c/0"}}},
            {"name": "new", "state": {"waiting": {"reason": "ContainerCreating"}}}
        ]}
    });
    let object = Arc::new(Object::from_tree(&tree).unwrap());
    PodHandle { object, sandbox: None, logs: logs.to_owned() }
}

struct Place {
    kubelet: Arc<Kubelet>,
    reviews: Arc<Reviews>,
    logs: tempfile::TempDir,
}

fn place() -> Place {
    let logs = tempfile::tempdir().unwrap();
    let reviews = Arc::new(Reviews::default());
    let settings =
        Settings { node: "n".into(), machine: Machine::default(), data_dir: logs.path().to_owned() };
    let (tasks, stop) = (Tasks::new(), Stop::default());
    let pods = Arc::new(OnePod(pod(logs.path())));
    let kubelet = Kubelet::new(settings, pods, reviews.clone(), Clock::system(), tasks, stop);
    Place { kubelet, reviews, logs }
}

impl Place {
    async fn ask(&self, method: Method, path: &str, token: &str) -> (u16, String) {
        let response = self.answer(method, path, token).await;
        let status = response.status().as_u16();
        let body = wire::body::read(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn answer(&self, method: Method, path: &str, token: &str) -> Response {
        let mut request = http::Request::builder().method(method).uri(path).body(Body::Empty).unwrap();
        if !token.is_empty() {
            let header = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        let nowhere = "127.0.0.1:1".parse().unwrap();
        let connection = ConnectionInfo { peer: nowhere, local: nowhere, tls: None };
        self.kubelet.answer(request, &connection).await
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask(Method::GET, path, "good").await
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.logs.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

#[tokio::test]
async fn nobody_comes_in_without_a_name_and_the_right() {
    let place = place();
    assert_eq!(place.ask(Method::GET, "/pods", "").await, (401, "Unauthorized\n".into()));
    assert_eq!(place.ask(Method::GET, "/pods", "bad").await.0, 401);
    assert_eq!(place.get("/healthz").await, (200, "ok".into()));
    let (status, text) = place.ask(Method::POST, "/exec/a/p/c?command=sh&output=1", "good").await;
    assert_eq!(status, 403);
    assert_eq!(text, "Forbidden (user=jane, verb=create, resource=nodes, subresource(s)=[\"proxy\"])\n");
}

#[tokio::test]
async fn answers_of_the_api_server_are_kept() {
    let place = place();
    for _ in 0..3 {
        assert_eq!(place.get("/healthz").await.0, 200);
    }
    assert_eq!(*place.reviews.0.lock().unwrap(), ["tokenreviews", "subjectaccessreviews"]);
}

#[tokio::test]
async fn logs_are_served_by_attempt() {
    let place = place();
    place.write("c/0.log", "2026-01-01T00:00:00Z stdout F first\n");
    place.write("c/1.log.20260101", "2026-01-01T00:00:01Z stdout F second\n");
    place.write("c/1.log", "2026-01-01T00:00:02Z stderr F third\n");
    assert_eq!(place.get("/containerLogs/a/p/c").await, (200, "second\nthird\n".into()));
    assert_eq!(place.get("/containerLogs/a/p/c?tailLines=1").await, (200, "third\n".into()));
    assert_eq!(place.get("/containerLogs/a/p/c?stream=Stdout").await, (200, "second\n".into()));
    assert_eq!(place.get("/containerLogs/a/p/c?previous=true").await, (200, "first\n".into()));
    let dated = place.get("/containerLogs/a/p/c?timestamps=true&sinceTime=2026-01-01T00:00:02Z").await;
    assert_eq!(dated, (200, "2026-01-01T00:00:02Z third\n".into()));
    // Nothing runs, so there is nothing to follow.
    assert_eq!(place.get("/containerLogs/a/p/c?follow=true").await, (200, "second\nthird\n".into()));
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_no_empty_one() {
    let place = place();
    std::fs::create_dir_all(place.logs.path().join("c/1.log")).unwrap();
    let response = place.answer(Method::GET, "/containerLogs/a/p/c", "good").await;
    let read = wire::body::read(response.into_body(), 1 << 20).await;
    assert!(matches!(read, Err(wire::body::ReadError::Broken(_))), "{read:?}");
    // One that was never written is.
    std::fs::remove_dir_all(place.logs.path().join("c")).unwrap();
    assert_eq!(place.get("/containerLogs/a/p/c").await, (200, String::new()));
}

#[tokio::test]
async fn logs_come_by_websocket_too() {
    let place = place();
    place.write("c/1.log", "2026-01-01T00:00:01Z stdout F first\n2026-01-01T00:00:02Z stdout F second\n");
    let server = wire::serve::Server::bind(&["127.0.0.1:0".parse().unwrap()], Clock::system()).unwrap();
    let address = server.addresses()[0];
    let tasks = Tasks::new();
    tasks.spawn("kubelet", place.kubelet.clone().run(server));
    let stream = TokioIo::new(tokio::net::TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tasks.spawn("client", async move { connection.with_upgrades().await.unwrap() });
    let uri = "/containerLogs/a/p/c?tailLines=2".parse().unwrap();
    let mut request = websocket::request(uri, &["base64.binary.k8s.io", "binary.k8s.io"]);
    request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static("Bearer good"));
    request.headers_mut().insert("host", HeaderValue::from_static("node"));
    let mut response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["sec-websocket-protocol"], "base64.binary.k8s.io");
    let io = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    let mut socket = websocket::Socket::client(io).await;
    let mut log = Vec::new();
    while let Some(message) = socket.receive().await.unwrap() {
        let websocket::Message::Text(text) = message else { panic!("{message:?}") };
        log.extend(STANDARD.decode(text).unwrap());
    }
    assert_eq!(String::from_utf8(log).unwrap(), "first\nsecond\n");
}

#[tokio::test]
async fn what_is_not_there_is_told_in_upstreams_words() {
    let place = place();
    let check = async |path: &str, status: u16, text: &str| {
        assert_eq!(place.get(path).await, (status, format!("{text}\n")), "{path}");
    };
    check("/containerLogs/a/q/c", 404, "pod \"q\" does not exist").await;
    check("/containerLogs/a/p/x", 404, "container \"x\" not found in pod \"p\"").await;
    let waiting = "container \"new\" in pod \"p\" is waiting to start: ContainerCreating";
    check("/containerLogs/a/p/new", 400, waiting).await;
    check("/containerLogs/a/p/c?tailLines=-1", 422, "{\"message\": \"Invalid request.\"}").await;
    check("/exec/a/p/c?command=sh&output=1", 500, "container not found (\"c\")").await;
    check("/exec/a/p/other-uid/c?command=sh&output=1", 404, "pod does not exist").await;
    check("/portForward/a/p", 500, "unable to forward port because pod p is not running").await;
    check("/metrics/cadvisor", 404, "404 page not found").await;
    assert_eq!(place.get("/logs/syslog").await.0, 405);
    assert_eq!(place.get("/a/../b").await.0, 400);
}

#[tokio::test]
async fn pods_and_their_use_are_listed() {
    let place = place();
    let list: Value = api::value::parse(place.get("/pods").await.1.as_bytes()).unwrap();
    assert_eq!(list.str_at(&["kind"]), Some("PodList"));
    assert_eq!(list.array_at(&["items"])[0].str_at(&["metadata", "name"]), Some("p"));
    let summary: Value = api::value::parse(place.get("/stats/summary").await.1.as_bytes()).unwrap();
    assert_eq!(summary.str_at(&["node", "nodeName"]), Some("n"));
    assert_eq!(summary.array_at(&["pods"])[0].str_at(&["podRef", "uid"]), Some("u"));
}

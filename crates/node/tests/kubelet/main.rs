//! The kubelet's port before a real sandbox: a client's WebSocket, a shell, a log, a port. Needs root and
//! `/bin/busybox` (apt-get install busybox-static).

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::interface::{Answer, Api, Call, Watch, WatchStream};
use api::json;
use api::object::Object;
use api::status::Status;
use base::{Clock, Random, Stopper, Tasks};
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use node::machine::Machine;
use node::server::{Kubelet, PodHandle, Pods, Settings};
use sandbox::{Attempt, Config, ContainerSpec, Log, Root, Sandbox, Sandboxes, Spec};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::websocket::{Channels, Encoding, HalfClose, Layout, Socket};
use wire::{Body, Request, Response};

/// Fivefold of what anything here should take.
const PATIENCE: Duration = Duration::from_secs(30);
const SUCCESS: &str = r#"{"metadata":{},"status":"Success"}"#;

/// Everybody is an administrator.
struct Open;

impl Api for Open {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Status>> {
        let Call::Create(_, body, _) = call else { panic!("reviews are created") };
        let mut review = api::value::parse(&body).unwrap();
        let user = json!({"username": "admin", "groups": ["system:masters"]});
        review.set(&["status"], json!({"authenticated": true, "user": user}));
        review.set(&["metadata", "name"], "review");
        let object = Arc::new(Object::from_tree(&review).unwrap());
        async move { Ok(Answer::Object(object)) }.boxed()
    }

    fn watch(&self, _: Watch) -> BoxFuture<'_, Result<WatchStream, Status>> {
        panic!("nothing is watched")
    }
}

struct OnePod(PodHandle);

impl Pods for OnePod {
    fn find(&self, _: &str, name: &str) -> Option<PodHandle> {
        (name == "p").then(|| self.0.clone())
    }

    fn list(&self) -> Vec<PodHandle> {
        vec![self.0.clone()]
    }
}

/// A node with one pod, whose container `c` is a shell script.
struct World {
    directory: PathBuf,
    sandboxes: Sandboxes,
    sandbox: Sandbox,
    address: std::net::SocketAddr,
    tasks: Tasks,
    stopper: Stopper,
}

impl World {
    async fn new(script: &str) -> Self {
        let suffix = Random::system().suffix(6);
        let directory = PathBuf::from(format!("/tmp/ondt-{suffix}"));
        make_root(&directory.join("base"));
        let (tasks, clock, stopper) = (Tasks::new(), Clock::system(), Stopper::new());
        let config = Config { run_dir: directory.join("run"), cgroup_root: format!("/ondt-{suffix}") };
        let sandboxes = Sandboxes::open(config, clock.clone(), tasks.clone()).await.expect("root");
        let spec = Spec { id: "u".into(), hostname: "p".into(), ..Spec::default() };
        let sandbox = sandboxes.create(spec).await.expect("a sandbox");
        let container = ContainerSpec {
            attempt: Attempt::new("c", 0),
            root: Root::Directory(directory.join("base")),
            args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec![("PATH".into(), "/bin".into())],
            log: Log { path: directory.join("logs/c/0.log"), max_bytes: 10 << 20, max_files: 5 },
            ..ContainerSpec::default()
        };
        sandbox.start(container).await.expect("started");
        let tree = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "a", "uid": "u"},
            "spec": {"containers": [{"name": "c"}]}
        });
        let object = Arc::new(Object::from_tree(&tree).unwrap());
        let pod = PodHandle { object, sandbox: Some(sandbox.clone()), logs: directory.join("logs") };
        let settings =
            Settings { node: "n".into(), machine: Machine::default(), data_dir: directory.clone() };
        let server = wire::serve::Server::bind(&["127.0.0.1:0".parse().unwrap()], clock.clone()).unwrap();
        let address = server.addresses()[0];
        let pods = Arc::new(OnePod(pod));
        let kubelet = Kubelet::new(settings, pods, Arc::new(Open), clock, tasks.clone(), stopper.signal());
        tasks.spawn("kubelet", kubelet.run(server));
        Self { directory, sandboxes, sandbox, address, tasks, stopper }
    }

    async fn send(&self, mut request: Request) -> Response {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        self.tasks.spawn("client", async move {
            let _ = connection.with_upgrades().await;
        });
        let headers = request.headers_mut();
        headers.insert("authorization", "Bearer x".parse().unwrap());
        headers.insert("host", "node".parse().unwrap());
        sender.send_request(request).await.unwrap().map(Body::from)
    }

    /// The streams of an exec or attach, as kubectl opens them.
    async fn open(&self, path: &str) -> Channels {
        let request = wire::websocket::request(path.parse().unwrap(), &["v5.channel.k8s.io"]);
        let mut response = self.send(request).await;
        if response.status() != 101 {
            panic!("refused: {:?}", wire::body::read(response.into_body(), 4096).await);
        }
        let io = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
        let layout = Layout { encoding: Encoding::Binary, half_close: HalfClose::Sent, reads: vec![1, 2, 3] };
        let (clock, stop) = (Clock::system(), self.stopper.signal());
        Channels::start(Socket::client(io).await, layout, &clock, &self.tasks, &stop)
    }

    async fn clean(self) {
        self.stopper.stop();
        self.sandbox.remove().await.expect("removed");
        self.sandboxes.remove_root().await.expect("removed");
        std::fs::remove_dir_all(&self.directory).expect("removed");
    }
}

fn make_root(base: &Path) {
    for folder in ["bin", "tmp", "proc", "dev", "sys", "etc"] {
        std::fs::create_dir_all(base.join(folder)).unwrap();
    }
    std::fs::copy("/bin/busybox", base.join("bin/busybox")).expect("busybox-static is installed");
    for name in ["sh", "cat", "echo", "sleep", "tty"] {
        symlink("busybox", base.join("bin").join(name)).unwrap();
    }
}

async fn text(reader: Option<impl AsyncRead + Unpin>) -> String {
    let mut text = String::new();
    reader.unwrap().read_to_string(&mut text).await.unwrap();
    text
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    Clock::system().timeout(PATIENCE, future).await.expect("it does not take that long")
}

/// Runs a test; one that fails leaves nothing behind either.
async fn run(script: &str, test: impl AsyncFnOnce(&World)) {
    let world = World::new(script).await;
    let outcome = std::panic::AssertUnwindSafe(test(&world)).catch_unwind().await;
    world.clean().await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[tokio::test]
async fn a_command_gets_input_and_tells_output_errors_and_its_exit_code() {
    run("sleep 1000", async |world| commands(world).await).await;
}

async fn commands(world: &World) {
    let query = "command=sh&command=-c&command=cat%3Becho%20oh%20%3E%262%3Bexit%207&input=1&output=1&error=1";
    let mut channels = soon(world.open(&format!("/exec/a/p/c?{query}"))).await;
    let mut stdin = channels.writer(0);
    stdin.write_all(b"typed").await.unwrap();
    stdin.shutdown().await.unwrap();
    let [out, err, status] = [1, 2, 3].map(|channel| channels.take_reader(channel));
    let (out, err, status) = soon(async { tokio::join!(text(out), text(err), text(status)) }).await;
    assert_eq!((out.as_str(), err.trim()), ("typed", "oh"));
    assert!(status.contains(r#"{"message":"7","reason":"ExitCode"}"#), "{status}");
    // With a terminal, output and errors are one stream.
    let mut channels = soon(world.open("/exec/a/p/u/c?command=tty&output=1&tty=1")).await;
    let [out, status] = [1, 3].map(|channel| channels.take_reader(channel));
    let (out, status) = soon(async { tokio::join!(text(out), text(status)) }).await;
    assert!(out.starts_with("/dev/"), "{out}");
    assert_eq!(status, SUCCESS);
    let mut channels = soon(world.open("/exec/a/p/c?command=/no/such&output=1")).await;
    let status = soon(text(channels.take_reader(3))).await;
    assert!(status.contains("error executing command in container"), "{status}");
}

#[tokio::test]
async fn a_followed_log_and_an_attachment_end_with_the_container() {
    let script = "echo begin; while [ ! -e /tmp/go ]; do echo .; sleep 0.05; done; echo end";
    run(script, async |world| followed(world).await).await;
}

async fn followed(world: &World) {
    let request = http::Request::get("/containerLogs/a/p/c?follow=true").body(Body::Empty).unwrap();
    let log = soon(world.send(request)).await;
    assert_eq!(log.status(), 200);
    let mut channels = soon(world.open("/attach/a/p/c?output=1&error=1")).await;
    let [out, status] = [1, 3].map(|channel| channels.take_reader(channel));
    let mut out = out.unwrap();
    // Once something was seen, nothing that follows may be missed.
    soon(out.read_u8()).await.unwrap();
    std::fs::write(world.directory.join("base/tmp/go"), "").unwrap();
    let (out, status) = soon(async { tokio::join!(text(Some(out)), text(status)) }).await;
    assert!(out.ends_with("end\n"), "{out}");
    assert_eq!(status, SUCCESS);
    let log = soon(wire::body::read(log.into_body(), 1 << 20)).await.unwrap();
    assert!(log.starts_with(b"begin\n") && log.ends_with(b".\nend\n"), "{log:?}");
}

//! The admin socket: what the command line asks of a running instance. HTTP with JSON; only root can open it.

mod image_users;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use api::names::{NODES, PODS, Resource};
use api::value::Value as Tree;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use image::Reference;
use image::credentials::Credentials;
use image::pull::Event;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use wire::query::Pairs;
use wire::{Body, Request, Response};

use crate::agent::Node;
use crate::layout::Layout;
use crate::server::{Ground, Server};

/// The largest document that is asked.
const DOCUMENT_BYTES: usize = 64 * 1024;
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Lines of a followed answer that wait.
const LINES: usize = 256;

/// What the instance has done since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Steps with their milliseconds.
    pub steps: Vec<(String, u128)>,
    /// All is ready.
    pub ready: bool,
}

/// What can be asked about.
pub struct Admin {
    layout: Layout,
    role: &'static str,
    ground: Ground,
    started: Duration,
    progress: watch::Receiver<Progress>,
    parts: std::sync::OnceLock<Parts>,
    /// Whether all is about to end.
    ending: AtomicBool,
    /// Tells the process to end.
    end: Arc<dyn Fn() + Send + Sync>,
}

/// What there is once all has started.
#[derive(Clone)]
pub struct Parts {
    /// In the server's process.
    pub server: Option<Arc<Server>>,
    /// In the agent's process.
    pub node: Option<Arc<Node>>,
    /// Name of the node.
    pub node_name: String,
}

impl Admin {
    /// Listens from now on.
    pub fn start(
        layout: &Layout,
        role: &'static str,
        ground: &Ground,
        progress: watch::Receiver<Progress>,
        end: Arc<dyn Fn() + Send + Sync>,
    ) -> anyhow::Result<Arc<Self>> {
        let socket = layout.admin_socket();
        let listener = bind(&socket).with_context(|| format!("cannot listen at {}", socket.display()))?;
        let admin = Arc::new(Self {
            layout: layout.clone(),
            role,
            ground: ground.clone(),
            started: ground.clock.monotonic(),
            progress,
            parts: std::sync::OnceLock::new(),
            ending: AtomicBool::new(false),
            end,
        });
        let serving = admin.clone();
        ground.tasks.spawn("admin socket", async move { serving.serve(listener).await });
        Ok(admin)
    }

    /// All has started.
    pub fn complete(&self, parts: Parts) {
        // Called once.
        let _ = self.parts.set(parts);
    }

    async fn serve(self: Arc<Self>, listener: UnixListener) {
        while let Some(accepted) = self.ground.stop.or(listener.accept()).await {
            let Ok((stream, _)) = accepted else {
                // Mostly there are no file descriptors left, and whoever waits here waits on.
                if self.ground.stop.or(self.ground.clock.sleep(ACCEPT_PAUSE)).await.is_none() {
                    return;
                }
                continue;
            };
            let admin = self.clone();
            self.ground.tasks.spawn("admin connection", async move {
                let service =
                    hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let admin = admin.clone();
                        async move {
                            Ok::<_, std::convert::Infallible>(admin.answer(request.map(Body::Incoming)).await)
                        }
                    });
                // A client that goes away is no concern.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }

    async fn answer(self: &Arc<Self>, request: Request) -> Response {
        match self.route(request).await {
            Ok(response) => response,
            Err(error) => {
                let mut response = Response::new(Body::from(format!("{error:#}")));
                *response.status_mut() = http::StatusCode::BAD_REQUEST;
                response
            }
        }
    }

    async fn route(self: &Arc<Self>, request: Request) -> anyhow::Result<Response> {
        let (parts, body) = request.into_parts();
        let query = Pairs::parse(parts.uri.query())?;
        match (parts.method.as_str(), parts.uri.path()) {
            ("GET", "/status") => Ok(document(&self.status().await)),
            // A part of the same; the whole counts pods and memory, which `up` does not wait for.
            ("GET", "/pressures") => Ok(document(&json!({"node": {"pressures": self.pressures()}}))),
            ("POST", "/progress") => Ok(self.follow_progress()),
            ("GET", "/objects") => self.objects(&query).await,
            ("POST", "/down") => self.down(&read(body).await?).await,
            ("GET", "/images") => Ok(document(&serde_json::to_value(self.node()?.images.list())?)),
            ("POST", "/images/pull") => self.pull(&read(body).await?),
            ("POST", "/images/import") => self.import(body, query.get("directory"), query.get("name")).await,
            ("POST", "/images/tag") => {
                let asked = read(body).await?;
                let name: Reference = text(&asked, "name")?.parse()?;
                let named = self.node()?.images.tag(text(&asked, "image")?, &name).await?;
                Ok(document(&serde_json::to_value(named)?))
            }
            ("POST", "/images/remove") => self.remove(&read(body).await?).await,
            ("GET", "/images/inspect") => {
                let image = query.get("image").context("which image?")?;
                Ok(document(&serde_json::to_value(self.node()?.images.inspect(image).await?)?))
            }
            ("GET", "/images/save") => self.save(query.all("image").map(str::to_owned).collect()),
            (method, path) => {
                Err(anyhow!("{method} {path} is unknown here; is this ondol older than its server?"))
            }
        }
    }

    fn parts(&self) -> anyhow::Result<&Parts> {
        self.parts.get().context("the instance is still starting; try again in a moment")
    }

    fn node(&self) -> anyhow::Result<&Arc<Node>> {
        self.parts()?.node.as_ref().context("this instance is a server without a node: it has no images")
    }

    /// From now on who asks is told that the process is about to end.
    pub fn ending(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    fn server(&self) -> anyhow::Result<&Arc<Server>> {
        self.parts()?.server.as_ref().context("this instance is an agent: ask at its server")
    }

    async fn status(&self) -> Value {
        let uptime = self.ground.clock.monotonic().saturating_sub(self.started);
        let mut status = json!({
            "instance": self.layout.instance.name(),
            "version": cli::arguments::VERSION,
            "kubernetes": apiserver::GIT_VERSION,
            "role": self.role,
            "pid": std::process::id(),
            "uptimeSeconds": uptime.as_secs(),
            "memoryBytes": self.memory_bytes().await,
            "dataDir": self.layout.data,
            "ready": self.progress.borrow().ready,
            "ending": self.ending.load(Ordering::Relaxed),
        });
        if let Some(parts) = self.parts.get() {
            if let Some(server) = &parts.server {
                status["server"] = server.url().into();
                status["pods"] = pods(server);
            }
            if let Some(node) = &parts.node {
                let ready = parts.server.as_ref().map(|server| is_ready(server, &parts.node_name));
                status["node"] = json!({"name": parts.node_name, "address": node.address, "ready": ready});
                status["node"]["pressures"] = self.pressures();
            }
        }
        status
    }

    /// What the node is short of now, and what to do. It is measured, for an agent does not know its Node.
    fn pressures(&self) -> Value {
        let load = node::machine::Load::read(&self.layout.data).unwrap_or_default();
        let told = load.pressures().into_iter().map(|(kind, message)| {
            json!({"type": kind, "message": message, "advice": cli::why::pressure_advice(kind)})
        });
        told.collect()
    }

    /// Memory of all our processes in proportion (Pss): this one, and those that hold pods.
    async fn memory_bytes(&self) -> Option<u64> {
        let own = memory_bytes()?;
        let node = self.parts.get().and_then(|parts| parts.node.as_ref());
        let sandboxes =
            node.into_iter().flat_map(|node| node.agent.workers()).filter_map(|worker| worker.sandbox());
        let held =
            sandboxes.map(|sandbox| async move { sandbox.overhead().await.map_or(0, |cost| cost.pss_bytes) });
        Some(own + futures::future::join_all(held).await.into_iter().sum::<u64>())
    }

    /// Every step so far, then each as it comes, until all is ready.
    fn follow_progress(&self) -> Response {
        let mut progress = self.progress.clone();
        let (lines, body) = Body::channel(LINES);
        let stop = self.ground.stop.clone();
        self.ground.tasks.spawn("progress", async move {
            let mut told = 0;
            loop {
                let now = progress.borrow_and_update().clone();
                for (step, milliseconds) in &now.steps[told..] {
                    let line = json!({"step": step, "ms": u64::try_from(*milliseconds).unwrap_or(u64::MAX)});
                    if lines.send(line_of(&line)).await.is_err() {
                        return;
                    }
                }
                told = now.steps.len();
                if now.ready {
                    let _ = lines.send(line_of(&json!({"ready": true}))).await;
                    return;
                }
                if !matches!(stop.or(progress.changed()).await, Some(Ok(()))) {
                    return;
                }
            }
        });
        Response::new(body)
    }

    async fn objects(&self, query: &Pairs<'_>) -> anyhow::Result<Response> {
        let word = |name: &str| query.get(name).unwrap_or_default();
        let resource = Resource {
            group: word("group").into(),
            version: word("version").into(),
            resource: word("resource").into(),
        };
        let list = self.server()?.admin().list(&resource, word("namespace")).await?;
        let items = list.items.iter().map(|object| object.to_tree()).collect();
        Ok(Response::new(Body::from(Tree::Array(items).to_bytes())))
    }

    async fn down(&self, asked: &Value) -> anyhow::Result<Response> {
        let timeout = Duration::from_secs(asked.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(30));
        if let Some(node) = self.parts.get().and_then(|parts| parts.node.clone()) {
            node.end_pods(timeout).await;
        }
        (self.end)();
        Ok(document(&json!({"ending": true})))
    }

    fn pull(&self, asked: &Value) -> anyhow::Result<Response> {
        let reference: Reference = text(asked, "image")?.parse()?;
        let credentials: Vec<Credentials> = asked
            .get("credentials")
            .and_then(Value::as_str)
            .map(credentials)
            .transpose()?
            .into_iter()
            .collect();
        let puller = self.node()?.puller.clone();
        let (lines, body) = Body::channel(LINES);
        let telling = lines.clone();
        // The puller must not wait for a slow reader: what does not fit is left out, and the end is always told.
        let progress: image::pull::Progress = Arc::new(move |event| {
            let _ = telling.try_send(line_of(&event_line(&event)));
        });
        self.ground.tasks.spawn("pull", async move {
            let result = puller.pull(&reference, &credentials, &progress).await;
            let line = match result {
                Ok(named) => json!({"named": named}),
                Err(error) => json!({"error": format!("{:#}", anyhow!(error))}),
            };
            let _ = lines.send(line_of(&line)).await;
        });
        Ok(Response::new(body))
    }

    /// Takes in images of a folder, or of the archive that comes as the body.
    async fn import(
        &self,
        body: Body,
        directory: Option<&str>,
        name: Option<&str>,
    ) -> anyhow::Result<Response> {
        let name = name.map(str::parse::<Reference>).transpose()?;
        let images = self.node()?.images.clone();
        if let Some(directory) = directory {
            let named = images.import_directory(Path::new(directory), name).await?;
            return Ok(document(&serde_json::to_value(named)?));
        }
        let (sender, receiver) = mpsc::channel::<std::io::Result<Bytes>>(4);
        self.ground.tasks.spawn("import", async move {
            let mut stream = body.into_data_stream();
            while let Some(chunk) = stream.next().await {
                if sender.send(chunk.map_err(std::io::Error::other)).await.is_err() {
                    return;
                }
            }
        });
        let reader = Received { receiver, chunk: Bytes::new() };
        let named = images.import(reader, name).await?;
        Ok(document(&serde_json::to_value(named)?))
    }

    /// Takes a name away, and all content that nothing needs then.
    async fn remove(&self, asked: &Value) -> anyhow::Result<Response> {
        let name: Reference = text(asked, "image")?.parse()?;
        let node = self.node()?;
        if let Some(pod) = image_users::user_of(node, &name) {
            bail!("{name} is used by pod {pod}; delete the pod, or what makes it, first");
        }
        let mut answer = serde_json::to_value(node.images.remove(&name).await?)?;
        if let Some(pins) = image_users::pins(node) {
            answer["freed"] = serde_json::to_value(node.images.collect(&pins).await?)?;
        }
        Ok(document(&answer))
    }

    fn save(&self, images: Vec<String>) -> anyhow::Result<Response> {
        let store = self.node()?.images.clone();
        for image in &images {
            store.resolve(image)?;
        }
        let (sender, receiver) = mpsc::channel::<Result<Bytes, wire::body::Error>>(4);
        self.ground.tasks.spawn("save", async move {
            if let Err(error) = store.save(&images, Sent(sender.clone())).await {
                // The connection is cut, so that half an archive is not taken for a whole one.
                let _ = sender.send(Err(error.into())).await;
            }
        });
        let stream = futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|chunk| (chunk, receiver))
        });
        Ok(Response::new(Body::stream(stream)))
    }
}

/// Whether the Node says that it is ready.
pub fn is_ready(server: &Server, name: &str) -> bool {
    let Some(node) = server.world.get(&NODES, "", name) else { return false };
    has_condition(&node.to_tree(), "Ready")
}

fn has_condition(tree: &Tree, kind: &str) -> bool {
    tree.array_at(&["status", "conditions"]).iter().any(|condition| {
        condition.str_at(&["type"]) == Some(kind) && condition.str_at(&["status"]) == Some("True")
    })
}

fn pods(server: &Server) -> Value {
    let trees: Vec<Tree> = server.world.list(&PODS, "").iter().map(|pod| pod.to_tree()).collect();
    let running = trees.iter().filter(|tree| tree.str_at(&["status", "phase"]) == Some("Running")).count();
    let ready = trees.iter().filter(|tree| has_condition(tree, "Ready")).count();
    json!({"total": trees.len(), "running": running, "ready": ready})
}

/// Memory of this process in proportion.
fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").ok()?;
    let line = text.lines().find(|line| line.starts_with("Pss:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
}

fn bind(socket: &Path) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The folder is root's alone, so that nobody comes in between binding and closing off.
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn document(value: &Value) -> Response {
    Response::new(Body::from(value.to_string()))
}

fn line_of(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}

async fn read(body: Body) -> anyhow::Result<Value> {
    let bytes = wire::body::read(body, DOCUMENT_BYTES).await?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn text<'a>(value: &'a Value, key: &str) -> anyhow::Result<&'a str> {
    value.get(key).and_then(Value::as_str).with_context(|| format!("{key} is missing"))
}

fn credentials(text: &str) -> anyhow::Result<Credentials> {
    let (username, password) = text.split_once(':').context("write credentials as NAME:PASSWORD")?;
    Ok(Credentials::Basic { username: username.to_owned(), password: password.to_owned() })
}

fn event_line(event: &Event) -> Value {
    match event {
        Event::Resolved { layers, .. } => json!({"layers": layers.len()}),
        Event::Fetched { layer, done, total } => json!({"layer": layer, "done": done, "total": total}),
        Event::Retrying { what, reason, .. } => json!({"retrying": format!("{what}: {reason}")}),
        Event::Unpacked { layer } => json!({"unpacked": layer}),
    }
}

/// A body as what blocks reads it.
struct Received {
    receiver: mpsc::Receiver<std::io::Result<Bytes>>,
    chunk: Bytes,
}

impl std::io::Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.chunk.len());
        buffer[..count].copy_from_slice(&self.chunk.split_to(count));
        Ok(count)
    }
}

/// What blocks writes a body.
struct Sent(mpsc::Sender<Result<Bytes, wire::body::Error>>);

impl std::io::Write for Sent {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(buffer)));
        sent.map(|()| buffer.len()).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

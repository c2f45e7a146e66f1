//! The kubelet's HTTPS port: pods, logs, exec, attach, port-forward, statistics, metrics.
//!
//! The gate sends what users ask of pods here; everybody is named and authorised by [`auth::Doorkeeper`]. The server
//! knows pods through [`Pods`] alone and changes nothing but what a client types. What is deliberately absent: the
//! read-only port, `/run`, `/metrics/cadvisor` and `/metrics/probes`, checkpoints and the host's own logs.

pub mod auth;
mod containers;
mod forward;
mod logs;
mod metrics;
mod stats;
mod streams;
mod sys;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::interface::Api;
use api::object::Object;
use base::{Clock, Stop, Tasks};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use sandbox::Sandbox;
use tokio::sync::{mpsc, oneshot};
use tokio_util::io::StreamReader;
use tracing::{debug, warn};
use wire::query::Pairs;
use wire::serve::ConnectionInfo;
use wire::{Body, Request, Response, path, websocket};

use crate::machine::{Load, Machine};
use auth::{Denied, Doorkeeper};

/// How long running requests may take to end when the agent stops.
const DRAIN: Duration = Duration::from_secs(2);
/// Pieces of a log that wait for a slow client.
const LOG_PIECES: usize = 16;

/// The pods of this node.
pub trait Pods: Send + Sync + 'static {
    /// One pod.
    fn find(&self, namespace: &str, name: &str) -> Option<PodHandle>;

    /// All pods that are assigned to this node.
    fn list(&self) -> Vec<PodHandle>;
}

/// A pod as the server needs it.
#[derive(Clone)]
pub struct PodHandle {
    /// The pod, with the newest status that is known.
    pub object: Arc<Object>,
    /// Its sandbox, while there is one.
    pub sandbox: Option<Sandbox>,
    /// `<logs_dir>/<namespace>_<pod>_<uid>`; in it `<container>/<attempt>.log`.
    pub logs: PathBuf,
}

/// What the server is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the node.
    pub node: String,
    /// The machine, for statistics.
    pub machine: Machine,
    /// A directory on the disk that pods use.
    pub data_dir: PathBuf,
}

/// The server.
pub struct Kubelet {
    settings: Settings,
    pods: Arc<dyn Pods>,
    doorkeeper: Doorkeeper,
    clock: Clock,
    tasks: Tasks,
    stop: Stop,
}

/// An error as kubelet answers it: plain text.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    text: String,
}

impl Failure {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    fn internal(text: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    }

    fn into_response(self) -> Response {
        answer(self.status, "text/plain; charset=utf-8", format!("{}\n", self.text))
    }
}

impl Kubelet {
    /// Serves `pods`; `api` is asked who may. Streams and logs run on `tasks` until `stop`.
    pub fn new(
        settings: Settings,
        pods: Arc<dyn Pods>,
        api: Arc<dyn Api>,
        clock: Clock,
        tasks: Tasks,
        stop: Stop,
    ) -> Arc<Self> {
        let doorkeeper = Doorkeeper::new(&settings.node, api, clock.clone());
        Arc::new(Self { settings, pods, doorkeeper, clock, tasks, stop })
    }

    /// Answers on `server`, which has TLS already, until the agent stops.
    pub async fn run(self: Arc<Self>, server: wire::serve::Server) {
        let stop = self.stop.clone();
        let service = move |request: Request, connection: Arc<ConnectionInfo>| {
            let kubelet = self.clone();
            async move { kubelet.answer(request, &connection).await }
        };
        server.run(service, stop, DRAIN).await;
    }

    /// Answers one request.
    pub async fn answer(&self, request: Request, connection: &ConnectionInfo) -> Response {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let answered = self.route(request, connection, &uri).await;
        answered.unwrap_or_else(|failure| {
            debug!(%method, path = uri.path(), status = %failure.status, error = failure.text, "refused");
            failure.into_response()
        })
    }

    async fn route(
        &self,
        request: Request,
        connection: &ConnectionInfo,
        uri: &http::Uri,
    ) -> Result<Response, Failure> {
        let segments = path::segments(uri.path()).map_err(|error| Failure::bad_request(error.to_string()))?;
        let segments: Vec<&str> = segments.iter().map(|segment| &**segment).collect();
        let first = segments.first().copied().unwrap_or_default();
        let (verb, parts) = (auth::verb(request.method()), auth::subresources(first));
        self.doorkeeper.admit(connection, request.headers(), verb, parts).await.map_err(denied)?;
        let query = Pairs::parse(uri.query()).map_err(|error| Failure::bad_request(error.to_string()))?;
        let reads = request.method() == Method::GET;
        let connects = reads || request.method() == Method::POST;
        match *segments.as_slice() {
            ["healthz"] if reads => Ok(answer(StatusCode::OK, "text/plain; charset=utf-8", "ok")),
            ["pods"] if reads => Ok(self.pod_list()),
            ["stats", "summary"] if reads => Ok(self.summary().await),
            ["metrics"] if reads => {
                let text = metrics::own(&self.settings.node, &self.pods.list());
                Ok(answer(StatusCode::OK, metrics::CONTENT_TYPE, text))
            }
            ["metrics", "resource"] if reads => {
                let measured = metrics::measure(&self.pods.list()).await;
                let Settings { machine, data_dir, .. } = &self.settings;
                let load = Load::read(data_dir).unwrap_or_default();
                let text = metrics::resource(machine, &load, stats::processor_time(), &measured);
                Ok(answer(StatusCode::OK, metrics::CONTENT_TYPE, text))
            }
            ["containerLogs", namespace, pod, container] if reads => {
                self.logs(request, [namespace, pod, container], &query)
            }
            ["exec", namespace, pod, container] if connects => {
                self.exec(request, [namespace, pod, "", container], &query)
            }
            ["exec", namespace, pod, uid, container] if connects => {
                self.exec(request, [namespace, pod, uid, container], &query)
            }
            ["attach", namespace, pod, container] if connects => {
                self.attach(request, [namespace, pod, "", container], &query)
            }
            ["attach", namespace, pod, uid, container] if connects => {
                self.attach(request, [namespace, pod, uid, container], &query)
            }
            ["portForward", namespace, pod] if connects => {
                self.port_forward(request, [namespace, pod, ""], &query)
            }
            ["portForward", namespace, pod, uid] if connects => {
                self.port_forward(request, [namespace, pod, uid], &query)
            }
            ["logs", ..] => Err(Failure::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "logs of the host are not served by this node; read them on the machine",
            )),
            _ => Err(Failure::not_found("404 page not found")),
        }
    }

    fn pod_list(&self) -> Response {
        let mut body = br#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":["#.to_vec();
        for (index, pod) in self.pods.list().iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            pod.object.write_json(false, &mut body);
        }
        body.extend_from_slice(b"]}");
        answer(StatusCode::OK, "application/json", body)
    }

    async fn summary(&self) -> Response {
        let Settings { node, machine, data_dir } = &self.settings;
        let summary = stats::summary(node, machine, data_dir, self.pods.list(), self.clock.now()).await;
        answer(StatusCode::OK, "application/json", summary.to_bytes())
    }

    /// The pod that is meant; a uid must be that of the pod which is there now.
    fn find(&self, namespace: &str, name: &str, uid: &str) -> Result<PodHandle, Failure> {
        let found = self.pods.find(namespace, name);
        found
            .filter(|pod| uid.is_empty() || pod.object.uid() == uid)
            .ok_or_else(|| Failure::not_found("pod does not exist"))
    }

    /// A container's log, as a body or (for browsers) over a WebSocket.
    fn logs(&self, mut request: Request, at: [&str; 3], query: &Pairs<'_>) -> Result<Response, Failure> {
        let [namespace, name, container] = at;
        let options = logs::Options::parse(query, self.clock.now()).map_err(|error| {
            let status = match error {
                logs::OptionsError::Unreadable => StatusCode::BAD_REQUEST,
                logs::OptionsError::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            };
            Failure::new(status, error.to_string())
        })?;
        let pod = self.pods.find(namespace, name);
        let pod = pod.ok_or_else(|| Failure::not_found(format!("pod {name:?} does not exist")))?;
        if !containers::is_of(&pod.object, container) {
            return Err(Failure::not_found(format!("container {container:?} not found in pod {name:?}")));
        }
        let attempt = containers::logged(&pod, container, options.previous).map_err(Failure::bad_request)?;
        let file = pod.logs.join(container).join(format!("{}.log", attempt.number));
        let source = pod.sandbox.filter(|_| !options.previous);
        let source = source.map(|sandbox| logs::Source { states: sandbox.watch(), attempt });
        let (sender, pieces) = mpsc::channel(LOG_PIECES);
        let (end, ended) = oneshot::channel();
        let stop = self.stop.clone();
        let (name, container) = (name.to_owned(), container.to_owned());
        self.tasks.spawn("log of a container", async move {
            let outcome = match logs::send(file, options, source, stop, sender).await {
                // Nothing was ever written, or it was deleted: an empty log.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                outcome => outcome,
            };
            if let Err(error) = &outcome {
                warn!(pod = name, container, %error, "a log cannot be read");
            }
            // A client that has gone needs no end.
            let _ = end.send(outcome);
        });
        let pieces = pieces_to_the_end(pieces, ended);
        if websocket::Offer::is_made(request.headers()) {
            let source = StreamReader::new(Box::pin(pieces));
            let accepted = wire::streams::accept_read_only(&mut request, source, &self.streams());
            return Ok(accepted.unwrap_or_else(wire::streams::Refusal::into_response));
        }
        let mut response = Response::new(Body::stream(pieces.map_err(Into::into)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Ok(response)
    }

    fn exec(&self, mut request: Request, at: [&str; 4], query: &Pairs<'_>) -> Result<Response, Failure> {
        let [namespace, name, uid, container] = at;
        let pod = self.find(namespace, name, uid)?;
        let (sandbox, attempt) = containers::running(&pod, container).map_err(Failure::internal)?;
        let args: Vec<String> = query.all("command").map(str::to_owned).collect();
        if args.is_empty() {
            return Err(Failure::bad_request("command is missing: name a program to run"));
        }
        let wanted = streams::wanted(query);
        let (response, session) =
            match wire::streams::accept_remote_command(&mut request, wanted, &self.streams()) {
                Ok(accepted) => accepted,
                Err(refusal) => return Ok(refusal.into_response()),
            };
        let clock = self.clock.clone();
        self.tasks.spawn("exec", async move {
            match session.await {
                Ok(client) => streams::exec(client, sandbox, attempt, args, wanted, clock).await,
                Err(error) => debug!(%error, "a client of exec did not begin"),
            }
        });
        Ok(response)
    }

    fn attach(&self, mut request: Request, at: [&str; 4], query: &Pairs<'_>) -> Result<Response, Failure> {
        let [namespace, name, uid, container] = at;
        let pod = self.find(namespace, name, uid)?;
        let (sandbox, attempt) = containers::running(&pod, container).map_err(Failure::internal)?;
        let wanted = streams::wanted(query);
        let (response, session) =
            match wire::streams::accept_remote_command(&mut request, wanted, &self.streams()) {
                Ok(accepted) => accepted,
                Err(refusal) => return Ok(refusal.into_response()),
            };
        let clock = self.clock.clone();
        self.tasks.spawn("attach", async move {
            match session.await {
                Ok(client) => streams::attach(client, sandbox, attempt, wanted, clock).await,
                Err(error) => debug!(%error, "a client of attach did not begin"),
            }
        });
        Ok(response)
    }

    fn port_forward(
        &self,
        mut request: Request,
        at: [&str; 3],
        query: &Pairs<'_>,
    ) -> Result<Response, Failure> {
        let [namespace, name, uid] = at;
        let pod = self.find(namespace, name, uid)?;
        let sandbox = pod.sandbox.filter(|sandbox| !sandbox.state().lost);
        let sandbox = sandbox.ok_or_else(|| {
            Failure::internal(format!("unable to forward port because pod {name} is not running"))
        })?;
        let ports = forward::ports(query).map_err(Failure::bad_request)?;
        let (response, session) =
            match wire::streams::accept_port_forward(&mut request, &ports, &self.streams()) {
                Ok(accepted) => accepted,
                Err(refusal) => return Ok(refusal.into_response()),
            };
        let (pod, netns) = (format!("{namespace}/{name}"), sandbox.netns_path());
        let tasks = self.tasks.clone();
        self.tasks.spawn("port-forward", async move {
            match session.await {
                Ok(client) => forward::serve(client, netns, pod, tasks).await,
                Err(error) => debug!(%error, "a client of port-forward did not begin"),
            }
        });
        Ok(response)
    }

    fn streams(&self) -> wire::streams::Context {
        wire::streams::Context {
            clock: self.clock.clone(),
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
        }
    }
}

/// What is sent, and then the failure with which it ended, if it did: nobody must take a part of a log for the whole.
fn pieces_to_the_end(
    pieces: mpsc::Receiver<Bytes>,
    ended: oneshot::Receiver<io::Result<()>>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let pieces = stream::unfold(pieces, |mut pieces| async move { Some((Ok(pieces.recv().await?), pieces)) });
    let failure = async {
        // Who ends without a word has panicked.
        let ended = ended.await.unwrap_or_else(|_| Err(io::Error::other("reading the log panicked")));
        ended.err().map(Err)
    };
    pieces.chain(stream::once(failure).filter_map(|failure| async { failure }))
}

fn denied(denied: Denied) -> Failure {
    let status = match &denied {
        Denied::Unknown => StatusCode::UNAUTHORIZED,
        Denied::Forbidden { .. } => StatusCode::FORBIDDEN,
        Denied::Unreachable(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Failure::new(status, denied.to_string())
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

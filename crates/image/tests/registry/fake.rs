//! A registry in this process that fails as it is told.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::io::Write;
use std::sync::{Arc, Mutex};

use base::Tasks;
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use image::Digest;
use image::document::{ImageConfig, Platform};
use image::layer::{Compression, Layer, Writer};

/// What happens to the next request of a path.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Only so many bytes, then the connection breaks.
    CutAfter(usize),
    /// This status with these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// Other bytes of the same length.
    Corrupt,
}

/// Who may come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    Open,
    /// Tokens from `/token`, which wants this `Authorization`, if one is given.
    Token(Option<String>),
}

#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub headers: HeaderMap,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

#[derive(Default)]
struct State {
    content: HashMap<String, Bytes>,
    faults: HashMap<String, VecDeque<Fault>>,
    seen: Vec<Seen>,
}

#[derive(Clone)]
pub struct Fake {
    pub address: String,
    door: Door,
    state: Arc<Mutex<State>>,
}

/// An image in a fake registry.
pub struct Served {
    pub layers: Vec<Layer>,
    pub manifest: Digest,
    pub manifest_bytes: Vec<u8>,
}

type Body = BoxBody<Bytes, std::io::Error>;

impl Fake {
    pub async fn start(door: Door) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let fake = Self { address, door, state: Arc::default() };
        let (tasks, serving) = (Tasks::new(), fake.clone());
        let accepted = tasks.clone();
        tasks.spawn("the fake registry", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let fake = serving.clone();
                accepted.spawn("a connection of the fake registry", async move {
                    let service = service_fn(move |request| {
                        let response = fake.answer(&request);
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        fake
    }

    pub fn put(&self, path: &str, content: impl Into<Bytes>) {
        self.state.lock().unwrap().content.insert(path.to_owned(), content.into());
    }

    pub fn fail(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap().faults.entry(path.to_owned()).or_default().extend(faults);
    }

    /// The requests for a path so far.
    pub fn seen(&self, path: &str) -> Vec<Seen> {
        self.state.lock().unwrap().seen.iter().filter(|seen| seen.path == path).cloned().collect()
    }

    /// Serves an image of these layers' files under `app:v1`.
    pub fn serve(&self, contents: &[&[u8]]) -> Served {
        let mut layers = Vec::new();
        for (at, content) in contents.iter().enumerate() {
            let mut writer = Writer::new(Vec::new(), Compression::None).unwrap();
            writer.file(&format!("file{at}"), 0o644, content).unwrap();
            let (bytes, layer) = writer.finish().unwrap();
            self.put(&blob(layer.digest), bytes);
            layers.push(layer);
        }
        let config = ImageConfig { platform: Platform::here(), ..ImageConfig::default() };
        let assembled = image::builder::assemble(&config, &layers);
        self.put(&blob(assembled.image_id), assembled.config);
        self.put("/v2/app/manifests/v1", assembled.manifest.clone());
        self.put(&format!("/v2/app/manifests/{}", assembled.digest), assembled.manifest.clone());
        Served { layers, manifest: assembled.digest, manifest_bytes: assembled.manifest }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let authorization = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        let mut state = self.state.lock().unwrap();
        state.seen.push(Seen { path: path.clone(), headers: request.headers().clone() });
        if let Door::Token(wanted) = &self.door {
            if path == "/token" {
                let may =
                    wanted.as_deref() == authorization && query.contains("scope=repository%3Aapp%3Apull");
                return match may {
                    true => whole(200, &[], r#"{"token":"let-me-in"}"#.into()),
                    false => whole(
                        401,
                        &[],
                        r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#.into(),
                    ),
                };
            }
            if authorization != Some("Bearer let-me-in") {
                let challenge = format!(
                    "Bearer realm=\"http://{}/token\",service=\"fake\",scope=\"repository:app:pull\"",
                    self.address
                );
                return whole(401, &[("www-authenticate", challenge)], Bytes::new());
            }
        }
        let fault = state.faults.get_mut(&path).and_then(VecDeque::pop_front);
        if let Some(Fault::Status(status, headers)) = fault {
            return whole(status, &headers, Bytes::new());
        }
        let Some(mut content) = state.content.get(&path).cloned() else {
            return whole(
                404,
                &[],
                r#"{"errors":[{"code":"NAME_UNKNOWN","message":"no such repository"}]}"#.into(),
            );
        };
        if let Some(Fault::Corrupt) = fault {
            let mut other = content.to_vec();
            let last = other.len() - 1;
            other[last / 2] ^= 1;
            content = other.into();
        }
        let from = request.headers().get("range").and_then(|value| {
            value.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
        });
        let total = content.len();
        let (status, mut headers) = match from {
            Some(from) if from < total => {
                content = content.slice(from..);
                (206, vec![("content-range", format!("bytes {from}-{}/{total}", total - 1))])
            }
            _ => (200, Vec::new()),
        };
        match fault {
            Some(Fault::CutAfter(bytes)) => {
                headers.push(("content-length", content.len().to_string()));
                cut(status, &headers, content.slice(..bytes.min(content.len())))
            }
            _ => whole(status, &headers, content),
        }
    }
}

pub fn blob(digest: Digest) -> String {
    format!("/v2/app/blobs/{digest}")
}

fn respond(status: u16, headers: &[(&'static str, String)], body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response.headers_mut().insert(*name, value.parse().unwrap());
    }
    response
}

fn whole(status: u16, headers: &[(&'static str, String)], content: Bytes) -> Response<Body> {
    respond(status, headers, http_body_util::Full::new(content).map_err(|never| match never {}).boxed())
}

/// Sends what it has and then breaks the connection.
fn cut(status: u16, headers: &[(&'static str, String)], content: Bytes) -> Response<Body> {
    let broken = async {
        // Hyper sends what it has when a body makes it wait.
        tokio::task::yield_now().await;
        Err(std::io::Error::other("cut on purpose"))
    };
    let pieces = stream::once(async { Ok(Frame::data(content)) }).chain(stream::once(broken));
    respond(status, headers, BodyExt::boxed(StreamBody::new(SyncStream(Mutex::new(Box::pin(pieces))))))
}

/// Hyper's boxed body wants what can be shared; a stream of ours is polled by one at a time.
struct SyncStream<S>(Mutex<std::pin::Pin<Box<S>>>);

impl<S: Stream> Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        self.0.lock().unwrap().as_mut().poll_next(context)
    }
}

/// Compresses as a registry would not care about.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

//! Asks a running instance over its admin socket: HTTP on a Unix socket that only root may open.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use base::Tasks;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use wire::{Body, Request, Response};

/// The largest answer that is held.
const ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// The admin socket of one instance.
#[derive(Clone)]
pub struct Admin {
    socket: PathBuf,
    tasks: Tasks,
}

impl Admin {
    /// At `socket`.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), tasks: Tasks::new() }
    }

    /// Whether somebody answers.
    pub async fn is_alive(&self) -> bool {
        UnixStream::connect(&self.socket).await.is_ok()
    }

    /// Sends a request; its errors are sentences of the server's.
    pub async fn send(&self, method: http::Method, path: &str, body: Body) -> anyhow::Result<Response> {
        let stream = UnixStream::connect(&self.socket).await.with_context(|| {
            format!(
                "nothing answers at {}: the instance does not run here (\"ondol up\" starts it)",
                self.socket.display()
            )
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        self.tasks.spawn("admin connection", async move {
            // A broken connection shows in the request itself.
            let _ = connection.with_upgrades().await;
        });
        let request: Request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "ondol")
            .body(body)?;
        let response = sender.send_request(request).await?.map(Body::Incoming);
        if response.status().is_success() {
            return Ok(response);
        }
        let text = wire::body::read(response.into_body(), ANSWER_BYTES).await?;
        bail!("{}", String::from_utf8_lossy(&text).trim())
    }

    /// Reads a document.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let response = self.send(http::Method::GET, path, Body::Empty).await?;
        let bytes = wire::body::read(response.into_body(), ANSWER_BYTES).await?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Posts a document and reads one.
    pub async fn post(&self, path: &str, document: &Value) -> anyhow::Result<Value> {
        let response = self.send(http::Method::POST, path, Body::from(document.to_string())).await?;
        let bytes = wire::body::read(response.into_body(), ANSWER_BYTES).await?;
        Ok(if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes)? })
    }

    /// Posts a document and reads documents, a line each, as they come. The last one may be `{"error": ...}`.
    pub async fn follow(
        &self,
        path: &str,
        document: &Value,
        mut each: impl FnMut(&Value),
    ) -> anyhow::Result<()> {
        let response = self.send(http::Method::POST, path, Body::from(document.to_string())).await?;
        let mut body = response.into_body();
        let mut pending: Vec<u8> = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| anyhow!(error))?;
            pending.extend_from_slice(&frame.into_data().unwrap_or_else(|_| Bytes::new()));
            while let Some(at) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=at).collect();
                let value: Value = serde_json::from_slice(&line)?;
                if let Some(error) = value.get("error").and_then(Value::as_str) {
                    bail!("{error}");
                }
                each(&value);
            }
        }
        Ok(())
    }
}

/// A path with a query.
pub fn with_query(path: &str, pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> =
        pairs.iter().map(|(key, value)| format!("{key}={}", wire::path::encode(value))).collect();
    format!("{path}?{}", pairs.join("&"))
}

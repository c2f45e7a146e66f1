//! A gate with a namespace, and a client that speaks to it.

use std::ops::Deref;
use std::sync::Arc;

use api::value::Value;
use apiserver::{Dialer, Identity};
use http::{Method, Request, StatusCode};
use wire::{Body, connect};

use crate::served::{Nowhere, Served};

/// A served gate.
pub struct World(Served);

impl Deref for World {
    type Target = Served;

    fn deref(&self) -> &Served {
        &self.0
    }
}

impl World {
    /// Opens a gate and serves it. The namespace `default` is there, and with it its ServiceAccount.
    pub async fn open() -> Self {
        Self::reaching(Arc::new(Nowhere)).await
    }

    /// The same with ways to nodes and pods.
    pub async fn reaching(dialer: Arc<dyn Dialer>) -> Self {
        let world = Self(Served::open(dialer));
        let namespace = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"default"}}"#;
        world.admin().post("/api/v1/namespaces", namespace).await.expect(201);
        world
    }

    /// A client with a certificate for `name` in `groups`.
    pub fn client(&self, name: &str, groups: &[&str]) -> Client {
        Client { http: self.0.client(name, groups), base: self.base.clone(), token: None }
    }

    /// A client without a certificate.
    pub fn stranger(&self) -> Client {
        Client { http: self.0.stranger(), base: self.base.clone(), token: None }
    }

    /// A client who may do everything.
    pub fn admin(&self) -> Client {
        self.client("admin", &["system:masters"])
    }

    /// The API in process, as one who may do everything.
    pub fn api(&self) -> Arc<dyn api::interface::Api> {
        self.gate.as_user(Identity::admin())
    }

    /// Stops serving; everything must end by itself.
    pub async fn close(self) {
        self.0.close().await;
    }
}

/// Speaks to the gate.
#[derive(Clone)]
pub struct Client {
    http: connect::Client,
    base: String,
    pub token: Option<String>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub code: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Answer {
    /// The body, if the code is the expected one.
    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code.as_u16(), code, "{}", self.text);
        self.body
    }

    /// The message of a status with the expected code.
    #[track_caller]
    pub fn message(self, code: u16) -> String {
        self.expect(code).str_at(&["message"]).unwrap_or_default().to_owned()
    }
}

impl Client {
    /// Sends a request and gives the response with its body still to come.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> wire::Response {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.http.send(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap()
    }

    /// Sends a request and reads the answer.
    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let response = self.open(method, path, headers, body).await;
        let (parts, body) = response.into_parts();
        let bytes = wire::body::read(body, 64 * 1024 * 1024).await.unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answer {
            code: parts.status,
            headers: parts.headers,
            body: api::value::parse(&bytes).unwrap_or_default(),
            text,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        self.send(Method::POST, path, &[("content-type", "application/json")], body).await
    }

    pub async fn put(&self, path: &str, body: &str) -> Answer {
        self.send(Method::PUT, path, &[("content-type", "application/json")], body).await
    }

    pub async fn merge(&self, path: &str, body: &str) -> Answer {
        self.send(Method::PATCH, path, &[("content-type", "application/merge-patch+json")], body).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], "").await
    }
}

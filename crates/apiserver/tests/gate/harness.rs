//! A gate with a namespace, and a client that speaks to it.

use std::ops::Deref;
use std::sync::Arc;

use api::value::Value;
use apiserver::authn::SigningKeys;
use apiserver::{Dialer, Identity};
use http::{Method, Request, StatusCode};
use wire::{Body, connect};

use crate::served::{self, Nowhere, Served};

/// A served gate.
pub struct World {
    served: Served,
    /// What the gate's tokens are signed with.
    pub keys: Arc<SigningKeys>,
}

impl Deref for World {
    type Target = Served;

    fn deref(&self) -> &Served {
        &self.served
    }
}

impl World {
    /// Opens a gate and serves it. The namespace `default` is there, and with it its ServiceAccount.
    pub async fn open() -> Self {
        Self::reaching(Arc::new(Nowhere)).await
    }

    /// The same with ways to nodes and pods.
    pub async fn reaching(dialer: Arc<dyn Dialer>) -> Self {
        let keys = served::keys();
        let world = Self { served: Served::open(Arc::clone(&keys), dialer), keys };
        let namespace = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"default"}}"#;
        world.admin().post("/api/v1/namespaces", namespace).await.expect(201);
        world
    }

    /// A client with a certificate for `name` in `groups`.
    pub fn client(&self, name: &str, groups: &[&str]) -> Client {
        Client { http: self.served.client(name, groups), base: self.base.clone(), token: None }
    }

    /// A client without a certificate.
    pub fn stranger(&self) -> Client {
        Client { http: self.served.stranger(), base: self.base.clone(), token: None }
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
        self.served.close().await;
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
        body: impl Into<bytes::Bytes>,
    ) -> wire::Response {
        self.open_with(method, path, headers, Body::from(body.into())).await
    }

    /// The same with a body that may still be on its way.
    pub async fn open_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> wire::Response {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.http.send(request.body(body).unwrap()).await.unwrap()
    }

    /// Sends a request and reads the answer.
    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.send_bytes(method, path, headers, body.as_bytes().to_vec()).await
    }

    /// The same with a body that need not be text.
    pub async fn send_bytes(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
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

//! A gate on loopback, and a client that speaks to it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::value::Value;
use apiserver::authn::SigningKeys;
use apiserver::{Config, Dialer, Gate, Identity, Record, Stream, limits};
use base::{Clock, Random, Stopper, Tasks};
use futures::future::BoxFuture;
use http::{Method, Request, StatusCode};
use wire::serve::{Server, ServerTls};
use wire::tls::{Authority, Leaf, Presented, Roots, Usage};
use wire::{Body, connect};

/// The issuer of the tests' tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc";

/// A gate, its server and its authority.
pub struct World {
    pub gate: Arc<Gate>,
    pub clock: Clock,
    address: SocketAddr,
    authority: Authority,
    roots: Arc<Roots>,
    stopper: Stopper,
    tasks: Tasks,
}

/// Reaches nothing.
struct Nowhere;

impl Dialer for Nowhere {
    fn node(&self, _: &str, _: &str, _: u16) -> BoxFuture<'_, io::Result<Stream>> {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }

    fn pod(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Stream>> {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }
}

impl World {
    /// Opens a gate and serves it. The namespace `default` is there, and with it its ServiceAccount.
    pub async fn open() -> Self {
        let (clock, random, stopper) = (Clock::system(), Random::seeded(1), Stopper::new());
        let authority = Authority::create("test", clock.now()).unwrap();
        let roots = Roots::new(authority.certificate_pem()).unwrap();
        let disk = store::SimulatedDisk::new(random.clone());
        let options =
            store::Options { growth_bytes: 4096, ..store::Options::new(disk, clock.clone(), random.clone()) };
        let store = store::Store::open(options, Record::decode()).unwrap();
        let key = wire::jwt::SigningKey::generate().unwrap();
        let gate = Gate::open(Config {
            store,
            clock: clock.clone(),
            random,
            keys: Arc::new(SigningKeys::new(key, clock.clone())),
            issuer: ISSUER.to_owned(),
            audiences: vec![ISSUER.to_owned()],
            advertised: "127.0.0.1:6443".to_owned(),
            dialer: Arc::new(Nowhere),
            stop: stopper.signal(),
            watch_minimum: limits::WATCH_MINIMUM,
        });
        let pair = authority.issue(&leaf("server", &[], Usage::Server), clock.now()).unwrap();
        let server = Server::bind(&["127.0.0.1:0".parse().unwrap()], clock.clone())
            .unwrap()
            .with_tls(ServerTls::new(Presented::new(&pair).unwrap(), Arc::clone(&roots)).unwrap());
        let address = server.addresses()[0];
        let tasks = Tasks::new();
        let (service_gate, stop) = (Arc::clone(&gate), stopper.signal());
        tasks.spawn("server", async move {
            let service = move |request, connection| {
                let gate = Arc::clone(&service_gate);
                async move { gate.handle(request, connection).await }
            };
            server.run(service, stop, Duration::from_secs(5)).await;
        });
        let world = Self { gate, clock, address, authority, roots, stopper, tasks };
        let admin = world.admin();
        let namespace = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"default"}}"#;
        admin.post("/api/v1/namespaces", namespace).await.expect(201);
        world
    }

    /// A client with a certificate for `name` in `groups`.
    pub fn client(&self, name: &str, groups: &[&str]) -> Client {
        let pair = self.authority.issue(&leaf(name, groups, Usage::Client), self.clock.now()).unwrap();
        self.client_with(Presented::new(&pair).unwrap())
    }

    /// A client without a certificate.
    pub fn stranger(&self) -> Client {
        self.client_with(Presented::none())
    }

    fn client_with(&self, presented: Arc<Presented>) -> Client {
        let config = connect::Config::new(Arc::clone(&self.roots), presented);
        let http = connect::Client::new(config, &self.clock, &self.tasks).unwrap();
        Client { http, base: format!("https://{}", self.address), token: None }
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
        self.stopper.stop();
        assert!(self.gate.join(Duration::from_secs(10)).await, "watches did not end");
    }
}

fn leaf(name: &str, groups: &[&str], usage: Usage) -> Leaf {
    Leaf {
        common_name: name.into(),
        organizations: groups.iter().map(ToString::to_string).collect(),
        dns_names: Vec::new(),
        ips: vec!["127.0.0.1".parse().unwrap()],
        usages: vec![usage],
        lifetime: Duration::from_secs(3600),
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

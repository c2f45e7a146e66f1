//! Our gate on loopback over a simulated disk, and its users.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use apiserver::authn::SigningKeys;
use apiserver::{Config, Dialer, Gate, Record, Stream, bootstrap, limits};
use base::{Clock, Random, Stopper, Tasks};
use futures::future::BoxFuture;
use wire::serve::{Server, ServerTls};
use wire::tls::{Authority, Leaf, Presented, Roots, Usage};
use wire::{Body, connect};

use crate::exchange::{Answer, HEADERS, Request, USERS};

/// The issuer of tokens.
const ISSUER: &str = "https://kubernetes.default.svc";

/// A served gate and a client for each user.
pub struct World {
    gate: Arc<Gate>,
    base: String,
    clients: HashMap<&'static str, connect::Client>,
    stopper: Stopper,
    _tasks: Tasks,
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
    /// Opens a gate with what every server begins with, and serves it.
    pub async fn open() -> Self {
        let (clock, random, stopper, tasks) =
            (Clock::system(), Random::seeded(1), Stopper::new(), Tasks::new());
        let authority = Authority::create("twin", clock.now()).unwrap();
        let roots = Roots::new(authority.certificate_pem()).unwrap();
        let issue = |name: &str, groups: &[&str], usage| {
            let leaf = Leaf {
                common_name: name.into(),
                organizations: groups.iter().map(ToString::to_string).collect(),
                dns_names: Vec::new(),
                ips: vec!["127.0.0.1".parse().unwrap()],
                usages: vec![usage],
                lifetime: Duration::from_secs(3600),
            };
            Presented::new(&authority.issue(&leaf, clock.now()).unwrap()).unwrap()
        };
        let disk = store::SimulatedDisk::new(random.clone());
        let options =
            store::Options { growth_bytes: 4096, ..store::Options::new(disk, clock.clone(), random.clone()) };
        let gate = Gate::open(Config {
            store: store::Store::open(options, Record::decode()).unwrap(),
            clock: clock.clone(),
            random,
            keys: Arc::new(SigningKeys::new(wire::jwt::SigningKey::generate().unwrap(), clock.clone())),
            issuer: ISSUER.to_owned(),
            audiences: vec![ISSUER.to_owned()],
            advertised: "127.0.0.1:6443".to_owned(),
            dialer: Arc::new(Nowhere),
            stop: stopper.signal(),
            watch_minimum: limits::WATCH_MINIMUM,
        });
        let server = Server::bind(&["127.0.0.1:0".parse().unwrap()], clock.clone())
            .unwrap()
            .with_tls(ServerTls::new(issue("server", &[], Usage::Server), Arc::clone(&roots)).unwrap());
        let base = format!("https://{}", server.addresses()[0]);
        let (service_gate, stop) = (Arc::clone(&gate), stopper.signal());
        tasks.spawn("server", async move {
            let service = move |request, connection| {
                let gate = Arc::clone(&service_gate);
                async move { gate.handle(request, connection).await }
            };
            server.run(service, stop, Duration::from_secs(5)).await;
        });
        let client = |presented| {
            connect::Client::new(connect::Config::new(Arc::clone(&roots), presented), &clock, &tasks).unwrap()
        };
        let users = USERS.iter().map(|(name, groups)| (*name, client(issue(name, groups, Usage::Client))));
        let mut clients: HashMap<_, _> = users.collect();
        clients.insert("nobody", client(Presented::none()));
        // What upstream has from its first moment: its service range is that of the recording.
        let begin = bootstrap::Config {
            service_range: api::validation::address::Cidr::parse("10.0.0.0/16").unwrap(),
            api: "198.51.100.10:6443".parse().unwrap(),
            dns: None,
        };
        bootstrap::run(&gate, &begin).await.unwrap();
        Self { gate, base, clients, stopper, _tasks: tasks }
    }

    /// Sends a request, shows the body as it came, and gives the answer as it is compared.
    pub async fn send(&self, request: &Request, show: impl FnOnce(&[u8])) -> Answer {
        let mut built = http::Request::builder()
            .method(request.method.as_str())
            .uri(format!("{}{}", self.base, request.path));
        for (name, value) in &request.headers {
            built = built.header(name, value);
        }
        let client =
            self.clients.get(request.user.as_str()).unwrap_or_else(|| panic!("no user {}", request.user));
        let body = if request.body.is_empty() { Body::Empty } else { Body::from(request.body.clone()) };
        let response = client.send(built.body(body).unwrap()).await;
        let response = response.unwrap_or_else(|error| panic!("{}: {error}", request.name));
        let (parts, body) = response.into_parts();
        let bytes = wire::body::read(body, 64 * 1024 * 1024).await;
        let bytes = bytes.unwrap_or_else(|error| panic!("{}: {error}", request.name));
        show(&bytes);
        let mut headers = BTreeMap::new();
        for name in HEADERS {
            let all: Vec<&str> =
                parts.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
            if !all.is_empty() {
                headers.insert(name.to_owned(), all.join(", "));
            }
        }
        Answer::new(parts.status.as_u16(), headers, &bytes)
    }

    /// Stops serving; everything must end by itself.
    pub async fn close(self) {
        self.stopper.stop();
        assert!(self.gate.join(Duration::from_secs(10)).await, "watches did not end");
    }
}

//! A gate that is served on loopback over a simulated disk, and clients of it: what the suites beside share.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use apiserver::authn::SigningKeys;
use apiserver::{Config, Dialer, Gate, Record, Stream, limits};
use base::{Clock, Random, Stopper, Tasks};
use futures::future::BoxFuture;
use wire::connect;
use wire::serve::{Server, ServerTls};
use wire::tls::{Authority, Leaf, Presented, Roots, Usage};

/// The issuer of tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc";
/// How long a certificate of the tests holds.
const LIFETIME: Duration = Duration::from_secs(3600);
/// How long open requests and watches may take to end.
const DRAIN: Duration = Duration::from_secs(10);

/// A served gate.
pub struct Served {
    pub gate: Arc<Gate>,
    /// `https://` and its address.
    pub base: String,
    clock: Clock,
    authority: Authority,
    roots: Arc<Roots>,
    stopper: Stopper,
    tasks: Tasks,
}

/// Keys of tokens, made anew.
pub fn keys() -> Arc<SigningKeys> {
    Arc::new(SigningKeys::new(wire::jwt::SigningKey::generate().unwrap(), Clock::system()))
}

/// Reaches nothing.
pub struct Nowhere;

impl Dialer for Nowhere {
    fn node(&self, _: &str, _: &str, _: u16) -> BoxFuture<'_, io::Result<Stream>> {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }

    fn pod(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Stream>> {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }
}

impl Served {
    /// Opens a gate whose tokens are signed with `keys` and that reaches nodes and pods by `dialer`, and serves it.
    /// It holds no object.
    pub fn open(keys: Arc<SigningKeys>, dialer: Arc<dyn Dialer>) -> Self {
        let (clock, random, stopper) = (Clock::system(), Random::seeded(1), Stopper::new());
        let authority = Authority::create("test", clock.now()).unwrap();
        let roots = Roots::new(authority.certificate_pem()).unwrap();
        let disk = store::SimulatedDisk::new(random.clone());
        let options =
            store::Options { growth_bytes: 4096, ..store::Options::new(disk, clock.clone(), random.clone()) };
        let gate = Gate::open(Config {
            store: store::Store::open(options, Record::decode()).unwrap(),
            clock: clock.clone(),
            random,
            keys,
            issuer: ISSUER.to_owned(),
            audiences: vec![ISSUER.to_owned()],
            advertised: "127.0.0.1:6443".to_owned(),
            dialer,
            stop: stopper.signal(),
            watch_minimum: limits::WATCH_MINIMUM,
        });
        let presented = presented(&authority, &clock, "server", &[], Usage::Server);
        let server = Server::bind(&["127.0.0.1:0".parse().unwrap()], clock.clone())
            .unwrap()
            .with_tls(ServerTls::new(presented, Arc::clone(&roots)).unwrap());
        let base = format!("https://{}", server.addresses()[0]);
        let tasks = Tasks::new();
        let (service_gate, stop) = (Arc::clone(&gate), stopper.signal());
        tasks.spawn("server", async move {
            let service = move |request, connection| {
                let gate = Arc::clone(&service_gate);
                async move { gate.handle(request, connection).await }
            };
            server.run(service, stop, DRAIN).await;
        });
        Self { gate, base, clock, authority, roots, stopper, tasks }
    }

    /// A client with a certificate for `name` in `groups`.
    pub fn client(&self, name: &str, groups: &[&str]) -> connect::Client {
        self.client_with(presented(&self.authority, &self.clock, name, groups, Usage::Client))
    }

    /// A client without a certificate.
    pub fn stranger(&self) -> connect::Client {
        self.client_with(Presented::none())
    }

    fn client_with(&self, presented: Arc<Presented>) -> connect::Client {
        let config = connect::Config::new(Arc::clone(&self.roots), presented);
        connect::Client::new(config, &self.clock, &self.tasks).unwrap()
    }

    /// Stops serving; everything must end by itself.
    pub async fn close(self) {
        self.stopper.stop();
        assert!(self.gate.join(DRAIN).await, "watches did not end");
    }
}

fn presented(
    authority: &Authority,
    clock: &Clock,
    name: &str,
    groups: &[&str],
    usage: Usage,
) -> Arc<Presented> {
    let leaf = Leaf {
        common_name: name.into(),
        organizations: groups.iter().map(ToString::to_string).collect(),
        dns_names: Vec::new(),
        ips: vec!["127.0.0.1".parse().unwrap()],
        usages: vec![usage],
        lifetime: LIFETIME,
    };
    Presented::new(&authority.issue(&leaf, clock.now()).unwrap()).unwrap()
}

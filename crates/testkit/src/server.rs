//! The shipping server over a simulated disk: started, killed, started again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::interface::Api;
use api::status::Status;
use api::validation::address::Cidr;
use api::value::Value;
use apiserver::authn::Keys;
use apiserver::{Config, Dialer, Gate, Identity, Record, Stream, bootstrap};
use base::{Clock, Random, Stopper, Tasks};
use control::plan::Controller;
use control::recorder::{self, Recorder};
use control::runner::Runner;
use control::world::World;
use controllers::settings::{PodNetwork, Settings};
use futures::FutureExt;
use futures::future::BoxFuture;
use scheduler::worker::Scheduler;
use store::{Disk, Drive, List, Options, Page, Scope, SimulatedDisk, Store, Watch};

use crate::link::{Faults, Line, Link};

/// Where Services get their addresses.
const SERVICE_RANGE: &str = "10.96.0.0/16";
/// Where pods get theirs.
const POD_RANGE: &str = "10.244.0.0/16";
/// The simulated disk's segments grow by so much at a time, for every byte of it is memory.
const GROWTH_BYTES: u64 = 16 * 1024;

/// A server at work.
pub struct Server {
    /// The gate.
    pub gate: Arc<Gate>,
    /// Its store.
    pub store: Store<Record>,
    disk: SimulatedDisk,
    stopper: Stopper,
}

/// How a life begins, for whoever looks at every change.
pub struct Beginning {
    /// What was found on the disk.
    pub found: Page<Record>,
    /// All that happens from there on.
    pub watch: Watch<Record>,
}

/// What makes the controllers of a server.
pub type Controllers = fn(&Settings) -> Vec<Arc<dyn Controller>>;

/// What all servers of a world share.
#[derive(Clone)]
pub struct Surroundings {
    /// The virtual clock.
    pub clock: Clock,
    /// The seed's numbers.
    pub random: Random,
    /// Whether things go wrong.
    pub faults: Faults,
    /// Its controllers.
    pub controllers: Controllers,
}

impl Server {
    /// Starts on what the disk holds; everybody's line leads to it from then on.
    pub async fn start(disk: SimulatedDisk, around: &Surroundings, line: &Line) -> (Self, Beginning) {
        let (stopper, tasks) = (Stopper::new(), Tasks::new());
        let options = Options {
            drive: Drive::Task(tasks.clone()),
            growth_bytes: GROWTH_BYTES,
            ..Options::new(disk.clone(), around.clock.clone(), around.random.clone())
        };
        let store = Store::open(options, Record::decode()).expect("what a crash leaves can be opened");
        let found = store.list(&List::all(Scope::All)).expect("the present can be listed");
        let watch = store.watch(Scope::All, found.revision).expect("the present can be watched");
        let gate = Gate::open(Config {
            store: store.clone(),
            clock: around.clock.clone(),
            random: around.random.clone(),
            keys: Arc::new(NoKeys),
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            audiences: Vec::new(),
            advertised: "10.0.0.1:6443".to_owned(),
            dialer: Arc::new(NoDialer),
            stop: stopper.signal(),
            watch_minimum: Duration::from_secs(1800),
        });
        let bootstrap = bootstrap::Config {
            service_range: range(SERVICE_RANGE),
            api: SocketAddr::from(([10, 0, 0, 1], 6443)),
            dns: None,
        };
        bootstrap::run(&gate, &bootstrap).await.expect("the first objects can be made");
        let server = Self { gate, store, disk, stopper };
        server.start_loops(around, &tasks).await;
        line.connect(Some(server.gate.as_user(Identity::admin())));
        (server, Beginning { found, watch })
    }

    /// The power goes: nothing of this life reaches the disk any more. Returns the disk as it is found afterwards.
    pub fn crash(self, line: &Line) -> SimulatedDisk {
        line.connect(None);
        self.disk.crash();
        let found = copy(&self.disk);
        self.stopper.stop();
        found
    }

    async fn start_loops(&self, around: &Surroundings, tasks: &Tasks) {
        let stop = self.stopper.signal();
        let own = |name: &str| {
            let line = Line::default();
            line.connect(Some(self.gate.as_user(Identity::new(name, &[]))));
            Link::over(&line, &around.clock, &around.random, &around.faults)
        };
        let api: Arc<dyn Api> = own("system:kube-controller-manager");
        let all = (around.controllers)(&settings(&around.clock));
        let mut world = World::new();
        for watches in all.iter().flat_map(|controller| controller.watches()) {
            world.ensure(&watches.resource);
        }
        world.ensure(&api::names::PODS);
        world.ensure(&api::names::NODES);
        let world = Arc::new(world);
        let (recorder, writer) = Recorder::new("simulation", "");
        recorder::start(writer, api.clone(), around.clock.clone(), tasks, stop.clone());
        for controller in all {
            let runner = Runner::new(controller, &world, api.clone(), &around.clock, &recorder);
            runner.start(tasks, &stop);
        }
        let placing = own("system:kube-scheduler");
        let scheduler = Scheduler::new(&world, placing, &around.clock, &around.random, &recorder);
        scheduler.start(tasks, &stop);
        world.start(&api, &around.clock, tasks, &stop);
    }
}

fn settings(clock: &Clock) -> Settings {
    Settings {
        ca_pem: "simulated".to_owned(),
        sign_token: Arc::new(|claims| Ok(format!("token of {}", claims.secret))),
        sign_request: Arc::new(|_| Err("nobody joins a simulation".to_owned())),
        pod_networks: vec![PodNetwork { cidr: range(POD_RANGE), node_prefix: 24 }],
        service_cidrs: vec![range(SERVICE_RANGE)],
        reserved_ports: vec![6443],
        clock: clock.clone(),
    }
}

fn range(text: &str) -> Cidr {
    Cidr::parse(text).expect("the ranges of the simulation are written well")
}

/// The same content on another disk. A task of the dead server that still runs writes to the old one.
fn copy(disk: &SimulatedDisk) -> SimulatedDisk {
    let copy = SimulatedDisk::new(Random::seeded(0));
    for name in disk.list().expect("a simulated disk can always be listed") {
        if let Some(content) = disk.content(&name) {
            copy.set_content(&name, content);
        }
    }
    copy
}

/// Nobody shows tokens here.
struct NoKeys;

impl Keys for NoKeys {
    fn sign(&self, _: &Value) -> Result<String, Status> {
        Ok("simulated".to_owned())
    }

    fn verify(&self, _: &str) -> Option<Value> {
        None
    }

    fn key_set(&self) -> Value {
        Value::object()
    }
}

/// There is no network here.
struct NoDialer;

impl Dialer for NoDialer {
    fn node(&self, _: &str, _: &str, _: u16) -> BoxFuture<'_, io::Result<Stream>> {
        async { Err(io::ErrorKind::NetworkUnreachable.into()) }.boxed()
    }

    fn pod(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Stream>> {
        async { Err(io::ErrorKind::NetworkUnreachable.into()) }.boxed()
    }
}

//! The server's half: store, gate, controllers, scheduler.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use api::interface::Api;
use api::names::{NODES, PODS};
use api::status::Status;
use apiserver::authn::{Keys, SigningKeys};
use apiserver::{Gate, Identity, NetworkDialer, Record, bootstrap};
use base::{Clock, Random, Stop, Stopper, Tasks};
use control::recorder::Recorder;
use control::runner::Runner;
use control::world::World;
use controllers::settings::{PodNetwork, RequestSigner, Settings, TokenClaims, TokenSigner};
use jiff::Timestamp;
use net::address::Cidr;
use scheduler::worker::Scheduler;
use wire::serve::{Limits, ServerTls};
use wire::tls::{Authority, Leaf, Roots, Rotating, Usage};

use crate::certificates::request_signer;
use crate::facts::{Facts, NODE_PREFIX};
use crate::layout::Layout;

/// Certificates of servers and of our own clients live this long and are renewed at two thirds.
const LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How long requests may take to end when the server stops.
pub const DRAIN: Duration = Duration::from_secs(5);
/// How long controllers may take to end.
const LOOPS_END: Duration = Duration::from_secs(3);
/// Servers of a process that anybody can reach: the API on loopback and on the bridge, and the kubelet's.
const SERVERS: u64 = 3;
/// The issuer and audience of ServiceAccounts' tokens.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// How values are encoded in the store.
pub const CODEC: u32 = 0;
/// The name by which nodes know the gate.
const KUBELET_CLIENT: &str = "system:kube-apiserver-kubelet-client";
/// What our loops are called.
const CONTROLLERS: &str = "system:kube-controller-manager";
const SCHEDULER: &str = "system:kube-scheduler";

/// What every part of a process shares.
#[derive(Clone)]
pub struct Ground {
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub random: Random,
    /// Joined at the end.
    pub tasks: Tasks,
    /// The signal to end.
    pub stop: Stop,
}

/// Where the server is reached.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Where pods and nodes reach the API.
    pub advertised: IpAddr,
    /// Where pods reach the name server.
    pub dns: IpAddr,
    /// The nodes that may join, with their own.
    pub nodes: BTreeMap<String, IpAddr>,
}

/// A server at work.
pub struct Server {
    /// The gate.
    pub gate: Arc<Gate>,
    /// The authority of this cluster.
    pub authority: Arc<Authority>,
    /// Mirrors of all that controllers read.
    pub world: Arc<World>,
    /// Port of the API.
    pub port: u16,
    /// The address of the service `kube-dns`.
    pub dns_service: IpAddr,
    tls: ServerTls,
    ground: Ground,
    loops: Loops,
}

/// Controllers and scheduler. They end before the mirrors that show them their own writes.
struct Loops {
    stopper: Stopper,
    tasks: Tasks,
}

/// The first address of the first node's range: that node's bridge.
pub fn first_bridge(pods: &Cidr) -> anyhow::Result<IpAddr> {
    let prefix = NODE_PREFIX.max(pods.prefix());
    let range = Cidr::new(pods.network().address(), prefix)?;
    Ok(net::ipam::Ipam::new(range)?.gateway())
}

impl Server {
    /// Opens the store and everything above it. The API answers on loopback when this returns, and on
    /// `addresses.advertised` after [`Server::listen`].
    pub async fn start(
        layout: &Layout,
        facts: &Facts,
        addresses: &Addresses,
        ground: &Ground,
    ) -> anyhow::Result<Self> {
        let (clock, random) = (ground.clock.clone(), ground.random.clone());
        let disk = store::Folder::at(layout.store()).context("the store's folder cannot be made")?;
        let mut options = store::Options::new(disk, clock.clone(), random.clone());
        options.codec = CODEC;
        let folder = layout.store();
        let store = blocking(move || {
            store::Store::open(options, Record::decode()).map_err(|error| match error {
                store::OpenError::Damaged(damage) => {
                    anyhow!("{damage}: \"ondol store salvage {} NEW-FOLDER\"", folder.display())
                }
                other => other.into(),
            })
        })
        .await?;
        let now = clock.now();
        let authority = Arc::new(Authority::load_or_create(&layout.keys(), "ca", now)?);
        let key = wire::jwt::SigningKey::load_or_create(&layout.keys().join("service-accounts.key"))?;
        let keys: Arc<dyn Keys> = Arc::new(SigningKeys::new(key, clock.clone()));
        let service_range = api_range(&facts.services()?)?;
        let bootstrap = bootstrap::Config {
            service_range,
            api: SocketAddr::new(addresses.advertised, facts.api_port),
            dns: Some(SocketAddr::new(addresses.dns, 53)),
        };
        let roots = Roots::new(authority.certificate_pem())?;
        let to_nodes = rotating(&authority, client_leaf(KUBELET_CLIENT, &[]), ground)?;
        let dialer = NetworkDialer::new(roots.clone(), to_nodes, clock.clone())?;
        let gate = Gate::open(apiserver::Config {
            store,
            clock: clock.clone(),
            random,
            keys: keys.clone(),
            issuer: ISSUER.to_owned(),
            audiences: vec![ISSUER.to_owned()],
            advertised: format!("{}:{}", addresses.advertised, facts.api_port),
            dialer: Arc::new(dialer),
            stop: ground.stop.clone(),
            watch_minimum: apiserver::limits::WATCH_MINIMUM,
        });
        bootstrap::run(&gate, &bootstrap).await?;
        bootstrap::publish_client_authority(&gate, authority.certificate_pem()).await?;
        let leaf = serving_leaf(&bootstrap, addresses);
        let tls = ServerTls::new(rotating(&authority, leaf, ground)?, roots)?;
        let loops = Loops { stopper: Stopper::child(&ground.stop), tasks: Tasks::new() };
        let sign_request = request_signer(authority.clone(), addresses.nodes.clone(), clock.clone());
        let world = start_loops(&gate, &authority, keys, sign_request, facts, service_range, ground, &loops)?;
        let dns_service = bootstrap.dns_service();
        let port = facts.api_port;
        let server = Self { gate, authority, world, port, dns_service, tls, ground: ground.clone(), loops };
        server.listen(IpAddr::V4(Ipv4Addr::LOCALHOST))?;
        Ok(server)
    }

    /// Answers on one more address, which exists by now.
    pub fn listen(&self, address: IpAddr) -> anyhow::Result<()> {
        let address = SocketAddr::new(address, self.port);
        let listening = wire::serve::Server::bind(&[address], self.ground.clock.clone())?
            .with_tls(self.tls.clone())
            .with_limits(limits())
            .with_refusals(apiserver::refusal);
        let (gate, stop) = (self.gate.clone(), self.ground.stop.clone());
        self.ground.tasks.spawn("api", async move {
            let service = move |request, connection| {
                let gate = gate.clone();
                async move { gate.handle(request, connection).await }
            };
            listening.run(service, stop, DRAIN).await;
        });
        Ok(())
    }

    /// What time it is.
    pub fn now(&self) -> Timestamp {
        self.ground.clock.now()
    }

    /// The API as the administrator.
    pub fn admin(&self) -> Arc<dyn Api> {
        self.gate.as_user(Identity::admin())
    }

    /// The API as a node of this process.
    pub fn node(&self, name: &str) -> Arc<dyn Api> {
        self.gate.as_user(Identity::node(name))
    }

    /// What clients are told: `https://127.0.0.1:6443`.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Ends controllers and scheduler; what they have begun to write is written.
    pub async fn end_loops(&self) {
        self.loops.stopper.stop();
        if !self.loops.tasks.join(LOOPS_END).await {
            tracing::warn!(tasks = self.loops.tasks.running(), "controllers did not end in time");
        }
    }

    /// Waits until all is written and closed.
    pub async fn close(&self) {
        self.gate.join(DRAIN).await;
        self.gate.storage().store().close().await;
    }
}

/// The limits of one of the process's servers, by what it may have open.
pub fn limits() -> Limits {
    Limits::within(base::descriptors::limit(), SERVERS)
}

/// A leaf for a user of the API.
pub fn client_leaf(name: &str, groups: &[&str]) -> Leaf {
    Leaf {
        common_name: name.to_owned(),
        organizations: groups.iter().map(|group| (*group).to_owned()).collect(),
        dns_names: Vec::new(),
        ips: Vec::new(),
        usages: vec![Usage::Client],
        lifetime: LEAF_LIFETIME,
    }
}

/// A leaf for the server of a node's agent.
pub fn kubelet_leaf(node: &str, ips: &[IpAddr]) -> Leaf {
    Leaf {
        common_name: format!("system:node:{node}"),
        organizations: vec!["system:nodes".to_owned()],
        dns_names: vec![node.to_ascii_lowercase()],
        ips: ips.to_vec(),
        usages: vec![Usage::Server],
        lifetime: LEAF_LIFETIME,
    }
}

/// What presents a certificate of `leaf`, renewed as long as the process runs.
pub fn rotating(
    authority: &Arc<Authority>,
    leaf: Leaf,
    ground: &Ground,
) -> anyhow::Result<Arc<wire::tls::Presented>> {
    let rotating = Rotating::new(authority.clone(), leaf, ground.clock.clone())?;
    let presented = rotating.presented();
    ground.tasks.spawn("renewal of a certificate", rotating.run(ground.stop.clone()));
    Ok(presented)
}

fn serving_leaf(bootstrap: &bootstrap::Config, addresses: &Addresses) -> Leaf {
    let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    let mut dns_names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    dns_names.push("kubernetes.default.svc.cluster.local".to_owned());
    let mut ips = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), bootstrap.api_service(), addresses.advertised];
    ips.dedup();
    Leaf {
        common_name: "kube-apiserver".to_owned(),
        organizations: Vec::new(),
        dns_names,
        ips,
        usages: vec![Usage::Server],
        lifetime: LEAF_LIFETIME,
    }
}

fn api_range(range: &Cidr) -> anyhow::Result<api::validation::address::Cidr> {
    let text = range.network().to_string();
    api::validation::address::Cidr::parse(&text).ok_or_else(|| anyhow!("{text} is no range of addresses"))
}

#[expect(clippy::too_many_arguments, reason = "this is wiring: each is a part that was just made")]
fn start_loops(
    gate: &Arc<Gate>,
    authority: &Arc<Authority>,
    keys: Arc<dyn Keys>,
    sign_request: RequestSigner,
    facts: &Facts,
    service_range: api::validation::address::Cidr,
    ground: &Ground,
    loops: &Loops,
) -> anyhow::Result<Arc<World>> {
    let stop = loops.stopper.signal();
    let settings = Settings {
        ca_pem: authority.certificate_pem().to_owned(),
        sign_token: token_signer(keys),
        sign_request,
        pod_networks: vec![PodNetwork { cidr: api_range(&facts.pods()?)?, node_prefix: NODE_PREFIX }],
        service_cidrs: vec![service_range],
        reserved_ports: vec![facts.api_port, node_port(), DNS_PORT],
        clock: ground.clock.clone(),
    };
    let controllers = controllers::all(&settings);
    let mut world = World::new();
    for resource in [&PODS, &NODES] {
        world.ensure(resource);
    }
    for watches in controllers.iter().flat_map(|controller| controller.watches()) {
        world.ensure(&watches.resource);
    }
    let world = Arc::new(world);
    let api = gate.as_user(Identity::new(CONTROLLERS, &[]));
    let (recorder, writer) = Recorder::new("controllers", "");
    control::recorder::start(writer, api.clone(), ground.clock.clone(), &ground.tasks, ground.stop.clone());
    for controller in controllers {
        Runner::new(controller, &world, api.clone(), &ground.clock, &recorder).start(&loops.tasks, &stop);
    }
    let scheduling = gate.as_user(Identity::new(SCHEDULER, &[]));
    Scheduler::new(&world, scheduling, &ground.clock, &ground.random, &recorder).start(&loops.tasks, &stop);
    world.start(&api, &ground.clock, &ground.tasks, &ground.stop);
    Ok(world)
}

/// Where each node answers names.
const DNS_PORT: u16 = 53;

fn node_port() -> u16 {
    crate::agent::KUBELET_PORT
}

/// Signs the lasting tokens of Secrets. Signatures differ each time, so that what was signed is remembered: a plan that
/// is made twice must write the same.
fn token_signer(keys: Arc<dyn Keys>) -> TokenSigner {
    type Signed = BTreeMap<(String, String, String), String>;
    let signed: Mutex<Signed> = Mutex::default();
    Arc::new(move |claims: &TokenClaims| {
        let TokenClaims { namespace, service_account, service_account_uid, secret } = claims;
        let name = (namespace.clone(), secret.clone(), service_account_uid.clone());
        let mut signed = signed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = signed.get(&name) {
            return Ok(token.clone());
        }
        let claims = api::json!({
            "iss": "kubernetes/serviceaccount",
            "kubernetes.io/serviceaccount/namespace": (namespace.as_str()),
            "kubernetes.io/serviceaccount/secret.name": (secret.as_str()),
            "kubernetes.io/serviceaccount/service-account.name": (service_account.as_str()),
            "kubernetes.io/serviceaccount/service-account.uid": (service_account_uid.as_str()),
            "sub": (format!("system:serviceaccount:{namespace}:{service_account}"))
        });
        let token = keys.sign(&claims).map_err(|status: Status| status.message)?;
        signed.insert(name, token.clone());
        Ok(token)
    })
}

/// Runs what blocks beside the runtime.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(error.into()),
    }
}

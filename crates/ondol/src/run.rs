//! The process that stays: `up`, `server` and `agent` in the foreground.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base::{Clock, Random, Stopper, Tasks};
use client::Kubeconfig;
use net::address::Cidr;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin::{Admin, Parts, Progress, is_ready};
use crate::agent::{Node, Packets, Serving, Wishes};
use crate::checks;
use crate::facts::Facts;
use crate::identity::Identity;
use crate::invitation::{self, Invitation};
use crate::layout::Layout;
use crate::memory;
use crate::notify::Manager;
use crate::server::{Addresses, DRAIN, Ground, Server, first_bridge};

/// Threads of the runtime of names and loopback ports.
const PACKET_THREADS: usize = 1;
/// Most threads of one runtime that wait for the kernel and the disk: each keeps some memory for its next work, and
/// more at once are no faster.
const BLOCKING_THREADS: usize = 32;
/// How long such a thread stays without work, and with it the memory that it has freed.
const BLOCKING_KEPT: Duration = Duration::from_secs(2);
/// How long tasks may take to end.
const JOIN: Duration = Duration::from_secs(10);
/// How long runtimes may take to end what blocks.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// What the process is to be.
pub enum Role {
    /// Server and node in one.
    Up {
        /// Name of the node.
        node: String,
        /// Its address, if it is not the bridge's.
        address: Option<IpAddr>,
    },
    /// The server alone.
    Server {
        /// Where nodes and pods reach it.
        advertised: Option<IpAddr>,
        /// Nodes that may join, with their addresses.
        nodes: Vec<(String, IpAddr)>,
        /// How long what they are given to join is good.
        invitation_life: Duration,
    },
    /// A node alone.
    Agent {
        /// What the server gave.
        invitation: Box<Invitation>,
        /// As whom it speaks to the server.
        kubeconfig: Box<Kubeconfig>,
        /// Its address, if it is not the bridge's.
        address: Option<IpAddr>,
    },
}

impl Role {
    fn name(&self) -> &'static str {
        match self {
            Self::Up { .. } => "up",
            Self::Server { .. } => "server",
            Self::Agent { .. } => "agent",
        }
    }
}

/// What there is before anything else: the instance is this process's, and names are answered if they were before.
pub struct Begun {
    _lock: File,
    runtime: Runtime,
    packets: Packets,
    /// When the checks began, if they came after this.
    unchecked: Option<Duration>,
}

impl Begun {
    /// Begins before anything is checked, where a process of this instance has run since the machine was started: pods
    /// ask for names all the while.
    pub fn at_once(layout: &Layout, clock: &Clock) -> anyhow::Result<Option<Self>> {
        if !layout.has_run() {
            return Ok(None);
        }
        let unchecked = Some(clock.monotonic());
        Ok(Some(Self { unchecked, ..Self::new(layout, clock)? }))
    }

    fn new(layout: &Layout, clock: &Clock) -> anyhow::Result<Self> {
        let lock = lock(layout)?;
        let runtime = runtime("packets", Some(PACKET_THREADS), clock)?;
        let packets = Packets::begin(&runtime, layout, clock);
        Ok(Self { _lock: lock, runtime, packets, unchecked: None })
    }
}

/// Runs until a signal or `down` ends it. `facts` are not there for an agent.
pub fn run(
    layout: &Layout,
    facts: Option<&Facts>,
    role: Role,
    clock: &Clock,
    manager: &Manager,
    begun: Option<Begun>,
) -> anyhow::Result<()> {
    let begun = begun.map_or_else(|| Begun::new(layout, clock), Ok)?;
    let control = runtime("ondol", None, clock)?;
    let result = control.block_on(live(layout, facts, role, clock, manager, &begun));
    begun.runtime.shutdown_timeout(SHUTDOWN);
    control.shutdown_timeout(SHUTDOWN);
    let _ = std::fs::remove_file(layout.admin_socket());
    result
}

fn runtime(name: &str, threads: Option<usize>, clock: &Clock) -> anyhow::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    let clock = clock.clone();
    builder.on_thread_park(move || memory::rest(&clock));
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder.max_blocking_threads(BLOCKING_THREADS).thread_keep_alive(BLOCKING_KEPT);
    builder.thread_name(name).enable_all().build().context("the machine has no thread for the runtime")
}

/// Takes the instance for this process; the kernel lets go of it when the process ends, however it ends.
fn lock(layout: &Layout) -> anyhow::Result<File> {
    let path = layout.lock();
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("ondol already runs (instance {}); \"ondol status\" tells more", layout.instance);
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

async fn live(
    layout: &Layout,
    facts: Option<&Facts>,
    role: Role,
    clock: &Clock,
    manager: &Manager,
    begun: &Begun,
) -> anyhow::Result<()> {
    let stopper = Stopper::new();
    let ground = Ground {
        clock: clock.clone(),
        random: Random::system(),
        tasks: Tasks::new(),
        stop: stopper.signal(),
    };
    memory::keep_tidy(clock, &ground.tasks, &ground.stop);
    let (teller, progress) = watch::channel(Progress::default());
    let asked = Stopper::new();
    let (ending, ended) = (asked.clone(), asked.signal());
    let admin = Admin::start(layout, role.name(), &ground, progress, Arc::new(move || ending.stop()))?;
    let last = begun.unchecked.unwrap_or_else(|| clock.monotonic());
    let mut told = Told { teller, manager: manager.clone(), clock: clock.clone(), last };
    if begun.unchecked.is_some() {
        told.done(checks::PASSED);
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let started = tokio::select! {
        parts = start(layout, facts, role, &ground, &begun.packets, &mut told) => Some(parts),
        () = ended.stopped() => None,
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    let (parts, result) = match started {
        Some(Ok(parts)) => {
            admin.complete(parts.clone());
            told.ready();
            tokio::select! {
                () = ended.stopped() => tracing::info!("pods have ended, now the rest"),
                _ = terminate.recv() => tracing::info!("told to end; pods live on"),
                _ = interrupt.recv() => tracing::info!("told to end; pods live on"),
            }
            (Some(parts), Ok(()))
        }
        Some(Err(error)) => (None, Err(error)),
        None => (None, Ok(())),
    };
    admin.ending();
    manager.stopping();
    if let Some(parts) = &parts {
        if let Some(node) = &parts.node {
            node.stop().await;
        }
        if let Some(server) = &parts.server {
            server.end_loops().await;
        }
    }
    stopper.stop();
    if !ground.tasks.join(JOIN).await {
        tracing::warn!(tasks = ground.tasks.running(), "not everything ended in time");
    }
    if let Some(server) = parts.and_then(|parts| parts.server) {
        server.close().await;
    }
    result
}

/// Tells of steps: who has typed the command, and the service manager.
struct Told {
    teller: watch::Sender<Progress>,
    manager: Manager,
    clock: Clock,
    last: Duration,
}

impl Told {
    fn done(&mut self, step: impl Into<String>) {
        let (step, now) = (step.into(), self.clock.monotonic());
        let took = now.saturating_sub(self.last).as_millis();
        self.last = now;
        tracing::info!(milliseconds = took, "{step}");
        self.manager.status(&step);
        self.teller.send_modify(|progress| progress.steps.push((step, took)));
    }

    fn ready(&self) {
        self.teller.send_modify(|progress| progress.ready = true);
        self.manager.ready();
    }
}

async fn start(
    layout: &Layout,
    facts: Option<&Facts>,
    role: Role,
    ground: &Ground,
    packets: &Packets,
    told: &mut Told,
) -> anyhow::Result<Parts> {
    match role {
        Role::Up { node, address } => {
            let facts = facts.context("an instance has facts")?;
            let bridge = first_bridge(&facts.pods()?)?;
            let addresses = Addresses { advertised: bridge, dns: bridge, nodes: BTreeMap::new() };
            let server = Arc::new(Server::start(layout, facts, &addresses, ground).await?);
            told.done(format!("API answers at {}", server.url()));
            let wishes = Wishes {
                name: node.clone(),
                address,
                pod_range: facts.pods()?,
                service_range: facts.services()?,
                dns_service: server.dns_service,
                api_port: Some(server.port),
            };
            let api = server.node(&node);
            let kubelet = Serving::Issued(server.authority.clone());
            let node_at_work = Node::start(layout, &wishes, api, kubelet, ground, packets).await?;
            if node_at_work.bridge != bridge {
                tracing::warn!(predicted = %bridge, actual = %node_at_work.bridge, "another node has the first range");
            }
            server.listen(node_at_work.bridge)?;
            told.done(format!("network and agent are up at {}", node_at_work.address));
            node_ready(&server, &node, ground).await?;
            told.done(format!("node {node} is Ready"));
            Ok(Parts { server: Some(server), node: Some(Arc::new(node_at_work)), node_name: node })
        }
        Role::Server { advertised, nodes, invitation_life } => {
            let facts = facts.context("an instance has facts")?;
            let dns = first_bridge(&facts.pods()?)?;
            let own = advertised.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
            let advertised = if own.is_loopback() { dns } else { own };
            let addresses = Addresses { advertised, dns, nodes: nodes.iter().cloned().collect() };
            let server = Arc::new(Server::start(layout, facts, &addresses, ground).await?);
            if !own.is_loopback() {
                server.listen(own)?;
            }
            told.done(format!("API answers at {}", server.url()));
            for (name, ip) in &nodes {
                let path = invitation::write(layout, facts, &server, own, name, *ip, invitation_life)?;
                told.done(format!("node {name} may join with {}", path.display()));
            }
            Ok(Parts { server: Some(server), node: None, node_name: String::new() })
        }
        Role::Agent { invitation, kubeconfig, address } => {
            let identity = Identity::load(layout, &invitation, &kubeconfig, &ground.clock)?;
            let range = |text: &str| {
                text.parse::<Cidr>().context("the invitation is damaged; let the server write it anew")
            };
            let wishes = Wishes {
                name: invitation.node.clone(),
                address: address.or(Some(invitation.address)),
                pod_range: range(&invitation.pod_range)?,
                service_range: range(&invitation.service_range)?,
                dns_service: invitation.dns_service,
                api_port: None,
            };
            let (presented, authority_pem) = identity.serving();
            let (kubelet, api) = (Serving::Given { presented, authority_pem }, identity.api());
            ground.tasks.spawn("certificates of the node", identity.keep(ground.stop.clone()));
            let node = Node::start(layout, &wishes, api, kubelet, ground, packets).await?;
            told.done(format!("network and agent are up at {}", node.address));
            Ok(Parts { server: None, node: Some(Arc::new(node)), node_name: wishes.name })
        }
    }
}

/// Returns when the Node says that it is ready.
async fn node_ready(server: &Server, name: &str, ground: &Ground) -> anyhow::Result<()> {
    let nodes = server.world.mirror(&api::names::NODES);
    match ground.stop.or(nodes.until(|_| is_ready(server, name))).await {
        Some(()) => Ok(()),
        None => bail!("the instance was ended before its node was ready"),
    }
}

/// How long a server may take from the signal to its end.
pub fn longest_end() -> Duration {
    JOIN + DRAIN + DRAIN + SHUTDOWN + SHUTDOWN
}

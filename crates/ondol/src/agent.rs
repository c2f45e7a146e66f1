//! The node's half: images, sandboxes, bridge, Services, the agent.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use anyhow::Context as _;
use api::interface::{Api, Collection};
use api::json;
use api::names::NODES;
use api::status::Reason;
use base::{Backoff, Clock, Stopper, Tasks};
use control::mirror::Mirror;
use control::recorder::Recorder;
use control::world::World;
use image::pull::Puller;
use net::address::Cidr;
use net::rules::{Filter, Frame, Rules};
use node::agent::Agent;
use node::context::{Context, Settings};
use node::machine::Machine;
use node::network::BridgeNetwork;
use node::pod::worker::Worker;
use node::references::References;
use node::register::{self, Registration};
use node::server::{self, Kubelet, PodHandle, Pods};
use node::services::{self, Services};
use sandbox::Sandboxes;
use wire::serve::ServerTls;
use wire::tls::{Authority, Presented, Roots};

use crate::facts;
use crate::layout::Layout;
use crate::server::{Ground, blocking, kubelet_leaf, rotating};

/// Where agents serve HTTPS, as upstream's do.
pub const KUBELET_PORT: u16 = 10250;
/// The domain of Services.
pub const DOMAIN: &str = "cluster.local";
/// The usual size of packets.
const MTU_BYTES: u32 = 1500;
/// Wait before a Node that could not be made is made again, first and longest.
const NODE_RETRY_FIRST: Duration = Duration::from_millis(50);
const NODE_RETRY_LONGEST: Duration = Duration::from_secs(1);
/// How long the controllers may take to give a range, once the server answers.
const RANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the agent's tasks may take to end.
const AGENT_END: Duration = Duration::from_secs(3);

/// What a node is told.
#[derive(Clone)]
pub struct Wishes {
    /// Its name.
    pub name: String,
    /// Its address, if it is not the bridge's.
    pub address: Option<IpAddr>,
    /// Range of all pods.
    pub pod_range: Cidr,
    /// Range of Services.
    pub service_range: Cidr,
    /// The address of the service `kube-dns`.
    pub dns_service: IpAddr,
    /// The API's port, if the server is in this process: no Service takes it.
    pub api_port: Option<u16>,
}

/// Where names and ports on loopback run.
pub struct Packets {
    runtime: tokio::runtime::Handle,
    /// The name server, if an earlier process kept what it answers.
    names: Option<net::dns::Server>,
}

impl Packets {
    /// Names are answered at once, if an earlier process of this node kept them: before the store is opened, and before
    /// the API server is found.
    pub fn begin(runtime: &tokio::runtime::Runtime, layout: &Layout, clock: &Clock) -> Self {
        let (tasks, stopper, random) = (lasting(), Stopper::new(), base::Random::system());
        let (path, servers) = (layout.names(), upstreams(&resolv_conf()));
        let resumed = services::resume(&path, &servers, &tasks, stopper.signal(), clock, &random);
        Self { names: runtime.block_on(resumed), runtime: runtime.handle().clone() }
    }
}

/// Where the certificate of the agent's own server comes from.
pub enum Serving {
    /// The authority is in this process.
    Issued(Arc<Authority>),
    /// The server gave it.
    Given {
        /// Certificate and key, always the newest.
        presented: Arc<Presented>,
        /// Whom the agent believes.
        authority_pem: String,
    },
}

/// A node at work.
pub struct Node {
    /// All pods.
    pub agent: Arc<Agent>,
    /// All images.
    pub images: image::Store,
    /// Pulls more.
    pub puller: Puller,
    /// The bridge's own address.
    pub bridge: IpAddr,
    /// Where the node is reached.
    pub address: IpAddr,
    stopper: Stopper,
    tasks: Tasks,
    clock: Clock,
}

impl Node {
    /// Starts the node.
    pub async fn start(
        layout: &Layout,
        wishes: &Wishes,
        api: Arc<dyn Api>,
        serving: Serving,
        ground: &Ground,
        packets: &Packets,
    ) -> anyhow::Result<Self> {
        let Ground { clock, random, .. } = ground.clone();
        let stopper = Stopper::child(&ground.stop);
        let (tasks, stop) = (Tasks::new(), stopper.signal());
        for folder in [layout.pods(), layout.logs()] {
            std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let images = open_images(layout, ground).await?;
        let puller = Puller::new(images.clone(), image::pull::Options::default(), lasting())?;
        let range = own_range(&*api, &wishes.name, ground).await?;
        let network = open_network(layout, wishes, range).await?;
        let bridge = *network.gateways().first().context("the bridge has no address")?;
        let address = wishes.address.unwrap_or(bridge);
        let config = sandbox::Config { run_dir: layout.sandboxes(), cgroup_root: layout.cgroup_root() };
        let sandboxes = Sandboxes::open(config, clock.clone(), lasting()).await?;
        let health = node::health::of(network.clone(), sandboxes.clone(), vec![layout.pods(), layout.logs()]);
        let machine = Machine::read(&layout.data).context("the machine cannot be examined")?;

        let mut world = World::new();
        services::watch(&mut world);
        let world = Arc::new(world);
        let (recorder, writer) = Recorder::new("kubelet", &wishes.name);
        control::recorder::start(writer, api.clone(), clock.clone(), &tasks, stop.clone());
        let pods = node::agent::pods_of(&wishes.name);
        start_services(layout, wishes, &network, address, &api, &world, &pods, &recorder, ground, packets)
            .await?;
        world.start(&api, &clock, &tasks, &stop);

        let agent_cell: Arc<OnceLock<Weak<Agent>>> = Arc::default();
        let told = agent_cell.clone();
        let changed = Arc::new(move |uid: &str| {
            if let Some(agent) = told.get().and_then(Weak::upgrade) {
                agent.refresh(uid);
            }
        });
        let references = References::new(api.clone(), clock.clone(), tasks.clone(), stop.clone(), changed);
        let environment = world.clone();
        let context = Arc::new(Context {
            settings: settings(layout, wishes, address, &machine),
            api: api.clone(),
            clock: clock.clone(),
            random,
            recorder: recorder.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
            sandboxes,
            images: images.clone(),
            puller: puller.clone(),
            network: Arc::new(network),
            references,
            services: Arc::new(move |namespace| services::environment(&environment, namespace)),
        });
        let agent = Agent::new(context, pods);
        // Set once, here.
        let _ = agent_cell.set(Arc::downgrade(&agent));
        agent.start().await?;
        let own = Ground { tasks: tasks.clone(), stop, ..ground.clone() };
        serve(layout, wishes, &agent, serving, &[address, bridge], &machine, api.clone(), &own)?;
        register(layout, wishes, address, machine, api, &images, health, recorder, &own);
        Ok(Self { agent, images, puller, bridge, address, stopper, tasks, clock })
    }

    /// Ends all pods, and keeps their objects. The agent ends first, for it would start again what ends.
    pub async fn end_pods(&self, timeout: Duration) {
        self.stop().await;
        self.agent.end_all(timeout).await;
        tracing::info!(pods = self.agent.workers().len(), "pods have ended");
    }

    /// Ends the agent; pods live on.
    pub async fn stop(&self) {
        self.stopper.stop();
        let before = self.clock.monotonic();
        if !self.tasks.join(AGENT_END).await {
            tracing::warn!(tasks = self.tasks.running(), "parts of the agent did not end in time");
        }
        tracing::debug!(took = ?self.clock.monotonic().saturating_sub(before), "the agent has ended");
    }
}

/// Tasks that nobody joins: talks with pod processes last as long as the pods, connections as long as their pool.
fn lasting() -> Tasks {
    Tasks::new()
}

/// What the kubelet's port knows of pods.
struct Known {
    agent: Arc<Agent>,
    logs: PathBuf,
}

impl Known {
    fn handle(&self, worker: &Worker) -> PodHandle {
        let object = worker.desired().object;
        let folder = format!("{}_{}_{}", object.namespace(), object.name(), object.uid());
        PodHandle { sandbox: worker.sandbox(), logs: self.logs.join(folder), object }
    }
}

impl Pods for Known {
    fn find(&self, namespace: &str, name: &str) -> Option<PodHandle> {
        self.agent.find(namespace, name).map(|worker| self.handle(&worker))
    }

    fn list(&self) -> Vec<PodHandle> {
        self.agent.workers().iter().map(|worker| self.handle(worker)).collect()
    }
}

/// Opens the kubelet's port.
#[expect(clippy::too_many_arguments, reason = "this is wiring: each is a part that was just made")]
fn serve(
    layout: &Layout,
    wishes: &Wishes,
    agent: &Arc<Agent>,
    serving: Serving,
    addresses: &[IpAddr],
    machine: &Machine,
    api: Arc<dyn Api>,
    ground: &Ground,
) -> anyhow::Result<()> {
    let (presented, authority_pem) = match serving {
        Serving::Issued(authority) => {
            let leaf = kubelet_leaf(&wishes.name, addresses);
            (rotating(&authority, leaf, ground)?, authority.certificate_pem().to_owned())
        }
        Serving::Given { presented, authority_pem } => (presented, authority_pem),
    };
    let tls = ServerTls::new(presented, Roots::new(&authority_pem)?)?;
    let port = SocketAddr::new(addresses[0], KUBELET_PORT);
    let server = wire::serve::Server::bind(&[port], ground.clock.clone())?.with_tls(tls);
    let server = server.with_limits(crate::server::limits());
    let settings = server::Settings {
        node: wishes.name.clone(),
        machine: machine.clone(),
        data_dir: layout.data.clone(),
    };
    let pods = Arc::new(Known { agent: agent.clone(), logs: layout.logs() });
    let Ground { clock, tasks, stop, .. } = ground.clone();
    let kubelet = Kubelet::new(settings, pods, api, clock, tasks, stop);
    ground.tasks.spawn("kubelet's port", kubelet.run(server));
    Ok(())
}

async fn open_images(layout: &Layout, ground: &Ground) -> anyhow::Result<image::Store> {
    let (root, clock, random) = (layout.images(), ground.clock.clone(), ground.random.clone());
    let images = blocking(move || Ok(image::Store::open(root, clock, random)?)).await?;
    image::carried::install(&images).await?;
    Ok(images)
}

/// The range that the controllers gave this node. The Node object is made here if nobody made it: its addresses
/// depend on the bridge, and the bridge on the range. A server that does not answer yet is waited for: it may be
/// started after its nodes.
async fn own_range(api: &dyn Api, name: &str, ground: &Ground) -> anyhow::Result<Cidr> {
    let selector = format!("metadata.name={name}");
    let mirror = Mirror::selecting(Collection::new(&NODES, ""), "", &selector);
    let given = async {
        mirror.synced().await;
        let given = ground.clock.timeout(RANGE_TIMEOUT, given_range(&mirror, api, name, ground)).await;
        given.context("the node was given no range of addresses for its pods; see the server's log")?
    };
    tokio::select! {
        range = given => range,
        () = mirror.run(api, &ground.clock, &ground.stop) => anyhow::bail!("ended before the server answered"),
    }
}

/// Waits at the mirror of the own Node for its range, and makes the Node where it is missing.
async fn given_range(mirror: &Mirror, api: &dyn Api, name: &str, ground: &Ground) -> anyhow::Result<Cidr> {
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    let mut backoff = Backoff::new(NODE_RETRY_FIRST, NODE_RETRY_LONGEST);
    loop {
        let before = mirror.progress();
        let node = mirror.get("", name).map(|node| node.to_tree());
        match node.as_ref().map(|node| node.str_at(&["spec", "podCIDR"])) {
            Some(Some(range)) => return range.parse().context("the node's range of addresses is damaged"),
            Some(None) => {}
            None => match api.create(&NODES, "", &object).await {
                Ok(_) => {}
                Err(status) if status.reason == Reason::AlreadyExists => {}
                Err(status) if matches!(status.reason, Reason::ServiceUnavailable | Reason::Timeout) => {
                    ground.clock.sleep(backoff.fail()).await;
                    continue;
                }
                Err(status) => return Err(anyhow::Error::from(status).context("the node may not register")),
            },
        }
        mirror.until(|now| now != before).await;
    }
}

async fn open_network(layout: &Layout, wishes: &Wishes, range: Cidr) -> anyhow::Result<BridgeNetwork> {
    let (instance, service_range, record) =
        (layout.instance.clone(), wishes.service_range, layout.network_record());
    blocking(move || {
        let mtu = mtu(&instance);
        let settings = node::network::Settings {
            instance,
            pod_ranges: vec![range],
            service_ranges: vec![service_range],
            mtu,
            record,
        };
        Ok(BridgeNetwork::open(&settings)?)
    })
    .await
}

/// What leaves the machine must fit its own link. Asked of the kernel, for `/sys` shows the links of the namespace in
/// which it was mounted, which need not be ours.
fn mtu(instance: &net::instance::Instance) -> u32 {
    let asked = || net::link::Network::open(instance).ok()?.mtu(&facts::default_link()?).ok()?;
    asked().unwrap_or(MTU_BYTES)
}

#[expect(clippy::too_many_arguments, reason = "this is wiring: each is a part that was just made")]
async fn start_services(
    layout: &Layout,
    wishes: &Wishes,
    network: &BridgeNetwork,
    address: IpAddr,
    api: &Arc<dyn Api>,
    world: &Arc<World>,
    pods: &Arc<Mirror>,
    recorder: &Recorder,
    ground: &Ground,
    packets: &Packets,
) -> anyhow::Result<()> {
    let gateways = network.gateways().to_vec();
    let names: Vec<SocketAddr> = gateways.iter().map(|ip| SocketAddr::new(*ip, 53)).collect();
    let mut node_addresses = gateways;
    if !node_addresses.contains(&address) {
        node_addresses.push(address);
    }
    let ports = [Some(KUBELET_PORT), wishes.api_port].into_iter().flatten();
    let kept = ports.flat_map(|port| node_addresses.iter().map(move |ip| SocketAddr::new(*ip, port)));
    let own = kept.chain(names.iter().copied()).collect();
    let instance = layout.instance.clone();
    let rules = blocking(move || Ok(Rules::open(&instance)?)).await?;
    let settings = services::Settings {
        facts: services::Facts {
            node: wishes.name.clone(),
            dns: names.first().copied(),
            own,
            addresses: vec![address],
        },
        frame: Frame {
            pods: vec![wishes.pod_range],
            service_ranges: vec![wishes.service_range],
            node_addresses,
            masquerade_except: vec![wishes.pod_range],
            filter: Filter {
                guarded: vec![wishes.pod_range, wishes.service_range],
                trusted: Vec::new(),
                seal_forwarding: !network.was_router(),
            },
        },
        domain: DOMAIN.to_owned(),
        dns: Some(net::dns::Config { addresses: names, upstreams: upstreams(&resolv_conf()) }),
        kept_names: Some(layout.names()),
    };
    let (world, pods, recorder, ground) = (world.clone(), pods.clone(), recorder.clone(), ground.clone());
    // Names and loopback ports have a runtime of their own, so that a busy server delays no packet.
    let _entered = packets.runtime.enter();
    let own = Tasks::new();
    let hands = services::Hands {
        api: api.clone(),
        world,
        pods,
        rules,
        names: packets.names.clone(),
        recorder,
        clock: ground.clock,
        random: ground.random,
        tasks: own.clone(),
    };
    own.spawn("services", Services::new(settings, hands).run(ground.stop));
    Ok(())
}

fn settings(layout: &Layout, wishes: &Wishes, address: IpAddr, machine: &Machine) -> Settings {
    Settings {
        node: wishes.name.clone(),
        host_ips: vec![address],
        pods_dir: layout.pods(),
        logs_dir: layout.logs(),
        cluster_domain: DOMAIN.to_owned(),
        cluster_dns: wishes.dns_service,
        host_resolv_conf: resolv_conf(),
        memory_bytes: i64::try_from(machine.memory_bytes).unwrap_or(i64::MAX),
        allocatable: machine.allocatable(),
    }
}

#[expect(clippy::too_many_arguments, reason = "this is wiring: each is a part that was just made")]
fn register(
    layout: &Layout,
    wishes: &Wishes,
    address: IpAddr,
    machine: Machine,
    api: Arc<dyn Api>,
    images: &image::Store,
    health: register::Health,
    recorder: Recorder,
    ground: &Ground,
) {
    let settings = register::Settings {
        node: wishes.name.clone(),
        addresses: vec![address],
        kubelet_port: KUBELET_PORT,
        data_dir: layout.data.clone(),
        version: cli::arguments::VERSION.to_owned(),
    };
    let registration =
        Registration::new(settings, machine, api, ground.clock.clone(), images.clone(), health, recorder);
    let (tasks, stop) = (ground.tasks.clone(), ground.stop.clone());
    ground.tasks.spawn("registration", async move { registration.run(&tasks, stop).await });
}

fn resolv_conf() -> String {
    std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}

/// The machine's name servers.
fn upstreams(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok();
    text.lines().filter_map(server).map(|ip| SocketAddr::new(ip, 53)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_from_resolv_conf() {
        let found = upstreams("# x\nsearch a\nnameserver 192.0.2.1\nnameserver fd00::1\nnameserver junk\n");
        assert_eq!(found, ["192.0.2.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()]);
    }
}

//! Services, EndpointSlices and host ports of pods, turned into rules, names and loopback ports: what kube-proxy,
//! CoreDNS and `portmap` do.
//!
//! A change of an object marks its Service or pod; after a pause of [`GATHER`] all that is marked is compiled again
//! ([`compile::service`], [`host_ports::pod`]), and what differs is sent to the kernel, the name server and the
//! listeners. Ports of the machine are taken only where no other program listens ([`ports`]), and the Node tells
//! controllers which those are ([`offer`]). What is deliberately absent: any state beside what was last applied, and the
//! names that are kept for the next process ([`memory`]).

mod compile;
mod doors;
mod health;
mod host_ports;
mod memory;
mod names;
mod offer;
mod ports;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::interface::Api;
use api::names::{ENDPOINT_SLICES, NAMESPACES, SERVICES};
use api::object::Object;
use api::value::Str;
use base::{Backoff, Clock, Random, Stop, Tasks};
use control::mirror::{Change, Key, Mirror};
use control::recorder::{Note, Recorder};
use control::world::{self, World};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use net::dns;
use net::loopback::LoopbackPort;
use net::rules::{Frame, Rules, RulesError, Ruleset, ServiceKey, VirtualService, keep_places};
use tokio::sync::Notify;
use tracing::{debug, warn};

pub use compile::{Compiled, Facts, service};
pub use health::Check;
pub use memory::resume;

use crate::pod::environment::ServiceFacts;
use doors::Doors;
use memory::Memory;
use offer::Offer;
use ports::{Ports, Taken};

/// The label by which a slice names its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// The index of slices by `namespace/name` of their Service.
const BY_SERVICE: &str = "service";
/// How long changes are gathered, so that a rollout's many are one transaction.
const GATHER: Duration = Duration::from_millis(2);
/// How often the kernel is asked whether someone else changed our table, and what was in the way is tried again.
const REVIEW: Duration = Duration::from_secs(30);
/// Wait before what failed is tried again.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// What the loop is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node.
    pub facts: Facts,
    /// What of the rules does not depend on Services.
    pub frame: Frame,
    /// The cluster's domain: `cluster.local`.
    pub domain: String,
    /// Where names are answered and who is asked for others'; `None` for no name server.
    pub dns: Option<dns::Config>,
    /// Where names are kept for the next process ([`resume`]).
    pub kept_names: Option<PathBuf>,
}

/// What the loop uses.
pub struct Hands {
    /// Where the Node tells of its ports.
    pub api: Arc<dyn Api>,
    /// Has the mirrors of [`watch`].
    pub world: Arc<World>,
    /// The pods of this node, for their host ports.
    pub pods: Arc<Mirror>,
    /// The table, opened in the network namespace of the node.
    pub rules: Rules,
    /// The name server, if it has begun already ([`resume`]).
    pub names: Option<dns::Server>,
    /// Tells of fields that cannot be honoured.
    pub recorder: Recorder,
    /// Clock.
    pub clock: Clock,
    /// Randomness.
    pub random: Random,
    /// Where listeners and the name server run.
    pub tasks: Tasks,
}

/// The loop.
pub struct Services {
    settings: Settings,
    api: Arc<dyn Api>,
    world: Arc<World>,
    pods: Arc<Mirror>,
    rules: Arc<Mutex<Rules>>,
    recorder: Recorder,
    clock: Clock,
    random: Random,
    tasks: Tasks,
    marks: Arc<Marks>,
    compiled: BTreeMap<Key, Compiled>,
    /// Host ports by pod.
    hosted: BTreeMap<Key, Compiled>,
    /// Not there before the first look.
    ports: Option<Ports>,
    offer: Offer,
    memory: Memory,
    applied: Applied,
}

/// Why the loop goes on.
enum Cause {
    /// Objects have changed.
    Changed,
    /// A port may have become free, or it is time to look.
    Review,
}

/// What was last applied.
#[derive(Default)]
struct Applied {
    ruleset: Option<Arc<Ruleset>>,
    names: Option<dns::Server>,
    zone: Option<Arc<dns::Zone>>,
    loopback: BTreeMap<LoopbackPort, Vec<SocketAddr>>,
    loopback_failed: bool,
    /// The ports of 127.0.0.1 that could not be opened.
    closed: BTreeSet<LoopbackPort>,
    /// The Services whose health check port could not be opened.
    unchecked: BTreeSet<Key>,
}

/// What has to be compiled again.
#[derive(Default)]
struct Marks {
    services: Mutex<BTreeSet<Key>>,
    pods: Mutex<BTreeSet<Key>>,
    wake: Notify,
}

/// Adds the mirrors that the loop reads.
pub fn watch(world: &mut World) {
    world.ensure(&SERVICES);
    world.ensure(&NAMESPACES);
    world.add(Mirror::new(&ENDPOINT_SLICES).indexed(BY_SERVICE, |slice| {
        let name = slice.label(SERVICE_LABEL).filter(|name| !name.is_empty());
        name.map(|name| Str::from(format!("{}/{name}", slice.namespace()))).into_iter().collect()
    }));
}

/// The Services of a namespace as environments show them.
pub fn environment(world: &World, namespace: &str) -> Vec<ServiceFacts> {
    let services = world.views::<Service>(&SERVICES, namespace);
    let facts = services.into_iter().filter_map(|(object, service)| {
        let spec = service.spec.as_ref()?;
        let address = spec.cluster_ip.clone().filter(|address| !address.is_empty() && address != "None")?;
        let ports = spec.ports.iter().flatten().map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            (port.name.clone().unwrap_or_default(), protocol, i64::from(port.port))
        });
        Some(ServiceFacts { name: object.name().to_owned(), address, ports: ports.collect() })
    });
    facts.collect()
}

impl Services {
    /// Ready to run. The mirrors of `hands.world` may be started before or after.
    pub fn new(settings: Settings, hands: Hands) -> Self {
        let marks = Arc::new(Marks::default());
        let mark = |of: fn(&Object) -> Option<Key>| {
            let marks = marks.clone();
            move |change: &Change| {
                for object in [&change.old, &change.new].into_iter().flatten() {
                    marks.services().extend(of(object));
                }
                marks.wake.notify_one();
            }
        };
        hands.world.mirror(&SERVICES).on_change(mark(|service| Some(Key::of(service))));
        hands.world.mirror(&NAMESPACES).on_change(mark(|_| None));
        hands.world.mirror(&ENDPOINT_SLICES).on_change(mark(|slice| {
            slice.label(SERVICE_LABEL).map(|name| Key::new(slice.namespace(), name))
        }));
        let of_pods = marks.clone();
        hands.pods.on_change(move |change| {
            let wants = |object: &Arc<Object>| {
                world::view::<Pod>(object).is_some_and(|pod| host_ports::wants_any(&pod))
            };
            let found = [&change.old, &change.new].into_iter().flatten().find(|object| wants(object));
            if let Some(pod) = found {
                of_pods.pods().insert(Key::of(pod));
                of_pods.wake.notify_one();
            }
        });
        // What was resumed for other addresses is of no use.
        let addresses = settings.dns.as_ref().map(|config| &*config.addresses);
        let names = hands.names.filter(|server| {
            let fits = addresses == Some(server.addresses());
            if !fits {
                server.close();
            }
            fits
        });
        Self {
            settings,
            api: hands.api,
            world: hands.world,
            pods: hands.pods,
            rules: Arc::new(Mutex::new(hands.rules)),
            recorder: hands.recorder,
            clock: hands.clock,
            random: hands.random,
            tasks: hands.tasks,
            marks,
            compiled: BTreeMap::new(),
            hosted: BTreeMap::new(),
            ports: None,
            offer: Offer::default(),
            memory: Memory::default(),
            applied: Applied { names, ..Applied::default() },
        }
    }

    /// Keeps rules, names and ports as the API says until `stop`. Rules stay in the kernel: pods live on.
    pub async fn run(mut self, stop: Stop) {
        if stop.or(futures::future::join(self.world.synced(), self.pods.synced())).await.is_none() {
            return;
        }
        let all = self.world.list(&SERVICES, "");
        self.marks.services().extend(all.iter().map(|service| Key::of(service)));
        self.marks.pods().extend(self.pods.list("").iter().map(|pod| Key::of(pod)));
        self.begin(&stop);
        let mut doors = self.doors(&stop);
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        let mut cause = Cause::Review;
        loop {
            self.compile();
            self.compile_pods();
            let wait = match self.apply(&mut doors, &cause, &stop).await {
                true => {
                    backoff.succeed();
                    REVIEW
                }
                false => backoff.fail(),
            };
            let Some(next) = stop.or(self.next(wait)).await else { return };
            cause = next;
            if matches!(cause, Cause::Changed) {
                self.clock.sleep(GATHER).await;
            }
        }
    }

    /// Starts those who tell the Node's ports and keep names.
    fn begin(&self, stop: &Stop) {
        let (clock, tasks) = (&self.clock, &self.tasks);
        let node = self.settings.facts.node.clone();
        let told =
            self.offer.clone().keep(node, self.api.clone(), clock.clone(), tasks.clone(), stop.clone());
        tasks.spawn("ports of the node", told);
        if let (Some(path), Some(dns)) = (&self.settings.kept_names, &self.settings.dns) {
            let memory = self.memory.clone();
            let kept = memory.keep(path.clone(), dns.addresses.clone(), clock.clone(), stop.clone());
            tasks.spawn("names for the next process", kept);
        }
    }

    async fn next(&mut self, wait: Duration) -> Cause {
        let freed = async {
            match &mut self.ports {
                Some(ports) => ports.freed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.clock.timeout(wait, self.marks.wake.notified()) => match changed {
                Some(()) => Cause::Changed,
                None => Cause::Review,
            },
            () = freed => Cause::Review,
        }
    }

    /// Compiles what is marked.
    fn compile(&mut self) {
        let marked = std::mem::take(&mut *self.marks.services());
        for key in marked {
            let object = self.world.get(&SERVICES, &key.namespace, &key.name);
            let Some((object, service)) = object.and_then(|o| world::view::<Service>(&o).map(|s| (o, s)))
            else {
                self.compiled.remove(&key);
                continue;
            };
            let slices = self.world.mirror(&ENDPOINT_SLICES).by_index(BY_SERVICE, &key.to_string());
            let slices: Vec<Arc<EndpointSlice>> =
                slices.iter().filter_map(|slice| world::view(slice)).collect();
            let compiled =
                compile::service(&self.settings.facts, &service, slices.iter().map(|slice| &**slice));
            let before = self.compiled.get(&key).map(|before| &*before.complaints).unwrap_or_default();
            for complaint in compiled.complaints.iter().filter(|complaint| !before.contains(complaint)) {
                self.recorder.note(Note::warning(&object, "UnsupportedField", complaint.as_str()));
            }
            self.compiled.insert(key, compiled);
        }
    }

    /// Compiles the host ports of the pods that are marked.
    fn compile_pods(&mut self) {
        let marked = std::mem::take(&mut *self.marks.pods());
        for key in marked {
            let object = self.pods.get(&key.namespace, &key.name);
            let viewed = object.and_then(|object| world::view::<Pod>(&object).map(|pod| (object, pod)));
            let Some((object, pod)) = viewed.filter(|(_, pod)| host_ports::wants_any(pod)) else {
                self.hosted.remove(&key);
                continue;
            };
            let compiled = host_ports::pod(&pod);
            let before = self.hosted.get(&key).map(|before| &*before.complaints).unwrap_or_default();
            for complaint in compiled.complaints.iter().filter(|complaint| !before.contains(complaint)) {
                self.recorder.note(Note::warning(&object, "UnsupportedField", complaint.as_str()));
            }
            self.hosted.insert(key, compiled);
        }
    }

    /// Services, and behind them host ports: where both claim a port, the Service has it.
    fn all(&self) -> impl Iterator<Item = &Compiled> {
        self.compiled.values().chain(self.hosted.values())
    }

    /// Applies what differs; returns whether all of it took.
    async fn apply(&mut self, doors: &mut Doors, cause: &Cause, stop: &Stop) -> bool {
        let named = self.apply_names(stop).await;
        self.look(matches!(cause, Cause::Review)).await;
        let ruled = self.apply_rules().await.inspect_err(|error| warn!(%error, "rules could not be written"));
        let opened = self.apply_loopback(&mut doors.loopback).await;
        self.apply_health(&mut doors.health, ruled.is_ok());
        named && ruled.is_ok() && opened
    }

    async fn apply_rules(&mut self) -> Result<(), RulesError> {
        let former = self.applied.ruleset.clone();
        let none = Taken::new();
        let taken = self.ports.as_ref().map_or(&none, Ports::taken);
        let ruleset = Arc::new(ruleset(&self.settings.frame, self.all(), former.as_deref(), taken));
        // Whatever happens now, what the kernel has is not known until this succeeds.
        self.applied.ruleset = None;
        let (rules, new) = (self.rules.clone(), ruleset.clone());
        let work = move || {
            let mut rules = rules.lock().unwrap_or_else(PoisonError::into_inner);
            match former {
                Some(former) if former == new && rules.is_altered()? => rules.sync(&new),
                Some(former) => rules.update(&former, &new),
                None => rules.sync(&new),
            }
        };
        let applied = match tokio::task::spawn_blocking(work).await {
            Ok(applied) => applied?,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime ends; so does this loop.
            Err(_) => return Ok(()),
        };
        debug!(?applied, services = ruleset.services.len(), "rules");
        if let Some(ports) = &mut self.ports {
            ports.hold(&ruleset);
        }
        self.applied.ruleset = Some(ruleset);
        Ok(())
    }
}

impl Marks {
    fn pods(&self) -> std::sync::MutexGuard<'_, BTreeSet<Key>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn services(&self) -> std::sync::MutexGuard<'_, BTreeSet<Key>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that is compiled as one rule set, in which endpoints keep the places that they have in `former`, and what other
/// programs have taken stays theirs.
fn ruleset<'a>(
    frame: &Frame,
    compiled: impl Iterator<Item = &'a Compiled>,
    former: Option<&Ruleset>,
    taken: &Taken,
) -> Ruleset {
    let mut services: BTreeMap<ServiceKey, Arc<VirtualService>> = BTreeMap::new();
    for (key, service) in compiled.flat_map(|compiled| &compiled.rules) {
        let service = &*ports::spared(frame, service, taken);
        let before = former.and_then(|former| former.services.get(key));
        let places = before.map(|before| &*before.endpoints).unwrap_or_default();
        let endpoints = keep_places(places, service.endpoints.iter().copied());
        let placed = match before {
            // Sharing what did not change makes the comparison of thousands cheap.
            Some(before) if endpoints == before.endpoints && same_but_endpoints(before, service) => {
                before.clone()
            }
            _ => Arc::new(VirtualService { endpoints, ..service.clone() }),
        };
        services.insert(key.clone(), placed);
    }
    Ruleset { services, frame: frame.clone() }
}

fn same_but_endpoints(a: &VirtualService, b: &VirtualService) -> bool {
    (a.protocol, a.port, a.node_port, a.affinity, a.internal_policy, a.external_policy)
        == (b.protocol, b.port, b.node_port, b.affinity, b.internal_policy, b.external_policy)
        && a.cluster_addresses == b.cluster_addresses
        && a.external_addresses == b.external_addresses
}

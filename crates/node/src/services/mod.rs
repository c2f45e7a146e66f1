//! Services, EndpointSlices and host ports of pods, turned into rules, names and loopback ports: what kube-proxy,
//! CoreDNS and `portmap` do.
//!
//! A change of an object marks its Service or pod; after a pause of [`GATHER`] all that is marked is compiled again
//! ([`compile::service`], [`host_ports::pod`]), and what differs is sent to the kernel, the name server and the listeners. What is
//! deliberately absent: any state beside what was last applied.

mod compile;
mod host_ports;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
use net::loopback::{LoopbackError, LoopbackPort, LoopbackPorts};
use net::rules::{Frame, Rules, RulesError, Ruleset, ServiceKey, VirtualService, keep_places};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

pub use compile::{Compiled, Facts, service};

use crate::pod::environment::ServiceFacts;

/// The label by which a slice names its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// The index of slices by `namespace/name` of their Service.
const BY_SERVICE: &str = "service";
/// How long changes are gathered, so that a rollout's many are one transaction.
const GATHER: Duration = Duration::from_millis(2);
/// How often the kernel is asked whether someone else changed our table.
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
}

/// What the loop uses.
pub struct Hands {
    /// Has the mirrors of [`watch`].
    pub world: Arc<World>,
    /// The pods of this node, for their host ports.
    pub pods: Arc<Mirror>,
    /// The table, opened in the network namespace of the node.
    pub rules: Rules,
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
    applied: Applied,
}

/// What was last applied.
#[derive(Default)]
struct Applied {
    ruleset: Option<Arc<Ruleset>>,
    names: Option<dns::Server>,
    zone: Option<dns::Zone>,
    loopback: BTreeMap<LoopbackPort, Vec<SocketAddr>>,
    loopback_failed: bool,
    /// The ports of 127.0.0.1 that could not be opened.
    closed: BTreeSet<LoopbackPort>,
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
        Self {
            settings,
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
            applied: Applied::default(),
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
        let mut ports =
            LoopbackPorts::new(self.tasks.clone(), stop.clone(), self.clock.clone(), self.random.clone());
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        loop {
            self.compile();
            self.compile_pods();
            let wait = match self.apply(&mut ports, &stop).await {
                true => {
                    backoff.succeed();
                    REVIEW
                }
                false => backoff.fail(),
            };
            let changed = self.clock.timeout(wait, self.marks.wake.notified());
            match stop.or(changed).await {
                None => return,
                Some(Some(())) => self.clock.sleep(GATHER).await,
                Some(None) => {}
            }
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
    async fn apply(&mut self, ports: &mut LoopbackPorts, stop: &Stop) -> bool {
        let named = self.apply_names(stop).await;
        let ruled = self.apply_rules().await.inspect_err(|error| warn!(%error, "rules could not be written"));
        let opened = self.apply_loopback(ports).await;
        named && ruled.is_ok() && opened
    }

    async fn apply_rules(&mut self) -> Result<(), RulesError> {
        let former = self.applied.ruleset.clone();
        let ruleset = Arc::new(ruleset(&self.settings.frame, self.all(), former.as_deref()));
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
        self.applied.ruleset = Some(ruleset);
        Ok(())
    }

    async fn apply_names(&mut self, stop: &Stop) -> bool {
        let Some(config) = &self.settings.dns else { return true };
        let zone = self.zone();
        if self.applied.zone.as_ref() == Some(&zone) {
            return true;
        }
        match &self.applied.names {
            Some(server) => server.publish(zone.clone()),
            None => {
                let (clock, random) = (self.clock.clone(), self.random.clone());
                let started =
                    dns::Server::start(config, zone.clone(), &self.tasks, stop.clone(), clock, random);
                match started.await {
                    Ok(server) => {
                        info!(addresses = ?server.addresses(), "names are answered");
                        self.applied.names = Some(server);
                    }
                    Err(error) => {
                        warn!(error = &error as &dyn std::error::Error, "the name server does not start");
                        return false;
                    }
                }
            }
        }
        self.applied.zone = Some(zone);
        true
    }

    fn zone(&self) -> dns::Zone {
        let mut zone = dns::Zone::new(&self.settings.domain);
        let namespaces = self.world.list(&NAMESPACES, "");
        zone.namespaces = namespaces.iter().map(|namespace| namespace.name().to_owned()).collect();
        let named = self.compiled.iter().filter_map(|(key, compiled)| {
            Some(((key.namespace.to_string(), key.name.to_string()), compiled.name.clone()?))
        });
        zone.services = named.collect();
        zone
    }

    async fn apply_loopback(&mut self, ports: &mut LoopbackPorts) -> bool {
        let wanted = loopback(&self.compiled, &self.hosted);
        if wanted == self.applied.loopback && !self.applied.loopback_failed {
            return true;
        }
        let errors = ports.apply(&wanted).await;
        let failed: BTreeSet<LoopbackPort> = errors.iter().map(LoopbackError::port).collect();
        // A port that another program holds is told once; it is tried again at each review.
        for error in errors.iter().filter(|error| !self.applied.closed.contains(&error.port())) {
            warn!(%error, "a node port is not served on 127.0.0.1");
            self.tell_closed(error);
        }
        self.applied.closed = failed;
        self.applied.loopback = wanted;
        self.applied.loopback_failed = !errors.is_empty();
        true
    }

    /// Tells the Services whose node port is not served on 127.0.0.1.
    fn tell_closed(&self, error: &LoopbackError) {
        let concerned = self
            .compiled
            .iter()
            .filter(|(_, compiled)| compiled.loopback.iter().any(|(port, _)| *port == error.port()));
        for (key, _) in concerned {
            if let Some(object) = self.world.get(&SERVICES, &key.namespace, &key.name) {
                self.recorder.note(Note::warning(&object, "NodePortNotServed", error.to_string()));
            }
        }
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

/// All that is compiled as one rule set, in which endpoints keep the places that they have in `former`.
fn ruleset<'a>(
    frame: &Frame,
    compiled: impl Iterator<Item = &'a Compiled>,
    former: Option<&Ruleset>,
) -> Ruleset {
    let mut services: BTreeMap<ServiceKey, Arc<VirtualService>> = BTreeMap::new();
    for (key, service) in compiled.flat_map(|compiled| &compiled.rules) {
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

/// The ports on 127.0.0.1. Node ports are unique, which the API sees to; a host port that is taken stays closed.
fn loopback(
    services: &BTreeMap<Key, Compiled>,
    hosted: &BTreeMap<Key, Compiled>,
) -> BTreeMap<LoopbackPort, Vec<SocketAddr>> {
    let mut ports: BTreeMap<LoopbackPort, Vec<SocketAddr>> = BTreeMap::new();
    for (port, target) in services.values().flat_map(|compiled| &compiled.loopback) {
        ports.entry(*port).or_default().push(*target);
    }
    for (port, target) in hosted.values().flat_map(|compiled| &compiled.loopback) {
        ports.entry(*port).or_insert_with(|| vec![*target]);
    }
    ports
}

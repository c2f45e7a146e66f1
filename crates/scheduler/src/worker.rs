//! The scheduler at work: one pod after the other, bindings at the same time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use api::interface::Api;
use api::names::{NODES, PODS, Resource};
use api::object::Object;
use api::value::Str;
use base::{Clock, Random, Stop, Tasks};
use control::mirror::{Change, Key};
use control::recorder::Recorder;
use control::world::{World, part, view};
use futures::FutureExt as _;
use k8s_openapi::api::core::v1 as core;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::sync::{Notify, Semaphore};
use tracing::{debug, error};

use crate::cluster::Cluster;
use crate::place::{Placement, Unschedulable};
use crate::pod::Pod;
use crate::preempt::Preemption;
use crate::surroundings;
use crate::waiting::{Event, Next, Refused, Waiting};
use crate::writes::Writes;

/// Name by which pods ask for this scheduler.
pub const NAME: &str = "default-scheduler";
/// Bindings that are under way at the same time.
const BINDINGS_AT_ONCE: usize = 64;
/// Wait before a pod whose binding failed is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Wait before a pod is tried again on which placing panicked.
const PANICKED: Duration = Duration::from_secs(10);
/// Decisions that are remembered for explanations.
const REMEMBERED: usize = 4096;

/// Places pods. Reads the mirrors of pods and nodes in its world; and of namespaces, disruption budgets, Services and
/// owners of pods, where they are there.
pub struct Scheduler {
    writes: Writes,
    clock: Clock,
    random: Random,
    world: Arc<World>,
    bindings: Arc<Semaphore>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    cluster: Cluster,
    waiting: Waiting,
    /// Uids of pods that have been placed here and are not known to be bound.
    binding: BTreeSet<Str>,
    /// Uids of pods for which others are being sent away, and whether they had a turn meanwhile.
    clearing: BTreeMap<Str, bool>,
    decisions: BTreeMap<Str, Decision>,
    order: VecDeque<Str>,
}

/// What was decided for a pod, for explanations.
pub type Decision = Result<Placement, Box<Unschedulable>>;

impl Scheduler {
    /// A scheduler that reads `world`, which must mirror pods and nodes.
    pub fn new(
        world: &Arc<World>,
        api: Arc<dyn Api>,
        clock: &Clock,
        random: &Random,
        recorder: &Recorder,
    ) -> Arc<Self> {
        let recorder = recorder.for_source(NAME);
        let scheduler = Arc::new(Self {
            writes: Writes { api, clock: clock.clone(), recorder, name: NAME },
            clock: clock.clone(),
            random: random.clone(),
            world: world.clone(),
            bindings: Arc::new(Semaphore::new(BINDINGS_AT_ONCE)),
            state: Mutex::default(),
            changed: Notify::new(),
        });
        scheduler.listen(&PODS, Self::pod_changed);
        scheduler.listen(&NODES, Self::node_changed);
        for (resource, take) in surroundings::ALL {
            scheduler.listen(resource, move |scheduler, change| {
                let mut state = scheduler.state();
                if take(&mut state.cluster, change) {
                    scheduler.wake(&mut state, &Event::NamespaceChanged);
                }
            });
        }
        scheduler
    }

    fn listen(self: &Arc<Self>, resource: &Resource, hear: impl Fn(&Self, &Change) + Send + Sync + 'static) {
        let Some(mirror) = self.world.try_mirror(resource) else { return };
        let scheduler: Weak<Self> = Arc::downgrade(self);
        mirror.on_change(move |change| {
            if let Some(scheduler) = scheduler.upgrade() {
                hear(&scheduler, change);
            }
        });
    }

    /// Starts placing when the mirrors are synced.
    pub fn start(self: &Arc<Self>, tasks: &Tasks, stop: &Stop) {
        let (scheduler, stop, bindings) = (self.clone(), stop.clone(), tasks.clone());
        tasks.spawn("scheduler", async move {
            if stop.or(scheduler.world.synced()).await.is_none() {
                return;
            }
            while let Some((key, attempts)) = stop.or(scheduler.next()).await {
                let placing = AssertUnwindSafe(scheduler.schedule(&key, attempts + 1, &bindings));
                if let Err(panic) = placing.catch_unwind().await {
                    let message = base::panics::caught(panic);
                    error!(%key, message, "placing a pod panicked; this is a bug");
                    // The other pods are not to wait for that; this one is tried again, after them.
                    let now = scheduler.clock.monotonic();
                    scheduler.state().waiting.put_after(&key, i32::MIN, attempts + 1, now, PANICKED);
                }
            }
        });
    }

    /// What was last decided for a pod.
    pub fn decision(&self, uid: &str) -> Option<Decision> {
        self.state().decisions.get(uid).cloned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn next(&self) -> (Key, u32) {
        loop {
            let changed = self.changed.notified();
            let now = self.clock.monotonic();
            let next = self.state().waiting.next(now);
            match next {
                (Next::Pod(key), attempts) => return (key, attempts),
                (Next::At(at), _) => {
                    let _ = self.clock.timeout(at.saturating_sub(now), changed).await;
                }
                (Next::Nobody, _) => changed.await,
            }
        }
    }

    fn wake(&self, state: &mut State, event: &Event) {
        state.waiting.wake(event, self.clock.monotonic());
        self.changed.notify_one();
    }

    fn pod_changed(&self, change: &Change) {
        let Some(object) = change.either() else { return };
        let key = Key::of(object);
        // Most changes are told by an outline; a pod is read whole only where its place is decided by it.
        let new = change.new.as_deref().and_then(|new| Some((new, part::<Outline>(new)?)));
        let mut state = self.state();
        match new {
            Some((new, outline)) if outline.has_place() => {
                if let Some(pod) = read(new) {
                    self.pod_has_place(&mut state, &key, &pod);
                }
            }
            Some((new, outline)) if outline.wants_place(new) => {
                self.pod_wants_place(&mut state, &key, new, change.old.as_deref());
            }
            Some((new, outline)) if !outline.has_ended() => {
                // It waits for its gates or another scheduler, or is about to go without a place.
                state.waiting.retire(&key);
                if state.cluster.withdraw(new.uid())
                    && let Some(pod) = read(new)
                {
                    self.pod_left(&mut state, &pod);
                }
            }
            _ => {
                state.waiting.retire(&key);
                let withdrawn = state.cluster.withdraw(object.uid());
                state.binding.remove(object.uid());
                let left = state.cluster.remove_pod(object.uid()).map(|(_, pod)| pod);
                let nominated = || change.old.as_deref().filter(|_| withdrawn).and_then(read);
                if let Some(pod) = left.or_else(nominated) {
                    self.pod_left(&mut state, &pod);
                }
            }
        }
    }

    fn pod_wants_place(&self, state: &mut State, key: &Key, new: &Object, old: Option<&Object>) {
        let Some(pod) = read(new) else { return };
        if state.binding.contains(&pod.uid) {
            return;
        }
        let before = old.and_then(|old| Some((old, part::<Outline>(old)?)));
        let nominated = |outline: &Outline| outline.status.nominated_node_name.clone().unwrap_or_default();
        // What this scheduler itself has nominated is older news here.
        if before.as_ref().is_none_or(|(_, before)| nominated(before) != pod.nominated) {
            state.cluster.withdraw(&pod.uid);
            if !pod.nominated.is_empty() {
                state.cluster.nominate(&pod, &pod.nominated);
            }
        }
        let asked_before =
            before.is_some_and(|(old, before)| before.wants_place(old) && asks_the_same(old, new));
        if !asked_before {
            state.waiting.put(key, pod.priority);
            self.changed.notify_one();
        }
    }

    fn pod_has_place(&self, state: &mut State, key: &Key, pod: &Arc<Pod>) {
        state.waiting.retire(key);
        state.binding.remove(&pod.uid);
        let withdrawn = state.cluster.withdraw(&pod.uid);
        let before = state.cluster.remove_pod(&pod.uid);
        state.cluster.put_pod(pod, &pod.node);
        let namespace = state.cluster.namespace(&pod.namespace).to_vec();
        match before {
            None => self.wake(state, &Event::PodAdded(pod, &namespace)),
            Some((node, old)) => {
                let matters = node != pod.node
                    || old.labels != pod.labels
                    || old.requests != pod.requests
                    || old.terminating != pod.terminating;
                if matters {
                    self.wake(state, &Event::PodRemoved(&old, &namespace));
                    self.wake(state, &Event::PodAdded(pod, &namespace));
                }
            }
        }
        if withdrawn {
            self.pod_left(state, pod);
        }
    }

    fn pod_left(&self, state: &mut State, pod: &Pod) {
        let namespace = state.cluster.namespace(&pod.namespace).to_vec();
        self.wake(state, &Event::PodRemoved(pod, &namespace));
    }

    fn node_changed(&self, change: &Change) {
        let mut state = self.state();
        let Some(object) = &change.new else {
            if let Some(old) = &change.old {
                state.cluster.remove_node(old.name());
                self.wake(&mut state, &Event::NodeRemoved);
            }
            return;
        };
        let Some(node) = view::<core::Node>(object) else { return };
        let known = state.cluster.node(object.name()).is_some();
        state.cluster.put_node(object, &node);
        let before = change.old.as_ref().and_then(|old| view::<core::Node>(old)).filter(|_| known);
        let event = match before {
            None => Event::NodeAdded,
            // Heartbeats change the status every few seconds; only what a pod could see matters.
            Some(before) => Event::NodeChanged {
                labels: before.metadata.labels != node.metadata.labels,
                taints: before.spec != node.spec,
                allocatable: allocatable(&before) != allocatable(&node),
            },
        };
        if !matches!(event, Event::NodeChanged { labels: false, taints: false, allocatable: false }) {
            self.wake(&mut state, &event);
        }
    }

    async fn schedule(self: &Arc<Self>, key: &Key, attempts: u32, tasks: &Tasks) {
        let Some(object) = self.world.get(&PODS, &key.namespace, &key.name) else { return };
        let Some(pod) = read(&object).filter(|pod| pod.wants_place(NAME)) else { return };
        let Some(decision) = self.decide(key, &pod, attempts) else { return };
        match decision {
            Ok(placement) => {
                // The semaphore is never closed.
                let Ok(permit) = self.bindings.clone().acquire_owned().await else { return };
                let scheduler = self.clone();
                tasks.spawn("binding", async move {
                    scheduler.bind(&object, &pod, &placement, attempts).await;
                    drop(permit);
                });
            }
            Err(reasons) => {
                self.writes.report(&object, &reasons).await;
                if let Preemption::Helps { node, victims } = reasons.preemption {
                    let scheduler = self.clone();
                    let key = key.clone();
                    tasks.spawn("preemption", async move {
                        scheduler.clear(&key, &pod, &node, &victims).await;
                    });
                }
            }
        }
    }

    /// Decides on a pod and counts it at once, so that the next pod finds the room taken.
    fn decide(&self, key: &Key, pod: &Arc<Pod>, attempts: u32) -> Option<Decision> {
        let mut state = self.state();
        if state.binding.contains(&pod.uid) {
            return None;
        }
        if let Some(had_turn) = state.clearing.get_mut(&pod.uid) {
            *had_turn = true;
            return None;
        }
        let decision = state.cluster.place(pod, &self.random);
        match &decision {
            Ok(placement) => {
                state.cluster.withdraw(&pod.uid);
                state.cluster.put_pod(pod, &placement.node);
                state.binding.insert(pod.uid.clone());
                let namespace = state.cluster.namespace(&pod.namespace).to_vec();
                self.wake(&mut state, &Event::PodAdded(pod, &namespace));
            }
            Err(reasons) => {
                let refused = Refused { pod: pod.clone(), filters: reasons.filters };
                state.waiting.park(key, refused, attempts, self.clock.monotonic());
                match &reasons.preemption {
                    Preemption::Helps { node, .. } => {
                        state.cluster.nominate(pod, node);
                        state.clearing.insert(pod.uid.clone(), false);
                    }
                    Preemption::Never | Preemption::UnderWay => {}
                    Preemption::Unasked | Preemption::Useless(..) => {
                        state.cluster.withdraw(&pod.uid);
                    }
                }
            }
        }
        state.remember(&pod.uid, decision.clone());
        Some(decision)
    }

    async fn bind(&self, object: &Arc<Object>, pod: &Arc<Pod>, placement: &Placement, attempts: u32) {
        let Err(status) = self.writes.bind(object, &placement.node).await else { return };
        let key = Key::of(object);
        debug!(pod = %key, error = %status, "a binding failed; the pod is looked at again");
        let mut state = self.state();
        // If it is not in the set any more, its true place is known already.
        if !state.binding.remove(&pod.uid) {
            return;
        }
        state.cluster.remove_pod(&pod.uid);
        self.pod_left(&mut state, pod);
        let now = self.clock.monotonic();
        state.waiting.put_after(&key, pod.priority, attempts, now, RETRY);
        self.changed.notify_one();
    }

    /// Sends pods away from a node for one that fits nowhere else.
    async fn clear(&self, key: &Key, pod: &Arc<Pod>, node: &str, victims: &[Arc<Pod>]) {
        for weaker in self.outranked(pod, node) {
            self.writes.withdraw(&weaker).await;
        }
        for victim in victims.iter().filter(|victim| !victim.terminating) {
            let object = self.world.get(&PODS, &victim.namespace, &victim.name);
            if let Some(object) = object.filter(|object| object.uid() == victim.uid) {
                self.writes.evict(&object, pod, node).await;
            }
        }
        let mut state = self.state();
        if state.clearing.remove(&pod.uid) == Some(true) {
            state.waiting.put(key, pod.priority);
            self.changed.notify_one();
        }
    }

    /// Takes the node from pods of lower priority for which it was being cleared: they look for another one.
    fn outranked(&self, pod: &Pod, node: &str) -> Vec<Arc<Pod>> {
        let mut state = self.state();
        let guests = state.cluster.nominated.get(node).into_iter().flatten();
        let weaker: Vec<Arc<Pod>> = guests.filter(|guest| guest.priority < pod.priority).cloned().collect();
        for guest in &weaker {
            state.cluster.withdraw(&guest.uid);
            state.waiting.put(&Key::new(&guest.namespace, &guest.name), guest.priority);
        }
        if !weaker.is_empty() {
            self.changed.notify_one();
        }
        weaker
    }
}

impl State {
    fn remember(&mut self, uid: &Str, decision: Decision) {
        if self.decisions.insert(uid.clone(), decision).is_none() {
            self.order.push_back(uid.clone());
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.decisions.remove(&oldest);
        }
    }
}

fn read(object: &Object) -> Option<Arc<Pod>> {
    Pod::read(object, &*view::<core::Pod>(object)?)
}

/// Whether a change of a pod leaves all that decides its place; the scheduler's own words in its status do.
fn asks_the_same(old: &Object, new: &Object) -> bool {
    old.uid() == new.uid() && old.labels() == new.labels() && old.member("spec") == new.member("spec")
}

/// What says whether a pod looks for a place: little, for every change of every pod is looked at.
#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    spec: OutlineSpec,
    #[serde(default)]
    status: OutlineStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OutlineSpec {
    #[serde(default)]
    node_name: Option<Str>,
    #[serde(default)]
    scheduler_name: Option<Str>,
    #[serde(default)]
    scheduling_gates: Option<Vec<IgnoredAny>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OutlineStatus {
    #[serde(default)]
    phase: Option<Str>,
    #[serde(default)]
    nominated_node_name: Option<Str>,
}

impl Outline {
    fn has_ended(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    fn has_place(&self) -> bool {
        !self.has_ended() && self.spec.node_name.as_ref().is_some_and(|node| !node.is_empty())
    }

    /// The same as [`Pod::wants_place`].
    fn wants_place(&self, pod: &Object) -> bool {
        !self.has_ended()
            && !self.has_place()
            && !pod.is_deleting()
            && self.spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
            && self.spec.scheduler_name.as_deref().unwrap_or(NAME) == NAME
    }
}

fn allocatable(
    node: &core::Node,
) -> Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>> {
    node.status.as_ref().and_then(|status| status.allocatable.as_ref())
}

#[cfg(test)]
mod tests;

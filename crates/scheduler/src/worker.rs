//! The scheduler at work: one pod after the other, bindings at the same time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use api::interface::{Api, Call, PatchKind, Target, WriteOptions};
use api::json;
use api::names::{NODES, PODS};
use api::object::Object;
use api::value::{Str, Value};
use base::{Clock, Random, Stop, Tasks};
use control::mirror::{Change, Key};
use control::queue::Queue;
use control::recorder::{Note, Recorder};
use control::world::{World, view};
use k8s_openapi::api::core::v1 as core;
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use crate::cluster::Cluster;
use crate::place::{Placement, Unschedulable};
use crate::pod::Pod;

/// Name by which pods ask for this scheduler.
pub const NAME: &str = "default-scheduler";
/// Bindings that are under way at the same time.
const BINDINGS_AT_ONCE: usize = 64;
/// Wait before a pod whose binding failed is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Decisions that are remembered for explanations.
const REMEMBERED: usize = 4096;

/// Places pods. Reads the mirrors of pods and nodes in its world.
pub struct Scheduler {
    api: Arc<dyn Api>,
    clock: Clock,
    random: Random,
    recorder: Recorder,
    world: Arc<World>,
    queue: Queue,
    bindings: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cluster: Cluster,
    /// Pods that found no place; any change that could help brings them back.
    waiting: BTreeMap<Key, Str>,
    decisions: BTreeMap<Str, Decision>,
    order: VecDeque<Str>,
}

/// What was decided for a pod, for explanations.
pub type Decision = Result<Placement, Unschedulable>;

impl Scheduler {
    /// A scheduler that reads `world`, which must mirror pods and nodes.
    pub fn new(
        world: &Arc<World>,
        api: Arc<dyn Api>,
        clock: &Clock,
        random: &Random,
        recorder: &Recorder,
    ) -> Arc<Self> {
        let scheduler = Arc::new(Self {
            api,
            clock: clock.clone(),
            random: random.clone(),
            recorder: recorder.for_source(NAME),
            world: world.clone(),
            queue: Queue::new(clock.clone()),
            bindings: Arc::new(Semaphore::new(BINDINGS_AT_ONCE)),
            state: Mutex::default(),
        });
        let listen = |scheduler: Weak<Self>, hear: fn(&Self, &Change)| {
            move |change: &Change| {
                if let Some(scheduler) = scheduler.upgrade() {
                    hear(&scheduler, change);
                }
            }
        };
        world.mirror(&PODS).on_change(listen(Arc::downgrade(&scheduler), Self::pod_changed));
        world.mirror(&NODES).on_change(listen(Arc::downgrade(&scheduler), Self::node_changed));
        scheduler
    }

    /// Starts placing when the mirrors are synced.
    pub fn start(self: &Arc<Self>, tasks: &Tasks, stop: &Stop) {
        let (scheduler, stop, bindings) = (self.clone(), stop.clone(), tasks.clone());
        tasks.spawn("scheduler", async move {
            if stop.or(scheduler.world.synced()).await.is_none() {
                return;
            }
            while let Some(Some(key)) = stop.or(scheduler.queue.next()).await {
                scheduler.schedule(&key, &bindings).await;
                scheduler.queue.done(&key);
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

    fn pod_changed(&self, change: &Change) {
        let Some(object) = change.either() else { return };
        let pod = change.new.as_deref().and_then(read);
        match pod {
            Some(pod) if !pod.node.is_empty() => {
                let mut state = self.state();
                state.waiting.remove(&Key::of(object));
                state.cluster.put_pod(&pod, &pod.node);
            }
            Some(pod) if pod.wants_place(NAME) && !object.is_deleting() => self.queue.add(Key::of(object)),
            Some(_) => {}
            None => {
                // It is gone or has ended, and its room is free.
                let mut state = self.state();
                state.waiting.remove(&Key::of(object));
                state.cluster.remove_pod(object.uid());
                self.wake(&mut state);
            }
        }
    }

    fn node_changed(&self, change: &Change) {
        let mut state = self.state();
        match &change.new {
            Some(object) => {
                let Some(node) = view::<core::Node>(object) else { return };
                state.cluster.put_node(object, &node);
                // Heartbeats change the status every few seconds; only what a pod could see matters.
                let before = change.old.as_ref().and_then(|old| view::<core::Node>(old));
                if before.is_some_and(|before| attracts_the_same(&before, &node)) {
                    return;
                }
            }
            None => {
                if let Some(old) = &change.old {
                    state.cluster.remove_node(old.name());
                }
                return;
            }
        }
        self.wake(&mut state);
    }

    fn wake(&self, state: &mut State) {
        for key in std::mem::take(&mut state.waiting).into_keys() {
            self.queue.add(key);
        }
    }

    async fn schedule(self: &Arc<Self>, key: &Key, tasks: &Tasks) {
        let Some(object) = self.world.get(&PODS, &key.namespace, &key.name) else { return };
        let Some(pod) = read(&object).filter(|pod| pod.wants_place(NAME) && !object.is_deleting()) else {
            return;
        };
        let decision = {
            let mut state = self.state();
            let decision = state.cluster.place(&pod, &self.random);
            match &decision {
                // Counted at once, so that the next pod finds the room taken.
                Ok(placement) => state.cluster.put_pod(&pod, &placement.node),
                Err(_) => {
                    state.waiting.insert(key.clone(), pod.uid.clone());
                }
            }
            state.remember(&pod.uid, decision.clone());
            decision
        };
        match decision {
            Ok(placement) => {
                // The semaphore is never closed.
                let Ok(permit) = self.bindings.clone().acquire_owned().await else { return };
                let scheduler = self.clone();
                tasks.spawn("binding", async move {
                    scheduler.bind(&object, &pod, &placement).await;
                    drop(permit);
                });
            }
            Err(reasons) => self.report(&object, &reasons).await,
        }
    }

    async fn bind(&self, object: &Arc<Object>, pod: &Arc<Pod>, placement: &Placement) {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": (object.name()), "namespace": (object.namespace()), "uid": (object.uid())},
            "target": {"apiVersion": "v1", "kind": "Node", "name": (placement.node.clone())}
        });
        let target = Target::new(&PODS, object.namespace(), object.name()).subresource("binding");
        let call = Call::Create(target, binding.to_bytes().into(), WriteOptions::default());
        match self.api.call(call).await {
            Ok(_) => {
                info!(pod = %Key::of(object), node = %placement.node, "placed");
                let message = format!(
                    "Successfully assigned {}/{} to {}",
                    object.namespace(),
                    object.name(),
                    placement.node
                );
                self.recorder.note(Note::normal(object, "Scheduled", message));
            }
            Err(status) => {
                debug!(pod = %Key::of(object), error = %status, "a binding failed; the pod is looked at again");
                let current = self.world.get(&PODS, object.namespace(), object.name());
                let bound = current.as_deref().and_then(read).is_some_and(|now| !now.node.is_empty());
                if !bound {
                    self.state().cluster.remove_pod(&pod.uid);
                    self.queue.add_after(Key::of(object), RETRY);
                }
            }
        }
    }

    async fn report(&self, object: &Arc<Object>, reasons: &Unschedulable) {
        let message = reasons.to_string();
        self.recorder.note(Note::warning(object, "FailedScheduling", message.as_str()));
        let tree = object.to_tree();
        let conditions = tree.array_at(&["status", "conditions"]);
        let current = conditions.iter().find(|condition| condition.str_at(&["type"]) == Some("PodScheduled"));
        let said = |field: &str| current.and_then(|condition| condition.str_at(&[field]));
        if said("status") == Some("False") && said("message") == Some(message.as_str()) {
            return;
        }
        let since = match current.filter(|_| said("status") == Some("False")) {
            Some(condition) => condition.get("lastTransitionTime").cloned().unwrap_or_default(),
            None => Value::from(api::time::seconds(self.clock.now())),
        };
        let patch = json!({
            "metadata": {"uid": (object.uid())},
            "status": {"conditions": [{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                "message": message, "lastProbeTime": null, "lastTransitionTime": since
            }]}
        });
        let target = Target::new(&PODS, object.namespace(), object.name()).subresource("status");
        if let Err(error) = self.api.patch(target, PatchKind::StrategicMerge, &patch).await {
            warn!(pod = %Key::of(object), %error, "the reason why a pod waits could not be written");
        }
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

fn attracts_the_same(a: &core::Node, b: &core::Node) -> bool {
    let allocatable = |node: &core::Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    a.metadata.labels == b.metadata.labels && a.spec == b.spec && allocatable(a) == allocatable(b)
}

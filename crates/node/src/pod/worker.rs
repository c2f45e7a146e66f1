//! The loop of one pod: look, decide, do, tell.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::interface::{DeleteOptions, PatchKind, Target};
use api::json;
use api::names::PODS;
use api::object::Object;
use api::status::Reason;
use api::value::{Str, Value};
use control::recorder::{About, Note};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as core;
use sandbox::Sandbox;
use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

use crate::context::Context;
use crate::pod::disk::{EVICTED, EVICTION_GRACE, Limits};
use crate::pod::earlier;
use crate::pod::live::Live;
use crate::pod::machine::{self, Container, Part, Restart, Role, Step, Wanted};
use crate::pod::start::find;
use crate::pod::status::{PodFacts, read_ended};
use crate::supported::Unsupported;

/// Time for the containers of a pod whose object has vanished.
const VANISHED_GRACE: Duration = Duration::from_secs(2);
/// Wait before a failed step on volumes or the sandbox is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(2);
/// Reason and message, in the status and in the event, of a pod that is here for too long (kubelet's own words).
const DEADLINE_EXCEEDED: (&str, &str) =
    ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline");
/// Why a container is stopped whose image is another one now (kubelet's own words).
pub(super) const DEFINITION_CHANGED: &str = "definition changed";
/// Wait before a status that could not be written is written again.
const STATUS_RETRY: Duration = Duration::from_millis(500);

/// One pod, as the agent last heard of it.
#[derive(Clone)]
pub struct Desired {
    /// As stored.
    pub object: Arc<Object>,
    /// As read.
    pub pod: Arc<core::Pod>,
    /// The object is there no more.
    pub vanished: bool,
}

/// The worker of one pod. The agent owns it; its loop ends when the pod has gone.
pub struct Worker {
    pub(super) context: Arc<Context>,
    pub(super) uid: Str,
    desired: watch::Sender<Desired>,
    live: Mutex<Live>,
    wake: Notify,
}

impl Worker {
    /// A worker that knows the pod and, if an earlier agent made one, its sandbox.
    pub fn new(context: Arc<Context>, desired: Desired, sandbox: Option<Sandbox>) -> Arc<Self> {
        let uid = Str::from(desired.object.uid());
        let mut live = remembered(&desired.pod, sandbox.is_some());
        earlier::count(&mut live, &context.settings.logs_dir, &desired.object);
        let worker = Arc::new(Self {
            live: Mutex::new(live),
            context,
            uid,
            desired: watch::Sender::new(desired),
            wake: Notify::new(),
        });
        if let Some(sandbox) = sandbox {
            worker.resume(sandbox);
        }
        worker
    }

    /// Takes over what an earlier agent has left: containers run on, and are as ready as they were last said to be
    /// until their probes say otherwise.
    fn resume(self: &Arc<Self>, sandbox: Sandbox) {
        let desired = self.desired();
        let statuses = desired.pod.status.as_ref();
        let statuses =
            statuses.into_iter().flat_map(|s| s.container_statuses.iter().chain(&s.init_container_statuses));
        let was: BTreeMap<String, (bool, bool)> = statuses
            .flatten()
            .map(|status| (status.name.clone(), (status.started.unwrap_or_default(), status.ready)))
            .collect();
        let now = self.context.clock.now();
        let state = sandbox.state();
        let running: Vec<sandbox::Attempt> = {
            let mut live = self.live();
            live.ips = crate::agent::read_addresses(&self.directory());
            live.observe(&self.uid, &state, now);
            for (name, container) in &mut live.containers {
                container.runs = self.image_of(name, container.restarts());
                (container.started, container.ready) = was.get(name).copied().unwrap_or_default();
            }
            state.containers.values().filter(|c| c.is_running()).map(|c| c.attempt.clone()).collect()
        };
        self.adopt(sandbox);
        for attempt in running {
            self.watch_over(&desired, attempt, false);
        }
    }

    /// Ends the pod's containers and its sandbox, but not its object: the next agent starts it again. Call it when
    /// [`Worker::run`] has ended; steps that it has begun are waited for, so that nothing starts behind our back and
    /// no container that is being stopped loses its time.
    pub async fn shut_down(self: &Arc<Self>, timeout: Duration) {
        let clock = &self.context.clock;
        let began = clock.monotonic();
        let left = || timeout.saturating_sub(clock.monotonic().saturating_sub(began));
        let desired = self.desired();
        if clock.timeout(timeout, self.settled()).await.is_none() {
            warn!(pod = %self.uid, "what was under way at the end of the agent did not end in time");
        }
        let mut pod = wanted(&desired);
        pod.ending = Some(termination_grace(&desired).min(left()));
        loop {
            let next = {
                let mut live = self.live();
                self.observe(&mut live, &desired, clock.now());
                machine::next(&pod, &live.seen(), clock.now())
            };
            let stops: Vec<String> = next
                .steps
                .into_iter()
                .filter_map(|step| if let Step::Stop { name, .. } = step { Some(name) } else { None })
                .collect();
            if stops.is_empty() {
                break;
            }
            let grace = termination_grace(&desired).min(left());
            let ends = stops.iter().map(|name| self.stop_container(&desired, name, grace, true));
            futures::future::join_all(ends).await;
        }
        if let Some(sandbox) = self.sandbox()
            && let Err(error) = sandbox.remove().await
        {
            warn!(pod = %self.uid, %error, "a sandbox could not be removed");
        }
    }

    /// Returns when no step on the sandbox or a container is under way.
    async fn settled(&self) {
        loop {
            let changed = self.wake.notified();
            {
                let live = self.live();
                if live.sandbox != Part::Busy && !live.containers.values().any(|container| container.busy) {
                    return;
                }
            }
            changed.await;
        }
    }

    /// The pod has changed, or vanished.
    pub fn update(&self, desired: Desired) {
        self.desired.send_replace(desired);
        self.wake.notify_one();
    }

    /// Something that the pod depends on has changed: look again, at its volumes too.
    pub fn refresh(self: &Arc<Self>) {
        let worker = self.clone();
        self.context.tasks.spawn("volume refresh", async move { worker.refresh_volumes().await });
    }

    /// What the agent last heard.
    pub fn desired(&self) -> Desired {
        self.desired.borrow().clone()
    }

    /// The sandbox, while there is one.
    pub fn sandbox(&self) -> Option<Sandbox> {
        self.live().handle.clone()
    }

    /// Number of a container's latest attempt, and whether it runs.
    pub fn latest_attempt(&self, container: &str) -> Option<(u32, bool)> {
        let live = self.live();
        let (number, phase) = live.containers.get(container)?.latest.as_ref()?;
        Some((*number, matches!(phase, sandbox::Phase::Running { .. })))
    }

    /// Manifests of images that the pod uses, which must not be collected.
    pub fn pins(&self) -> Vec<image::Digest> {
        self.live().containers.values().filter_map(|live| Some(live.rootfs.as_ref()?.manifest)).collect()
    }

    /// The pod as the agent hears of it from now on.
    pub(super) fn changes(&self) -> watch::Receiver<Desired> {
        self.desired.subscribe()
    }

    pub(super) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known, and looks again.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut Live) -> R) -> R {
        let result = change(&mut self.live());
        self.wake.notify_one();
        result
    }

    pub(super) fn note(
        &self,
        container: Option<&str>,
        warning: bool,
        reason: &str,
        message: impl Into<String>,
    ) {
        let desired = self.desired();
        let mut about = About::object(&desired.object);
        if let Some(container) = container {
            let inits = desired.pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
            let is_init = inits.into_iter().flatten().any(|init| init.name == container);
            let list = if is_init { "spec.initContainers" } else { "spec.containers" };
            about = about.field(&format!("{list}{{{container}}}"));
        }
        let note = Note { about, warning, reason: reason.into(), message: message.into() };
        self.context.recorder.note(note);
    }

    /// Runs until the pod has gone (true) or the agent stops (false).
    pub async fn run(self: &Arc<Self>) -> bool {
        let mut told = Value::Null;
        self.refuse_unsupported();
        if let Some(limits) = Limits::of(&self.desired().pod) {
            self.context.tasks.spawn("disk of a pod", self.clone().watch_disk(limits));
        }
        loop {
            let notified = self.wake.notified();
            let now = self.context.clock.now();
            let desired = self.desired();
            let mut wanted = wanted(&desired);
            let deadline = self.enforce_deadline(&desired, &mut wanted, now);
            self.enforce_eviction(&mut wanted);
            let next = self.decide(&desired, &wanted, now);
            for step in next.steps {
                self.begin(step, &desired);
            }
            let gone = self.is_gone(&desired);
            let mut pause = next.wake.into_iter().chain(deadline).min();
            if !desired.vanished && !self.tell(&desired, &wanted, &mut told, now).await {
                pause = Some(pause.map_or(STATUS_RETRY, |pause| pause.min(STATUS_RETRY)));
            }
            if gone {
                if desired.vanished || self.delete_object(&desired).await {
                    return true;
                }
                pause = Some(STATUS_RETRY);
            }
            let woken = async {
                match pause {
                    Some(pause) => {
                        let _ = self.context.clock.timeout(pause, notified).await;
                    }
                    None => notified.await,
                }
            };
            if self.context.stop.or(woken).await.is_none() {
                return false;
            }
        }
    }

    /// A pod that asks for what this node does not know is not run in part: it waits, and says for what. What only
    /// goes without effect is said, and the pod runs.
    fn refuse_unsupported(&self) {
        let desired = self.desired();
        let (refused, reported): (Vec<_>, Vec<_>) =
            crate::supported::check(&desired.object.to_tree()).into_iter().partition(|field| field.refused);
        let list = |fields: &[Unsupported]| {
            let words = fields.iter().map(|field| format!("{}: {}", field.path, field.why));
            words.collect::<Vec<_>>().join("; ")
        };
        if !reported.is_empty() {
            let message = format!("without effect on this node: {}", list(&reported));
            self.note(None, true, "FieldWithoutEffect", message);
        }
        if refused.is_empty() {
            return;
        }
        let message = format!("this node does not support {}", list(&refused));
        self.note(None, true, "UnsupportedField", message.as_str());
        let names = wanted(&desired).containers.into_iter().map(|container| container.name);
        let mut live = self.live();
        live.unsupported = true;
        for name in names {
            let container = live.containers.entry(name).or_default();
            container.waiting = Some(("UnsupportedField".to_owned(), message.clone()));
        }
    }

    /// Ends a pod that has been here longer than its `activeDeadlineSeconds`, and has it fail for that; returns how
    /// long it still has otherwise. A pod that has come to its end before is left as it is.
    fn enforce_deadline(&self, desired: &Desired, wanted: &mut Wanted, now: Timestamp) -> Option<Duration> {
        let seconds = desired.pod.spec.as_ref()?.active_deadline_seconds?;
        let newly = {
            let mut live = self.live();
            if wanted.ending.is_some()
                || live.dismantled
                || machine::next(wanted, &live.seen(), now).complete && live.failed.is_none()
            {
                return None;
            }
            let due = *live.started_at.get_or_insert(now) + SignedDuration::from_secs(seconds);
            if due > now {
                return Duration::try_from(due.duration_since(now)).ok();
            }
            let newly = live.failed.is_none();
            live.failed = Some((DEADLINE_EXCEEDED.0.to_owned(), DEADLINE_EXCEEDED.1.to_owned()));
            newly
        };
        wanted.ending = Some(termination_grace(desired));
        if newly {
            self.note(None, false, DEADLINE_EXCEEDED.0, DEADLINE_EXCEEDED.1);
        }
        None
    }

    /// Ends a pod that has failed for what it has on the disk.
    fn enforce_eviction(&self, wanted: &mut Wanted) {
        let live = self.live();
        let evicted = live.failed.as_ref().is_some_and(|(reason, _)| reason == EVICTED);
        if evicted && !live.dismantled {
            wanted.ending = Some(wanted.ending.map_or(EVICTION_GRACE, |grace| grace.min(EVICTION_GRACE)));
        }
    }

    /// Plans, and marks what is begun as under way, in one breath.
    fn decide(&self, desired: &Desired, wanted: &Wanted, now: Timestamp) -> machine::Next {
        let mut live = self.live();
        live.started_at.get_or_insert(now);
        if live.dismantled || ((live.unsupported || live.failed.is_some()) && wanted.ending.is_none()) {
            return machine::Next::default();
        }
        self.observe(&mut live, desired, now);
        heed_images(&mut live, desired, wanted);
        let next = machine::next(wanted, &live.seen(), now);
        for step in &next.steps {
            match step {
                Step::PrepareVolumes => live.volumes = Part::Busy,
                Step::CreateSandbox => live.sandbox = Part::Busy,
                Step::EnsureImage(name) => {
                    live.containers.entry(name.clone()).or_default().image = Part::Busy
                }
                Step::Start { name, .. } | Step::Stop { name, .. } => {
                    live.containers.entry(name.clone()).or_default().busy = true;
                }
                Step::Dismantle => (live.volumes, live.sandbox) = (Part::Busy, Part::Busy),
            }
        }
        next
    }

    /// Takes in what the sandbox says now, with the last words of what has ended.
    pub(super) fn observe(&self, live: &mut Live, desired: &Desired, now: Timestamp) {
        let Some(state) = live.handle.as_ref().map(Sandbox::state) else { return };
        for (name, number) in live.observe(&self.uid, &state, now) {
            self.read_message(live, desired, &name, number);
            self.note_back_off(live, desired, &name, now);
        }
    }

    /// A container that has ended and has to wait before it runs again is told of.
    fn note_back_off(&self, live: &Live, desired: &Desired, name: &str, now: Timestamp) {
        let (wanted, seen) = (wanted(desired), live.seen());
        let container = wanted.containers.iter().find(|container| container.name == name);
        let state = seen.containers.get(name).and_then(|state| Some((state.latest?, state.streak)));
        let (Some(container), Some((latest, streak)), None) = (container, state, wanted.ending) else {
            return;
        };
        let waits = machine::due(latest, streak).is_some_and(|due| due > now);
        if waits && machine::will_run_again(container, Some(latest)) {
            let (pod, namespace) = (desired.object.name(), desired.object.namespace());
            let message =
                format!("Back-off restarting failed container {name} in pod {pod}_{namespace}({})", self.uid);
            self.note(Some(name), true, "BackOff", message);
        }
    }

    fn begin(self: &Arc<Self>, step: Step, desired: &Desired) {
        let (worker, desired) = (self.clone(), desired.clone());
        self.context.tasks.spawn("pod step", async move {
            debug!(pod = %worker.uid, ?step, "step");
            match step {
                Step::PrepareVolumes => worker.prepare_volumes(&desired).await,
                Step::CreateSandbox => worker.create_sandbox(&desired).await,
                Step::EnsureImage(name) => worker.ensure_image(&desired, &name).await,
                Step::Start { name, restarts } => worker.start_container(&desired, &name, restarts).await,
                Step::Stop { name, grace, pod_ends } => {
                    worker.stop_container(&desired, &name, grace, pod_ends).await;
                }
                Step::Dismantle => worker.dismantle(&desired).await,
            }
        });
    }

    /// Whether the pod is to go and nothing is left of it.
    fn is_gone(&self, desired: &Desired) -> bool {
        let live = self.live();
        let to_go = desired.vanished || desired.object.is_deleting();
        let nothing_left = live.volumes == Part::Missing && live.sandbox == Part::Missing;
        to_go && nothing_left && !live.containers.values().any(|container| container.busy)
    }

    /// Writes the status if it differs from what was told last; false if it has to be tried again.
    async fn tell(&self, desired: &Desired, wanted: &Wanted, told: &mut Value, now: Timestamp) -> bool {
        let status = {
            let live = self.live();
            let Some(started_at) = live.started_at.filter(|_| !live.over_before) else { return true };
            let on_host = desired.pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
            let ips = if on_host && live.sandbox == Part::Ready {
                &self.context.settings.host_ips
            } else {
                &live.ips
            };
            let facts = PodFacts {
                object: &desired.object,
                pod: &desired.pod,
                wanted,
                containers: &live.facts(&self.uid, &desired.pod, wanted, now),
                host_ips: &self.context.settings.host_ips,
                pod_ips: ips,
                sandboxed: live.sandbox == Part::Ready,
                failed: live.failed.clone(),
                started_at,
                now,
            };
            facts.status()
        };
        if status == *told {
            return true;
        }
        let mut patch = json!({"metadata": {"uid": (self.uid.clone())}});
        patch.set(&["status"], status.clone());
        let target =
            Target::new(&PODS, desired.object.namespace(), desired.object.name()).subresource("status");
        match self.context.api.patch(target, PatchKind::StrategicMerge, &patch).await {
            Ok(_) => {}
            // It has gone or was made anew under its name; the mirror will say so.
            Err(error) if matches!(error.reason, Reason::NotFound | Reason::Conflict) => {
                debug!(pod = %self.uid, %error, "the status is of no use any more");
            }
            Err(error) => {
                warn!(pod = %self.uid, %error, "the status could not be written");
                return false;
            }
        }
        *told = status;
        true
    }

    /// Takes the object away, now that nothing runs; true once it is gone.
    async fn delete_object(&self, desired: &Desired) -> bool {
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            uid: Some(self.uid.clone()),
            ..DeleteOptions::default()
        };
        let (namespace, name) = (desired.object.namespace(), desired.object.name());
        match self.context.api.delete(&PODS, namespace, name, options).await {
            Ok(_) => {
                info!(pod = name, namespace, "the pod has gone");
                true
            }
            Err(error) if matches!(error.reason, Reason::NotFound | Reason::Conflict) => true,
            Err(error) => {
                warn!(pod = name, namespace, %error, "the pod's object could not be deleted");
                false
            }
        }
    }

    /// Takes over a sandbox, and looks again whenever it changes.
    pub(super) fn adopt(self: &Arc<Self>, sandbox: Sandbox) {
        let worker = self.clone();
        let mut changes = sandbox.watch();
        self.change(|live| {
            (live.sandbox, live.handle) = (Part::Ready, Some(sandbox.clone()));
            // The sandbox was made after the volumes; files are brought up to date when they are next needed.
            live.volumes = if live.volume_paths.is_empty() { Part::Missing } else { Part::Ready };
        });
        self.context.tasks.spawn("sandbox watch", async move {
            loop {
                if sandbox.state().lost {
                    worker.lost(&sandbox).await;
                    return;
                }
                worker.wake.notify_one();
                match worker.context.stop.or(changes.changed()).await {
                    Some(Ok(())) => {}
                    _ => return,
                }
            }
        });
    }

    /// The pod process is gone: its containers have ended with it, and the sandbox is made anew.
    async fn lost(self: &Arc<Self>, sandbox: &Sandbox) {
        let now = self.context.clock.now();
        let ours = {
            let mut live = self.live();
            let ours = live.handle.as_ref().is_some_and(|handle| handle.pid() == sandbox.pid());
            if ours {
                live.observe(&self.uid, &sandbox.state(), now);
                live.sandbox = Part::Busy;
            }
            ours
        };
        if !ours {
            return;
        }
        self.note(None, true, "SandboxLost", "The pod's process is gone; its containers are started anew");
        if let Err(error) = sandbox.remove().await {
            warn!(pod = %self.uid, %error, "the remains of a lost sandbox could not be removed");
        }
        self.context.network.release(&self.uid);
        self.change(|live| {
            (live.handle, live.sandbox) = (None, Part::Missing);
            live.ips.clear();
            // Init containers prepare a sandbox, so a new one needs them again.
            let wanted = wanted(&self.desired());
            for init in wanted.containers.iter().filter(|container| container.role == Role::Init) {
                if let Some(live) = live.containers.get_mut(&init.name)
                    && let Some((number, _)) = live.latest.take()
                {
                    live.earlier_starts = number + 1;
                }
            }
        });
    }
}

/// A container whose image is another one now is stopped, to run again with it; one that waits for an image that is
/// not asked for any more waits no longer. (Of a container nothing else can be changed while its pod is there.)
fn heed_images(live: &mut Live, desired: &Desired, wanted: &Wanted) {
    for container in &wanted.containers {
        let described = find(desired, &container.name).and_then(|container| container.image.as_deref());
        let (Some(image), Some(state)) = (described, live.containers.get_mut(&container.name)) else {
            continue;
        };
        let is_other = state.image_name.as_deref().is_some_and(|name| name != image);
        if is_other && matches!(state.image, Part::Ready | Part::Failed(_)) {
            (state.image, state.pull_failures, state.waiting) = (Part::Missing, 0, None);
        }
        let runs = match (&state.latest, &state.runs) {
            (Some((number, sandbox::Phase::Running { .. })), Some((of, name))) if number == of => name,
            _ => continue,
        };
        // What an init container prepares is prepared once, as upstream.
        if runs != image && container.role != Role::Init && state.condemned.is_none() && !state.busy {
            state.condemned = Some(termination_grace(desired));
            (state.condemned_by, state.renew) = (Some(DEFINITION_CHANGED), true);
        }
    }
}

/// What the pod is to be.
pub fn wanted(desired: &Desired) -> Wanted {
    let Some(spec) = &desired.pod.spec else { return Wanted::default() };
    let policy = match spec.restart_policy.as_deref() {
        Some("Never") => Restart::Never,
        Some("OnFailure") => Restart::OnFailure,
        _ => Restart::Always,
    };
    let inits = spec.init_containers.iter().flatten().map(|init| {
        let sidecar = init.restart_policy.as_deref() == Some("Always");
        let (role, restart) = match (sidecar, policy) {
            (true, _) => (Role::Sidecar, Restart::Always),
            // An init container runs to success; only `Never` makes its failure the pod's.
            (false, Restart::Never) => (Role::Init, Restart::Never),
            (false, _) => (Role::Init, Restart::OnFailure),
        };
        Container { name: init.name.clone(), role, restart }
    });
    let mains = spec.containers.iter().map(|main| Container {
        name: main.name.clone(),
        role: Role::Main,
        restart: policy,
    });
    let ending = if desired.vanished {
        Some(VANISHED_GRACE)
    } else if desired.object.is_deleting() {
        let grace = desired.pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
        Some(Duration::from_secs(grace.max(1).unsigned_abs()))
    } else {
        None
    };
    Wanted { containers: inits.chain(mains).collect(), ending }
}

/// The time that the containers of a pod have when it ends for a reason of the node's.
fn termination_grace(desired: &Desired) -> Duration {
    let grace = desired.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    Duration::from_secs(grace.unwrap_or(30).max(1).unsigned_abs())
}

/// What the stored status says of earlier sandboxes: restart counts, how containers last ended, and whether the pod
/// has come to its end already.
fn remembered(pod: &core::Pod, adopted: bool) -> Live {
    let mut live = Live::default();
    let Some(status) = &pod.status else { return live };
    live.started_at = status.start_time.as_ref().map(|time| time.0);
    live.failed = status.reason.clone().filter(|_| status.phase.as_deref() == Some("Failed")).map(|reason| {
        let message = status.message.clone().unwrap_or_default();
        (reason, message)
    });
    live.over_before = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) && !adopted;
    live.dismantled = live.over_before;
    let statuses = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let mut containers = BTreeMap::new();
    for status in statuses {
        let mut container = crate::pod::live::LiveContainer::default();
        let state = status.state.as_ref();
        let ran = state.is_some_and(|state| state.running.is_some() || state.terminated.is_some());
        let counted = u32::try_from(status.restart_count).unwrap_or_default();
        container.earlier_starts = counted + u32::from(ran && !adopted);
        let ended = state.and_then(|state| state.terminated.as_ref());
        let before = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        container.last = ended.or(before).map(read_ended);
        containers.insert(status.name.clone(), container);
    }
    live.containers = containers;
    live
}

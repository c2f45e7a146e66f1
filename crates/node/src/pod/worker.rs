//! The loop of one pod: look, decide, do, tell.

use std::collections::BTreeSet;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::value::Str;
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use sandbox::Sandbox;
use tokio::sync::{Notify, watch};
use tracing::{debug, error, warn};

use crate::context::Context;
use crate::pod::adoption::{forbid_second_runs, remembered};
use crate::pod::desired::{Desired, find, termination_grace, wanted};
use crate::pod::disk::{EVICTED, EVICTION_GRACE, Limits};
use crate::pod::earlier;
use crate::pod::live::Live;
use crate::pod::machine::{self, Part, Role, Step, Wanted};
use crate::pod::tell::Telling;
use crate::supported::Unsupported;

/// Wait before a failed step on volumes or the sandbox is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(2);
/// Reason and message, in the status and in the event, of a pod that is here for too long (kubelet's own words).
const DEADLINE_EXCEEDED: (&str, &str) =
    ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline");
/// Why a container is stopped whose image is another one now (kubelet's own words).
pub(super) const DEFINITION_CHANGED: &str = "definition changed";

/// The worker of one pod. The agent owns it; its loop ends when the pod has gone.
pub struct Worker {
    pub(super) context: Arc<Context>,
    pub(super) uid: Str,
    desired: watch::Sender<Desired>,
    live: Mutex<Live>,
    /// Held by threads that write or remove the pod's volumes.
    disk: Mutex<()>,
    wake: Notify,
}

impl Worker {
    /// A worker that knows the pod and, if an earlier agent made one, its sandbox.
    pub fn new(context: Arc<Context>, desired: Desired, sandbox: Option<Sandbox>) -> Arc<Self> {
        let uid = Str::from(desired.object.uid());
        let mut live = remembered(&desired.pod, sandbox.is_some());
        if sandbox.is_none() {
            forbid_second_runs(&mut live, &desired.pod, &wanted(&desired), context.clock.now());
        }
        earlier::count(&mut live, &context.settings.logs_dir, &desired.object);
        let worker = Arc::new(Self {
            live: Mutex::new(live),
            disk: Mutex::default(),
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

    /// Manifests of images that the pod uses, which must not be collected: those that run, and those at hand for the next
    /// start.
    pub fn pins(&self) -> BTreeSet<image::Digest> {
        let live = self.live();
        let runs = live.containers.values().filter_map(|live| Some(live.runs.as_ref()?.1.manifest));
        let at_hand = live.containers.values().filter_map(|live| Some(live.rootfs.as_ref()?.manifest));
        runs.chain(at_hand).collect()
    }

    /// The pod as the agent hears of it from now on.
    pub(super) fn changes(&self) -> watch::Receiver<Desired> {
        self.desired.subscribe()
    }

    pub(super) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to write or remove volumes. Blocking: never in a task.
    pub(super) fn disk_turn(&self) -> MutexGuard<'_, ()> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the loop look again.
    pub(super) fn look_again(&self) {
        self.wake.notify_one();
    }

    /// Changes what is known, and looks again.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut Live) -> R) -> R {
        let result = change(&mut self.live());
        self.wake.notify_one();
        result
    }

    /// Runs until the pod has gone (true) or the agent stops (false).
    pub async fn run(self: &Arc<Self>) -> bool {
        let mut telling = Telling::default();
        self.refuse_unsupported();
        if let Some(limits) = Limits::of(&self.desired().pod) {
            self.context.tasks.spawn("disk of a pod", self.clone().watch_disk(limits));
        }
        loop {
            match AssertUnwindSafe(self.look(&mut telling)).catch_unwind().await {
                Ok(None) => {}
                Ok(Some(gone)) => return gone,
                Err(_) => {
                    error!(pod = %self.uid, "looking after a pod panicked; this is a bug");
                    telling = Telling::default();
                    if self.context.stop.or(self.context.clock.sleep(RETRY)).await.is_none() {
                        return false;
                    }
                }
            }
        }
    }

    /// Looks once, begins what is to be done, and waits until there is more to see. Says how it ends when it does.
    async fn look(self: &Arc<Self>, telling: &mut Telling) -> Option<bool> {
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
        if let Some(status) = self.status(&desired, &wanted, now) {
            telling.begin(self, &desired, status);
        }
        if self.is_gone(&desired) && (desired.vanished || !telling.is_under_way()) {
            if desired.vanished || self.delete_object(&desired).await {
                return Some(true);
            }
            telling.pause(&self.context.clock);
        }
        let woken = async {
            tokio::select! {
                () = telling.progress(&self.context.clock) => {}
                () = self.woken(next.wake.into_iter().chain(deadline).min(), notified) => {}
            }
        };
        if self.context.stop.or(woken).await.is_some() { None } else { Some(false) }
    }

    /// Returns when there is something to look at, or after `pause`.
    async fn woken(&self, pause: Option<Duration>, notified: impl Future<Output = ()>) {
        match pause {
            Some(pause) => {
                let _ = self.context.clock.timeout(pause, notified).await;
            }
            None => notified.await,
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
        next.steps.iter().for_each(|step| live.take_up(step));
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

    fn begin(self: &Arc<Self>, step: Step, desired: &Desired) {
        let (worker, desired) = (self.clone(), desired.clone());
        self.context.tasks.spawn("pod step", async move {
            debug!(pod = %worker.uid, ?step, "step");
            if AssertUnwindSafe(worker.take(&step, &desired)).catch_unwind().await.is_err() {
                error!(pod = %worker.uid, ?step, "a step panicked; this is a bug");
                let retry_at = worker.context.clock.now() + RETRY;
                worker.change(|live| live.give_up(&step, retry_at));
            }
        });
    }

    async fn take(self: &Arc<Self>, step: &Step, desired: &Desired) {
        match step {
            Step::PrepareVolumes => self.prepare_volumes(desired).await,
            Step::CreateSandbox => self.create_sandbox(desired).await,
            Step::EnsureImage(name) => self.ensure_image(desired, name).await,
            Step::Start { name, restarts } => self.start_container(desired, name, *restarts).await,
            Step::Stop { name, grace, pod_ends } => {
                self.stop_container(desired, name, *grace, *pod_ends).await;
            }
            Step::Dismantle => self.dismantle(desired).await,
        }
    }

    /// Whether the pod is to go and nothing is left of it.
    fn is_gone(&self, desired: &Desired) -> bool {
        let live = self.live();
        let to_go = desired.vanished || desired.object.is_deleting();
        let nothing_left = live.volumes == Part::Missing && live.sandbox == Part::Missing;
        to_go && nothing_left && !live.containers.values().any(|container| container.busy)
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
            (Some((number, sandbox::Phase::Running { .. })), Some((of, kept))) if number == of => &kept.image,
            _ => continue,
        };
        // What an init container prepares is prepared once, as upstream.
        if runs != image && container.role != Role::Init && state.condemned.is_none() && !state.busy {
            state.condemned = Some(termination_grace(desired));
            (state.condemned_by, state.renew) = (Some(DEFINITION_CHANGED), true);
        }
    }
}

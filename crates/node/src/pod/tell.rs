//! What is told of a pod: its status, events, and in the end that it has gone.

use std::sync::Arc;
use std::time::Duration;

use api::interface::{DeleteOptions, PatchKind, Target};
use api::json;
use api::names::PODS;
use api::status::Reason;
use api::value::Value;
use base::Clock;
use control::recorder::{About, Note};
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use tracing::{debug, info, warn};

use crate::pod::desired::{Desired, wanted};
use crate::pod::live::Live;
use crate::pod::machine::{self, Part, Wanted};
use crate::pod::status::PodFacts;
use crate::pod::worker::Worker;

/// Wait before what could not be told is told again.
const RETRY: Duration = Duration::from_millis(500);

/// What the API has been told of a pod's status, and what is on its way there. It is told beside the loop of the pod, so
/// that an API that does not answer holds up no container.
#[derive(Default)]
pub(super) struct Telling {
    told: Option<Value>,
    under_way: Option<(Value, BoxFuture<'static, bool>)>,
    /// On the clock's monotonic scale.
    retry_at: Option<Duration>,
}

impl Telling {
    /// Begins to tell a status that is news. One is told at a time; what has changed meanwhile is news after that.
    pub fn begin(&mut self, worker: &Arc<Worker>, desired: &Desired, status: Value) {
        if self.is_under_way() || self.retry_at.is_some() || self.told.as_ref() == Some(&status) {
            return;
        }
        let (worker, desired, news) = (worker.clone(), desired.clone(), status.clone());
        self.under_way = Some((status, async move { worker.tell(&desired, news).await }.boxed()));
    }

    /// Whether something is on its way.
    pub fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Waits a little before anything more is told.
    pub fn pause(&mut self, clock: &Clock) {
        self.retry_at = Some(clock.monotonic() + RETRY);
    }

    /// Returns when there may be more to tell. May be dropped and asked for again.
    pub async fn progress(&mut self, clock: &Clock) {
        if let Some((_, patch)) = &mut self.under_way {
            let done = patch.await;
            let status = self.under_way.take().map(|(status, _)| status);
            if done {
                self.told = status;
            } else {
                self.pause(clock);
            }
        } else if let Some(at) = self.retry_at {
            clock.sleep(at.saturating_sub(clock.monotonic())).await;
            self.retry_at = None;
        } else {
            std::future::pending().await
        }
    }
}

impl Worker {
    /// The pod's status now; `None` if there is nothing to say of it.
    pub(super) fn status(&self, desired: &Desired, wanted: &Wanted, now: Timestamp) -> Option<Value> {
        let live = self.live();
        let started_at = live.started_at.filter(|_| !live.over_before && !desired.vanished)?;
        let on_host = desired.pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        let ips =
            if on_host && live.sandbox == Part::Ready { &self.context.settings.host_ips } else { &live.ips };
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
        Some(facts.status())
    }

    /// Writes a status; false if it has to be tried again.
    async fn tell(&self, desired: &Desired, status: Value) -> bool {
        let mut patch = json!({"metadata": {"uid": (self.uid.clone())}});
        patch.set(&["status"], status);
        let target =
            Target::new(&PODS, desired.object.namespace(), desired.object.name()).subresource("status");
        match self.context.api.patch(target, PatchKind::StrategicMerge, &patch).await {
            Ok(_) => true,
            // It has gone or was made anew under its name; the mirror will say so.
            Err(error) if matches!(error.reason, Reason::NotFound | Reason::Conflict) => {
                debug!(pod = %self.uid, %error, "the status is of no use any more");
                true
            }
            Err(error) => {
                warn!(pod = %self.uid, %error, "the status could not be written");
                false
            }
        }
    }

    /// Takes the object away, now that nothing runs; true once it is gone.
    pub(super) async fn delete_object(&self, desired: &Desired) -> bool {
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

    /// A container that has ended and has to wait before it runs again is told of.
    pub(super) fn note_back_off(&self, live: &Live, desired: &Desired, name: &str, now: Timestamp) {
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

    /// Makes an event about the pod, or about a container of it.
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
}

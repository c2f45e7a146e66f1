//! What follows a start: the hook, and then the probes.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use sandbox::{Attempt, Phase, Sandbox};
use tracing::warn;

use crate::pod::desired::{Desired, find, termination_grace};
use crate::pod::records::Records;
use crate::pod::worker::Worker;
use crate::probe::{Action, Failure, Place};

/// How long a hook may take if nothing else bounds it.
const HOOK_TIMEOUT: Duration = Duration::from_secs(600);

impl Worker {
    /// An attempt was started, by us or by an earlier agent: once it runs, its hook is told unless it is known to have
    /// succeeded, and then its probes begin.
    pub(super) fn watch_over(self: &Arc<Self>, attempt: Attempt) {
        let worker = self.clone();
        self.context.tasks.spawn("after start", async move {
            let Some(sandbox) = worker.sandbox() else { return };
            if !comes_to_run(&sandbox, &attempt).await {
                return;
            }
            let desired = worker.desired();
            // Only an attempt that is known to run can be condemned, or become ready.
            worker.observe(&mut worker.live(), &desired, worker.context.clock.now());
            let Some(container) = find(&desired, &attempt.name) else { return };
            if let Err(failure) = worker.tell_start(&sandbox, &attempt, container).await {
                let message = format!("PostStartHook failed: {}", failure.0);
                worker.note(Some(&container.name), true, "FailedPostStartHook", message);
                worker.condemn(&attempt, termination_grace(&desired), "postStart hook");
                return;
            }
            worker.probe(container, &attempt).await;
        });
    }

    /// Tells the hook of a start. It may be told twice, if an agent ends before it has heard how it went, but it is
    /// never left out.
    async fn tell_start(
        &self,
        sandbox: &Sandbox,
        attempt: &Attempt,
        container: &core::Container,
    ) -> Result<(), Failure> {
        let Some(hook) = hook(container).filter(|_| !self.has_told_start(container, attempt.number)) else {
            return Ok(());
        };
        let ip = self.live().ips.first().copied();
        let place = Place { sandbox, attempt, container, ip };
        hook.run(&place, &self.context.clock, HOOK_TIMEOUT).await?;
        let records = self.records(&attempt.name, attempt.number);
        let written = tokio::task::spawn_blocking(move || records.hook_has_succeeded()).await;
        if let Ok(Err(error)) = written {
            warn!(container = %attempt, %error, "that a hook has succeeded could not be written down; the next agent repeats it");
        }
        Ok(())
    }

    /// Whether there is nothing (more) to tell of a start.
    pub(super) fn has_told_start(&self, container: &core::Container, number: u32) -> bool {
        hook(container).is_none() || self.records(&container.name, number).has_hook_succeeded()
    }

    /// The files of an attempt.
    pub(super) fn records(&self, container: &str, number: u32) -> Records {
        Records::of(&self.directory(), container, number)
    }

    /// Whether an attempt that runs now may count as being as far as the status of an earlier agent says.
    pub(super) fn was_up(&self, desired: &Desired, name: &str, number: u32) -> (bool, bool) {
        let status = desired.pod.status.as_ref();
        let mut statuses = status
            .into_iter()
            .flat_map(|status| status.container_statuses.iter().chain(&status.init_container_statuses))
            .flatten();
        let told = find(desired, name).is_some_and(|container| self.has_told_start(container, number));
        // What is said of an attempt before it says nothing of this one.
        let of_it = statuses
            .find(|status| status.name == name && u32::try_from(status.restart_count) == Ok(number))
            .filter(|status| told && status.state.as_ref().is_some_and(|state| state.running.is_some()));
        of_it.map_or((false, false), |status| (status.started == Some(true), status.ready))
    }
}

fn hook(container: &core::Container) -> Option<Action> {
    container.lifecycle.as_ref()?.post_start.as_ref().and_then(Action::of_hook)
}

/// Returns true once an attempt runs, and false if it is over before.
async fn comes_to_run(sandbox: &Sandbox, attempt: &Attempt) -> bool {
    let mut states = sandbox.watch();
    let is_starting = |state: &sandbox::State| {
        state.get(attempt).is_some_and(|container| matches!(container.phase, Phase::Starting))
    };
    let settled = states.wait_for(|state| state.lost || !is_starting(state)).await;
    settled
        .is_ok_and(|state| !state.lost && state.get(attempt).is_some_and(sandbox::ContainerState::is_running))
}

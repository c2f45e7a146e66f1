//! Taking over: what an earlier agent has left, a sandbox that was made, and what is left of one that is lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use sandbox::{Phase, Sandbox};
use tracing::warn;

use crate::pod::desired::wanted;
use crate::pod::live::{Live, LiveContainer};
use crate::pod::machine::{Part, Role};
use crate::pod::status::read_ended;
use crate::pod::worker::Worker;

impl Worker {
    /// Takes over what an earlier agent has left: containers run on, and are as ready as they were last said to be
    /// until their probes say otherwise.
    pub(super) fn resume(self: &Arc<Self>, sandbox: Sandbox) {
        let desired = self.desired();
        let state = sandbox.state();
        {
            let mut live = self.live();
            live.ips = crate::agent::read_addresses(&self.directory());
            for (name, number) in live.observe(&self.uid, &state, self.context.clock.now()) {
                self.read_message(&mut live, &desired, &name, number);
            }
            for (name, container) in &mut live.containers {
                let number = container.restarts();
                container.runs = self.records(name, number).kept().map(|kept| (number, kept));
                if matches!(container.latest, Some((_, Phase::Running { .. }))) {
                    (container.started, container.ready) = self.was_up(&desired, name, number);
                }
            }
        }
        self.adopt(sandbox);
        // One that is being started is waited for: nobody else will look after it.
        let lasting = state.containers.values();
        let lasting = lasting.filter(|one| matches!(one.phase, Phase::Starting | Phase::Running { .. }));
        for container in lasting {
            self.watch_over(container.attempt.clone());
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
                worker.look_again();
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

/// What the stored status says of earlier sandboxes: restart counts, how containers last ended, and whether the pod
/// has come to its end already.
pub(super) fn remembered(pod: &core::Pod, adopted: bool) -> Live {
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
        let mut container = LiveContainer::default();
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

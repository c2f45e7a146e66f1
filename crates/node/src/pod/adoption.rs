//! Taking over: what an earlier agent has left, a sandbox that was made, and what is left of one that is lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use sandbox::{Exit, Phase, Sandbox};
use tracing::warn;

use crate::pod::desired::wanted;
use crate::pod::live::{LOST_CODE, Live, LiveContainer};
use crate::pod::machine::{Part, Restart, Role, Wanted};
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

/// Containers that may run once and have run in a sandbox that is gone, by the end of the machine or of the instance: they
/// have ended with it, though nobody saw how. A second run might do the harm that their users forbid.
pub(super) fn forbid_second_runs(live: &mut Live, pod: &core::Pod, wanted: &Wanted, now: Timestamp) {
    if live.over_before {
        return;
    }
    let status = pod.status.iter();
    let statuses = status
        .flat_map(|status| status.container_statuses.iter().chain(&status.init_container_statuses).flatten());
    for status in statuses {
        let once = wanted.containers.iter().find(|one| one.name == status.name);
        let Some(once) = once.filter(|one| one.restart == Restart::Never) else { continue };
        let Some(state) = &status.state else { continue };
        let exit = match (&state.running, &state.terminated) {
            (Some(running), _) => Exit {
                code: LOST_CODE,
                signal: None,
                out_of_memory: false,
                started_at: running.started_at.as_ref().map_or(now, |time| time.0),
                finished_at: now,
            },
            // An init container that is done is no reason not to run what is behind it.
            (None, Some(ended)) if once.role == Role::Main => Exit {
                code: ended.exit_code,
                signal: ended.signal,
                out_of_memory: ended.reason.as_deref() == Some("OOMKilled"),
                started_at: ended.started_at.as_ref().map_or(now, |time| time.0),
                finished_at: ended.finished_at.as_ref().map_or(now, |time| time.0),
            },
            _ => continue,
        };
        let number = u32::try_from(status.restart_count).unwrap_or_default();
        let container = live.containers.entry(status.name.clone()).or_default();
        container.latest = Some((number, Phase::Ended(exit)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::machine::Container;

    /// Whether a container of a pod that ran before is over when its sandbox is not there any more.
    fn check(policy: &str, state: serde_json::Value, expect: Option<i32>) {
        let pod: core::Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "one", "namespace": "default", "uid": "u"},
            "spec": {"restartPolicy": policy, "containers": [{"name": "app", "image": "x"}]},
            "status": {"phase": "Running", "containerStatuses": [{
                "name": "app", "image": "x", "imageID": "", "ready": true, "restartCount": 0, "state": state.clone()}]}
        }))
        .expect("a pod");
        let restart = match policy {
            "Never" => Restart::Never,
            "OnFailure" => Restart::OnFailure,
            _ => Restart::Always,
        };
        let container = Container { name: "app".to_owned(), role: Role::Main, restart };
        let wanted = Wanted { containers: vec![container], ending: None };
        let mut live = remembered(&pod, false);
        forbid_second_runs(&mut live, &pod, &wanted, Timestamp::UNIX_EPOCH);
        let code = live.containers["app"].latest.as_ref().map(|(_, phase)| match phase {
            Phase::Ended(exit) => exit.code,
            other => panic!("{other:?}"),
        });
        assert_eq!(code, expect, "{policy}: {state}");
    }

    #[test]
    fn what_may_run_once_has_ended_with_its_sandbox() {
        let running = serde_json::json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        let ended = serde_json::json!({"terminated": {"exitCode": 3}});
        check("Never", running.clone(), Some(137));
        check("Never", ended.clone(), Some(3));
        check("Never", serde_json::json!({"waiting": {"reason": "ContainerCreating"}}), None);
        check("OnFailure", running.clone(), None);
        check("Always", running, None);
        check("Always", ended, None);
    }
}

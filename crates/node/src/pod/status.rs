//! The status of a pod, computed from what is seen of it. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::json;
use api::object::Object;
use api::time::seconds;
use api::value::Value;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;

use crate::pod::machine::{Restart, Role, Wanted};

/// What one container's status is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerFacts {
    /// What it does now.
    pub state: ContainerState,
    /// What it did before.
    pub last: Option<Ended>,
    /// How often it was started again.
    pub restarts: u32,
    /// The name of the image of the latest attempt; `None` before the first, and where it is not known.
    pub image: Option<String>,
    /// The image as it was resolved.
    pub image_id: String,
    /// Identity of the latest attempt; empty before the first.
    pub id: String,
    /// Its startup probe has succeeded, or it has none.
    pub started: bool,
    /// Its readiness probe says so, or it has none and runs.
    pub ready: bool,
    /// Who runs it.
    pub user: Option<(u32, u32, Vec<u32>)>,
}

/// What a container does.
#[derive(Clone, Debug, PartialEq)]
pub enum ContainerState {
    /// It waits, and for what.
    Waiting {
        /// As `ContainerCreating`, `ImagePullBackOff`, `CrashLoopBackOff`.
        reason: String,
        /// In words.
        message: String,
    },
    /// It runs since then.
    Running(Timestamp),
    /// It has ended.
    Ended(Ended),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// Its exit code.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// As `Completed`, `Error`, `OOMKilled`.
    pub reason: String,
    /// Its termination message.
    pub message: String,
    /// When it started; `None` if it never did.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Identity of that attempt.
    pub id: String,
}

impl Default for ContainerState {
    fn default() -> Self {
        Self::Waiting { reason: "ContainerCreating".to_owned(), message: String::new() }
    }
}

/// What a pod's status is made of.
pub struct PodFacts<'a> {
    /// As stored.
    pub object: &'a Object,
    /// As read.
    pub pod: &'a core::Pod,
    /// What it is to be.
    pub wanted: &'a Wanted,
    /// Its containers, by name.
    pub containers: &'a BTreeMap<String, ContainerFacts>,
    /// The node's addresses.
    pub host_ips: &'a [IpAddr],
    /// The pod's addresses.
    pub pod_ips: &'a [IpAddr],
    /// Whether the sandbox is there and connected.
    pub sandboxed: bool,
    /// Why it has failed, if for a reason of the node's: reason and message.
    pub failed: Option<(String, String)>,
    /// When the node first saw it.
    pub started_at: Timestamp,
    /// Now.
    pub now: Timestamp,
}

impl PodFacts<'_> {
    /// The whole status, as it is to be merged.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "phase": (self.phase()),
            "hostIP": (first(self.host_ips)),
            "hostIPs": (replaced(self.host_ips)),
            "podIP": (first(self.pod_ips)),
            "podIPs": (replaced(self.pod_ips)),
            "startTime": (seconds(self.started_at)),
            "conditions": (self.conditions())
        });
        if let Some(generation) = self.pod.metadata.generation {
            status.set(&["observedGeneration"], generation);
        }
        if let Some((reason, message)) = &self.failed {
            status.set(&["reason"], reason.as_str());
            status.set(&["message"], message.as_str());
        }
        let Some(spec) = &self.pod.spec else { return status };
        status.set(&["containerStatuses"], self.statuses(&spec.containers));
        if let Some(inits) = &spec.init_containers {
            status.set(&["initContainerStatuses"], self.statuses(inits));
        }
        status
    }

    fn facts(&self, name: &str) -> ContainerFacts {
        self.containers.get(name).cloned().unwrap_or_default()
    }

    fn of_role(&self, role: Role) -> Vec<ContainerFacts> {
        let of_role = self.wanted.containers.iter().filter(|container| container.role == role);
        of_role.map(|container| self.facts(&container.name)).collect()
    }

    /// As upstream's `getPhase`.
    fn phase(&self) -> &'static str {
        if self.failed.is_some() {
            return "Failed";
        }
        let mains = self.of_role(Role::Main);
        let restart = self.wanted.containers.iter().find(|c| c.role == Role::Main).map(|c| c.restart);
        let (mut running, mut waiting, mut succeeded, mut failed, mut will_run) = (0, 0, 0, 0, 0);
        for main in &mains {
            match &main.state {
                ContainerState::Running(_) => running += 1,
                ContainerState::Ended(ended) => {
                    if ended.code == 0 {
                        succeeded += 1
                    } else {
                        failed += 1
                    }
                }
                ContainerState::Waiting { .. } if main.last.is_some() => will_run += 1,
                ContainerState::Waiting { .. } => waiting += 1,
            }
        }
        let inits_failed = self.wanted.containers.iter().any(|container| {
            let facts = self.facts(&container.name);
            let failed = matches!(&facts.state, ContainerState::Ended(ended) if ended.code != 0);
            container.role == Role::Init && failed && container.restart == Restart::Never
        });
        if inits_failed {
            return "Failed";
        }
        if !self.initialized() {
            return "Pending";
        }
        let ended = succeeded + failed;
        match restart {
            _ if waiting > 0 => "Pending",
            _ if running > 0 || will_run > 0 => "Running",
            Some(Restart::Always) if ended > 0 && self.wanted.ending.is_none() => "Running",
            _ if ended > 0 && failed == 0 => "Succeeded",
            Some(Restart::OnFailure) if ended > 0 && self.wanted.ending.is_none() => "Running",
            _ if ended > 0 => "Failed",
            _ => "Pending",
        }
    }

    fn initialized(&self) -> bool {
        self.wanted.containers.iter().all(|container| {
            let facts = self.facts(&container.name);
            match container.role {
                Role::Init => matches!(&facts.state, ContainerState::Ended(ended) if ended.code == 0),
                Role::Sidecar => facts.started || matches!(facts.state, ContainerState::Ended(_)),
                Role::Main => true,
            }
        })
    }

    fn conditions(&self) -> Vec<Value> {
        let phase = self.phase();
        let over = matches!(phase, "Succeeded" | "Failed");
        let completed = (phase == "Succeeded").then(|| ("PodCompleted".to_owned(), String::new()));
        let failed = (phase == "Failed").then(|| ("PodFailed".to_owned(), String::new()));
        let unready = self.names(|role, facts| role != Role::Init && !(facts.ready && facts.started));
        let ready = unready.is_empty() && !over;
        let why_unready = completed.clone().or(failed).or_else(|| {
            Some((
                "ContainersNotReady".to_owned(),
                format!("containers with unready status: [{}]", unready.join(" ")),
            ))
        });
        let uninitialized = self.names(|role, facts| match role {
            Role::Init => !matches!(&facts.state, ContainerState::Ended(ended) if ended.code == 0),
            Role::Sidecar => !facts.started,
            Role::Main => false,
        });
        let why_uninitialized = || {
            let message = format!("containers with incomplete status: [{}]", uninitialized.join(" "));
            Some(("ContainersNotInitialized".to_owned(), message))
        };
        let initialized = self.initialized() || phase == "Succeeded";
        let ready_reason = || if ready { None } else { why_unready.clone() };
        let gates = self.gates();
        let pod_ready = ready && gates.is_empty();
        let gate_reason = || {
            if ready && !gates.is_empty() {
                Some(("ReadinessGatesNotReady".to_owned(), gates.join(", ")))
            } else {
                ready_reason()
            }
        };
        vec![
            self.condition("PodReadyToStartContainers", self.sandboxed, None),
            self.condition(
                "Initialized",
                initialized,
                if initialized { completed } else { why_uninitialized() },
            ),
            self.condition("Ready", pod_ready, gate_reason()),
            self.condition("ContainersReady", ready, ready_reason()),
            self.condition("PodScheduled", true, None),
        ]
    }

    /// The readiness gates that nobody has opened, in upstream's words.
    fn gates(&self) -> Vec<String> {
        let Some(spec) = &self.pod.spec else { return Vec::new() };
        let conditions = self.pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let open = |kind: &str| {
            conditions
                .into_iter()
                .flatten()
                .any(|condition| condition.type_ == kind && condition.status == "True")
        };
        let gates = spec.readiness_gates.iter().flatten().filter(|gate| !open(&gate.condition_type));
        gates
            .map(|gate| {
                format!(
                    "the status of pod readiness gate \"{}\" is not \"True\", but False",
                    gate.condition_type
                )
            })
            .collect()
    }

    fn names(&self, picks: impl Fn(Role, &ContainerFacts) -> bool) -> Vec<String> {
        let picked = self.wanted.containers.iter().filter(|c| picks(c.role, &self.facts(&c.name)));
        picked.map(|container| container.name.clone()).collect()
    }

    /// A condition; its time stays while its status does.
    fn condition(&self, kind: &str, holds: bool, reason: Option<(String, String)>) -> Value {
        let status = if holds { "True" } else { "False" };
        let conditions = self.pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let before = conditions.into_iter().flatten().find(|condition| condition.type_ == kind);
        let since = before
            .filter(|before| before.status == status)
            .and_then(|before| before.last_transition_time.as_ref().map(|time| time.0))
            .unwrap_or(self.now);
        let (reason, message) = reason.unwrap_or_default();
        let mut condition = json!({
            "type": kind, "status": status, "lastProbeTime": null,
            "lastTransitionTime": (seconds(since)),
            "reason": (text(&reason)), "message": (text(&message))
        });
        if let Some(generation) = self.pod.metadata.generation {
            condition.set(&["observedGeneration"], generation);
        }
        condition
    }

    fn statuses(&self, containers: &[core::Container]) -> Vec<Value> {
        containers.iter().map(|container| self.container_status(container)).collect()
    }

    fn container_status(&self, container: &core::Container) -> Value {
        let facts = self.facts(&container.name);
        let image = facts.image.as_deref().or(container.image.as_deref()).unwrap_or_default();
        let init = self.wanted.containers.iter().any(|c| c.name == container.name && c.role == Role::Init);
        let running = matches!(facts.state, ContainerState::Running(_));
        let done = init && matches!(&facts.state, ContainerState::Ended(ended) if ended.code == 0);
        let mut status = json!({
            "name": (container.name.as_str()),
            "ready": ((running && facts.ready && facts.started && !init) || done),
            "restartCount": (i64::from(facts.restarts)),
            "image": image,
            "imageID": (facts.image_id.as_str()),
            "state": (state(&facts.state)),
            "lastState": (facts.last.as_ref().map_or(Value::object(), |last| json!({"terminated": (last.to_value())}))),
            "started": (running && facts.started)
        });
        if !facts.id.is_empty() {
            status.set(&["containerID"], facts.id.as_str());
        }
        if let Some((uid, gid, groups)) = &facts.user {
            let groups: Vec<Value> = groups.iter().map(|group| Value::from(i64::from(*group))).collect();
            let linux =
                json!({"uid": (i64::from(*uid)), "gid": (i64::from(*gid)), "supplementalGroups": groups});
            status.set(&["user", "linux"], linux);
        }
        if running && let Some(resources) = &container.resources {
            let read = serde_json::to_vec(resources).ok().and_then(|json| api::value::parse(&json).ok());
            let resources = read.unwrap_or(Value::object());
            if let Some(requests) = resources.get("requests").filter(|requests| !requests.is_empty()) {
                status.set(&["allocatedResources"], requests.clone());
            }
            status.set(&["resources"], resources);
        }
        let mounts: Vec<Value> = container.volume_mounts.iter().flatten().map(mount_status).collect();
        if !mounts.is_empty() {
            status.set(&["volumeMounts"], mounts);
        }
        status
    }
}

fn mount_status(mount: &core::VolumeMount) -> Value {
    let mut status = json!({"name": (mount.name.as_str()), "mountPath": (mount.mount_path.as_str())});
    if mount.read_only == Some(true) {
        status.set(&["readOnly"], true);
        status.set(&["recursiveReadOnly"], mount.recursive_read_only.as_deref().unwrap_or("Disabled"));
    }
    status
}

fn state(state: &ContainerState) -> Value {
    match state {
        ContainerState::Waiting { reason, message } => {
            let mut waiting = json!({"reason": (reason.as_str())});
            if !message.is_empty() {
                waiting.set(&["message"], message.as_str());
            }
            json!({"waiting": waiting})
        }
        ContainerState::Running(since) => json!({"running": {"startedAt": (seconds(*since))}}),
        ContainerState::Ended(ended) => json!({"terminated": (ended.to_value())}),
    }
}

impl Ended {
    fn to_value(&self) -> Value {
        let mut value = json!({
            "exitCode": (i64::from(self.code)),
            "reason": (self.reason.as_str()),
            "startedAt": (self.started_at.map_or(Value::Null, |at| seconds(at).into())),
            "finishedAt": (seconds(self.finished_at))
        });
        if let Some(signal) = self.signal {
            value.set(&["signal"], i64::from(signal));
        }
        for (field, text) in [("message", &self.message), ("containerID", &self.id)] {
            if !text.is_empty() {
                value.set(&[field], text.as_str());
            }
        }
        value
    }
}

/// Reads back how a container last ended, as an earlier agent wrote it.
pub fn read_ended(terminated: &core::ContainerStateTerminated) -> Ended {
    Ended {
        code: terminated.exit_code,
        signal: terminated.signal,
        reason: terminated.reason.clone().unwrap_or_default(),
        message: terminated.message.clone().unwrap_or_default(),
        started_at: terminated.started_at.as_ref().map(|time| time.0),
        finished_at: terminated.finished_at.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        id: terminated.container_id.clone().unwrap_or_default(),
    }
}

fn text(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { Value::from(text) }
}

fn first(ips: &[IpAddr]) -> Value {
    ips.first().map_or(Value::Null, |ip| ip.to_string().into())
}

/// A whole list of addresses: a strategic merge patch would otherwise add to those of an earlier sandbox.
fn replaced(ips: &[IpAddr]) -> Vec<Value> {
    let addresses = ips.iter().map(|ip| json!({"ip": (ip.to_string())}));
    std::iter::once(json!({"$patch": "replace"})).chain(addresses).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::machine::Container;

    fn check(
        restart: Restart,
        ending: bool,
        states: &[(&str, Role, ContainerState)],
        phase: &str,
        ready: bool,
    ) {
        let tree =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": []}});
        let object = Object::from_tree(&tree).unwrap();
        let pod = object.view::<core::Pod>().unwrap();
        let wanted = Wanted {
            containers: states
                .iter()
                .map(|(name, role, _)| Container { name: (*name).to_owned(), role: *role, restart })
                .collect(),
            ending: ending.then(|| std::time::Duration::from_secs(1)),
        };
        let facts = |state: &ContainerState| ContainerFacts {
            state: state.clone(),
            started: matches!(state, ContainerState::Running(_)),
            ready: matches!(state, ContainerState::Running(_)),
            ..ContainerFacts::default()
        };
        let containers = states.iter().map(|(name, _, state)| ((*name).to_owned(), facts(state))).collect();
        let facts = PodFacts {
            object: &object,
            pod: &pod,
            wanted: &wanted,
            containers: &containers,
            host_ips: &[],
            pod_ips: &[],
            sandboxed: true,
            failed: None,
            started_at: Timestamp::UNIX_EPOCH,
            now: Timestamp::UNIX_EPOCH,
        };
        let status = facts.status();
        assert_eq!(status.str_at(&["phase"]), Some(phase), "{states:?}");
        let condition =
            status.array_at(&["conditions"]).iter().find(|c| c.str_at(&["type"]) == Some("Ready"));
        let expect = if ready { "True" } else { "False" };
        assert_eq!(condition.unwrap().str_at(&["status"]), Some(expect), "{states:?}");
    }

    fn ended(code: i32) -> ContainerState {
        ContainerState::Ended(Ended {
            code,
            signal: None,
            reason: "Completed".into(),
            message: String::new(),
            started_at: None,
            finished_at: Timestamp::UNIX_EPOCH,
            id: String::new(),
        })
    }

    #[test]
    fn phases_follow_upstream() {
        let running = || ContainerState::Running(Timestamp::UNIX_EPOCH);
        let waiting = ContainerState::default;
        check(Restart::Always, false, &[("a", Role::Main, waiting())], "Pending", false);
        check(Restart::Always, false, &[("a", Role::Main, running())], "Running", true);
        check(
            Restart::Always,
            false,
            &[("a", Role::Main, running()), ("b", Role::Main, waiting())],
            "Pending",
            false,
        );
        check(Restart::Always, false, &[("a", Role::Main, ended(1))], "Running", false);
        check(Restart::Never, false, &[("a", Role::Main, ended(0))], "Succeeded", false);
        check(Restart::Never, false, &[("a", Role::Main, ended(2))], "Failed", false);
        check(Restart::OnFailure, false, &[("a", Role::Main, ended(2))], "Running", false);
        check(Restart::Always, true, &[("a", Role::Main, ended(2))], "Failed", false);
        check(
            Restart::Never,
            false,
            &[("i", Role::Init, ended(1)), ("a", Role::Main, waiting())],
            "Failed",
            false,
        );
        check(
            Restart::Never,
            false,
            &[("i", Role::Init, running()), ("a", Role::Main, waiting())],
            "Pending",
            false,
        );
    }
}

//! What the agent knows of one pod at the moment.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use image::document::ImageConfig;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use sandbox::{Phase, Sandbox};

use crate::pod::machine::{self, Attempt, Part, Seen, Step, Wanted};
use crate::pod::records::Kept;
use crate::pod::status::{ContainerFacts, ContainerState, Ended};

/// Exit code of what could not be started, as upstream shows it.
const START_ERROR_CODE: i32 = 128;
/// Exit code of what ended without anybody seeing how (128 + SIGKILL).
pub(super) const LOST_CODE: i32 = 137;

/// What is known of one pod.
#[derive(Default)]
pub struct Live {
    /// Volumes.
    pub volumes: Part,
    /// Something in them has changed while they were being written.
    pub volumes_outdated: bool,
    /// Where they lie.
    pub volume_paths: BTreeMap<String, PathBuf>,
    /// The sandbox.
    pub sandbox: Part,
    /// Its handle, while it is there.
    pub handle: Option<Sandbox>,
    /// The pod's addresses.
    pub ips: Vec<IpAddr>,
    /// Containers, by name.
    pub containers: BTreeMap<String, LiveContainer>,
    /// Tokens, by volume and path, with the time to renew them.
    pub tokens: BTreeMap<(String, String), (String, Timestamp)>,
    /// When the node first saw the pod.
    pub started_at: Option<Timestamp>,
    /// Why it has failed, if for a reason of the node's: reason and message.
    pub failed: Option<(String, String)>,
    /// The pod asks for what the node does not know; it waits for ever.
    pub unsupported: bool,
    /// Sandbox and volumes have been taken down for good.
    pub dismantled: bool,
    /// The pod had come to its end before this agent began: its last status is what there is to tell.
    pub over_before: bool,
}

/// What is known of one container.
#[derive(Clone, Default)]
pub struct LiveContainer {
    /// Its image.
    pub image: Part,
    /// What the image says, once it is there.
    pub rootfs: Option<RootImage>,
    /// The name of which `image` and `rootfs` tell.
    pub image_name: Option<String>,
    /// What an attempt, the latest as a rule, is made of.
    pub runs: Option<(u32, Kept)>,
    /// It is stopped to run again as it is described now, whatever its policy says.
    pub renew: bool,
    /// The latest attempt was made in the sandbox that is there.
    pub here: bool,
    /// How often pulling failed in a row.
    pub pull_failures: u32,
    /// Why it does not run, beside what its latest attempt says.
    pub waiting: Option<(String, String)>,
    /// Number and state of the latest attempt.
    pub latest: Option<(u32, Phase)>,
    /// When the latest attempt failed to start.
    pub failed_at: Option<Timestamp>,
    /// How the attempt before ended.
    pub last: Option<Ended>,
    /// Starts in earlier sandboxes.
    pub earlier_starts: u32,
    /// Ends in a row soon after a start, the latest not counted.
    pub streak: u32,
    /// The same with the latest.
    pub ends_in_row: u32,
    /// A start or stop is under way.
    pub busy: bool,
    /// Its startup probe has succeeded, or it has none.
    pub started: bool,
    /// Its readiness probe says so, or it has none.
    pub ready: bool,
    /// A probe wants it stopped.
    pub condemned: Option<Duration>,
    /// What condemned it, in the words of events.
    pub condemned_by: Option<&'static str>,
    /// What it wrote to its termination file, by attempt.
    pub message: Option<(u32, String)>,
}

/// What a container needs of its image.
#[derive(Clone)]
pub struct RootImage {
    /// Layers, top first.
    pub layers: Vec<PathBuf>,
    /// What runs.
    pub config: ImageConfig,
    /// As the status shows it.
    pub id: String,
    /// What to pin while the pod is there.
    pub manifest: image::Digest,
}

impl LiveContainer {
    /// The latest attempt for the machine.
    fn attempt(&self) -> Option<Attempt> {
        let (_, phase) = self.latest.as_ref()?;
        Some(match phase {
            Phase::Starting => Attempt::Starting,
            Phase::Running { started_at, .. } => Attempt::Running(*started_at),
            Phase::Ended(exit) => {
                Attempt::Ended { code: exit.code, started_at: exit.started_at, finished_at: exit.finished_at }
            }
            Phase::Failed(_) => Attempt::Failed(self.failed_at.unwrap_or(Timestamp::UNIX_EPOCH)),
        })
    }

    /// Number of the latest attempt, or of starts before this sandbox.
    pub fn restarts(&self) -> u32 {
        self.latest.as_ref().map_or(self.earlier_starts, |(number, _)| *number)
    }

    /// How the latest attempt ended, if it did.
    fn ended(&self, uid: &str, name: &str) -> Option<Ended> {
        let (number, phase) = self.latest.as_ref()?;
        let message = self.message.as_ref().filter(|(of, _)| of == number).map(|(_, text)| text.clone());
        match phase {
            Phase::Ended(exit) => Some(Ended {
                code: exit.code,
                signal: exit.signal.filter(|_| exit.code > LOST_CODE + 64),
                reason: if exit.out_of_memory {
                    "OOMKilled"
                } else if exit.code == 0 {
                    "Completed"
                } else {
                    "Error"
                }
                .to_owned(),
                message: message.unwrap_or_default(),
                started_at: Some(exit.started_at),
                finished_at: exit.finished_at,
                id: identity(uid, name, *number),
            }),
            Phase::Failed(error) => Some(Ended {
                code: START_ERROR_CODE,
                signal: None,
                reason: "StartError".to_owned(),
                message: error.to_string(),
                started_at: None,
                finished_at: self.failed_at.unwrap_or(Timestamp::UNIX_EPOCH),
                id: identity(uid, name, *number),
            }),
            Phase::Starting | Phase::Running { .. } => None,
        }
    }
}

/// Identity of an attempt, as the status shows it.
pub fn identity(uid: &str, name: &str, attempt: u32) -> String {
    format!("ondol://{uid}/{name}/{attempt}")
}

impl Live {
    /// For the machine.
    pub fn seen(&self) -> Seen {
        let containers = self.containers.iter().map(|(name, live)| {
            let seen = machine::ContainerSeen {
                image: live.image,
                latest: live.attempt(),
                restarts: live.restarts(),
                streak: live.streak,
                busy: live.busy,
                started: live.started,
                condemned: live.condemned,
                renew: live.renew,
                here: live.here,
            };
            (name.clone(), seen)
        });
        Seen { volumes: self.volumes, sandbox: self.sandbox, containers: containers.collect() }
    }

    /// A step is under way from now on.
    pub fn take_up(&mut self, step: &Step) {
        match step {
            Step::PrepareVolumes => self.volumes = Part::Busy,
            Step::CreateSandbox => self.sandbox = Part::Busy,
            Step::EnsureImage(name) => self.container(name).image = Part::Busy,
            Step::Start { name, .. } | Step::Stop { name, .. } => self.container(name).busy = true,
            Step::Dismantle => (self.volumes, self.sandbox) = (Part::Busy, Part::Busy),
        }
    }

    /// A step ended without a word; it is decided anew, not before `retry_at`.
    pub fn give_up(&mut self, step: &Step, retry_at: Timestamp) {
        let failed = Part::Failed(retry_at);
        match step {
            Step::PrepareVolumes => self.volumes = failed,
            Step::CreateSandbox => self.sandbox = failed,
            Step::EnsureImage(name) => self.container(name).image = failed,
            Step::Start { name, .. } => {
                let container = self.container(name);
                (container.busy, container.image) = (false, failed);
            }
            Step::Stop { name, .. } => self.container(name).busy = false,
            Step::Dismantle => (self.volumes, self.sandbox) = (failed, failed),
        }
    }

    fn container(&mut self, name: &str) -> &mut LiveContainer {
        self.containers.entry(name.to_owned()).or_default()
    }

    /// Takes in what the sandbox says now. Returns the attempts that have ended since.
    pub fn observe(&mut self, uid: &str, state: &sandbox::State, now: Timestamp) -> Vec<(String, u32)> {
        let mut ended = Vec::new();
        if state.lost {
            self.lose(now);
            return ended;
        }
        for (attempt, container) in &state.containers {
            let live = self.containers.entry(attempt.name.clone()).or_default();
            let newer = live.latest.as_ref().is_none_or(|(number, _)| attempt.number > *number);
            if newer && let Some(before) = live.ended(uid, &attempt.name) {
                live.last = Some(before);
            }
            let same = live.latest.as_ref().is_some_and(|(number, _)| attempt.number == *number);
            if !(newer || same) {
                continue;
            }
            let over = |phase: &Phase| matches!(phase, Phase::Ended(_) | Phase::Failed(_));
            let was_over = same && live.latest.as_ref().is_some_and(|(_, phase)| over(phase));
            if newer {
                (live.started, live.ready, live.condemned, live.waiting) = (false, false, None, None);
                live.renew = false;
            }
            live.here = true;
            if over(&container.phase) && !was_over {
                live.note_end(&container.phase, now);
                ended.push((attempt.name.clone(), attempt.number));
            }
            live.latest = Some((attempt.number, container.phase.clone()));
        }
        ended
    }

    /// The pod process is gone: nothing of the pod runs any more.
    fn lose(&mut self, now: Timestamp) {
        self.sandbox = Part::Failed(now);
        for live in self.containers.values_mut() {
            live.here = false;
            let Some((number, Phase::Running { started_at, .. })) = &live.latest else { continue };
            let exit = sandbox::Exit {
                code: LOST_CODE,
                signal: Some(9),
                out_of_memory: false,
                started_at: *started_at,
                finished_at: now,
            };
            live.latest = Some((*number, Phase::Ended(exit)));
            (live.started, live.ready, live.condemned) = (false, false, None);
        }
    }

    /// The status of each container.
    pub fn facts(
        &self,
        uid: &str,
        pod: &core::Pod,
        wanted: &Wanted,
        now: Timestamp,
    ) -> BTreeMap<String, ContainerFacts> {
        let seen = self.seen();
        let inits_left = wanted.containers.iter().any(|container| {
            let state = self.containers.get(&container.name).and_then(|live| live.latest.as_ref());
            container.role == machine::Role::Init
                && !matches!(state, Some((_, Phase::Ended(exit))) if exit.code == 0)
        });
        let default = LiveContainer::default();
        let facts = wanted.containers.iter().map(|container| {
            let name = &container.name;
            let live = self.containers.get(name).unwrap_or(&default);
            let ended = live.ended(uid, name);
            let due = seen.containers.get(name).and_then(|seen| machine::due(seen.latest?, seen.streak));
            let waits = due.filter(|due| *due > now && machine::will_run_again(container, live.attempt()));
            let waiting = |reason: &str, message: String| ContainerState::Waiting {
                reason: reason.to_owned(),
                message,
            };
            let (state, last) = match (&live.latest, &live.waiting) {
                (Some((_, Phase::Running { started_at, .. })), _) => {
                    (ContainerState::Running(*started_at), live.last.clone())
                }
                (Some((_, Phase::Ended(_) | Phase::Failed(_))), Some((reason, message))) => {
                    (waiting(reason, message.clone()), ended.clone())
                }
                (Some((_, Phase::Ended(_) | Phase::Failed(_))), None) if live.renew => {
                    (ContainerState::default(), ended.clone())
                }
                (Some((_, Phase::Ended(_) | Phase::Failed(_))), None)
                    if waits.is_some() && wanted.ending.is_none() =>
                {
                    let message = crash_loop(live.streak, name, pod, uid);
                    (waiting("CrashLoopBackOff", message), ended.clone())
                }
                (Some((_, Phase::Ended(_) | Phase::Failed(_))), None) => match ended.clone() {
                    Some(ended) => (ContainerState::Ended(ended), live.last.clone()),
                    None => (ContainerState::default(), live.last.clone()),
                },
                (_, Some((reason, message))) => (waiting(reason, message.clone()), live.last.clone()),
                (_, None) if inits_left => (waiting("PodInitializing", String::new()), live.last.clone()),
                (_, None) => (ContainerState::default(), live.last.clone()),
            };
            let latest = live.latest.as_ref().map(|(number, _)| *number);
            let runs = live.runs.as_ref().filter(|(of, _)| latest == Some(*of)).map(|(_, kept)| kept);
            let at_hand = || live.rootfs.as_ref().map(|root| root.id.clone()).unwrap_or_default();
            let facts = ContainerFacts {
                state,
                last,
                restarts: live.restarts(),
                image: runs.map(|kept| kept.image.clone()),
                image_id: runs.map_or_else(at_hand, |kept| kept.image_id.clone()),
                id: live.latest.as_ref().map(|(number, _)| identity(uid, name, *number)).unwrap_or_default(),
                started: live.started,
                ready: live.ready,
                user: runs.map(|kept| kept.user.clone()),
            };
            (name.clone(), facts)
        });
        facts.collect()
    }
}

impl LiveContainer {
    /// Counts an end that has just been seen: of the ends in a row, those before it.
    fn note_end(&mut self, phase: &Phase, now: Timestamp) {
        let recovered =
            matches!(phase, Phase::Ended(exit) if machine::has_recovered(exit.started_at, exit.finished_at));
        self.streak = if recovered { 0 } else { self.ends_in_row };
        self.ends_in_row = self.streak + 1;
        if matches!(phase, Phase::Failed(_)) {
            self.failed_at = Some(now);
        }
        (self.ready, self.started) = (false, false);
    }
}

fn crash_loop(streak: u32, name: &str, pod: &core::Pod, uid: &str) -> String {
    let seconds = machine::backoff(streak).as_secs();
    // Go writes a duration of minutes as 1m20s.
    let delay =
        if seconds >= 60 { format!("{}m{}s", seconds / 60, seconds % 60) } else { format!("{seconds}s") };
    let metadata = &pod.metadata;
    let (pod_name, namespace) =
        (metadata.name.as_deref().unwrap_or_default(), metadata.namespace.as_deref().unwrap_or_default());
    format!("back-off {delay} restarting failed container={name} pod={pod_name}_{namespace}({uid})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_is_given_up_holds_up_nothing() {
        let name = "web".to_owned();
        let steps = [
            Step::PrepareVolumes,
            Step::CreateSandbox,
            Step::EnsureImage(name.clone()),
            Step::Start { name: name.clone(), restarts: 0 },
            Step::Stop { name, grace: Duration::ZERO, pod_ends: false },
            Step::Dismantle,
        ];
        for step in steps {
            let mut live = Live::default();
            let is_held_up = |live: &Live| {
                let container = live.containers.values().any(|live| live.busy || live.image == Part::Busy);
                container || live.volumes == Part::Busy || live.sandbox == Part::Busy
            };
            live.take_up(&step);
            assert!(is_held_up(&live), "{step:?}");
            live.give_up(&step, Timestamp::UNIX_EPOCH);
            assert!(!is_held_up(&live), "{step:?}");
        }
    }
}

//! The pod machine: `next(wanted, seen, now) -> steps`, pure.
//!
//! It knows no Kubernetes object and no kernel: a pod is its containers in order, what is seen of each, and whether
//! it is to end. Every step may be asked for again after a crash; who executes them marks what is under way.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

/// Wait before the second restart; it doubles with each further one. The first restart is at once.
const BACKOFF_FIRST: Duration = Duration::from_secs(10);
/// The longest wait.
const BACKOFF_LONGEST: Duration = Duration::from_secs(300);
/// A container that ran this long has recovered: its restarts count from zero again.
const RECOVERED_AFTER: Duration = Duration::from_secs(600);

/// What the pod is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// In the order of the pod: init containers and sidecars first.
    pub containers: Vec<Container>,
    /// The pod is to end, with this much time for it.
    pub ending: Option<Duration>,
}

/// One container of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// When it runs.
    pub role: Role,
    /// Whether it runs again after it ended.
    pub restart: Restart,
}

/// When a container runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To its end, before everything behind it.
    Init,
    /// From its place among the init containers until all mains have ended.
    Sidecar,
    /// Beside the other mains, once all inits are done.
    Main,
}

/// Whether a container runs again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Whatever it ended with.
    Always,
    /// If it failed.
    OnFailure,
    /// Not at all.
    Never,
}

/// What is seen of the pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Volumes, and what else must be there before the sandbox.
    pub volumes: Part,
    /// The sandbox.
    pub sandbox: Part,
    /// The containers, by name; one that is missing was never touched.
    pub containers: BTreeMap<String, ContainerSeen>,
}

/// Something that has to be made ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// Nobody has begun.
    #[default]
    Missing,
    /// Somebody is at it.
    Busy,
    /// It is there.
    Ready,
    /// It failed and may be tried again at this time.
    Failed(Timestamp),
}

/// What is seen of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerSeen {
    /// Its image.
    pub image: Part,
    /// The latest attempt to run it.
    pub latest: Option<Attempt>,
    /// How often it ended, or failed to start, before the latest attempt.
    pub restarts: u32,
    /// How often in a row it ended soon after its start, the latest end not counted.
    pub streak: u32,
    /// A start or stop of it is under way.
    pub busy: bool,
    /// Its startup probe (or having none) says that it is up.
    pub started: bool,
    /// A probe says that it must be stopped, with this much time for it.
    pub condemned: Option<Duration>,
    /// It is stopped to run again as it is described now, whatever its policy says.
    pub renew: bool,
    /// The latest attempt was made in the sandbox that is there.
    pub here: bool,
}

/// One attempt to run a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Being prepared.
    Starting,
    /// Runs since then.
    Running(Timestamp),
    /// Ended.
    Ended {
        /// Its exit code.
        code: i32,
        /// When it started.
        started_at: Timestamp,
        /// When it ended.
        finished_at: Timestamp,
    },
    /// Could not be started.
    Failed(Timestamp),
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make volumes and directories.
    PrepareVolumes,
    /// Make the sandbox and connect it to the network.
    CreateSandbox,
    /// Have the image of a container at hand.
    EnsureImage(String),
    /// Start a container's next attempt.
    Start {
        /// Which container.
        name: String,
        /// How often it was started before, in this sandbox or an earlier one.
        restarts: u32,
    },
    /// Stop a container: hook, signal, and the kill at the end of its time.
    Stop {
        /// Which container.
        name: String,
        /// Time until it is killed.
        grace: Duration,
        /// Whether it is stopped because the pod ends (and not because of a probe).
        pod_ends: bool,
    },
    /// Remove sandbox and volumes: nothing of the pod runs any more.
    Dismantle,
}

/// What is to be done now, and when to look again if nothing happens until then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// All of these, at the same time.
    pub steps: Vec<Step>,
    /// Look again after this long.
    pub wake: Option<Duration>,
    /// The pod has come to its end: every container that decides has ended for good.
    pub complete: bool,
}

impl Next {
    fn wake_in(&mut self, delay: Duration) {
        self.wake = Some(self.wake.map_or(delay, |before| before.min(delay)));
    }
}

/// Decides.
pub fn next(wanted: &Wanted, seen: &Seen, now: Timestamp) -> Next {
    let mut next = Next { complete: is_complete(wanted, seen), ..Next::default() };
    if next.complete || wanted.ending.is_some() {
        let grace = wanted.ending.unwrap_or(Duration::from_secs(30));
        end(wanted, seen, grace, &mut next);
        return next;
    }
    if !ready(seen.volumes, Step::PrepareVolumes, now, &mut next) {
        return next;
    }
    if !ready(seen.sandbox, Step::CreateSandbox, now, &mut next) {
        return next;
    }
    let (begun, mut held) = (has_begun(wanted, seen), false);
    for container in &wanted.containers {
        let state = seen.containers.get(&container.name).cloned().unwrap_or_default();
        if held {
            // What is behind waits with its start, and with nothing else.
            stop_condemned(container, &state, &mut next);
            continue;
        }
        let done = advance(container, &state, now, &mut next);
        held = !done
            && match container.role {
                Role::Init => true,
                // Once the mains are up, a sidecar is one beside them.
                Role::Sidecar => !begun,
                Role::Main => false,
            };
    }
    next
}

/// Whether one of the mains was started in the sandbox that is there: then the pod is initialised.
fn has_begun(wanted: &Wanted, seen: &Seen) -> bool {
    let mut mains = wanted.containers.iter().filter(|container| container.role == Role::Main);
    mains.any(|main| {
        let state = seen.containers.get(&main.name).filter(|state| state.here);
        state.is_some_and(|state| !matches!(state.latest, None | Some(Attempt::Starting)))
    })
}

/// Stops a container that runs and is not to.
fn stop_condemned(container: &Container, seen: &ContainerSeen, next: &mut Next) {
    if let (Some(Attempt::Running(_)), Some(grace), false) = (seen.latest, seen.condemned, seen.busy) {
        next.steps.push(Step::Stop { name: container.name.clone(), grace, pod_ends: false });
    }
}

/// Asks for a part; true if it is there.
fn ready(part: Part, step: Step, now: Timestamp, next: &mut Next) -> bool {
    match part {
        Part::Ready => return true,
        Part::Busy => {}
        Part::Missing => next.steps.push(step),
        Part::Failed(retry_at) => {
            if is_due(retry_at, now) {
                next.steps.push(step);
            } else {
                next.wake_in(until(retry_at, now));
            }
        }
    }
    false
}

/// Brings one container forward; true if what is behind it may begin.
fn advance(container: &Container, seen: &ContainerSeen, now: Timestamp, next: &mut Next) -> bool {
    match seen.latest {
        Some(Attempt::Starting) => false,
        Some(Attempt::Running(_)) => {
            stop_condemned(container, seen, next);
            container.role == Role::Sidecar && seen.started
        }
        Some(ended) if !seen.renew && !will_run_again(container, Some(ended)) => true,
        other => {
            if seen.busy {
                return false;
            }
            let due = other.filter(|_| !seen.renew).and_then(|attempt| due(attempt, seen.streak));
            if let Some(due) = due.filter(|due| !is_due(*due, now)) {
                next.wake_in(until(due, now));
                return false;
            }
            if ready(seen.image, Step::EnsureImage(container.name.clone()), now, next) {
                let restarts = seen.restarts + u32::from(other.is_some());
                next.steps.push(Step::Start { name: container.name.clone(), restarts });
            }
            false
        }
    }
}

/// Whether a container whose latest attempt is over (or that never ran) is to run (again).
pub fn will_run_again(container: &Container, latest: Option<Attempt>) -> bool {
    match (latest, container.restart) {
        (None | Some(Attempt::Starting | Attempt::Running(_)), _) | (_, Restart::Always) => true,
        (Some(Attempt::Ended { code, .. }), Restart::OnFailure) => code != 0,
        // What could not even be started is tried again unless the user forbids restarts.
        (Some(Attempt::Failed(_)), Restart::OnFailure) => true,
        (Some(Attempt::Ended { .. } | Attempt::Failed(_)), Restart::Never) => false,
    }
}

/// Whether a container ran so long that its earlier failures are forgotten.
pub fn has_recovered(started_at: Timestamp, finished_at: Timestamp) -> bool {
    Duration::try_from(finished_at.duration_since(started_at)).is_ok_and(|ran| ran >= RECOVERED_AFTER)
}

/// When a container may run again.
pub fn due(latest: Attempt, streak: u32) -> Option<Timestamp> {
    let (since, recovered) = match latest {
        Attempt::Ended { started_at, finished_at, .. } => {
            (finished_at, has_recovered(started_at, finished_at))
        }
        Attempt::Failed(at) => (at, false),
        Attempt::Starting | Attempt::Running(_) => return None,
    };
    Some(since + backoff(if recovered { 0 } else { streak }))
}

/// The wait after a container has ended once more, after `streak` ends in a row.
pub fn backoff(streak: u32) -> Duration {
    match streak {
        0 => Duration::ZERO,
        n => BACKOFF_FIRST.saturating_mul(2_u32.saturating_pow((n - 1).min(16))).min(BACKOFF_LONGEST),
    }
}

/// Whether everything that decides about the pod's end has ended for good: the mains, or an init that failed.
fn is_complete(wanted: &Wanted, seen: &Seen) -> bool {
    let latest = |container: &Container| seen.containers.get(&container.name).and_then(|state| state.latest);
    let over = |container: &Container| {
        let latest = latest(container);
        let renew = seen.containers.get(&container.name).is_some_and(|state| state.renew);
        !renew
            && matches!(latest, Some(Attempt::Ended { .. } | Attempt::Failed(_)))
            && !will_run_again(container, latest)
    };
    let failed = |container: &Container| {
        over(container) && !matches!(latest(container), Some(Attempt::Ended { code: 0, .. }))
    };
    let mut mains = wanted.containers.iter().filter(|container| container.role == Role::Main).peekable();
    let inits_failed =
        wanted.containers.iter().any(|container| container.role == Role::Init && failed(container));
    inits_failed || (mains.peek().is_some() && mains.all(over))
}

/// Stops what runs, mains first, then sidecars from the last to the first, then takes the pod down.
fn end(wanted: &Wanted, seen: &Seen, grace: Duration, next: &mut Next) {
    let alive = |container: &&Container| {
        seen.containers.get(&container.name).is_some_and(|state| {
            state.busy || matches!(state.latest, Some(Attempt::Starting | Attempt::Running(_)))
        })
    };
    let mut first: Vec<&Container> =
        wanted.containers.iter().filter(|container| container.role != Role::Sidecar).filter(alive).collect();
    if first.is_empty() {
        first.extend(wanted.containers.iter().rev().filter(|c| c.role == Role::Sidecar).find(alive));
    }
    for container in &first {
        let state = &seen.containers[&container.name];
        if !state.busy && matches!(state.latest, Some(Attempt::Running(_))) {
            next.steps.push(Step::Stop { name: container.name.clone(), grace, pod_ends: true });
        }
    }
    // Volumes or a sandbox in the making are waited for: half of them cannot be taken down.
    let busy = seen.sandbox == Part::Busy || seen.volumes == Part::Busy;
    let there = seen.sandbox != Part::Missing || seen.volumes != Part::Missing;
    if first.is_empty() && !busy && there {
        next.steps.push(Step::Dismantle);
    }
}

/// Whether it is time. Nothing is put off for longer than the longest wait: what seems to be was put off before the
/// clock was set back.
pub fn is_due(at: Timestamp, now: Timestamp) -> bool {
    at <= now || until(at, now) > BACKOFF_LONGEST
}

fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn container(name: &str, role: Role, restart: Restart) -> Container {
        Container { name: name.into(), role, restart }
    }

    fn wanted(containers: &[(&str, Role, Restart)]) -> Wanted {
        let containers = containers.iter().map(|(name, role, restart)| container(name, *role, *restart));
        Wanted { containers: containers.collect(), ending: None }
    }

    fn seen(containers: &[(&str, Option<Attempt>, u32)]) -> Seen {
        let state = |latest: &Option<Attempt>, restarts: &u32| ContainerSeen {
            image: Part::Ready,
            latest: *latest,
            restarts: *restarts,
            streak: *restarts,
            started: true,
            here: true,
            ..ContainerSeen::default()
        };
        let containers = containers.iter().map(|(name, latest, n)| ((*name).to_owned(), state(latest, n)));
        Seen { volumes: Part::Ready, sandbox: Part::Ready, containers: containers.collect() }
    }

    fn start(name: &str, restarts: u32) -> Step {
        Step::Start { name: name.into(), restarts }
    }

    fn ended(code: i32, second: i64) -> Option<Attempt> {
        Some(Attempt::Ended { code, started_at: at(second - 1), finished_at: at(second) })
    }

    #[test]
    fn parts_come_before_containers() {
        let wanted = wanted(&[("a", Role::Main, Restart::Always)]);
        let mut seen = Seen::default();
        assert_eq!(next(&wanted, &seen, at(0)).steps, [Step::PrepareVolumes]);
        seen.volumes = Part::Ready;
        assert_eq!(next(&wanted, &seen, at(0)).steps, [Step::CreateSandbox]);
        seen.sandbox = Part::Failed(at(5));
        assert_eq!(
            next(&wanted, &seen, at(3)),
            Next { wake: Some(Duration::from_secs(2)), ..Next::default() }
        );
        seen.sandbox = Part::Ready;
        assert_eq!(next(&wanted, &seen, at(0)).steps, [Step::EnsureImage("a".into())]);
    }

    #[test]
    fn inits_run_in_order_and_sidecars_stay() {
        let wanted = wanted(&[
            ("i1", Role::Init, Restart::OnFailure),
            ("s", Role::Sidecar, Restart::Always),
            ("i2", Role::Init, Restart::OnFailure),
            ("m1", Role::Main, Restart::Always),
            ("m2", Role::Main, Restart::Always),
        ]);
        let running = Some(Attempt::Running(at(1)));
        let check = |states: &[(&str, Option<Attempt>, u32)], expect: &[Step]| {
            let all = ["i1", "s", "i2", "m1", "m2"];
            let full: Vec<_> = all
                .iter()
                .map(|name| states.iter().copied().find(|(n, ..)| n == name).unwrap_or((name, None, 0)))
                .collect();
            assert_eq!(next(&wanted, &seen(&full), at(9)).steps, expect);
        };
        check(&[], &[start("i1", 0)]);
        check(&[("i1", running, 0)], &[]);
        check(&[("i1", ended(0, 2), 0)], &[start("s", 0)]);
        check(&[("i1", ended(0, 2), 0), ("s", running, 0)], &[start("i2", 0)]);
        check(
            &[("i1", ended(0, 2), 0), ("s", running, 0), ("i2", ended(0, 3), 0)],
            &[start("m1", 0), start("m2", 0)],
        );
        check(&[("i1", ended(1, 9), 0)], &[start("i1", 1)]);
    }

    #[test]
    fn restarts_back_off_and_recover() {
        let wanted = wanted(&[("a", Role::Main, Restart::Always)]);
        assert_eq!(next(&wanted, &seen(&[("a", ended(1, 100), 0)]), at(100)).steps, [start("a", 1)]);
        let waiting = next(&wanted, &seen(&[("a", ended(1, 100), 3)]), at(110));
        assert_eq!((waiting.steps.len(), waiting.wake), (0, Some(Duration::from_secs(30))));
        assert_eq!(backoff(40), BACKOFF_LONGEST);
        let long = Some(Attempt::Ended { code: 1, started_at: at(0), finished_at: at(700) });
        assert_eq!(next(&wanted, &seen(&[("a", long, 7)]), at(700)).steps, [start("a", 8)]);
    }

    #[test]
    fn what_was_put_off_before_the_clock_was_set_back_is_not_put_off_for_longer() {
        let wanted = wanted(&[("a", Role::Main, Restart::Always)]);
        let crashed = seen(&[("a", ended(1, 10_000), 3)]);
        assert_eq!(next(&wanted, &crashed, at(10_001)).steps, []);
        assert_eq!(next(&wanted, &crashed, at(10_000 - 3600)).steps, [start("a", 4)]);
        let failed = Seen { volumes: Part::Failed(at(10_000)), ..Seen::default() };
        assert_eq!(next(&wanted, &failed, at(9_998)).steps, []);
        assert_eq!(next(&wanted, &failed, at(10_000 - 3600)).steps, [Step::PrepareVolumes]);
    }

    #[test]
    fn a_sidecar_that_waits_holds_up_nobody_once_the_mains_were_started() {
        let wanted = wanted(&[
            ("s", Role::Sidecar, Restart::Always),
            ("m", Role::Main, Restart::Always),
            ("l", Role::Main, Restart::Always),
        ]);
        let running = Some(Attempt::Running(at(1)));
        // The sidecar has crashed often and waits, a main has ended once, the other is to be stopped.
        let mut seen = seen(&[("s", ended(1, 9), 4), ("m", ended(1, 9), 0), ("l", running, 0)]);
        let condemned = Some(Duration::from_secs(5));
        seen.containers.get_mut("l").unwrap().condemned = condemned;
        let stop = Step::Stop { name: "l".into(), grace: Duration::from_secs(5), pod_ends: false };
        assert_eq!(next(&wanted, &seen, at(10)).steps, [start("m", 1), stop.clone()]);
        // In a sandbox that was made anew the sidecar comes first; what is to be stopped is stopped nevertheless.
        for name in ["m", "l"] {
            seen.containers.get_mut(name).unwrap().here = false;
        }
        assert_eq!(next(&wanted, &seen, at(10)).steps, [stop]);
    }

    #[test]
    fn what_is_to_run_as_it_is_described_now_runs_again_at_once_whatever_its_policy_says() {
        for policy in [Restart::Always, Restart::OnFailure, Restart::Never] {
            let wanted = wanted(&[("a", Role::Main, policy)]);
            let mut seen = seen(&[("a", ended(0, 9), 3)]);
            seen.containers.get_mut("a").unwrap().renew = true;
            let next = next(&wanted, &seen, at(10));
            assert_eq!((next.steps, next.complete), (vec![start("a", 4)], false), "{policy:?}");
        }
    }

    /// A container that ends a second after each start, under a clock that jumps from one wake to the next.
    #[test]
    fn a_crashing_container_waits_twice_as_long_each_time() {
        let wanted = wanted(&[("a", Role::Main, Restart::Always)]);
        let (mut now, mut waits) = (at(0), Vec::new());
        for restarts in 0..9 {
            let ended_at = now + Duration::from_secs(1);
            let crashed = Some(Attempt::Ended { code: 1, started_at: now, finished_at: ended_at });
            let seen = seen(&[("a", crashed, restarts)]);
            now = ended_at;
            let asked = next(&wanted, &seen, now);
            now += asked.wake.unwrap_or_default();
            waits.push(now.duration_since(ended_at).as_secs());
            if let Some(wake) = asked.wake {
                let early = now - Duration::from_millis(1);
                assert!(asked.steps.is_empty() && next(&wanted, &seen, early).steps.is_empty(), "{wake:?}");
            }
            assert_eq!(next(&wanted, &seen, now).steps, [start("a", restarts + 1)]);
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn a_pod_that_never_restarts_completes() {
        let wanted = wanted(&[("s", Role::Sidecar, Restart::Always), ("a", Role::Main, Restart::Never)]);
        let running = Some(Attempt::Running(at(1)));
        let done = next(&wanted, &seen(&[("s", running, 0), ("a", ended(3, 5), 0)]), at(6));
        assert!(done.complete);
        assert!(matches!(&done.steps[..], [Step::Stop { name, pod_ends: true, .. }] if name == "s"));
        let done = next(&wanted, &seen(&[("s", ended(0, 6), 0), ("a", ended(3, 5), 0)]), at(7));
        assert_eq!(done.steps, [Step::Dismantle]);
    }

    #[test]
    fn mains_end_before_sidecars_and_those_backwards() {
        let mut wanted = wanted(&[
            ("s1", Role::Sidecar, Restart::Always),
            ("s2", Role::Sidecar, Restart::Always),
            ("a", Role::Main, Restart::Always),
        ]);
        wanted.ending = Some(Duration::from_secs(7));
        let running = Some(Attempt::Running(at(1)));
        let stops = |states: &[(&str, Option<Attempt>, u32)]| {
            let steps = next(&wanted, &seen(states), at(9)).steps.into_iter();
            steps
                .map(|step| if let Step::Stop { name, .. } = step { name } else { format!("{step:?}") })
                .collect::<Vec<_>>()
        };
        assert_eq!(stops(&[("s1", running, 0), ("s2", running, 0), ("a", running, 0)]), ["a"]);
        assert_eq!(stops(&[("s1", running, 0), ("s2", running, 0), ("a", ended(0, 2), 0)]), ["s2"]);
        assert_eq!(stops(&[("s1", running, 0), ("s2", ended(0, 2), 0), ("a", ended(0, 2), 0)]), ["s1"]);
        assert_eq!(
            stops(&[("s1", ended(0, 2), 0), ("s2", ended(0, 2), 0), ("a", ended(0, 2), 0)]),
            ["Dismantle"]
        );
    }

    #[test]
    fn a_condemned_container_is_stopped_once() {
        let wanted = wanted(&[("a", Role::Main, Restart::Always)]);
        let mut seen = seen(&[("a", Some(Attempt::Running(at(1))), 0)]);
        let state = seen.containers.get_mut("a").unwrap();
        state.condemned = Some(Duration::from_secs(3));
        assert_eq!(next(&wanted, &seen, at(2)).steps.len(), 1);
        seen.containers.get_mut("a").unwrap().busy = true;
        assert!(next(&wanted, &seen, at(2)).steps.is_empty());
    }
}

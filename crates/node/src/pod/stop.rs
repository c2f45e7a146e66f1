//! The steps that take a pod down.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use sandbox::{Attempt, Phase, Sandbox};
use tracing::warn;

use crate::pod::deadline::Deadline;
use crate::pod::desired::{Desired, find};
use crate::pod::last_words;
use crate::pod::live::{Live, identity};
use crate::pod::machine::Part;
use crate::pod::worker::{DEFINITION_CHANGED, RETRY, Worker};
use crate::probe::{Action, Failure, Place};

/// The least time between the signal and the kill, however long the hook took (upstream's minimum).
const LEAST_GRACE: Duration = Duration::from_secs(2);

impl Worker {
    pub(super) async fn stop_container(
        self: &Arc<Self>,
        desired: &Desired,
        name: &str,
        grace: Duration,
        pod_ends: bool,
    ) {
        let sandbox = self.sandbox();
        let number = self.latest_attempt(name).filter(|(_, runs)| *runs).map(|(number, _)| number);
        if let (Some(sandbox), Some(number)) = (sandbox, number) {
            let attempt = Attempt::new(name, number);
            let culprit = self.live().containers.get(name).and_then(|live| live.condemned_by);
            let message = match culprit.filter(|_| !pod_ends) {
                Some(DEFINITION_CHANGED) => {
                    format!("Container {name} {DEFINITION_CHANGED}, will be restarted")
                }
                Some(what) => format!("Container {name} failed {what}, will be restarted"),
                None => format!("Stopping container {name}"),
            };
            self.note(Some(name), false, "Killing", message);
            self.end(desired, &sandbox, &attempt, grace).await;
        }
        self.change(|live| {
            let container = live.containers.entry(name.to_owned()).or_default();
            (container.busy, container.condemned, container.condemned_by) = (false, None, None);
        });
    }

    async fn end(&self, desired: &Desired, sandbox: &Sandbox, attempt: &Attempt, grace: Duration) {
        let clock = &self.context.clock;
        let mut deadline = Deadline::new(self, grace);
        let container = find(desired, &attempt.name);
        let lifecycle = container.and_then(|container| container.lifecycle.as_ref());
        let hook = lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref()).and_then(Action::of_hook);
        if let (Some(hook), Some(container)) = (hook, container) {
            let ip = self.live().ips.first().copied();
            let place = Place { sandbox, attempt, container, ip };
            let outcome = tokio::select! {
                // What comes to its end in time is asked first.
                biased;
                outcome = hook.run(&place, clock, grace) => outcome,
                () = deadline.passed() => Err(Failure("its time was cut short".to_owned())),
            };
            if let Err(failure) = outcome {
                let message = format!("PreStopHook failed: {}", failure.0);
                self.note(Some(&attempt.name), true, "FailedPreStopHook", message);
            }
        }
        let asked = lifecycle.and_then(|lifecycle| lifecycle.stop_signal.clone());
        let of_image = {
            let live = self.live();
            let runs = live.containers.get(&attempt.name).and_then(|container| container.runs.as_ref());
            runs.filter(|(of, _)| *of == attempt.number).and_then(|(_, kept)| kept.stop_signal.clone())
        };
        let signal = asked.or(of_image).and_then(|name| number(&name)).unwrap_or(Signal::TERM.as_raw());
        if let Err(error) = sandbox.signal(attempt, signal).await {
            warn!(container = %attempt, %error, "a container could not be told to end");
        }
        deadline.extend_to(LEAST_GRACE.min(grace));
        let in_time = tokio::select! {
            () = ended(sandbox, attempt) => true,
            () = deadline.passed() => false,
        };
        if !in_time {
            if let Err(error) = sandbox.kill(attempt).await {
                warn!(container = %attempt, %error, "a container could not be killed");
            }
            ended(sandbox, attempt).await;
        }
    }

    /// Takes sandbox, volumes and files away; logs stay until the pod's object goes.
    pub(super) async fn dismantle(self: &Arc<Self>, desired: &Desired) {
        // What it says last must not be lost with it.
        self.observe(&mut self.live(), desired, self.context.clock.now());
        let sandbox = self.sandbox();
        let mut failure = None;
        if let Some(sandbox) = sandbox {
            self.live().handle = None;
            if let Err(error) = sandbox.remove().await {
                failure = Some(error.to_string());
                self.live().handle = Some(sandbox);
            }
        }
        if failure.is_none() {
            self.context.network.release(&self.uid);
            let worker = self.clone();
            let removed = tokio::task::spawn_blocking(move || {
                // Who writes volumes has done so, or sees that they are not wanted any more.
                let _turn = worker.disk_turn();
                crate::volume::remove(&worker.directory())
            })
            .await;
            failure = match removed {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
        }
        match failure {
            None => {
                self.context.references.release(&self.uid);
                self.change(|live| {
                    (live.volumes, live.sandbox, live.dismantled) = (Part::Missing, Part::Missing, true);
                    live.volume_paths.clear();
                });
            }
            Some(why) => {
                self.note(None, true, "FailedKillPod", format!("error killing pod: {why}"));
                let (worker, retry) = (self.clone(), RETRY);
                self.context.clock.sleep(retry).await;
                let now = self.context.clock.now();
                worker.change(|live| (live.volumes, live.sandbox) = (Part::Failed(now), Part::Failed(now)));
            }
        }
    }

    /// Reads what a container has left as its last words: little, however much it has written; done while the state
    /// is held.
    pub(super) fn read_message(&self, live: &mut Live, desired: &Desired, name: &str, number: u32) {
        let mut message = last_words::of_file(&self.records(name, number).termination());
        let container = find(desired, name);
        let from_logs = container.and_then(|container| container.termination_message_policy.as_deref());
        let failed = live.containers.get(name).and_then(|container| container.latest.as_ref());
        let failed = failed.is_none_or(|(_, phase)| !matches!(phase, Phase::Ended(exit) if exit.code == 0));
        if message.is_empty() && from_logs == Some("FallbackToLogsOnError") && failed {
            message = last_words::of_log(&self.log_path(desired, name, number));
        }
        if let Some(container) = live.containers.get_mut(name) {
            // To an agent that has just begun, an attempt before the latest is new as well.
            let before = container.last.as_mut().filter(|last| last.id == identity(&self.uid, name, number));
            if let Some(before) = before {
                before.message.clone_from(&message);
            }
            container.message = Some((number, message));
        }
    }
}

async fn ended(sandbox: &Sandbox, attempt: &Attempt) {
    let mut changes = sandbox.watch();
    // The sandbox keeps its sender as long as we hold it; an error would mean that all is over anyway.
    let _ = changes
        .wait_for(|state| state.lost || state.get(attempt).is_none_or(|container| !container.is_running()))
        .await;
}

/// Names of signals, without `SIG`, at the kernel's numbers (the same on x86-64 and aarch64).
const SIGNALS: [(&str, i32); 36] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("RTMIN", RTMIN),
    ("RTMAX", RTMAX),
];
/// The first real-time signal that C libraries leave to programs, and the last.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of a signal's name, as images and pods write it: `SIGTERM`, `TERM`, `SIGRTMIN+3` or `15`.
fn number(name: &str) -> Option<i32> {
    let valid = |number: i32| (1..=RTMAX).contains(&number).then_some(number);
    if let Ok(number) = name.parse::<i32>() {
        return valid(number);
    }
    let short = name.strip_prefix("SIG").unwrap_or(name);
    let real_time = |offset: Option<i32>| offset.filter(|number| (RTMIN..=RTMAX).contains(number));
    if let Some(offset) = short.strip_prefix("RTMIN+") {
        return real_time(offset.parse::<u8>().ok().map(|offset| RTMIN + i32::from(offset)));
    }
    if let Some(offset) = short.strip_prefix("RTMAX-") {
        return real_time(offset.parse::<u8>().ok().map(|offset| RTMAX - i32::from(offset)));
    }
    SIGNALS.iter().find(|(known, _)| *known == short).map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_in_every_spelling() {
        assert_eq!(number("SIGTERM"), Some(15));
        assert_eq!(number("QUIT"), Some(3));
        assert_eq!(number("9"), Some(9));
        assert_eq!(number("SIGRTMIN+3"), Some(37));
        assert_eq!(
            (number("SIGRTMIN"), number("SIGRTMAX-14"), number("SIGRTMAX")),
            (Some(34), Some(50), Some(64))
        );
        assert_eq!((number("SIGABRT"), number("SIGSYS"), number("SIGRTMAX-40")), (Some(6), Some(31), None));
        assert_eq!(number("SIGNOPE"), None);
        assert_eq!(number("99"), None);
    }
}

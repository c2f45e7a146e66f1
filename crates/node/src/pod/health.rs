//! The probes of a running container.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use sandbox::{Attempt, Phase};

use crate::pod::live::LiveContainer;
use crate::pod::worker::Worker;
use crate::probe::{Action, Place};

/// Time to stop a container that a probe has condemned, if nothing says otherwise.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    /// As the Event of a kill says it.
    fn culprit(self) -> &'static str {
        match self {
            Self::Startup => "startup probe",
            Self::Liveness => "liveness probe",
            Self::Readiness => "readiness probe",
        }
    }
}

impl Worker {
    /// Runs the probes of an attempt until it is over.
    pub(super) async fn probe(self: &Arc<Self>, container: &core::Container, attempt: &Attempt) {
        let already_up = self.live().containers.get(&attempt.name).is_some_and(|live| live.started);
        if let Some(probe) = container.startup_probe.as_ref().filter(|_| !already_up)
            && !self.run_probe(Kind::Startup, probe, container, attempt).await
        {
            return;
        }
        let has_readiness = container.readiness_probe.is_some();
        let current = self.with(attempt, |live| {
            live.started = true;
            live.ready = live.ready || !has_readiness;
        });
        if !current {
            return;
        }
        let run = async |kind, probe: &Option<core::Probe>| {
            if let Some(probe) = probe {
                self.run_probe(kind, probe, container, attempt).await;
            }
        };
        join(
            run(Kind::Liveness, &container.liveness_probe),
            run(Kind::Readiness, &container.readiness_probe),
        )
        .await;
    }

    /// Asks again and again. A startup probe ends with its success (true); all end with the attempt (false).
    async fn run_probe(
        self: &Arc<Self>,
        kind: Kind,
        probe: &core::Probe,
        container: &core::Container,
        attempt: &Attempt,
    ) -> bool {
        let Some(action) = Action::of_probe(probe) else { return false };
        let seconds = |value: Option<i32>, default: i32| {
            Duration::from_secs(value.unwrap_or(default).max(0).unsigned_abs().into())
        };
        let (period, timeout) = (seconds(probe.period_seconds, 10), seconds(probe.timeout_seconds, 1));
        let needed = |value: Option<i32>, default: i32| value.unwrap_or(default).max(1).unsigned_abs();
        let (to_succeed, to_fail) = (needed(probe.success_threshold, 1), needed(probe.failure_threshold, 3));
        let (mut successes, mut failures) = (0, 0);
        let delay =
            left_of(seconds(probe.initial_delay_seconds, 0), self.since(attempt), self.context.clock.now());
        if self.context.stop.or(self.context.clock.sleep(delay)).await.is_none() {
            return false;
        }
        loop {
            let Some(sandbox) = self.sandbox().filter(|_| self.is_current(attempt)) else { return false };
            let ip = self.live().ips.first().copied();
            let place = Place { sandbox: &sandbox, attempt, container, ip };
            let result = action.run(&place, &self.context.clock, timeout).await;
            if !self.is_current(attempt) {
                return false;
            }
            match result {
                Ok(()) => {
                    (successes, failures) = (successes + 1, 0);
                    if successes >= to_succeed {
                        match kind {
                            Kind::Startup => return true,
                            Kind::Readiness => {
                                self.with(attempt, |live| live.ready = true);
                            }
                            Kind::Liveness => {}
                        }
                    }
                }
                Err(failure) => {
                    (successes, failures) = (0, failures + 1);
                    let message = format!("{} probe failed: {}", kind.name(), failure.0);
                    self.note(Some(&container.name), true, "Unhealthy", message);
                    if failures >= to_fail {
                        if kind == Kind::Readiness {
                            self.with(attempt, |live| live.ready = false);
                        } else {
                            self.condemn(attempt, self.grace(probe), kind.culprit());
                            return false;
                        }
                    }
                }
            }
            if self.context.stop.or(self.context.clock.sleep(period)).await.is_none() {
                return false;
            }
        }
    }

    fn grace(&self, probe: &core::Probe) -> Duration {
        let desired = self.desired();
        let of_pod = desired.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        let seconds = probe.termination_grace_period_seconds.or(of_pod);
        seconds.map_or(DEFAULT_GRACE, |seconds| Duration::from_secs(seconds.max(1).unsigned_abs()))
    }

    /// Has a container stopped, and started again if its policy says so. `by` goes into the Event.
    pub(super) fn condemn(&self, attempt: &Attempt, grace: Duration, by: &'static str) {
        self.with(attempt, |live| (live.condemned, live.condemned_by) = (Some(grace), Some(by)));
    }

    /// Since when an attempt has been running.
    fn since(&self, attempt: &Attempt) -> Option<Timestamp> {
        match self.live().containers.get(&attempt.name)?.latest.as_ref()? {
            (number, Phase::Running { started_at, .. }) if *number == attempt.number => Some(*started_at),
            _ => None,
        }
    }

    fn is_current(&self, attempt: &Attempt) -> bool {
        self.latest_attempt(&attempt.name) == Some((attempt.number, true))
    }

    /// Changes what is known of an attempt, if it still runs.
    fn with(&self, attempt: &Attempt, change: impl FnOnce(&mut LiveContainer)) -> bool {
        self.change(|live| {
            let Some(container) = live.containers.get_mut(&attempt.name) else { return false };
            let current = matches!(&container.latest, Some((number, Phase::Running { .. })) if *number == attempt.number);
            if current {
                change(container);
            }
            current
        })
    }
}

/// What is left of a delay that begins with the container: whatever else came before the probe counts as waiting.
fn left_of(delay: Duration, since: Option<Timestamp>, now: Timestamp) -> Duration {
    // Under a clock that was set back the container has just begun.
    let age = since.and_then(|since| Duration::try_from(now.duration_since(since)).ok());
    delay.saturating_sub(age.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_delay_counts_from_the_start_of_the_container() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let check = |since: Option<i64>, now, left| {
            assert_eq!(left_of(Duration::from_secs(20), since.map(at), at(now)), Duration::from_secs(left));
        };
        check(Some(100), 100, 20);
        check(Some(100), 115, 5);
        check(Some(100), 200, 0);
        check(Some(100), 50, 20);
        check(None, 100, 20);
    }
}

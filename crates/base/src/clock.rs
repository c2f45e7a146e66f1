//! The only place that asks the machine for the time.

use std::time::Duration;

use jiff::Timestamp;

/// Wall time, monotonic time and sleeping, as one value that is passed in.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System {
        started: std::time::Instant,
    },
    /// Follows tokio's clock, which a simulation pauses and advances.
    Simulated {
        epoch: Timestamp,
        started: tokio::time::Instant,
    },
}

#[expect(clippy::disallowed_methods, reason = "this is the place that the lint points to")]
impl Clock {
    /// The machine's own clock.
    pub fn system() -> Self {
        Self(Source::System { started: std::time::Instant::now() })
    }

    /// A clock that starts at `epoch` and moves with tokio's (paused) time. Call it inside a runtime.
    pub fn simulated(epoch: Timestamp) -> Self {
        Self(Source::Simulated { epoch, started: tokio::time::Instant::now() })
    }

    /// Wall time: for timestamps that are shown or stored. It may jump.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System { .. } => Timestamp::now(),
            Source::Simulated { epoch, started } => *epoch + started.elapsed(),
        }
    }

    /// Time since this clock was made, never running backwards: for deadlines and durations.
    pub fn monotonic(&self) -> Duration {
        match &self.0 {
            Source::System { started } => started.elapsed(),
            Source::Simulated { started, .. } => started.elapsed(),
        }
    }

    /// Returns after `duration` has passed on this clock.
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Runs `future` for at most `duration`; `None` if it did not finish.
    pub async fn timeout<F: Future>(&self, duration: Duration, future: F) -> Option<F::Output> {
        tokio::time::timeout(duration, future).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn simulated_wall_time_moves_with_sleep() {
        let epoch = Timestamp::UNIX_EPOCH;
        let clock = Clock::simulated(epoch);
        clock.sleep(Duration::from_secs(90)).await;
        assert_eq!(clock.now(), epoch + Duration::from_secs(90));
        assert_eq!(clock.monotonic(), Duration::from_secs(90));
    }
}

//! The only place that asks the machine for the time.

use std::os::fd::OwnedFd;
use std::time::Duration;

use jiff::Timestamp;
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

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

    /// Tells when the wall clock is set, from now on. Call it inside a runtime.
    pub fn jumps(&self) -> Jumps {
        match &self.0 {
            Source::System { .. } => Jumps(jump_timer().ok()),
            Source::Simulated { .. } => Jumps(None),
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

/// Tells when the wall clock was set, or the machine woke up, and did not just go on: what was decided by wall time must
/// be looked at anew. A simulated clock is never set.
pub struct Jumps(Option<AsyncFd<OwnedFd>>);

impl Jumps {
    /// Returns after the next time that the clock was set; never where the kernel cannot tell.
    pub async fn next(&self) {
        let Some(timer) = &self.0 else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = timer.readable().await else { return std::future::pending().await };
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut [0; 8])?));
            match read {
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::CANCELED.raw_os_error()) => return,
                Ok(_) => return std::future::pending().await,
                // Nothing to read yet.
                Err(_) => {}
            }
        }
    }
}

/// A timer that never ends, and that the kernel cancels whenever the wall clock is set.
fn jump_timer() -> std::io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
    let never = Itimerspec {
        it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: Timespec { tv_sec: i64::MAX, tv_nsec: 0 },
    };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &never)?;
    #[expect(
        deprecated,
        reason = "it is unsound for types that change their descriptor, which this one does not"
    )]
    AsyncFd::new(timer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_clock_that_only_goes_on_does_not_jump() {
        let clock = Clock::system();
        let jumps = clock.jumps();
        assert!(jumps.0.is_some(), "the kernel tells of jumps");
        assert_eq!(clock.timeout(Duration::from_millis(20), jumps.next()).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn simulated_wall_time_moves_with_sleep() {
        let epoch = Timestamp::UNIX_EPOCH;
        let clock = Clock::simulated(epoch);
        clock.sleep(Duration::from_secs(90)).await;
        assert_eq!(clock.now(), epoch + Duration::from_secs(90));
        assert_eq!(clock.monotonic(), Duration::from_secs(90));
    }
}

//! Until when a container may end by itself. A later word about the pod's end shortens the time, and never prolongs it.

use std::time::Duration;

use base::Clock;
use tokio::sync::watch;

use crate::pod::desired::{Desired, wanted};
use crate::pod::worker::Worker;

/// The end of a container's time.
pub struct Deadline {
    clock: Clock,
    /// On the clock's monotonic scale.
    due: Duration,
    /// The time for the pod's end as it was last heard of, if the pod is to end.
    heard: Option<Duration>,
    changes: watch::Receiver<Desired>,
}

impl Deadline {
    /// In `grace` from now, unless something else is heard until then.
    pub fn new(worker: &Worker, grace: Duration) -> Self {
        let (clock, mut changes) = (worker.context.clock.clone(), worker.changes());
        let heard = wanted(&changes.borrow_and_update()).ending;
        Self { due: clock.monotonic() + grace, clock, heard, changes }
    }

    /// At least this long from now.
    pub fn extend_to(&mut self, least: Duration) {
        self.due = self.due.max(self.clock.monotonic() + least);
    }

    /// Returns at the end of the time. May be dropped and asked for again.
    pub async fn passed(&mut self) {
        loop {
            let left = self.due.saturating_sub(self.clock.monotonic());
            match self.clock.timeout(left, self.changes.changed()).await {
                None => return,
                Some(Ok(())) => self.hear(),
                // The pod's worker is gone, so nothing more will be heard.
                Some(Err(_)) => return self.clock.sleep(left).await,
            }
        }
    }

    fn hear(&mut self) {
        let ending = wanted(&self.changes.borrow_and_update()).ending;
        if let Some(grace) = ending.filter(|_| ending != self.heard) {
            self.due = self.due.min(self.clock.monotonic() + grace);
        }
        self.heard = ending;
    }

    /// Returns at the end of the time of a pod that is to end, and never while it is not.
    pub async fn of_the_pod(worker: &Worker) {
        let mut changes = worker.changes();
        let grace = loop {
            let ending = wanted(&changes.borrow_and_update()).ending;
            if let Some(grace) = ending {
                break grace;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        };
        Self::new(worker, grace).passed().await;
    }
}

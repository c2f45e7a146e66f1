//! Tasks that are told to stop and are joined.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

/// Says when to stop. Cheap to clone; a child stops with its parent and can be stopped alone.
#[derive(Clone, Debug, Default)]
pub struct Stop(CancellationToken);

impl Stop {
    /// Resolves once stopping has begun.
    pub async fn stopped(&self) {
        self.0.cancelled().await;
    }

    /// Whether stopping has begun.
    pub fn is_stopped(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Runs `future` until it ends (`Some`) or stopping begins (`None`).
    pub async fn or<F: Future>(&self, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.0.cancelled() => None,
            output = future => Some(output),
        }
    }
}

/// The hand that pulls the signal of a [`Stop`].
#[derive(Clone, Debug, Default)]
pub struct Stopper(CancellationToken);

impl Stopper {
    /// A stopper of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// A stopper whose signal also comes when `parent` stops.
    pub fn child(parent: &Stop) -> Self {
        Self(parent.0.child_token())
    }

    /// The signal.
    pub fn signal(&self) -> Stop {
        Stop(self.0.clone())
    }

    /// Begins stopping; calling it again changes nothing.
    pub fn stop(&self) {
        self.0.cancel();
    }
}

/// Starts tasks and joins them. A panic in a task is logged and ends that task alone.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts `future` on the current runtime under `name`, which a panic is logged with.
    #[expect(clippy::disallowed_methods, reason = "this is the place that the lint points to")]
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.tracker.track_future(async move {
            if let Err(panic) = AssertUnwindSafe(future).catch_unwind().await {
                let message = crate::panics::caught(panic);
                error!(task = name, message, "a task panicked; this is a bug");
            }
        }));
    }

    /// Waits until every task has ended, at most `deadline`; returns whether all did.
    pub async fn join(&self, deadline: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }

    /// How many tasks are running.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stop_ends_tasks_and_join_sees_it() {
        let (stopper, tasks) = (Stopper::new(), Tasks::new());
        let stop = stopper.signal();
        tasks.spawn("waits", async move { stop.stopped().await });
        tasks.spawn("panics", async { panic!("on purpose") });
        stopper.stop();
        assert!(tasks.join(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn a_child_stops_with_its_parent_but_not_the_other_way() {
        let parent = Stopper::new();
        let child = Stopper::child(&parent.signal());
        child.stop();
        assert!(!parent.signal().is_stopped());
        let second = Stopper::child(&parent.signal());
        parent.stop();
        assert!(second.signal().is_stopped());
        assert_eq!(second.signal().or(std::future::pending::<()>()).await, None);
    }
}

//! Answers that last live in the task of their connection.
//!
//! hyper makes every request of an HTTP/2 connection a task of its own, so that all cores share in the work on them. A
//! watch has no work to share: it waits, and when something happens all watches of a connection have the same to say
//! through the same connection. As tasks of their own they would all come for its lock at once, from all cores, and
//! wake it once each. So an answer whose end is not known moves to its connection as soon as it has begun; in each of
//! its turns the connection lets all say what they have to say, and then writes all of it.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use base::Tasks;
use futures::stream::FuturesUnordered;
use futures::task::AtomicWaker;
use futures::{FutureExt as _, StreamExt as _};

tokio::task_local! {
    /// Whether the request that is polled has an answer that lasts.
    static LASTS: Cell<bool>;
}

/// One request with its answer, up to its end.
type Exchange = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Says that the answer of the request that is being polled lasts. Over HTTP/1.1, where an answer has its connection
/// for itself, nobody listens.
pub(super) fn mark() {
    let _ = LASTS.try_with(|lasts| lasts.set(true));
}

/// Where answers wait for the task of their connection.
#[derive(Default)]
struct Arrivals {
    exchanges: Mutex<Vec<Exchange>>,
    waker: AtomicWaker,
}

/// The answers of a connection that last.
pub(super) struct Lasting {
    arrivals: Arc<Arrivals>,
    exchanges: FuturesUnordered<Exchange>,
}

/// Starts hyper's HTTP/2 streams as tasks of this server, until they last.
#[derive(Clone)]
pub(super) struct Spawner {
    tasks: Tasks,
    arrivals: Arc<Arrivals>,
}

/// What a connection polls, and what its requests are started with.
pub(super) fn lasting(tasks: &Tasks) -> (Lasting, Spawner) {
    let arrivals = Arc::new(Arrivals::default());
    let spawner = Spawner { tasks: tasks.clone(), arrivals: Arc::clone(&arrivals) };
    (Lasting { arrivals, exchanges: FuturesUnordered::new() }, spawner)
}

impl Lasting {
    /// Lets everyone who has something to say say it.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) {
        self.arrivals.waker.register(context.waker());
        self.exchanges.extend(self.arrivals.take());
        while let Poll::Ready(Some(())) = self.exchanges.poll_next_unpin(context) {}
    }
}

impl Arrivals {
    fn take(&self) -> Vec<Exchange> {
        std::mem::take(&mut *self.exchanges.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, exchange: Exchange) {
        self.exchanges.lock().unwrap_or_else(PoisonError::into_inner).push(exchange);
        self.waker.wake();
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, exchange: F) {
        let arrivals = Arc::clone(&self.arrivals);
        let mut exchange: Exchange = Box::pin(exchange);
        self.tasks.spawn("http2 stream", async move {
            let lasts = poll_fn(|context| {
                LASTS.sync_scope(Cell::new(false), || match exchange.as_mut().poll(context) {
                    Poll::Ready(()) => Poll::Ready(false),
                    Poll::Pending if LASTS.with(Cell::get) => Poll::Ready(true),
                    Poll::Pending => Poll::Pending,
                })
            });
            if lasts.await {
                arrivals.add(Box::pin(contained(exchange)));
            }
        });
    }
}

/// The same, ending alone if it panics.
async fn contained(exchange: Exchange) {
    if AssertUnwindSafe(exchange).catch_unwind().await.is_err() {
        tracing::error!("an answer that lasts panicked; this is a bug");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::rt::Executor as _;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// Polls what lasts until `done` says that it is enough.
    async fn drive(lasting: &mut Lasting, done: impl Fn() -> bool) {
        let turns = poll_fn(|context| {
            lasting.poll(context);
            if done() { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::time::timeout(Duration::from_secs(10), turns).await.expect("what lasts is polled");
    }

    #[tokio::test]
    async fn what_lasts_is_polled_by_its_connection_and_nothing_else_is() {
        let (mut connection, spawner) = lasting(&Tasks::new());
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let said = Arc::new(AtomicUsize::new(0));
        let (short, long) = (Arc::clone(&said), Arc::clone(&said));
        spawner.execute(async move {
            tokio::task::yield_now().await;
            short.fetch_add(1, Ordering::Relaxed);
        });
        spawner.execute(async move {
            mark();
            told.await.expect("the test tells");
            long.fetch_add(10, Ordering::Relaxed);
        });
        drive(&mut connection, || said.load(Ordering::Relaxed) == 1).await;
        drive(&mut connection, || true).await;
        tell.send(()).expect("somebody listens");
        drive(&mut connection, || said.load(Ordering::Relaxed) == 11).await;
    }

    #[tokio::test]
    async fn a_panic_ends_one_answer_alone() {
        let (mut connection, spawner) = lasting(&Tasks::new());
        let said = Arc::new(AtomicUsize::new(0));
        for fails in [true, false] {
            let said = Arc::clone(&said);
            spawner.execute(async move {
                mark();
                tokio::task::yield_now().await;
                assert!(!fails, "on purpose");
                said.fetch_add(1, Ordering::Relaxed);
            });
        }
        drive(&mut connection, || said.load(Ordering::Relaxed) == 1).await;
    }
}

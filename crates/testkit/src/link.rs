//! What lies between a client and the gate: time, refusals, and connections that break.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::interface::{Answer, Api, Call, Watch, WatchStream};
use api::status::{Reason, Status};
use base::{Clock, Random};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

/// The slowest that a call's way is, there or back.
pub const LATENCY_MS: u64 = 4;
/// One write of so many meets a conflict, and as many another refusal.
const REFUSAL_ODDS: u64 = 25;
/// The longest that a watch lives while faults are on.
const WATCH_MS: u64 = 20_000;

/// Whether things go wrong; shared by all links of a world.
#[derive(Clone, Default)]
pub struct Faults(Arc<AtomicBool>);

impl Faults {
    /// From now on things go wrong, or not any more.
    pub fn set(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }

    fn are_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The server that is running now, if one is.
#[derive(Clone, Default)]
pub struct Line(Arc<Mutex<Option<Arc<dyn Api>>>>);

impl Line {
    /// Connects to a server, or (nothing) to none.
    pub fn connect(&self, api: Option<Arc<dyn Api>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = api;
    }

    fn api(&self) -> Result<Arc<dyn Api>, Status> {
        let api = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        api.ok_or_else(|| Status::new(Reason::ServiceUnavailable, "the server is down"))
    }
}

/// The API as somebody gets it over a line that may break.
pub struct Link {
    line: Line,
    clock: Clock,
    random: Random,
    faults: Faults,
}

impl Link {
    /// A link over `line`.
    pub fn over(line: &Line, clock: &Clock, random: &Random, faults: &Faults) -> Arc<dyn Api> {
        Arc::new(Self {
            line: line.clone(),
            clock: clock.clone(),
            random: random.clone(),
            faults: faults.clone(),
        })
    }

    async fn travel(&self) {
        self.clock.sleep(Duration::from_millis(1 + self.random.below(LATENCY_MS))).await;
    }

    /// What goes wrong before the gate has done anything. An answer that is lost after the deed is what a crash of
    /// the server makes.
    fn refusal(&self, call: &Call) -> Option<Status> {
        let is_write = !matches!(call, Call::Get(..) | Call::List(..));
        if !self.faults.are_on() || !is_write {
            return None;
        }
        // Only what names a revision can meet a conflict; who tolerates one relies on the change that made it.
        let may_conflict = matches!(call, Call::Update(..) | Call::Patch(..));
        match self.random.below(REFUSAL_ODDS) {
            0 if may_conflict => Some(Status::new(Reason::Conflict, "injected: somebody else wrote first")),
            1 => Some(Status::too_many_requests("injected: too many requests", 1)),
            _ => None,
        }
    }
}

impl Api for Link {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Status>> {
        async move {
            self.travel().await;
            if let Some(refusal) = self.refusal(&call) {
                return Err(refusal);
            }
            let answer = self.line.api()?.call(call).await;
            self.travel().await;
            answer
        }
        .boxed()
    }

    fn watch(&self, watch: Watch) -> BoxFuture<'_, Result<WatchStream, Status>> {
        async move {
            self.travel().await;
            let stream = self.line.api()?.watch(watch).await?;
            if !self.faults.are_on() {
                return Ok(stream);
            }
            let (clock, until) = (self.clock.clone(), Duration::from_millis(1 + self.random.below(WATCH_MS)));
            let cut = Box::pin(async move { clock.sleep(until).await });
            Ok(stream.take_until(cut).boxed())
        }
        .boxed()
    }
}

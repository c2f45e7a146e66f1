//! What lies between a client and the gate: time, refusals, and connections that break.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::interface::{Answer, Api, Call, Watch, WatchStream};
use api::names::PODS;
use api::status::{Reason, Status};
use base::{Clock, Random};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

/// The slowest that a call's way is, there or back.
pub const LATENCY_MS: u64 = 4;
/// One write of so many meets a conflict, and as many another refusal.
const REFUSAL_ODDS: u64 = 25;
/// One answer of so many gets lost after the deed, in worlds where answers do.
const LOSS_ODDS: u64 = 50;
/// The longest that a watch lives while faults are on.
const WATCH_MS: u64 = 20_000;

/// Whether things go wrong; shared by all links of a world.
#[derive(Clone, Default)]
pub struct Faults(Arc<State>);

#[derive(Default)]
struct State {
    on: AtomicBool,
    /// Whether answers get lost too, as on the way to a controller that is another process.
    lossy: AtomicBool,
    /// Creations of pods whose answers were lost.
    unanswered: AtomicI64,
}

impl Faults {
    /// None yet; `lossy` says whether answers will get lost too.
    pub fn new(lossy: bool) -> Self {
        let faults = Self::default();
        faults.0.lossy.store(lossy, Ordering::Relaxed);
        faults
    }

    /// From now on things go wrong, or not any more.
    pub fn set(&self, on: bool) {
        self.0.on.store(on, Ordering::Relaxed);
    }

    /// How many creations of pods were not answered.
    pub fn unanswered(&self) -> i64 {
        self.0.unanswered.load(Ordering::Relaxed)
    }

    fn are_on(&self) -> bool {
        self.0.on.load(Ordering::Relaxed)
    }

    fn lose_answers(&self) -> bool {
        self.are_on() && self.0.lossy.load(Ordering::Relaxed)
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

    /// What goes wrong before the gate has done anything.
    fn refusal(&self, call: &Call) -> Option<Status> {
        if !self.faults.are_on() || !is_write(call) {
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

fn is_write(call: &Call) -> bool {
    !matches!(call, Call::Get(..) | Call::List(..))
}

impl Api for Link {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Status>> {
        async move {
            self.travel().await;
            if let Some(refusal) = self.refusal(&call) {
                return Err(refusal);
            }
            let (writes, creates_pod) =
                (is_write(&call), matches!(&call, Call::Create(target, ..) if target.resource == PODS));
            let answer = self.line.api()?.call(call).await;
            self.travel().await;
            if writes && self.faults.lose_answers() && self.random.chance(1, LOSS_ODDS) {
                self.faults
                    .0
                    .unanswered
                    .fetch_add(i64::from(creates_pod && answer.is_ok()), Ordering::Relaxed);
                return Err(Status::new(Reason::ServiceUnavailable, "injected: the answer was lost"));
            }
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

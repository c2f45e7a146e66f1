//! Executes the plans of controllers.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use api::interface::{Answer, Api, Call};
use api::names::Resource;
use api::status::{Reason, Status};
use api::value::Str;
use base::{Backoff, Clock, Stop, Tasks};
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use tracing::{Instrument, debug, debug_span, error, info_span, warn};

use crate::mirror::Key;
use crate::plan::{Check, Controller, Plan, Write};
use crate::queue::Queue;
use crate::recorder::Recorder;
use crate::world::World;

/// Keys of one controller that are worked on at the same time.
const WORKERS: usize = 8;
/// Writes of one stage that are under way at the same time.
const WRITES_AT_ONCE: usize = 32;
/// Wait before a key is tried again after a failure, first and longest.
const RETRY_FIRST: Duration = Duration::from_millis(5);
const RETRY_LONGEST: Duration = Duration::from_secs(60);
/// How long the mirrors may take to show our own writes before we go on without.
const OWN_WRITES_DEADLINE: Duration = Duration::from_secs(5);

/// One controller at work.
pub struct Runner {
    controller: Arc<dyn Controller>,
    world: Arc<World>,
    api: Arc<dyn Api>,
    clock: Clock,
    recorder: Recorder,
    queue: Arc<Queue>,
    failures: Mutex<BTreeMap<Key, Backoff>>,
}

/// Something that a write leads the mirrors to show.
enum Expected {
    Revision(Resource, u64),
    Deletion(Resource, Key, Str),
}

impl Runner {
    /// Connects a controller to the mirrors. `recorder` speaks for its name. The world must have all mirrors that
    /// the controller watches.
    pub fn new(
        controller: Arc<dyn Controller>,
        world: &Arc<World>,
        api: Arc<dyn Api>,
        clock: &Clock,
        recorder: &Recorder,
    ) -> Arc<Self> {
        let queue = Arc::new(Queue::new(clock.clone()));
        for watches in controller.watches() {
            // The world owns the mirrors, which own the listeners: a strong reference would keep all forever.
            let (queue, world_again): (_, Weak<World>) = (queue.clone(), Arc::downgrade(world));
            world.mirror(&watches.resource).on_change(move |change| {
                if let Some(world) = world_again.upgrade() {
                    for key in (watches.keys)(&world, change) {
                        queue.add(key);
                    }
                }
            });
        }
        Arc::new(Self {
            recorder: recorder.for_source(controller.source()),
            controller,
            world: world.clone(),
            api,
            clock: clock.clone(),
            queue,
            failures: Mutex::default(),
        })
    }

    /// Starts the workers; they begin when the mirrors are synced.
    pub fn start(self: &Arc<Self>, tasks: &Tasks, stop: &Stop) {
        for _ in 0..WORKERS {
            let (runner, stop) = (self.clone(), stop.clone());
            let span = info_span!("controller", name = self.controller.name());
            tasks.spawn("controller", async move { runner.work(&stop).await }.instrument(span));
        }
        let (queue, stop) = (self.queue.clone(), stop.clone());
        tasks.spawn("controller queue", async move {
            stop.stopped().await;
            queue.close();
        });
    }

    /// The keys that wait; for the simulated world and for `/debug`.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    async fn work(&self, stop: &Stop) {
        if stop.or(self.world.synced()).await.is_none() {
            return;
        }
        while let Some(key) = self.queue.next().await {
            // A plan is not cut in the middle by a stop: its writes are quick, and the process waits for them.
            self.reconcile(&key).instrument(debug_span!("reconcile", %key)).await;
            self.queue.done(&key);
        }
    }

    async fn reconcile(&self, key: &Key) {
        let now = self.clock.now();
        let planned =
            std::panic::catch_unwind(AssertUnwindSafe(|| self.controller.plan(&self.world, key, now)));
        let result = match planned {
            Ok(plan) => AssertUnwindSafe(self.execute(plan, key)).catch_unwind().await,
            Err(panic) => Err(panic),
        };
        let result = result.unwrap_or_else(|panic| {
            let message = base::panics::caught(panic);
            error!(controller = self.controller.name(), %key, message, "a reconcile panicked; this is a bug");
            Err(Status::internal("the reconcile panicked"))
        });
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => {
                failures.remove(key);
            }
            Err(status) => {
                let backoff = failures.entry(key.clone()).or_insert(Backoff::new(RETRY_FIRST, RETRY_LONGEST));
                let delay = backoff.fail();
                drop(failures);
                if status.reason == Reason::Conflict {
                    debug!(%key, error = %status, "somebody else wrote first; planning anew");
                } else {
                    warn!(controller = self.controller.name(), %key, error = %status, ?delay, "a plan failed");
                }
                self.queue.add_after(key.clone(), delay);
            }
        }
    }

    async fn execute(&self, plan: Plan, key: &Key) -> Result<(), Status> {
        if let Some(delay) = plan.again_after {
            self.queue.add_after(key.clone(), delay);
        }
        let mut expected = Vec::new();
        let mut failure = None;
        for stage in plan.stages {
            failure = self.execute_stage(stage, &mut expected).await;
            if failure.is_some() {
                break;
            }
        }
        self.await_own_writes(expected).await;
        match failure {
            Some(status) => Err(status),
            None => {
                plan.notes.into_iter().for_each(|note| self.recorder.note(note));
                Ok(())
            }
        }
    }

    async fn execute_stage(&self, stage: Vec<Write>, expected: &mut Vec<Expected>) -> Option<Status> {
        let mut failure = None;
        let mut under_way = FuturesUnordered::new();
        let mut writes = stage.into_iter();
        loop {
            while under_way.len() < WRITES_AT_ONCE
                && failure.is_none()
                && let Some(write) = writes.next()
            {
                under_way.push(async move { (self.api.call(write.call.clone()).await, write) });
            }
            let Some((result, write)) = under_way.next().await else { return failure };
            match result {
                Ok(answer) if write.check.as_ref().is_some_and(|check| !check.holds(&answer)) => {
                    failure = Some(Status::new(Reason::Conflict, "what the mirrors show is not so any more"));
                }
                Err(status)
                    if matches!(write.check, Some(Check::Present { .. }))
                        && status.reason == Reason::NotFound =>
                {
                    failure = Some(Status::new(Reason::Conflict, status.message));
                }
                Ok(answer) => {
                    if let Some(note) = &write.on_success {
                        let name = if let Answer::Object(object) = &answer { object.name() } else { "" };
                        self.recorder.note(note.filled("{name}", name));
                    }
                    expected.extend(expectation(&write, &answer));
                }
                Err(status) if write.tolerate.contains(&status.reason) => {
                    debug!(error = %status, "a write was not needed any more");
                }
                Err(status) => {
                    if let Some(note) = &write.on_failure {
                        self.recorder.note(note.filled("{error}", &status.message));
                    }
                    // One answer is enough: the others of a stage mostly fail for the same reason.
                    if let (Some(or_else), None) = (&write.or_else, &failure)
                        && let Err(error) = self.api.call(or_else.write(&status).call).await
                    {
                        warn!(%error, "the answer to a failed write failed too");
                    }
                    failure = Some(status);
                }
            }
        }
    }

    /// Waits until the mirrors show what was just written, so that the next plan for the key cannot decide on a
    /// world that lacks it (and, for one, make the same pods again).
    async fn await_own_writes(&self, expected: Vec<Expected>) {
        if expected.is_empty() {
            return;
        }
        let all_seen = async {
            for expected in &expected {
                self.seen(expected).await;
            }
        };
        if self.clock.timeout(OWN_WRITES_DEADLINE, all_seen).await.is_none() {
            warn!(
                controller = self.controller.name(),
                "the mirrors do not show our own writes; going on without"
            );
        }
    }

    async fn seen(&self, expected: &Expected) {
        let (Expected::Revision(resource, _) | Expected::Deletion(resource, ..)) = expected;
        let Some(mirror) = self.world.try_mirror(resource).filter(|mirror| mirror.is_whole()) else { return };
        match expected {
            Expected::Revision(_, revision) => mirror.until(|progress| progress.revision >= *revision).await,
            Expected::Deletion(_, key, uid) => {
                let gone = |_| {
                    let object = mirror.get(&key.namespace, &key.name);
                    object.is_none_or(|object| object.uid() != uid || object.is_deleting())
                };
                mirror.until(gone).await;
            }
        }
    }
}

fn expectation(write: &Write, answer: &Answer) -> Option<Expected> {
    match (&write.call, answer) {
        (Call::Delete(target, options), _) => {
            let uid = options.uid.clone()?;
            Some(Expected::Deletion(target.resource.clone(), Key::new(&target.namespace, &target.name), uid))
        }
        (
            Call::Create(target, ..) | Call::Update(target, ..) | Call::Patch(target, ..),
            Answer::Object(object),
        ) => {
            // What a subresource answers may be another kind; only the status is the object itself.
            let itself = target.subresource.is_empty() || target.subresource == "status";
            itself.then(|| Expected::Revision(target.resource.clone(), object.revision()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use api::interface::{List, Watch, WatchEvent, WatchStream};
    use api::json;
    use api::names::{CONFIG_MAPS, PODS};
    use api::object::Object;
    use base::Stopper;
    use futures::channel::mpsc;
    use futures::future::BoxFuture;
    use jiff::Timestamp;

    use crate::plan::Watches;

    /// A server whose watches lag: what is created is answered at once and shown only `lag` later.
    struct Lagging {
        clock: Clock,
        lag: Duration,
        created: AtomicUsize,
        watchers: Mutex<Vec<Watcher>>,
        tasks: Tasks,
        /// How many calls panic before others succeed.
        panics: AtomicUsize,
    }

    type Watcher = (Resource, mpsc::UnboundedSender<Result<WatchEvent, Status>>);

    impl Lagging {
        fn object(&self, kind: &str, name: &str, revision: usize) -> Arc<Object> {
            let tree = json!({"apiVersion": "v1", "kind": kind, "metadata": {
                "name": name, "namespace": "a", "uid": name, "resourceVersion": (revision.to_string())}});
            Arc::new(Object::from_tree(&tree).unwrap())
        }
    }

    impl Api for Lagging {
        fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Status>> {
            let answer = match call {
                Call::List(collection, _) => {
                    let owner =
                        (collection.resource == CONFIG_MAPS).then(|| self.object("ConfigMap", "owner", 1));
                    Answer::List(List { revision: 1, items: owner.into_iter().collect(), ..List::default() })
                }
                Call::Create(..) => {
                    let left = |left: usize| left.checked_sub(1);
                    if self.panics.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok() {
                        panic!("on purpose");
                    }
                    let number = 2 + self.created.fetch_add(1, Ordering::Relaxed);
                    let pod = self.object("Pod", &format!("p{number}"), number);
                    let senders = self.watchers.lock().unwrap();
                    for (_, sender) in senders.iter().filter(|(resource, _)| *resource == PODS) {
                        let (sender, clock, pod, lag) =
                            (sender.clone(), self.clock.clone(), pod.clone(), self.lag);
                        self.tasks.spawn("lag", async move {
                            clock.sleep(lag).await;
                            let _ = sender.unbounded_send(Ok(WatchEvent::Added(pod)));
                        });
                    }
                    Answer::Object(pod)
                }
                other => panic!("not expected: {other:?}"),
            };
            async move { Ok(answer) }.boxed()
        }

        fn watch(&self, watch: Watch) -> BoxFuture<'_, Result<WatchStream, Status>> {
            let (sender, receiver) = mpsc::unbounded();
            self.watchers.lock().unwrap().push((watch.collection.resource, sender));
            async move { Ok(receiver.boxed()) }.boxed()
        }
    }

    /// Wants three pods for each ConfigMap.
    struct Three;

    impl Controller for Three {
        fn name(&self) -> &'static str {
            "three"
        }

        fn watches(&self) -> Vec<Watches> {
            vec![Watches::itself(&CONFIG_MAPS), Watches::mapped(&PODS, |_, _| vec![Key::new("a", "owner")])]
        }

        fn plan(&self, world: &World, _: &Key, _: Timestamp) -> Plan {
            let mut plan = Plan::nothing();
            for _ in world.mirror(&PODS).len()..3 {
                plan.write(Write::create(&PODS, "a", &json!({})));
            }
            plan
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_not_planned_again_before_its_own_writes_are_seen() {
        three_are_made(0).await;
    }

    /// More than there are workers.
    #[tokio::test(start_paused = true)]
    async fn a_write_that_panics_takes_neither_its_key_nor_its_worker_along() {
        let before = base::panics::count();
        three_are_made(WORKERS + 2).await;
        assert!(base::panics::count() > before);
    }

    async fn three_are_made(panics: usize) {
        let clock = Clock::simulated(Timestamp::UNIX_EPOCH);
        let (tasks, stopper) = (Tasks::new(), Stopper::new());
        let server = Arc::new(Lagging {
            clock: clock.clone(),
            lag: Duration::from_millis(700),
            created: AtomicUsize::new(0),
            watchers: Mutex::default(),
            tasks: tasks.clone(),
            panics: AtomicUsize::new(panics),
        });
        let api: Arc<dyn Api> = server.clone();
        let mut world = World::new();
        [&CONFIG_MAPS, &PODS].into_iter().for_each(|resource| world.ensure(resource));
        let world = Arc::new(world);
        let (recorder, _writer) = Recorder::new("test", "");
        let runner = Runner::new(Arc::new(Three), &world, api.clone(), &clock, &recorder);
        world.start(&api, &clock, &tasks, &stopper.signal());
        runner.start(&tasks, &stopper.signal());
        for _ in 0..50 {
            clock.sleep(Duration::from_millis(100)).await;
            runner.queue().add(Key::new("a", "owner"));
        }
        assert_eq!(world.mirror(&PODS).len(), 3);
        assert_eq!(server.created.load(Ordering::Relaxed), 3, "impatient keys make no fourth pod");
        stopper.stop();
        assert!(tasks.join(Duration::from_secs(60)).await);
        assert!(world.get(&PODS, "a", "p2").is_some_and(|pod| Key::of(&pod) == Key::new("a", "p2")));
    }
}

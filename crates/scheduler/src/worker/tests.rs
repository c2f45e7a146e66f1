use std::collections::BTreeMap;

use api::interface::{Answer, Call, List, Target, Watch, WatchEvent, WatchStream};
use api::json;
use api::status::Status;
use api::value::Value;
use base::Stopper;
use control::recorder;
use futures::channel::mpsc;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;

use super::*;

/// Objects in memory, with just the verbs that the scheduler uses.
#[derive(Default)]
struct Memory(Mutex<Objects>);

#[derive(Default)]
struct Objects {
    revision: i64,
    trees: BTreeMap<(Resource, String, String), Value>,
    watchers: Vec<(Resource, mpsc::UnboundedSender<Result<WatchEvent, Status>>)>,
    patches: usize,
    refuse_bindings: usize,
}

impl Objects {
    fn put(&mut self, resource: &Resource, mut tree: Value) -> Arc<Object> {
        self.revision += 1;
        tree.set(&["metadata", "resourceVersion"], self.revision.to_string());
        let object = Arc::new(Object::from_tree(&tree).unwrap());
        let key = (resource.clone(), object.namespace().to_owned(), object.name().to_owned());
        let event = match self.trees.insert(key, tree) {
            None => WatchEvent::Added(object.clone()),
            Some(_) => WatchEvent::Modified(object.clone()),
        };
        self.tell(resource, event);
        object
    }

    fn remove(&mut self, resource: &Resource, namespace: &str, name: &str) {
        let key = (resource.clone(), namespace.to_owned(), name.to_owned());
        let Some(tree) = self.trees.remove(&key) else { return };
        self.tell(resource, WatchEvent::Deleted(Arc::new(Object::from_tree(&tree).unwrap())));
    }

    fn tell(&self, resource: &Resource, event: WatchEvent) {
        for (_, sender) in self.watchers.iter().filter(|(watched, _)| watched == resource) {
            let _ = sender.unbounded_send(Ok(event.clone()));
        }
    }

    fn change(&mut self, target: &Target, change: impl FnOnce(&mut Value)) -> Result<Arc<Object>, Status> {
        let key = (target.resource.clone(), target.namespace.to_string(), target.name.to_string());
        let mut tree = self.trees.get(&key).cloned().ok_or_else(|| Status::internal("it is not there"))?;
        change(&mut tree);
        Ok(self.put(&target.resource, tree))
    }

    fn answer(&mut self, call: Call) -> Result<Answer, Status> {
        match call {
            Call::List(collection, _) => {
                let here = self.trees.iter().filter(|((resource, ..), _)| *resource == collection.resource);
                let items = here.map(|(_, tree)| Arc::new(Object::from_tree(tree).unwrap())).collect();
                Ok(Answer::List(List { revision: self.revision as u64, items, ..List::default() }))
            }
            Call::Create(target, body, _) if target.subresource == "binding" => {
                if self.refuse_bindings > 0 {
                    self.refuse_bindings -= 1;
                    return Err(Status::internal("not now"));
                }
                let binding = api::value::parse(&body).unwrap();
                let node = binding.str_at(&["target", "name"]).unwrap().to_owned();
                self.change(&target, |pod| pod.set(&["spec", "nodeName"], node)).map(Answer::Object)
            }
            Call::Patch(target, _, body, _) => {
                self.patches += 1;
                let patch = api::value::parse(&body).unwrap();
                let changed = self.change(&target, |pod| {
                    for field in ["conditions", "nominatedNodeName"] {
                        if let Some(value) = patch.at(&["status", field]) {
                            pod.set(&["status", field], value.clone());
                        }
                    }
                });
                changed.map(Answer::Object)
            }
            // As pods go: they are told first, and the node lets them go.
            Call::Delete(target, _) => {
                let gone = "2026-01-01T00:00:00Z";
                self.change(&target, |pod| pod.set(&["metadata", "deletionTimestamp"], gone))
                    .map(Answer::Object)
            }
            other => panic!("not expected: {other:?}"),
        }
    }
}

impl Api for Memory {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Status>> {
        let answer = self.0.lock().unwrap().answer(call);
        async move { answer }.boxed()
    }

    fn watch(&self, watch: Watch) -> BoxFuture<'_, Result<WatchStream, Status>> {
        let (sender, receiver) = mpsc::unbounded();
        self.0.lock().unwrap().watchers.push((watch.collection.resource, sender));
        async move { Ok(receiver.boxed()) }.boxed()
    }
}

/// A scheduler over objects in memory.
struct Bench {
    memory: Arc<Memory>,
    clock: Clock,
    tasks: Tasks,
    stopper: Stopper,
    heard: Mutex<Box<dyn FnMut() -> Option<recorder::Note> + Send>>,
    _scheduler: Arc<Scheduler>,
}

impl Bench {
    async fn start() -> Self {
        let clock = Clock::simulated(Timestamp::UNIX_EPOCH);
        let (tasks, stopper) = (Tasks::new(), Stopper::new());
        let memory = Arc::new(Memory::default());
        let api: Arc<dyn Api> = memory.clone();
        let mut world = World::new();
        for resource in [&PODS, &NODES, &api::names::NAMESPACES] {
            world.ensure(resource);
        }
        let world = Arc::new(world);
        let (recorder, heard) = recorder::channel_for_tests("scheduler");
        let scheduler = Scheduler::new(&world, api.clone(), &clock, &Random::seeded(1), &recorder);
        scheduler.start(&tasks, &stopper.signal());
        world.start(&api, &clock, &tasks, &stopper.signal());
        let bench =
            Self { memory, clock, tasks, stopper, heard: Mutex::new(Box::new(heard)), _scheduler: scheduler };
        bench.settle().await;
        bench
    }

    /// Lets everything happen that is to happen by itself (virtual time, no waiting).
    async fn settle(&self) {
        self.clock.sleep(Duration::from_millis(50)).await;
    }

    fn put(&self, resource: &Resource, tree: Value) {
        self.memory.0.lock().unwrap().put(resource, tree);
    }

    fn node(&self, name: &str, cpu: &str) {
        self.put(
            &NODES,
            json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name},
                "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "110"}}
            }),
        );
    }

    fn pod(&self, name: &str, cpu: &str, extra: Value) {
        let mut tree = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d", "uid": name},
            "spec": {
                "schedulerName": "default-scheduler",
                "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]
            }
        });
        for (key, value) in extra.as_object().into_iter().flat_map(api::value::Map::iter) {
            tree.set(&["spec", key], value.clone());
        }
        self.put(&PODS, tree);
    }

    fn at(&self, name: &str, path: &[&str]) -> Value {
        let objects = self.memory.0.lock().unwrap();
        let tree = &objects.trees[&(PODS.clone(), "d".to_owned(), name.to_owned())];
        tree.at(path).cloned().unwrap_or_default()
    }

    fn node_of(&self, name: &str) -> String {
        self.at(name, &["spec", "nodeName"]).as_str().unwrap_or_default().to_owned()
    }

    fn gone(&self, name: &str) {
        self.memory.0.lock().unwrap().remove(&PODS, "d", name);
    }

    fn told(&self, reason: &str) -> Vec<String> {
        let mut heard = self.heard.lock().unwrap();
        let notes = std::iter::from_fn(&mut *heard);
        notes.filter(|note| note.reason == reason).map(|note| note.message.to_string()).collect()
    }

    async fn end(self) {
        self.stopper.stop();
        let _ = self.clock.timeout(Duration::from_secs(5), self.settle()).await;
        assert!(self.tasks.running() == 0, "all tasks end");
    }
}

#[tokio::test(start_paused = true)]
async fn pods_of_other_schedulers_with_gates_or_with_a_node_are_left_alone() {
    let bench = Bench::start().await;
    bench.node("n", "1");
    bench.pod("other", "100m", json!({"schedulerName": "mine"}));
    bench.pod("gated", "100m", json!({"schedulingGates": [{"name": "g"}]}));
    bench.pod("static", "900m", json!({"nodeName": "n"}));
    bench.pod("usual", "100m", json!({}));
    bench.settle().await;
    assert_eq!(["other", "gated", "usual"].map(|name| bench.node_of(name)), ["", "", "n"]);
    // What has a node counts there, whoever gave it one.
    bench.pod("too-much", "100m", json!({}));
    bench.settle().await;
    assert_eq!(bench.node_of("too-much"), "");
    bench.gone("static");
    bench.pod("gated", "100m", json!({"schedulingGates": []}));
    bench.settle().await;
    assert_eq!(["gated", "too-much"].map(|name| bench.node_of(name)), ["n", "n"]);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_fits_nowhere_is_told_once_and_tried_again_when_it_may_help() {
    let bench = Bench::start().await;
    bench.node("n", "1");
    bench.pod("first", "800m", json!({}));
    bench.settle().await;
    bench.pod("waits", "500m", json!({}));
    bench.settle().await;
    assert_eq!(bench.at("waits", &["status", "conditions"]).as_array().unwrap().len(), 1);
    // Its own status is no news, and neither is a pod that takes room.
    bench.pod("second", "100m", json!({}));
    bench.settle().await;
    assert_eq!(bench.told("FailedScheduling").len(), 1);
    bench.node("n", "1");
    bench.settle().await;
    assert_eq!(bench.told("FailedScheduling").len(), 0, "the node has not changed");
    bench.node("n", "2");
    bench.settle().await;
    assert_eq!(bench.node_of("waits"), "n");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_fails_is_tried_again_and_takes_no_room_meanwhile() {
    let bench = Bench::start().await;
    bench.memory.0.lock().unwrap().refuse_bindings = 1;
    bench.node("n", "1");
    bench.pod("a", "800m", json!({}));
    bench.settle().await;
    assert_eq!(bench.node_of("a"), "");
    bench.clock.sleep(RETRY).await;
    bench.settle().await;
    assert_eq!(bench.node_of("a"), "n");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_higher_priority_gets_the_room_of_others() {
    let bench = Bench::start().await;
    bench.node("n", "1");
    bench.pod("weak", "600m", json!({"priority": 1}));
    bench.pod("weaker", "400m", json!({"priority": 0}));
    bench.settle().await;
    bench.pod("strong", "700m", json!({"priority": 10}));
    bench.settle().await;
    assert_eq!(bench.at("strong", &["status", "nominatedNodeName"]).as_str(), Some("n"));
    let is_going = |name: &str| bench.at(name, &["metadata", "deletionTimestamp"]).as_str().is_some();
    assert_eq!([is_going("weak"), is_going("weaker")], [true, true]);
    let reason = bench.at("weak", &["status", "conditions"]).as_array().unwrap()[0].clone();
    assert_eq!(reason.str_at(&["reason"]), Some("PreemptionByScheduler"));
    assert_eq!(bench.told("Preempted"), ["Preempted by pod strong on node n"; 2]);
    // The room of the first to go is kept, and the other is awaited.
    bench.gone("weaker");
    bench.pod("sneaky", "100m", json!({"priority": 5}));
    bench.settle().await;
    assert_eq!([bench.node_of("strong"), bench.node_of("sneaky")], ["", ""]);
    bench.gone("weak");
    bench.settle().await;
    assert_eq!([bench.node_of("strong"), bench.node_of("sneaky")], ["n", "n"]);
    bench.end().await;
}

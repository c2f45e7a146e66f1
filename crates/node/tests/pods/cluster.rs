//! An API of pods in memory: what a test puts there, and what the agent writes of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use api::interface::{Answer, Api, Call, List, Watch, WatchEvent, WatchStream};
use api::json;
use api::names::PODS;
use api::object::Object;
use api::status::{Reason, Status};
use api::table::types;
use api::value::Value;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::sync::{mpsc, watch};

/// The pods, and who watches them.
pub struct Cluster {
    pods: Mutex<BTreeMap<String, Arc<Object>>>,
    watchers: Mutex<Vec<mpsc::UnboundedSender<WatchEvent>>>,
    /// Watches of what is not there, kept open.
    silent: Mutex<Vec<mpsc::UnboundedSender<WatchEvent>>>,
    revision: watch::Sender<u64>,
    /// What is written is not answered while this is true.
    stalled: watch::Sender<bool>,
}

impl Cluster {
    pub fn new() -> Arc<Self> {
        let (pods, watchers, silent) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (revision, stalled) = (watch::Sender::new(1), watch::Sender::new(false));
        Arc::new(Self { pods, watchers, silent, revision, stalled })
    }

    /// Puts a pod there, new or changed.
    pub fn put(&self, mut tree: Value) {
        let mut pods = self.pods.lock().unwrap();
        let revision = *self.revision.borrow() + 1;
        tree.set(&["metadata", "resourceVersion"], revision.to_string());
        let object = Arc::new(Object::from_tree(&tree).expect("the test's pod is right"));
        pods.insert(object.name().to_owned(), object.clone());
        self.tell(&WatchEvent::Modified(object));
        self.revision.send_replace(revision);
    }

    /// The pod as it is now; `None` once it is gone.
    pub fn pod(&self, name: &str) -> Option<Value> {
        self.pods.lock().unwrap().get(name).map(|object| object.to_tree())
    }

    /// Asks for a pod's end, as the gate does for the node.
    pub fn delete(&self, name: &str, grace_seconds: i64) {
        let mut tree = self.pod(name).expect("the pod is there");
        tree.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
        tree.set(&["metadata", "deletionGracePeriodSeconds"], grace_seconds);
        self.put(tree);
    }

    /// From now on writes of the agent hang, or are answered again.
    pub fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    /// Returns when something has changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    fn tell(&self, event: &WatchEvent) {
        self.watchers.lock().unwrap().retain(|watcher| watcher.send(event.clone()).is_ok());
    }

    fn patch(&self, name: &str, patch: &[u8]) -> Result<Arc<Object>, Status> {
        let gone = || Status::new(Reason::NotFound, "the pod is gone");
        let patch = api::value::parse(patch).expect("the agent writes JSON");
        let before = self.pod(name).ok_or_else(gone)?;
        let pod = types().find("core/v1.Pod").expect("it is in the table");
        let after = api::patch::strategic::apply(before, patch, pod)?;
        self.put(after);
        Ok(self.pods.lock().unwrap().get(name).ok_or_else(gone)?.clone())
    }

    fn remove(&self, name: &str) {
        let removed = self.pods.lock().unwrap().remove(name);
        if let Some(object) = removed {
            self.tell(&WatchEvent::Deleted(object));
            self.revision.send_modify(|revision| *revision += 1);
        }
    }
}

impl Api for Cluster {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Status>> {
        let answer = match call {
            Call::List(collection, _) => {
                let pods = self.pods.lock().unwrap();
                let items =
                    if collection.resource == PODS { pods.values().cloned().collect() } else { Vec::new() };
                Ok(Answer::List(List { revision: *self.revision.borrow(), items, ..List::default() }))
            }
            Call::Patch(target, _, body, _) => {
                return async move {
                    let _ = self.stalled.subscribe().wait_for(|stalled| !stalled).await;
                    self.patch(&target.name, &body).map(Answer::Object)
                }
                .boxed();
            }
            Call::Delete(target, _) => {
                self.remove(&target.name);
                Ok(Answer::Status(Box::new(Status::new(Reason::NotFound, "gone"))))
            }
            other => panic!("nobody asks this of the tests' API: {other:?}"),
        };
        async move { answer }.boxed()
    }

    fn watch(&self, watch: Watch) -> BoxFuture<'_, Result<WatchStream, Status>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        if watch.collection.resource == PODS {
            // What came between the list and this is told again.
            let pods = self.pods.lock().unwrap();
            pods.values().for_each(|pod| _ = sender.send(WatchEvent::Modified(pod.clone())));
            self.watchers.lock().unwrap().push(sender);
        } else {
            // Nothing ever happens to what is not there.
            self.silent.lock().unwrap().push(sender);
        }
        let events = futures::stream::unfold(receiver, |mut receiver| async move {
            Some((Ok(receiver.recv().await?), receiver))
        });
        async move { Ok(events.boxed()) }.boxed()
    }
}

/// The smallest pod of one container `c` that runs a shell script.
pub fn shell(script: &str) -> Value {
    json!({"containers": [(container("c", script))]})
}

/// A container of busybox.
pub fn container(name: &str, script: &str) -> Value {
    json!({
        "name": name, "image": (super::harness::IMAGE), "imagePullPolicy": "Never",
        "command": ["/bin/sh", "-c", script]
    })
}

//! ReplicaSet and ReplicationController: one mechanism, two spellings of the selector.

use std::sync::Arc;
use std::time::Duration;

use api::interface::{DeleteOptions, Target};
use api::json;
use api::names::{PODS, REPLICA_SETS, REPLICATION_CONTROLLERS, Resource};
use api::object::Object;
use api::selector::label::Selector;
use api::status::Status;
use api::value::Value;
use control::mirror::{Change, Key};
use control::plan::{Controller, Plan, Watches, Write};
use control::recorder::Note;
use control::world::World;
use jiff::Timestamp;

use crate::condition;
use crate::owner;
use crate::pods::{PodView, deletion_order};

/// Pods that one plan makes or deletes at the most.
const BURST_REPLICAS: usize = 500;
/// Pods of the first batch; each next batch is twice as large, so that a refusal (quota, say) costs little.
const FIRST_BATCH: usize = 8;

/// The condition that tells of pods that could not be made or deleted.
pub const FAILURE: &str = "ReplicaFailure";

/// The controller of ReplicaSets or of ReplicationControllers.
pub struct Replicas {
    name: &'static str,
    resource: Resource,
    kind: &'static str,
    keys_of_pod: fn(&World, &Change) -> Vec<Key>,
}

impl Replicas {
    /// For ReplicaSets.
    pub fn sets() -> Self {
        Self {
            name: "replicaset-controller",
            resource: REPLICA_SETS,
            kind: "ReplicaSet",
            keys_of_pod: |world, change| keys_of_pod(world, change, &REPLICA_SETS, "ReplicaSet"),
        }
    }

    /// For ReplicationControllers.
    pub fn controllers() -> Self {
        Self {
            name: "replication-controller",
            resource: REPLICATION_CONTROLLERS,
            kind: "ReplicationController",
            keys_of_pod: |world, change| {
                keys_of_pod(world, change, &REPLICATION_CONTROLLERS, "ReplicationController")
            },
        }
    }
}

/// The selector of a ReplicaSet (an object) or of a ReplicationController (a plain map).
fn selector_of(owner: &Value) -> Option<Selector> {
    let selector = owner.at(&["spec", "selector"])?;
    let map = selector.as_object()?;
    if map.iter().all(|(_, value)| value.as_str().is_some()) {
        return Some(Selector::from_map(map));
    }
    Selector::from_object(Some(selector)).ok()
}

/// A pod leads to its controller; one without leads to all owners that would adopt it.
fn keys_of_pod(world: &World, change: &Change, resource: &Resource, kind: &str) -> Vec<Key> {
    let mut keys: Vec<Key> = change
        .sides()
        .filter_map(|pod| {
            let controller = pod.controller().filter(|owner| owner.kind == kind)?;
            Some(Key::new(pod.namespace(), &controller.name))
        })
        .collect();
    if let Some(orphan) = change.new.as_deref().filter(|pod| pod.controller().is_none()) {
        let owners = world.list(resource, orphan.namespace());
        let adopting = owners.iter().filter(|owner| {
            selector_of(&owner.to_tree()).is_some_and(|selector| selector.matches(orphan.labels()))
        });
        keys.extend(adopting.map(|owner| Key::of(owner)));
    }
    keys
}

impl Controller for Replicas {
    fn name(&self) -> &'static str {
        self.name
    }

    fn watches(&self) -> Vec<Watches> {
        vec![Watches::itself(&self.resource), Watches::mapped(&PODS, self.keys_of_pod)]
    }

    fn plan(&self, world: &World, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(owner) = world.get(&self.resource, &key.namespace, &key.name) else { return plan };
        let tree = owner.to_tree();
        let Some(selector) = selector_of(&tree) else { return plan };

        let candidates = world.list(&PODS, &key.namespace);
        let claim = owner::claim(&owner, &selector, &PODS, candidates);
        claim.writes.into_iter().for_each(|write| plan.write(write));

        let pods = PodView::of(claim.owned);
        let wanted = usize::try_from(tree.int_at(&["spec", "replicas"]).unwrap_or(1)).unwrap_or_default();
        let (active, inactive): (Vec<_>, Vec<_>) = pods.into_iter().partition(PodView::is_active);
        let terminating =
            inactive.iter().filter(|pod| pod.object.is_deleting() && !pod.is_terminal()).count();
        let owner = Owner { of: self, object: &owner, tree: &tree, wanted, now };
        owner.write_status(&mut plan, &active, terminating);
        if !owner.object.is_deleting() {
            if active.len() < wanted {
                owner.create_pods(&mut plan, wanted - active.len());
            } else if active.len() > wanted {
                owner.delete_pods(&mut plan, world, active);
            }
        }
        plan
    }
}

/// One owner under plan.
struct Owner<'a> {
    of: &'a Replicas,
    object: &'a Arc<Object>,
    tree: &'a Value,
    wanted: usize,
    now: Timestamp,
}

impl Owner<'_> {
    fn create_pods(&self, plan: &mut Plan, missing: usize) {
        let pod = pod_from_template(self.object, self.tree);
        let mut left = missing.min(BURST_REPLICAS);
        let mut batch = FIRST_BATCH;
        while left > 0 {
            plan.then();
            for _ in 0..batch.min(left) {
                let created = Note::normal(self.object, "SuccessfulCreate", "Created pod: {name}");
                let failed = Note::warning(self.object, "FailedCreate", "Error creating: {error}");
                let write = Write::create(&PODS, self.object.namespace(), &pod).tolerating(&[]);
                let failure = self.failure_status("FailedCreate");
                plan.write(write.telling(Some(created), Some(failed)).or_else(failure));
            }
            left -= batch.min(left);
            batch *= 2;
        }
    }

    fn delete_pods(&self, plan: &mut Plan, world: &World, mut active: Vec<PodView>) {
        let surplus = (active.len() - self.wanted).min(BURST_REPLICAS);
        let peers = self.peers(world);
        deletion_order(&mut active, &peers, self.now);
        plan.then();
        for pod in active.into_iter().take(surplus) {
            let name = pod.object.name();
            let deleted = Note::normal(self.object, "SuccessfulDelete", format!("Deleted pod: {name}"));
            let failed = Note::warning(self.object, "FailedDelete", "Error deleting: {error}");
            let write = Write::delete(&PODS, &pod.object, DeleteOptions::default());
            let failure = self.failure_status("FailedDelete");
            plan.write(write.telling(Some(deleted), Some(failed)).or_else(failure));
        }
    }

    /// The write that puts `ReplicaFailure` into the status, with the error in it.
    fn failure_status(&self, reason: &'static str) -> impl Fn(&Status) -> Write + Send + Sync + use<> {
        let target =
            Target::new(&self.of.resource, self.object.namespace(), self.object.name()).subresource("status");
        let (uid, now, conditions) =
            (self.object.uid().to_owned(), self.now, self.tree.array_at(&["status", "conditions"]).to_vec());
        move |error| {
            let mut conditions = conditions.clone();
            condition::set(&mut conditions, condition::new(FAILURE, "True", reason, &error.message, now));
            let patch = json!({"metadata": {"uid": (uid.as_str())}, "status": {"conditions": conditions}});
            Write::merge(target.clone(), &patch)
        }
    }

    /// The pods of all owners that have the same controller: a Deployment's old and new pods count together when
    /// it is asked which node is doubled up.
    fn peers(&self, world: &World) -> Vec<PodView> {
        let owners = match self.object.controller() {
            Some(controller) => world.mirror(&self.of.resource).owned_by(&controller.uid),
            None => Vec::new(),
        };
        let uids = owners.iter().map(|owner| owner.uid()).chain([self.object.uid()]);
        let mut pods: Vec<_> = uids.flat_map(|uid| world.mirror(&PODS).owned_by(uid)).collect();
        pods.sort_by(|a, b| a.uid().cmp(b.uid()));
        pods.dedup_by(|a, b| a.uid() == b.uid());
        PodView::of(pods)
    }

    fn write_status(&self, plan: &mut Plan, active: &[PodView], terminating: usize) {
        let min_ready = self.tree.int_at(&["spec", "minReadySeconds"]).unwrap_or_default();
        let min_ready = Duration::from_secs(min_ready.unsigned_abs());
        let template_labels = self.tree.at(&["spec", "template", "metadata", "labels"]);
        let fully_labeled = active.iter().filter(|pod| carries(&pod.object, template_labels)).count();
        let ready = active.iter().filter(|pod| pod.is_ready()).count();
        let waits: Vec<Duration> =
            active.iter().filter_map(|pod| pod.available_in(min_ready, self.now)).collect();
        let available = waits.iter().filter(|wait| wait.is_zero()).count();
        if let Some(soonest) = waits.into_iter().filter(|wait| !wait.is_zero()).min() {
            plan.again_after(soonest);
        }
        let mut status = json!({
            "replicas": (active.len() as i64),
            "fullyLabeledReplicas": (count(fully_labeled)),
            "readyReplicas": (count(ready)),
            "availableReplicas": (count(available)),
            "observedGeneration": (self.tree.at(&["metadata", "generation"]).cloned().unwrap_or_default())
        });
        if self.of.kind == "ReplicaSet" {
            status.set(&["terminatingReplicas"], terminating as i64);
        }
        // All is as wanted, so the failure of before is over.
        let conditions = self.tree.array_at(&["status", "conditions"]);
        if active.len() == self.wanted && condition::find(conditions, FAILURE).is_some() {
            let mut kept = conditions.to_vec();
            condition::remove(&mut kept, FAILURE);
            status.set(&["conditions"], kept);
        }
        let unchanged =
            status.as_object().into_iter().flat_map(api::value::Map::iter).all(|(field, value)| {
                let old = self.tree.at(&["status", field]);
                old.unwrap_or(&Value::Null) == value || (value.is_empty() && old.is_none_or(Value::is_empty))
            });
        // A zero that upstream always writes must appear once.
        let complete = self.tree.at(&["status", "replicas"]).is_some();
        if !(unchanged && complete) {
            let patch = json!({"metadata": {"uid": (self.object.uid())}, "status": status});
            let target = Target::new(&self.of.resource, self.object.namespace(), self.object.name())
                .subresource("status");
            plan.write(Write::merge(target, &patch));
        }
    }
}

/// Zero is left out of a status, as upstream's `omitempty` does.
fn count(number: usize) -> Value {
    if number == 0 { Value::Null } else { Value::Int(number as i64) }
}

fn carries(pod: &Object, labels: Option<&Value>) -> bool {
    let labels = labels.and_then(Value::as_object);
    labels.into_iter().flat_map(api::value::Map::iter).all(|(key, value)| pod.label(key) == value.as_str())
}

/// The pod that a template makes: named after the owner, controlled by it.
pub fn pod_from_template(owner: &Object, tree: &Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod"});
    let template = tree.at(&["spec", "template"]);
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.and_then(|template| template.at(&["metadata", field])) {
            pod.set(&["metadata", field], value.clone());
        }
    }
    pod.set(&["metadata", "generateName"], format!("{}-", owner.name()));
    pod.set(&["metadata", "namespace"], owner.namespace());
    pod.set(&["metadata", "ownerReferences"], vec![owner::controller_reference(owner)]);
    pod.set(&["spec"], template.and_then(|template| template.get("spec")).cloned().unwrap_or_default());
    pod
}

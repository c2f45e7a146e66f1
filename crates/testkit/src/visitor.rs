//! What users do more rarely: namespaces that go with all they hold, owners in a ring, budgets and evictions.

use std::sync::Arc;

use api::interface::{Api, Call, DeleteOptions, PatchKind, Propagation, Target, WriteOptions};
use api::json;
use api::names::{CONFIG_MAPS, DEPLOYMENTS, NAMESPACES, POD_DISRUPTION_BUDGETS, PODS, SERVICES};
use api::object::Object;
use api::status::{Reason, Status};
use api::value::Value;
use base::Random;

use crate::node::POD_CPU;

/// A namespace that comes and goes.
pub const GUESTS: &str = "guests";
/// What lives in it.
const GUEST: &str = "cat";
/// ConfigMaps that own each other, each one the one before it.
const RING: [&str; 3] = ["ring-0", "ring-1", "ring-2"];

/// What is done.
pub const ACTS: [&str; 7] = [
    "furnish a namespace for",
    "delete the namespace beside",
    "tie a ring, perhaps to",
    "cut the ring beside",
    "budget",
    "delete the budget of",
    "evict",
];

/// A user who is seldom there.
pub struct Visitor {
    api: Arc<dyn Api>,
    random: Random,
}

impl Visitor {
    /// A user who acts through `api`.
    pub fn new(api: Arc<dyn Api>, random: &Random) -> Self {
        Self { api, random: random.clone() }
    }

    /// Does one thing, if about a deployment then about `name`. Evictions take ready pods away, and so are for harsh
    /// worlds only.
    pub async fn act(&self, name: &str, harsh: bool) -> (&'static str, Result<(), Status>) {
        let [furnish, delete, tie, cut, budget, delete_budget, evict] = ACTS;
        match self.random.below(if harsh { 13 } else { 11 }) {
            0..=1 => (furnish, self.furnish().await),
            2 => (delete, self.delete(&NAMESPACES, "", GUESTS, None).await),
            3..=4 => (tie, self.tie(name).await),
            5..=6 => (cut, self.cut().await),
            7..=8 => (budget, self.budget(name).await),
            9..=10 => (delete_budget, self.delete(&POD_DISRUPTION_BUDGETS, "default", name, None).await),
            _ => (evict, self.evict(name).await),
        }
    }

    /// Makes the namespace and everything in it, as far as it is not there.
    async fn furnish(&self) -> Result<(), Status> {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": GUESTS}});
        present(self.api.create(&NAMESPACES, "", &namespace).await)?;
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": GUEST},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": GUEST}}, "template": {
                "metadata": {"labels": {"app": GUEST}},
                "spec": {"containers": [{
                    "name": "c", "image": "echo:v1", "resources": {"requests": {"cpu": POD_CPU}}
                }]}
            }}
        });
        present(self.api.create(&DEPLOYMENTS, GUESTS, &deployment).await)?;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": GUEST},
            "spec": {"selector": {"app": GUEST}, "ports": [{"port": 80}]}
        });
        present(self.api.create(&SERVICES, GUESTS, &service).await)?;
        present(
            self.api.create(&POD_DISRUPTION_BUDGETS, GUESTS, &budget(GUEST, "minAvailable", 1.into())).await,
        )
    }

    /// Makes the ring: each is owned by the next, and one perhaps by a deployment too.
    async fn tie(&self, deployment: &str) -> Result<(), Status> {
        let mut uids = Vec::new();
        for name in RING {
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
            present(self.api.create(&CONFIG_MAPS, "default", &object).await)?;
            uids.push(self.api.get(&CONFIG_MAPS, "default", name).await?.uid().to_owned());
        }
        let second = self.random.below(2 * RING.len() as u64) as usize;
        for (number, name) in RING.iter().enumerate() {
            let next = (number + 1) % RING.len();
            let mut owners = vec![owner("v1", "ConfigMap", RING[next], &uids[next])];
            if number == second {
                let found = self.api.get(&DEPLOYMENTS, "default", deployment).await?;
                owners.push(owner("apps/v1", "Deployment", deployment, found.uid()));
            }
            let patch = json!({"metadata": {"uid": (uids[number].clone()), "ownerReferences": owners}});
            let target = Target::new(&CONFIG_MAPS, "default", name);
            self.api.patch(target, PatchKind::Merge, &patch).await?;
        }
        Ok(())
    }

    async fn cut(&self) -> Result<(), Status> {
        let name = RING[self.random.below(RING.len() as u64) as usize];
        let propagation = match self.random.below(4) {
            0 => Propagation::Background,
            1 => Propagation::Orphan,
            _ => Propagation::Foreground,
        };
        self.delete(&CONFIG_MAPS, "default", name, Some(propagation)).await
    }

    async fn budget(&self, app: &str) -> Result<(), Status> {
        let (rule, value) = match self.random.below(3) {
            0 => ("minAvailable", one_of(&self.random, &[], &[1, 2, 3])),
            _ => ("maxUnavailable", one_of(&self.random, &["30%", "50%"], &[0, 1, 2])),
        };
        present(self.api.create(&POD_DISRUPTION_BUDGETS, "default", &budget(app, rule, value)).await)
    }

    async fn evict(&self, app: &str) -> Result<(), Status> {
        let mut pods = self.api.list(&PODS, "default").await?.items;
        pods.retain(|pod| pod.label("app") == Some(app));
        if pods.is_empty() {
            return Err(Status::new(Reason::NotFound, "nobody is there to be evicted"));
        }
        let chosen = pods[self.random.below(pods.len() as u64) as usize].name().to_owned();
        let eviction =
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": (chosen.clone())}});
        let target = Target::new(&PODS, "default", &chosen).subresource("eviction");
        self.api
            .call(Call::Create(target, eviction.to_bytes().into(), WriteOptions::default()))
            .await
            .map(drop)
    }

    async fn delete(
        &self,
        resource: &api::names::Resource,
        namespace: &str,
        name: &str,
        propagation: Option<Propagation>,
    ) -> Result<(), Status> {
        let options = DeleteOptions { propagation, ..DeleteOptions::default() };
        self.api.delete(resource, namespace, name, options).await.map(drop)
    }
}

/// One of some percentages and numbers.
pub fn one_of(random: &Random, percentages: &[&str], numbers: &[i64]) -> Value {
    let chosen = random.below((percentages.len() + numbers.len()) as u64) as usize;
    match percentages.get(chosen) {
        Some(percentage) => Value::from(*percentage),
        None => Value::from(numbers[chosen - percentages.len()]),
    }
}

fn budget(app: &str, rule: &str, value: Value) -> Value {
    let mut budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": app},
        "spec": {"selector": {"matchLabels": {"app": app}}}
    });
    budget.set(&["spec", rule], value);
    budget
}

fn owner(api_version: &str, kind: &str, name: &str, uid: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "blockOwnerDeletion": true})
}

/// What is there already needs no making.
fn present(made: Result<Arc<Object>, Status>) -> Result<(), Status> {
    match made {
        Err(status) if status.reason != Reason::AlreadyExists => Err(status),
        _ => Ok(()),
    }
}

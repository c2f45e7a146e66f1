//! Pods that nobody else will clear away: their node is gone, they end without ever having had one, or there are
//! too many that have ended.

use std::time::Duration;

use api::interface::{DeleteOptions, PatchKind, Target};
use api::json;
use api::names::{NODES, PODS};
use api::object::Object;
use api::value::Value;
use base::Clock;
use control::mirror::{Change, Key};
use control::plan::{Controller, Plan, Watches, Write};
use control::world::World;
use jiff::Timestamp;

use crate::node_pods::{node_of, on_node, phase_of};
use crate::seen::Seen;
use crate::{condition, guard};

/// Pods that have ended and may stay, over the whole cluster.
const ENDED_PODS: usize = 12_500;
/// Pods that one plan deletes at the most; the next plan goes on.
const DELETIONS: usize = 500;
/// When it goes on.
const NEXT_DELETIONS: Duration = Duration::from_secs(1);
/// How long a node may be gone before its pods go: one that registers anew at once keeps them.
const QUARANTINE: Duration = Duration::from_secs(40);
/// By this taint users say that a node that does not answer is really off.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The collector of pods. A key is a pod; the empty key is all that have ended.
pub struct PodGarbage {
    ended_pods: usize,
    /// Nodes that pods name and that are not there.
    missing: Seen<String, ()>,
}

impl PodGarbage {
    /// Measures with `clock` how long nodes are gone.
    pub fn new(clock: &Clock) -> Self {
        Self { ended_pods: ENDED_PODS, missing: Seen::new(clock) }
    }
}

impl Controller for PodGarbage {
    fn name(&self) -> &'static str {
        "pod-garbage-collector-controller"
    }

    fn watches(&self) -> Vec<Watches> {
        vec![Watches::mapped(&PODS, pod_and_ended), Watches::mapped(&NODES, pods_of_node)]
    }

    fn plan(&self, world: &World, key: &Key, now: Timestamp) -> Plan {
        if *key == Key::default() {
            return self.too_many(world);
        }
        let mut plan = Plan::nothing();
        let Some(pod) = world.get(&PODS, &key.namespace, &key.name) else { return plan };
        let node_name = node_of(&pod);
        let node = world.get(&NODES, "", &node_name);
        if node.is_some() {
            self.missing.forget(&node_name);
        }
        // Nearly all pods are on a node that is there, or wait for one: of these no tree is read.
        if (node_name.is_empty() || node.is_some()) && !pod.is_deleting() {
            return plan;
        }
        let tree = pod.to_tree();
        if node_name.is_empty() {
            fail_and_delete(&mut plan, &pod, &tree, None);
            return plan;
        }
        match node {
            None => self.wait_and_delete(&mut plan, world, &pod, &tree, now),
            Some(node) if pod.is_deleting() && is_out_of_service(&node.to_tree()) => {
                fail_and_delete(&mut plan, &pod, &tree, None);
            }
            Some(_) => {}
        }
        plan
    }
}

impl PodGarbage {
    /// Deletes the oldest of those that have ended, evicted ones first.
    fn too_many(&self, world: &World) -> Plan {
        let mut plan = Plan::nothing();
        let mut ended = world.list(&PODS, "");
        ended.retain(|pod| has_ended(pod) && !pod.is_deleting());
        let surplus = ended.len().saturating_sub(self.ended_pods);
        if surplus == 0 {
            return plan;
        }
        ended.sort_by_cached_key(|pod| {
            let tree = pod.to_tree();
            let evicted = tree.str_at(&["status", "reason"]) == Some("Evicted");
            let created = tree.str_at(&["metadata", "creationTimestamp"]).unwrap_or_default().to_owned();
            (!evicted, created, pod.name().to_owned())
        });
        for pod in ended.iter().take(surplus.min(DELETIONS)) {
            plan.write(delete(pod));
        }
        if surplus > DELETIONS {
            plan.again_after(NEXT_DELETIONS);
        }
        plan
    }

    /// The node is gone: the pod is deleted when it has been for a while.
    fn wait_and_delete(&self, plan: &mut Plan, world: &World, pod: &Object, tree: &Value, now: Timestamp) {
        let node = node_of(pod);
        let gone = self.missing.since(node.clone(), ());
        if let Some(left) = QUARANTINE.checked_sub(gone).filter(|left| !left.is_zero()) {
            return plan.again_after(left);
        }
        if on_node(world, &node).len() <= 1 {
            // The last one: for whoever names this node later it begins anew.
            self.missing.forget(&node);
        }
        plan.write(guard::require_gone(Target::new(&NODES, "", &node)));
        plan.then();
        let message = "PodGC: node no longer exists";
        let disruption = condition::new("DisruptionTarget", "True", "DeletionByPodGC", message, now);
        fail_and_delete(plan, pod, tree, Some(disruption));
    }
}

fn has_ended(pod: &Object) -> bool {
    matches!(phase_of(pod).as_str(), "Succeeded" | "Failed")
}

fn is_out_of_service(node: &Value) -> bool {
    let ready = condition::find(node.array_at(&["status", "conditions"]), "Ready");
    let is_ready = ready.and_then(|ready| ready.str_at(&["status"])) == Some("True");
    let taints = node.array_at(&["spec", "taints"]);
    !is_ready && taints.iter().any(|taint| taint.str_at(&["key"]) == Some(OUT_OF_SERVICE))
}

/// There is no agent that would say how the pod ended, so it has failed; then it is taken away at once.
fn fail_and_delete(plan: &mut Plan, pod: &Object, tree: &Value, condition: Option<Value>) {
    if !matches!(tree.str_at(&["status", "phase"]), Some("Succeeded" | "Failed")) {
        let mut patch = json!({"metadata": {"uid": (pod.uid())}, "status": {"phase": "Failed"}});
        if let Some(condition) = condition {
            patch.set(&["status", "conditions"], vec![condition]);
        }
        plan.write(status_patch(pod, &patch));
        plan.then();
    }
    // One that is held by finalizers is deleted already; asking again would change nothing.
    if tree.int_at(&["metadata", "deletionGracePeriodSeconds"]) != Some(0) || !pod.is_deleting() {
        plan.write(delete(pod));
    }
}

fn delete(pod: &Object) -> Write {
    Write::delete(&PODS, pod, DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() })
}

fn status_patch(pod: &Object, patch: &Value) -> Write {
    let target = Target::new(&PODS, pod.namespace(), pod.name()).subresource("status");
    Write::patch(target, PatchKind::StrategicMerge, patch)
}

/// A pod leads to itself; one that has just ended also to all that have.
fn pod_and_ended(_: &World, change: &Change) -> Vec<Key> {
    let Some(pod) = change.new.as_deref() else { return Vec::new() };
    let mut keys = vec![Key::of(pod)];
    if has_ended(pod) && !change.old.as_deref().is_some_and(has_ended) {
        keys.push(Key::default());
    }
    keys
}

fn pods_of_node(world: &World, change: &Change) -> Vec<Key> {
    let out =
        |side: &Option<std::sync::Arc<Object>>| side.as_ref().map(|node| is_out_of_service(&node.to_tree()));
    if out(&change.old) == out(&change.new) {
        return Vec::new();
    }
    let node = change.either().map(Object::name).unwrap_or_default();
    on_node(world, node).iter().map(|pod| Key::of(pod)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Stage;

    fn pod(name: &str, node: &str, phase: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d", "uid": name},
            "spec": {"nodeName": node}, "status": {"phase": phase}})
    }

    fn node() -> Value {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})
    }

    fn stage() -> Stage<PodGarbage> {
        Stage::new(PodGarbage::new(&Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap())))
    }

    #[tokio::test(start_paused = true)]
    async fn pods_of_a_node_that_stays_away_are_deleted_after_a_while() {
        let mut stage = stage();
        stage.put(&NODES, node());
        stage.put(&PODS, pod("p", "n", "Running"));
        stage.check("d/p", &[]);
        assert_eq!(stage.keys_of_going(&NODES, node()), ["d/p"]);
        // Nobody writes on the pod that its node is gone, and a clock that is set makes it no longer.
        stage.at("2030-01-01T00:00:00Z");
        stage.check("d/p", &[]);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(stage.plan("d/p").again_after, Some(Duration::from_secs(10)));
        // A node that comes back keeps its pods, and begins anew when it goes again.
        stage.put(&NODES, node());
        stage.check("d/p", &[]);
        stage.keys_of_going(&NODES, node());
        assert_eq!(stage.plan("d/p").again_after, Some(Duration::from_secs(40)));
        tokio::time::advance(Duration::from_secs(40)).await;
        stage.check(
            "d/p",
            &[
                "require gone nodes /n",
                r#"patch pods d/p/status {"metadata":{"uid":"p"},"status":{"conditions":[{"lastTransitionTime":"2030-01-01T00:00:00Z","message":"PodGC: node no longer exists","reason":"DeletionByPodGC","status":"True","type":"DisruptionTarget"}],"phase":"Failed"}}"#,
                "delete pods d/p in 0 s",
            ],
        );
        assert_eq!(
            stage.plan("d/p").again_after,
            Some(QUARANTINE),
            "the last one ends the memory of its node"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_ends_without_a_node_goes_once() {
        let stage = stage();
        let mut ending = pod("p", "", "Pending");
        ending.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
        stage.put(&PODS, ending.clone());
        stage.check(
            "d/p",
            &[
                r#"patch pods d/p/status {"metadata":{"uid":"p"},"status":{"phase":"Failed"}}"#,
                "delete pods d/p in 0 s",
            ],
        );
        ending.set(&["metadata", "deletionGracePeriodSeconds"], 0i64);
        ending.set(&["status", "phase"], "Failed");
        stage.put(&PODS, ending);
        stage.check("d/p", &[]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_out_of_service_lets_its_ending_pods_go() {
        let stage = stage();
        let mut off = node();
        off.set(&["spec", "taints"], vec![json!({"key": OUT_OF_SERVICE, "effect": "NoExecute"})]);
        stage.put(&NODES, off);
        let mut ending = pod("p", "n", "Succeeded");
        stage.put(&PODS, ending.clone());
        stage.check("d/p", &[]);
        ending.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
        stage.put(&PODS, ending);
        stage.check("d/p", &["delete pods d/p in 0 s"]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_ended_pods_evicted_and_old_ones_go() {
        let mut stage = stage();
        stage.controller.ended_pods = 1;
        for (name, created) in [("old", "2025-01-01T00:00:00Z"), ("new", "2025-02-01T00:00:00Z")] {
            let mut ended = pod(name, "n", "Succeeded");
            ended.set(&["metadata", "creationTimestamp"], created);
            stage.put(&PODS, ended);
        }
        stage.check("/", &["delete pods d/old in 0 s"]);
        let mut evicted = pod("evicted", "n", "Failed");
        evicted.set(&["status", "reason"], "Evicted");
        evicted.set(&["metadata", "creationTimestamp"], "2025-03-01T00:00:00Z");
        stage.put(&PODS, evicted);
        stage.check("/", &["delete pods d/evicted in 0 s", "delete pods d/old in 0 s"]);
    }
}

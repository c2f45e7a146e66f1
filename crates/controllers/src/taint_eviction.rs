//! Pods on nodes with `NoExecute` taints: deleted at once, or when they have tolerated long enough.
//!
//! Upstream counts from when it saw the taint. Here it counts from the taint's `timeAdded`, which the controller of
//! nodes' health adds where it lacks, or from when the pod was bound if that is later. An eviction that has become
//! needless is not announced as cancelled, for it was never announced.

use std::time::Duration;

use api::interface::{DeleteOptions, PatchKind, Target};
use api::json;
use api::names::{NODES, PODS};
use api::object::Object;
use api::value::Value;
use control::mirror::{Change, Key};
use control::plan::{Controller, Plan, Watches, Write};
use control::recorder::Note;
use control::world::World;
use jiff::Timestamp;

use crate::condition;
use crate::mention::mentions;
use crate::node_pods::{node_of, on_node};

/// The controller of evictions by taints. Its keys are pods.
pub struct TaintEviction;

impl Controller for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    fn watches(&self) -> Vec<Watches> {
        vec![Watches::mapped(&PODS, bound_pod), Watches::mapped(&NODES, pods_of_node)]
    }

    fn plan(&self, world: &World, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let pod = world.get(&PODS, &key.namespace, &key.name);
        let Some(pod) = pod.filter(|pod| !pod.is_deleting()) else { return plan };
        let Some(node) = world.get(&NODES, "", &node_of(&pod)) else { return plan };
        let taints = no_execute(&node);
        if taints.is_empty() {
            return plan;
        }
        match time_left(&pod.to_tree(), &taints, now) {
            None => {}
            Some(left) if left.is_zero() => evict(&mut plan, &pod, now),
            Some(left) => plan.again_after(left),
        }
        plan
    }
}

/// How long a pod may stay; `None` if for ever, or until it is known since when the taint is there.
fn time_left(pod: &Value, taints: &[Value], now: Timestamp) -> Option<Duration> {
    let tolerations = pod.array_at(&["spec", "tolerations"]);
    let mut shortest = None;
    for taint in taints {
        let Some(toleration) = tolerations.iter().find(|toleration| tolerates(toleration, taint)) else {
            return Some(Duration::ZERO);
        };
        let Some(seconds) = toleration.int_at(&["tolerationSeconds"]) else { continue };
        let left = if seconds <= 0 {
            Duration::ZERO
        } else {
            let Some(added) = condition::read_time(taint.get("timeAdded")) else { continue };
            let since = bound_at(pod).map_or(added, |bound| bound.max(added));
            let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
            Duration::from_secs(seconds.unsigned_abs()).saturating_sub(passed)
        };
        shortest = Some(shortest.map_or(left, |other: Duration| other.min(left)));
    }
    shortest
}

/// Whether a toleration covers a taint (`Toleration.ToleratesTaint`).
fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let of = |field| toleration.str_at(&[field]).unwrap_or_default();
    let is = |field| taint.str_at(&[field]).unwrap_or_default();
    let fits = |field| of(field).is_empty() || of(field) == is(field);
    let numbers = || Some((is("value").parse::<i64>().ok()?, of("value").parse::<i64>().ok()?));
    fits("effect")
        && fits("key")
        && match of("operator") {
            "" | "Equal" => of("value") == is("value"),
            "Exists" => true,
            "Lt" => numbers().is_some_and(|(taint, bound)| taint < bound),
            "Gt" => numbers().is_some_and(|(taint, bound)| taint > bound),
            _ => false,
        }
}

/// When a pod got to its node.
fn bound_at(pod: &Value) -> Option<Timestamp> {
    let scheduled = condition::find(pod.array_at(&["status", "conditions"]), "PodScheduled");
    let at = scheduled.and_then(|scheduled| condition::read_time(scheduled.get("lastTransitionTime")));
    at.or_else(|| condition::read_time(pod.at(&["metadata", "creationTimestamp"])))
}

fn evict(plan: &mut Plan, pod: &Object, now: Timestamp) {
    let message = "Taint manager: deleting due to NoExecute taint";
    let conditions = vec![condition::new("DisruptionTarget", "True", "DeletionByTaintManager", message, now)];
    let patch = json!({"metadata": {"uid": (pod.uid())}, "status": {"conditions": conditions}});
    let target = Target::new(&PODS, pod.namespace(), pod.name()).subresource("status");
    plan.write(Write::patch(target, PatchKind::StrategicMerge, &patch));
    plan.then();
    plan.write(Write::delete(&PODS, pod, DeleteOptions::default()));
    let words = format!("Marking for deletion Pod {}", Key::of(pod));
    plan.note(Note::normal(pod, "TaintManagerEviction", words));
}

/// The taints of a node that drive pods away. Most nodes have none, and of these no tree is read.
fn no_execute(node: &Object) -> Vec<Value> {
    if !mentions(node, "NoExecute") {
        return Vec::new();
    }
    let tree = node.to_tree();
    let taints = tree.array_at(&["spec", "taints"]).iter();
    taints.filter(|taint| taint.str_at(&["effect"]) == Some("NoExecute")).cloned().collect()
}

fn bound_pod(world: &World, change: &Change) -> Vec<Key> {
    let pod = change.new.as_deref().filter(|pod| !pod.is_deleting());
    let tainted = |pod: &&Object| {
        world.get(&NODES, "", &node_of(pod)).is_some_and(|node| !no_execute(&node).is_empty())
    };
    pod.filter(tainted).map(Key::of).into_iter().collect()
}

fn pods_of_node(world: &World, change: &Change) -> Vec<Key> {
    let taints = |side: &Option<std::sync::Arc<Object>>| side.as_ref().map(|node| no_execute(node));
    let Some(node) = change.new.as_deref().filter(|_| taints(&change.old) != taints(&change.new)) else {
        return Vec::new();
    };
    on_node(world, node.name()).iter().map(|pod| Key::of(pod)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Stage;

    fn stage(toleration: Value) -> Stage<TaintEviction> {
        let stage = Stage::new(TaintEviction);
        let taint =
            json!({"key": "k", "value": "5", "effect": "NoExecute", "timeAdded": "2025-12-31T23:59:00Z"});
        stage.put(
            &NODES,
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {"taints": [taint]}}),
        );
        stage.put(
            &PODS,
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "namespace": "d", "uid": "p", "creationTimestamp": "2025-12-31T23:59:30Z"},
                "spec": {"nodeName": "n", "tolerations": [toleration]}}),
        );
        stage
    }

    /// What becomes of a pod: `Some(0)` goes now, `None` stays.
    #[track_caller]
    fn check(toleration: Value, expect: Option<u64>) {
        let plan = stage(toleration).plan("d/p");
        let now = plan.writes().next().map(|_| Duration::ZERO);
        assert_eq!(now.or(plan.again_after), expect.map(Duration::from_secs));
    }

    #[test]
    fn tolerations_decide_how_long_a_pod_stays() {
        check(json!({"key": "other", "operator": "Exists"}), Some(0));
        check(json!({"key": "k", "operator": "Exists"}), None);
        check(json!({"operator": "Exists"}), None);
        check(json!({"key": "k", "value": "5", "effect": "NoExecute"}), None);
        check(json!({"key": "k", "value": "6"}), Some(0));
        check(json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), Some(0));
        check(json!({"key": "k", "operator": "Lt", "value": "6"}), None);
        check(json!({"key": "k", "operator": "Gt", "value": "6"}), Some(0));
        // The pod came half a minute ago, later than the taint.
        check(json!({"key": "k", "operator": "Exists", "tolerationSeconds": 300}), Some(270));
        check(json!({"key": "k", "operator": "Exists", "tolerationSeconds": 30}), Some(0));
        check(json!({"key": "k", "operator": "Exists", "tolerationSeconds": (-1i64)}), Some(0));
    }

    #[test]
    fn an_eviction_says_why() {
        let stage = stage(json!({"key": "other", "operator": "Exists"}));
        stage.check(
            "d/p",
            &[
                r#"patch pods d/p/status {"metadata":{"uid":"p"},"status":{"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"Taint manager: deleting due to NoExecute taint","reason":"DeletionByTaintManager","status":"True","type":"DisruptionTarget"}]}}"#,
                "delete pods d/p",
                "Normal TaintManagerEviction: Marking for deletion Pod d/p",
            ],
        );
    }
}

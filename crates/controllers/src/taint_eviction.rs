//! Pods on nodes with `NoExecute` taints: deleted at once, or when they have tolerated long enough.
//!
//! Upstream counts from when it saw the taint, and so does this where the taint does not say. Of one that says so in its
//! `timeAdded`, as those of the controller of nodes' health do, it counts from there, or from when the pod was bound if
//! that is later: so a restart gives no pod more time. An eviction that has become needless is not announced as
//! cancelled, for it was never announced.

use std::time::Duration;

use api::interface::{DeleteOptions, PatchKind, Target};
use api::json;
use api::names::{NODES, PODS};
use api::object::Object;
use api::value::Value;
use base::Clock;
use control::mirror::{Change, Key};
use control::plan::{Controller, Plan, Watches, Write};
use control::recorder::Note;
use control::world::World;
use jiff::Timestamp;

use crate::condition;
use crate::mention::mentions;
use crate::node_pods::{node_of, on_node};
use crate::seen::Seen;

/// The controller of evictions by taints. Its keys are pods.
pub struct TaintEviction {
    /// Pods, by uid, on nodes with a taint that does not say since when it is there.
    driven: Seen<Key, String>,
}

impl TaintEviction {
    /// Measures with `clock` how long taints are there.
    pub fn new(clock: &Clock) -> Self {
        Self { driven: Seen::new(clock) }
    }
}

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
        let node = |pod: &Object| world.get(&NODES, "", &node_of(pod));
        let driven = pod.filter(|pod| !pod.is_deleting()).and_then(|pod| {
            let taints = no_execute(&*node(&pod)?);
            (!taints.is_empty()).then_some((pod, taints))
        });
        let Some((pod, taints)) = driven else {
            self.driven.forget(key);
            return plan;
        };
        let seen = self.driven.since(key.clone(), pod.uid().to_owned());
        match time_left(&pod.to_tree(), &taints, seen, now) {
            None => {}
            Some(left) if left.is_zero() => evict(&mut plan, &pod, now),
            Some(left) => plan.again_after(left),
        }
        plan
    }
}

/// How long a pod may stay that was seen with taints for so long; `None` if for ever.
fn time_left(pod: &Value, taints: &[Value], seen: Duration, now: Timestamp) -> Option<Duration> {
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
            let passed = match condition::read_time(taint.get("timeAdded")) {
                None => seen,
                Some(added) => {
                    let since = bound_at(pod).map_or(added, |bound| bound.max(added));
                    Duration::try_from(now.duration_since(since)).unwrap_or_default()
                }
            };
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
    let Some(pod) = change.new.as_deref() else {
        // It is forgotten.
        return change.either().map(Key::of).into_iter().collect();
    };
    let pod = Some(pod).filter(|pod| !pod.is_deleting());
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
        stage_of(toleration, Some("2025-12-31T23:59:00Z"))
    }

    fn stage_of(toleration: Value, added: Option<&str>) -> Stage<TaintEviction> {
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let stage = Stage::new(TaintEviction::new(&clock));
        let mut taint = json!({"key": "k", "value": "5", "effect": "NoExecute"});
        if let Some(added) = added {
            taint.set(&["timeAdded"], added);
        }
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

    #[tokio::test(start_paused = true)]
    async fn a_taint_without_a_time_counts_from_when_it_was_seen() {
        let toleration = json!({"key": "k", "operator": "Exists", "tolerationSeconds": 300});
        let mut stage = stage_of(toleration, None);
        assert_eq!(stage.plan("d/p").again_after, Some(Duration::from_secs(300)));
        stage.at("2030-01-01T00:00:00Z");
        tokio::time::advance(Duration::from_secs(299)).await;
        assert_eq!(stage.plan("d/p").again_after, Some(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(stage.plan("d/p").writes().next().is_some());
        let pod = stage.world.get(&PODS, "d", "p").unwrap().to_tree();
        assert_eq!(stage.keys_of_going(&PODS, pod.clone()), ["d/p"]);
        stage.check("d/p", &[]);
        stage.put(&PODS, pod);
        assert_eq!(stage.plan("d/p").again_after, Some(Duration::from_secs(300)), "another pod of that name");
    }

    #[tokio::test(start_paused = true)]
    async fn tolerations_decide_how_long_a_pod_stays() {
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

    #[tokio::test(start_paused = true)]
    async fn an_eviction_says_why() {
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

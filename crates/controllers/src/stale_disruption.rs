//! Pods that were to be disrupted and were not: after a while their condition says so no more.

use std::time::Duration;

use api::interface::{PatchKind, Target};
use api::json;
use api::names::PODS;
use api::value::Value;
use control::mirror::{Change, Key};
use control::plan::{Controller, Plan, Watches, Write};
use control::world::World;
use jiff::Timestamp;

use crate::condition;
use crate::mention::mentions;

/// From the announcement until the pod must be going.
const PATIENCE: Duration = Duration::from_secs(120);
/// The announcement.
const CONDITION: &str = "DisruptionTarget";

/// The controller of such conditions.
pub struct StaleDisruption;

impl Controller for StaleDisruption {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn watches(&self) -> Vec<Watches> {
        vec![Watches::mapped(&PODS, announced)]
    }

    fn plan(&self, world: &World, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let pod = world.get(&PODS, &key.namespace, &key.name);
        let Some(pod) = pod.filter(|pod| !pod.is_deleting()) else { return plan };
        let tree = pod.to_tree();
        let Some(since) = stale_since(&tree) else { return plan };
        let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        if let Some(left) = PATIENCE.checked_sub(passed).filter(|left| !left.is_zero()) {
            plan.again_after(left);
            return plan;
        }
        let mut reset = condition::new(CONDITION, "False", "", "", now);
        reset.set(&["reason"], Value::Null);
        reset.set(&["message"], Value::Null);
        let conditions = vec![reset];
        let patch = json!({"metadata": {"uid": (pod.uid())}, "status": {"conditions": conditions}});
        let target = Target::new(&PODS, &key.namespace, &key.name).subresource("status");
        plan.write(Write::patch(target, PatchKind::StrategicMerge, &patch));
        plan
    }
}

/// Since when a pod is to go that has not ended. What the node's agent announces may take as long as it likes.
fn stale_since(pod: &Value) -> Option<Timestamp> {
    if matches!(pod.str_at(&["status", "phase"]), Some("Succeeded" | "Failed")) {
        return None;
    }
    let announced = condition::find(pod.array_at(&["status", "conditions"]), CONDITION)?;
    let by_agent = announced.str_at(&["reason"]) == Some("TerminationByKubelet");
    let stands = announced.str_at(&["status"]) == Some("True") && !by_agent;
    condition::read_time(announced.get("lastTransitionTime")).filter(|_| stands)
}

/// Few pods have the condition, and of the others no tree is read.
fn announced(_: &World, change: &Change) -> Vec<Key> {
    let pod = change.new.as_deref().filter(|pod| mentions(pod, CONDITION));
    pod.map(Key::of).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Stage;

    #[test]
    fn an_announcement_that_came_to_nothing_is_taken_back() {
        let mut stage = Stage::new(StaleDisruption);
        let announced = condition::new(CONDITION, "True", "EvictionByEvictionAPI", "m", stage.now);
        let conditions = vec![announced];
        stage.put(
            &PODS,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d", "uid": "u"},
                "status": {"phase": "Running", "conditions": conditions}}),
        );
        assert_eq!(stage.plan("d/p").again_after, Some(PATIENCE));
        stage.at("2026-01-01T00:02:00Z");
        stage.check(
            "d/p",
            &[
                r#"patch pods d/p/status {"metadata":{"uid":"u"},"status":{"conditions":[{"lastTransitionTime":"2026-01-01T00:02:00Z","message":null,"reason":null,"status":"False","type":"DisruptionTarget"}]}}"#,
            ],
        );
    }
}

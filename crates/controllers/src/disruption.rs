//! PodDisruptionBudgets: how many pods may be taken away just now. Those who evict ask the status; what is written
//! here is the whole defence, so on any doubt nothing is allowed.
//!
//! What is deliberately absent: the scale of owners that are not built in. Asking for it is a call, and plans make
//! none; such budgets say so in their condition (an integer `minAvailable` needs no scale).

use std::collections::BTreeMap;
use std::time::Duration;

use api::interface::Target;
use api::json;
use api::names::{
    DEPLOYMENTS, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS, REPLICATION_CONTROLLERS, Resource, STATEFUL_SETS,
};
use api::object::{Object, Owner};
use api::selector::label::Selector;
use api::value::{Map, Value};
use control::mirror::{Change, Key};
use control::plan::{Controller, Plan, Watches, Write};
use control::recorder::Note;
use control::world::World;
use jiff::Timestamp;

use crate::condition;
use crate::pods::PodView;

/// How long an evicted pod may take until it is being deleted; later it counts as not evicted.
const DELETION_TIMEOUT: Duration = Duration::from_secs(120);
/// The condition that says whether pods may go.
const ALLOWED: &str = "DisruptionAllowed";

/// The controller of PodDisruptionBudgets.
pub struct Disruption;

impl Controller for Disruption {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn source(&self) -> &'static str {
        "controllermanager"
    }

    fn watches(&self) -> Vec<Watches> {
        let owners = [&DEPLOYMENTS, &REPLICA_SETS, &REPLICATION_CONTROLLERS, &STATEFUL_SETS];
        let owners = owners.into_iter().map(|resource| Watches::mapped(resource, rescaled));
        let own = [Watches::itself(&POD_DISRUPTION_BUDGETS), Watches::mapped(&PODS, budgets_of_pod)];
        own.into_iter().chain(owners).collect()
    }

    fn plan(&self, world: &World, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(object) = world.get(&POD_DISRUPTION_BUDGETS, &key.namespace, &key.name) else { return plan };
        let tree = object.to_tree();
        let Some(selector) = selector_of(&tree) else { return plan };
        let mut pods = world.list(&PODS, &key.namespace);
        pods.retain(|pod| selector.matches(pod.labels()));
        let pods = PodView::of(pods);
        let budget = Budget { object: &object, tree: &tree, now };
        match expected(world, &tree, &pods) {
            Ok(expected) => budget.write(&mut plan, &pods, &expected),
            Err(message) => budget.write_failure(&mut plan, &message),
        }
        plan
    }
}

fn selector_of(budget: &Value) -> Option<Selector> {
    Selector::from_object(budget.at(&["spec", "selector"])).ok()
}

/// How many pods there should be and how many must be healthy.
struct Expected {
    pods: i64,
    healthy: i64,
    /// Pods without a controller, which a share cannot count.
    unmanaged: usize,
}

fn expected(world: &World, budget: &Value, pods: &[PodView]) -> Result<Expected, String> {
    if let Some(max) = budget.at(&["spec", "maxUnavailable"]) {
        let (scale, unmanaged) = scale_of(world, pods)?;
        let healthy = (scale - share(max, scale)?).max(0);
        return Ok(Expected { pods: scale, healthy, unmanaged });
    }
    match budget.at(&["spec", "minAvailable"]) {
        Some(min) if min.as_int().is_none() => {
            let (scale, unmanaged) = scale_of(world, pods)?;
            Ok(Expected { pods: scale, healthy: share(min, scale)?, unmanaged })
        }
        Some(min) => {
            let healthy = min.as_int().unwrap_or_default();
            Ok(Expected { pods: pods.len() as i64, healthy, unmanaged: 0 })
        }
        None => Ok(Expected { pods: 0, healthy: 0, unmanaged: 0 }),
    }
}

/// A number, or a percentage of `total` rounded up.
fn share(value: &Value, total: i64) -> Result<i64, String> {
    if let Some(number) = value.as_int() {
        return Ok(number);
    }
    let percent =
        value.as_str().and_then(|text| text.strip_suffix('%')).and_then(|text| text.parse::<i64>().ok());
    let percent =
        percent.ok_or_else(|| format!("invalid value for IntOrString: {value}; give 2 or \"50%\""))?;
    Ok((percent.saturating_mul(total).saturating_add(99)).div_euclid(100))
}

/// The sum of what all controllers of the pods are scaled to, and how many pods have none.
fn scale_of(world: &World, pods: &[PodView]) -> Result<(i64, usize), String> {
    let mut scales: BTreeMap<String, i64> = BTreeMap::new();
    let mut unmanaged = 0;
    for pod in pods {
        let Some(owner) = pod.object.controller() else {
            unmanaged += 1;
            continue;
        };
        let (uid, scale) = scaled_owner(world, pod.object.namespace(), owner)
            .ok_or_else(|| format!("found no controllers for pod \"{}\"", pod.object.name()))?;
        scales.insert(uid, scale);
    }
    Ok((scales.values().sum(), unmanaged))
}

/// Uid and scale of a pod's controller; a ReplicaSet's Deployment speaks for it.
fn scaled_owner(world: &World, namespace: &str, owner: &Owner) -> Option<(String, i64)> {
    let (group, _) = api::names::split_api_version(&owner.api_version);
    let resource: &Resource = match (group, owner.kind.as_str()) {
        ("apps" | "extensions", "ReplicaSet") => &REPLICA_SETS,
        ("apps" | "extensions", "Deployment") => &DEPLOYMENTS,
        ("apps", "StatefulSet") => &STATEFUL_SETS,
        ("", "ReplicationController") => &REPLICATION_CONTROLLERS,
        _ => return None,
    };
    let found = world.get(resource, namespace, &owner.name).filter(|found| found.uid() == owner.uid)?;
    if *resource == REPLICA_SETS
        && let Some(above) = found.controller().filter(|above| above.kind == "Deployment")
    {
        return scaled_owner(world, namespace, above);
    }
    let replicas = found.to_tree().int_at(&["spec", "replicas"]).unwrap_or(1);
    Some((found.uid().to_owned(), replicas))
}

/// One budget under plan.
struct Budget<'a> {
    object: &'a Object,
    tree: &'a Value,
    now: Timestamp,
}

impl Budget<'_> {
    fn write(&self, plan: &mut Plan, pods: &[PodView], expected: &Expected) {
        let disrupted = self.disrupted(plan, pods);
        let healthy = pods.iter().filter(|pod| {
            !pod.object.is_deleting() && pod.is_ready() && !disrupted.contains_key(pod.object.name())
        });
        let healthy = healthy.count() as i64;
        let allowed = if expected.pods > 0 { (healthy - expected.healthy).max(0) } else { 0 };
        let status = json!({
            "currentHealthy": healthy, "desiredHealthy": (expected.healthy), "expectedPods": (expected.pods),
            "disruptionsAllowed": allowed,
            "observedGeneration": (self.tree.at(&["metadata", "generation"]).cloned().unwrap_or_default())
        });
        let (word, reason) =
            if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        if !self.update(plan, status, &disrupted, word, reason, "") {
            return;
        }
        if pods.is_empty() {
            plan.note(Note::normal(self.object, "NoPods", "No matching pods found"));
        }
        if expected.unmanaged > 0 {
            let words = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, \
                 the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To \
                 account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
                go_selector(self.tree.at(&["spec", "selector"]))
            );
            plan.note(Note::warning(self.object, "UnmanagedPods", words));
        }
    }

    /// On any doubt nothing may go.
    fn write_failure(&self, plan: &mut Plan, message: &str) {
        let disrupted = self.tree.at(&["status", "disruptedPods"]).and_then(Value::as_object).cloned();
        let disrupted = disrupted.into_iter().flatten().map(|(name, at)| (name.to_string(), at)).collect();
        let status = json!({"disruptionsAllowed": 0i64});
        if self.update(plan, status, &disrupted, "False", "SyncFailed", message) {
            let words = format!("Failed to calculate the number of expected pods: {message}");
            plan.note(Note::warning(self.object, "CalculateExpectedPodCountFailed", words));
        }
    }

    /// Pods that were evicted and are not being deleted yet. Who has waited too long is no longer counted so.
    fn disrupted(&self, plan: &mut Plan, pods: &[PodView]) -> BTreeMap<String, Value> {
        let mut still = BTreeMap::new();
        let Some(before) = self.tree.at(&["status", "disruptedPods"]).and_then(Value::as_object) else {
            return still;
        };
        for pod in pods.iter().filter(|pod| !pod.object.is_deleting()) {
            let name = pod.object.name();
            let Some(at) = before.get(name) else { continue };
            let since = condition::read_time(Some(at)).unwrap_or(Timestamp::UNIX_EPOCH);
            let passed = Duration::try_from(self.now.duration_since(since)).unwrap_or_default();
            match DELETION_TIMEOUT.checked_sub(passed).filter(|left| !left.is_zero()) {
                Some(left) => {
                    plan.again_after(left);
                    still.insert(name.to_owned(), at.clone());
                }
                None => {
                    let budget = Key::of(self.object);
                    let words = format!("Pod was expected by PDB {budget} to be deleted but it wasn't");
                    plan.note(Note::warning(&pod.object, "NotDeleted", words));
                }
            }
        }
        still
    }

    /// Writes the status if it has changed; whether it has.
    fn update(
        &self,
        plan: &mut Plan,
        mut status: Value,
        disrupted: &BTreeMap<String, Value>,
        allowed: &str,
        reason: &str,
        message: &str,
    ) -> bool {
        let old_disrupted = self.tree.at(&["status", "disruptedPods"]).and_then(Value::as_object);
        let empty = Map::new();
        let old_disrupted = old_disrupted.unwrap_or(&empty);
        let conditions = self.tree.array_at(&["status", "conditions"]);
        let old = condition::find(conditions, ALLOWED);
        let says = |field, text: &str| old.and_then(|old| old.str_at(&[field])) == Some(text);
        let same_fields = status
            .as_object()
            .into_iter()
            .flat_map(Map::iter)
            .all(|(field, value)| self.tree.at(&["status", field]).unwrap_or(&Value::Null) == value);
        let same_pods = old_disrupted.len() == disrupted.len()
            && old_disrupted.keys().all(|name| disrupted.contains_key(name.as_str()));
        if same_fields
            && same_pods
            && says("status", allowed)
            && says("reason", reason)
            && says("message", message)
        {
            return false;
        }
        let mut new = condition::new(ALLOWED, allowed, reason, message, self.now);
        if says("status", allowed)
            && let Some(at) = old.and_then(|old| old.get("lastTransitionTime"))
        {
            new.set(&["lastTransitionTime"], at.clone());
        }
        if let Some(generation) = self.tree.at(&["metadata", "generation"]) {
            new.set(&["observedGeneration"], generation.clone());
        }
        let mut conditions = conditions.to_vec();
        condition::remove(&mut conditions, ALLOWED);
        conditions.push(new);
        status.set(&["conditions"], conditions);
        old_disrupted.keys().for_each(|name| status.set(&["disruptedPods", name], Value::Null));
        disrupted.iter().for_each(|(name, at)| status.set(&["disruptedPods", name], at.clone()));
        // Evictions write the same fields; a plan that has not seen the last one must not undo it.
        let revision = self.object.revision().to_string();
        let patch =
            json!({"metadata": {"uid": (self.object.uid()), "resourceVersion": revision}, "status": status});
        let target = Target::new(&POD_DISRUPTION_BUDGETS, self.object.namespace(), self.object.name());
        plan.write(Write::merge(target.subresource("status"), &patch));
        true
    }
}

/// A selector as upstream's messages spell it: Go's way for that struct.
fn go_selector(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let labels = selector.get("matchLabels").and_then(Value::as_object).into_iter().flat_map(Map::iter);
    let mut labels: Vec<String> = labels
        .map(|(key, value)| format!("{}: {},", key.as_str(), value.as_str().unwrap_or_default()))
        .collect();
    labels.sort();
    let expressions = selector.array_at(&["matchExpressions"]).iter().map(|expression| {
        let word = |field| expression.str_at(&[field]).unwrap_or_default();
        let values = expression.array_at(&["values"]).iter().filter_map(Value::as_str);
        let values = values.collect::<Vec<_>>().join(" ");
        format!(
            "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
            word("key"),
            word("operator")
        )
    });
    let expressions: String = expressions.collect();
    let labels = labels.concat();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},\
         MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

/// A pod leads to the budgets that select it, as it was and as it is.
fn budgets_of_pod(world: &World, change: &Change) -> Vec<Key> {
    let Some(namespace) = change.either().map(Object::namespace) else { return Vec::new() };
    let budgets = world.list(&POD_DISRUPTION_BUDGETS, namespace);
    let selecting = budgets.iter().filter(|budget| {
        selector_of(&budget.to_tree())
            .is_some_and(|selector| change.sides().any(|pod| selector.matches(pod.labels())))
    });
    selecting.map(|budget| Key::of(budget)).collect()
}

/// An owner that is scaled, comes or goes leads to all budgets of its namespace.
fn rescaled(world: &World, change: &Change) -> Vec<Key> {
    let Some(namespace) = change.either().map(Object::namespace) else { return Vec::new() };
    let budgets = world.list(&POD_DISRUPTION_BUDGETS, namespace);
    let scale = |side: &Option<std::sync::Arc<Object>>| {
        side.as_ref().map(|owner| owner.to_tree().int_at(&["spec", "replicas"]))
    };
    if budgets.is_empty() || scale(&change.old) == scale(&change.new) {
        return Vec::new();
    }
    budgets.iter().map(|budget| Key::of(budget)).collect()
}

#[cfg(test)]
mod tests {
    use api::interface::Call;

    use super::*;
    use crate::stage::Stage;

    fn budget(spec: Value, status: Value) -> Value {
        let mut budget = json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "b", "namespace": "d", "uid": "b", "generation": 3i64, "resourceVersion": "9"},
            "spec": spec, "status": status
        });
        budget.set(&["spec", "selector"], json!({"matchLabels": {"app": "a"}}));
        budget
    }

    fn pod(name: &str, ready: bool, owner: Option<&str>) -> Value {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": "a"}},
            "status": {"conditions": [{"type": "Ready", "status": (if ready { "True" } else { "False" })}]}
        });
        if let Some(owner) = owner {
            let (kind, name) = owner.split_once('/').unwrap();
            pod.set(
                &["metadata", "ownerReferences"],
                vec![json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": name, "controller": true})],
            );
        }
        pod
    }

    /// A Deployment of six, with pods of which `ready` are.
    fn stage(ready: usize) -> Stage<Disruption> {
        let stage = Stage::new(Disruption);
        let owned = |kind: &str, name: &str, owner: Option<&str>| {
            let mut object = pod(name, true, owner);
            object.set(&["apiVersion"], "apps/v1");
            object.set(&["kind"], kind);
            object.set(&["spec", "replicas"], 6i64);
            object
        };
        stage.put(&DEPLOYMENTS, owned("Deployment", "web", None));
        stage.put(&REPLICA_SETS, owned("ReplicaSet", "web-1", Some("Deployment/web")));
        (0..6).for_each(|n| stage.put(&PODS, pod(&format!("p{n}"), n < ready, Some("ReplicaSet/web-1"))));
        stage
    }

    fn status(stage: &Stage<Disruption>) -> Value {
        let plan = stage.plan("d/b");
        let Some(Call::Patch(_, _, body, _)) = plan.writes().next().map(|write| &write.call) else {
            panic!("a patch is expected")
        };
        api::value::parse(body).unwrap().get("status").unwrap().clone()
    }

    #[track_caller]
    fn check(spec: Value, ready: usize, expect: [i64; 4]) {
        let stage = stage(ready);
        stage.put(&POD_DISRUPTION_BUDGETS, budget(spec, json!({})));
        let status = status(&stage);
        let fields = ["expectedPods", "desiredHealthy", "currentHealthy", "disruptionsAllowed"];
        assert_eq!(fields.map(|field| status.int_at(&[field]).unwrap()), expect);
        let reason = if expect[3] > 0 { "SufficientPods" } else { "InsufficientPods" };
        assert_eq!(status.array_at(&["conditions"])[0].str_at(&["reason"]), Some(reason));
        assert_eq!(status.int_at(&["observedGeneration"]), Some(3));
    }

    #[test]
    fn numbers_and_shares_are_counted_as_upstream() {
        check(json!({"minAvailable": 4i64}), 6, [6, 4, 6, 2]);
        check(json!({"minAvailable": 4i64}), 4, [6, 4, 4, 0]);
        check(json!({"minAvailable": "50%"}), 4, [6, 3, 4, 1]);
        check(json!({"minAvailable": "55%"}), 6, [6, 4, 6, 2]);
        check(json!({"maxUnavailable": 1i64}), 6, [6, 5, 6, 1]);
        check(json!({"maxUnavailable": "34%"}), 6, [6, 3, 6, 3]);
        check(json!({"maxUnavailable": "100%"}), 3, [6, 0, 3, 3]);
    }

    #[test]
    fn a_second_look_finds_nothing_to_do() {
        let stage = stage(6);
        stage.put(&POD_DISRUPTION_BUDGETS, budget(json!({"minAvailable": 4i64}), json!({})));
        let status = status(&stage);
        stage.put(&POD_DISRUPTION_BUDGETS, budget(json!({"minAvailable": 4i64}), status));
        stage.check("d/b", &[]);
    }

    #[test]
    fn evicted_pods_do_not_count_until_they_have_stayed_too_long() {
        let mut stage = stage(6);
        let evicted =
            json!({"disruptedPods": {"p0": "2025-12-31T23:59:00Z", "gone": "2025-12-31T23:59:00Z"}});
        stage.put(&POD_DISRUPTION_BUDGETS, budget(json!({"minAvailable": 4i64}), evicted));
        let written = status(&stage);
        assert_eq!(written.int_at(&["currentHealthy"]), Some(5));
        assert_eq!(
            written.get("disruptedPods").unwrap().to_string(),
            r#"{"gone":null,"p0":"2025-12-31T23:59:00Z"}"#
        );
        assert_eq!(stage.plan("d/b").again_after, Some(Duration::from_secs(60)));
        stage.at("2026-01-01T00:01:00Z");
        assert_eq!(status(&stage).int_at(&["currentHealthy"]), Some(6));
        assert_eq!(stage.plan("d/b").notes[0].reason, "NotDeleted");
    }

    #[test]
    fn pods_that_nobody_manages_are_told_in_upstreams_words() {
        let stage = stage(6);
        stage.put(&PODS, pod("alone", true, None));
        let mut selected = budget(json!({"maxUnavailable": 3i64}), json!({}));
        let expression = json!({"key": "app", "operator": "In", "values": ["a", "b"]});
        selected.set(&["spec", "selector", "matchExpressions"], vec![expression]);
        stage.put(&POD_DISRUPTION_BUDGETS, selected);
        let plan = stage.plan("d/b");
        let note = plan.notes.iter().find(|note| note.reason == "UnmanagedPods").expect("it is told");
        assert_eq!(
            note.message,
            "Pods selected by this PodDisruptionBudget (selector: &LabelSelector{MatchLabels:map[string]string{app: \
             a,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:app,Operator:In,Values:[a \
             b],},},}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, \
             which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" \
             field of the PDB to an integer value."
        );
    }

    #[test]
    fn an_unknown_owner_allows_nothing() {
        let stage = stage(6);
        stage.put(&PODS, pod("odd", true, Some("Whatever/x")));
        stage.put(&POD_DISRUPTION_BUDGETS, budget(json!({"maxUnavailable": 3i64}), json!({})));
        let status = status(&stage);
        assert_eq!(status.int_at(&["disruptionsAllowed"]), Some(0));
        assert_eq!(status.array_at(&["conditions"])[0].str_at(&["reason"]), Some("SyncFailed"));
    }
}

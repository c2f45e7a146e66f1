//! Nodes that fall silent: their conditions become unknown, taints keep pods away, their pods are no longer ready.
//!
//! What counts is when a heartbeat (a Lease that is renewed, a Ready condition that is reported) was seen to change, on
//! our own clock that runs on evenly, not the time that is written in it: whatever somebody sets the clock of a node or of
//! this machine to, no node falls silent. What is deliberately absent: evictions. Those follow from the taints.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::interface::{PatchKind, Target};
use api::json;
use api::names::{LEASES, NODES, PODS};
use api::object::Object;
use api::time::seconds;
use api::value::Value;
use base::Clock;
use control::mirror::{Change, Key};
use control::plan::{Controller, Plan, Watches, Write};
use control::recorder::Note;
use control::world::World;
use jiff::Timestamp;

use crate::condition;
use crate::node_pods::{node_of, on_node};
use crate::seen::Seen;

/// Silence after which a node is unknown (`nodeMonitorGracePeriod`).
const GRACE: Duration = Duration::from_secs(50);
/// The same for one that has never said anything (`nodeStartupGracePeriod`).
const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// Between two nodes of a zone that begin to lose their pods (`nodeEvictionRate` 0.1 a second).
const BETWEEN_EVICTIONS: Duration = Duration::from_secs(10);
/// Nodes of a cluster up to which a zone in trouble loses no pods at all (`largeClusterSizeThreshold`).
const SMALL_CLUSTER: usize = 50;
/// Share of silent nodes, in percent, from which a zone is in trouble (`unhealthyZoneThreshold`).
const TROUBLE_PERCENT: usize = 55;
/// Where nodes keep their Leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Label of nodes that say nothing about their zone's health.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Condition, status, and the taint that follows from both.
const TAINTS: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];
/// Labels, and their names of old.
const LABELS: [(&str, &str); 2] =
    [("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")];
/// What a node itself reports, and what is unknown when it is silent.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// The controller of nodes' health.
pub struct NodeLifecycle {
    /// The heartbeats of nodes.
    heartbeats: Seen<String, Heartbeat>,
    /// The nodes that were told of, for the events of their coming and going.
    registered: Mutex<BTreeMap<String, Arc<Object>>>,
}

/// What a node says that changes while it lives: the times in its Ready condition and in its Lease, as they are written.
type Heartbeat = (Option<String>, Option<String>);

impl NodeLifecycle {
    /// What was missed before `clock` began does not count.
    pub fn new(clock: &Clock) -> Self {
        Self { heartbeats: Seen::new(clock), registered: Mutex::default() }
    }
}

impl Controller for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node-lifecycle-controller"
    }

    fn source(&self) -> &'static str {
        "node-controller"
    }

    fn watches(&self) -> Vec<Watches> {
        vec![
            Watches::mapped(&NODES, nodes_of_node),
            Watches::mapped(&LEASES, node_of_lease),
            Watches::mapped(&PODS, node_of_new_pod),
        ]
    }

    fn plan(&self, world: &World, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let node = world.get(&NODES, "", &key.name);
        self.tell(&mut plan, &key.name, node.as_ref());
        let Some(node) = node else { return plan };
        let tree = node.to_tree();
        label(&mut plan, &node);
        if let Some(left) = self.time_left(world, &tree) {
            plan.again_after(left);
        } else {
            let unknown = unknown_conditions(&tree, now);
            if !unknown.is_empty() {
                if is_ready(&tree) {
                    let words = format!("Node {} status is now: NodeNotReady", node.name());
                    plan.note(Note::normal(&node, "NodeNotReady", words));
                }
                let patch = json!({"metadata": {"uid": (node.uid())}, "status": {"conditions": unknown}});
                let target = Target::new(&NODES, "", node.name()).subresource("status");
                plan.write(Write::patch(target, PatchKind::StrategicMerge, &patch));
                // The rest follows from the conditions, as soon as they are seen.
                return plan;
            }
        }
        taint(&mut plan, world, &node, &tree, now);
        if status_of(&tree, "Ready").is_some_and(|status| status != "True") {
            mark_pods(&mut plan, world, &node, now);
        }
        plan
    }
}

impl NodeLifecycle {
    /// Tells, once, of a node that has come or gone.
    fn tell(&self, plan: &mut Plan, name: &str, node: Option<&Arc<Object>>) {
        let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        match node {
            Some(node) => {
                if registered.insert(name.to_owned(), node.clone()).is_none() {
                    let words = format!("Node {name} event: Registered Node {name} in Controller");
                    plan.note(Note::normal(node, "RegisteredNode", words));
                }
            }
            None => {
                self.heartbeats.forget(&name.to_owned());
                if let Some(gone) = registered.remove(name) {
                    let words = format!("Node {name} event: Removing Node {name} from Controller");
                    plan.note(Note::normal(&gone, "RemovingNode", words));
                }
            }
        }
    }

    /// How long a node may still be silent; `None` if it has been for too long.
    fn time_left(&self, world: &World, node: &Value) -> Option<Duration> {
        let ready = condition::find(node.array_at(&["status", "conditions"]), "Ready");
        let reported = ready.and_then(|ready| ready.str_at(&["lastHeartbeatTime"])).map(str::to_owned);
        let name = node.str_at(&["metadata", "name"]).unwrap_or_default();
        let lease = world.get(&LEASES, LEASE_NAMESPACE, name);
        let renewed =
            lease.and_then(|lease| lease.to_tree().str_at(&["spec", "renewTime"]).map(str::to_owned));
        let silent = self.heartbeats.since(name.to_owned(), (reported, renewed));
        let grace = if ready.is_some() { GRACE } else { STARTUP_GRACE };
        grace.checked_sub(silent).filter(|left| !left.is_zero())
    }
}

/// Keeps the labels that older programs select by equal to the ones that took their place.
fn label(plan: &mut Plan, node: &Object) {
    let mut labels = Value::object();
    for (stable, older) in LABELS {
        if let Some(value) = node.label(stable).filter(|value| node.label(older) != Some(*value)) {
            labels.set(&[older], value);
        }
    }
    if labels.as_object().is_some_and(|labels| labels.iter().next().is_some()) {
        let patch = json!({"metadata": {"uid": (node.uid()), "labels": labels}});
        plan.write(Write::merge(Target::new(&NODES, "", node.name()), &patch));
        plan.then();
    }
}

fn status_of<'a>(node: &'a Value, kind: &str) -> Option<&'a str> {
    condition::find(node.array_at(&["status", "conditions"]), kind)?.str_at(&["status"])
}

fn is_ready(node: &Value) -> bool {
    status_of(node, "Ready") == Some("True")
}

/// The conditions that a silent node is to have and has not.
fn unknown_conditions(node: &Value, now: Timestamp) -> Vec<Value> {
    let missing = REPORTED.iter().filter(|kind| status_of(node, kind) != Some("Unknown"));
    missing
        .map(|kind| {
            let (reason, message) = if status_of(node, kind).is_none() {
                ("NodeStatusNeverUpdated", "Kubelet never posted node status.")
            } else {
                ("NodeStatusUnknown", "Kubelet stopped posting node status.")
            };
            let mut new = condition::new(kind, "Unknown", reason, message, now);
            if status_of(node, kind).is_none() {
                let created = node.at(&["metadata", "creationTimestamp"]).cloned();
                new.set(&["lastHeartbeatTime"], created.unwrap_or_default());
            }
            new
        })
        .collect()
}

/// Brings the taints that are ours to what the conditions say.
fn taint(plan: &mut Plan, world: &World, node: &Object, tree: &Value, now: Timestamp) {
    let present = tree.array_at(&["spec", "taints"]);
    let mut wanted: Vec<(&str, &str)> = TAINTS
        .iter()
        .filter(|(kind, status, _)| status_of(tree, kind) == Some(status))
        .map(|(_, _, taint)| (*taint, "NoSchedule"))
        .collect();
    if tree.bool_at(&["spec", "unschedulable"]) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    match evicting_taint(world, node, tree, now) {
        Evicting::No => {}
        Evicting::By(taint) => wanted.push((taint, "NoExecute")),
        Evicting::Later(delay) => plan.again_after(delay),
    }
    let mut taints = Vec::new();
    for taint in present {
        let word = |field| taint.str_at(&[field]).unwrap_or_default();
        if is_ours(word("key"), word("effect")) && !wanted.contains(&(word("key"), word("effect"))) {
            continue;
        }
        taints.push(taint.clone());
    }
    for (key, effect) in wanted {
        let has =
            |taint: &Value| taint.str_at(&["key"]) == Some(key) && taint.str_at(&["effect"]) == Some(effect);
        if !present.iter().any(has) {
            taints.push(json!({"key": key, "effect": effect, "timeAdded": (seconds(now))}));
        }
    }
    if taints != present {
        // The list is written as a whole, so nobody may have changed it meanwhile.
        let patch = json!({
            "metadata": {"uid": (node.uid()), "resourceVersion": (node.revision().to_string())},
            "spec": {"taints": (if taints.is_empty() { Value::Null } else { Value::Array(taints) })}
        });
        plan.write(Write::merge(Target::new(&NODES, "", node.name()), &patch));
    }
}

fn is_ours(key: &str, effect: &str) -> bool {
    let of_conditions = TAINTS.iter().any(|(_, _, taint)| *taint == key);
    match effect {
        "NoSchedule" => of_conditions || key == UNSCHEDULABLE,
        "NoExecute" => key == NOT_READY || key == UNREACHABLE,
        _ => false,
    }
}

/// Whether a node is to lose its pods.
enum Evicting {
    No,
    By(&'static str),
    Later(Duration),
}

/// If no node answers, the trouble is more likely on our side, and all keep their pods. In a zone where many are
/// silent the same holds while the cluster is small. Otherwise nodes of a zone lose their pods one by one.
fn evicting_taint(world: &World, node: &Object, tree: &Value, now: Timestamp) -> Evicting {
    let taint = match status_of(tree, "Ready") {
        Some("False") => NOT_READY,
        Some("Unknown") => UNREACHABLE,
        _ => return Evicting::No,
    };
    let nodes: Vec<(Arc<Object>, Value)> =
        world.list(&NODES, "").into_iter().map(|node| (node.clone(), node.to_tree())).collect();
    let mut zones: BTreeMap<(String, String), (usize, usize)> = BTreeMap::new();
    for (node, tree) in nodes.iter().filter(|(node, _)| node.label(EXCLUDED).is_none()) {
        let (ready, silent) = zones.entry(zone_of(node)).or_default();
        *(if is_ready(tree) { ready } else { silent }) += 1;
    }
    if zones.values().all(|(ready, _)| *ready == 0) {
        return Evicting::No;
    }
    let has_one = |tree: &Value| last_eviction(tree).is_some();
    if has_one(tree) {
        return Evicting::By(taint);
    }
    let (ready, silent) = zones.get(&zone_of(node)).copied().unwrap_or_default();
    let in_trouble = ready > 0 && silent > 2 && silent * 100 >= TROUBLE_PERCENT * (ready + silent);
    if in_trouble && nodes.len() <= SMALL_CLUSTER {
        return Evicting::No;
    }
    let of_zone = nodes.iter().filter(|(other, _)| zone_of(other) == zone_of(node));
    let last = of_zone.filter_map(|(_, tree)| last_eviction(tree)).max();
    let passed = last.map(|last| Duration::try_from(now.duration_since(last)).unwrap_or_default());
    match passed.and_then(|passed| BETWEEN_EVICTIONS.checked_sub(passed)).filter(|left| !left.is_zero()) {
        Some(left) => Evicting::Later(left),
        None => Evicting::By(taint),
    }
}

/// When a node began to lose its pods, if it does.
fn last_eviction(node: &Value) -> Option<Timestamp> {
    let taints = node.array_at(&["spec", "taints"]).iter();
    let ours = taints.filter(|taint| {
        let word = |field| taint.str_at(&[field]).unwrap_or_default();
        word("effect") == "NoExecute" && is_ours(word("key"), "NoExecute")
    });
    ours.map(|taint| condition::read_time(taint.get("timeAdded")).unwrap_or(Timestamp::UNIX_EPOCH)).max()
}

fn zone_of(node: &Object) -> (String, String) {
    let label = |key| node.label(key).unwrap_or_default().to_owned();
    (label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

/// Nobody can say any more that the pods of such a node are ready.
fn mark_pods(plan: &mut Plan, world: &World, node: &Object, now: Timestamp) {
    plan.then();
    for pod in on_node(world, node.name()) {
        let tree = pod.to_tree();
        if status_of(&tree, "Ready") != Some("True") {
            continue;
        }
        let at = seconds(now);
        let patch = json!({
            "metadata": {"uid": (pod.uid())},
            "status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": at}]}
        });
        let target = Target::new(&PODS, pod.namespace(), pod.name()).subresource("status");
        let note = Note::warning(&pod, "NodeNotReady", "Node is not ready");
        plan.write(Write::patch(target, PatchKind::StrategicMerge, &patch).telling(Some(note), None));
    }
}

/// A node leads to itself; when it comes, goes, begins or ceases to answer, to all: what they may lose depends on how
/// many do.
fn nodes_of_node(world: &World, change: &Change) -> Vec<Key> {
    let ready = |side: &Option<Arc<Object>>| side.as_ref().map(|node| is_ready(&node.to_tree()));
    let own = change.either().map(Key::of);
    let others = match ready(&change.old) != ready(&change.new) {
        true => world.list(&NODES, ""),
        false => Vec::new(),
    };
    let others = others.iter().map(|node| Key::of(node)).filter(|node| Some(node) != own.as_ref());
    own.iter().cloned().chain(others).collect()
}

fn node_of_lease(_: &World, change: &Change) -> Vec<Key> {
    let lease = change.either().filter(|lease| lease.namespace() == LEASE_NAMESPACE);
    lease.map(|lease| Key::new("", lease.name())).into_iter().collect()
}

/// A pod that has just been bound may have got to a node that does not answer.
fn node_of_new_pod(_: &World, change: &Change) -> Vec<Key> {
    let Some(new) = change.new.as_deref() else { return Vec::new() };
    let node = node_of(new);
    let fresh = change.old.as_deref().is_none_or(|old| node_of(old) != node);
    if fresh && !node.is_empty() { vec![Key::new("", &node)] } else { Vec::new() }
}

#[cfg(test)]
mod tests;

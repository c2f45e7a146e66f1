use super::*;
use crate::stage::Stage;

/// A world with these nodes, which have been known for a while.
fn stage(nodes: Vec<Value>) -> Stage<NodeLifecycle> {
    let stage = Stage::new(NodeLifecycle::new(&Clock::simulated(START.parse().unwrap())));
    let names: Vec<String> =
        nodes.iter().map(|node| format!("/{}", node.str_at(&["metadata", "name"]).unwrap())).collect();
    nodes.into_iter().for_each(|node| stage.put(&NODES, node));
    names.iter().for_each(|name| drop(stage.plan(name)));
    stage
}

async fn pass(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

fn lease(renewed: &str) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "n", "namespace": LEASE_NAMESPACE}, "spec": {"renewTime": renewed}})
}

fn node(name: &str, ready: &str, heartbeat: &str, taints: Vec<Value>) -> Value {
    let condition =
        |kind: &str, status: &str| json!({"type": kind, "status": status, "lastHeartbeatTime": heartbeat});
    let other = if ready == "Unknown" { "Unknown" } else { "False" };
    let mut conditions = vec![condition("Ready", ready)];
    conditions.extend(REPORTED[1..].iter().map(|kind| condition(kind, other)));
    let mut node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name, "resourceVersion": "7"},
        "status": {"conditions": conditions}
    });
    if !taints.is_empty() {
        node.set(&["spec", "taints"], taints);
    }
    node
}

const START: &str = "2026-01-01T00:00:00Z";
const LONG_AGO: &str = "2025-12-31T23:59:10Z";
const JUST_NOW: &str = "2025-12-31T23:59:55Z";

#[tokio::test(start_paused = true)]
async fn silence_makes_a_node_unknown_and_a_lease_keeps_it_alive() {
    let stage = stage(vec![node("n", "True", LONG_AGO, vec![])]);
    pass(49).await;
    stage.check("/n", &[]);
    assert_eq!(stage.plan("/n").again_after, Some(Duration::from_secs(1)));
    stage.put(&LEASES, lease(JUST_NOW));
    stage.check("/n", &[]);
    pass(10).await;
    stage.check("/n", &[]);
    assert_eq!(stage.plan("/n").again_after, Some(Duration::from_secs(40)));
    pass(40).await;
    let lines = crate::stage::spell(&stage.plan("/n"));
    assert_eq!(lines[0].matches("Kubelet stopped posting node status.").count(), 4, "{}", lines[0]);
    assert_eq!(lines[1], "Normal NodeNotReady: Node n status is now: NodeNotReady");
}

#[tokio::test(start_paused = true)]
async fn nobodys_clock_makes_a_node_silent() {
    let mut stage = stage(vec![node("n", "True", JUST_NOW, vec![])]);
    // The wall clock of this machine is set, far ahead and far back.
    for now in ["2030-01-01T00:00:00Z", "2020-01-01T00:00:00Z"] {
        stage.at(now);
        stage.check("/n", &[]);
    }
    // The node's clock is wrong, and then set back.
    for renewed in
        ["2040-01-01T00:00:00.000000Z", "1999-01-01T00:00:00.000000Z", "1999-01-01T00:00:10.000000Z"]
    {
        pass(45).await;
        stage.put(&LEASES, lease(renewed));
        stage.check("/n", &[]);
    }
    pass(50).await;
    assert!(!crate::stage::spell(&stage.plan("/n")).is_empty(), "silence is seen nevertheless");
}

#[tokio::test(start_paused = true)]
async fn a_node_is_told_of_when_it_comes_and_when_it_goes() {
    let stage = Stage::new(NodeLifecycle::new(&Clock::simulated(START.parse().unwrap())));
    let tree = node("n", "True", JUST_NOW, vec![]);
    stage.put(&NODES, tree.clone());
    stage.check("/n", &["Normal RegisteredNode: Node n event: Registered Node n in Controller"]);
    stage.check("/n", &[]);
    assert_eq!(stage.keys_of_going(&NODES, tree), ["/n"]);
    stage.check("/n", &["Normal RemovingNode: Node n event: Removing Node n from Controller"]);
    stage.check("/n", &[]);
}

#[tokio::test(start_paused = true)]
async fn labels_of_old_follow_those_that_took_their_place() {
    let mut tree = node("n", "True", JUST_NOW, vec![]);
    let labels = json!({"kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64",
        "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64"});
    tree.set(&["metadata", "labels"], labels);
    let stage = stage(vec![tree]);
    stage.check(
        "/n",
        &[r#"patch nodes /n {"metadata":{"labels":{"beta.kubernetes.io/arch":"arm64"},"uid":"n"}}"#],
    );
    assert_eq!(stage.controller.source(), "node-controller");
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_before_the_start_does_not_count() {
    stage(vec![node("n", "True", "2025-12-01T00:00:00Z", vec![])]).check("/n", &[]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_tainted_while_another_answers_and_its_pods_are_not_ready() {
    let mine = json!({"key": "mine", "effect": "NoExecute"});
    let stage =
        stage(vec![node("n", "Unknown", LONG_AGO, vec![mine]), node("other", "True", JUST_NOW, vec![])]);
    stage.put(
        &PODS,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d", "uid": "p"},
            "spec": {"nodeName": "n"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
    );
    stage.check(
        "/n",
        &[
            r#"patch nodes /n {"metadata":{"resourceVersion":"7","uid":"n"},"spec":{"taints":[{"effect":"NoExecute","key":"mine"},{"effect":"NoSchedule","key":"node.kubernetes.io/unreachable","timeAdded":"2026-01-01T00:00:00Z"},{"effect":"NoExecute","key":"node.kubernetes.io/unreachable","timeAdded":"2026-01-01T00:00:00Z"}]}}"#,
            r#"patch pods d/p/status {"metadata":{"uid":"p"},"status":{"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","status":"False","type":"Ready"}]}}"#,
        ],
    );
}

#[tokio::test(start_paused = true)]
async fn when_no_node_answers_nobody_loses_pods() {
    let taint = json!({"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": LONG_AGO});
    let stage = stage(vec![node("n", "Unknown", LONG_AGO, vec![taint])]);
    stage.check(
        "/n",
        &[
            r#"patch nodes /n {"metadata":{"resourceVersion":"7","uid":"n"},"spec":{"taints":[{"effect":"NoSchedule","key":"node.kubernetes.io/unreachable","timeAdded":"2026-01-01T00:00:00Z"}]}}"#,
        ],
    );
}

#[tokio::test(start_paused = true)]
async fn a_healthy_node_loses_our_taints_only() {
    let taints = vec![
        json!({"key": NOT_READY, "effect": "NoSchedule"}),
        json!({"key": NOT_READY, "effect": "NoExecute", "timeAdded": LONG_AGO}),
        json!({"key": "mine", "effect": "NoSchedule"}),
    ];
    let stage = stage(vec![node("n", "True", JUST_NOW, taints)]);
    stage.check(
        "/n",
        &[
            r#"patch nodes /n {"metadata":{"resourceVersion":"7","uid":"n"},"spec":{"taints":[{"effect":"NoSchedule","key":"mine"}]}}"#,
        ],
    );
}

#[tokio::test(start_paused = true)]
async fn nodes_of_a_zone_lose_their_pods_one_after_the_other() {
    let recent = json!({"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": "2025-12-31T23:59:53Z"});
    let tainted = json!({"key": UNREACHABLE, "effect": "NoSchedule"});
    let stage = stage(vec![
        node("a", "Unknown", LONG_AGO, vec![tainted.clone(), recent]),
        node("b", "Unknown", LONG_AGO, vec![tainted]),
        node("c", "True", JUST_NOW, vec![]),
    ]);
    stage.check("/b", &[]);
    assert_eq!(stage.plan("/b").again_after, Some(Duration::from_secs(3)));
}

#[tokio::test(start_paused = true)]
async fn conditions_and_unschedulable_become_taints() {
    let mut pressed = node("n", "True", JUST_NOW, vec![]);
    pressed.set(&["spec", "unschedulable"], true);
    let conditions = pressed.at_mut(&["status", "conditions"]).and_then(Value::as_array_mut).unwrap();
    conditions[1].set(&["status"], "True");
    let stage = stage(vec![pressed]);
    let line = crate::stage::spell(&stage.plan("/n")).remove(0);
    assert!(line.contains("node.kubernetes.io/memory-pressure") && line.contains(UNSCHEDULABLE), "{line}");
}

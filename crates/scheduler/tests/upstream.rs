//! Decisions of upstream's kube-scheduler 1.37.2 in random worlds, against ours.
//!
//! `golden/worlds.jsonl` holds a world a line: nodes, namespaces, Services, budgets and pods as upstream's API server
//! stored them, and pods that were then made one at a time, each with what upstream did: the node with the total score
//! of every node that would have done, or the whole message, and whom it sent away. How they were recorded is said in
//! `golden/record.py`, which made them with `record.py BINARIES worlds.jsonl 11 50`.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::json;
use api::object::Object;
use api::selector::label::Selector;
use api::value::{Map, Value};
use base::Random;
use k8s_openapi::api::core::v1 as core;
use scheduler::cluster::{Budget, Cluster};
use scheduler::place::Placement;
use scheduler::pod::Pod;
use scheduler::preempt::Preemption;

fn object(kind: &str, tree: &Value) -> Object {
    let mut whole = tree.clone();
    whole.set(&["apiVersion"], "v1");
    whole.set(&["kind"], kind);
    Object::from_tree(&whole).expect("what upstream stored can be read")
}

fn pod(tree: &Value) -> Arc<Pod> {
    let object = object("Pod", tree);
    let view = object.view::<core::Pod>().expect("what upstream stored can be viewed");
    Pod::read(&object, &view).expect("none of the pods has ended")
}

fn cluster(world: &Value) -> Cluster {
    let mut cluster = Cluster::new();
    for tree in world.array_at(&["namespaces"]) {
        let object = object("Namespace", tree);
        cluster.put_namespace(object.name(), Some(object.labels()));
    }
    for tree in world.array_at(&["nodes"]) {
        let object = object("Node", tree);
        cluster.put_node(&object, &object.view().expect("what upstream stored can be viewed"));
    }
    for tree in world.array_at(&["services"]) {
        let selector = tree.at(&["spec", "selector"]).and_then(Value::as_object).map(Selector::from_map);
        cluster.put_selector(("Service", "one".into(), "s".into()), selector);
    }
    for tree in world.array_at(&["budgets"]) {
        let budget = Budget {
            namespace: "one".into(),
            selector: Selector::from_object(tree.at(&["spec", "selector"])).expect("a selector"),
            allowed: tree.int_at(&["status", "disruptionsAllowed"]).unwrap_or_default(),
            disrupted: BTreeSet::new(),
        };
        cluster.put_budget("one", "b", Some(budget));
    }
    for tree in world.array_at(&["placed"]) {
        let pod = pod(tree);
        cluster.put_pod(&pod, &pod.node);
    }
    cluster
}

/// What differs between a decision and upstream's.
fn differences(cluster: &mut Cluster, asked: &Value) -> Option<String> {
    let decision = cluster.place(&pod(asked.at(&["pod"]).expect("a pod")), &Random::seeded(1));
    let expected = asked.str_at(&["message"]);
    match (decision, expected) {
        (Ok(placement), None) => against_totals(&placement, asked),
        (Ok(placement), Some(message)) => {
            Some(format!("ours is placed on {}, upstream says: {message}", placement.node))
        }
        (Err(why), None) => Some(format!(
            "upstream places it on {}, ours says: {why}",
            asked.str_at(&["node"]).unwrap_or("?")
        )),
        (Err(why), Some(message)) => {
            if why.to_string() != message {
                return Some(format!("upstream: {message}\n    ours:     {why}"));
            }
            let Preemption::Helps { victims, .. } = &why.preemption else { return None };
            // Where upstream had gone on before it was looked at, whom it sent away first is not known.
            asked.get("victims")?;
            let ours: BTreeSet<&str> = victims.iter().map(|victim| victim.name.as_str()).collect();
            let theirs: BTreeSet<&str> =
                asked.array_at(&["victims"]).iter().filter_map(Value::as_str).collect();
            (ours != theirs).then(|| format!("upstream sends away {theirs:?}, ours {ours:?}"))
        }
    }
}

fn against_totals(placement: &Placement, asked: &Value) -> Option<String> {
    let totals = asked.at(&["totals"]).and_then(Value::as_object).cloned().unwrap_or_default();
    if totals.is_empty() {
        let node = asked.str_at(&["node"]).unwrap_or_default();
        let same = placement.feasible == 1 && placement.node == node;
        return (!same).then(|| format!("for upstream only {node} will do, for ours {placement:?}"));
    }
    let theirs: Vec<i64> = totals.iter().filter_map(|(_, total)| total.as_int()).collect();
    let best = theirs.iter().max() == placement.candidates.first().map(|best| &best.total);
    let wrong = placement
        .candidates
        .iter()
        .filter(|candidate| totals.get(&candidate.node).and_then(Value::as_int) != Some(candidate.total));
    let wrong = wrong.count();
    let same = best && wrong == 0 && placement.feasible == theirs.len();
    (!same).then(|| {
        let scores = asked.at(&["scores"]).cloned().unwrap_or(json!({}));
        format!("upstream: {} {scores}\n    ours: {placement:?}", text(&totals))
    })
}

fn text(map: &Map) -> String {
    map.iter().map(|(node, total)| format!("{node}={total} ")).collect()
}

#[test]
fn decisions_messages_scores_and_victims_are_upstreams() {
    let (mut asked, mut wrong) = (0, Vec::new());
    for line in include_str!("golden/worlds.jsonl").lines() {
        let world = api::value::parse(line.as_bytes()).expect("the recording is JSON");
        let mut cluster = cluster(&world);
        for question in world.array_at(&["asked"]) {
            asked += 1;
            if let Some(difference) = differences(&mut cluster, question) {
                let world = world.str_at(&["name"]).unwrap_or_default();
                let pod = question.str_at(&["pod", "metadata", "name"]).unwrap_or_default();
                wrong.push(format!("{world}, pod {pod}:\n    {difference}"));
            }
        }
    }
    assert!(asked >= 300, "only {asked} questions were recorded");
    assert!(wrong.is_empty(), "{} of {asked} differ:\n{}", wrong.len(), wrong.join("\n"));
}

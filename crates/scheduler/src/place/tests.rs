use std::collections::BTreeMap;
use std::sync::Arc;

use api::json;
use api::object::Object;
use api::selector::label::Selector;
use api::value::Value;
use proptest::prelude::*;

use super::*;
use crate::cluster::Budget;

fn node(name: &str, extra: &Value) -> Object {
    let mut tree = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"}}
    });
    for (key, value) in extra.as_object().into_iter().flat_map(api::value::Map::iter) {
        if key == "labels" {
            tree.set(&["metadata", "labels"], value.clone())
        } else {
            tree.set(&["spec", key], value.clone())
        }
    }
    Object::from_tree(&tree).unwrap()
}

fn cluster(nodes: &[Value]) -> Cluster {
    let mut cluster = Cluster::new();
    for (n, extra) in nodes.iter().enumerate() {
        let object = node(&format!("n{n}"), extra);
        cluster.put_node(&object, &object.view().unwrap());
    }
    cluster
}

fn labelled(name: &str, namespace: &str, labels: Value, spec: Value) -> Arc<Pod> {
    let mut tree = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "uid": name, "labels": labels}, "spec": spec
    });
    if tree.at(&["spec", "containers"]).is_none() {
        tree.set(&["spec", "containers"], json!([{"name": "c", "image": "i"}]));
    }
    let object = Object::from_tree(&tree).unwrap();
    Pod::read(&object, &object.view().unwrap()).unwrap()
}

fn pod(name: &str, spec: Value) -> Arc<Pod> {
    labelled(name, "d", json!({"app": "a"}), spec)
}

fn asking(cpu: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
}

fn with_priority(cpu: &str, priority: i64) -> Value {
    let mut spec = asking(cpu);
    spec.set(&["priority"], priority);
    spec
}

/// A required or preferred term on one side of the affinity, about pods with `app`.
fn about(side: &str, app: &str, topology_key: &str) -> Value {
    let mut spec = Value::object();
    let term = json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": topology_key});
    spec.set(&["affinity", side, "requiredDuringSchedulingIgnoredDuringExecution"], json!([term]));
    spec
}

fn zone(zone: &str) -> Value {
    json!({"labels": {"zone": zone}})
}

fn refusal(cluster: &mut Cluster, pod: &Pod) -> String {
    cluster.place(pod, &Random::seeded(1)).unwrap_err().to_string()
}

fn placed(cluster: &mut Cluster, pod: &Pod) -> Option<String> {
    cluster.place(pod, &Random::seeded(1)).ok().map(|placement| placement.node.to_string())
}

/// The node that would be cleared for a pod, and of whom.
fn cleared(cluster: &mut Cluster, pod: &Pod) -> Option<(String, Vec<String>)> {
    match cluster.place(pod, &Random::seeded(1)).unwrap_err().preemption {
        Preemption::Helps { node, victims } => {
            Some((node.to_string(), victims.iter().map(|victim| victim.name.to_string()).collect()))
        }
        _ => None,
    }
}

#[test]
fn refusals_read_as_upstreams() {
    let taint = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
    let mut cluster = cluster(&[taint, json!({"unschedulable": true}), json!({}), json!({})]);
    assert_eq!(
        refusal(&mut cluster, &pod("p", asking("3"))),
        "0/4 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, \
         2 Insufficient cpu. preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling."
    );
    for name in ["n2", "n3"] {
        cluster.put_pod(&pod(name, asking("1500m")), name);
    }
    assert_eq!(
        refusal(&mut cluster, &pod("p", asking("1"))),
        "0/4 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, \
         2 Insufficient cpu. preemption: 0/4 nodes are available: 2 No preemption victims found for incoming pod, \
         2 Preemption is not helpful for scheduling."
    );
    assert_eq!(refusal(&mut Cluster::new(), &pod("p", json!({}))), "no nodes available to schedule pods");
}

#[test]
fn nodes_that_are_not_named_are_not_looked_at() {
    let mut cluster = cluster(&[json!({}), json!({}), json!({})]);
    let named = |names: Value| {
        let field = json!({"key": "metadata.name", "operator": "In", "values": names});
        let mut spec = asking("3");
        spec.set(
            &["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"],
            json!({"nodeSelectorTerms": [{"matchFields": [field]}]}),
        );
        pod("p", spec)
    };
    assert_eq!(
        refusal(&mut cluster, &named(json!(["n1"]))),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. \
         preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    );
}

#[test]
fn the_emptier_node_wins() {
    let mut cluster = cluster(&[json!({}), json!({})]);
    cluster.put_pod(&pod("x", asking("1")), "n0");
    let placement = cluster.place(&pod("p", asking("500m")), &Random::seeded(1)).unwrap();
    assert_eq!(placement.node, "n1");
    assert!(placement.candidates[0].total > placement.candidates[1].total);
}

#[test]
fn selectors_affinity_names_and_ports_bind() {
    let mut cluster =
        cluster(&[json!({"labels": {"disk": "ssd", "n": "7"}}), json!({"labels": {"disk": "hdd"}})]);
    let place = |cluster: &mut Cluster, spec: Value| placed(cluster, &pod("p", spec)).unwrap();
    assert_eq!(place(&mut cluster, json!({"nodeSelector": {"disk": "hdd"}})), "n1");
    let greater = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "n", "operator": "Gt", "values": ["5"]}]}]}}}});
    assert_eq!(place(&mut cluster, greater), "n0");
    let by_name = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]}}}});
    assert_eq!(place(&mut cluster, by_name), "n1");
    let port = json!({"containers": [{"name": "c", "ports": [{"hostPort": 80, "containerPort": 80}]}]});
    cluster.put_pod(&pod("a", port.clone()), "n0");
    assert_eq!(place(&mut cluster, port), "n1");
}

#[test]
fn required_spread_keeps_the_skew() {
    let mut cluster = cluster(&[zone("a"), zone("a"), zone("b")]);
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "a"}}}]});
    let mut zones = BTreeMap::new();
    for n in 0..8 {
        let pod = pod(&format!("p{n}"), spread.clone());
        let placement = cluster.place(&pod, &Random::seeded(n)).unwrap();
        cluster.put_pod(&pod, &placement.node);
        *zones.entry(if placement.node == "n2" { "b" } else { "a" }).or_insert(0) += 1;
    }
    assert_eq!(zones, BTreeMap::from([("a", 4), ("b", 4)]));
}

#[test]
fn pods_without_constraints_are_spread_with_the_fellows_of_their_service() {
    let mut cluster = cluster(&[zone("a"), zone("b")]);
    for n in 0..2 {
        let object = node(
            &format!("n{n}"),
            &json!({"labels": {"kubernetes.io/hostname": (format!("n{n}")), "zone": "a"}}),
        );
        cluster.put_node(&object, &object.view().unwrap());
    }
    // The node without fellows is fuller, and wins only by spreading.
    cluster.put_pod(&pod("fellow", json!({})), "n0");
    cluster.put_pod(&labelled("other", "d", json!({}), asking("300m")), "n1");
    let asks = pod("p", json!({}));
    assert_eq!(placed(&mut cluster, &asks).unwrap(), "n0");
    let selector = Selector::parse("app=a").unwrap();
    cluster.put_selector(("Service", "d".into(), "s".into()), Some(selector));
    assert_eq!(placed(&mut cluster, &asks).unwrap(), "n1");
    cluster.put_selector(("Service", "d".into(), "s".into()), None);
    assert_eq!(placed(&mut cluster, &asks).unwrap(), "n0");
}

#[test]
fn a_pod_goes_near_whom_it_must() {
    let mut cluster = cluster(&[zone("a"), zone("b"), zone("b"), json!({})]);
    let near = pod("p", about("podAffinity", "db", "zone"));
    assert_eq!(
        refusal(&mut cluster, &near),
        "0/4 nodes are available: 4 node(s) didn't match pod affinity rules. preemption: 0/4 nodes are available: \
         4 Preemption is not helpful for scheduling."
    );
    let database = labelled("db", "d", json!({"app": "db"}), json!({}));
    cluster.put_pod(&database, "n1");
    assert!(matches!(placed(&mut cluster, &near).as_deref(), Some("n1" | "n2")));
    // Elsewhere it is another namespace's.
    cluster.put_pod(&labelled("db", "e", json!({"app": "db"}), json!({})), "n1");
    assert_eq!(placed(&mut cluster, &near), None);
}

#[test]
fn the_first_of_a_flock_may_go_anywhere_with_the_label() {
    let mut cluster = cluster(&[json!({}), zone("b")]);
    let flock = pod("p", about("podAffinity", "a", "zone"));
    assert_eq!(placed(&mut cluster, &flock).unwrap(), "n1");
}

#[test]
fn pods_keep_apart_in_both_directions() {
    let mut cluster = cluster(&[zone("a"), zone("b")]);
    let shy = labelled("shy", "d", json!({"app": "shy"}), about("podAntiAffinity", "a", "zone"));
    cluster.put_pod(&shy, "n0");
    let plain = pod("p", json!({}));
    assert_eq!(placed(&mut cluster, &plain).unwrap(), "n1");
    cluster.put_pod(&plain, "n1");
    assert_eq!(
        refusal(&mut cluster, &pod("q", json!({"nodeName": "n0"}))),
        "0/2 nodes are available: 1 node(s) didn't match the requested node name, 1 node(s) didn't satisfy existing \
         pods anti-affinity rules. preemption: 0/2 nodes are available: 1 No preemption victims found for incoming \
         pod, 1 Preemption is not helpful for scheduling."
    );
    assert_eq!(placed(&mut cluster, &shy).unwrap(), "n0");
    cluster.remove_pod("shy");
    cluster.put_pod(&pod("q", json!({})), "n0");
    assert!(refusal(&mut cluster, &shy).contains("2 node(s) didn't match pod anti-affinity rules"));
}

#[test]
fn namespaces_are_meant_by_label_too() {
    let mut cluster = cluster(&[zone("a"), zone("b")]);
    let mut spec = about("podAntiAffinity", "a", "zone");
    let path = ["affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution"];
    let term = spec.at_mut(&path).and_then(Value::as_array_mut).unwrap();
    term[0].set(&["namespaceSelector"], json!({"matchLabels": {"team": "x"}}));
    let asks = labelled("p", "d", json!({}), spec);
    cluster.put_pod(&labelled("q", "e", json!({"app": "a"}), asking("10m")), "n1");
    cluster.put_pod(&labelled("full", "e", json!({}), asking("1")), "n0");
    assert_eq!(placed(&mut cluster, &asks).unwrap(), "n1");
    cluster.put_namespace("e", Some(&[("team".into(), "x".into())]));
    assert_eq!(placed(&mut cluster, &asks).unwrap(), "n0");
    cluster.put_namespace("e", Some(&[]));
    assert_eq!(placed(&mut cluster, &asks).unwrap(), "n1");
}

#[test]
fn the_weakest_and_fewest_are_sent_away() {
    let mut cluster = cluster(&[json!({}), json!({}), json!({})]);
    for (name, cpu, priority, node) in [
        ("a", "1", 5, "n0"),
        ("b", "1", 5, "n0"),
        ("c", "2", 7, "n1"),
        ("d", "1", 0, "n2"),
        ("e", "1", 5, "n2"),
    ] {
        cluster.put_pod(&pod(name, with_priority(cpu, priority)), node);
    }
    let asks = |cpu: &str, priority: i64| pod("p", with_priority(cpu, priority));
    assert_eq!(cleared(&mut cluster, &asks("1", 10)), Some(("n2".to_owned(), vec!["d".to_owned()])));
    assert_eq!(
        cleared(&mut cluster, &asks("2", 10)),
        Some(("n2".to_owned(), vec!["e".to_owned(), "d".to_owned()]))
    );
    assert_eq!(cleared(&mut cluster, &asks("1", 0)), None);
    assert_eq!(
        refusal(&mut cluster, &asks("1", 10)),
        "0/3 nodes are available: 3 Insufficient cpu. preemption: found a potential placement for pod on node n2, \
         preempting 1 victims"
    );
    let mut never = with_priority("1", 10);
    never.set(&["preemptionPolicy"], "Never");
    assert_eq!(
        refusal(&mut cluster, &pod("p", never)),
        "0/3 nodes are available: 3 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."
    );
    assert_eq!(
        cluster.nodes().map(|node| node.pods.len()).collect::<Vec<_>>(),
        [2, 1, 2],
        "all is as it was"
    );
}

#[test]
fn a_budget_protects_its_pods() {
    let mut cluster = cluster(&[json!({}), json!({})]);
    cluster.put_pod(&labelled("kept", "d", json!({"app": "kept"}), with_priority("2", 0)), "n0");
    cluster.put_pod(&pod("other", with_priority("2", 5)), "n1");
    let budget = Budget {
        namespace: "d".into(),
        selector: Selector::parse("app=kept").unwrap(),
        allowed: 0,
        disrupted: Default::default(),
    };
    let asks = pod("p", with_priority("1", 10));
    assert_eq!(cleared(&mut cluster, &asks).unwrap().0, "n0");
    cluster.put_budget("d", "b", Some(budget.clone()));
    assert_eq!(cleared(&mut cluster, &asks).unwrap().0, "n1");
    cluster.put_budget("d", "b", Some(Budget { allowed: 1, ..budget }));
    assert_eq!(cleared(&mut cluster, &asks).unwrap().0, "n0");
}

#[test]
fn room_that_is_cleared_for_a_pod_is_kept_for_it() {
    let mut cluster = cluster(&[json!({})]);
    let important = pod("important", with_priority("2", 10));
    cluster.nominate(&important, "n0");
    let usual = pod("usual", with_priority("1", 0));
    assert!(refusal(&mut cluster, &usual).contains("1 Insufficient cpu"));
    assert_eq!(placed(&mut cluster, &pod("more", with_priority("1", 11))).unwrap(), "n0");
    assert_eq!(placed(&mut cluster, &important).unwrap(), "n0");
    assert!(cluster.withdraw("important"));
    assert_eq!(placed(&mut cluster, &usual).unwrap(), "n0");
}

#[test]
fn rules_that_are_not_known_are_named() {
    let mut cluster = cluster(&[json!({})]);
    let spec = json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "gpu"}]});
    assert!(refusal(&mut cluster, &pod("p", spec)).contains("spec.resourceClaims"));
}

#[test]
fn counting_a_pod_and_forgetting_it_leaves_no_trace() {
    let mut cluster = cluster(&[json!({})]);
    let before = cluster.nodes().next().unwrap().clone();
    let one = pod("p", asking("1"));
    cluster.put_pod(&one, "n0");
    cluster.put_pod(&one, "n0");
    assert_eq!(cluster.nodes().next().unwrap().requested.cpu_milli, 1000);
    cluster.remove_pod("p");
    let after = cluster.nodes().next().unwrap();
    assert_eq!((after.requested.clone(), after.pods.len()), (before.requested, 0));
}

#[test]
fn a_search_that_ends_early_sees_all_zones_and_goes_on_where_it_ended() {
    let zones: Vec<Value> = (0..300)
        .map(|n| json!({"labels": {"topology.kubernetes.io/zone": (if n < 200 { "a" } else { "b" })}}))
        .collect();
    let mut cluster = cluster(&zones);
    let asks = pod("p", asking("1"));
    let first = cluster.place(&asks, &Random::seeded(1)).unwrap();
    // 48 percent of 300.
    assert_eq!((first.feasible, first.evaluated), (144, 144));
    assert_eq!(cluster.next, 144);
    let seen: Vec<&str> = cluster.order()[..4]
        .iter()
        .filter_map(|slot| cluster.slot(*slot)?.label("topology.kubernetes.io/zone"))
        .collect();
    assert_eq!(seen, ["a", "b", "a", "b"]);
}

/// One of a few pods with rules about each other.
fn some_pod() -> impl Strategy<Value = (u8, u8, u8)> {
    (0..6_u8, 0..3_u8, 0..6_u8)
}

fn make(name: &str, (app, namespace, rule): (u8, u8, u8)) -> Arc<Pod> {
    let app = ["a", "b", "c"][usize::from(app % 3)];
    let spec = match rule {
        0 => about("podAffinity", app, "zone"),
        1 => about("podAntiAffinity", app, "zone"),
        2 => about("podAntiAffinity", "b", "host"),
        3 => json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": app}}}]}),
        4 => {
            let term = json!({"labelSelector": {}, "topologyKey": "host", "namespaceSelector": {"matchLabels": {"x": "y"}}});
            let mut spec = Value::object();
            spec.set(
                &["affinity", "podAntiAffinity", "preferredDuringSchedulingIgnoredDuringExecution"],
                json!([{"weight": 7, "podAffinityTerm": term}]),
            );
            spec
        }
        _ => json!({}),
    };
    labelled(name, ["d", "e", "f"][usize::from(namespace)], json!({"app": app}), spec)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happened before, decisions are those of a cluster that was just read.
    #[test]
    fn what_is_kept_up_decides_as_what_is_counted_anew(
        steps in proptest::collection::vec((0..8_u8, 0..5_usize, some_pod()), 1..40),
        asked in some_pod(),
    ) {
        let mut kept = Cluster::new();
        let mut nodes: BTreeMap<String, Object> = BTreeMap::new();
        let mut pods: BTreeMap<String, (Arc<Pod>, String)> = BTreeMap::new();
        let mut namespaces: BTreeMap<&str, bool> = BTreeMap::new();
        for (n, (what, index, spec)) in steps.into_iter().enumerate() {
            let name = format!("n{index}");
            match what {
                0 | 1 => {
                    let object = node(&name, &json!({"labels": {"zone": (["p", "q"][n % 2]), "host": (name.as_str())}}));
                    kept.put_node(&object, &object.view().unwrap());
                    nodes.insert(name, object);
                }
                2 => {
                    kept.remove_node(&name);
                    nodes.remove(&name);
                }
                3 => {
                    kept.remove_pod(&format!("p{index}"));
                    pods.remove(&format!("p{index}"));
                }
                4 => {
                    let namespace = ["d", "e", "f"][index % 3];
                    let team: &[_] = &[("x".into(), "y".into())];
                    kept.put_namespace(namespace, (n % 2 == 0).then_some(team));
                    namespaces.insert(namespace, n % 2 == 0);
                }
                5 => {
                    let _ = kept.place(&make("ask", spec), &Random::seeded(1));
                }
                _ => {
                    let pod = make(&format!("p{}", n % 7), spec);
                    kept.put_pod(&pod, &name);
                    pods.insert(pod.uid.to_string(), (pod, name));
                }
            }
        }
        let mut anew = Cluster::new();
        for (namespace, _) in namespaces.iter().filter(|(_, there)| **there) {
            anew.put_namespace(namespace, Some(&[("x".into(), "y".into())]));
        }
        for object in nodes.values() {
            anew.put_node(object, &object.view().unwrap());
        }
        for (pod, node) in pods.values() {
            anew.put_pod(pod, node);
        }
        let asked = make("asked", asked);
        let told = |cluster: &mut Cluster| match cluster.place(&asked, &Random::seeded(1)) {
            Ok(placement) => {
                let mut totals: Vec<_> = placement.candidates.iter().map(|c| (c.total, c.node.clone())).collect();
                totals.sort();
                format!("{totals:?}")
            }
            Err(why) => why.to_string(),
        };
        prop_assert_eq!(told(&mut kept), told(&mut anew));
    }
}

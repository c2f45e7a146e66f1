//! How many pods a second one core places on 5,000 nodes, in the worlds of upstream's scheduler_perf
//! (`test/integration/scheduler_perf`): the same nodes, the same pods. `cargo bench -p scheduler`, or with the names of
//! worlds: `-- SchedulingBasic`.
//!
//! Two rates are told: of the decision with its counting, which is the scheduler proper, and of the same with reading
//! the pod from what the watch delivers. Time is that of the one thread on its core, not of the clock on the wall, so
//! that what else runs on the machine matters less.

use std::sync::Arc;
use std::time::Duration;

use api::json;
use api::object::Object;
use api::selector::label::Selector;
use api::value::Value;
use base::Random;
use k8s_openapi::api::core::v1 as core;
use scheduler::cluster::Cluster;
use scheduler::pod::Pod;

/// One of upstream's worlds.
struct World {
    name: &'static str,
    nodes: usize,
    /// How many pods the first node takes.
    pods_on_first: &'static str,
    zones: &'static [&'static str],
    /// How many pods there are before, and how they are made.
    before: (usize, fn(usize) -> Value),
    /// How many are placed while the clock runs, and how they are made.
    measured: (usize, fn(usize) -> Value),
    /// Whether they are expected to find a place.
    fits: bool,
}

const MOONS: &[&str] = &["moon-1", "moon-2", "moon-3"];
const ONE_ZONE: &[&str] = &["zone1"];

fn world(
    name: &'static str,
    zones: &'static [&'static str],
    before: (usize, fn(usize) -> Value),
    measured: (usize, fn(usize) -> Value),
) -> World {
    World { name, nodes: 5_000, pods_on_first: "110", zones, before, measured, fits: true }
}

fn worlds() -> Vec<World> {
    vec![
        world("SchedulingBasic", &[], (1_000, plain), (10_000, plain)),
        world("SchedulingBasic, 50,000 pods", &[], (5_000, plain), (50_000, plain)),
        world("SchedulingNodeAffinity", ONE_ZONE, (5_000, node_affinity), (10_000, node_affinity)),
        World {
            nodes: 15_001,
            pods_on_first: "90000",
            ..world("SchedulingDaemonset", &[], (0, plain), (30_000, daemon))
        },
        world("TopologySpreading", MOONS, (5_000, plain), (5_000, |n| spreading(n, "DoNotSchedule"))),
        world(
            "PreferredTopologySpreading",
            MOONS,
            (5_000, plain),
            (5_000, |n| spreading(n, "ScheduleAnyway")),
        ),
        world("DefaultTopologySpreading", MOONS, (5_000, plain), (5_000, served)),
        world("SchedulingPodAffinity", ONE_ZONE, (5_000, |n| near(n, 0)), (5_000, |n| near(n, 1))),
        world("SchedulingPodAntiAffinity", &[], (1_000, |n| apart(n, 0)), (2_000, |n| apart(n, 1))),
        world("SchedulingPodMatchingAntiAffinity", &[], (1_000, |n| apart(n, 0)), (5_000, green)),
        world("SchedulingPreferredPodAffinity", &[], (5_000, |n| drawn(n, 0)), (5_000, |n| drawn(n, 1))),
        world("SchedulingPreferredPodAntiAffinity", &[], (5_000, |n| shy(n, 0)), (5_000, |n| shy(n, 1))),
        World { fits: false, ..world("a pod that fits nowhere", MOONS, (5_000, plain), (1_000, huge)) },
    ]
}

fn node(index: usize, world: &World) -> Object {
    let zones = world.zones;
    let pods = if index == 0 { world.pods_on_first } else { "110" };
    let name = format!("scheduler-perf-{index}");
    let mut tree = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": (name.as_str()), "labels": {"kubernetes.io/hostname": (name.as_str())}},
        "status": {"allocatable": {"pods": pods, "cpu": "4", "memory": "32Gi"}}
    });
    if !zones.is_empty() {
        tree.set(&["metadata", "labels", "topology.kubernetes.io/zone"], zones[index % zones.len()]);
    }
    Object::from_tree(&tree).expect("nodes are written well here")
}

fn pod(name: String, namespace: &str, colour: &str, spec: Value) -> Value {
    let mut tree = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": (name.as_str()), "uid": (name.as_str()), "namespace": namespace},
        "spec": {
            "schedulerName": "default-scheduler", "priority": 0,
            "containers": [{
                "name": "pause", "image": "registry.k8s.io/pause:3.10.2", "ports": [{"containerPort": 80}],
                "resources": {
                    "limits": {"cpu": "100m", "memory": "500Mi"},
                    "requests": {"cpu": "100m", "memory": "500Mi"}
                }
            }]
        }
    });
    if !colour.is_empty() {
        tree.set(&["metadata", "labels"], json!({"color": colour}));
    }
    for (key, value) in spec.as_object().into_iter().flat_map(api::value::Map::iter) {
        tree.set(&["spec", key], value.clone());
    }
    tree
}

fn plain(index: usize) -> Value {
    pod(format!("pod-{index}"), "namespace-1", "", json!({}))
}

fn huge(index: usize) -> Value {
    let mut tree = pod(format!("huge-{index}"), "namespace-1", "", json!({"priority": 10}));
    let resources = json!([{"name": "c", "resources": {"requests": {"cpu": "5"}}}]);
    tree.set(&["spec", "containers"], resources);
    tree
}

fn node_affinity(index: usize) -> Value {
    let spec = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [
            {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone1", "zone2"]}
        ]}]
    }}}});
    pod(format!("node-affinity-{index}"), "namespace-1", "", spec)
}

fn daemon(index: usize) -> Value {
    let mut spec = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["scheduler-perf-0"]}
        ]}]
    }}}});
    spec.set(&["containers"], json!([{"name": "pause", "image": "registry.k8s.io/pause:3.10.2"}]));
    pod(format!("daemonset-pod-{index}"), "namespace-1", "", spec)
}

fn spreading(index: usize, when: &str) -> Value {
    let spec = json!({"topologySpreadConstraints": [{
        "maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": when,
        "labelSelector": {"matchLabels": {"color": "blue"}}
    }]});
    pod(format!("spreading-pod-{index}"), "namespace-1", "blue", spec)
}

fn served(index: usize) -> Value {
    pod(format!("served-pod-{index}"), "service-ns", "blue", json!({}))
}

fn green(index: usize) -> Value {
    pod(format!("green-pod-{index}"), "sched-1", "green", json!({}))
}

/// A pod with one term about pods of its own colour.
fn with_term(
    index: usize,
    round: usize,
    colour: &str,
    side: &str,
    topology_key: &str,
    preferred: bool,
) -> Value {
    let term = json!({
        "labelSelector": {"matchLabels": {"color": colour}}, "topologyKey": topology_key,
        "namespaces": ["sched-1", "sched-0"]
    });
    let (when, term) = match preferred {
        false => ("requiredDuringSchedulingIgnoredDuringExecution", term),
        true => {
            ("preferredDuringSchedulingIgnoredDuringExecution", json!({"weight": 1, "podAffinityTerm": term}))
        }
    };
    let mut spec = Value::object();
    spec.set(&["affinity", side, when], json!([term]));
    pod(format!("{colour}-{round}-{index}"), &format!("sched-{round}"), colour, spec)
}

fn near(index: usize, round: usize) -> Value {
    with_term(index, round, "blue", "podAffinity", "topology.kubernetes.io/zone", false)
}

fn apart(index: usize, round: usize) -> Value {
    with_term(index, round, "green", "podAntiAffinity", "kubernetes.io/hostname", false)
}

fn drawn(index: usize, round: usize) -> Value {
    with_term(index, round, "red", "podAffinity", "kubernetes.io/hostname", true)
}

fn shy(index: usize, round: usize) -> Value {
    with_term(index, round, "yellow", "podAntiAffinity", "kubernetes.io/hostname", true)
}

fn read(object: &Object) -> Arc<Pod> {
    let view = object.view::<core::Pod>().expect("pods are written well here");
    Pod::read(object, &view).expect("none of them has ended")
}

fn objects(count: usize, make: fn(usize) -> Value, first: usize) -> Vec<Object> {
    let object = |n| Object::from_tree(&make(first + n)).expect("pods are written well here");
    (0..count).map(object).collect()
}

/// Places pods; returns how many found a place.
fn place(cluster: &mut Cluster, pods: &[Arc<Pod>], random: &Random) -> usize {
    let mut placed = 0;
    for pod in pods {
        if let Ok(placement) = cluster.place(pod, random) {
            cluster.put_pod(pod, &placement.node);
            placed += 1;
        }
    }
    placed
}

/// How long this thread has run on a core.
fn on_core() -> Duration {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").expect("procfs");
    let nanoseconds = statistics.split_whitespace().next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanoseconds.expect("the first word is the time on a core"))
}

fn measure(world: &World) {
    let random = Random::seeded(7);
    let mut cluster = Cluster::new();
    for index in 0..world.nodes {
        let node = node(index, world);
        cluster.put_node(&node, &node.view().expect("nodes are written well here"));
    }
    ["sched-0", "sched-1"].iter().for_each(|name| {
        cluster.put_namespace(name, Some(&[]));
    });
    let blue = Selector::parse("color=blue").expect("a selector");
    cluster.put_selector(("Service", "service-ns".into(), "service".into()), Some(blue));
    let before: Vec<Arc<Pod>> = objects(world.before.0, world.before.1, 0).iter().map(read).collect();
    assert_eq!(place(&mut cluster, &before, &random), before.len(), "{}", world.name);
    let objects = objects(world.measured.0, world.measured.1, world.before.0);
    let start = on_core();
    let pods: Vec<Arc<Pod>> = objects.iter().map(read).collect();
    let reading = on_core() - start;
    let start = on_core();
    let placed = place(&mut cluster, &pods, &random);
    let placing = on_core() - start;
    let expected = if world.fits { pods.len() } else { 0 };
    assert_eq!(placed, expected, "{}", world.name);
    let rate = |time: Duration| (pods.len() as f64 / time.as_secs_f64()).round();
    println!("| {} | {} | {} |", world.name, rate(placing), rate(placing + reading));
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    println!("| world of upstream's scheduler_perf | pods a second | with reading them |");
    println!("|---|---|---|");
    for world in worlds() {
        if wanted.is_empty() || wanted.iter().any(|name| world.name.contains(name.as_str())) {
            measure(&world);
        }
    }
}

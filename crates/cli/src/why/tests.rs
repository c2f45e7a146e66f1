use api::json;
use api::value::Value;

use super::*;

const NOW: &str = "2026-01-01T00:10:00Z";

fn pod(name: &str, owner: &str, status: Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"},
            "creationTimestamp": "2026-01-01T00:05:00Z",
            "ownerReferences": [{"uid": owner, "controller": true}]},
        "spec": {"nodeName": "n", "containers": [{"name": "app"}]},
        "status": status
    })
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"phase": "Pending", "startTime": "2026-01-01T00:05:00Z", "containerStatuses": [{
        "name": "app", "image": "nope:1", "ready": false, "restartCount": 4,
        "state": {"waiting": {"reason": reason, "message": message}},
        "lastState": {"terminated": {"exitCode": 3, "reason": "Error", "finishedAt": "2026-01-01T00:09:30Z"}}
    }]})
}

fn ready() -> Value {
    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [
        {"name": "app", "ready": true, "state": {"running": {"startedAt": "2026-01-01T00:01:00Z"}}}]})
}

fn world(pods: Vec<Value>) -> World {
    let mut world = World::default();
    world.add("Pod", pods);
    world.add(
        "Node",
        vec![json!({"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})],
    );
    world
}

fn set(name: &str, revision: &str, ready: i64) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "creationTimestamp": "2026-01-01T00:05:00Z",
            "annotations": {"deployment.kubernetes.io/revision": revision},
            "ownerReferences": [{"uid": "d", "controller": true}]},
        "spec": {"replicas": 3}, "status": {"readyReplicas": ready}
    })
}

fn told(what: &str, world: &World) -> String {
    let subject = Subject::parse(what, None, "default").unwrap();
    explain(&subject, world, NOW.parse().unwrap()).unwrap_or_else(|none| vec![none]).join("\n")
}

#[test]
fn a_rollout_to_an_image_that_does_not_exist() {
    let mut world = world(vec![
        pod("web-2-a", "web-2", waiting("ImagePullBackOff", "Back-off pulling image \"nope:1\"")),
        pod("web-2-b", "web-2", waiting("ImagePullBackOff", "Back-off pulling image \"nope:1\"")),
        pod("web-1-a", "web-1", ready()),
    ]);
    world.add("ReplicaSet", vec![set("web-1", "1", 3), set("web-2", "2", 0)]);
    world.add(
        "Deployment",
        vec![
            json!({"metadata": {"name": "web", "namespace": "default", "uid": "d"}, "spec": {"replicas": 3},
            "status": {"replicas": 5, "updatedReplicas": 2, "availableReplicas": 3}}),
        ],
    );
    world.add(
        "Event",
        vec![json!({"type": "Warning", "reason": "Failed", "involvedObject": {"uid": "web-2-a"},
            "lastTimestamp": "2026-01-01T00:09:00Z",
            "message": "Failed to pull image \"nope:1\": the registry has no such image"})],
    );
    assert_eq!(
        told("deployment/web", &world),
        "deployment/web stands still for 5m: 2 of 3 pods are updated, 3 available\n  \
         pod web-2-a and 1 more: container app has had no image for 5m: Failed to pull image \"nope:1\": the registry has no such \
         image\n    \
         → check the name \"nope:1\"; try \"ondol image pull nope:1\", or set another: kubectl set image\n  \
         3 pods of revision 1 serve on meanwhile\n    \
         → mend the template, or go back: kubectl rollout undo deployment/web"
    );
}

#[test]
fn a_crash_loop_tells_the_last_exit_and_where_to_look() {
    let world = world(vec![pod("web", "x", waiting("CrashLoopBackOff", "back-off"))]);
    assert_eq!(
        told("pod/web", &world),
        "pod/web is Pending, not ready\n  \
         container app keeps ending (4 restarts): exit code 3, 30s ago\n    \
         → see its last words: kubectl logs web -c app --previous"
    );
}

#[test]
fn an_unschedulable_pod_tells_the_schedulers_reason() {
    let status = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "lastTransitionTime": "2026-01-01T00:09:00Z",
        "message": "0/1 nodes are available: 1 Insufficient cpu."}]});
    let text = told("pod/web", &world(vec![pod("web", "x", status)]));
    assert!(
        text.contains("no node takes it for 60s: 0/1 nodes are available: 1 Insufficient cpu."),
        "{text}"
    );
    assert!(text.contains("→ lower the pod's requests"), "{text}");
}

#[test]
fn a_failing_probe_is_quoted() {
    let status = json!({"phase": "Running", "containerStatuses": [{"name": "app", "ready": false,
        "state": {"running": {"startedAt": "2026-01-01T00:08:00Z"}}}]});
    let mut world = world(vec![pod("web", "x", status)]);
    world.add(
        "Event",
        vec![json!({"type": "Warning", "reason": "Unhealthy", "involvedObject": {"uid": "web"},
            "message": "Readiness probe failed: HTTP probe failed with statuscode: 500"})],
    );
    let text = told("pod/web", &world);
    assert!(text.contains("runs for 2m but is not ready: Readiness probe failed: HTTP probe"), "{text}");
}

#[test]
fn out_of_memory_says_what_to_raise() {
    let status = json!({"phase": "Running", "containerStatuses": [{"name": "app", "ready": false, "restartCount": 2,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]});
    let text = told("pod/web", &world(vec![pod("web", "x", status)]));
    assert!(
        text.contains("more memory than its limit") && text.contains("raise resources.limits.memory"),
        "{text}"
    );
}

#[test]
fn a_pod_that_has_not_begun_tells_the_newest_warning() {
    let mut world = world(vec![pod("web", "x", json!({"phase": "Pending"}))]);
    world.add(
        "Event",
        vec![json!({"type": "Warning", "reason": "FailedMount", "involvedObject": {"uid": "web"},
            "message": "configmap \"settings\" not found"})],
    );
    assert_eq!(
        told("pod/web", &world),
        "pod/web is Pending, not ready\n  it has not begun for 5m: configmap \"settings\" not found\n    \
         → make what the volume names (kubectl get configmap,secret), or mark it optional; the pod goes on by itself"
    );
}

#[test]
fn a_service_whose_selector_matches_nothing() {
    let mut world = world(vec![pod("web", "x", ready())]);
    world.add(
        "Service",
        vec![json!({"metadata": {"name": "web", "namespace": "default", "uid": "s"},
            "spec": {"selector": {"app": "wbe"}, "ports": [{"port": 80, "targetPort": 80}]}})],
    );
    assert_eq!(
        told("svc/web", &world),
        "service/web has no endpoint that is ready: nothing answers\n  \
         no pod has the labels that it selects: app=wbe\n    \
         → compare with \"kubectl get pods --show-labels\""
    );
}

#[test]
fn a_load_balancer_that_waits_tells_why() {
    let mut world = world(vec![pod("web", "x", ready())]);
    world.add(
        "Service",
        vec![json!({"metadata": {"name": "web", "namespace": "default", "uid": "s",
            "creationTimestamp": "2026-01-01T00:09:00Z"},
            "spec": {"type": "LoadBalancer", "selector": {"app": "web"}}})],
    );
    world.add(
        "EndpointSlice",
        vec![json!({"metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
            "endpoints": [{"conditions": {"ready": true}}]})],
    );
    world.add(
        "Event",
        vec![json!({"type": "Warning", "reason": "PortTaken", "involvedObject": {"uid": "s"},
            "message": "port 80 belongs to service default/other"})],
    );
    let text = told("service/web", &world);
    assert!(text.contains("pending for 60s: port 80 belongs to service default/other"), "{text}");
}

#[test]
fn ports_that_other_programs_hold_are_told_as_long_as_the_node_tells_them() {
    let check = |ports: &str, expect: &[&str]| {
        let mut world = World::default();
        let spec = json!({"type": "NodePort", "externalIPs": ["192.0.2.7"],
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]});
        let service = json!({"metadata": {"name": "web", "namespace": "default", "uid": "s"}, "spec": spec});
        world.add("Service", vec![service]);
        let annotations = json!({"ondol.dev/ports": ports});
        world.add("Node", vec![json!({"metadata": {"name": "n", "annotations": annotations}})]);
        let text = told("service/web", &world);
        let lines: Vec<&str> =
            text.lines().filter_map(|line| line.trim().strip_prefix("it is not served at ")).collect();
        assert_eq!(lines, expect, "{text}");
    };
    check("{}", &[]);
    check("damaged", &[]);
    check(
        r#"{"192.0.2.7:80/TCP":"","192.0.2.8:80/TCP":"x","192.0.2.7:80/UDP":"x","192.0.2.7:x/TCP":"x"}"#,
        &[],
    );
    check(
        r#"{"10.244.0.1:30080/TCP":"the program x","192.0.2.7:80/TCP":"the program y"}"#,
        &[
            "10.244.0.1:30080/TCP of node n, which the program x holds",
            "192.0.2.7:80/TCP of node n, which the program y holds",
        ],
    );
}

#[test]
fn a_drain_that_a_budget_blocks() {
    let mut world = World::default();
    world.add("Pod", vec![pod("web", "x", ready())]);
    world.add(
        "Node",
        vec![json!({"metadata": {"name": "n"}, "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}})],
    );
    world.add(
        "PodDisruptionBudget",
        vec![json!({"metadata": {"name": "keep", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}}, "status": {"disruptionsAllowed": 0}})],
    );
    let text = told("node/n", &world);
    assert!(text.contains("cordoned") && text.contains("keep lets none of its 1 pods here go"), "{text}");
}

#[test]
fn a_deletion_that_waits_for_finalizers() {
    let mut object = pod("web", "x", ready());
    object.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:09:00Z");
    object.set(&["metadata", "finalizers"], Value::Array(vec![Value::from("example.com/keep")]));
    let text = told("pod/web", &world(vec![object]));
    assert!(text.contains("being deleted for 60s and waits for its finalizers: example.com/keep"), "{text}");
}

#[test]
fn what_is_well_is_told_in_one_line() {
    let mut world = world(vec![pod("web", "x", ready())]);
    world.add(
        "Deployment",
        vec![
            json!({"metadata": {"name": "web", "namespace": "default", "uid": "d"}, "spec": {"replicas": 1},
            "status": {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}}),
        ],
    );
    assert_eq!(told("pod/web", &world), "pod/web is running and ready");
    assert_eq!(told("deployment/web", &world), "deployment/web is as it should be: 1 of 1 pods available");
    assert_eq!(told("node/n", &world), "node/n is ready and takes pods");
    assert_eq!(told("pod/we", &world), "there is no pod/we in namespace default; did you mean web?");
}

proptest::proptest! {
    #[test]
    fn no_object_makes_it_panic(text in ".{0,12}", number in -5i64..5) {
        let strange = json!({"metadata": {"name": "web", "namespace": "default", "uid": (text.as_str()),
            "deletionTimestamp": (text.as_str()), "ownerReferences": [number]},
            "spec": {"selector": (text.as_str()), "replicas": (text.as_str()), "ports": [number]},
            "status": {"conditions": [number], "containerStatuses": [{"state": {"waiting": {"reason": number}}}]}});
        for what in ["deployment/web", "rs/web", "pod/web", "svc/web"] {
            let subject = Subject::parse(what, None, "default").unwrap();
            let mut world = World::default();
            world.add(subject.kind, vec![strange.clone()]);
            let _ = explain(&subject, &world, NOW.parse().unwrap());
        }
    }
}

#[test]
fn a_full_disk_is_told_at_the_node() {
    let mut world = World::default();
    world.add(
        "Pod",
        vec![pod(
            "web-1",
            "x",
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled",
        "status": "False", "message": "0/1 nodes are available: 1 node(s) had untolerated taint(s)."}]}),
        )],
    );
    world.add(
        "Node",
        vec![json!({"metadata": {"name": "n"},
        "spec": {"taints": [{"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"},
            {"type": "DiskPressure", "status": "True", "message": "kubelet has disk pressure"}]}})],
    );
    let text = told("pod/web-1", &world);
    let expected = "no node takes it: 0/1 nodes are available: 1 node(s) had untolerated taint(s).\n  \
        node n keeps it away by its taint node.kubernetes.io/disk-pressure: kubelet has disk pressure\n    \
        → make room on the disk that holds the node's data";
    assert!(text.contains(expected), "{text}");
    assert!(told("node/n", &world).contains("DiskPressure"), "{}", told("node/n", &world));
}

#[test]
fn a_load_balancer_of_a_class_that_is_nobodys_and_a_field_without_effect() {
    let mut world = world(vec![pod("web-1", "x", ready())]);
    let service = |name: &str, spec: Value| {
        json!({"metadata": {"name": name, "namespace": "default", "uid": name,
            "creationTimestamp": "2026-01-01T00:05:00Z"}, "spec": spec})
    };
    world.add(
        "Service",
        vec![
            service("class", json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/x"})),
            service("ranges", json!({"type": "ClusterIP", "loadBalancerSourceRanges": ["192.0.2.0/24"]})),
            service("mended", json!({"type": "ClusterIP"})),
        ],
    );
    world.add(
        "Event",
        ["ranges", "mended"]
            .map(|uid| {
                json!({"involvedObject": {"uid": uid}, "type": "Warning",
            "reason": "UnsupportedField", "message": "spec.loadBalancerSourceRanges is not supported"})
            })
            .into(),
    );
    let text = told("service/class", &world);
    assert!(text.contains("for 5m: nobody here serves the loadBalancerClass example.com/x"), "{text}");
    let text = told("service/ranges", &world);
    let expected = "spec.loadBalancerSourceRanges is not supported\n    \
        → kubectl patch service ranges --type=merge -p '{\"spec\":{\"loadBalancerSourceRanges\":null}}'";
    assert!(text.contains(expected), "{text}");
    assert!(
        !told("service/mended", &world).contains("loadBalancerSourceRanges"),
        "the event is of yesterday"
    );
}

#[test]
fn a_kind_that_is_only_stored_says_so_and_what_to_use() {
    let mut world = world(Vec::new());
    world.add(
        "Job",
        vec![json!({"metadata": {"name": "j", "namespace": "default", "uid": "j",
        "creationTimestamp": "2026-01-01T00:05:00Z"}})],
    );
    let expected = "job/j is stored, and nothing acts on it for 5m\n  nothing acts on objects of this kind yet\n    \
                    → run the work as a Pod: kubectl run NAME --restart=OnFailure --image=IMAGE";
    assert_eq!(told("job/j", &world), expected);
    world.add(
        "Event",
        vec![json!({"involvedObject": {"uid": "j"}, "type": "Warning", "reason": "NotSupportedYet",
        "message": "the object is stored, but no pods are made for it"})],
    );
    assert!(told("job/j", &world).contains("no pods are made for it"));
}

#[test]
fn a_namespace_tells_what_holds_its_deletion_up() {
    let mut world = world(Vec::new());
    world.add("Namespace", vec![
        json!({"metadata": {"name": "shop", "uid": "n", "deletionTimestamp": "2026-01-01T00:09:00Z"},
            "status": {"conditions": [
                {"type": "NamespaceFinalizersRemaining", "status": "True", "message": "one has the finalizer x/y"},
                {"type": "NamespaceDeletionContentFailure", "status": "False", "message": "all was deleted"}]}}),
        json!({"metadata": {"name": "calm", "uid": "c"}}),
    ]);
    let text = told("ns/shop", &world);
    assert!(text.contains("deleted for 60s") && text.contains("one has the finalizer x/y"), "{text}");
    assert!(!text.contains("all was deleted"), "{text}");
    assert!(told("ns/calm", &world).contains("nothing says that anything is wrong"));
}

#[test]
fn a_taint_that_a_pod_does_not_tolerate_is_named_with_its_node() {
    let status = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "message": "0/3 nodes are available: 2 node(s) had untolerated taint(s), 1 node(s) were unschedulable."}]});
    let mut one = pod("web", "x", status);
    one.set(&["spec", "tolerations"], json!([{"key": "mine", "operator": "Exists"}]));
    let mut world = World::default();
    world.add("Pod", vec![one]);
    let node = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    world.add(
        "Node",
        vec![
            node(
                "a",
                json!({"taints": [{"key": "role", "value": "db", "effect": "NoSchedule"},
                {"key": "mine", "effect": "NoSchedule"}, {"key": "soft", "effect": "PreferNoSchedule"}]}),
            ),
            node(
                "b",
                json!({"unschedulable": true,
                "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}),
            ),
        ],
    );
    let text = told("pod/web", &world);
    let lines: Vec<&str> = text.lines().skip(2).map(str::trim).collect();
    let expected = [
        "node a keeps it away by its taint role=db:NoSchedule",
        "→ add a toleration to the pod, or remove the taint: kubectl taint node a role:NoSchedule-",
        "node b takes no new pods: it is cordoned",
        "→ kubectl uncordon b",
    ];
    assert_eq!(lines, expected, "{text}");
}

/// A Service whose two endpoints were knocked at.
fn knocked(answers: [Answer; 2], container_port: Option<i64>) -> String {
    let mut one = pod("web-1", "x", ready());
    if let Some(port) = container_port {
        one.set(&["spec", "containers"], json!([{"name": "app", "ports": [{"containerPort": port}]}]));
    }
    let mut world = world(vec![one]);
    world.add(
        "Service",
        vec![json!({"metadata": {"name": "web", "namespace": "default", "uid": "s"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 9999}]}})],
    );
    world.add(
        "EndpointSlice",
        vec![json!({"metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"port": 9999, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}],
            "endpoints": [
                {"addresses": ["192.0.2.1"], "conditions": {"ready": true}},
                {"addresses": ["192.0.2.2"], "conditions": {}},
                {"addresses": ["192.0.2.3"], "conditions": {"ready": false}}]})],
    );
    let doors = doors("default", "web", &world);
    assert_eq!(doors, ["192.0.2.1:9999", "192.0.2.2:9999"].map(|door| door.parse().unwrap()));
    world.answers = doors.into_iter().zip(answers).collect();
    told("service/web", &world)
}

#[test]
fn a_service_says_of_its_endpoints_only_what_was_tried() {
    use Answer::{Refused, Silent, Taken};
    assert_eq!(
        knocked([Taken, Taken], None),
        "service/web is as it should be: 2 endpoints take connections",
        "images that declare nothing are the rule"
    );
    assert_eq!(
        knocked([Taken, Silent], None),
        "service/web is as it should be: 2 endpoints are ready; whether they take connections cannot be tried from here"
    );
    assert_eq!(
        knocked([Refused, Refused], Some(80)),
        "service/web has 2 of 3 endpoints ready\n  \
         2 of 2 endpoints refuse connections: nothing listens on port 9999 there\n    \
         → set the Service's targetPort to the port on which the program listens; the containers declare 80"
    );
    assert!(knocked([Taken, Refused], Some(9999)).contains("1 of 2 endpoints refuse connections"));
    assert!(knocked([Taken, Refused], Some(9999)).contains("0.0.0.0 and not on 127.0.0.1 alone"));
    let text = knocked([Silent, Silent], Some(80));
    assert!(text.contains("no container of its pods declares port 9999/TCP; they declare 80"), "{text}");
}

#[test]
fn a_load_balancer_without_an_address_is_advised_by_the_reason() {
    let check = |reason: &str, message: &str, expect: &str| {
        let mut world = World::default();
        world.add("Service", vec![json!({"metadata": {"name": "web", "namespace": "shop", "uid": "s"},
            "spec": {"type": "LoadBalancer", "loadBalancerIP": "192.0.2.9", "loadBalancerSourceRanges": ["192.0.2.0/24"]},
            "status": {"conditions": [
                {"type": "LoadBalancerPending", "status": "True", "reason": reason, "message": message}]}})]);
        world.add(
            "Event",
            vec![json!({"involvedObject": {"uid": "s"}, "type": "Warning", "reason": "UnsupportedField",
            "message": "spec.loadBalancerSourceRanges is not supported"})],
        );
        let subject = Subject::parse("svc", Some("web"), "shop").unwrap();
        let text = explain(&subject, &world, NOW.parse().unwrap()).unwrap().join("\n");
        assert!(text.contains(&format!("pending: {message}\n    → {expect}")), "{text}");
        assert!(
            text.contains(
                "spec.loadBalancerSourceRanges is not supported\n    → kubectl patch service -n shop web"
            ),
            "{text}"
        );
    };
    let patch = r#"kubectl patch service -n shop web --type=merge -p '{"spec":{"loadBalancerIP":null}}'"#;
    check("AddressUnknown", "192.0.2.9 is no address of a node", patch);
    check("PortTaken", "port 80/TCP is taken by x", "give the Service another port");
    check("NoAddress", "no node has an address of the Service's family", "give the Service the family");
}

#[test]
fn what_is_not_there_is_an_error() {
    let subject = Subject::parse("pod", Some("none"), "default").unwrap();
    let told = explain(&subject, &world(Vec::new()), NOW.parse().unwrap());
    assert!(told.unwrap_err().starts_with("there is no pod/none in namespace default"));
}

#[test]
fn a_pod_that_waits_for_others_says_for_whom() {
    let mut one = pod("web", "x", ready());
    one.set(
        &["status", "conditions"],
        json!([{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False",
            "reason": "ReadinessGatesNotReady", "lastTransitionTime": "2026-01-01T00:09:00Z",
            "message": "the status of pod readiness gate \"a.b/c\" is not \"True\""}]),
    );
    let text = told("pod/web", &world(vec![one]));
    assert!(
        text.contains(
            "readiness gates have held it back for 60s: the status of pod readiness gate \"a.b/c\""
        ),
        "{text}"
    );
    let mut two = pod("web", "x", json!({"phase": "Pending"}));
    two.set(&["spec", "schedulerName"], "other");
    two.set(&["spec", "nodeName"], "");
    let text = told("pod/web", &world(vec![two]));
    assert!(
        text.contains("it has waited for 5m for the scheduler \"other\", of which nothing was heard"),
        "{text}"
    );
}

#[test]
fn a_container_that_its_probe_ends_is_told_by_the_probe() {
    let check = |at: &str, path: &str, expect: bool| {
        let mut world = world(vec![pod("web", "x", waiting("CrashLoopBackOff", "back-off"))]);
        world.add(
            "Event",
            vec![json!({"type": "Warning", "reason": "Unhealthy", "lastTimestamp": at,
                "involvedObject": {"uid": "web", "fieldPath": path}, "message": "Liveness probe failed: x"})],
        );
        let text = told("pod/web", &world);
        let words = "container app is ended again and again (4 restarts): Liveness probe failed: x";
        assert_eq!(text.contains(words), expect, "{text}");
    };
    check("2026-01-01T00:09:00Z", "spec.containers{app}", true);
    check("2026-01-01T00:09:00Z", "spec.containers{other}", false);
    check("2025-01-01T00:09:00Z", "spec.containers{app}", false);
}

#[test]
fn a_namespace_that_its_own_finalizer_holds_says_so_with_a_command() {
    let mut world = world(Vec::new());
    world.add(
        "Namespace",
        vec![json!({"kind": "Namespace", "metadata": {"name": "shop", "uid": "n",
            "deletionTimestamp": "2026-01-01T00:09:00Z", "finalizers": ["x/y"]},
            "spec": {"finalizers": ["kubernetes", "foo.bar/x"]}})],
    );
    let text = told("ns/shop", &world);
    assert!(text.contains("kubectl patch namespace shop --type=merge"), "{text}");
    assert!(
        text.contains("waits for its spec.finalizers: foo.bar/x")
            && text.contains("namespaces/shop/finalize"),
        "{text}"
    );
}

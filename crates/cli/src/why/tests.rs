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
    let subject = Subject::parse(what, "default").unwrap();
    explain(&subject, world, NOW.parse().unwrap()).join("\n")
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
            let subject = Subject::parse(what, "default").unwrap();
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
    assert!(told("pod/web-1", &world).contains("ondol why node/n"), "{}", told("pod/web-1", &world));
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
            service("ranges", json!({"type": "ClusterIP"})),
        ],
    );
    world.add(
        "Event",
        vec![json!({"involvedObject": {"uid": "ranges"}, "type": "Warning",
        "reason": "UnsupportedField", "message": "spec.loadBalancerSourceRanges is not supported"})],
    );
    let text = told("service/class", &world);
    assert!(text.contains("for 5m: nobody here serves the loadBalancerClass example.com/x"), "{text}");
    assert!(told("service/ranges", &world).contains("spec.loadBalancerSourceRanges is not supported"));
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

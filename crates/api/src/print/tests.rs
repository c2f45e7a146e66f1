//! Rows as upstream prints them.

use super::*;
use crate::json;
use crate::table::kinds;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn row_of(group: &str, kind: &str, mut object: Value) -> Vec<String> {
    let version = if group == "autoscaling" { "v2" } else { "v1" };
    let facts = kinds().by_kind(group, version, kind).unwrap();
    object.set(&["metadata", "name"], "x");
    object.set(&["metadata", "creationTimestamp"], "2026-01-01T00:00:00Z");
    let cells = cells_of(facts, &object, now());
    assert_eq!(cells.len(), facts.columns.len() + unnamed(kind), "{kind} has a cell for each column");
    cells.iter().map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned)).collect()
}

/// Cells without a column: upstream writes the age of an IPAddress, but names no column for it.
fn unnamed(kind: &str) -> usize {
    usize::from(kind == "IPAddress")
}

#[test]
fn every_kind_has_a_cell_for_each_column() {
    let mut wrong = Vec::new();
    for facts in kinds().iter().filter(|facts| facts.can("list")) {
        let object = json!({"metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}});
        let cells = cells_of(facts, &object, now());
        let expect = facts.columns.len() + unnamed(facts.kind);
        if cells.len() != expect {
            wrong.push((facts.group, facts.kind, cells.len(), expect));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

fn pod_row(spec: Value, status: Value) -> [String; 3] {
    let mut object = Value::object();
    object.set(&["spec"], spec);
    object.set(&["status"], status);
    let row = row_of("", "Pod", object);
    [row[1].clone(), row[2].clone(), row[3].clone()]
}

#[test]
fn pods_say_how_they_are() {
    let one = || json!({"containers": [{"name": "a"}]});
    let check = |status: Value, expect: [&str; 3]| assert_eq!(pod_row(one(), status), expect);
    check(json!({"phase": "Pending"}), ["0/1", "Pending", "0"]);
    check(
        json!({"phase": "Running", "containerStatuses": [
            {"name": "a", "ready": true, "restartCount": 2, "state": {"running": {}},
             "lastState": {"terminated": {"finishedAt": "2026-01-01T00:55:00Z", "exitCode": 1}}}]}),
        ["1/1", "Running", "2 (5m ago)"],
    );
    check(
        json!({"phase": "Running", "containerStatuses": [
            {"name": "a", "restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
        ["0/1", "CrashLoopBackOff", "1"],
    );
    check(
        json!({"phase": "Failed", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 3}}}]}),
        ["0/1", "ExitCode:3", "0"],
    );
    check(
        json!({"phase": "Succeeded", "containerStatuses": [
            {"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
        ["0/1", "Completed", "0"],
    );
    check(json!({"phase": "Failed", "reason": "Evicted"}), ["0/1", "Evicted", "0"]);
    check(
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}),
        ["0/1", "SchedulingGated", "0"],
    );
}

#[test]
fn pods_tell_of_their_init_containers() {
    let spec = || {
        json!({"containers": [{"name": "a"}],
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]})
    };
    let check = |status: Value, expect: [&str; 3]| assert_eq!(pod_row(spec(), status), expect);
    check(
        json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "state": {"waiting": {"reason": "PodInitializing"}}}]}),
        ["0/2", "Init:0/2", "0"],
    );
    check(
        json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}, "restartCount": 1}]}),
        ["0/2", "Init:Error", "1"],
    );
    check(
        json!({"phase": "Running",
            "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0}}},
                {"name": "s", "started": true, "ready": true, "state": {"running": {}}, "restartCount": 1}],
            "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]}),
        ["2/2", "Running", "1"],
    );
}

#[test]
fn a_pod_that_is_deleted_terminates() {
    let object =
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}});
    assert_eq!(row_of("", "Pod", object)[2], "Terminating");
}

#[test]
fn the_others_are_printed_as_upstream() {
    let check = |group: &str, kind: &str, object: Value, expect: &[&str]| {
        assert_eq!(row_of(group, kind, object), expect, "{kind}");
    };
    check(
        "apps",
        "Deployment",
        json!({"spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}},
            "template": {"spec": {"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "j"}]}}},
            "status": {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1}}),
        &["x", "1/3", "2", "1", "60m", "c,d", "i,j", "a=b"],
    );
    check(
        "",
        "Service",
        json!({"spec": {"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"], "externalIPs": ["9.9.9.9"],
            "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}]}}}),
        &["x", "LoadBalancer", "10.0.0.1", "1.1.1.1,9.9.9.9", "80:30000/TCP", "60m", "<none>"],
    );
    check(
        "discovery.k8s.io",
        "EndpointSlice",
        json!({"addressType": "IPv4", "ports": [{"port": 1}, {"name": "b"}, {}, {}],
            "endpoints": [{"addresses": ["1.1.1.1"]}]}),
        &["x", "IPv4", "1,b,* + 1 more...", "1.1.1.1", "60m"],
    );
    check(
        "",
        "Node",
        json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                "nodeInfo": {"kubeletVersion": "v1", "kernelVersion": "6.1", "architecture": "amd64"},
                "addresses": [{"type": "InternalIP", "address": "1.2.3.4"}]}}),
        &[
            "x",
            "Ready,SchedulingDisabled",
            "control-plane",
            "60m",
            "v1",
            "1.2.3.4",
            "<none>",
            "<unknown>",
            "6.1 (amd64)",
            "<unknown>",
        ],
    );
    check(
        "batch",
        "Job",
        json!({"spec": {"completions": 2}, "status": {"succeeded": 1, "startTime": "2026-01-01T00:59:00Z"}}),
        &["x", "Running", "1/2", "60s", "60m", "", "", "<none>"],
    );
    check(
        "networking.k8s.io",
        "IPAddress",
        json!({"spec": {"parentRef": {"resource": "services", "namespace": "n", "name": "s"}}}),
        &["x", "services/n/s", "60m"],
    );
    check(
        "",
        "Event",
        json!({"type": "Normal", "reason": "R", "message": " m ", "lastTimestamp": "2026-01-01T00:59:50Z",
            "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "c", "host": "h"}}),
        &["10s", "Normal", "R", "pod/p", "", "c, h", "m", "<unknown>", "1", "x"],
    );
    check(
        "policy",
        "PodDisruptionBudget",
        json!({"spec": {"minAvailable": "50%"}, "status": {"disruptionsAllowed": 1}}),
        &["x", "50%", "N/A", "1", "60m"],
    );
}

#[test]
fn a_table_carries_columns_rows_and_metadata() {
    let facts = kinds().by_kind("", "v1", "ConfigMap").unwrap();
    let object = json!({"metadata": {"name": "a", "uid": "u"}, "data": {"k": "v"}});
    let metadata = Map::from_pairs(vec![("resourceVersion".into(), "7".into())]);
    let table = table(facts, &[object], metadata, IncludeObject::Metadata, true, now());
    assert_eq!(table.array_at(&["columnDefinitions"]).len(), 3);
    assert_eq!(table.str_at(&["metadata", "resourceVersion"]), Some("7"));
    let row = &table.array_at(&["rows"])[0];
    assert_eq!(row.array_at(&["cells"]), [Value::from("a"), Value::Int(1), Value::from("<unknown>")]);
    assert_eq!(row.str_at(&["object", "kind"]), Some("PartialObjectMetadata"));
    assert_eq!(row.str_at(&["object", "metadata", "uid"]), Some("u"));
}

#[test]
fn of_several_default_classes_the_youngest_is_marked() {
    let class = |name: &str, created: &str| {
        let mut class =
            json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}});
        class.set(&["metadata", "name"], name);
        class.set(&["metadata", "creationTimestamp"], created);
        class
    };
    let facts = kinds().by_kind("storage.k8s.io", "v1", "StorageClass").unwrap();
    let classes = [class("a", "2026-01-01T00:00:00Z"), class("b", "2026-01-01T00:30:00Z")];
    let table = table(facts, &classes, Map::new(), IncludeObject::None, true, now());
    let first = |index: usize| table.array_at(&["rows"])[index].array_at(&["cells"])[0].clone();
    assert_eq!((first(0), first(1)), (Value::from("a"), Value::from("b (default)")));
}

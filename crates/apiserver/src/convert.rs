//! Between a kind's versions, where more than one is served.

use api::json;
use api::status::Status;
use api::value::Value;

use crate::kinds::Kind;

/// Names of an Event's members: core's, and those of `events.k8s.io`.
const EVENT_MEMBERS: &[(&str, &str)] = &[
    ("count", "deprecatedCount"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("involvedObject", "regarding"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
];

/// A tree in the version of the request, as it is stored.
pub fn to_stored(kind: &'static Kind, tree: Value) -> Result<Value, Status> {
    if kind.is_stored_version() { Ok(tree) } else { between(kind, tree, true) }
}

/// A stored tree in the version of the request.
pub fn from_stored(kind: &'static Kind, tree: Value) -> Result<Value, Status> {
    if kind.is_stored_version() { Ok(tree) } else { between(kind, tree, false) }
}

fn between(kind: &'static Kind, mut tree: Value, to_stored: bool) -> Result<Value, Status> {
    match kind.facts.kind {
        "Event" => rename(&mut tree, to_stored),
        "HorizontalPodAutoscaler" if to_stored => {
            to_autoscaling_v2(&mut tree);
            api::schema::apply_defaults(kind.stored_facts.ty, &mut tree);
        }
        "HorizontalPodAutoscaler" => to_autoscaling_v1(&mut tree),
        _ => {
            return Err(Status::internal(format_args!(
                "{} in version {} cannot be converted to the version that is stored; use {}",
                kind.kind.kind,
                kind.api_version(),
                kind.stored_kind.api_version()
            )));
        }
    }
    let target = if to_stored { &kind.stored_kind } else { &kind.kind };
    tree.set(&["apiVersion"], target.api_version());
    Ok(tree)
}

fn rename(tree: &mut Value, to_stored: bool) {
    let Some(map) = tree.as_object_mut() else { return };
    for (core, new) in EVENT_MEMBERS {
        let (from, to) = if to_stored { (new, core) } else { (core, new) };
        if let Some(value) = map.remove(from) {
            map.insert(*to, value);
        }
    }
    // Core always writes these two, the other group only where they say something.
    if !to_stored {
        for member in ["reportingController", "reportingInstance"] {
            if map.get(member).and_then(Value::as_str) == Some("") {
                map.remove(member);
            }
        }
    }
}

/// Where version 1 of an autoscaler keeps what it has no fields for: member of version 2, annotation.
const AUTOSCALER_ANNOTATIONS: &[(&[&str], &str)] = &[
    (&["spec", "metrics"], "autoscaling.alpha.kubernetes.io/metrics"),
    (&["spec", "behavior"], "autoscaling.alpha.kubernetes.io/behavior"),
    (&["status", "conditions"], "autoscaling.alpha.kubernetes.io/conditions"),
    (&["status", "currentMetrics"], "autoscaling.alpha.kubernetes.io/current-metrics"),
];

fn is_cpu(metric: &Value) -> bool {
    metric.str_at(&["type"]) == Some("Resource") && metric.str_at(&["resource", "name"]) == Some("cpu")
}

/// Version 1 knows the use of CPU alone; the rest travels in annotations, so that nothing is lost on the way back.
fn to_autoscaling_v1(tree: &mut Value) {
    let find = |tree: &Value, path: &[&str], number: &[&str]| {
        tree.array_at(path).iter().find(|metric| is_cpu(metric)).and_then(|metric| metric.int_at(number))
    };
    let target = find(tree, &["spec", "metrics"], &["resource", "target", "averageUtilization"]);
    let current = find(tree, &["status", "currentMetrics"], &["resource", "current", "averageUtilization"]);
    for (path, annotation) in AUTOSCALER_ANNOTATIONS {
        let Some(mut value) = tree.remove(path) else { continue };
        if path.last() == Some(&"metrics")
            && target.is_some()
            && let Some(metrics) = value.as_array_mut()
        {
            metrics.retain(|metric| !is_cpu(metric));
        }
        if path.last() == Some(&"currentMetrics")
            && let Some(metrics) = value.as_array_mut()
        {
            metrics.retain(|metric| current.is_none() || !is_cpu(metric));
        }
        if !value.is_empty() {
            tree.set(&["metadata", "annotations", annotation], value.to_string());
        }
    }
    if let Some(target) = target {
        tree.set(&["spec", "targetCPUUtilizationPercentage"], target);
    }
    if let Some(current) = current {
        tree.set(&["status", "currentCPUUtilizationPercentage"], current);
    }
    // Version 1 always writes it.
    if tree.at(&["status"]).is_some() && tree.at(&["status", "currentReplicas"]).is_none() {
        tree.set(&["status", "currentReplicas"], 0);
    }
}

fn to_autoscaling_v2(tree: &mut Value) {
    for (path, annotation) in AUTOSCALER_ANNOTATIONS {
        let at = ["metadata", "annotations", annotation];
        // What cannot be read stays where it is, as any other annotation.
        if let Some(value) = tree.str_at(&at).and_then(|text| api::value::parse(text.as_bytes()).ok()) {
            tree.remove(&at);
            tree.set(path, value);
        }
    }
    if tree.at(&["metadata", "annotations"]).is_some_and(Value::is_empty) {
        tree.remove(&["metadata", "annotations"]);
    }
    let spec = tree.remove(&["spec", "targetCPUUtilizationPercentage"]).and_then(|target| target.as_int());
    if let Some(target) = spec {
        let target = json!({"type": "Utilization", "averageUtilization": target});
        add(
            tree,
            &["spec", "metrics"],
            json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}),
        );
    }
    let status =
        tree.remove(&["status", "currentCPUUtilizationPercentage"]).and_then(|current| current.as_int());
    if let Some(current) = status {
        let current = json!({"averageUtilization": current});
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "current": current}});
        add(tree, &["status", "currentMetrics"], metric);
    }
}

fn add(tree: &mut Value, path: &[&str], metric: Value) {
    let mut metrics = tree.array_at(path).to_vec();
    metrics.push(metric);
    tree.set(path, metrics);
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::names::Resource;

    #[test]
    fn an_event_is_the_same_in_both_groups() {
        let kind = crate::kinds::find(&Resource::known("events.k8s.io", "v1", "events")).unwrap();
        let tree = json!({"apiVersion": "events.k8s.io/v1", "note": "n", "regarding": {"name": "p"}});
        let stored = to_stored(kind, tree.clone()).unwrap();
        assert_eq!(stored, json!({"apiVersion": "v1", "message": "n", "involvedObject": {"name": "p"}}));
        assert_eq!(from_stored(kind, stored).unwrap(), tree);
    }

    #[test]
    fn an_autoscaler_loses_nothing_in_version_1() {
        let kind =
            crate::kinds::find(&Resource::known("autoscaling", "v1", "horizontalpodautoscalers")).unwrap();
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
        let pods = json!({"type": "Pods", "pods": {"metric": {"name": "m"}}});
        let stored = json!({"apiVersion": "autoscaling/v2", "metadata": {"name": "a"}, "spec": {"maxReplicas": 3,
            "minReplicas": 1, "metrics": [pods, cpu]}});
        let old = from_stored(kind, stored.clone()).unwrap();
        assert_eq!(old.int_at(&["spec", "targetCPUUtilizationPercentage"]), Some(50));
        assert_eq!(to_stored(kind, old).unwrap(), stored);
    }
}

//! HorizontalPodAutoscalers of versions 1 and 2. Version 1 has fields for the use of CPU alone; the rest travels in
//! annotations, in the very form that upstream writes and reads, so that an object may come from there or go there.

use api::json;
use api::value::Value;

use super::annotations::{BEHAVIOR, CONDITIONS, CURRENT_METRICS, Form, METRICS, read, write};

const METRICS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT_METRICS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// All that no object of version 2 has, and none of version 1 but those that the conversion wrote.
const ANNOTATIONS: [&str; 6] = [
    METRICS_ANNOTATION,
    BEHAVIOR_ANNOTATION,
    CURRENT_METRICS_ANNOTATION,
    CONDITIONS_ANNOTATION,
    "autoscaling.alpha.kubernetes.io/scale-down-tolerance",
    "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
];

/// What an autoscaler of version 1 goes by that names no measure at all, in percent.
const CPU_UTILIZATION_USUAL: i64 = 80;

/// Drops the annotations by which version 1 carries what it has no fields for.
pub(super) fn drop_annotations(tree: &mut Value) {
    const PATH: [&str; 2] = ["metadata", "annotations"];
    let Some(annotations) = tree.at_mut(&PATH).and_then(Value::as_object_mut) else { return };
    for name in ANNOTATIONS {
        annotations.remove(name);
    }
    if annotations.is_empty() {
        tree.remove(&PATH);
    }
}

/// Version 1 of what version 2 has.
pub(super) fn to_v1(tree: &mut Value) {
    drop_annotations(tree);
    let number = |metric: Option<&Value>, path: &[&str]| metric.and_then(|metric| metric.int_at(path));
    let metrics = tree.array_at(&["spec", "metrics"]);
    let target = number(metrics.iter().find(|metric| is_cpu_target(metric)), &TARGET);
    let others: Vec<Value> = metrics.iter().filter(|metric| !is_cpu_target(metric)).cloned().collect();
    // The status keeps them all: its fields of version 1 know no amounts.
    let measured = tree.array_at(&["status", "currentMetrics"]);
    let cpu = |metric: &&Value| is_cpu(metric) && metric.int_at(&CURRENT).is_some();
    let current = number(measured.iter().rfind(cpu), &CURRENT);

    annotate(tree, METRICS_ANNOTATION, &METRICS, Some(Value::Array(others)));
    let mut take = |path: &[&str]| tree.remove(path);
    let (_, behavior) = (take(&["spec", "metrics"]), take(&["spec", "behavior"]));
    let (measured, conditions) = (take(&["status", "currentMetrics"]), take(&["status", "conditions"]));
    annotate(tree, CURRENT_METRICS_ANNOTATION, &CURRENT_METRICS, measured);
    annotate(tree, CONDITIONS_ANNOTATION, &CONDITIONS, conditions);
    if let Some(behavior @ Value::Object(_)) = behavior {
        tree.set(&["metadata", "annotations", BEHAVIOR_ANNOTATION], write(&BEHAVIOR, &behavior));
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

/// Writes a list into an annotation, if there is anything in it.
fn annotate(tree: &mut Value, annotation: &str, form: &Form, list: Option<Value>) {
    if let Some(list) = list.filter(|list| !list.is_empty()) {
        tree.set(&["metadata", "annotations", annotation], write(form, &list));
    }
}

/// Version 2 of what version 1 has, its defaults not yet in.
pub(super) fn to_v2(tree: &mut Value) {
    let text =
        |annotation: &str, form: &Form| read(form, tree.str_at(&["metadata", "annotations", annotation])?);
    let others = text(METRICS_ANNOTATION, &METRICS);
    let behavior = text(BEHAVIOR_ANNOTATION, &BEHAVIOR).filter(|behavior| !behavior.is_empty());
    let measured = text(CURRENT_METRICS_ANNOTATION, &CURRENT_METRICS);
    let conditions = text(CONDITIONS_ANNOTATION, &CONDITIONS);
    drop_annotations(tree);

    let mut metrics = match others {
        Some(Value::Array(others)) => others,
        _ => Vec::new(),
    };
    metrics.iter_mut().for_each(name_target);
    let cpu = |target: i64| {
        let target = json!({"type": "Utilization", "averageUtilization": target});
        json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
    };
    if let Some(target) = take_number(tree, &["spec", "targetCPUUtilizationPercentage"]) {
        metrics.push(cpu(target));
    }
    if metrics.is_empty() {
        metrics.push(cpu(CPU_UTILIZATION_USUAL));
    }
    tree.set(&["spec", "metrics"], metrics);
    if let Some(behavior) = behavior {
        tree.set(&["spec", "behavior"], behavior);
    }
    let current = take_number(tree, &["status", "currentCPUUtilizationPercentage"]);
    // The text knows more than the field.
    let measured = measured.or_else(|| {
        let current = json!({"averageUtilization": (current?)});
        Some(json!([{"type": "Resource", "resource": {"name": "cpu", "current": current}}]))
    });
    if let Some(measured) = measured {
        tree.set(&["status", "currentMetrics"], measured);
    }
    if let Some(conditions) = conditions {
        tree.set(&["status", "conditions"], conditions);
    }
}

const TARGET: [&str; 3] = ["resource", "target", "averageUtilization"];
const CURRENT: [&str; 3] = ["resource", "current", "averageUtilization"];

fn is_cpu(metric: &Value) -> bool {
    metric.str_at(&["type"]) == Some("Resource") && metric.str_at(&["resource", "name"]) == Some("cpu")
}

/// Whether version 1 has a field for a metric.
fn is_cpu_target(metric: &Value) -> bool {
    is_cpu(metric) && metric.int_at(&TARGET).is_some()
}

fn take_number(tree: &mut Value, path: &[&str]) -> Option<i64> {
    tree.remove(path)?.as_int()
}

/// Version 1 does not say of what sort a target is: it is known by what it has.
fn name_target(metric: &mut Value) {
    for source in ["object", "pods", "resource", "containerResource", "external"] {
        let Some(source_value) = metric.at_mut(&[source]).filter(|value| !value.is_null()) else { continue };
        let has = |key: &str| source_value.at(&["target", key]).is_some();
        let (by_average, by_value, by_use) = ("AverageValue", "Value", "Utilization");
        let ty = match source {
            "resource" | "containerResource" if has("averageUtilization") => by_use,
            "external" if has("value") => by_value,
            "object" if !has("averageValue") => by_value,
            _ => by_average,
        };
        // Version 1 cannot leave the value out; beside an average, nothing means none.
        if source == "object" && ty == by_average && source_value.str_at(&["target", "value"]) == Some("0") {
            source_value.remove(&["target", "value"]);
        }
        source_value.set(&["target", "type"], ty);
    }
}

#[cfg(test)]
mod tests;

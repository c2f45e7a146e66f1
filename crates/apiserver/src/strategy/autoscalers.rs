//! HorizontalPodAutoscalers: what they scale, by how much and by which measure. Trees are of version 2.

use api::status::Cause;
use api::validation::{Path, cause, names};
use api::value::Value;

use super::{Context, Strategy};

/// The longest period of a policy, and the longest that an autoscaler waits for a load to last.
const PERIOD_SECONDS_MAX: i64 = 1800;
const STABILIZATION_SECONDS_MAX: i64 = 3600;
/// The one kind of the core that can be scaled, so the only one that may name no group.
const OF_THE_CORE: &str = "ReplicationController";
/// The sources of a metric, each with the word of its type.
const SOURCES: [(&str, &str); 5] = [
    ("object", "Object"),
    ("external", "External"),
    ("pods", "Pods"),
    ("resource", "Resource"),
    ("containerResource", "ContainerResource"),
];

pub(super) struct Autoscalers;

impl Strategy for Autoscalers {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("autoscaling", "horizontalpodautoscalers")]
    }

    fn validate(&self, object: &Value, context: &Context<'_>) -> Vec<Cause> {
        let Some(spec) = object.get("spec") else { return Vec::new() };
        let path = Path::root("spec");
        let mut causes = Vec::new();
        let (most, least) =
            (spec.int_at(&["maxReplicas"]).unwrap_or_default(), spec.int_at(&["minReplicas"]));
        if least.is_some_and(|least| least < 1) {
            let why = "must be greater than or equal to 1";
            causes.push(cause::invalid(path.child("minReplicas"), least.unwrap_or_default(), why));
        }
        if least.is_some_and(|least| most < least) {
            let why = "must be greater than or equal to `minReplicas`";
            causes.push(cause::invalid(path.child("maxReplicas"), most, why));
        }
        if let Some(target) = spec.get("scaleTargetRef") {
            // What stays as it was is not asked again, so that old objects can still be changed.
            let kept = old_target(object, context)
                .is_some_and(|old| ["apiVersion", "kind"].iter().all(|key| old.get(key) == target.get(key)));
            reference(target, &path.child("scaleTargetRef"), kept, &mut causes);
        }
        metrics(spec, &path.child("metrics"), &mut causes);
        for side in ["scaleUp", "scaleDown"] {
            if let Some(rules) = spec.at(&["behavior", side]) {
                scaling(rules, &path.child("behavior").child(side), &mut causes);
            }
        }
        causes
    }

    fn validate_status(&self, new: &Value, _old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let mut causes = Vec::new();
        for key in ["currentReplicas", "desiredReplicas"] {
            let count = new.int_at(&["status", key]).unwrap_or_default();
            super::words::non_negative(count, &Path::root("status").child(key), &mut causes);
        }
        causes
    }
}

/// The target of the object as it is stored, if it is.
fn old_target(object: &Value, context: &Context<'_>) -> Option<Value> {
    let text = |key: &str| object.str_at(&["metadata", key]).unwrap_or_default();
    let resource = api::names::Resource {
        group: "autoscaling".into(),
        version: "v2".into(),
        resource: "horizontalpodautoscalers".into(),
    };
    let old = context.lookups.get(&resource, text("namespace"), text("name"))?;
    old.to_tree().at(&["spec", "scaleTargetRef"]).cloned()
}

fn reference(target: &Value, path: &Path, kept: bool, causes: &mut Vec<Cause>) {
    for key in ["kind", "name"] {
        let text = target.str_at(&[key]).unwrap_or_default();
        let wrong = if text.is_empty() { Vec::new() } else { names::is_path_segment(text, false) };
        causes.extend(wrong.iter().map(|why| cause::invalid(path.child(key), text, why)));
    }
    let version = target.str_at(&["apiVersion"]).unwrap_or_default();
    let why = if version.matches('/').count() > 1 {
        format!("unexpected GroupVersion string: {version}")
    } else if !version.contains('/') && target.str_at(&["kind"]) != Some(OF_THE_CORE) {
        "apiVersion must specify API group".to_owned()
    } else {
        return;
    };
    if !kept {
        causes.push(cause::invalid(path.child("apiVersion"), version, &why));
    }
}

fn metrics(spec: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let all = spec.array_at(&["metrics"]);
    for (index, metric) in all.iter().enumerate() {
        let path = path.index(index);
        let present: Vec<&str> =
            SOURCES.iter().map(|(key, _)| *key).filter(|key| metric.get(key).is_some()).collect();
        if let Some(first) = present.first()
            && let Some(source) = metric.get(first)
        {
            self::source(first, source, &path.child(first), causes);
        }
        let wanted = SOURCES.iter().find(|(_, ty)| metric.str_at(&["type"]) == Some(*ty));
        if let Some((wanted, _)) = wanted {
            if !present.contains(wanted) {
                let why = "must populate information for the given metric source";
                causes.push(cause::required(path.child(wanted), why));
            }
            for other in present.iter().filter(|other| present.len() != 1 && *other != wanted) {
                let why = "must populate the given metric source only";
                causes.push(cause::forbidden(path.child(other), why));
            }
        }
    }
}

fn source(key: &str, source: &Value, path: &Path, causes: &mut Vec<Cause>) {
    if let Some(name) = source.str_at(&["metric", "name"]).filter(|name| !name.is_empty()) {
        let at = path.child("metric").child("name");
        causes.extend(names::is_path_segment(name, false).iter().map(|why| cause::invalid(&at, name, why)));
    }
    let path = path.child("target");
    let present = |key: &str| source.at(&["target", key]).filter(|value| !value.is_null());
    let ty = source.str_at(&["target", "type"]).unwrap_or_default();
    if !matches!(ty, "Utilization" | "Value" | "AverageValue") {
        causes.push(cause::invalid(
            path.child("type"),
            ty,
            "must be either Utilization, Value, or AverageValue",
        ));
    }
    if let Some(share) = source.int_at(&["target", "averageUtilization"]).filter(|share| *share < 1) {
        causes.push(cause::invalid(path.child("averageUtilization"), share, "must be greater than 0"));
    }
    let (value, average) = (present("value").is_some(), present("averageValue").is_some());
    let share = present("averageUtilization").is_some();
    match key {
        "object" if !value && !average => {
            causes.push(cause::required(
                path.child("averageValue"),
                "must set either a target value or averageValue",
            ));
        }
        "external" if !value && !average => {
            let why = "must set either a target value for metric or a per-pod target";
            causes.push(cause::required(path.child("averageValue"), why));
        }
        "external" if value && average => {
            let why = "may not set both a target value for metric and a per-pod target";
            causes.push(cause::forbidden(path.child("value"), why));
        }
        "pods" if !average => {
            let why = "must specify a positive target averageValue";
            causes.push(cause::required(path.child("averageValue"), why));
        }
        "resource" | "containerResource" if !average && !share => {
            let why = "must set either a target raw value or a target utilization";
            causes.push(cause::required(path.child("averageUtilization"), why));
        }
        "resource" | "containerResource" if average && share => {
            let why = "may not set both a target raw value and a target utilization";
            causes.push(cause::forbidden(path.child("averageValue"), why));
        }
        _ => {}
    }
}

fn scaling(rules: &Value, path: &Path, causes: &mut Vec<Cause>) {
    if let Some(seconds) = rules.int_at(&["stabilizationWindowSeconds"]) {
        let at = path.child("stabilizationWindowSeconds");
        if seconds < 0 {
            causes.push(cause::invalid(&at, seconds, "must be greater than or equal to zero"));
        } else if seconds > STABILIZATION_SECONDS_MAX {
            let why = format!("must be less than or equal to {STABILIZATION_SECONDS_MAX}");
            causes.push(cause::invalid(&at, seconds, &why));
        }
    }
    let policies = rules.array_at(&["policies"]);
    if policies.is_empty() {
        causes.push(cause::required(path.child("policies"), "must specify at least one Policy"));
    }
    for (index, policy) in policies.iter().enumerate() {
        let path = path.child("policies").index(index);
        for key in ["value", "periodSeconds"] {
            let number = policy.int_at(&[key]).unwrap_or_default();
            if number <= 0 {
                causes.push(cause::invalid(path.child(key), number, "must be greater than zero"));
            } else if key == "periodSeconds" && number > PERIOD_SECONDS_MAX {
                let why = format!("must be less than or equal to {PERIOD_SECONDS_MAX}");
                causes.push(cause::invalid(path.child(key), number, &why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::lookups::fake::Fake;
    use api::json;

    fn check(spec: Value, expect: &str) {
        let lookups = Fake::new(Vec::new());
        let context =
            Context { identity: &Identity::admin(), lookups: &lookups, subresource: "", dry_run: false };
        let causes: Vec<String> = Autoscalers
            .validate(&json!({"metadata": {"name": "a"}, "spec": spec}), &context)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(causes.join("; "), expect);
    }

    #[test]
    fn an_autoscaler_says_what_it_scales_and_between_which_bounds() {
        let target = || json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
        check(json!({"scaleTargetRef": (target()), "minReplicas": 2, "maxReplicas": 3}), "");
        check(
            json!({"scaleTargetRef": (target()), "minReplicas": 4, "maxReplicas": 3}),
            "spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`",
        );
        check(
            json!({"scaleTargetRef": {"kind": "ReplicationController", "name": "r"}, "maxReplicas": 3}),
            "",
        );
        check(
            json!({"scaleTargetRef": {"kind": "Deployment", "name": "a/b", "apiVersion": "v1"}, "maxReplicas": 3}),
            "spec.scaleTargetRef.name: Invalid value: \"a/b\": may not contain '/'; \
             spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group",
        );
    }

    #[test]
    fn a_metric_has_the_source_of_its_type() {
        let spec = |metric: Value| {
            json!({"scaleTargetRef": {"kind": "A", "name": "a", "apiVersion": "b/v1"}, "maxReplicas": 1,
                "metrics": [metric]})
        };
        check(
            spec(json!({"type": "Pods", "resource": {"name": "cpu", "target": {"type": "Utilization"}}})),
            "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or \
             a target utilization; spec.metrics[0].pods: Required value: must populate information for the given \
             metric source",
        );
        check(
            spec(json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization",
            "averageUtilization": 5}}})),
            "",
        );
    }
}

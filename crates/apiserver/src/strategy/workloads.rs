//! Deployments, ReplicaSets and ReplicationControllers: a number of pods of one template.

use api::names::DEPLOYMENTS;
use api::selector::label::Selector;
use api::status::Cause;
use api::validation::{Path, cause, selectors};
use api::value::Value;

use super::{Context, Generation, MetadataJudged, Strategy, pod_spec, words};
use crate::{codec, kinds};

pub(super) struct Deployments;
pub(super) struct ReplicaSets;
pub(super) struct ReplicationControllers;

impl Strategy for Deployments {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("apps", "deployments")]
    }

    fn prepare_create(&self, object: &mut Value, _context: &Context<'_>) {
        object.set(&["metadata", "generation"], 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        let before = old.int_at(&["metadata", "generation"]).unwrap_or_default();
        // Annotations count, too: they are copied to ReplicaSets.
        let changed = {
            let mut whole = new.clone();
            if let Some(kind) = kinds::find(&DEPLOYMENTS) {
                codec::complete(kind, &mut whole);
            }
            let annotations = |object: &Value| {
                object.at(&["metadata", "annotations"]).filter(|annotations| !annotations.is_empty()).cloned()
            };
            whole.get("spec") != old.get("spec") || annotations(&whole) != annotations(old)
        };
        new.set(&["metadata", "generation"], if changed { before + 1 } else { before });
    }

    fn prepare_status(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        let before = old.int_at(&["metadata", "generation"]).unwrap_or_default();
        new.set(&["metadata", "generation"], before);
        keep_labels(new, old);
    }

    fn generation(&self) -> Generation {
        Generation::Own
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let (spec, path) = (part(object, "spec"), Path::root("spec"));
        let mut causes = Vec::new();
        non_negative(spec, &["replicas"], &path, &mut causes);
        selected(spec, "ReplicaSet", &path, &mut causes);
        strategy(part(spec, "strategy"), &path.child("strategy"), &mut causes);
        non_negative(
            spec,
            &["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"],
            &path,
            &mut causes,
        );
        if let Some(deadline) = spec.int_at(&["progressDeadlineSeconds"])
            && deadline <= spec.int_at(&["minReadySeconds"]).unwrap_or_default()
        {
            let path = path.child("progressDeadlineSeconds");
            causes.push(cause::invalid(path, deadline, "must be greater than minReadySeconds"));
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        same_selector(new, old)
    }

    fn validate_status(&self, new: &Value, old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let mut causes = status(
            new,
            &[
                "observedGeneration",
                "replicas",
                "updatedReplicas",
                "readyReplicas",
                "availableReplicas",
                "unavailableReplicas",
                "terminatingReplicas",
                "collisionCount",
            ],
            &["updatedReplicas", "readyReplicas", "availableReplicas"],
        );
        let count = |object: &Value| object.int_at(&["status", "collisionCount"]).unwrap_or_default();
        if count(new) < count(old) {
            causes.push(cause::invalid("status.collisionCount", count(new), "cannot be decremented"));
        }
        causes
    }
}

impl Strategy for ReplicaSets {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("apps", "replicasets")]
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let (spec, path) = (part(object, "spec"), Path::root("spec"));
        let mut causes = Vec::new();
        non_negative(spec, &["replicas", "minReadySeconds"], &path, &mut causes);
        selected(spec, "ReplicaSet", &path, &mut causes);
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        same_selector(new, old)
    }

    fn validate_status(&self, new: &Value, _old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        replica_status(new)
    }
}

impl Strategy for ReplicationControllers {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "replicationcontrollers")]
    }

    /// Upstream declares the form of its name, and declarations speak last.
    fn metadata_judged(&self) -> MetadataJudged {
        MetadataJudged::NameLast
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let (spec, path) = (part(object, "spec"), Path::root("spec"));
        let mut causes = Vec::new();
        // The table says that selector and template are needed, and that counts are not negative.
        if let Some(template) = spec.get("template").filter(|template| !template.is_null()) {
            let selector = spec.get("selector").and_then(Value::as_object).map(Selector::from_map);
            let selector = selector.unwrap_or_else(Selector::everything);
            judge_template(
                template,
                &selector,
                "ReplicationController",
                &path.child("template"),
                &mut causes,
            );
        }
        causes
    }

    fn validate_status(&self, new: &Value, _old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        replica_status(new)
    }
}

fn part<'a>(object: &'a Value, key: &str) -> &'a Value {
    static NOTHING: Value = Value::Null;
    object.get(key).unwrap_or(&NOTHING)
}

/// A status update does not change labels: old controllers sent them back as they had seen them.
fn keep_labels(new: &mut Value, old: &Value) {
    match old.at(&["metadata", "labels"]) {
        Some(labels) => new.set(&["metadata", "labels"], labels.clone()),
        None => {
            new.remove(&["metadata", "labels"]);
        }
    }
}

fn non_negative(object: &Value, fields: &[&str], path: &Path, causes: &mut Vec<Cause>) {
    for field in fields {
        words::non_negative(object.int_at(&[field]).unwrap_or_default(), &path.child(field), causes);
    }
}

/// A selector, and the template whose pods it must select.
fn selected(spec: &Value, owner: &str, path: &Path, causes: &mut Vec<Cause>) {
    let place = path.child("selector");
    let Some(selector) = spec.get("selector").filter(|selector| !selector.is_null()) else {
        // The table says that it is needed. A selector that is not there selects nothing.
        judge_template(part(spec, "template"), &Selector::nothing(), owner, &path.child("template"), causes);
        return;
    };
    causes.extend(selectors::label_selector(selector, &place));
    if ["matchLabels", "matchExpressions"].iter().all(|key| selector.get(key).is_none_or(Value::is_empty)) {
        causes.push(cause::invalid(&place, selector.clone(), "empty selector is invalid for deployment"));
    }
    match Selector::from_object(Some(selector)) {
        Ok(parsed) => {
            judge_template(part(spec, "template"), &parsed, owner, &path.child("template"), causes);
        }
        Err(_) => causes.push(cause::invalid(&place, selector.clone(), "invalid label selector")),
    }
}

fn judge_template(template: &Value, selector: &Selector, owner: &str, path: &Path, causes: &mut Vec<Cause>) {
    let labels = template.at(&["metadata", "labels"]);
    if !selector.is_everything() && !selector.matches_map(labels.and_then(Value::as_object)) {
        let path = path.child("metadata").child("labels");
        let why = "`selector` does not match template `labels`";
        causes.push(cause::invalid(path, labels.cloned().unwrap_or_default(), why));
    }
    causes.extend(pod_spec::template(template, path));
    let policy = template.str_at(&["spec", "restartPolicy"]).unwrap_or_default();
    if policy != "Always" {
        let path = path.child("spec").child("restartPolicy");
        causes.push(cause::not_supported(path, policy, &["Always"]));
    }
    if template.at(&["spec", "activeDeadlineSeconds"]).is_some_and(|seconds| !seconds.is_null()) {
        let path = path.child("spec").child("activeDeadlineSeconds");
        let why = format!("activeDeadlineSeconds in {owner} is not Supported");
        causes.push(cause::forbidden(path, &why));
    }
}

fn strategy(strategy: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let rolling = strategy.get("rollingUpdate").filter(|rolling| !rolling.is_null());
    match (strategy.str_at(&["type"]).unwrap_or_default(), rolling) {
        ("Recreate", Some(_)) => {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            causes.push(cause::forbidden(path.child("rollingUpdate"), why));
        }
        ("Recreate", None) => {}
        ("RollingUpdate", None) => {
            let why = "this should be defaulted and never be nil";
            causes.push(cause::required(path.child("rollingUpdate"), why));
        }
        ("RollingUpdate", Some(rolling)) => {
            let path = path.child("rollingUpdate");
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            let place = path.child("maxUnavailable");
            words::number_or_percent(unavailable, &place, causes);
            words::number_or_percent(surge, &path.child("maxSurge"), causes);
            if words::is_nothing(unavailable) && words::is_nothing(surge) {
                let value = unavailable.cloned().unwrap_or_default();
                causes.push(cause::invalid(&place, value, "may not be 0 when `maxSurge` is 0"));
            }
            words::at_most_all(unavailable, &place, causes);
        }
        _ => {
            // Upstream shows what it works with inside, where a bound that is not given is 0.
            let bound = |key: &str| {
                rolling.and_then(|rolling| rolling.get(key)).map_or_else(|| "0".to_owned(), Value::to_string)
            };
            let (unavailable, surge) = (bound("maxUnavailable"), bound("maxSurge"));
            let shown = match rolling {
                Some(_) => format!("{{\"MaxUnavailable\":{unavailable},\"MaxSurge\":{surge}}}"),
                None => "null".to_owned(),
            };
            let kind = strategy.get("type").map_or_else(|| "\"\"".to_owned(), Value::to_string);
            causes.push(Cause {
                reason: "FieldValueNotSupported".into(),
                message: format!(
                    "Unsupported value: {{\"Type\":{kind},\"RollingUpdate\":{shown}}}: supported values: \
                     \"Recreate\", \"RollingUpdate\""
                ),
                field: path.to_string(),
            });
        }
    }
}

fn same_selector(new: &Value, old: &Value) -> Vec<Cause> {
    let selector = |object| part(part(object, "spec"), "selector");
    let path = Path::root("spec").child("selector");
    words::immutable(Some(selector(new)), Some(selector(old)), &path).into_iter().collect()
}

fn replica_status(object: &Value) -> Vec<Cause> {
    let fields = [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
        "terminatingReplicas",
    ];
    status(object, &fields, &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"])
}

/// Counts are not negative and not above `replicas`.
fn status(object: &Value, counts: &[&str], below: &[&str]) -> Vec<Cause> {
    let (status, path) = (part(object, "status"), Path::root("status"));
    let mut causes = Vec::new();
    non_negative(status, counts, &path, &mut causes);
    let count = |field: &str| status.int_at(&[field]).unwrap_or_default();
    for field in below.iter().filter(|field| count(field) > count("replicas")) {
        causes.push(cause::invalid(
            path.child(field),
            count(field),
            "cannot be greater than status.replicas",
        ));
    }
    if count("availableReplicas") > count("readyReplicas") {
        let path = path.child("availableReplicas");
        causes.push(cause::invalid(path, count("availableReplicas"), "cannot be greater than readyReplicas"));
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::lookups::fake::Fake;
    use api::json;

    fn deployment(change: &[(&[&str], Value)]) -> Value {
        let mut object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {
                "selector": {"matchLabels": {"app": "a"}},
                "template": {
                    "metadata": {"labels": {"app": "a"}},
                    "spec": {"containers": [{"name": "c", "image": "i"}]}
                }
            }
        });
        for (path, value) in change {
            object.set(path, value.clone());
        }
        let ty = api::table::types().of_kind("apps", "v1", "Deployment").unwrap();
        api::schema::apply_defaults(ty, &mut object);
        object
    }

    #[test]
    fn wrong_deployments_are_named_as_upstream_does() {
        let lookups = Fake::new(Vec::new());
        let context =
            Context { identity: &Identity::admin(), lookups: &lookups, subresource: "", dry_run: false };
        let check = |change: &[(&[&str], Value)], expect: &str| {
            let causes = Deployments.validate(&deployment(change), &context);
            let causes: Vec<String> = causes.iter().map(ToString::to_string).collect();
            assert_eq!(causes.join("; "), expect);
        };
        check(&[], "");
        check(
            &[(&["spec", "template", "metadata", "labels"], json!({"app": "b"}))],
            "spec.template.metadata.labels: Invalid value: {\"app\":\"b\"}: `selector` does not match template `labels`",
        );
        check(
            &[(&["spec", "selector"], json!({}))],
            "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
        );
        check(
            &[(&["spec", "strategy"], json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}))],
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
        );
        check(
            &[(&["spec", "strategy"], json!({"type": "Recreate", "rollingUpdate": {}}))],
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        );
        check(
            &[(&["spec", "template", "spec", "restartPolicy"], "Never".into())],
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        );
    }

    #[test]
    fn spec_and_annotations_count_as_generations() {
        let lookups = Fake::new(Vec::new());
        let context =
            Context { identity: &Identity::admin(), lookups: &lookups, subresource: "", dry_run: false };
        let mut old = deployment(&[]);
        Deployments.prepare_create(&mut old, &context);
        codec::complete(kinds::find(&DEPLOYMENTS).unwrap(), &mut old);
        let check = |path: &[&str], value: Value, expect: i64| {
            let mut new = old.clone();
            new.set(path, value);
            Deployments.prepare_update(&mut new, &old, &context);
            assert_eq!(new.int_at(&["metadata", "generation"]), Some(expect), "{path:?}");
        };
        check(&["metadata", "labels", "x"], "y".into(), 1);
        check(&["metadata", "annotations", "x"], "y".into(), 2);
        check(&["spec", "replicas"], 3.into(), 2);
    }
}

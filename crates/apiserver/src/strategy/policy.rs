//! PodDisruptionBudgets, PriorityClasses and Leases.

use api::status::Cause;
use api::validation::{Path, cause, selectors};
use api::value::Value;

use super::{Context, Generation, MetadataJudged, Strategy, words};

/// How the names of the cluster's own priorities begin, and the highest that users may define.
const SYSTEM_PREFIX: &str = "system-";
const HIGHEST_PRIORITY: i64 = 1_000_000_000;
/// The cluster's own priorities.
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

pub(super) struct DisruptionBudgets;
pub(super) struct PriorityClasses;
pub(super) struct Leases;

impl Strategy for DisruptionBudgets {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("policy", "poddisruptionbudgets")]
    }

    fn metadata_judged(&self) -> MetadataJudged {
        MetadataJudged::Alone
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn validate_status(&self, new: &Value, _old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let mut causes = Vec::new();
        for key in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            let count = new.int_at(&["status", key]).unwrap_or_default();
            words::non_negative(count, &Path::root("status").child(key), &mut causes);
        }
        causes
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let path = Path::root("spec");
        let Some(spec) = object.get("spec") else { return Vec::new() };
        let present = |key: &str| spec.get(key).filter(|value| !value.is_null());
        let mut causes = Vec::new();
        if present("minAvailable").is_some() && present("maxUnavailable").is_some() {
            let members = [
                ("MinAvailable", present("minAvailable")),
                ("Selector", present("selector")),
                ("MaxUnavailable", present("maxUnavailable")),
                ("UnhealthyPodEvictionPolicy", present("unhealthyPodEvictionPolicy")),
            ];
            let why = "minAvailable and maxUnavailable cannot be both set";
            causes.push(words::shown("FieldValueInvalid", &path, "Invalid value", &members, why));
        }
        for key in ["minAvailable", "maxUnavailable"] {
            if let Some(value) = present(key) {
                words::number_or_percent(Some(value), &path.child(key), &mut causes);
                words::at_most_all(Some(value), &path.child(key), &mut causes);
            }
        }
        if let Some(selector) = present("selector") {
            causes.extend(selectors::label_selector(selector, &path.child("selector")));
        }
        causes
    }
}

impl Strategy for PriorityClasses {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("scheduling.k8s.io", "priorityclasses")]
    }

    /// It is 1 for ever.
    fn generation(&self) -> Generation {
        Generation::Own
    }

    fn prepare_create(&self, object: &mut Value, _context: &Context<'_>) {
        object.set(&["metadata", "generation"], 1);
    }

    fn prepare_update(&self, new: &mut Value, _old: &Value, _context: &Context<'_>) {
        new.set(&["metadata", "generation"], 1);
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let name = object.str_at(&["metadata", "name"]).unwrap_or_default();
        let value = object.int_at(&["value"]).unwrap_or_default();
        let mut causes = Vec::new();
        if name.starts_with(SYSTEM_PREFIX) {
            if let Err(why) = system(name, value, object.bool_at(&["globalDefault"]).unwrap_or_default()) {
                let why = format!(
                    "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {why}"
                );
                causes.push(cause::forbidden("metadata.name", &why));
            }
        } else if value > HIGHEST_PRIORITY {
            let why = format!("maximum allowed value of a user defined priority is {HIGHEST_PRIORITY}");
            causes.push(cause::forbidden("value", &why));
        }
        if let Some(policy) = object.str_at(&["preemptionPolicy"])
            && !words::table_knows("scheduling.k8s.io", "v1", "PriorityClass", "preemptionPolicy")
        {
            let known = ["PreemptLowerPriority", "Never"];
            words::one_of(policy, &known, &Path::root("preemptionPolicy"), &mut causes);
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let mut causes = Vec::new();
        let value = |class: &Value| class.int_at(&["value"]).unwrap_or_default();
        if value(new) != value(old) {
            causes.push(cause::forbidden("value", "may not be changed in an update."));
        }
        let path = Path::root("preemptionPolicy");
        causes.extend(words::immutable(new.get("preemptionPolicy"), old.get("preemptionPolicy"), &path));
        causes
    }
}

fn system(name: &str, value: i64, default: bool) -> Result<(), String> {
    let Some((_, known)) = SYSTEM_CLASSES.iter().find(|(known, _)| *known == name) else {
        return Err(format!("{name} is not a known system priority class"));
    };
    if *known != value {
        return Err(format!("value of {name} PriorityClass must be {known}"));
    }
    if default {
        return Err(format!("globalDefault of {name} PriorityClass must be false"));
    }
    Ok(())
}

impl Strategy for Leases {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("coordination.k8s.io", "leases")]
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let path = Path::root("spec");
        let mut causes = Vec::new();
        if let Some(seconds) =
            object.int_at(&["spec", "leaseDurationSeconds"]).filter(|seconds| *seconds <= 0)
        {
            causes.push(cause::invalid(
                path.child("leaseDurationSeconds"),
                seconds,
                "must be greater than 0",
            ));
        }
        let transitions = object.int_at(&["spec", "leaseTransitions"]).unwrap_or_default();
        words::non_negative(transitions, &path.child("leaseTransitions"), &mut causes);
        causes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::lookups::fake::Fake;
    use api::json;

    fn check(strategy: &dyn Strategy, object: &Value, expect: &str) {
        let lookups = Fake::new(Vec::new());
        let context =
            Context { identity: &Identity::admin(), lookups: &lookups, subresource: "", dry_run: false };
        let causes: Vec<String> =
            strategy.validate(object, &context).iter().map(ToString::to_string).collect();
        assert_eq!(causes.join("; "), expect);
    }

    #[test]
    fn budgets_name_one_bound() {
        check(&DisruptionBudgets, &json!({"spec": {"minAvailable": "50%"}}), "");
        check(
            &DisruptionBudgets,
            &json!({"spec": {"minAvailable": "150%"}}),
            "spec.minAvailable: Invalid value: \"150%\": must not be greater than 100%",
        );
    }

    #[test]
    fn system_priorities_are_reserved() {
        check(&PriorityClasses, &json!({"metadata": {"name": "a"}, "value": 5}), "");
        check(
            &PriorityClasses,
            &json!({"metadata": {"name": "system-mine"}, "value": 5}),
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. \
             error: system-mine is not a known system priority class",
        );
        check(
            &PriorityClasses,
            &json!({"metadata": {"name": "a"}, "value": 1000000001}),
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
        );
    }

    #[test]
    fn leases_last() {
        check(
            &Leases,
            &json!({"spec": {"leaseDurationSeconds": 0}}),
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
        );
    }
}

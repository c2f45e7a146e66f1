//! Pods: what the server sets of them, how long they take to go, and what must hold.

mod quality;
mod selectors;
mod status;

use api::json;
use api::status::Cause;
use api::validation::names;
use api::value::Value;

use super::{Context, Strategy, pod_spec};

pub(super) struct Pods;

impl Strategy for Pods {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "pods")]
    }

    fn prepare_create(&self, object: &mut Value, _context: &Context<'_>) {
        let mut status = json!({"phase": "Pending"});
        if !object.array_at(&["spec", "schedulingGates"]).is_empty() {
            let now = object.str_at(&["metadata", "creationTimestamp"]).unwrap_or_default().to_owned();
            let condition = json!({
                "type": "PodScheduled",
                "status": "False",
                "lastProbeTime": null,
                "lastTransitionTime": now,
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates"
            });
            status.set(&["conditions"], vec![condition]);
        }
        selectors::merge_match_labels(object);
        status.set(&["qosClass"], quality::class(object));
        object.set(&["status"], status);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        match context.subresource {
            "ephemeralcontainers" => only(new, old, &["ephemeralContainers"]),
            "resize" => resize(new, old),
            _ => {}
        }
    }

    fn prepare_status(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        status::prepare(new, old);
    }

    fn validate(&self, object: &Value, context: &Context<'_>) -> Vec<Cause> {
        pod_spec::pod(object, context.subresource.is_empty())
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> Vec<Cause> {
        match context.subresource {
            "" => pod_spec::update::pod(new, old),
            _ => Vec::new(),
        }
    }

    fn validate_status(&self, new: &Value, old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        status::validate(new, old)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some() {
            return Vec::new();
        }
        let wrong = names::is_label(new.str_at(&["metadata", "name"]).unwrap_or_default());
        let mut out = Vec::new();
        if !wrong.is_empty() {
            out.push(format!(
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS \
                 label is recommended: [{}]",
                wrong.join(" ")
            ));
        }
        out.extend(pod_spec::warnings::all(new, None));
        out
    }

    fn grace_seconds(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        let own = || object.int_at(&["spec", "terminationGracePeriodSeconds"]).unwrap_or_default();
        let seconds = requested.unwrap_or_else(own);
        let on_node = object.str_at(&["spec", "nodeName"]).is_some_and(|node| !node.is_empty());
        let over = matches!(object.str_at(&["status", "phase"]), Some("Failed" | "Succeeded"));
        Some(if !on_node || over {
            0
        } else if seconds < 0 {
            1
        } else {
            seconds
        })
    }
}

/// Keeps of the new spec only `fields`; all else is the old one's.
fn only(new: &mut Value, old: &Value, fields: &[&str]) {
    let mut spec = old.get("spec").cloned().unwrap_or_default();
    for field in fields {
        match new.at(&["spec", field]) {
            Some(value) => spec.set(&[field], value.clone()),
            None => {
                spec.remove(&[field]);
            }
        }
    }
    new.set(&["spec"], spec);
}

/// A resize changes the resources of containers, and nothing else of them.
fn resize(new: &mut Value, old: &Value) {
    let mut spec = old.get("spec").cloned().unwrap_or_default();
    for list in ["initContainers", "containers"] {
        let wanted = new.array_at(&["spec", list]).to_vec();
        let Some(containers) = spec.at_mut(&[list]).and_then(Value::as_array_mut) else { continue };
        for container in containers {
            let same = |other: &&Value| other.get("name") == container.get("name");
            let Some(other) = wanted.iter().find(same) else { continue };
            for field in ["resources", "resizePolicy"] {
                if let Some(value) = other.get(field) {
                    container.set(&[field], value.clone());
                }
            }
        }
    }
    new.set(&["spec"], spec);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::lookups::fake::Fake;

    #[test]
    fn a_new_pod_is_pending_and_may_be_gated() {
        let lookups = Fake::new(Vec::new());
        let context =
            Context { identity: &Identity::admin(), lookups: &lookups, subresource: "", dry_run: false };
        let mut pod = json!({"spec": {"schedulingGates": [{"name": "a"}], "containers": [{"name": "c"}]}});
        Pods.prepare_create(&mut pod, &context);
        assert_eq!(pod.str_at(&["status", "phase"]), Some("Pending"));
        assert_eq!(pod.str_at(&["status", "qosClass"]), Some("BestEffort"));
        assert_eq!(pod.array_at(&["status", "conditions"])[0].str_at(&["reason"]), Some("SchedulingGated"));
    }

    #[test]
    fn only_a_pod_on_a_node_takes_its_time_to_go() {
        let check = |pod: Value, requested: Option<i64>, expect: i64| {
            assert_eq!(Pods.grace_seconds(&pod, requested), Some(expect), "{pod}");
        };
        let running = || json!({"spec": {"terminationGracePeriodSeconds": 30, "nodeName": "n"}});
        check(running(), None, 30);
        check(running(), Some(5), 5);
        check(running(), Some(0), 0);
        check(json!({"spec": {"terminationGracePeriodSeconds": 30}}), None, 0);
        check(json!({"spec": {"nodeName": "n"}, "status": {"phase": "Failed"}}), Some(9), 0);
    }
}

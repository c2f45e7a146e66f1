//! `pods/eviction`: a deletion that asks the pod's disruption budget first.

use std::sync::Arc;

use api::interface::{DeleteOptions, Target, WriteOptions};
use api::names;
use api::object::Object;
use api::selector::label;
use api::status::{Cause, Reason, Status};
use api::value::{Str, Value};
use store::{Expectation, Revision, Transaction};

use super::success;
use crate::caller::Caller;
use crate::gate::Gate;
use crate::kinds::{self, Kind};
use crate::lookups::Lookups as _;
use crate::storage::{Failure, Record, Storage};
use crate::verbs::{Outcome, delete};
use crate::{codec, query};

/// How many evictions may wait for the budget's controller; upstream's `MaxDisruptedPodSize`.
const DISRUPTED_PODS: usize = 2000;
/// When a client may ask again while the budget's controller has work to do.
const RETRY_SECONDS: u32 = 10;

/// Evicts a pod.
pub(super) async fn create(
    gate: &Gate,
    caller: &Caller<'_>,
    kind: &'static Kind,
    target: &Target,
    body: &[u8],
    options: &WriteOptions,
) -> Result<Outcome, Status> {
    let gvk = names::GroupVersionKind::parse("policy/v1", "Eviction");
    let ty = codec::type_of(&gvk)?;
    // The version before is read here still, as in upstream: it has the same members.
    let old = names::GroupVersionKind::parse("policy/v1beta1", "Eviction");
    let is_old = api::schema::type_meta(body).is_ok_and(|said| said.api_version == old.api_version());
    let eviction = codec::decode_as(if is_old { &old } else { &gvk }, ty, body, options, caller)?;
    if eviction.str_at(&["metadata", "name"]).unwrap_or_default() != target.name.as_str() {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let empty = Value::object();
    let delete_options = eviction.get("deleteOptions").unwrap_or(&empty);
    let mut deletion = query::delete_options(query::Query::new(""), Some(delete_options))?;
    deletion.dry_run |= options.dry_run;
    // An eviction is the ordinary deletion of a pod that can be read.
    deletion.ignore_read_error = false;
    let pods = Target::new(&names::PODS, &target.namespace, &target.name);
    let mut turn = None;
    loop {
        let pod = gate.storage().require(kind, &target.namespace, &target.name)?;
        delete::require_preconditions(kind, &pod, &deletion)?;
        let tree = pod.to_tree();
        // What was judged must be what is deleted, where the judgement is of the pod's own state.
        let judged = if ends_anyway(&tree) {
            tree.str_at(&["status", "phase"]) == Some("Pending")
        } else if let Some(budget) = budget_of(gate, &pod)? {
            match judge(&tree, &budget, &target.name)? {
                Verdict::Unhealthy => true,
                Verdict::Counts => {
                    if !deletion.dry_run && !take(gate, &budget, &target.name).await? {
                        gate.storage().take_turn(&mut turn, budget.name()).await;
                        continue;
                    }
                    false
                }
            }
        } else {
            false
        };
        let adds = judged && deletion.resource_version.is_none();
        let mut deletion = deletion.clone();
        if adds {
            deletion.resource_version = Some(Str::from(pod.revision().to_string()));
        }
        match delete_pod(gate, caller, kind, &pods, &deletion).await {
            // It has changed since; what the client itself requires is judged above, at each turn.
            Err(status) if status.reason == Reason::Conflict && adds => {
                gate.storage().take_turn(&mut turn, &target.name).await;
            }
            Err(status) => return Err(status),
            Ok(()) => return Ok(Outcome::created(success())),
        }
    }
}

async fn delete_pod(
    gate: &Gate,
    caller: &Caller<'_>,
    kind: &'static Kind,
    target: &Target,
    options: &DeleteOptions,
) -> Result<(), Status> {
    delete::delete(gate, caller, kind, target, options).await.map(drop)
}

/// Whether the pod disrupts nobody by going: it has ended, or has not begun, or goes already.
fn ends_anyway(pod: &Value) -> bool {
    matches!(pod.str_at(&["status", "phase"]), Some("Succeeded" | "Failed" | "Pending"))
        || pod.at(&["metadata", "deletionTimestamp"]).is_some()
}

/// The budget that guards a pod.
fn budget_of(gate: &Gate, pod: &Object) -> Result<Option<Arc<Object>>, Status> {
    let mut found = None;
    for budget in gate.storage().list(&names::POD_DISRUPTION_BUDGETS, pod.namespace()) {
        let tree = budget.to_tree();
        // A budget whose selector cannot be read guards nothing, as upstream has it.
        let Ok(selector) = label::Selector::from_object(tree.at(&["spec", "selector"])) else { continue };
        if selector.is_nothing() || !selector.matches(pod.labels()) {
            continue;
        }
        if found.is_some() {
            let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status { code: 500, ..Status::new(Reason::Unknown, why) });
        }
        found = Some(budget);
    }
    Ok(found)
}

#[derive(Debug, PartialEq)]
enum Verdict {
    /// The pod is unhealthy already and does not count.
    Unhealthy,
    /// One disruption of the budget is taken.
    Counts,
}

/// Whether the budget lets the pod go. Pure.
fn judge(pod: &Value, budget: &Arc<Object>, pod_name: &str) -> Result<Verdict, Status> {
    let _ = pod_name;
    let tree = budget.to_tree();
    let status = |key: &str| tree.int_at(&["status", key]).unwrap_or_default();
    let (current, desired) = (status("currentHealthy"), status("desiredHealthy"));
    let ready = pod.array_at(&["status", "conditions"]).iter().any(|condition| {
        condition.str_at(&["type"]) == Some("Ready") && condition.str_at(&["status"]) == Some("True")
    });
    let always = tree.str_at(&["spec", "unhealthyPodEvictionPolicy"]) == Some("AlwaysAllow");
    if !ready && (always || (current >= desired && desired > 0)) {
        return Ok(Verdict::Unhealthy);
    }
    let name = budget.name();
    let refuse = |message: String, seconds: u32| {
        let why = "Cannot evict pod as it would violate the pod's disruption budget.";
        let mut refusal = Status::too_many_requests(why, seconds);
        if let Some(details) = &mut refusal.details {
            details.causes.push(Cause { reason: "DisruptionBudget".into(), message, field: String::new() });
        }
        refusal
    };
    if status("observedGeneration") < tree.int_at(&["metadata", "generation"]).unwrap_or_default() {
        let message = format!("The disruption budget {name} is still being processed by the server.");
        return Err(refuse(message, RETRY_SECONDS));
    }
    let waiting =
        tree.at(&["status", "disruptedPods"]).and_then(Value::as_object).map_or(0, api::value::Map::len);
    if waiting > DISRUPTED_PODS {
        let about = names::GroupResource { group: "policy".into(), resource: "poddisruptionbudget".into() };
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Status::forbidden(&about, name, why));
    }
    if status("disruptionsAllowed") > 0 {
        return Ok(Verdict::Counts);
    }
    let condition = tree
        .array_at(&["status", "conditions"])
        .iter()
        .find(|condition| condition.str_at(&["type"]) == Some("DisruptionAllowed"));
    let text = |key: &str| condition.and_then(|condition| condition.str_at(&[key])).unwrap_or_default();
    let failed = text("status") == "False" && !text("message").is_empty();
    let message = if failed && text("reason") == "SyncFailed" {
        format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
            text("message")
        )
    } else if current <= desired {
        format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently")
    } else if failed {
        format!(
            "The disruption budget {name} does not allow evicting pods currently ({}): {}",
            text("reason"),
            text("message")
        )
    } else {
        format!("The disruption budget {name} does not allow evicting pods currently")
    };
    Err(refuse(message, 0))
}

/// Takes one disruption of the budget; false if somebody wrote in between.
async fn take(gate: &Gate, budget: &Arc<Object>, pod: &str) -> Result<bool, Status> {
    let kind = kinds::require(&names::POD_DISRUPTION_BUDGETS)?;
    let mut tree = budget.to_tree();
    let left = tree.int_at(&["status", "disruptionsAllowed"]).unwrap_or_default() - 1;
    tree.set(&["status", "disruptionsAllowed"], left);
    let now = api::time::seconds(gate.now());
    tree.set(&["status", "disruptedPods", pod], now.as_str());
    if left == 0 {
        let mut conditions = tree.array_at(&["status", "conditions"]).to_vec();
        for condition in &mut conditions {
            if condition.str_at(&["type"]) == Some("DisruptionAllowed")
                && condition.str_at(&["status"]) != Some("False")
            {
                condition.set(&["status"], "False");
                condition.set(&["reason"], "InsufficientPods");
                condition.set(&["lastTransitionTime"], now.as_str());
            }
        }
        tree.set(&["status", "conditions"], conditions);
    }
    codec::complete(kind, &mut tree);
    let key = Storage::key(kind, budget.namespace(), budget.name());
    let expect = Expectation::Modified(Revision(budget.revision()));
    match gate.storage().commit(Transaction::new().put(key, expect, Record::new(kind, &tree))).await {
        Ok(_) => Ok(true),
        Err(Failure::Conflict { .. }) => Ok(false),
        Err(Failure::Status(status)) => Err(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    fn budget(allowed: i64, current: i64) -> Arc<Object> {
        let tree = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b", "generation": 1},
            "spec": {}, "status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": current,
                "desiredHealthy": 2}});
        Arc::new(Object::from_tree(&tree).unwrap())
    }

    #[test]
    fn a_budget_without_room_refuses_with_its_counts() {
        let pod = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(judge(&pod, &budget(1, 3), "p").unwrap(), Verdict::Counts);
        let status = judge(&pod, &budget(0, 2), "p").unwrap_err();
        assert_eq!(status.code, 429);
        let causes = &status.details.unwrap().causes;
        assert_eq!(causes[0].message, "The disruption budget b needs 2 healthy pods and has 2 currently");
    }

    #[test]
    fn an_unready_pod_may_go_while_enough_are_healthy() {
        let pod = json!({"status": {}});
        assert_eq!(judge(&pod, &budget(0, 2), "p").unwrap(), Verdict::Unhealthy);
        assert!(judge(&pod, &budget(0, 1), "p").is_err());
    }
}

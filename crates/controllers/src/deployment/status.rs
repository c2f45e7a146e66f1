//! What users and `kubectl rollout` read of a Deployment.

use std::time::Duration;

use api::interface::Target;
use api::json;
use api::names::DEPLOYMENTS;
use api::object::Object;
use api::time::seconds;
use api::value::Value;
use control::plan::{Plan, Write};
use jiff::Timestamp;

use super::revision::REVISION;
use super::rolling::Limits;
use super::sets::Sets;
use crate::condition::{self, find, read_time};
use crate::replicas::FAILURE;

const PROGRESSING: &str = "Progressing";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const COMPLETE: &str = "NewReplicaSetAvailable";
/// Upstream's word for "no deadline".
const NO_DEADLINE: i64 = i32::MAX as i64;

/// What the plan has done to the rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It was on its way.
    Rolling,
    /// Nothing but sizes changed, so nothing is said of progress.
    Untouched,
    /// A user has paused it.
    Paused,
}

/// Numbers of the status that progress is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Numbers {
    replicas: i64,
    updated: i64,
    ready: i64,
    available: i64,
    unavailable: i64,
    terminating: i64,
}

impl Numbers {
    fn of(sets: &Sets) -> Self {
        let sum = |field| sets.all().iter().map(|set| set.status(field)).sum::<i64>();
        let available = sum("availableReplicas");
        Self {
            replicas: sum("replicas"),
            updated: sets.new_set().map_or(0, |new| new.status("replicas")),
            ready: sum("readyReplicas"),
            available,
            unavailable: (sets.total() - available).max(0),
            terminating: sum("terminatingReplicas"),
        }
    }

    fn is_complete(&self, replicas: i64) -> bool {
        self.updated == replicas && self.replicas == replicas && self.available == replicas
    }
}

/// Whether the stored status says that the rollout of the present template is complete.
pub fn is_complete(tree: &Value, replicas: i64) -> bool {
    let number = |field| tree.int_at(&["status", field]).unwrap_or_default();
    number("updatedReplicas") == replicas
        && number("replicas") == replicas
        && number("availableReplicas") == replicas
        && number("observedGeneration") >= tree.int_at(&["metadata", "generation"]).unwrap_or_default()
}

/// Writes status and revision of a Deployment, where they differ from what is stored.
pub fn write(
    plan: &mut Plan,
    deployment: &Object,
    tree: &Value,
    sets: &Sets,
    progress: Progress,
    now: Timestamp,
) {
    let numbers = Numbers::of(sets);
    let limits = Limits::of(tree);
    let conditions = conditions(plan, deployment, tree, sets, &numbers, &limits, progress, now);
    let mut status = json!({
        "observedGeneration": (tree.at(&["metadata", "generation"]).cloned().unwrap_or_default()),
        "replicas": (positive(numbers.replicas)),
        "updatedReplicas": (positive(numbers.updated)),
        "readyReplicas": (positive(numbers.ready)),
        "availableReplicas": (positive(numbers.available)),
        "unavailableReplicas": (positive(numbers.unavailable)),
        "terminatingReplicas": (numbers.terminating),
        "conditions": conditions
    });
    if sets.created().is_some_and(|created| created.collides) {
        let collisions = tree.int_at(&["status", "collisionCount"]).unwrap_or_default();
        status.set(&["collisionCount"], collisions + 1);
    }
    let differs = status
        .as_object()
        .into_iter()
        .flat_map(api::value::Map::iter)
        .any(|(field, value)| tree.at(&["status", field]).unwrap_or(&Value::Null) != value);
    let revision = sets.revision().map(|revision| revision.to_string()).filter(|revision| {
        !deployment.is_deleting() && tree.str_at(&["metadata", "annotations", REVISION]) != Some(revision)
    });
    if differs || revision.is_some() {
        let mut patch = json!({"metadata": {"uid": (deployment.uid())}, "status": status});
        if let Some(revision) = revision {
            // By way of the status, for any other change of annotations is a new generation.
            patch.set(&["metadata", "annotations", REVISION], revision);
        }
        let target = Target::new(&DEPLOYMENTS, deployment.namespace(), deployment.name());
        plan.write(Write::merge(target.subresource("status"), &patch));
    }
}

/// Zero is left out of a status, as upstream's `omitempty` does.
fn positive(number: i64) -> Value {
    if number == 0 { Value::Null } else { Value::Int(number) }
}

#[expect(clippy::too_many_arguments, reason = "all that a Deployment's conditions depend on")]
fn conditions(
    plan: &mut Plan,
    deployment: &Object,
    tree: &Value,
    sets: &Sets,
    numbers: &Numbers,
    limits: &Limits,
    progress: Progress,
    now: Timestamp,
) -> Vec<Value> {
    let mut conditions = tree.array_at(&["status", "conditions"]).to_vec();
    let deadline =
        tree.int_at(&["spec", "progressDeadlineSeconds"]).filter(|seconds| *seconds != NO_DEADLINE);
    match (deadline, progress) {
        (None, _) => condition::remove(&mut conditions, PROGRESSING),
        (Some(_), Progress::Untouched) => {}
        (Some(_), Progress::Paused) => {
            let timed_out =
                find(&conditions, PROGRESSING).is_some_and(|c| c.str_at(&["reason"]) == Some(TIMED_OUT));
            if !timed_out {
                set(&mut conditions, "Unknown", "DeploymentPaused", "Deployment is paused", now);
            }
        }
        (Some(seconds), Progress::Rolling) => {
            let rollout =
                Rollout { deployment, tree, sets, numbers, replicas: limits.replicas, deadline: seconds };
            rollout.progress(&mut conditions, plan, now);
        }
    }
    let available = numbers.available >= limits.floor();
    let (status, reason, message) = if available {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set_updated(&mut conditions, condition::new("Available", status, reason, message, now), now);

    let failure = sets
        .new_set()
        .into_iter()
        .chain(sets.all())
        .find_map(|set| find(set.tree.array_at(&["status", "conditions"]), FAILURE));
    match failure {
        Some(failure) => set_updated(&mut conditions, failure.clone(), now),
        None => condition::remove(&mut conditions, FAILURE),
    }
    conditions
}

struct Rollout<'a> {
    deployment: &'a Object,
    tree: &'a Value,
    sets: &'a Sets,
    numbers: &'a Numbers,
    replicas: i64,
    deadline: i64,
}

impl Rollout<'_> {
    fn progress(&self, conditions: &mut Vec<Value>, plan: &mut Plan, now: Timestamp) {
        let current = find(conditions, PROGRESSING).cloned();
        let reason = current.as_ref().and_then(|condition| condition.str_at(&["reason"])).unwrap_or_default();
        let reason = reason.to_owned();
        if reason == "DeploymentPaused" {
            return set(conditions, "Unknown", "DeploymentResumed", "Deployment is resumed", now);
        }
        if let Some(created) = self.sets.created() {
            let message = format!("Created new replica set \"{}\"", created.name);
            return set(conditions, "True", "NewReplicaSetCreated", &message, now);
        }
        let Some(current) = current else {
            let message = self.about("Found new replica set", "");
            return set(conditions, "True", "FoundNewReplicaSet", &message, now);
        };
        if self.numbers.replicas == self.numbers.updated && reason == COMPLETE {
            return;
        }
        if self.numbers.is_complete(self.replicas) {
            set(
                conditions,
                "True",
                COMPLETE,
                &self.about("ReplicaSet", " has successfully progressed."),
                now,
            );
        } else if self.has_progressed() {
            let message = self.about("ReplicaSet", " is progressing.");
            let mut next = condition::new(PROGRESSING, "True", "ReplicaSetUpdated", &message, now);
            if current.str_at(&["status"]) == Some("True")
                && let Some(at) = current.get("lastTransitionTime").cloned()
            {
                next.set(&["lastTransitionTime"], at);
            }
            next.set(&["lastUpdateTime"], seconds(now));
            condition::remove(conditions, PROGRESSING);
            conditions.push(next);
        } else if reason != TIMED_OUT {
            self.check_deadline(&current, conditions, plan, now);
        }
    }

    fn check_deadline(&self, current: &Value, conditions: &mut Vec<Value>, plan: &mut Plan, now: Timestamp) {
        let since = read_time(current.get("lastUpdateTime")).unwrap_or(now);
        let left = self.deadline - now.duration_since(since).as_secs();
        if left < 0 {
            set(
                conditions,
                "False",
                TIMED_OUT,
                &self.about("ReplicaSet", " has timed out progressing."),
                now,
            );
        } else {
            // One second more, for stored times have no fractions.
            plan.again_after(Duration::from_secs(left.unsigned_abs() + 1));
        }
    }

    /// Whether more new, fewer old, more ready or more available pods are there than the status says.
    fn has_progressed(&self) -> bool {
        let old = |field| self.tree.int_at(&["status", field]).unwrap_or_default();
        let old_of_old = old("replicas") - old("updatedReplicas");
        self.numbers.updated > old("updatedReplicas")
            || self.numbers.replicas - self.numbers.updated < old_of_old
            || self.numbers.ready > old("readyReplicas")
            || self.numbers.available > old("availableReplicas")
    }

    fn about(&self, before: &str, after: &str) -> String {
        match self.sets.new_set() {
            Some(new) => format!("{before} \"{}\"{after}", new.object.name()),
            None => format!("Deployment \"{}\"{after}", self.deployment.name()),
        }
    }
}

fn set(conditions: &mut Vec<Value>, status: &str, reason: &str, message: &str, now: Timestamp) {
    set_updated(conditions, condition::new(PROGRESSING, status, reason, message, now), now);
}

fn set_updated(conditions: &mut Vec<Value>, mut condition: Value, now: Timestamp) {
    condition.set(&["lastUpdateTime"], seconds(now));
    condition::set(conditions, condition);
}

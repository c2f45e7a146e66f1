//! What is known of all other kinds: that nothing acts on them yet, or what their events and conditions say.

use api::value::Value;
use jiff::Timestamp;

use super::Finding;
use super::world::{World, deletion, lasting, message, name_of};

/// The reason of the Event on objects of kinds that are only stored.
const UNSERVED: &str = "NotSupportedYet";
/// Warnings that are told, the newest first; older ones are mostly about what is over.
const WARNINGS: usize = 3;

/// Headline and findings of an object of any kind.
pub fn told(kind: &str, object: &Value, world: &World, now: Timestamp) -> (String, Vec<Finding>) {
    let name = format!("{}/{}", kind.to_lowercase(), name_of(object));
    let mut found: Vec<Finding> = deletion(object, now).into_iter().collect();
    let unserved = world.warning(object, &[UNSERVED]);
    if unserved.is_some() || instead(kind).is_some() {
        let words = unserved.map_or("nothing acts on objects of this kind yet", message);
        found.push(Finding::new(words, instead(kind).unwrap_or_default()));
        return (format!("{name} is stored, and nothing acts on it{}", age(object, now)), found);
    }
    found.extend(conditions(object, now));
    found.extend(held_namespace(kind, object));
    for warning in world.warnings(object).into_iter().take(WARNINGS) {
        let since = lasting(warning, &["firstTimestamp"], now);
        found.push(Finding::new(
            format!("{}{since}: {}", warning.str_at(&["reason"]).unwrap_or("a warning"), message(warning)),
            "",
        ));
    }
    let headline = if found.is_empty() {
        format!("{name} is there{}, and nothing says that anything is wrong with it", age(object, now))
    } else {
        format!("{name} is there, but:")
    };
    (headline, found)
}

fn age(object: &Value, now: Timestamp) -> String {
    lasting(object, &["metadata", "creationTimestamp"], now)
}

/// What does nearly the same and is served, for kinds that are not.
fn instead(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "StatefulSet" => "use a Deployment, with a headless Service for the names of its pods",
        "DaemonSet" => "use a Deployment; there is one node",
        "Job" | "CronJob" => "run the work as a Pod: kubectl run NAME --restart=OnFailure --image=IMAGE",
        "HorizontalPodAutoscaler" => "say how many pods there should be: kubectl scale",
        "Ingress" => "use a Service of type LoadBalancer or NodePort",
        "PersistentVolumeClaim" | "PersistentVolume" => "use a volume of type emptyDir or hostPath",
        _ => return None,
    })
}

/// Finalizers of a namespace itself, which stand elsewhere than those of other objects.
fn held_namespace(kind: &str, object: &Value) -> Option<Finding> {
    object.str_at(&["metadata", "deletionTimestamp"]).filter(|_| kind == "Namespace")?;
    let all = object.array_at(&["spec", "finalizers"]).iter().filter_map(Value::as_str);
    let others: Vec<&str> = all.filter(|finalizer| *finalizer != "kubernetes").collect();
    let name = name_of(object);
    (!others.is_empty()).then(|| {
        Finding::new(
            format!("its deletion waits for its spec.finalizers: {}", others.join(", ")),
            format!(
                "whoever set one must remove it; if that program is gone: kubectl get namespace {name} -o json | sed \
                 '/\"finalizers\"/,/]/d' | kubectl replace --raw /api/v1/namespaces/{name}/finalize -f -"
            ),
        )
    })
}

/// What to do about a condition.
fn condition_advice(kind: &str) -> &'static str {
    match kind {
        "NamespaceFinalizersRemaining" => {
            "remove those finalizers from the objects that have them, if the programs that set them are gone"
        }
        "NamespaceContentRemaining" => "see what is left, and what it waits for: ondol why KIND/NAME",
        _ => "",
    }
}

/// Conditions that tell of trouble: those of a namespace's deletion when they are true, others when they are false.
fn conditions(object: &Value, now: Timestamp) -> Vec<Finding> {
    let bad = |condition: &&Value| {
        let of_deletion = condition.str_at(&["type"]).is_some_and(|kind| kind.starts_with("Namespace"));
        let wrong = if of_deletion { "True" } else { "False" };
        condition.str_at(&["status"]) == Some(wrong)
    };
    let words = |condition: &Value| {
        let since = lasting(condition, &["lastTransitionTime"], now);
        format!("{}{since}: {}", condition.str_at(&["type"]).unwrap_or_default(), message(condition))
    };
    let all = object.array_at(&["status", "conditions"]);
    all.iter()
        .filter(bad)
        .map(|condition| {
            Finding::new(words(condition), condition_advice(condition.str_at(&["type"]).unwrap_or_default()))
        })
        .collect()
}

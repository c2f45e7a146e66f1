//! Why a Deployment or a ReplicaSet is not complete.

use api::value::Value;
use jiff::Timestamp;

use super::Finding;
use super::pod;
use super::world::{World, condition, deletion, lasting, message, name_of};

/// The annotation by which a Deployment counts its revisions.
const REVISION: &str = "deployment.kubernetes.io/revision";

/// Headline and findings of a Deployment.
pub fn deployment(deployment: &Value, world: &World, now: Timestamp) -> (String, Vec<Finding>) {
    let name = name_of(deployment);
    let number = |path: &[&str]| deployment.int_at(path).unwrap_or_default();
    let wanted = deployment.int_at(&["spec", "replicas"]).unwrap_or(1);
    let (updated, available) =
        (number(&["status", "updatedReplicas"]), number(&["status", "availableReplicas"]));
    let total = number(&["status", "replicas"]);
    let mut found: Vec<Finding> = deletion(deployment, now).into_iter().collect();
    if deployment.bool_at(&["spec", "paused"]) == Some(true) {
        let resume = format!("kubectl rollout resume deployment/{name}{}", namespace(deployment));
        found.push(Finding::new("its rollout is paused: changes of the template wait", resume));
    }
    if let Some(failure) =
        condition(deployment, "ReplicaFailure").filter(|c| c.str_at(&["status"]) == Some("True"))
    {
        found.push(refusal(message(failure)));
    }
    let sets = world.owned("ReplicaSet", deployment);
    let newest = sets.iter().copied().max_by_key(|set| revision(set));
    let complete = updated == wanted && available == wanted && total == wanted;
    if complete && found.is_empty() {
        return (
            format!("deployment/{name} is as it should be: {available} of {wanted} pods available"),
            found,
        );
    }
    let since = newest.map(|set| lasting(set, &["metadata", "creationTimestamp"], now)).unwrap_or_default();
    let stuck = condition(deployment, "Progressing").is_some_and(|c| {
        c.str_at(&["status"]) == Some("False") && c.str_at(&["reason"]) == Some("ProgressDeadlineExceeded")
    });
    let mut troubles = newest.map(|set| of_pods(set, world, now)).unwrap_or_default();
    let word = if stuck || !troubles.is_empty() { "stands still" } else { "is rolling out" };
    let headline = if complete {
        format!("deployment/{name} has {available} of {wanted} pods available")
    } else {
        format!(
            "deployment/{name} {word}{since}: {updated} of {wanted} pods are updated, {available} available"
        )
    };
    let has_trouble = !troubles.is_empty();
    found.append(&mut troubles);
    found.extend(former(deployment, &sets, newest, has_trouble || stuck));
    if found.is_empty() && sets.is_empty() && wanted > 0 {
        found.push(Finding::new(
            "no ReplicaSet has been made for it yet",
            "\"ondol logs\" tells what the controllers do",
        ));
    }
    (headline, found)
}

/// What serves meanwhile, and how to go back.
fn former(deployment: &Value, sets: &[&Value], newest: Option<&Value>, stuck: bool) -> Option<Finding> {
    let newest = newest?;
    let ready = |set: &&&Value| set.int_at(&["status", "readyReplicas"]).unwrap_or_default() > 0;
    let is_newest = |set: &Value| name_of(set) == name_of(newest);
    let serving = sets.iter().filter(|set| !is_newest(set)).filter(ready).max_by_key(|set| revision(set));
    let before = sets.iter().filter(|set| !is_newest(set)).max_by_key(|set| revision(set))?;
    if !stuck {
        return None;
    }
    let undo = format!("kubectl rollout undo deployment/{}{}", name_of(deployment), namespace(deployment));
    Some(match serving {
        Some(set) => Finding::new(
            format!(
                "{} pods of revision {} serve on meanwhile",
                set.int_at(&["status", "readyReplicas"]).unwrap_or_default(),
                revision(set)
            ),
            format!("mend the template, or go back: {undo}"),
        ),
        None => Finding::new(
            format!("revision {} ran before it", revision(before)),
            format!("mend the template, or go back: {undo}"),
        ),
    })
}

fn revision(set: &Value) -> i64 {
    let text = set.str_at(&["metadata", "annotations", REVISION]).unwrap_or_default();
    text.parse().unwrap_or_default()
}

/// Headline and findings of a ReplicaSet.
pub fn replica_set(set: &Value, world: &World, now: Timestamp) -> (String, Vec<Finding>) {
    let wanted = set.int_at(&["spec", "replicas"]).unwrap_or(1);
    let ready = set.int_at(&["status", "readyReplicas"]).unwrap_or_default();
    let mut found: Vec<Finding> = deletion(set, now).into_iter().collect();
    found.extend(of_pods(set, world, now));
    (format!("replicaset/{} has {ready} of {wanted} pods ready", name_of(set)), found)
}

/// What is wrong with a set's pods: equal troubles are told once.
fn of_pods(set: &Value, world: &World, now: Timestamp) -> Vec<Finding> {
    let mut told: Vec<(Finding, Vec<&str>)> = Vec::new();
    if let Some(event) = world.warning(set, &["FailedCreate"]) {
        let made = world.owned("Pod", set).len() as i64;
        if made < set.int_at(&["spec", "replicas"]).unwrap_or(1) {
            told.push((refusal(message(event)), Vec::new()));
        }
    }
    for one in world.owned("Pod", set) {
        for finding in pod::findings(one, world, now) {
            let name = name_of(one);
            // Names and times differ from pod to pod; the trouble is the same, or at least what helps is.
            let same = |other: &Finding, names: &[&str]| {
                let both = [(&other.what, &finding.what), (&other.advice, &finding.advice)];
                names
                    .iter()
                    .any(|known| both.iter().any(|(a, b)| !a.is_empty() && shape(a, known) == shape(b, name)))
            };
            match told.iter_mut().find(|(other, names)| same(other, names)) {
                Some((_, names)) if !names.contains(&name) => names.push(name),
                Some(_) => {}
                None => told.push((finding, vec![name])),
            }
        }
    }
    told.into_iter()
        .map(|(finding, names)| match names.as_slice() {
            [] => finding,
            [one] => Finding { what: format!("pod {one}: {}", finding.what), ..finding },
            [one, rest @ ..] => {
                Finding { what: format!("pod {one} and {} more: {}", rest.len(), finding.what), ..finding }
            }
        })
        .collect()
}

/// A sentence without a pod's name and without numbers.
fn shape(text: &str, name: &str) -> String {
    text.replace(name, "").chars().filter(|c| !c.is_ascii_digit()).collect()
}

fn refusal(words: &str) -> Finding {
    let advice = if words.contains("exceeded quota") {
        "raise the ResourceQuota, or ask for less"
    } else if words.contains("serviceaccount") {
        "make the ServiceAccount that the template names"
    } else {
        "mend the template as the message says"
    };
    Finding::new(format!("pods cannot be made: {words}"), advice)
}

fn namespace(object: &Value) -> String {
    match object.str_at(&["metadata", "namespace"]) {
        None | Some("default" | "") => String::new(),
        Some(namespace) => format!(" -n {namespace}"),
    }
}

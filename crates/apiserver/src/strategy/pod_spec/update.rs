//! What may change in a pod: images, the deadline, more tolerations, fewer gates.

use api::status::Cause;
use api::validation::{Path, cause, names};
use api::value::Value;

use super::{scheduling, text};

/// What upstream names as the fields that may change.
const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
     `spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be \
     set to 1 if it was previously negative)";

/// The rules of updates of a pod.
pub(in crate::strategy) fn pod(new: &Value, old: &Value) -> Vec<Cause> {
    let empty = Value::object();
    let (new, old) = (new.get("spec").unwrap_or(&empty), old.get("spec").unwrap_or(&empty));
    let path = Path::root("spec");
    let mut causes = Vec::new();
    for list in ["containers", "initContainers"] {
        if new.array_at(&[list]).len() != old.array_at(&[list]).len() {
            causes.push(cause::forbidden(path.child(list), "pod updates may not add or remove containers"));
            return causes;
        }
    }
    if !deadline(new, old, &path.child("activeDeadlineSeconds"), &mut causes) {
        return causes;
    }
    tolerations(new, old, &path.child("tolerations"), &mut causes);
    gates(new, old, &path.child("schedulingGates"), &mut causes);
    let munged = munge(new, old, &path, &mut causes);
    if munged != *old {
        let changed = changes(&munged, old).join("\n");
        let why = format!("pod updates may not change fields other than {UPDATABLE}\n{changed}");
        causes.push(cause::forbidden(path, &why));
    }
    causes
}

/// A deadline may come nearer; returns whether the rest is to be judged.
fn deadline(new: &Value, old: &Value, path: &Path, causes: &mut Vec<Cause>) -> bool {
    let seconds = |spec: &Value| spec.int_at(&["activeDeadlineSeconds"]);
    match (seconds(new), seconds(old)) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            causes.push(cause::invalid(path, new, &names::inclusive_range(0, i64::from(i32::MAX))));
            false
        }
        (Some(new), Some(old)) if old < new => {
            causes.push(cause::invalid(path, new, "must be less than or equal to previous value"));
            false
        }
        (None, Some(_)) => {
            causes.push(cause::invalid(
                path,
                Value::Null,
                "must not update from a positive integer to nil value",
            ));
            true
        }
        _ => true,
    }
}

fn tolerations(new: &Value, old: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let timeless = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration.remove(&["tolerationSeconds"]);
        toleration
    };
    let kept: Vec<Value> = new.array_at(&["tolerations"]).iter().map(timeless).collect();
    if old.array_at(&["tolerations"]).iter().any(|toleration| !kept.contains(&timeless(toleration))) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        causes.push(cause::forbidden(path, why));
    } else if new.get("tolerations") != old.get("tolerations") {
        scheduling::tolerations(new.array_at(&["tolerations"]), path, causes);
    }
}

fn gates(new: &Value, old: &Value, path: &Path, causes: &mut Vec<Cause>) {
    for (index, gate) in new.array_at(&["schedulingGates"]).iter().enumerate() {
        let name = text(gate, "name");
        if !old.array_at(&["schedulingGates"]).iter().any(|other| text(other, "name") == name) {
            let why = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            causes.push(cause::forbidden(path.index(index).child("name"), &why));
        }
    }
}

/// The new spec with the old one's values wherever a change is allowed, so that a difference is one that is not.
fn munge(new: &Value, old: &Value, path: &Path, causes: &mut Vec<Cause>) -> Value {
    let mut munged = new.clone();
    let put = |spec: &mut Value, field: &str, value: Option<Value>| match value {
        Some(value) => spec.set(&[field], value),
        None => {
            spec.remove(&[field]);
        }
    };
    for list in ["containers", "initContainers"] {
        let before = old.array_at(&[list]);
        let containers = munged.at_mut(&[list]).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, before) in containers.zip(before) {
            put(container, "image", before.get("image").cloned());
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        put(&mut munged, field, old.get(field).cloned());
    }
    let grace = |spec: &Value| spec.int_at(&["terminationGracePeriodSeconds"]);
    if grace(old).is_some_and(|seconds| seconds < 0) && grace(&munged) == Some(1) {
        put(&mut munged, "terminationGracePeriodSeconds", old.get("terminationGracePeriodSeconds").cloned());
    }
    if !old.array_at(&["schedulingGates"]).is_empty() {
        narrowed(&mut munged, old, path, causes);
    }
    munged
}

/// While a pod is gated, its choice of nodes may become narrower.
fn narrowed(munged: &mut Value, old: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let before = old.get("nodeSelector").and_then(Value::as_object);
    let after = munged.get("nodeSelector").and_then(Value::as_object);
    let kept = before
        .into_iter()
        .flat_map(api::value::Map::iter)
        .all(|(key, value)| after.and_then(|after| after.get(key)) == Some(value));
    if !kept {
        let value = munged.get("nodeSelector").cloned().unwrap_or_default();
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        causes.push(cause::invalid(path.child("nodeSelector"), value, why));
    }
    match old.get("nodeSelector") {
        Some(selector) => munged.set(&["nodeSelector"], selector.clone()),
        None => {
            munged.remove(&["nodeSelector"]);
        }
    }
    const AFFINITY: [&str; 2] = ["affinity", "nodeAffinity"];
    let (before, after) = (old.at(&AFFINITY), munged.at(&AFFINITY).cloned());
    if before == after.as_ref() {
        return;
    }
    let path = path.child("affinity").child("nodeAffinity");
    narrowed_affinity(terms(after.as_ref()), terms(before), &path, causes);
    if let Some(before) = before {
        munged.set(&AFFINITY, before.clone());
        return;
    }
    munged.remove(&AFFINITY);
    if old.get("affinity").is_none() && munged.get("affinity").is_some_and(Value::is_empty) {
        munged.remove(&["affinity"]);
    }
}

/// What nodes must be like.
fn terms(affinity: Option<&Value>) -> &[Value] {
    let path = ["requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    affinity.map_or(&[], |affinity| affinity.array_at(&path))
}

/// Where there was no choice of nodes any may be made; each term of one may only ask for more.
fn narrowed_affinity(after: &[Value], before: &[Value], path: &Path, causes: &mut Vec<Cause>) {
    if before.is_empty() {
        return;
    }
    let path = path.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
    if after.len() != before.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        causes.push(cause::invalid(path, after.to_vec(), why));
        return;
    }
    const LISTS: [&str; 2] = ["matchExpressions", "matchFields"];
    for (index, (after, before)) in after.iter().zip(before).enumerate() {
        // A term that asks for nothing selects nothing, so that an addition would widen it.
        let selects_nothing = |term: &Value| LISTS.iter().all(|list| term.array_at(&[list]).is_empty());
        let is_kept = |list: &&str| after.array_at(&[list]).starts_with(before.array_at(&[list]));
        if (selects_nothing(before) && !selects_nothing(after)) || !LISTS.iter().all(is_kept) {
            let why = "only additions are allowed (no mutations or deletions)";
            causes.push(cause::invalid(path.index(index), after.clone(), why));
        }
    }
}

/// The paths that differ, with what was and what is.
fn changes(new: &Value, old: &Value) -> Vec<String> {
    let mut out = Vec::new();
    collect(new, old, &Path::default(), &mut out);
    out
}

fn collect(new: &Value, old: &Value, path: &Path, out: &mut Vec<String>) {
    match (new, old) {
        (Value::Object(after), Value::Object(before)) => {
            let mut keys: Vec<&str> =
                after.keys().chain(before.keys()).map(api::value::Str::as_str).collect();
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                let value = |map: &api::value::Map| map.get(key).cloned().unwrap_or_default();
                collect(&value(after), &value(before), &path.child(key), out);
            }
        }
        (Value::Array(after), Value::Array(before)) if after.len() == before.len() => {
            for (index, (after, before)) in after.iter().zip(before).enumerate() {
                collect(after, before, &path.index(index), out);
            }
        }
        _ if new != old => out.push(format!("-{path}: {old}\n+{path}: {new}")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    fn gated(affinity: Value) -> Value {
        let mut pod = json!({"spec": {"containers": [], "schedulingGates": [{"name": "a.b/c"}]}});
        if !affinity.is_empty() {
            pod.set(&["spec", "affinity"], affinity);
        }
        pod
    }

    fn nodes(values: &[&str]) -> Value {
        let expressions: Vec<Value> =
            values.iter().map(|value| json!({"key": (*value), "operator": "Exists"})).collect();
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": (Value::from(expressions))}]}}})
    }

    #[test]
    fn a_gated_pod_may_choose_fewer_nodes() {
        let (none, one, two) = (gated(Value::object()), gated(nodes(&["a"])), gated(nodes(&["a", "b"])));
        assert_eq!(pod(&one, &none), []);
        assert_eq!(pod(&two, &one), []);
        let place =
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
        let wider = pod(&one, &two);
        assert_eq!(wider.len(), 1);
        assert_eq!(wider[0].field, format!("{place}[0]"));
        assert!(wider[0].message.ends_with("only additions are allowed (no mutations or deletions)"));
        assert_eq!(pod(&none, &one)[0].field, place);
        let mut free = (one.clone(), none);
        for side in [&mut free.0, &mut free.1] {
            side.remove(&["spec", "schedulingGates"]);
        }
        assert!(pod(&free.0, &free.1)[0].message.contains("pod updates may not change fields"));
    }
}

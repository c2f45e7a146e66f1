//! Which attempt of a container is meant. What the sandbox says is newer than any status.

use api::object::Object;
use api::value::Value;
use sandbox::{Attempt, Phase, Sandbox};

use super::PodHandle;

/// Whether the pod's spec names the container.
pub fn is_of(pod: &Object, container: &str) -> bool {
    let tree = pod.to_tree();
    ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .any(|list| tree.array_at(&["spec", list]).iter().any(|one| one.str_at(&["name"]) == Some(container)))
}

/// The container's running attempt, or upstream's words.
pub fn running(pod: &PodHandle, container: &str) -> Result<(Sandbox, Attempt), String> {
    let missing = || format!("container not found ({container:?})");
    let sandbox = pod.sandbox.clone().ok_or_else(missing)?;
    let state = sandbox.state();
    let attempt = latest(&state, container).filter(|(_, phase)| matches!(phase, Phase::Running { .. }));
    let attempt = attempt.filter(|_| !state.lost).map(|(attempt, _)| attempt.clone()).ok_or_else(missing)?;
    Ok((sandbox, attempt))
}

/// The attempt whose log is meant, or why there is none, in upstream's words.
pub fn logged(pod: &PodHandle, container: &str, previous: bool) -> Result<Attempt, String> {
    let name = pod.object.name();
    let state = pod.sandbox.as_ref().map(Sandbox::state);
    let started = state.as_ref().and_then(|state| latest(state, container));
    let started = started.filter(|(_, phase)| matches!(phase, Phase::Running { .. } | Phase::Ended(_)));
    let number = started.map(|(attempt, _)| attempt.number);
    let tree = pod.object.to_tree();
    let number = match (previous, number) {
        (false, Some(number)) => number,
        (false, None) => shown(&tree, name, container)?,
        (true, number) => {
            let before = number.and_then(|number| number.checked_sub(1));
            let told = last_terminated(&tree, container);
            // The status may lag behind the sandbox by one attempt, never run ahead of it.
            before.max(told).ok_or_else(|| {
                format!("previous terminated container {container:?} in pod {name:?} not found")
            })?
        }
    };
    Ok(Attempt::new(container, number))
}

fn latest<'a>(state: &'a sandbox::State, container: &str) -> Option<(&'a Attempt, &'a Phase)> {
    let of_name = state.containers.iter().filter(|(attempt, _)| attempt.name == container);
    of_name.max_by_key(|(attempt, _)| attempt.number).map(|(attempt, state)| (attempt, &state.phase))
}

fn status<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let mut all = lists.iter().flat_map(|list| pod.array_at(&["status", list]));
    all.find(|status| status.str_at(&["name"]) == Some(container))
}

/// The number at the end of `ondol://<uid>/<container>/<number>`.
fn number(id: Option<&str>) -> Option<u32> {
    id?.rsplit('/').next()?.parse().ok()
}

fn last_terminated(pod: &Value, container: &str) -> Option<u32> {
    number(status(pod, container)?.str_at(&["lastState", "terminated", "containerID"]))
}

/// The attempt that a status shows, by kubelet's rules.
fn shown(pod: &Value, name: &str, container: &str) -> Result<u32, String> {
    let of = format!("container {container:?} in pod {name:?}");
    let status = status(pod, container).ok_or_else(|| format!("{of} is not available"))?;
    let last = || number(status.str_at(&["lastState", "terminated", "containerID"]));
    if status.at(&["state", "running"]).is_some() {
        return number(status.str_at(&["containerID"])).ok_or_else(|| format!("{of} is not available"));
    }
    if status.at(&["state", "terminated"]).is_some() {
        let own = number(status.str_at(&["state", "terminated", "containerID"]));
        return own.or_else(last).ok_or_else(|| format!("{of} is terminated"));
    }
    if status.at(&["lastState", "terminated"]).is_some() {
        return last().ok_or_else(|| format!("{of} is terminated"));
    }
    let why = match status.str_at(&["state", "waiting", "reason"]) {
        None => return Err(format!("{of} is waiting to start - no logs yet")),
        Some("ErrImagePull") => "image can't be pulled",
        Some("ImagePullBackOff") => "trying and failing to pull image",
        Some(reason) => reason,
    };
    Err(format!("{of} is waiting to start: {why}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::json;

    use super::*;

    fn check(status: Value, previous: bool, expect: Result<u32, &str>) {
        let tree = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "a"},
            "spec": {"containers": [{"name": "c"}]}, "status": {"containerStatuses": [status]}
        });
        let object = Arc::new(Object::from_tree(&tree).unwrap());
        let pod = PodHandle { object, sandbox: None, logs: "/".into() };
        let found = logged(&pod, "c", previous);
        assert_eq!(found.as_ref().map(|attempt| attempt.number).map_err(String::as_str), expect);
    }

    #[test]
    fn the_attempt_is_the_one_that_the_status_shows() {
        let id = "ondol://u/c/3";
        check(json!({"name": "c", "containerID": id, "state": {"running": {}}}), false, Ok(3));
        check(json!({"name": "c", "state": {"terminated": {"containerID": id}}}), false, Ok(3));
        let last = json!({"terminated": {"containerID": id}});
        let crashing =
            json!({"name": "c", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": last});
        check(crashing.clone(), false, Ok(3));
        check(crashing, true, Ok(3));
        let waiting = |reason: &str| json!({"name": "c", "state": {"waiting": {"reason": reason}}});
        check(
            waiting("ContainerCreating"),
            false,
            Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating"),
        );
        check(
            waiting("ImagePullBackOff"),
            false,
            Err("container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image"),
        );
        check(waiting("x"), true, Err("previous terminated container \"c\" in pod \"p\" not found"));
        check(json!({"name": "other"}), false, Err("container \"c\" in pod \"p\" is not available"));
    }
}

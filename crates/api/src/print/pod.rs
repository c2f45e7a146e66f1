//! Pods, nodes and events.

use jiff::Timestamp;

use crate::value::{Map, Value};

use super::view::{View, ago};

/// What the containers of a pod tell about it.
#[derive(Default)]
struct Summary {
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
    ready: usize,
}

/// A pod: ready containers, a word for its state, restarts; and where it is.
pub(super) fn pod(view: View<'_>) -> Vec<Value> {
    let summary = summary(view);
    let sidecars = view.list(&["spec", "initContainers"]).filter(|container| is_sidecar(*container)).count();
    let total = view.list(&["spec", "containers"]).len() + sidecars;
    let restarts = match summary.last_restart {
        Some(time) if summary.restarts != 0 => format!("{} ({} ago)", summary.restarts, ago(view.now, time)),
        _ => summary.restarts.to_string(),
    };
    let ip = view.list(&["status", "podIPs"]).next().map_or("", |ip| ip.text(&["ip"]));
    let gates = view.list(&["spec", "readinessGates"]);
    let gates = if gates.len() == 0 {
        "<none>".to_owned()
    } else {
        let all = gates.len();
        let open = gates.filter(|gate| view.is_condition(gate.text(&["conditionType"]))).count();
        format!("{open}/{all}")
    };
    vec![
        view.name().into(),
        format!("{}/{total}", summary.ready).into(),
        summary.reason.into(),
        restarts.into(),
        view.age(),
        if ip.is_empty() { "<none>" } else { ip }.into(),
        view.text_or(&["spec", "nodeName"], "<none>").into(),
        view.text_or(&["status", "nominatedNodeName"], "<none>").into(),
        gates.into(),
    ]
}

/// The condition of the row of a pod that is done.
pub(super) fn condition(view: View<'_>) -> Option<Value> {
    let message = match view.text(&["status", "phase"]) {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return None,
    };
    let mut condition = crate::json!({"type": "Completed", "status": "True"});
    condition.set(&["reason"], view.text(&["status", "phase"]));
    condition.set(&["message"], message);
    Some(condition)
}

fn is_sidecar(container: View<'_>) -> bool {
    container.text(&["restartPolicy"]) == "Always"
}

fn summary(view: View<'_>) -> Summary {
    let phase = view.text(&["status", "phase"]);
    let mut reason = view.text_or(&["status", "reason"], phase).to_owned();
    let gated = |condition: &View<'_>| {
        condition.text(&["type"]) == "PodScheduled" && condition.text(&["reason"]) == "SchedulingGated"
    };
    if view.list(&["status", "conditions"]).any(|condition| gated(&condition)) {
        "SchedulingGated".clone_into(&mut reason);
    }
    let mut summary = Summary { reason, ..Summary::default() };
    let (initializing, sidecars) = init_containers(view, &mut summary);
    if !initializing || view.is_condition("Initialized") {
        (summary.restarts, summary.last_restart) = sidecars;
        containers(view, &mut summary);
    }
    if view.is_deleting() && view.text(&["status", "reason"]) == "NodeLost" {
        "Unknown".clone_into(&mut summary.reason);
    } else if view.is_deleting() && !matches!(phase, "Succeeded" | "Failed") {
        "Terminating".clone_into(&mut summary.reason);
    }
    summary
}

fn count_restarts(status: View<'_>, restarts: &mut i64, last: &mut Option<Timestamp>) {
    *restarts += status.int(&["restartCount"]);
    *last = (*last).max(status.time(&["lastState", "terminated", "finishedAt"]));
}

/// Goes through init containers up to the first that is not done. Gives whether there is one, and the restarts of
/// sidecars, which count on when the pod runs.
fn init_containers(view: View<'_>, summary: &mut Summary) -> (bool, (i64, Option<Timestamp>)) {
    let (mut sidecar_restarts, mut sidecar_last) = (0, None);
    let all = view.list(&["spec", "initContainers"]).len();
    for (index, status) in view.list(&["status", "initContainerStatuses"]).enumerate() {
        let name = status.text(&["name"]);
        let sidecar = view
            .list(&["spec", "initContainers"])
            .any(|container| container.text(&["name"]) == name && is_sidecar(container));
        count_restarts(status, &mut summary.restarts, &mut summary.last_restart);
        if sidecar {
            count_restarts(status, &mut sidecar_restarts, &mut sidecar_last);
        }
        let terminated = status.has(&["state", "terminated"]);
        let waiting = status.text(&["state", "waiting", "reason"]);
        if terminated && status.int(&["state", "terminated", "exitCode"]) == 0 {
            continue;
        }
        if sidecar && status.truth(&["started"]) {
            summary.ready += usize::from(status.truth(&["ready"]));
            continue;
        }
        summary.reason = if terminated {
            format!("Init:{}", terminated_reason(status))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{all}")
        };
        return (true, (sidecar_restarts, sidecar_last));
    }
    (false, (sidecar_restarts, sidecar_last))
}

fn terminated_reason(status: View<'_>) -> String {
    let state = |key| status.int(&["state", "terminated", key]);
    match status.text(&["state", "terminated", "reason"]) {
        "" if state("signal") != 0 => format!("Signal:{}", state("signal")),
        "" => format!("ExitCode:{}", state("exitCode")),
        reason => reason.to_owned(),
    }
}

fn containers(view: View<'_>, summary: &mut Summary) {
    let mut has_running = false;
    let mut error = String::new();
    for status in view.list(&["status", "containerStatuses"]).rev() {
        count_restarts(status, &mut summary.restarts, &mut summary.last_restart);
        let waiting = status.text(&["state", "waiting", "reason"]);
        if !waiting.is_empty() {
            waiting.clone_into(&mut summary.reason);
        } else if status.has(&["state", "terminated"]) {
            summary.reason = terminated_reason(status);
            if status.int(&["state", "terminated", "exitCode"]) != 0 {
                error.clone_from(&summary.reason);
            }
        } else if status.truth(&["ready"]) && status.has(&["state", "running"]) {
            has_running = true;
            summary.ready += 1;
        }
    }
    // One container that still runs keeps the pod running.
    if summary.reason == "Completed" {
        if has_running && view.is_condition("Ready") {
            "Running".clone_into(&mut summary.reason);
        } else if !error.is_empty() {
            summary.reason = error;
        } else if has_running {
            "NotReady".clone_into(&mut summary.reason);
        }
    }
}

pub(super) fn pod_template(view: View<'_>) -> Vec<Value> {
    let [names, images] = view.containers(&["template", "spec", "containers"]);
    vec![view.name().into(), names, images, view.labels(&["template", "metadata", "labels"]).into()]
}

/// A node: its readiness, roles, version; and addresses and software.
pub(super) fn node(view: View<'_>) -> Vec<Value> {
    let mut status = vec![match view.condition("Ready") {
        None => "Unknown",
        Some(condition) if condition.text(&["status"]) == "True" => "Ready",
        Some(_) => "NotReady",
    }];
    if view.truth(&["spec", "unschedulable"]) {
        status.push("SchedulingDisabled");
    }
    let roles = roles(view);
    let info = |key| view.text_or(&["status", "nodeInfo", key], "<unknown>");
    let architecture = view.text(&["status", "nodeInfo", "architecture"]);
    let kernel = match architecture {
        "" => info("kernelVersion").to_owned(),
        architecture => format!("{} ({architecture})", info("kernelVersion")),
    };
    let address = |wanted: &str| {
        let mut addresses = view.list(&["status", "addresses"]);
        addresses
            .find(|address| address.text(&["type"]) == wanted)
            .map_or("<none>", |found| found.text(&["address"]))
    };
    vec![
        view.name().into(),
        status.join(",").into(),
        if roles.is_empty() { "<none>".into() } else { roles.join(",").into() },
        view.age(),
        view.text(&["status", "nodeInfo", "kubeletVersion"]).into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        info("osImage").into(),
        kernel.into(),
        info("containerRuntimeVersion").into(),
    ]
}

fn roles(view: View<'_>) -> Vec<&str> {
    let mut roles = Vec::new();
    let labels = view.at(&["metadata", "labels"]).and_then(Value::as_object);
    for (key, value) in labels.into_iter().flat_map(Map::iter) {
        let value = value.as_str().unwrap_or_default();
        match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => roles.push(role),
            _ if key == "kubernetes.io/role" && !value.is_empty() => roles.push(value),
            _ => {}
        }
    }
    roles.sort_unstable();
    roles.dedup();
    roles
}

/// An event, in the words of either group.
pub(super) fn event(view: View<'_>) -> Vec<Value> {
    let either = |core: &[&'static str], new: &[&'static str]| {
        if view.has(core) { view.since(core) } else { view.since(new) }
    };
    let of = |core: &'static str, new: &'static str| if view.has(&[core]) { core } else { new };
    let first_at = of("firstTimestamp", "deprecatedFirstTimestamp");
    let last_at = of("lastTimestamp", "deprecatedLastTimestamp");
    let first = either(&[first_at], &["eventTime"]);
    let mut last = if view.has(&[last_at]) { view.since(&[last_at]) } else { first.clone() };
    let mut count = view.int(&[of("count", "deprecatedCount")]).max(1);
    if view.has(&["series"]) {
        last = view.since(&["series", "lastObservedTime"]);
        count = view.int(&["series", "count"]);
    }
    let about = of("involvedObject", "regarding");
    let kind = view.text(&[about, "kind"]).to_lowercase();
    let target = match view.text(&[about, "name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let source = of("source", "deprecatedSource");
    let component =
        view.text_or(&[source, "component"], view.text(&[of("reportingComponent", "reportingController")]));
    let host = view.text_or(&[source, "host"], view.text(&["reportingInstance"]));
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    vec![
        last.into(),
        view.text(&["type"]).into(),
        view.text(&["reason"]).into(),
        target.into(),
        view.text(&[about, "fieldPath"]).into(),
        source.into(),
        view.text(&[of("message", "note")]).trim().into(),
        first.into(),
        count.into(),
        view.name().into(),
    ]
}

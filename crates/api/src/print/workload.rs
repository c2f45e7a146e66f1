//! What keeps pods running.

use jiff::SignedDuration;

use crate::selector::label::Selector;
use crate::table::KindFacts;
use crate::value::Value;

use super::duration::human;
use super::view::View;

const TEMPLATE_CONTAINERS: &[&str] = &["spec", "template", "spec", "containers"];

fn with_containers(mut cells: Vec<Value>, view: View<'_>, selector: Option<String>) -> Vec<Value> {
    cells.extend(view.containers(TEMPLATE_CONTAINERS));
    cells.extend(selector.map(Value::from));
    cells
}

fn counts(view: View<'_>) -> Vec<Value> {
    vec![
        view.name().into(),
        view.int(&["spec", "replicas"]).into(),
        view.int(&["status", "replicas"]).into(),
        view.int(&["status", "readyReplicas"]).into(),
        view.age(),
    ]
}

pub(super) fn replication_controller(view: View<'_>) -> Vec<Value> {
    with_containers(counts(view), view, Some(view.labels(&["spec", "selector"])))
}

pub(super) fn replica_set(view: View<'_>) -> Vec<Value> {
    with_containers(counts(view), view, Some(view.selector(&["spec", "selector"])))
}

fn ready_of_wanted(view: View<'_>) -> Value {
    format!("{}/{}", view.int(&["status", "readyReplicas"]), view.int(&["spec", "replicas"])).into()
}

pub(super) fn deployment(view: View<'_>) -> Vec<Value> {
    let selector = match Selector::from_object(view.at(&["spec", "selector"])) {
        Ok(selector) => selector.to_string(),
        Err(_) => "<invalid>".to_owned(),
    };
    let cells = vec![
        view.name().into(),
        ready_of_wanted(view),
        view.int(&["status", "updatedReplicas"]).into(),
        view.int(&["status", "availableReplicas"]).into(),
        view.age(),
    ];
    with_containers(cells, view, Some(selector))
}

pub(super) fn stateful_set(view: View<'_>) -> Vec<Value> {
    with_containers(vec![view.name().into(), ready_of_wanted(view), view.age()], view, None)
}

pub(super) fn daemon_set(view: View<'_>) -> Vec<Value> {
    let status = |key| Value::from(view.int(&["status", key]));
    let cells = vec![
        view.name().into(),
        status("desiredNumberScheduled"),
        status("currentNumberScheduled"),
        status("numberReady"),
        status("updatedNumberScheduled"),
        status("numberAvailable"),
        view.labels(&["spec", "template", "spec", "nodeSelector"]).into(),
        view.age(),
    ];
    with_containers(cells, view, Some(view.selector(&["spec", "selector"])))
}

/// The annotation that is a number in upstream's own form of a DaemonSet, of which rows show the metadata.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// Takes out of a row's metadata what upstream does not keep there.
pub(super) fn hide_inner(kind: &KindFacts, partial: &mut Value) {
    if kind.kind != "DaemonSet" {
        return;
    }
    let annotations = ["metadata", "annotations"];
    partial.remove(&[annotations[0], annotations[1], TEMPLATE_GENERATION]);
    if partial.at(&annotations).is_some_and(Value::is_empty) {
        partial.remove(&annotations);
    }
}

pub(super) fn controller_revision(view: View<'_>) -> Vec<Value> {
    let mut owners = view.list(&["metadata", "ownerReferences"]);
    let controller = owners.find(|owner| owner.truth(&["controller"])).map(|owner| {
        let (group, _) = crate::names::split_api_version(owner.text(&["apiVersion"]));
        let kind = owner.text(&["kind"]).to_lowercase();
        let dot = if group.is_empty() { "" } else { "." };
        format!("{kind}{dot}{group}/{}", owner.text(&["name"]))
    });
    vec![
        view.name().into(),
        controller.unwrap_or_else(|| "<none>".to_owned()).into(),
        view.int(&["revision"]).into(),
        view.age(),
    ]
}

pub(super) fn job(view: View<'_>) -> Vec<Value> {
    let succeeded = view.int(&["status", "succeeded"]);
    let parallelism = view.int(&["spec", "parallelism"]);
    let completions = if view.has(&["spec", "completions"]) {
        format!("{succeeded}/{}", view.int(&["spec", "completions"]))
    } else if parallelism > 1 {
        format!("{succeeded}/1 of {parallelism}")
    } else {
        format!("{succeeded}/1")
    };
    let start = view.time(&["status", "startTime"]);
    let end = view.time(&["status", "completionTime"]).unwrap_or(view.now);
    let length = start
        .map(|start| human(SignedDuration::from_nanos_i128(end.as_nanosecond() - start.as_nanosecond())));
    let done = [("Complete", "Complete"), ("Failed", "Failed")];
    let going = ["Suspended", "FailureTarget", "SuccessCriteriaMet"];
    let status = match done.iter().find(|(condition, _)| view.is_condition(condition)) {
        Some((_, word)) => word,
        None if view.is_deleting() => "Terminating",
        None => going.into_iter().find(|condition| view.is_condition(condition)).unwrap_or("Running"),
    };
    let cells = vec![
        view.name().into(),
        status.into(),
        completions.into(),
        length.unwrap_or_default().into(),
        view.age(),
    ];
    with_containers(cells, view, Some(view.selector(&["spec", "selector"])))
}

pub(super) fn cron_job(view: View<'_>) -> Vec<Value> {
    let last = ["status", "lastScheduleTime"];
    let suspended = match view.object.bool_at(&["spec", "suspend"]) {
        None => "<unset>",
        Some(true) => "True",
        Some(false) => "False",
    };
    let mut cells = vec![
        view.name().into(),
        view.text(&["spec", "schedule"]).into(),
        view.text_or(&["spec", "timeZone"], "<none>").into(),
        suspended.into(),
        view.count(&["status", "active"]),
        if view.has(&last) { view.since(&last).into() } else { "<none>".into() },
        view.age(),
    ];
    let template = ["spec", "jobTemplate", "spec", "template", "spec", "containers"];
    cells.extend(view.containers(&template));
    cells.push(view.selector(&["spec", "jobTemplate", "spec", "selector"]).into());
    cells
}

pub(super) fn scale(view: View<'_>) -> Vec<Value> {
    let (wanted, present) = (view.int(&["spec", "replicas"]), view.int(&["status", "replicas"]));
    vec![view.name().into(), wanted.into(), present.into(), view.age()]
}

/// How many metrics of an autoscaler are shown.
const METRICS_SHOWN: usize = 2;

pub(super) fn autoscaler(view: View<'_>) -> Vec<Value> {
    let reference = ["spec", "scaleTargetRef"];
    let target = format!(
        "{}/{}",
        view.text(&[reference[0], reference[1], "kind"]),
        view.text(&[reference[0], reference[1], "name"])
    );
    vec![
        view.name().into(),
        target.into(),
        metrics(view).into(),
        view.scalar_or(&["spec", "minReplicas"], "<unset>").into(),
        view.int(&["spec", "maxReplicas"]).into(),
        view.int(&["status", "currentReplicas"]).into(),
        view.age(),
    ]
}

fn metrics(view: View<'_>) -> String {
    let statuses: Vec<View<'_>> = view.list(&["status", "currentMetrics"]).collect();
    let shown: Vec<String> = view
        .list(&["spec", "metrics"])
        .enumerate()
        .map(|(index, spec)| metric(spec, statuses.get(index).copied()))
        .collect();
    if shown.is_empty() {
        // Version 1 of the API knows only the use of processors.
        return match view.at(&["spec", "targetCPUUtilizationPercentage"]) {
            None => "<none>".to_owned(),
            Some(target) => {
                let current = view.scalar_or(&["status", "currentCPUUtilizationPercentage"], "<unknown>");
                let percent = if current.starts_with('<') { "" } else { "%" };
                format!("cpu: {current}{percent}/{target}%")
            }
        };
    }
    let first = shown.iter().take(METRICS_SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if shown.len() > METRICS_SHOWN {
        format!("{first} + {} more...", shown.len() - METRICS_SHOWN)
    } else {
        first
    }
}

fn metric(spec: View<'_>, status: Option<View<'_>>) -> String {
    let (key, named) = match spec.text(&["type"]) {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".to_owned(),
    };
    let current = |what: &str| {
        status.map_or_else(
            || "<unknown>".to_owned(),
            |status| status.scalar_or(&[key, "current", what], "<unknown>"),
        )
    };
    let target = |what: &str, absent: &str| spec.scalar_or(&[key, "target", what], absent);
    let average = spec.has(&[key, "target", "averageValue"]);
    let name = spec.text(&[key, "name"]);
    match (named, average, key) {
        (true, true, _) => format!("{name}: {}/{}", current("averageValue"), target("averageValue", "")),
        (true, false, _) => {
            let percent = |text: String| if text.starts_with('<') { text } else { format!("{text}%") };
            let (now, wanted) = (current("averageUtilization"), target("averageUtilization", "<auto>"));
            format!("{name}: {}/{}", percent(now), percent(wanted))
        }
        (false, _, "pods") => format!("{}/{}", current("averageValue"), target("averageValue", "")),
        (false, true, _) => format!("{}/{} (avg)", current("averageValue"), target("averageValue", "")),
        (false, false, _) => format!("{}/{}", current("value"), target("value", "")),
    }
}

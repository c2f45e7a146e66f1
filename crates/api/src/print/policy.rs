//! Configuration, rights and rules.

use crate::value::{Map, Value};

use super::view::View;

fn members(view: View<'_>, path: &[&str]) -> i64 {
    let members = view.at(path).and_then(Value::as_object).map_or(0, Map::len);
    i64::try_from(members).unwrap_or(i64::MAX)
}

pub(super) fn config_map(view: View<'_>) -> Vec<Value> {
    vec![view.name().into(), (members(view, &["data"]) + members(view, &["binaryData"])).into(), view.age()]
}

pub(super) fn secret(view: View<'_>) -> Vec<Value> {
    vec![view.name().into(), view.text(&["type"]).into(), members(view, &["data"]).into(), view.age()]
}

pub(super) fn resource_quota(view: View<'_>) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    let hard = view.at(&["status", "hard"]).and_then(Value::as_object);
    for name in hard.into_iter().flat_map(Map::keys) {
        let amount = |key| view.scalar_or(&["status", key, name], "0");
        let cell = format!("{name}: {}/{}", amount("used"), amount("hard"));
        if name.starts_with("limits.") { limits.push(cell) } else { requests.push(cell) }
    }
    vec![view.name().into(), requests.join(", ").into(), limits.join(", ").into(), view.age()]
}

pub(super) fn component_status(view: View<'_>) -> Vec<Value> {
    let healthy = view.list(&["conditions"]).find(|condition| condition.text(&["type"]) == "Healthy");
    let text = |key| healthy.map_or("", |condition| condition.text(&[key]));
    let status = match healthy.map(|condition| condition.text(&["status"])) {
        None => "Unknown",
        Some("True") => "Healthy",
        Some(_) => "Unhealthy",
    };
    vec![view.name().into(), status.into(), text("message").into(), text("error").into()]
}

pub(super) fn disruption_budget(view: View<'_>) -> Vec<Value> {
    vec![
        view.name().into(),
        view.scalar_or(&["spec", "minAvailable"], "N/A").into(),
        view.scalar_or(&["spec", "maxUnavailable"], "N/A").into(),
        view.int(&["status", "disruptionsAllowed"]).into(),
        view.age(),
    ]
}

pub(super) fn priority_class(view: View<'_>) -> Vec<Value> {
    vec![
        view.name().into(),
        view.int(&["value"]).into(),
        view.truth(&["globalDefault"]).into(),
        view.age(),
        view.text(&["preemptionPolicy"]).into(),
    ]
}

pub(super) fn pod_group(view: View<'_>) -> Vec<Value> {
    let gang = view.has(&["spec", "schedulingPolicy", "gang"]);
    let mut status = match view.condition("PodGroupInitiallyScheduled") {
        None => "Pending",
        Some(condition) if condition.text(&["status"]) == "True" => "Scheduled",
        Some(_) => "Unschedulable",
    };
    if let Some(disrupted) = view.condition("DisruptionTarget") {
        status = disrupted.text(&["reason"]);
    }
    vec![
        view.name().into(),
        if gang { "Gang" } else { "Basic" }.into(),
        view.text_or(&["spec", "workloadRef", "workloadName"], "<none>").into(),
        status.into(),
        view.age(),
    ]
}

pub(super) fn role_binding(view: View<'_>) -> Vec<Value> {
    let role = format!("{}/{}", view.text(&["roleRef", "kind"]), view.text(&["roleRef", "name"]));
    let (mut users, mut groups, mut accounts) = (Vec::new(), Vec::new(), Vec::new());
    for subject in view.list(&["subjects"]) {
        let name = subject.text(&["name"]);
        match subject.text(&["kind"]) {
            "User" => users.push(name.to_owned()),
            "Group" => groups.push(name.to_owned()),
            "ServiceAccount" => accounts.push(format!("{}/{name}", subject.text(&["namespace"]))),
            _ => {}
        }
    }
    let mut cells = vec![view.name().into(), role.into(), view.age()];
    cells.extend([users, groups, accounts].map(|names| Value::from(names.join(", "))));
    cells
}

pub(super) fn signing_request(view: View<'_>) -> Vec<Value> {
    let mut state = if view.condition("Denied").is_some() {
        "Denied".to_owned()
    } else if view.condition("Approved").is_some() {
        "Approved".to_owned()
    } else {
        "Pending".to_owned()
    };
    if view.condition("Failed").is_some() {
        state.push_str(",Failed");
    }
    if !view.text(&["status", "certificate"]).is_empty() {
        state.push_str(",Issued");
    }
    let length = view
        .at(&["spec", "expirationSeconds"])
        .and_then(Value::as_int)
        .map(|seconds| super::duration::human(jiff::SignedDuration::from_secs(seconds)));
    vec![
        view.name().into(),
        view.age(),
        view.text_or(&["spec", "signerName"], "<none>").into(),
        view.text(&["spec", "username"]).into(),
        length.unwrap_or_else(|| "<none>".to_owned()).into(),
        state.into(),
    ]
}

pub(super) fn pod_certificate_request(view: View<'_>) -> Vec<Value> {
    let states = ["Issued", "Denied", "Failed"];
    let conditions = view.list(&["status", "conditions"]).map(|condition| condition.text(&["type"]));
    let state = conditions.rev().find(|condition| states.contains(condition)).unwrap_or("Pending");
    let spec = |key| Value::from(view.text(&["spec", key]));
    vec![
        view.name().into(),
        spec("podName"),
        spec("serviceAccountName"),
        spec("nodeName"),
        spec("signerName"),
        state.into(),
        view.labels(&["spec", "unverifiedUserAnnotations"]).into(),
    ]
}

pub(super) fn custom_resource_definition(view: View<'_>) -> Vec<Value> {
    let mut versions: Vec<String> = view
        .list(&["spec", "versions"])
        .filter(|version| version.truth(&["served"]))
        .map(|version| {
            let stored = if version.truth(&["storage"]) { "(storage)" } else { "" };
            format!("{}{stored}", version.text(&["name"]))
        })
        .collect();
    versions.sort();
    vec![
        view.name().into(),
        view.text(&["spec", "scope"]).into(),
        versions.join(",").into(),
        view.text(&["metadata", "creationTimestamp"]).into(),
        view.text(&["spec", "group"]).into(),
        view.text(&["spec", "names", "kind"]).into(),
        view.texts(&["spec", "names", "shortNames"]).join(",").into(),
        view.is_condition("Established").into(),
    ]
}

pub(super) fn api_service(view: View<'_>) -> Vec<Value> {
    let service = |key| view.text(&["spec", "service", key]);
    let backend = match view.has(&["spec", "service"]) {
        true => format!("{}/{}", service("namespace"), service("name")),
        false => "Local".to_owned(),
    };
    let available = match view.condition("Available") {
        None => "Unknown".to_owned(),
        Some(condition) => match (condition.text(&["status"]), condition.text(&["reason"])) {
            ("True", _) => "True".to_owned(),
            (status, "") => status.to_owned(),
            (status, reason) => format!("{status} ({reason})"),
        },
    };
    vec![view.name().into(), backend.into(), available.into(), view.age()]
}

pub(super) fn flow_schema(view: View<'_>) -> Vec<Value> {
    let dangling = view.condition("Dangling").map_or("?", |condition| condition.text(&["status"]));
    vec![
        view.name().into(),
        view.text(&["spec", "priorityLevelConfiguration", "name"]).into(),
        view.int(&["spec", "matchingPrecedence"]).into(),
        view.text_or(&["spec", "distinguisherMethod", "type"], "<none>").into(),
        view.age(),
        dangling.into(),
    ]
}

pub(super) fn priority_level(view: View<'_>) -> Vec<Value> {
    let limited = |path: &[&str]| {
        let whole: Vec<&str> = ["spec", "limited"].iter().chain(path).copied().collect();
        view.at(&whole).cloned()
    };
    let queuing = |key| limited(&["limitResponse", "queuing", key]);
    let mut cells = vec![view.name().into(), view.text(&["spec", "type"]).into()];
    for cell in [
        limited(&["nominalConcurrencyShares"]),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
    ] {
        cells.push(cell.unwrap_or_else(|| "<none>".into()));
    }
    cells.push(view.age());
    cells
}

/// Webhooks and policies of admission.
pub(super) fn admission(kind: &str, view: View<'_>) -> Vec<Value> {
    let name = Value::from(view.name());
    match kind {
        "ValidatingAdmissionPolicy" => {
            vec![name, view.count(&["spec", "validations"]), parameter_kind(view), view.age()]
        }
        "MutatingAdmissionPolicy" => {
            vec![name, view.count(&["spec", "mutations"]), parameter_kind(view), view.age()]
        }
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => {
            vec![name, view.text(&["spec", "policyName"]).into(), parameter_name(view), view.age()]
        }
        _ => vec![name, view.count(&["webhooks"]), view.age()],
    }
}

fn parameter_kind(view: View<'_>) -> Value {
    let part = |key| view.text(&["spec", "paramKind", key]);
    match view.has(&["spec", "paramKind"]) {
        true => format!("{}/{}", part("apiVersion"), part("kind")).into(),
        false => "<unset>".into(),
    }
}

fn parameter_name(view: View<'_>) -> Value {
    let part = |key| view.text(&["spec", "paramRef", key]);
    match (part("namespace"), part("name")) {
        (_, "") if view.has(&["spec", "paramRef", "selector"]) => {
            view.selector(&["spec", "paramRef", "selector"]).into()
        }
        (_, "") => "<unset>".into(),
        ("", name) => format!("*/{name}").into(),
        (namespace, name) => format!("{namespace}/{name}").into(),
    }
}

pub(super) fn resource_claim(view: View<'_>) -> Vec<Value> {
    let mut states = Vec::new();
    if view.is_deleting() {
        states.push("deleted");
    }
    if view.has(&["status", "allocation"]) {
        states.push("allocated");
        if view.list(&["status", "reservedFor"]).len() > 0 {
            states.push("reserved");
        }
    } else if !view.is_deleting() {
        states.push("pending");
    }
    vec![view.name().into(), states.join(",").into(), view.age()]
}

pub(super) fn resource_slice(view: View<'_>) -> Vec<Value> {
    vec![
        view.name().into(),
        view.text(&["spec", "nodeName"]).into(),
        view.text(&["spec", "driver"]).into(),
        view.text(&["spec", "pool", "name"]).into(),
        view.age(),
    ]
}

pub(super) fn device_taint(view: View<'_>) -> Vec<Value> {
    let taint = |key| Value::from(view.text(&["spec", "taint", key]));
    let added = ["spec", "taint", "timeAdded"];
    let since = if view.has(&added) { view.since(&added) } else { String::new() };
    vec![view.name().into(), taint("key"), taint("value"), taint("effect"), since.into(), view.age()]
}

pub(super) fn storage_migration(view: View<'_>) -> Vec<Value> {
    let part = |key| view.text(&["spec", "resource", key]);
    let dot = if part("group").is_empty() { "" } else { "." };
    let states = ["Running", "Failed", "Succeeded"];
    let conditions =
        view.list(&["status", "conditions"]).filter(|condition| condition.text(&["status"]) == "True");
    let state =
        conditions.map(|condition| condition.text(&["type"])).rev().find(|word| states.contains(word));
    vec![
        view.name().into(),
        format!("{}{dot}{}", part("resource"), part("group")).into(),
        state.unwrap_or("Unknown").into(),
    ]
}

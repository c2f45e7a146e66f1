//! Containers, whatever list they are in.

use std::collections::HashSet;

use api::status::Cause;
use api::validation::{Path, cause, names};
use api::value::Value;

use super::{Scope, environment, handlers, resources, security, text, volumes};
use crate::strategy::words;

/// How many rules of restarts a container may have, and how many exit codes each.
const RESTART_RULES: usize = 20;
const EXIT_CODES: usize = 255;

/// The members of a container that watch over it.
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

pub(super) fn all(scope: Scope<'_>, volumes: &HashSet<&str>, path: &Path, causes: &mut Vec<Cause>) {
    let spec = scope.spec;
    let grace = spec.int_at(&["terminationGracePeriodSeconds"]);
    let list = path.child("containers");
    let mut names: HashSet<&str> = HashSet::new();
    for (index, container) in spec.array_at(&["containers"]).iter().enumerate() {
        let path = list.index(index);
        common(container, scope, volumes, &path, causes);
        names.insert(text(container, "name"));
        watched(container, grace, &path, causes);
        restarts(container, false, &path, causes);
    }
    host_port_conflicts(spec.array_at(&["containers"]), &list, causes);
    let list = path.child("initContainers");
    for (index, container) in spec.array_at(&["initContainers"]).iter().enumerate() {
        let path = list.index(index);
        common(container, scope, volumes, &path, causes);
        restarts(container, true, &path, causes);
        let name = text(container, "name");
        if names.contains(name) {
            causes.push(cause::duplicate(path.child("name"), name));
        }
        if text(container, "restartPolicy") == "Always" {
            watched(container, grace, &path, causes);
        } else {
            let why = "may not be set for init containers without restartPolicy=Always";
            let present = |member: &&str| container.get(member).is_some_and(|value| !value.is_null());
            let members = ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"];
            causes.extend(
                members.into_iter().filter(present).map(|member| cause::forbidden(path.child(member), why)),
            );
        }
    }
    if scope.is_pod && !spec.array_at(&["ephemeralContainers"]).is_empty() {
        let why = "cannot be set on create";
        causes.push(cause::forbidden(path.child("ephemeralContainers"), why));
    }
}

fn common(
    container: &Value,
    scope: Scope<'_>,
    volume_names: &HashSet<&str>,
    path: &Path,
    causes: &mut Vec<Cause>,
) {
    let name = text(container, "name");
    if !name.is_empty() {
        causes.extend(names::is_label(name).iter().map(|why| cause::invalid(path.child("name"), name, why)));
    }
    ports(container, &path.child("ports"), causes);
    environment::variables(container, &path.child("env"), causes);
    environment::sources(container, &path.child("envFrom"), causes);
    volumes::mounts(container, volume_names, path, causes);
    resources::all(container.get("resources"), &path.child("resources"), causes);
    resources::resize(container, text(scope.spec, "restartPolicy"), path, causes);
    if let Some(context) = container.get("securityContext").filter(|context| !context.is_null()) {
        security::container(context, scope.spec, &path.child("securityContext"), causes);
    }
}

/// When a container starts again. The table knows the words of the policy itself.
fn restarts(container: &Value, is_init: bool, path: &Path, causes: &mut Vec<Cause>) {
    let rules = container.array_at(&["restartPolicyRules"]);
    if !rules.is_empty() && text(container, "restartPolicy").is_empty() {
        let why = "must specify restartPolicy when restart rules are used";
        causes.push(cause::required(path.child("restartPolicy"), why));
        if is_init {
            return;
        }
    }
    let list = path.child("restartPolicyRules");
    if rules.len() > RESTART_RULES {
        causes.push(cause::too_many(&list, rules.len(), RESTART_RULES));
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = list.index(index);
        let known = ["Restart", "RestartAllContainers"];
        if !known.contains(&text(rule, "action")) {
            causes.push(cause::not_supported(path.child("action"), text(rule, "action"), &known));
        }
        let path = path.child("exitCodes");
        let Some(codes) = rule.get("exitCodes").filter(|codes| !codes.is_null()) else {
            causes.push(cause::required(path, "must be specified"));
            continue;
        };
        let (operator, known) = (text(codes, "operator"), ["In", "NotIn"]);
        if !known.contains(&operator) {
            causes.push(cause::not_supported(path.child("operator"), operator, &known));
        }
        let values = codes.array_at(&["values"]).len();
        if values > EXIT_CODES {
            causes.push(cause::too_many(path.child("values"), values, EXIT_CODES));
        }
    }
}

/// Hooks and probes.
fn watched(container: &Value, grace: Option<i64>, path: &Path, causes: &mut Vec<Cause>) {
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = container.at(&["lifecycle", hook]).filter(|handler| !handler.is_null()) {
            handlers::handler(handler, grace, &path.child("lifecycle").child(hook), causes);
        }
    }
    for probe in PROBES {
        if let Some(value) = container.get(probe).filter(|value| !value.is_null()) {
            handlers::probe(value, grace, probe, &path.child(probe), causes);
        }
    }
}

fn ports(container: &Value, path: &Path, causes: &mut Vec<Cause>) {
    for (index, port) in container.array_at(&["ports"]).iter().enumerate() {
        let path = path.index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            let wrong = names::is_port_name(name);
            causes.extend(wrong.iter().map(|why| cause::invalid(path.child("name"), name, why)));
        }
        for field in ["containerPort", "hostPort"] {
            let number = port.int_at(&[field]).unwrap_or_default();
            if number != 0 {
                words::port_number(number, &path.child(field), causes);
            }
        }
    }
}

/// A port of the node serves one container of a pod.
fn host_port_conflicts(containers: &[Value], path: &Path, causes: &mut Vec<Cause>) {
    let mut taken = HashSet::new();
    for (index, container) in containers.iter().enumerate() {
        for (at, port) in container.array_at(&["ports"]).iter().enumerate() {
            let number = port.int_at(&["hostPort"]).unwrap_or_default();
            if number == 0 {
                continue;
            }
            let key = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
            if !taken.insert(key.clone()) {
                let path = path.index(index).child("ports").index(at).child("hostPort");
                causes.push(cause::duplicate(path, key));
            }
        }
    }
}

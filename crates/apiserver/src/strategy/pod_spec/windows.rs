//! What pods for Windows say, and what pods for one system may not say of the other. No node here runs Windows, but
//! what is written down for one elsewhere is judged as upstream judges it.

use api::status::Cause;
use api::validation::{Path, cause, names};
use api::value::Value;

use super::text;

/// What a pod for Windows may not have in its security context.
const POD_CONTEXT: [&str; 11] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
/// What its containers may not have in theirs.
const CONTAINER_CONTEXT: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

fn present(value: &Value, key: &str) -> bool {
    value.get(key).is_some_and(|value| !value.is_null())
}

/// The options of a security context.
pub(super) fn options(context: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let Some(options) = context.get("windowsOptions") else { return };
    let path = path.child("windowsOptions");
    if let Some(name) = options.str_at(&["gmsaCredentialSpecName"]) {
        let path = path.child("gmsaCredentialSpecName");
        causes.extend(names::is_subdomain(name).iter().map(|why| cause::invalid(&path, name, why)));
    }
    for field in ["gmsaCredentialSpec", "runAsUserName"] {
        if options.str_at(&[field]) == Some("") {
            causes.push(cause::invalid(path.child(field), "", &format!("{field} cannot be an empty string")));
        }
    }
}

/// Containers that are processes of the host: all of a pod or none, and in the host's network.
pub(super) fn host_process(spec: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let says = |owner: &Value| owner.bool_at(&["securityContext", "windowsOptions", "hostProcess"]);
    let of_pod = says(spec);
    let all = super::every_container(spec, path);
    let mut count = 0;
    for (container, path) in &all {
        let own = says(container);
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let why = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            let path = path.child("securityContext").child("windowsOptions").child("hostProcess");
            causes.push(cause::invalid(path, own, &why));
        }
        count += usize::from(own.or(of_pod) == Some(true));
    }
    if count == 0 {
        return;
    }
    if count != all.len() {
        let why =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        causes.push(cause::invalid(path, "", why));
    }
    if spec.bool_at(&["hostNetwork"]) != Some(true) {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        causes.push(cause::invalid(path.child("hostNetwork"), false, why));
    }
}

/// What may not stand in a pod that says for which system it is.
pub(super) fn of_system(spec: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let empty = Value::object();
    let context = |owner: &'_ Value| owner.get("securityContext").cloned().unwrap_or_else(|| empty.clone());
    let (pod_fields, container_fields, why): (&[&str], &[&str], &str) =
        match spec.get("os").map(|system| text(system, "name")) {
            Some("linux") => {
                (&["windowsOptions"], &["windowsOptions"], "windows options cannot be set for a linux pod")
            }
            Some("windows") => (&POD_CONTEXT, &CONTAINER_CONTEXT, "cannot be set for a windows pod"),
            _ => return,
        };
    let mut forbid = |owner: &Value, fields: &[&str], path: &Path| {
        for field in fields.iter().filter(|field| present(owner, field)) {
            causes.push(cause::forbidden(path.child(field), why));
        }
    };
    forbid(&context(spec), pod_fields, &path.child("securityContext"));
    if pod_fields.len() > 1 {
        forbid(spec, &["hostUsers"], path);
        for field in ["hostPID", "hostIPC"] {
            if spec.bool_at(&[field]) == Some(true) {
                forbid(spec, &[field], path);
            }
        }
        forbid(spec, &["shareProcessNamespace"], path);
    }
    for (container, path) in super::every_container(spec, path) {
        forbid(&context(container), container_fields, &path.child("securityContext"));
    }
}

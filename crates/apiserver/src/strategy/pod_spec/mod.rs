//! What a PodSpec must be, alone or in a template. The table checked required members, enums and names that are
//! there twice already; here are the rules that upstream has in code.

mod containers;
mod environment;
mod handlers;
mod projected;
mod resources;
pub(super) mod scheduling;
mod security;
#[cfg(test)]
mod tests;
pub(super) mod update;
mod volumes;
pub(super) mod warnings;
mod windows;

use std::collections::HashSet;

use api::status::Cause;
use api::validation::{Path, address, cause, metadata, names, selectors};
use api::value::Value;

use super::words;

/// How many name servers and search domains a pod may have, and how long the list of domains may be.
const NAMESERVERS: usize = 3;
const SEARCHES: usize = 32;
const SEARCHES_BYTES: usize = 2048;
/// The longest host name that the kernel takes.
const HOSTNAME_BYTES: usize = 64;

/// What all rules need to know of the spec that they look into.
#[derive(Clone, Copy)]
struct Scope<'a> {
    spec: &'a Value,
    /// Whether this is a pod itself and no template.
    is_pod: bool,
}

/// The rules of a pod. `is_new` is false where only a subresource is changed, whose other parts were judged before.
pub(super) fn pod(pod: &Value, is_whole: bool) -> Vec<Cause> {
    let empty = Value::object();
    let spec = pod.get("spec").unwrap_or(&empty);
    let path = Path::root("spec");
    let mut causes = Vec::new();
    if !is_whole {
        return causes;
    }
    all(Scope { spec, is_pod: true }, &path, &mut causes);
    if text(spec, "serviceAccountName").is_empty() {
        for (index, volume) in spec.array_at(&["volumes"]).iter().enumerate() {
            for (at, source) in volume.array_at(&["projected", "sources"]).iter().enumerate() {
                if source.get("serviceAccountToken").is_some() {
                    let path =
                        path.child("volumes").index(index).child("projected").child("sources").index(at);
                    let why = "must not be specified when serviceAccountName is not set";
                    causes.push(cause::forbidden(path.child("serviceAccountToken"), why));
                }
            }
        }
    }
    if let Some(seconds) = spec.int_at(&["terminationGracePeriodSeconds"]) {
        words::non_negative(seconds, &path.child("terminationGracePeriodSeconds"), &mut causes);
    }
    for list in ["containers", "initContainers"] {
        for (index, container) in spec.array_at(&[list]).iter().enumerate() {
            let image = text(container, "image");
            if image.trim() != image {
                let path = path.child(list).index(index).child("image");
                causes.push(cause::invalid(path, image, "must not have leading or trailing whitespace"));
            }
        }
    }
    causes
}

/// The rules of a template of pods.
pub(super) fn template(template: &Value, path: &Path) -> Vec<Cause> {
    let mut causes = Vec::new();
    if let Some(labels) = template.at(&["metadata", "labels"]).and_then(Value::as_object) {
        causes.extend(selectors::labels(labels, &path.child("labels")));
    }
    if let Some(annotations) = template.at(&["metadata", "annotations"]).and_then(Value::as_object) {
        causes.extend(metadata::annotations(annotations, &path.child("annotations")));
    }
    let empty = Value::object();
    let spec = template.get("spec").unwrap_or(&empty);
    let path = path.child("spec");
    all(Scope { spec, is_pod: false }, &path, &mut causes);
    if !spec.array_at(&["ephemeralContainers"]).is_empty() {
        let why = "ephemeral containers not allowed in pod template";
        causes.push(cause::forbidden(path.child("ephemeralContainers"), why));
    }
    causes
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.str_at(&[key]).unwrap_or_default()
}

/// Upstream's order: volumes, containers, then the rest.
fn all(scope: Scope<'_>, path: &Path, causes: &mut Vec<Cause>) {
    let spec = scope.spec;
    let volumes = volumes::all(spec, &path.child("volumes"), causes);
    claims(spec, &path.child("resourceClaims"), causes);
    containers::all(scope, &volumes, path, causes);
    resources::pod(spec, &path.child("resources"), causes);
    host_network(scope, &path.child("containers"), causes);
    words::one_of(
        text(spec, "restartPolicy"),
        &["Always", "OnFailure", "Never"],
        &path.child("restartPolicy"),
        causes,
    );
    if let Some(labels) = spec.get("nodeSelector").and_then(Value::as_object) {
        causes.extend(selectors::labels(labels, &path.child("nodeSelector")));
    }
    security::pod(spec, &path.child("securityContext"), causes);
    if spec.bool_at(&["shareProcessNamespace"]) == Some(true) && spec.bool_at(&["hostPID"]) == Some(true) {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        causes.push(cause::invalid(path.child("shareProcessNamespace"), true, why));
    }
    scheduling::affinity(spec, &path.child("affinity"), causes);
    dns(spec, &path.child("dnsConfig"), causes);
    gates(spec, path, causes);
    scheduling::spread(spec, &path.child("topologySpreadConstraints"), causes);
    windows::host_process(spec, path, causes);
    own_users(spec, path, causes);
    hostname_override(spec, path, causes);
    identity(spec, path, causes);
    scheduling::tolerations(spec.array_at(&["tolerations"]), &path.child("tolerations"), causes);
    host_aliases(spec, &path.child("hostAliases"), causes);
    subdomain(spec, "priorityClassName", path, causes);
    if let Some(class) = spec.str_at(&["runtimeClassName"]) {
        let path = path.child("runtimeClassName");
        causes.extend(names::is_subdomain(class).iter().map(|why| cause::invalid(&path, class, why)));
    }
    resources::overhead(spec.get("overhead"), &path.child("overhead"), causes);
    if let Some(system) = spec.get("os").filter(|system| !system.is_null()) {
        words::one_of(text(system, "name"), &["linux", "windows"], &path.child("os"), causes);
        windows::of_system(spec, path, causes);
    }
    environment::file_volumes(spec, path, causes);
}

/// All containers in the order in which upstream visits them.
fn every_container<'a>(spec: &'a Value, path: &Path) -> Vec<(&'a Value, Path)> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let of = |list: &'static str| {
        let path = path.child(list);
        spec.array_at(&[list]).iter().enumerate().map(move |(index, each)| (each, path.index(index)))
    };
    lists.into_iter().flat_map(of).collect()
}

/// A pod with users of its own shares no other namespace with the node.
fn own_users(spec: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let why = "when `hostUsers` is false";
    if spec.bool_at(&["hostUsers"]) != Some(false) {
        return;
    }
    // The names as upstream writes them.
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.bool_at(&[field]) == Some(true) {
            causes.push(cause::forbidden(path.child(shown), why));
        }
    }
    for (container, path) in every_container(spec, path) {
        if !container.array_at(&["volumeDevices"]).is_empty() {
            causes.push(cause::forbidden(path.child("volumeDevices"), why));
        }
    }
}

/// Each claim has a name of its own, and one of the two ways to say what is claimed.
fn claims(spec: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for (index, claim) in spec.array_at(&["resourceClaims"]).iter().enumerate() {
        let path = path.index(index);
        let name = text(claim, "name");
        if !name.is_empty() && seen.insert(name) {
            let wrong = names::is_label(name);
            causes.extend(wrong.iter().map(|why| cause::invalid(path.child("name"), name, why)));
        }
        let ways = ["resourceClaimName", "resourceClaimTemplateName"];
        let given: Vec<&str> = ways.into_iter().filter(|way| claim.str_at(&[way]).is_some()).collect();
        if given.len() != 1 {
            let members = [
                ("Name", claim.get("name")),
                ("ResourceClaimName", claim.get(ways[0])),
                ("ResourceClaimTemplateName", claim.get(ways[1])),
            ];
            let why = if given.is_empty() {
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
            } else {
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            };
            causes.push(words::shown("FieldValueInvalid", &path, "Invalid value", &members, why));
        }
        for way in given {
            let (name, path) = (text(claim, way), path.child(way));
            causes.extend(names::is_subdomain(name).iter().map(|why| cause::invalid(&path, name, why)));
        }
    }
}

fn host_network(scope: Scope<'_>, path: &Path, causes: &mut Vec<Cause>) {
    if scope.spec.bool_at(&["hostNetwork"]) != Some(true) {
        return;
    }
    for (index, container) in scope.spec.array_at(&["containers"]).iter().enumerate() {
        for (at, port) in container.array_at(&["ports"]).iter().enumerate() {
            let number = |key: &str| port.int_at(&[key]).unwrap_or_default();
            let (host, own) = (number("hostPort"), number("containerPort"));
            if (scope.is_pod || host != 0) && host != own {
                let path = path.index(index).child("ports").index(at).child("hostPort");
                causes.push(cause::invalid(
                    path,
                    host,
                    "must match `containerPort` when `hostNetwork` is true",
                ));
            }
        }
    }
}

fn subdomain(spec: &Value, field: &str, path: &Path, causes: &mut Vec<Cause>) {
    let name = text(spec, field);
    if !name.is_empty() {
        causes
            .extend(names::is_subdomain(name).iter().map(|why| cause::invalid(path.child(field), name, why)));
    }
}

/// Account, node, deadline, host name.
fn identity(spec: &Value, path: &Path, causes: &mut Vec<Cause>) {
    subdomain(spec, "serviceAccountName", path, causes);
    let (account, old) = (text(spec, "serviceAccountName"), text(spec, "serviceAccount"));
    if account != old {
        let why = format!("must be the same as serviceAccountName: {}", cause::quoted(account));
        causes.push(cause::invalid(path.child("deprecatedServiceAccount"), old, &why));
    }
    subdomain(spec, "nodeName", path, causes);
    if let Some(seconds) = spec.int_at(&["activeDeadlineSeconds"]) {
        let most = i64::from(i32::MAX);
        if !(1..=most).contains(&seconds) {
            let why = names::inclusive_range(1, most);
            causes.push(cause::invalid(path.child("activeDeadlineSeconds"), seconds, &why));
        }
    }
    for field in ["hostname", "subdomain"] {
        let name = text(spec, field);
        if !name.is_empty() {
            causes
                .extend(names::is_label(name).iter().map(|why| cause::invalid(path.child(field), name, why)));
        }
    }
}

fn hostname_override(spec: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let Some(name) = spec.str_at(&["hostnameOverride"]) else { return };
    let path = path.child("hostnameOverride");
    if spec.bool_at(&["setHostnameAsFQDN"]) == Some(true) {
        causes.push(cause::forbidden(&path, "may not be specified when setHostnameAsFQDN is true"));
    }
    if spec.bool_at(&["hostNetwork"]) == Some(true) {
        causes.push(cause::forbidden(&path, "may not be specified when hostNetwork is true"));
    }
    if name.len() > HOSTNAME_BYTES {
        causes.push(cause::too_long(&path, HOSTNAME_BYTES));
    }
    causes.extend(names::is_subdomain(name).iter().map(|why| cause::invalid(&path, name, why)));
}

fn gates(spec: &Value, path: &Path, causes: &mut Vec<Cause>) {
    for (index, gate) in spec.array_at(&["readinessGates"]).iter().enumerate() {
        let (kind, path) = (text(gate, "conditionType"), path.child("readinessGates").index(index));
        let path = path.child("conditionType");
        causes.extend(names::is_label_key(kind).iter().map(|why| cause::invalid(&path, kind, why)));
    }
    let gates = spec.array_at(&["schedulingGates"]);
    let mut seen = HashSet::new();
    for (index, gate) in gates.iter().enumerate() {
        let (name, path) = (text(gate, "name"), path.child("schedulingGates").index(index));
        causes.extend(names::is_label_key(name).iter().map(|why| cause::invalid(&path, name, why)));
        if !seen.insert(name) {
            causes.push(cause::duplicate(path, name));
        }
    }
}

fn host_aliases(spec: &Value, path: &Path, causes: &mut Vec<Cause>) {
    for (index, alias) in spec.array_at(&["hostAliases"]).iter().enumerate() {
        let path = path.index(index);
        causes.extend(address::ip_for_legacy_field(path.child("ip"), text(alias, "ip")));
        for (at, host) in alias.array_at(&["hostnames"]).iter().filter_map(Value::as_str).enumerate() {
            let path = path.child("hostnames").index(at);
            causes.extend(names::is_subdomain(host).iter().map(|why| cause::invalid(&path, host, why)));
        }
    }
}

fn dns(spec: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let config = spec.get("dnsConfig").filter(|config| !config.is_null());
    let servers = config.map(|config| config.array_at(&["nameservers"])).unwrap_or_default();
    if text(spec, "dnsPolicy") == "None" {
        if config.is_none() {
            causes.push(cause::required(path, "must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if servers.is_empty() {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            causes.push(cause::required(path.child("nameservers"), why));
            return;
        }
    }
    let Some(config) = config else { return };
    if servers.len() > NAMESERVERS {
        let why = format!("must not have more than {NAMESERVERS} nameservers");
        causes.push(cause::invalid(path.child("nameservers"), servers.to_vec(), &why));
    }
    for (index, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        causes.extend(address::ip_for_legacy_field(path.child("nameservers").index(index), server));
    }
    let searches = config.array_at(&["searches"]);
    if searches.len() > SEARCHES {
        let why = format!("must not have more than {SEARCHES} search paths");
        causes.push(cause::invalid(path.child("searches"), searches.to_vec(), &why));
    }
    let bytes: usize = searches.iter().filter_map(Value::as_str).map(|search| search.len() + 1).sum();
    if bytes > SEARCHES_BYTES + 1 {
        let why = format!(
            "must not have more than {SEARCHES_BYTES} characters (including spaces) in the search list"
        );
        causes.push(cause::invalid(path.child("searches"), searches.to_vec(), &why));
    }
    for (index, search) in
        searches.iter().filter_map(Value::as_str).enumerate().filter(|(_, text)| *text != ".")
    {
        let search = search.strip_suffix('.').unwrap_or(search);
        // Some resolvers' domains begin parts with an underscore.
        let plain = search.replace('_', "a");
        let path = path.child("searches").index(index);
        causes.extend(names::is_subdomain(&plain).iter().map(|why| cause::invalid(&path, search, why)));
    }
    for (index, option) in config.array_at(&["options"]).iter().enumerate() {
        if text(option, "name").is_empty() {
            causes.push(cause::required(path.child("options").index(index), "must not be empty"));
        }
    }
}

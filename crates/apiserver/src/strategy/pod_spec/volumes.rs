//! Volumes and where they are mounted.

use std::collections::HashSet;

use api::status::Cause;
use api::validation::{Path, cause, names};
use api::value::Value;

use super::{environment, projected, text};

/// The modes that a file may have.
const MODES: std::ops::RangeInclusive<i64> = 0..=0o777;
const WRONG_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
/// How long a token of a volume may live, in seconds.
const TOKEN_SECONDS: std::ops::RangeInclusive<i64> = 600..=(1 << 32);

/// Judges all volumes. Returns the names of those with which nothing is wrong: for upstream no others are there.
pub(super) fn all<'a>(spec: &'a Value, path: &Path, causes: &mut Vec<Cause>) -> HashSet<&'a str> {
    let mut sound = HashSet::new();
    for (index, volume) in spec.array_at(&["volumes"]).iter().enumerate() {
        let path = path.index(index);
        let before = causes.len();
        source(volume, &path, causes);
        let name = text(volume, "name");
        if !name.is_empty() {
            causes.extend(
                names::is_label(name).iter().map(|why| cause::invalid(path.child("name"), name, why)),
            );
        }
        if causes.len() == before {
            sound.insert(name);
        }
    }
    sound
}

fn source(volume: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let kinds: Vec<&str> = volume
        .as_object()
        .into_iter()
        .flat_map(api::value::Map::iter)
        .filter(|(key, value)| key.as_str() != "name" && !value.is_null())
        .map(|(key, _)| key.as_str())
        .collect();
    if kinds.is_empty() {
        causes.push(cause::required(path, "must specify a volume type"));
        return;
    }
    // An empty folder counts first, as upstream does.
    let first = if kinds.contains(&"emptyDir") { "emptyDir" } else { kinds[0] };
    for kind in kinds.iter().filter(|kind| **kind != first) {
        causes.push(cause::forbidden(path.child(kind), "may not specify more than 1 volume type"));
    }
    let (Some(source), path) = (volume.get(first), path.child(first)) else { return };
    match first {
        "emptyDir" => {
            let negative = text(source, "sizeLimit").starts_with('-');
            if negative {
                causes.push(cause::forbidden(
                    path.child("sizeLimit"),
                    "SizeLimit field must be a valid resource quantity",
                ));
            }
        }
        "hostPath" => no_way_back(text(source, "path"), &path.child("path"), causes),
        "secret" => {
            mode(source, "defaultMode", &path, causes);
            items(source, &path, causes);
        }
        "configMap" => {
            named(source, &path, causes);
            mode(source, "defaultMode", &path, causes);
            items(source, &path, causes);
        }
        "downwardAPI" => {
            mode(source, "defaultMode", &path, causes);
            for file in source.array_at(&["items"]) {
                downward_file(file, &path, causes);
            }
        }
        "gitRepo" => descending(text(source, "directory"), &path.child("directory"), causes),
        "projected" => all_sources(source, &path, causes),
        _ => {}
    }
}

fn named(source: &Value, path: &Path, causes: &mut Vec<Cause>) {
    if text(source, "name").is_empty() {
        causes.push(cause::required(path.child("name"), ""));
    }
}

fn mode(source: &Value, field: &str, path: &Path, causes: &mut Vec<Cause>) {
    if let Some(mode) = source.int_at(&[field]).filter(|mode| !MODES.contains(mode)) {
        causes.push(cause::invalid(path.child(field), mode, WRONG_MODE));
    }
}

fn items(source: &Value, path: &Path, causes: &mut Vec<Cause>) {
    for (index, item) in source.array_at(&["items"]).iter().enumerate() {
        let path = path.child("items").index(index);
        not_reserved(text(item, "path"), &path.child("path"), causes);
        mode(item, "mode", &path, causes);
    }
}

fn downward_file(file: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let place = text(file, "path");
    if place.is_empty() {
        causes.push(cause::required(path.child("path"), ""));
    }
    not_reserved(place, &path.child("path"), causes);
    let present = |key: &str| file.get(key).filter(|value| !value.is_null());
    match (present("fieldRef"), present("resourceFieldRef")) {
        (Some(field), resource) => {
            environment::field_reference(field, &environment::FILE_FIELDS, &path.child("fieldRef"), causes);
            if resource.is_some() {
                let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
                causes.push(cause::invalid(path, "resource", why));
            }
        }
        (None, Some(resource)) => {
            environment::resource_reference(resource, true, &path.child("resourceFieldRef"), causes);
        }
        (None, None) => {
            causes.push(cause::required(path, "one of fieldRef and resourceFieldRef is required"));
        }
    }
    mode(file, "mode", path, causes);
}

fn all_sources(volume: &Value, path: &Path, causes: &mut Vec<Cause>) {
    mode(volume, "defaultMode", path, causes);
    let mut taken = HashSet::new();
    for (index, source) in volume.array_at(&["sources"]).iter().enumerate() {
        let place = path.child("sources").index(index);
        let mut count = 0;
        for kind in ["secret", "configMap", "downwardAPI"] {
            let Some(part) = source.get(kind).filter(|part| !part.is_null()) else { continue };
            let place = place.child(kind);
            count += 1;
            if kind == "downwardAPI" {
                part.array_at(&["items"]).iter().for_each(|file| downward_file(file, &place, causes));
            } else {
                named(part, &place, causes);
                items(part, &place, causes);
            }
            for item in part.array_at(&["items"]) {
                let file = text(item, "path");
                if !file.is_empty() && !taken.insert(file) {
                    let shown = if kind == "downwardAPI" { file } else { text(part, "name") };
                    causes.push(cause::invalid(path, shown, "conflicting duplicate paths"));
                }
            }
        }
        if let Some(token) = source.get("serviceAccountToken").filter(|token| !token.is_null()) {
            count += 1;
            token_projection(token, &place.child("serviceAccountToken"), path, causes);
        }
        if let Some(bundle) = source.get("clusterTrustBundle").filter(|part| !part.is_null()) {
            count += 1;
            let place = place.child("clusterTrustBundle");
            projected::trust_bundle(bundle, &place, path, &mut taken, causes);
        }
        if let Some(certificate) = source.get("podCertificate").filter(|part| !part.is_null()) {
            count += 1;
            let place = place.child("podCertificate");
            projected::certificate(certificate, &place, path, &mut taken, causes);
        }
        if count > 1 {
            causes.push(cause::forbidden(place, "may not specify more than 1 volume type per source"));
        }
    }
}

fn token_projection(token: &Value, place: &Path, volume: &Path, causes: &mut Vec<Cause>) {
    let seconds = token.int_at(&["expirationSeconds"]).unwrap_or_default();
    let path = place.child("expirationSeconds");
    if seconds < *TOKEN_SECONDS.start() {
        causes.push(cause::invalid(path, seconds, "may not specify a duration less than 10 minutes"));
    } else if seconds > *TOKEN_SECONDS.end() {
        causes.push(cause::invalid(path, seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    let file = text(token, "path");
    if file.is_empty() {
        causes.push(cause::required(volume.child("path"), ""));
    } else {
        not_reserved(file, &volume.child("path"), causes);
    }
}

/// A path inside the volume.
pub(super) fn descending(target: &str, path: &Path, causes: &mut Vec<Cause>) {
    if target.starts_with('/') {
        causes.push(cause::invalid(path, target, "must be a relative path"));
    }
    no_way_back(target, path, causes);
}

pub(super) fn no_way_back(target: &str, path: &Path, causes: &mut Vec<Cause>) {
    if target.split('/').any(|part| part == "..") {
        causes.push(cause::invalid(path, target, "must not contain '..'"));
    }
}

/// Names that begin with two dots are those of the node's own links.
pub(super) fn not_reserved(target: &str, path: &Path, causes: &mut Vec<Cause>) {
    descending(target, path, causes);
    if target.starts_with("..") && !target.starts_with("../") && target != ".." {
        causes.push(cause::invalid(path, target, "must not start with '..'"));
    }
}

/// The mounts of a container; `volumes` are the names of the pod's volumes.
pub(super) fn mounts(container: &Value, volumes: &HashSet<&str>, path: &Path, causes: &mut Vec<Cause>) {
    let list = path.child("volumeMounts");
    let devices = container.array_at(&["volumeDevices"]);
    let device_names: HashSet<&str> = devices.iter().map(|device| text(device, "name")).collect();
    let device_paths: HashSet<&str> = devices.iter().map(|device| text(device, "devicePath")).collect();
    let mut places = HashSet::new();
    for (index, mount) in container.array_at(&["volumeMounts"]).iter().enumerate() {
        let path = list.index(index);
        let (name, place) = (text(mount, "name"), text(mount, "mountPath"));
        if !volumes.contains(name) {
            causes.push(cause::not_found(path.child("name"), name));
        }
        if !places.insert(place) {
            causes.push(cause::invalid(path.child("mountPath"), place, "must be unique"));
        }
        if device_names.contains(name) {
            causes.push(cause::invalid(path.child("name"), name, "must not already exist in volumeDevices"));
        }
        if device_paths.contains(place) {
            let why = "must not already exist as a path in volumeDevices";
            causes.push(cause::invalid(path.child("mountPath"), place, why));
        }
        let (sub, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        if !sub.is_empty() {
            descending(sub, &list.child("subPath"), causes);
        }
        if !expression.is_empty() {
            if !sub.is_empty() {
                let why = "subPathExpr and subPath are mutually exclusive";
                causes.push(cause::invalid(path.child("subPathExpr"), expression, why));
            }
            descending(expression, &list.child("subPathExpr"), causes);
        }
        propagation(mount, container, &list.child("mountPropagation"), causes);
        read_only(mount, &list.child("recursiveReadOnly"), causes);
    }
}

fn propagation(mount: &Value, container: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let Some(mode) = mount.str_at(&["mountPropagation"]) else { return };
    let known = ["Bidirectional", "HostToContainer", "None"];
    if !known.contains(&mode) {
        causes.push(cause::not_supported(path, mode, &known));
    }
    if mode == "Bidirectional" && container.bool_at(&["securityContext", "privileged"]) != Some(true) {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        causes.push(cause::forbidden(path, why));
    }
}

fn read_only(mount: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let Some(mode) = mount.str_at(&["recursiveReadOnly"]) else { return };
    match mode {
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if mount.bool_at(&["readOnly"]) != Some(true) {
                causes.push(cause::forbidden(path, "may only be specified when readOnly is true"));
            }
        }
        other => causes.push(cause::not_supported(path, other, &["Disabled", "Enabled", "IfPossible"])),
    }
}

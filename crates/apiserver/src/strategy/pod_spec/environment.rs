//! Variables: their names, and where their values come from.

use api::status::Cause;
use api::validation::{Path, cause, names};
use api::value::Value;

use super::text;
use super::volumes::no_way_back;

/// What a variable may show of its pod.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// What a file may show of its pod.
pub(super) const FILE_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Fields of a pod that have a name for this purpose, beyond those above.
const OTHER_FIELDS: [&str; 3] = ["spec.restartPolicy", "spec.schedulerName", "status.phase"];
/// What of a container's resources can be shown.
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
/// How the names of pages of other sizes begin.
const HUGE_PAGES: [&str; 2] = ["limits.hugepages-", "requests.hugepages-"];

pub(super) fn variables(container: &Value, path: &Path, causes: &mut Vec<Cause>) {
    for (index, variable) in container.array_at(&["env"]).iter().enumerate() {
        let path = path.index(index);
        let name = text(variable, "name");
        if !name.is_empty() {
            let wrong = names::is_environment_name(name);
            causes.extend(wrong.iter().map(|why| cause::invalid(path.child("name"), name, why)));
        }
        if let Some(from) = variable.get("valueFrom").filter(|from| !from.is_null()) {
            value_from(from, !text(variable, "value").is_empty(), &path.child("valueFrom"), causes);
        }
    }
}

fn value_from(from: &Value, has_value: bool, path: &Path, causes: &mut Vec<Cause>) {
    let present = |key: &str| from.get(key).filter(|value| !value.is_null());
    let mut sources = 0;
    if let Some(field) = present("fieldRef") {
        sources += 1;
        field_reference(field, &ENV_FIELDS, &path.child("fieldRef"), causes);
    }
    if let Some(resource) = present("resourceFieldRef") {
        sources += 1;
        resource_reference(resource, false, &path.child("resourceFieldRef"), causes);
    }
    for key in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(reference) = present(key) {
            sources += 1;
            key_reference(reference, &path.child(key), causes);
        }
    }
    if let Some(reference) = present("fileKeyRef") {
        sources += 1;
        file_key(reference, &path.child("fileKeyRef"), causes);
    }
    if sources == 0 {
        let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        causes.push(cause::invalid(path, "", why));
    } else if has_value {
        causes.push(cause::invalid(path, "", "may not be specified when `value` is not empty"));
    } else if sources > 1 {
        causes.push(cause::invalid(path, "", "may not have more than one field specified at a time"));
    }
}

fn key_reference(reference: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let name = text(reference, "name");
    causes.extend(names::is_subdomain(name).iter().map(|why| cause::invalid(path.child("name"), name, why)));
    let key = text(reference, "key");
    if !key.is_empty() {
        let wrong = names::is_config_map_key(key);
        causes.extend(wrong.iter().map(|why| cause::invalid(path.child("key"), key, why)));
    }
}

/// A variable of a file in a volume. The table says what is needed.
fn file_key(reference: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let (key, volume) = (text(reference, "key"), text(reference, "volumeName"));
    if !key.is_empty() {
        let wrong = names::is_environment_name(key);
        causes.extend(wrong.iter().map(|why| cause::invalid(path.child("key"), key, why)));
    }
    if !volume.is_empty() {
        let wrong = names::is_label(volume);
        causes.extend(wrong.iter().map(|why| cause::invalid(path.child("volumeName"), volume, why)));
    }
    no_way_back(text(reference, "path"), &path.child("path"), causes);
}

/// Files with variables lie in empty volumes of the pod.
pub(super) fn file_volumes(spec: &Value, path: &Path, causes: &mut Vec<Cause>) {
    for (container, path) in super::every_container(spec, path) {
        for (index, variable) in container.array_at(&["env"]).iter().enumerate() {
            let Some(reference) = variable.at(&["valueFrom", "fileKeyRef"]).filter(|it| !it.is_null()) else {
                continue;
            };
            let name = text(reference, "volumeName");
            let path = path.child("env").index(index).child("valueFrom").child("fileKeyRef");
            let mut volumes = spec.array_at(&["volumes"]).iter();
            match volumes.rfind(|volume| text(volume, "name") == name) {
                None => causes.push(cause::not_found(path.child("volumeName"), name)),
                Some(volume) if volume.get("emptyDir").is_none_or(Value::is_null) => {
                    let why = "referenced volume must be of type emptyDir";
                    causes.push(cause::invalid(path.child("volumeName"), name, why));
                }
                Some(_) => {}
            }
        }
    }
}

/// A field of the pod, as `metadata.labels['a']`.
pub(super) fn field_reference(reference: &Value, known: &[&str], path: &Path, causes: &mut Vec<Cause>) {
    let field = text(reference, "fieldPath");
    if field.is_empty() {
        causes.push(cause::required(path.child("fieldPath"), ""));
        return;
    }
    if let Some((map, key)) = field.strip_suffix("']").and_then(|rest| rest.split_once("['")) {
        match map {
            "metadata.labels" | "metadata.annotations" => {
                let lower = key.to_lowercase();
                let key = if map == "metadata.annotations" { lower.as_str() } else { key };
                causes.extend(names::is_label_key(key).iter().map(|why| cause::invalid(path, key, why)));
            }
            _ => causes.push(unknown(field, "does not support subscript", path)),
        }
        return;
    }
    let has_name =
        ENV_FIELDS.contains(&field) || FILE_FIELDS.contains(&field) || OTHER_FIELDS.contains(&field);
    if !has_name {
        causes.push(unknown(field, "not supported", path));
    } else if !known.contains(&field) {
        causes.push(cause::not_supported(path.child("fieldPath"), field, known));
    }
}

fn unknown(field: &str, what: &str, path: &Path) -> Cause {
    let why = format!("error converting fieldPath: field label {what}: {field}");
    cause::invalid(path.child("fieldPath"), field, &why)
}

/// An amount of a container's resources.
pub(super) fn resource_reference(reference: &Value, in_file: bool, path: &Path, causes: &mut Vec<Cause>) {
    let resource = text(reference, "resource");
    if in_file && text(reference, "containerName").is_empty() {
        causes.push(cause::required(path.child("containerName"), ""));
    } else if resource.is_empty() {
        causes.push(cause::required(path.child("resource"), ""));
    } else if !RESOURCES.contains(&resource) && !HUGE_PAGES.iter().any(|prefix| resource.starts_with(prefix))
    {
        causes.push(cause::not_supported(path.child("resource"), resource, &RESOURCES));
    }
}

pub(super) fn sources(container: &Value, path: &Path, causes: &mut Vec<Cause>) {
    for (index, source) in container.array_at(&["envFrom"]).iter().enumerate() {
        let place = path.index(index);
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            let wrong = names::is_environment_name(prefix);
            causes.extend(wrong.iter().map(|why| cause::invalid(place.child("prefix"), prefix, why)));
        }
        let mut count = 0;
        for key in ["configMapRef", "secretRef"] {
            if let Some(reference) = source.get(key).filter(|value| !value.is_null()) {
                count += 1;
                let (name, place) = (text(reference, "name"), place.child(key).child("name"));
                if name.is_empty() {
                    causes.push(cause::required(place, ""));
                } else {
                    // Upstream judges it like the beginning of a name.
                    let begun = name.strip_suffix('-').filter(|begun| !begun.is_empty()).unwrap_or(name);
                    causes.extend(
                        names::is_subdomain(begun).iter().map(|why| cause::invalid(&place, name, why)),
                    );
                }
            }
        }
        if count == 0 {
            causes.push(cause::invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"));
        } else if count > 1 {
            causes.push(cause::invalid(path, "", "may not have more than one field specified at a time"));
        }
    }
}

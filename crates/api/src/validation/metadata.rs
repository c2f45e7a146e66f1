//! `metadata` of every kind: on creation and on update.

use crate::names::split_api_version;
use crate::print::ordered;
use crate::status::Cause;
use crate::table::types;
use crate::value::{Map, Value};

use super::cause::{self, quoted};
use super::names::{self, NameRule};
use super::{Path, selectors};

/// All keys and values of annotations together.
pub const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;
/// Longest name of a field manager.
pub const FIELD_MANAGER_MAX_BYTES: usize = 128;
/// Longest name of a subresource in `managedFields`.
const SUBRESOURCE_MAX_BYTES: usize = 256;
/// Upstream's words for a value that may not change.
pub const IMMUTABLE: &str = "field is immutable";

/// What is wrong with the `metadata` of an object that is being created, its name generated already.
pub fn on_create(metadata: &Value, namespaced: bool, rule: NameRule) -> Vec<Cause> {
    let path = Path::root("metadata");
    let mut causes = Vec::new();
    let text = |key| metadata.str_at(&[key]).unwrap_or_default();
    let generate = text("generateName");
    if !generate.is_empty() {
        for words in rule.check(generate, true) {
            causes.push(cause::invalid(path.child("generateName"), generate, &words));
        }
    }
    let name = text("name");
    if name.is_empty() {
        causes.push(cause::required(path.child("name"), "name or generateName is required"));
    } else {
        for words in rule.check(name, false) {
            causes.push(cause::invalid(path.child("name"), name, &words));
        }
    }
    let namespace = text("namespace");
    match (namespaced, namespace.is_empty()) {
        (true, true) => causes.push(cause::required(path.child("namespace"), "")),
        (true, false) => {
            for words in names::is_label(namespace) {
                causes.push(cause::invalid(path.child("namespace"), namespace, &words));
            }
        }
        (false, false) => causes.push(cause::forbidden(path.child("namespace"), "not allowed on this type")),
        (false, true) => {}
    }
    common(metadata, &path, true, &mut causes);
    causes
}

/// What is wrong with the `metadata` of an object that is being updated.
pub fn on_update(metadata: &Value, old: &Value) -> Vec<Cause> {
    let path = Path::root("metadata");
    let mut causes = Vec::new();
    if old.get("deletionTimestamp").is_some() {
        causes.extend(no_new_finalizers(
            metadata.get("finalizers"),
            old.get("finalizers"),
            &path.child("finalizers"),
        ));
    }
    if metadata.str_at(&["resourceVersion"]).unwrap_or_default().is_empty() {
        causes.push(cause::invalid(path.child("resourceVersion"), "", "must be specified for an update"));
    }
    let generation = |value: &Value| value.int_at(&["generation"]).unwrap_or_default();
    if generation(metadata) < generation(old) {
        causes.push(cause::invalid(
            path.child("generation"),
            generation(metadata),
            "must not be decremented",
        ));
    }
    for key in ["name", "namespace", "uid"] {
        let text = |value: &Value| value.str_at(&[key]).unwrap_or_default().to_owned();
        if text(metadata) != text(old) {
            causes.push(cause::invalid(path.child(key), text(metadata), IMMUTABLE));
        }
    }
    for key in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let value = |value: &Value| value.get(key).cloned().unwrap_or_default();
        if value(metadata) != value(old) {
            causes.push(cause::invalid(path.child(key), value(metadata), IMMUTABLE));
        }
    }
    common(metadata, &path, false, &mut causes);
    causes
}

/// Finalizers that have no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

fn common(metadata: &Value, path: &Path, finalizers_too: bool, causes: &mut Vec<Cause>) {
    let generation = metadata.int_at(&["generation"]).unwrap_or_default();
    if generation < 0 {
        causes.push(cause::invalid(
            path.child("generation"),
            generation,
            "must be greater than or equal to 0",
        ));
    }
    let map = |key| metadata.get(key).and_then(Value::as_object);
    causes.extend(
        map("labels").into_iter().flat_map(|labels| selectors::labels(labels, &path.child("labels"))),
    );
    causes
        .extend(map("annotations").into_iter().flat_map(|map| annotations(map, &path.child("annotations"))));
    causes.extend(owner_references(metadata.array_at(&["ownerReferences"]), &path.child("ownerReferences")));
    if finalizers_too {
        causes.extend(finalizer_names(metadata));
    }
    causes.extend(managed_fields(metadata.array_at(&["managedFields"]), &path.child("managedFields")));
}

/// What is wrong with the finalizers of an object's metadata, their names included.
pub fn finalizer_names(metadata: &Value) -> Vec<Cause> {
    let (list, path) = (metadata.array_at(&["finalizers"]), Path::root("metadata").child("finalizers"));
    let mut causes = finalizers(list, &path);
    for (index, name) in list.iter().enumerate() {
        let name = name.as_str().unwrap_or_default();
        if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            causes.push(cause::invalid(path.index(index), name, detail));
        }
    }
    causes
}

/// What is wrong with a set of annotations.
pub fn annotations(annotations: &Map, path: &Path) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut bytes = 0;
    for (key, value) in annotations.iter() {
        bytes += key.len() + value.as_str().unwrap_or_default().len();
        for words in names::is_label_key(&key.to_lowercase()) {
            causes.push(cause::invalid(path, key.as_str(), &words));
        }
    }
    if bytes > ANNOTATIONS_MAX_BYTES {
        causes.push(cause::too_long(path, ANNOTATIONS_MAX_BYTES));
    }
    causes
}

fn owner_references(owners: &[Value], path: &Path) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut first_controller: Option<String> = None;
    for (index, owner) in owners.iter().enumerate() {
        let at = path.index(index);
        let text = |key| owner.str_at(&[key]).unwrap_or_default();
        let api_version = text("apiVersion");
        let (_, version) = split_api_version(api_version);
        if api_version.is_empty() {
            causes.push(cause::required(at.child("apiVersion"), "must not be empty"));
        } else if version.is_empty() || api_version.matches('/').count() > 1 {
            let detail = "must be <group>/<version> or <version>";
            causes.push(cause::invalid(at.child("apiVersion"), api_version, detail));
        }
        for key in ["kind", "name", "uid"] {
            if text(key).is_empty() {
                causes.push(cause::required(at.child(key), "must not be empty"));
            }
        }
        if api_version == "v1" && text("kind") == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            let shown = shown_owners(std::slice::from_ref(owner));
            causes.push(cause::invalid_shown(&at, &shown[1..shown.len() - 1], detail));
        }
        if owner.bool_at(&["controller"]) == Some(true) {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &first_controller {
                None => first_controller = Some(this),
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for \
                         {first} and {this}"
                    );
                    causes.push(cause::invalid_shown(path, &shown_owners(owners), &detail));
                }
            }
        }
    }
    causes
}

/// References as upstream's messages show them.
fn shown_owners(owners: &[Value]) -> String {
    match types().find("meta/v1.OwnerReference") {
        Some(ty) => ordered::list(ty, owners),
        None => Value::Array(owners.to_vec()).to_string(),
    }
}

/// What is wrong with a list of finalizers.
pub fn finalizers(finalizers: &[Value], path: &Path) -> Vec<Cause> {
    let mut causes = Vec::new();
    let texts: Vec<&str> = finalizers.iter().filter_map(Value::as_str).collect();
    for finalizer in &texts {
        for words in names::is_label_key(finalizer) {
            causes.push(cause::invalid(path, *finalizer, &words));
        }
    }
    if texts.contains(&"orphan") && texts.contains(&"foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        causes.push(cause::invalid(path, finalizers.to_vec(), detail));
    }
    causes
}

fn no_new_finalizers(new: Option<&Value>, old: Option<&Value>, path: &Path) -> Option<Cause> {
    let texts = |list: Option<&Value>| -> Vec<String> {
        let elements = list.and_then(Value::as_array).unwrap_or(&[]);
        elements.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let old = texts(old);
    let mut extra: Vec<String> =
        texts(new).into_iter().filter(|finalizer| !old.contains(finalizer)).collect();
    extra.sort();
    extra.dedup();
    if extra.is_empty() {
        return None;
    }
    let list: Vec<String> = extra.iter().map(|finalizer| quoted(finalizer)).collect();
    let detail = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        list.join(", ")
    );
    Some(cause::forbidden(path, &detail))
}

fn managed_fields(entries: &[Value], path: &Path) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let at = path.index(index);
        let text = |key| entry.str_at(&[key]).unwrap_or_default();
        match text("operation") {
            "Apply" | "Update" => {}
            "" => causes.push(cause::required(at.child("operation"), "must not be empty")),
            other => causes.push(cause::not_supported(at.child("operation"), other, &["Apply", "Update"])),
        }
        let kind = text("fieldsType");
        if !kind.is_empty() && kind != "FieldsV1" {
            causes.push(cause::invalid(at.child("fieldsType"), kind, "must be `FieldsV1`"));
        }
        causes.extend(field_manager(text("manager"), &at.child("manager")));
        if text("subresource").len() > SUBRESOURCE_MAX_BYTES {
            causes.push(cause::too_long(at.child("subresource"), SUBRESOURCE_MAX_BYTES));
        }
    }
    causes
}

/// What is wrong with the name of a field manager; also for the query parameter `fieldManager`.
pub fn field_manager(manager: &str, path: &Path) -> Vec<Cause> {
    let mut causes = Vec::new();
    if manager.len() > FIELD_MANAGER_MAX_BYTES {
        causes.push(cause::too_long(path, FIELD_MANAGER_MAX_BYTES));
    }
    for (at, c) in manager.char_indices() {
        if c.is_control() || (c.is_whitespace() && c != ' ') {
            let detail = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
            causes.push(cause::invalid(path, manager, &detail));
        }
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    fn check(causes: &[Cause], expect: &[&str]) {
        let causes: Vec<String> = causes.iter().map(ToString::to_string).collect();
        assert_eq!(causes, expect);
    }

    #[test]
    fn creation_asks_for_name_and_namespace() {
        let rule = NameRule::Subdomain;
        check(&on_create(&json!({"name": "a", "namespace": "b"}), true, rule), &[]);
        check(
            &on_create(&json!({}), true, rule),
            &[
                "metadata.name: Required value: name or generateName is required",
                "metadata.namespace: Required value",
            ],
        );
        check(
            &on_create(&json!({"name": "a", "namespace": "b"}), false, rule),
            &["metadata.namespace: Forbidden: not allowed on this type"],
        );
    }

    #[test]
    fn identity_is_immutable() {
        let old = json!({"name": "a", "uid": "1", "resourceVersion": "1", "generation": 2,
            "creationTimestamp": "2026-01-01T00:00:00Z"});
        check(&on_update(&old, &old), &[]);
        let new =
            json!({"name": "b", "uid": "1", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"});
        check(
            &on_update(&new, &old),
            &[
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.generation: Invalid value: 1: must not be decremented",
                "metadata.name: Invalid value: \"b\": field is immutable",
            ],
        );
    }

    #[test]
    fn a_deleted_object_takes_no_new_finalizers() {
        let old = json!({"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/y"]});
        let mut new = old.clone();
        new.set(&["resourceVersion"], "1");
        new.set(&["finalizers"], vec!["x/y", "x/z"]);
        check(
            &on_update(&new, &old),
            &["metadata.finalizers: Forbidden: no new finalizers can be added if the \
            object is being deleted, found new finalizers []string{\"x/z\"}"],
        );
    }

    #[test]
    fn owners_are_complete_and_one_controls() {
        let owners = json!([
            {"apiVersion": "apps/v1", "kind": "A", "name": "a", "uid": "1", "controller": true},
            {"apiVersion": "", "kind": "B", "name": "b", "uid": "2", "controller": true}
        ]);
        let causes = owner_references(owners.as_array().unwrap(), &Path::root("o"));
        assert_eq!(causes[0].to_string(), "o[1].apiVersion: Required value: must not be empty");
        assert!(causes[1].message.ends_with("Found \"true\" in references for A/a and B/b"));
    }
}

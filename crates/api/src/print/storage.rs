//! Volumes and where they come from.

use crate::table::KindFacts;
use crate::value::Value;

use super::view::View;

const CLASS_ANNOTATION: [&str; 3] = ["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"];
const DEFAULT_CLASS: [&str; 3] = ["metadata", "annotations", "storageclass.kubernetes.io/is-default-class"];
const DEFAULT_CLASS_BETA: [&str; 3] =
    ["metadata", "annotations", "storageclass.beta.kubernetes.io/is-default-class"];

fn access_modes(view: View<'_>, path: &[&str]) -> Value {
    let modes = view.texts(path);
    let shown = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let words: Vec<&str> =
        shown.iter().filter(|(mode, _)| modes.contains(mode)).map(|(_, word)| *word).collect();
    words.join(",").into()
}

fn class_name<'a>(view: View<'a>) -> &'a str {
    if view.has(&CLASS_ANNOTATION) {
        view.text(&CLASS_ANNOTATION)
    } else {
        view.text(&["spec", "storageClassName"])
    }
}

fn phase<'a>(view: View<'a>) -> &'a str {
    if view.is_deleting() { "Terminating" } else { view.text(&["status", "phase"]) }
}

pub(super) fn volume(view: View<'_>) -> Vec<Value> {
    let claim = |key| view.text(&["spec", "claimRef", key]);
    let claim = match view.has(&["spec", "claimRef"]) {
        true => format!("{}/{}", claim("namespace"), claim("name")),
        false => String::new(),
    };
    vec![
        view.name().into(),
        view.scalar_or(&["spec", "capacity", "storage"], "0").into(),
        access_modes(view, &["spec", "accessModes"]),
        view.text(&["spec", "persistentVolumeReclaimPolicy"]).into(),
        phase(view).into(),
        claim.into(),
        class_name(view).into(),
        view.text_or(&["spec", "volumeAttributesClassName"], "<unset>").into(),
        view.text(&["status", "reason"]).into(),
        view.age(),
        view.text_or(&["spec", "volumeMode"], "<unset>").into(),
    ]
}

pub(super) fn claim(view: View<'_>) -> Vec<Value> {
    let bound = !view.text(&["spec", "volumeName"]).is_empty();
    let capacity =
        if bound { view.scalar_or(&["status", "capacity", "storage"], "0") } else { String::new() };
    let modes = if bound { access_modes(view, &["status", "accessModes"]) } else { Value::from("") };
    vec![
        view.name().into(),
        phase(view).into(),
        view.text(&["spec", "volumeName"]).into(),
        capacity.into(),
        modes,
        class_name(view).into(),
        view.text_or(&["spec", "volumeAttributesClassName"], "<unset>").into(),
        view.age(),
        view.text_or(&["spec", "volumeMode"], "<unset>").into(),
    ]
}

/// The storage class of a list that is the default: of several, the youngest, then the first by name. A class that
/// is printed alone is never marked, as upstream.
pub(super) fn default_class(kind: &KindFacts, objects: &[Value]) -> Option<String> {
    if kind.kind != "StorageClass" || objects.len() < 2 {
        return None;
    }
    let marked = |object: &&Value| {
        [DEFAULT_CLASS, DEFAULT_CLASS_BETA].iter().any(|path| object.str_at(path) == Some("true"))
    };
    let key = |object: &&Value| {
        let name = object.str_at(&["metadata", "name"]).unwrap_or_default().to_owned();
        (
            object.str_at(&["metadata", "creationTimestamp"]).unwrap_or_default().to_owned(),
            std::cmp::Reverse(name),
        )
    };
    let default = objects.iter().filter(marked).max_by_key(key)?;
    default.str_at(&["metadata", "name"]).map(str::to_owned)
}

pub(super) fn class(view: View<'_>) -> Vec<Value> {
    vec![
        view.name().into(),
        view.text(&["provisioner"]).into(),
        view.text_or(&["reclaimPolicy"], "Delete").into(),
        view.text_or(&["volumeBindingMode"], "Immediate").into(),
        view.truth(&["allowVolumeExpansion"]).into(),
        view.age(),
    ]
}

pub(super) fn attachment(view: View<'_>) -> Vec<Value> {
    vec![
        view.name().into(),
        view.text(&["spec", "attacher"]).into(),
        view.text(&["spec", "source", "persistentVolumeName"]).into(),
        view.text(&["spec", "nodeName"]).into(),
        view.truth(&["status", "attached"]).into(),
        view.age(),
    ]
}

pub(super) fn csi_node(view: View<'_>) -> Vec<Value> {
    vec![view.name().into(), view.count(&["spec", "drivers"]), view.age()]
}

pub(super) fn csi_driver(view: View<'_>) -> Vec<Value> {
    let modes = view.texts(&["spec", "volumeLifecycleModes"]).join(",");
    let requests = if view.has(&["spec", "tokenRequests"]) {
        let audiences: Vec<&str> =
            view.list(&["spec", "tokenRequests"]).map(|request| request.text(&["audience"])).collect();
        audiences.join(",")
    } else {
        "<unset>".to_owned()
    };
    vec![
        view.name().into(),
        view.object.bool_at(&["spec", "attachRequired"]).unwrap_or(true).into(),
        view.truth(&["spec", "podInfoOnMount"]).into(),
        view.truth(&["spec", "storageCapacity"]).into(),
        requests.into(),
        view.truth(&["spec", "requiresRepublish"]).into(),
        if modes.is_empty() { "<none>".into() } else { modes.into() },
        view.age(),
    ]
}

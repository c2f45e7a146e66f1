//! Every pod acts as a ServiceAccount, and has its token where clients look for it.

use api::json;
use api::names::SERVICE_ACCOUNTS;
use api::object::Object;
use api::status::Status;
use api::value::{Str, Value};
use std::sync::Arc;

use super::{Attributes, Operation, Plugin};
use crate::limits::NAME_SUFFIX_LETTERS;
use crate::lookups::Lookups;

/// The account of pods that name none.
const DEFAULT: &str = "default";
/// How the names of the volumes with tokens begin.
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Where clients look for their token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long mounted tokens live, in seconds: an hour, and what old clients that never read them again need.
const TOKEN_SECONDS: i64 = 3607;
/// The mode of the files beside the token.
const FILE_MODE: i64 = 0o644;
/// Marks the image of a pod that a node runs by itself.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Members of an account that pods take over.
const AUTOMOUNT: &str = "automountServiceAccountToken";
const PULL_SECRETS: &str = "imagePullSecrets";
/// Asks that pods mount none but the account's own secrets.
const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

pub(super) struct ServiceAccount;

impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn mutate(&self, attributes: &mut Attributes<'_>, lookups: &dyn Lookups) -> Result<(), Status> {
        if !attributes.is("", "pods") || attributes.operation != Operation::Create {
            return Ok(());
        }
        let Some(pod) = attributes.object.as_deref_mut() else { return Ok(()) };
        if is_mirror(pod) {
            return Ok(());
        }
        if account_name(pod).is_empty() {
            pod.set(&["spec", "serviceAccountName"], DEFAULT);
            pod.set(&["spec", "serviceAccount"], DEFAULT);
        }
        let name = Str::from(account_name(pod));
        let account = find(attributes, lookups, &name)?;
        let account = tree_with(&account, &[AUTOMOUNT, PULL_SECRETS]);
        let Some(pod) = attributes.object.as_deref_mut() else { return Ok(()) };
        if wants_token(pod, &account) {
            mount_token(pod, lookups);
        }
        let secrets = account.array_at(&[PULL_SECRETS]);
        if pod.array_at(&["spec", "imagePullSecrets"]).is_empty() && !secrets.is_empty() {
            pod.set(&["spec", "imagePullSecrets"], Value::Array(secrets.to_vec()));
        }
        Ok(())
    }

    fn validate(&self, attributes: &Attributes<'_>, lookups: &dyn Lookups) -> Result<(), Status> {
        if !attributes.is("", "pods") || attributes.operation != Operation::Create {
            return Ok(());
        }
        let Some(pod) = attributes.object.as_deref() else { return Ok(()) };
        if is_mirror(pod) {
            return mirror(attributes, pod);
        }
        let name = account_name(pod);
        if name.is_empty() {
            let pod_name = attributes.object_name();
            let why = format!("no service account specified for pod {}/{pod_name}", attributes.namespace);
            return Err(attributes.forbidden(&why));
        }
        let account = find(attributes, lookups, name)?;
        let account = tree_with(&account, &[ENFORCE_MOUNTABLE]);
        let enforced = account.str_at(&["metadata", "annotations", ENFORCE_MOUNTABLE]);
        if enforced.is_some_and(|word| matches!(word, "true" | "True" | "TRUE" | "1" | "t" | "T")) {
            mountable(pod, &account).map_err(|why| attributes.forbidden(&why))?;
        }
        Ok(())
    }
}

fn is_mirror(pod: &Value) -> bool {
    pod.at(&["metadata", "annotations", MIRROR]).is_some()
}

fn account_name(pod: &Value) -> &str {
    pod.str_at(&["spec", "serviceAccountName"]).unwrap_or_default()
}

fn find(attributes: &Attributes<'_>, lookups: &dyn Lookups, name: &str) -> Result<Arc<Object>, Status> {
    lookups.get(&SERVICE_ACCOUNTS, attributes.namespace, name).ok_or_else(|| {
        let place = format!("{}/{name}", attributes.namespace);
        attributes.forbidden(&format!(
            "error looking up service account {place}: serviceaccount \"{name}\" not found"
        ))
    })
}

/// The account as a tree; an empty one if none of `words` is in it: most accounts say nothing, and every pod asks.
fn tree_with(account: &Object, words: &[&str]) -> Value {
    let text = str::from_utf8(account.body()).unwrap_or_default();
    if words.iter().any(|word| text.contains(word)) { account.to_tree() } else { Value::object() }
}

fn wants_token(pod: &Value, account: &Value) -> bool {
    pod.bool_at(&["spec", "automountServiceAccountToken"])
        .or_else(|| account.bool_at(&[AUTOMOUNT]))
        .unwrap_or(true)
}

fn mount_token(pod: &mut Value, lookups: &dyn Lookups) {
    let present = pod
        .array_at(&["spec", "volumes"])
        .iter()
        .filter_map(|volume| volume.str_at(&["name"]))
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let has_volume = present.is_some();
    let name =
        present.unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", lookups.random().suffix(NAME_SUFFIX_LETTERS)));
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        let containers = pod.at_mut(&["spec", list]).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let mut mounts = container.array_at(&["volumeMounts"]).to_vec();
            if mounts.iter().any(|mount| mount.str_at(&["mountPath"]) == Some(MOUNT_PATH)) {
                continue;
            }
            let mut mount = json!({"readOnly": true, "mountPath": MOUNT_PATH});
            mount.set(&["name"], name.as_str());
            mounts.push(mount);
            container.set(&["volumeMounts"], mounts);
            needed = true;
        }
    }
    if needed && !has_volume {
        let mut volumes = pod.array_at(&["spec", "volumes"]).to_vec();
        volumes.push(token_volume(&name));
        pod.set(&["spec", "volumes"], volumes);
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": FILE_MODE,
            "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [
                    {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
                ]}}
            ]
        }
    })
}

/// A mirror pod refers to nothing that the server would have to give the node.
fn mirror(attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
    if !account_name(pod).is_empty() {
        return Err(attributes.forbidden("a mirror pod may not reference service accounts"));
    }
    if !secrets(pod).is_empty() || !pod.array_at(&["spec", "imagePullSecrets"]).is_empty() {
        return Err(attributes.forbidden("a mirror pod may not reference secrets"));
    }
    let mut sources = pod
        .array_at(&["spec", "volumes"])
        .iter()
        .flat_map(|volume| volume.array_at(&["projected", "sources"]));
    if sources.any(|source| source.get("serviceAccountToken").is_some()) {
        return Err(attributes.forbidden("a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}

/// The secrets that volumes and environments name, each with upstream's words for the place.
fn secrets(pod: &Value) -> Vec<(String, &str)> {
    let mut found = Vec::new();
    for volume in pod.array_at(&["spec", "volumes"]) {
        if let Some(name) = volume.str_at(&["secret", "secretName"]) {
            found.push((format!("volume with secret.secretName=\"{name}\""), name));
        }
    }
    for (list, word) in [("initContainers", "init container"), ("containers", "container")] {
        for container in pod.array_at(&["spec", list]) {
            let own = container.str_at(&["name"]).unwrap_or_default();
            for variable in container.array_at(&["env"]) {
                if let Some(name) = variable.str_at(&["valueFrom", "secretKeyRef", "name"]) {
                    let variable = variable.str_at(&["name"]).unwrap_or_default();
                    let place = format!(
                        "{word} {own} with envVar {variable} referencing secret.secretName=\"{name}\""
                    );
                    found.push((place, name));
                }
            }
            for source in container.array_at(&["envFrom"]) {
                if let Some(name) = source.str_at(&["secretRef", "name"]) {
                    found.push((
                        format!("{word} {own} with envFrom referencing secret.secretName=\"{name}\""),
                        name,
                    ));
                }
            }
        }
    }
    found
}

fn mountable(pod: &Value, account: &Value) -> Result<(), String> {
    let account_name = account.str_at(&["metadata", "name"]).unwrap_or_default();
    let has = |list: &str, name: &str| {
        account.array_at(&[list]).iter().any(|secret| secret.str_at(&["name"]) == Some(name))
    };
    if let Some((place, _)) = secrets(pod).into_iter().find(|(_, name)| !has("secrets", name)) {
        return Err(format!(
            "{place} is not allowed because service account {account_name} does not reference that secret"
        ));
    }
    for (index, secret) in pod.array_at(&["spec", "imagePullSecrets"]).iter().enumerate() {
        let name = secret.str_at(&["name"]).unwrap_or_default();
        if !has("imagePullSecrets", name) {
            return Err(format!(
                "imagePullSecrets[{index}].name=\"{name}\" is not allowed because service account {account_name} \
                 does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::Case;
    use super::*;

    fn account() -> Value {
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "n"}})
    }

    #[test]
    fn a_pod_gets_account_and_token() {
        let pod = Case::pod(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}}))
            .within("n")
            .having(SERVICE_ACCOUNTS, account())
            .mutate(&ServiceAccount)
            .unwrap();
        assert_eq!(pod.str_at(&["spec", "serviceAccountName"]), Some("default"));
        let volume = &pod.array_at(&["spec", "volumes"])[0];
        let name = volume.str_at(&["name"]).unwrap();
        assert!(name.starts_with(VOLUME_PREFIX) && name.len() == VOLUME_PREFIX.len() + 5, "{name}");
        assert_eq!(
            volume.array_at(&["projected", "sources"])[0].to_string(),
            r#"{"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}}"#
        );
        let mount = &pod.array_at(&["spec", "containers"])[0].array_at(&["volumeMounts"])[0];
        assert_eq!(mount.str_at(&["mountPath"]), Some(MOUNT_PATH));
        assert_eq!(mount.str_at(&["name"]), Some(name));
    }

    #[test]
    fn the_pod_decides_before_the_account() {
        let mut account = account();
        account.set(&["automountServiceAccountToken"], true);
        let pod = json!({"metadata": {"name": "p"},
            "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c"}]}});
        let pod =
            Case::pod(pod).within("n").having(SERVICE_ACCOUNTS, account).mutate(&ServiceAccount).unwrap();
        assert_eq!(pod.array_at(&["spec", "volumes"]), []);
    }

    #[test]
    fn an_account_that_is_not_there_is_named() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "builder"}});
        let error = Case::pod(pod).within("n").mutate(&ServiceAccount).unwrap_err();
        assert_eq!(
            error.message,
            "pods \"p\" is forbidden: error looking up service account n/builder: serviceaccount \"builder\" not found"
        );
    }
}

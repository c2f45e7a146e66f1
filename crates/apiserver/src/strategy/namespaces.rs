//! Namespaces go in two steps: a deletion marks them, and the last of `spec.finalizers` lets them go.

use api::json;
use api::names::SERVICE_ACCOUNTS;
use api::status::{Cause, Status};
use api::validation::{Path, cause, names};
use api::value::Value;

use super::{Companion, Context, Strategy};

/// The finalizer that the namespace controller takes away once a namespace is empty.
const KUBERNETES: &str = "kubernetes";
/// The account of pods that name none.
const DEFAULT_ACCOUNT: &str = "default";
/// The label that selects a namespace by name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) struct Namespaces;

impl Strategy for Namespaces {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "namespaces")]
    }

    fn default(&self, object: &mut Value) {
        if let Some(name) = object.str_at(&["metadata", "name"]).filter(|name| !name.is_empty()) {
            let name = Value::from(name);
            object.set(&["metadata", "labels", NAME_LABEL], name);
        }
    }

    fn prepare_create(&self, object: &mut Value, _context: &Context<'_>) {
        // The label of a generated name could not be set with the other defaults.
        self.default(object);
        object.set(&["status"], json!({"phase": "Active"}));
        let mut finalizers = object.array_at(&["spec", "finalizers"]).to_vec();
        if !finalizers.iter().any(|finalizer| finalizer.as_str() == Some(KUBERNETES)) {
            finalizers.push(KUBERNETES.into());
        }
        object.set(&["spec", "finalizers"], finalizers);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        if context.subresource != "finalize" {
            keep_finalizers(new, old);
        }
    }

    fn prepare_status(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        keep_finalizers(new, old);
    }

    /// A namespace comes with the account of its pods, so that a pod can be made right behind it. Upstream lets the
    /// pod wait for a controller.
    fn allocate(
        &self,
        new: &mut Value,
        old: Option<&Value>,
        context: &Context<'_>,
    ) -> Result<Vec<Companion>, Status> {
        let name = new.str_at(&["metadata", "name"]).unwrap_or_default();
        if old.is_some() || context.lookups.get(&SERVICE_ACCOUNTS, name, DEFAULT_ACCOUNT).is_some() {
            return Ok(Vec::new());
        }
        let mut object = json!({"apiVersion": "v1", "kind": "ServiceAccount"});
        object.set(&["metadata", "name"], DEFAULT_ACCOUNT);
        object.set(&["metadata", "namespace"], name);
        Ok(vec![Companion::Create { resource: SERVICE_ACCOUNTS, object }])
    }

    fn validate(&self, object: &Value, context: &Context<'_>) -> Vec<Cause> {
        let path = Path::root("spec").child("finalizers");
        let mut causes = Vec::new();
        for (index, finalizer) in object.array_at(&["spec", "finalizers"]).iter().enumerate() {
            let name = finalizer.as_str().unwrap_or_default();
            let path = if context.subresource == "finalize" { path.index(index) } else { path.clone() };
            causes.extend(names::is_label_key(name).iter().map(|why| cause::invalid(&path, name, why)));
            if !name.contains('/') && name != KUBERNETES {
                causes.push(cause::invalid(
                    &path,
                    name,
                    "name is neither a standard finalizer name nor is it fully qualified",
                ));
            }
        }
        causes
    }

    fn validate_status(&self, new: &Value, _old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let phase = new.str_at(&["status", "phase"]).unwrap_or_default();
        let going = new.at(&["metadata", "deletionTimestamp"]).is_some();
        let (wanted, when) = if going { ("Terminating", "not empty") } else { ("Active", "empty") };
        if phase == wanted {
            return Vec::new();
        }
        let why = format!("may only be '{wanted}' if `deletionTimestamp` is {when}");
        vec![cause::invalid("status.Phase", phase, &why)]
    }

    fn is_held(&self, object: &Value) -> bool {
        !object.array_at(&["spec", "finalizers"]).is_empty()
    }

    fn mark_deleting(&self, object: &mut Value) {
        object.set(&["status", "phase"], "Terminating");
    }
}

/// Only the `finalize` subresource changes `spec.finalizers`.
fn keep_finalizers(new: &mut Value, old: &Value) {
    match old.at(&["spec", "finalizers"]) {
        Some(finalizers) => new.set(&["spec", "finalizers"], finalizers.clone()),
        None => {
            new.remove(&["spec", "finalizers"]);
        }
    }
}

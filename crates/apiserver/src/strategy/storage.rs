//! PersistentVolumes and their claims: they begin as pending.
//!
//! What is deliberately absent until storage comes: the finalizers by which upstream protects what is in use. Nobody
//! here would take them away again, so an object that had one could not be deleted.

use api::value::Value;

use super::{Context, Strategy};

const PENDING: &str = "Pending";

pub(super) struct Claims;
pub(super) struct Volumes;

impl Strategy for Claims {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "persistentvolumeclaims")]
    }

    fn prepare_create(&self, object: &mut Value, _context: &Context<'_>) {
        object.set(&["status", "phase"], PENDING);
    }
}

impl Strategy for Volumes {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "persistentvolumes")]
    }

    fn prepare_create(&self, object: &mut Value, context: &Context<'_>) {
        object.set(&["status", "phase"], PENDING);
        object.set(&["status", "lastPhaseTransitionTime"], api::time::seconds(context.lookups.now()));
    }
}

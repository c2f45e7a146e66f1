//! PersistentVolumes and their claims: they begin as pending.
//!
//! What is deliberately absent until storage comes: the finalizers by which upstream protects what is in use. Nobody
//! here would take them away again, so an object that had one could not be deleted.

use api::status::Cause;
use api::validation::Path;
use api::validation::metadata::IMMUTABLE;
use api::value::Value;

use super::{Context, Strategy, words};

const PENDING: &str = "Pending";

pub(super) struct Claims;
pub(super) struct Volumes;
pub(super) struct CsiNodes;

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

impl Strategy for CsiNodes {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("storage.k8s.io", "csinodes")]
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    /// A driver may come and go, but not change.
    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let drivers = ["spec", "drivers"];
        let path = Path::root("spec").child("drivers");
        let mut causes = Vec::new();
        for driver in new.array_at(&drivers) {
            let same = |other: &&Value| other.get("name") == driver.get("name");
            let before = old.array_at(&drivers).iter().find(same);
            let key = |driver: &Value| {
                let mut rest = driver.clone();
                rest.remove(&["allocatable"]);
                rest
            };
            if before.is_some_and(|before| key(before) != key(driver)) {
                let members = [
                    ("Name", driver.get("name")),
                    ("NodeID", driver.get("nodeID")),
                    ("TopologyKeys", driver.get("topologyKeys")),
                    ("Allocatable", driver.get("allocatable")),
                ];
                causes.push(words::shown("FieldValueInvalid", &path, "Invalid value", &members, IMMUTABLE));
            }
        }
        causes
    }
}

//! ControllerRevisions: what one holds is history, and history does not change.

use api::status::Cause;
use api::validation::cause;
use api::value::Value;

use super::{Context, Strategy};

pub(super) struct ControllerRevisions;

impl Strategy for ControllerRevisions {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("apps", "controllerrevisions")]
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let data = new.get("data");
        if data == old.get("data") {
            return Vec::new();
        }
        vec![cause::invalid("data", data.cloned().unwrap_or_default(), "field is immutable")]
    }
}

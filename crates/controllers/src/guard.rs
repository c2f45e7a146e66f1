//! Questions to the server itself, before something is done that a lagging mirror must not decide.

use api::interface::Target;
use control::plan::{Check, Write};

/// Goes on only if no object of that name is there, whatever its uid.
pub fn require_gone(target: Target) -> Write {
    // A `Get` answers with an object or `NotFound`; no object is an empty list, so only `NotFound` passes.
    Write { check: Some(Check::Empty), ..Write::require_absent(target, "") }
}

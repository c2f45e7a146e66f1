//! Reading one object.

use api::interface::{Answer, GetOptions, Target};
use api::status::Status;

use super::Outcome;
use crate::gate::Gate;
use crate::kinds::Kind;
use crate::verbs::list::check_revision;
use crate::{codec, components};

/// Reads one object: a lookup and a shared pointer.
pub fn get(
    gate: &Gate,
    kind: &'static Kind,
    target: &Target,
    options: &GetOptions,
) -> Result<Outcome, Status> {
    if !options.resource_version.is_empty() {
        check_revision(gate, &options.resource_version)?;
    }
    if let Some(part) = components::one(kind, &target.name)? {
        return Ok(Outcome::done(Answer::Object(part)));
    }
    let object = gate.storage().require(kind, &target.namespace, &target.name)?;
    Ok(Outcome::done(Answer::Object(codec::answer(kind, &object)?)))
}

//! Tables (`as=Table`): upstream's columns and cells, by `api::print`.

use std::sync::Arc;

use api::object::Object;
use api::print::IncludeObject;
use api::value::{Map, Value};
use jiff::Timestamp;

use crate::kinds::Kind;

/// What each row carries beside its cells (`includeObject`), and the time that ages are told from.
#[derive(Clone, Copy, Debug)]
pub struct Include {
    /// What each row carries.
    pub object: IncludeObject,
    /// Now.
    pub now: Timestamp,
}

/// Writes a table. `headings` is false for all but the first event of a watch.
pub fn write(
    kind: &Kind,
    objects: &[Arc<Object>],
    meta: Map,
    include: Include,
    headings: bool,
    out: &mut Vec<u8>,
) {
    let trees: Vec<Value> = objects.iter().map(|object| object.to_tree()).collect();
    api::print::table(kind.facts, &trees, meta, include.object, headings, include.now).write_to(out);
}

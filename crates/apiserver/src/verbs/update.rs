//! Replacing objects.

use api::interface::{Target, WriteOptions};
use api::status::Status;

use super::write::Change;
use super::{Outcome, create, owners};
use crate::caller::Caller;
use crate::codec;
use crate::gate::Gate;
use crate::kinds::Kind;

/// Replaces an object, or (through `status` and the like) a part of it, by what a client sent.
pub async fn update(
    gate: &Gate,
    caller: &Caller<'_>,
    kind: &'static Kind,
    target: &Target,
    body: &[u8],
    options: &WriteOptions,
) -> Result<Outcome, Status> {
    let mut object = codec::decode(kind, body, options, caller)?;
    owners::keep_once(&mut object, false, caller);
    let there = gate.storage().read(kind, &target.namespace, &target.name).is_some();
    if !there && target.subresource.is_empty() && kind.strategy.allows_create_on_update() {
        return create::create_tree(gate, caller, kind, target, object, options).await;
    }
    let change = Change { caller, kind, target, options };
    change.run(gate, &mut |_| Ok(object.clone())).await
}

//! Changing objects by patches.

use api::interface::{PatchKind, Target, WriteOptions};
use api::status::{Reason, Status};
use api::value::Value;

use super::Outcome;
use super::write::{Change, retries};
use crate::caller::Caller;
use crate::codec;
use crate::gate::Gate;
use crate::kinds::Kind;
use crate::limits;

/// Changes an object, or (through `status` and the like) a part of it.
pub async fn patch(
    gate: &Gate,
    caller: &Caller<'_>,
    kind: &'static Kind,
    target: &Target,
    patch_kind: PatchKind,
    body: &[u8],
    options: &WriteOptions,
) -> Result<Outcome, Status> {
    let patch = parse(patch_kind, body)?;
    let change = Change { caller, kind, target, options, retries: retries(true) };
    change
        .run(gate, &mut |old| {
            let current = codec::to_request_version(kind, old)?;
            let patched = apply(kind, patch_kind, &current, &patch)?;
            codec::decode_tree(kind, patched, options, caller, Vec::new())
        })
        .await
}

/// Reads the text of a patch.
pub fn parse(patch_kind: PatchKind, body: &[u8]) -> Result<Value, Status> {
    if patch_kind == PatchKind::Apply {
        return Err(Status::new(
            Reason::UnsupportedMediaType,
            "server-side apply is not served by this version of Ondol yet; use client-side apply (kubectl apply \
             without --server-side), or a merge, strategic merge or JSON patch",
        ));
    }
    let patch = api::value::parse(body)
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    if let Some(operations) = patch.as_array().filter(|_| patch_kind == PatchKind::Json)
        && operations.len() > limits::JSON_PATCH_OPERATIONS
    {
        return Err(Status::new(
            Reason::RequestEntityTooLarge,
            format!(
                "The allowed maximum operations in a JSON patch is {}, got {}",
                limits::JSON_PATCH_OPERATIONS,
                operations.len()
            ),
        ));
    }
    Ok(patch)
}

/// Applies a patch to a tree in the version of the request.
pub fn apply(kind: &Kind, patch_kind: PatchKind, current: &Value, patch: &Value) -> Result<Value, Status> {
    match patch_kind {
        PatchKind::Json => codec::patch_json(current, patch),
        PatchKind::Merge => codec::patch_merge(current, patch),
        PatchKind::StrategicMerge => codec::patch_strategic(kind, current, patch),
        PatchKind::Apply => Err(Status::internal("an apply was not refused where it is read")),
    }
}

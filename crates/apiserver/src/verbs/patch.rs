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
            let patched = codec::patched(kind, patch_kind, current, &patch)?;
            codec::decode(kind, &patched.to_bytes(), options, caller)
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
    api::value::parse(body).map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))
}

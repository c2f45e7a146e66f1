//! What hangs below objects. `status` and its like are changes of the object itself; others are kinds of their own.

mod binding;
pub mod connect;
mod eviction;
mod scale;
mod token;

use api::interface::{Answer, GetOptions, PatchKind, Target, WriteOptions};
use api::status::Status;

use crate::caller::Caller;
use crate::codec;
use crate::gate::Gate;
use crate::kinds::{self, Kind};
use crate::verbs::{Outcome, get, method_not_allowed, patch as patches, update as updates};

/// Subresources whose tree is the object's own.
const SAME_TREE: [&str; 3] = ["status", "finalize", "approval"];

fn require(kind: &Kind, target: &Target, verb: &str) -> Result<(), Status> {
    let facts = kind.facts.subresource(&target.subresource).ok_or_else(kinds::not_found)?;
    if facts.verbs.contains(&verb) { Ok(()) } else { Err(method_not_allowed()) }
}

fn unsupported(target: &Target) -> Status {
    let mut status = method_not_allowed();
    status.message = format!(
        "this version of Ondol does not serve {}/{} yet; change the object itself",
        target.resource.resource, target.subresource
    );
    status
}

/// Reads a subresource.
pub fn get(
    gate: &Gate,
    kind: &'static Kind,
    target: &Target,
    options: &GetOptions,
) -> Result<Outcome, Status> {
    require(kind, target, "get")?;
    match target.subresource.as_str() {
        "scale" => scale::get(gate, kind, target),
        // Upstream answers these with the whole object.
        "status" | "approval" | "ephemeralcontainers" | "resize" => get::get(gate, kind, target, options),
        _ => Err(unsupported(target)),
    }
}

/// Creates through a subresource.
pub async fn create(
    gate: &Gate,
    caller: &Caller<'_>,
    kind: &'static Kind,
    target: &Target,
    body: &[u8],
    options: &WriteOptions,
) -> Result<Outcome, Status> {
    require(kind, target, "create")?;
    match target.subresource.as_str() {
        "binding" => binding::create(gate, caller, kind, target, body, options).await,
        "eviction" => eviction::create(gate, caller, kind, target, body, options).await,
        "token" => token::create(gate, caller, kind, target, body, options),
        _ => Err(unsupported(target)),
    }
}

/// Binds a pod that the body names, by the old resource `bindings`.
pub async fn create_binding(
    gate: &Gate,
    caller: &Caller<'_>,
    target: &Target,
    body: &[u8],
    options: &WriteOptions,
) -> Result<Outcome, Status> {
    let tree = api::value::parse(body).map_err(|error| Status::bad_request(error.to_string()))?;
    let name = tree.str_at(&["metadata", "name"]).unwrap_or_default();
    let pods = kinds::require(&api::names::PODS)?;
    let target = Target::new(&api::names::PODS, &target.namespace, name).subresource("binding");
    binding::create(gate, caller, pods, &target, body, options).await
}

/// Replaces a subresource.
pub async fn update(
    gate: &Gate,
    caller: &Caller<'_>,
    kind: &'static Kind,
    target: &Target,
    body: &[u8],
    options: &WriteOptions,
) -> Result<Outcome, Status> {
    require(kind, target, "update")?;
    match target.subresource.as_str() {
        "scale" => {
            let scale_kind = scale::kind(kind, target)?;
            let scale = codec::decode_as(&scale_kind, codec::type_of(&scale_kind)?, body, options, caller)?;
            scale::change(gate, caller, kind, target, options, &mut |_| Ok(scale.clone())).await
        }
        sub if SAME_TREE.contains(&sub) => updates::update(gate, caller, kind, target, body, options).await,
        _ => Err(unsupported(target)),
    }
}

/// Patches a subresource.
pub async fn patch(
    gate: &Gate,
    caller: &Caller<'_>,
    kind: &'static Kind,
    target: &Target,
    how: PatchKind,
    body: &[u8],
    options: &WriteOptions,
) -> Result<Outcome, Status> {
    require(kind, target, "patch")?;
    match target.subresource.as_str() {
        "scale" => {
            let scale_kind = scale::kind(kind, target)?;
            let ty = codec::type_of(&scale_kind)?;
            let patch = patches::parse(how, body)?;
            let asked = how;
            scale::change(gate, caller, kind, target, options, &mut |current| {
                // A Scale has no lists, so a strategic merge is a merge.
                let how = if how == PatchKind::StrategicMerge { PatchKind::Merge } else { how };
                let patched = codec::patched(kind, how, current.clone(), &patch)?;
                let read = codec::decode_as(&scale_kind, ty, &patched.to_bytes(), options, caller);
                read.map_err(|status| patches::unreadable(ty, asked, &patched, &patch, status))
            })
            .await
        }
        sub if SAME_TREE.contains(&sub) => {
            patches::patch(gate, caller, kind, target, how, body, options).await
        }
        _ => Err(unsupported(target)),
    }
}

/// A success without an object.
fn success() -> Answer {
    let mut status = Status::new(api::status::Reason::Unknown, "");
    status.code = 201;
    Answer::Status(Box::new(status))
}

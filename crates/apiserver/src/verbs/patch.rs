//! Changing objects by patches.

use api::interface::{PatchKind, Target, WriteOptions};
use api::print::ordered;
use api::status::{Reason, Status};
use api::table::TypeId;
use api::validation::cause::quoted;
use api::value::{Value, parse_tracking_duplicates};

use super::write::Change;
use super::{Outcome, owners};
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
    if options.force {
        let cause = api::validation::cause::forbidden("force", "may not be specified for non-apply patch");
        return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", vec![cause]));
    }
    let doubled = doubled(patch_kind, body);
    let strict = options.field_validation == "Strict";
    if !strict && options.field_validation != "Ignore" {
        doubled.iter().for_each(|words| caller.warn(words));
    }
    let change = Change { caller, kind, target, options };
    change
        .run(gate, &mut |old| {
            let current = codec::to_request_version(kind, old)?;
            let patched = codec::patched(kind, patch_kind, current, &patch)?;
            let bytes = patched.to_bytes();
            let mut read = codec::decode(kind, &bytes, options, caller);
            if strict && !doubled.is_empty() {
                read = Err(with_doubled(read, &doubled));
            }
            let mut new =
                read.map_err(|status| unreadable(kind.facts.ty, patch_kind, &patched, &patch, status))?;
            keep_uid(kind, &new, old)?;
            owners::keep_once(&mut new, true, caller);
            Ok(new)
        })
        .await
}

/// What is said of members that a merge has twice; of them the last one counts.
fn doubled(patch_kind: PatchKind, body: &[u8]) -> Vec<String> {
    if patch_kind == PatchKind::Json {
        return Vec::new();
    }
    let duplicates = parse_tracking_duplicates(body).map(|parsed| parsed.duplicates).unwrap_or_default();
    duplicates.iter().map(|duplicate| format!("duplicate field {}", quoted(&duplicate.path))).collect()
}

/// The error of a strict decoding that has found doubled members, and perhaps more.
fn with_doubled(read: Result<Value, Status>, doubled: &[String]) -> Status {
    const STRICT: &str = "strict decoding error: ";
    let words = doubled.join(", ");
    match read {
        Ok(_) => Status::bad_request(format!("patch: {STRICT}{words}")),
        Err(status) if status.message.contains(STRICT) => {
            let message = status.message.replacen(STRICT, &format!("{STRICT}{words}, "), 1);
            Status { message, ..status }
        }
        Err(status) => status,
    }
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
    api::value::parse(body).map_err(|error| match patch_kind {
        PatchKind::Json => Status::bad_request(format!("error decoding patch: {error}")),
        _ => Status::bad_request("invalid JSON patch"),
    })
}

/// What a patch makes of an object must be an object of its kind. Upstream shows the outcome of a merge, and of a
/// strategic merge the patch.
pub fn unreadable(
    ty: TypeId,
    patch_kind: PatchKind,
    patched: &Value,
    patch: &Value,
    status: Status,
) -> Status {
    if status.reason != Reason::BadRequest {
        return status;
    }
    let shown = match patch_kind {
        PatchKind::StrategicMerge => go_words(patch),
        PatchKind::Json => ordered::patched(ty, patched, &gone_through(patch)),
        _ => ordered::patched(ty, patched, patch),
    };
    let why = status.message.split_once(": ").map_or(status.message.as_str(), |(_, why)| why);
    let converted = if patch_kind == PatchKind::StrategicMerge { conversion_words(why) } else { None };
    let why = converted.as_deref().unwrap_or(why);
    Status::invalid("", "", "", vec![api::validation::cause::invalid("patch", shown.as_str(), why)])
}

/// An object for each object that the operations of a JSON patch go through.
fn gone_through(patch: &Value) -> Value {
    let mut out = Value::object();
    for operation in patch.as_array().unwrap_or_default() {
        let path = operation.str_at(&["path"]).unwrap_or_default();
        let keys: Vec<&str> = path.split('/').skip(1).collect();
        if let [through @ .., _] = keys.as_slice()
            && !through.is_empty()
            && out.at(through).is_none()
        {
            out.set(through, Value::object());
        }
    }
    out
}

/// Upstream does not decode the outcome of a strategic merge but converts it, which fails in words of its own. Types
/// that read themselves from JSON keep theirs.
fn conversion_words(why: &str) -> Option<String> {
    let (found, rest) = why.strip_prefix("json: cannot unmarshal ")?.split_once(" into ")?;
    let (_, wanted) = rest.rsplit_once(" of type ")?;
    let (kind, full) = match found {
        "array" => ("slice", "[]interface {}"),
        "object" => ("map", "map[string]interface {}"),
        "string" | "bool" => (found, found),
        number if number.contains('.') => ("float64", "float64"),
        _ => ("int64", "int64"),
    };
    let is_simple = |wanted: &str| {
        matches!(wanted, "string" | "bool") || wanted.starts_with("int") || wanted.starts_with("float")
    };
    match wanted {
        map if map.starts_with("map[") => Some(format!("cannot restore map from {kind}")),
        slice if slice.starts_with("[]") => Some(format!("cannot restore slice from {kind}")),
        simple if is_simple(simple) => Some(format!("cannot convert {full} to {simple}")),
        _ => None,
    }
}

/// A value as Go prints it: `map[a:1 b:[x]]`.
fn go_words(value: &Value) -> String {
    let all = |words: Vec<String>| words.join(" ");
    if let Some(map) = value.as_object() {
        let mut words: Vec<String> =
            map.iter().map(|(key, value)| format!("{key}:{}", go_words(value))).collect();
        words.sort();
        return format!("map[{}]", all(words));
    }
    match value {
        Value::Array(items) => format!("[{}]", all(items.iter().map(go_words).collect())),
        Value::String(text) => text.to_string(),
        Value::Null => "<nil>".to_owned(),
        other => other.to_string(),
    }
}

/// A patch changes no uid, and needs no other object's.
fn keep_uid(kind: &Kind, new: &Value, old: &Value) -> Result<(), Status> {
    let uid = |tree: &Value| tree.str_at(&["metadata", "uid"]).unwrap_or_default().to_owned();
    let (wanted, there) = (uid(new), uid(old));
    if wanted.is_empty() || wanted == there {
        return Ok(());
    }
    let cause = api::validation::cause::invalid("metadata.uid", wanted.as_str(), "field is immutable");
    let name = old.str_at(&["metadata", "name"]).unwrap_or_default();
    Err(Status::invalid(&kind.kind.group, &kind.kind.kind, name, vec![cause]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_strategic_merge_makes_is_converted_and_not_decoded() {
        let check = |wanted: &str, found: &str, expect: &str| {
            let why = format!("json: cannot unmarshal {found} into Go struct field A.b of type {wanted}");
            assert_eq!(conversion_words(&why).as_deref().unwrap_or("its own"), expect);
        };
        check("map[string]string", "string", "cannot restore map from string");
        check("[]v1.Container", "object", "cannot restore slice from map");
        check("int32", "string", "cannot convert string to int32");
        check("string", "number", "cannot convert int64 to string");
        check("v1.Time", "string", "its own");
    }
}

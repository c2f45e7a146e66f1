//! From bytes to trees and back: where the pipeline meets the table's schema.
//!
//! Trees inside the gate are in the storage version; what clients send and get is in the version of the request.

use std::sync::Arc;

use api::interface::{PatchKind, WriteOptions};
use api::names::GroupVersionKind;
use api::object::Object;
use api::schema::{DecodeError, FieldValidation, TypeMeta};
use api::status::{Cause, Reason, Status};
use api::table::TypeId;
use api::value::Value;

use crate::caller::Caller;
use crate::convert;
use crate::kinds::Kind;
use crate::limits;
use crate::storage::Record;

fn field_validation(options: &WriteOptions) -> FieldValidation {
    match options.field_validation.as_str() {
        "Ignore" => FieldValidation::Ignore,
        "Strict" => FieldValidation::Strict,
        _ => FieldValidation::Warn,
    }
}

/// Reads what a client sent: an object of `kind`, which comes back in the storage version, pruned and defaulted.
pub fn decode(
    kind: &'static Kind,
    body: &[u8],
    options: &WriteOptions,
    caller: &Caller<'_>,
) -> Result<Value, Status> {
    let tree = decode_as(&kind.kind, kind.facts.ty, body, options, caller)?;
    let mut tree = convert::to_stored(kind, tree)?;
    kind.strategy.default(&mut tree);
    Ok(tree)
}

/// Reads an object of any kind that the table knows, defaulted: what subresources take.
pub fn decode_as(
    kind: &GroupVersionKind,
    ty: TypeId,
    body: &[u8],
    options: &WriteOptions,
    caller: &Caller<'_>,
) -> Result<Value, Status> {
    let decoded = match api::schema::decode(ty, body, field_validation(options)) {
        Ok(decoded) if is_said(kind, &decoded.value) => decoded,
        // What is wrong is told in upstream's order: what it says that it is comes before its fields.
        other => {
            let said = api::schema::type_meta(body).map_err(|error| unrecognized(kind, &error, body))?;
            check_envelope(kind, &said)?;
            other.map_err(|error| match error {
                DecodeError::Syntax(_) => unrecognized(kind, &error, body),
                DecodeError::Type(_) | DecodeError::Strict(_) => cannot_be_handled(kind, &error),
            })?
        }
    };
    decoded.warnings.into_iter().for_each(|warning| caller.warn(warning));
    let mut tree = decoded.value;
    tree.set(&["apiVersion"], kind.api_version());
    tree.set(&["kind"], kind.kind.clone());
    api::schema::apply_defaults(ty, &mut tree);
    Ok(tree)
}

/// The type of a kind that no resource serves by itself, as `Scale`.
pub fn type_of(kind: &GroupVersionKind) -> Result<TypeId, Status> {
    api::table::types()
        .of_kind(&kind.group, &kind.version, &kind.kind)
        .ok_or_else(|| Status::internal(format_args!("the table has no type for {}", kind.kind)))
}

fn unrecognized(kind: &GroupVersionKind, why: &DecodeError, body: &[u8]) -> Status {
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): {why} ({})",
        kind.kind,
        api::schema::summary(body)
    ))
}

fn cannot_be_handled(kind: &GroupVersionKind, why: &DecodeError) -> Status {
    let name = &kind.kind;
    Status::bad_request(format!(
        "{name} in version \"{}\" cannot be handled as a {name}: {why}",
        kind.version
    ))
}

/// Whether a tree says nothing of what it is but `kind`.
fn is_said(kind: &GroupVersionKind, tree: &Value) -> bool {
    let is = |key: &str, expect: &str| tree.get(key).is_none_or(|said| said.as_str() == Some(expect));
    is("kind", &kind.kind) && is("apiVersion", &kind.api_version())
}

/// `apiVersion` and `kind` may be absent, but not others than the request's.
fn check_envelope(kind: &GroupVersionKind, said: &TypeMeta) -> Result<(), Status> {
    let expected = kind.api_version();
    if !said.kind.is_empty() && said.kind != kind.kind {
        let (group, version) = api::names::split_api_version(&said.api_version);
        if api::table::types().of_kind(group, version, &said.kind).is_none() {
            return Err(Status::bad_request(format!(
                "{0} in version \"{version}\" cannot be handled as a {1}: no kind \"{0}\" is registered for version \
                 \"{2}\" in scheme \"pkg/runtime/scheme.go:111\"",
                said.kind, kind.kind, said.api_version
            )));
        }
        return Err(Status::bad_request(format!(
            "{} in version \"{version}\" cannot be handled as a {}: converting ({version}.{}) to ({}.{}): unknown \
             conversion",
            said.kind,
            kind.kind,
            said.kind,
            // Upstream's package of the kinds that it works with inside.
            kind.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core"),
            kind.kind
        )));
    }
    if !said.api_version.is_empty() && said.api_version != expected {
        return Err(Status::bad_request(format!(
            "{0} in version \"{1}\" cannot be handled as a {0}: no kind \"{0}\" is registered for version \"{2}\" in \
             scheme \"pkg/runtime/scheme.go:111\"",
            kind.kind,
            api::names::split_api_version(&said.api_version).1,
            said.api_version
        )));
    }
    Ok(())
}

/// Writes what upstream writes although it is empty, after strategies have cleared and set fields.
pub fn complete(kind: &Kind, tree: &mut Value) {
    api::schema::finish(kind.stored_facts.ty, tree);
}

/// What the rules of metadata say against a new object.
pub fn validate_metadata(kind: &Kind, tree: &Value) -> Vec<Cause> {
    let empty = Value::object();
    let metadata = tree.get("metadata").unwrap_or(&empty);
    api::validation::metadata::on_create(metadata, kind.namespaced, kind.name_rule)
}

/// What the table and the rules of metadata say against a changed object.
pub fn validate_update(kind: &Kind, new: &Value, old: &Value, subresource: &str) -> Vec<Cause> {
    let empty = Value::object();
    let (new_metadata, old_metadata) =
        (new.get("metadata").unwrap_or(&empty), old.get("metadata").unwrap_or(&empty));
    let mut causes = api::validation::metadata::on_update(new_metadata, old_metadata);
    if crate::strategy::judges_finalizers_again(&kind.group_resource) {
        causes.extend(api::validation::metadata::finalizer_names(new_metadata));
    }
    if subresource != "status" {
        causes.extend(api::schema::validate(kind.stored_facts.ty, new));
    }
    causes
}

/// The record of a tree, if it is not too large.
pub fn record(kind: &Kind, tree: &Value) -> Result<Arc<Record>, Status> {
    let body = Object::body_of(tree);
    check_size(body.len())?;
    Ok(Record::of(kind, tree, body.into()))
}

/// Refuses objects that are too large to keep.
pub fn check_size(bytes: usize) -> Result<(), Status> {
    if bytes > limits::OBJECT_BYTES {
        return Err(Status::new(
            Reason::RequestEntityTooLarge,
            format!(
                "Request entity too large: the object has {bytes} bytes, limit is {}",
                limits::OBJECT_BYTES
            ),
        ));
    }
    Ok(())
}

/// A stored object as a request in the version of `kind` gets it; the shared one itself wherever that is the
/// stored version.
pub fn answer(kind: &'static Kind, object: &Arc<Object>) -> Result<Arc<Object>, Status> {
    if kind.is_stored_version() {
        return Ok(Arc::clone(object));
    }
    let tree = convert::from_stored(kind, object.to_tree())?;
    Ok(Arc::new(of_tree(kind, &tree, object.revision())?))
}

/// A tree in the storage version that is not stored (a dry run, a last state) as a request gets it.
pub fn answer_tree(kind: &'static Kind, tree: &Value, revision: u64) -> Result<Arc<Object>, Status> {
    let tree =
        if kind.is_stored_version() { tree.clone() } else { convert::from_stored(kind, tree.clone())? };
    Ok(Arc::new(of_tree(kind, &tree, revision)?))
}

fn of_tree(kind: &Kind, tree: &Value, revision: u64) -> Result<Object, Status> {
    Object::from_body(Arc::clone(&kind.kind), revision, Object::body_of(tree).into(), Vec::new())
        .map_err(Status::internal)
}

/// A stored tree in the version of the request: what a patch is applied to.
pub fn to_request_version(kind: &'static Kind, tree: &Value) -> Result<Value, Status> {
    if kind.is_stored_version() { Ok(tree.clone()) } else { convert::from_stored(kind, tree.clone()) }
}

/// Patches a tree in the version of the request. Strategic merges need the table's facts of the kind.
pub fn patched(kind: &Kind, how: PatchKind, current: Value, patch: &Value) -> Result<Value, Status> {
    match how {
        PatchKind::Json => api::patch::json::apply(current, patch),
        PatchKind::Merge => api::patch::merge::apply(current, patch.clone()),
        PatchKind::StrategicMerge => api::patch::strategic::apply(current, patch.clone(), kind.facts.ty),
        PatchKind::Apply => Err(Status::internal("an apply was not refused where it is read")),
    }
}

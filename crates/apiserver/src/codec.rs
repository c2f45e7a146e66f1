//! From bytes to trees and back: where the pipeline meets the table's schema.
//!
//! Trees inside the gate are in the storage version; what clients send and get is in the version of the request.

use std::sync::Arc;

use api::interface::WriteOptions;
use api::object::Object;
use api::status::{Cause, Reason, Status};
use api::value::{Duplicate, Value};

use crate::caller::Caller;
use crate::convert;
use crate::kinds::Kind;
use crate::limits;
use crate::storage::Record;

/// How many bytes of a strange body an error shows.
const SUMMARY_BYTES: usize = 30;

/// How unknown and duplicate fields are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strictness {
    Ignore,
    Warn,
    Strict,
}

impl Strictness {
    fn of(options: &WriteOptions) -> Self {
        match options.field_validation.as_str() {
            "Ignore" => Self::Ignore,
            "Strict" => Self::Strict,
            _ => Self::Warn,
        }
    }
}

/// Reads what a client sent: an object of `kind`, which comes back in the storage version, pruned and defaulted.
pub fn decode(
    kind: &'static Kind,
    body: &[u8],
    options: &WriteOptions,
    caller: &Caller<'_>,
) -> Result<Value, Status> {
    let (tree, duplicates) = if Strictness::of(options) == Strictness::Ignore {
        (api::value::parse(body), Vec::new())
    } else {
        match api::value::parse_tracking_duplicates(body) {
            Ok(parsed) => (Ok(parsed.value), parsed.duplicates),
            Err(error) => (Err(error), Vec::new()),
        }
    };
    let tree = tree.map_err(|error| unrecognized(kind, &error.to_string(), body))?;
    decode_tree(kind, tree, options, caller, duplicates)
}

fn unrecognized(kind: &Kind, why: &str, body: &[u8]) -> Status {
    let shown = String::from_utf8_lossy(&body[..body.len().min(SUMMARY_BYTES)]).into_owned();
    let dots = if body.len() > SUMMARY_BYTES { " ..." } else { "" };
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): {why} ({shown}{dots})",
        kind.kind.kind
    ))
}

/// The same for a tree, as a patch makes it.
pub fn decode_tree(
    kind: &'static Kind,
    mut tree: Value,
    options: &WriteOptions,
    caller: &Caller<'_>,
    duplicates: Vec<Duplicate>,
) -> Result<Value, Status> {
    check_envelope(kind, &mut tree)?;
    let strictness = Strictness::of(options);
    let unknown = api::schema::decode(kind.facts, &mut tree)
        .map_err(|error| cannot_be_handled(kind, &error.to_string()))?;
    if strictness != Strictness::Ignore {
        let problems: Vec<String> = duplicates
            .into_iter()
            .map(|duplicate| format!("duplicate field \"{}\"", duplicate.path))
            .chain(unknown.into_iter().map(|path| format!("unknown field \"{path}\"")))
            .collect();
        if strictness == Strictness::Strict && !problems.is_empty() {
            return Err(cannot_be_handled(kind, &format!("strict decoding error: {}", problems.join(", "))));
        }
        problems.into_iter().for_each(|problem| caller.warn(problem));
    }
    api::schema::default(kind.facts, &mut tree);
    let mut tree = convert::to_stored(kind, tree)?;
    kind.strategy.default(&mut tree);
    Ok(tree)
}

fn cannot_be_handled(kind: &Kind, why: &str) -> Status {
    let name = &kind.kind.kind;
    Status::bad_request(format!("{name} in version \"{}\" cannot be handled as a {name}: {why}", kind.kind.version))
}

/// `apiVersion` and `kind` may be absent, but not others than the request's.
fn check_envelope(kind: &Kind, tree: &mut Value) -> Result<(), Status> {
    if tree.as_object().is_none() {
        return Err(unrecognized(
            kind,
            &format!("json: cannot unmarshal {} into Go value of type runtime.TypeMeta", tree.type_name()),
            &tree.to_bytes(),
        ));
    }
    let expected = kind.api_version();
    let version = tree.str_at(&["apiVersion"]).unwrap_or_default();
    if !version.is_empty() && version != expected {
        return Err(Status::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({expected})"
        )));
    }
    let name = tree.str_at(&["kind"]).unwrap_or_default();
    if !name.is_empty() && name != kind.kind.kind {
        return Err(Status::bad_request(format!(
            "{name} in version \"{}\" cannot be handled as a {}: converting ({name}) to ({}): unknown conversion",
            kind.kind.version, kind.kind.kind, kind.kind.kind
        )));
    }
    tree.set(&["apiVersion"], expected);
    tree.set(&["kind"], kind.kind.kind.clone());
    Ok(())
}

/// Writes what upstream writes although it is empty, after strategies have cleared and set fields.
pub fn complete(kind: &Kind, tree: &mut Value) {
    api::schema::complete(kind.stored_facts, tree);
}

/// What the table and the rules of metadata say against a new object.
pub fn validate_create(kind: &Kind, tree: &Value) -> Vec<Cause> {
    let empty = Value::object();
    let metadata = tree.get("metadata").unwrap_or(&empty);
    let mut causes = api::validation::metadata::on_create(metadata, kind.namespaced, kind.name_rule);
    causes.extend(api::schema::validate(kind.stored_facts, tree));
    causes
}

/// The same for a changed object.
pub fn validate_update(kind: &Kind, new: &Value, old: &Value, subresource: &str) -> Vec<Cause> {
    let empty = Value::object();
    let metadata = |tree: &'_ Value| tree.get("metadata").cloned().unwrap_or_else(|| empty.clone());
    let mut causes = api::validation::metadata::on_update(&metadata(new), &metadata(old));
    if subresource != "status" {
        causes.extend(api::schema::validate(kind.stored_facts, new));
        causes.extend(api::schema::validate_update(kind.stored_facts, new, old));
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
            format!("Request entity too large: the object has {bytes} bytes, limit is {}", limits::OBJECT_BYTES),
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
    let tree = if kind.is_stored_version() { tree.clone() } else { convert::from_stored(kind, tree.clone())? };
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

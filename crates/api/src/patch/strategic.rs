//! Kubernetes' strategic merge patch: a merge patch that knows which lists are merged, and by which key.
//!
//! Written after apimachinery's `strategicpatch`, directives and errors included: `$patch` (replace, delete),
//! `$deleteFromPrimitiveList/FIELD`, `$setElementOrder/FIELD`, `$retainKeys`. What to do with a field is a fact of
//! its type in the table.

mod lists;

use std::collections::HashSet;

use crate::status::{Details, Reason, Status};
use crate::table::{self, Patch, Shape, ShapeId, TypeId};
use crate::value::{Map, Str, Value};

use lists::{merge_lists, ordered};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";
const ELEMENT_ORDER: &str = "$setElementOrder";

/// The one struct that a patch replaces rather than merges (`patchStrategy:"replace"`): type and field.
const REPLACED: (&str, &str) = ("policy/v1.PodDisruptionBudgetSpec", "selector");

/// Why a patch cannot be done.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    /// A directive is malformed: a bad request.
    Format(&'static str),
    /// What cannot be merged at all: unprocessable.
    Unprocessable,
    /// Anything else; upstream answers it with a code of 500 and the bare words.
    Other(String),
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Format(words) => Self::bad_request(words),
            Failure::Unprocessable => {
                let words = "the server rejected our request due to an error in our request";
                let mut status = Self::new(Reason::Invalid, words);
                status.details = Some(Box::new(Details::default()));
                status
            }
            Failure::Other(words) => {
                Self { code: 500, reason: Reason::Unknown, message: words, details: None }
            }
        }
    }
}

fn other<T>(words: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Other(words.into()))
}

/// Merges `patch` into `document`, an object of the type `ty`.
pub fn apply(document: Value, patch: Value, ty: TypeId) -> Result<Value, Status> {
    let patch = match patch {
        Value::Object(patch) => patch,
        Value::Null => Map::new(),
        wrong => {
            let word = wrong.type_name();
            let words =
                format!("json: cannot unmarshal {word} into Go value of type map[string]interface {{}}");
            return Err(Status::bad_request(words));
        }
    };
    let document = match document {
        Value::Object(document) => document,
        _ => Map::new(),
    };
    Ok(Value::Object(merge_maps(document, patch, Schema::Struct(ty))?))
}

/// What is known of an object's members.
#[derive(Clone, Copy)]
enum Schema {
    Struct(TypeId),
    /// Go's word for what it is instead.
    No(&'static str),
}

impl Schema {
    fn of(shape: ShapeId) -> Self {
        match table::types().bare(shape) {
            Shape::Struct(ty) => Self::Struct(ty),
            Shape::Map(..) => Self::No("map"),
            Shape::List(_) | Shape::Bytes => Self::No("slice"),
            Shape::Bool => Self::No("bool"),
            Shape::Int32 => Self::No("int32"),
            Shape::Int64 => Self::No("int64"),
            Shape::Float64 => Self::No("float64"),
            Shape::String => Self::No("string"),
            _ => Self::No("struct"),
        }
    }

    /// Whether a patch replaces the struct in a member.
    fn replaces(self, name: &str) -> bool {
        matches!(self, Self::Struct(ty) if name == REPLACED.1 && table::types().get(ty).name == REPLACED.0)
    }

    /// The schema behind a member (of its elements if it is a list), and how it is patched.
    fn member(self, name: &str) -> Result<(Self, Patch), Failure> {
        let types = table::types();
        match self {
            Self::Struct(ty) => {
                let ty = types.get(ty);
                let Some(field) = ty.field(name) else {
                    return other(format!(
                        "unable to find api field in struct {} for the json field {name:?}",
                        ty.short_name()
                    ));
                };
                let shape = match types.bare(field.shape) {
                    Shape::List(element) => element,
                    _ => field.shape,
                };
                Ok((Self::of(shape), field.patch))
            }
            Self::No(kind) => {
                other(format!("merging an object in json but data type is not struct, instead is: {kind}"))
            }
        }
    }
}

fn merge_maps(original: Map, mut patch: Map, schema: Schema) -> Result<Map, Failure> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(DIRECTIVE);
                Ok(patch)
            }
            Some("delete") => Ok(Map::new()),
            _ => Err(unknown_directive(directive, &patch)),
        };
    }
    let mut original = original;
    retain_keys(&mut original, &mut patch)?;
    order_lists(&mut original, &mut patch, schema)?;
    for (key, change) in patch {
        merge_member(&mut original, &key, change, schema)?;
    }
    Ok(original)
}

fn merge_member(original: &mut Map, key: &Str, mut change: Value, schema: Schema) -> Result<(), Failure> {
    let mut key = key.as_str();
    let deleting = key.starts_with(DELETE_FROM_LIST);
    if deleting {
        key = behind(key, DELETE_FROM_LIST, "invalid patch format of primitive list")?;
    }
    if change.is_null() {
        original.remove(key);
        return Ok(());
    }
    match (original.get_mut(key), change) {
        (Some(Value::Object(present)), Value::Object(change)) => {
            let (inner, _) = schema.member(key)?;
            *present = if schema.replaces(key) {
                change
            } else {
                merge_maps(std::mem::take(present), change, inner)?
            };
        }
        (Some(Value::Array(present)), Value::Array(change)) => {
            let (schema, how) = schema.member(key)?;
            *present = merge_or_replace(std::mem::take(present), change, schema, how, deleting)?;
        }
        _ if deleting => {}
        (_, new) => {
            change = new;
            drop_nulls(&mut change);
            match without_directives(change) {
                Some(change) => drop(original.insert(key, change)),
                None => drop(original.remove(key)),
            }
        }
    }
    Ok(())
}

fn merge_or_replace(
    original: Vec<Value>,
    patch: Vec<Value>,
    schema: Schema,
    how: Patch,
    deleting: bool,
) -> Result<Vec<Value>, Failure> {
    if how.merge || deleting { merge_lists(original, patch, schema, how.key, deleting) } else { Ok(patch) }
}

/// `$retainKeys`: what it does not name goes; what the patch sets it must name.
fn retain_keys(original: &mut Map, patch: &mut Map) -> Result<(), Failure> {
    const WRONG: Failure = Failure::Format("invalid patch format of retainKeys");
    let Some(retained) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(retained) = retained else { return Err(WRONG) };
    let retained: HashSet<&str> = retained.iter().filter_map(Value::as_str).collect();
    let keeps = |key: &str| retained.contains(key);
    let directive = |key: &str| key.starts_with(DELETE_FROM_LIST) || key.starts_with(ELEMENT_ORDER);
    if patch.iter().any(|(key, value)| !value.is_null() && !directive(key) && !keeps(key)) {
        return Err(WRONG);
    }
    original.retain(|key, _| keeps(key));
    Ok(())
}

/// `$setElementOrder/FIELD`: merges the list and puts it into the order named, elements that only the server has
/// keeping their places among the others.
fn order_lists(original: &mut Map, patch: &mut Map, schema: Schema) -> Result<(), Failure> {
    let keys: Vec<Str> = patch.keys().filter(|key| key.starts_with(ELEMENT_ORDER)).cloned().collect();
    for key in keys {
        let order = list_of(patch.remove(&key))?.unwrap_or_default();
        let field = behind(&key, ELEMENT_ORDER, "invalid patch format of setElementOrder list")?;
        let present = list_of(original.get(field).cloned())?;
        let change = list_of(patch.get(field).cloned())?;
        let (schema, how) = schema.member(field)?;
        lists::check_order(change.as_deref().unwrap_or(&[]), &order, how.key)?;
        let kind = || lists::element_kind([present.as_deref(), change.as_deref()].into_iter().flatten());
        let merged = match (&present, &change) {
            (Some(present), None) => present.clone(),
            (None, Some(change)) => change.iter().cloned().filter_map(without_directives).collect(),
            (Some(present), Some(change)) => {
                merge_or_replace(present.clone(), change.clone(), schema, how, false)?
            }
            (None, None) => continue,
        };
        let kind = kind()?;
        let server = match (&present, &change) {
            (Some(present), Some(change)) if how.merge => lists::left_behind(present, change, how.key, kind),
            (present, _) => present.clone().unwrap_or_default(),
        };
        let sorted = ordered(merged, &order, &server, how.key, kind)?;
        original.insert(field, Value::Array(sorted));
        patch.remove(field);
    }
    Ok(())
}

fn list_of(value: Option<Value>) -> Result<Option<Vec<Value>>, Failure> {
    match value {
        None => Ok(None),
        Some(Value::Array(elements)) => Ok(Some(elements)),
        Some(wrong) => other(format!("expected a []interface {{}}, but received a {}", go_type(&wrong))),
    }
}

/// The name of a field behind a directive and a slash.
fn behind<'a>(key: &'a str, directive: &str, wrong: &'static str) -> Result<&'a str, Failure> {
    key.strip_prefix(directive).and_then(|rest| rest.strip_prefix('/')).ok_or(Failure::Format(wrong))
}

/// Members that are null go, also inside of lists: there is nothing that they could delete.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => map.retain(|_, value| {
            drop_nulls(value);
            !value.is_null()
        }),
        Value::Array(elements) => elements.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The value without objects that carry `$patch`; `None` if it is one.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            if map.contains_key(DIRECTIVE) {
                return None;
            }
            let kept = map.into_iter().filter_map(|(key, value)| Some((key, without_directives(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(elements) => {
            Some(Value::Array(elements.into_iter().filter_map(without_directives).collect()))
        }
        other => Some(other),
    }
}

fn unknown_directive(directive: &Value, map: &Map) -> Failure {
    Failure::Other(format!("unknown patch type: {} in map: {}", go_text(directive), go_map(map)))
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int64",
        Value::Float(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) | Value::Written(_) => "map[string]interface {}",
    }
}

/// A value as Go's `%v` writes it.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.to_string(),
        Value::Array(elements) => {
            let elements: Vec<String> = elements.iter().map(go_text).collect();
            format!("[{}]", elements.join(" "))
        }
        Value::Object(map) => go_map(map),
        other => other.to_string(),
    }
}

fn go_map(map: &Map) -> String {
    let members: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", go_text(value))).collect();
    format!("map[{}]", members.join(" "))
}

#[cfg(test)]
mod tests;

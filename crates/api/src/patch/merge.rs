//! JSON merge patch (RFC 7386), with what upstream's library makes of nulls inside of lists.

use crate::status::Status;
use crate::value::{Map, Value};

/// Merges `patch` into `document`.
pub fn apply(document: Value, patch: Value) -> Result<Value, Status> {
    let patch = match patch {
        Value::Object(patch) => patch,
        Value::Null => return Err(Status::bad_request("Invalid JSON Patch")),
        other => {
            let word = match other {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                _ => "number",
            };
            return Err(Status::bad_request(format!(
                "error decoding patch: json: cannot unmarshal {word} into Go value of type map[string]interface {{}}"
            )));
        }
    };
    let mut document = document;
    match document.as_object_mut() {
        Some(members) => {
            merge_members(members, patch);
            Ok(document)
        }
        None => Ok(without_nulls(Value::Object(patch))),
    }
}

fn merge_members(members: &mut Map, patch: Map) {
    for (key, change) in patch {
        match change {
            Value::Null => {
                members.remove(&key);
            }
            Value::Object(change) => {
                let slot = members.entry(&key);
                match slot.as_object_mut() {
                    Some(inner) => merge_members(inner, change),
                    None => *slot = without_nulls(Value::Object(change)),
                }
            }
            // A list in place of an object is taken as it is; in place of anything else it loses the nulls of its
            // elements' members.
            change if matches!(members.get(&key), Some(Value::Object(_))) => {
                members.insert(key, change);
            }
            change => {
                members.insert(key, without_nulls(change));
            }
        }
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(elements) => Value::Array(elements.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::parse;

    fn check(document: &str, patch: &str, expect: &str) {
        let read = |text: &str| parse(text.as_bytes()).unwrap();
        assert_eq!(apply(read(document), read(patch)).unwrap().to_string(), expect, "{document} {patch}");
    }

    #[test]
    fn members_merge_and_nulls_delete() {
        check(r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#);
        check(r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#);
        check(r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#);
        check(r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#);
        check(r#"{"a":"b"}"#, r#"{"a":{"b":null}}"#, r#"{"a":{}}"#);
        check(r#"{}"#, r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#);
        check(r#"{"a":1}"#, r#"{"a":[null,{"b":null}]}"#, r#"{"a":[null,{}]}"#);
    }

    #[test]
    fn a_patch_is_an_object() {
        assert_eq!(apply(Value::object(), Value::Null).unwrap_err().message, "Invalid JSON Patch");
        assert_eq!(
            apply(Value::object(), Value::Array(vec![])).unwrap_err().message,
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
        );
    }
}

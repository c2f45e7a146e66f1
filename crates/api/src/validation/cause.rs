//! The kinds of causes, worded as upstream's `field.Error`.

use std::fmt::Display;

use crate::status::Cause;
use crate::value::Value;

fn cause(
    reason: &'static str,
    field: impl Display,
    word: &str,
    value: Option<&Value>,
    detail: &str,
) -> Cause {
    let mut message = word.to_owned();
    if let Some(value) = value {
        message.push_str(": ");
        message.push_str(&shown(value));
    }
    if !detail.is_empty() {
        message.push_str(": ");
        message.push_str(detail);
    }
    Cause { reason: reason.into(), message, field: field.to_string() }
}

/// A value as messages show it: strings quoted as Go does, numbers and truth values plain, all else as JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        other => other.to_string(),
    }
}

/// The text in quotes, escaped as Go's `%q`.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            ' '..='~' => out.push(c),
            c if u32::from(c) < 0x80 => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() || c.is_whitespace() || c == '\u{feff}' || c == '\u{ad}' => {
                let code = u32::from(c);
                out.push_str(&if code < 0x1_0000 {
                    format!("\\u{code:04x}")
                } else {
                    format!("\\U{code:08x}")
                });
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A value is missing.
pub fn required(field: impl Display, detail: &str) -> Cause {
    cause("FieldValueRequired", field, "Required value", None, detail)
}

/// A value is malformed or out of bounds.
pub fn invalid(field: impl Display, value: impl Into<Value>, detail: &str) -> Cause {
    cause("FieldValueInvalid", field, "Invalid value", Some(&value.into()), detail)
}

/// A value is malformed or out of bounds; `shown` is the value as the message has it.
pub fn invalid_shown(field: impl Display, shown: &str, detail: &str) -> Cause {
    cause("FieldValueInvalid", field, &format!("Invalid value: {shown}"), None, detail)
}

/// A value is of the wrong type.
pub fn type_invalid(field: impl Display, value: impl Into<Value>, detail: &str) -> Cause {
    cause("FieldValueTypeInvalid", field, "Invalid value", Some(&value.into()), detail)
}

/// A value that must be unique is there twice.
pub fn duplicate(field: impl Display, value: impl Into<Value>) -> Cause {
    cause("FieldValueDuplicate", field, "Duplicate value", Some(&value.into()), "")
}

/// What a value names is not there.
pub fn not_found(field: impl Display, value: impl Into<Value>) -> Cause {
    cause("FieldValueNotFound", field, "Not found", Some(&value.into()), "")
}

/// A value is none of those that are known.
pub fn not_supported(field: impl Display, value: impl Into<Value>, known: &[&str]) -> Cause {
    let detail = if known.is_empty() {
        String::new()
    } else {
        let known: Vec<String> = known.iter().map(|word| quoted(word)).collect();
        format!("supported values: {}", known.join(", "))
    };
    cause("FieldValueNotSupported", field, "Unsupported value", Some(&value.into()), &detail)
}

/// A value may not be given here.
pub fn forbidden(field: impl Display, detail: &str) -> Cause {
    cause("FieldValueForbidden", field, "Forbidden", None, detail)
}

/// A value is longer than `max_bytes`.
pub fn too_long(field: impl Display, max_bytes: usize) -> Cause {
    let unit = if max_bytes == 1 { "byte" } else { "bytes" };
    cause("FieldValueTooLong", field, "Too long", None, &format!("may not be more than {max_bytes} {unit}"))
}

/// A value has more than `max` characters.
pub fn too_long_characters(field: impl Display, max: usize) -> Cause {
    let unit = if max == 1 { "character" } else { "characters" };
    cause("FieldValueTooLong", field, "Too long", None, &format!("may not be more than {max} {unit}"))
}

/// A value has fewer than `min` characters.
pub fn too_short(field: impl Display, min: usize) -> Cause {
    let unit = if min == 1 { "character" } else { "characters" };
    cause("FieldValueTooShort", field, "Too short", None, &format!("must be at least {min} {unit}"))
}

/// A list has `actual` items, more than `max`.
pub fn too_many(field: impl Display, actual: usize, max: usize) -> Cause {
    let unit = if max == 1 { "item" } else { "items" };
    let actual = Value::Int(i64::try_from(actual).unwrap_or(i64::MAX));
    cause("FieldValueTooMany", field, "Too many", Some(&actual), &format!("must have at most {max} {unit}"))
}

/// A list has `actual` items, fewer than `min`.
pub fn too_few(field: impl Display, actual: usize, min: usize) -> Cause {
    let unit = if min == 1 { "item" } else { "items" };
    let actual = Value::Int(i64::try_from(actual).unwrap_or(i64::MAX));
    cause("FieldValueTooFew", field, "Too few", Some(&actual), &format!("must have at least {min} {unit}"))
}

/// Something failed that is not the value's fault.
pub fn internal(field: impl Display, detail: &str) -> Cause {
    cause("InternalError", field, "Internal error", None, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn causes_are_worded_as_upstreams() {
        let check = |cause: Cause, expect: &str| assert_eq!(cause.to_string(), expect);
        check(required("spec.a", ""), "spec.a: Required value");
        check(required("spec.a", "say it"), "spec.a: Required value: say it");
        check(invalid("a", "x\"\n\u{1}é", "no"), r#"a: Invalid value: "x\"\n\x01é": no"#);
        check(invalid("a", 3, "no"), "a: Invalid value: 3: no");
        check(invalid("a", json!({"b": [true]}), "no"), r#"a: Invalid value: {"b":[true]}: no"#);
        check(duplicate("a", "b"), r#"a: Duplicate value: "b""#);
        check(
            not_supported("a", "b", &["c", "d"]),
            r#"a: Unsupported value: "b": supported values: "c", "d""#,
        );
        check(forbidden("a", "no"), "a: Forbidden: no");
        check(too_long("a", 1), "a: Too long: may not be more than 1 byte");
        check(too_many("a", 3, 2), "a: Too many: 3: must have at most 2 items");
    }
}

//! A compact JSON tree.
//!
//! Objects are sorted vectors of pairs (large ones trees) and short strings need no heap block, so that a pod costs some dozens of
//! allocations rather than the 751 of `serde_json::Value`. Only the write path builds trees.

mod map;
mod parse;
mod write;

use compact_str::CompactString;

pub use map::Map;
pub use parse::{Duplicate, MAX_DEPTH, ParseError, Parsed, parse, parse_tracking_duplicates};
pub use write::{plain_bytes, write_number, write_string};

/// A string that needs no heap block up to 24 bytes.
pub type Str = CompactString;

/// Any JSON value. Whole numbers that fit are `Int`, as Go's `int64`; all others are `Float`.
#[derive(Clone, Debug, Default)]
pub enum Value {
    /// `null`
    #[default]
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A string.
    String(Str),
    /// An array.
    Array(Vec<Value>),
    /// An object.
    Object(Map),
    /// An object as [`Value::write_to`] writes it, for what is made only to be written: the fields that somebody owns.
    /// Nothing is found in it; it equals the object that it is the text of. No parser makes one.
    Written(Box<str>),
}

impl Value {
    /// An empty object.
    pub fn object() -> Self {
        Self::Object(Map::default())
    }

    /// The string inside, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number inside, if it is one. A float without a fraction counts.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Float(number) if number.fract() == 0.0 && number.abs() < 9.0e18 => Some(*number as i64),
            _ => None,
        }
    }

    /// The truth value inside, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(truth) => Some(*truth),
            _ => None,
        }
    }

    /// The elements, if it is an array.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(elements) => Some(elements),
            _ => None,
        }
    }

    /// The elements to change, if it is an array.
    pub fn as_array_mut(&mut self) -> Option<&mut Vec<Value>> {
        match self {
            Self::Array(elements) => Some(elements),
            _ => None,
        }
    }

    /// The members, if it is an object.
    pub fn as_object(&self) -> Option<&Map> {
        match self {
            Self::Object(map) => Some(map),
            _ => None,
        }
    }

    /// The members to change, if it is an object.
    pub fn as_object_mut(&mut self) -> Option<&mut Map> {
        match self {
            Self::Object(map) => Some(map),
            _ => None,
        }
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Whether Go would call it empty: null, false, zero, or without characters, elements or members.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(truth) => !truth,
            Self::Int(number) => *number == 0,
            Self::Float(number) => *number == 0.0,
            Self::String(text) => text.is_empty(),
            Self::Array(elements) => elements.is_empty(),
            Self::Object(map) => map.is_empty(),
            Self::Written(text) => &**text == "{}",
        }
    }

    /// The word for its type that upstream's messages use.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) | Self::Float(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) | Self::Written(_) => "object",
        }
    }

    /// The member `key` of an object.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_object()?.get(key)
    }

    /// The value at a path of member names: `at(&["metadata", "name"])`.
    pub fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(self, |value, key| value.get(key))
    }

    /// The string at a path.
    pub fn str_at(&self, path: &[&str]) -> Option<&str> {
        self.at(path)?.as_str()
    }

    /// The whole number at a path.
    pub fn int_at(&self, path: &[&str]) -> Option<i64> {
        self.at(path)?.as_int()
    }

    /// The truth value at a path.
    pub fn bool_at(&self, path: &[&str]) -> Option<bool> {
        self.at(path)?.as_bool()
    }

    /// The elements at a path; none if there is no array.
    pub fn array_at(&self, path: &[&str]) -> &[Value] {
        self.at(path).and_then(Value::as_array).unwrap_or(&[])
    }

    /// The value at a path, to change.
    pub fn at_mut(&mut self, path: &[&str]) -> Option<&mut Value> {
        path.iter().try_fold(self, |value, key| value.as_object_mut()?.get_mut(key))
    }

    /// Puts `value` at a path, making the objects on the way; what is there and no object is replaced.
    pub fn set(&mut self, path: &[&str], value: impl Into<Value>) {
        let Some((first, rest)) = path.split_first() else {
            *self = value.into();
            return;
        };
        if !matches!(self, Self::Object(_)) {
            *self = Self::object();
        }
        let Self::Object(map) = self else { unreachable!("it was just made an object") };
        map.entry(first).set(rest, value);
    }

    /// Takes away what is at a path.
    pub fn remove(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        self.at_mut(parents)?.as_object_mut()?.remove(last)
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a == b,
            (Self::String(a), Self::String(b)) => a == b,
            (Self::Array(a), Self::Array(b)) => a == b,
            (Self::Object(a), Self::Object(b)) => a == b,
            (Self::Written(a), Self::Written(b)) => a == b,
            (Self::Written(text), object @ Self::Object(_))
            | (object @ Self::Object(_), Self::Written(text)) => object.to_bytes() == text.as_bytes(),
            _ => false,
        }
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Int(i64::from(number))
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text.into())
    }
}

impl From<Str> for Value {
    fn from(text: Str) -> Self {
        Self::String(text)
    }
}

impl From<Map> for Value {
    fn from(map: Map) -> Self {
        Self::Object(map)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(elements: Vec<T>) -> Self {
        Self::Array(elements.into_iter().map(Into::into).collect())
    }
}

/// A [`Value`] written as JSON in place: `json!({"spec": {"replicas": 3}})`. For our own constant documents and
/// tests; what strangers send goes through [`parse`].
#[macro_export]
macro_rules! json {
    (null) => { $crate::value::Value::Null };
    ([ $($element:tt),* $(,)? ]) => { $crate::value::Value::Array(vec![ $( $crate::json!($element) ),* ]) };
    ({ $($key:literal : $value:tt),* $(,)? }) => {
        $crate::value::Value::Object($crate::value::Map::from_pairs(vec![
            $( ($crate::value::Str::from($key), $crate::json!($value)) ),*
        ]))
    };
    ($other:expr) => { $crate::value::Value::from($other) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_set_and_remove() {
        let mut value = json!({"metadata": {"name": "a"}, "spec": {"replicas": 3}});
        assert_eq!(value.str_at(&["metadata", "name"]), Some("a"));
        value.set(&["metadata", "labels", "app"], "b");
        assert_eq!(value.str_at(&["metadata", "labels", "app"]), Some("b"));
        assert_eq!(value.remove(&["spec", "replicas"]), Some(Value::Int(3)));
        assert_eq!(value.to_string(), r#"{"metadata":{"labels":{"app":"b"},"name":"a"},"spec":{}}"#);
    }

    #[test]
    fn what_is_written_already_equals_its_object() {
        let object = json!({"a": {"b": [1, "x"]}, "c": null});
        let written = Value::Written(object.to_string().into());
        assert_eq!(written, object);
        assert_eq!(object, written);
        assert_ne!(written, json!({"a": 1}));
        assert_eq!(json!({"in": (written.clone())}).to_string(), json!({"in": (object.clone())}).to_string());
        assert_eq!(serde_json::to_value(&written).unwrap(), serde_json::to_value(&object).unwrap());
        assert!(!written.is_empty() && Value::Written("{}".into()).is_empty());
    }

    #[test]
    fn plain_bytes_end_before_the_first_that_is_escaped() {
        for (text, expect) in
            [("", 0), ("abc", 3), ("abc\"d", 3), ("0123456789abcdef\n", 16), ("0123456789abcdefgh\\", 18)]
        {
            assert_eq!(plain_bytes(text.as_bytes()), expect, "{text:?}");
        }
        assert_eq!(plain_bytes("é".repeat(40).as_bytes()), 80);
    }

    #[test]
    fn a_value_is_four_words() {
        assert!(size_of::<Value>() <= 32);
    }
}

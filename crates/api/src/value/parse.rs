//! Reading JSON text, with upstream's limits.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};

use super::{Map, Str, Value};

/// How deep objects and arrays may nest. Upstream's reader stops at 10,000; no kind needs a hundred, and a
/// bounded depth bounds the stack of everything that walks a tree.
pub const MAX_DEPTH: usize = 100;

/// Why a text is not JSON that we take.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseError {
    /// Not JSON; the message names line and column.
    #[error("{0}")]
    Syntax(String),
}

/// A member that occurred twice; upstream's strict decoding reports its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duplicate {
    /// As `spec.containers[0].name`.
    pub path: String,
}

/// A tree and what was odd about its text.
#[derive(Debug)]
pub struct Parsed {
    /// The tree; of duplicate members the last won.
    pub value: Value,
    /// The members that occurred more than once, in the order of the text.
    pub duplicates: Vec<Duplicate>,
}

/// Reads one JSON value; nothing but white space may follow it.
pub fn parse(text: &[u8]) -> Result<Value, ParseError> {
    read(text, &Context::default())
}

/// Like [`parse`], and says which members were given twice.
pub fn parse_tracking_duplicates(text: &[u8]) -> Result<Parsed, ParseError> {
    let context = Context { path: Some(RefCell::default()), duplicates: RefCell::default() };
    let value = read(text, &context)?;
    Ok(Parsed { value, duplicates: context.duplicates.into_inner() })
}

fn read(text: &[u8], context: &Context) -> Result<Value, ParseError> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Seed { context, depth: 0 }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| ParseError::Syntax(error.to_string()))?;
    Ok(value)
}

#[derive(Default)]
struct Context {
    /// The way to the current value; kept only while duplicates are tracked.
    path: Option<RefCell<Vec<Step>>>,
    duplicates: RefCell<Vec<Duplicate>>,
}

enum Step {
    Member(Str),
    Element(usize),
}

impl Context {
    fn within<R>(&self, step: impl FnOnce() -> Step, read: impl FnOnce() -> R) -> R {
        let Some(path) = &self.path else { return read() };
        path.borrow_mut().push(step());
        let result = read();
        path.borrow_mut().pop();
        result
    }

    fn duplicate(&self) {
        let Some(path) = &self.path else { return };
        let mut text = String::new();
        for step in path.borrow().iter() {
            match step {
                Step::Member(name) if text.is_empty() => text.push_str(name),
                Step::Member(name) => {
                    text.push('.');
                    text.push_str(name);
                }
                Step::Element(index) => text.push_str(&format!("[{index}]")),
            }
        }
        let duplicate = Duplicate { path: text };
        let mut duplicates = self.duplicates.borrow_mut();
        if !duplicates.contains(&duplicate) {
            duplicates.push(duplicate);
        }
    }
}

#[derive(Clone, Copy)]
struct Seed<'a> {
    context: &'a Context,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Seed<'a> {
    fn deeper<E: serde::de::Error>(self) -> Result<Seed<'a>, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format_args!("exceeded max depth of {MAX_DEPTH}")));
        }
        Ok(Self { context: self.context, depth: self.depth + 1 })
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Bool(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Int(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(i64::try_from(number).map_or(Value::Float(number as f64), Value::Int))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut elements = Vec::new();
        loop {
            let index = elements.len();
            let next = self.context.within(|| Step::Element(index), || access.next_element_seed(inner))?;
            let Some(element) = next else { return Ok(Value::Array(elements)) };
            elements.push(element);
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut pairs: Vec<(Str, Value)> = Vec::new();
        let mut names = HashSet::new();
        while let Some(key) = access.next_key_seed(Key)? {
            let value = self.context.within(
                || Step::Member(key.clone()),
                || {
                    // Only strict decoding pays for the search; the sort below settles duplicates for all.
                    if self.context.path.is_some() && !names.insert(key.clone()) {
                        self.context.duplicate();
                    }
                    access.next_value_seed(inner)
                },
            )?;
            pairs.push((key, value));
        }
        Ok(Value::Object(Map::from_pairs(pairs)))
    }
}

struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Str;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Str, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Str;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member name")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Str, E> {
        if text.len() > MAX_KEY_BYTES {
            return Err(E::custom(format_args!("a member name is longer than {MAX_KEY_BYTES} bytes")));
        }
        Ok(text.into())
    }
}

/// How long a member's name may be; far above every name that an API knows.
const MAX_KEY_BYTES: usize = 64 * 1024;

impl<'de> serde::Deserialize<'de> for Value {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Seed { context: &Context::default(), depth: 0 }.deserialize(deserializer).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn duplicates_are_named_by_path() {
        let parsed = parse_tracking_duplicates(br#"{"a":[{"b":1,"b":2}],"a":3,"c":{"d":1,"d":2}}"#).unwrap();
        let paths: Vec<_> = parsed.duplicates.iter().map(|d| d.path.as_str()).collect();
        assert_eq!(paths, ["a[0].b", "a", "c.d"]);
        assert_eq!(parsed.value.to_string(), r#"{"a":3,"c":{"d":2}}"#);
    }

    #[test]
    fn deep_nesting_and_trailing_text_are_refused() {
        let deep = "[".repeat(MAX_DEPTH + 1);
        assert!(parse(deep.as_bytes()).unwrap_err().to_string().contains("depth"));
        assert!(parse(b"{} x").is_err());
        assert!(parse(b"\"\xff\"").is_err());
        assert!(parse(&[&b"[".repeat(MAX_DEPTH)[..], &b"]".repeat(MAX_DEPTH)[..]].concat()).is_ok());
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            ".{0,40}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                prop::collection::vec((".{0,30}", inner), 0..6).prop_map(|pairs| Value::Object(
                    pairs.into_iter().map(|(k, v)| (Str::from(k), v)).collect()
                )),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_equal(value in any_value()) {
            prop_assert_eq!(parse(value.to_string().as_bytes()).unwrap(), value);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_tracking_duplicates(&bytes);
        }
    }
}

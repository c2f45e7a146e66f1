//! One step of a path into an object, and its text in `fieldsV1`.

use std::cmp::Ordering;

use crate::value::{self, Str, Value};

/// One step of a path.
#[derive(Clone, Debug, PartialEq)]
pub enum PathElement {
    /// A member of a struct or map: `f:name`.
    Field(Str),
    /// The element of a list of structs that has these members, sorted by name: `k:{"name":"a"}`.
    Key(Box<[(Str, Value)]>),
    /// The element of a set: `v:"a"`.
    Value(Box<Value>),
    /// The element at an index: `i:0`.
    Index(i64),
}

impl PathElement {
    /// A member.
    pub fn field(name: &str) -> Self {
        Self::Field(name.into())
    }

    /// A member whose name is known at compile time, and not copied.
    pub const fn known(name: &'static str) -> Self {
        Self::Field(Str::const_new(name))
    }

    /// Upstream's order: members, keys, values, indices.
    pub fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => {
                for ((a_name, a_value), (b_name, b_value)) in a.iter().zip(b.iter()) {
                    let order = a_name.cmp(b_name).then_with(|| compare_values(a_value, b_value));
                    if order.is_ne() {
                        return order;
                    }
                }
                a.len().cmp(&b.len())
            }
            (Self::Value(a), Self::Value(b)) => compare_values(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }

    /// Its text in `fieldsV1`.
    pub fn text(&self) -> Str {
        match self {
            Self::Field(name) => {
                let mut text = Str::with_capacity(name.len() + 2);
                text.push_str("f:");
                text.push_str(name);
                text
            }
            Self::Key(members) => {
                let mut out = Vec::with_capacity(64);
                out.extend_from_slice(b"k:{");
                for (index, (name, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    value::write_string(name, &mut out);
                    out.push(b':');
                    value.write_to(&mut out);
                }
                out.push(b'}');
                escaped(&out)
            }
            Self::Value(value) => {
                let mut out = b"v:".to_vec();
                value.write_to(&mut out);
                escaped(&out)
            }
            Self::Index(index) => format!("i:{index}").into(),
        }
    }

    /// Reads a text of `fieldsV1`: `None` for a sort of step that we do not know, an error if it is malformed.
    pub fn parse(text: &str) -> Result<Option<Self>, MalformedElement> {
        let malformed = || MalformedElement(text.to_owned());
        let (sort, rest) = text.split_at_checked(2).ok_or_else(malformed)?;
        if !sort.ends_with(':') {
            return Err(malformed());
        }
        Ok(Some(match sort {
            "f:" => Self::Field(rest.into()),
            "k:" => {
                let Ok(Value::Object(members)) = value::parse(rest.as_bytes()) else {
                    return Err(malformed());
                };
                Self::Key(members.into_iter().collect())
            }
            "v:" => Self::Value(Box::new(value::parse(rest.as_bytes()).map_err(|_| malformed())?)),
            "i:" => Self::Index(rest.parse().map_err(|_| malformed())?),
            _ => return Ok(None),
        }))
    }
}

/// A text in `fieldsV1` that is no step of a path.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} in fieldsV1 is not of the form f:NAME, k:KEYS, v:VALUE or i:INDEX")]
pub struct MalformedElement(pub String);

/// Upstream's encoder writes `<`, `>` and `&` as escapes.
fn escaped(json: &[u8]) -> Str {
    match Str::from_utf8(json) {
        Ok(text) if !json.iter().any(|byte| matches!(byte, b'<' | b'>' | b'&')) => text,
        Ok(text) => text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026").into(),
        // A value is written from texts, so it is UTF-8.
        Err(_) => Str::default(),
    }
}

/// A total order over values, as upstream's: numbers, texts, truth values, lists, maps, null.
pub fn compare_values(a: &Value, b: &Value) -> Ordering {
    fn rank(value: &Value) -> u8 {
        match value {
            Value::Float(_) | Value::Int(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            Value::Array(_) => 3,
            Value::Object(_) | Value::Written(_) => 4,
            Value::Null => 5,
        }
    }
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Int(a), Value::Float(b)) => (*a as f64).total_cmp(b),
        (Value::Float(a), Value::Int(b)) => a.total_cmp(&(*b as f64)),
        (Value::Float(a), Value::Float(b)) => a.total_cmp(b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => {
            let unequal = a.iter().zip(b).map(|(a, b)| compare_values(a, b)).find(|order| order.is_ne());
            unequal.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Value::Object(a), Value::Object(b)) => {
            let members = a.iter().zip(b.iter());
            let unequal = members
                .map(|((ak, av), (bk, bv))| ak.cmp(bk).then_with(|| compare_values(av, bv)))
                .find(|order| order.is_ne());
            unequal.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

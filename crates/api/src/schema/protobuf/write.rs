//! Writes messages, from their end to their beginning, so that every length is known when it is written.

use super::PREFIX;
use crate::schema::time;
use crate::table::{Part, Shape, ShapeId, Type, TypeId, Types, types};
use crate::value::{Map, Value};

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

/// Holds a message in reverse.
struct Back(Vec<u8>);

impl Back {
    fn finish(mut self) -> Vec<u8> {
        self.0.reverse();
        self.0
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.0.extend(bytes.iter().rev());
    }

    fn varint(&mut self, mut number: u64) {
        let mut bytes = [0u8; 10];
        let mut length = 0;
        loop {
            let more = number >= 0x80;
            bytes[length] = (number as u8 & 0x7f) | if more { 0x80 } else { 0 };
            length += 1;
            number >>= 7;
            if !more {
                break;
            }
        }
        self.raw(&bytes[..length]);
    }

    fn key(&mut self, number: u32, wire: u32) {
        self.varint(u64::from(number << 3 | wire));
    }

    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.raw(bytes);
        self.varint(bytes.len() as u64);
        self.key(number, BYTES);
    }

    fn int(&mut self, number: u32, value: i64) {
        self.varint(value.cast_unsigned());
        self.key(number, VARINT);
    }

    /// A message that `body` writes.
    fn nested(&mut self, number: u32, body: impl FnOnce(&mut Self)) {
        let before = self.0.len();
        body(self);
        self.varint((self.0.len() - before) as u64);
        self.key(number, BYTES);
    }
}

/// The message of an object.
pub(super) fn message(ty: TypeId, value: &Value) -> Vec<u8> {
    let mut out = Back(Vec::with_capacity(1024));
    let nothing = Map::new();
    Writer { types: types() }.structure(&mut out, types().get(ty), value.as_object().unwrap_or(&nothing));
    out.finish()
}

/// A message in its envelope.
pub(super) fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut out = Back(Vec::with_capacity(message.len() + 64));
    // Upstream writes its two unused texts, too: content encoding and content type.
    out.bytes(4, b"");
    out.bytes(3, b"");
    out.bytes(2, message);
    out.nested(1, |out| {
        out.bytes(2, kind.as_bytes());
        out.bytes(1, api_version.as_bytes());
    });
    out.raw(PREFIX);
    out.finish()
}

/// An event of a watch.
pub(super) fn watch_event(word: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Back(Vec::with_capacity(object.len() + 24));
    out.nested(2, |out| out.bytes(1, object));
    out.bytes(1, word.as_bytes());
    out.finish()
}

struct Writer {
    types: &'static Types,
}

impl Writer {
    fn structure(&self, out: &mut Back, ty: &Type, map: &Map) {
        for part in ty.parts.iter().rev() {
            match part {
                Part::Field(at) => {
                    let field = &ty.fields[usize::from(*at)];
                    if field.number > 0 {
                        let value = map.get(field.name).filter(|value| !value.is_null());
                        self.field(out, field.number, field.shape, value);
                    }
                }
                Part::Inline { number: 0, .. } => {}
                Part::Inline { number, ty, .. } => {
                    out.nested(*number, |out| self.structure(out, self.types.get(*ty), map));
                }
            }
        }
    }

    /// A field; without a value it is zero, which upstream writes unless it is a pointer, list or map.
    fn field(&self, out: &mut Back, number: u32, shape: ShapeId, value: Option<&Value>) {
        match (self.types.shape(shape), value) {
            (Shape::Pointer(_) | Shape::Bytes, None) => {}
            (Shape::Pointer(inner), Some(_)) => self.field(out, number, inner, value),
            (Shape::Named(named), _) => {
                let named = self.types.named(named);
                if named.message {
                    self.list_message(out, number, named.shape, value);
                } else {
                    self.field(out, number, named.shape, value);
                }
            }
            (Shape::List(element), _) => {
                for each in value.and_then(Value::as_array).unwrap_or_default().iter().rev() {
                    self.field(out, number, element, Some(each).filter(|each| !each.is_null()));
                }
            }
            (Shape::Map(key, element), _) => {
                for (name, each) in value.and_then(Value::as_object).into_iter().flat_map(Map::iter).rev() {
                    out.nested(number, |out| {
                        // A map's value is always written, be it null.
                        self.field(out, 2, element, Some(each));
                        self.field(out, 1, key, Some(&Value::String(name.clone())));
                    });
                }
            }
            (shape, _) => self.single(out, number, shape, value.unwrap_or(&Value::Null)),
        }
    }

    fn list_message(&self, out: &mut Back, number: u32, shape: ShapeId, value: Option<&Value>) {
        // Upstream's one such list outside of a map is nil when it is absent, and is not written then.
        if value.is_some() {
            out.nested(number, |out| self.field(out, 1, shape, value));
        }
    }

    fn single(&self, out: &mut Back, number: u32, shape: Shape, value: &Value) {
        let text = value.as_str().unwrap_or_default();
        match shape {
            Shape::Struct(ty) => {
                let nothing = Map::new();
                let map = value.as_object().unwrap_or(&nothing);
                out.nested(number, |out| self.structure(out, self.types.get(ty), map));
            }
            Shape::Bool => out.int(number, i64::from(value.as_bool().unwrap_or_default())),
            Shape::Int32 | Shape::Int64 => out.int(number, value.as_int().unwrap_or_default()),
            Shape::Float64 => {
                let float = match value {
                    Value::Int(whole) => *whole as f64,
                    Value::Float(float) => *float,
                    _ => 0.0,
                };
                out.raw(&float.to_le_bytes());
                out.key(number, FIXED64);
            }
            Shape::String => out.bytes(number, text.as_bytes()),
            Shape::Bytes => out.bytes(number, &super::super::base64::bytes(text)),
            Shape::Quantity => {
                out.nested(number, |out| out.bytes(1, if text.is_empty() { b"0" } else { text.as_bytes() }));
            }
            Shape::IntOrString => out.nested(number, |out| {
                out.bytes(3, text.as_bytes());
                out.int(2, value.as_int().unwrap_or_default());
                out.int(1, i64::from(matches!(value, Value::String(_))));
            }),
            Shape::Time | Shape::MicroTime => out.nested(number, |out| {
                if let Some((seconds, nanos)) = time::to_unix(text) {
                    out.int(2, i64::from(nanos));
                    out.int(1, seconds);
                }
            }),
            Shape::FieldsV1 | Shape::Raw | Shape::Json => out.nested(number, |out| {
                if !value.is_null() {
                    out.bytes(1, &value.to_bytes());
                }
            }),
            _ => self.schema_or(out, number, shape, value),
        }
    }

    /// A JSON schema, or what may stand in its place: each variant has its own numbers.
    fn schema_or(&self, out: &mut Back, number: u32, shape: Shape, value: &Value) {
        let Some(schema) = self.types.find("apiextensions/v1.JSONSchemaProps") else { return };
        let schema = self.types.get(schema);
        out.nested(number, |out| match (shape, value) {
            (Shape::SchemaOrBool, Value::Object(map)) => {
                out.nested(2, |out| self.structure(out, schema, map));
                out.int(1, 1);
            }
            (Shape::SchemaOrBool, _) => out.int(1, i64::from(value.as_bool().unwrap_or_default())),
            (_, Value::Object(map)) => out.nested(1, |out| self.structure(out, schema, map)),
            (_, Value::Array(elements)) => {
                for each in elements.iter().rev() {
                    match each {
                        Value::Object(map) => out.nested(2, |out| self.structure(out, schema, map)),
                        other => out.bytes(2, other.as_str().unwrap_or_default().as_bytes()),
                    }
                }
            }
            _ => {}
        });
    }
}

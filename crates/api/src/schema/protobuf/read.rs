//! Reads messages.

use super::{DecodeError, PREFIX};
use crate::quantity::Quantity;
use crate::schema::decode::{TypeMeta, is_zero, zero};
use crate::schema::{base64, time};
use crate::table::{Field, Part, Shape, ShapeId, Type, TypeId, Types, types};
use crate::value::{MAX_DEPTH, Map, Str, Value, parse};

type Result<T> = std::result::Result<T, DecodeError>;

fn broken<T>(what: &str) -> Result<T> {
    Err(DecodeError::Syntax(format!("proto: {what}")))
}

/// A field of a message as it is on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn bytes(&self) -> Result<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { broken("wrong wireType, expected bytes") }
    }

    fn int(&self) -> Result<i64> {
        if let Self::Varint(number) = self {
            Ok(number.cast_signed())
        } else {
            broken("wrong wireType, expected a varint")
        }
    }

    fn text(&self) -> Result<Str> {
        Ok(Str::from_utf8_lossy(self.bytes()?))
    }
}

/// The fields of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let Some((byte, rest)) = self.0.split_first() else { return broken("unexpected EOF") };
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        broken("integer overflow")
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        match usize::try_from(length).ok().and_then(|length| self.0.split_at_checked(length)) {
            Some((head, rest)) => {
                self.0 = rest;
                Ok(head)
            }
            None => broken("unexpected EOF"),
        }
    }

    fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let Ok(number) = u32::try_from(key >> 3) else { return broken("illegal tag") };
        if number == 0 {
            return broken("illegal tag 0");
        }
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(self.take(8)?.try_into().unwrap_or_default()),
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            // Upstream has no such field; a reader skips what it does not know.
            5 => Wire::Bytes(self.take(4)?),
            other => return broken(&format!("illegal wireType {other}")),
        };
        Ok(Some((number, wire)))
    }
}

/// What an envelope says, and what is in it.
pub(super) fn open(bytes: &[u8]) -> Result<(TypeMeta, &[u8])> {
    let Some(body) = bytes.strip_prefix(PREFIX) else {
        return Err(DecodeError::Syntax(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]".into(),
        ));
    };
    let mut meta = TypeMeta::default();
    let mut message: &[u8] = &[];
    let mut fields = Fields(body);
    while let Some((number, wire)) = fields.next()? {
        match number {
            1 => {
                let mut inner = Fields(wire.bytes()?);
                while let Some((number, wire)) = inner.next()? {
                    match number {
                        1 => meta.api_version = wire.text()?,
                        2 => meta.kind = wire.text()?,
                        _ => {}
                    }
                }
            }
            2 => message = wire.bytes()?,
            _ => {}
        }
    }
    Ok((meta, message))
}

/// A message as an object of type `ty`.
pub(super) fn message(ty: TypeId, bytes: &[u8]) -> Result<Value> {
    let reader = Reader { types: types() };
    Ok(Value::Object(reader.structure(types().get(ty), bytes, 0)?))
}

struct Reader {
    types: &'static Types,
}

impl Reader {
    fn structure(&self, ty: &Type, bytes: &[u8], depth: usize) -> Result<Map> {
        let mut map = Map::new();
        self.members(ty, bytes, depth, &mut map)?;
        Ok(map)
    }

    fn members(&self, ty: &Type, bytes: &[u8], depth: usize, map: &mut Map) -> Result<()> {
        if depth > MAX_DEPTH {
            return broken("message is nested too deeply");
        }
        let mut fields = Fields(bytes);
        while let Some((number, wire)) = fields.next()? {
            let at = ty.parts.binary_search_by_key(&number, |part| match part {
                Part::Field(at) => ty.fields[usize::from(*at)].number,
                Part::Inline { number, .. } => *number,
            });
            match at.map(|at| ty.parts[at]) {
                Ok(Part::Field(at)) => self.field(&ty.fields[usize::from(at)], &wire, depth, map)?,
                Ok(Part::Inline { ty, .. }) => {
                    self.members(self.types.get(ty), wire.bytes()?, depth + 1, map)?;
                }
                Err(_) => {}
            }
        }
        // Lists and maps are whole only now; what is zero goes.
        map.retain(|key, value| {
            ty.field(key).is_none_or(|field| field.off.is_none() && !is_zero(self.types, field.shape, value))
        });
        Ok(())
    }

    fn field(&self, field: &Field, wire: &Wire<'_>, depth: usize, map: &mut Map) -> Result<()> {
        let mut shape = field.shape;
        loop {
            match self.types.shape(shape) {
                Shape::Pointer(inner) => shape = inner,
                Shape::Named(named) if !self.types.named(named).message => {
                    shape = self.types.named(named).shape;
                }
                _ => break,
            }
        }
        match self.types.shape(shape) {
            Shape::List(element) => {
                let value = self.value(element, wire, depth)?;
                let list = map.entry(field.name);
                if let Value::Array(elements) = list {
                    elements.push(value);
                } else {
                    *list = Value::Array(vec![value]);
                }
            }
            Shape::Map(_, element) => {
                let (name, value) = self.entry(element, wire.bytes()?, depth)?;
                let entries = map.entry(field.name);
                if entries.as_object().is_none() {
                    *entries = Value::object();
                }
                if let Value::Object(entries) = entries {
                    entries.insert(name, value);
                }
            }
            _ => {
                let value = self.value(shape, wire, depth)?;
                map.insert(Str::const_new(field.name), value);
            }
        }
        Ok(())
    }

    fn entry(&self, element: ShapeId, bytes: &[u8], depth: usize) -> Result<(Str, Value)> {
        let (mut name, mut value) = (Str::default(), None);
        let mut fields = Fields(bytes);
        while let Some((number, wire)) = fields.next()? {
            match number {
                1 => name = wire.text()?,
                2 => value = Some(self.value(element, &wire, depth)?),
                _ => {}
            }
        }
        Ok((name, value.unwrap_or_else(|| zero(self.types, element))))
    }

    fn value(&self, shape: ShapeId, wire: &Wire<'_>, depth: usize) -> Result<Value> {
        Ok(match self.types.shape(shape) {
            Shape::Pointer(inner) => self.value(inner, wire, depth)?,
            Shape::Named(named) => {
                let named = self.types.named(named);
                if named.message {
                    self.items(named.shape, wire.bytes()?, depth)?
                } else {
                    self.value(named.shape, wire, depth)?
                }
            }
            Shape::Struct(ty) => {
                Value::Object(self.structure(self.types.get(ty), wire.bytes()?, depth + 1)?)
            }
            Shape::Bool => Value::Bool(wire.int()? != 0),
            Shape::Int32 => Value::Int(i64::from(wire.int()? as i32)),
            Shape::Int64 => Value::Int(wire.int()?),
            Shape::Float64 => match wire {
                Wire::Fixed64(bytes) => whole_or_float(f64::from_le_bytes(*bytes)),
                _ => return broken("wrong wireType, expected 64 bits"),
            },
            Shape::String => Value::String(wire.text()?),
            Shape::Bytes => base64::text(wire.bytes()?).into(),
            Shape::Quantity => self.quantity(wire.bytes()?)?,
            Shape::IntOrString => int_or_string(wire.bytes()?)?,
            Shape::Time => timestamp(wire.bytes()?, false)?,
            Shape::MicroTime => timestamp(wire.bytes()?, true)?,
            Shape::FieldsV1 | Shape::Raw | Shape::Json => self.raw(wire.bytes()?, depth)?,
            // No kind has a list or map directly in a list; durations only occur in configuration files.
            Shape::List(_) | Shape::Map(..) | Shape::Duration => {
                return broken("a field of this type is not supported");
            }
            shape @ (Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings) => {
                self.schema_or(shape, wire.bytes()?, depth)?
            }
        })
    }

    fn items(&self, shape: ShapeId, bytes: &[u8], depth: usize) -> Result<Value> {
        let Some(element) = self.types.element(shape) else { return broken("a message list of no elements") };
        let mut elements = Vec::new();
        let mut fields = Fields(bytes);
        while let Some((number, wire)) = fields.next()? {
            if number == 1 {
                elements.push(self.value(element, &wire, depth)?);
            }
        }
        Ok(Value::Array(elements))
    }

    fn quantity(&self, bytes: &[u8]) -> Result<Value> {
        let mut text = Str::default();
        let mut fields = Fields(bytes);
        while let Some((number, wire)) = fields.next()? {
            if number == 1 {
                text = wire.text()?;
            }
        }
        match Quantity::parse(&text) {
            Ok(quantity) => Ok(quantity.to_string().into()),
            Err(error) => Err(DecodeError::Type(error.to_string())),
        }
    }

    /// Bytes that are JSON, or another object in an envelope.
    fn raw(&self, bytes: &[u8], depth: usize) -> Result<Value> {
        let mut raw: &[u8] = &[];
        let mut fields = Fields(bytes);
        while let Some((number, wire)) = fields.next()? {
            if number == 1 {
                raw = wire.bytes()?;
            }
        }
        if raw.is_empty() {
            return Ok(Value::Null);
        }
        if !raw.starts_with(PREFIX) {
            return parse(raw).map_err(|error| DecodeError::Syntax(error.to_string()));
        }
        let (meta, message) = open(raw)?;
        let (group, version) = crate::names::split_api_version(&meta.api_version);
        let Some(ty) = self.types.of_kind(group, version, &meta.kind) else {
            return broken(&format!(
                "no kind \"{}\" is registered for version \"{}\"",
                meta.kind, meta.api_version
            ));
        };
        let mut map = self.structure(self.types.get(ty), message, depth + 1)?;
        map.insert("apiVersion", meta.api_version);
        map.insert("kind", meta.kind);
        Ok(Value::Object(map))
    }

    fn schema_or(&self, shape: Shape, bytes: &[u8], depth: usize) -> Result<Value> {
        let Some(schema) = self.types.find("apiextensions/v1.JSONSchemaProps") else {
            return Ok(Value::Null);
        };
        let schema = self.types.get(schema);
        let (mut one, mut many, mut allows) = (None, Vec::new(), false);
        let mut fields = Fields(bytes);
        while let Some((number, wire)) = fields.next()? {
            match (shape, number) {
                (Shape::SchemaOrBool, 1) => allows = wire.int()? != 0,
                (Shape::SchemaOrBool, 2) | (_, 1) => {
                    one = Some(Value::Object(self.structure(schema, wire.bytes()?, depth + 1)?));
                }
                (Shape::SchemaOrStrings, 2) => many.push(Value::String(wire.text()?)),
                (Shape::SchemaOrArray, 2) => {
                    many.push(Value::Object(self.structure(schema, wire.bytes()?, depth + 1)?));
                }
                _ => {}
            }
        }
        Ok(match (one, shape) {
            (Some(one), _) => one,
            (None, Shape::SchemaOrBool) => Value::Bool(allows),
            (None, _) => Value::Array(many),
        })
    }
}

fn whole_or_float(number: f64) -> Value {
    let value = Value::Float(number);
    value.as_int().map_or(value, Value::Int)
}

fn int_or_string(bytes: &[u8]) -> Result<Value> {
    let (mut kind, mut number, mut text) = (0, 0, Str::default());
    let mut fields = Fields(bytes);
    while let Some((field, wire)) = fields.next()? {
        match field {
            1 => kind = wire.int()?,
            2 => number = wire.int()?,
            3 => text = wire.text()?,
            _ => {}
        }
    }
    Ok(if kind == 1 { Value::String(text) } else { Value::Int(i64::from(number as i32)) })
}

/// An empty message is the zero time, which JSON writes as null.
fn timestamp(bytes: &[u8], micros: bool) -> Result<Value> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut fields = Fields(bytes);
    while let Some((number, wire)) = fields.next()? {
        match number {
            1 => seconds = wire.int()?,
            2 => nanos = wire.int()? as i32,
            _ => {}
        }
    }
    match time::from_unix(seconds, nanos, micros) {
        Some(text) => Ok(text.into()),
        None => broken("a time is out of range"),
    }
}

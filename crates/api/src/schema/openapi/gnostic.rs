//! The document of version 2 as gnostic's protobuf (`openapi.v2.Document`), the form that client-go asks for.
//!
//! Only what our documents say has numbers here.

use crate::value::{Map, Value};

/// A message that grows at its end.
#[derive(Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.varint(u64::from(number << 3 | 2));
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn text(&mut self, number: u32, text: &str) {
        self.bytes(number, text.as_bytes());
    }

    fn bool(&mut self, number: u32, truth: bool) {
        self.varint(u64::from(number << 3));
        self.varint(u64::from(truth));
    }

    pub(super) fn nested(&mut self, number: u32, body: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        body(&mut inner);
        self.bytes(number, &inner.0);
    }

    /// A member of a map: its name and its value.
    pub(super) fn named(&mut self, number: u32, name: &str, body: impl FnOnce(&mut Self)) {
        self.nested(number, |entry| {
            entry.text(1, name);
            entry.nested(2, body);
        });
    }

    /// Any value, as YAML; JSON is YAML.
    fn any(&mut self, number: u32, value: &Value) {
        self.nested(number, |any| any.text(2, &format!("{value}\n")));
    }

    /// The members of an object whose names begin with `x-`.
    fn extensions(&mut self, number: u32, map: &Map) {
        for (name, value) in map.iter().filter(|(name, _)| name.starts_with("x-")) {
            self.nested(number, |entry| {
                entry.text(1, name);
                entry.any(2, value);
            });
        }
    }

    /// Texts of an object, each with its number.
    fn texts(&mut self, map: &Map, numbers: &[(&str, u32)]) {
        for (name, number) in numbers {
            match map.get(name) {
                Some(Value::Array(all)) => {
                    all.iter().filter_map(Value::as_str).for_each(|text| self.text(*number, text));
                }
                Some(value) => self.text(*number, value.as_str().unwrap_or_default()),
                None => {}
            }
        }
    }
}

fn object(value: Option<&Value>) -> Option<&Map> {
    value.and_then(Value::as_object)
}

/// `Info`.
pub(super) fn info(out: &mut Message, value: &Value) {
    if let Value::Object(map) = value {
        out.texts(map, &[("title", 1), ("version", 2)]);
    }
}

/// `SecurityDefinitionsItem` of a key in a header.
pub(super) fn api_key(out: &mut Message, value: &Value) {
    if let Value::Object(map) = value {
        out.nested(2, |key| key.texts(map, &[("type", 1), ("name", 2), ("in", 3)]));
    }
}

/// `PathItem`.
pub(super) fn path_item(out: &mut Message, value: &Value) {
    const METHODS: &[(&str, u32)] =
        &[("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("options", 6), ("head", 7), ("patch", 8)];
    for (method, number) in METHODS {
        if let Some(map) = object(value.get(method)) {
            out.nested(*number, |out| operation(out, map));
        }
    }
    for each in value.array_at(&["parameters"]) {
        out.nested(9, |out| parameter(out, each));
    }
}

fn operation(out: &mut Message, map: &Map) {
    out.texts(
        map,
        &[
            ("tags", 1),
            ("description", 3),
            ("operationId", 5),
            ("produces", 6),
            ("consumes", 7),
            ("schemes", 10),
        ],
    );
    for each in map.get("parameters").and_then(Value::as_array).unwrap_or_default() {
        out.nested(8, |out| parameter(out, each));
    }
    out.nested(9, |responses| {
        for (code, response) in object(map.get("responses")).into_iter().flat_map(Map::iter) {
            responses.named(1, code, |value| {
                value.nested(1, |out| {
                    out.text(1, response.str_at(&["description"]).unwrap_or_default());
                    if let Some(map) = object(response.get("schema")) {
                        out.nested(2, |item| item.nested(1, |out| schema(out, map)));
                    }
                });
            });
        }
    });
    out.extensions(13, map);
}

/// `ParametersItem`.
fn parameter(out: &mut Message, value: &Value) {
    let Some(map) = value.as_object() else { return };
    let required = map.get("required").and_then(Value::as_bool).unwrap_or_default();
    out.nested(1, |parameter| match value.str_at(&["in"]) {
        Some("body") => parameter.nested(1, |body| {
            body.texts(map, &[("name", 2), ("in", 3)]);
            body.bool(4, required);
            if let Some(map) = object(map.get("schema")) {
                body.nested(5, |out| schema(out, map));
            }
        }),
        place => parameter.nested(2, |other| {
            let path = place == Some("path");
            other.nested(if path { 4 } else { 3 }, |out| {
                out.bool(1, required);
                let (ty, unique) = if path { (5, 18) } else { (6, 20) };
                out.texts(map, &[("in", 2), ("description", 3), ("name", 4), ("type", ty)]);
                out.bool(unique, true);
            });
        }),
    });
}

/// `Schema`.
pub(super) fn schema(out: &mut Message, map: &Map) {
    out.texts(map, &[("$ref", 1), ("format", 2), ("description", 4), ("required", 19)]);
    if let Some(default) = map.get("default") {
        out.any(5, default);
    }
    for value in map.get("enum").and_then(Value::as_array).unwrap_or_default() {
        out.any(20, value);
    }
    if let Some(map) = object(map.get("additionalProperties")) {
        out.nested(21, |item| item.nested(1, |out| schema(out, map)));
    }
    if let Some(ty) = map.get("type").and_then(Value::as_str) {
        out.nested(22, |item| item.text(1, ty));
    }
    if let Some(map) = object(map.get("items")) {
        out.nested(23, |item| item.nested(1, |out| schema(out, map)));
    }
    if let Some(properties) = object(map.get("properties")) {
        out.nested(25, |out| {
            for (name, value) in properties.iter() {
                if let Value::Object(map) = value {
                    out.named(1, name, |out| schema(out, map));
                }
            }
        });
    }
    out.extensions(31, map);
}

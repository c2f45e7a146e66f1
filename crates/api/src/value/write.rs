//! Writing JSON text.

use std::fmt;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use super::Value;

impl Value {
    /// Appends the value as compact JSON.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(true) => out.extend_from_slice(b"true"),
            Self::Bool(false) => out.extend_from_slice(b"false"),
            Self::String(text) => write_string(text, out),
            Self::Array(elements) => {
                out.push(b'[');
                for (index, element) in elements.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    element.write_to(out);
                }
                out.push(b']');
            }
            Self::Object(map) => {
                out.push(b'{');
                for (index, (key, value)) in map.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    write_string(key, out);
                    out.push(b':');
                    value.write_to(out);
                }
                out.push(b'}');
            }
            Self::Written(text) => out.extend_from_slice(text.as_bytes()),
            Self::Int(number) => {
                if *number < 0 {
                    out.push(b'-');
                }
                write_number(number.unsigned_abs(), out);
            }
            Self::Float(_) => {
                serde_json::to_writer(&mut *out, self).expect("a number is always JSON, and a Vec takes all");
            }
        }
    }

    /// The value as compact JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        self.write_to(&mut out);
        out
    }
}

/// Appends a whole number.
pub fn write_number(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// How many bytes at the beginning stand for themselves in a JSON string. They are looked at sixteen at a time.
pub fn plain_bytes(text: &[u8]) -> usize {
    let is_special = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    let mut chunks = text.chunks_exact(16);
    let has_special = |chunk: &[u8]| chunk.iter().fold(false, |found, byte| found | is_special(*byte));
    let whole = 16 * chunks.by_ref().take_while(|chunk| !has_special(chunk)).count();
    whole + text[whole..].iter().position(|byte| is_special(*byte)).unwrap_or(text.len() - whole)
}

/// Appends `text` as a JSON string.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    if plain_bytes(text.as_bytes()) == text.len() {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("a string is always JSON, and a Vec takes all");
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(truth) => serializer.serialize_bool(*truth),
            Self::Int(number) => serializer.serialize_i64(*number),
            // JSON has no word for infinity; Go refuses to encode it, and no parser of ours makes one.
            Self::Float(number) => serializer.serialize_f64(*number),
            Self::String(text) => serializer.serialize_str(text),
            Self::Array(elements) => {
                let mut seq = serializer.serialize_seq(Some(elements.len()))?;
                for element in elements {
                    seq.serialize_element(element)?;
                }
                seq.end()
            }
            Self::Object(map) => {
                let mut members = serializer.serialize_map(Some(map.len()))?;
                for (key, value) in map.iter() {
                    members.serialize_entry(key.as_str(), value)?;
                }
                members.end()
            }
            Self::Written(text) => {
                super::parse(text.as_bytes()).map_err(serde::ser::Error::custom)?.serialize(serializer)
            }
        }
    }
}

//! Kubernetes' protobuf, from the numbers of the table.
//!
//! On the wire an object is the prefix `k8s\0` and a message (`runtime.Unknown`) that says what it is and holds its
//! bytes. Inside, upstream writes every scalar and struct that is no pointer, zero or not, in the order of numbers;
//! so do we, to the byte.

mod read;
mod write;

use super::DecodeError;
use super::decode::TypeMeta;
use crate::table::TypeId;
use crate::value::{Str, Value};

/// What every enveloped object begins with.
pub const PREFIX: &[u8; 4] = b"k8s\0";

/// An object in its envelope.
pub fn encode(ty: TypeId, api_version: &str, kind: &str, value: &Value) -> Vec<u8> {
    envelope(api_version, kind, &encode_message(ty, value))
}

/// An object without its envelope, as lists hold it.
pub fn encode_message(ty: TypeId, value: &Value) -> Vec<u8> {
    write::message(ty, value)
}

/// Puts a message into an envelope.
pub fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    write::envelope(api_version, kind, message)
}

/// One event of a watch, without the length that goes before it on the stream. `object` is in its envelope.
pub fn watch_event(word: &str, object: &[u8]) -> Vec<u8> {
    write::watch_event(word, object)
}

/// What an enveloped object says that it is, and its message.
pub fn open(bytes: &[u8]) -> Result<(TypeMeta, &[u8]), DecodeError> {
    read::open(bytes)
}

/// Reads a message as an object of type `ty`, in its sparse form. Kind and version are set to `meta`'s.
pub fn decode(ty: TypeId, meta: &TypeMeta, message: &[u8]) -> Result<Value, DecodeError> {
    let mut value = read::message(ty, message)?;
    for (name, text) in [("apiVersion", &meta.api_version), ("kind", &meta.kind)] {
        if !text.is_empty() {
            value.set(&[name], Str::clone(text));
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests;

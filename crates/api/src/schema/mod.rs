//! What the facts of [`crate::table`] do to an object: one mechanism, no code per kind.
//!
//! The way of an object that a client sends:
//!
//! 1. [`type_meta`] reads what it says it is, and checks that the text is JSON at all.
//! 2. [`decode`] reads it as that type, with upstream's errors, into its sparse form: what is zero is not there,
//!    quantities, times and bytes are in their canonical form, fields behind gates that are off are dropped.
//! 3. [`apply_defaults`] adds what is missing; [`validate`] says what is wrong.
//! 4. After the strategy has done its part, [`finish`] makes it what upstream writes: zero values go, and the empty
//!    members that upstream always writes are there.
//!
//! YAML becomes JSON first ([`yaml_to_json`]); a patched tree is written and decoded again, so there is one way in.
//! Everything is a pure function of its arguments.

pub(crate) mod base64;
mod decode;
mod defaults;
mod derived;
pub mod descriptions;
mod finish;
pub mod openapi;
mod plan;
pub mod protobuf;
mod scan;
mod time;
mod validate;

pub use decode::{Decoded, FieldValidation, TypeMeta, decode, summary, type_meta};
pub use defaults::apply_defaults;
pub use finish::finish;
pub use validate::validate;

/// Why a text cannot be read as an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is not JSON (or not YAML, or not protobuf).
    #[error("{0}")]
    Syntax(String),
    /// A value has the wrong type or form.
    #[error("{0}")]
    Type(String),
    /// Strict validation was asked for, and there are unknown or repeated fields.
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
}

/// The JSON of a YAML text, as [`crate::yaml`] reads it.
pub fn yaml_to_json(text: &[u8]) -> Result<Vec<u8>, DecodeError> {
    crate::yaml::to_json(text).map_err(|error| DecodeError::Syntax(error.to_string()))
}

#[cfg(test)]
mod tests;

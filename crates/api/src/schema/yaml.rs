//! YAML to JSON.

use super::DecodeError;
use crate::value::Value;

/// The JSON text of a YAML document. What is JSON already is given back as it is.
pub fn yaml_to_json(text: &[u8]) -> Result<Vec<u8>, DecodeError> {
    if text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{') {
        return Ok(text.to_vec());
    }
    let value: Value = serde_norway::from_slice(text).map_err(|error| {
        let message = error.to_string();
        DecodeError::Syntax(format!("yaml: {message}"))
    })?;
    Ok(value.to_bytes())
}

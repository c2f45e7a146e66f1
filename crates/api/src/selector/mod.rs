//! The two selectors of lists and watches: by label and by field.

pub mod field;
pub mod label;

/// Why a text or object is not a selector; worded as upstream, so that it can be a bad request's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

fn wrong<T>(message: impl Into<String>) -> Result<T, SelectorError> {
    Err(SelectorError(message.into()))
}

#[cfg(test)]
mod tests;

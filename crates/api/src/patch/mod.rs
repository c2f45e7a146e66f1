//! The three patches: JSON (RFC 6902), merge (RFC 7386) and Kubernetes' strategic merge.
//!
//! Each takes a document and a patch and gives the patched document, or the [`Status`] that upstream answers.
//!
//! [`Status`]: crate::status::Status

pub mod json;
pub mod merge;
pub mod strategic;

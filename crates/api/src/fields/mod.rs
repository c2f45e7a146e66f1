//! Who owns which field: field sets, comparison of objects by field, and `metadata.managedFields`.
//!
//! Written after `structured-merge-diff` and the `managedfields` package of apimachinery. The apply verb will add
//! a merge beside [`mod@compare`]; sets, comparison and [`managed`] are as it needs them.

pub mod compare;
pub mod element;
pub mod managed;
pub mod reset;
pub mod set;
mod written;

pub use compare::{Comparison, compare};
pub use element::PathElement;
pub use set::FieldSet;

#[cfg(test)]
mod tests;

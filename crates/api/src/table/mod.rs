//! The facts of every built-in kind, read from the files that `tools/kinds` writes.
//!
//! [`types()`] knows the Go types behind the kinds field by field, [`kinds()`] what is served. Both are read once, on
//! first use, and borrow their words from the text in the binary. This module holds facts and looks them up; it
//! decides nothing. How they are applied to an object is [`crate::schema`]'s.

mod kinds;
mod read_kinds;
mod read_types;
mod types;

use std::sync::OnceLock;

pub use kinds::{Column, Group, KindFacts, Kinds, Storage, Subresource};
pub use types::{Bounds, Field, List, Named, NamedId, Part, Patch, Shape, ShapeId, Type, TypeId, Types};

/// All types that built-in kinds are made of.
pub fn types() -> &'static Types {
    static TYPES: OnceLock<Types> = OnceLock::new();
    TYPES.get_or_init(|| read_types::read(include_str!("data/types.txt")))
}

/// All kinds that are served without a custom definition.
pub fn kinds() -> &'static Kinds {
    static KINDS: OnceLock<Kinds> = OnceLock::new();
    KINDS.get_or_init(|| read_kinds::read(include_str!("data/kinds.txt"), types()))
}

#[cfg(test)]
mod tests;

//! The words of the house: what an object is, what a kind is, and what can be said about them.
//!
//! - [`value`]: the compact JSON tree of the write path; reads, lists and watches never build one.
//! - [`object`]: an object as everybody shares it: encoded bytes with the few indexed fields beside them.
//! - [`names`]: group, version, kind and resource; the ones that our own loops speak of, by name.
//! - [`table`]: the facts of every built-in kind, generated from upstream's own sources.
//! - [`schema`]: decoding, defaulting, validating and encoding by those facts.
//! - [`selector`], [`quantity`], [`patch`], [`fields`]: the small languages of the API, pure.
//! - [`validation`]: the rules that all kinds share, and the words for what breaks them.
//! - [`mod@print`]: objects as rows of a table.
//! - [`status`]: the one error that crosses the API.
//! - [`time`]: the two forms of a time.
//! - [`yaml`]: texts as upstream reads them, and where in a text a node stands.
//! - [`interface`]: `trait Api`, the narrow waist that loops, node, edge and console see.
//!
//! Everything here is synchronous and pure but for the trait's signatures. This crate knows no HTTP, no store
//! and no kernel.

pub mod fields;
pub mod interface;
pub mod names;
pub mod object;
pub mod patch;
pub mod print;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod time;
pub mod validation;
pub mod value;
pub mod yaml;

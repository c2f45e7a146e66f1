//! The command line: the verbs that a person types, as data ([`arguments`]), and those of them that ask a running
//! server ([`commands`]) over its admin socket ([`admin`]).
//!
//! What starts and removes instances is in `ondol`, the roof. [`why`] is pure: objects and events in, sentences out.
//! Everything is printed by [`output`].

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod admin;
pub mod arguments;
pub mod commands;
pub mod kubeconfig;
pub mod output;
pub mod steps;
pub mod why;

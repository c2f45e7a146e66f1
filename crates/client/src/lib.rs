//! `trait Api` over HTTPS: what the agent, the command line and tests speak to a server with.
//!
//! A call becomes a request ([`address`]), the answer becomes objects or a `Status` ([`decode`]), and a watch is a
//! stream of lines ([`lines`]). Reads are tried again when a connection breaks, writes never are: whether the server
//! acted is unknown, and the caller's loop finds out by looking.
//!
//! What is deliberately absent: caches (they are `control`'s), protobuf, redirects, and any knowledge of kinds.

pub mod address;
mod client;
pub mod decode;
pub mod kubeconfig;
pub mod lines;
mod watch;

pub use client::{Client, Error, USER_AGENT};
pub use kubeconfig::{Kubeconfig, KubeconfigError};

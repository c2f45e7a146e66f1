//! The gate: the one door to the state of the cluster.
//!
//! Every request, over HTTPS or from inside the process, takes the same way: who asks ([`authn`]), may they
//! ([`authz`]), what do they mean ([`route`], [`query`], [`negotiate`], [`codec`]), what else is asked of it
//! ([`admission`], [`strategy`]), do it ([`verbs`], [`watch`], [`subresource`], [`reviews`]), and say so
//! ([`server`]). One pipeline serves all kinds: what a kind is comes from `api::table`, and where upstream has code
//! for a kind, there is a file in [`strategy`].
//!
//! This crate is the sole user of `store`. It runs no loops: what acts on objects are controllers, over the same
//! [`api::interface::Api`] as everybody else.

pub mod admission;
pub mod authn;
pub mod authz;
pub mod bootstrap;
mod caller;
mod codec;
mod components;
mod convert;
mod discovery;
mod gate;
mod identity;
mod inprocess;
mod kinds;
pub mod limits;
mod lookups;
mod managed;
mod metrics;
mod negotiate;
mod openapi;
mod query;
mod reviews;
mod route;
mod server;
mod shares;
mod storage;
pub mod strategy;
mod subresource;
mod table;
mod verbs;
mod watch;

pub use gate::{Config, Gate};
pub use identity::Identity;
pub use lookups::Lookups;
pub use server::GIT_VERSION;
pub use server::refusals::refusal;
pub use storage::Record;
pub use subresource::connect::{Dialer, NetworkDialer, Stream};

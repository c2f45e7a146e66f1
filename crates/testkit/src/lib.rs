//! The simulated world: store, gate, controllers, scheduler and fake nodes under one seed and a virtual clock.
//!
//! Everything but the nodes and the disk is the shipping code. [`server`] starts and kills it over a simulated disk;
//! [`link`] is what everybody's calls go through, and where conflicts, refusals and cut watches are injected;
//! [`node`] is a kubelet that only pretends; [`user`] does what users do every day, [`visitor`] what they do more rarely; [`properties`] looks at every single change
//! in the order of the store's revisions, [`history`] keeps them all over every crash; [`panics`] hears of each panic, caught or not; [`simulation`] puts them together.
//!
//! What is deliberately absent: threads, the machine's clock, sockets. One seed gives one run, to the last commit.

pub mod history;
pub mod link;
pub mod node;
pub mod panics;
pub mod properties;
pub mod server;
pub mod simulation;
pub mod user;
pub mod visitor;

//! The gate over HTTPS and in process, its store on a simulated disk.

mod crowds;
mod harness;
mod objects;
mod options;
mod proxy;
mod refusals;
mod rights;
mod versions;
mod watches;

#[path = "../served/mod.rs"]
mod served;

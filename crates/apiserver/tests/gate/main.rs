//! The gate over HTTPS and in process, its store on a simulated disk.

mod harness;
mod objects;
mod rights;
mod watches;

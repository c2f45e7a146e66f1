//! Servers and clients on the loopback interface.

mod http;
mod streams;
mod world;

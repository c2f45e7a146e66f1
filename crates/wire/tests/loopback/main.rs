//! Servers and clients on the loopback interface.

mod http;
mod world;

//! The pod process: holds a pod's namespaces, starts and reaps its containers, pumps their logs, keeps their ends.
//!
//! One thread, one loop, a few hundred kilobytes, no configuration: the agent that starts it says everything over
//! the socket that is its standard input, and any later agent over the socket in the run directory. It outlives
//! agents, and it alone decides whether an attempt has been started. It knows no images, no networks, no
//! Kubernetes. Without it nothing of the pod lives on: its children are killed when it ends.

mod child;
mod connection;
mod container;
mod diagnose;
mod log;
mod pod;
mod poller;
#[allow(
    dead_code,
    clippy::large_enum_variant,
    reason = "one file, shared with the agent; one message lives at a time"
)]
mod protocol;
mod rootfs;
mod server;
mod sys;

fn main() {
    if let Err(error) = server::Server::new().and_then(server::Server::run) {
        eprintln!("pod process: {error}");
        std::process::exit(1);
    }
}

//! The node agent: pods and services turned into calls of the hands.
//!
//! [`agent::Agent`] keeps a [`pod::worker::Worker`] for every pod of the node. A worker looks at what is wanted and what
//! is seen, asks the pure [`pod::machine`] for the next steps, takes them with `sandbox`, `image` and `net`, and
//! writes the status. Everything is found again after a crash: sandboxes outlive the agent, and the rest is in the
//! API's objects and the pods' directories.
//!
//! What is deliberately absent: any knowledge of other controllers. The agent sees the API alone, in process or over
//! HTTPS.

pub mod agent;
pub mod context;
pub mod health;
pub mod machine;
pub mod network;
pub mod pod;
pub mod probe;
pub mod references;
pub mod register;
pub mod server;
pub mod services;
pub mod supported;
pub mod volume;

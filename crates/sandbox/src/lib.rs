//! The hand that isolates: namespaces, cgroups, root file systems, processes and their logs.
//!
//! Plain data goes in ([`Spec`], [`ContainerSpec`]), the state of things comes out ([`State`]). A [`Sandbox`] is
//! held by a *pod process*, a small program of its own (`programs/pod-process`) that outlives this one: after a
//! restart [`Sandboxes::adopt`] finds it again over its socket. The pod process, not the agent, decides whether an
//! attempt has been started, so no attempt ever runs twice.
//!
//! This crate knows no Kubernetes, no images and no packets. It never forks, and it has no state of its own that
//! could not be read back from the run directory and the pod processes.

pub mod capabilities;
mod cgroup;
mod connection;
mod devices;
mod error;
pub mod inside;
mod launch;
mod manager;
pub mod paths;
mod prepare;
#[path = "../../../programs/pod-process/src/protocol.rs"]
#[expect(dead_code, clippy::large_enum_variant, reason = "one file, shared with the pod process")]
mod protocol;
mod sandbox;
pub mod seccomp;
mod spec;
mod state;
mod stream;
mod sys;
pub mod users;

pub use cgroup::stats::Usage;
pub use error::{Error, StartError};
pub use manager::{Adopted, Config, Remains, Sandboxes, leave_session, trial};
pub use sandbox::{Attached, Exec, Overhead, Sandbox, Started};
pub use spec::{
    AttachSpec, Attempt, ContainerSpec, Device, ExecSpec, IdMap, IdMaps, Limit, Log, Mount, MountSource,
    PidScope, Propagation, Resources, Root, Scope, Seccomp, Spec, User, WindowSize,
};
pub use state::{ContainerState, Exit, Phase, State};
pub use stream::Stream;

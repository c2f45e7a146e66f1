//! The only place with `unsafe`, and the tables that depend on the architecture.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

pub mod bpf;
pub mod namespace;
pub mod syscalls;

/// Registers a descriptor with the runtime that this is called in.
#[expect(
    unsafe_code,
    reason = "registration is unsafe for types that could answer with changing descriptors"
)]
pub fn watch(descriptor: impl Into<OwnedFd>) -> io::Result<AsyncFd<File>> {
    // SAFETY: a `File` owns its descriptor, gives the same one each time, and lives inside the registration.
    unsafe { AsyncFd::register(File::from(descriptor.into())) }.map_err(io::Error::from)
}

//! The only place of the server with `unsafe`.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime that this is called in.
#[expect(
    unsafe_code,
    reason = "registration is unsafe for types that could answer with changing descriptors"
)]
pub fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives the same open descriptor each time, and lives inside the registration.
    unsafe { AsyncFd::register(descriptor) }.map_err(io::Error::from)
}

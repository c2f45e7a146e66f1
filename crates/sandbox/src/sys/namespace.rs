//! Mounting where nobody else sees it.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::CWD;
use rustix::mount::{MountFlags, MountPropagationFlags, OpenTreeFlags, mount, mount_change, open_tree};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// A place that is there on every machine.
const PLACE: &str = "/sys";

/// Runs `work` on a thread with mounts of its own, which end with it. Blocking.
pub fn with_mounts_of_its_own<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let thread = std::thread::Builder::new().name("mounts".to_owned()).spawn(move || {
        leave_mounts()?;
        work()
    })?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that mounts has ended early")))
}

/// Mounts a file system read-only on a thread of [`with_mounts_of_its_own`], and gives it as a mount that is attached
/// nowhere: it outlives the thread and ends with its handle.
pub fn mount_and_take(kind: &str, options: &CStr) -> io::Result<OwnedFd> {
    mount(kind, PLACE, kind, MountFlags::RDONLY, options)?;
    Ok(open_tree(CWD, PLACE, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
}

#[expect(unsafe_code, reason = "unshare(2) is unsafe for file descriptors, which are not touched here")]
fn leave_mounts() -> io::Result<()> {
    // SAFETY: descriptors stay shared with the other threads; only the mounts, and with them the current folder and the
    // root of this one thread, become its own.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS)? };
    // Nothing that is mounted here may reach the host.
    Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}

//! The only place of these tests with `unsafe`.
#![expect(unsafe_code, reason = "unshare of other things than the network would be unsound; this one is not")]

/// Moves the calling thread into a new network namespace.
pub fn unshare_network() -> std::io::Result<()> {
    // SAFETY: a network namespace of its own takes no memory or descriptor away from other threads.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.map_err(Into::into)
}

//! The one call that has no safe wrapper.
#![expect(unsafe_code, reason = "unshare of other things than the network would be unsound; this one is not")]

/// Puts the calling thread into a new network namespace.
pub fn unshare_network() -> std::io::Result<()> {
    // SAFETY: only unsharing the table of file descriptors is unsafe; the network namespace is not that.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.map_err(Into::into)
}

//! The few calls that the safe wrappers do not offer.
#![expect(
    unsafe_code,
    reason = "socket options of netlink have no safe wrapper, nor has watching a descriptor"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use tokio::io::unix::AsyncFd;

/// Lets the current runtime watch `fd`.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays open and is the same descriptor until it is dropped, and the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// Asks the kernel to explain refusals in words and not to echo our messages back in them.
pub(crate) fn explain_errors(socket: BorrowedFd<'_>) -> io::Result<()> {
    for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
        let on: libc::c_int = 1;
        // SAFETY: setsockopt has no safe wrapper for these options; it reads `size` bytes at the pointer, which
        // is a live c_int of that size, and keeps nothing.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

//! Mounts by handle: what is mounted, and where, are descriptors, so that no path can change in between.

use std::io::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::{c, check, check_int};

/// Resolution of paths.
#[derive(Clone, Copy)]
pub enum Within {
    /// The directory is the root: absolute links and `..` stay inside.
    Root,
    /// Leaving the directory is an error.
    Beneath,
}

pub const READ_ONLY: u64 = 1;
pub const NO_SUID: u64 = 2;
pub const NO_DEVICES: u64 = 4;
pub const NO_EXEC: u64 = 8;

const OPEN_TREE_CLONE: u32 = 1;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
const AT_RECURSIVE: u32 = 0x8000;
const AT_EMPTY: u32 = libc::AT_EMPTY_PATH as u32;
const MOVE_FROM_EMPTY: u32 = 0x4;
const MOVE_TO_EMPTY: u32 = 0x40;
const CONFIG_FLAG: libc::c_long = 0;
const CONFIG_STRING: libc::c_long = 1;
const CONFIG_CREATE: libc::c_long = 6;
const RESOLVE_NO_MAGIC: u64 = 0x02;
const RESOLVE_BENEATH: u64 = 0x08;
const RESOLVE_IN_ROOT: u64 = 0x10;

fn own(descriptor: libc::c_long) -> OwnedFd {
    // SAFETY: only called with a descriptor that the kernel just gave to us.
    unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) }
}

/// Opens a place without reading it.
pub fn open_place(path: &str) -> Result<OwnedFd> {
    let path = c(path)?;
    // SAFETY: the path is terminated.
    check_int(unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) }).map(|fd| own(fd.into()))
}

/// Opens a place below a directory.
pub fn open_within(directory: BorrowedFd<'_>, path: &str, within: Within) -> Result<OwnedFd> {
    let path = c(path)?;
    let resolve = RESOLVE_NO_MAGIC
        | match within {
            Within::Root => RESOLVE_IN_ROOT,
            Within::Beneath => RESOLVE_BENEATH,
        };
    let how: [u64; 3] = [(libc::O_PATH | libc::O_CLOEXEC) as u64, 0, resolve];
    // SAFETY: `struct open_how` is three words.
    check(unsafe { libc::syscall(libc::SYS_openat2, directory.as_raw_fd(), path.as_ptr(), how.as_ptr(), 24) })
        .map(own)
}

/// Whether a place is a directory.
pub fn is_directory(place: BorrowedFd<'_>) -> Result<bool> {
    // SAFETY: the kernel fills a plain structure; an empty path means the descriptor itself.
    unsafe {
        let mut status: libc::stat = std::mem::zeroed();
        check_int(libc::fstatat(place.as_raw_fd(), c"".as_ptr(), &mut status, libc::AT_EMPTY_PATH))?;
        Ok(status.st_mode & libc::S_IFMT == libc::S_IFDIR)
    }
}

/// Makes a directory in a directory.
pub fn make_directory(parent: BorrowedFd<'_>, name: &str, mode: u32) -> Result<()> {
    let name = c(name)?;
    // SAFETY: the name is terminated.
    check_int(unsafe { libc::mkdirat(parent.as_raw_fd(), name.as_ptr(), mode) }).map(drop)
}

/// Makes a node (`S_IFREG`, `S_IFCHR`, `S_IFBLK` in `mode`) in a directory.
pub fn make_node(parent: BorrowedFd<'_>, name: &str, mode: u32, major: u32, minor: u32) -> Result<()> {
    let name = c(name)?;
    let number = libc::makedev(major, minor);
    // SAFETY: the name is terminated.
    check_int(unsafe { libc::mknodat(parent.as_raw_fd(), name.as_ptr(), mode, number) }).map(drop)
}

/// Makes a symbolic link in a directory.
pub fn make_link(to: &str, parent: BorrowedFd<'_>, name: &str) -> Result<()> {
    let (to, name) = (c(to)?, c(name)?);
    // SAFETY: both are terminated.
    check_int(unsafe { libc::symlinkat(to.as_ptr(), parent.as_raw_fd(), name.as_ptr()) }).map(drop)
}

/// Where a symbolic link of a directory leads; `None` if there is no link of that name.
pub fn read_link(parent: BorrowedFd<'_>, name: &str) -> Result<Option<String>> {
    let name = c(name)?;
    let mut target = [0_u8; libc::PATH_MAX as usize];
    // SAFETY: the name is terminated, and the kernel writes no more than the buffer holds.
    let length = check_int(unsafe {
        libc::readlinkat(parent.as_raw_fd(), name.as_ptr(), target.as_mut_ptr().cast(), target.len())
            as libc::c_int
    });
    match length {
        Ok(length) => Ok(Some(String::from_utf8_lossy(&target[..length as usize]).into_owned())),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives a node to a user and group.
pub fn give_node(parent: BorrowedFd<'_>, name: &str, uid: u32, gid: u32) -> Result<()> {
    let name = c(name)?;
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: the name is terminated.
    check_int(unsafe { libc::fchownat(parent.as_raw_fd(), name.as_ptr(), uid, gid, flags) }).map(drop)
}

/// A copy of what is mounted at a place, attached nowhere yet.
pub fn copy_tree(place: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: an empty path means the descriptor itself.
    check(unsafe { libc::syscall(libc::SYS_open_tree, place.as_raw_fd(), c"".as_ptr(), flags) }).map(own)
}

/// Sets attributes (`READ_ONLY` and its like) of a mount, and its propagation if `Some` (true: slave).
pub fn set_attributes(mount: BorrowedFd<'_>, set: u64, slave: Option<bool>, recursive: bool) -> Result<()> {
    let propagation = match slave {
        Some(true) => libc::MS_SLAVE,
        Some(false) => libc::MS_PRIVATE,
        None => 0,
    };
    let attributes: [u64; 4] = [set, 0, propagation, 0];
    let flags = AT_EMPTY | if recursive { AT_RECURSIVE } else { 0 };
    let (fd, empty) = (mount.as_raw_fd(), c"".as_ptr());
    // SAFETY: `struct mount_attr` is four words.
    check(unsafe { libc::syscall(libc::SYS_mount_setattr, fd, empty, flags, attributes.as_ptr(), 32) })
        .map(drop)
}

/// Attaches a mount at a place.
pub fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<()> {
    let flags = MOVE_FROM_EMPTY | MOVE_TO_EMPTY;
    let (from, to, empty) = (mount.as_raw_fd(), place.as_raw_fd(), c"".as_ptr());
    // SAFETY: empty paths mean the descriptors themselves.
    check(unsafe { libc::syscall(libc::SYS_move_mount, from, empty, to, empty, flags) }).map(drop)
}

/// A new file system, attached nowhere yet. Options without a value are flags.
pub fn new_file_system(kind: &str, options: &[(&str, &str)], attributes: u64) -> Result<OwnedFd> {
    let kind = c(kind)?;
    // SAFETY: all strings are terminated and live through their calls.
    unsafe {
        let context = own(check(libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1))?);
        let fd = context.as_raw_fd();
        for (key, value) in options {
            let (key, text) = (c(key)?, c(value)?);
            let (command, text) = if value.is_empty() {
                (CONFIG_FLAG, std::ptr::null())
            } else {
                (CONFIG_STRING, text.as_ptr())
            };
            check(libc::syscall(libc::SYS_fsconfig, fd, command, key.as_ptr(), text, 0))?;
        }
        let none = std::ptr::null::<libc::c_char>();
        check(libc::syscall(libc::SYS_fsconfig, fd, CONFIG_CREATE, none, none, 0))?;
        check(libc::syscall(libc::SYS_fsmount, fd, 1, attributes)).map(own)
    }
}

/// The older way, for overlays: their list of layers does not fit the newer one's values before Linux 6.7.
pub fn mount_at(kind: &str, target: &str, options: &str) -> Result<()> {
    let (kind, target, options) = (c(kind)?, c(target)?, c(options)?);
    // SAFETY: all strings are terminated.
    check_int(unsafe {
        libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast())
    })
    .map(drop)
}

/// Later mounts of the host come in, none go out.
pub fn make_slave() -> Result<()> {
    let none = std::ptr::null();
    // SAFETY: the path is terminated; the rest is unused.
    check_int(unsafe { libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_SLAVE, none.cast()) })
        .map(drop)
}

/// Makes a directory the root and lets go of the old one.
pub fn change_root(root: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: plain calls; the old root is stacked on the new one and then detached (as pivot_root(2) describes).
    unsafe {
        check_int(libc::fchdir(root.as_raw_fd()))?;
        check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        check_int(libc::umount2(c".".as_ptr(), libc::MNT_DETACH))?;
        check_int(libc::chdir(c"/".as_ptr())).map(drop)
    }
}

/// Makes a directory of this mount namespace this process' root, and where it is.
pub fn return_to(root: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: plain calls; the path is terminated.
    unsafe {
        check_int(libc::fchdir(root.as_raw_fd()))?;
        check_int(libc::chroot(c".".as_ptr())).map(drop)
    }
}

/// Whether an error says that something is not there.
pub fn is_missing(error: &Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR))
}

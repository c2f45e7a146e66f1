//! Who a process is and what it may do.

use std::io::Result;

use super::{check, check_int};

const SECCOMP_SET_MODE_FILTER: libc::c_long = 1;
const CAPABILITY_VERSION: u32 = 0x2008_0522;
const AMBIENT_RAISE: libc::c_ulong = 2;
const AMBIENT_CLEAR: libc::c_ulong = 4;
const JOIN_SESSION_KEYRING: libc::c_long = 1;

fn control(option: libc::c_int, first: libc::c_ulong, second: libc::c_ulong) -> Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: only options whose arguments are plain numbers are used.
    check_int(unsafe { libc::prctl(option, first, second, zero, zero) }).map(drop)
}

/// Orphans among the descendants become children of this process.
pub fn adopt_orphans() -> Result<()> {
    control(libc::PR_SET_CHILD_SUBREAPER, 1, 0)
}

/// Nobody without power over the host may look into this process or its children before they execute.
pub fn hide() -> Result<()> {
    control(libc::PR_SET_DUMPABLE, 0, 0)
}

/// This process is killed when its parent ends.
pub fn die_with_parent() -> Result<()> {
    control(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0)
}

/// The short name that process lists show.
pub fn set_name(name: &std::ffi::CStr) {
    // SAFETY: the name is terminated.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// No program gains powers by being executed.
pub fn no_new_privileges() -> Result<()> {
    control(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
}

/// Takes everything out of the bounding set that is not in `keep`.
pub fn limit_bounding(keep: u64) -> Result<()> {
    for number in 0..64 {
        if keep & (1 << number) != 0 {
            continue;
        }
        // Beyond the last capability of this kernel the answer is EINVAL.
        if control(libc::PR_CAPBSET_READ, number, 0).is_err() {
            break;
        }
        control(libc::PR_CAPBSET_DROP, number, 0)?;
    }
    Ok(())
}

/// Becomes a user; the permitted capabilities survive until [`set_capabilities`].
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    control(libc::PR_SET_KEEPCAPS, 1, 0)?;
    // SAFETY: the list lives through the call; the others are plain calls. This process has one thread, so the
    // bare system calls are enough.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    control(libc::PR_SET_KEEPCAPS, 0, 0)
}

/// What this process may do at present: its permitted set.
pub fn permitted() -> Result<u64> {
    let (header, mut sets) = ([CAPABILITY_VERSION, 0], [0_u32; 6]);
    // SAFETY: version 3 reads a header of two words and fills six.
    check(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) })?;
    Ok(u64::from(sets[1]) | u64::from(sets[4]) << 32)
}

/// Sets the sets of this process.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64, ambient: u64) -> Result<()> {
    let header = [CAPABILITY_VERSION, 0];
    let half = |set: u64, shift: u32| (set >> shift) as u32;
    let mut sets = [0_u32; 6];
    for (index, set) in [effective, permitted, inheritable].into_iter().enumerate() {
        sets[index] = half(set, 0);
        sets[index + 3] = half(set, 32);
    }
    // SAFETY: version 3 takes a header of two words and six words of sets.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })?;
    let zero: libc::c_ulong = 0;
    // SAFETY: plain calls.
    check_int(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, AMBIENT_CLEAR, zero, zero, zero) })?;
    for number in (0..64_u64).filter(|number| ambient & (1 << number) != 0) {
        // SAFETY: as above.
        check_int(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, AMBIENT_RAISE, number, zero, zero) })?;
    }
    Ok(())
}

/// Installs a filter of system calls: instructions of 8 bytes.
pub fn install_filter(program: &[u8]) -> Result<()> {
    let mut aligned: Vec<u64> = vec![0; program.len() / 8];
    for (to, from) in aligned.iter_mut().zip(program.chunks_exact(8)) {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(from);
        *to = u64::from_ne_bytes(bytes);
    }
    let filter = libc::sock_fprog { len: aligned.len() as u16, filter: aligned.as_mut_ptr().cast() };
    // SAFETY: the list has as many instructions as said and lives through the call; the kernel checks them.
    check(unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &raw const filter) })
        .map(drop)
}

/// Sets a resource limit.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    let none = std::ptr::null_mut::<libc::rlimit64>();
    // SAFETY: the kernel reads one structure.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, none) }).map(drop)
}

/// A resource limit's hard value.
pub fn hard_limit(resource: u32) -> Result<u64> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let none = std::ptr::null::<libc::rlimit64>();
    // SAFETY: the kernel fills one structure.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, none, &raw mut limit) })?;
    Ok(limit.rlim_max)
}

/// A key ring of its own, so that the host's keys are not inherited. A kernel without keys has none to inherit.
pub fn leave_keyring() {
    let name = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for an anonymous ring.
    unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name) };
}

/// Permissions that new files lack.
pub fn set_umask(mask: u32) {
    // SAFETY: plain call.
    unsafe { libc::umask(mask) };
}

/// The host name of this namespace.
pub fn set_host_name(name: &str) -> Result<()> {
    // SAFETY: the kernel reads as many bytes as said.
    check_int(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

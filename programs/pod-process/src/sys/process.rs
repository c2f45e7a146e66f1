//! Processes and their namespaces.

use std::ffi::CString;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, Ordering};

use super::{check, check_int};

/// Which namespaces: the kernel's flags.
pub const NEW_MOUNT: u64 = libc::CLONE_NEWNS as u64;
pub const NEW_PID: u64 = libc::CLONE_NEWPID as u64;
pub const NEW_CGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
pub const NEW_NETWORK: u64 = libc::CLONE_NEWNET as u64;
pub const NEW_IPC: u64 = libc::CLONE_NEWIPC as u64;
pub const NEW_UTS: u64 = libc::CLONE_NEWUTS as u64;

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Which side of a fork this is.
pub enum Forked {
    Child,
    Parent { pid: i32, handle: OwnedFd },
}

/// Forks with new namespaces, the child being born into `cgroup`. This process must have one thread only, so that
/// the child may do whatever a program may do.
pub fn fork(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Forked> {
    let mut handle: RawFd = -1;
    let arguments = CloneArguments {
        flags: namespaces | CLONE_PIDFD | cgroup.map_or(0, |_| CLONE_INTO_CGROUP),
        pidfd: (&raw mut handle) as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.map_or(0, |cgroup| cgroup.as_raw_fd() as u64),
        ..CloneArguments::default()
    };
    // SAFETY: without CLONE_VM this is a fork: the child has a copy of everything, and there is no other thread
    // that could hold a lock. The arguments live through the call.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>()) })?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: the kernel wrote the new descriptor there before it answered.
    let handle = unsafe { OwnedFd::from_raw_fd(handle) };
    Ok(Forked::Parent { pid: pid as i32, handle })
}

/// A note that a child of this process leaves of the process that it has put in its own place: a number in memory
/// that these two share, and nobody else ever has.
pub struct Birth(NonNull<AtomicI32>);

/// The kernel's smallest page, which is more than a number needs.
const PAGE_BYTES: usize = 4096;

impl Birth {
    pub fn new() -> Result<Self> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: asks for memory anywhere, zeroed; it is given back when this is dropped.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), PAGE_BYTES, access, kind, -1, 0) };
        match NonNull::new(memory.cast()) {
            Some(number) if memory != libc::MAP_FAILED => Ok(Self(number)),
            _ => Err(Error::last_os_error()),
        }
    }

    /// Who was born, once somebody was. The kernel notes it before the newborn runs at all.
    pub fn pid(&self) -> Option<i32> {
        // SAFETY: the memory lives as long as this; it is only used atomically.
        Some(unsafe { self.0.as_ref() }.load(Ordering::SeqCst)).filter(|pid| *pid > 0)
    }

    /// No child that is forked from now on has the note.
    pub fn keep(&self) -> Result<()> {
        // SAFETY: concerns this one page, which stays as it is for this process.
        check_int(unsafe { libc::madvise(self.0.as_ptr().cast(), PAGE_BYTES, libc::MADV_DONTFORK) }).map(drop)
    }

    /// Forks once more, into the process ids that were entered: the newborn, which must not touch the note, is a
    /// child of this process' parent and is told by `true`. The older call is used, as filters may know it alone.
    pub fn bear(&self) -> Result<bool> {
        self.keep()?;
        let flags = libc::CLONE_PARENT | libc::CLONE_PARENT_SETTID | libc::SIGCHLD;
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: without CLONE_VM this is a fork, of a process with one thread. The kernel writes one number.
        let pid = check(unsafe {
            libc::syscall(
                libc::SYS_clone,
                libc::c_long::from(flags),
                nothing,
                self.0.as_ptr(),
                nothing,
                nothing,
            )
        })?;
        Ok(pid == 0)
    }
}

impl Drop for Birth {
    fn drop(&mut self) {
        // SAFETY: this memory was mapped by `new` and nothing else refers to it.
        unsafe { libc::munmap(self.0.as_ptr().cast(), PAGE_BYTES) };
    }
}

/// Leaves namespaces for new ones.
pub fn unshare(namespaces: u64) -> Result<()> {
    // SAFETY: plain call.
    check_int(unsafe { libc::unshare(namespaces as libc::c_int) }).map(drop)
}

/// Enters namespaces of a process (by its handle) or one namespace (by its file). For process ids it is the
/// children who enter.
pub fn enter(what: BorrowedFd<'_>, namespaces: u64) -> Result<()> {
    // SAFETY: plain call.
    check_int(unsafe { libc::setns(what.as_raw_fd(), namespaces as libc::c_int) }).map(drop)
}

/// A handle of a child that was not reaped yet, whose number is no other's.
pub fn handle(pid: i32) -> Result<OwnedFd> {
    // SAFETY: plain call; the descriptor is ours alone.
    unsafe { check(libc::syscall(libc::SYS_pidfd_open, pid, 0)).map(|fd| OwnedFd::from_raw_fd(fd as RawFd)) }
}

/// A session of its own.
pub fn new_session() {
    // SAFETY: plain call; it fails only for a process that leads one already.
    unsafe { libc::setsid() };
}

/// Sends a signal.
pub fn signal(handle: BorrowedFd<'_>, number: i32) -> Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: plain call.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, handle.as_raw_fd(), number, none, 0) })
        .map(drop)
}

/// Kills a group of processes by the number of its leader, who is a child that was not reaped yet.
pub fn kill_group(leader: i32) {
    if leader > 1 {
        // SAFETY: plain call.
        unsafe { libc::kill(-leader, libc::SIGKILL) };
    }
}

/// Kills by number: only for processes listed by a cgroup.
pub fn kill(pid: i32) {
    // SAFETY: plain call.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Signals that the loop takes by reading: children's ends and requests to stop. Everything else is left alone.
pub fn signal_source() -> Result<OwnedFd> {
    // SAFETY: the set is initialised before use; the descriptor is ours alone.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for number in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&mut set, number);
        }
        check_int(libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        check_int(libc::signalfd(-1, &set, flags)).map(|fd| OwnedFd::from_raw_fd(fd))
    }
}

/// Whether a record read from the source is a request to stop.
pub fn asks_to_stop(record: &[u8]) -> bool {
    let number = record.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes));
    number == Some(libc::SIGTERM as u32) || number == Some(libc::SIGINT as u32)
}

/// Gives a child the signals that a program expects: none blocked, none ignored.
pub fn reset_signals() {
    // SAFETY: the default action is always allowed; numbers that do not exist are refused.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
        for number in 1..=64 {
            libc::signal(number, libc::SIG_DFL);
        }
    }
}

/// How a child ended: its exit code, or the signal.
pub struct Ended {
    pub pid: i32,
    pub code: i32,
    pub signal: i32,
}

/// A child that has ended, and keeps its number until it is reaped.
pub fn ended_child() -> Option<i32> {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: the kernel fills a plain structure that was zeroed; without a child that ended it stays so.
    let pid = unsafe {
        let mut found: libc::siginfo_t = std::mem::zeroed();
        if libc::waitid(libc::P_ALL, 0, &mut found, options) != 0 {
            return None;
        }
        found.si_pid()
    };
    Some(pid).filter(|pid| *pid > 0)
}

/// Takes the end of a child that has ended.
pub fn reap(pid: i32) -> Option<Ended> {
    let mut status = 0;
    // SAFETY: the kernel fills `status`.
    let pid = unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG | libc::__WALL) };
    if pid <= 0 {
        return None;
    }
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        return Some(Ended { pid, code: 128 + signal, signal });
    }
    Some(Ended { pid, code: libc::WEXITSTATUS(status), signal: 0 })
}

/// Waits for children for ever: what process 1 of a shared namespace does. SIGCHLD is blocked, so none is missed.
pub fn reap_forever() -> ! {
    // SAFETY: the set is initialised before use; all else are plain calls.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        loop {
            while libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) > 0 {}
            libc::sigwaitinfo(&set, std::ptr::null_mut());
        }
    }
}

/// Replaces the program.
pub fn execute(program: &str, args: &[CString], env: &[CString]) -> Error {
    let pointers = |words: &[CString]| -> Vec<*const libc::c_char> {
        words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    match super::c(program) {
        Ok(program) => {
            // SAFETY: both lists end with a null pointer and outlive the call.
            unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
            Error::last_os_error()
        }
        Err(error) => error,
    }
}

/// Ends without running anything more.
pub fn exit(code: i32) -> ! {
    // SAFETY: ends this process.
    unsafe { libc::_exit(code) }
}

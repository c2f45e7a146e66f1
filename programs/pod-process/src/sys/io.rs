//! Descriptors: epoll, sockets, pipes, terminals, time.

use std::io::Result;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::{check, check_int};
use crate::protocol::MAX_DESCRIPTORS;

fn own(descriptor: RawFd) -> OwnedFd {
    // SAFETY: only called with a descriptor that the kernel just gave to us.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Takes the descriptor that the starter passed as standard input.
pub fn inherited_input() -> Result<OwnedFd> {
    // SAFETY: plain call; the copy is ours alone.
    check_int(unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3) }).map(own)
}

/// Duplicates `from` onto the number `to`, which stays open across an execution.
pub fn duplicate_onto(from: BorrowedFd<'_>, to: RawFd) -> Result<()> {
    if from.as_raw_fd() == to {
        // SAFETY: plain call on an open descriptor.
        return check_int(unsafe { libc::fcntl(to, libc::F_SETFD, 0) }).map(drop);
    }
    // SAFETY: plain call; `to` is one of the three standard descriptors.
    check_int(unsafe { libc::dup2(from.as_raw_fd(), to) }).map(drop)
}

/// Closes every descriptor from 3 up but for `keep`, which is sorted.
pub fn close_others(keep: &[RawFd]) {
    let mut first = 3;
    for last in keep.iter().copied().chain([RawFd::MAX]) {
        if last > first {
            let end = if last == RawFd::MAX { libc::c_uint::MAX } else { last as libc::c_uint - 1 };
            // SAFETY: closes descriptors that nothing in this short-lived child uses any more.
            unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, end, 0) };
        }
        first = last.saturating_add(1);
    }
}

/// A pipe: to read and to write.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the kernel fills two numbers.
    check_int(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    Ok((own(ends[0]), own(ends[1])))
}

/// Two connected sockets that keep the borders of messages.
pub fn message_pair() -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel fills two numbers.
    check_int(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
    Ok((own(ends[0]), own(ends[1])))
}

/// Calls on the descriptor answer at once from now on.
pub fn set_nonblocking(descriptor: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: plain calls on an open descriptor.
    let flags = check_int(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: as above.
    check_int(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })
        .map(drop)
}

/// Reads what is there.
pub fn read(descriptor: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes into `buffer` only.
    let count = unsafe { libc::read(descriptor.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    check(count as libc::c_long).map(|count| count as usize)
}

/// Writes what fits.
pub fn write(descriptor: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize> {
    // SAFETY: the kernel reads from `bytes` only.
    let count = unsafe { libc::write(descriptor.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    check(count as libc::c_long).map(|count| count as usize)
}

/// Readiness of many descriptors.
pub struct Epoll(OwnedFd);

/// To be told of input.
pub const READABLE: u32 = libc::EPOLLIN as u32;
/// To be told of room for output.
pub const WRITABLE: u32 = libc::EPOLLOUT as u32;

impl Epoll {
    pub fn new() -> Result<Self> {
        // SAFETY: plain call.
        check_int(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(own).map(Self)
    }

    pub fn add(&self, descriptor: BorrowedFd<'_>, token: u64, events: u32) -> Result<()> {
        self.control(libc::EPOLL_CTL_ADD, descriptor, token, events)
    }

    pub fn change(&self, descriptor: BorrowedFd<'_>, token: u64, events: u32) -> Result<()> {
        self.control(libc::EPOLL_CTL_MOD, descriptor, token, events)
    }

    pub fn remove(&self, descriptor: BorrowedFd<'_>) {
        let _ = self.control(libc::EPOLL_CTL_DEL, descriptor, 0, 0);
    }

    fn control(&self, operation: i32, descriptor: BorrowedFd<'_>, token: u64, events: u32) -> Result<()> {
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: `event` lives through the call.
        check_int(unsafe {
            libc::epoll_ctl(self.0.as_raw_fd(), operation, descriptor.as_raw_fd(), &mut event)
        })
        .map(drop)
    }

    /// Waits for the next events: tokens and what is ready.
    pub fn wait(&self, tokens: &mut Vec<(u64, u32)>) -> Result<()> {
        let mut events = [const { libc::epoll_event { events: 0, u64: 0 } }; 32];
        // SAFETY: the kernel fills at most 32 events.
        let count = check_int(unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), 32, -1) })?;
        tokens.clear();
        tokens.extend(events[..count as usize].iter().map(|event| (event.u64, event.events)));
        Ok(())
    }
}

/// Receives bytes and descriptors; 0 bytes at the end.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> Result<usize> {
    let mut control = Control::new();
    let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut header = control.header(&mut piece, size_of_val(&control.0));
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the header points to buffers that live through the call.
    let count = check(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, flags) } as libc::c_long)?;
    // SAFETY: walks the control messages that the kernel just wrote, with its own macros.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_SOCKET && (*message).cmsg_type == libc::SCM_RIGHTS {
                let count = ((*message).cmsg_len as usize - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                let first = libc::CMSG_DATA(message).cast::<RawFd>();
                descriptors.extend((0..count).map(|index| own(first.add(index).read_unaligned())));
            }
            message = libc::CMSG_NXTHDR(&header, message);
        }
    }
    Ok(count as usize)
}

/// Sends bytes, and descriptors with the first of them.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<usize> {
    let mut control = Control::new();
    let mut piece = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let count = descriptors.len().min(MAX_DESCRIPTORS);
    let payload = (count * size_of::<RawFd>()) as u32;
    // SAFETY: pure arithmetic.
    let space = if count == 0 { 0 } else { (unsafe { libc::CMSG_SPACE(payload) }) as usize };
    let header = control.header(&mut piece, space);
    if count > 0 {
        // SAFETY: the control buffer has room for MAX_DESCRIPTORS and the header says that `space` of it is used.
        unsafe {
            let message = libc::CMSG_FIRSTHDR(&header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = libc::CMSG_LEN(payload) as _;
            let first = libc::CMSG_DATA(message).cast::<RawFd>();
            for (index, descriptor) in descriptors.iter().take(count).enumerate() {
                first.add(index).write_unaligned(descriptor.as_raw_fd());
            }
        }
    }
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the header points to buffers that live through the call.
    check(unsafe { libc::sendmsg(socket.as_raw_fd(), &header, flags) } as libc::c_long)
        .map(|count| count as usize)
}

/// Room for control messages, aligned as the kernel wants it.
struct Control([u64; 8]);

impl Control {
    fn new() -> Self {
        Self([0; 8])
    }

    fn header(&mut self, piece: &mut libc::iovec, space: usize) -> libc::msghdr {
        // SAFETY: an all-zero header is a valid empty one.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = piece;
        header.msg_iovlen = 1;
        header.msg_control = if space == 0 { std::ptr::null_mut() } else { self.0.as_mut_ptr().cast() };
        header.msg_controllen = space as _;
        header
    }
}

/// The user at the other end of a socket.
pub fn peer_user(socket: BorrowedFd<'_>) -> Result<u32> {
    let mut credentials = MaybeUninit::<libc::ucred>::zeroed();
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    let to = credentials.as_mut_ptr().cast();
    // SAFETY: the kernel fills at most `size` bytes of a plain structure that was zeroed.
    unsafe {
        check_int(libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, to, &mut size))?;
        Ok(credentials.assume_init().uid)
    }
}

/// Opens the master of a new terminal of the devpts at `path`.
pub fn open_terminal(path: &str) -> Result<OwnedFd> {
    let path = super::c(path)?;
    // SAFETY: plain calls; the path is terminated.
    unsafe {
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        let master = own(check_int(libc::open(path.as_ptr(), flags))?);
        let unlocked: libc::c_int = 0;
        check_int(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK as _, &unlocked))?;
        Ok(master)
    }
}

/// Opens the other side of a terminal, whatever is mounted where.
pub fn open_peer(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: plain call.
    check_int(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER as _, flags) }).map(own)
}

/// Makes the terminal that is the standard input the controlling one of this session.
pub fn take_terminal() -> Result<()> {
    // SAFETY: plain call.
    check_int(unsafe { libc::ioctl(0, libc::TIOCSCTTY as _, 0) }).map(drop)
}

/// Sets a terminal's size.
pub fn set_size(terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads `size`.
    check_int(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ as _, &size) }).map(drop)
}

/// Gives a descriptor's file to a user.
pub fn give_to(descriptor: BorrowedFd<'_>, uid: u32) -> Result<()> {
    // SAFETY: plain call.
    check_int(unsafe { libc::fchown(descriptor.as_raw_fd(), uid, libc::gid_t::MAX) }).map(drop)
}

/// Gives a pipe to a user. Anything else is left alone: it may be a file of the host's.
pub fn give_pipe_to(descriptor: BorrowedFd<'_>, uid: u32) -> Result<()> {
    let mut status = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the kernel fills a plain structure that was zeroed.
    let kind = unsafe {
        check_int(libc::fstat(descriptor.as_raw_fd(), status.as_mut_ptr()))?;
        status.assume_init().st_mode & libc::S_IFMT
    };
    if kind == libc::S_IFIFO { give_to(descriptor, uid) } else { Ok(()) }
}

/// Brings the loopback interface of this network namespace up.
pub fn loopback_up() -> Result<()> {
    // SAFETY: `request` is a plain structure, zeroed, whose name is set; the kernel reads it.
    unsafe {
        let socket = own(check_int(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?);
        let mut request: libc::ifreq = mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check_int(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request)).map(drop)
    }
}

/// Wall time since the epoch.
pub fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills `time`.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Waits until reading the descriptor would not wait.
pub fn wait(descriptor: BorrowedFd<'_>) -> Result<()> {
    let mut poll = libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure, as said.
    check_int(unsafe { libc::poll(&mut poll, 1, -1) }).map(drop)
}

/// Whether reading the descriptor would not wait.
pub fn is_ready(descriptor: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure, as said.
    unsafe { libc::poll(&mut poll, 1, 0) > 0 }
}

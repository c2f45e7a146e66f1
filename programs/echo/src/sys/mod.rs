//! The kernel, without a libc between. All `unsafe` of the program is here.
#![expect(unsafe_code, reason = "system calls, the entry point and the allocator")]

mod call;
mod entry;
mod memory;

use alloc::string::String;
use alloc::vec::Vec;

use call::{call, number};

/// An error number of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

pub const EAGAIN: Errno = Errno(11);
pub const EINTR: Errno = Errno(4);
pub const EPOLLIN: u32 = 1;
pub const EPOLLOUT: u32 = 4;
/// The peer is gone or the socket is broken; told without being asked for.
pub const EPOLLGONE: u32 = 0x18;
pub const SIGINT: u32 = 2;
pub const SIGTERM: u32 = 15;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const SOCK_STREAM: usize = 1;
const SOCK_DGRAM: usize = 2;
const NONBLOCK: usize = 0o4000;
const CLOEXEC: usize = 0o2_000_000;

/// An open file. It closes itself.
#[derive(Debug)]
pub struct File(i32);

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours alone and is not used again.
        let _ = unsafe { call(number::CLOSE, [self.0 as usize, 0, 0, 0, 0, 0]) };
    }
}

/// An address and port as the kernel takes it; always room for IPv6.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    bytes: [u8; 28],
    length: u32,
}

impl Address {
    pub fn v4(address: [u8; 4], port: u16) -> Self {
        let mut bytes = [0; 28];
        bytes[..2].copy_from_slice(&AF_INET.to_ne_bytes());
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        bytes[4..8].copy_from_slice(&address);
        Self { bytes, length: 16 }
    }

    pub fn v6(address: [u8; 16], port: u16) -> Self {
        let mut bytes = [0; 28];
        bytes[..2].copy_from_slice(&AF_INET6.to_ne_bytes());
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        bytes[8..24].copy_from_slice(&address);
        Self { bytes, length: 28 }
    }

    fn empty() -> Self {
        Self { bytes: [0; 28], length: 28 }
    }

    fn family(&self) -> u16 {
        u16::from_ne_bytes([self.bytes[0], self.bytes[1]])
    }

    /// Address and port; an IPv4 address within IPv6 is shown as what it is.
    pub fn show(&self) -> String {
        let port = u16::from_be_bytes([self.bytes[2], self.bytes[3]]);
        let mut v6 = [0_u8; 16];
        v6.copy_from_slice(&self.bytes[8..24]);
        let v6 = core::net::Ipv6Addr::from(v6);
        match (self.family(), v6.to_ipv4_mapped()) {
            (AF_INET, _) => {
                let b = &self.bytes[4..8];
                alloc::format!("{}.{}.{}.{}:{port}", b[0], b[1], b[2], b[3])
            }
            (_, Some(v4)) => alloc::format!("{v4}:{port}"),
            (_, None) => alloc::format!("[{v6}]:{port}"),
        }
    }
}

pub fn read(file: &File, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the buffer is valid for writes of its length during the call.
    unsafe { call(number::READ, [file.0 as usize, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0]) }
}

/// Sends on a socket; a peer that is gone is an error and no signal.
pub fn send(file: &File, buffer: &[u8]) -> Result<usize, Errno> {
    const NOSIGNAL: usize = 0x4000;
    let arguments = [file.0 as usize, buffer.as_ptr() as usize, buffer.len(), NOSIGNAL, 0, 0];
    // SAFETY: the buffer is valid for reads of its length during the call; no address is passed.
    unsafe { call(number::SENDTO, arguments) }
}

/// Writes all of `text` to standard output (1) or error (2). Failures are nobody's business.
pub fn print(descriptor: usize, text: &str) {
    write_bytes(descriptor, text.as_bytes());
}

pub fn write_bytes(descriptor: usize, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let arguments = [descriptor, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0];
        // SAFETY: the slice is valid for reads of its length during the call.
        match unsafe { call(number::WRITE, arguments) } {
            Ok(count) if count > 0 => bytes = &bytes[count..],
            Err(EINTR) => {}
            _ => return,
        }
    }
}

/// Reads a small file; `None` if it is not there.
pub fn read_file(path: &core::ffi::CStr) -> Option<Vec<u8>> {
    const MAX_BYTES: usize = 64 << 10;
    const AT_FDCWD: isize = -100;
    let arguments = [AT_FDCWD as usize, path.as_ptr() as usize, CLOEXEC, 0, 0, 0];
    // SAFETY: the path ends with a zero byte and lives through the call.
    let file = File(unsafe { call(number::OPENAT, arguments) }.ok()? as i32);
    let mut content = Vec::new();
    let mut buffer = [0_u8; 1024];
    while content.len() < MAX_BYTES {
        match read(&file, &mut buffer) {
            Ok(0) => break,
            Ok(count) => content.extend_from_slice(&buffer[..count]),
            Err(EINTR) => {}
            Err(_) => return None,
        }
    }
    Some(content)
}

fn socket(family: u16, kind: usize, blocking: bool) -> Result<File, Errno> {
    let kind = kind | CLOEXEC | if blocking { 0 } else { NONBLOCK };
    // SAFETY: no memory is passed.
    unsafe { call(number::SOCKET, [usize::from(family), kind, 0, 0, 0, 0]) }.map(|fd| File(fd as i32))
}

fn set_option(file: &File, level: usize, name: usize, value: &[u8]) -> Result<(), Errno> {
    let arguments = [file.0 as usize, level, name, value.as_ptr() as usize, value.len(), 0];
    // SAFETY: the value is valid for reads of its length during the call.
    unsafe { call(number::SETSOCKOPT, arguments) }.map(|_| ())
}

fn with_address(which: usize, file: &File, address: &Address) -> Result<(), Errno> {
    let arguments = [file.0 as usize, address.bytes.as_ptr() as usize, address.length as usize, 0, 0, 0];
    // SAFETY: the address is valid for reads of its length during the call.
    unsafe { call(which, arguments) }.map(|_| ())
}

/// A socket bound to `port` on all addresses of both families, or of IPv4 where there is no IPv6.
fn bound(kind: usize, port: u16) -> Result<File, Errno> {
    const SOL_SOCKET: usize = 1;
    const SO_REUSEADDR: usize = 2;
    const IPPROTO_IPV6: usize = 41;
    const IPV6_V6ONLY: usize = 26;
    let yes = 1_i32.to_ne_bytes();
    if let Ok(file) = socket(AF_INET6, kind, false) {
        set_option(&file, IPPROTO_IPV6, IPV6_V6ONLY, &0_i32.to_ne_bytes())?;
        set_option(&file, SOL_SOCKET, SO_REUSEADDR, &yes)?;
        match with_address(number::BIND, &file, &Address::v6([0; 16], port)) {
            // IPv6 is compiled in but switched off.
            Err(Errno(99)) => {}
            done => return done.map(|()| file),
        }
    }
    let file = socket(AF_INET, kind, false)?;
    set_option(&file, SOL_SOCKET, SO_REUSEADDR, &yes)?;
    with_address(number::BIND, &file, &Address::v4([0; 4], port)).map(|()| file)
}

pub fn listen(port: u16) -> Result<File, Errno> {
    const BACKLOG: usize = 1024;
    let file = bound(SOCK_STREAM, port)?;
    // SAFETY: no memory is passed.
    unsafe { call(number::LISTEN, [file.0 as usize, BACKLOG, 0, 0, 0, 0]) }.map(|_| file)
}

pub fn datagrams(port: u16) -> Result<File, Errno> {
    bound(SOCK_DGRAM, port)
}

pub fn accept(listener: &File) -> Result<(File, Address), Errno> {
    const IPPROTO_TCP: usize = 6;
    const TCP_NODELAY: usize = 1;
    let mut address = Address::empty();
    let arguments = [
        listener.0 as usize,
        address.bytes.as_mut_ptr() as usize,
        &raw mut address.length as usize,
        NONBLOCK | CLOEXEC,
        0,
        0,
    ];
    // SAFETY: address and length are valid for writes, and the length says how much fits.
    let file = File(unsafe { call(number::ACCEPT4, arguments) }? as i32);
    // Answers are small and must not wait for more; a failure costs only time.
    let _ = set_option(&file, IPPROTO_TCP, TCP_NODELAY, &1_i32.to_ne_bytes());
    Ok((file, address))
}

pub fn receive_from(file: &File, buffer: &mut [u8]) -> Result<(usize, Address), Errno> {
    let mut address = Address::empty();
    let arguments = [
        file.0 as usize,
        buffer.as_mut_ptr() as usize,
        buffer.len(),
        0,
        address.bytes.as_mut_ptr() as usize,
        &raw mut address.length as usize,
    ];
    // SAFETY: buffer, address and length are valid for writes of what they say.
    let count = unsafe { call(number::RECVFROM, arguments) }?;
    Ok((count, address))
}

pub fn send_to(file: &File, buffer: &[u8], address: &Address) -> Result<usize, Errno> {
    let arguments = [
        file.0 as usize,
        buffer.as_ptr() as usize,
        buffer.len(),
        0,
        address.bytes.as_ptr() as usize,
        address.length as usize,
    ];
    // SAFETY: buffer and address are valid for reads of their lengths during the call.
    unsafe { call(number::SENDTO, arguments) }
}

/// A blocking connection; the kernel gives up after `timeout_s`.
pub fn connect(address: &Address, timeout_s: i64) -> Result<File, Errno> {
    let file = socket(address.family(), SOCK_STREAM, true)?;
    set_timeouts(&file, timeout_s)?;
    with_address(number::CONNECT, &file, address).map(|()| file)
}

/// A blocking socket for one question by datagram.
pub fn ask(address: &Address, timeout_s: i64) -> Result<File, Errno> {
    let file = socket(address.family(), SOCK_DGRAM, true)?;
    set_timeouts(&file, timeout_s)?;
    with_address(number::CONNECT, &file, address).map(|()| file)
}

fn set_timeouts(file: &File, seconds: i64) -> Result<(), Errno> {
    const SOL_SOCKET: usize = 1;
    const SO_RCVTIMEO: usize = 20;
    const SO_SNDTIMEO: usize = 21;
    let mut value = [0_u8; 16];
    value[..8].copy_from_slice(&seconds.to_ne_bytes());
    set_option(file, SOL_SOCKET, SO_RCVTIMEO, &value)?;
    set_option(file, SOL_SOCKET, SO_SNDTIMEO, &value)
}

/// What became ready.
#[derive(Clone, Copy)]
pub struct Ready {
    pub key: u64,
    pub events: u32,
}

/// An epoll instance.
pub struct Poll(File);

/// As the kernel has it: packed on x86-64 alone.
#[derive(Clone, Copy)]
#[cfg_attr(target_arch = "x86_64", repr(C, packed))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C))]
struct Event {
    events: u32,
    data: u64,
}

impl Poll {
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: no memory is passed.
        unsafe { call(number::EPOLL_CREATE1, [CLOEXEC, 0, 0, 0, 0, 0]) }.map(|fd| Self(File(fd as i32)))
    }

    pub fn add(&self, file: &File, key: u64, events: u32) -> Result<(), Errno> {
        self.control(1, file, key, events)
    }

    pub fn change(&self, file: &File, key: u64, events: u32) -> Result<(), Errno> {
        self.control(3, file, key, events)
    }

    fn control(&self, operation: usize, file: &File, key: u64, events: u32) -> Result<(), Errno> {
        let event = Event { events, data: key };
        let arguments = [self.0.0 as usize, operation, file.0 as usize, &raw const event as usize, 0, 0];
        // SAFETY: the event is valid for reads during the call.
        unsafe { call(number::EPOLL_CTL, arguments) }.map(|_| ())
    }

    /// Waits for at most `timeout_ms` (-1: without end).
    pub fn wait(&self, ready: &mut Vec<Ready>, timeout_ms: i32) {
        const EVENTS_MAX: usize = 64;
        let mut events = [Event { events: 0, data: 0 }; EVENTS_MAX];
        ready.clear();
        let arguments =
            [self.0.0 as usize, events.as_mut_ptr() as usize, EVENTS_MAX, timeout_ms as usize, 0, 0];
        // SAFETY: there is room for EVENTS_MAX events; no signal mask is passed.
        if let Ok(count) = unsafe { call(number::EPOLL_PWAIT, arguments) } {
            ready.extend(events[..count].iter().map(|event| Ready { key: event.data, events: event.events }));
        }
    }
}

/// Blocks SIGTERM and SIGINT and returns a file that they are read from.
pub fn signals() -> Result<File, Errno> {
    let mask: u64 = (1 << (SIGTERM - 1)) | (1 << (SIGINT - 1));
    let pointer = &raw const mask as usize;
    // SAFETY: the mask is valid for reads of its eight bytes during both calls; SIG_BLOCK is 0.
    unsafe { call(number::RT_SIGPROCMASK, [0, pointer, 0, 8, 0, 0]) }?;
    // SAFETY: as above; -1 asks for a new file.
    unsafe { call(number::SIGNALFD4, [-1_isize as usize, pointer, 8, NONBLOCK | CLOEXEC, 0, 0]) }
        .map(|fd| File(fd as i32))
}

/// The next signal that is waiting.
pub fn next_signal(file: &File) -> Option<u32> {
    let mut record = [0_u8; 128];
    match read(file, &mut record) {
        Ok(128) => Some(u32::from_ne_bytes([record[0], record[1], record[2], record[3]])),
        _ => None,
    }
}

/// Waits at most `timeout_ms` for `file` to have something; says whether it has.
pub fn wait_readable(file: &File, timeout_ms: i32) -> bool {
    let Ok(poll) = Poll::new() else { return false };
    let mut ready = Vec::new();
    if poll.add(file, 0, EPOLLIN).is_ok() {
        poll.wait(&mut ready, timeout_ms);
    }
    !ready.is_empty()
}

/// Milliseconds on the kernel's monotonic clock.
pub fn now_ms() -> u64 {
    const CLOCK_MONOTONIC: usize = 1;
    let mut time = [0_i64; 2];
    // SAFETY: the two words are valid for writes during the call.
    let _ = unsafe { call(number::CLOCK_GETTIME, [CLOCK_MONOTONIC, time.as_mut_ptr() as usize, 0, 0, 0, 0]) };
    time[0] as u64 * 1000 + time[1] as u64 / 1_000_000
}

pub fn is_root() -> bool {
    // SAFETY: no memory is passed.
    matches!(unsafe { call(number::GETEUID, [0; 6]) }, Ok(0))
}

/// The name of this machine: in a pod, the pod's.
pub fn host_name() -> String {
    const FIELD_BYTES: usize = 65;
    let mut fields = [0_u8; 6 * FIELD_BYTES];
    // SAFETY: the kernel writes six fields of 65 bytes.
    let _ = unsafe { call(number::UNAME, [fields.as_mut_ptr() as usize, 0, 0, 0, 0, 0]) };
    let name = &fields[FIELD_BYTES..2 * FIELD_BYTES];
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}

/// Takes `bytes` of memory, touches every page, and keeps it. Says whether it got them.
pub fn eat(bytes: usize) -> bool {
    memory::eat(bytes)
}

/// The environment, as it was at the start.
pub fn environment() -> Vec<(&'static str, &'static str)> {
    entry::environment()
}

pub fn exit(code: i32) -> ! {
    loop {
        // SAFETY: no memory is passed; the call does not return.
        let _ = unsafe { call(number::EXIT_GROUP, [code as usize, 0, 0, 0, 0, 0]) };
    }
}

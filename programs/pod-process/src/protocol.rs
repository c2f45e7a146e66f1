//! The words that agent and pod process exchange over a stream socket.
//!
//! A frame is a length (`u32`, little endian), a count of file descriptors that travel with it (`u8`), and a body.
//! A body is a number that pairs answers with requests, then a tagged choice. Records carry their own length, so
//! that an older reader skips fields that it does not know, and a newer one takes the default for fields that are
//! missing: this is what lets an upgraded agent adopt old pods. New fields go to the end of a record; the meaning
//! of a field never changes. This one file is compiled into both programs. It knows no I/O.

/// What this build speaks. Additions that old readers may skip do not raise it.
pub const VERSION: u32 = 1;
/// The largest body: environment and arguments of a container are bounded by the kernel at 2 MiB.
pub const MAX_BODY_BYTES: usize = 4 << 20;
/// Length and count of descriptors.
pub const HEADER_BYTES: usize = 5;
/// The most descriptors that one frame carries.
pub const MAX_DESCRIPTORS: usize = 4;
/// The number of frames that answer no request.
pub const UNASKED: u32 = 0;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// What can be written to and read from a body.
pub trait Wire: Sized {
    /// Appends the encoding.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads one value.
    fn get(input: &mut Reader<'_>) -> Result<Self, Malformed>;
}

/// The unread rest of a body.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        if count > self.0.len() {
            return Err(Malformed("the message ends early"));
        }
        let (head, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(head)
    }

    fn section(&mut self) -> Result<Reader<'a>, Malformed> {
        let length = u32::get(self)? as usize;
        Ok(Reader(self.take(length)?))
    }
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
                let mut bytes = [0_u8; size_of::<$type>()];
                bytes.copy_from_slice(input.take(size_of::<$type>())?);
                Ok(<$type>::from_le_bytes(bytes))
            }
        }
    )*};
}

number!(u8, u16, u32, u64, i32, i64);

impl Wire for () {
    fn put(&self, _out: &mut Vec<u8>) {}
    fn get(_input: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(())
    }
}

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        match u8::get(input)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("a flag is neither 0 nor 1")),
        }
    }
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        out.extend_from_slice(self.as_bytes());
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        let bytes = input.section()?.0;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed("a text is not UTF-8"))
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        for item in self {
            item.put(out);
        }
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        let count = u32::get(input)? as usize;
        // Every element takes at least one byte, so a length that lies allocates nothing.
        if count > input.0.len() {
            return Err(Malformed("a list is longer than its message"));
        }
        (0..count).map(|_| T::get(input)).collect()
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(if bool::get(input)? { Some(T::get(input)?) } else { None })
    }
}

macro_rules! record {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                let start = out.len();
                0_u32.put(out);
                $(self.$field.put(out);)*
                let length = (out.len() - start - 4) as u32;
                out[start..start + 4].copy_from_slice(&length.to_le_bytes());
            }
            fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
                let mut section = input.section()?;
                Ok(Self {
                    $($field: if section.is_empty() { Default::default() } else { Wire::get(&mut section)? },)*
                })
            }
        }
    )*};
}

macro_rules! choice {
    ($($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $tag:literal => $variant:ident($type:ty),)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_meta])* $variant($type),)* }

        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self { $(Self::$variant(value) => { out.push($tag); value.put(out); })* }
            }
            fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
                match u8::get(input)? {
                    $($tag => Ok(Self::$variant(Wire::get(input)?)),)*
                    _ => Err(Malformed("this word is not known; the other side is newer")),
                }
            }
        }
    )*};
}

choice! {
    /// Agent to pod process.
    Request {
        /// Who is there? Answered with `Hello`.
        1 => Hello(Hello),
        /// Make the pod's namespaces. The first request of the first connection, once.
        2 => Setup(Setup),
        /// Tell every container's state now, then each change. Answered with `Done` after the states.
        3 => Watch(()),
        /// Start a container, or tell what became of it: an attempt is started at most once.
        4 => Start(Container),
        /// Send a signal to a container.
        5 => Signal(Signal),
        /// Run a command in a running container. Descriptors: input, output, errors, or none with a terminal.
        6 => Exec(Exec),
        /// Send a signal to a command. The number is the request number of its `Exec`.
        7 => ExecSignal(ExecSignal),
        /// Take part in a container's streams. Descriptors: output and errors, as asked for.
        8 => Attach(Attach),
        /// Set the size of a container's terminal.
        9 => Resize(Resize),
        /// Close a container's input.
        10 => CloseInput(Target),
        /// Begin a new log file now.
        11 => RotateLog(Target),
        /// Drop the memory of an attempt that has ended. It still never starts again.
        12 => Forget(Target),
        /// Kill everything, then answer `Done` and exit.
        13 => Shutdown(()),
    }

    /// Pod process to agent.
    Response {
        /// Answers `Hello`.
        1 => Hello(HelloAnswer),
        /// It is done.
        2 => Done(()),
        /// It is refused or failed.
        3 => Failed(Failure),
        /// A container's state: answers `Start`, and unasked for each change.
        4 => State(ContainerState),
        /// A command runs. With a terminal, its master side travels along.
        5 => ExecStarted(ExecStarted),
        /// A command ended; numbered as its request.
        6 => ExecEnded(Ended),
        /// Attached; the container's input travels along if it was asked for.
        7 => Attached(()),
        /// An attempt was forgotten.
        8 => Forgotten(Target),
    }
}

record! {
    /// A greeting.
    Hello { version: u32, }
    /// What the pod process is.
    HelloAnswer { version: u32, id: String, pid: u32, ready: bool, }

    /// The pod's own namespaces.
    Setup {
        id: String,
        hostname: String,
        run_dir: String,
        new_network: bool,
        new_ipc: bool,
        new_uts: bool,
        sysctls: Vec<Pair>,
        /// `cgroup.procs` files that the pod process itself enters first.
        procs_files: Vec<String>,
        oom_score_adj: i32,
    }
    /// A name and its value.
    Pair { name: String, value: String, }

    /// An attempt to run a container.
    Target { name: String, attempt: u32, }
    /// A signal to one container; `all` sends it to every process of its cgroup (SIGKILL only).
    Signal { name: String, attempt: u32, signal: i32, all: bool, }
    /// A command in a container; user, environment and limits are the container's.
    Exec { name: String, attempt: u32, args: Vec<String>, tty: bool, columns: u16, rows: u16, }
    /// A signal to a command; `group` sends it also to what the command has started (SIGKILL only).
    ExecSignal { exec: u32, signal: i32, group: bool, }
    /// The streams to take part in.
    Attach { name: String, attempt: u32, input: bool, output: bool, errors: bool, }
    /// A terminal's size.
    Resize { name: String, attempt: u32, columns: u16, rows: u16, }

    /// Everything needed to start one container.
    Container {
        name: String,
        attempt: u32,
        root: Root,
        process: Process,
        mounts: Vec<Mount>,
        masked_paths: Vec<String>,
        read_only_paths: Vec<String>,
        devices: Vec<Device>,
        log: Log,
        cgroup: Cgroup,
        /// 0: its own process ids, 1: the pod's, 2: the host's.
        pid_mode: u8,
        /// `/sys` is writable.
        writable_sys: bool,
        input: bool,
        /// Close the input when the first who attached to it leaves.
        input_once: bool,
    }
    /// The root file system: layers from the top down with a writable directory, or one plain directory.
    Root { lower: Vec<String>, upper: String, work: String, read_only: bool, }
    /// What runs, and as whom.
    Process {
        args: Vec<String>,
        /// `NAME=value`.
        env: Vec<String>,
        cwd: String,
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
        bounding: u64,
        effective: u64,
        permitted: u64,
        inheritable: u64,
        ambient: u64,
        no_new_privileges: bool,
        /// A filter in the kernel's own form (8 bytes an instruction); empty for none.
        seccomp: Vec<u8>,
        limits: Vec<Limit>,
        oom_score_adj: i32,
        tty: bool,
        columns: u16,
        rows: u16,
    }
    /// A resource limit, numbered as the kernel does.
    Limit { resource: u32, soft: u64, hard: u64, }
    /// One mount.
    Mount {
        /// 0: bind, 1: tmpfs.
        kind: u8,
        source: String,
        /// Below `source`, never leaving it.
        sub_path: String,
        target: String,
        read_only: bool,
        /// With the mounts below `source`.
        recursive: bool,
        /// 0: private, 1: sees later mounts of the host.
        propagation: u8,
        no_exec: bool,
        no_suid: bool,
        no_dev: bool,
        /// tmpfs only; 0 for the kernel's default.
        size_bytes: u64,
        /// tmpfs only.
        mode: u32,
    }
    /// A device node.
    Device { path: String, block: bool, major: u32, minor: u32, mode: u32, uid: u32, gid: u32, }
    /// Where output goes and when it is rotated.
    Log { path: String, max_bytes: u64, max_files: u32, }
    /// Where a container's processes belong.
    Cgroup {
        /// A unified directory that it is born into; empty where that is impossible.
        into: String,
        /// `cgroup.procs` files that it enters before anything else.
        procs_files: Vec<String>,
        /// `cgroup.kill`, or empty.
        kill_file: String,
        /// A `cgroup.procs` that lists its processes.
        list_file: String,
        /// A file with a line `oom_kill N`.
        oom_file: String,
        /// What `/sys/fs/cgroup` shows.
        mounts: Vec<CgroupMount>,
        /// `/sys/fs/cgroup` is writable.
        writable: bool,
    }
    /// One hierarchy: its folder under `/sys/fs/cgroup` (empty: `/sys/fs/cgroup` itself), its type and options.
    CgroupMount { folder: String, unified: bool, options: Vec<String>, }

    /// What is known of an attempt.
    ContainerState {
        name: String,
        attempt: u32,
        /// 1: starting, 2: running, 3: ended, 4: failed to start.
        phase: u8,
        pid: u32,
        started_at_ns: i64,
        ended: Ended,
        failure: Option<Failure>,
        /// What could not be given as asked for.
        notes: Vec<String>,
    }
    /// How a process ended.
    Ended {
        /// The exit code; 128 and the signal if one ended it.
        code: i32,
        signal: i32,
        at_ns: i64,
        /// The kernel killed something in its cgroup for memory.
        out_of_memory: bool,
    }
    /// A command that runs.
    ExecStarted { pid: u32, }
    /// What failed, where, and why.
    Failure {
        /// One of the numbers in `stage`.
        stage: u8,
        errno: i32,
        /// The file or word that it is about.
        detail: String,
        /// One of the numbers in `reason`.
        reason: u8,
    }
}

/// Steps of a start, as `Failure` numbers them.
pub mod stage {
    /// The request itself.
    pub const REQUEST: u8 = 0;
    pub const CGROUP: u8 = 1;
    pub const NAMESPACE: u8 = 2;
    pub const ROOT: u8 = 3;
    pub const MOUNT: u8 = 4;
    pub const DEVICE: u8 = 5;
    pub const SYSCTL: u8 = 6;
    pub const TERMINAL: u8 = 7;
    pub const USER: u8 = 8;
    pub const CAPABILITIES: u8 = 9;
    pub const SECCOMP: u8 = 10;
    pub const CWD: u8 = 11;
    pub const EXEC: u8 = 12;
    pub const LOG: u8 = 13;
    pub const FORK: u8 = 14;
    /// Names in the order of the numbers.
    pub const NAMES: [&str; 15] = [
        "request",
        "cgroup",
        "namespace",
        "root file system",
        "mount",
        "device",
        "sysctl",
        "terminal",
        "user",
        "capabilities",
        "seccomp",
        "working directory",
        "exec",
        "log",
        "fork",
    ];
}

/// Why a program could not be executed, as `Failure` numbers it; 0 where the error number says it all.
pub mod reason {
    pub const NONE: u8 = 0;
    pub const NOT_FOUND: u8 = 1;
    pub const NOT_EXECUTABLE: u8 = 2;
    /// The program's ELF loader is not in the root; `detail` names it.
    pub const MISSING_LOADER: u8 = 3;
    /// The interpreter after `#!` is not in the root; `detail` names it.
    pub const MISSING_INTERPRETER: u8 = 4;
    /// The first line of the script ends with a carriage return.
    pub const CARRIAGE_RETURN: u8 = 5;
    /// `detail` names the architecture.
    pub const OTHER_ARCHITECTURE: u8 = 6;
    /// Neither ELF nor a script.
    pub const UNKNOWN_FORMAT: u8 = 7;
    pub const IS_DIRECTORY: u8 = 8;
    /// There is no such container, or it does not run.
    pub const NOT_RUNNING: u8 = 9;
    /// This attempt was forgotten; it never starts again.
    pub const FORGOTTEN: u8 = 10;
    /// The other side uses a word that this build does not know.
    pub const NOT_UNDERSTOOD: u8 = 11;
    /// The container was started without what this needs (a terminal, an input).
    pub const NOT_AVAILABLE: u8 = 12;
    /// The pod is shutting down.
    pub const CLOSING: u8 = 13;
}

/// Encodes a whole frame whose `descriptors` travel beside it.
pub fn frame<T: Wire>(number: u32, message: &T, descriptors: usize) -> Vec<u8> {
    let mut out = vec![0_u8; HEADER_BYTES];
    number.put(&mut out);
    message.put(&mut out);
    let length = (out.len() - HEADER_BYTES) as u32;
    out[..4].copy_from_slice(&length.to_le_bytes());
    out[4] = descriptors as u8;
    out
}

/// Reads a header: the body's length and the count of descriptors.
pub fn header(bytes: [u8; HEADER_BYTES]) -> Result<(usize, usize), Malformed> {
    let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
    let descriptors = usize::from(bytes[4]);
    if length > MAX_BODY_BYTES || descriptors > MAX_DESCRIPTORS {
        return Err(Malformed("the frame is larger than any that we send"));
    }
    Ok((length, descriptors))
}

/// Reads a body: its number, and the message if this build knows it.
pub fn body<T: Wire>(bytes: &[u8]) -> Result<(u32, Result<T, Malformed>), Malformed> {
    let mut reader = Reader::new(bytes);
    let number = u32::get(&mut reader)?;
    Ok((number, T::get(&mut reader)))
}

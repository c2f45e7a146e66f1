//! What a caller wants, as plain data: a pod's isolation, and one attempt to run a container in it.
//!
//! Numbers instead of names, paths instead of volumes: nothing here knows Kubernetes. All paths are absolute and
//! UTF-8. What cannot be given as asked for is refused ([`crate::StartError::Refused`]) or, where the host only
//! allows less, clamped and told in [`crate::ContainerState::notes`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::capabilities::Capabilities;

/// A pod's isolation. It outlives the agent: the same value comes back from [`crate::Sandboxes::adopt`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Unique among all sandboxes of an instance, and a file name: 1 to 63 of `a-z0-9-` (a pod's UID will do).
    pub id: String,
    /// The host name, at most 64 bytes. Used if `uts` is [`Scope::Own`].
    pub hostname: String,
    /// Network namespace. A new one has `lo` up and nothing else.
    pub network: Scope,
    /// Inter-process communication, and `/dev/shm` with it.
    pub ipc: Scope,
    /// Host and domain name.
    pub uts: Scope,
    /// `name` and `value` as in `/proc/sys`, dots for slashes; only those that belong to the pod's namespaces.
    pub sysctls: Vec<(String, String)>,
    /// Where its cgroup goes below [`crate::Config::cgroup_root`], such as `burstable`; empty for the root itself.
    pub cgroup_parent: String,
    /// Limits of the whole pod.
    pub resources: Resources,
    /// Size of the pod's `/dev/shm`; 0 for 64 MiB.
    pub shm_size_bytes: u64,
    /// Must be `None` today: identity maps of a user namespace are refused, not ignored.
    pub id_maps: Option<IdMaps>,
    /// The caller's own words about this sandbox, kept and given back unread.
    pub annotation: String,
}

/// Whose namespace is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// The pod's own.
    #[default]
    Own,
    /// The host's.
    Host,
}

/// Maps of user and group ids of a user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// Lines of `uid_map`.
    pub users: Vec<IdMap>,
    /// Lines of `gid_map`.
    pub groups: Vec<IdMap>,
}

/// One range of ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Limits of a cgroup. `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// CPU shares as of v1 (2 to 262,144; 1,024 is one core's worth); turned into a weight on v2.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time in each period.
    pub cpu_quota_us: Option<u64>,
    /// The period in microseconds; `None` for 100,000.
    pub cpu_period_us: Option<u64>,
    /// Bytes of memory; swap is not given on top.
    pub memory_bytes: Option<u64>,
    /// Number of processes and threads.
    pub pids: Option<u64>,
    /// Limits by page size. Refused if not empty.
    pub huge_pages: Vec<(String, u64)>,
}

/// An attempt to run a container: `attempt` grows with each restart, and no attempt is ever started twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attempt {
    /// The container's name: 1 to 63 of `a-z0-9-`.
    pub name: String,
    /// Counted from 0.
    pub number: u32,
}

/// One container, ready to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Which attempt this is.
    pub attempt: Attempt,
    /// The root file system.
    pub root: Root,
    /// No write to the root file system itself (mounts have their own flag).
    pub read_only_root: bool,
    /// The program and its arguments; a program without a slash is looked for in `PATH` of `env`.
    pub args: Vec<String>,
    /// Environment. `HOME` is set from the root's `/etc/passwd` if it is missing.
    pub env: Vec<(String, String)>,
    /// Working directory, made if it is missing; empty for `/`.
    pub working_dir: String,
    /// As whom. See [`crate::users::lookup`] for names.
    pub user: User,
    /// What it may do of a superuser's powers.
    pub capabilities: Capabilities,
    /// No program gains powers by being executed.
    pub no_new_privileges: bool,
    /// Which system calls it may make.
    pub seccomp: Seccomp,
    /// All devices, writable `/sys` and cgroups, no masked paths, no seccomp filter. `capabilities` is still as given.
    pub privileged: bool,
    /// In this order, after `/proc`, `/dev`, `/sys` and what belongs to them.
    pub mounts: Vec<Mount>,
    /// Hidden; `None` for [`crate::paths::masked`]. Ignored when privileged.
    pub masked_paths: Option<Vec<String>>,
    /// Not writable; `None` for [`crate::paths::READ_ONLY`]. Ignored when privileged.
    pub read_only_paths: Option<Vec<String>>,
    /// Host devices beside the usual `null zero full random urandom tty ptmx`.
    pub devices: Vec<Device>,
    /// Limits of this container.
    pub resources: Resources,
    /// -1000 to 1000.
    pub oom_score_adj: i32,
    /// Soft and hard limits of the process.
    pub limits: Vec<Limit>,
    /// Whose process ids it sees.
    pub pid_scope: PidScope,
    /// With a terminal of its own, of this size.
    pub terminal: Option<WindowSize>,
    /// With an open input.
    pub input: bool,
    /// The input closes when the first who attached to it leaves.
    pub input_once: bool,
    /// Where its output goes, in the format of CRI.
    pub log: Log,
}

/// A root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// Layers, the uppermost first, below a writable directory. `upper` and `work` are empty directories of this
    /// attempt on one file system; they are made if missing and are the caller's to delete.
    Overlay {
        /// Read-only layers.
        lower: Vec<PathBuf>,
        /// What is written.
        upper: PathBuf,
        /// Overlayfs' own.
        work: PathBuf,
    },
    /// One directory as it is.
    Directory(PathBuf),
}

/// Numbers of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Which system calls are possible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// All.
    Unconfined,
    /// Those that ordinary programs need, and those that the capabilities call for.
    #[default]
    RuntimeDefault,
    /// A profile in OCI's JSON. Refused if it uses what we do not compile (see [`crate::seccomp`]).
    Profile(String),
}

/// Something visible in the container at `target`, which is made if missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// An absolute path inside. Symbolic links are followed inside the root, never out of it.
    pub target: String,
    /// What is there.
    pub source: MountSource,
    /// Not writable.
    pub read_only: bool,
    /// No program is executed from it.
    pub no_exec: bool,
    /// Set-user-id bits are ignored.
    pub no_suid: bool,
    /// Device nodes are ignored.
    pub no_dev: bool,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// A file or directory of the host.
    Bind {
        /// On the host.
        path: PathBuf,
        /// Below `path`; symbolic links that leave it are refused. Empty for `path` itself.
        sub_path: String,
        /// With the mounts below it.
        recursive: bool,
        /// What it sees of later mounts.
        propagation: Propagation,
    },
    /// Memory.
    Tmpfs {
        /// 0 for half of the machine.
        size_bytes: u64,
        /// Permissions of its root, such as 0o1777.
        mode: u32,
    },
}

/// Whether mounts made later are seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// In neither direction.
    #[default]
    Private,
    /// The container sees the host's later mounts.
    HostToContainer,
    /// In both directions. Refused: containers live in a mount namespace that the host does not share.
    Bidirectional,
}

/// A device node and the right to use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Inside, below `/dev`.
    pub path: String,
    /// Block rather than character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permissions of the node.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Any of `r`, `w`, `m`.
    pub access: String,
}

/// One resource limit, named as in `RLIMIT_...` without the prefix, in capitals (`NOFILE`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Its name.
    pub name: String,
    /// What holds; `u64::MAX` for none.
    pub soft: u64,
    /// What the process may raise it to.
    pub hard: u64,
}

/// Whose process ids a container sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PidScope {
    /// Its own: its process is number 1.
    #[default]
    Container,
    /// The pod's: number 1 is a process of ours that reaps.
    Pod,
    /// The host's.
    Host,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
}

/// A log file and its rotation: `path` is renamed to `path.<time>` when it is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Made with its parents.
    pub path: PathBuf,
    /// Rotated when larger; 0 for never.
    pub max_bytes: u64,
    /// How many files are kept, the current one included.
    pub max_files: u32,
}

/// A command in a running container. User, environment, powers and limits are the container's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecSpec {
    /// Where.
    pub attempt: Attempt,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// With a terminal of its own: then output and errors are one stream.
    pub terminal: Option<WindowSize>,
    /// With an open input.
    pub input: bool,
    /// Whether output is wanted; otherwise it goes to `/dev/null`.
    pub output: bool,
    /// Whether errors are wanted. Ignored with a terminal.
    pub errors: bool,
}

/// Which streams of a running container to take part in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachSpec {
    /// Which container.
    pub attempt: Attempt,
    /// Write to its input (it must have been started with one).
    pub input: bool,
    /// Read its output.
    pub output: bool,
    /// Read its errors. With a terminal there is only output.
    pub errors: bool,
}

impl Default for Spec {
    /// Own namespaces, no limits, and an empty `id` that must be filled in.
    fn default() -> Self {
        Self {
            id: String::new(),
            hostname: String::new(),
            network: Scope::Own,
            ipc: Scope::Own,
            uts: Scope::Own,
            sysctls: Vec::new(),
            cgroup_parent: String::new(),
            resources: Resources::default(),
            shm_size_bytes: 0,
            id_maps: None,
            annotation: String::new(),
        }
    }
}

impl Default for ContainerSpec {
    /// An ordinary, unprivileged container of which attempt, root, args and log must be filled in.
    fn default() -> Self {
        Self {
            attempt: Attempt::default(),
            root: Root::Directory(PathBuf::new()),
            read_only_root: false,
            args: Vec::new(),
            env: Vec::new(),
            working_dir: String::new(),
            user: User::default(),
            capabilities: Capabilities::default(),
            no_new_privileges: false,
            seccomp: Seccomp::RuntimeDefault,
            privileged: false,
            mounts: Vec::new(),
            masked_paths: None,
            read_only_paths: None,
            devices: Vec::new(),
            resources: Resources::default(),
            oom_score_adj: 0,
            limits: Vec::new(),
            pid_scope: PidScope::Container,
            terminal: None,
            input: false,
            input_once: false,
            log: Log { path: PathBuf::new(), max_bytes: 10 << 20, max_files: 5 },
        }
    }
}

impl Attempt {
    /// Attempt `number` of the container `name`.
    pub fn new(name: impl Into<String>, number: u32) -> Self {
        Self { name: name.into(), number }
    }
}

impl std::fmt::Display for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.name, self.number)
    }
}

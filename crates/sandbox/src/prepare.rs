//! Turns specifications into the pod process' words, and refuses what it cannot serve. Pure but for pipes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::devices;
use crate::error::{Error, StartError};
use crate::protocol::{self, Request, Setup};
use crate::spec::{
    AttachSpec, Attempt, ContainerSpec, ExecSpec, Limit, Mount, MountSource, PidScope, Propagation,
    Resources, Root, Scope, Seccomp, Spec,
};
use crate::{paths, seccomp};

/// Longest name of a sandbox or container.
const MAX_NAME_BYTES: usize = 63;
/// The kernel's limit on host names.
const MAX_HOSTNAME_BYTES: usize = 64;
/// Arguments and environment together; the kernel takes no more either.
const MAX_PROCESS_BYTES: usize = 2 << 20;
/// The pod process itself should be the last to be killed for memory, but for the machine's own services.
const POD_PROCESS_OOM_SCORE: i32 = -998;
/// `sysctl` names that belong to a network or IPC namespace.
const NETWORK_SYSCTLS: &str = "net.";
const IPC_SYSCTLS: [&str; 7] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];
const IPC_SYSCTLS_MORE: [&str; 2] = ["kernel.shm_rmid_forced", "fs.mqueue."];
/// Names of `RLIMIT_...` at the kernel's numbers (the same on x86-64 and aarch64).
const LIMIT_NAMES: [&str; 16] = [
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
];

/// Refuses a sandbox that makes no sense.
pub fn check(spec: &Spec) -> Result<(), Error> {
    let refuse = |message: String| Err(Error::Refused(message));
    if !is_name(&spec.id) {
        return refuse(format!(
            "the sandbox id {:?} is not 1 to {MAX_NAME_BYTES} of a-z, 0-9 and -",
            spec.id
        ));
    }
    if spec.hostname.len() > MAX_HOSTNAME_BYTES || spec.hostname.contains('\0') {
        return refuse(format!(
            "the host name {:?} is longer than {MAX_HOSTNAME_BYTES} bytes",
            spec.hostname
        ));
    }
    if spec.id_maps.is_some() {
        return refuse("user namespaces are not supported yet; leave out the id maps".to_owned());
    }
    let parent = &spec.cgroup_parent;
    if !parent.is_empty() && !parent.split('/').all(is_name) {
        return refuse(format!("the cgroup parent {parent:?} is not made of a-z, 0-9, - and /"));
    }
    for (name, value) in &spec.sysctls {
        check_sysctl(spec, name, value)?;
    }
    check_resources(&spec.resources).map_err(Error::Refused)
}

fn check_sysctl(spec: &Spec, name: &str, value: &str) -> Result<(), Error> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte));
    if !plain || name.contains("..") || value.contains('\0') {
        return Err(Error::Refused(format!("{name:?} is not the name of a sysctl")));
    }
    let dotted = name.replace('/', ".");
    let ipc = IPC_SYSCTLS.contains(&dotted.as_str())
        || IPC_SYSCTLS_MORE.iter().any(|known| dotted.starts_with(known));
    let namespaced = match (dotted.starts_with(NETWORK_SYSCTLS), ipc) {
        (true, _) => spec.network == Scope::Own,
        (_, true) => spec.ipc == Scope::Own,
        _ => false,
    };
    if namespaced {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "the sysctl {name} would change the host; only those of the pod's own namespaces can be set"
    )))
}

fn check_resources(resources: &Resources) -> Result<(), String> {
    if !resources.huge_pages.is_empty() {
        return Err("limits of huge pages are not supported; leave them out".to_owned());
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(plain)
}

/// The pod process' first request.
pub fn setup(spec: &Spec, directory: &Path, procs_files: Vec<String>) -> Setup {
    Setup {
        id: spec.id.clone(),
        hostname: spec.hostname.clone(),
        run_dir: directory.to_string_lossy().into_owned(),
        new_network: spec.network == Scope::Own,
        new_ipc: spec.ipc == Scope::Own,
        new_uts: spec.uts == Scope::Own,
        sysctls: spec
            .sysctls
            .iter()
            .map(|(name, value)| protocol::Pair { name: name.replace('.', "/"), value: value.clone() })
            .collect(),
        procs_files,
        oom_score_adj: POD_PROCESS_OOM_SCORE,
    }
}

/// One attempt, without its cgroup.
pub fn container(pod: &Spec, directory: &Path, spec: &ContainerSpec) -> Result<protocol::Container, Error> {
    let refuse = |message: String| Err(Error::Refused(message));
    if !is_name(&spec.attempt.name) {
        return refuse(format!(
            "the container name {:?} is not 1 to {MAX_NAME_BYTES} of a-z, 0-9 and -",
            spec.attempt.name
        ));
    }
    check_resources(&spec.resources).map_err(Error::Refused)?;
    let log = text(&spec.log.path)?;
    if let Some(parent) = spec.log.path.parent() {
        std::fs::create_dir_all(parent)
            .map_err(|source| Error::kernel("making the log directory", parent, source))?;
    }
    let paths = |given: &Option<Vec<String>>, usual: &dyn Fn() -> Vec<String>| match given {
        _ if spec.privileged => Vec::new(),
        Some(given) => given.clone(),
        None => usual(),
    };
    let read_only = || paths::READ_ONLY.iter().map(ToString::to_string).collect();
    let mut mounts = vec![shm(pod, directory)];
    for mount in &spec.mounts {
        mounts.push(self::mount(mount)?);
    }
    Ok(protocol::Container {
        name: spec.attempt.name.clone(),
        attempt: spec.attempt.number,
        root: root(spec)?,
        process: process(spec)?,
        mounts,
        masked_paths: paths(&spec.masked_paths, &paths::masked),
        read_only_paths: paths(&spec.read_only_paths, &read_only),
        devices: devices::nodes(spec).iter().map(devices::to_wire).collect(),
        log: protocol::Log { path: log, max_bytes: spec.log.max_bytes, max_files: spec.log.max_files },
        cgroup: protocol::Cgroup::default(),
        pid_mode: match spec.pid_scope {
            PidScope::Container => 0,
            PidScope::Pod => 1,
            PidScope::Host => 2,
        },
        writable_sys: spec.privileged,
        input: spec.input,
        input_once: spec.input_once,
    })
}

fn shm(pod: &Spec, directory: &Path) -> protocol::Mount {
    let source = match pod.ipc {
        Scope::Own => directory.join("shm").to_string_lossy().into_owned(),
        Scope::Host => "/dev/shm".to_owned(),
    };
    protocol::Mount {
        source,
        target: "/dev/shm".to_owned(),
        no_exec: true,
        no_suid: true,
        no_dev: true,
        ..Default::default()
    }
}

fn root(spec: &ContainerSpec) -> Result<protocol::Root, Error> {
    let read_only = spec.read_only_root;
    match &spec.root {
        Root::Overlay { lower, upper, work } => {
            for made in [upper, work] {
                std::fs::create_dir_all(made)
                    .map_err(|source| Error::kernel("making the directory", made, source))?;
            }
            let lower = lower.iter().map(|layer| text(layer)).collect::<Result<_, _>>()?;
            Ok(protocol::Root { lower, upper: text(upper)?, work: text(work)?, read_only })
        }
        Root::Directory(path) => {
            Ok(protocol::Root { lower: vec![text(path)?], read_only, ..Default::default() })
        }
    }
}

fn process(spec: &ContainerSpec) -> Result<protocol::Process, Error> {
    let env: Vec<String> = spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    check_process(&spec.args, &env)?;
    let filter = match (&spec.seccomp, spec.privileged) {
        (_, true) | (Seccomp::Unconfined, _) => Vec::new(),
        (Seccomp::RuntimeDefault, _) => seccomp::runtime_default(spec.capabilities.bounding),
        (Seccomp::Profile(json), _) => seccomp::compile_profile(json, spec.capabilities.bounding)
            .map_err(|error| Error::Refused(format!("the seccomp profile cannot be used: {error}")))?,
    };
    let (columns, rows) = spec.terminal.map_or((0, 0), |size| (size.columns, size.rows));
    Ok(protocol::Process {
        args: spec.args.clone(),
        env,
        cwd: spec.working_dir.clone(),
        uid: spec.user.uid,
        gid: spec.user.gid,
        groups: spec.user.groups.clone(),
        bounding: spec.capabilities.bounding.0,
        effective: spec.capabilities.effective.0,
        permitted: spec.capabilities.permitted.0,
        inheritable: spec.capabilities.inheritable.0,
        ambient: spec.capabilities.ambient.0,
        no_new_privileges: spec.no_new_privileges,
        seccomp: filter,
        limits: spec.limits.iter().map(limit).collect::<Result<_, _>>()?,
        oom_score_adj: spec.oom_score_adj.clamp(-1000, 1000),
        tty: spec.terminal.is_some(),
        columns,
        rows,
    })
}

fn check_process(args: &[String], env: &[String]) -> Result<(), Error> {
    if args.first().is_none_or(String::is_empty) {
        return Err(Error::Refused("no command is given, and the image has none either".to_owned()));
    }
    let size: usize = args.iter().chain(env).map(|word| word.len() + 9).sum();
    if size > MAX_PROCESS_BYTES {
        return Err(Error::Refused(format!(
            "command and environment are larger than {MAX_PROCESS_BYTES} bytes"
        )));
    }
    if args.iter().chain(env).any(|word| word.contains('\0')) {
        return Err(Error::Refused("command and environment cannot hold a NUL byte".to_owned()));
    }
    Ok(())
}

fn limit(limit: &Limit) -> Result<protocol::Limit, Error> {
    match LIMIT_NAMES.iter().position(|name| *name == limit.name) {
        Some(number) => Ok(protocol::Limit { resource: number as u32, soft: limit.soft, hard: limit.hard }),
        None => Err(Error::Refused(format!("there is no resource limit {:?}", limit.name))),
    }
}

fn mount(mount: &Mount) -> Result<protocol::Mount, Error> {
    if !mount.target.starts_with('/') || mount.target.split('/').any(|part| part == "..") {
        return Err(Error::Refused(format!(
            "the mount target {:?} is not an absolute path without ..",
            mount.target
        )));
    }
    let mut wire = protocol::Mount {
        target: mount.target.clone(),
        read_only: mount.read_only,
        no_exec: mount.no_exec,
        no_suid: mount.no_suid,
        no_dev: mount.no_dev,
        ..Default::default()
    };
    match &mount.source {
        MountSource::Bind { path, sub_path, recursive, propagation } => {
            if sub_path.starts_with('/') || sub_path.split('/').any(|part| part == "..") {
                return Err(Error::Refused(format!("the sub path {sub_path:?} leaves its volume")));
            }
            wire.source = text(path)?;
            wire.sub_path.clone_from(sub_path);
            wire.recursive = *recursive;
            wire.propagation = match propagation {
                Propagation::Private => 0,
                Propagation::HostToContainer => 1,
                Propagation::Bidirectional => {
                    return Err(Error::Refused(
                        "mounts made in a container cannot reach the host: use HostToContainer propagation"
                            .to_owned(),
                    ));
                }
            };
        }
        MountSource::Tmpfs { size_bytes, mode } => {
            wire.kind = 1;
            wire.size_bytes = *size_bytes;
            wire.mode = *mode;
        }
    }
    Ok(wire)
}

fn text(path: &Path) -> Result<String, Error> {
    match path.to_str() {
        Some(text) if path.is_absolute() && !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(Error::Refused(format!("{} is not an absolute path in UTF-8", path.display()))),
    }
}

/// A request to run a command.
pub fn exec(spec: &ExecSpec) -> Result<Request, StartError> {
    check_process(&spec.args, &[])?;
    let (columns, rows) = spec.terminal.map_or((0, 0), |size| (size.columns, size.rows));
    Ok(Request::Exec(protocol::Exec {
        name: spec.attempt.name.clone(),
        attempt: spec.attempt.number,
        args: spec.args.clone(),
        tty: spec.terminal.is_some(),
        columns,
        rows,
    }))
}

/// An attempt in the pod process' words.
pub fn target(attempt: &Attempt) -> protocol::Target {
    protocol::Target { name: attempt.name.clone(), attempt: attempt.number }
}

/// Pipes: our ends, and theirs in the order in which they travel.
#[derive(Default)]
pub struct Plumbing {
    pub input: Option<OwnedFd>,
    pub output: Option<OwnedFd>,
    pub errors: Option<OwnedFd>,
    pub theirs: Vec<OwnedFd>,
}

impl Plumbing {
    /// A command gets three streams, or none with a terminal.
    pub fn of_exec(spec: &ExecSpec) -> Result<Self, Error> {
        let mut plumbing = Self::default();
        if spec.terminal.is_some() {
            return Ok(plumbing);
        }
        if spec.input {
            let (reader, writer) = pipe()?;
            plumbing.input = Some(writer);
            plumbing.theirs.push(reader);
        } else {
            plumbing.theirs.push(null()?);
        }
        plumbing.output = plumbing.add_output(spec.output)?;
        plumbing.errors = plumbing.add_output(spec.errors)?;
        Ok(plumbing)
    }

    /// Whoever attaches sends the ends to write to, only those asked for.
    pub fn of_attach(spec: &AttachSpec) -> Result<Self, Error> {
        let mut plumbing = Self::default();
        for (wanted, place) in [(spec.output, true), (spec.errors, false)] {
            if wanted {
                let (reader, writer) = pipe()?;
                plumbing.theirs.push(writer);
                *(if place { &mut plumbing.output } else { &mut plumbing.errors }) = Some(reader);
            }
        }
        Ok(plumbing)
    }

    fn add_output(&mut self, wanted: bool) -> Result<Option<OwnedFd>, Error> {
        if !wanted {
            self.theirs.push(null()?);
            return Ok(None);
        }
        let (reader, writer) = pipe()?;
        self.theirs.push(writer);
        Ok(Some(reader))
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|error| Error::kernel("making", "a pipe", io::Error::from(error)))
}

fn null() -> Result<OwnedFd, Error> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open("/dev/null", flags, Mode::empty())
        .map_err(|error| Error::kernel("opening", "/dev/null", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(spec: &Spec, word: &str) {
        let message = check(spec).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    }

    #[test]
    fn what_would_leave_the_run_directory_is_refused() {
        for id in ["", "..", "a/b", "A", "é"] {
            refused(&Spec { id: id.into(), ..Spec::default() }, "sandbox id");
        }
        refused(&Spec { id: "a".into(), cgroup_parent: "../x".into(), ..Spec::default() }, "cgroup parent");
    }

    #[test]
    fn sysctls_of_the_host_are_refused() {
        let with = |name: &str, network| Spec {
            id: "a".into(),
            network,
            sysctls: vec![(name.into(), "1".into())],
            ..Spec::default()
        };
        assert!(check(&with("net.ipv4.ip_unprivileged_port_start", Scope::Own)).is_ok());
        assert!(check(&with("kernel.shm_rmid_forced", Scope::Own)).is_ok());
        refused(&with("net.ipv4.ip_forward", Scope::Host), "would change the host");
        refused(&with("kernel.panic", Scope::Own), "would change the host");
        refused(&with("net/../kernel/panic", Scope::Own), "not the name");
    }

    #[test]
    fn user_namespaces_are_refused_by_name() {
        let maps = Some(crate::spec::IdMaps::default());
        refused(&Spec { id: "a".into(), id_maps: maps, ..Spec::default() }, "user namespaces");
    }
}

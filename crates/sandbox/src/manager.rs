//! Makes sandboxes, and finds those of an earlier agent.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Tasks};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::net::UnixStream;

use crate::cgroup::stats::{Usage, usage};
use crate::cgroup::tree::Tree;
use crate::error::Error;
use crate::launch::Program;
use crate::prepare;
use crate::protocol::{self, Request, Response};
use crate::sandbox::{Parts, Sandbox};
use crate::spec::{Scope, Spec};

/// The specification, kept in the run directory.
const SPEC_FILE: &str = "spec.json";
/// Where the pod process listens.
const SOCKET_FILE: &str = "socket";
/// The pod's `/dev/shm`.
const SHM_DIRECTORY: &str = "shm";
/// Where containers mount their roots, each in a mount namespace of its own.
const ROOT_DIRECTORY: &str = "root";
/// The group of the process that has started the sandboxes, if it has left its session.
const SERVER_LEAF: &str = "server";
/// How long a pod process may take to answer its first request.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// The size of `/dev/shm` when none is given, as other runtimes do.
const DEFAULT_SHM_BYTES: u64 = 64 << 20;

/// Where an instance keeps its sandboxes.
#[derive(Clone, Debug)]
pub struct Config {
    /// A directory per sandbox is made here, with short-lived files and a socket. Best on a file system in memory,
    /// and at most 40 bytes long (the path of a socket is limited to 107).
    pub run_dir: PathBuf,
    /// The root of the instance's cgroups below each hierarchy, such as `/ondol/default`.
    pub cgroup_root: String,
}

/// All sandboxes of an instance. Cheap to clone.
#[derive(Clone)]
pub struct Sandboxes(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub config: Config,
    pub clock: Clock,
    pub tasks: Tasks,
    pub tree: Tree,
    program: Program,
}

/// Takes this process out of the groups by which sessions are managed, into a leaf of the instance's own, so that it does
/// not end with the session that it was started in. What limits the session goes on to limit it.
pub fn leave_session(cgroup_root: &str) -> Result<(), Error> {
    Tree::detect(cgroup_root)?.enter(SERVER_LEAF)
}

/// Whether groups for pods can be made on this machine, found out by making one; nothing is left of it.
pub fn trial() -> Result<(), Error> {
    Tree::detect("")?.trial()
}

/// What was found of an earlier agent's sandbox.
pub enum Adopted {
    /// Its pod process lives.
    Live(Sandbox),
    /// Its pod process is gone (a reboot, a kill): only its remains are there.
    Lost(Box<Remains>),
}

/// What a sandbox without a pod process leaves behind.
pub struct Remains {
    /// The sandbox's id.
    pub id: String,
    /// Its specification, if that can still be read.
    pub spec: Option<Spec>,
    shared: Arc<Shared>,
}

impl Sandboxes {
    /// Looks at the machine and makes the run directory. `tasks` run the conversations with pod processes; they end
    /// with the pods, or when the runtime stops.
    pub async fn open(config: Config, clock: Clock, tasks: Tasks) -> Result<Self, Error> {
        blocking(move || {
            let tree = Tree::detect(&config.cgroup_root)?;
            make_private(&config.run_dir)?;
            let program = Program::load()
                .map_err(|source| Error::kernel("loading the pod process", "memfd", source))?;
            Ok(Self(Arc::new(Shared { config, clock, tasks, tree, program })))
        })
        .await
    }

    /// Whether sandboxes can be made at present: the run directory and the control groups are still there. Blocks for
    /// some microseconds.
    pub fn check(&self) -> Result<(), Error> {
        let run_dir = &self.0.config.run_dir;
        if !run_dir.is_dir() {
            return Err(Error::Machine {
                what: format!("the directory {}", run_dir.display()),
                hint: "restart ondol to make it anew".to_owned(),
            });
        }
        let mounts = self.0.tree.layout().pod_mounts();
        match mounts.into_iter().find(|mount| !mount.join("cgroup.procs").exists()) {
            None => Ok(()),
            Some(mount) => Err(Error::Machine {
                what: format!("control groups at {}", mount.display()),
                hint: "mount them again".to_owned(),
            }),
        }
    }

    /// Makes a sandbox. On failure nothing is left of it.
    pub async fn create(&self, spec: Spec) -> Result<Sandbox, Error> {
        prepare::check(&spec)?;
        let shared = Arc::clone(&self.0);
        let id = spec.id.clone();
        let directory = shared.directory(&id);
        // Only after this succeeded is the name ours to clean up.
        let made = directory.clone();
        blocking(move || claim(&made)).await?;
        match self.create_claimed(spec, &directory).await {
            Ok(sandbox) => Ok(sandbox),
            Err(error) => {
                if let Err(left) = blocking(move || shared.clear(&id)).await {
                    tracing::warn!(error = %left, "a sandbox that failed to start left something behind");
                }
                Err(error)
            }
        }
    }

    async fn create_claimed(&self, spec: Spec, directory: &Path) -> Result<Sandbox, Error> {
        let shared = Arc::clone(&self.0);
        let (kept, place) = (spec.clone(), directory.to_owned());
        let (child, stream, procs_files) = blocking(move || shared.launch(&kept, &place)).await?;
        let pid = child.id();
        let setup = prepare::setup(&spec, directory, procs_files);
        let sandbox = self.assemble(spec, directory, pid, Some(child), stream)?;
        match sandbox.greet(self.0.clock.timeout(HELLO_TIMEOUT, sandbox.setup(setup))).await {
            Ok(()) => Ok(sandbox),
            Err(error) => {
                sandbox.kill_process().await;
                Err(error)
            }
        }
    }

    /// Finds the sandboxes of an earlier agent. Call it once, before the first [`Sandboxes::create`].
    pub async fn adopt(&self) -> Result<Vec<Adopted>, Error> {
        let shared = Arc::clone(&self.0);
        let found = blocking(move || shared.list()).await?;
        let mut adopted = Vec::new();
        for (id, spec) in found {
            let live = match &spec {
                Some(spec) => self.adopt_one(spec.clone()).await,
                None => Err(Error::Lost(id.clone())),
            };
            adopted.push(match live {
                Ok(sandbox) => Adopted::Live(sandbox),
                Err(error) => {
                    tracing::info!(sandbox = id, %error, "a sandbox was lost");
                    Adopted::Lost(Box::new(Remains { id, spec, shared: Arc::clone(&self.0) }))
                }
            });
        }
        Ok(adopted)
    }

    async fn adopt_one(&self, spec: Spec) -> Result<Sandbox, Error> {
        let directory = self.0.directory(&spec.id);
        let socket = directory.join(SOCKET_FILE);
        let lost = || Error::Lost(spec.id.clone());
        let stream = StdStream::connect(&socket).map_err(|_| lost())?;
        let credentials = rustix::net::sockopt::socket_peercred(&stream).map_err(|_| lost())?;
        if !credentials.uid.is_root() {
            return Err(Error::Refused(format!("{} is not held by root; remove it", socket.display())));
        }
        let pid = credentials.pid.as_raw_nonzero().get().unsigned_abs();
        let sandbox = self.assemble(spec.clone(), &directory, pid, None, stream)?;
        sandbox.greet(self.0.clock.timeout(HELLO_TIMEOUT, sandbox.hello())).await?;
        Ok(sandbox)
    }

    fn assemble(
        &self,
        spec: Spec,
        directory: &Path,
        pid: u32,
        child: Option<Child>,
        stream: StdStream,
    ) -> Result<Sandbox, Error> {
        let failed = |step| move |source: io::Error| Error::kernel(step, "pod process", source);
        let raw =
            rustix::process::Pid::from_raw(pid.cast_signed()).ok_or_else(|| Error::Lost(spec.id.clone()))?;
        let handle: OwnedFd = pidfd_open(raw, PidfdFlags::empty())
            .map_err(|error| failed("opening a handle of")(error.into()))?;
        stream.set_nonblocking(true).map_err(failed("connecting to"))?;
        let stream = UnixStream::from_std(stream).map_err(failed("connecting to"))?;
        let shared = Arc::clone(&self.0);
        Sandbox::new(Parts { spec, directory: directory.to_owned(), pid, handle, child, stream, shared })
    }

    /// Removes what the instance itself has made, once all its sandboxes are removed: `ondol down`.
    pub async fn remove_root(&self) -> Result<(), Error> {
        let shared = Arc::clone(&self.0);
        blocking(move || {
            shared.tree.remove_root();
            match std::fs::remove_dir(&shared.config.run_dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(Error::kernel("removing the run directory", &shared.config.run_dir, error))
                }
                _ => Ok(()),
            }
        })
        .await
    }
}

impl Remains {
    /// Ends what still runs of it and removes its mounts, cgroups and files.
    pub async fn remove(self) -> Result<(), Error> {
        blocking(move || self.shared.clear(&self.id)).await
    }
}

impl Shared {
    fn directory(&self, id: &str) -> PathBuf {
        self.config.run_dir.join(id)
    }

    fn launch(&self, spec: &Spec, directory: &Path) -> Result<(Child, StdStream, Vec<String>), Error> {
        let text = serde_json::to_vec(spec).map_err(|error| Error::Refused(error.to_string()))?;
        let file = directory.join(SPEC_FILE);
        std::fs::write(&file, text).map_err(|source| Error::kernel("writing", file, source))?;
        for name in [ROOT_DIRECTORY, SHM_DIRECTORY] {
            let path = directory.join(name);
            std::fs::create_dir(&path)
                .map_err(|source| Error::kernel("making the directory", path, source))?;
        }
        if spec.ipc == Scope::Own {
            let path = directory.join(SHM_DIRECTORY);
            let size = if spec.shm_size_bytes == 0 { DEFAULT_SHM_BYTES } else { spec.shm_size_bytes };
            let options = std::ffi::CString::new(format!("mode=1777,size={size}")).unwrap_or_default();
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount("shm", &path, "tmpfs", flags, Some(options.as_c_str()))
                .map_err(|source| Error::kernel("mounting /dev/shm", path, source))?;
        }
        let procs_files = self.tree.create_pod(&spec.cgroup_parent, &spec.id, &spec.resources)?;
        let failed = |source| Error::kernel("starting", "the pod process", source);
        let (ours, theirs) = StdStream::pair().map_err(failed)?;
        let child = self.program.start(&spec.id, directory, theirs.into()).map_err(failed)?;
        Ok((child, ours, procs_files))
    }

    /// Kills, unmounts and deletes. Nothing of it needs to be there; calling it again continues.
    pub(crate) fn clear(&self, id: &str) -> Result<(), Error> {
        let directory = self.directory(id);
        let spec = read_spec(&directory);
        self.tree.remove(&self.tree.process_group(id))?;
        match spec {
            Some(spec) => self.tree.remove(&self.pod_group(&spec))?,
            None => self.tree.remove_wherever(id)?,
        }
        let shm = directory.join(SHM_DIRECTORY);
        while unmount(&shm, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
        match base::tree::remove(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::kernel("removing the run directory", directory, error))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn pod_group(&self, spec: &Spec) -> String {
        self.tree.pod_group(&spec.cgroup_parent, &spec.id)
    }

    pub(crate) fn usage(&self, group: &str) -> Option<Usage> {
        usage(&self.tree, group)
    }

    fn list(&self) -> Result<Vec<(String, Option<Spec>)>, Error> {
        let failed = |source| Error::kernel("reading the run directory", &self.config.run_dir, source);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.config.run_dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if let (Ok(id), true) = (entry.file_name().into_string(), entry.path().is_dir()) {
                let spec = read_spec(&entry.path()).filter(|spec| spec.id == id);
                found.push((id, spec));
            }
        }
        found.sort_by(|left, right| left.0.cmp(&right.0));
        Ok(found)
    }
}

fn read_spec(directory: &Path) -> Option<Spec> {
    serde_json::from_slice(&std::fs::read(directory.join(SPEC_FILE)).ok()?).ok()
}

fn make_private(directory: &Path) -> Result<(), Error> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| Error::kernel("making the run directory", directory, source))
}

fn claim(directory: &Path) -> Result<(), Error> {
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Error::Refused(format!(
            "there is a sandbox in {} already; adopt it or remove it first",
            directory.display()
        ))),
        other => other.map_err(|source| Error::kernel("making the run directory", directory, source)),
    }
}

/// Runs what waits for the kernel beside the runtime's own threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Refused(format!("the work was abandoned: {error}"))),
    }
}

/// Checks the answer to a greeting.
pub(crate) fn greeted(id: &str, response: &Response) -> Result<(), Error> {
    match response {
        Response::Hello(hello) if hello.id == id && hello.version >= protocol::VERSION => Ok(()),
        Response::Done(()) => Ok(()),
        Response::Failed(failure) => Err(Error::from_wire(failure.clone(), id)),
        _ => Err(Error::Protocol(id.to_owned())),
    }
}

/// A greeting.
pub(crate) fn hello() -> Request {
    Request::Hello(protocol::Hello { version: protocol::VERSION })
}

//! One sandbox: a handle on its pod process.

use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};

use crate::cgroup::stats::Usage;
use crate::connection::{Change, Connection, Gone};
use crate::devices;
use crate::error::{Error, StartError};
use crate::manager::{Shared, blocking, greeted, hello};
use crate::prepare;
use crate::protocol::{self, Ended, Request, Response, Setup};
use crate::spec::{AttachSpec, Attempt, ContainerSpec, ExecSpec, Scope, Spec, WindowSize};
use crate::state::{ContainerState, Exit, Phase, State};
use crate::stream::Stream;
use crate::sys;

/// How long a pod process may take to end its containers before it is killed itself.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// A pod's isolation and what runs in it. Cheap to clone; dropping it ends nothing.
#[derive(Clone)]
pub struct Sandbox(Arc<Inner>);

struct Inner {
    spec: Spec,
    directory: PathBuf,
    pid: u32,
    handle: OwnedFd,
    connection: Connection,
    state: watch::Sender<Arc<State>>,
    shared: Arc<Shared>,
}

/// What a handle is made of.
pub(crate) struct Parts {
    pub spec: Spec,
    pub directory: PathBuf,
    pub pid: u32,
    pub handle: OwnedFd,
    /// `None` if an earlier agent started it.
    pub child: Option<Child>,
    pub stream: UnixStream,
    pub shared: Arc<Shared>,
}

/// A container that runs, or ran: a repeated start tells what became of the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Started {
    /// Its state when the answer was given: running or ended.
    pub state: ContainerState,
}

/// A command that runs in a container.
#[derive(Debug)]
pub struct Exec {
    /// In the host's numbering.
    pub pid: u32,
    /// Its input, if asked for. Dropping it closes the input. With a terminal: the terminal's master, for writing.
    pub input: Option<Stream>,
    /// Its output, if asked for. With a terminal: the terminal's master, for reading and [`Stream::resize`].
    pub output: Option<Stream>,
    /// Its errors, if asked for and without a terminal.
    pub errors: Option<Stream>,
    number: u32,
    started_at: jiff::Timestamp,
    ended: oneshot::Receiver<Ended>,
    sandbox: Sandbox,
}

/// Taking part in a container's streams.
#[derive(Debug)]
pub struct Attached {
    /// Its input. Dropping it closes the container's input if that was started with `input_once`; otherwise the
    /// input stays open for the next who attaches.
    pub input: Option<Stream>,
    /// Its output from now on.
    pub output: Option<Stream>,
    /// Its errors from now on.
    pub errors: Option<Stream>,
}

/// What a pod process itself costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overhead {
    /// Proportional set size.
    pub pss_bytes: u64,
    /// Memory that belongs to it alone.
    pub private_bytes: u64,
}

impl Sandbox {
    /// Its specification.
    pub fn spec(&self) -> &Spec {
        &self.0.spec
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.0.spec.id
    }

    /// The pod process. Signals are not for the caller to send: see [`Sandbox::remove`].
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// The network namespace as a path to open, valid while the sandbox lives.
    pub fn netns_path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.pid).into()
    }

    /// The state now.
    pub fn state(&self) -> Arc<State> {
        self.0.state.borrow().clone()
    }

    /// The state, now and after each change. Changes may be merged; the latest state is never missed.
    pub fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.0.state.subscribe()
    }

    /// Starts an attempt, or tells what became of it: the pod process starts none twice. Returns once the program
    /// was executed.
    pub async fn start(&self, spec: ContainerSpec) -> Result<Started, StartError> {
        let attempt = spec.attempt.clone();
        // Known attempts are answered from the state: preparing would change the cgroup of a running one.
        if let Some(known) = self.state().get(&attempt)
            && !matches!(known.phase, Phase::Starting)
        {
            return settled(known.clone());
        }
        let group = format!("{}/{attempt}", self.0.shared.pod_group(&self.0.spec));
        let (shared, pod) = (Arc::clone(&self.0.shared), self.0.spec.clone());
        let directory = self.0.directory.clone();
        let request = blocking(move || {
            let mut container = prepare::container(&pod, &directory, &spec)?;
            let allowed = devices::allowed(&spec);
            let (parent, name) = group.rsplit_once('/').unwrap_or(("", &group));
            let writable = spec.privileged;
            container.cgroup =
                shared.tree.create_container(parent, name, &spec.resources, allowed.as_deref(), writable)?;
            Ok(Request::Start(container))
        })
        .await?;
        match self.ask(&request, Vec::new()).await? {
            Response::State(state) => settled(ContainerState::from_wire(state)),
            Response::Failed(failure) => Err(StartError::from_wire(failure)),
            _ => Err(StartError::Lost),
        }
    }

    /// Sends a signal to a container's process.
    pub async fn signal(&self, attempt: &Attempt, signal: i32) -> Result<(), Error> {
        self.send_signal(attempt, signal, false).await
    }

    /// Kills every process of a container.
    pub async fn kill(&self, attempt: &Attempt) -> Result<(), Error> {
        self.send_signal(attempt, Signal::KILL.as_raw(), true).await
    }

    async fn send_signal(&self, attempt: &Attempt, signal: i32, all: bool) -> Result<(), Error> {
        let (name, number) = (attempt.name.clone(), attempt.number);
        self.order(attempt, &Request::Signal(protocol::Signal { name, attempt: number, signal, all })).await
    }

    /// Runs a command in a running container.
    pub async fn exec(&self, spec: ExecSpec) -> Result<Exec, StartError> {
        let plumbing = prepare::Plumbing::of_exec(&spec)?;
        let request = prepare::exec(&spec)?;
        let sent =
            self.0.connection.send(&request, plumbing.theirs).await.map_err(|Gone| StartError::Lost)?;
        let answer = sent.answer.await.map_err(|_| StartError::Lost)?;
        let pid = match answer.response {
            Response::ExecStarted(started) => started.pid,
            Response::Failed(failure) => return Err(StartError::from_wire(failure)),
            _ => return Err(StartError::Lost),
        };
        let stream = |descriptor: Option<OwnedFd>| {
            let opened = descriptor.map(Stream::new).transpose();
            opened.map_err(|source| {
                StartError::from(Error::kernel("opening a stream of", "the command", source))
            })
        };
        let mut exec = Exec {
            pid,
            input: stream(plumbing.input)?,
            output: stream(plumbing.output)?,
            errors: stream(plumbing.errors)?,
            number: sent.number,
            started_at: self.0.shared.clock.now(),
            ended: sent.ended,
            sandbox: self.clone(),
        };
        if spec.terminal.is_some() {
            exec.output = stream(answer.descriptors.into_iter().next())?;
            if spec.input {
                let copy = exec.output.as_ref().map(Stream::try_clone).transpose();
                exec.input = copy
                    .map_err(|source| StartError::from(Error::kernel("copying", "the terminal", source)))?;
            }
        }
        Ok(exec)
    }

    /// Takes part in a running container's streams.
    pub async fn attach(&self, spec: AttachSpec) -> Result<Attached, Error> {
        let plumbing = prepare::Plumbing::of_attach(&spec)?;
        let attempt = &spec.attempt;
        let request = Request::Attach(protocol::Attach {
            name: attempt.name.clone(),
            attempt: attempt.number,
            input: spec.input,
            output: spec.output,
            errors: spec.errors,
        });
        let asked = self.0.connection.ask(&request, plumbing.theirs).await;
        let answer = asked.map_err(|Gone| Error::Lost(self.id().to_owned()))?;
        match answer.response {
            Response::Attached(()) => {}
            Response::Failed(failure) => return Err(Error::from_wire(failure, &attempt.to_string())),
            _ => return Err(Error::Protocol(self.id().to_owned())),
        }
        let stream = |descriptor: Option<OwnedFd>| {
            let opened = descriptor.map(Stream::new).transpose();
            opened.map_err(|source| Error::kernel("opening a stream of", attempt.to_string(), source))
        };
        Ok(Attached {
            input: stream(answer.descriptors.into_iter().next())?,
            output: stream(plumbing.output)?,
            errors: stream(plumbing.errors)?,
        })
    }

    /// Sets the size of a container's terminal.
    pub async fn resize(&self, attempt: &Attempt, size: WindowSize) -> Result<(), Error> {
        let (name, number) = (attempt.name.clone(), attempt.number);
        let (columns, rows) = (size.columns, size.rows);
        self.order(attempt, &Request::Resize(protocol::Resize { name, attempt: number, columns, rows })).await
    }

    /// Closes a container's input.
    pub async fn close_input(&self, attempt: &Attempt) -> Result<(), Error> {
        self.order(attempt, &Request::CloseInput(prepare::target(attempt))).await
    }

    /// Begins a new log file now.
    pub async fn rotate_log(&self, attempt: &Attempt) -> Result<(), Error> {
        self.order(attempt, &Request::RotateLog(prepare::target(attempt))).await
    }

    /// Drops an ended attempt's state and cgroup. The attempt still never starts again.
    pub async fn forget(&self, attempt: &Attempt) -> Result<(), Error> {
        self.order(attempt, &Request::Forget(prepare::target(attempt))).await?;
        let (shared, group) = (Arc::clone(&self.0.shared), self.group(attempt));
        blocking(move || shared.tree.remove(&group)).await
    }

    /// Ends everything that runs and removes processes, mounts, cgroups and the run directory. Also for a lost
    /// sandbox; calling it again continues where it failed. What a container wrote, and its logs, are the caller's.
    pub async fn remove(&self) -> Result<(), Error> {
        let clock = self.0.shared.clock.clone();
        let shutdown = async {
            let _ = self.0.connection.ask(&Request::Shutdown(()), Vec::new()).await;
            self.gone().await;
        };
        if clock.timeout(SHUTDOWN_TIMEOUT, shutdown).await.is_none() {
            tracing::warn!(sandbox = self.id(), "the pod process did not end in time; it is killed");
            self.kill_process().await;
        }
        let (shared, id) = (Arc::clone(&self.0.shared), self.id().to_owned());
        blocking(move || shared.clear(&id)).await
    }

    /// Resolves once the pod process is gone.
    pub async fn gone(&self) {
        let mut state = self.watch();
        let _ = state.wait_for(|state| state.lost).await;
    }

    /// What a container uses; `None` if its cgroup is gone.
    pub async fn container_usage(&self, attempt: &Attempt) -> Option<Usage> {
        let (shared, group) = (Arc::clone(&self.0.shared), self.group(attempt));
        blocking(move || Ok(shared.usage(&group))).await.ok().flatten()
    }

    /// What the pod's containers use together.
    pub async fn usage(&self) -> Option<Usage> {
        let (shared, group) = (Arc::clone(&self.0.shared), self.0.shared.pod_group(&self.0.spec));
        blocking(move || Ok(shared.usage(&group))).await.ok().flatten()
    }

    /// What the pod process costs.
    pub async fn overhead(&self) -> Option<Overhead> {
        let path = format!("/proc/{}/smaps_rollup", self.0.pid);
        let text = blocking(move || Ok(std::fs::read_to_string(path).ok())).await.ok().flatten()?;
        let bytes = |name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
            number.unwrap_or_default() << 10
        };
        let private_bytes = bytes("Private_Clean:") + bytes("Private_Dirty:");
        Some(Overhead { pss_bytes: bytes("Pss:"), private_bytes })
    }

    /// Whether the host's network is used.
    pub fn host_network(&self) -> bool {
        self.0.spec.network == Scope::Host
    }

    fn group(&self, attempt: &Attempt) -> String {
        format!("{}/{attempt}", self.0.shared.pod_group(&self.0.spec))
    }

    async fn ask(&self, request: &Request, descriptors: Vec<OwnedFd>) -> Result<Response, Error> {
        match self.0.connection.ask(request, descriptors).await {
            Ok(answer) => Ok(answer.response),
            Err(Gone) => Err(Error::Lost(self.id().to_owned())),
        }
    }

    async fn order(&self, attempt: &Attempt, request: &Request) -> Result<(), Error> {
        match self.ask(request, Vec::new()).await? {
            Response::Done(()) => Ok(()),
            Response::Failed(failure) => Err(Error::from_wire(failure, &attempt.to_string())),
            _ => Err(Error::Protocol(self.id().to_owned())),
        }
    }
}

/// How a handle comes to be.
impl Sandbox {
    pub(crate) fn new(parts: Parts) -> Result<Self, Error> {
        let Parts { spec, directory, pid, handle, child, stream, shared } = parts;
        let (state, _) = watch::channel(Arc::new(State::default()));
        let updates = state.clone();
        let (connection, conversation) = Connection::new(stream, move |change| apply(&updates, change));
        let copy = handle
            .try_clone()
            .map_err(|source| Error::kernel("copying the handle of", "pod process", source))?;
        let ended =
            sys::watch(copy).map_err(|source| Error::kernel("watching", "the pod process", source))?;
        shared.tasks.spawn("pod conversation", conversation);
        let (deaths, tree, group) = (state.clone(), shared.tree.clone(), shared.pod_group(&spec));
        shared.tasks.spawn("pod process watch", async move {
            let _ = ended.readable().await;
            let reap = Mutex::new(child);
            // The kernel ends containers with their pod process; this also ends what hid in the host's processes.
            let _ = blocking(move || {
                if let Some(mut child) = reap.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    let _ = child.wait();
                }
                tree.kill(&group);
                Ok(())
            })
            .await;
            deaths.send_modify(|state| Arc::make_mut(state).lost = true);
        });
        Ok(Self(Arc::new(Inner { spec, directory, pid, handle, connection, state, shared })))
    }

    pub(crate) async fn setup(&self, setup: Setup) -> Result<(), Error> {
        let answer = self.ask(&Request::Setup(setup), Vec::new()).await?;
        greeted(self.id(), &answer)?;
        self.hello().await
    }

    pub(crate) async fn hello(&self) -> Result<(), Error> {
        greeted(self.id(), &self.ask(&hello(), Vec::new()).await?)?;
        greeted(self.id(), &self.ask(&Request::Watch(()), Vec::new()).await?)
    }

    pub(crate) async fn greet(
        &self,
        greeting: impl Future<Output = Option<Result<(), Error>>>,
    ) -> Result<(), Error> {
        greeting.await.unwrap_or_else(|| Err(Error::Lost(self.id().to_owned())))
    }

    pub(crate) async fn kill_process(&self) {
        let _ = rustix::process::pidfd_send_signal(self.0.handle.as_fd(), Signal::KILL);
        self.gone().await;
    }
}

impl Exec {
    /// Sends a signal to the command.
    pub async fn signal(&self, signal: i32) -> Result<(), Error> {
        self.send_signal(signal, false).await
    }

    /// Kills the command and what it has started, as far as that has not left its group of processes.
    pub async fn kill(&self) -> Result<(), Error> {
        self.send_signal(Signal::KILL.as_raw(), true).await
    }

    async fn send_signal(&self, signal: i32, group: bool) -> Result<(), Error> {
        let request = Request::ExecSignal(protocol::ExecSignal { exec: self.number, signal, group });
        self.sandbox.order(&Attempt::new("command", self.number), &request).await
    }

    /// Waits for its end; an error if the pod process went away before. Cancel-safe: call it again.
    pub async fn ended(&mut self) -> Result<Exit, StartError> {
        let ended = (&mut self.ended).await.map_err(|_| StartError::Lost)?;
        Ok(Exit::from_wire(&ended, self.started_at))
    }
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("id", &self.id()).field("pid", &self.0.pid).finish_non_exhaustive()
    }
}

fn settled(state: ContainerState) -> Result<Started, StartError> {
    match state.phase {
        Phase::Failed(error) => Err(error),
        _ => Ok(Started { state }),
    }
}

fn apply(state: &watch::Sender<Arc<State>>, change: Change) {
    state.send_modify(|state| {
        let state = Arc::make_mut(state);
        match change {
            Change::State(container) => {
                let container = ContainerState::from_wire(container);
                state.containers.insert(container.attempt.clone(), container);
            }
            Change::Forgotten(target) => {
                state.containers.remove(&Attempt::new(target.name, target.attempt));
            }
        }
    });
}

//! The pod: its namespaces, and how containers and commands are started in them.

use std::io::{Error, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::child::{self, Wiring};
use crate::protocol::{Container, Failure, Process, Setup, reason, stage};
use crate::rootfs::at;
use crate::sys::process::{self, Forked};
use crate::sys::{identity, io, mount};

/// Numbers of [`Container::pid_mode`].
const PIDS_OF_POD: u8 = 1;
const PIDS_OF_CONTAINER: u8 = 0;
/// The user and group that own nothing.
const NOBODY: u32 = 65_534;

/// The pod's isolation.
pub struct Pod {
    pub setup: Setup,
    /// This process, for children to see whether it lives.
    this: OwnedFd,
    /// The namespace of process ids that this process is in.
    own_pids: OwnedFd,
    /// Process 1 of the pod's own process ids, once one is needed.
    first: Option<OwnedFd>,
}

/// A child on its way to its program.
pub struct Started {
    pub pid: i32,
    pub handle: OwnedFd,
    pub report: OwnedFd,
}

/// The pod process' ends of a container's pipes.
#[derive(Default)]
pub struct Ends {
    pub input: Option<OwnedFd>,
    pub outputs: [Option<OwnedFd>; 2],
}

impl Pod {
    /// Makes the namespaces. This process moves into them, but for process ids and mounts.
    pub fn new(setup: Setup) -> std::result::Result<Self, Failure> {
        for file in &setup.procs_files {
            std::fs::write(file, "0").map_err(at(stage::CGROUP, file))?;
        }
        // A host that does not allow this leaves the pod process as likely to be killed as others.
        let _ = std::fs::write("/proc/self/oom_score_adj", setup.oom_score_adj.to_string());
        identity::adopt_orphans().map_err(at(stage::NAMESPACE, "orphans"))?;
        let wanted = [
            (setup.new_network, process::NEW_NETWORK, "network"),
            (setup.new_ipc, process::NEW_IPC, "ipc"),
            (setup.new_uts, process::NEW_UTS, "uts"),
        ];
        for (_, namespace, name) in wanted.into_iter().filter(|(wanted, _, _)| *wanted) {
            process::unshare(namespace).map_err(at(stage::NAMESPACE, name))?;
        }
        if setup.new_network {
            io::loopback_up().map_err(at(stage::NAMESPACE, "lo"))?;
        }
        if setup.new_uts {
            identity::set_host_name(&setup.hostname).map_err(at(stage::NAMESPACE, "host name"))?;
        }
        for pair in &setup.sysctls {
            let file = format!("/proc/sys/{}", pair.name);
            std::fs::write(&file, &pair.value).map_err(at(stage::SYSCTL, &pair.name))?;
        }
        let this = process::own_handle().map_err(at(stage::NAMESPACE, "handle"))?;
        let own_pids = open_namespace("/proc/self/ns/pid").map_err(at(stage::NAMESPACE, "pid"))?;
        Ok(Self { setup, this, own_pids, first: None })
    }

    /// Starts a container: forks its first process and wires it up.
    pub fn start(&mut self, container: &Container) -> std::result::Result<(Started, Ends), Failure> {
        if container.pid_mode == PIDS_OF_POD && self.first.is_none() {
            self.first = Some(self.start_first().map_err(at(stage::NAMESPACE, "pid"))?);
        }
        let mut ends = Ends::default();
        let mut streams = [None, None, None];
        if !container.process.tty {
            let piped = (|| {
                if container.input {
                    let (reader, writer) = io::pipe()?;
                    (streams[0], ends.input) = (Some(reader), Some(writer));
                }
                for index in 0..2 {
                    let (reader, writer) = io::pipe()?;
                    (streams[index + 1], ends.outputs[index]) = (Some(writer), Some(reader));
                }
                Ok(())
            })();
            piped.map_err(at(stage::FORK, "pipes"))?;
        }
        let own = container.pid_mode == PIDS_OF_CONTAINER;
        let namespaces = process::NEW_MOUNT | if own { process::NEW_PID } else { 0 };
        let inside = match (&self.first, container.pid_mode) {
            (Some(first), PIDS_OF_POD) => Some(first.as_fd()),
            _ => None,
        };
        let run_dir = &self.setup.run_dir;
        let started = self.fork(namespaces, inside, &container.cgroup.into, streams, |wiring| {
            child::become_container(container, run_dir, wiring)
        });
        Ok((started.map_err(at(stage::FORK, &container.cgroup.into))?, ends))
    }

    /// Starts a command in the container whose process is `inside`.
    pub fn command(
        &self,
        container: &Container,
        command: &Process,
        inside: BorrowedFd<'_>,
        streams: [Option<OwnedFd>; 3],
    ) -> std::result::Result<Started, Failure> {
        let started = self.fork(0, Some(inside), &container.cgroup.into, streams, |wiring| {
            child::become_command(container, command, inside, wiring)
        });
        started.map_err(|error| match error.raw_os_error() {
            Some(libc::ESRCH) => Failure { reason: reason::NOT_RUNNING, ..Failure::default() },
            _ => at(stage::FORK, "command")(error),
        })
    }

    /// Forks; the child is born in the process ids of `inside` and runs `body`, which never returns.
    fn fork(
        &self,
        namespaces: u64,
        inside: Option<BorrowedFd<'_>>,
        cgroup: &str,
        streams: [Option<OwnedFd>; 3],
        body: impl FnOnce(&Wiring) -> std::convert::Infallible,
    ) -> Result<Started> {
        let (ours, theirs) = io::message_pair()?;
        io::set_nonblocking(ours.as_fd())?;
        let cgroup = if cgroup.is_empty() { None } else { Some(mount::open_place(cgroup)?) };
        let wiring = Wiring { report: theirs, streams, parent: self.this.try_clone()? };
        if let Some(inside) = inside {
            process::enter(inside, process::NEW_PID)?;
        }
        let forked = process::fork(namespaces, cgroup.as_ref().map(AsFd::as_fd));
        if let Ok(Forked::Child) = forked {
            body(&wiring);
        }
        if inside.is_some() {
            // Only children are concerned; this cannot fail on the way back to where this process is.
            process::enter(self.own_pids.as_fd(), process::NEW_PID)?;
        }
        match forked? {
            Forked::Parent { pid, handle } => Ok(Started { pid, handle, report: ours }),
            Forked::Child => process::exit(127),
        }
    }

    /// Process 1 of the pod's process ids: it reaps, and ends with the pod process. Containers live beside it, and
    /// one that may trace others must gain nothing by it: it has no powers, no files and no root to look at.
    fn start_first(&self) -> Result<OwnedFd> {
        use std::io::{Read, Write};
        let (ours, theirs) = io::pipe()?;
        let (mut ours, mut theirs) = (std::fs::File::from(ours), std::fs::File::from(theirs));
        match process::fork(process::NEW_PID, None)? {
            Forked::Parent { handle, .. } => {
                drop(theirs);
                let mut failure = [0; 4];
                match ours.read(&mut failure)? {
                    0 => Ok(handle),
                    _ => Err(Error::from_raw_os_error(i32::from_ne_bytes(failure))),
                }
            }
            Forked::Child => {
                process::reset_signals();
                process::new_session();
                if let Err(error) = confine(&format!("{}/root", self.setup.run_dir)) {
                    let number = error.raw_os_error().unwrap_or(libc::EINVAL);
                    let _ = theirs.write_all(&number.to_ne_bytes());
                    process::exit(126);
                }
                let _ = identity::die_with_parent();
                if io::is_ready(self.this.as_fd()) {
                    process::exit(137);
                }
                io::close_others(&[]);
                process::reap_forever()
            }
        }
    }

    /// Ends process 1 of the pod's process ids, and all that is left in them.
    pub fn end_first(&mut self) {
        if let Some(first) = self.first.take() {
            let _ = process::signal(first.as_fd(), libc::SIGKILL);
        }
    }
}

/// Takes from this process everything but its being there. `place` is a directory to stack an empty root on.
fn confine(place: &str) -> Result<()> {
    process::unshare(process::NEW_MOUNT | process::NEW_CGROUP)?;
    mount::make_slave()?;
    let attributes = mount::READ_ONLY | mount::NO_SUID | mount::NO_DEVICES | mount::NO_EXEC;
    let nothing = mount::new_file_system("tmpfs", &[("mode", "555"), ("size", "4k")], attributes)?;
    mount::attach(nothing.as_fd(), mount::open_place(place)?.as_fd())?;
    mount::change_root(mount::open_place(place)?.as_fd())?;
    identity::limit_bounding(0)?;
    identity::become_user(NOBODY, NOBODY, &[])?;
    identity::set_capabilities(0, 0, 0, 0)?;
    identity::no_new_privileges()?;
    // Changing the user may have made this process visible again.
    identity::hide()
}

fn open_namespace(path: &str) -> Result<OwnedFd> {
    Ok(std::fs::File::open(path)?.into())
}

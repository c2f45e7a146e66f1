//! The pod: its namespaces, and how containers and commands are started in them.
//!
//! Whoever joins process ids in which a program of the pod runs already could be looked into and held by that
//! program, if it may trace. So nobody does who has more than the container: a child outside of them does all that
//! takes the machine's powers, gives these up, and last of all forks the one who is seen ([`Birth`]).

use std::io::{Error, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::child::{self, Wiring};
use crate::protocol::{Container, Failure, Process, Setup, stage};
use crate::rootfs::at;
use crate::sys::process::{self, Birth, Forked};
use crate::sys::{identity, io, mount};

/// Numbers of [`Container::pid_mode`].
const PIDS_OF_POD: u8 = 1;
const PIDS_OF_CONTAINER: u8 = 0;
const PIDS_OF_HOST: u8 = 2;
/// The user and group that own nothing.
const NOBODY: u32 = 65_534;

/// The pod's isolation.
pub struct Pod {
    pub setup: Setup,
    /// The pod's own process ids, once they are needed.
    shared: Option<SharedPids>,
}

/// Process ids that the pod's containers share.
pub struct SharedPids {
    /// Their process 1.
    pub first: OwnedFd,
    /// A mount namespace in which nobody is. Its root is their `/proc`, which only one of them can mount.
    pub processes: OwnedFd,
}

/// A child on its way to its program.
pub struct Started {
    pub pid: i32,
    pub handle: OwnedFd,
    pub report: OwnedFd,
    /// Where the child notes who is born in its place; `None` if it becomes the program itself.
    pub birth: Option<Birth>,
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
        Ok(Self { setup, shared: None })
    }

    /// Starts a container: forks its first process and wires it up.
    pub fn start(&mut self, container: &Container) -> std::result::Result<(Started, Ends), Failure> {
        if container.pid_mode == PIDS_OF_POD && self.shared.is_none() {
            self.shared = Some(self.start_first().map_err(at(stage::NAMESPACE, "pid"))?);
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
        let shared = self.shared.as_ref().filter(|_| container.pid_mode == PIDS_OF_POD);
        let run_dir = &self.setup.run_dir;
        let apart = shared.is_some();
        let started = self.fork(namespaces, apart, &container.cgroup.into, streams, |wiring| {
            child::become_container(container, run_dir, shared, wiring)
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
        // Who sees the machine's processes sees the pod process itself, and all children.
        let apart = container.pid_mode != PIDS_OF_HOST;
        let started = self.fork(0, apart, &container.cgroup.into, streams, |wiring| {
            child::become_command(container, command, inside, wiring)
        });
        started.map_err(at(stage::FORK, "command"))
    }

    /// Forks; the child runs `body`, which never returns. If it is to stay `apart`, somebody else is born in its place.
    fn fork(
        &self,
        namespaces: u64,
        apart: bool,
        cgroup: &str,
        streams: [Option<OwnedFd>; 3],
        body: impl FnOnce(&Wiring) -> std::convert::Infallible,
    ) -> Result<Started> {
        let (ours, theirs) = io::message_pair()?;
        io::set_nonblocking(ours.as_fd())?;
        let cgroup = if cgroup.is_empty() { None } else { Some(mount::open_place(cgroup)?) };
        let birth = if apart { Some(Birth::new()?) } else { None };
        let wiring = Wiring { report: theirs, streams, birth };
        let forked = process::fork(namespaces, cgroup.as_ref().map(AsFd::as_fd))?;
        if let Forked::Child = forked {
            body(&wiring);
        }
        match forked {
            Forked::Parent { pid, handle } => {
                let birth = wiring.birth;
                // The note is for these two: those who are started later are not to write on it.
                birth.iter().try_for_each(Birth::keep)?;
                Ok(Started { pid, handle, report: ours, birth })
            }
            Forked::Child => process::exit(127),
        }
    }

    /// Process 1 of the pod's process ids: it reaps, and ends with the pod process. Containers live beside it, and
    /// one that may trace others must gain nothing by it: it has no powers, no files and no root to look at.
    fn start_first(&self) -> Result<SharedPids> {
        let (ours, theirs) = io::message_pair()?;
        match process::fork(process::NEW_PID, None)? {
            Forked::Parent { handle, .. } => {
                drop(theirs);
                let (mut failure, mut descriptors) = ([0; 4], Vec::new());
                io::wait(ours.as_fd())?;
                let count = io::receive(ours.as_fd(), &mut failure, &mut descriptors)?;
                if count == failure.len() {
                    return Err(Error::from_raw_os_error(i32::from_ne_bytes(failure)));
                }
                let processes = descriptors.pop().ok_or(std::io::ErrorKind::UnexpectedEof)?;
                Ok(SharedPids { first: handle, processes })
            }
            Forked::Child => {
                process::reset_signals();
                process::new_session();
                match confine(&format!("{}/root", self.setup.run_dir)) {
                    Err(error) => {
                        let number = error.raw_os_error().unwrap_or(libc::EINVAL);
                        let _ = io::send(theirs.as_fd(), &number.to_ne_bytes(), &[]);
                        process::exit(126);
                    }
                    Ok(processes) => {
                        let _ = identity::die_with_parent();
                        let sent = io::send(theirs.as_fd(), &[0], &[processes.as_fd()]);
                        // Only while nobody is there who reads does this end in an error.
                        if sent.is_err() {
                            process::exit(137);
                        }
                    }
                }
                io::close_others(&[]);
                process::reap_forever()
            }
        }
    }

    /// Ends process 1 of the pod's process ids, and all that is left in them.
    pub fn end_first(&mut self) {
        if let Some(shared) = self.shared.take() {
            let _ = process::signal(shared.first.as_fd(), libc::SIGKILL);
        }
    }
}

/// Takes from this process everything but its being there. `place` is a directory to stack roots on. Gives the mount
/// namespace of [`SharedPids::processes`].
fn confine(place: &str) -> Result<OwnedFd> {
    process::unshare(process::NEW_MOUNT | process::NEW_CGROUP)?;
    mount::make_slave()?;
    let plain = mount::NO_SUID | mount::NO_DEVICES | mount::NO_EXEC;
    let processes = mount::new_file_system("proc", &[], plain)?;
    mount::attach(processes.as_fd(), mount::open_place(place)?.as_fd())?;
    mount::change_root(mount::open_place(place)?.as_fd())?;
    let namespace = open_namespace("/self/ns/mnt")?;
    process::unshare(process::NEW_MOUNT)?;
    let nothing =
        mount::new_file_system("tmpfs", &[("mode", "555"), ("size", "4k")], plain | mount::READ_ONLY)?;
    // Any directory will do, as the whole of the root goes.
    mount::attach(nothing.as_fd(), mount::open_place("/sys")?.as_fd())?;
    mount::change_root(mount::open_place("/sys")?.as_fd())?;
    identity::limit_bounding(0)?;
    identity::become_user(NOBODY, NOBODY, &[])?;
    identity::set_capabilities(0, 0, 0, 0)?;
    identity::no_new_privileges()?;
    // Changing the user may have made this process visible again.
    identity::hide()?;
    Ok(namespace)
}

fn open_namespace(path: &str) -> Result<OwnedFd> {
    Ok(std::fs::File::open(path)?.into())
}

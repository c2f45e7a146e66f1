//! The child's side of a start: from the fork to the execution of the program.
//!
//! It reports over a socket that keeps messages apart: notes, the master of a terminal, a failure. When the socket
//! closes without a failure, the program was executed.
//!
//! If it joins process ids of others, it enters them last and by a child, which begins with the identity, the filter
//! and the root that the program gets, and with nothing but its streams and that socket.

use std::ffi::CString;
use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::diagnose;
use crate::pod::SharedPids;
use crate::protocol::{Container, Failure, Process, Wire, reason, stage};
use crate::rootfs::{self, at};
use crate::sys::process::Birth;
use crate::sys::{self, identity, io, mount, process};

/// First bytes of reports.
pub const REPORT_FAILURE: u8 = b'F';
pub const REPORT_NOTE: u8 = b'N';
pub const REPORT_TERMINAL: u8 = b'T';
/// The most of a file of users that is read.
const MAX_PASSWD_BYTES: usize = 1 << 20;
/// Where programs are looked for when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

type Step<T = ()> = std::result::Result<T, Failure>;

/// What a child has of the pod process.
pub struct Wiring {
    /// To report over.
    pub report: OwnedFd,
    /// Input, output, errors. Without a terminal, what is missing is the container's `/dev/null`.
    pub streams: [Option<OwnedFd>; 3],
    /// Where to note who is born in this child's place; `None` if it becomes the program itself.
    pub birth: Option<Birth>,
}

/// Becomes a container, among `shared` process ids or those that this process was born into. Never returns.
pub fn become_container(
    container: &Container,
    run_dir: &str,
    shared: Option<&SharedPids>,
    wiring: &Wiring,
) -> ! {
    finish(wiring, start_container(container, run_dir, shared, wiring))
}

/// Becomes a command in the container whose process is `inside`. Never returns.
pub fn become_command(
    container: &Container,
    command: &Process,
    inside: BorrowedFd<'_>,
    wiring: &Wiring,
) -> ! {
    finish(wiring, start_command(container, command, inside, wiring))
}

fn finish(wiring: &Wiring, outcome: Step) -> ! {
    if let Err(failure) = outcome {
        let mut message = vec![REPORT_FAILURE];
        failure.put(&mut message);
        let _ = io::send(wiring.report.as_fd(), &message, &[]);
    }
    process::exit(127)
}

fn start_container(
    container: &Container,
    run_dir: &str,
    shared: Option<&SharedPids>,
    wiring: &Wiring,
) -> Step {
    let also = shared.map(|shared| [shared.first.as_raw_fd(), shared.processes.as_raw_fd()]);
    begin(wiring, &also.unwrap_or_default());
    enter_cgroup(container)?;
    set_oom_score(container.process.oom_score_adj, wiring);
    let namespace = |name| at(stage::NAMESPACE, name);
    process::unshare(process::NEW_CGROUP).map_err(namespace("cgroup"))?;
    mount::make_slave().map_err(namespace("mount"))?;
    let processes = shared.map(|shared| rootfs::processes_of(shared.processes.as_fd())).transpose();
    let processes = processes.map_err(at(stage::MOUNT, "/proc"))?;
    let root = rootfs::build(container, run_dir, processes)?;
    mount::change_root(root.as_fd()).map_err(at(stage::ROOT, "pivot_root"))?;
    rootfs::make_working_directory(&container.process.cwd)?;
    let terminal = container.process.tty.then(|| open_terminal(&container.process, wiring)).transpose()?;
    if let Some(terminal) = &terminal {
        rootfs::mount_console(terminal.as_fd()).map_err(at(stage::TERMINAL, "/dev/console"))?;
    }
    rootfs::seal(container)?;
    if let Some(shared) = shared {
        process::enter(shared.first.as_fd(), process::NEW_PID).map_err(namespace("pid"))?;
    }
    connect(wiring, terminal, &container.process)?;
    run(&container.process, wiring)
}

fn start_command(container: &Container, command: &Process, inside: BorrowedFd<'_>, wiring: &Wiring) -> Step {
    begin(wiring, &[inside.as_raw_fd()]);
    enter_cgroup(container)?;
    set_oom_score(command.oom_score_adj, wiring);
    let namespaces = process::NEW_MOUNT | process::NEW_CGROUP | process::NEW_PID;
    process::enter(inside, namespaces).map_err(|error| match error.raw_os_error() {
        // It has ended meanwhile.
        Some(libc::ESRCH) => Failure { reason: reason::NOT_RUNNING, ..Failure::default() },
        _ => at(stage::NAMESPACE, "the container's")(error),
    })?;
    let terminal = command.tty.then(|| open_terminal(command, wiring)).transpose()?;
    connect(wiring, terminal, command)?;
    run(command, wiring)
}

/// A session of its own, ordinary signals, and of the pod process' descriptors only those that are needed.
fn begin(wiring: &Wiring, also: &[i32]) {
    process::reset_signals();
    process::new_session();
    let given = wiring.streams.iter().flatten().map(AsRawFd::as_raw_fd);
    let mut keep: Vec<i32> = given.chain([wiring.report.as_raw_fd()]).collect();
    keep.extend(also.iter().filter(|number| **number > 2));
    keep.sort_unstable();
    io::close_others(&keep);
    identity::set_umask(0);
}

fn enter_cgroup(container: &Container) -> Step {
    for file in &container.cgroup.procs_files {
        std::fs::write(file, "0").map_err(at(stage::CGROUP, file))?;
    }
    Ok(())
}

/// Only the privileged may go below what the pod process has; then what is possible is kept, and said.
fn set_oom_score(wanted: i32, wiring: &Wiring) {
    if std::fs::write("/proc/self/oom_score_adj", wanted.to_string()).is_err() {
        note(wiring, &format!("oom_score_adj {wanted} is not allowed on this host; its own is kept"));
    }
}

fn note(wiring: &Wiring, text: &str) {
    let mut message = vec![REPORT_NOTE];
    message.extend_from_slice(text.as_bytes());
    let _ = io::send(wiring.report.as_fd(), &message, &[]);
}

/// A new terminal of the container's own devpts; the pod process gets its master.
fn open_terminal(process: &Process, wiring: &Wiring) -> Step<OwnedFd> {
    let opened = (|| {
        let master = io::open_terminal("/dev/pts/ptmx")?;
        if process.columns > 0 && process.rows > 0 {
            io::set_size(master.as_fd(), process.columns, process.rows)?;
        }
        let terminal = io::open_peer(master.as_fd())?;
        io::send(wiring.report.as_fd(), &[REPORT_TERMINAL], &[master.as_fd()])?;
        Ok(terminal)
    })();
    opened.map_err(at(stage::TERMINAL, "/dev/pts/ptmx"))
}

/// Puts the three streams where programs expect them, and lets go of every other descriptor but the report's.
fn connect(wiring: &Wiring, terminal: Option<OwnedFd>, process: &Process) -> Step {
    let connected = (|| {
        if let Some(terminal) = terminal {
            io::give_to(terminal.as_fd(), process.uid)?;
            return (0..3).try_for_each(|number| io::duplicate_onto(terminal.as_fd(), number));
        }
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        for (number, stream) in (0..).zip(&wiring.streams) {
            let stream = stream.as_ref().map_or(null.as_fd(), AsFd::as_fd);
            if process.uid != 0 {
                // So that /dev/stdout can be opened again.
                io::give_pipe_to(stream, process.uid)?;
            }
            io::duplicate_onto(stream, number)?;
        }
        Ok(())
    })();
    connected.map_err(at(stage::TERMINAL, "standard streams"))?;
    // Whoever looks at the program's descriptors from now on, and wherever its working directory leads, finds nothing
    // of the machine's.
    io::close_others(&[wiring.report.as_raw_fd()]);
    Ok(())
}

/// Takes on the identity and executes. Returns only with a failure.
fn run(process: &Process, wiring: &Wiring) -> Step {
    set_limits(process, wiring)?;
    identity::leave_keyring();
    let cwd = if process.cwd.is_empty() { "/" } else { &process.cwd };
    // As root first, as directories may be closed to the user; if that is not allowed, as the user.
    let entered = std::env::set_current_dir(cwd);
    let env = environment(process);
    if !process.no_new_privileges {
        // Without the promise of no new privileges only the still mighty may install a filter.
        filter(process)?;
    }
    take_identity(process)?;
    if entered.is_err() {
        std::env::set_current_dir(cwd).map_err(at(stage::CWD, cwd))?;
    }
    // Changing the user forgets these two wishes, so they come after; if the pod process went away before, which is
    // who holds the other end of the report, it is too late.
    identity::hide().map_err(at(stage::CAPABILITIES, "dumpable"))?;
    identity::die_with_parent().map_err(at(stage::FORK, "parent"))?;
    if io::is_ready(wiring.report.as_fd()) {
        process::exit(137);
    }
    identity::set_umask(0o022);
    if process.no_new_privileges {
        identity::no_new_privileges().map_err(at(stage::CAPABILITIES, "no_new_privs"))?;
        filter(process)?;
    }
    if let Some(birth) = &wiring.birth {
        // From here on the pod's other programs see the child, which ends with process 1 of its process ids.
        if !birth.bear().map_err(at(stage::FORK, "process ids"))? {
            process::exit(0);
        }
        process::new_session();
    }
    if process.tty {
        io::take_terminal().map_err(at(stage::TERMINAL, "controlling terminal"))?;
    }
    execute(process, &env)
}

fn set_limits(process: &Process, wiring: &Wiring) -> Step {
    for limit in &process.limits {
        let Err(error) = identity::set_limit(limit.resource, limit.soft, limit.hard) else { continue };
        let name = format!("resource limit {}", limit.resource);
        let failed = at(stage::USER, &name);
        if error.raw_os_error() != Some(libc::EPERM) {
            return Err(failed(error));
        }
        let clamped = identity::hard_limit(limit.resource).and_then(|most| {
            identity::set_limit(limit.resource, limit.soft.min(most), limit.hard.min(most)).map(|()| most)
        });
        let most = clamped.map_err(failed)?;
        note(wiring, &format!("resource limit {} is clamped to the host's {most}", limit.resource));
    }
    Ok(())
}

fn filter(process: &Process) -> Step {
    if process.seccomp.is_empty() {
        return Ok(());
    }
    identity::install_filter(&process.seccomp).map_err(at(stage::SECCOMP, "filter"))
}

fn take_identity(process: &Process) -> Step {
    // What this host does not have cannot be given: a kernel older than the capability, or a limited host.
    let most = identity::permitted().map_err(at(stage::CAPABILITIES, "capget"))?;
    identity::limit_bounding(process.bounding).map_err(at(stage::CAPABILITIES, "bounding set"))?;
    identity::become_user(process.uid, process.gid, &process.groups)
        .map_err(at(stage::USER, &format!("{}:{}", process.uid, process.gid)))?;
    let ambient = process.ambient & most;
    // A user other than root has nothing but what is ambient, as executing would drop the rest anyway.
    let (permitted, effective) = (process.permitted & most, process.effective & most);
    let inheritable = (process.inheritable | process.ambient) & most;
    identity::set_capabilities(effective, permitted | ambient, inheritable, ambient)
        .map_err(at(stage::CAPABILITIES, "capset"))
}

fn environment(process: &Process) -> Vec<String> {
    let mut env = process.env.clone();
    if !env.iter().any(|pair| pair.starts_with("HOME=")) {
        env.push(format!("HOME={}", home(process.uid)));
    }
    env
}

fn home(uid: u32) -> String {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let mut text = Vec::new();
    // The image may have a pipe or a terminal of that name, which must not be waited for, nor taken.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(flags).open("/etc/passwd");
    if let Ok(file) = opened
        && file.metadata().is_ok_and(|metadata| metadata.is_file())
    {
        let _ = file.take(MAX_PASSWD_BYTES as u64).read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let mut homes = text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let mine = fields.get(2)?.parse() == Ok(uid);
        fields.get(5).filter(|home| mine && !home.is_empty()).map(ToString::to_string)
    });
    homes.next().unwrap_or_else(|| "/".to_owned())
}

fn execute(process: &Process, env: &[String]) -> Step {
    let words = |words: &[String]| words.iter().map(|word| sys::c(word)).collect::<Result<Vec<CString>>>();
    let program = process.args.first().map_or("", String::as_str);
    let (args, pairs) = (words(&process.args), words(env));
    let (args, pairs) = (args.map_err(at(stage::EXEC, program))?, pairs.map_err(at(stage::EXEC, program))?);
    if program.contains('/') {
        let error = process::execute(program, &args, &pairs);
        return Err(judge(program, &error));
    }
    let path = env.iter().rev().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut refused = None;
    for folder in path.split(':') {
        let candidate = format!("{}/{program}", if folder.is_empty() { "." } else { folder });
        let error = process::execute(&candidate, &args, &pairs);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) if !is_there(&candidate) => {}
            Some(libc::EACCES) => refused = refused.or(Some(judge(&candidate, &error))),
            _ => return Err(judge(&candidate, &error)),
        }
    }
    let missing = || explained(libc::ENOENT, reason::NOT_FOUND, program.to_owned());
    Err(refused.unwrap_or_else(missing))
}

/// Finds the words for a refused execution.
fn judge(path: &str, error: &Error) -> Failure {
    let errno = error.raw_os_error().unwrap_or_default();
    let (reason, detail) = match errno {
        libc::ENOENT | libc::ENOTDIR if !is_there(path) => (reason::NOT_FOUND, path.to_owned()),
        libc::EACCES if std::path::Path::new(path).is_dir() => (reason::IS_DIRECTORY, path.to_owned()),
        libc::EACCES => (reason::NOT_EXECUTABLE, path.to_owned()),
        _ => diagnose::explain(path, &head(path), is_there).unwrap_or((reason::NONE, path.to_owned())),
    };
    explained(errno, reason, detail)
}

fn explained(errno: i32, reason: u8, detail: String) -> Failure {
    Failure { stage: stage::EXEC, errno, detail, reason }
}

fn is_there(path: &str) -> bool {
    std::path::Path::new(path).exists()
}

fn head(path: &str) -> Vec<u8> {
    use std::io::Read;
    let mut head = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(diagnose::HEAD_BYTES as u64).read_to_end(&mut head);
    }
    head
}

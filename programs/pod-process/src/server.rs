//! The loop: events in, answers and changes out. All state of the pod process is here.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use crate::child::{REPORT_FAILURE, REPORT_NOTE, REPORT_TERMINAL};
use crate::connection::{Connection, decode};
use crate::container::{Attempt, FAILED, STARTING};
use crate::pod::Pod;
use crate::poller::{Poller, Source};
use crate::protocol::{
    self, ContainerState, Ended, ExecStarted, Failure, HelloAnswer, Response, Setup, UNASKED, reason, stage,
};
use crate::rootfs::at;
use crate::sys::identity;
use crate::sys::io::{self, READABLE};
use crate::sys::process::{self, Birth};

mod requests;

/// Everything.
pub struct Server {
    poller: Poller,
    signals: OwnedFd,
    listener: Option<UnixListener>,
    connections: BTreeMap<u32, Connection>,
    pod: Option<Pod>,
    attempts: Vec<Attempt>,
    /// For each container, the attempts below this number were forgotten and never start again.
    floors: BTreeMap<String, u32>,
    commands: Vec<Command>,
    last_serial: u32,
    /// Who asked for the end, if anybody did.
    closing: Option<Option<(u32, u32)>>,
}

/// A command in a container.
struct Command {
    serial: u32,
    connection: u32,
    number: u32,
    pid: i32,
    handle: OwnedFd,
    /// Where to look for who is born in the place of the one that was forked.
    birth: Option<Birth>,
    report: Option<(OwnedFd, u64)>,
    terminal: Option<OwnedFd>,
    failed: bool,
    /// It is to be killed, and so is who is born in its place.
    doomed: bool,
}

impl Command {
    fn meet_newborn(&mut self) {
        let Some(pid) = self.birth.as_ref().and_then(Birth::pid) else { return };
        self.birth = None;
        self.pid = pid;
        if let Ok(handle) = process::handle(pid) {
            self.handle = handle;
        }
        if self.doomed {
            self.kill();
        }
    }

    /// Kills the command and what it has started, as far as that is still of its group.
    fn kill(&mut self) {
        self.doomed = true;
        process::kill_group(self.pid);
        let _ = process::signal(self.handle.as_fd(), libc::SIGKILL);
    }
}

impl Server {
    /// Ready for the first request, on standard input.
    pub fn new() -> Result<Self> {
        identity::hide()?;
        identity::set_name(c"ondol-pod");
        process::new_session();
        identity::set_umask(0o077);
        std::env::set_current_dir("/")?;
        let signals = process::signal_source()?;
        let mut poller = Poller::new()?;
        poller.add(signals.as_fd(), Source::Signals, READABLE)?;
        let mut server = Self {
            poller,
            signals,
            listener: None,
            connections: BTreeMap::new(),
            pod: None,
            attempts: Vec::new(),
            floors: BTreeMap::new(),
            commands: Vec::new(),
            last_serial: 0,
            closing: None,
        };
        let first = io::inherited_input()?;
        // The number stays taken, so that it never means anything else.
        io::duplicate_onto(std::fs::File::open("/dev/null")?.as_fd(), 0)?;
        server.connect(first)?;
        Ok(server)
    }

    /// Serves until the end of the pod.
    pub fn run(mut self) -> Result<()> {
        let mut events = Vec::new();
        loop {
            match self.poller.wait(&mut events) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for (token, ready) in &events {
                if let Some(source) = self.poller.source(*token) {
                    self.handle(source, *ready)?;
                }
            }
            if self.is_over() {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, source: Source, ready: u32) -> Result<()> {
        self.meet_newborns();
        match source {
            Source::Listener => self.accept(),
            Source::Signals => self.take_signals(),
            Source::Connection(id) => self.converse(id),
            Source::Report(serial) => self.take_reports(serial, false),
            Source::CommandReport(serial) => self.take_command_reports(serial, false),
            Source::Output(serial, stream) => {
                if let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.serial == serial) {
                    attempt.pump(&mut self.poller, stream);
                }
            }
            Source::Attacher(serial, attacher) => {
                if let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.serial == serial) {
                    attempt.attacher_ready(&mut self.poller, attacher, ready);
                }
            }
        }
        Ok(())
    }

    fn serial(&mut self) -> u32 {
        self.last_serial += 1;
        self.last_serial
    }

    // Connections.

    fn connect(&mut self, socket: OwnedFd) -> Result<()> {
        io::set_nonblocking(socket.as_fd())?;
        let id = self.serial();
        let mut connection = Connection::new(socket);
        connection.token = self.poller.add(connection.socket.as_fd(), Source::Connection(id), READABLE)?;
        self.connections.insert(id, connection);
        Ok(())
    }

    fn accept(&mut self) {
        let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) else { return };
        let socket = OwnedFd::from(stream);
        // The directory is closed to others already; this is the second lock.
        if io::peer_user(socket.as_fd()).is_ok_and(|user| user == 0) {
            let _ = self.connect(socket);
        }
    }

    fn converse(&mut self, id: u32) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.fill().is_err() || connection.flush().is_err() {
            return self.disconnect(id);
        }
        loop {
            let Some(connection) = self.connections.get_mut(&id) else { return };
            match connection.next() {
                Ok(Some(incoming)) => self.serve(id, incoming),
                Ok(None) => break,
                Err(_) => return self.disconnect(id),
            }
        }
        self.settle(id);
    }

    /// Waits for what the connection needs next.
    fn settle(&mut self, id: u32) {
        if let Some(connection) = self.connections.get(&id) {
            self.poller.change(connection.socket.as_fd(), connection.token, connection.interest());
        }
    }

    fn disconnect(&mut self, id: u32) {
        if let Some(connection) = self.connections.remove(&id) {
            self.poller.remove(connection.socket.as_fd(), connection.token);
        }
        // Nobody is left to read what these commands say.
        self.commands.iter_mut().filter(|command| command.connection == id).for_each(Command::kill);
    }

    fn answer(&mut self, id: u32, number: u32, response: &Response, descriptors: Vec<OwnedFd>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match connection.push(number, response, descriptors) {
            Ok(()) => self.settle(id),
            Err(_) => self.disconnect(id),
        }
    }

    fn tell(&mut self, response: &Response) {
        let watching = self.connections.iter().filter(|(_, connection)| connection.watching);
        for id in watching.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.answer(id, UNASKED, response, Vec::new());
        }
    }

    // Setup.

    fn set_up(&mut self, setup: Setup) -> std::result::Result<(), Failure> {
        if self.pod.is_some() {
            return Err(at(stage::REQUEST, "the pod is set up already")(Error::from_raw_os_error(
                libc::EEXIST,
            )));
        }
        let path = format!("{}/socket", setup.run_dir);
        let pod = Pod::new(setup)?;
        let listener = UnixListener::bind(&path).map_err(at(stage::REQUEST, &path))?;
        let listening = listener
            .set_nonblocking(true)
            .and_then(|()| self.poller.add(listener.as_fd(), Source::Listener, READABLE));
        listening.map_err(at(stage::REQUEST, &path))?;
        self.listener = Some(listener);
        self.pod = Some(pod);
        Ok(())
    }

    fn hello(&self) -> Response {
        Response::Hello(HelloAnswer {
            version: protocol::VERSION,
            id: self.pod.as_ref().map(|pod| pod.setup.id.clone()).unwrap_or_default(),
            pid: std::process::id(),
            ready: self.pod.is_some(),
        })
    }

    // Children.

    fn take_signals(&mut self) {
        let mut record = [0; 128];
        while let Ok(count) = io::read(self.signals.as_fd(), &mut record) {
            if process::asks_to_stop(&record[..count]) {
                self.shut_down(None);
            }
        }
        while let Some(pid) = process::ended_child() {
            // Now, while no number of those who have ended can be another's.
            self.meet_newborns();
            if let Some(ended) = process::reap(pid) {
                self.child_ended(&ended);
            }
        }
    }

    fn meet_newborns(&mut self) {
        self.attempts.iter_mut().for_each(Attempt::meet_newborn);
        self.commands.iter_mut().for_each(Command::meet_newborn);
    }

    fn child_ended(&mut self, ended: &process::Ended) {
        let pid = ended.pid;
        let alive = |attempt: &&Attempt| attempt.lives() && attempt.state.pid == pid as u32;
        if let Some(serial) = self.attempts.iter().find(alive).map(|attempt| attempt.serial) {
            // A failure may still be on its way.
            self.take_reports(serial, true);
            self.container_ended(serial, ended);
        }
        let mine = |command: &&Command| command.pid == pid;
        if let Some(serial) = self.commands.iter().find(mine).map(|command| command.serial) {
            self.take_command_reports(serial, true);
            self.command_ended(serial, ended);
        }
    }

    fn container_ended(&mut self, serial: u32, ended: &process::Ended) {
        let Some(index) = self.attempts.iter().position(|attempt| attempt.serial == serial) else { return };
        // With process ids of its own everything else of the container is gone already.
        if self.attempts[index].spec.pid_mode != 0 {
            self.kill_all(index);
        }
        let attempt = &mut self.attempts[index];
        attempt.ended(&mut self.poller, ended.code, ended.signal);
        if attempt.state.phase != FAILED {
            let state = attempt.state.clone();
            self.tell(&Response::State(state));
        }
    }

    /// Kills every process of a container.
    fn kill_all(&self, index: usize) {
        let attempt = &self.attempts[index];
        if let Some(handle) = &attempt.handle {
            let _ = process::signal(handle.as_fd(), libc::SIGKILL);
        }
        let cgroup = &attempt.spec.cgroup;
        if !cgroup.kill_file.is_empty() && std::fs::write(&cgroup.kill_file, "1").is_ok() {
            return;
        }
        // No way to kill all at once: as long as new ones appear. Bounded, as they are stopped one by one.
        for _ in 0..100 {
            let list = std::fs::read_to_string(&cgroup.list_file).unwrap_or_default();
            if list.is_empty() {
                return;
            }
            list.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid > 0).for_each(process::kill);
        }
    }

    /// What the child said. If it is `over` and said no more than that, its program was executed: whoever bore it may
    /// be there yet and hold the report open.
    fn take_reports(&mut self, serial: u32, over: bool) {
        self.meet_newborns();
        let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.serial == serial) else { return };
        loop {
            let Some((report, _)) = &attempt.report else { return };
            let mut descriptors = Vec::new();
            match next_report(report, &mut descriptors, over) {
                Report::Nothing => return,
                Report::Note(text) => attempt.state.notes.push(text),
                Report::Failure(failure) => {
                    attempt.failed(&mut self.poller, failure);
                    break;
                }
                Report::Terminal => {
                    attempt.terminal = descriptors.pop();
                    let copies =
                        |master: &OwnedFd| Ok::<_, Error>((master.try_clone()?, master.try_clone()?));
                    if let Some(Ok((input, output))) = attempt.terminal.as_ref().map(copies) {
                        attempt.input = attempt.spec.input.then_some(input);
                        let _ = attempt.listen(&mut self.poller, 0, output);
                    }
                }
                Report::Executed => {
                    if let Some((report, token)) = attempt.report.take() {
                        self.poller.remove(report.as_fd(), token);
                    }
                    attempt.executed();
                    break;
                }
            }
        }
        let (state, waiting) = (attempt.state.clone(), std::mem::take(&mut attempt.waiting));
        self.tell(&Response::State(state.clone()));
        for (id, number) in waiting {
            self.answer(id, number, &Response::State(state.clone()), Vec::new());
        }
    }

    fn take_command_reports(&mut self, serial: u32, over: bool) {
        self.meet_newborns();
        let Some(command) = self.commands.iter_mut().find(|command| command.serial == serial) else { return };
        let response = loop {
            let Some((report, _)) = &command.report else { return };
            let mut descriptors = Vec::new();
            match next_report(report, &mut descriptors, over) {
                Report::Nothing => return,
                Report::Note(_) => {}
                Report::Terminal => command.terminal = descriptors.pop(),
                Report::Failure(failure) => {
                    command.failed = true;
                    break Response::Failed(failure);
                }
                Report::Executed => break Response::ExecStarted(ExecStarted { pid: command.pid as u32 }),
            }
        };
        if let Some((report, token)) = command.report.take() {
            self.poller.remove(report.as_fd(), token);
        }
        let (id, number) = (command.connection, command.number);
        let descriptors = command.terminal.take().into_iter().collect();
        self.answer(id, number, &response, descriptors);
    }

    fn command_ended(&mut self, serial: u32, ended: &process::Ended) {
        let Some(index) = self.commands.iter().position(|command| command.serial == serial) else { return };
        let command = self.commands.swap_remove(index);
        if !command.failed {
            let at_ns = crate::container::nanoseconds(io::now());
            let end = Ended { code: ended.code, signal: ended.signal, at_ns, out_of_memory: false };
            self.answer(command.connection, command.number, &Response::ExecEnded(end), Vec::new());
        }
    }

    // The end.

    fn shut_down(&mut self, asked: Option<(u32, u32)>) {
        self.closing = Some(asked.or(self.closing.flatten()));
        for index in 0..self.attempts.len() {
            if self.attempts[index].lives() {
                self.kill_all(index);
            }
        }
        self.commands.iter_mut().for_each(Command::kill);
        if let Some(pod) = &mut self.pod {
            pod.end_first();
        }
    }

    /// Whether nothing is left to do: the end was asked for and everything has ended, or the starter went away
    /// before it said what to hold.
    fn is_over(&mut self) -> bool {
        let Some(asked) = self.closing else { return self.pod.is_none() && self.connections.is_empty() };
        if self.attempts.iter().any(Attempt::lives) || !self.commands.is_empty() {
            return false;
        }
        if let Some((id, number)) = asked {
            self.answer(id, number, &Response::Done(()), Vec::new());
        }
        true
    }
}

/// What a child said.
enum Report {
    Nothing,
    Note(String),
    Terminal,
    Failure(Failure),
    Executed,
}

fn next_report(socket: &OwnedFd, descriptors: &mut Vec<OwnedFd>, over: bool) -> Report {
    let mut buffer = [0; 4096];
    let count = match io::receive(socket.as_fd(), &mut buffer, descriptors) {
        Ok(count) => count,
        Err(error) if error.kind() == ErrorKind::WouldBlock && !over => return Report::Nothing,
        Err(_) => 0,
    };
    match buffer[..count].split_first() {
        None => Report::Executed,
        Some((&REPORT_FAILURE, rest)) => Report::Failure(decode(rest).unwrap_or_default()),
        Some((&REPORT_NOTE, rest)) => Report::Note(String::from_utf8_lossy(rest).into_owned()),
        Some((&REPORT_TERMINAL, _)) => Report::Terminal,
        Some(_) => Report::Failure(Failure { detail: "an unknown report".into(), ..Failure::default() }),
    }
}

/// Whether somebody can still wait for this start.
fn is_starting(state: &ContainerState) -> bool {
    state.phase == STARTING
}

fn refused(reason: u8, detail: &str) -> Response {
    Response::Failed(Failure {
        reason,
        detail: detail.to_owned(),
        stage: stage::REQUEST,
        errno: libc::EINVAL,
    })
}

fn not_running() -> Response {
    refused(reason::NOT_RUNNING, "")
}

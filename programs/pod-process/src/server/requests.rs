//! One function a request.

use std::os::fd::{AsFd, OwnedFd};

use super::{Command, Server, is_starting, not_running, refused};
use crate::connection::Incoming;
use crate::container::{Attempt, ENDED, RUNNING};
use crate::poller::Source;
use crate::protocol::{
    Attach, Container, Exec, ExecSignal, Failure, Process, Request, Resize, Response, Signal, Target, reason,
    stage,
};
use crate::rootfs::at;
use crate::sys::io::{self, READABLE};
use crate::sys::process;

impl Server {
    /// Serves one request; most are answered at once.
    pub fn serve(&mut self, id: u32, incoming: Incoming) {
        let Incoming { number, request, descriptors } = incoming;
        let answer = match request {
            Err(_) => Some(refused(reason::NOT_UNDERSTOOD, "")),
            Ok(Request::Hello(_)) => Some(self.hello()),
            Ok(Request::Setup(setup)) => Some(done(self.set_up(setup))),
            Ok(Request::Watch(())) => Some(self.watch(id)),
            Ok(Request::Start(container)) => self.start(id, number, container),
            Ok(Request::Signal(signal)) => Some(self.signal(&signal)),
            Ok(Request::Exec(exec)) => self.exec(id, number, exec, descriptors),
            Ok(Request::ExecSignal(signal)) => Some(self.exec_signal(id, &signal)),
            Ok(Request::Attach(attach)) => self.attach(id, number, &attach, descriptors),
            Ok(Request::Resize(resize)) => Some(self.resize(&resize)),
            Ok(Request::CloseInput(target)) => Some(self.close_input(&target)),
            Ok(Request::RotateLog(target)) => Some(self.rotate_log(&target)),
            Ok(Request::Forget(target)) => Some(self.forget(&target)),
            Ok(Request::Shutdown(())) => {
                self.shut_down(Some((id, number)));
                None
            }
        };
        if let Some(answer) = answer {
            self.answer(id, number, &answer, Vec::new());
        }
    }

    fn watch(&mut self, id: u32) -> Response {
        let states: Vec<_> = self.attempts.iter().map(|attempt| attempt.state.clone()).collect();
        for state in states {
            self.answer(id, crate::protocol::UNASKED, &Response::State(state), Vec::new());
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.watching = true;
        }
        Response::Done(())
    }

    fn find(&mut self, name: &str, attempt: u32) -> Option<&mut Attempt> {
        self.attempts.iter_mut().find(|known| known.is(name, attempt))
    }

    fn find_running(&mut self, name: &str, attempt: u32) -> Option<&mut Attempt> {
        self.find(name, attempt).filter(|known| known.state.phase == RUNNING)
    }

    /// Starts an attempt, or tells what became of it.
    fn start(&mut self, id: u32, number: u32, container: Container) -> Option<Response> {
        if self.closing.is_some() {
            return Some(refused(reason::CLOSING, ""));
        }
        if let Some(known) = self.find(&container.name, container.attempt) {
            if is_starting(&known.state) {
                known.waiting.push((id, number));
                return None;
            }
            return Some(Response::State(known.state.clone()));
        }
        if self.floors.get(&container.name).is_some_and(|floor| container.attempt < *floor) {
            return Some(refused(reason::FORGOTTEN, ""));
        }
        let serial = self.serial();
        let mut attempt = Attempt::new(serial, container);
        attempt.waiting.push((id, number));
        let begun = self.begin(&mut attempt);
        if let Err(failure) = begun {
            attempt.failed(&mut self.poller, failure);
            attempt.waiting.clear();
            let state = attempt.state.clone();
            self.attempts.push(attempt);
            self.tell(&Response::State(state.clone()));
            return Some(Response::State(state));
        }
        let state = attempt.state.clone();
        self.attempts.push(attempt);
        self.tell(&Response::State(state));
        None
    }

    fn begin(&mut self, attempt: &mut Attempt) -> Result<(), Failure> {
        let missing = || refusal("the pod is not set up");
        attempt.open_log().map_err(at(stage::LOG, &attempt.spec.log.path))?;
        let (started, ends) = self.pod.as_mut().ok_or_else(missing)?.start(&attempt.spec)?;
        attempt.state.pid = started.pid as u32;
        (attempt.handle, attempt.birth) = (Some(started.handle), started.birth);
        attempt.input = ends.input;
        for (stream, end) in ends.outputs.into_iter().enumerate() {
            if let Some(end) = end {
                attempt.listen(&mut self.poller, stream, end).map_err(at(stage::LOG, "pipe"))?;
            }
        }
        let token = self.poller.add(started.report.as_fd(), Source::Report(attempt.serial), READABLE);
        attempt.report = Some((started.report, token.map_err(at(stage::FORK, "report"))?));
        Ok(())
    }

    fn signal(&mut self, signal: &Signal) -> Response {
        let found = |known: &Attempt| known.is(&signal.name, signal.attempt) && known.lives();
        let Some(index) = self.attempts.iter().position(found) else { return not_running() };
        if signal.all {
            self.kill_all(index);
            return Response::Done(());
        }
        let Some(handle) = &self.attempts[index].handle else { return not_running() };
        done(process::signal(handle.as_fd(), signal.signal).map_err(at(stage::REQUEST, "signal")))
    }

    fn exec(&mut self, id: u32, number: u32, exec: Exec, descriptors: Vec<OwnedFd>) -> Option<Response> {
        let running = |known: &&Attempt| known.is(&exec.name, exec.attempt) && known.state.phase == RUNNING;
        let Some(attempt) = self.attempts.iter().find(running) else { return Some(not_running()) };
        let (Some(inside), Some(pod)) = (&attempt.handle, &self.pod) else { return Some(not_running()) };
        let mut streams = [None, None, None];
        if !exec.tty {
            for (stream, descriptor) in streams.iter_mut().zip(descriptors) {
                *stream = Some(descriptor);
            }
        }
        let process = Process {
            args: exec.args,
            tty: exec.tty,
            columns: exec.columns,
            rows: exec.rows,
            ..attempt.spec.process.clone()
        };
        let started = match pod.command(&attempt.spec, &process, inside.as_fd(), streams) {
            Ok(started) => started,
            Err(failure) => return Some(Response::Failed(failure)),
        };
        let serial = self.serial();
        let token = match self.poller.add(started.report.as_fd(), Source::CommandReport(serial), READABLE) {
            Ok(token) => token,
            Err(error) => return Some(Response::Failed(at(stage::FORK, "report")(error))),
        };
        self.commands.push(Command {
            serial,
            connection: id,
            number,
            pid: started.pid,
            handle: started.handle,
            birth: started.birth,
            report: Some((started.report, token)),
            terminal: None,
            failed: false,
            doomed: false,
        });
        None
    }

    fn exec_signal(&mut self, id: u32, signal: &ExecSignal) -> Response {
        let mine = |command: &&mut Command| command.connection == id && command.number == signal.exec;
        match self.commands.iter_mut().find(mine) {
            Some(command) if signal.group && signal.signal == libc::SIGKILL => {
                command.kill();
                Response::Done(())
            }
            Some(command) => done(
                process::signal(command.handle.as_fd(), signal.signal).map_err(at(stage::REQUEST, "signal")),
            ),
            None => not_running(),
        }
    }

    fn attach(
        &mut self,
        id: u32,
        number: u32,
        attach: &Attach,
        descriptors: Vec<OwnedFd>,
    ) -> Option<Response> {
        let serials = [self.serial(), self.serial()];
        let found =
            |known: &&mut Attempt| known.is(&attach.name, attach.attempt) && known.state.phase == RUNNING;
        let Some(attempt) = self.attempts.iter_mut().find(found) else { return Some(not_running()) };
        let input = match (&attempt.input, attach.input) {
            (_, false) => None,
            (None, true) => {
                return Some(refused(
                    reason::NOT_AVAILABLE,
                    "the container has no open input; start it with stdin",
                ));
            }
            // Then the container's input ends with whoever has this one.
            (Some(_), true) if attempt.spec.input_once => attempt.input.take(),
            (Some(input), true) => match input.try_clone() {
                Ok(copy) => Some(copy),
                Err(error) => return Some(Response::Failed(at(stage::REQUEST, "input")(error))),
            },
        };
        let wanted = [(attach.output, 0), (attach.errors, 1)].into_iter().filter(|(wanted, _)| *wanted);
        for ((_, stream), descriptor) in wanted.zip(descriptors) {
            if let Err(error) = attempt.attach(&mut self.poller, serials[stream], stream, descriptor) {
                return Some(Response::Failed(at(stage::REQUEST, "attach")(error)));
            }
        }
        self.answer(id, number, &Response::Attached(()), input.into_iter().collect());
        None
    }

    fn resize(&mut self, resize: &Resize) -> Response {
        let Some(attempt) = self.find_running(&resize.name, resize.attempt) else { return not_running() };
        let Some(terminal) = &attempt.terminal else {
            return refused(reason::NOT_AVAILABLE, "the container has no terminal; start it with tty");
        };
        done(io::set_size(terminal.as_fd(), resize.columns, resize.rows).map_err(at(stage::TERMINAL, "size")))
    }

    fn close_input(&mut self, target: &Target) -> Response {
        let Some(attempt) = self.find_running(&target.name, target.attempt) else { return not_running() };
        attempt.input = None;
        Response::Done(())
    }

    fn rotate_log(&mut self, target: &Target) -> Response {
        let Some(attempt) = self.find_running(&target.name, target.attempt) else { return not_running() };
        attempt.rotate_log();
        Response::Done(())
    }

    fn forget(&mut self, target: &Target) -> Response {
        let Some(index) = self.attempts.iter().position(|known| known.is(&target.name, target.attempt))
        else {
            return Response::Done(());
        };
        if self.attempts[index].state.phase < ENDED {
            return Response::Failed(refusal("the container still runs"));
        }
        self.attempts.swap_remove(index);
        let floor = self.floors.entry(target.name.clone()).or_default();
        *floor = (*floor).max(target.attempt.saturating_add(1));
        self.tell(&Response::Forgotten(target.clone()));
        Response::Done(())
    }
}

fn done(result: Result<(), Failure>) -> Response {
    match result {
        Ok(()) => Response::Done(()),
        Err(failure) => Response::Failed(failure),
    }
}

fn refusal(detail: &str) -> Failure {
    Failure { stage: stage::REQUEST, errno: libc::EBUSY, detail: detail.to_owned(), reason: reason::NONE }
}

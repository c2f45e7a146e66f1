//! The event loop, and what each path answers.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::connection::{Connection, Next};
use crate::json::Object;
use crate::request::Request;
use crate::settings::{Settings, is_on};
use crate::sys::{self, EINTR, EPOLLGONE, EPOLLIN, File, Poll, Ready};

/// Connections at a time; more wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 4096;
/// The longest datagram that is sent back, in bytes.
const DATAGRAM_MAX_BYTES: usize = 64 << 10;
const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
const DATAGRAMS: u64 = 2;
const FIRST_CONNECTION: u64 = 16;

struct Server<'a> {
    settings: &'a Settings,
    poll: Poll,
    listener: Option<File>,
    accepting: bool,
    signals: File,
    datagrams: Option<File>,
    connections: Vec<Option<Connection>>,
    open: usize,
    unhealthy: bool,
    unready: bool,
    /// Since when SIGTERM asks us to end, in milliseconds.
    drain_until: Option<u64>,
    exit_at: Option<u64>,
    /// Set by `/exit`: leave once the answer is out.
    leaving: Option<(i32, usize)>,
}

/// An answer before it is written.
struct Answer {
    status: u16,
    body: String,
    delay_ms: u64,
    exit: Option<i32>,
}

impl Answer {
    fn of(status: u16, body: String) -> Self {
        Self { status, body, delay_ms: 0, exit: None }
    }

    fn message(status: u16, message: &str) -> Self {
        Self::of(status, Object::new().text("message", message).finish())
    }
}

/// Serves until SIGTERM; returns the exit code.
pub fn serve(settings: &Settings) -> i32 {
    if settings.refuse_root && sys::is_root() {
        sys::print(
            2,
            "echo: refusing to run as root, as $ECHO_REFUSE_ROOT asks; set securityContext.runAsUser\n",
        );
        return 1;
    }
    match start(settings) {
        Ok(mut server) => {
            sys::print(1, &format!("echo {} listens on port {}\n", settings.version, settings.port));
            server.run()
        }
        Err(message) => {
            sys::print(2, &format!("echo: {message}\n"));
            1
        }
    }
}

fn start(settings: &Settings) -> Result<Server<'_>, String> {
    let failed =
        |what: &'static str| move |errno: sys::Errno| format!("{what} failed with error {}", errno.0);
    // Signals are blocked first, so that none that comes early is lost.
    let signals = sys::signals().map_err(failed("waiting for signals"))?;
    let listener = sys::listen(settings.port).map_err(|errno| {
        format!("port {} cannot be listened on (error {}); set $PORT", settings.port, errno.0)
    })?;
    let datagrams = match settings.udp_port {
        None => None,
        Some(port) => Some(sys::datagrams(port).map_err(|errno| {
            format!("UDP port {port} cannot be opened (error {}); set $ECHO_UDP", errno.0)
        })?),
    };
    let poll = Poll::new().map_err(failed("epoll"))?;
    poll.add(&listener, LISTENER, EPOLLIN).map_err(failed("epoll"))?;
    poll.add(&signals, SIGNALS, EPOLLIN).map_err(failed("epoll"))?;
    if let Some(file) = &datagrams {
        poll.add(file, DATAGRAMS, EPOLLIN).map_err(failed("epoll"))?;
    }
    if settings.eat_mb > 0 && !sys::eat(settings.eat_mb << 20) {
        return Err(format!("{} MiB of memory are not to be had", settings.eat_mb));
    }
    Ok(Server {
        settings,
        poll,
        listener: Some(listener),
        accepting: true,
        signals,
        datagrams,
        connections: Vec::new(),
        open: 0,
        unhealthy: settings.unhealthy,
        unready: settings.unready,
        drain_until: None,
        exit_at: settings.exit_after_ms.map(|after| sys::now_ms().saturating_add(after)),
        leaving: None,
    })
}

impl Server<'_> {
    fn run(&mut self) -> i32 {
        let mut ready: Vec<Ready> = Vec::new();
        loop {
            let timeout = self.timeout_ms();
            self.poll.wait(&mut ready, timeout);
            for event in &ready {
                match event.key {
                    LISTENER => self.accept(),
                    SIGNALS => {
                        if let Some(code) = self.signalled() {
                            return code;
                        }
                    }
                    DATAGRAMS => self.send_back(),
                    key => self.happened((key - FIRST_CONNECTION) as usize, event.events),
                }
                if let Some((code, _)) = self.leaving.filter(|(_, at)| self.is_out(*at)) {
                    return code;
                }
            }
            if let Some(code) = self.on_time() {
                return code;
            }
        }
    }

    /// Until the next thing that happens by itself.
    fn timeout_ms(&self) -> i32 {
        let held = self.connections.iter().flatten().filter_map(|connection| connection.delayed.as_ref());
        let drain = self.drain_until.filter(|_| self.listener.is_some());
        let first = held.map(|(until, _)| *until).chain(self.exit_at).chain(drain).min();
        first.map_or(-1, |at| i32::try_from(at.saturating_sub(sys::now_ms())).unwrap_or(i32::MAX))
    }

    fn on_time(&mut self) -> Option<i32> {
        let now = sys::now_ms();
        if self.exit_at.is_some_and(|at| at <= now) {
            return Some(self.settings.exit_code);
        }
        for at in 0..self.connections.len() {
            let Some(connection) = &mut self.connections[at] else { continue };
            if let Some((until, bytes)) = connection.delayed.take() {
                if until <= now {
                    connection.answer(&bytes, false);
                    self.advance(at, false);
                } else {
                    connection.delayed = Some((until, bytes));
                }
            }
        }
        if let Some((code, _)) = self.leaving.filter(|(_, at)| self.is_out(*at)) {
            return Some(code);
        }
        if self.drain_until.is_some_and(|until| until <= now) {
            self.end_accepting();
            if self.open == 0 {
                sys::print(1, "echo ends\n");
                return Some(0);
            }
        }
        None
    }

    /// After the drain: takes what has already been accepted by the kernel, then closes what is idle.
    fn end_accepting(&mut self) {
        if self.listener.is_some() {
            self.accept();
            self.listener = None;
            for at in 0..self.connections.len() {
                // A request that has just arrived is still answered.
                self.advance(at, true);
            }
        }
        for slot in &mut self.connections {
            if slot.as_ref().is_some_and(Connection::is_idle) {
                *slot = None;
                self.open -= 1;
            }
        }
    }

    fn signalled(&mut self) -> Option<i32> {
        let signal = sys::next_signal(&self.signals)?;
        if self.drain_until.is_some() || signal == sys::SIGINT {
            return Some(if signal == sys::SIGINT { 130 } else { 0 });
        }
        sys::print(1, "echo drains\n");
        self.drain_until = Some(sys::now_ms().saturating_add(self.settings.drain_ms));
        None
    }

    fn send_back(&self) {
        let Some(file) = &self.datagrams else { return };
        let mut buffer = alloc::vec![0_u8; DATAGRAM_MAX_BYTES];
        while let Ok((count, from)) = sys::receive_from(file, &mut buffer) {
            let _ = sys::send_to(file, &buffer[..count], &from);
        }
    }

    fn accept(&mut self) {
        while let Some(listener) = &self.listener {
            if self.open >= CONNECTIONS_MAX {
                break;
            }
            match sys::accept(listener) {
                Ok((file, peer)) => {
                    let at =
                        self.connections.iter().position(Option::is_none).unwrap_or(self.connections.len());
                    if self.poll.add(&file, FIRST_CONNECTION + at as u64, EPOLLIN).is_err() {
                        continue;
                    }
                    let connection = Some(Connection::new(file, peer));
                    match self.connections.get_mut(at) {
                        Some(slot) => *slot = connection,
                        None => self.connections.push(connection),
                    }
                    self.open += 1;
                }
                Err(EINTR) => {}
                Err(sys::EAGAIN) => return,
                // No files left: stop looking until a connection ends, or this loop would never sleep.
                Err(_) if self.open > 0 => break,
                Err(_) => return,
            }
        }
        self.watch_listener(false);
    }

    fn watch_listener(&mut self, watch: bool) {
        if let Some(listener) = &self.listener
            && self.accepting != watch
        {
            self.accepting = watch;
            let _ = self.poll.change(listener, LISTENER, if watch { EPOLLIN } else { 0 });
        }
    }

    fn close(&mut self, connection: Connection) {
        drop(connection);
        self.open -= 1;
        self.watch_listener(true);
    }

    fn happened(&mut self, at: usize, events: u32) {
        // A peer that is gone gets no answer, so nothing is held back for it.
        if events & EPOLLGONE != 0
            && let Some(connection) = self.connections.get_mut(at).and_then(Option::take)
        {
            return self.close(connection);
        }
        self.advance(at, events & EPOLLIN != 0);
    }

    /// Does all that a connection can do now.
    fn advance(&mut self, at: usize, readable: bool) {
        let Some(mut connection) = self.connections.get_mut(at).and_then(Option::take) else { return };
        if readable {
            connection.receive();
        }
        loop {
            match connection.next() {
                Next::Answer(request) => self.answer(at, &mut connection, &request),
                Next::Refuse(status) => {
                    let answer = Answer::message(status, reason(status));
                    connection.answer(&written(&answer, true, false), true);
                }
                Next::Wait => break,
                Next::Close => return self.close(connection),
            }
        }
        let wanted = connection.wanted();
        if wanted != connection.interest {
            connection.interest = wanted;
            let _ = self.poll.change(&connection.file, FIRST_CONNECTION + at as u64, wanted);
        }
        self.connections[at] = Some(connection);
    }

    fn answer(&mut self, at: usize, connection: &mut Connection, request: &Request) {
        let answer = self.decide(connection, request);
        let close = !request.keep_alive || self.drain_until.is_some() || answer.exit.is_some();
        let bytes = written(&answer, close, request.method == "HEAD");
        if self.settings.log_requests {
            let line =
                format!("{} {} {} {}\n", connection.peer.show(), request.method, request.path, answer.status);
            sys::print(1, &line);
        }
        if let Some(code) = answer.exit {
            self.leaving = Some((code, at));
        }
        match answer.delay_ms {
            0 => connection.answer(&bytes, close),
            delay => connection.hold_back(sys::now_ms().saturating_add(delay), bytes, close),
        }
    }

    fn is_out(&self, at: usize) -> bool {
        self.connections[at].as_ref().is_none_or(Connection::is_idle)
    }

    fn decide(&mut self, connection: &Connection, request: &Request) -> Answer {
        let number = |name: &str| request.parameter(name).map(str::parse::<u64>);
        let wrong = |name: &str| Answer::message(400, &format!("{name} must be a number"));
        match request.path.as_str() {
            "/healthz" => probe(!self.unhealthy),
            // Draining, we still serve but want no new clients.
            "/readyz" => probe(!self.unready && self.drain_until.is_none()),
            "/fail" => self.toggle(request),
            "/env" => {
                let members = sys::environment().into_iter();
                Answer::of(
                    200,
                    members.fold(Object::new(), |object, (key, value)| object.text(key, value)).finish(),
                )
            }
            "/headers" => Answer::of(200, headers(request)),
            "/exit" => match number("code").unwrap_or(Ok(1)) {
                Ok(code) => {
                    let answer = Answer::message(200, &format!("exiting with {}", code & 255));
                    Answer { exit: Some((code & 255) as i32), ..answer }
                }
                Err(_) => wrong("code"),
            },
            "/eat" => match number("mb").unwrap_or(Ok(1)) {
                Ok(mb) if mb < 1 << 24 => match sys::eat((mb as usize) << 20) {
                    true => Answer::message(200, &format!("ate {mb} MiB")),
                    false => Answer::message(507, &format!("{mb} MiB are not to be had")),
                },
                _ => wrong("mb"),
            },
            "/slow" => match number("ms").unwrap_or(Ok(self.settings.delay_ms.max(1000))) {
                Ok(delay_ms) => Answer { delay_ms, ..self.echo(connection, request) },
                Err(_) => wrong("ms"),
            },
            _ => Answer { delay_ms: self.settings.delay_ms, ..self.echo(connection, request) },
        }
    }

    fn echo(&self, connection: &Connection, request: &Request) -> Answer {
        let body = Object::new()
            .text("version", &self.settings.version)
            .text("pod", &self.settings.pod)
            .text("caller", &connection.peer.show())
            .text("method", &request.method)
            .text("path", &request.path)
            .text("query", &request.query)
            .text("host", request.header("host"));
        Answer::of(200, body.finish())
    }

    fn toggle(&mut self, request: &Request) -> Answer {
        if request.method != "POST" {
            return Answer::message(405, "use POST");
        }
        let on = is_on(request.parameter("on").unwrap_or("true"));
        match request.parameter("probe") {
            Some("liveness") => self.unhealthy = on,
            Some("readiness") => self.unready = on,
            _ => return Answer::message(400, "probe must be liveness or readiness"),
        }
        Answer::message(
            200,
            if on { "the probe fails from now on" } else { "the probe succeeds from now on" },
        )
    }
}

fn probe(well: bool) -> Answer {
    match well {
        true => Answer::message(200, "ok"),
        false => Answer::message(503, "failing as asked"),
    }
}

fn headers(request: &Request) -> String {
    let mut joined: Vec<(String, String)> = Vec::new();
    for (name, value) in &request.headers {
        match joined.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            Some((_, known)) => *known = format!("{known}, {value}"),
            None => joined.push((name.clone(), value.clone())),
        }
    }
    joined.iter().fold(Object::new(), |object, (name, value)| object.text(name, value)).finish()
}

fn written(answer: &Answer, close: bool, head_only: bool) -> Vec<u8> {
    let body = format!("{}\n", answer.body);
    let mut bytes = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{}\r\n",
        answer.status,
        reason(answer.status),
        body.len(),
        if close { "Connection: close\r\n" } else { "" },
    )
    .into_bytes();
    if !head_only {
        bytes.extend_from_slice(body.as_bytes());
    }
    bytes
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        405 => "Method Not Allowed",
        411 => "Length Required",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Error",
    }
}

//! A small HTTP server to try a cloud with, and two tools beside it: `get URL` and `sleep SECONDS`.
//!
//! It is freestanding: no libc and no thread, one event loop on epoll. So the image that holds it is a few dozen
//! kilobytes, a pod of it costs little memory, and nothing of the host's is inside.

#![no_std]
#![no_main]

extern crate alloc;

mod client;
mod connection;
mod json;
mod request;
mod server;
mod settings;
mod sys;

use alloc::format;
use alloc::vec::Vec;

const USAGE: &str = "usage: echo-server | get URL | sleep SECONDS

echo-server answers in JSON on $PORT (8080): version, pod, caller, method, path, host.
  /slow?ms=N       answers after N milliseconds ($ECHO_DELAY_MS delays every answer but the probes')
  /healthz /readyz fail with 503 if $ECHO_UNHEALTHY or $ECHO_UNREADY is set, or after
                   POST /fail?probe=liveness|readiness&on=true|false
  /exit?code=N     exits with N ($ECHO_EXIT_AFTER_MS and $ECHO_EXIT_CODE do so by time)
  /eat?mb=N        takes N MiB of memory and keeps them ($ECHO_EAT_MB at start)
  /env /headers    show the environment and the request's headers
  $ECHO_UDP        a port on which datagrams are sent back
  $ECHO_REFUSE_ROOT refuses to run as root; $ECHO_LOG_REQUESTS writes a line for each request
  $ECHO_DRAIN_MS   (200) how long new connections are taken after SIGTERM
";

/// What runs, by the name it was called with or by its first argument, as busybox does it.
fn run(arguments: &[&str]) -> i32 {
    let name = arguments.first().map_or("", |path| path.rsplit('/').next().unwrap_or(path));
    let (verb, rest) = match name {
        "get" | "sleep" => (name, &arguments[1..]),
        _ => match arguments.get(1) {
            Some(verb) => (*verb, &arguments[2..]),
            None => ("echo-server", &arguments[arguments.len().min(1)..]),
        },
    };
    match (verb, rest) {
        ("echo-server", []) => server::serve(&settings::Settings::read()),
        ("get", [url]) => client::get(url),
        ("sleep", [seconds]) => sleep(seconds),
        ("help" | "--help" | "-h", _) => {
            sys::print(1, USAGE);
            0
        }
        _ => {
            sys::print(2, USAGE);
            2
        }
    }
}

/// Sleeps, and ends at once on SIGTERM, which a first process of a container has to ask for.
fn sleep(text: &str) -> i32 {
    let milliseconds = match text {
        "infinity" => None,
        _ => match text.trim_end_matches('s').parse::<u64>() {
            Ok(seconds) => Some(seconds.saturating_mul(1000)),
            Err(_) => {
                sys::print(2, &format!("sleep: {text} is no number of seconds\n"));
                return 2;
            }
        },
    };
    let Ok(signals) = sys::signals() else { return 1 };
    let end = milliseconds.map(|milliseconds| sys::now_ms().saturating_add(milliseconds));
    loop {
        let left = end.map(|end| end.saturating_sub(sys::now_ms()));
        if left == Some(0) {
            return 0;
        }
        if sys::wait_readable(&signals, left.map_or(i32::MAX, |left| i32::try_from(left).unwrap_or(i32::MAX)))
        {
            return 143;
        }
    }
}

/// Called by the entry point in `sys`.
fn main(arguments: Vec<&'static str>) -> i32 {
    run(&arguments)
}

//! exec and attach: a client's streams, joined with a container's.

use std::time::Duration;

use api::json;
use api::status::Status;
use api::value::Value;
use base::{Clock, Stop};
use sandbox::{AttachSpec, Attempt, ExecSpec, Sandbox, WindowSize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tracing::debug;
use wire::query::Pairs;
use wire::streams::{Input, Output, RemoteCommand, Resizes, Size, Wanted};

/// How much is carried at once.
const PIECE_BYTES: usize = 32 << 10;
/// After a command has ended, its output is over once it was silent for this long: a process that it left behind
/// may hold the pipe open for ever.
const SILENCE: Duration = Duration::from_millis(500);
/// Before the client has told its size.
const FIRST_SIZE: WindowSize = WindowSize { columns: 80, rows: 24 };

/// Which streams a query asks for, in the kubelet's words and in the API's.
pub fn wanted(query: &Pairs<'_>) -> Wanted {
    let flag = |names: [&str; 2]| names.iter().any(|name| matches!(query.get(name), Some("1" | "true")));
    Wanted {
        stdin: flag(["input", "stdin"]),
        stdout: flag(["output", "stdout"]),
        stderr: flag(["error", "stderr"]),
        tty: flag(["tty", "tty"]),
    }
}

/// Runs a command for a client, and tells how it ended.
pub async fn exec(
    mut client: RemoteCommand,
    sandbox: Sandbox,
    attempt: Attempt,
    args: Vec<String>,
    wanted: Wanted,
    clock: Clock,
) {
    let gone = client.disconnected();
    let result = gone.or(run(&mut client, &sandbox, attempt, args, wanted, &clock)).await;
    match result {
        None => debug!(sandbox = sandbox.id(), "the client of a command went away"),
        Some(Ok(code)) => finish(client, exited(code)).await,
        Some(Err(why)) => finish(client, failed("error executing command in container", &why)).await,
    }
}

async fn run(
    client: &mut RemoteCommand,
    sandbox: &Sandbox,
    attempt: Attempt,
    args: Vec<String>,
    wanted: Wanted,
    clock: &Clock,
) -> Result<i32, String> {
    let spec = ExecSpec {
        attempt,
        args,
        terminal: wanted.tty.then_some(FIRST_SIZE),
        input: wanted.stdin,
        output: wanted.stdout || wanted.tty,
        errors: wanted.stderr && !wanted.tty,
    };
    let mut exec = sandbox.exec(spec).await.map_err(|error| base::with_causes(&error))?;
    let window = match (&exec.output, wanted.tty) {
        (Some(output), true) => output.try_clone().ok(),
        _ => None,
    };
    let over = base::Stopper::new();
    let ended = over.signal();
    let outputs = futures::future::join(
        carry_output(exec.output.take(), client.stdout.take(), &ended, clock),
        carry_output(exec.errors.take(), client.stderr.take(), &ended, clock),
    );
    let input = carry_input(client.stdin.take(), exec.input.take());
    let sizes = client.resizes.take();
    let resize = async {
        let Some((window, mut sizes)) = window.zip(sizes) else { return };
        while let Some(size) = sizes.next().await {
            if let Err(error) = window.resize(window_size(size)) {
                debug!(%error, "a terminal cannot be resized");
            }
        }
    };
    let end = async {
        let exit = exec.ended().await;
        over.stop();
        exit
    };
    // Input and sizes may go on for ever; the command decides when it is over.
    let aside = async {
        tokio::join!(resize, input);
        std::future::pending::<std::convert::Infallible>().await
    };
    let exit = tokio::select! {
        (exit, _) = async { tokio::join!(end, outputs) } => exit,
        never = aside => match never {},
    };
    Ok(exit.map_err(|error| base::with_causes(&error))?.code)
}

/// Takes part in a container's streams until it ends or the client leaves.
pub async fn attach(
    mut client: RemoteCommand,
    sandbox: Sandbox,
    attempt: Attempt,
    wanted: Wanted,
    clock: Clock,
) {
    let gone = client.disconnected();
    let result = gone.or(join(&mut client, &sandbox, &attempt, wanted, &clock)).await;
    match result {
        None => debug!(sandbox = sandbox.id(), "the client of an attachment went away"),
        Some(Ok(())) => finish(client, success()).await,
        Some(Err(why)) => finish(client, failed("error attaching to container", &why)).await,
    }
}

async fn join(
    client: &mut RemoteCommand,
    sandbox: &Sandbox,
    attempt: &Attempt,
    wanted: Wanted,
    clock: &Clock,
) -> Result<(), String> {
    let spec = AttachSpec {
        attempt: attempt.clone(),
        input: wanted.stdin,
        output: wanted.stdout,
        errors: wanted.stderr && !wanted.tty,
    };
    let mut attached = sandbox.attach(spec).await.map_err(|error| base::with_causes(&error))?;
    let over = base::Stopper::new();
    let ended = over.signal();
    let outputs = futures::future::join(
        carry_output(attached.output.take(), client.stdout.take(), &ended, clock),
        carry_output(attached.errors.take(), client.stderr.take(), &ended, clock),
    );
    let end = async {
        let running = |state: &sandbox::State| {
            !state.lost && state.get(attempt).is_some_and(sandbox::ContainerState::is_running)
        };
        let mut states = sandbox.watch();
        // An error means that the sandbox is gone, and the container with it.
        let _ = states.wait_for(|state| !running(state)).await;
        over.stop();
    };
    let resize = resize_container(client.resizes.take(), sandbox, attempt);
    let input = carry_input(client.stdin.take(), attached.input.take());
    let aside = async {
        tokio::join!(resize, input);
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        _ = async { tokio::join!(end, outputs) } => Ok(()),
        never = aside => match never {},
    }
}

async fn resize_container(sizes: Option<Resizes>, sandbox: &Sandbox, attempt: &Attempt) {
    let Some(mut sizes) = sizes else { return };
    while let Some(size) = sizes.next().await {
        if let Err(error) = sandbox.resize(attempt, window_size(size)).await {
            debug!(%error, "a terminal cannot be resized");
        }
    }
}

fn window_size(size: Size) -> WindowSize {
    WindowSize { columns: size.width, rows: size.height }
}

/// Carries what the client types until it stops typing; then the program sees the end of its input.
async fn carry_input(from: Option<Input>, to: Option<impl AsyncWrite + Unpin>) {
    let Some((mut from, mut to)) = from.zip(to) else { return };
    // Either side may go away; the other then sees the end.
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

/// Carries what a program prints until it has ended and has nothing more to say. A client that reads slowly loses
/// nothing: only silence of the program counts.
async fn carry_output(from: Option<impl AsyncRead + Unpin>, to: Option<Output>, ended: &Stop, clock: &Clock) {
    let Some((mut from, mut to)) = from.zip(to) else { return };
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let silence = async {
            ended.stopped().await;
            clock.sleep(SILENCE).await;
        };
        let read = tokio::select! {
            biased;
            read = from.read(&mut piece) => read,
            () = silence => return,
        };
        match read {
            Ok(count @ 1..) => {
                if to.write_all(&piece[..count]).await.is_err() || to.flush().await.is_err() {
                    return;
                }
            }
            Ok(0) | Err(_) => return,
        }
    }
}

async fn finish(client: RemoteCommand, status: Value) {
    let failure = status.str_at(&["message"]).map(str::to_owned);
    client.finish(status.to_bytes().into(), failure.as_deref()).await;
}

fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

/// The status by which clients learn an exit code (remotecommand, version 4).
fn exited(code: i32) -> Value {
    if code == 0 {
        return success();
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "message": (format!("command terminated with non-zero exit code: exit status {code}")),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": (code.to_string())}]}
    })
}

fn failed(what: &str, why: &str) -> Value {
    Status::internal(format_args!("{what}: {why}")).to_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_told_as_clients_read_them() {
        assert_eq!(exited(0).to_string(), r#"{"metadata":{},"status":"Success"}"#);
        let status = exited(42);
        let cause = &status.array_at(&["details", "causes"])[0];
        assert_eq!((cause.str_at(&["reason"]), cause.str_at(&["message"])), (Some("ExitCode"), Some("42")));
        assert_eq!(status.str_at(&["reason"]), Some("NonZeroExitCode"));
        assert_eq!(failed("a", "b").str_at(&["message"]), Some("Internal error occurred: a: b"));
    }

    #[test]
    fn streams_are_asked_for_in_both_vocabularies() {
        let of = |query| wanted(&Pairs::parse(Some(query)).unwrap());
        let all = Wanted { stdin: true, stdout: true, stderr: true, tty: true };
        assert_eq!(of("input=1&output=1&error=1&tty=1"), all);
        assert_eq!(of("stdin=true&stdout=true&stderr=true&tty=true"), all);
        assert_eq!(of("output=0&command=x"), Wanted::default());
    }

    #[tokio::test(start_paused = true)]
    async fn output_is_over_when_the_program_has_ended_and_is_silent() {
        let clock = Clock::simulated(jiff::Timestamp::UNIX_EPOCH);
        let (mut program, pipe) = tokio::io::duplex(64);
        let (client, mut screen) = tokio::io::duplex(64);
        let ended = base::Stopper::new();
        program.write_all(b"late words").await.unwrap();
        ended.stop();
        // The program's end of the pipe stays open: a child of it holds it.
        carry_output(Some(pipe), Some(Box::new(client) as Output), &ended.signal(), &clock).await;
        let mut seen = String::new();
        screen.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, "late words");
        drop(program);
    }
}

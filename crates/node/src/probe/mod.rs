//! Probes and hooks: asking a container how it is, and telling it what happens.

mod grpc;
mod http;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sandbox::{Attempt, ExecSpec, Sandbox};
use tokio::io::AsyncReadExt;
use tracing::debug;

use base::Clock;

/// How much of an answer is kept for the event.
const ANSWER_BYTES: usize = 10 * 1024;

/// Where the container is.
pub struct Place<'a> {
    /// Its sandbox.
    pub sandbox: &'a Sandbox,
    /// Which attempt.
    pub attempt: &'a Attempt,
    /// The container, for its ports' names.
    pub container: &'a core::Container,
    /// The pod's address.
    pub ip: Option<IpAddr>,
}

/// One thing to ask or tell.
#[derive(Clone, Debug)]
pub enum Action {
    /// Runs a command in the container; zero is well.
    Exec(Vec<String>),
    /// Asks a path; 200 to 399 is well.
    Http(core::HTTPGetAction),
    /// Tells by asking a path; any answer is well.
    HttpTell(core::HTTPGetAction),
    /// Connects to a port.
    Tcp(core::TCPSocketAction),
    /// Asks a gRPC server how it is; SERVING is well.
    Grpc {
        /// Where, at the pod's address.
        port: i32,
        /// What is asked for; empty for the server as a whole.
        service: String,
    },
    /// Waits.
    Sleep(Duration),
}

/// How it went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl Action {
    /// What a probe does; `None` for a sort that this node does not know.
    pub fn of_probe(probe: &core::Probe) -> Option<Self> {
        if let Some(exec) = &probe.exec {
            Some(Self::Exec(exec.command.clone().unwrap_or_default()))
        } else if let Some(http) = &probe.http_get {
            Some(Self::Http(http.clone()))
        } else if let Some(grpc) = &probe.grpc {
            Some(Self::Grpc { port: grpc.port, service: grpc.service.clone().unwrap_or_default() })
        } else {
            probe.tcp_socket.as_ref().map(|tcp| Self::Tcp(tcp.clone()))
        }
    }

    /// What a hook does; `None` for a sort that this node does not know.
    pub fn of_hook(hook: &core::LifecycleHandler) -> Option<Self> {
        if let Some(exec) = &hook.exec {
            Some(Self::Exec(exec.command.clone().unwrap_or_default()))
        } else if let Some(http) = &hook.http_get {
            Some(Self::HttpTell(http.clone()))
        } else if let Some(tcp) = &hook.tcp_socket {
            Some(Self::Tcp(tcp.clone()))
        } else {
            let sleep = hook.sleep.as_ref()?;
            Some(Self::Sleep(Duration::from_secs(sleep.seconds.unsigned_abs())))
        }
    }

    /// Does it, within `timeout`.
    pub async fn run(&self, place: &Place<'_>, clock: &Clock, timeout: Duration) -> Result<(), Failure> {
        let seconds = timeout.as_secs();
        if let Self::Exec(command) = self {
            let result = exec(place, command, clock, timeout).await;
            return result.unwrap_or_else(|| Err(Failure(format!("command timed out after {seconds}s"))));
        }
        match clock.timeout(timeout, self.run_unbounded(place, clock)).await {
            Some(result) => result,
            None if matches!(self, Self::Grpc { .. }) => {
                Err(Failure(format!("timeout: health rpc did not complete within {seconds}s")))
            }
            None => Err(Failure(
                "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned(),
            )),
        }
    }

    async fn run_unbounded(&self, place: &Place<'_>, clock: &Clock) -> Result<(), Failure> {
        match self {
            Self::Exec(command) => exec(place, command, clock, Duration::MAX).await.unwrap_or(Ok(())),
            Self::Http(action) => {
                let port = port(&action.port, place.container)?;
                http::get(action, host(action.host.as_deref(), place)?, port).await
            }
            Self::HttpTell(action) => {
                let port = port(&action.port, place.container)?;
                http::tell(action, host(action.host.as_deref(), place)?, port).await
            }
            Self::Tcp(action) => {
                let (host, port) =
                    (host(action.host.as_deref(), place)?, port(&action.port, place.container)?);
                let connected = tokio::net::TcpStream::connect((host.as_str(), port)).await;
                connected.map(drop).map_err(|error| Failure(format!("dial tcp {host}:{port}: {error}")))
            }
            Self::Grpc { port: number, service } => {
                let port = port(&IntOrString::Int(*number), place.container)?;
                grpc::check(&host(None, place)?, port, service).await
            }
            Self::Sleep(duration) => {
                clock.sleep(*duration).await;
                Ok(())
            }
        }
    }
}

fn host(given: Option<&str>, place: &Place<'_>) -> Result<String, Failure> {
    match given.filter(|host| !host.is_empty()) {
        Some(host) => Ok(host.to_owned()),
        None => {
            place.ip.map(|ip| ip.to_string()).ok_or_else(|| Failure("the pod has no address yet".to_owned()))
        }
    }
}

fn port(port: &IntOrString, container: &core::Container) -> Result<u16, Failure> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port);
            named.or_else(|| name.parse().ok())
        }
    };
    let valid = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    valid.ok_or_else(|| Failure(format!("invalid port: {port:?}")))
}

/// Runs a command to its end; `None` if that does not come in time. Then it is killed with all that it has started, or
/// a probe that hangs would leave a process each time.
async fn exec(
    place: &Place<'_>,
    command: &[String],
    clock: &Clock,
    timeout: Duration,
) -> Option<Result<(), Failure>> {
    let began = clock.monotonic();
    let spec = ExecSpec {
        attempt: place.attempt.clone(),
        args: command.to_vec(),
        terminal: None,
        input: false,
        output: true,
        errors: true,
    };
    let mut running = match clock.timeout(timeout, place.sandbox.exec(spec)).await? {
        Ok(running) => running,
        Err(error) => return Some(Err(Failure(error.to_string()))),
    };
    let (mut answer, mut errors) = (Vec::new(), Vec::new());
    let (output, error_output) = (running.output.take(), running.errors.take());
    let conversation = async {
        futures::join!(running.ended(), read(output, &mut answer), read(error_output, &mut errors)).0
    };
    let left = timeout.saturating_sub(clock.monotonic().saturating_sub(began));
    let Some(ended) = clock.timeout(left, conversation).await else {
        if let Err(error) = running.kill().await {
            debug!(container = %place.attempt, %error, "a command that took too long could not be killed");
        }
        return None;
    };
    Some(match ended {
        Err(error) => Err(Failure(error.to_string())),
        Ok(exit) if exit.code == 0 => Ok(()),
        Ok(_) => {
            answer.extend(errors);
            Err(Failure(String::from_utf8_lossy(&answer).trim_end().to_owned()))
        }
    })
}

/// Reads to the end, as a command whose words nobody takes would end by that; what is beyond the limit is dropped.
async fn read(stream: Option<sandbox::Stream>, into: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let _ = (&mut stream).take(ANSWER_BYTES as u64).read_to_end(into).await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

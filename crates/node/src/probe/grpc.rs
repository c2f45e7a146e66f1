//! The one call of a gRPC probe: `grpc.health.v1.Health/Check`, over HTTP/2 without TLS.
//!
//! A request and an answer with one field each need no library of protocol buffers: what is written and read of them
//! is here (gRPC over HTTP/2, and the encoding of protocol buffers, are published specifications).

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use futures::channel::mpsc;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{ANSWER_BYTES, Failure};

const METHOD: &str = "/grpc.health.v1.Health/Check";
/// A frame begins with one byte (compressed or not) and the length of its message.
const FRAME_HEADER_BYTES: usize = 5;
/// `HealthCheckRequest.service`: field 1, bytes.
const TAG_SERVICE: u8 = 0x0a;
/// `HealthCheckResponse.status`: field 1, a number.
const FIELD_STATUS: u64 = 1;
/// Names of `HealthCheckResponse.ServingStatus`.
const SERVING: u64 = 1;
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const CODE_OK: usize = 0;
const CODE_UNKNOWN: usize = 2;
const CODE_UNIMPLEMENTED: usize = 12;
/// Names of gRPC's status codes, at their numbers.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Asks whether `service` (empty for the server as a whole) serves, and judges the answer in upstream's words.
pub async fn check(host: &str, port: u16, service: &str) -> Result<(), Failure> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let address = format!("{host}:{port}");
    let unreachable = |error: &dyn std::fmt::Display| {
        Failure(format!("error: failed to connect service at {address:?}: {error}"))
    };
    let stream = TcpStream::connect(&address).await.map_err(|error| unreachable(&error))?;
    let request = http::Request::post(format!("http://{address}{METHOD}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.37")
        .body(Full::new(question(service)))
        .map_err(|error| unreachable(&error))?;
    let (spawner, spawned) = mpsc::unbounded();
    let asked = async {
        let io = TokioIo::new(stream);
        let connected = hyper::client::conn::http2::handshake(Beside(spawner), io).await;
        let (mut sender, connection) = connected.map_err(|error| unreachable(&error))?;
        let answer = async move {
            let broken = |error: &dyn std::fmt::Display| call_failed(CODE_UNKNOWN, &error.to_string());
            let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_BYTES).collect().await.map_err(|error| broken(&*error))?;
            let trailers = body.trailers().cloned().unwrap_or_default();
            judge(head.status, &head.headers, &trailers, &body.to_bytes())
        };
        // The connection ends when who asks lets go of it.
        futures::join!(answer, connection).0
    };
    // What the connection has to do beside the request is done here, and ends with it.
    tokio::select! {
        judged = asked => judged,
        () = spawned.for_each_concurrent(None, |task| task) => Err(call_failed(CODE_UNKNOWN, "the connection was closed")),
    }
}

/// Gives what hyper wants to run beside a request to the task that makes the request.
#[derive(Clone)]
struct Beside(mpsc::UnboundedSender<BoxFuture<'static, ()>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Beside {
    fn execute(&self, task: F) {
        // Nobody listens any more once the request is over; then there is nothing left to run either.
        let _ = self.0.unbounded_send(Box::pin(task));
    }
}

/// The framed request.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(TAG_SERVICE);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8(length as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(FRAME_HEADER_BYTES + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    frame.freeze()
}

fn judge(
    status: http::StatusCode,
    headers: &http::HeaderMap,
    trailers: &http::HeaderMap,
    body: &[u8],
) -> Result<(), Failure> {
    if status != http::StatusCode::OK {
        let message = format!("unexpected HTTP status code received from server: {status}");
        return Err(call_failed(CODE_UNKNOWN, &message));
    }
    // An error alone comes in the headers, everything else behind the message.
    let field = |name: &str| trailers.get(name).or_else(|| headers.get(name))?.to_str().ok();
    let message = percent_decoded(field("grpc-message").unwrap_or_default());
    match field("grpc-status").and_then(|code| code.parse::<usize>().ok()) {
        Some(CODE_OK) => {}
        Some(CODE_UNIMPLEMENTED) => {
            return Err(Failure(format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
            )));
        }
        Some(code) => return Err(call_failed(code, &message)),
        None => {
            return Err(call_failed(CODE_UNKNOWN, "the server is no gRPC server: its answer has no status"));
        }
    }
    match serving_status(body) {
        Some(SERVING) => Ok(()),
        Some(other) => {
            let name = usize::try_from(other).ok().and_then(|other| STATUSES.get(other));
            let name = name.map_or_else(|| other.to_string(), |name| (*name).to_owned());
            Err(Failure(format!("service unhealthy (responded with {name:?})")))
        }
        None => Err(call_failed(CODE_UNKNOWN, "the answer cannot be read")),
    }
}

/// gRPC sends its messages percent-encoded.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        match after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(b'%');
                rest = after;
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

fn call_failed(code: usize, message: &str) -> Failure {
    let name = CODES.get(code).map_or_else(|| format!("Code({code})"), |name| (*name).to_owned());
    Failure(format!("error: health rpc probe failed: rpc error: code = {name} desc = {message}"))
}

/// The status in a framed answer; absent means 0, as always in protocol buffers. `None` for what is no answer.
fn serving_status(frame: &[u8]) -> Option<u64> {
    let (header, message) = frame.split_at_checked(FRAME_HEADER_BYTES)?;
    let (&[compressed], length) = header.split_at_checked(1)? else { return None };
    let length = u32::from_be_bytes(length.try_into().ok()?);
    let mut rest = message.get(..usize::try_from(length).ok()?)?;
    if compressed != 0 {
        return None;
    }
    let mut status = 0;
    while !rest.is_empty() {
        let tag = number(&mut rest)?;
        match (tag >> 3, tag & 7) {
            (FIELD_STATUS, 0) => status = number(&mut rest)?,
            // Fields that are younger than we are.
            (_, 0) => _ = number(&mut rest)?,
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(number(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

/// A number of variable length: seven bits a byte, the lowest first.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, more) = rest.split_first()?;
        *rest = more;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_question_names_the_service() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("ab")[..], [0, 0, 0, 0, 4, 10, 2, b'a', b'b']);
        let long = question(&"x".repeat(300));
        assert_eq!(long[5..8], [10, 0xac, 2]);
        assert_eq!(long.len(), 5 + 3 + 300);
    }

    #[test]
    fn the_status_is_found_among_other_fields() {
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(serving_status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(
            serving_status(&[0, 0, 0, 0, 9, 18, 1, 9, 8, 3, 37, 1, 2, 3, 4]),
            None,
            "longer than said"
        );
        assert_eq!(serving_status(&[0, 0, 0, 0, 10, 18, 1, 9, 8, 3, 37, 1, 2, 3, 4]), Some(3));
        assert_eq!(serving_status(&[1, 0, 0, 0, 2, 8, 1]), None, "compressed, which nobody asked for");
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8]), None);
    }

    #[test]
    fn messages_are_percent_decoded() {
        assert_eq!(percent_decoded("a%20b%25 50% %zz"), "a b% 50% %zz");
    }

    proptest! {
        #[test]
        fn no_answer_of_a_stranger_breaks_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = serving_status(&bytes);
            let _ = percent_decoded(&String::from_utf8_lossy(&bytes));
            let mut framed = vec![0, 0, 0, 0, bytes.len() as u8];
            framed.extend(bytes);
            let _ = serving_status(&framed);
        }
    }
}

//! One question to the cluster's name server, as a pod would ask it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use base::Clock;
use tokio::net::UdpSocket;

/// How long one answer is waited for: what is lost while the server is dead never comes.
const ANSWER: Duration = Duration::from_millis(100);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(5);

/// Asks for the address of `name` until it is answered with one, at most `within`; says whether it was.
pub async fn resolves(server: IpAddr, name: &str, within: Duration, clock: &Clock) -> bool {
    let asking = async {
        while !matches!(clock.timeout(ANSWER, ask(server, name)).await, Some(Ok(true))) {
            clock.sleep(PAUSE).await;
        }
    };
    clock.timeout(within, asking).await.is_some()
}

async fn ask(server: IpAddr, name: &str) -> Result<bool> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(SocketAddr::new(server, 53)).await?;
    socket.send(&question(name)?).await?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).await?;
    Ok(has_address(&answer[..length]))
}

/// A question for an A record (RFC 1035, section 4).
fn question(name: &str) -> Result<Vec<u8>> {
    // An id, recursion desired, one question.
    let mut message = vec![0x0d, 0x01, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        message.push(u8::try_from(label.len()).ok().filter(|length| *length < 64).context("a long label")?);
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    Ok(message)
}

/// Whether a message is an answer without an error and with a record.
fn has_address(message: &[u8]) -> bool {
    matches!(message, [0x0d, 0x01, flags, code, _, _, high, low, ..]
        if flags & 0x80 != 0 && code & 0x0f == 0 && (*high, *low) != (0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_written_as_labels() {
        let message = question("a.bc").unwrap();
        assert_eq!(&message[12..], [1, b'a', 2, b'b', b'c', 0, 0, 1, 0, 1]);
        assert!(question(&"x".repeat(64)).is_err());
    }

    #[test]
    fn an_answer_with_an_error_or_without_a_record_is_none() {
        assert!(has_address(&[0x0d, 1, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]));
        assert!(!has_address(&[0x0d, 1, 0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0]));
        assert!(!has_address(&[0x0d, 1, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]));
        assert!(!has_address(&[]));
    }
}

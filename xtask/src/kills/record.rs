//! What the recording client has seen.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::{Clock, Random, Stop};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Fivefold of what the slowest answer may take; a lost packet comes again after one second.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two requests of one asker.
const PAUSE: Duration = Duration::from_millis(8);
/// Faults that are told one by one; the others are counted.
const TOLD: usize = 20;

/// Shared by all who load the house.
#[derive(Default)]
pub struct Record {
    /// Writes that the server has acknowledged.
    pub acknowledged: AtomicU64,
    /// Writes whose outcome had to be looked up.
    pub unsure: AtomicU64,
    /// Acknowledged writes that were not there when they were looked for.
    pub lost: AtomicU64,
    /// Requests to pods, answered or not.
    pub requests: AtomicU64,
    /// Those that were not answered, or not well.
    pub failed: AtomicU64,
    faults: Mutex<Vec<String>>,
    times: Mutex<Times>,
}

/// How long things took.
#[derive(Default)]
pub struct Times {
    /// From the restart to the first name that resolves.
    pub names: Vec<Duration>,
    /// From the kill of a pod process to the end of its containers.
    pub ends: Vec<Duration>,
    /// From the kill of a pod process to the pod's being Ready again.
    pub revivals: Vec<Duration>,
}

impl Record {
    /// Something that must not happen.
    pub fn fault(&self, what: String) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.len() < TOLD {
            println!("FAULT {what}");
        }
        faults.push(what);
    }

    /// An acknowledged write that is lost.
    pub fn lose(&self, what: String) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.fault(what);
    }

    /// A request to a pod that failed.
    fn fail(&self, what: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.fault(what);
    }

    /// How many faults there were.
    pub fn faults(&self) -> usize {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Durations, to add to and to read.
    pub fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Median and longest, as text.
pub fn spread(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    match sorted.last() {
        None => "never".to_owned(),
        Some(longest) => {
            let half = sorted[sorted.len() / 2].as_millis();
            format!("{} times, p50 {half} ms, longest {} ms", sorted.len(), longest.as_millis())
        }
    }
}

/// Asks one of `targets` after another, each time on a new connection, until `stop`.
pub async fn ask(record: &Record, targets: &[SocketAddr], clock: &Clock, random: &Random, stop: &Stop) {
    while stop.or(clock.sleep(PAUSE)).await.is_some() {
        let target = targets[random.below(targets.len() as u64) as usize];
        let began = clock.now();
        record.requests.fetch_add(1, Ordering::Relaxed);
        match clock.timeout(ANSWER, once(target)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => record.fail(format!("{began}: a request to {target} failed: {error}")),
            None => record.fail(format!("{began}: a request to {target} had no answer in {ANSWER:?}")),
        }
    }
}

/// Asks `target` again and again on one connection, until `stop`.
pub async fn hold(record: &Record, target: SocketAddr, clock: &Clock, stop: &Stop) {
    let mut connection = None;
    while stop.or(clock.sleep(PAUSE)).await.is_some() {
        let began = clock.now();
        record.requests.fetch_add(1, Ordering::Relaxed);
        match clock.timeout(ANSWER, again(target, &mut connection)).await {
            Some(Ok(())) => continue,
            Some(Err(error)) => {
                record.fail(format!(
                    "{began}: a request on the lasting connection to {target} failed: {error}"
                ));
            }
            None => record.fail(format!("{began}: the lasting connection to {target} hangs")),
        }
        connection = None;
    }
}

async fn once(target: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: kills\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    good(&answer)
}

async fn again(target: SocketAddr, connection: &mut Option<TcpStream>) -> std::io::Result<()> {
    let stream = match connection {
        Some(stream) => stream,
        None => connection.insert(TcpStream::connect(target).await?),
    };
    stream.write_all(b"GET / HTTP/1.1\r\nHost: kills\r\n\r\n").await?;
    let mut answer = vec![0; 4096];
    let mut length = 0;
    loop {
        let read = stream.read(&mut answer[length..]).await?;
        if read == 0 {
            return Err(std::io::Error::other("the connection was closed"));
        }
        length += read;
        // The body is one document in braces.
        if answer[..length].trim_ascii_end().ends_with(b"}") {
            return good(&answer[..length]);
        }
    }
}

fn good(answer: &[u8]) -> std::io::Result<()> {
    if answer.starts_with(b"HTTP/1.1 200") {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&answer[..answer.len().min(80)]).into_owned();
    Err(std::io::Error::other(format!("the answer is {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_names_the_median_and_the_longest() {
        let times: Vec<Duration> = [30, 10, 20].map(Duration::from_millis).to_vec();
        assert_eq!(spread(&times), "3 times, p50 20 ms, longest 30 ms");
        assert_eq!(spread(&[]), "never");
    }

    #[test]
    fn only_a_good_answer_is_good() {
        assert!(good(b"HTTP/1.1 200 OK\r\n\r\n{}").is_ok());
        assert!(good(b"HTTP/1.1 503 no\r\n\r\n").is_err());
        assert!(good(b"").is_err());
    }
}

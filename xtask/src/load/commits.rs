//! Durable commits: ConfigMaps through our gate over HTTPS, and puts of the same size into etcd over gRPC.
//!
//! Both sides have the same client ([`super::frames`]), with as many connections and writers; it speaks TLS with ours.
//! They take turns, so that whatever else the machine does meets both. At the end the stored objects are counted:
//! there must be as many as were answered.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base::Clock;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::try_join_all;
use http::Request;
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::frames::{Connection, Head};
use super::peer::{self, Peer, Processes};
use crate::project::Project;

/// Writers at the same time, and how many connections they share.
const WRITERS: u64 = 128;
const CONNECTIONS: u64 = 8;
/// Bytes of a value.
const VALUE_BYTES: usize = 2048;
/// Digits of the numbers in names.
const NUMBER_DIGITS: usize = 9;
/// Where our objects are made, and how etcd's keys begin.
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const KEYS: &str = "/registry/entries/default/entry-";
/// Turns of each side, and how long one lasts.
const TURNS: usize = 4;
const TURN: Duration = Duration::from_secs(2);

/// What one side has done so far.
#[derive(Default)]
struct Sum {
    done: u64,
    seconds: f64,
    cpu: f64,
}

impl Sum {
    fn per_second(&self) -> f64 {
        self.done as f64 / self.seconds
    }

    fn per_cpu_second(&self) -> f64 {
        self.done as f64 / self.cpu.max(0.01)
    }
}

/// Measures both and returns what is to be recorded.
pub async fn measure(project: &Project, clock: &Clock) -> Result<String> {
    let gate = peer::ondol(project)?;
    gate.get_ready(clock).await?;
    let (etcd, address) = peer::etcd(project)?;
    let (mut to_gate, mut to_etcd) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        let head_of_maps = head("https", CONFIG_MAPS, "application/json");
        to_gate.push(Connection::open(gate.dial_multiplexed().await?, head_of_maps).await?);
        let head_of_puts = head("http", "/etcdserverpb.KV/Put", "application/grpc");
        to_etcd.push(Connection::open(reach(address, clock).await?, head_of_puts).await?);
    }
    let there = config_maps(&gate).await?;
    let (mut ours, mut theirs) = (Sum::default(), Sum::default());
    let (maps, puts) = (Bodies::config_maps(), Bodies::puts()?);
    for _ in 0..TURNS {
        turn(clock, gate.processes(), &mut to_gate, &mut ours, &maps).await?;
        turn(clock, &etcd, &mut to_etcd, &mut theirs, &puts).await?;
    }
    let stored = config_maps(&gate).await? - there;
    ensure!(stored == ours.done, "{} ConfigMaps were answered, {stored} are stored", ours.done);
    let stored = entries(reach(address, clock).await?).await?;
    ensure!(stored == theirs.done, "{} puts were answered, {stored} are stored", theirs.done);
    Ok(format!(
        "Durable commits of {VALUE_BYTES} bytes by {WRITERS} writers on {CONNECTIONS} connections, in turns:\n\n\
         | what | per s | per s of its CPU |\n|---|---|---|\n\
         | ConfigMaps through Ondol's gate, HTTPS | {:.0} | {:.0} |\n\
         | etcd, gRPC without TLS | {:.0} | {:.0} |\n\
         | ratio | {:.2} | {:.2} |\n\n",
        ours.per_second(),
        ours.per_cpu_second(),
        theirs.per_second(),
        theirs.per_cpu_second(),
        ours.per_second() / theirs.per_second(),
        ours.per_cpu_second() / theirs.per_cpu_second()
    ))
}

/// The head of a write. gRPC asks for `te`, and ours does not mind it.
fn head(scheme: &str, path: &str, content: &str) -> Head {
    Head::new(&[
        (":method", "POST"),
        (":scheme", scheme),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", content),
        ("te", "trailers"),
    ])
}

async fn reach(address: SocketAddr, clock: &Clock) -> Result<TcpStream> {
    let reached = async {
        loop {
            match TcpStream::connect(address).await {
                Ok(stream) => return stream,
                Err(_) => clock.sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let stream = clock.timeout(Duration::from_secs(30), reached).await.context("etcd does not listen")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn turn<I: AsyncRead + AsyncWrite + Unpin>(
    clock: &Clock,
    processes: &Processes,
    connections: &mut [Connection<I>],
    sum: &mut Sum,
    bodies: &Bodies,
) -> Result<()> {
    let (began, before) = (clock.monotonic(), processes.spent()?);
    let runs = || clock.monotonic() - began < TURN;
    let each = WRITERS / CONNECTIONS;
    let work = connections.iter_mut().map(|connection| connection.load(each, |out| bodies.next(out), runs));
    sum.done += try_join_all(work).await?.into_iter().sum::<u64>();
    sum.seconds += (clock.monotonic() - began).as_secs_f64();
    sum.cpu += processes.spent()? - before;
    Ok(())
}

/// Bodies that differ in a number.
struct Bodies {
    before: Vec<u8>,
    behind: Vec<u8>,
    number: Cell<u64>,
}

impl Bodies {
    fn new(before: Vec<u8>, behind: Vec<u8>) -> Self {
        Self { before, behind, number: Cell::new(0) }
    }

    fn config_maps() -> Self {
        let before = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"entry-"#.to_vec();
        let behind = format!(r#""}},"data":{{"value":"{}"}}}}"#, "v".repeat(VALUE_BYTES));
        Self::new(before, behind.into_bytes())
    }

    /// Messages of `etcdserverpb.KV/Put` (etcd's `rpc.proto`: field 1 is the key, 2 the value) in gRPC's framing.
    fn puts() -> Result<Self> {
        let (mut key, mut value) = (BytesMut::new(), BytesMut::new());
        field(1, KEYS.len() + NUMBER_DIGITS, &mut key);
        key.put_slice(KEYS.as_bytes());
        field(2, VALUE_BYTES, &mut value);
        value.put_bytes(b'v', VALUE_BYTES);
        let mut before = framed(key.len() + NUMBER_DIGITS + value.len())?;
        before.put_slice(&key);
        Ok(Self::new(before.to_vec(), value.to_vec()))
    }

    fn next(&self, out: &mut Vec<u8>) {
        let number = self.number.replace(self.number.get() + 1);
        out.extend_from_slice(&self.before);
        out.extend_from_slice(format!("{number:0NUMBER_DIGITS$}").as_bytes());
        out.extend_from_slice(&self.behind);
    }
}

/// The beginning of a field of bytes.
fn field(number: u8, mut length: usize, out: &mut BytesMut) {
    out.put_u8(number << 3 | 2);
    while length >= 0x80 {
        out.put_u8((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.put_u8(length as u8);
}

/// The beginning of a message of gRPC that is not packed.
fn framed(length: usize) -> Result<BytesMut> {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(u32::try_from(length)?);
    Ok(out)
}

/// How many ConfigMaps are stored.
async fn config_maps(gate: &Peer) -> Result<u64> {
    let mut sender = gate.connect().await?;
    let request = gate.request("GET", &format!("{CONFIG_MAPS}?limit=1"), "", Bytes::new())?;
    sender.ready().await?;
    let answer = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
    let list: serde_json::Value = serde_json::from_slice(&answer)?;
    let shown = list["items"].as_array().context("a list has items")?.len() as u64;
    Ok(shown + list["metadata"]["remainingItemCount"].as_u64().unwrap_or_default())
}

/// How many entries are stored: `etcdserverpb.KV/Range` over all of our keys (fields 1 and 2), counted only (field 9).
async fn entries(stream: TcpStream) -> Result<u64> {
    let tasks = base::Tasks::new();
    let mut sender = peer::multiplexed(stream, &tasks).await?;
    let mut range = BytesMut::new();
    // Behind the dash comes the dot.
    for (number, key) in [(1, KEYS.to_owned()), (2, KEYS.replace("entry-", "entry."))] {
        field(number, key.len(), &mut range);
        range.put_slice(key.as_bytes());
    }
    range.put_slice(&[9 << 3, 1]);
    let mut body = framed(range.len())?;
    body.put_slice(&range);
    let request = Request::builder()
        .method("POST")
        .uri("http://localhost/etcdserverpb.KV/Range")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(body.freeze()))?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let collected = body.collect().await?;
    let status = collected.trailers().unwrap_or(&head.headers).get("grpc-status");
    ensure!(status.is_some_and(|status| status == "0"), "etcd refuses to count: {status:?}");
    count_of(collected.to_bytes())
}

/// The count in a framed `RangeResponse`: field 4; field 1 is a header.
fn count_of(mut message: Bytes) -> Result<u64> {
    message.advance(framed(0)?.len());
    while message.has_remaining() {
        let (number, value) = (message.get_u8() >> 3, varint(&mut message)?);
        match number {
            1 => message.advance(usize::try_from(value)?),
            4 => return Ok(value),
            _ => {}
        }
    }
    Ok(0)
}

fn varint(from: &mut Bytes) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = from.try_get_u8()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    bail!("a number of more than 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_a_side_have_one_length_and_other_names() {
        for bodies in [Bodies::config_maps(), Bodies::puts().unwrap()] {
            let (mut first, mut second) = (Vec::new(), Vec::new());
            bodies.next(&mut first);
            bodies.next(&mut second);
            assert_eq!(first.len(), second.len());
            assert_ne!(first, second);
        }
    }

    #[test]
    fn a_count_is_read_behind_the_header() {
        let message = Bytes::from_static(&[0, 0, 0, 0, 7, 0x0a, 2, 8, 1, 0x20, 0xac, 0x02]);
        assert_eq!(count_of(message).unwrap(), 300);
    }
}

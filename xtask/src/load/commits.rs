//! Durable commits: ConfigMaps through our gate over HTTPS, and puts of the same size into etcd over gRPC.
//!
//! Both sides have the same clients: so many connections of HTTP/2, so many writers on each. They take turns, so that
//! whatever else the machine does meets both.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base::Clock;
use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Full};
use tokio::net::TcpStream;

use super::peer::{self, Multiplexed, Peer, Processes};
use crate::project::Project;

/// Writers at the same time, and how many share a connection.
const WRITERS: usize = 128;
const CONNECTIONS: usize = 8;
/// Bytes of a value.
const VALUE_BYTES: usize = 2048;
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
    let tasks = base::Tasks::new();
    let (mut to_gate, mut to_etcd) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        to_gate.push(gate.connect_multiplexed().await?);
        to_etcd.push(peer::multiplexed(reach(address, clock).await?, &tasks).await?);
    }
    let number = AtomicU64::new(0);
    let (mut ours, mut theirs) = (Sum::default(), Sum::default());
    for _ in 0..TURNS {
        let config_map = async |sender: &mut Multiplexed| create(&gate, sender, next(&number)).await;
        turn(clock, gate.processes(), &to_gate, &mut ours, config_map).await?;
        let entry = async |sender: &mut Multiplexed| put(sender, next(&number)).await;
        turn(clock, &etcd, &to_etcd, &mut theirs, entry).await?;
    }
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

fn next(number: &AtomicU64) -> u64 {
    number.fetch_add(1, Ordering::Relaxed)
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

async fn turn(
    clock: &Clock,
    processes: &Processes,
    connections: &[Multiplexed],
    sum: &mut Sum,
    write: impl AsyncFn(&mut Multiplexed) -> Result<()>,
) -> Result<()> {
    let mut senders: Vec<Multiplexed> = connections.iter().cloned().cycle().take(WRITERS).collect();
    let (began, before) = (clock.monotonic(), processes.spent()?);
    let work = senders.iter_mut().map(async |sender| -> Result<u64> {
        let mut done = 0;
        while clock.monotonic() - began < TURN {
            write(sender).await?;
            done += 1;
        }
        Ok(done)
    });
    for done in futures::future::join_all(work).await {
        sum.done += done?;
    }
    sum.seconds += (clock.monotonic() - began).as_secs_f64();
    sum.cpu += processes.spent()? - before;
    Ok(())
}

async fn create(gate: &Peer, sender: &mut Multiplexed, number: u64) -> Result<()> {
    let text = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"entry-{number}"}},"data":{{"value":"{}"}}}}"#,
        "v".repeat(VALUE_BYTES)
    );
    let path = "/api/v1/namespaces/default/configmaps";
    let request = gate.request("POST", path, "application/json", Bytes::from(text))?;
    gate.ask_multiplexed(sender, request).await.map(drop)
}

/// One `etcdserverpb.KV/Put` (etcd's `rpc.proto`: field 1 is the key, 2 the value) in gRPC's framing.
async fn put(sender: &mut Multiplexed, number: u64) -> Result<()> {
    let key = format!("/registry/entries/default/entry-{number}");
    let mut message = BytesMut::with_capacity(VALUE_BYTES + 128);
    for (field, bytes) in [(1_u8, key.as_bytes()), (2, &[b'v'; VALUE_BYTES][..])] {
        message.put_u8(field << 3 | 2);
        varint(bytes.len(), &mut message);
        message.put_slice(bytes);
    }
    let mut body = BytesMut::with_capacity(message.len() + 5);
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len())?);
    body.put_slice(&message);
    let request = Request::builder()
        .method("POST")
        .uri("http://localhost/etcdserverpb.KV/Put")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(body.freeze()))?;
    sender.ready().await?;
    let answer = sender.send_request(request).await?;
    let (head, body) = answer.into_parts();
    let collected = body.collect().await?;
    let status = collected.trailers().unwrap_or(&head.headers).get("grpc-status");
    ensure!(status.is_some_and(|status| status == "0"), "etcd refused a put: {status:?}");
    Ok(())
}

fn varint(mut number: usize, out: &mut BytesMut) {
    while number >= 0x80 {
        out.put_u8((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

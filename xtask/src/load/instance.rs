//! A whole instance with many objects: what they cost in memory, and how soon it is up again with them.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use base::Clock;
use bytes::Bytes;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::peer::{self, Peer};
use super::requests::fill;
use crate::command::{self, command};
use crate::project::Project;

/// Pods that are stored; none of them is scheduled.
const STORED: usize = 10_000;
/// Where.
const PODS: &str = "/api/v1/namespaces/default/pods";
/// How long the server may settle before its memory is read: what was freed goes back to the kernel meanwhile.
const SETTLE: Duration = Duration::from_secs(3);

/// Measures an instance and leaves nothing of it behind.
pub fn measure(project: &Project, runtime: &Runtime, clock: &Clock) -> Result<String> {
    let ondol = peer::built(project, "ondol", &["--bin", "ondol"])?;
    let instance = format!("bench{}", std::process::id() % 100_000);
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data").display().to_string();
    let run = |words: &[&str]| -> Command {
        let mut command = command(&ondol, ["--instance", &instance]);
        command.args(words);
        command
    };
    let up = || -> Result<Duration> {
        let began = clock.monotonic();
        command::run(&mut run(&["up", "--no-kubeconfig", "--data-dir", &data]))?;
        Ok(clock.monotonic() - began)
    };
    let measured = (|| -> Result<String> {
        let first = up()?;
        let credential = command::read(&mut run(&["credential", "--data-dir", &data]))?;
        let status: Value = serde_json::from_str(&command::read(&mut run(&["status", "-o", "json"]))?)?;
        let pid = u32::try_from(status["pid"].as_u64().context("the status tells no pid")?)?;
        let peer = Peer::of_instance(&serde_json::from_str(&credential)?, &status)?;
        let (added, encoded) = runtime.block_on(store(&peer, pid, clock))?;
        command::run(&mut run(&["down"]))?;
        let second = up()?;
        Ok(format!(
            "A whole instance, server and agent in one:\n\n| what | result |\n|---|---|\n\
             | memory added by {STORED} stored pods, mirrors included | {:.2} times their {:.1} MB |\n\
             | very first `up` to API and node Ready | {} ms |\n\
             | second `up` with {STORED} pods to API and node Ready | {} ms |\n\n",
            added as f64 / encoded as f64,
            encoded as f64 / 1e6,
            first.as_millis(),
            second.as_millis()
        ))
    })();
    // Whatever was measured, the instance goes.
    let wiped = command::run(&mut run(&["down", "--wipe", "--yes"]));
    let text = measured?;
    wiped?;
    Ok(text)
}

/// Bytes that the process grew by, and bytes of the pods as they are read.
async fn store(peer: &Peer, pid: u32, clock: &Clock) -> Result<(u64, u64)> {
    clock.sleep(SETTLE).await;
    let before = peer::resident(pid)?;
    fill(peer, PODS, "stored", STORED).await?;
    clock.sleep(SETTLE).await;
    let added = peer::resident(pid)?.saturating_sub(before);
    let mut sender = peer.connect().await?;
    let mut request = peer.request("GET", PODS, "", Bytes::new())?;
    request.headers_mut().remove("accept-encoding");
    let encoded = peer.ask(&mut sender, request).await?;
    eprintln!("{STORED} pods of {encoded} bytes added {added}");
    Ok((added, encoded))
}

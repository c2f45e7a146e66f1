//! `cargo xtask bench gate`: the same load on our API server and on upstream's, in one run, measured by what each
//! server's processes spend of the CPU. What the clients spend is not counted.

mod commits;
mod frames;
mod peer;
mod pods;
mod requests;
mod watches;

use std::time::Duration;

use anyhow::Result;
use base::Clock;

pub use peer::{Peer, built};
pub use requests::{fill_with, identity};

use crate::project::Project;

/// How long each measurement lasts.
const MEASURE: Duration = Duration::from_secs(4);
/// Writers and readers at the same time.
const CLIENTS: usize = 64;

/// One row: what was asked, how fast it was answered, and what of the server's CPU it took.
struct Figure {
    what: &'static str,
    per_second: f64,
    per_cpu_second: f64,
}

/// Done and spent, to be made a figure of.
struct Meter<'a> {
    processes: &'a peer::Processes,
    clock: &'a Clock,
    began: Duration,
    before: f64,
}

impl<'a> Meter<'a> {
    fn start(processes: &'a peer::Processes, clock: &'a Clock) -> Result<Self> {
        Ok(Self { processes, clock, began: clock.monotonic(), before: processes.spent()? })
    }

    fn runs(&self) -> bool {
        self.clock.monotonic() - self.began < MEASURE
    }

    fn figure(&self, what: &'static str, done: u64) -> Result<Figure> {
        let seconds = (self.clock.monotonic() - self.began).as_secs_f64();
        let cpu = self.processes.spent()? - self.before;
        let figure =
            Figure { what, per_second: done as f64 / seconds, per_cpu_second: done as f64 / cpu.max(0.01) };
        eprintln!("{what}: {:.0}/s, {:.0} per s of CPU", figure.per_second, figure.per_cpu_second);
        Ok(figure)
    }
}

/// Runs the whole comparison and returns what is to be recorded. `only` names servers and parts, for those who
/// look for one figure: `ondol`, `upstream`, `requests`, `commits`; all if it is empty.
pub fn compare(project: &Project, only: &[String]) -> Result<String> {
    let wanted = |part: &str| only.is_empty() || only.iter().any(|name| name == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let clock = Clock::system();
    let mut text = String::new();
    if wanted("requests") {
        let ours = match wanted("ondol") {
            true => runtime.block_on(measure(peer::ondol(project)?, &clock))?,
            false => Vec::new(),
        };
        let theirs = match wanted("upstream") {
            true => runtime.block_on(measure(peer::upstream(project)?, &clock))?,
            false => Vec::new(),
        };
        text.push_str(&compared(&ours, &theirs));
    }
    if wanted("commits") {
        // One thread is enough for its client, and leaves more of the cores to the servers.
        let alone = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        text.push_str(&alone.block_on(commits::measure(project, &clock))?);
    }
    Ok(text)
}

fn compared(ours: &[Figure], theirs: &[Figure]) -> String {
    let mut table = format!(
        "A pod has {} bytes as it is read. {CLIENTS} clients write and get, {} list, on HTTP/1.1 connections of \
         their own; server CPU is that of all processes of each side, etcd's included.\n\n\
         | what | Ondol | per s of its CPU | upstream | per s of its CPU | ratio |\n|---|---|---|---|---|---|\n",
        pods::READ_BYTES,
        requests::LISTERS,
    );
    for (own, peer) in ours.iter().zip(theirs) {
        table.push_str(&format!(
            "| {} | {:.0}/s | {:.0} | {:.0}/s | {:.0} | {:.1} |\n",
            own.what,
            own.per_second,
            own.per_cpu_second,
            peer.per_second,
            peer.per_cpu_second,
            own.per_cpu_second / peer.per_cpu_second
        ));
    }
    table.push('\n');
    table
}

async fn measure(peer: Peer, clock: &Clock) -> Result<Vec<Figure>> {
    peer.get_ready(clock).await?;
    eprintln!("{} is ready", peer.name);
    let mut figures = requests::measure(&peer, clock).await?;
    figures.extend(watches::measure(&peer, clock).await?);
    Ok(figures)
}

//! `cargo xtask bench memory`: what stored objects and finished pods leave in the memory of a whole instance, and how
//! soon it is up again with them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use base::Clock;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::instance::Instance;
use crate::load::{self, Peer};
use crate::pods;
use crate::project::Project;

/// Objects that are stored.
const STORED: usize = 10_000;
/// Pods that are made and ended, and how often.
const USED: usize = 80;
const ROUNDS: usize = 3;
/// How long one round may take.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long a server may settle before its memory is read: what was freed goes back to the kernel meanwhile.
const SETTLE: Duration = Duration::from_secs(5);

/// What is stored by the thousand.
struct Sort {
    /// In words.
    name: &'static str,
    /// Where.
    path: &'static str,
    /// One of them.
    make: fn(usize) -> Bytes,
}

const SORTS: [Sort; 2] = [
    Sort { name: "pods that wait at a gate", path: "/api/v1/namespaces/default/pods", make: gated_pod },
    Sort { name: "ConfigMaps", path: "/api/v1/namespaces/default/configmaps", make: config_map },
];

/// Figures of one sort of objects.
struct Figures {
    encoded: u64,
    added: u64,
    again: u64,
    up: [Duration; 2],
}

/// Measures and returns the table that is to be recorded.
pub fn measure(project: &Project) -> Result<String> {
    let ondol = load::built(project, "ondol", &["--bin", "ondol"])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let clock = Clock::system();
    let mut table = "| what | result |\n|---|---|\n".to_owned();
    let (idle, used) = use_up(&Instance::new(&ondol, &clock)?, &runtime)?;
    table.push_str(&format!(
        "| very first start, no pods | {:.1} MB |\n\
         | after {ROUNDS} times {USED} pods were made, Ready, and gone with their namespace | {:.1} MB |\n",
        megabytes(idle),
        megabytes(used)
    ));
    for sort in &SORTS {
        let figures = fill(&Instance::new(&ondol, &clock)?, &runtime, sort)?;
        let times = |bytes: u64| bytes as f64 / figures.encoded as f64;
        table.push_str(&format!(
            "| {STORED} {}, {:.1} MB encoded: added as they are made | {:.2} times |\n\
             | the same after a restart | {:.2} times |\n\
             | second and third `up` with them to API and node Ready | {} and {} ms |\n",
            sort.name,
            megabytes(figures.encoded),
            times(figures.added),
            times(figures.again),
            figures.up[0].as_millis(),
            figures.up[1].as_millis()
        ));
    }
    Ok(table)
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Memory of an instance before and after pods were made and ended in it.
fn use_up(instance: &Instance, runtime: &Runtime) -> Result<(u64, u64)> {
    instance.up()?;
    let (peer, pid) = instance.peer()?;
    let idle = runtime.block_on(settled(pid, &instance.clock))?;
    for _ in 0..ROUNDS {
        runtime.block_on(round(&peer, &instance.clock))?;
    }
    Ok((idle, runtime.block_on(settled(pid, &instance.clock))?))
}

/// Makes pods, waits until all are Ready, and ends them with their namespace.
async fn round(peer: &Peer, clock: &Clock) -> Result<()> {
    const NAMESPACE: &str = "used";
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    peer.call("POST", "/api/v1/namespaces", &namespace).await?;
    for number in 0..USED {
        pods::create(peer, NAMESPACE, &format!("pod-{number}")).await?;
    }
    let ready = pods::ready(peer, NAMESPACE, "", USED);
    clock.timeout(DEADLINE, ready).await.context("the pods do not get Ready")??;
    peer.call("DELETE", &format!("/api/v1/namespaces/{NAMESPACE}"), &Value::Null).await?;
    let gone = pods::gone(peer, clock, NAMESPACE);
    clock.timeout(DEADLINE, gone).await.context("the namespace does not go")?
}

/// What objects of a sort add, as they are made and after a restart.
fn fill(instance: &Instance, runtime: &Runtime, sort: &Sort) -> Result<Figures> {
    let clock = &instance.clock;
    instance.up()?;
    let (peer, pid) = instance.peer()?;
    let before = runtime.block_on(settled(pid, clock))?;
    runtime.block_on(load::fill_with(&peer, sort.path, STORED, sort.make))?;
    let after = runtime.block_on(settled(pid, clock))?;
    let encoded = runtime.block_on(async {
        let mut sender = peer.connect().await?;
        let request = load::identity(peer.request("GET", sort.path, "", Bytes::new())?);
        peer.ask(&mut sender, request).await
    })?;
    let mut up = [Duration::ZERO; 2];
    for time in &mut up {
        instance.run(&["down"])?;
        *time = instance.up()?;
    }
    let (_, pid) = instance.peer()?;
    let again = runtime.block_on(settled(pid, clock))?;
    let added = |resident: u64| resident.saturating_sub(before);
    let figures = Figures { encoded, added: added(after), again: added(again), up };
    eprintln!("{}: {encoded} bytes added {} and {}", sort.name, figures.added, figures.again);
    Ok(figures)
}

/// Bytes that a process keeps for itself (Pss), after it has had time to give back what it does not need.
async fn settled(pid: u32, clock: &Clock) -> Result<u64> {
    clock.sleep(SETTLE).await;
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1024)
}

/// A pod of some 4.4 KB as it is read, that no scheduler takes before its gate is lifted.
fn gated_pod(number: usize) -> Bytes {
    let env: Vec<Value> = (0..8).map(|n| json!({"name": format!("SETTING_{n}"), "value": "warm"})).collect();
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": format!("stored-{number}"),
            "labels": {"app": format!("app-{}", number % 50)},
            "annotations": {"example.com/note": "x".repeat(1200)}
        },
        "spec": {
            "schedulingGates": [{"name": "example.com/hold"}],
            "containers": [{
                "name": "main",
                "image": "ondol.local/echo:v1",
                "env": env,
                "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}}
            }]
        }
    });
    Bytes::from(pod.to_string())
}

/// A ConfigMap with 2,000 bytes of data.
fn config_map(number: usize) -> Bytes {
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": format!("stored-{number}"), "labels": {"app": format!("app-{}", number % 50)}},
        "data": {"value": "x".repeat(2000)}
    });
    Bytes::from(map.to_string())
}

//! `cargo xtask bench pods`: how long pods take, from the request to Ready, as a client of the API sees it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base::Clock;
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::instance::Instance;
use crate::load::{self, Peer};
use crate::project::Project;

/// Pods that are started one after another.
const ONE_BY_ONE: usize = 100;
/// Pods that are started at once.
const AT_ONCE: usize = 50;
/// How long one measurement may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// Starts an instance in release, measures it, and leaves nothing of it behind.
pub fn measure(project: &Project) -> Result<String> {
    let ondol = load::built(project, "ondol", &["--bin", "ondol"])?;
    let clock = Clock::system();
    let instance = Instance::new(&ondol, &clock)?;
    let first_up = instance.up()?;
    let (peer, _) = instance.peer()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let table = runtime.block_on(pods(&peer, &clock))?;
    Ok(format!("{table}| very first `up` to API and node Ready | {} ms |\n", first_up.as_millis()))
}

async fn pods(peer: &Peer, clock: &Clock) -> Result<String> {
    let mut times = Vec::with_capacity(ONE_BY_ONE);
    for number in 0..ONE_BY_ONE {
        let began = clock.monotonic();
        let name = format!("one-{number}");
        create(peer, "default", &name).await?;
        let selector = format!("&fieldSelector=metadata.name%3D{name}");
        let all_ready = ready(peer, "default", &selector, 1);
        clock.timeout(DEADLINE, all_ready).await.context("a pod does not get Ready")??;
        times.push((clock.monotonic() - began).as_millis());
        peer.call("DELETE", &format!("/api/v1/namespaces/default/pods/{name}"), &Value::Null).await?;
    }
    times.sort_unstable();
    let share = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];

    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "crowd"}});
    peer.call("POST", "/api/v1/namespaces", &namespace).await?;
    let began = clock.monotonic();
    for number in 0..AT_ONCE {
        create(peer, "crowd", &format!("many-{number}")).await?;
    }
    clock
        .timeout(DEADLINE, ready(peer, "crowd", "", AT_ONCE))
        .await
        .context("the pods do not get Ready")??;
    let at_once = clock.monotonic() - began;

    let began = clock.monotonic();
    peer.call("DELETE", "/api/v1/namespaces/crowd", &Value::Null).await?;
    clock.timeout(DEADLINE, gone(peer, clock, "crowd")).await.context("the namespace does not go")??;
    let deleted = clock.monotonic() - began;
    Ok(format!(
        "| what | result |\n|---|---|\n\
         | pod create to Ready, one after another ({ONE_BY_ONE}) | p50 {} ms, p99 {} ms |\n\
         | {AT_ONCE} pods at once, all Ready | {:.2} s |\n\
         | namespace of {AT_ONCE} pods deleted | {:.2} s |\n",
        share(50),
        share(99),
        at_once.as_secs_f64(),
        deleted.as_secs_f64()
    ))
}

/// Makes a pod that runs.
pub async fn create(peer: &Peer, namespace: &str, name: &str) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "echo", "image": "ondol.local/echo:v1"}]}
    });
    peer.call("POST", &format!("/api/v1/namespaces/{namespace}/pods"), &pod).await.map(drop)
}

/// Returns when `wanted` pods of a namespace are Ready.
pub async fn ready(peer: &Peer, namespace: &str, selector: &str, wanted: usize) -> Result<()> {
    let path = format!("/api/v1/namespaces/{namespace}/pods?watch=true&resourceVersion=0{selector}");
    let mut sender = peer.connect().await?;
    sender.ready().await?;
    let request = peer.request("GET", &path, "", Bytes::new())?;
    let mut body = sender.send_request(request).await?.into_body();
    let (mut pending, mut names) = (Vec::new(), BTreeSet::new());
    while names.len() < wanted {
        let frame = body.frame().await.context("the watch ended early")??;
        pending.extend_from_slice(frame.data_ref().map_or(&[], |data| data.as_ref()));
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line)?;
            let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if conditions
                .iter()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
            {
                names.insert(event["object"]["metadata"]["name"].to_string());
            }
        }
    }
    Ok(())
}

/// Returns when a namespace is gone.
pub async fn gone(peer: &Peer, clock: &Clock, namespace: &str) -> Result<()> {
    let path = format!("/api/v1/namespaces/{namespace}");
    loop {
        match peer.call("GET", &path, &Value::Null).await {
            Ok(_) => clock.sleep(Duration::from_millis(5)).await,
            Err(error) if error.to_string().contains("404") => return Ok(()),
            Err(error) => bail!(error),
        }
    }
}

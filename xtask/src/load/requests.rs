//! Creations, reads and lists.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use base::Clock;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::peer::{Peer, Single};
use super::{CLIENTS, Figure, Meter, pods};

/// Lists at the same time.
pub const LISTERS: usize = 8;
/// Pods that lists go over, of which one in ten has the label that is selected.
const STORED: usize = 4000;
/// How many pods one page shows.
const PAGE: usize = 500;
/// How far the pod may be from the size that is written beside the figures.
const SIZE_TOLERANCE: f64 = 0.03;

/// All of it, on a fresh server.
pub async fn measure(peer: &Peer, clock: &Clock) -> Result<Vec<Figure>> {
    let (made, stored) = ("/api/v1/namespaces/default/pods", "/api/v1/namespaces/kube-system/pods");
    fill(peer, made, "warm", CLIENTS).await?;
    let mut figures = Vec::new();
    let create = |n: u64| peer.request("POST", made, "application/json", pods::pod(&format!("made-{n}"), 1));
    figures.push(load(peer, clock, "create a pod, 64 writers", CLIENTS, create).await?);
    let one = format!("{made}/warm-1");
    let mut first = peer.connect().await?;
    let size = peer.ask(&mut first, identity(peer.request("GET", &one, "", Bytes::new())?)).await?;
    let expected = pods::READ_BYTES as f64;
    ensure!(
        (size as f64 - expected).abs() / expected < SIZE_TOLERANCE,
        "a pod has {size} bytes, not {expected}: change its variables"
    );
    let get = |_| peer.request("GET", &one, "", Bytes::new());
    figures.push(load(peer, clock, "get a pod, 64 readers", CLIENTS, get).await?);

    fill(peer, stored, "stored", STORED).await?;
    let page = format!("{stored}?limit={PAGE}");
    let labelled = format!("{stored}?labelSelector=group%3Dtenth");
    for (path, packed, plain) in [
        (page, "list 500, gzip", "list 500, identity"),
        (labelled, "list 400 of 4,000 by label, gzip", "list 400 of 4,000 by label, identity"),
    ] {
        let gzip = |_| peer.request("GET", &path, "", Bytes::new());
        figures.push(load(peer, clock, packed, LISTERS, gzip).await?);
        let whole = |_| peer.request("GET", &path, "", Bytes::new()).map(identity);
        figures.push(load(peer, clock, plain, LISTERS, whole).await?);
    }
    Ok(figures)
}

/// The same request without asking for gzip.
pub fn identity(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    request.headers_mut().remove("accept-encoding");
    request
}

/// Makes pods that are not measured.
pub async fn fill(peer: &Peer, path: &str, prefix: &str, count: usize) -> Result<()> {
    fill_with(peer, path, count, |n| pods::pod(&format!("{prefix}-{n}"), n as u64)).await
}

/// Makes objects that are not measured, each by its number.
pub async fn fill_with(peer: &Peer, path: &str, count: usize, make: impl Fn(usize) -> Bytes) -> Result<()> {
    let mut senders = clients(peer, LISTERS).await?;
    let work = senders.iter_mut().enumerate().map(async |(client, sender)| -> Result<()> {
        for n in (client..count).step_by(LISTERS) {
            peer.ask(sender, peer.request("POST", path, "application/json", make(n))?).await?;
        }
        Ok(())
    });
    for result in futures::future::join_all(work).await {
        result.with_context(|| format!("filling {path}"))?;
    }
    Ok(())
}

async fn clients(peer: &Peer, count: usize) -> Result<Vec<Single>> {
    let mut senders = Vec::with_capacity(count);
    for _ in 0..count {
        senders.push(peer.connect().await?);
    }
    Ok(senders)
}

/// `count` clients that ask as fast as they are answered; the request is made from a running number.
async fn load(
    peer: &Peer,
    clock: &Clock,
    what: &'static str,
    count: usize,
    ask: impl Fn(u64) -> Result<Request<Full<Bytes>>>,
) -> Result<Figure> {
    let mut senders = clients(peer, count).await?;
    let (number, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let meter = Meter::start(peer.processes(), clock)?;
    let work = senders.iter_mut().map(async |sender| -> Result<()> {
        while meter.runs() {
            let request = ask(number.fetch_add(1, Ordering::Relaxed))?;
            peer.ask(sender, request).await?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    });
    for result in futures::future::join_all(work).await {
        result?;
    }
    meter.figure(what, done.load(Ordering::Relaxed))
}

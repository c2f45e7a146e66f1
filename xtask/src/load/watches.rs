//! Changes that many watchers are told of.

use anyhow::{Context, Result};
use base::Clock;
use bytes::Bytes;
use futures::future::join_all;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::peer::{Peer, absolute};
use super::{Figure, Meter};

/// Watchers of a namespace.
const WATCHERS: usize = 200;
/// Watches that share a connection: upstream's server takes no more, and client-go dials again then.
const STREAMS: usize = 100;
/// Pods in it, each with a writer of its own.
const WRITERS: usize = 8;
/// Changes that each writer makes and every watcher sees.
const CHANGES: usize = 60;
/// What is watched.
const NAMESPACE: &str = "/api/v1/namespaces/kube-public/pods";

/// Watchers on connections of their own, and as streams of few.
pub async fn measure(peer: &Peer, clock: &Clock) -> Result<Vec<Figure>> {
    super::requests::fill(peer, NAMESPACE, "watched", WRITERS).await?;
    let request = || peer.request("GET", &format!("{NAMESPACE}?watch=true"), "", Bytes::new());
    let (mut own, mut bodies) = (Vec::new(), Vec::new());
    for _ in 0..WATCHERS {
        let mut sender = peer.connect().await?;
        sender.ready().await?;
        bodies.push(sender.send_request(request()?).await?.into_body());
        own.push(sender);
    }
    let first = told(peer, clock, "events to 200 watchers, own connections", bodies, "own").await?;
    drop(own);
    let (mut shared, mut bodies) = (Vec::new(), Vec::new());
    for number in 0..WATCHERS {
        if number % STREAMS == 0 {
            shared.push(peer.connect_multiplexed().await?);
        }
        let sender = shared.last_mut().context("no connection")?;
        sender.ready().await?;
        bodies.push(sender.send_request(absolute(request()?)?).await?.into_body());
    }
    let second = told(peer, clock, "events to 200 watchers, multiplexed", bodies, "multiplexed").await?;
    Ok(vec![first, second])
}

/// Status patches until every watcher was told of each.
async fn told(
    peer: &Peer,
    clock: &Clock,
    what: &'static str,
    mut bodies: Vec<Incoming>,
    word: &str,
) -> Result<Figure> {
    // The first lines tell of the pods as they are.
    join_all(bodies.iter_mut().map(|body| lines(body, WRITERS))).await.into_iter().collect::<Result<()>>()?;
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        writers.push(peer.connect().await?);
    }
    let meter = Meter::start(peer.processes(), clock)?;
    let watching = join_all(bodies.iter_mut().map(|body| lines(body, WRITERS * CHANGES)));
    let writing = join_all(writers.iter_mut().enumerate().map(async |(number, writer)| -> Result<()> {
        let target = format!("{NAMESPACE}/watched-{number}/status");
        for change in 0..CHANGES {
            let patch = format!(r#"{{"status":{{"message":"{word} change {change}"}}}}"#);
            let kind = "application/merge-patch+json";
            peer.ask(writer, peer.request("PATCH", &target, kind, Bytes::from(patch))?).await?;
        }
        Ok(())
    }));
    let (watched, written) = futures::join!(watching, writing);
    written.into_iter().chain(watched).collect::<Result<()>>()?;
    meter.figure(what, (WATCHERS * WRITERS * CHANGES) as u64)
}

/// Reads so many lines of a watch.
async fn lines(body: &mut Incoming, wanted: usize) -> Result<()> {
    let mut seen = 0;
    while seen < wanted {
        let frame = body.frame().await.context("a watch ended early")??;
        seen += frame.data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
    }
    Ok(())
}

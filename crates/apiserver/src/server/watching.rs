//! Watches over HTTP: one line of JSON an event. An event is encoded once for all watches that want the same form.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use api::interface::WatchEvent;
use api::object::Object;
use api::status::{Cause, Status};
use api::validation::cause;
use api::value::{Value, write_string};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use wire::{Body, Response};

use super::{Exchange, header, render, run};
use crate::gate::Gate;
use crate::kinds::Kind;
use crate::limits;
use crate::negotiate::{Media, Shape, negotiate_watch};
use crate::route::Info;
use crate::shares::Place;
use crate::table::{self, Include};
use crate::verbs::list::{Choice, check_revision, parse_revision};
use crate::watch::{Form, Start, Told, Watcher, encoded};

/// Opens a watch and answers with its stream.
pub(super) fn respond(
    exchange: &Exchange<'_>,
    kind: &'static Kind,
    info: &Info,
    slot: Place,
) -> Result<Response, Status> {
    kind.require_verb("watch")?;
    let (gate, query) = (exchange.gate, exchange.query);
    let accepted = negotiate_watch(header(exchange.headers, ACCEPT))?;
    if accepted.media == Media::Yaml {
        return Err(Status::new(
            api::status::Reason::NotAcceptable,
            "only the following media types are accepted: application/json;stream=watch",
        ));
    }
    let include = exchange.include(accepted)?;
    let mut fields = query.text("fieldSelector");
    if info.name_in_path {
        if !fields.is_empty() {
            fields.push(',');
        }
        fields.push_str(&format!("metadata.name={}", info.name));
    }
    let choice = Choice::parse(kind, &query.text("labelSelector"), &fields)?;
    let start = start(exchange)?;
    let namespace = if kind.namespaced { info.namespace.as_str() } else { "" };
    // Who begins with the present objects may have seen later ones.
    let seen = match start {
        Start::After(_) => Ok(()),
        Start::Now | Start::NowWithMark => check_revision(gate, &query.text("resourceVersion")),
    };
    let watcher = match seen.and_then(|()| Watcher::open(gate, kind, namespace, choice, start)) {
        Ok(watcher) => watcher,
        // What is wrong with a revision is the watch's first and last event, for upstream has begun to answer when it
        // finds out.
        Err(status) if matches!(status.code, 410 | 504) => {
            return Ok(lines(Body::from(error_frame(&status))));
        }
        Err(status) => return Err(status),
    };
    let deadline = match query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
        _ => {
            let minimum = gate.watch_minimum();
            let spread = u64::try_from(minimum.as_millis()).unwrap_or(u64::MAX).max(1);
            minimum + Duration::from_millis(gate.random().below(spread))
        }
    };
    let stream = Stream {
        gate: Arc::clone(gate),
        kind,
        shape: accepted.shape,
        include,
        bookmarks: query.flag("allowWatchBookmarks"),
        headings_due: accepted.shape == Shape::Table,
        watcher,
        turns: turns(gate, deadline, query.flag("allowWatchBookmarks")),
        overhang: None,
        was_told: false,
        ended: false,
        _slot: slot,
    };
    Ok(lines(Body::stream(stream)))
}

fn lines(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Where the watch begins, by upstream's rules of `resourceVersion` and `sendInitialEvents`.
fn start(exchange: &Exchange<'_>) -> Result<Start, Status> {
    let query = exchange.query;
    let version = query.text("resourceVersion");
    let initial = query.get("sendInitialEvents").map(|value| value == "true" || value == "1");
    let matching = query.text("resourceVersionMatch");
    // A watch from now on says so in the newer way by itself, as upstream completes it.
    let is_completed = initial.is_none() && matching.is_empty() && matches!(version.as_str(), "" | "0");
    let (has_initial, meant) =
        if is_completed { (true, "NotOlderThan") } else { (initial.is_some(), matching.as_str()) };
    let causes = option_causes(has_initial, meant, &query.text("continue"));
    if !causes.is_empty() {
        return Err(Status::invalid("meta.k8s.io", "ListOptions", "", causes));
    }
    let revision = parse_revision(&version).map_err(|status| {
        let words = status.message.trim_start_matches("invalid resource version: ");
        Status { code: 500, ..Status::new(api::status::Reason::Unknown, words) }
    })?;
    Ok(match initial {
        Some(true) if query.flag("allowWatchBookmarks") => Start::NowWithMark,
        Some(true) => Start::Now,
        Some(false) if revision == 0 => Start::After(exchange.gate.storage().store().revision().0),
        None if revision == 0 => Start::Now,
        _ => Start::After(revision),
    })
}

/// The rules of `metav1/validation` for options of watches: all that is wrong. Pure.
fn option_causes(has_initial: bool, matching: &str, token: &str) -> Vec<Cause> {
    const FIELD: &str = "resourceVersionMatch";
    let mut causes = Vec::new();
    let mut forbid = |holds: bool, why: &str| {
        if holds {
            causes.push(cause::forbidden(FIELD, why));
        }
    };
    let is_other = matching != "NotOlderThan";
    forbid(
        has_initial && is_other,
        "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
    );
    if matching.is_empty() {
        return causes;
    }
    forbid(!has_initial, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
    if is_other {
        causes.push(cause::not_supported(FIELD, matching, &["NotOlderThan"]));
    }
    if !token.is_empty() {
        causes.push(cause::forbidden(FIELD, "resourceVersionMatch is forbidden when continue is provided"));
    }
    causes
}

/// What comes to a watch beside events.
enum Turn {
    /// The server stops.
    Stop,
    /// The watch has lasted as long as it may.
    Deadline,
    /// It is time for a bookmark, unless events have told how far the watch is.
    Bookmark,
}

/// The turns that are to come. They are looked at only when one has come: what wakes a watch is nearly always an
/// event, and then neither clock nor stop signal is asked.
type Turns = FuturesUnordered<BoxFuture<'static, Turn>>;

fn turns(gate: &Arc<Gate>, deadline: Duration, bookmarks: bool) -> Turns {
    let turns = Turns::new();
    let (clock, stop) = (gate.clock().clone(), gate.stop().clone());
    turns.push(async move { stop.stopped().await }.map(|()| Turn::Stop).boxed());
    turns.push(async move { clock.sleep(deadline).await }.map(|()| Turn::Deadline).boxed());
    if bookmarks {
        turns.push(bookmark_turn(gate));
    }
    turns
}

fn bookmark_turn(gate: &Arc<Gate>) -> BoxFuture<'static, Turn> {
    let clock = gate.clock().clone();
    async move { clock.sleep(limits::BOOKMARK_PERIOD).await }.map(|()| Turn::Bookmark).boxed()
}

/// The body of a watch. It has no task and no queue of its own: the connection asks it for the next bytes when it can
/// send some, and a watch whose client is slow waits in the store's history.
struct Stream {
    gate: Arc<Gate>,
    kind: &'static Kind,
    shape: Shape,
    include: Include,
    bookmarks: bool,
    /// Whether the next table says its columns; only the first does.
    headings_due: bool,
    watcher: Watcher,
    turns: Turns,
    /// What was too long for the run before it.
    overhang: Option<Bytes>,
    /// Whether anything was told since the last turn for a bookmark.
    was_told: bool,
    ended: bool,
    _slot: Place,
}

impl futures::Stream for Stream {
    type Item = Result<Bytes, wire::body::Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(first) = this.overhang.take() {
            return Poll::Ready(Some(Ok(this.run(first))));
        }
        while !this.ended {
            if let Poll::Ready(next) = this.watcher.poll(context) {
                return Poll::Ready(this.told(next).map(Ok));
            }
            match ready!(this.turns.poll_next_unpin(context)) {
                Some(Turn::Deadline) => {
                    this.ended = true;
                    if this.bookmarks {
                        let last = this.watcher.bookmark();
                        return Poll::Ready(Some(Ok(this.frame(&last))));
                    }
                }
                Some(Turn::Bookmark) => {
                    this.turns.push(bookmark_turn(&this.gate));
                    if !std::mem::take(&mut this.was_told) {
                        let bookmark = this.watcher.bookmark();
                        return Poll::Ready(Some(Ok(this.frame(&bookmark))));
                    }
                }
                Some(Turn::Stop) | None => this.ended = true,
            }
        }
        Poll::Ready(None)
    }
}

impl Stream {
    /// The bytes of what the watcher gave. They are shared with all other watches of this form.
    fn told(&mut self, next: Option<Result<Told, Status>>) -> Option<Bytes> {
        match next {
            Some(Ok(told)) => {
                self.was_told = true;
                let first = self.piece(&told);
                Some(self.run(first))
            }
            Some(Err(status)) => {
                self.ended = true;
                Some(error_frame(&status))
            }
            None => {
                self.ended = true;
                None
            }
        }
    }

    /// An event and what has gathered behind it, as far as it fits into one run.
    fn run(&mut self, first: Bytes) -> Bytes {
        let mut bytes = first.len();
        let mut pieces = vec![first];
        while let Some(told) = self.watcher.take_waiting() {
            let piece = self.piece(&told);
            bytes += piece.len();
            if bytes > run::RUN_BYTES {
                self.overhang = Some(piece);
                break;
            }
            pieces.push(piece);
        }
        self.gate.runs.joined(pieces)
    }

    fn piece(&mut self, told: &Told) -> Bytes {
        let piece = self.frame(told);
        self.headings_due = false;
        piece
    }

    fn frame(&self, told: &Told) -> Bytes {
        let (verb, object) = match &told.event {
            WatchEvent::Added(object) => ("ADDED", object),
            WatchEvent::Modified(object) => ("MODIFIED", object),
            WatchEvent::Deleted(object) => ("DELETED", object),
            WatchEvent::Bookmark { revision, initial_done } => {
                return self.bookmark(*revision, *initial_done);
            }
        };
        let make = || self.event(verb, object).into();
        match &told.source {
            // Cells tell ages, and the first table has headings: tables are each watch's own.
            Some(source) if self.shape != Shape::Table => {
                let kind = std::ptr::from_ref(self.kind).addr();
                encoded(source, Form { verb, kind, shape: self.shape as u8 }, make)
            }
            _ => make(),
        }
    }

    fn event(&self, verb: &str, object: &Arc<Object>) -> Vec<u8> {
        let mut out = Vec::with_capacity(object.body().len() + 160);
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(verb.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        if self.shape == Shape::Table {
            let meta = render::list_meta(object.revision(), "", None);
            let include = Include { now: self.gate.now(), ..self.include };
            table::write(self.kind, std::slice::from_ref(object), meta, include, self.headings_due, &mut out);
        } else {
            render::object(self.kind, object, self.shape, self.include, &mut out);
        }
        out.extend_from_slice(b"}\n");
        out
    }

    fn bookmark(&self, revision: u64, initial_done: bool) -> Bytes {
        let (kind, version) = match self.shape {
            Shape::Whole => (self.kind.kind.kind.to_string(), self.kind.api_version()),
            Shape::Metadata => ("PartialObjectMetadata".to_owned(), "meta.k8s.io/v1".to_owned()),
            Shape::Table => ("Table".to_owned(), "meta.k8s.io/v1".to_owned()),
        };
        let mut out = Vec::with_capacity(160);
        out.extend_from_slice(b"{\"type\":\"BOOKMARK\",\"object\":{\"kind\":");
        write_string(&kind, &mut out);
        out.extend_from_slice(b",\"apiVersion\":");
        write_string(&version, &mut out);
        out.extend_from_slice(format!(",\"metadata\":{{\"resourceVersion\":\"{revision}\"").as_bytes());
        if initial_done {
            out.extend_from_slice(b",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}");
        }
        out.extend_from_slice(b"}");
        if self.shape == Shape::Table {
            out.extend_from_slice(b",\"columnDefinitions\":null,\"rows\":[]");
        }
        out.extend_from_slice(b"}}\n");
        out.into()
    }
}

fn error_frame(status: &Status) -> Bytes {
    let mut event = Value::object();
    event.set(&["type"], "ERROR");
    event.set(&["object"], status.to_value());
    let mut out = event.to_bytes();
    out.push(b'\n');
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_with_the_options_of_a_watch_is_told() {
        let check = |has_initial: bool, matching: &str, token: &str, expect: &[&str]| {
            let causes = option_causes(has_initial, matching, token);
            let told: Vec<&str> = causes.iter().map(|cause| cause.message.as_str()).collect();
            assert_eq!(told, expect, "{has_initial} {matching} {token}");
        };
        let needs = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        let alone =
            "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        let unknown = "Unsupported value: \"Exact\": supported values: \"NotOlderThan\"";
        let paged = "Forbidden: resourceVersionMatch is forbidden when continue is provided";
        check(false, "", "abc", &[]);
        check(true, "NotOlderThan", "", &[]);
        check(true, "", "", &[needs]);
        check(true, "Exact", "", &[needs, unknown]);
        check(false, "Exact", "", &[alone, unknown]);
        check(false, "NotOlderThan", "abc", &[alone, paged]);
    }
}

//! Watches over HTTP: one line of JSON an event. An event is encoded once for all watches that want the same form.

use std::sync::Arc;
use std::time::Duration;

use api::interface::WatchEvent;
use api::object::Object;
use api::status::Status;
use api::value::{Value, write_string};
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use wire::{Body, Response};

use super::{Exchange, header, render};
use crate::gate::Gate;
use crate::kinds::Kind;
use crate::limits;
use crate::negotiate::{Endpoint, Media, Shape, negotiate};
use crate::route::Info;
use crate::table::{self, Include};
use crate::verbs::list::{Choice, parse_revision};
use crate::watch::{Form, Start, Told, Watcher, encoded};

/// Opens a watch and answers with its stream.
pub(super) fn respond(
    exchange: &Exchange<'_>,
    kind: &'static Kind,
    info: &Info,
    slot: OwnedSemaphorePermit,
) -> Result<Response, Status> {
    kind.require_verb("watch")?;
    let (gate, query) = (exchange.gate, exchange.query);
    let accepted = negotiate(header(exchange.headers, ACCEPT), Endpoint::Objects, true)
        .or_else(|_| negotiate(header(exchange.headers, ACCEPT), Endpoint::Objects, false))?;
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
    let watcher = Watcher::open(gate, kind, namespace, choice, start)?;
    let deadline = match query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
        _ => {
            let minimum = gate.watch_minimum();
            let spread = u64::try_from(minimum.as_millis()).unwrap_or(u64::MAX).max(1);
            minimum + Duration::from_millis(gate.random().below(spread))
        }
    };
    let (sender, body) = Body::channel(limits::WATCH_QUEUE_EVENTS);
    let stream = Stream {
        gate: Arc::clone(gate),
        kind,
        shape: accepted.shape,
        include,
        bookmarks: query.flag("allowWatchBookmarks"),
        headings_due: accepted.shape == Shape::Table,
        sender,
    };
    gate.tasks().spawn("watch", async move {
        stream.run(watcher, deadline).await;
        drop(slot);
    });
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

/// Where the watch begins, by upstream's rules of `resourceVersion` and `sendInitialEvents`.
fn start(exchange: &Exchange<'_>) -> Result<Start, Status> {
    let query = exchange.query;
    let version = query.text("resourceVersion");
    let initial = query.get("sendInitialEvents").map(|value| value == "true" || value == "1");
    let matching = query.text("resourceVersionMatch");
    if initial.is_some() && matching != "NotOlderThan" {
        return Err(invalid(
            "resourceVersionMatch",
            "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    if initial.is_none() && !matching.is_empty() {
        return Err(invalid(
            "resourceVersionMatch",
            "Forbidden: resourceVersionMatch is forbidden for watch",
        ));
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

fn invalid(field: &str, message: &str) -> Status {
    let cause = api::status::Cause {
        reason: "FieldValueForbidden".into(),
        message: message.into(),
        field: field.into(),
    };
    Status::invalid("meta.k8s.io", "ListOptions", "", vec![cause])
}

struct Stream {
    gate: Arc<Gate>,
    kind: &'static Kind,
    shape: Shape,
    include: Include,
    bookmarks: bool,
    /// Whether the next table says its columns; only the first does.
    headings_due: bool,
    sender: mpsc::Sender<Bytes>,
}

impl Stream {
    /// Sends events until the client goes, the deadline comes, the server stops or the watch fails.
    async fn run(mut self, mut watcher: Watcher, deadline: Duration) {
        let clock = self.gate.clock().clone();
        let sender = self.sender.clone();
        let mut end = std::pin::pin!(clock.sleep(deadline));
        loop {
            let idle = clock.sleep(limits::BOOKMARK_PERIOD);
            let next = tokio::select! {
                next = watcher.next() => next,
                () = idle, if self.bookmarks => Some(Ok(watcher.bookmark())),
                () = sender.closed() => return,
                () = &mut end => {
                    if self.bookmarks {
                        let last = watcher.bookmark();
                        let _ = self.send(self.frame(&last)).await;
                    }
                    return;
                }
            };
            match next {
                None => return,
                Some(Err(status)) => {
                    let _ = self.send(error_frame(&status)).await;
                    return;
                }
                Some(Ok(told)) => {
                    let mut frame = self.frame(&told);
                    self.headings_due = false;
                    // A watcher that lags gets what has gathered in one piece.
                    let mut gathered: Vec<Bytes> = Vec::new();
                    let mut bytes = frame.len();
                    while bytes < limits::WATCH_FRAME_BYTES
                        && let Some(Ok(told)) = watcher.try_next()
                    {
                        let more = self.frame(&told);
                        bytes += more.len();
                        gathered.push(more);
                    }
                    if !gathered.is_empty() {
                        let mut joined = Vec::with_capacity(bytes);
                        joined.extend_from_slice(&frame);
                        gathered.iter().for_each(|more| joined.extend_from_slice(more));
                        frame = joined.into();
                    }
                    if self.send(frame).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn send(&self, frame: Bytes) -> Result<(), ()> {
        self.sender.send(frame).await.map_err(drop)
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

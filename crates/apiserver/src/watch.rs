//! Watches: what the store tells, through a client's selectors.
//!
//! An event is judged for each watch, but its object is made once and its encodings are made once for all watches
//! (see [`Encodings`]).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use api::interface::WatchEvent;
use api::object::Object;
use api::status::Status;
use base::Stop;
use bytes::Bytes;
use futures::Stream as _;
use store::{Event, ReadError, Revision, WatchError};

use crate::gate::Gate;
use crate::kinds::Kind;
use crate::storage::{Record, Storage, object, object_at};
use crate::verbs::list::{Choice, too_large};
use crate::{codec, limits};

/// What a watch begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Events behind a revision.
    After(u64),
    /// The present objects as added, then events.
    Now,
    /// The present objects as added, a bookmark that says that they were all, then events.
    NowWithMark,
}

/// One thing that a watch tells, with the store's event behind it, whose slot keeps encodings.
pub struct Told {
    /// What happened.
    pub event: WatchEvent,
    /// The store's event; `None` for initial objects and bookmarks.
    pub source: Option<Arc<Event<Record>>>,
}

/// A watch of one kind through selectors.
pub struct Watcher {
    kind: &'static Kind,
    choice: Choice,
    feed: store::Watch<Record>,
    waiting: VecDeque<Told>,
    stop: Stop,
}

impl Watcher {
    /// Opens a watch.
    pub fn open(
        gate: &Gate,
        kind: &'static Kind,
        namespace: &str,
        choice: Choice,
        start: Start,
    ) -> Result<Self, Status> {
        let store = gate.storage().store();
        let scope = match choice.fields.exact("metadata.name") {
            Some(name) if !kind.namespaced || !namespace.is_empty() => {
                store::Scope::Key(Storage::key(kind, namespace, name))
            }
            _ => Storage::scope(kind, namespace),
        };
        let mut waiting = VecDeque::new();
        let from = match start {
            Start::After(revision) => Revision(revision),
            Start::Now | Start::NowWithMark => {
                let page = store.list(&store::List::all(scope.clone())).map_err(refused)?;
                for entry in &page.entries {
                    let shared = object(entry);
                    if choice.shows(&shared) {
                        let event = WatchEvent::Added(codec::answer(kind, &shared)?);
                        waiting.push_back(Told { event, source: None });
                    }
                }
                if start == Start::NowWithMark {
                    let event = WatchEvent::Bookmark { revision: page.revision.0, initial_done: true };
                    waiting.push_back(Told { event, source: None });
                }
                page.revision
            }
        };
        let feed = store.watch(scope, from).map_err(refused)?;
        Ok(Self { kind, choice, feed, waiting, stop: gate.stop().clone() })
    }

    /// The next thing, or the error that ends the watch. `None` when the server stops.
    pub async fn next(&mut self) -> Option<Result<Told, Status>> {
        let stop = self.stop.clone();
        stop.or(std::future::poll_fn(|context| self.poll(context))).await.flatten()
    }

    /// The same for callers that are polled themselves, and that look out for the server's stop.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Told, Status>>> {
        loop {
            if let Some(told) = self.waiting.pop_front() {
                return Poll::Ready(Some(Ok(told)));
            }
            match ready!(Pin::new(&mut self.feed).poll_next(context)) {
                Some(Ok(batch)) => {
                    if let Err(status) = self.take(batch) {
                        return Poll::Ready(Some(Err(status)));
                    }
                }
                Some(Err(WatchError::Lagged { seen })) => {
                    let status = Status::expired(format!("too old resource version: {seen}"));
                    return Poll::Ready(Some(Err(status)));
                }
                Some(Err(WatchError::Closed { .. })) | None => return Poll::Ready(None),
            }
        }
    }

    /// The next thing, if it came together with what was given before.
    pub fn take_waiting(&mut self) -> Option<Told> {
        self.waiting.pop_front()
    }

    /// A bookmark of what was told so far.
    pub fn bookmark(&mut self) -> Told {
        let event = WatchEvent::Bookmark { revision: self.feed.progress().0, initial_done: false };
        Told { event, source: None }
    }

    fn take(&mut self, batch: store::Batch<Record>) -> Result<(), Status> {
        for source in batch.events {
            if let Some(event) = self.judge(&source)? {
                self.waiting.push_back(Told { event, source: Some(source) });
            }
        }
        Ok(())
    }

    /// What the event means to one who sees only what the selectors show.
    fn judge(&self, source: &Arc<Event<Record>>) -> Result<Option<WatchEvent>, Status> {
        let current = source.current.as_deref().map(object);
        let everything = self.choice.is_everything();
        let shown = current.as_ref().is_some_and(|object| everything || self.choice.shows(object));
        let was_shown =
            source.previous.as_deref().is_some_and(|entry| everything || self.choice.shows(&object(entry)));
        Ok(match (was_shown, shown, current) {
            (false, true, Some(current)) => Some(WatchEvent::Added(codec::answer(self.kind, &current)?)),
            (true, true, Some(current)) => Some(WatchEvent::Modified(codec::answer(self.kind, &current)?)),
            (true, _, _) => Some(WatchEvent::Deleted(codec::answer(self.kind, &last(source))?)),
            _ => None,
        })
    }
}

fn refused(error: ReadError) -> Status {
    match error {
        ReadError::Compacted { requested, compacted } => {
            Status::expired(format!("too old resource version: {requested} ({compacted})"))
        }
        ReadError::Future { requested, current } => too_large(requested.0, current.0),
        ReadError::TooManyWatchers => {
            Status::too_many_requests(error.to_string(), limits::RETRY_AFTER_SECONDS)
        }
    }
}

/// The object as it was last, with the revision of its going (or of its going out of view).
fn last(source: &Arc<Event<Record>>) -> Arc<Object> {
    let slot = source.encodings.get_or_insert_with(Encodings::default);
    let mut last = slot.last.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(last) = &*last {
        return Arc::clone(last);
    }
    let entry = source.previous.as_deref().expect("only what was there goes");
    let made = object_at(entry, source.revision);
    *last = Some(Arc::clone(&made));
    made
}

/// How an event is written for a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// What happened, as the watch sees it.
    pub verb: &'static str,
    /// The kind in the version of the request.
    pub kind: usize,
    /// Whole objects, metadata alone, or rows of a table.
    pub shape: u8,
}

/// What was made of an event once, for all its watchers.
#[derive(Default)]
pub struct Encodings {
    last: Mutex<Option<Arc<Object>>>,
    forms: Mutex<Vec<(Form, Bytes)>>,
}

/// The bytes of an event in a form, made once.
pub fn encoded(source: &Event<Record>, form: Form, make: impl FnOnce() -> Bytes) -> Bytes {
    let slot = source.encodings.get_or_insert_with(Encodings::default);
    let mut forms = slot.forms.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, bytes)) = forms.iter().find(|(other, _)| *other == form) {
        return bytes.clone();
    }
    let bytes = make();
    forms.push((form, bytes.clone()));
    bytes
}

//! Watchers. They hold no queue: each has the revision of the first event that it has not taken, and takes events
//! from the history that all share. So a slow watcher costs nothing, and is cut when the history forgets what it
//! has not taken.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use compact_str::CompactString;
use futures::Stream;
use futures::task::AtomicWaker;

use crate::error::{ReadError, WatchError};
use crate::key::{Key, Resource, Revision, Scope};
use crate::limits;
use crate::record::{Event, Record};
use crate::view::View;

/// `Pending::first` of a watcher that has taken everything.
const NOTHING: u64 = 0;

/// The side of a watcher that commits touch. All of it is read and written under the lock of the state: by commits
/// under the exclusive one, by the watcher itself under the shared one; the atomics only make that possible
/// without further locks.
#[derive(Default)]
pub(crate) struct Pending {
    /// The revision of the first event in scope that was not taken.
    first: AtomicU64,
    /// Where in its list of the registry the watcher is.
    position: AtomicUsize,
    waker: AtomicWaker,
}

type Listed = Vec<Arc<Pending>>;

/// All watchers, by scope.
#[derive(Default)]
pub(crate) struct Registry {
    all: Listed,
    resources: HashMap<Resource, ByResource>,
    count: usize,
    /// Who must be woken once the lock is free.
    woken: Vec<Waker>,
}

#[derive(Default)]
struct ByResource {
    all: Listed,
    namespaces: HashMap<CompactString, Listed>,
    keys: HashMap<Key, Listed>,
}

impl Registry {
    /// Tells everyone whom it concerns that `key` changed.
    pub(crate) fn notify(&mut self, key: &Key, revision: Revision) {
        let Self { all, resources, woken, .. } = self;
        wake(all, revision, woken);
        if let Some(of) = resources.get(&key.resource) {
            wake(&of.all, revision, woken);
            if let Some(listed) = of.namespaces.get(&key.namespace) {
                wake(listed, revision, woken);
            }
            if let Some(listed) = of.keys.get(key) {
                wake(listed, revision, woken);
            }
        }
    }

    /// Those to wake, now that the lock will be free.
    pub(crate) fn take_woken(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.woken)
    }

    /// Everyone, for the end of the store.
    pub(crate) fn wake_all(&mut self) {
        let of_resources = self.resources.values().flat_map(|of| {
            of.all.iter().chain(of.namespaces.values().flatten()).chain(of.keys.values().flatten())
        });
        self.woken.extend(self.all.iter().chain(of_resources).filter_map(|pending| pending.waker.take()));
    }

    fn listed(&mut self, scope: &Scope) -> &mut Listed {
        match scope {
            Scope::All => &mut self.all,
            Scope::Resource(resource) => &mut self.resources.entry(resource.clone()).or_default().all,
            Scope::Namespace(resource, namespace) => {
                let of = self.resources.entry(resource.clone()).or_default();
                of.namespaces.entry(namespace.clone()).or_default()
            }
            Scope::Key(key) => {
                let of = self.resources.entry(key.resource.clone()).or_default();
                of.keys.entry(key.clone()).or_default()
            }
        }
    }

    fn add(&mut self, scope: &Scope, pending: &Arc<Pending>) {
        self.count += 1;
        let listed = self.listed(scope);
        pending.position.store(listed.len(), Ordering::Relaxed);
        listed.push(Arc::clone(pending));
    }

    fn remove(&mut self, scope: &Scope, pending: &Pending) {
        self.count -= 1;
        let listed = self.listed(scope);
        let position = pending.position.load(Ordering::Relaxed);
        listed.swap_remove(position);
        if let Some(moved) = listed.get(position) {
            moved.position.store(position, Ordering::Relaxed);
        }
        if listed.is_empty() {
            self.forget(scope);
        }
    }

    /// Drops the empty lists of a scope, so that watches of single keys leave nothing behind.
    fn forget(&mut self, scope: &Scope) {
        let Some(of) = scope.resource().and_then(|resource| self.resources.get_mut(resource)) else { return };
        match scope {
            Scope::Namespace(_, namespace) => drop(of.namespaces.remove(namespace)),
            Scope::Key(key) => drop(of.keys.remove(key)),
            Scope::All | Scope::Resource(_) => {}
        }
    }
}

fn wake(listed: &Listed, revision: Revision, woken: &mut Vec<Waker>) {
    for pending in listed {
        if pending.first.load(Ordering::Relaxed) == NOTHING {
            pending.first.store(revision.0, Ordering::Relaxed);
            woken.extend(pending.waker.take());
        }
    }
}

/// Events that came together.
pub struct Batch<R> {
    /// In the order of revisions; never only a part of a revision's events in scope.
    pub events: Vec<Arc<Event<R>>>,
    /// Everything in scope up to here was delivered, with this batch.
    pub seen: Revision,
}

impl<R> std::fmt::Debug for Batch<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batch({:?}, seen {})", self.events, self.seen)
    }
}

/// A stream of what happens in a scope, with no gap. After an error it has ended.
pub struct Watch<R: Record> {
    view: Arc<View<R>>,
    scope: Scope,
    pending: Arc<Pending>,
    seen: Revision,
    ended: bool,
}

impl<R: Record> Watch<R> {
    /// Begins behind `from`.
    pub(crate) fn start(view: &Arc<View<R>>, scope: Scope, from: Revision) -> Result<Self, ReadError> {
        let mut state = view.write();
        if from < state.compacted {
            return Err(ReadError::Compacted { requested: from, compacted: state.compacted });
        }
        if from > state.revision {
            return Err(ReadError::Future { requested: from, current: state.revision });
        }
        if state.watchers.count >= limits::WATCHERS_MAX {
            return Err(ReadError::TooManyWatchers);
        }
        let missed = state.events_after(scope.resource(), from).find(|event| scope.contains(event.key()));
        let first = missed.map_or(NOTHING, |event| event.revision.0);
        let pending = Arc::new(Pending { first: AtomicU64::new(first), ..Pending::default() });
        state.watchers.add(&scope, &pending);
        drop(state);
        Ok(Self { view: Arc::clone(view), scope, pending, seen: from, ended: false })
    }

    /// The next events, as soon as there are any. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Batch<R>, WatchError> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// The next events, if there are any already.
    pub fn try_next(&mut self) -> Option<Result<Batch<R>, WatchError>> {
        self.take()
    }

    /// The newest revision up to which everything in scope was delivered: what a bookmark says. It moves on
    /// with revisions that are none of this watch's.
    pub fn progress(&mut self) -> Revision {
        let state = self.view.read();
        if self.pending.first.load(Ordering::Relaxed) == NOTHING && !self.ended {
            self.seen = state.revision;
        }
        self.seen
    }

    /// What is watched.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    fn poll(&mut self, context: &Context<'_>) -> Poll<Result<Batch<R>, WatchError>> {
        // Registered before looking, so that what comes in between wakes us.
        self.pending.waker.register(context.waker());
        self.take().map_or(Poll::Pending, Poll::Ready)
    }

    fn take(&mut self) -> Option<Result<Batch<R>, WatchError>> {
        let state = self.view.read();
        let first = self.pending.first.load(Ordering::Relaxed);
        if self.ended || (first == NOTHING && state.closed) {
            self.ended = true;
            return Some(Err(WatchError::Closed { seen: self.seen }));
        }
        if first == NOTHING {
            self.seen = state.revision;
            return None;
        }
        if Revision(first) <= state.compacted {
            self.ended = true;
            return Some(Err(WatchError::Lagged { seen: self.seen }));
        }
        let mut events: Vec<Arc<Event<R>>> = Vec::new();
        let mut rest = NOTHING;
        for event in state.events_after(self.scope.resource(), Revision(first - 1)) {
            if !self.scope.contains(event.key()) {
                continue;
            }
            let is_full = events.len() >= limits::WATCH_BATCH_EVENTS_MAX;
            if is_full && events.last().is_some_and(|last| last.revision < event.revision) {
                rest = event.revision.0;
                break;
            }
            events.push(Arc::clone(event));
        }
        self.pending.first.store(rest, Ordering::Relaxed);
        self.seen = match events.last() {
            Some(last) if rest != NOTHING => last.revision,
            _ => state.revision,
        };
        Some(Ok(Batch { events, seen: self.seen }))
    }
}

impl<R: Record> Stream for Watch<R> {
    type Item = Result<Batch<R>, WatchError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.poll(context).map(Some)
    }
}

impl<R: Record> Drop for Watch<R> {
    fn drop(&mut self) {
        self.view.write().watchers.remove(&self.scope, &self.pending);
    }
}

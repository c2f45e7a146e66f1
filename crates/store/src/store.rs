//! The door of this crate.

use std::sync::Arc;

use crate::engine::Engine;
use crate::error::{CommitError, OpenError, ReadError};
use crate::key::{Key, Revision, Scope};
use crate::log::{self, Recovery};
use crate::record::{Decode, Entry, Record};
use crate::staging;
use crate::state::{List, Page};
use crate::transaction::{Committed, Transaction};
use crate::view::View;
use crate::watch::Watch;

/// A revisioned map with watch. Clones share it.
pub struct Store<R: Record> {
    view: Arc<View<R>>,
    engine: Arc<dyn Engine<R>>,
    recovery: Arc<Recovery>,
}

impl<R: Record> Clone for Store<R> {
    fn clone(&self) -> Self {
        Self {
            view: Arc::clone(&self.view),
            engine: Arc::clone(&self.engine),
            recovery: Arc::clone(&self.recovery),
        }
    }
}

/// How large a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// How many keys there are.
    pub keys: usize,
    /// Bytes of the live values and keys.
    pub live_bytes: u64,
    /// How many events the history has.
    pub history_events: usize,
    /// Bytes of values that only the history holds.
    pub history_bytes: usize,
}

impl<R: Record> Store<R> {
    /// Opens the embedded engine, and blocks while it reads what is on disk. Call it outside of the runtime's
    /// workers, or before there is load.
    pub fn open(options: log::Options, decode: Decode<R>) -> Result<Self, OpenError> {
        let log::Opened { log, view, recovery } = log::open(options, decode)?;
        Ok(Self { view, engine: Arc::new(log), recovery: Arc::new(recovery) })
    }

    /// What was found on disk when the store was opened.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The newest revision that is visible here.
    pub fn revision(&self) -> Revision {
        self.view.read().revision
    }

    /// The oldest revision that can be read, and watched from.
    pub fn compacted(&self) -> Revision {
        self.view.read().compacted
    }

    /// How large it is.
    pub fn size(&self) -> Size {
        let state = self.view.read();
        let (history_events, history_bytes) = state.history_size();
        Size { keys: state.len(), live_bytes: state.live_bytes(), history_events, history_bytes }
    }

    /// Resolves when everything that any server had acknowledged before the call is visible here: at once in
    /// the embedded engine, after a round trip where several servers share the memory.
    pub async fn current(&self) -> Result<Revision, CommitError<R>> {
        self.engine.current().await
    }

    /// Does all steps of a transaction, or none. Resolves when it is durable; readers and watchers see it no
    /// sooner. If the future is dropped, the transaction may still happen.
    pub async fn commit(&self, transaction: Transaction<R>) -> Result<Committed<R>, CommitError<R>> {
        staging::validate(&transaction)?;
        self.engine.commit(transaction).await
    }

    /// What a key holds now.
    pub fn get(&self, key: &Key) -> Option<Arc<Entry<R>>> {
        self.view.read().get(key).cloned()
    }

    /// What a key holds now, and the revision at which that was so.
    pub fn get_with_revision(&self, key: &Key) -> (Option<Arc<Entry<R>>>, Revision) {
        let state = self.view.read();
        (state.get(key).cloned(), state.revision)
    }

    /// What a key held at a revision.
    pub fn get_at(&self, key: &Key, at: Revision) -> Result<Option<Arc<Entry<R>>>, ReadError> {
        self.view.read().get_at(key, at)
    }

    /// Part of a scope in the order of keys, all at one revision.
    pub fn list(&self, list: &List) -> Result<Page<R>, ReadError> {
        self.view.read().list(list)
    }

    /// What happens in a scope, from the first revision behind `from` on.
    pub fn watch(&self, scope: Scope, from: Revision) -> Result<Watch<R>, ReadError> {
        Watch::start(&self.view, scope, from)
    }

    /// Forgets history up to `revision`, which itself stays readable. The store forgets by itself what is older
    /// than its limits keep.
    pub async fn compact(&self, revision: Revision) -> Result<(), ReadError> {
        self.engine.compact(revision).await
    }

    /// Finishes the commits that wait, takes no more, ends the watches, and closes all files. Dropping the last
    /// clone does the same, without waiting for it.
    pub async fn close(&self) {
        self.engine.close().await;
    }
}

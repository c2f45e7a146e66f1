//! The state, shared by readers, watchers and the engine that changes it.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::record::Record;
use crate::state::{Change, State};

/// The state behind its lock. Only an engine changes it, and only after a change is durable.
pub(crate) struct View<R>(RwLock<State<R>>);

impl<R: Record> View<R> {
    pub(crate) fn new(state: State<R>) -> Self {
        Self(RwLock::new(state))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State<R>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State<R>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes durable changes visible, all at once, and wakes watchers.
    pub(crate) fn publish(&self, changes: Vec<Change<R>>, now_ms: i64) {
        let forgotten = self.change(|state| {
            for change in changes {
                state.apply(change, now_ms);
            }
            state.trim(now_ms)
        });
        // Readers do not wait for that.
        drop(forgotten);
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        self.change(|state| {
            state.closed = true;
            state.watchers.wake_all();
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut State<R>) -> T) -> T {
        let mut state = self.write();
        let outcome = change(&mut state);
        let woken = state.watchers.take_woken();
        drop(state);
        // Woken outside of the lock, for they come for it at once.
        for waker in woken {
            waker.wake();
        }
        outcome
    }
}

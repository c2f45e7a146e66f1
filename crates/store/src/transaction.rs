//! Changes that happen together or not at all.

use std::sync::Arc;

use jiff::Timestamp;
use smallvec::SmallVec;

use crate::key::{Key, Revision};
use crate::record::Entry;

/// What a key must be like for its operation, and with it the whole transaction, to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// Whatever it is.
    Any,
    /// Not there.
    Absent,
    /// There, in whatever version.
    Present,
    /// Last written at this revision.
    Modified(Revision),
}

/// What happens to one key.
pub enum Operation<R> {
    /// The key gets a new value.
    Put {
        /// The value.
        record: Arc<R>,
        /// When the store shall delete the key by itself.
        expires: Option<Timestamp>,
    },
    /// The key goes. Deleting what is not there changes nothing.
    Delete,
    /// Only the expectation counts.
    Check,
}

impl<R> Clone for Operation<R> {
    fn clone(&self) -> Self {
        match self {
            Self::Put { record, expires } => Self::Put { record: Arc::clone(record), expires: *expires },
            Self::Delete => Self::Delete,
            Self::Check => Self::Check,
        }
    }
}

/// One key's part of a transaction.
pub struct Step<R> {
    /// The key; a transaction names each at most once.
    pub key: Key,
    /// What it must be like.
    pub expect: Expectation,
    /// What happens to it.
    pub operation: Operation<R>,
}

impl<R> Clone for Step<R> {
    fn clone(&self) -> Self {
        Self { key: self.key.clone(), expect: self.expect, operation: self.operation.clone() }
    }
}

/// Steps that happen together, with one revision, or not at all.
pub struct Transaction<R> {
    /// In the order in which watchers see them.
    pub steps: SmallVec<[Step<R>; 1]>,
}

impl<R> Default for Transaction<R> {
    fn default() -> Self {
        Self { steps: SmallVec::new() }
    }
}

impl<R> Clone for Transaction<R> {
    fn clone(&self) -> Self {
        Self { steps: self.steps.clone() }
    }
}

impl<R> Transaction<R> {
    /// Without steps.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a step.
    #[must_use]
    pub fn step(mut self, key: Key, expect: Expectation, operation: Operation<R>) -> Self {
        self.steps.push(Step { key, expect, operation });
        self
    }

    /// Adds a step that writes `record`, forever.
    #[must_use]
    pub fn put(self, key: Key, expect: Expectation, record: Arc<R>) -> Self {
        self.step(key, expect, Operation::Put { record, expires: None })
    }

    /// Adds a step that writes `record` until `expires`.
    #[must_use]
    pub fn put_until(self, key: Key, expect: Expectation, record: Arc<R>, expires: Timestamp) -> Self {
        self.step(key, expect, Operation::Put { record, expires: Some(expires) })
    }

    /// Adds a step that deletes.
    #[must_use]
    pub fn delete(self, key: Key, expect: Expectation) -> Self {
        self.step(key, expect, Operation::Delete)
    }

    /// Adds a step that only checks.
    #[must_use]
    pub fn check(self, key: Key, expect: Expectation) -> Self {
        self.step(key, expect, Operation::Check)
    }
}

/// What became of one step.
pub struct Outcome<R> {
    /// What the key holds now.
    pub current: Option<Arc<Entry<R>>>,
    /// What it held before.
    pub previous: Option<Arc<Entry<R>>>,
}

impl<R> Clone for Outcome<R> {
    fn clone(&self) -> Self {
        Self { current: self.current.clone(), previous: self.previous.clone() }
    }
}

/// A transaction that is durable.
pub struct Committed<R> {
    /// The revision that it made; the revision before if it changed nothing.
    pub revision: Revision,
    /// One for each step, in order.
    pub outcomes: SmallVec<[Outcome<R>; 1]>,
}

impl<R> std::fmt::Debug for Committed<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Committed({}, {} steps)", self.revision, self.outcomes.len())
    }
}

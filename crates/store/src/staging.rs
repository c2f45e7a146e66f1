//! Decides transactions. Pure: the state and what this batch has decided before in, changes out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::error::{CommitError, Conflict, InvalidTransaction};
use crate::key::{Key, Revision};
use crate::limits;
use crate::record::{Entry, Record};
use crate::state::{Change, State};
use crate::transaction::{Committed, Expectation, Operation, Outcome, Step, Transaction};

/// Whether a transaction can happen at all, whatever the state.
pub(crate) fn validate<R: Record>(transaction: &Transaction<R>) -> Result<(), InvalidTransaction> {
    let count = transaction.steps.len();
    if count > limits::TRANSACTION_KEYS_MAX {
        return Err(InvalidTransaction::TooManyKeys(count));
    }
    let mut seen = HashSet::with_capacity(if count > 1 { count } else { 0 });
    let mut bytes = 0;
    for Step { key, operation, .. } in &transaction.steps {
        if !key.is_valid() {
            return Err(InvalidTransaction::Key(key.clone()));
        }
        if count > 1 && !seen.insert(key) {
            return Err(InvalidTransaction::DuplicateKey(key.clone()));
        }
        if let Operation::Put { record, .. } = operation {
            let size = record.bytes().len();
            if size > limits::VALUE_BYTES_MAX {
                return Err(InvalidTransaction::ValueTooLarge { key: key.clone(), size });
            }
            bytes += size;
        }
    }
    if bytes > limits::TRANSACTION_BYTES_MAX {
        return Err(InvalidTransaction::TooManyBytes);
    }
    Ok(())
}

/// What a group commit has decided but not yet written.
pub(crate) struct Staging<R> {
    overlay: HashMap<Key, Option<Arc<Entry<R>>>>,
    pub(crate) revision: Revision,
    pub(crate) changes: Vec<Change<R>>,
    pub(crate) value_bytes: usize,
}

impl<R: Record> Staging<R> {
    pub(crate) fn new(revision: Revision) -> Self {
        Self { overlay: HashMap::new(), revision, changes: Vec::new(), value_bytes: 0 }
    }

    /// Decides one transaction. Its changes, if it makes any, are added under the next revision.
    pub(crate) fn add(
        &mut self,
        state: &State<R>,
        transaction: &Transaction<R>,
    ) -> Result<Committed<R>, CommitError<R>> {
        for (index, step) in transaction.steps.iter().enumerate() {
            let current = self.current(state, &step.key);
            if !holds(step.expect, current.as_ref()) {
                return Err(CommitError::Conflict(Box::new(Conflict {
                    step: index,
                    key: step.key.clone(),
                    expected: step.expect,
                    current,
                    revision: self.revision,
                })));
            }
        }
        let revision = self.revision.next();
        let before = self.changes.len();
        let outcomes = transaction.steps.iter().map(|step| self.take(state, step, revision)).collect();
        if self.changes.len() > before {
            self.revision = revision;
        }
        Ok(Committed { revision: self.revision, outcomes })
    }

    fn current(&self, state: &State<R>, key: &Key) -> Option<Arc<Entry<R>>> {
        match self.overlay.get(key) {
            Some(staged) => staged.clone(),
            None => state.get(key).cloned(),
        }
    }

    fn take(&mut self, state: &State<R>, step: &Step<R>, revision: Revision) -> Outcome<R> {
        let previous = self.current(state, &step.key);
        let current = match &step.operation {
            Operation::Check => return Outcome { current: previous.clone(), previous },
            Operation::Delete if previous.is_none() => return Outcome { current: None, previous: None },
            Operation::Delete => None,
            Operation::Put { record, expires } => {
                self.value_bytes += record.bytes().len();
                let mut key = step.key.clone();
                key.resource = state.intern(&key.resource);
                Some(Arc::new(Entry {
                    key,
                    created: previous.as_ref().map_or(revision, |entry| entry.created),
                    modified: revision,
                    version: previous.as_ref().map_or(1, |entry| entry.version + 1),
                    // As precise as on disk, so that recovery finds the same.
                    expires: expires.map(whole_milliseconds),
                    record: Arc::clone(record),
                }))
            }
        };
        self.overlay.insert(step.key.clone(), current.clone());
        self.changes.push(Change { revision, current: current.clone(), previous: previous.clone() });
        Outcome { current, previous }
    }
}

fn whole_milliseconds(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}

fn holds<R>(expect: Expectation, current: Option<&Arc<Entry<R>>>) -> bool {
    match (expect, current) {
        (Expectation::Any, _) | (Expectation::Absent, None) | (Expectation::Present, Some(_)) => true,
        (Expectation::Modified(revision), Some(entry)) => entry.modified == revision,
        _ => false,
    }
}

//! What waits for the one who writes: a thread, or in the simulated world a task.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::Clock;
use tokio::sync::{Notify, oneshot};

use crate::error::CommitError;
use crate::limits;
use crate::transaction::{Committed, Transaction};

/// What became of a transaction.
pub(crate) type Answer<R> = Result<Committed<R>, CommitError<R>>;

pub(crate) type Reply<R> = oneshot::Sender<Answer<R>>;

pub(crate) enum Command<R> {
    Commit(Transaction<R>, Reply<R>),
    /// The snapshot of this number was written, or not.
    Rewritten {
        number: u64,
        result: io::Result<()>,
    },
}

pub(crate) struct Queue<R> {
    inner: Mutex<Inner<R>>,
    condvar: Condvar,
    notify: Notify,
}

struct Inner<R> {
    commands: Vec<Command<R>>,
    closed: bool,
}

/// What the writer gets.
pub(crate) struct Taken {
    /// No more commands will come.
    pub(crate) closed: bool,
}

impl<R> Queue<R> {
    pub(crate) fn new() -> Self {
        Self {
            inner: Mutex::new(Inner { commands: Vec::new(), closed: false }),
            condvar: Condvar::new(),
            notify: Notify::new(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner<R>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a commit.
    pub(crate) fn commit(&self, transaction: Transaction<R>, reply: Reply<R>) -> Result<(), CommitError<R>> {
        let mut inner = self.inner();
        if inner.closed {
            return Err(CommitError::Closed);
        }
        if inner.commands.len() >= limits::COMMIT_QUEUE_MAX {
            return Err(CommitError::Busy);
        }
        inner.commands.push(Command::Commit(transaction, reply));
        let is_first = inner.commands.len() == 1;
        drop(inner);
        if is_first {
            self.wake();
        }
        Ok(())
    }

    /// Adds what must not be refused.
    pub(crate) fn tell(&self, command: Command<R>) {
        self.inner().commands.push(command);
        self.wake();
    }

    pub(crate) fn close(&self) {
        self.inner().closed = true;
        self.wake();
    }

    fn wake(&self) {
        self.condvar.notify_one();
        self.notify.notify_one();
    }

    /// Moves what waits into `commands`, which is empty; waits at most `timeout` for there to be anything.
    pub(crate) fn take_blocking(&self, commands: &mut Vec<Command<R>>, timeout: Option<Duration>) -> Taken {
        let mut inner = self.inner();
        if inner.commands.is_empty() && !inner.closed {
            // Woken for nothing, it finds nothing, does what is due and comes back.
            inner = match timeout {
                None => self.condvar.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(timeout) => {
                    self.condvar.wait_timeout(inner, timeout).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        std::mem::swap(&mut inner.commands, commands);
        Taken { closed: inner.closed }
    }

    /// The same, for a task.
    pub(crate) async fn take(
        &self,
        commands: &mut Vec<Command<R>>,
        timeout: Option<Duration>,
        clock: &Clock,
    ) -> Taken {
        let is_waiting = || {
            let inner = self.inner();
            inner.commands.is_empty() && !inner.closed
        };
        if is_waiting() {
            match timeout {
                None => self.notify.notified().await,
                Some(timeout) => drop(clock.timeout(timeout, self.notify.notified()).await),
            }
        }
        let mut inner = self.inner();
        std::mem::swap(&mut inner.commands, commands);
        Taken { closed: inner.closed }
    }
}

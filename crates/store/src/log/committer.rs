//! The one who writes: takes all commits that wait, decides them in order, makes them durable with one sync, shows
//! them, and answers. Between commits it deletes what has expired, forgets old history and rewrites the log.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use base::{Backoff, Clock};
use tokio::sync::watch;
use tracing::{info, warn};

use super::files;
use super::format;
use super::queue::{Answer, Command, Queue, Reply};
use super::snapshot;
use super::writer::Writer;
use super::{RewriteLimits, milliseconds};
use crate::disk::Lock;
use crate::error::CommitError;
use crate::limits;
use crate::record::Record;
use crate::staging::Staging;
use crate::transaction::{Expectation, Transaction};
use crate::view::View;

/// Owns the log.
pub(crate) struct Committer<R: Record> {
    pub(crate) view: Arc<View<R>>,
    pub(crate) queue: Arc<Queue<R>>,
    pub(crate) writer: Writer,
    pub(crate) clock: Clock,
    pub(crate) rewrite: RewriteLimits,
    /// Whether snapshots are written beside commits, by a thread, or in between, for a world that repeats itself.
    pub(crate) beside: bool,
    pub(crate) frame: Vec<u8>,
    pub(crate) rewriting: Option<Rewriting>,
    pub(crate) rewrite_not_before: Duration,
    pub(crate) rewrite_backoff: Backoff,
    pub(crate) expiry_not_before: Duration,
    pub(crate) trim_at: Option<Duration>,
    /// Whether the last write failed, so that a change of that is logged once.
    pub(crate) failing: bool,
    /// Dropped last but one: when it is gone, another process may open the folder.
    pub(crate) lock: Option<Box<dyn Lock>>,
    pub(crate) done: watch::Sender<bool>,
}

/// A snapshot under way.
pub(crate) struct Rewriting {
    /// Bytes of the segments that it makes superfluous.
    earlier_bytes: u64,
    thread: Option<JoinHandle<()>>,
}

impl<R: Record> Committer<R> {
    /// Works until the queue is closed.
    pub(crate) fn run_blocking(mut self) {
        let mut commands = Vec::new();
        loop {
            let timeout = self.timeout();
            let taken = self.queue.take_blocking(&mut commands, timeout);
            if self.turn(&mut commands, taken.closed) {
                return;
            }
        }
    }

    /// The same, as a task.
    pub(crate) async fn run(mut self) {
        let (queue, clock) = (Arc::clone(&self.queue), self.clock.clone());
        let mut commands = Vec::new();
        loop {
            let timeout = self.timeout();
            let taken = queue.take(&mut commands, timeout, &clock).await;
            if self.turn(&mut commands, taken.closed) {
                return;
            }
        }
    }

    /// Does everything that is to be done now; true if that was the end.
    fn turn(&mut self, commands: &mut Vec<Command<R>>, closed: bool) -> bool {
        let is_last = closed && commands.is_empty();
        self.heal();
        self.do_commands(commands);
        self.expire();
        self.trim();
        self.tidy();
        is_last
    }

    /// How long nothing is to be done if nothing comes.
    fn timeout(&self) -> Option<Duration> {
        let now = self.clock.monotonic();
        let state = self.view.read();
        let expiry = state.next_expiry().map(|at| {
            let until = at.duration_since(self.clock.now());
            let until = Duration::try_from(until).unwrap_or(Duration::ZERO);
            // Looked at anew now and then, for the wall clock may jump.
            (now + until.min(limits::HISTORY_INTERVAL)).max(self.expiry_not_before)
        });
        drop(state);
        [expiry, self.trim_at, self.writer.heal_at()]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.saturating_sub(now).max(Duration::from_millis(1)))
    }

    fn do_commands(&mut self, commands: &mut Vec<Command<R>>) {
        let mut batch = Batch::new(self.view.read().revision);
        for command in commands.drain(..) {
            match command {
                Command::Commit(transaction, reply) => {
                    let result = batch.staging.add(&self.view.read(), &transaction);
                    batch.replies.push((reply, result));
                    if batch.staging.value_bytes >= limits::BATCH_BYTES_MAX {
                        self.finish(batch);
                        batch = Batch::new(self.view.read().revision);
                    }
                }
                Command::Rewritten { number, result } => self.rewritten(number, result),
            }
        }
        self.finish(batch);
        if self.frame.capacity() > limits::SNAPSHOT_FRAME_BYTES {
            self.frame = Vec::new();
        }
    }

    /// Makes a batch durable, shows it and answers.
    fn finish(&mut self, batch: Batch<R>) {
        let Batch { staging, replies } = batch;
        let written = if staging.changes.is_empty() { Ok(()) } else { self.write(&staging) };
        match written {
            Ok(()) => {
                if !staging.changes.is_empty() {
                    self.view.publish(staging.changes, milliseconds(self.clock.monotonic()));
                    self.trim_at.get_or_insert(self.clock.monotonic() + limits::HISTORY_INTERVAL);
                }
                for (reply, result) in replies {
                    // Who does not wait any more needs no answer.
                    let _ = reply.send(result);
                }
            }
            Err(error) => {
                // Conflicts too: what they conflict with may be part of this batch and has not happened.
                for (reply, _) in replies {
                    let _ = reply.send(Err(CommitError::Disk(Arc::clone(&error))));
                }
            }
        }
    }

    fn write(&mut self, staging: &Staging<R>) -> Result<(), Arc<io::Error>> {
        format::batch(self.clock.now(), &staging.changes, &mut self.frame);
        let revision = staging.changes.last().map_or(self.view.read().revision, |change| change.revision);
        let written = self.writer.append(&mut self.frame, revision, self.clock.monotonic());
        match (&written, self.failing) {
            (Err(error), false) => {
                warn!(%error, "the store cannot be written; it goes on by itself when the disk does");
            }
            (Ok(()), true) => info!("the store can be written again"),
            _ => {}
        }
        self.failing = written.is_err();
        written
    }

    /// Deletes what has expired. These are commits like any other.
    fn expire(&mut self) {
        let now = self.clock.now();
        if self.clock.monotonic() < self.expiry_not_before {
            return;
        }
        loop {
            let state = self.view.read();
            let keys = state.expired(now);
            if keys.is_empty() {
                return;
            }
            let mut transaction = Transaction::new();
            for key in keys {
                transaction = transaction.delete(key, Expectation::Any);
            }
            let mut staging = Staging::new(state.revision);
            let decided = staging.add(&state, &transaction);
            drop(state);
            if decided.is_err() || self.write(&staging).is_err() {
                self.expiry_not_before = self.clock.monotonic() + limits::HEAL_INTERVAL;
                return;
            }
            self.view.publish(staging.changes, milliseconds(self.clock.monotonic()));
        }
    }

    /// Forgets history that is too old while nothing is committed.
    fn trim(&mut self) {
        let now = self.clock.monotonic();
        if self.trim_at.is_some_and(|at| at <= now) {
            let now_ms = milliseconds(now);
            let mut state = self.view.write();
            let forgotten = state.trim(now_ms);
            let has_history = state.history_size().0 > 0;
            drop(state);
            drop(forgotten);
            self.view.read().drop_encodings(now_ms);
            self.trim_at = has_history.then(|| now + limits::HISTORY_INTERVAL);
        }
    }

    /// Begins a new segment when this one is long, and a snapshot when there is too much garbage.
    fn tidy(&mut self) {
        let now = self.clock.monotonic();
        let live = self.view.read().live_bytes();
        let too_large = self.rewrite.bytes_min.max(live.saturating_mul(self.rewrite.factor));
        let is_due = self.writer.sealed_by().is_none()
            && self.rewriting.is_none()
            && now >= self.rewrite_not_before
            && self.writer.log_bytes() > too_large;
        if !is_due && !self.writer.is_long() {
            return;
        }
        let revision = self.view.read().revision;
        let earlier_bytes = self.writer.log_bytes();
        // After a rewrite that failed, the segment that was begun for it may be empty still.
        if !self.writer.is_empty()
            && let Err(error) = self.writer.roll(revision, now)
        {
            warn!(%error, "the next segment of the log cannot be begun; this one is used on");
            self.rewrite_not_before = now + self.rewrite_backoff.fail();
            return;
        }
        if is_due {
            self.rewrite(earlier_bytes);
        }
    }

    /// Writes a snapshot to stand before the segment that was just begun.
    fn rewrite(&mut self, earlier_bytes: u64) {
        let state = self.view.read();
        let (entries, revision) = (state.live(), state.revision);
        drop(state);
        let number = self.writer.number();
        let header = self.writer.snapshot_header(number, revision);
        let disk = Arc::clone(&self.writer.disk);
        let work = move || {
            let result = snapshot::make_of(&*disk, &header, &entries);
            if result.is_ok() {
                files::remove_before(&*disk, number);
            }
            result
        };
        if !self.beside {
            self.rewriting = Some(Rewriting { earlier_bytes, thread: None });
            let result = work();
            self.rewritten(number, result);
            return;
        }
        let queue = Arc::clone(&self.queue);
        let told = move || queue.tell(Command::Rewritten { number, result: work() });
        match std::thread::Builder::new().name("store-rewrite".to_owned()).spawn(told) {
            Ok(thread) => self.rewriting = Some(Rewriting { earlier_bytes, thread: Some(thread) }),
            Err(error) => {
                warn!(%error, "no thread to rewrite the log; it grows on until there is one");
                self.rewrite_not_before = self.clock.monotonic() + self.rewrite_backoff.fail();
            }
        }
    }

    fn rewritten(&mut self, number: u64, result: io::Result<()>) {
        let Some(rewriting) = self.rewriting.take() else { return };
        if let Some(thread) = rewriting.thread {
            // It has sent its last word already.
            let _ = thread.join();
        }
        match result {
            Ok(()) => {
                self.rewrite_backoff.succeed();
                self.writer.forget_before(rewriting.earlier_bytes);
            }
            Err(error) => {
                warn!(%error, number, "the log could not be rewritten; it grows on until it can");
                self.rewrite_not_before = self.clock.monotonic() + self.rewrite_backoff.fail();
            }
        }
    }

    /// After a failed sync, writes all that is known to have happened to a new place and goes on there.
    fn heal(&mut self) {
        let now = self.clock.monotonic();
        // A snapshot that is being written beside must not take its name after the one that is written here.
        if self.rewriting.is_some() || self.writer.heal_at().is_none_or(|at| at > now) {
            return;
        }
        let state = self.view.read();
        let (entries, revision) = (state.live(), state.revision);
        drop(state);
        let disk = Arc::clone(&self.writer.disk);
        let healed = files::Files::list(&*disk).and_then(|found| {
            let newest = found.segments.iter().chain(&found.snapshots).max().copied().unwrap_or_default();
            let number = newest.max(self.writer.number()) + 1;
            // The segment is promised first, and gets its name last: beside the sealed one it would not fit.
            self.writer.promise(number, revision)?;
            snapshot::make_of(&*disk, &self.writer.snapshot_header(number, revision), &entries)?;
            self.writer.restart(number, revision)?;
            Ok(number)
        });
        match healed {
            Ok(number) => {
                files::remove_before(&*disk, number);
                info!(number, "the store was written anew after a failure of the disk");
            }
            Err(error) => {
                warn!(%error, "the store cannot be written anew; the next try follows");
                self.writer.postpone(self.clock.monotonic());
            }
        }
    }
}

impl<R: Record> Drop for Committer<R> {
    /// Also after a panic: who waits is told, and the folder is free.
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.rewriting.take().and_then(|rewriting| rewriting.thread) {
            let _ = thread.join();
        }
        let mut left = Vec::new();
        self.queue.take_blocking(&mut left, Some(Duration::ZERO));
        drop(left);
        self.view.close();
        self.lock = None;
        self.done.send_replace(true);
    }
}

/// Commits that share a sync.
struct Batch<R> {
    staging: Staging<R>,
    replies: Vec<(Reply<R>, Answer<R>)>,
}

impl<R: Record> Batch<R> {
    fn new(revision: crate::key::Revision) -> Self {
        Self { staging: Staging::new(revision), replies: Vec::new() }
    }
}

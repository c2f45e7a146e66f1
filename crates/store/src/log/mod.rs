//! The embedded engine: an append-only log on one disk, whole in memory.

mod committer;
mod files;
mod format;
mod inspect;
mod queue;
mod reach;
mod reader;
mod replay;
mod snapshot;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base::{Backoff, Clock, Random, Tasks};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

use crate::disk::Disk;
use crate::engine::Engine;
use crate::error::{CommitError, OpenError, ReadError};
use crate::key::Revision;
use crate::limits;
use crate::record::{Decode, Entry, Record};
use crate::state::{Change, HistoryLimits, State};
use crate::transaction::{Committed, Transaction};
use crate::view::View;
use committer::Committer;
use files::failed;
pub use format::FileKind;
pub use inspect::{Inspection, inspect, salvage};
use queue::Queue;
pub use replay::{FileReport, Salvage};
use replay::{Raw, Replay, replay};
use writer::Writer;

/// Below this many values, decoding them is not worth a second thread.
const DECODE_ALONE_MAX: usize = 1000;

/// Who writes.
#[derive(Clone, Debug)]
pub enum Drive {
    /// A thread of its own, for it waits for the disk.
    Thread,
    /// A task on the current runtime, so that a simulation repeats itself; the disk must be a simulated one, for
    /// it blocks the runtime.
    Task(Tasks),
}

/// When the log is rewritten.
#[derive(Clone, Copy, Debug)]
pub struct RewriteLimits {
    /// Not below this size.
    pub bytes_min: u64,
    /// When it is so many times as large as what is alive.
    pub factor: u64,
}

impl Default for RewriteLimits {
    fn default() -> Self {
        Self { bytes_min: limits::REWRITE_BYTES_MIN, factor: limits::REWRITE_FACTOR }
    }
}

/// How to open a store.
#[derive(Clone)]
pub struct Options {
    /// Where it lies.
    pub disk: Arc<dyn Disk>,
    /// For expiry and the age of history.
    pub clock: Clock,
    /// For the salts of files.
    pub random: Random,
    /// Who writes.
    pub drive: Drive,
    /// What the layer above calls the encoding of its values; files of another codec are refused.
    pub codec: u32,
    /// How much of the past is kept.
    pub history: HistoryLimits,
    /// When the log is rewritten.
    pub rewrite: RewriteLimits,
    /// By how much segments grow at a time. A simulated disk, whose every byte is memory, wants little.
    pub growth_bytes: u64,
}

impl Options {
    /// A store on `disk` with a thread of its own and the usual limits.
    pub fn new(disk: impl Disk, clock: Clock, random: Random) -> Self {
        Self {
            disk: Arc::new(disk),
            clock,
            random,
            drive: Drive::Thread,
            codec: 0,
            history: HistoryLimits::default(),
            rewrite: RewriteLimits::default(),
            growth_bytes: limits::SEGMENT_GROWTH_BYTES,
        }
    }
}

/// What was found on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The newest revision.
    pub revision: Revision,
    /// How many keys are alive.
    pub keys: usize,
    /// Each file that was read.
    pub files: Vec<FileReport>,
    /// Bytes of a write that was cut short and had not been acknowledged: they were cut off.
    pub torn_bytes: u64,
}

/// The embedded engine.
pub(crate) struct Log<R: Record> {
    view: Arc<View<R>>,
    queue: Arc<Queue<R>>,
    done: watch::Receiver<bool>,
}

/// A store that is open.
pub(crate) struct Opened<R: Record> {
    pub(crate) log: Log<R>,
    pub(crate) view: Arc<View<R>>,
    pub(crate) recovery: Recovery,
}

/// Reads what is on disk and starts the writer.
pub(crate) fn open<R: Record>(options: Options, decode: Decode<R>) -> Result<Opened<R>, OpenError> {
    let Options { disk, clock, random, drive, codec, history, rewrite, growth_bytes } = options;
    let lock = disk.lock().map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { path: disk.path("LOCK") },
        _ => OpenError::Disk { path: disk.path("LOCK"), action: "locked", source },
    })?;
    let mut replayed = replay::<R>(&*disk, codec, history, clock.now(), Salvage::Whole)?;
    if !replayed.damage.is_empty() {
        return Err(OpenError::Damaged(replayed.damage.swap_remove(0)));
    }
    // The segment that a snapshot waits for keeps its unfinished name until it has its own.
    let awaited = files::unfinished(FileKind::Segment, replayed.number);
    for name in replayed.unfinished.iter().filter(|name| **name != awaited) {
        disk.remove(name).map_err(failed(&*disk, name, "removed"))?;
    }
    // A process that was killed may have given a file its name and not made that durable; older ones go below.
    disk.sync().map_err(failed(&*disk, "", "synced"))?;
    let recovery = Recovery {
        revision: replayed.revision,
        keys: replayed.live.len(),
        files: std::mem::take(&mut replayed.files),
        torn_bytes: replayed.tail.as_ref().map_or(0, |tail| tail.torn_bytes),
    };
    if recovery.torn_bytes > 0 {
        warn!(bytes = recovery.torn_bytes, revision = %recovery.revision, "cut off an unfinished write");
    }
    let name = files::name(FileKind::Segment, replayed.number);
    let number = replayed.number;
    let settings = writer::Settings { random, codec, growth_bytes };
    let writer = Writer::open(Arc::clone(&disk), settings, replayed.take_end())
        .map_err(failed(&*disk, &name, "written"))?;
    files::remove_before(&*disk, first_needed(&recovery, number));
    let has_threads = matches!(drive, Drive::Thread);
    let state = build(replayed, &decode, history, &clock, has_threads)?;
    info!(revision = %recovery.revision, keys = recovery.keys, "opened the store");

    let view = Arc::new(View::new(state));
    let queue = Arc::new(Queue::new());
    let (done, finished) = watch::channel(false);
    let committer = Committer {
        view: Arc::clone(&view),
        queue: Arc::clone(&queue),
        writer,
        trim_at: Some(clock.monotonic() + limits::HISTORY_INTERVAL),
        clock,
        rewrite,
        beside: has_threads,
        frame: Vec::new(),
        rewriting: None,
        rewrite_not_before: Duration::ZERO,
        rewrite_backoff: Backoff::new(limits::HEAL_INTERVAL, limits::REWRITE_RETRY_MAX),
        expiry_not_before: Duration::ZERO,
        failing: false,
        lock: Some(lock),
        done,
    };
    match drive {
        Drive::Thread => {
            let thread = std::thread::Builder::new().name("store-commit".to_owned());
            thread.spawn(move || committer.run_blocking()).map_err(failed(&*disk, "", "given a thread"))?;
        }
        Drive::Task(tasks) => tasks.spawn("store-commit", committer.run()),
    }
    let log = Log { view: Arc::clone(&view), queue, done: finished };
    Ok(Opened { log, view, recovery })
}

/// The number of the snapshot that was read: what is older is superfluous.
fn first_needed(recovery: &Recovery, newest: u64) -> u64 {
    let segments = recovery.files.iter().filter(|file| file.kind == FileKind::Segment).count() as u64;
    (newest + 1).saturating_sub(segments.max(1))
}

/// Decodes what is needed and puts it in order.
fn build<R: Record>(
    mut replayed: Replay<R>,
    decode: &Decode<R>,
    history: HistoryLimits,
    clock: &Clock,
    has_threads: bool,
) -> Result<State<R>, OpenError> {
    let events = replayed.take_events();
    let live: Vec<Arc<Raw<R>>> = std::mem::take(&mut replayed.live).into_values().collect();
    let threads = match std::thread::available_parallelism() {
        Ok(count) if has_threads && live.len() > DECODE_ALONE_MAX => count.get(),
        _ => 1,
    };
    let per_thread = live.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let parts: Vec<_> = live
            .chunks(per_thread)
            .skip(1)
            .map(|part| scope.spawn(move || part.iter().try_for_each(|raw| entry(raw, decode).map(drop))))
            .collect();
        let own = live.iter().take(per_thread).try_for_each(|raw| entry(raw, decode).map(drop));
        parts
            .into_iter()
            .try_fold(own?, |(), part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let mut state = State::new(replayed.revision, history);
    state.compacted = replayed.compacted;
    for raw in &live {
        state.load(entry(raw, decode)?);
    }
    let (now, now_ms) = (clock.now(), milliseconds(clock.monotonic()));
    for event in events {
        let current = event.current.as_ref().map(|raw| entry(raw, decode)).transpose()?;
        let previous = event.previous.as_ref().map(|raw| entry(raw, decode)).transpose()?;
        let age_ms = now.as_millisecond().saturating_sub(event.time.as_millisecond()).max(0);
        state.recall(Change { revision: event.revision, current, previous }, now_ms.saturating_sub(age_ms));
    }
    Ok(state)
}

/// A version with its value decoded, once.
fn entry<R: Record>(raw: &Raw<R>, decode: &Decode<R>) -> Result<Arc<Entry<R>>, OpenError> {
    if let Some(entry) = raw.decoded.get() {
        return Ok(Arc::clone(entry));
    }
    let record = decode(&raw.key, raw.value.clone())
        .map_err(|source| OpenError::Decode { key: raw.key.clone(), source })?;
    let entry = Arc::new(Entry {
        key: raw.key.clone(),
        created: raw.created,
        modified: raw.modified,
        version: raw.version,
        expires: raw.expires,
        record,
    });
    Ok(Arc::clone(raw.decoded.get_or_init(|| entry)))
}

/// Time since the clock was made, as the history counts it.
fn milliseconds(monotonic: Duration) -> i64 {
    i64::try_from(monotonic.as_millis()).unwrap_or(i64::MAX)
}

impl<R: Record> Engine<R> for Log<R> {
    fn commit(&self, transaction: Transaction<R>) -> BoxFuture<'_, Result<Committed<R>, CommitError<R>>> {
        async move {
            let (reply, answer) = oneshot::channel();
            self.queue.commit(transaction, reply)?;
            answer.await.unwrap_or(Err(CommitError::Closed))
        }
        .boxed()
    }

    fn current(&self) -> BoxFuture<'_, Result<Revision, CommitError<R>>> {
        // All writes come from this process, and are visible before they are acknowledged.
        let revision = self.view.read().revision;
        std::future::ready(Ok(revision)).boxed()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), ReadError>> {
        let mut state = self.view.write();
        let result = if revision > state.revision {
            Err(ReadError::Future { requested: revision, current: state.revision })
        } else if revision < state.compacted {
            Err(ReadError::Compacted { requested: revision, compacted: state.compacted })
        } else {
            Ok(state.compact(revision))
        };
        drop(state);
        // What was forgotten is dropped here, where nobody waits for the lock.
        std::future::ready(result.map(drop)).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.queue.close();
        let mut done = self.done.clone();
        async move {
            // An error means that the writer is gone, which is what we wait for.
            let _ = done.wait_for(|is_done| *is_done).await;
        }
        .boxed()
    }
}

impl<R: Record> Drop for Log<R> {
    fn drop(&mut self) {
        self.queue.close();
    }
}

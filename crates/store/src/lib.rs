//! Memory: a revisioned map with watch, with etcd's semantics.
//!
//! One revision counts all changes of all keys. [`Store::commit`] does several steps together or not at all, each if
//! its key is as expected, and resolves when they are durable. [`Store::get`] and [`Store::list`] read the present,
//! or the past as far as history goes; [`Store::watch`] tells what happens from a revision on, without gap. Keys can
//! expire. The only engine in this crate is the embedded one, [`log`]; what differs between engines is the small
//! trait in `engine.rs`, and `conformance.rs` is the suite that each must pass.
//!
//! # Invariants
//!
//! - This crate knows no Kubernetes: resources are names, values are bytes ([`Record`]).
//! - A value is held once. Readers, watchers and history share the `Arc` that was committed; values are decoded only
//!   when a store is opened, once each, from copies of their own.
//! - Nobody sees a change before it is durable: neither readers nor watchers, nor a writer in a conflict.
//! - One thread (in the simulated world: one task) owns the log and is the only one that changes the state; it
//!   publishes a whole group commit under one short lock. Deciding (`staging.rs`) and the state (`state/`) are pure.
//! - A watcher has no queue. It takes its events from the history that all share, when it likes, so that none can hold
//!   up a commit; one that comes too late gets [`WatchError::Lagged`], never a gap. A watcher that missed nothing of
//!   its scope is never cut, however much else was forgotten.
//! - History is bounded by age, events and bytes ([`HistoryLimits`]), encodings beside its events more tightly; it is not part of snapshots. After a restart it
//!   reaches back to the last snapshot at most. Compaction is not written down: after a restart more of the past may
//!   be readable than before, never less than the newest revision.
//! - All limits are in [`limits`]. All disk access goes through [`Disk`].
//!
//! # On disk
//!
//! A folder holds `LOCK` (locked by flock while a store is open; its content means nothing), segments
//! `<number>.log` and at most a few snapshots `<number>.snapshot`, numbers being 16 hexadecimal digits. What ends in
//! `.new` is unfinished and ignored: a file gets its name when it is whole and synced, and then the folder is synced.
//!
//! The state is the snapshot with the highest number N (or nothing, if there is none) and, on top of it, the changes
//! in segments N, N+1, ... without gap (segment 1 and on, without a snapshot). Everything older is superfluous and
//! removed. Segment N is there before snapshot N is, or at least its unfinished name, which promises it (after a failed
//! sync): a snapshot without either has lost all that came after it.
//!
//! `REACH` says up to where the log was durable once: `ondolend`, number of the segment, offset in it, newest revision (8
//! bytes each), CRC-32 of all that. It is written after every group commit and synced only with a new segment, so it may
//! be behind, never ahead, and counts only if it is whole.
//!
//! All numbers are little-endian. A file begins with 64 bytes:
//!
//! | bytes | what |
//! |---|---|
//! | 0-7 | `ondollog` |
//! | 8-11 | format, now 1; a program refuses what it does not know |
//! | 12-15 | codec of the values, chosen by the layer above; another one is refused |
//! | 16-19 | 1 for a segment, 2 for a snapshot |
//! | 20-23 | marker: four random bytes that are not zero |
//! | 24-31 | the file's number, as in its name |
//! | 32-39 | revision: the newest before a segment, or that of a snapshot |
//! | 40-47 | salt: eight random bytes |
//! | 48-59 | zero |
//! | 60-63 | CRC-32 (IEEE) of bytes 0-59 |
//!
//! Frames follow, one behind the other: marker (4 bytes), length of the body (4), CRC-32 of salt, offset of the frame
//! in the file (8), length (4) and body (4), and the body. A value cannot imitate a frame, for it cannot know marker
//! and salt. Behind the last frame a segment may have zeros, room for the next ones.
//!
//! The first byte of a body says what it is. **1, a group commit** (segments only): wall time in milliseconds (8),
//! number of changes (4), and for each its revision (8), 1 for put or 2 for delete, length (2) and text of the key's
//! path, and for a put its expiry in milliseconds (8, the least number for never), length (4) and bytes of the value.
//! Revisions grow by one from transaction to transaction; changes of one transaction share theirs. **2, entries**
//! (snapshots only): their number (4), and for each creation, modification and version (8 each), expiry, path and
//! value as above. **3, end** (snapshots only): the number of all entries (8); a snapshot without it is not whole.
//!
//! # What may be trusted
//!
//! A group commit is one frame, and the next is written only after the one before is durable. So at most one frame,
//! the last, can be torn by a crash: what is no frame and has no whole frame behind it is cut off, for it was never
//! acknowledged. What is no frame and has a whole one behind it was durable once and is damage: the store is not
//! opened, [`Damage`] says where, and [`log::inspect`] and [`log::salvage`] show and save what is left. A log that ends
//! before the place that `REACH` knows is damage too: a file is gone, or its end is zeros, and going on would give out
//! revisions a second time.
//!
//! A write that fails (a full disk) is cut off again, its commits get [`CommitError::Disk`], and the next commit tries
//! anew. After a failed sync nobody knows what the file holds, and a second sync that succeeds proves nothing: the
//! segment is never written again. All that is known to be durable is written to a new snapshot and a new segment;
//! until that succeeds, writes fail, and reads go on.

#[cfg(test)]
mod conformance;
mod disk;
mod engine;
mod error;
mod key;
pub mod limits;
pub mod log;
mod record;
mod staging;
mod state;
mod store;
#[cfg(test)]
mod testing;
mod transaction;
mod view;
mod watch;

pub use disk::{Disk, File, Folder, Lock, SimulatedDisk};
pub use error::{CommitError, Conflict, Damage, InvalidTransaction, OpenError, ReadError, WatchError};
pub use key::{Key, Resource, Revision, Scope};
pub use log::{Drive, Options, Recovery, RewriteLimits};
pub use record::{Decode, DecodeError, Entry, Event, Record, Slot};
pub use state::{HistoryLimits, List, Page};
pub use store::{Size, Store};
pub use transaction::{Committed, Expectation, Operation, Outcome, Step, Transaction};
pub use watch::{Batch, Watch};

//! Every limit of this crate, by name.

use std::time::Duration;

/// Longest value of one key: the largest body that the API takes.
pub const VALUE_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Longest path of a key (`/registry/<resource>/<namespace>/<name>`), in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// Most keys that one transaction names.
pub const TRANSACTION_KEYS_MAX: usize = 512;

/// Most bytes of values that one transaction writes.
pub const TRANSACTION_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Most commits that wait for the disk; the next one is refused with [`crate::CommitError::Busy`].
pub const COMMIT_QUEUE_MAX: usize = 16 * 1024;

/// Most bytes of values that one group commit writes before it syncs.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Longest frame body that a reader accepts: one full group commit and one transaction that overshoots it, with
/// their keys.
pub const FRAME_BYTES_MAX: usize = BATCH_BYTES_MAX
    + TRANSACTION_BYTES_MAX
    + (COMMIT_QUEUE_MAX + TRANSACTION_KEYS_MAX) * (KEY_BYTES_MAX + 64);

/// History younger than this is kept, as long as the two bounds below allow: as long as upstream keeps it.
pub const HISTORY_AGE: Duration = Duration::from_secs(5 * 60);

/// Most events that the history keeps.
pub const HISTORY_EVENTS_MAX: usize = 100_000;

/// Most bytes that live in the history alone: values that were replaced or deleted, and what they and the events cost
/// beside their values.
pub const HISTORY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What an event costs, roughly: itself and its places in two lists.
pub const EVENT_BYTES: usize = 128;

/// What a version costs beside its value, roughly: its key, and what the layer above remembers of it. Of small values
/// this is the greater part.
pub const VERSION_BYTES: usize = 896;

/// How often history is checked for age while there is any.
pub const HISTORY_INTERVAL: Duration = Duration::from_secs(30);

/// Encodings are dropped from events that have this many younger ones: only a watcher that lags far behind
/// encodes them again.
pub const ENCODED_EVENTS_MAX: usize = 1024;

/// The same for events behind which so many bytes of younger values came.
pub const ENCODED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Encodings of events older than this are dropped whenever history is checked for age: by then every watcher that
/// keeps up has sent them.
pub const ENCODED_AGE: Duration = Duration::from_secs(10);

/// Most events that one call of [`crate::Watch::next`] returns, but for those of the last revision.
pub const WATCH_BATCH_EVENTS_MAX: usize = 256;

/// Most watchers at a time.
pub const WATCHERS_MAX: usize = 100_000;

/// Most keys that one sweep of expired keys deletes with one revision.
pub const EXPIRY_KEYS_MAX: usize = 256;

/// Size at which a log segment is closed and the next one begun.
pub const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Segments grow by this much at a time, so that a commit need not wait for the file system's own journal.
pub const SEGMENT_GROWTH_BYTES: u64 = 4 * 1024 * 1024;

/// The log is never rewritten below this size.
pub const REWRITE_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// The log is rewritten when it is this many times larger than what is alive in it.
pub const REWRITE_FACTOR: u64 = 2;

/// Size of the frames of a snapshot, but for a larger single value.
pub const SNAPSHOT_FRAME_BYTES: usize = 1024 * 1024;

/// A rewrite that fails again and again is tried this often at last.
pub const REWRITE_RETRY_MAX: Duration = Duration::from_secs(5 * 60);

/// After a failed sync the next try waits this long; after a failed rewrite the first.
pub const HEAL_INTERVAL: Duration = Duration::from_secs(1);

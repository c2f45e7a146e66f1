//! What callers can be told, named by what they can do.

use std::fmt;
use std::io;
use std::sync::Arc;

use thiserror::Error;

use crate::key::{Key, Revision};
use crate::limits;
use crate::record::Entry;
use crate::transaction::Expectation;

/// Why a transaction did not happen.
#[derive(Error)]
pub enum CommitError<R> {
    /// A key was not as expected. Nothing happened; look at what is there and decide anew.
    #[error("{} is not as the write expects it; read it again and retry", .0.key)]
    Conflict(Box<Conflict<R>>),
    /// The transaction can never happen.
    #[error(transparent)]
    Invalid(#[from] InvalidTransaction),
    /// Too many writes wait for the disk. Nothing happened; try again later.
    #[error("{} writes wait for the disk already; retry later", limits::COMMIT_QUEUE_MAX)]
    Busy,
    /// The disk refused. Reads go on, and writes do again as soon as the disk takes them.
    #[error("the write could not be stored; {}", advice(.0))]
    Disk(#[source] Arc<io::Error>),
    /// The store is shutting down. The write may have happened if it was already waiting.
    #[error("the store is closed; retry when the server is up again")]
    Closed,
}

impl<R> CommitError<R> {
    /// What is at the key that was not as expected.
    pub fn conflict(&self) -> Option<&Conflict<R>> {
        match self {
            Self::Conflict(conflict) => Some(conflict),
            _ => None,
        }
    }

    /// Whether the disk had no room.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Disk(source) if is_full(source))
    }
}

impl<R> fmt::Debug for CommitError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict(conflict) => conflict.fmt(f),
            Self::Invalid(invalid) => invalid.fmt(f),
            Self::Busy => f.write_str("Busy"),
            Self::Disk(source) => write!(f, "Disk({source:?})"),
            Self::Closed => f.write_str("Closed"),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn advice(error: &io::Error) -> &'static str {
    if is_full(error) {
        "the disk is full: free some space, and writing goes on by itself"
    } else {
        "look at the kernel log for errors of the disk"
    }
}

/// A key that was not as expected.
pub struct Conflict<R> {
    /// Which step of the transaction it was.
    pub step: usize,
    /// Its key.
    pub key: Key,
    /// What the step expected.
    pub expected: Expectation,
    /// What is there.
    pub current: Option<Arc<Entry<R>>>,
    /// The store's revision at which this was seen.
    pub revision: Revision,
}

impl<R> fmt::Debug for Conflict<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Conflict({}, expected {:?}, found {:?})", self.key, self.expected, self.current)
    }
}

/// Why a transaction can never happen.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InvalidTransaction {
    /// A value is too long.
    #[error("the value of {key} has {size} bytes, more than {}; store less", limits::VALUE_BYTES_MAX)]
    ValueTooLarge {
        /// Whose value.
        key: Key,
        /// How long it is.
        size: usize,
    },
    /// All values together are too long.
    #[error("the transaction writes more than {} bytes; split it", limits::TRANSACTION_BYTES_MAX)]
    TooManyBytes,
    /// There are too many keys.
    #[error("the transaction names {0} keys, more than {max}; split it", max = limits::TRANSACTION_KEYS_MAX)]
    TooManyKeys(usize),
    /// A key is named twice.
    #[error("the transaction names {0} twice; name each key once")]
    DuplicateKey(Key),
    /// A key has no path, or one that is too long.
    #[error(
        "{0:?} is no key: its parts must be non-empty, without slash and NUL, at most {max} bytes in all",
        max = limits::KEY_BYTES_MAX
    )]
    Key(Key),
}

/// Why something of the past cannot be read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ReadError {
    /// It was forgotten. List anew and watch from there.
    #[error("revision {requested} was compacted, history begins at {compacted}; list anew")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision that can be read.
        compacted: Revision,
    },
    /// It has not happened yet.
    #[error("revision {requested} is not there yet, the store is at {current}; wait or list anew")]
    Future {
        /// What was asked for.
        requested: Revision,
        /// The newest revision.
        current: Revision,
    },
    /// There are too many watchers.
    #[error("{} watches are open already; close some or retry later", limits::WATCHERS_MAX)]
    TooManyWatchers,
}

/// Why a watch ended.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum WatchError {
    /// The watcher did not take its events in time, and they were forgotten. List anew and watch from there.
    #[error("the watch fell behind: events after revision {seen} were forgotten; list anew")]
    Lagged {
        /// Everything up to here was delivered.
        seen: Revision,
    },
    /// The store is shutting down.
    #[error("the store is closed; watch again from revision {seen} when the server is up")]
    Closed {
        /// Everything up to here was delivered.
        seen: Revision,
    },
}

/// Why a store cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{path} is in use by another process; stop that one first")]
    Locked {
        /// The lock file.
        path: String,
    },
    /// The disk refused.
    #[error("{path} cannot be {action}; check the disk and the permissions")]
    Disk {
        /// Which file or folder.
        path: String,
        /// What was tried.
        action: &'static str,
        /// What the disk said.
        #[source]
        source: io::Error,
    },
    /// The files were written by a version of this program that knows more.
    #[error(
        "{path} has format {found}, this program reads up to {known}; start the newer program that wrote it"
    )]
    Format {
        /// Which file.
        path: String,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The files hold values in a codec that this store was not opened for.
    #[error("{path} has codec {found}, this program reads codec {known}; start the program that wrote it")]
    Codec {
        /// Which file.
        path: String,
        /// Its codec.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Something that was written is not there any more as it was.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// A value is intact, but the layer above cannot read it.
    #[error("the value of {key} cannot be decoded; start the program that wrote it")]
    Decode {
        /// Whose value.
        key: Key,
        /// What the decoder said.
        #[source]
        source: crate::record::DecodeError,
    },
}

/// Where a store is damaged, and what is left.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "{path} is damaged at byte {offset}: {reason}. Everything up to revision {intact} can be saved{}. \
     Nothing was changed; copy the folder away, then salvage it",
    rest(.behind)
)]
pub struct Damage {
    /// The damaged file.
    pub path: String,
    /// Where it is damaged.
    pub offset: u64,
    /// What is wrong there.
    pub reason: String,
    /// The last revision before the damage: up to it everything is whole.
    pub intact: Revision,
    /// The first intact revision behind the damage, if any can still be read.
    pub behind: Option<Revision>,
}

fn rest(behind: &Option<Revision>) -> String {
    match behind {
        Some(revision) => format!(", and changes from revision {revision} on are readable behind it"),
        None => String::new(),
    }
}

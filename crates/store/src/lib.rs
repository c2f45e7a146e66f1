//! Memory.

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

//! For those who must look into a store that cannot be opened, and save what is left of it.

use std::io;
use std::sync::Arc;

use base::Random;
use jiff::Timestamp;

use super::files::{self, Files, failed};
use super::format::{FileKind, HEADER_BYTES};
use super::replay::{FileReport, Raw, Replay, Salvage, replay, summary};
use super::snapshot;
use crate::disk::Disk;
use crate::error::{Damage, OpenError};
use crate::key::Revision;
use crate::state::HistoryLimits;

/// The history is of no use here.
const NO_HISTORY: HistoryLimits = HistoryLimits { age: std::time::Duration::ZERO, events: 0, bytes: 0 };

/// What a folder holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The newest revision that can be read.
    pub revision: Revision,
    /// How many keys are alive there.
    pub keys: usize,
    /// Each file, in the order of reading.
    pub files: Vec<FileReport>,
    /// Everything that is damaged.
    pub damage: Vec<Damage>,
}

impl Inspection {
    fn of<R>(replayed: &Replay<R>) -> Self {
        Self {
            revision: replayed.revision,
            keys: replayed.live.len(),
            files: replayed.files.clone(),
            damage: replayed.damage.clone(),
        }
    }

    /// What is wrong, in a sentence.
    pub fn summary(&self) -> String {
        summary(&self.damage).into_owned()
    }
}

/// Reads a folder whole, around all damage, and changes nothing. The store need not be closed, but what is written
/// meanwhile may look torn.
pub fn inspect(disk: &dyn Disk, codec: u32) -> Result<Inspection, OpenError> {
    let replayed = replay::<()>(disk, codec, NO_HISTORY, Timestamp::UNIX_EPOCH, Salvage::Everything)?;
    Ok(Inspection::of(&replayed))
}

/// Writes what can be saved of `from` as a new store to `to`, which must be empty. `from` stays as it is.
pub fn salvage(
    from: &dyn Disk,
    to: &dyn Disk,
    codec: u32,
    random: &Random,
    how: Salvage,
) -> Result<Inspection, OpenError> {
    let lock = to.lock().map_err(failed(to, "LOCK", "locked"))?;
    let found = Files::list(to).map_err(failed(to, "", "listed"))?;
    if !found.segments.is_empty() || !found.snapshots.is_empty() {
        let source = io::Error::new(io::ErrorKind::AlreadyExists, "a store is there already");
        return Err(failed(to, "", "salvaged to")(source));
    }
    let replayed = replay::<()>(from, codec, NO_HISTORY, Timestamp::UNIX_EPOCH, how)?;
    let mut live: Vec<&Arc<Raw<()>>> = replayed.live.values().collect();
    live.sort_by(|a, b| a.key.cmp(&b.key));
    // First, and unreadable alone, for a snapshot without its segment has lost it.
    let segment = files::header(random, codec, FileKind::Segment, 1, replayed.revision);
    files::make(to, &segment, |_| Ok(HEADER_BYTES as u64)).map_err(failed(
        to,
        &files::name(FileKind::Segment, 1),
        "written",
    ))?;
    let header = files::header(random, codec, FileKind::Snapshot, 1, replayed.revision);
    snapshot::make(to, &header, |sink| {
        live.iter().try_for_each(|raw| sink.push(&raw.stored(&raw.key.path())))
    })
    .map_err(failed(to, &files::name(FileKind::Snapshot, 1), "written"))?;
    drop(lock);
    Ok(Inspection::of(&replayed))
}

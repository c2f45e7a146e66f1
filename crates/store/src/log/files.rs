//! Which files there are, and what they are called.

use std::io;

use base::Random;

use super::format::{FileKind, HEADER_BYTES, Header};
use crate::disk::{Disk, File};
use crate::error::OpenError;
use crate::key::Revision;

const SEGMENT: &str = ".log";
const SNAPSHOT: &str = ".snapshot";
const UNFINISHED: &str = ".new";

/// What a finished file is called.
pub(crate) fn name(kind: FileKind, number: u64) -> String {
    let ending = match kind {
        FileKind::Segment => SEGMENT,
        FileKind::Snapshot => SNAPSHOT,
    };
    format!("{number:016x}{ending}")
}

/// What a file is called until it is whole.
pub(crate) fn unfinished(kind: FileKind, number: u64) -> String {
    format!("{}{UNFINISHED}", name(kind, number))
}

/// The files of a store, by number.
#[derive(Debug, Default)]
pub(crate) struct Files {
    pub(crate) segments: Vec<u64>,
    pub(crate) snapshots: Vec<u64>,
    pub(crate) unfinished: Vec<String>,
}

impl Files {
    pub(crate) fn list(disk: &dyn Disk) -> io::Result<Self> {
        let mut files = Self::default();
        for name in disk.list()? {
            if name.ends_with(UNFINISHED) {
                files.unfinished.push(name);
            } else if let Some(number) = number(&name, SEGMENT) {
                files.segments.push(number);
            } else if let Some(number) = number(&name, SNAPSHOT) {
                files.snapshots.push(number);
            }
        }
        files.segments.sort_unstable();
        files.snapshots.sort_unstable();
        files.unfinished.sort_unstable();
        Ok(files)
    }
}

fn number(name: &str, ending: &str) -> Option<u64> {
    let digits = name.strip_suffix(ending)?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// Removes what a snapshot of this number has made superfluous. What cannot be removed is removed another time.
pub(crate) fn remove_before(disk: &dyn Disk, number: u64) {
    let Ok(files) = Files::list(disk) else { return };
    let segments = files.segments.into_iter().map(|n| (FileKind::Segment, n));
    let snapshots = files.snapshots.into_iter().map(|n| (FileKind::Snapshot, n));
    // Oldest first, so that what is left after a crash in between has no gap.
    for (kind, old) in segments.chain(snapshots).filter(|(_, old)| *old < number) {
        if let Err(error) = disk.remove(&name(kind, old)) {
            tracing::warn!(file = disk.path(&name(kind, old)), %error, "a superfluous file stays for now");
        }
    }
}

/// A header for a new file.
pub(crate) fn header(random: &Random, codec: u32, kind: FileKind, number: u64, base: Revision) -> Header {
    // A marker without zero bytes is not found in the zeros that files end with.
    let marker = std::array::from_fn(|_| 1 + random.below(255) as u8);
    Header { codec, kind, number, base, marker, salt: random.bits() }
}

/// Makes a whole file under a name that recovery ignores, and then gives it its own: so a file that has its name
/// has its header, and a snapshot its end.
pub(crate) fn make(
    disk: &dyn Disk,
    header: &Header,
    fill: impl FnOnce(&mut dyn File) -> io::Result<u64>,
) -> io::Result<(Box<dyn File>, u64)> {
    let unfinished = unfinished(header.kind, header.number);
    let made = (|| {
        let (file, size) = prepare(disk, header, fill)?;
        disk.rename(&unfinished, &name(header.kind, header.number))?;
        disk.sync()?;
        Ok((file, size))
    })();
    if made.is_err() {
        // It takes room on a disk that may be full; if it stays all the same, the next start removes it.
        let _ = disk.remove(&unfinished);
    }
    made
}

/// Makes a whole file, under the name that recovery ignores.
fn prepare(
    disk: &dyn Disk,
    header: &Header,
    fill: impl FnOnce(&mut dyn File) -> io::Result<u64>,
) -> io::Result<(Box<dyn File>, u64)> {
    let mut file = disk.create(&unfinished(header.kind, header.number))?;
    file.write_at(0, &header.encode())?;
    let size = fill(&mut *file)?;
    file.sync()?;
    Ok((file, size))
}

/// Promises the segment of a number durably, by its unfinished name: the snapshot of that number may get its own name
/// then, for a snapshot that has neither segment nor promise has lost one.
pub(crate) fn promise_segment(disk: &dyn Disk, header: &Header) -> io::Result<()> {
    prepare(disk, header, |_| Ok(HEADER_BYTES as u64))?;
    disk.sync()
}

/// An error of the disk, with the file it is about.
pub(crate) fn failed(
    disk: &dyn Disk,
    name: &str,
    action: &'static str,
) -> impl FnOnce(io::Error) -> OpenError {
    let path = disk.path(name);
    move |source| OpenError::Disk { path, action, source }
}

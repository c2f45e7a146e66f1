//! How far the log is known to reach, in a small file of its own: what tells a log that was cut, or whose end was
//! lost, from one that ends where it should.

use std::io;

use super::files;
use super::format::FileKind;
use super::replay::Tail;
use crate::disk::{Disk, File};
use crate::error::Damage;
use crate::key::Revision;

/// What the file is called.
pub(crate) const NAME: &str = "REACH";

const MAGIC: &[u8; 8] = b"ondolend";
const BYTES: usize = 36;
/// The checksum is behind this.
const CHECKED: std::ops::Range<usize> = 0..32;

/// A place up to which the log was durable once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// The segment.
    pub(crate) number: u64,
    /// Where its last frame ends.
    pub(crate) offset: u64,
    /// The newest revision in it.
    pub(crate) revision: Revision,
}

impl Reach {
    fn encode(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        for (place, number) in [(8, self.number), (16, self.offset), (24, self.revision.0)] {
            bytes[place..place + 8].copy_from_slice(&number.to_le_bytes());
        }
        let checksum = crc32fast::hash(&bytes[CHECKED]);
        bytes[CHECKED.end..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None` for what was not written whole: such a file says nothing.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let is_whole =
            bytes[0..8] == *MAGIC && bytes[CHECKED.end..] == crc32fast::hash(&bytes[CHECKED]).to_le_bytes();
        is_whole.then(|| Self { number: long(8), offset: long(16), revision: Revision(long(24)) })
    }

    /// What the file says, if it is there.
    pub(crate) fn read(disk: &dyn Disk) -> io::Result<Option<Self>> {
        let file = match disk.open(NAME) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = [0; BYTES];
        let count = file.read_at(0, &mut bytes)?;
        Ok(Self::decode(&bytes[..count]))
    }

    /// What is missing of a log that ends at `tail`; `intact` is its newest revision.
    pub(crate) fn missing(&self, disk: &dyn Disk, tail: Option<&Tail>, intact: Revision) -> Option<Damage> {
        let end = tail.map(|tail| (tail.header.number, tail.offset)).unwrap_or_default();
        if end >= (self.number, self.offset) {
            return None;
        }
        let Self { number, offset, revision } = self;
        let path = disk.path(&files::name(FileKind::Segment, *number));
        let (offset, reason) = if end.0 == *number {
            (end.1, format!("the log ends here, but was durable up to byte {offset} and revision {revision}"))
        } else {
            (0, format!("the file is missing, but was durable up to byte {offset} and revision {revision}"))
        };
        Some(Damage { path, offset, reason, intact, behind: None })
    }
}

/// The file, open to be written.
pub(crate) struct Mark(Box<dyn File>);

impl Mark {
    /// Opens the file, or makes it, to stand at `reach`.
    pub(crate) fn open(disk: &dyn Disk, reach: Reach) -> io::Result<Self> {
        let file = match disk.open(NAME) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = disk.create(NAME)?;
                disk.sync()?;
                file
            }
            Err(error) => return Err(error),
        };
        let mut mark = Self(file);
        mark.note(reach);
        Ok(mark)
    }

    /// Says how far the log is durable *now*. It is not synced: whatever older note a crash leaves is true as well, and
    /// one that is lost only lets less be noticed. So a failure is none of the writer's.
    pub(crate) fn note(&mut self, reach: Reach) {
        let _ = self.0.write_at(0, &reach.encode());
    }

    /// The same, durably: where a whole file might be lost.
    pub(crate) fn keep(&mut self, reach: Reach) {
        self.note(reach);
        let _ = self.0.sync();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_note_is_believed() {
        let reach = Reach { number: 3, offset: 4096, revision: Revision(77) };
        let bytes = reach.encode();
        assert_eq!(Reach::decode(&bytes), Some(reach));
        for place in 0..BYTES {
            let mut other = bytes;
            other[place] ^= 1;
            assert_eq!(Reach::decode(&other), None, "{place}");
            assert_eq!(Reach::decode(&bytes[..place]), None, "{place}");
        }
    }
}

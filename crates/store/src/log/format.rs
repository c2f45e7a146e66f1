//! The bytes of log segments and snapshots. Pure. The description is in the documentation of the crate.

use std::ops::Range;

use jiff::Timestamp;

use crate::key::Revision;
use crate::record::Record;
use crate::state::Change;

/// The format that this program writes, and the newest that it reads.
pub(crate) const FORMAT: u32 = 1;
pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const FRAME_HEADER_BYTES: usize = 12;

const MAGIC: &[u8; 8] = b"ondollog";
/// The checksum of the header is behind this. Bytes 48 to 60 are zero and kept for later.
const CHECKED: Range<usize> = 0..60;

const BODY_BATCH: u8 = 1;
const BODY_ENTRIES: u8 = 2;
const BODY_END: u8 = 3;
const TAG_PUT: u8 = 1;
const TAG_DELETE: u8 = 2;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Changes, in the order of revisions.
    Segment,
    /// All that was alive when the segment of the same number was begun.
    Snapshot,
}

/// The beginning of every file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) codec: u32,
    pub(crate) kind: FileKind,
    pub(crate) number: u64,
    /// The newest revision before the segment; that of the snapshot.
    pub(crate) base: Revision,
    /// What frames begin with, and what their checksums begin with: chosen by chance for each file, so that
    /// no value can look like a frame.
    pub(crate) marker: [u8; 4],
    pub(crate) salt: u64,
}

/// Why a header cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Damaged(&'static str),
    Format(u32),
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.codec.to_le_bytes());
        let kind: u32 = match self.kind {
            FileKind::Segment => 1,
            FileKind::Snapshot => 2,
        };
        bytes[16..20].copy_from_slice(&kind.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.marker);
        bytes[24..32].copy_from_slice(&self.number.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.base.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.salt.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[CHECKED]);
        bytes[CHECKED.end..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        let short = BadHeader::Damaged("the file is shorter than its header");
        let bytes: &[u8; HEADER_BYTES] = bytes.try_into().map_err(|_| short)?;
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        if bytes[0..8] != *MAGIC {
            return Err(BadHeader::Damaged("the file does not begin as a file of the store does"));
        }
        if crc32fast::hash(&bytes[CHECKED]) != word(CHECKED.end) {
            return Err(BadHeader::Damaged("the checksum of the header is wrong"));
        }
        let format = word(8);
        if format == 0 || format > FORMAT {
            return Err(BadHeader::Format(format));
        }
        let kind = match word(16) {
            1 => FileKind::Segment,
            2 => FileKind::Snapshot,
            _ => return Err(BadHeader::Damaged("the header names a kind of file that there is not")),
        };
        Ok(Self {
            codec: word(12),
            kind,
            number: long(24),
            base: Revision(long(32)),
            marker: word(20).to_le_bytes(),
            salt: long(40),
        })
    }

    /// The checksum of the frame at `offset` with this body.
    fn checksum(&self, offset: u64, body: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.salt.to_le_bytes());
        hasher.update(&offset.to_le_bytes());
        hasher.update(&(body.len() as u32).to_le_bytes());
        hasher.update(body);
        hasher.finalize()
    }

    /// Fills in the frame header, room for which is at the start of `frame`.
    pub(crate) fn seal(&self, offset: u64, frame: &mut [u8]) {
        let (head, body) = frame.split_at_mut(FRAME_HEADER_BYTES);
        head[0..4].copy_from_slice(&self.marker);
        head[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
        head[8..12].copy_from_slice(&self.checksum(offset, body).to_le_bytes());
    }

    /// The length of the body that a frame header announces, and its checksum.
    pub(crate) fn open(&self, head: &[u8]) -> Option<(usize, u32)> {
        let mut cursor = Cursor(head);
        let marker = cursor.array::<4>()?;
        let (length, checksum) = (cursor.u32()? as usize, cursor.u32()?);
        (marker == self.marker && length > 0 && length <= crate::limits::FRAME_BYTES_MAX)
            .then_some((length, checksum))
    }

    pub(crate) fn is_whole(&self, offset: u64, body: &[u8], checksum: u32) -> bool {
        self.checksum(offset, body) == checksum
    }
}

/// A version of a key, as on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored<'a> {
    pub(crate) path: &'a str,
    pub(crate) created: Revision,
    pub(crate) modified: Revision,
    pub(crate) version: u64,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) value: &'a [u8],
}

/// A change of a key, as on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changed<'a> {
    pub(crate) path: &'a str,
    pub(crate) revision: Revision,
    /// `None` for a deletion.
    pub(crate) put: Option<(Option<Timestamp>, &'a [u8])>,
}

/// What a frame says.
#[derive(Debug)]
pub(crate) enum Body<'a> {
    Batch { time: Timestamp, changes: Vec<Changed<'a>> },
    Entries(Vec<Stored<'a>>),
    End { entries: u64 },
}

/// A group commit, with room for the frame header before it.
pub(crate) fn batch<R: Record>(time: Timestamp, changes: &[Change<R>], frame: &mut Vec<u8>) {
    frame.clear();
    frame.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    frame.push(BODY_BATCH);
    frame.extend_from_slice(&time.as_millisecond().to_le_bytes());
    frame.extend_from_slice(&(changes.len() as u32).to_le_bytes());
    let mut path = String::new();
    for change in changes {
        let Some(entry) = change.current.as_ref().or(change.previous.as_ref()) else { continue };
        frame.extend_from_slice(&change.revision.0.to_le_bytes());
        frame.push(if change.current.is_some() { TAG_PUT } else { TAG_DELETE });
        path.clear();
        entry.key.write_path(&mut path);
        put_path(frame, &path);
        if let Some(entry) = &change.current {
            put_expiry(frame, entry.expires);
            put_value(frame, entry.record.bytes());
        }
    }
}

/// A part of a snapshot, growing.
pub(crate) struct EntriesFrame {
    pub(crate) bytes: Vec<u8>,
    count: u32,
}

impl EntriesFrame {
    pub(crate) fn new() -> Self {
        let mut frame = Self { bytes: Vec::new(), count: 0 };
        frame.clear();
        frame
    }

    pub(crate) fn clear(&mut self) {
        self.count = 0;
        self.bytes.clear();
        self.bytes.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
        self.bytes.push(BODY_ENTRIES);
        self.bytes.extend_from_slice(&0_u32.to_le_bytes());
    }

    pub(crate) fn push(&mut self, entry: &Stored<'_>) {
        self.count += 1;
        self.bytes[FRAME_HEADER_BYTES + 1..FRAME_HEADER_BYTES + 5].copy_from_slice(&self.count.to_le_bytes());
        for number in [entry.created.0, entry.modified.0, entry.version] {
            self.bytes.extend_from_slice(&number.to_le_bytes());
        }
        put_expiry(&mut self.bytes, entry.expires);
        put_path(&mut self.bytes, entry.path);
        put_value(&mut self.bytes, entry.value);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// The end of a snapshot.
pub(crate) fn end(entries: u64) -> Vec<u8> {
    let mut frame = vec![0; FRAME_HEADER_BYTES];
    frame.push(BODY_END);
    frame.extend_from_slice(&entries.to_le_bytes());
    frame
}

fn put_path(frame: &mut Vec<u8>, path: &str) {
    frame.extend_from_slice(&(path.len() as u16).to_le_bytes());
    frame.extend_from_slice(path.as_bytes());
}

/// Milliseconds since the epoch; the least number for never.
fn put_expiry(frame: &mut Vec<u8>, expires: Option<Timestamp>) {
    frame.extend_from_slice(&expires.map_or(i64::MIN, Timestamp::as_millisecond).to_le_bytes());
}

fn put_value(frame: &mut Vec<u8>, value: &[u8]) {
    frame.extend_from_slice(&(value.len() as u32).to_le_bytes());
    frame.extend_from_slice(value);
}

/// Reads a body whose checksum is right; `None` if it makes no sense all the same.
pub(crate) fn decode(body: &[u8]) -> Option<Body<'_>> {
    let mut cursor = Cursor(body);
    let decoded = match cursor.array::<1>()?[0] {
        BODY_BATCH => {
            let time = Timestamp::from_millisecond(cursor.i64()?).ok()?;
            let count = cursor.u32()?;
            let changes: Option<Vec<_>> = (0..count).map(|_| cursor.changed()).collect();
            Body::Batch { time, changes: changes? }
        }
        BODY_ENTRIES => {
            let count = cursor.u32()?;
            let entries: Option<Vec<_>> = (0..count).map(|_| cursor.stored()).collect();
            Body::Entries(entries?)
        }
        BODY_END => Body::End { entries: cursor.u64()? },
        _ => return None,
    };
    cursor.0.is_empty().then_some(decoded)
}

/// Bytes that are still to be read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn path(&mut self) -> Option<&'a str> {
        let length = u16::from_le_bytes(self.array()?);
        std::str::from_utf8(self.take(length.into())?).ok()
    }

    fn value(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    fn expiry(&mut self) -> Option<Option<Timestamp>> {
        match self.i64()? {
            i64::MIN => Some(None),
            milliseconds => Timestamp::from_millisecond(milliseconds).ok().map(Some),
        }
    }

    fn changed(&mut self) -> Option<Changed<'a>> {
        let revision = Revision(self.u64()?);
        let tag = self.array::<1>()?[0];
        let path = self.path()?;
        let put = match tag {
            TAG_PUT => Some((self.expiry()?, self.value()?)),
            TAG_DELETE => None,
            _ => return None,
        };
        Some(Changed { path, revision, put })
    }

    fn stored(&mut self) -> Option<Stored<'a>> {
        let (created, modified, version) = (Revision(self.u64()?), Revision(self.u64()?), self.u64()?);
        let expires = self.expiry()?;
        Some(Stored { created, modified, version, expires, path: self.path()?, value: self.value()? })
    }
}

//! Reads everything on disk, in order, into what was alive at the end and what happened last. It changes nothing.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use jiff::Timestamp;

use super::files::{self, Files, failed};
use super::format::{self, BadHeader, Body, Changed, FORMAT, FileKind, Header, Stored};
use super::reach::{self, Reach};
use super::reader::{Found, Reader};
use crate::disk::Disk;
use crate::error::{Damage, OpenError};
use crate::key::{Key, Resource, Revision};
use crate::record::Entry;
use crate::state::HistoryLimits;

/// A version whose value was not decoded yet: most are replaced before anyone needs them.
pub(crate) struct Raw<R> {
    pub(crate) key: Key,
    pub(crate) created: Revision,
    pub(crate) modified: Revision,
    pub(crate) version: u64,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) value: Bytes,
    pub(crate) decoded: OnceLock<Arc<Entry<R>>>,
}

/// A change of which the history will tell.
pub(crate) struct RawEvent<R> {
    pub(crate) revision: Revision,
    pub(crate) time: Timestamp,
    pub(crate) current: Option<Arc<Raw<R>>>,
    pub(crate) previous: Option<Arc<Raw<R>>>,
}

/// How to go on where something is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Salvage {
    /// Stop: everything up to the last revision before the damage, as it was then.
    Whole,
    /// Go on behind it: everything that can be read, though what belongs together may be torn apart.
    Everything,
}

/// What one file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// Its path.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// How many whole frames it has.
    pub frames: u64,
    /// Where the last whole frame ends.
    pub whole_bytes: u64,
    /// How long the file is; what is behind the last frame is zeros, unless `torn_bytes` says otherwise.
    pub size_bytes: u64,
    /// How many bytes of a write that was cut short are at its end.
    pub torn_bytes: u64,
    /// The newest revision in it.
    pub revision: Revision,
}

/// Where new changes go.
pub(crate) struct Tail {
    pub(crate) header: Header,
    pub(crate) offset: u64,
    pub(crate) torn_bytes: u64,
}

/// What whoever writes on must know.
pub(crate) struct End {
    /// The newest segment; `None` if there is none for the newest snapshot yet.
    pub(crate) tail: Option<Tail>,
    /// The number that a missing segment gets.
    pub(crate) number: u64,
    pub(crate) revision: Revision,
    /// Bytes of segments since the last snapshot.
    pub(crate) log_bytes: u64,
}

/// All that was read.
pub(crate) struct Replay<R> {
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
    pub(crate) live: HashMap<Key, Arc<Raw<R>>>,
    pub(crate) events: VecDeque<RawEvent<R>>,
    event_bytes: usize,
    pub(crate) files: Vec<FileReport>,
    pub(crate) damage: Vec<Damage>,
    pub(crate) tail: Option<Tail>,
    pub(crate) number: u64,
    log_bytes: u64,
    pub(crate) unfinished: Vec<String>,
    resources: HashSet<Resource>,
    limits: HistoryLimits,
    oldest: Timestamp,
}

/// Reads all files. With `salvage`, goes around damage and lists it; without, the first damage is in the list and
/// reading ends there.
pub(crate) fn replay<R>(
    disk: &dyn Disk,
    codec: u32,
    limits: HistoryLimits,
    now: Timestamp,
    salvage: Salvage,
) -> Result<Replay<R>, OpenError> {
    // Read first: of a store that is being written, the log may only be further than this by then.
    let reach = Reach::read(disk).map_err(failed(disk, reach::NAME, "read"))?;
    let files = Files::list(disk).map_err(failed(disk, "", "listed"))?;
    let mut replay = Replay {
        revision: Revision::FIRST,
        compacted: Revision::FIRST,
        live: HashMap::new(),
        events: VecDeque::new(),
        event_bytes: 0,
        files: Vec::new(),
        damage: Vec::new(),
        tail: None,
        number: 1,
        log_bytes: 0,
        unfinished: files.unfinished,
        resources: HashSet::new(),
        limits,
        oldest: now
            .checked_sub(jiff::SignedDuration::try_from(limits.age).unwrap_or_default())
            .unwrap_or(now),
    };
    let going_on = |replay: &Replay<R>| salvage == Salvage::Everything || replay.damage.is_empty();
    if let Some(number) = files.snapshots.last() {
        replay.number = *number;
        replay.read_file(disk, codec, FileKind::Snapshot, *number, salvage)?;
        replay.compacted = replay.revision;
    }
    let first = replay.number;
    let segments: Vec<u64> = files.segments.into_iter().filter(|number| *number >= first).collect();
    if !files.snapshots.is_empty() && segments.is_empty() && going_on(&replay) {
        replay.check_promised(disk);
    }
    for (expected, number) in (first..).zip(&segments) {
        if !going_on(&replay) {
            break;
        }
        if expected != *number && replay.damage.is_empty() {
            let path = disk.path(&files::name(FileKind::Segment, expected));
            replay.add_damage(path, 0, "the file is missing, though later ones are there".into(), None);
            if salvage == Salvage::Whole {
                break;
            }
        }
        let is_last = Some(number) == segments.last();
        replay.read_file(disk, codec, FileKind::Segment, *number, salvage)?;
        replay.check_torn(disk, is_last, *number);
        replay.number = *number;
    }
    if let Some(reach) = reach.filter(|_| going_on(&replay)) {
        replay.damage.extend(reach.missing(disk, replay.tail.as_ref(), replay.revision));
    }
    Ok(replay)
}

impl<R> Replay<R> {
    fn add_damage(&mut self, path: String, offset: u64, reason: String, behind: Option<Revision>) {
        self.damage.push(Damage { path, offset, reason, intact: self.revision, behind });
    }

    /// A snapshot is made beside its segment, or beside the unfinished name that promises it.
    fn check_promised(&mut self, disk: &dyn Disk) {
        if !self.unfinished.contains(&files::unfinished(FileKind::Segment, self.number)) {
            let path = disk.path(&files::name(FileKind::Segment, self.number));
            self.add_damage(path, 0, "the file is missing, though its snapshot is there".into(), None);
        }
    }

    /// A write can be torn only where the last write went.
    fn check_torn(&mut self, disk: &dyn Disk, is_last: bool, number: u64) {
        let Some(tail) = &self.tail else { return };
        if tail.torn_bytes > 0 && !is_last {
            let (path, offset) = (disk.path(&files::name(FileKind::Segment, number)), tail.offset);
            self.add_damage(path, offset, "the record is not whole, and a later file is there".into(), None);
        }
    }

    fn read_file(
        &mut self,
        disk: &dyn Disk,
        codec: u32,
        kind: FileKind,
        number: u64,
        salvage: Salvage,
    ) -> Result<(), OpenError> {
        let name = files::name(kind, number);
        let path = disk.path(&name);
        let opened = disk.open(&name).and_then(Reader::open).map_err(failed(disk, &name, "read"))?;
        let mut reader = match opened {
            Ok(reader) => reader,
            Err(BadHeader::Format(found)) => {
                return Err(OpenError::Format { path, found, known: FORMAT });
            }
            Err(BadHeader::Damaged(reason)) => {
                self.add_damage(path, 0, reason.into(), None);
                return Ok(());
            }
        };
        if reader.header.codec != codec {
            return Err(OpenError::Codec { path, found: reader.header.codec, known: codec });
        }
        if reader.header.kind != kind || reader.header.number != number {
            self.add_damage(path, 0, "the header is of another file than the name".into(), None);
            return Ok(());
        }
        if kind == FileKind::Segment && reader.header.base != self.revision && self.damage.is_empty() {
            let reason =
                format!("it begins behind revision {}, but {} came last", reader.header.base, self.revision);
            self.add_damage(path.clone(), 0, reason, Some(reader.header.base.next()));
            if salvage == Salvage::Whole {
                return Ok(());
            }
        }
        let mut report = FileReport {
            path,
            kind,
            frames: 0,
            whole_bytes: 0,
            size_bytes: reader.size,
            torn_bytes: 0,
            revision: self.revision,
        };
        let read = self.read_frames(&mut reader, &mut report, salvage);
        read.map_err(failed(disk, &name, "read"))?;
        report.whole_bytes = reader.offset;
        report.revision = self.revision;
        if kind == FileKind::Segment {
            self.log_bytes += reader.offset;
            let (header, offset) = (reader.header, reader.offset);
            self.tail = Some(Tail { header, offset, torn_bytes: report.torn_bytes });
        }
        self.files.push(report);
        Ok(())
    }

    fn read_frames(
        &mut self,
        reader: &mut Reader,
        report: &mut FileReport,
        salvage: Salvage,
    ) -> std::io::Result<()> {
        let (kind, base) = (reader.header.kind, reader.header.base);
        let mut has_ended = false;
        loop {
            match reader.next()? {
                Found::Frame { offset, body } => {
                    let decoded = format::decode(reader.body(body));
                    let taken = decoded.is_some_and(|body| self.take(kind, base, body, &mut has_ended));
                    if !taken {
                        let reason = "the checksum is right, but the content makes no sense".to_owned();
                        self.add_damage(report.path.clone(), offset, reason, None);
                        if salvage == Salvage::Whole {
                            return Ok(());
                        }
                    }
                    report.frames += 1;
                }
                Found::Damage { offset, next } => {
                    reader.offset = next;
                    let behind = self.peek(reader)?;
                    let reason = format!("the record is not whole, but one at byte {next} behind it is");
                    self.add_damage(report.path.clone(), offset, reason, behind);
                    if salvage == Salvage::Whole {
                        reader.offset = offset;
                        return Ok(());
                    }
                }
                Found::Torn { offset, bytes } => {
                    report.torn_bytes = bytes;
                    if kind == FileKind::Snapshot {
                        let reason = "the record is not whole".to_owned();
                        self.add_damage(report.path.clone(), offset, reason, None);
                    }
                    break;
                }
                Found::End => break,
            }
        }
        if kind == FileKind::Snapshot {
            self.revision = base;
            if !has_ended && self.damage.is_empty() {
                let reason = "the snapshot has no end".to_owned();
                self.add_damage(report.path.clone(), reader.offset, reason, None);
            }
        }
        Ok(())
    }

    /// The revision of the frame that comes next, without taking it.
    fn peek(&self, reader: &mut Reader) -> std::io::Result<Option<Revision>> {
        let place = reader.offset;
        let found = reader.next()?;
        reader.offset = place;
        let Found::Frame { body, .. } = found else { return Ok(None) };
        Ok(match format::decode(reader.body(body)) {
            Some(Body::Batch { changes, .. }) => changes.first().map(|change| change.revision),
            Some(Body::Entries(_) | Body::End { .. }) => Some(reader.header.base),
            None => None,
        })
    }

    /// Takes what a frame says; false if it cannot be.
    fn take(&mut self, kind: FileKind, base: Revision, body: Body<'_>, has_ended: &mut bool) -> bool {
        match (kind, body) {
            (FileKind::Segment, Body::Batch { time, changes }) => {
                changes.iter().all(|change| self.change(time, change))
            }
            (FileKind::Snapshot, Body::Entries(entries)) => {
                !*has_ended && entries.iter().all(|entry| entry.modified <= base && self.load(entry))
            }
            (FileKind::Snapshot, Body::End { entries }) => {
                *has_ended = true;
                // After damage, entries are missing and known to be.
                entries == self.live.len() as u64 || !self.damage.is_empty()
            }
            _ => false,
        }
    }

    fn key(&mut self, path: &str) -> Option<Key> {
        let mut key = Key::from_path(path)?;
        match self.resources.get(&key.resource) {
            Some(known) => key.resource = known.clone(),
            None => drop(self.resources.insert(key.resource.clone())),
        }
        Some(key)
    }

    fn load(&mut self, entry: &Stored<'_>) -> bool {
        let Some(key) = self.key(entry.path) else { return false };
        let raw = Arc::new(Raw {
            key: key.clone(),
            created: entry.created,
            modified: entry.modified,
            version: entry.version,
            expires: entry.expires,
            value: Bytes::copy_from_slice(entry.value),
            decoded: OnceLock::new(),
        });
        self.live.insert(key, raw).is_none()
    }

    fn change(&mut self, time: Timestamp, change: &Changed<'_>) -> bool {
        let is_next = change.revision == self.revision || change.revision == self.revision.next();
        // Behind damage, revisions are missing and known to be.
        if !is_next && (self.damage.is_empty() || change.revision < self.revision) {
            return false;
        }
        let Some(key) = self.key(change.path) else { return false };
        self.revision = change.revision;
        let revision = change.revision;
        let (current, previous) = match change.put {
            None => (None, self.live.remove(&key)),
            Some((expires, value)) => {
                let previous = self.live.get(&key);
                let raw = Arc::new(Raw {
                    key: key.clone(),
                    created: previous.map_or(revision, |raw| raw.created),
                    modified: revision,
                    version: previous.map_or(1, |raw| raw.version + 1),
                    expires,
                    value: Bytes::copy_from_slice(value),
                    decoded: OnceLock::new(),
                });
                let previous = self.live.insert(key, Arc::clone(&raw));
                (Some(raw), previous)
            }
        };
        if current.is_some() || previous.is_some() {
            self.remember(RawEvent { revision, time, current, previous });
        }
        true
    }

    fn remember(&mut self, event: RawEvent<R>) {
        self.event_bytes += superseded_bytes(&event);
        self.events.push_back(event);
        while let Some(first) = self.events.front() {
            let is_kept = first.time > self.oldest
                && self.events.len() <= self.limits.events
                && self.event_bytes <= self.limits.bytes;
            if is_kept {
                break;
            }
            self.forget(first.revision);
        }
    }

    /// All events of a revision go together.
    fn forget(&mut self, revision: Revision) {
        self.compacted = revision;
        while let Some(event) = self.events.pop_front_if(|event| event.revision <= revision) {
            self.event_bytes -= superseded_bytes(&event);
        }
    }

    /// Where writing goes on.
    pub(crate) fn take_end(&mut self) -> End {
        End {
            tail: self.tail.take(),
            number: self.number,
            revision: self.revision,
            log_bytes: self.log_bytes,
        }
    }

    /// The events that the history keeps. A revision is never kept in part.
    pub(crate) fn take_events(&mut self) -> VecDeque<RawEvent<R>> {
        while self.events.front().is_some_and(|event| event.revision <= self.compacted) {
            self.events.pop_front();
        }
        std::mem::take(&mut self.events)
    }
}

fn superseded_bytes<R>(event: &RawEvent<R>) -> usize {
    crate::state::superseded_bytes(event.previous.as_ref().map(|raw| raw.value.len()))
}

impl<R> Raw<R> {
    /// As it goes into a snapshot.
    pub(crate) fn stored<'a>(&'a self, path: &'a str) -> Stored<'a> {
        Stored {
            path,
            created: self.created,
            modified: self.modified,
            version: self.version,
            expires: self.expires,
            value: &self.value,
        }
    }
}

/// What is wrong, in words for a log line.
pub(crate) fn summary(damage: &[Damage]) -> Cow<'static, str> {
    match damage {
        [] => "no damage".into(),
        [first, ..] => first.to_string().into(),
    }
}

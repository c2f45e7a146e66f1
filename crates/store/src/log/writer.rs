//! Appends frames to the newest segment, and knows what may be trusted after the disk has failed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base::Random;

use super::files;
use super::format::{FileKind, HEADER_BYTES, Header};
use super::reach::{Mark, Reach};
use super::replay::{End, Tail};
use crate::disk::{Disk, File};
use crate::key::Revision;
use crate::limits;

/// What new files are made with.
pub(crate) struct Settings {
    pub(crate) random: Random,
    pub(crate) codec: u32,
    pub(crate) growth_bytes: u64,
}

impl Settings {
    fn header(&self, kind: FileKind, number: u64, base: Revision) -> Header {
        files::header(&self.random, self.codec, kind, number, base)
    }
}

/// The end of the log.
pub(crate) struct Writer {
    pub(crate) disk: Arc<dyn Disk>,
    settings: Settings,
    file: Box<dyn File>,
    header: Header,
    /// Says beside the log how far it is durable.
    mark: Mark,
    /// Where the next frame goes.
    offset: u64,
    /// How long the file is, with the zeros behind the last frame.
    allocated: u64,
    /// Bytes of the segments before this one that the last snapshot does not make superfluous.
    earlier_bytes: u64,
    /// Set once a sync has failed: what this segment holds on disk behind the last success is unknown for good.
    sealed: Option<Sealed>,
    roll_at: u64,
}

struct Sealed {
    error: Arc<io::Error>,
    retry_at: Duration,
}

impl Writer {
    /// Goes on at the end of what recovery has read, after cutting off a torn write; or begins segment `number`.
    pub(crate) fn open(disk: Arc<dyn Disk>, settings: Settings, end: End) -> io::Result<Self> {
        let End { tail, number, revision, log_bytes } = end;
        let (header, file, offset, allocated) = match tail {
            Some(Tail { header, offset, torn_bytes }) => {
                let mut file = disk.open(&files::name(FileKind::Segment, header.number))?;
                if torn_bytes > 0 {
                    file.truncate(offset)?;
                }
                // A process that was killed may have left a whole frame that is not durable yet. What is shown from now
                // on must be, and so must what the mark says.
                file.sync()?;
                let allocated = file.size()?;
                (header, file, offset, allocated)
            }
            None => {
                let header = settings.header(FileKind::Segment, number, revision);
                let (file, size) = files::make(&*disk, &header, |_| Ok(HEADER_BYTES as u64))?;
                (header, file, size, size)
            }
        };
        let mark = Mark::open(&*disk, Reach { number: header.number, offset, revision })?;
        Ok(Self {
            disk,
            settings,
            file,
            header,
            mark,
            offset,
            allocated,
            earlier_bytes: log_bytes.saturating_sub(offset),
            sealed: None,
            roll_at: limits::SEGMENT_BYTES_MAX,
        })
    }

    /// The number of the newest segment.
    pub(crate) fn number(&self) -> u64 {
        self.header.number
    }

    /// How large all segments are that recovery would read.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.earlier_bytes + self.offset
    }

    /// Whether nothing was written to the segment yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.offset == HEADER_BYTES as u64
    }

    /// Whether the segment is as long as one gets.
    pub(crate) fn is_long(&self) -> bool {
        self.sealed.is_none() && self.offset >= self.roll_at
    }

    /// Whether only a fresh start in a new segment helps, and when it may be tried.
    pub(crate) fn heal_at(&self) -> Option<Duration> {
        self.sealed.as_ref().map(|sealed| sealed.retry_at)
    }

    /// The error that keeps the log from being written.
    pub(crate) fn sealed_by(&self) -> Option<Arc<io::Error>> {
        self.sealed.as_ref().map(|sealed| Arc::clone(&sealed.error))
    }

    /// Writes a frame, whose header is filled in here and whose newest revision this is, and makes it durable. After an
    /// error the frame is not part of the log, and nothing else of it is touched.
    pub(crate) fn append(
        &mut self,
        frame: &mut [u8],
        revision: Revision,
        now: Duration,
    ) -> Result<(), Arc<io::Error>> {
        if let Some(sealed) = &self.sealed {
            return Err(Arc::clone(&sealed.error));
        }
        let end = self.offset + frame.len() as u64;
        if end > self.allocated {
            let wanted = end.next_multiple_of(self.settings.growth_bytes.max(1));
            // A disk that has no room for growth may still have room for this frame: the write decides.
            if self.file.allocate(wanted).is_ok() {
                self.allocated = wanted;
            }
        }
        self.header.seal(self.offset, frame);
        if let Err(error) = self.file.write_at(self.offset, frame) {
            // Gives the room back. If it fails, the next frame is written over the rest of this one.
            if self.file.truncate(self.offset).is_ok() {
                self.allocated = self.offset;
            }
            return Err(Arc::new(error));
        }
        if let Err(error) = self.file.sync() {
            return Err(self.seal(error, now));
        }
        self.offset = end;
        self.allocated = self.allocated.max(end);
        self.mark.note(Reach { number: self.header.number, offset: end, revision });
        Ok(())
    }

    /// Trusts this segment no more.
    pub(crate) fn seal(&mut self, error: io::Error, now: Duration) -> Arc<io::Error> {
        let error = Arc::new(error);
        self.sealed = Some(Sealed { error: Arc::clone(&error), retry_at: now + limits::HEAL_INTERVAL });
        error
    }

    /// Begins the next segment behind the newest revision. All frames of this one are durable.
    pub(crate) fn roll(&mut self, base: Revision, now: Duration) -> Result<(), Arc<io::Error>> {
        match self.make_next(self.header.number + 1, base) {
            Ok(()) => Ok(()),
            // Whether the new segment has its name on disk is unknown only if it has it in memory.
            Err(error) if self.is_there(self.header.number + 1) => Err(self.seal(error, now)),
            Err(error) => {
                self.roll_at = self.offset + self.settings.growth_bytes;
                Err(Arc::new(error))
            }
        }
    }

    fn is_there(&self, number: u64) -> bool {
        self.disk.open(&files::name(FileKind::Segment, number)).is_ok()
    }

    fn make_next(&mut self, number: u64, base: Revision) -> io::Result<()> {
        let header = self.settings.header(FileKind::Segment, number, base);
        let (file, size) = files::make(&*self.disk, &header, |_| Ok(HEADER_BYTES as u64))?;
        // Gives back the room that this segment will not need any more; zeros that stay do no harm.
        if self.sealed.is_none() {
            let _ = self.file.truncate(self.offset);
        }
        self.earlier_bytes += self.offset;
        (self.file, self.header, self.offset, self.allocated) = (file, header, size, size);
        self.roll_at = limits::SEGMENT_BYTES_MAX;
        self.sealed = None;
        self.mark.keep(Reach { number, offset: size, revision: base });
        Ok(())
    }

    /// The header of the snapshot that stands before a segment.
    pub(crate) fn snapshot_header(&self, number: u64, base: Revision) -> Header {
        self.settings.header(FileKind::Snapshot, number, base)
    }

    /// Promises the segment that will begin anew behind a snapshot of this number.
    pub(crate) fn promise(&self, number: u64, base: Revision) -> io::Result<()> {
        files::promise_segment(&*self.disk, &self.settings.header(FileKind::Segment, number, base))
    }

    /// Begins anew behind a snapshot of this number, which is durable already.
    pub(crate) fn restart(&mut self, number: u64, base: Revision) -> io::Result<()> {
        self.make_next(number, base)?;
        self.earlier_bytes = 0;
        Ok(())
    }

    /// The snapshot of this number is durable: segments before it do not count any more.
    pub(crate) fn forget_before(&mut self, earlier_bytes: u64) {
        self.earlier_bytes = self.earlier_bytes.saturating_sub(earlier_bytes);
    }

    /// The next try to heal waits.
    pub(crate) fn postpone(&mut self, now: Duration) {
        if let Some(sealed) = &mut self.sealed {
            sealed.retry_at = now + limits::HEAL_INTERVAL;
        }
    }
}

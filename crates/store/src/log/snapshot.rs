//! Writes all that is alive into one file.

use std::io;
use std::sync::Arc;

use super::files;
use super::format::{self, EntriesFrame, HEADER_BYTES, Header, Stored};
use crate::disk::{Disk, File};
use crate::limits;
use crate::record::{Entry, Record};

/// Writes entries, a frame at a time.
pub(crate) struct Sink<'a> {
    file: &'a mut dyn File,
    header: &'a Header,
    offset: u64,
    frame: EntriesFrame,
    entries: u64,
}

impl Sink<'_> {
    /// Adds an entry.
    pub(crate) fn push(&mut self, entry: &Stored<'_>) -> io::Result<()> {
        self.frame.push(entry);
        self.entries += 1;
        if self.frame.bytes.len() >= limits::SNAPSHOT_FRAME_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.frame.is_empty() {
            self.header.seal(self.offset, &mut self.frame.bytes);
            self.file.write_at(self.offset, &self.frame.bytes)?;
            self.offset += self.frame.bytes.len() as u64;
            self.frame.clear();
        }
        Ok(())
    }

    fn end(mut self) -> io::Result<u64> {
        self.flush()?;
        let mut frame = format::end(self.entries);
        self.header.seal(self.offset, &mut frame);
        self.file.write_at(self.offset, &frame)?;
        Ok(self.offset + frame.len() as u64)
    }
}

/// Makes a snapshot of what `fill` pushes. When this returns, it is durable.
pub(crate) fn make(
    disk: &dyn Disk,
    header: &Header,
    fill: impl FnOnce(&mut Sink<'_>) -> io::Result<()>,
) -> io::Result<()> {
    files::make(disk, header, |file| {
        let frame = EntriesFrame::new();
        let mut sink = Sink { file, header, offset: HEADER_BYTES as u64, frame, entries: 0 };
        fill(&mut sink)?;
        sink.end()
    })?;
    Ok(())
}

/// Makes a snapshot of live entries.
pub(crate) fn make_of<R: Record>(
    disk: &dyn Disk,
    header: &Header,
    entries: &[Arc<Entry<R>>],
) -> io::Result<()> {
    let mut path = String::new();
    make(disk, header, |sink| {
        entries.iter().try_for_each(|entry| {
            path.clear();
            entry.key.write_path(&mut path);
            sink.push(&Stored {
                path: &path,
                created: entry.created,
                modified: entry.modified,
                version: entry.version,
                expires: entry.expires,
                value: entry.record.bytes(),
            })
        })
    })
}

//! Reads a file of the log frame by frame, and finds out what a place is that is no frame: the end, a torn write,
//! or damage.

use std::io;

use memchr::memmem;

use super::format::{BadHeader, FRAME_HEADER_BYTES, HEADER_BYTES, Header};
use crate::disk::File;

/// How much is read at once.
const WINDOW_BYTES: usize = 1024 * 1024;

/// What a block is compared with to find out whether it was written.
static ZEROS: [u8; 4096] = [0; 4096];

/// A file being read.
pub(crate) struct Reader {
    file: Box<dyn File>,
    pub(crate) header: Header,
    pub(crate) size: u64,
    /// Where the next frame begins.
    pub(crate) offset: u64,
    window: Vec<u8>,
    window_start: u64,
}

/// What is at a place.
pub(crate) enum Found {
    /// A whole frame; its body is in [`Reader::body`].
    Frame { offset: u64, body: std::ops::Range<usize> },
    /// Nothing but zeros until the end of the file.
    End,
    /// The rest of a write that was cut short: no whole frame is behind it.
    Torn { offset: u64, bytes: u64 },
    /// Something that is no frame, with a whole frame behind it.
    Damage { offset: u64, next: u64 },
}

impl Reader {
    /// Reads the header of a file.
    pub(crate) fn open(file: Box<dyn File>) -> io::Result<Result<Self, BadHeader>> {
        let size = file.size()?;
        let mut bytes = [0; HEADER_BYTES];
        let count = file.read_at(0, &mut bytes)?;
        Ok(Header::decode(&bytes[..count]).map(|header| Self {
            file,
            header,
            size,
            offset: HEADER_BYTES as u64,
            window: Vec::new(),
            window_start: 0,
        }))
    }

    /// The body of the frame that was found last.
    pub(crate) fn body(&self, range: std::ops::Range<usize>) -> &[u8] {
        &self.window[range]
    }

    /// Looks at the place behind the last frame, and moves on if it is a frame.
    pub(crate) fn next(&mut self) -> io::Result<Found> {
        let offset = self.offset;
        if let Some(body) = self.frame_at(offset)? {
            self.offset = offset + (FRAME_HEADER_BYTES + body.len()) as u64;
            return Ok(Found::Frame { offset, body });
        }
        // Looked for first, so that the many zeros that a file may end with are not searched for frames.
        let Some(last) = self.last_byte_behind(offset)? else { return Ok(Found::End) };
        Ok(match self.find_between(offset + 1, last)? {
            Some(next) => Found::Damage { offset, next },
            None => Found::Torn { offset, bytes: last + 1 - offset },
        })
    }

    /// Whether there is a whole frame at a place.
    fn frame_at(&mut self, offset: u64) -> io::Result<Option<std::ops::Range<usize>>> {
        let head = self.fill(offset, FRAME_HEADER_BYTES)?;
        let Some((length, checksum)) = self.header.open(&self.window[head]) else { return Ok(None) };
        if offset + (FRAME_HEADER_BYTES + length) as u64 > self.size {
            return Ok(None);
        }
        let whole = self.fill(offset, FRAME_HEADER_BYTES + length)?;
        let body = whole.start + FRAME_HEADER_BYTES..whole.end;
        let is_frame =
            body.len() == length && self.header.is_whole(offset, &self.window[body.clone()], checksum);
        Ok(is_frame.then_some(body))
    }

    /// Where the first whole frame that begins between two places begins.
    fn find_between(&mut self, mut offset: u64, last: u64) -> io::Result<Option<u64>> {
        let marker = self.header.marker;
        while offset <= last {
            let wanted = (last + 1 - offset).min(WINDOW_BYTES as u64) as usize;
            let range = self.fill(offset, wanted)?;
            let length = range.len();
            if length < FRAME_HEADER_BYTES {
                return Ok(None);
            }
            let hits: Vec<u64> =
                memmem::find_iter(&self.window[range], &marker).map(|hit| offset + hit as u64).collect();
            for hit in hits {
                if self.frame_at(hit)?.is_some() {
                    return Ok(Some(hit));
                }
            }
            // A marker may lie across the end of the window.
            offset += (length - marker.len() + 1) as u64;
        }
        Ok(None)
    }

    /// Where the last byte that is not zero is, at or behind a place.
    fn last_byte_behind(&mut self, offset: u64) -> io::Result<Option<u64>> {
        let (mut at, mut last) = (offset, None);
        while at < self.size {
            let range = self.fill(at, WINDOW_BYTES)?;
            if range.is_empty() {
                break;
            }
            let length = range.len() as u64;
            for (index, block) in self.window[range].chunks(ZEROS.len()).enumerate() {
                if *block != ZEROS[..block.len()]
                    && let Some(place) = block.iter().rposition(|byte| *byte != 0)
                {
                    last = Some(at + (index * ZEROS.len() + place) as u64);
                }
            }
            at += length;
        }
        Ok(last)
    }

    /// Brings `count` bytes from `offset` on into the window, fewer at the end of the file; gives their place.
    fn fill(&mut self, offset: u64, count: usize) -> io::Result<std::ops::Range<usize>> {
        let wanted = (self.size.saturating_sub(offset)).min(count as u64) as usize;
        let is_in = offset >= self.window_start
            && offset + wanted as u64 <= self.window_start + self.window.len() as u64;
        if !is_in {
            let length = self.size.saturating_sub(offset).min(count.max(WINDOW_BYTES) as u64) as usize;
            self.window.resize(length, 0);
            let read = self.file.read_at(offset, &mut self.window)?;
            self.window.truncate(read);
            self.window_start = offset;
        }
        let start = (offset - self.window_start) as usize;
        let end = (start + wanted).min(self.window.len());
        Ok(start.min(end)..end)
    }
}

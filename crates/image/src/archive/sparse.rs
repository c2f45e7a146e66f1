//! The four ways in which tar writes files with holes.

use super::read::Error;

/// The most runs of data in one file with holes.
pub const SEGMENTS_MAX: usize = 1 << 16;

/// A run of data within a file with holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

/// Checks that the segments are in order, within the file, and use exactly the data that the archive holds.
pub(super) fn check(segments: &[Segment], size: u64, stored: u64) -> Result<(), Error> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for segment in segments {
        if segment.offset < end {
            return Err(Error::Malformed("a sparse file's segments overlap"));
        }
        end = segment
            .offset
            .checked_add(segment.length)
            .ok_or(Error::Malformed("a sparse file is too long"))?;
        sum += segment.length;
    }
    if end > size {
        return Err(Error::Malformed("a sparse file's data lies beyond its end"));
    }
    if sum != stored {
        return Err(Error::Malformed("a sparse file's map does not match its data"));
    }
    Ok(())
}

pub(super) fn push(segments: &mut Vec<Segment>, offset: u64, length: u64) -> Result<(), Error> {
    if segments.len() >= SEGMENTS_MAX {
        return Err(Error::Malformed("a sparse file has too many segments"));
    }
    segments.push(Segment { offset, length });
    Ok(())
}

/// GNU's PAX format 0.1: `offset,length,offset,length,...`.
pub(super) fn parse_list(text: &[u8]) -> Result<Vec<Segment>, Error> {
    let mut segments = Vec::new();
    let mut numbers = text.split(|&byte| byte == b',').map(number);
    while let Some(offset) = numbers.next() {
        let length = numbers.next().ok_or(Error::Malformed("a sparse file's map is cut short"))?;
        push(&mut segments, offset?, length?)?;
    }
    Ok(segments)
}

/// A decimal number without sign.
pub(super) fn number(digits: &[u8]) -> Result<u64, Error> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    text.and_then(|text| text.parse().ok()).ok_or(Error::Malformed("a number in an extended header"))
}

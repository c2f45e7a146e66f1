//! Logs in CRI's format: `<time> <stream> <F or P> <text>`, one record a line, rotated when full.

use std::fs::{File, OpenOptions};
use std::io::{Error, Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use crate::protocol::Log;

/// A longer line is split into parts (`P`), as other runtimes do.
const MAX_LINE_BYTES: usize = 16 << 10;
/// Names of the streams.
pub const STREAMS: [&str; 2] = ["stdout", "stderr"];

/// The open file and its rotation.
pub struct LogFile {
    file: Option<File>,
    size_bytes: u64,
    settings: Log,
}

/// A stream's line that has not ended yet.
#[derive(Default)]
pub struct Line(Vec<u8>);

impl LogFile {
    /// Opens or continues the file.
    pub fn open(settings: &Log) -> Result<Self> {
        let file = open(&settings.path)?;
        let size_bytes = file.metadata()?.len();
        Ok(Self { file: Some(file), size_bytes, settings: settings.clone() })
    }

    /// Appends records. A full disk loses them, never the container.
    pub fn append(&mut self, records: &[u8], now: Duration) {
        if records.is_empty() {
            return;
        }
        let full =
            self.settings.max_bytes > 0 && self.size_bytes + records.len() as u64 > self.settings.max_bytes;
        if full && self.size_bytes > 0 {
            self.rotate(now);
        }
        if self.file.is_none() {
            self.file = open(&self.settings.path).ok();
        }
        if let Some(file) = &mut self.file
            && file.write_all(records).is_ok()
        {
            self.size_bytes += records.len() as u64;
        }
    }

    /// Sets the current file aside under the time's name, and deletes the oldest of those beyond the limit.
    pub fn rotate(&mut self, now: Duration) {
        let path = &self.settings.path;
        if std::fs::rename(path, format!("{path}.{}", suffix(now))).is_err() {
            return;
        }
        self.file = open(path).ok();
        self.size_bytes = 0;
        let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
        let start = format!("{name}.");
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut old: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|entry| entry.starts_with(&start))
            .collect();
        old.sort_unstable();
        let kept = self.settings.max_files.saturating_sub(1) as usize;
        for extra in &old[..old.len().saturating_sub(kept)] {
            let _ = std::fs::remove_file(format!("{folder}/{extra}"));
        }
    }
}

/// Opens for appending; a symbolic link in its place is refused.
fn open(path: &str) -> Result<File> {
    let mut options = OpenOptions::new();
    let file = options.create(true).append(true).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(Error::from_raw_os_error(libc::EINVAL)) }
}

impl Line {
    /// Turns `bytes` into records; an unfinished line is kept.
    pub fn feed(&mut self, stream: &str, mut bytes: &[u8], now: Duration, out: &mut Vec<u8>) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.take(stream, &bytes[..end], now, out);
            self.emit(stream, "F", now, out);
            bytes = &bytes[end + 1..];
        }
        self.take(stream, bytes, now, out);
    }

    /// Ends the stream: what is left is a part without an end.
    pub fn finish(&mut self, stream: &str, now: Duration, out: &mut Vec<u8>) {
        if !self.0.is_empty() {
            self.emit(stream, "P", now, out);
        }
        self.0 = Vec::new();
    }

    fn take(&mut self, stream: &str, mut bytes: &[u8], now: Duration, out: &mut Vec<u8>) {
        while self.0.len() + bytes.len() > MAX_LINE_BYTES {
            let (head, rest) = bytes.split_at(MAX_LINE_BYTES - self.0.len());
            self.0.extend_from_slice(head);
            self.emit(stream, "P", now, out);
            bytes = rest;
        }
        self.0.extend_from_slice(bytes);
    }

    fn emit(&mut self, stream: &str, tag: &str, now: Duration, out: &mut Vec<u8>) {
        out.extend_from_slice(timestamp(now).as_bytes());
        for word in [stream, tag] {
            out.push(b' ');
            out.extend_from_slice(word.as_bytes());
        }
        out.push(b' ');
        out.append(&mut self.0);
        out.push(b'\n');
    }
}

/// RFC 3339 with nanoseconds, in UTC.
pub fn timestamp(now: Duration) -> String {
    let (year, month, day) = date(now.as_secs() / 86_400);
    let seconds = now.as_secs() % 86_400;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", now.subsec_nanos())
}

/// A file name's ending that sorts by time.
fn suffix(now: Duration) -> String {
    let (year, month, day) = date(now.as_secs() / 86_400);
    let seconds = now.as_secs() % 86_400;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}.{:09}", now.subsec_nanos())
}

/// Year, month and day of a day since 1970 ("civil from days", Hinnant 2013, for days after the epoch).
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Duration = Duration::new(1_795_433_119, 123_456_789);

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(timestamp(NOON), "2026-11-23T11:25:19.123456789Z");
        assert_eq!(timestamp(Duration::new(951_782_400, 0)), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(suffix(NOON), "20261123-112519.123456789");
    }

    #[test]
    fn lines_are_records_and_what_has_no_end_is_a_part() {
        let (mut line, mut out) = (Line::default(), Vec::new());
        line.feed("stdout", b"one\ntw", NOON, &mut out);
        line.feed("stdout", b"o\n\nthree", NOON, &mut out);
        line.finish("stdout", NOON, &mut out);
        let text = String::from_utf8(out).unwrap();
        let tails: Vec<_> = text.lines().map(|line| line.split_once("Z ").unwrap().1).collect();
        assert_eq!(tails, ["stdout F one", "stdout F two", "stdout F ", "stdout P three"]);
    }

    #[test]
    fn a_long_line_is_split_and_nothing_is_lost() {
        let (mut line, mut out) = (Line::default(), Vec::new());
        let long = vec![b'x'; MAX_LINE_BYTES * 2 + 5];
        line.feed("stderr", &long, NOON, &mut out);
        line.feed("stderr", b"\n", NOON, &mut out);
        let text = String::from_utf8(out).unwrap();
        let tags: Vec<_> = text.lines().map(|line| (&line[38..39], line.len() - 40)).collect();
        assert_eq!(tags, [("P", MAX_LINE_BYTES), ("P", MAX_LINE_BYTES), ("F", 5)]);
    }
}

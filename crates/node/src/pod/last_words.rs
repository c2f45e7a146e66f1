//! The last words of a container: the end of its termination file, or of its log.
//!
//! Both are written by the container, so no more of them is read than is kept.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// How much of a termination message is kept; of a log in its place.
const MESSAGE_BYTES: usize = 4096;
const LOG_BYTES: usize = 2048;
const LOG_LINES: usize = 80;
/// How much of a log's file is looked at: records of that text with their times, and one record of the longest sort.
const LOG_FILE_BYTES: u64 = 64 << 10;

/// The end of a termination file; empty if it cannot be read.
pub fn of_file(path: &Path) -> String {
    let (bytes, _) = end_of(path, MESSAGE_BYTES as u64).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The end of what a log says; empty if it cannot be read.
pub fn of_log(path: &Path) -> String {
    let (bytes, whole) = end_of(path, LOG_FILE_BYTES).unwrap_or_default();
    of_records(&bytes, whole)
}

/// The last bytes of a file, and whether they are all.
fn end_of(path: &Path, most: u64) -> io::Result<(Vec<u8>, bool)> {
    let mut file = File::open(path)?;
    let skipped = file.metadata()?.len().saturating_sub(most);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok((bytes, skipped == 0))
}

/// The last lines of records, each of which is: time, stream, tag, text. The first record may lack its beginning.
fn of_records(bytes: &[u8], whole: bool) -> String {
    let text = String::from_utf8_lossy(bytes);
    let records = text.lines().skip(usize::from(!whole));
    let mut lines = vec![String::new()];
    for record in records {
        let mut parts = record.splitn(4, ' ').skip(2);
        let (Some(tag), Some(text)) = (parts.next(), parts.next()) else { continue };
        if let Some(line) = lines.last_mut() {
            line.push_str(text);
        }
        // A line that is too long for one record goes on in the next.
        if tag == "F" {
            lines.push(String::new());
        }
    }
    lines.pop_if(|line| line.is_empty());
    let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
    String::from_utf8_lossy(&last.as_bytes()[last.len().saturating_sub(LOG_BYTES)..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_heard_to_its_end_whatever_bytes_it_has() {
        let check = |records: &[u8], expect: &str| assert_eq!(of_records(records, true), expect);
        check(b"", "");
        check(b"T stdout F one\nT stderr F two\n", "one\ntwo");
        check(b"T stdout F bad \xff byte\nT stdout F last words\n", "bad \u{fffd} byte\nlast words");
        check(
            b"T stdout P long \nT stdout P er \nT stdout F line\nT stdout P no end",
            "long er line\nno end",
        );
        assert_eq!(of_records(b"cut off\nT stdout F whole\n", false), "whole");
        let many: String = (0..100).map(|n| format!("T stdout F {n}\n")).collect();
        assert!(of_records(many.as_bytes(), true).starts_with("20\n21\n"));
    }

    #[test]
    fn of_a_file_without_end_only_the_end_is_read() {
        let path = std::env::temp_dir().join(format!("ondt-words-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        let message = of_file(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(message, "\0".repeat(MESSAGE_BYTES));
        assert_eq!(of_file(Path::new("/nowhere/at/all")), "");
    }
}

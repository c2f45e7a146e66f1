//! `ondol logs`

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use base::Clock;

use crate::arguments::Logs;
use crate::output;

/// The part of the file in which the last lines are looked for.
const TAIL_BYTES: u64 = 4 * 1024 * 1024;
/// How often a followed file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Prints our own log from `path`.
pub async fn logs(path: &Path, options: &Logs, clock: &Clock) -> anyhow::Result<()> {
    let mut file = open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    output::bytes(last_lines(&text, options.tail));
    let mut at = file.stream_position()?;
    while options.follow && output::is_open() {
        clock.sleep(LOOK_EVERY).await;
        // A rotated or emptied file begins anew.
        let Ok(now) = std::fs::metadata(path) else { continue };
        if now.len() < at {
            at = 0;
        }
        if now.len() > at {
            file = open(path)?;
            file.seek(SeekFrom::Start(at))?;
            text.clear();
            file.read_to_end(&mut text)?;
            at += text.len() as u64;
            output::bytes(&text);
        }
    }
    Ok(())
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| {
        format!(
            "there is no log at {}; has \"ondol up\" run here? (in the foreground it logs to its terminal)",
            path.display()
        )
    })
}

fn last_lines(text: &[u8], count: usize) -> &[u8] {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let mut starts = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    match count.checked_sub(1).map(|nth| starts.nth(nth)) {
        None => &[],
        Some(None) => text,
        Some(Some((at, _))) => &text[at + 1..],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_the_last_lines() {
        assert_eq!(last_lines(b"a\nb\nc\n", 2), b"b\nc\n");
        assert_eq!(last_lines(b"a\nb", 5), b"a\nb");
        assert_eq!(last_lines(b"a\nb\n", 0), b"");
        assert_eq!(last_lines(b"", 3), b"");
    }
}

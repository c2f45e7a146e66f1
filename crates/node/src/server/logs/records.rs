//! What is asked of a log, and the records that answer it. Pure.

use jiff::Timestamp;
use memchr::memchr;
use wire::query::Pairs;

/// Longer than any record that is written; a longer one is not ours and is shown as it is.
const RECORD_MAX_BYTES: usize = 64 << 10;

/// Which streams are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streams {
    /// Both.
    #[default]
    All,
    /// What the container printed.
    Stdout,
    /// What the container complained.
    Stderr,
}

/// What is asked of a log (`v1.PodLogOptions`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Goes on until the container ends.
    pub follow: bool,
    /// Of the attempt before.
    pub previous: bool,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// Nothing older.
    pub since: Option<Timestamp>,
    /// The last lines only.
    pub tail_lines: Option<u64>,
    /// Ends after this many bytes.
    pub limit_bytes: Option<u64>,
    /// Which streams.
    pub streams: Streams,
}

/// A query that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Answer 400.
    #[error("{{\"message\": \"Unable to decode query.\"}}")]
    Unreadable,
    /// Answer 422.
    #[error("{{\"message\": \"Invalid request.\"}}")]
    Invalid,
}

impl Options {
    /// Reads a query; `now` is what `sinceSeconds` counts from.
    pub fn parse(query: &Pairs<'_>, now: Timestamp) -> Result<Self, OptionsError> {
        let flag = |name: &str| match query.get(name) {
            None | Some("" | "false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(_) => Err(OptionsError::Unreadable),
        };
        let number = |name: &str| match query.get(name).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => text.parse::<i64>().map(Some).map_err(|_| OptionsError::Unreadable),
        };
        let tail = match query.get("tail") {
            Some("all") => None,
            Some(_) => number("tail")?,
            None => number("tailLines")?,
        };
        let at_least = |least: i64, value: Option<i64>| match value {
            Some(value) if value < least => Err(OptionsError::Invalid),
            value => Ok(value),
        };
        let (tail, limit) = (at_least(0, tail)?, at_least(1, number("limitBytes")?)?);
        let seconds = at_least(1, number("sinceSeconds")?)?;
        let time = query.get("sinceTime").filter(|text| !text.is_empty());
        let time =
            time.map(|text| text.parse::<Timestamp>().map_err(|_| OptionsError::Unreadable)).transpose()?;
        if seconds.is_some() && time.is_some() {
            return Err(OptionsError::Invalid);
        }
        let before = seconds.map(|seconds| {
            let earlier = now.as_second().saturating_sub(seconds);
            Timestamp::from_second(earlier).unwrap_or(Timestamp::UNIX_EPOCH)
        });
        let streams = match query.get("stream") {
            None | Some("" | "All") => Streams::All,
            Some("Stdout") => Streams::Stdout,
            Some("Stderr") => Streams::Stderr,
            Some(_) => return Err(OptionsError::Invalid),
        };
        // Upstream refuses it too: the last lines are counted before streams are told apart.
        if streams != Streams::All && tail.is_some() {
            return Err(OptionsError::Invalid);
        }
        Ok(Self {
            follow: flag("follow")?,
            previous: flag("previous")?,
            timestamps: flag("timestamps")?,
            since: time.or(before),
            tail_lines: tail.map(i64::unsigned_abs),
            limit_bytes: limit.map(i64::unsigned_abs),
            streams,
        })
    }
}

/// One record of a log.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// As it was written.
    pub time: &'a str,
    /// Whether it came by stderr.
    pub error: bool,
    /// Whether the line ends here.
    pub ends_line: bool,
    /// What was printed.
    pub text: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads a line of the file, without its newline.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let field = |bytes: &'a [u8]| {
            let end = memchr(b' ', bytes)?;
            Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
        };
        let (time, rest) = field(line)?;
        let (stream, rest) = field(rest)?;
        // The tag may be the end of the line, where nothing was printed.
        let (tag, text) = field(rest).or_else(|| Some((std::str::from_utf8(rest).ok()?, &[][..])))?;
        let error = match stream {
            "stdout" => false,
            "stderr" => true,
            _ => return None,
        };
        let ends_line = match tag.split(':').next() {
            Some("F") => true,
            Some("P") => false,
            _ => return None,
        };
        Some(Self { time, error, ends_line, text })
    }
}

/// Turns the bytes of a log into what the client sees. Bytes may come in any pieces.
#[derive(Debug)]
pub struct Printer {
    options: Options,
    unfinished: Vec<u8>,
    /// Whether the next record of stdout, of stderr, begins a line.
    begins: [bool; 2],
    left: Option<u64>,
}

impl Printer {
    /// At the beginning of a record.
    pub fn new(options: &Options) -> Self {
        Self {
            options: options.clone(),
            unfinished: Vec::new(),
            begins: [true; 2],
            left: options.limit_bytes,
        }
    }

    /// Prints all whole records; what is left waits for more. Returns whether more is wanted.
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> bool {
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.unfinished.is_empty() {
                self.print(line, out);
            } else {
                self.unfinished.extend_from_slice(line);
                let whole = std::mem::take(&mut self.unfinished);
                self.print(&whole, out);
            }
            bytes = rest;
            if self.left == Some(0) {
                return false;
            }
        }
        if self.unfinished.len() + bytes.len() <= RECORD_MAX_BYTES {
            self.unfinished.extend_from_slice(bytes);
        }
        true
    }

    /// The file ended in the middle of a record: its writer was killed there.
    pub fn skip_unfinished(&mut self) {
        self.unfinished.clear();
    }

    fn print(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(record) = Record::parse(line) else { return };
        let shown = match self.options.streams {
            Streams::All => true,
            Streams::Stdout => !record.error,
            Streams::Stderr => record.error,
        };
        let old = self
            .options
            .since
            .is_some_and(|since| record.time.parse::<Timestamp>().is_ok_and(|time| time < since));
        if !shown || old {
            return;
        }
        let start = out.len();
        let begins = &mut self.begins[usize::from(record.error)];
        if *begins && self.options.timestamps {
            out.extend_from_slice(record.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(record.text);
        if record.ends_line {
            out.push(b'\n');
        }
        *begins = record.ends_line;
        if let Some(left) = &mut self.left {
            let printed = (out.len() - start) as u64;
            if printed > *left {
                out.truncate(start + *left as usize);
            }
            *left = left.saturating_sub(printed);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.000000001Z stdout F one\n\
                       2026-01-01T00:00:01.5Z stderr P tw\n\
                       2026-01-01T00:00:01.6Z stderr F o\n\
                       2026-01-01T00:00:02Z stdout F \n\
                       2026-01-01T00:00:03Z stdout P end";

    fn check(query: &str, expect: &str) {
        let now = "2026-01-01T00:00:03Z".parse().unwrap();
        let options = Options::parse(&Pairs::parse(Some(query)).unwrap(), now).unwrap();
        for piece in [1, 7, 1000] {
            let (mut printer, mut out) = (Printer::new(&options), Vec::new());
            let _ = LOG.as_bytes().chunks(piece).all(|bytes| printer.feed(bytes, &mut out));
            assert_eq!(String::from_utf8(out).unwrap(), expect, "{query} in pieces of {piece}");
        }
    }

    #[test]
    fn records_become_lines() {
        check("", "one\ntwo\n\n");
        check("stream=Stdout", "one\n\n");
        check("stream=Stderr", "two\n");
        check("sinceSeconds=1", "\n");
        check("sinceTime=2026-01-01T00:00:01.55Z", "o\n\n");
        check("limitBytes=5", "one\nt");
        let times = "2026-01-01T00:00:00.000000001Z one\n2026-01-01T00:00:01.5Z two\n2026-01-01T00:00:02Z \n";
        check("timestamps=true", times);
    }

    #[test]
    fn queries_are_checked() {
        let parse = |query| Options::parse(&Pairs::parse(Some(query)).unwrap(), Timestamp::UNIX_EPOCH);
        assert_eq!(parse("follow=maybe"), Err(OptionsError::Unreadable));
        assert_eq!(parse("tailLines=x"), Err(OptionsError::Unreadable));
        for invalid in [
            "tailLines=-1",
            "limitBytes=0",
            "sinceSeconds=0",
            "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
            "stream=Both",
            "stream=Stdout&tailLines=1",
        ] {
            assert_eq!(parse(invalid), Err(OptionsError::Invalid), "{invalid}");
        }
        assert_eq!(parse("tail=all").unwrap().tail_lines, None);
        assert_eq!(parse("tail=3&previous=1").unwrap().tail_lines, Some(3));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), limit in 1_u64..50) {
            let options = Options { limit_bytes: Some(limit), timestamps: true, ..Options::default() };
            let (mut printer, mut out) = (Printer::new(&options), Vec::new());
            printer.feed(&bytes, &mut out);
            prop_assert!(out.len() as u64 <= limit);
        }

        #[test]
        fn what_was_printed_is_shown(lines in proptest::collection::vec("[^\n]{0,40}", 0..8)) {
            let log: String = lines.iter().map(|line| format!("2026-01-01T00:00:00Z stdout F {line}\n")).collect();
            let (mut printer, mut out) = (Printer::new(&Options::default()), Vec::new());
            printer.feed(log.as_bytes(), &mut out);
            let expect: String = lines.iter().map(|line| format!("{line}\n")).collect();
            prop_assert_eq!(String::from_utf8(out).unwrap(), expect);
        }
    }
}

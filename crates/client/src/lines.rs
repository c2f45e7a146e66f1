//! A stream of buffers as lines, wherever the buffers are cut.

use bytes::{Buf, Bytes, BytesMut};

/// The longest line that is taken: an object of the largest size with its envelope.
pub const LINE_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Puts lines together. Empty lines are left out; what follows the last newline waits for more.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: BytesMut,
    /// Where the search for a newline goes on, so that a long line is searched once.
    searched: usize,
}

/// A line that is longer than [`LINE_MAX_BYTES`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a line of a watch is longer than {LINE_MAX_BYTES} bytes; the server is not a Kubernetes API")]
pub struct TooLong;

impl Lines {
    /// Takes what came.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), TooLong> {
        if self.buffer.len() + chunk.len() > 2 * LINE_MAX_BYTES {
            return Err(TooLong);
        }
        self.buffer.extend_from_slice(chunk);
        Ok(())
    }

    /// The next whole line, without its newline.
    pub fn next_line(&mut self) -> Result<Option<Bytes>, TooLong> {
        loop {
            let Some(at) = memchr::memchr(b'\n', &self.buffer[self.searched..]) else {
                self.searched = self.buffer.len();
                return if self.searched > LINE_MAX_BYTES { Err(TooLong) } else { Ok(None) };
            };
            let line = self.buffer.split_to(self.searched + at).freeze();
            self.buffer.advance(1);
            self.searched = 0;
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(line));
            }
        }
    }

    /// What came without a newline, when the stream has ended: elsewhere it is a line that was cut, and not looked at.
    #[cfg(test)]
    fn rest(self) -> Option<Bytes> {
        let rest = self.buffer.freeze();
        (!rest.iter().all(u8::is_ascii_whitespace)).then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.push(chunk).unwrap();
            while let Some(line) = lines.next_line().unwrap() {
                found.push(line.to_vec());
            }
        }
        found.extend(lines.rest().map(|rest| rest.to_vec()));
        found
    }

    #[test]
    fn a_line_too_long_is_refused() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; LINE_MAX_BYTES + 1]).unwrap();
        assert_eq!(lines.next_line(), Err(TooLong));
    }

    proptest! {
        #[test]
        fn lines_are_the_same_wherever_buffers_are_cut(
            text in "[ab\n ]{0,60}",
            cuts in proptest::collection::vec(0usize..60, 0..8),
        ) {
            let whole: Vec<Vec<u8>> = text
                .split('\n')
                .filter(|line| !line.trim().is_empty())
                .map(|line| line.as_bytes().to_vec())
                .collect();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= text.len()).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts {
                chunks.push(&text.as_bytes()[from..cut]);
                from = cut;
            }
            chunks.push(&text.as_bytes()[from..]);
            prop_assert_eq!(split(&chunks), whole);
        }
    }
}

//! What verbs print, in one place: a reader that goes away (`| head -1`) ends a verb quietly, and what cannot be
//! written (a full disk) is told in one line at the end.
//!
//! Printing never fails where it stands: a verb that changes something goes on with its work, and one that only reads
//! asks [`is_open`] where there is much to come. [`finish`] has the last word. `println!` and its like panic in the same
//! places, so the lints forbid them above this file.

use std::fmt::Display;
use std::io::{self, ErrorKind, Stdout, Write};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

static OUTPUT: LazyLock<Mutex<Output<Stdout>>> = LazyLock::new(|| Mutex::new(Output::new(io::stdout())));

/// Prints a line.
pub fn line(text: impl Display) {
    bytes(format!("{text}\n").as_bytes());
}

/// Prints text as it is, and at once.
pub fn text(text: impl Display) {
    bytes(text.to_string().as_bytes());
}

/// Prints bytes as they are, and at once.
pub fn bytes(bytes: &[u8]) {
    output().write(bytes);
}

/// Whether somebody still takes what is printed.
pub fn is_open() -> bool {
    let mut output = output();
    if output.failure.is_none() && has_gone(&output.writer) {
        output.failure = Some(ErrorKind::BrokenPipe.into());
    }
    output.failure.is_none()
}

/// Whether this is a pipe that nobody reads any more.
fn has_gone(writer: &Stdout) -> bool {
    let mut asked = [PollFd::new(writer, PollFlags::empty())];
    // Who cannot be asked is found out by writing.
    let answered = poll(&mut asked, Some(&Timespec::default()));
    answered.is_ok() && asked[0].revents().contains(PollFlags::ERR)
}

/// Whether all that was printed has got where it should. That nobody wanted the rest is no failure.
pub fn finish() -> io::Result<()> {
    output().finish()
}

/// Tells something on standard error. If even that cannot be written there is nobody left to tell.
pub fn tell(text: impl Display) {
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

fn output() -> MutexGuard<'static, Output<Stdout>> {
    OUTPUT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A writer that remembers its first failure and is spared from then on.
struct Output<W> {
    writer: W,
    failure: Option<io::Error>,
}

impl<W: Write> Output<W> {
    fn new(writer: W) -> Self {
        Self { writer, failure: None }
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.failure.is_none() {
            self.failure = self.writer.write_all(bytes).and_then(|()| self.writer.flush()).err();
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        match self.failure.take() {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, then fails.
    struct Narrow(usize, ErrorKind);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(self.1.into());
            }
            let count = self.0.min(bytes.len());
            self.0 -= count;
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn check(room: usize, kind: ErrorKind, open: bool, told: Option<ErrorKind>) {
        let mut output = Output::new(Narrow(room, kind));
        output.write(b"four");
        output.write(b"more");
        assert_eq!(output.failure.is_none(), open);
        assert_eq!(output.finish().err().map(|error| error.kind()), told);
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure_and_a_full_disk_is_one() {
        check(8, ErrorKind::BrokenPipe, true, None);
        check(5, ErrorKind::BrokenPipe, false, None);
        check(0, ErrorKind::StorageFull, false, Some(ErrorKind::StorageFull));
        check(4, ErrorKind::StorageFull, false, Some(ErrorKind::StorageFull));
    }
}

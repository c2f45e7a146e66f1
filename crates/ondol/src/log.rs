//! Our own log: to standard error, which in the background is a file of bounded size.

use std::fs::File;
use std::io::{Stderr, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{ftruncate, stat};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// What is logged unless the instance is told otherwise.
const LEVEL: &str = "info";
/// At this size the log is set aside as `ondol.log.old`, and begun anew.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Begins to log. `quiet` for verbs that print for people.
pub fn start(quiet: bool) {
    let filter = EnvFilter::builder().parse_lossy(if quiet { "error" } else { LEVEL });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Bounded::of_standard_error())
        // Without colours also on a terminal: they would be another dependency.
        .with_ansi(false)
        .init();
}

/// Standard error; where that is a file, it does not grow without end.
struct Bounded {
    /// The file, if it is one.
    path: Option<PathBuf>,
    bytes: AtomicU64,
}

impl Bounded {
    fn of_standard_error() -> Self {
        let path = std::fs::read_link("/proc/self/fd/2").ok().filter(|path| path.is_file());
        let bytes =
            path.as_ref().and_then(|path| stat(path).ok()).map_or(0, |stat| stat.st_size.unsigned_abs());
        Self { path, bytes: AtomicU64::new(bytes) }
    }

    /// Sets the log aside. It is copied, not renamed, because standard error stays this file.
    fn turn(&self) -> std::io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut old = path.clone().into_os_string();
        old.push(".old");
        std::io::copy(&mut File::open(path)?, &mut File::create(old)?)?;
        // It was opened for appending, so that the next line begins at the new end.
        Ok(ftruncate(std::io::stderr(), 0)?)
    }
}

/// One line's writer.
struct Line<'a>(Stderr, &'a Bounded);

impl Write for Line<'_> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let count = self.0.write(buffer)?;
        let before = self.1.bytes.fetch_add(count as u64, Ordering::Relaxed);
        if before + count as u64 > LOG_BYTES_MAX {
            self.1.bytes.store(0, Ordering::Relaxed);
            self.1.turn()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl<'a> MakeWriter<'a> for Bounded {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(std::io::stderr(), self)
    }
}

//! Sending a log, and what is added to it while somebody watches.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::Stop;
use bytes::Bytes;
use rustix::fs::inotify;
use sandbox::Attempt;
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use super::files::{self, Open};
use super::records::{Options, Printer};
use crate::server::sys;

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;

/// What runs while the log is followed.
pub struct Source {
    /// What the sandbox says.
    pub states: watch::Receiver<Arc<sandbox::State>>,
    /// Which attempt.
    pub attempt: Attempt,
}

/// Sends the log at `path`; with `follow`, until `source` has ended. Ends early when the receiver is gone.
pub async fn send(
    path: PathBuf,
    options: Options,
    source: Option<Source>,
    stop: Stop,
    sender: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    // Before the first read, so that no change is missed.
    let changes = match (options.follow, path.parent()) {
        (true, Some(folder)) if source.is_some() => Some(Changes::of(folder)?),
        _ => None,
    };
    let (first, tail) = (path.clone(), options.tail_lines);
    let mut files: VecDeque<Open> = blocking(move || files::open(&first, tail)).await?.into();
    let mut printer = Printer::new(&options);
    let mut current: Option<tokio::fs::File> = None;
    let mut identity = None;
    loop {
        let over = source.as_ref().is_none_or(Source::is_over);
        loop {
            if let Some(file) = &mut current
                && !drain(file, &mut printer, &sender).await?
            {
                return Ok(());
            }
            if files.is_empty() {
                files = newer(&path, &mut identity).await?;
            }
            let Some(next) = files.pop_front() else { break };
            // What was written between the last read and the moment when the file was set aside.
            if let Some(file) = &mut current
                && !drain(file, &mut printer, &sender).await?
            {
                return Ok(());
            }
            printer.skip_unfinished();
            current = Some(tokio::fs::File::from_std(next.file.try_clone()?));
            identity = Some(next);
        }
        let Some((changes, source)) = changes.as_ref().zip(source.as_ref()).filter(|_| !over) else {
            return Ok(());
        };
        let wait = async {
            tokio::select! {
                changed = changes.next() => changed.map(|()| true),
                () = source.ended() => Ok(true),
                () = sender.closed() => Ok(false),
            }
        };
        match stop.or(wait).await {
            Some(Ok(true)) => {}
            Some(Ok(false)) | None => return Ok(()),
            Some(Err(error)) => return Err(error),
        }
    }
}

/// The files that came after the one that is read; all, if none is read yet.
async fn newer(path: &Path, identity: &mut Option<Open>) -> io::Result<VecDeque<Open>> {
    let (path, current) = (path.to_owned(), identity.take());
    let (found, current) = blocking(move || match current {
        Some(current) => Ok((files::after(&path, &current)?, Some(current))),
        None => Ok((files::open(&path, None)?, None)),
    })
    .await?;
    *identity = current;
    Ok(found.into())
}

/// Reads to the end of the file. Returns whether more is wanted.
async fn drain(
    file: &mut tokio::fs::File,
    printer: &mut Printer,
    sender: &mpsc::Sender<Bytes>,
) -> io::Result<bool> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = file.read(&mut buffer).await?;
        if count == 0 {
            return Ok(true);
        }
        let mut out = Vec::new();
        let more = printer.feed(&buffer[..count], &mut out);
        if !out.is_empty() && sender.send(out.into()).await.is_err() {
            return Ok(false);
        }
        if !more {
            return Ok(false);
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

impl Source {
    /// Whether nothing more will be written: the end of a container is told after its log is complete.
    fn is_over(&self) -> bool {
        over(&self.states.borrow(), &self.attempt)
    }

    async fn ended(&self) {
        let mut states = self.states.clone();
        // An error means that the sandbox is gone.
        let _ = states.wait_for(|state| over(state, &self.attempt)).await;
    }
}

fn over(state: &sandbox::State, attempt: &Attempt) -> bool {
    use sandbox::Phase;
    let phase = state.get(attempt).map(|container| &container.phase);
    state.lost || !matches!(phase, Some(Phase::Starting | Phase::Running { .. }))
}

/// Changes of the files of a directory, as the kernel tells them.
struct Changes(AsyncFd<OwnedFd>);

impl Changes {
    fn of(folder: &Path) -> io::Result<Self> {
        let handle = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        let wanted =
            inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&handle, folder, wanted)?;
        Ok(Self(sys::watch(handle)?))
    }

    /// Returns after something changed; what exactly does not matter.
    async fn next(&self) -> io::Result<()> {
        loop {
            let mut guard = self.0.readable().await?;
            let mut space = [0; 4096];
            let read = guard.try_io(|handle| Ok(rustix::io::read(handle.get_ref(), &mut space)?));
            match read {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use base::{Stopper, Tasks};
    use sandbox::{ContainerState, Exit, Phase, State};

    use super::*;

    struct Followed {
        folder: tempfile::TempDir,
        states: watch::Sender<Arc<State>>,
        pieces: mpsc::Receiver<Bytes>,
        _stopper: Stopper,
    }

    fn state(phase: Phase) -> Arc<State> {
        let attempt = Attempt::new("c", 0);
        let container = ContainerState { attempt: attempt.clone(), phase, notes: Vec::new() };
        Arc::new(State { lost: false, containers: [(attempt, container)].into() })
    }

    fn record(text: &str) -> String {
        format!("2026-01-01T00:00:00Z stdout F {text}\n")
    }

    impl Followed {
        fn new(first: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("0.log");
            std::fs::write(&path, first).unwrap();
            let running = Phase::Running { pid: 1, started_at: jiff::Timestamp::UNIX_EPOCH };
            let (states, receiver) = watch::channel(state(running));
            let source = Source { states: receiver, attempt: Attempt::new("c", 0) };
            let options = Options { follow: true, ..Options::default() };
            let (sender, pieces) = mpsc::channel(1);
            let stopper = Stopper::new();
            let stop = stopper.signal();
            Tasks::new().spawn("follow", async move {
                send(path, options, Some(source), stop, sender).await.unwrap()
            });
            Self { folder, states, pieces, _stopper: stopper }
        }

        fn append(&self, text: &str) {
            let mut file = std::fs::OpenOptions::new();
            let file = file.append(true).create(true).open(self.folder.path().join("0.log"));
            file.unwrap().write_all(text.as_bytes()).unwrap();
        }

        async fn expect(&mut self, text: &str) {
            let mut seen = String::new();
            while seen.len() < text.len() {
                seen.push_str(std::str::from_utf8(&self.pieces.recv().await.unwrap()).unwrap());
            }
            assert_eq!(seen, text);
        }
    }

    #[tokio::test]
    async fn a_followed_log_goes_on_through_rotations_until_the_container_ends() {
        let mut log = Followed::new(&record("one"));
        log.expect("one\n").await;
        let unfinished = record("two");
        log.append(&unfinished[..30]);
        log.append(&unfinished[30..]);
        log.expect("two\n").await;
        log.append(&record("three"));
        let path = log.folder.path();
        std::fs::rename(path.join("0.log"), path.join("0.log.20260101")).unwrap();
        log.append(&record("four"));
        log.expect("three\nfour\n").await;
        log.append(&record("last"));
        let exit = Exit {
            code: 0,
            signal: None,
            out_of_memory: false,
            started_at: jiff::Timestamp::UNIX_EPOCH,
            finished_at: jiff::Timestamp::UNIX_EPOCH,
        };
        log.states.send_replace(state(Phase::Ended(exit)));
        log.expect("last\n").await;
        assert_eq!(log.pieces.recv().await, None);
    }
}

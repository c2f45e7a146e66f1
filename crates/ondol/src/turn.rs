//! One `up` or `down` of an instance at a time: the next waits, so that the last one wins.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use cli::output;
use rustix::fs::{FlockOperation, flock};

use crate::layout::Layout;

/// Held while a command changes whether the instance runs; the kernel takes it back when the process ends.
pub struct Turn {
    _held: File,
    path: PathBuf,
}

impl Turn {
    /// Waits for the others' commands; says so if there are any.
    pub fn take(layout: &Layout) -> anyhow::Result<Self> {
        let path = layout.turn();
        let failed = || format!("{} cannot be used", path.display());
        loop {
            match path.parent().map_or(Ok(()), std::fs::create_dir_all) {
                // Who had it removed the folder after it was seen to be there.
                Err(error)
                    if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound)
                        && !path.parent().is_some_and(is_no_folder) =>
                {
                    continue;
                }
                other => other.with_context(failed)?,
            }
            let file = match File::options().create(true).truncate(false).write(true).open(&path) {
                // Who had it has just removed the folder.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                other => other.with_context(failed)?,
            };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                output::tell(format_args!(
                    "another command of instance {} is at work; waiting for it",
                    layout.instance
                ));
                flock(&file, FlockOperation::LockExclusive).with_context(failed)?;
            }
            // Who had it may have removed it, and somebody else may hold a new one.
            let held = file.metadata().with_context(failed)?.ino();
            if std::fs::metadata(&path).is_ok_and(|metadata| metadata.ino() == held) {
                return Ok(Self { _held: file, path });
            }
        }
    }

    /// Gives it back and leaves no file.
    pub fn end(self) {
        drop(self);
    }
}

/// Whether something else has the folder's name, as a link that leads nowhere.
fn is_no_folder(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_dir())
}

impl Drop for Turn {
    /// Also where a command fails: an instance that could not be started leaves nothing.
    fn drop(&mut self) {
        // Another command may have removed the folder; then nothing is left of the file either.
        let _ = std::fs::remove_file(&self.path);
        if let Some(folder) = self.path.parent() {
            // Ours if nothing else is in it.
            let _ = std::fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn commands_of_one_instance_take_turns_also_when_the_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout { run: folder.path().join("run"), ..Layout::new("t-turn", None).unwrap() };
        let at_work = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (layout, at_work) = (&layout, &at_work);
                scope.spawn(move || {
                    for _ in 0..20 {
                        let turn = Turn::take(layout).unwrap();
                        assert_eq!(at_work.fetch_add(1, Ordering::SeqCst), 0, "alone");
                        at_work.fetch_sub(1, Ordering::SeqCst);
                        if number % 2 == 0 {
                            turn.end();
                        }
                    }
                });
            }
        });
    }
}

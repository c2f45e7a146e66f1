//! A real folder.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation};

use super::{Disk, File, Lock};

/// Its lock file. It stays: removing it would let two stores lock two files of one name.
const LOCK: &str = "LOCK";

/// Values hold secrets: nobody else reads them.
const MODE: u32 = 0o600;

/// A folder of the file system.
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at `path`, made if it is not there.
    pub fn at(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        make_durably(&path)?;
        Ok(Self(path))
    }
}

/// Makes a folder and those above it, each with its name durable: what is acknowledged must not be lost with a folder
/// that a power cut has never seen.
fn make_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_durably(parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::File::open(parent)?.sync_all()
}

struct FolderLock(#[expect(dead_code, reason = "the lock lives as long as the open file")] fs::File);

impl Lock for FolderLock {}

struct FolderFile(fs::File);

impl Disk for Folder {
    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(MODE).open(self.0.join(LOCK))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(FolderLock(file)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.0)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(MODE);
        Ok(Box::new(FolderFile(file.open(self.0.join(name))?)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        Ok(Box::new(FolderFile(OpenOptions::new().read(true).write(true).open(self.0.join(name))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        fs::File::open(&self.0)?.sync_all()
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl File for FolderFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.0.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn allocate(&mut self, size: u64) -> io::Result<()> {
        let have = self.size()?;
        if size <= have {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), have, size - have) {
            // A file system without it (such as tmpfs of old kernels) grows with each write instead.
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            other => Ok(other?),
        }
    }

    fn truncate(&mut self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_once_and_files_do_as_told() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = Folder::at(scratch.path().join("deep/er")).unwrap();
        let lock = folder.lock().unwrap();
        assert_eq!(folder.lock().err().unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        folder.lock().unwrap();

        let mut file = folder.create("a").unwrap();
        file.write_at(2, b"xyz").unwrap();
        file.allocate(8).unwrap();
        file.sync().unwrap();
        folder.rename("a", "b").unwrap();
        folder.sync().unwrap();
        let mut buffer = [9_u8; 16];
        assert_eq!(folder.open("b").unwrap().read_at(1, &mut buffer).unwrap(), 7);
        assert_eq!(&buffer[..8], b"\0xyz\0\0\0\x09");
        file.truncate(3).unwrap();
        assert_eq!(file.size().unwrap(), 3);
        assert!(folder.path("b").ends_with("deep/er/b"));
    }
}

//! Removing whole folders, however deep: those in which a container wrote are a stranger's.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

/// How a folder is opened: itself, and not where a link leads.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes what is at `path` with all that is in it; a link is removed and not followed.
///
/// It goes down into one folder at a time and up again by `..`. So neither the stack, nor open files, nor the length of a
/// path grow with the depth; only the names of the folders above are remembered.
pub fn remove(path: &Path) -> io::Result<()> {
    let mut folder = match openat(CWD, path, FOLDER, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOTDIR | Errno::LOOP) => return std::fs::remove_file(path),
        Err(error) => return Err(error.into()),
    };
    let mut above: Vec<(CString, (u64, u64))> = Vec::new();
    loop {
        if let Some(name) = first_full_folder(&folder)? {
            let inside = openat(&folder, &*name, FOLDER, Mode::empty())?;
            above.push((name, identity(&folder)?));
            folder = inside;
        } else if let Some((name, known)) = above.pop() {
            folder = openat(&folder, "..", FOLDER, Mode::empty())?;
            if identity(&folder)? != known {
                return Err(io::Error::other("a folder was moved away while it was removed"));
            }
            match unlinkat(&folder, &*name, AtFlags::REMOVEDIR) {
                // Somebody still writes; it is met again.
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                removed => gone(removed)?,
            }
        } else {
            return std::fs::remove_dir(path);
        }
    }
}

/// Removes all that is in a folder up to the first folder that is not empty, and returns the name of that.
fn first_full_folder(folder: &OwnedFd) -> io::Result<Option<CString>> {
    loop {
        let mut found = false;
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            found = true;
            if !is_folder(folder, name, entry.file_type())? {
                gone(unlinkat(folder, name, AtFlags::empty()))?;
                continue;
            }
            match unlinkat(folder, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Some(name.to_owned())),
                removed => gone(removed)?,
            }
        }
        // A folder that changes while it is read need not tell of everything.
        if !found {
            return Ok(None);
        }
    }
}

/// Device and number.
fn identity(folder: &OwnedFd) -> io::Result<(u64, u64)> {
    let found = rustix::fs::fstat(folder)?;
    Ok((found.st_dev, found.st_ino))
}

fn is_folder(folder: &OwnedFd, name: &CStr, told: FileType) -> io::Result<bool> {
    match told {
        FileType::Unknown => {
            let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(FileType::from_raw_mode(found.st_mode) == FileType::Directory)
        }
        told => Ok(told == FileType::Directory),
    }
}

/// What is not there any more is removed.
fn gone(removed: Result<(), Errno>) -> io::Result<()> {
    match removed {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("ondol-tree-{name}-{}", std::process::id()));
        fs::create_dir(&path).expect("a folder");
        path
    }

    #[test]
    fn a_folder_goes_with_all_that_is_in_it_and_links_are_not_followed() {
        let (path, other) = (scratch("all"), scratch("other"));
        fs::write(other.join("kept"), "warm").expect("written");
        fs::create_dir_all(path.join("a/b/c")).expect("folders");
        fs::create_dir_all(path.join("a/d/e")).expect("folders");
        fs::write(path.join("a/b/file"), "").expect("written");
        symlink(&other, path.join("a/b/link")).expect("a link");
        symlink(&other, path.join("link")).expect("a link");
        remove(&path).expect("removed");
        assert!(!path.exists());
        let link = other.join("link");
        symlink(&other, &link).expect("a link");
        remove(&link).expect("removed");
        assert_eq!(fs::read_to_string(other.join("kept")).expect("read"), "warm");
        assert_eq!(remove(&path).expect_err("gone").kind(), io::ErrorKind::NotFound);
        remove(&other).expect("removed");
    }

    #[test]
    fn no_depth_is_too_deep() {
        let path = scratch("deep");
        let mut at = openat(CWD, &path, FOLDER, Mode::empty()).expect("opened");
        for _ in 0..5_000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).expect("made");
            at = openat(&at, "d", FOLDER, Mode::empty()).expect("opened");
        }
        drop(at);
        // A small stack shows that none is needed.
        let deep = path.clone();
        let thread = std::thread::Builder::new().stack_size(256 * 1024).spawn(move || remove(&deep));
        thread.expect("a thread").join().expect("no overflow").expect("removed");
        assert!(!path.exists());
    }
}

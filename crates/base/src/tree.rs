//! Going through whole folders and removing them, however deep: those in which a container wrote are a stranger's.
//!
//! One folder is gone into at a time, and the way up is `..`. So neither the stack, nor open files, nor the length of a
//! path grow with the depth.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, openat, statat, unlinkat};
use rustix::io::Errno;

/// How a folder is opened: itself, and not where a link leads.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// So many folders above are kept open: what programs usually have is found again also where they move it meanwhile.
const KEPT_OPEN: usize = 32;
/// So many folders are remembered at a time of those in one folder, near the top and far below it.
const REMEMBERED: usize = 1024;
const REMEMBERED_BELOW: usize = 16;

/// Goes through all that is in the folder at `path`, and is told by `visit` which folders to go into; links are not
/// followed. What others add, move or take away meanwhile may be missed or met twice. Returns false if the way was lost
/// below: a folder that was moved away while it was gone through leads back to another place, and some of what was beside
/// it is missing. Blocking.
pub fn walk(path: &Path, mut visit: impl FnMut(&Stat) -> bool) -> io::Result<bool> {
    let mut here = Place::new(openat(CWD, path, FOLDER, Mode::empty())?, REMEMBERED)?;
    let mut above: Vec<Place> = Vec::new();
    let mut whole = true;
    loop {
        if let Some(name) = here.next(&mut visit)? {
            let inside = match openat(here.folder()?, &*name, FOLDER, Mode::empty()) {
                // It is there no more, or something else is.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                inside => inside?,
            };
            let (depth, inside) = (above.len(), Place::new(inside, REMEMBERED)?);
            let mut left = std::mem::replace(&mut here, inside);
            if depth >= KEPT_OPEN {
                left.folder = None;
                here.remember = REMEMBERED_BELOW;
            }
            above.push(left);
        } else {
            let Some(mut next) = above.pop() else { return Ok(whole) };
            if next.folder.is_none() {
                match up(here.folder()?, next.identity)? {
                    Some(folder) => next.folder = Some(folder),
                    None => {
                        whole = false;
                        while next.folder.is_none() {
                            let Some(higher) = above.pop() else { return Ok(false) };
                            next = higher;
                        }
                    }
                }
            }
            here = next;
        }
    }
}

/// A folder on the way, and how far it has been read.
struct Place {
    folder: Option<OwnedFd>,
    identity: (u64, u64),
    /// Folders that were met and not gone into yet.
    pending: Vec<CString>,
    /// Where to read on; `None` at the end.
    resume: Option<i64>,
    remember: usize,
}

impl Place {
    fn new(folder: OwnedFd, remember: usize) -> io::Result<Self> {
        let identity = identity(&folder)?;
        Ok(Self { folder: Some(folder), identity, pending: Vec::new(), resume: Some(0), remember })
    }

    fn folder(&self) -> io::Result<&OwnedFd> {
        self.folder.as_ref().ok_or_else(|| io::Error::other("a folder on the way is not open"))
    }

    /// The next folder in this one to go into.
    fn next(&mut self, visit: &mut impl FnMut(&Stat) -> bool) -> io::Result<Option<CString>> {
        if let (true, Some(from)) = (self.pending.is_empty(), self.resume) {
            self.resume = self.read(from, visit)?;
        }
        Ok(self.pending.pop())
    }

    /// Reads from a position until enough is met; returns where to read on.
    fn read(&mut self, from: i64, visit: &mut impl FnMut(&Stat) -> bool) -> io::Result<Option<i64>> {
        let mut entries = Dir::read_from(self.folder()?)?;
        if from != 0 {
            entries.seek(from)?;
        }
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let found = match statat(self.folder()?, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                found => found?,
            };
            let is_folder = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
            if visit(&found) && is_folder {
                self.pending.push(name.to_owned());
            }
            if self.pending.len() >= self.remember {
                return Ok(Some(entry.offset()));
            }
        }
        Ok(None)
    }
}

/// Removes what is at `path` with all that is in it; a link is removed and not followed. Only the names of the folders
/// above are remembered. Blocking.
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
            folder = up(&folder, known)?
                .ok_or_else(|| io::Error::other("a folder was moved away while it was removed"))?;
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

/// The folder above, if that is still the one that is known.
fn up(folder: &OwnedFd, known: (u64, u64)) -> io::Result<Option<OwnedFd>> {
    let above = openat(folder, "..", FOLDER, Mode::empty())?;
    Ok((identity(&above)? == known).then_some(above))
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

    /// Makes folders in folders; gives the lowest.
    fn nest(path: &Path, depth: usize) -> OwnedFd {
        let mut at = openat(CWD, path, FOLDER, Mode::empty()).expect("opened");
        for _ in 0..depth {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).expect("made");
            at = openat(&at, "d", FOLDER, Mode::empty()).expect("opened");
        }
        at
    }

    #[test]
    fn everything_is_visited_once_but_what_lies_behind_links() {
        let (path, other) = (scratch("visited"), scratch("elsewhere"));
        fs::write(other.join("not"), "").expect("written");
        symlink(&other, path.join("link")).expect("a link");
        // More folders than are remembered at a time, also below those that are kept open.
        let lowest = nest(&path, KEPT_OPEN + 5);
        for number in 0..REMEMBERED_BELOW * 3 {
            let name = format!("f{number}");
            rustix::fs::mkdirat(&lowest, &name, Mode::RWXU).expect("made");
            rustix::fs::mkdirat(&lowest, format!("{name}/in"), Mode::RWXU).expect("made");
        }
        for number in 0..REMEMBERED + 10 {
            fs::create_dir(path.join(format!("g{number}"))).expect("made");
        }
        let mut met = std::collections::BTreeMap::new();
        let whole = walk(&path, |found| {
            *met.entry(found.st_ino).or_insert(0) += 1;
            true
        });
        assert!(whole.expect("walked"));
        assert_eq!(met.len(), 1 + KEPT_OPEN + 5 + REMEMBERED_BELOW * 6 + REMEMBERED + 10);
        assert!(met.values().all(|times| *times == 1));
        let mut top = 0;
        assert!(
            walk(&path, |_| {
                top += 1;
                false
            })
            .expect("walked")
        );
        assert_eq!(top, 2 + REMEMBERED + 10, "no folder is gone into that is not asked for");
        remove(&path).expect("removed");
        remove(&other).expect("removed");
        assert_eq!(walk(&path, |_| true).expect_err("gone").kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_walk_finds_back_from_a_folder_that_is_moved_away() {
        let path = scratch("moved");
        let lowest = nest(&path, KEPT_OPEN + 10);
        rustix::fs::mkdirat(&lowest, "last", Mode::RWXU).expect("made");
        let deep: std::path::PathBuf = std::iter::repeat_n("d", KEPT_OPEN + 5).collect();
        let last = rustix::fs::statat(&lowest, "last", AtFlags::empty()).expect("there").st_ino;
        fs::write(path.join("z"), "").expect("written");
        let (mut moved, mut met) = (false, 0);
        let whole = walk(&path, |found| {
            met += 1;
            if found.st_ino == last {
                fs::rename(path.join(&deep), path.join("moved")).expect("moved");
                moved = true;
            }
            true
        });
        assert!(moved && !whole.expect("walked"), "it says that it has lost its way");
        assert!(met > KEPT_OPEN + 10, "{met}");
        remove(&path).expect("removed");
    }

    #[test]
    fn no_depth_is_too_deep() {
        let path = scratch("deep");
        drop(nest(&path, 5_000));
        let mut met = 0;
        let whole = walk(&path, |_| {
            met += 1;
            true
        });
        assert!(whole.expect("walked") && met == 5_000, "{met}");
        // A small stack shows that none is needed.
        let deep = path.clone();
        let thread = std::thread::Builder::new().stack_size(256 * 1024).spawn(move || remove(&deep));
        thread.expect("a thread").join().expect("no overflow").expect("removed");
        assert!(!path.exists());
    }
}

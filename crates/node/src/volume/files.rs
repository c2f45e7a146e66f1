//! Files that change all at once: a directory of symbolic links through `..data`, which one rename replaces.
//!
//! Containers see either all old or all new files. The scheme is upstream's AtomicWriter's, so programs that watch
//! `..data` work here too.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

/// The link that is replaced.
const DATA: &str = "..data";
/// The link in the making.
const DATA_NEW: &str = "..data_tmp";

const FOLDER_MODE: u32 = 0o755;
const SET_GROUP_ID: u32 = 0o2000;
/// What a group that owns the volume may do with its files, which nobody can write (upstream's `roMask`).
const OF_THE_GROUP: u32 = 0o440;

/// Files by relative path.
pub type Files = BTreeMap<String, File>;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub content: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
    /// Its owner, if not root.
    pub owner: Option<u32>,
}

/// Makes `directory` show exactly `files`; returns whether anything changed. Blocking.
pub fn write(directory: &Path, files: &Files, group: Option<u32>, now: Timestamp) -> io::Result<bool> {
    for path in files.keys() {
        check(path)?;
    }
    fs::create_dir_all(directory)?;
    if shows(directory, files) {
        // Whoever wrote them may have been killed before the rest was done.
        link_tops(directory, files)?;
        remove_leftovers(directory)?;
        return Ok(false);
    }
    let name = format!("..{}", now.strftime("%Y_%m_%d_%H_%M_%S.%9f"));
    let fresh = directory.join(&name);
    if fresh.exists() {
        base::tree::remove(&fresh)?;
    }
    fs::create_dir(&fresh)?;
    own(directory, group)?;
    own(&fresh, group)?;
    for (path, file) in files {
        let inner: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
        // From the outermost on; the last of the ancestors is the volume itself.
        for folder in inner.iter().rev().skip(1) {
            let folder = fresh.join(folder);
            if !folder.exists() {
                fs::create_dir(&folder)?;
                own(&folder, group)?;
            }
        }
        let path = fresh.join(path);
        let mut handle = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        handle.write_all(&file.content)?;
        chown(&path, file.owner, group)?;
        // A group that owns the volume reads every file in it.
        let readable = if group.is_some() { file.mode | OF_THE_GROUP } else { file.mode };
        fs::set_permissions(&path, fs::Permissions::from_mode(readable))?;
    }
    let new_link = directory.join(DATA_NEW);
    let _ = fs::remove_file(&new_link);
    symlink(&name, &new_link)?;
    fs::rename(&new_link, directory.join(DATA))?;
    link_tops(directory, files)?;
    remove_leftovers(directory)?;
    Ok(true)
}

/// Gives a folder of the volume the mode and the group that it is to have: what is made in it is the group's, too.
fn own(folder: &Path, group: Option<u32>) -> io::Result<()> {
    let mode = if group.is_some() { FOLDER_MODE | SET_GROUP_ID } else { FOLDER_MODE };
    chown(folder, None, group)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(mode))
}

/// A relative path that stays below its directory and does not look like one of our links.
fn check(path: &str) -> io::Result<()> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !plain || path.starts_with("..") {
        let why = format!("{path:?} is no path below the volume; correct the item's path");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    Ok(())
}

fn shows(directory: &Path, files: &Files) -> bool {
    let data = directory.join(DATA);
    let Ok(present) = list(&data, &data) else { return false };
    present.len() == files.len()
        && present.iter().all(|path| {
            files.get(path).is_some_and(|file| fs::read(data.join(path)).is_ok_and(|old| old == file.content))
        })
}

fn list(root: &Path, directory: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(list(root, &path)?);
        } else if let Some(relative) = path.strip_prefix(root).ok().and_then(Path::to_str) {
            found.push(relative.to_owned());
        }
    }
    Ok(found)
}

/// The links that users see: one for the first part of each path.
fn link_tops(directory: &Path, files: &Files) -> io::Result<()> {
    let tops: std::collections::BTreeSet<&str> =
        files.keys().map(|path| path.split('/').next().unwrap_or(path)).collect();
    for top in &tops {
        let link = directory.join(top);
        let target = PathBuf::from(DATA).join(top);
        if fs::read_link(&link).ok().as_ref() != Some(&target) {
            let _ = fs::remove_file(&link);
            symlink(target, link)?;
        }
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let stale = name.to_str().is_some_and(|name| !name.starts_with("..") && !tops.contains(name));
        if stale {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Removes directories that were shown before, or in the making when a writer was killed.
fn remove_leftovers(directory: &Path) -> io::Result<()> {
    let shown = fs::read_link(directory.join(DATA))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_ours = name.to_str().is_some_and(|name| name.starts_with("..") && name != DATA);
        if is_ours && shown.as_os_str() != name {
            base::tree::remove(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(pairs: &[(&str, &str)]) -> Files {
        let file = |content: &str| File { content: content.into(), mode: 0o644, owner: None };
        pairs.iter().map(|(path, content)| ((*path).to_owned(), file(content))).collect()
    }

    #[test]
    fn files_are_replaced_all_at_once() {
        let scratch = tempfile::tempdir().unwrap();
        let now = Timestamp::UNIX_EPOCH;
        assert!(write(scratch.path(), &files(&[("a", "1"), ("d/b", "2")]), None, now).unwrap());
        assert!(!write(scratch.path(), &files(&[("a", "1"), ("d/b", "2")]), None, now).unwrap());
        let later = now + std::time::Duration::from_secs(1);
        assert!(write(scratch.path(), &files(&[("a", "3")]), None, later).unwrap());
        assert_eq!(fs::read_to_string(scratch.path().join("a")).unwrap(), "3");
        assert!(!scratch.path().join("d").exists());
        let folders = fs::read_dir(scratch.path()).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir());
        // `..data` is a link to the one directory that is left, and `a` to a file in it.
        assert_eq!(folders.count(), 2);
    }

    #[test]
    fn a_group_of_the_volume_reads_all_files_and_others_what_they_may() {
        use std::os::unix::fs::MetadataExt;
        let scratch = tempfile::tempdir().unwrap();
        let mut wanted = files(&[("d/e/open", "1"), ("token", "2")]);
        wanted.get_mut("token").unwrap().mode = 0o600;
        write(scratch.path(), &wanted, Some(2000), Timestamp::UNIX_EPOCH).unwrap();
        let check = |path: &str, mode: u32| {
            let metadata = fs::metadata(scratch.path().join(path)).unwrap();
            assert_eq!((metadata.mode() & 0o7777, metadata.gid()), (mode, 2000), "{path}");
        };
        check("token", 0o640);
        check("d/e/open", 0o644);
        ["", "..data", "d", "d/e"].into_iter().for_each(|folder| check(folder, 0o2755));
    }

    #[test]
    fn what_a_killed_writer_has_left_undone_is_done_by_the_next() {
        let scratch = tempfile::tempdir().unwrap();
        let (now, wanted) = (Timestamp::UNIX_EPOCH, files(&[("a", "1")]));
        write(scratch.path(), &wanted, None, now).unwrap();
        fs::remove_file(scratch.path().join("a")).unwrap();
        fs::create_dir_all(scratch.path().join("..2026_01_01_00_00_00.000000000/half")).unwrap();
        assert!(!write(scratch.path(), &wanted, None, now).unwrap());
        assert_eq!(fs::read_to_string(scratch.path().join("a")).unwrap(), "1");
        let left = fs::read_dir(scratch.path()).unwrap().count();
        assert_eq!(left, 3, "the link, what it leads to, and the file");
    }

    #[test]
    fn paths_that_leave_the_volume_are_refused() {
        let scratch = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", "..data", ""] {
            let result = write(scratch.path(), &files(&[(path, "")]), None, Timestamp::UNIX_EPOCH);
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path}");
        }
    }
}

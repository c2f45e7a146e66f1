//! The files of one log: `0.log` and those set aside before it, `0.log.<time>`. Blocking.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use memchr::memchr;

use super::records::Record;

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;

/// A file that is being read, and its identity, by which it is found again under another name.
pub struct Open {
    pub file: File,
    inode: u64,
}

impl Open {
    fn new(path: &Path) -> io::Result<Self> {
        // The container's directory is ours, but a file in it is opened as what it is.
        let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file = std::fs::OpenOptions::new().read(true).custom_flags(no_follow).open(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self { file, inode })
    }
}

/// All files of the log, the oldest first.
pub fn all(path: &Path) -> io::Result<Vec<PathBuf>> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let start = format!("{name}.");
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut aside: Vec<PathBuf> = std::fs::read_dir(folder)?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&start)))
        .map(|entry| entry.path())
        .collect();
    aside.sort_unstable();
    if path.exists() {
        aside.push(path.to_owned());
    }
    Ok(aside)
}

/// Opens all files, the oldest first, the first of them where the last `tail_lines` begin.
pub fn open(path: &Path, tail_lines: Option<u64>) -> io::Result<Vec<Open>> {
    let mut left = tail_lines;
    let mut opened = Vec::new();
    for path in all(path)?.into_iter().rev() {
        let mut open = match Open::new(&path) {
            Ok(open) => open,
            // It was removed by a rotation in this moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        match &mut left {
            None => {}
            Some(left) => {
                let starts = line_starts(&mut open.file)?;
                let skipped = (starts.len() as u64).saturating_sub(*left);
                *left = left.saturating_sub(starts.len() as u64);
                let start = match usize::try_from(skipped).ok().and_then(|skipped| starts.get(skipped)) {
                    Some(start) => SeekFrom::Start(*start),
                    None => SeekFrom::End(0),
                };
                open.file.seek(start)?;
            }
        }
        opened.push(open);
        if left == Some(0) {
            break;
        }
    }
    opened.reverse();
    Ok(opened)
}

/// The files after `current`, which was set aside; empty while it is still the one that is written.
pub fn after(path: &Path, current: &Open) -> io::Result<Vec<Open>> {
    let inode = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.ino());
    if inode(path).is_ok_and(|inode| inode == current.inode) {
        return Ok(Vec::new());
    }
    let all = all(path)?;
    let place = all.iter().position(|path| inode(path).is_ok_and(|inode| inode == current.inode));
    // Removed already: whatever is there is newer.
    let newer = &all[place.map_or(0, |place| place + 1)..];
    Ok(newer.iter().filter_map(|path| Open::new(path).ok()).collect())
}

/// Where lines begin; a line may be several records.
fn line_starts(file: &mut File) -> io::Result<Vec<u64>> {
    let (mut starts, mut begins, mut at) = (Vec::new(), true, 0);
    let mut buffer = Vec::with_capacity(READ_BYTES);
    loop {
        let read = file.by_ref().take(READ_BYTES as u64).read_to_end(&mut buffer)?;
        let mut used = 0;
        while let Some(end) = memchr(b'\n', &buffer[used..]) {
            if begins {
                starts.push(at + used as u64);
            }
            begins = Record::parse(&buffer[used..used + end]).is_none_or(|record| record.ends_line);
            used += end + 1;
        }
        buffer.drain(..used);
        at += used as u64;
        if read == 0 {
            return Ok(starts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(tag: &str, text: &str) -> String {
        format!("2026-01-01T00:00:00Z stdout {tag} {text}\n")
    }

    fn tail(folder: &Path, lines: u64) -> String {
        let mut text = String::new();
        for mut open in open(&folder.join("0.log"), Some(lines)).unwrap() {
            open.file.read_to_string(&mut text).unwrap();
        }
        text
    }

    #[test]
    fn the_last_lines_reach_into_files_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
        write("0.log.20260101-000000", record("F", "a") + &record("F", "b"));
        write("0.log", record("F", "c") + &record("P", "d") + &record("F", "e") + "2026 unfini");
        write("1.log", record("F", "another attempt"));
        let of = |texts: &[(&str, &str)]| -> String {
            texts.iter().map(|(tag, text)| record(tag, text)).collect::<String>() + "2026 unfini"
        };
        assert_eq!(tail(folder.path(), 0), "");
        assert_eq!(tail(folder.path(), 1), of(&[("P", "d"), ("F", "e")]));
        assert_eq!(tail(folder.path(), 3), of(&[("F", "b"), ("F", "c"), ("P", "d"), ("F", "e")]));
        assert_eq!(
            tail(folder.path(), 9),
            record("F", "a") + &of(&[("F", "b"), ("F", "c"), ("P", "d"), ("F", "e")])
        );
    }

    #[test]
    fn what_was_written_after_a_rotation_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        std::fs::write(&path, "a").unwrap();
        let current = open(&path, None).unwrap().pop().unwrap();
        assert!(after(&path, &current).unwrap().is_empty());
        std::fs::rename(&path, folder.path().join("0.log.1")).unwrap();
        std::fs::write(folder.path().join("0.log.2"), "b").unwrap();
        std::fs::write(&path, "c").unwrap();
        let texts: Vec<String> = after(&path, &current)
            .unwrap()
            .into_iter()
            .map(|open| io::read_to_string(open.file).unwrap())
            .collect();
        assert_eq!(texts, ["b", "c"]);
    }
}

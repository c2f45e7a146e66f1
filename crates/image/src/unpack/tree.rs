//! Making files beneath a directory, and nowhere else.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
    makedev,
};
use rustix::io::Errno;

use super::{Error, os, refused, shown};
use crate::archive::{Attributes, Entry, Kind, Reader};

/// Tells overlayfs that nothing below shows through this directory.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";
/// The mode of directories that no layer describes.
const IMPLIED_MODE: u32 = 0o755;

/// Beneath the root, never through a symbolic link or another mount.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Where an entry goes: a directory that is open, and a name in it.
pub(super) struct Slot {
    parent: std::rc::Rc<OwnedFd>,
    pub(super) name: Vec<u8>,
}

/// The layer that is being made, and those below it.
pub(super) struct Tree {
    root: std::rc::Rc<OwnedFd>,
    /// Unpacked layers below, top first.
    parents: Vec<OwnedFd>,
    /// The directory that was walked to last; archives list siblings together.
    last: Option<(Vec<u8>, std::rc::Rc<OwnedFd>)>,
}

/// What the layers below have at a path.
enum Below {
    Absent,
    Present(Stat, usize),
}

fn open_directory(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    fs::open(path, flags, Mode::empty()).map_err(|errno| Error::Kernel {
        action: "opening",
        path: path.display().to_string(),
        source: errno.into(),
    })
}

fn kernel(action: &'static str, entry: &Entry) -> impl Fn(Errno) -> Error {
    let path = shown(&entry.path);
    move |errno| match errno {
        Errno::LOOP => Error::Refused { path: path.clone(), reason: "its path goes through a symbolic link" },
        Errno::NOTDIR => Error::Refused { path: path.clone(), reason: "its path goes through a file" },
        _ => Error::Kernel { action, path: path.clone(), source: errno.into() },
    }
}

impl Tree {
    pub(super) fn open(into: &Path, parents: &[PathBuf]) -> Result<Self, Error> {
        Ok(Self {
            root: std::rc::Rc::new(open_directory(into)?),
            parents: parents.iter().map(|path| open_directory(path)).collect::<Result<_, _>>()?,
            last: None,
        })
    }

    /// The slot of a clean path; `None` for the root. Directories on the way that do not exist yet are made as
    /// the layers below have them.
    pub(super) fn slot(&mut self, path: &[u8], written: &[u8]) -> Result<Option<Slot>, Error> {
        if path.is_empty() {
            return Ok(None);
        }
        let (parent_path, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&path[..0], path),
        };
        let parent = self.directory(parent_path, written)?;
        Ok(Some(Slot { parent, name: name.to_vec() }))
    }

    fn directory(&mut self, path: &[u8], written: &[u8]) -> Result<std::rc::Rc<OwnedFd>, Error> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some((last, fd)) = &self.last
            && last == path
        {
            return Ok(fd.clone());
        }
        let fd = match self.walk(path) {
            Err(Errno::NOENT) => self.imply(path, written)?,
            other => other.map_err(|errno| walk_error(errno, written))?,
        };
        let fd = std::rc::Rc::new(fd);
        self.last = Some((path.to_vec(), fd.clone()));
        Ok(fd)
    }

    fn walk(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        fs::openat2(&*self.root, os(path), flags, Mode::empty(), BENEATH)
    }

    /// Makes the directories of `path` that are not there.
    fn imply(&self, path: &[u8], written: &[u8]) -> Result<OwnedFd, Error> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut parent: Option<OwnedFd> = None;
        for end in ends.chain([path.len()]) {
            let prefix = &path[..end];
            let here = match self.walk(prefix) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => {
                    let name = prefix.rsplit(|&byte| byte == b'/').next().unwrap_or(prefix);
                    let at = parent.as_ref().unwrap_or(&self.root);
                    fs::mkdirat(at, os(name), Mode::from_raw_mode(IMPLIED_MODE))
                        .map_err(|errno| walk_error(errno, written))?;
                    let made = self.walk(prefix).map_err(|errno| walk_error(errno, written))?;
                    self.inherit(&made, prefix).map_err(|errno| walk_error(errno, written))?;
                    made
                }
                Err(errno) => return Err(walk_error(errno, written)),
            };
            parent = Some(here);
        }
        parent.ok_or_else(|| refused(written, "its path is empty"))
    }

    /// Overlayfs shows the attributes of the uppermost directory, so one that the archive only implies must look
    /// like the one below.
    fn inherit(&self, directory: &OwnedFd, path: &[u8]) -> Result<(), Errno> {
        let (mode, uid, gid) = match self.below(path) {
            Below::Present(stat, _) if FileType::from_raw_mode(stat.st_mode).is_dir() => {
                (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid)
            }
            _ => (IMPLIED_MODE, 0, 0),
        };
        let through = link_of(directory);
        fs::chownat(directory, "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)?;
        fs::chmodat(fs::CWD, through.as_str(), Mode::from_raw_mode(mode), AtFlags::empty())
    }

    /// The same for the layer's root.
    pub(super) fn inherit_root(&self) -> Result<(), Error> {
        self.inherit(&self.root, b".").map_err(|errno| walk_error(errno, b"/"))
    }

    /// What the layers below have at `path`, uppermost first, whiteouts respected.
    fn below(&self, path: &[u8]) -> Below {
        for (at, layer) in self.parents.iter().enumerate() {
            let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            match fs::openat2(layer, os(path), flags, Mode::empty(), BENEATH) {
                Ok(fd) => match fs::fstat(&fd) {
                    Ok(stat) if is_whiteout(&stat) => return Below::Absent,
                    Ok(stat) => return Below::Present(stat, at),
                    Err(_) => return Below::Absent,
                },
                // A file or link in the place of a directory hides what is further below.
                Err(Errno::NOTDIR | Errno::LOOP) => return Below::Absent,
                Err(_) if self.hidden_at(layer, path) => return Below::Absent,
                Err(_) => {}
            }
        }
        Below::Absent
    }

    /// Whether a directory on the way to `path` is opaque in `layer`.
    fn hidden_at(&self, layer: &OwnedFd, path: &[u8]) -> bool {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        ends.into_iter().any(|end| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            fs::openat2(layer, os(&path[..end]), flags, Mode::empty(), BENEATH).is_ok_and(|fd| is_opaque(&fd))
        })
    }

    /// Removes what an earlier entry of this archive made in the slot; returns whether it was a directory.
    pub(super) fn clear(&mut self, slot: &Slot, entry: &Entry) -> Result<bool, Error> {
        match fs::unlinkat(&*slot.parent, os(&slot.name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(false),
            Err(Errno::ISDIR) => {
                self.last = None;
                match fs::unlinkat(&*slot.parent, os(&slot.name), AtFlags::REMOVEDIR) {
                    Ok(()) => Ok(true),
                    Err(Errno::NOTEMPTY) => Err(refused(
                        &entry.path,
                        "an earlier entry made a directory of this name with files in it",
                    )),
                    Err(errno) => Err(kernel("replacing", entry)(errno)),
                }
            }
            Err(errno) => Err(kernel("replacing", entry)(errno)),
        }
    }

    pub(super) fn make_directory(&mut self, slot: &Slot, entry: &Entry) -> Result<(), Error> {
        let failed = kernel("making the directory", entry);
        let make = || fs::mkdirat(&*slot.parent, os(&slot.name), Mode::from_raw_mode(0o700));
        match make() {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let stat =
                    fs::statat(&*slot.parent, os(&slot.name), AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
                if FileType::from_raw_mode(stat.st_mode).is_dir() {
                    return Ok(());
                }
                fs::unlinkat(&*slot.parent, os(&slot.name), AtFlags::empty()).map_err(&failed)?;
                make().map_err(&failed)?;
                match is_whiteout(&stat) {
                    true => self.mark_opaque(&slot.parent, &slot.name).map_err(&failed),
                    false => Ok(()),
                }
            }
            Err(errno) => Err(failed(errno)),
        }
    }

    fn mark_opaque(&self, parent: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let directory = fs::openat(parent, os(name), flags, Mode::empty())?;
        fs::fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())
    }

    /// Owner, mode, attributes and times of a directory, once all its children are there.
    pub(super) fn finish_directory(&self, path: &[u8], entry: &Entry) -> Result<(), Error> {
        let failed = kernel("finishing the directory", entry);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let path = if path.is_empty() { os(b".") } else { os(path) };
        let directory = fs::openat2(&*self.root, path, flags, Mode::empty(), BENEATH).map_err(&failed)?;
        finish_open(&directory, entry).map_err(failed)
    }

    pub(super) fn make_file(
        &self,
        slot: &Slot,
        entry: &Entry,
        data: &mut Reader<impl Read>,
    ) -> Result<(), Error> {
        let failed = kernel("writing", entry);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file: File = fs::openat(&*slot.parent, os(&slot.name), flags, Mode::from_raw_mode(0o600))
            .map_err(&failed)?
            .into();
        let write_error =
            |source: io::Error| Error::Kernel { action: "writing", path: shown(&entry.path), source };
        let mut buffer = vec![0_u8; usize::try_from(entry.size.clamp(512, 128 << 10)).unwrap_or(512)];
        match &entry.segments {
            None => loop {
                match data.read_data(&mut buffer)? {
                    0 => break,
                    count => (&file).write_all(&buffer[..count]).map_err(write_error)?,
                }
            },
            Some(segments) => {
                file.set_len(entry.size).map_err(write_error)?;
                for segment in segments {
                    let (mut at, end) = (segment.offset, segment.offset + segment.length);
                    while at < end {
                        let wanted = (end - at).min(buffer.len() as u64) as usize;
                        data.read_data_exact(&mut buffer[..wanted])?;
                        file.write_all_at(&buffer[..wanted], at).map_err(write_error)?;
                        at += wanted as u64;
                    }
                }
            }
        }
        finish_open(&file, entry).map_err(failed)
    }

    pub(super) fn make_symlink(&self, slot: &Slot, entry: &Entry) -> Result<(), Error> {
        if entry.link.is_empty() || entry.link.contains(&0) {
            return Err(refused(&entry.path, "the target of the link is not valid"));
        }
        let failed = kernel("linking", entry);
        fs::symlinkat(os(&entry.link), &*slot.parent, os(&slot.name)).map_err(&failed)?;
        self.finish_node(slot, entry).map_err(failed)
    }

    pub(super) fn make_node(&self, slot: &Slot, entry: &Entry) -> Result<(), Error> {
        let kind = match entry.kind {
            Kind::CharacterDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let failed = kernel("making the device", entry);
        let device = makedev(entry.device.0, entry.device.1);
        fs::mknodat(&*slot.parent, os(&slot.name), kind, Mode::from_raw_mode(0o600), device)
            .map_err(&failed)?;
        self.finish_node(slot, entry).map_err(failed)
    }

    /// Owner, mode, attributes and times of what cannot be opened.
    fn finish_node(&self, slot: &Slot, entry: &Entry) -> Result<(), Errno> {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        fs::chownat(&*slot.parent, os(&slot.name), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if entry.kind != Kind::Symlink {
            // Not a link, for it was made here a moment ago and nobody else knows this directory.
            fs::chmodat(&*slot.parent, os(&slot.name), Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
        }
        let mut path = link_of(&slot.parent).into_bytes();
        path.push(b'/');
        path.extend_from_slice(&slot.name);
        for (name, value) in &entry.xattrs {
            fs::lsetxattr(os(&path), os(name), value, XattrFlags::empty())?;
        }
        fs::utimensat(&*slot.parent, os(&slot.name), &times(entry), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// A hard link to a file of this layer; one to a file of a layer below is a copy, as overlayfs would make it.
    pub(super) fn make_hard_link(&mut self, slot: &Slot, target: &[u8], entry: &Entry) -> Result<(), Error> {
        let failed = kernel("linking", entry);
        if target.is_empty() {
            return Err(refused(&entry.path, "it links to the root"));
        }
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match fs::openat2(&*self.root, os(target), flags, Mode::empty(), BENEATH) {
            Ok(found) => {
                let stat = fs::fstat(&found).map_err(&failed)?;
                if FileType::from_raw_mode(stat.st_mode).is_dir() {
                    return Err(refused(&entry.path, "it is a hard link to a directory"));
                }
                if is_whiteout(&stat) {
                    return Err(refused(&entry.path, "it is a hard link to a file that this layer removes"));
                }
                let link = fs::linkat(&found, "", &*slot.parent, os(&slot.name), AtFlags::EMPTY_PATH);
                link.map_err(failed)
            }
            Err(Errno::NOENT) => self.copy_up(slot, target, entry),
            Err(errno) => Err(failed(errno)),
        }
    }

    fn copy_up(&self, slot: &Slot, target: &[u8], entry: &Entry) -> Result<(), Error> {
        let failed = kernel("copying", entry);
        let missing = || refused(&entry.path, "it is a hard link to a file that does not exist");
        let Below::Present(stat, layer) = self.below(target) else { return Err(missing()) };
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(refused(&entry.path, "it is a hard link to something below that is no regular file"));
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut source: File = fs::openat2(&self.parents[layer], os(target), flags, Mode::empty(), BENEATH)
            .map_err(&failed)?
            .into();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut copy: File = fs::openat(&*slot.parent, os(&slot.name), flags, Mode::from_raw_mode(0o600))
            .map_err(&failed)?
            .into();
        io::copy(&mut source, &mut copy).map_err(|source| Error::Kernel {
            action: "copying",
            path: shown(&entry.path),
            source,
        })?;
        let like = Entry {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime_seconds: stat.st_mtime,
            mtime_nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            xattrs: attributes(&source).map_err(&failed)?,
            ..entry.clone()
        };
        finish_open(&copy, &like).map_err(failed)
    }

    /// Hides `hidden`, beside the slot's own name. What this very layer has of that name stays, for a whiteout
    /// is about the layers below (OCI image specification, "Whiteouts").
    pub(super) fn make_whiteout(&self, slot: &Slot, hidden: &[u8], entry: &Entry) -> Result<(), Error> {
        let failed = kernel("hiding", entry);
        let mode = Mode::empty();
        match fs::mknodat(&*slot.parent, os(hidden), FileType::CharacterDevice, mode, makedev(0, 0)) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let stat =
                    fs::statat(&*slot.parent, os(hidden), AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
                match FileType::from_raw_mode(stat.st_mode).is_dir() {
                    true => self.mark_opaque(&slot.parent, hidden).map_err(failed),
                    false => Ok(()),
                }
            }
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Marks the slot's directory. Overlayfs knows no opaque root; [`crate::store`] leaves out what is below one.
    pub(super) fn make_opaque(&self, slot: &Slot, entry: &Entry) -> Result<(), Error> {
        self.mark_opaque(&slot.parent, b".").map_err(kernel("hiding what is below", entry))
    }
}

fn walk_error(errno: Errno, written: &[u8]) -> Error {
    match errno {
        Errno::LOOP => refused(written, "its path goes through a symbolic link"),
        Errno::NOTDIR => refused(written, "its path goes through something that is no directory"),
        Errno::XDEV => refused(written, "its path leaves the layer"),
        _ => Error::Kernel { action: "walking to", path: shown(written), source: errno.into() },
    }
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == makedev(0, 0)
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0_u8; 1];
    matches!(fs::fgetxattr(directory, OPAQUE, &mut value[..]), Ok(1)) && value == *b"y"
}

/// A path that leads to an open file, for calls that have no form with a descriptor alone.
fn link_of(fd: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// The owner comes first: changing it clears setuid bits and capabilities.
fn finish_open(file: &impl AsFd, entry: &Entry) -> Result<(), Errno> {
    fs::fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
    fs::fchmod(file, Mode::from_raw_mode(entry.mode))?;
    for (name, value) in &entry.xattrs {
        fs::fsetxattr(file, os(name), value, XattrFlags::empty())?;
    }
    fs::futimens(file, &times(entry))
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime_seconds, tv_nsec: i64::from(entry.mtime_nanos) };
    Timestamps { last_access: time, last_modification: time }
}

fn attributes(file: &File) -> Result<Attributes, Errno> {
    let mut names = vec![0_u8; fs::flistxattr(file, &mut [0_u8; 0][..])?];
    let length = fs::flistxattr(file, &mut names[..])?;
    let mut found = Vec::new();
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; fs::fgetxattr(file, os(name), &mut [0_u8; 0][..])?];
        let length = fs::fgetxattr(file, os(name), &mut value[..])?;
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    Ok(found)
}

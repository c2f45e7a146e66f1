//! Looking into a root file system before there is a container: what it holds, as the kernel would show it.
//!
//! Every path is resolved inside the root (`RESOLVE_IN_ROOT`), so that no link of a hostile image leads to the host's
//! files. All of it blocks on the file system: call it beside the runtime's threads.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use crate::spec::Root;
use crate::sys::namespace;

/// The most that is read of a file in the image.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The most bytes that the kernel has for a file's extended attribute, or for their names.
const MAX_ATTRIBUTE_BYTES: usize = 64 << 10;
/// The longest value that the newer way of mounting takes.
const MAX_OPTION_BYTES: usize = 255;
/// Attributes that an overlay keeps for itself.
const OF_OVERLAYS: &[u8] = b"trusted.overlay.";
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Why a directory of an image cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// There is something else.
    #[error("the image has something else there that is no directory")]
    NoDirectory,
    /// The disk, or a path that the kernel does not take.
    #[error("what the image has there cannot be copied")]
    Io(#[from] io::Error),
}

impl From<Errno> for CopyError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// Reads a small text file inside the root; empty if it is missing. Blocking.
pub fn read(root: &Root, path: &str) -> io::Result<String> {
    let directory = open(root)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match rustix::fs::openat2(directory.as_fd(), path, flags, Mode::empty(), INSIDE) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Copies a directory of the root to `into`, which must not be there yet, with owners, modes, times, links and extended
/// attributes. If the root has nothing at `path`, the copy is empty and of the usual mode. Blocking.
pub fn copy(root: &Root, path: &str, into: &Path) -> Result<(), CopyError> {
    rustix::fs::mkdir(into, Mode::from_raw_mode(0o755))?;
    let to = rustix::fs::open(into, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
    let directory = open(root)?;
    match rustix::fs::openat2(directory.as_fd(), path, FOLDER, Mode::empty(), INSIDE) {
        Ok(from) => Ok(Copy { from, to, links: BTreeMap::new() }.run()?),
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTDIR) => Err(CopyError::NoDirectory),
        Err(error) => Err(error.into()),
    }
}

/// A copy of one directory. Nobody else writes to either side meanwhile: the one belongs to an image, the other is new.
struct Copy {
    from: OwnedFd,
    to: OwnedFd,
    /// Files of several names that were met, by device and number, and where their copy is.
    links: BTreeMap<(u64, u64), PathBuf>,
}

impl Copy {
    fn run(mut self) -> io::Result<()> {
        // By paths from the top, so that neither the stack nor open files grow with the depth.
        let mut folders = vec![PathBuf::from(".")];
        while let Some(folder) = folders.pop() {
            let (from, to) = (beneath(&self.from, &folder)?, beneath(&self.to, &folder)?);
            for entry in Dir::read_from(&from)? {
                let entry = entry?;
                let name = entry.file_name();
                if name == c"." || name == c".." {
                    continue;
                }
                let path = folder
                    .join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name.to_bytes()));
                if self.copy_entry(&from, &to, name, &path)? {
                    folders.push(path);
                }
            }
            // Last, for what is made in a folder changes its times.
            make_alike(&rustix::fs::fstat(&from)?, from.as_fd(), to.as_fd())?;
        }
        Ok(())
    }

    /// True if the entry is a folder, which is filled later.
    fn copy_entry(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr, path: &Path) -> io::Result<bool> {
        let found = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(found.st_mode);
        if kind == FileType::Directory {
            rustix::fs::mkdirat(to, name, Mode::RWXU)?;
            return Ok(true);
        }
        let identity = (found.st_dev, found.st_ino);
        if let Some(first) = self.links.get(&identity) {
            rustix::fs::linkat(&self.to, first, to, name, AtFlags::empty())?;
            return Ok(false);
        }
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let source = rustix::fs::openat(from, name, OFlags::RDONLY | flags, Mode::empty())?;
                let made = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | flags;
                let target = rustix::fs::openat(to, name, made, Mode::RUSR | Mode::WUSR)?;
                let (mut source, mut target) = (File::from(source), File::from(target));
                io::copy(&mut source, &mut target)?;
                make_alike(&found, source.as_fd(), target.as_fd())?;
            }
            FileType::Symlink => {
                rustix::fs::symlinkat(rustix::fs::readlinkat(from, name, Vec::new())?, to, name)?;
                give(to, name, &found)?;
            }
            // A socket without its program is of no use.
            FileType::Socket => return Ok(false),
            // Of a root of one layer: what stands for something removed.
            FileType::CharacterDevice if found.st_rdev == 0 => return Ok(false),
            other => {
                rustix::fs::mknodat(to, name, other, Mode::RUSR | Mode::WUSR, found.st_rdev)?;
                give(to, name, &found)?;
                rustix::fs::chmodat(to, name, Mode::from_raw_mode(found.st_mode), AtFlags::empty())?;
            }
        }
        if found.st_nlink > 1 {
            self.links.insert(identity, path.to_owned());
        }
        Ok(false)
    }
}

fn beneath(directory: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat2(directory, path, FOLDER, Mode::empty(), BENEATH)?)
}

fn give(folder: &OwnedFd, name: &CStr, like: &Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
    Ok(rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Gives a file or folder the owner, mode, times and extended attributes of another.
fn make_alike(like: &Stat, from: BorrowedFd, to: BorrowedFd) -> io::Result<()> {
    rustix::fs::fchown(to, Some(Uid::from_raw(like.st_uid)), Some(Gid::from_raw(like.st_gid)))?;
    // After the owner, for that takes set-user-id bits and capabilities away.
    rustix::fs::fchmod(to, Mode::from_raw_mode(like.st_mode))?;
    copy_attributes(from, to)?;
    let time = |seconds: i64, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    let times = Timestamps {
        last_access: time(like.st_atime, like.st_atime_nsec),
        last_modification: time(like.st_mtime, like.st_mtime_nsec),
    };
    Ok(rustix::fs::futimens(to, &times)?)
}

fn copy_attributes(from: BorrowedFd, to: BorrowedFd) -> io::Result<()> {
    if matches!(rustix::fs::flistxattr_query(from), Ok(0) | Err(Errno::OPNOTSUPP)) {
        return Ok(());
    }
    let mut names = vec![0; MAX_ATTRIBUTE_BYTES];
    let length = rustix::fs::flistxattr(from, names.as_mut_slice())?;
    let mut value = vec![0; MAX_ATTRIBUTE_BYTES];
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(OF_OVERLAYS) {
            continue;
        }
        let name = CString::new(name)?;
        let length = rustix::fs::fgetxattr(from, name.as_c_str(), value.as_mut_slice())?;
        match rustix::fs::fsetxattr(to, name.as_c_str(), &value[..length], XattrFlags::empty()) {
            // The node's disk need not know all that a layer does.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The root as a directory: layers become a read-only overlay that is mounted nowhere and ends with its handle.
fn open(root: &Root) -> io::Result<OwnedFd> {
    let layers = match root {
        Root::Directory(path) => return open_layer(path),
        Root::Overlay { lower, .. } => lower,
    };
    if let [only] = layers.as_slice() {
        return open_layer(only);
    }
    let opened = layers.iter().map(|layer| open_layer(layer)).collect::<io::Result<Vec<_>>>()?;
    let names = names(&opened);
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let one_by_one =
        names.iter().try_for_each(|name| fsconfig_set_string(context.as_fd(), "lowerdir+", name.as_str()));
    if one_by_one.is_err() {
        // Kernels before 6.7 take all layers as one value.
        let joined = names.join(":");
        if joined.len() > MAX_OPTION_BYTES {
            return open_the_older_way(layers);
        }
        fsconfig_set_string(context.as_fd(), "lowerdir", joined.as_str())?;
    }
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?)
}

/// The same with mount(2), which takes a page of options and needs a place: one that nobody else sees.
fn open_the_older_way(layers: &[PathBuf]) -> io::Result<OwnedFd> {
    let layers = layers.to_vec();
    namespace::with_mounts_of_its_own(move || {
        // Only what was opened here can be mounted here.
        let opened = layers.iter().map(|layer| open_layer(layer)).collect::<io::Result<Vec<_>>>()?;
        let options = CString::new(format!("lowerdir={}", names(&opened).join(":")))?;
        namespace::mount_and_take("overlay", &options)
    })
}

fn open_layer(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Descriptors are shorter than paths: the kernel takes 256 bytes a value.
fn names(opened: &[OwnedFd]) -> Vec<String> {
    opened.iter().map(|layer| format!("/proc/self/fd/{}", layer.as_raw_fd())).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ondt-inside-{name}-{}", std::process::id()));
            fs::create_dir_all(path.join("upper/data")).expect("made");
            fs::create_dir_all(path.join("lower/data/below")).expect("made");
            fs::write(path.join("upper/data/new"), "new").expect("written");
            fs::write(path.join("lower/data/below/old"), "old").expect("written");
            Self(path)
        }

        fn layers(&self) -> Vec<PathBuf> {
            ["upper", "lower"].iter().map(|layer| self.0.join(layer)).collect()
        }

        fn root(&self) -> Root {
            Root::Overlay { lower: self.layers(), upper: self.0.join("u"), work: self.0.join("w") }
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = base::tree::remove(&self.0);
        }
    }

    #[test]
    fn kernels_without_the_newer_way_show_the_same_root_and_nobody_else_sees_it() {
        let scratch = Scratch::new("older");
        let mounts = || fs::read_to_string("/proc/self/mountinfo").expect("read").lines().count();
        let before = mounts();
        let root = open_the_older_way(&scratch.layers()).expect("mounted");
        assert_eq!(mounts(), before);
        for path in ["data/new", "data/below/old"] {
            rustix::fs::openat(&root, path, OFlags::RDONLY, Mode::empty()).expect(path);
        }
        let made = rustix::fs::mkdirat(&root, "made", Mode::RWXU);
        assert_eq!(made, Err(Errno::ROFS));
    }

    #[test]
    fn a_copy_is_like_what_the_root_has() {
        let scratch = Scratch::new("copy");
        let old = scratch.0.join("lower/data/below/old");
        fs::set_permissions(&old, PermissionsExt::from_mode(0o4711)).expect("set");
        std::os::unix::fs::chown(scratch.0.join("lower/data/below"), Some(70), Some(71)).expect("given");
        fs::hard_link(&old, scratch.0.join("lower/data/below/same")).expect("linked");
        symlink("/etc/passwd", scratch.0.join("lower/data/link")).expect("linked");
        rustix::fs::setxattr(&old, "user.warm", b"yes", XattrFlags::empty()).expect("set");
        let into = scratch.0.join("into");
        copy(&scratch.root(), "/data", &into).expect("copied");
        let copied = fs::metadata(into.join("below/old")).expect("there");
        assert_eq!((copied.mode() & 0o7777, copied.nlink()), (0o4711, 2));
        assert_eq!(copied.mtime(), fs::metadata(&old).expect("there").mtime());
        let folder = fs::metadata(into.join("below")).expect("there");
        assert_eq!((folder.uid(), folder.gid()), (70, 71));
        assert_eq!(fs::read_link(into.join("link")).expect("a link"), Path::new("/etc/passwd"));
        assert_eq!(fs::read_to_string(into.join("new")).expect("read"), "new");
        let mut value = [0_u8; 8];
        let length = rustix::fs::getxattr(into.join("below/old"), "user.warm", &mut value).expect("there");
        assert_eq!(&value[..length], b"yes");
    }

    #[test]
    fn what_is_not_there_is_an_empty_folder_and_a_file_is_refused() {
        let scratch = Scratch::new("none");
        copy(&scratch.root(), "/none/at/all", &scratch.0.join("empty")).expect("made");
        assert_eq!(fs::read_dir(scratch.0.join("empty")).expect("read").count(), 0);
        let refused = copy(&scratch.root(), "/data/new", &scratch.0.join("file"));
        assert!(matches!(refused, Err(CopyError::NoDirectory)), "{refused:?}");
    }

    #[test]
    fn links_never_lead_out_of_the_root() {
        let scratch = Scratch::new("links");
        symlink("/etc", scratch.0.join("lower/absolute")).expect("linked");
        symlink("../../../../../../etc", scratch.0.join("lower/relative")).expect("linked");
        symlink("/proc/self/root/etc", scratch.0.join("lower/magic")).expect("linked");
        for path in ["/absolute", "/relative", "/magic", "/data/../../../../etc"] {
            let into = scratch.0.join("into").join("..").join(path.replace('/', "_"));
            fs::create_dir_all(scratch.0.join("into")).expect("made");
            copy(&scratch.root(), path, &into).expect("the image has no such folder");
            assert_eq!(fs::read_dir(&into).expect("read").count(), 0, "{path}");
        }
    }
}

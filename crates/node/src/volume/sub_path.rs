//! Directories below a volume that a container mounts in the place of the whole.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fchmod, mkdirat, openat, openat2};
use rustix::io::Errno;

/// Makes what is missing of `sub_path` below `volume`, each directory with the volume's own permissions, as upstream
/// does. Nothing outside of the volume is touched, wherever links in it point to. Blocking.
pub fn ensure(volume: &Path, sub_path: &str) -> io::Result<()> {
    let plain = Path::new(sub_path).components().all(|part| matches!(part, Component::Normal(_)));
    if !plain {
        let why = format!("subPath {sub_path:?} is no path below the volume");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let root = openat(CWD, volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if beneath(&root, sub_path, OFlags::PATH).is_ok() {
        return Ok(());
    }
    let mode = std::fs::metadata(volume)?.permissions().mode() & 0o7777;
    let mut directory = root;
    for part in Path::new(sub_path) {
        let part = part.to_string_lossy();
        directory = match beneath(&directory, &part, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {
                match mkdirat(&directory, &*part, Mode::from_raw_mode(mode)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                // The process's mask has taken from the mode.
                let made = beneath(&directory, &part, OFlags::RDONLY | OFlags::DIRECTORY)?;
                fchmod(&made, Mode::from_raw_mode(mode))?;
                made
            }
            found => found?,
        };
    }
    Ok(())
}

fn beneath(directory: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(directory, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_missing_is_made_with_the_volumes_permissions() {
        let volume = tempfile::tempdir().unwrap();
        std::fs::set_permissions(volume.path(), PermissionsExt::from_mode(0o777)).unwrap();
        ensure(volume.path(), "new/dir").unwrap();
        ensure(volume.path(), "new/dir").unwrap();
        let mode = std::fs::metadata(volume.path().join("new/dir")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o777);
        std::fs::write(volume.path().join("file"), "").unwrap();
        ensure(volume.path(), "file").unwrap();
    }

    #[test]
    fn links_may_lead_within_the_volume_and_not_out_of_it() {
        let (volume, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(volume.path().join("real")).unwrap();
        symlink("real", volume.path().join("inside")).unwrap();
        symlink(outside.path(), volume.path().join("escape")).unwrap();
        symlink("../..", volume.path().join("up")).unwrap();
        ensure(volume.path(), "inside/new").unwrap();
        assert!(volume.path().join("real/new").is_dir());
        for path in ["escape/new", "up/new", "../new", "/new", "a/../../new"] {
            assert!(ensure(volume.path(), path).is_err(), "{path}");
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}

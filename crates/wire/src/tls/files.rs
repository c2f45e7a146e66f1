//! Files that are either old or new, never half, and secret when they hold secrets.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::Error;

/// Replaces `path` with `bytes` at once; only the owner can read it.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    replace(path, bytes, 0o600).map_err(|source| Error::File { path: path.into(), source })
}

/// Replaces `path` with `bytes` at once; all can read it.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    replace(path, bytes, 0o644).map_err(|source| Error::File { path: path.into(), source })
}

/// Has processes that make files in `folder` take turns: this one's lasts as long as what is returned is kept.
pub(super) fn turn(folder: &Path) -> Result<File, Error> {
    let take = || {
        fs::create_dir_all(folder)?;
        let folder = File::open(folder)?;
        folder.lock()?;
        Ok(folder)
    };
    take().map_err(|source| Error::File { path: folder.into(), source })
}

/// Reads a secret, `None` if the file is not there. A file that others could read is closed to them on the way.
pub fn read_private(path: &Path) -> Result<Option<String>, Error> {
    let fail = |source| Error::File { path: path.into(), source };
    let Some(text) = read(path)? else { return Ok(None) };
    if fs::metadata(path).map_err(fail)?.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the key was readable by others; closing it to them");
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(fail)?;
    }
    Ok(Some(text))
}

/// Reads a text, `None` if the file is not there.
pub(super) fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { path: path.into(), source }),
    }
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    // Another process may be at it, too: each has a name of its own.
    let fresh = folder.join(format!(".{}.{}.new", name.to_string_lossy(), std::process::id()));
    // A crash of an earlier process of this number may have left an attempt with other rights behind.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(folder)?.sync_all()
}

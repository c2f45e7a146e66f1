//! A layer's archive becomes a directory that overlayfs takes as a lower directory as it is.
//!
//! The archive is a stranger's. Every path is walked from the layer's own root by `openat2`, beneath it and through
//! no symbolic link, so no entry can touch anything outside; whatever cannot be done exactly is refused with the
//! entry's path. The caller gives an empty directory and throws it away on an error, so nothing stays half done.
//!
//! Whiteouts of the archive (`.wh.name`, `.wh..wh..opq`) become overlayfs' own: a character device 0/0, and the
//! attribute `trusted.overlay.opaque`. Device nodes and owners need root.

mod tree;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::archive::{self, Entry, Kind, Reader};
use crate::digest::{Digest, Hashed};
use crate::layer::decompressed;
use tree::{Slot, Tree};

/// The attribute that hides what the layers below have in a directory.
pub(crate) use tree::OPAQUE;

/// The most entries of one layer.
pub const ENTRIES_MAX: u64 = 4_000_000;
/// The most bytes that one layer's archive may hold when it is decompressed.
pub const LAYER_MAX_BYTES: u64 = 64 << 30;
/// What overlayfs keeps for itself; from a stranger it could point outside of the layer.
const OVERLAY_PREFIXES: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive itself is broken.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// An entry that would reach outside of the layer, or that contradicts another.
    #[error("the entry \"{path}\" is refused: {reason}")]
    Refused {
        /// The entry's path as written.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// More than a layer may hold.
    #[error("the layer has more than {limit} {what}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The content is not what the image's configuration says.
    #[error(
        "its content has the diff id {found}, but the image names {expected}: pull or export the image again"
    )]
    DiffId {
        /// What the configuration says.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// The kernel refused.
    #[error("{action} \"{path}\" failed")]
    Kernel {
        /// What was being done.
        action: &'static str,
        /// The entry's path as written.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Unpacks the archive in `blob`, compressed or not, into the empty directory `into`, and checks that it has the
/// diff id `expected`. `parents` are the unpacked layers below, top first: directories that the archive implies
/// without an entry take their owner and mode from there, and hard links may point there.
pub fn layer(
    blob: impl Read + Send,
    expected: Digest,
    parents: &[PathBuf],
    into: &Path,
) -> Result<(), Error> {
    let tree = Tree::open(into, parents)?;
    let stream = Hashed::new(decompressed(blob).map_err(archive::Error::from)?);
    let mut unpacking =
        Unpacking { reader: Reader::new(stream), tree, directories: BTreeMap::new(), bytes: 0 };
    unpacking.tree.inherit_root()?;
    unpacking.entries()?;
    unpacking.finish_directories()?;
    // What follows the end of the archive (padding, usually) belongs to the diff id as well.
    let mut stream = unpacking.reader.into_inner();
    let mut rest = (&mut stream).take(LAYER_MAX_BYTES);
    io::copy(&mut rest, &mut io::sink()).map_err(archive::Error::from)?;
    let (_, found, _) = stream.finish();
    if found != expected {
        return Err(Error::DiffId { expected, found });
    }
    Ok(())
}

struct Unpacking<R> {
    reader: Reader<R>,
    tree: Tree,
    /// Directories whose times are set at the end, for making children changes them. Children sort after parents.
    directories: BTreeMap<Vec<u8>, Entry>,
    bytes: u64,
}

impl<R: Read> Unpacking<R> {
    fn entries(&mut self) -> Result<(), Error> {
        let mut count = 0;
        while let Some(entry) = self.reader.next_entry()? {
            count += 1;
            if count > ENTRIES_MAX {
                return Err(Error::TooLarge { what: "entries", limit: ENTRIES_MAX });
            }
            self.bytes = self.bytes.saturating_add(entry.size);
            if self.bytes > LAYER_MAX_BYTES {
                return Err(Error::TooLarge { what: "bytes", limit: LAYER_MAX_BYTES });
            }
            self.entry(entry)?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry) -> Result<(), Error> {
        let path = clean(&entry.path, &entry.path)?;
        check_attributes(&entry)?;
        let Some(slot) = self.tree.slot(&path, &entry.path)? else {
            // The layer's own root.
            return match entry.kind {
                Kind::Directory => {
                    self.directories.insert(Vec::new(), entry);
                    Ok(())
                }
                _ => Err(refused(&entry.path, "only a directory can be the root")),
            };
        };
        if let Some(hidden) = slot.name.strip_prefix(b".wh.") {
            return self.whiteout(&slot, hidden, &entry);
        }
        match entry.kind {
            Kind::Directory => {
                self.tree.make_directory(&slot, &entry)?;
                self.directories.insert(path, entry);
                return Ok(());
            }
            _ if self.tree.clear(&slot, &entry)? => {
                // An earlier entry of the same path was a directory; its attributes are gone with it.
                self.directories.remove(&path);
            }
            _ => {}
        }
        match entry.kind {
            Kind::File => self.tree.make_file(&slot, &entry, &mut self.reader),
            Kind::Symlink => self.tree.make_symlink(&slot, &entry),
            Kind::HardLink => {
                let target = clean(&entry.link, &entry.path)?;
                self.tree.make_hard_link(&slot, &target, &entry)
            }
            Kind::CharacterDevice | Kind::BlockDevice | Kind::Fifo => self.tree.make_node(&slot, &entry),
            Kind::Directory => Ok(()),
        }
    }

    /// `.wh.name` hides `name` of the layers below; `.wh..wh..opq` hides all that is below in this directory.
    /// Other names that begin with `.wh..wh.` are remarks of aufs.
    fn whiteout(&mut self, slot: &Slot, hidden: &[u8], entry: &Entry) -> Result<(), Error> {
        if hidden == b".wh..opq" {
            return self.tree.make_opaque(slot, entry);
        }
        if hidden.starts_with(b".wh.") {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(refused(&entry.path, "it hides no name"));
        }
        self.tree.make_whiteout(slot, hidden, entry)
    }

    fn finish_directories(&mut self) -> Result<(), Error> {
        for (path, entry) in std::mem::take(&mut self.directories).into_iter().rev() {
            self.tree.finish_directory(&path, &entry)?;
        }
        Ok(())
    }
}

fn check_attributes(entry: &Entry) -> Result<(), Error> {
    let overlay = |name: &[u8]| OVERLAY_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    if entry.xattrs.iter().any(|(name, _)| overlay(name)) {
        return Err(refused(&entry.path, "it sets an attribute that overlayfs keeps for itself"));
    }
    if entry.xattrs.iter().any(|(name, _)| name.contains(&0) || name.is_empty()) {
        return Err(refused(&entry.path, "the name of an attribute is not valid"));
    }
    Ok(())
}

/// The components of a path joined by `/`, without `.` and doubled slashes; `shown` is for the message.
fn clean(path: &[u8], shown: &[u8]) -> Result<Vec<u8>, Error> {
    // A lone slash is how some tools write the root.
    if path.starts_with(b"/") && path.iter().any(|&byte| byte != b'/') {
        return Err(refused(shown, "its path is absolute"));
    }
    if path.contains(&0) {
        return Err(refused(shown, "its path has a zero byte"));
    }
    if path.is_empty() {
        return Err(refused(shown, "its path is empty"));
    }
    let mut clean = Vec::with_capacity(path.len());
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(refused(shown, "its path has \"..\"")),
            _ => {
                if !clean.is_empty() {
                    clean.push(b'/');
                }
                clean.extend_from_slice(component);
            }
        }
    }
    Ok(clean)
}

fn refused(path: &[u8], reason: &'static str) -> Error {
    Error::Refused { path: shown(path), reason }
}

fn shown(path: &[u8]) -> String {
    const SHOWN_MAX: usize = 300;
    String::from_utf8_lossy(&path[..path.len().min(SHOWN_MAX)]).into_owned()
}

fn os(path: &[u8]) -> OsString {
    OsString::from_vec(path.to_vec())
}

#[cfg(test)]
mod tests;

//! Tar archives as layers are made of: read and written entry by entry, in constant memory.
//!
//! The `tar` crate knows the fields of a header; the streams are ours, because extended headers must be bounded
//! when a stranger wrote them, and because sparse files come in four dialects. Nothing here touches a disk.

mod read;
mod sparse;
mod write;

pub use read::{Error, Reader};
pub use sparse::Segment;
pub use write::Writer;

/// Bytes of one block.
pub const BLOCK_BYTES: u64 = 512;

/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file with data.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to `link`.
    Symlink,
    /// Another name of the earlier entry `link`.
    HardLink,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
}

/// Names and values of extended attributes.
pub type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// One member of an archive, without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path as written; nobody has checked it.
    pub path: Vec<u8>,
    /// The target of a link as written; nobody has checked it.
    pub link: Vec<u8>,
    /// What it makes.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: at most `0o7777`.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The owner's group.
    pub gid: u32,
    /// Seconds since 1970; may be negative.
    pub mtime_seconds: i64,
    /// Nanoseconds within the second.
    pub mtime_nanos: u32,
    /// Length of a file, holes included, in bytes.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes, in the order written.
    pub xattrs: Attributes,
    /// Where the data of a file with holes lies; `None` for a file without.
    pub segments: Option<Vec<Segment>>,
}

impl Entry {
    fn plain(path: &str, kind: Kind, mode: u32) -> Self {
        Self {
            path: path.as_bytes().to_vec(),
            link: Vec::new(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime_seconds: 0,
            mtime_nanos: 0,
            size: 0,
            device: (0, 0),
            xattrs: Vec::new(),
            segments: None,
        }
    }

    /// A file of root's with `size` bytes of data to follow, from the beginning of 1970.
    pub fn file(path: &str, mode: u32, size: u64) -> Self {
        Self { size, ..Self::plain(path, Kind::File, mode) }
    }

    /// A directory of root's.
    pub fn directory(path: &str, mode: u32) -> Self {
        Self::plain(path, Kind::Directory, mode)
    }

    /// A symbolic link.
    pub fn symlink(path: &str, target: &str) -> Self {
        Self { link: target.as_bytes().to_vec(), ..Self::plain(path, Kind::Symlink, 0o777) }
    }

    /// Another name of the file that was written as `target`.
    pub fn hard_link(path: &str, target: &str) -> Self {
        Self { link: target.as_bytes().to_vec(), ..Self::plain(path, Kind::HardLink, 0o644) }
    }
}

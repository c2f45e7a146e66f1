//! Writing an archive: the same entries give the same bytes, always.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::{BLOCK_BYTES, Entry, Kind};

/// Octal numbers in a header's owner fields end here; above, an extended record takes over.
const HEADER_ID_MAX: u32 = 0o7_777_777;
/// The same for the size field.
const HEADER_SIZE_MAX: u64 = 0o77_777_777_777;
/// Bytes of the name fields.
const HEADER_NAME_MAX: usize = 100;

/// Writes entries one after another in ustar format, with PAX records for what does not fit.
#[derive(Debug)]
pub struct Writer<W> {
    inner: W,
}

impl<W: Write> Writer<W> {
    /// Writes from the first header on.
    pub fn new(inner: W) -> Self {
        Self { inner }
    }

    /// Appends an entry; for a file, exactly `entry.size` bytes are taken from `data`. Holes are written as zeros.
    pub fn append(&mut self, entry: &Entry, data: impl Read) -> io::Result<()> {
        let records = records_of(entry);
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::XHeader);
            header.set_size(records.len() as u64);
            header.set_mode(0o644);
            set_name(&mut header, b"PaxHeader", false);
            self.write_block(&mut header)?;
            self.inner.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        let size = if entry.kind == Kind::File { entry.size } else { 0 };
        self.write_block(&mut header_of(entry, size)?)?;
        let copied = io::copy(&mut data.take(size), &mut self.inner)?;
        if copied != size {
            let path = String::from_utf8_lossy(&entry.path).into_owned();
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{path} ended after {copied} of {size} bytes: did it change meanwhile?"),
            ));
        }
        self.pad(size)
    }

    /// Ends the archive and returns the stream below.
    pub fn finish(mut self) -> io::Result<W> {
        self.inner.write_all(&[0; 2 * BLOCK_BYTES as usize])?;
        Ok(self.inner)
    }

    fn write_block(&mut self, header: &mut Header) -> io::Result<()> {
        header.set_cksum();
        self.inner.write_all(header.as_bytes())
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = size.next_multiple_of(BLOCK_BYTES) - size;
        self.inner.write_all(&[0; BLOCK_BYTES as usize][..padding as usize])
    }
}

fn header_of(entry: &Entry, size: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_entry_type(match entry.kind {
        Kind::File => EntryType::Regular,
        Kind::Directory => EntryType::Directory,
        Kind::Symlink => EntryType::Symlink,
        Kind::HardLink => EntryType::Link,
        Kind::CharacterDevice => EntryType::Char,
        Kind::BlockDevice => EntryType::Block,
        Kind::Fifo => EntryType::Fifo,
    });
    set_name(&mut header, &entry.path, false);
    set_name(&mut header, &entry.link, true);
    header.set_mode(entry.mode);
    header.set_uid(u64::from(if entry.uid > HEADER_ID_MAX { 0 } else { entry.uid }));
    header.set_gid(u64::from(if entry.gid > HEADER_ID_MAX { 0 } else { entry.gid }));
    header.set_mtime(u64::try_from(entry.mtime_seconds).unwrap_or(0).min(HEADER_SIZE_MAX));
    header.set_size(if size > HEADER_SIZE_MAX { 0 } else { size });
    header.set_device_major(entry.device.0)?;
    header.set_device_minor(entry.device.1)?;
    Ok(header)
}

/// Puts as much of a name as fits; the whole is then in an extended record.
fn set_name(header: &mut Header, name: &[u8], link: bool) {
    let old = header.as_old_mut();
    let field = if link { &mut old.linkname } else { &mut old.name };
    let length = name.len().min(HEADER_NAME_MAX);
    field[..length].copy_from_slice(&name[..length]);
}

fn records_of(entry: &Entry) -> Vec<u8> {
    let mut records = Vec::new();
    if entry.path.len() > HEADER_NAME_MAX {
        record(&mut records, b"path", &entry.path);
    }
    if entry.link.len() > HEADER_NAME_MAX {
        record(&mut records, b"linkpath", &entry.link);
    }
    if entry.kind == Kind::File && entry.size > HEADER_SIZE_MAX {
        record(&mut records, b"size", entry.size.to_string().as_bytes());
    }
    if entry.uid > HEADER_ID_MAX {
        record(&mut records, b"uid", entry.uid.to_string().as_bytes());
    }
    if entry.gid > HEADER_ID_MAX {
        record(&mut records, b"gid", entry.gid.to_string().as_bytes());
    }
    let fits = (0..=HEADER_SIZE_MAX as i64).contains(&entry.mtime_seconds);
    if entry.mtime_nanos != 0 || !fits {
        record(&mut records, b"mtime", time(entry.mtime_seconds, entry.mtime_nanos).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        record(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    records
}

fn time(seconds: i64, nanos: u32) -> String {
    match (seconds < 0, nanos) {
        (_, 0) => seconds.to_string(),
        (false, _) => format!("{seconds}.{nanos:09}"),
        // The kernel counts nanoseconds forward, text counts away from zero.
        (true, _) => format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos),
    }
}

/// `length key=value\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

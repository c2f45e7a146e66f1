//! Reading an archive from a stream.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::sparse::{self, Segment};
use super::{BLOCK_BYTES, Entry, Kind};

/// The largest extended header (PAX records, GNU long names), in bytes. The kernel takes no attribute above 64 KiB.
pub const EXTENSION_MAX_BYTES: u64 = 1 << 20;
/// The longest path or link target, in bytes: the kernel's own limit.
pub const PATH_MAX_BYTES: usize = 4096;
/// The most bytes of a file with its holes: the largest file of ext4.
pub const FILE_MAX_BYTES: u64 = 16 << 40;

/// Why an archive cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are no tar archive, or a damaged one.
    #[error("the tar archive is damaged: {0}")]
    Malformed(&'static str),
    /// It ends within an entry.
    #[error("the tar archive is cut short: transfer it again")]
    Truncated,
    /// A kind of entry that has no meaning in a layer.
    #[error("\"{path}\" is of the tar entry type {kind:?}, which is not supported")]
    Kind {
        /// Which entry.
        path: String,
        /// Its type.
        kind: char,
    },
    /// The stream below failed.
    #[error("the archive could not be read")]
    Read(#[from] io::Error),
}

/// Reads entries one after another; the data of each is read before the next is asked for, or skipped.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    /// Bytes of data of the current entry that are still in the stream.
    data_left: u64,
    /// Bytes between the data and the next header.
    padding: u64,
    /// The mark of the end was read.
    has_ended: bool,
}

/// What extended headers say about the next entry.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: Sparse,
}

/// GNU's PAX records for files with holes.
#[derive(Default)]
struct Sparse {
    major: Option<u64>,
    size: Option<u64>,
    name: Option<Vec<u8>>,
    map: Option<Vec<Segment>>,
    pending_offset: Option<u64>,
}

impl<R: Read> Reader<R> {
    /// Reads from the first header on.
    pub fn new(inner: R) -> Self {
        Self { inner, data_left: 0, padding: 0, has_ended: false }
    }

    /// The stream below, at the first byte that was not needed.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// Whether the archive's own mark of its end was read; some writers leave it away.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// The next entry, or `None` at the end of the archive.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        let mut extensions = Extensions::default();
        let mut extended = false;
        loop {
            self.skip_data()?;
            let Some(header) = self.header()? else {
                return match extended {
                    true => Err(Error::Malformed("an extended header describes nothing")),
                    false => Ok(None),
                };
            };
            let size = header.entry_size().map_err(|_| Error::Malformed("the size of an entry"))?;
            match header.entry_type() {
                EntryType::GNULongName => extensions.path = Some(self.long_name(size)?),
                EntryType::GNULongLink => extensions.link = Some(self.long_name(size)?),
                EntryType::XHeader => {
                    let records = self.extension(size)?;
                    extensions.read_records(&records)?;
                }
                // Global records (git's archive comment) say nothing about a file that a layer needs.
                EntryType::XGlobalHeader => {
                    self.extension(size)?;
                    continue;
                }
                _ => return self.entry(&header, extensions, size).map(Some),
            }
            extended = true;
        }
    }

    /// Reads data of the current entry; 0 at its end. Of a file with holes this is the data without the holes.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let wanted = usize::try_from(self.data_left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(Error::Truncated);
        }
        self.data_left -= count as u64;
        Ok(count)
    }

    /// Fills `buffer` from the data of the current entry.
    pub fn read_data_exact(&mut self, mut buffer: &mut [u8]) -> Result<(), Error> {
        while !buffer.is_empty() {
            match self.read_data(buffer)? {
                0 => return Err(Error::Malformed("an entry has less data than it says")),
                count => buffer = &mut buffer[count..],
            }
        }
        Ok(())
    }

    fn skip_data(&mut self) -> Result<(), Error> {
        let mut left = self.data_left + self.padding;
        let mut scratch = [0_u8; 8192];
        while left > 0 {
            let wanted = left.min(scratch.len() as u64) as usize;
            match self.inner.read(&mut scratch[..wanted])? {
                0 => return Err(Error::Truncated),
                count => left -= count as u64,
            }
        }
        (self.data_left, self.padding) = (0, 0);
        Ok(())
    }

    /// A block, or `None` if the stream ends cleanly before it.
    fn block(&mut self) -> Result<Option<[u8; 512]>, Error> {
        let mut block = [0_u8; 512];
        let mut filled = 0;
        while filled < block.len() {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(Error::Truncated),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(block))
    }

    fn header(&mut self) -> Result<Option<Header>, Error> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block.iter().all(|&byte| byte == 0) {
            self.has_ended = true;
            return Ok(None);
        }
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block);
        // The checksum counts its own field as spaces.
        let sum = block.iter().enumerate().fold(0_u32, |sum, (at, &byte)| {
            sum + u32::from(if (148..156).contains(&at) { b' ' } else { byte })
        });
        match header.cksum() {
            Ok(written) if written == sum => Ok(Some(header)),
            _ => Err(Error::Malformed("the checksum of a header is wrong; is this a tar archive?")),
        }
    }

    fn begin_data(&mut self, size: u64) -> Result<(), Error> {
        if size > FILE_MAX_BYTES {
            return Err(Error::Malformed("an entry is larger than any file can be"));
        }
        self.data_left = size;
        self.padding = size.next_multiple_of(BLOCK_BYTES) - size;
        Ok(())
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        if size > EXTENSION_MAX_BYTES {
            return Err(Error::Malformed("an extended header is larger than 1 MiB"));
        }
        self.begin_data(size)?;
        let mut bytes = vec![0; size as usize];
        self.read_data_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        let mut name = self.extension(size)?;
        if let Some(end) = name.iter().position(|&byte| byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn entry(&mut self, header: &Header, extensions: Extensions, header_size: u64) -> Result<Entry, Error> {
        let path = extensions
            .sparse
            .name
            .clone()
            .or(extensions.path)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extensions.link.unwrap_or_else(|| {
            header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default()
        });
        if path.len() > PATH_MAX_BYTES || link.len() > PATH_MAX_BYTES {
            return Err(Error::Malformed("a path is longer than 4096 bytes"));
        }
        let kind = kind_of(header, &path)?;
        let stored = extensions.size.unwrap_or(header_size);
        // Links and devices have no data, whatever their size field says; POSIX lets it be anything for a link.
        self.begin_data(if kind == Kind::File { stored } else { 0 })?;
        let (size, segments) = match kind {
            Kind::File => self.segments(header, extensions.sparse, stored)?,
            _ => (0, None),
        };
        let id = |extended: Option<u64>, field: io::Result<u64>| {
            let id = extended.map_or(field, Ok).map_err(|_| Error::Malformed("the owner of an entry"))?;
            u32::try_from(id).map_err(|_| Error::Malformed("an owner above 4294967295"))
        };
        let broken = |_| Error::Malformed("a field of a header");
        let device = match kind {
            Kind::CharacterDevice | Kind::BlockDevice => (
                header.device_major().map_err(broken)?.unwrap_or(0),
                header.device_minor().map_err(broken)?.unwrap_or(0),
            ),
            _ => (0, 0),
        };
        let (mtime_seconds, mtime_nanos) = match extensions.mtime {
            Some(mtime) => mtime,
            None => (header_mtime(header)?, 0),
        };
        Ok(Entry {
            path,
            link,
            kind,
            mode: header.mode().map_err(broken)? & 0o7777,
            uid: id(extensions.uid, header.uid())?,
            gid: id(extensions.gid, header.gid())?,
            mtime_seconds,
            mtime_nanos,
            size,
            device,
            xattrs: extensions.xattrs,
            segments,
        })
    }

    /// The length of a file with its holes, and where its data lies.
    fn segments(
        &mut self,
        header: &Header,
        pax: Sparse,
        stored: u64,
    ) -> Result<(u64, Option<Vec<Segment>>), Error> {
        let (size, segments) = if header.entry_type() == EntryType::GNUSparse {
            self.old_gnu_segments(header)?
        } else if pax.major == Some(1) {
            let size = pax.size.ok_or(Error::Malformed("a sparse file without its size"))?;
            (size, self.leading_map()?)
        } else if let (Some(map), Some(size)) = (pax.map, pax.size) {
            (size, map)
        } else {
            return Ok((stored, None));
        };
        if size > FILE_MAX_BYTES {
            return Err(Error::Malformed("a sparse file is larger than any file can be"));
        }
        sparse::check(&segments, size, self.data_left)?;
        Ok((size, Some(segments)))
    }

    /// The oldest format: the map is in the header and in blocks that follow it.
    fn old_gnu_segments(&mut self, header: &Header) -> Result<(u64, Vec<Segment>), Error> {
        let broken = || Error::Malformed("the map of a sparse file");
        let gnu = header.as_gnu().ok_or_else(broken)?;
        let size = gnu.real_size().map_err(|_| broken())?;
        let mut segments = Vec::new();
        let take = |segments: &mut Vec<Segment>, list: &[tar::GnuSparseHeader]| {
            for item in list.iter().filter(|item| !item.is_empty()) {
                let offset = item.offset().map_err(|_| broken())?;
                sparse::push(segments, offset, item.length().map_err(|_| broken())?)?;
            }
            Ok::<(), Error>(())
        };
        take(&mut segments, &gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let block = self.block()?.ok_or(Error::Truncated)?;
            let mut extended = tar::GnuExtSparseHeader::new();
            extended.as_mut_bytes().copy_from_slice(&block);
            take(&mut segments, &extended.sparse)?;
            more = extended.is_extended();
        }
        Ok((size, segments))
    }

    /// PAX format 1.0: the map is text before the data, padded to a block.
    fn leading_map(&mut self) -> Result<Vec<Segment>, Error> {
        let mut block = [0_u8; 512];
        let mut at = block.len();
        let mut next = |reader: &mut Self| {
            let mut digits = Vec::new();
            loop {
                if at == block.len() {
                    reader.read_data_exact(&mut block)?;
                    at = 0;
                }
                let byte = block[at];
                at += 1;
                if byte == b'\n' {
                    return sparse::number(&digits);
                }
                if digits.len() > 20 {
                    return Err(Error::Malformed("the map of a sparse file"));
                }
                digits.push(byte);
            }
        };
        let count = next(self)?;
        let mut segments = Vec::new();
        for _ in 0..count {
            let offset = next(self)?;
            sparse::push(&mut segments, offset, next(self)?)?;
        }
        Ok(segments)
    }
}

fn kind_of(header: &Header, path: &[u8]) -> Result<Kind, Error> {
    Ok(match header.entry_type() {
        // Before POSIX, a directory was a file whose name ends with a slash.
        EntryType::Regular
            if path.ends_with(b"/") && header.as_ustar().is_none() && header.as_gnu().is_none() =>
        {
            Kind::Directory
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Link => Kind::HardLink,
        EntryType::Char => Kind::CharacterDevice,
        EntryType::Block => Kind::BlockDevice,
        EntryType::Fifo => Kind::Fifo,
        other => {
            let path = String::from_utf8_lossy(path).into_owned();
            return Err(Error::Kind { path, kind: char::from(other.as_byte()) });
        }
    })
}

/// The time field is octal, or a signed number in base 256.
fn header_mtime(header: &Header) -> Result<i64, Error> {
    let field = &header.as_old().mtime;
    if field[0] & 0x80 == 0 {
        let seconds = header.mtime().map_err(|_| Error::Malformed("the time of an entry"))?;
        return Ok(i64::try_from(seconds).unwrap_or(i64::MAX));
    }
    let (_, low) = field.split_at(4);
    let low: [u8; 8] = low.try_into().map_err(|_| Error::Malformed("the time of an entry"))?;
    Ok(i64::from_be_bytes(low))
}

impl Extensions {
    fn read_records(&mut self, mut records: &[u8]) -> Result<(), Error> {
        let broken = Error::Malformed("a record of an extended header");
        while let Some(&first) = records.first() {
            // Some writers pad the records with zeros.
            if first == 0 {
                break;
            }
            let space = records
                .iter()
                .position(|&byte| byte == b' ')
                .ok_or(Error::Malformed("a record without length"))?;
            let length = usize::try_from(sparse::number(&records[..space])?).unwrap_or(usize::MAX);
            if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
                return Err(broken);
            }
            let record = &records[space + 1..length - 1];
            let equals =
                record.iter().position(|&byte| byte == b'=').ok_or(Error::Malformed("a record without ="))?;
            self.read_record(&record[..equals], &record[equals + 1..])?;
            records = &records[length..];
        }
        Ok(())
    }

    fn read_record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(sparse::number(value)?),
            b"uid" => self.uid = Some(sparse::number(value)?),
            b"gid" => self.gid = Some(sparse::number(value)?),
            b"mtime" => self.mtime = Some(parse_time(value)?),
            b"GNU.sparse.major" => self.sparse.major = Some(sparse::number(value)?),
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = Some(sparse::number(value)?),
            b"GNU.sparse.map" => self.sparse.map = Some(sparse::parse_list(value)?),
            b"GNU.sparse.offset" => self.sparse.pending_offset = Some(sparse::number(value)?),
            b"GNU.sparse.numbytes" => {
                let offset =
                    self.sparse.pending_offset.take().ok_or(Error::Malformed("a sparse file's map"))?;
                sparse::push(self.sparse.map.get_or_insert_default(), offset, sparse::number(value)?)?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// `seconds[.fraction]`, perhaps negative; digits beyond nanoseconds are dropped.
fn parse_time(text: &[u8]) -> Result<(i64, u32), Error> {
    let broken = || Error::Malformed("a time in an extended header");
    let text = std::str::from_utf8(text).map_err(|_| broken())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut seconds: i64 = whole.parse().map_err(|_| broken())?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(broken());
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let mut nanos: u32 = digits.parse().map_err(|_| broken())?;
    // The fraction counts away from zero, the kernel's nanoseconds always forward.
    if whole.starts_with('-') && nanos > 0 {
        seconds = seconds.checked_sub(1).ok_or_else(broken)?;
        nanos = 1_000_000_000 - nanos;
    }
    Ok((seconds, nanos))
}

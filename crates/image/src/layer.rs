//! Layers on their way in and out: compression by looking at the bytes, and the writer of new ones.

use std::io::{self, BufRead, BufReader, Read, Write};

use serde::{Deserialize, Serialize};

use crate::archive::{self, Entry};
use crate::digest::{Digest, Hashed};
use crate::document::{Descriptor, media};

/// Memory that a zstd frame may ask a reader to keep: 2 to this power, in bytes (128 MiB, zstd's own default).
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// The level of zstd that is written: its own default, a good trade at layer sizes.
const ZSTD_LEVEL: i32 = 3;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// A plain tar archive.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// zstd (RFC 8878).
    Zstd,
}

impl Compression {
    /// Tells the compression by the first bytes, as docker does; media types lie in the wild.
    pub fn of(start: &[u8]) -> Self {
        // Frames 0x184D2A50 to 5F are skippable ones, which some tools put first.
        let zstd = start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
            || (start.len() >= 4 && start[0] & 0xf0 == 0x50 && start[1..4] == [0x2a, 0x4d, 0x18]);
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            _ if zstd => Self::Zstd,
            _ => Self::None,
        }
    }

    /// The media type of a layer that is compressed so.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::None => media::LAYER,
            Self::Gzip => media::LAYER_GZIP,
            Self::Zstd => media::LAYER_ZSTD,
        }
    }
}

/// Reads `inner` with its compression, if it has one, taken off.
pub fn decompressed<'a, R: Read + Send + 'a>(inner: R) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut buffered = BufReader::with_capacity(128 << 10, inner);
    // A pipe may hand out its first bytes singly; four are needed to tell.
    let mut start = Vec::with_capacity(4);
    buffered.by_ref().take(4).read_to_end(&mut start)?;
    let compression = Compression::of(&start);
    let whole = BufReader::with_capacity(128 << 10, io::Cursor::new(start).chain(buffered));
    Ok(match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        Compression::Zstd => Box::new(zstd_reader(whole)?),
    })
}

fn zstd_reader<R: BufRead + Send>(inner: R) -> io::Result<zstd::Decoder<'static, R>> {
    let mut decoder = zstd::Decoder::with_buffer(inner)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

/// A finished layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The digest of the blob as it is stored.
    pub digest: Digest,
    /// The digest of the plain tar archive.
    pub diff_id: Digest,
    /// The length of the blob in bytes.
    pub size_bytes: u64,
    /// How the blob is compressed.
    pub compression: Compression,
}

impl Layer {
    /// How a manifest points at the layer.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.compression.media_type().to_owned(),
            digest: self.digest,
            size: self.size_bytes,
            platform: None,
            annotations: std::collections::BTreeMap::new(),
        }
    }
}

/// Writes a layer: entries in, a compressed tar archive and its digests out. The same entries give the same bytes.
pub struct Writer<W: Write> {
    archive: archive::Writer<Hashed<Compressor<Hashed<W>>>>,
    compression: Compression,
}

enum Compressor<W: Write> {
    None(W),
    Gzip(flate2::write::GzEncoder<W>),
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Writer<W> {
    /// Begins a layer that goes to `inner`.
    pub fn new(inner: W, compression: Compression) -> io::Result<Self> {
        let inner = Hashed::new(inner);
        let compressor = match compression {
            Compression::None => Compressor::None(inner),
            // No time and no name in gzip's header, so that the bytes depend on the entries alone.
            Compression::Gzip => Compressor::Gzip(
                flate2::GzBuilder::new().mtime(0).write(inner, flate2::Compression::default()),
            ),
            Compression::Zstd => Compressor::Zstd(zstd::Encoder::new(inner, ZSTD_LEVEL)?),
        };
        Ok(Self { archive: archive::Writer::new(Hashed::new(compressor)), compression })
    }

    /// Appends an entry; for a file, exactly `entry.size` bytes are taken from `data`.
    pub fn append(&mut self, entry: &Entry, data: impl Read) -> io::Result<()> {
        self.archive.append(entry, data)
    }

    /// Appends a file of root's.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.append(&Entry::file(path, mode, content.len() as u64), content)
    }

    /// Appends a directory of root's.
    pub fn directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.append(&Entry::directory(path, mode), io::empty())
    }

    /// Appends a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.append(&Entry::symlink(path, target), io::empty())
    }

    /// Appends another name of a file that was appended before.
    pub fn hard_link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.append(&Entry::hard_link(path, target), io::empty())
    }

    /// Appends all entries of another archive (plain or compressed) that `keep` returns; it may change them.
    /// Packages are turned into layers this way.
    pub fn archive<'a>(
        &mut self,
        source: impl Read + Send + 'a,
        mut keep: impl FnMut(Entry) -> Option<Entry>,
    ) -> Result<(), archive::Error> {
        let mut reader = archive::Reader::new(decompressed(source)?);
        while let Some(entry) = reader.next_entry()? {
            let Some(entry) = keep(entry) else { continue };
            if entry.segments.is_some() {
                return Err(archive::Error::Malformed("files with holes cannot be copied into a layer"));
            }
            self.archive.append(&entry, Data(&mut reader))?;
        }
        Ok(())
    }

    /// Ends the layer and returns what it was written to.
    pub fn finish(self) -> io::Result<(W, Layer)> {
        let (compressor, diff_id, _) = self.archive.finish()?.finish();
        let inner = match compressor {
            Compressor::None(inner) => inner,
            Compressor::Gzip(encoder) => encoder.finish()?,
            Compressor::Zstd(encoder) => encoder.finish()?,
        };
        let (inner, digest, size_bytes) = inner.finish();
        Ok((inner, Layer { digest, diff_id, size_bytes, compression: self.compression }))
    }
}

/// The data of a reader's current entry.
struct Data<'a, R>(&'a mut archive::Reader<R>);

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_data(buffer).map_err(io::Error::other)
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(inner) => inner.write(buffer),
            Self::Gzip(encoder) => encoder.write(buffer),
            Self::Zstd(encoder) => encoder.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(inner) => inner.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(compression: Compression) -> (Vec<u8>, Layer) {
        let mut writer = Writer::new(Vec::new(), compression).unwrap();
        writer.directory("etc", 0o755).unwrap();
        writer.file("etc/motd", 0o644, b"warm\n").unwrap();
        writer.hard_link("etc/issue", "etc/motd").unwrap();
        writer.symlink("motd", "etc/motd").unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn the_same_entries_give_the_same_bytes_under_every_compression() {
        let plain = sample(Compression::None);
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let (bytes, layer) = sample(compression);
            assert_eq!((&bytes, &layer), (&sample(compression).0, &sample(compression).1));
            assert_eq!(layer.digest, Digest::of(&bytes));
            assert_eq!(layer.diff_id, plain.1.diff_id);
            assert_eq!(layer.size_bytes, bytes.len() as u64);
            assert_eq!(Compression::of(&bytes), compression);
            let mut back = Vec::new();
            decompressed(bytes.as_slice()).unwrap().read_to_end(&mut back).unwrap();
            assert_eq!(back, plain.0);
        }
    }

    #[test]
    fn an_archive_becomes_part_of_a_layer() {
        let (source, _) = sample(Compression::Zstd);
        let mut writer = Writer::new(Vec::new(), Compression::None).unwrap();
        writer.archive(source.as_slice(), |entry| (entry.path != b"motd").then_some(entry)).unwrap();
        let (bytes, _) = writer.finish().unwrap();
        let mut reader = archive::Reader::new(bytes.as_slice());
        let mut paths = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            paths.push(String::from_utf8(entry.path).unwrap());
        }
        assert_eq!(paths, ["etc", "etc/motd", "etc/issue"]);
    }

    #[test]
    fn a_file_shorter_than_announced_is_refused() {
        let mut writer = Writer::new(Vec::new(), Compression::None).unwrap();
        let error = writer.append(&Entry::file("a", 0o644, 10), &b"short"[..]).unwrap_err();
        assert!(error.to_string().contains("5 of 10"), "{error}");
    }
}

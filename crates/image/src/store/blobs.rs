//! Content under its digest.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;

use crate::digest::{Digest, Hashed};
use crate::error::Error;
use crate::layer;
use crate::store::{Store, sync_folder};

/// Bytes that are gathered before a write.
const BUFFER_BYTES: usize = 128 << 10;

/// Content on its way into the store. Dropped without [`Ingest::commit`] it leaves nothing.
#[derive(Debug)]
pub struct Ingest {
    store: Store,
    path: PathBuf,
    /// `None` once it is committed.
    file: Option<Hashed<BufWriter<File>>>,
    /// Whether the file stays for a later attempt.
    resumable: bool,
}

impl Store {
    pub(super) fn blob_path(&self, digest: Digest) -> PathBuf {
        self.0.root.join("blobs/sha256").join(digest.hex())
    }

    /// Whether the content is here, complete.
    pub fn has_blob(&self, digest: Digest) -> bool {
        self.blob_path(digest).is_file()
    }

    /// Opens content for reading; `NotFound` if it is not here. It blocks.
    pub fn open_blob(&self, digest: Digest) -> Result<File, Error> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NotFound {
                what: format!("the blob {digest}"),
                hint: "the store lacks a part of the image; pull or import the image again".to_owned(),
            },
            _ => Error::storage("opening", &path)(error),
        })
    }

    /// Reads content whole, at most `limit` bytes, and checks its digest again. It blocks.
    pub fn read_blob(&self, digest: Digest, limit: u64) -> Result<Vec<u8>, Error> {
        let mut content = Vec::new();
        let path = self.blob_path(digest);
        let file = self.open_blob(digest)?;
        file.take(limit + 1).read_to_end(&mut content).map_err(Error::storage("reading", &path))?;
        crate::document::limit(&format!("the blob {digest}"), &content, limit)?;
        if Digest::of(&content) != digest {
            return Err(Error::invalid(
                format!("the blob {}", path.display()),
                "its content has changed on disk; remove the file and pull or import the image again",
            ));
        }
        Ok(content)
    }

    /// Begins to take in content. It blocks.
    pub fn ingest(&self) -> Result<Ingest, Error> {
        let path = self.scratch();
        let file = File::create_new(&path).map_err(Error::storage("making", &path))?;
        let file = Hashed::new(BufWriter::with_capacity(BUFFER_BYTES, file));
        Ok(Ingest { store: self.clone(), path, file: Some(file), resumable: false })
    }

    /// Begins or continues a download that outlives a failure; what an earlier attempt wrote counts. It blocks.
    pub(crate) fn ingest_resumable(&self, digest: Digest) -> Result<Ingest, Error> {
        let path = self.partial_path(digest);
        let mut options = File::options();
        let file = options
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(Error::storage("opening", &path))?;
        let mut there = Hashed::new(file);
        let mut hashed = Hashed::new(io::sink());
        io::copy(&mut there, &mut hashed).map_err(Error::storage("reading", &path))?;
        let file = hashed.with(BufWriter::with_capacity(BUFFER_BYTES, there.finish().0));
        Ok(Ingest { store: self.clone(), path, file: Some(file), resumable: true })
    }

    pub(super) fn partial_path(&self, digest: Digest) -> PathBuf {
        self.0.root.join("ingest").join(format!("{}.partial", digest.hex()))
    }

    /// Takes in small content that is in memory. It blocks.
    pub fn put_blob(&self, content: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(content);
        if self.has_blob(digest) {
            return Ok(digest);
        }
        let mut ingest = self.ingest()?;
        ingest.write(content)?;
        ingest.commit(Some(digest)).map(|(digest, _)| digest)
    }

    /// Writes a layer into the store: `fill` appends its entries. It blocks.
    pub fn write_layer(
        &self,
        compression: layer::Compression,
        fill: impl FnOnce(&mut layer::Writer<Ingest>) -> io::Result<()>,
    ) -> Result<layer::Layer, Error> {
        let ingest = self.ingest()?;
        let path = ingest.path.clone();
        let write = || {
            let mut writer = layer::Writer::new(ingest, compression)?;
            fill(&mut writer)?;
            writer.finish()
        };
        let (ingest, layer) = write().map_err(Error::storage("writing the layer", &path))?;
        ingest.commit(Some(layer.digest))?;
        Ok(layer)
    }
}

impl Ingest {
    /// How many bytes are there.
    pub fn bytes(&self) -> u64 {
        self.file.as_ref().map_or(0, Hashed::bytes)
    }

    /// The digest of what is there.
    pub fn digest(&self) -> Digest {
        self.file.as_ref().map_or_else(|| Digest::of(b""), Hashed::digest)
    }

    /// Appends content.
    pub fn write(&mut self, content: &[u8]) -> Result<(), Error> {
        self.write_all(content).map_err(Error::storage("writing", &self.path))
    }

    /// Appends all of `source`, at most `limit` bytes. `unread` says what it means that the source fails, for that is
    /// no failure of the store's disk.
    pub fn copy(
        &mut self,
        mut source: impl Read,
        limit: u64,
        unread: impl FnOnce(io::Error) -> Error,
    ) -> Result<u64, Error> {
        let mut buffer = vec![0_u8; BUFFER_BYTES];
        let mut copied = 0_u64;
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return Ok(copied),
                Ok(count) => {
                    copied += count as u64;
                    if copied > limit {
                        let what = "the content".to_owned();
                        return Err(Error::TooLarge { what, limit, bytes: copied });
                    }
                    self.write(&buffer[..count])?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unread(error)),
            }
        }
    }

    /// Ends the content: checks its digest if one is expected, makes it durable, and gives it its place.
    /// Returns digest and length.
    pub fn commit(mut self, expected: Option<Digest>) -> Result<(Digest, u64), Error> {
        let failed = || Error::storage("writing", &self.path);
        let Some(file) = self.file.take() else {
            return Err(Error::invalid("the ingest", "it was committed before"));
        };
        let (buffered, digest, bytes) = file.finish();
        let file = buffered.into_inner().map_err(|error| failed()(error.into_error()))?;
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            // What is wrong now stays wrong: nothing to resume.
            let _ = std::fs::remove_file(&self.path);
            return Err(Error::invalid(
                format!("the blob {expected}"),
                format!(
                    "what came has the digest {digest}; try again, and if that does not help, push it again"
                ),
            ));
        }
        let place = self.store.blob_path(digest);
        if place.exists() {
            std::fs::remove_file(&self.path).map_err(failed())?;
            return Ok((digest, bytes));
        }
        file.sync_all().map_err(failed())?;
        std::fs::rename(&self.path, &place).map_err(failed())?;
        sync_folder(&self.store.root().join("blobs/sha256"))?;
        Ok((digest, bytes))
    }

    /// Throws away what was written, to begin anew.
    pub(crate) fn discard(mut self) {
        self.resumable = false;
    }
}

impl Write for Ingest {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => Write::write(file, buffer),
            None => Err(io::Error::other("the ingest was committed before")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if self.file.take().is_some() && !self.resumable {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

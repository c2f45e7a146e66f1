//! Images leave as one archive: an OCI layout that `docker load` reads as well.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use serde_json::json;

use crate::archive::{Entry, Writer};
use crate::digest::Digest;
use crate::document::{Descriptor, Index, MANIFEST_MAX_BYTES, media};
use crate::error::Error;
use crate::store::{Named, Store};

/// The annotation by which containerd and docker know an image's whole name.
pub(crate) const NAME_ANNOTATION: &str = "io.containerd.image.name";
/// OCI's annotation for the tag, or for a name.
pub(crate) const TAG_ANNOTATION: &str = "org.opencontainers.image.ref.name";

impl Store {
    /// Writes the images that `texts` name (or whose ids they are) to `writer` as one tar archive: an OCI layout
    /// with docker's `manifest.json`. Returns the writer, flushed.
    pub async fn save<W: Write + Send + 'static>(&self, texts: &[String], writer: W) -> Result<W, Error> {
        let images = texts.iter().map(|text| self.resolve(text)).collect::<Result<Vec<_>, _>>()?;
        if images.is_empty() {
            return Err(Error::NotFound {
                what: "an image to save".to_owned(),
                hint: "name at least one; \"ondol image list\" shows them".to_owned(),
            });
        }
        let mut lease = self.lease();
        images.iter().for_each(|named| lease.hold_image(named.manifest));
        self.blocking(move |store| {
            let _lease = lease;
            let mut saving = Saving { store, archive: Writer::new(writer), written: BTreeSet::new() };
            saving.images(&images)?;
            let mut writer = saving.archive.finish().map_err(writing)?;
            writer.flush().map_err(writing)?;
            Ok(writer)
        })
        .await
    }
}

struct Saving<'a, W: Write> {
    store: &'a Store,
    archive: Writer<W>,
    written: BTreeSet<Digest>,
}

impl<W: Write> Saving<'_, W> {
    fn images(&mut self, images: &[Named]) -> Result<(), Error> {
        for folder in ["blobs", "blobs/sha256"] {
            self.archive.append(&Entry::directory(folder, 0o755), io::empty()).map_err(writing)?;
        }
        let mut index =
            Index { schema_version: 2, media_type: media::INDEX.to_owned(), manifests: Vec::new() };
        let mut docker: BTreeMap<Digest, serde_json::Value> = BTreeMap::new();
        for named in images {
            let (manifest, _) = self.store.documents(named.manifest)?;
            let bytes = self.store.read_blob(named.manifest, MANIFEST_MAX_BYTES)?;
            self.blob(named.manifest)?;
            self.blob(manifest.config.digest)?;
            for layer in &manifest.layers {
                self.blob(layer.digest)?;
            }
            index.manifests.push(described(named, &bytes, &manifest.media_type));
            let path = |digest: Digest| format!("blobs/sha256/{}", digest.hex());
            let entry = docker.entry(named.manifest).or_insert_with(|| {
                json!({
                    "Config": path(manifest.config.digest),
                    "RepoTags": [],
                    "Layers": manifest.layers.iter().map(|layer| path(layer.digest)).collect::<Vec<_>>(),
                })
            });
            if let (Some(tags), Some(_)) = (entry["RepoTags"].as_array_mut(), named.name.tag()) {
                tags.push(json!(familiar(named)));
            }
        }
        self.text("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
        self.text("index.json", &json!(index).to_string())?;
        self.text("manifest.json", &json!(docker.values().collect::<Vec<_>>()).to_string())
    }

    fn text(&mut self, path: &str, text: &str) -> Result<(), Error> {
        self.archive.append(&Entry::file(path, 0o644, text.len() as u64), text.as_bytes()).map_err(writing)
    }

    fn blob(&mut self, digest: Digest) -> Result<(), Error> {
        if !self.written.insert(digest) {
            return Ok(());
        }
        let file = self.store.open_blob(digest)?;
        let size = file.metadata().map_err(writing)?.len();
        let entry = Entry::file(&format!("blobs/sha256/{}", digest.hex()), 0o644, size);
        self.archive.append(&entry, file.take(size)).map_err(writing)
    }
}

fn described(named: &Named, bytes: &[u8], media_type: &str) -> Descriptor {
    let mut annotations = BTreeMap::from([(NAME_ANNOTATION.to_owned(), named.name.to_string())]);
    if let Some(tag) = named.name.tag() {
        annotations.insert(TAG_ANNOTATION.to_owned(), tag.to_owned());
    }
    let media_type = if media_type.is_empty() { media::MANIFEST } else { media_type };
    Descriptor {
        media_type: media_type.to_owned(),
        digest: named.manifest,
        size: bytes.len() as u64,
        platform: None,
        annotations,
    }
}

/// The name as docker writes it: without what it adds itself.
fn familiar(named: &Named) -> String {
    let whole = named.name.to_string();
    let short = whole.strip_prefix("docker.io/").unwrap_or(&whole);
    short.strip_prefix("library/").filter(|_| whole.starts_with("docker.io/")).unwrap_or(short).to_owned()
}

fn writing(source: io::Error) -> Error {
    Error::Storage { action: "writing the archive".to_owned(), source }
}

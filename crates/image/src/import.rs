//! Images come in from archives: OCI layouts and what `docker save` writes, as a stream or as a directory.
//!
//! The archive is read once, from front to back, for it may be a pipe. Members that can be content go straight
//! into the store under their digest; what the images are made of is decided when the whole archive has been seen.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;

use crate::archive::{self, Entry, Kind, Reader};
use crate::digest::Digest;
use crate::document::{
    CONFIG_MAX_BYTES, Configuration, Descriptor, Document, Index, MANIFEST_MAX_BYTES, Manifest, Platform,
    media,
};
use crate::error::Error;
use crate::layer::{Compression, decompressed};
use crate::reference::Reference;
use crate::save::{NAME_ANNOTATION, TAG_ANNOTATION};
use crate::store::{Lease, Named, Origin, Store};
use crate::unpack::LAYER_MAX_BYTES;

/// The most members of an archive.
pub const MEMBERS_MAX: usize = 10_000;
/// How deep indexes may lie in one another.
const INDEX_DEPTH_MAX: u32 = 4;
/// What every message about an archive is about.
const WHAT: &str = "the archive";

/// Content that has come in, by the paths of the archive.
struct Contents {
    lease: Lease,
    /// Small documents at the root.
    texts: HashMap<&'static str, Vec<u8>>,
    /// Every member that is content.
    members: HashMap<String, (Digest, u64)>,
    /// Links between members; old docker writes a layer once and links to it.
    links: HashMap<String, String>,
    /// The archive has no mark at its end: a writer that leaves it away, or one that was cut between two members.
    is_cut: bool,
}

/// An image that the archive holds, with the names it gives.
struct Found {
    manifest: Digest,
    names: Vec<Reference>,
}

/// An image in docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

const TEXTS: [&str; 3] = ["index.json", "manifest.json", "oci-layout"];

impl Store {
    /// Imports the images of an OCI layout or a `docker save` archive, plain or compressed with gzip or zstd, from
    /// a file or a pipe. With `name`, the archive must hold one image, which gets that name and no other.
    pub async fn import<R: Read + Send + 'static>(
        &self,
        reader: R,
        name: Option<Reference>,
    ) -> Result<Vec<Named>, Error> {
        let contents = self.blocking(move |store| store.read_archive(reader)).await?;
        self.import_contents(contents, name).await
    }

    /// Imports the images of an OCI layout that is a directory.
    pub async fn import_directory(
        &self,
        directory: &Path,
        name: Option<Reference>,
    ) -> Result<Vec<Named>, Error> {
        let directory = directory.to_path_buf();
        let contents = self.blocking(move |store| store.read_directory(&directory)).await?;
        self.import_contents(contents, name).await
    }

    async fn import_contents(
        &self,
        contents: Contents,
        name: Option<Reference>,
    ) -> Result<Vec<Named>, Error> {
        let (mut lease, found) = self
            .blocking(move |store| {
                let mut contents = contents;
                let found = match store.images_of(&mut contents, name) {
                    // What it lacks may have come behind the cut.
                    Err(Error::Invalid { .. } | Error::NotFound { .. }) if contents.is_cut => {
                        return Err(damaged(archive::Error::Truncated));
                    }
                    found => found?,
                };
                Ok((contents.lease, found))
            })
            .await?;
        for image in &found {
            lease.hold_image(image.manifest);
            self.unpack_image(image.manifest).await?;
        }
        self.blocking(move |store| {
            let _lease = lease;
            found.into_iter().flat_map(|image| store.name_imported(&image)).collect()
        })
        .await
    }

    fn name_imported(&self, image: &Found) -> Vec<Result<Named, Error>> {
        let (manifest, _) = match self.documents(image.manifest) {
            Ok(documents) => documents,
            Err(error) => return vec![Err(error)],
        };
        let named = |name: &Reference| Named {
            name: name.key(),
            manifest: image.manifest,
            target: image.manifest,
            image_id: manifest.config.digest,
            size_bytes: manifest.content_bytes(),
            origin: Origin::Imported,
            stored_at: self.clock().now(),
        };
        image.names.iter().map(|name| self.put_name(named(name))).collect()
    }

    fn empty_contents(&self) -> Contents {
        let (texts, members, links) = (HashMap::new(), HashMap::new(), HashMap::new());
        Contents { lease: self.lease(), texts, members, links, is_cut: false }
    }

    fn read_archive(&self, reader: impl Read + Send) -> Result<Contents, Error> {
        let mut archive = Reader::new(decompressed(Given(reader)).map_err(unread)?);
        let mut contents = self.empty_contents();
        while let Some(entry) = archive.next_entry().map_err(damaged)? {
            let path = String::from_utf8_lossy(&entry.path).trim_start_matches("./").to_owned();
            if contents.members.len() + contents.links.len() >= MEMBERS_MAX {
                return Err(Error::invalid(WHAT, format!("it has more than {MEMBERS_MAX} members")));
            }
            match entry.kind {
                Kind::File => self.take_member(&mut contents, &mut archive, &entry, path)?,
                Kind::Symlink => {
                    let target = String::from_utf8_lossy(&entry.link).into_owned();
                    contents.links.insert(path.clone(), resolve_link(&path, &target));
                }
                Kind::HardLink => {
                    let target = String::from_utf8_lossy(&entry.link).trim_start_matches("./").to_owned();
                    contents.links.insert(path, target);
                }
                _ => {}
            }
        }
        contents.is_cut = !archive.has_ended();
        Ok(contents)
    }

    fn take_member<R: Read>(
        &self,
        contents: &mut Contents,
        archive: &mut Reader<R>,
        entry: &Entry,
        path: String,
    ) -> Result<(), Error> {
        if entry.segments.is_some() {
            return Err(Error::invalid(
                WHAT,
                format!("{path} is a sparse file: pack it again without holes"),
            ));
        }
        let data = MemberData(archive);
        if let Some(text) = TEXTS.into_iter().find(|text| *text == path) {
            contents.texts.insert(text, read_small(data, text, unread)?);
            return Ok(());
        }
        // Version and repository files of old archives are of no use.
        if !is_content(&path) {
            return Ok(());
        }
        let mut ingest = self.ingest()?;
        ingest.copy(data, LAYER_MAX_BYTES, unread)?;
        let expected = path.strip_prefix("blobs/sha256/").map(|hex| blob_name(hex, &path)).transpose()?;
        self.settle_member(contents, ingest, expected, path)
    }

    fn settle_member(
        &self,
        contents: &mut Contents,
        ingest: crate::store::Ingest,
        expected: Option<Digest>,
        path: String,
    ) -> Result<(), Error> {
        contents.lease.hold(ingest.digest());
        let (digest, bytes) = ingest.commit(expected)?;
        contents.members.insert(path, (digest, bytes));
        Ok(())
    }

    fn read_directory(&self, directory: &Path) -> Result<Contents, Error> {
        let mut contents = self.empty_contents();
        for text in TEXTS {
            let path = directory.join(text);
            match std::fs::File::open(&path) {
                Ok(file) => {
                    contents.texts.insert(text, read_small(file, text, Error::storage("reading", &path))?);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::storage("opening", &path)(error)),
            }
        }
        if !contents.texts.contains_key("index.json") {
            return Err(Error::invalid(
                directory.display().to_string(),
                "it has no index.json, so it is no OCI layout; give a layout or an archive",
            ));
        }
        let blobs: PathBuf = directory.join("blobs/sha256");
        let list = std::fs::read_dir(&blobs).map_err(Error::storage("listing", &blobs))?;
        for blob in list {
            let blob = blob.map_err(Error::storage("listing", &blobs))?;
            let name = blob.file_name().to_string_lossy().into_owned();
            let path = format!("blobs/sha256/{name}");
            let digest = blob_name(&name, &path)?;
            let file = std::fs::File::open(blob.path()).map_err(Error::storage("opening", &blob.path()))?;
            let mut ingest = self.ingest()?;
            ingest.copy(file, LAYER_MAX_BYTES, Error::storage("reading", &blob.path()))?;
            self.settle_member(&mut contents, ingest, Some(digest), path)?;
        }
        Ok(contents)
    }

    /// The images of the archive with the names they get.
    fn images_of(&self, contents: &mut Contents, name: Option<Reference>) -> Result<Vec<Found>, Error> {
        let docker = self.docker_images(contents)?;
        let mut found: BTreeMap<Digest, Vec<Reference>> = BTreeMap::new();
        if let Some(bytes) = contents.texts.get("index.json") {
            let index: Index = serde_json::from_slice(bytes)
                .map_err(|error| Error::invalid("index.json", error.to_string()))?;
            for entry in &index.manifests {
                if let Some(manifest) = self.manifest_of(entry, index.manifests.len(), 0)? {
                    found.entry(manifest).or_default().extend(names_of(entry));
                }
            }
        } else if let Some(images) = &docker {
            for image in images {
                let (manifest, names) = self.convert(contents, image)?;
                found.entry(manifest).or_default().extend(names);
            }
        } else {
            return Err(Error::invalid(
                WHAT,
                "it has neither index.json nor manifest.json: give an OCI layout, or what \"docker save\" writes",
            ));
        }
        let mut images: Vec<Found> =
            found.into_iter().map(|(manifest, names)| Found { manifest, names }).collect();
        match (name, images.as_mut_slice()) {
            (_, []) => {
                return Err(Error::Unsupported {
                    what: format!("an archive without an image for {}", Platform::here()),
                    hint: "export the image for this machine's platform".to_owned(),
                });
            }
            (Some(name), [only]) => only.names = vec![name],
            (Some(name), several) => {
                return Err(Error::invalid(
                    WHAT,
                    format!(
                        "it holds {} images, which cannot all be named {name}; leave --name away",
                        several.len()
                    ),
                ));
            }
            (None, images) => {
                if let Some(nameless) = images.iter().find(|image| image.names.is_empty()) {
                    return Err(Error::invalid(
                        WHAT,
                        format!("it gives no name to the image {}; say one with --name", nameless.manifest),
                    ));
                }
            }
        }
        for image in &mut images {
            contents.lease.hold_image(image.manifest);
            image.names.sort();
            image.names.dedup();
        }
        Ok(images)
    }

    /// The manifest that an entry of an index leads to on this platform.
    fn manifest_of(&self, entry: &Descriptor, siblings: usize, depth: u32) -> Result<Option<Digest>, Error> {
        if depth > INDEX_DEPTH_MAX {
            return Err(Error::invalid(WHAT, "its indexes lie too deep in one another"));
        }
        let host = Platform::here();
        let foreign = entry.platform.as_ref().is_some_and(|platform| !platform.runs_on(&host));
        // An attestation beside an image, or another platform's image: fine while there is something for us.
        if foreign && siblings > 1 {
            return Ok(None);
        }
        match Document::parse(&self.read_blob(entry.digest, MANIFEST_MAX_BYTES)?)? {
            Document::Manifest(_) => Ok(Some(entry.digest)),
            Document::Index(index) => {
                let chosen = index.choose(&host)?;
                self.manifest_of(chosen, 1, depth + 1)
            }
        }
    }

    fn docker_images(&self, contents: &Contents) -> Result<Option<Vec<DockerImage>>, Error> {
        let Some(bytes) = contents.texts.get("manifest.json") else { return Ok(None) };
        serde_json::from_slice(bytes)
            .map(Some)
            .map_err(|error| Error::invalid("manifest.json", error.to_string()))
    }

    /// Writes a manifest for an image that docker describes by paths.
    fn convert(
        &self,
        contents: &mut Contents,
        image: &DockerImage,
    ) -> Result<(Digest, Vec<Reference>), Error> {
        let (config_digest, config_bytes) = contents.member(&image.config)?;
        Configuration::parse(&self.read_blob(config_digest, CONFIG_MAX_BYTES)?)?;
        let mut layers = Vec::with_capacity(image.layers.len());
        for path in &image.layers {
            let (digest, size) = contents.member(path)?;
            let mut start = Vec::with_capacity(4);
            let stored = self.open_blob(digest)?.take(4).read_to_end(&mut start);
            stored
                .map_err(|source| Error::Storage { action: format!("reading the blob {digest}"), source })?;
            layers.push(descriptor(Compression::of(&start).media_type(), digest, size));
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: media::MANIFEST.to_owned(),
            config: descriptor(media::CONFIG, config_digest, config_bytes),
            layers,
        };
        let digest = self.put_blob(json!(manifest).to_string().as_bytes())?;
        contents.lease.hold_image(digest);
        let tags = image.repo_tags.iter().flatten();
        let names = tags.map(|tag| tag.parse()).collect::<Result<Vec<Reference>, _>>()?;
        Ok((digest, names))
    }
}

impl Contents {
    /// The content of a path, links followed.
    fn member(&self, path: &str) -> Result<(Digest, u64), Error> {
        let mut path = path;
        for _ in 0..8 {
            match self.members.get(path) {
                Some(found) => return Ok(*found),
                None => match self.links.get(path) {
                    Some(target) => path = target,
                    None => break,
                },
            }
        }
        Err(Error::invalid(
            WHAT,
            format!("its manifest.json names {path}, which it does not hold; save it again"),
        ))
    }
}

/// The data of the archive's current member.
struct MemberData<'a, R>(&'a mut Reader<R>);

impl<R: Read> Read for MemberData<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_data(buffer).map_err(io::Error::other)
    }
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        platform: None,
        annotations: BTreeMap::new(),
    }
}

/// Docker's archives put configurations at the root and layers in folders; layouts put all below `blobs/`.
fn is_content(path: &str) -> bool {
    path.starts_with("blobs/sha256/")
        || path.ends_with(".tar")
        || (path.ends_with(".json") && !path.contains('/'))
        || (path.len() == 64 && Digest::from_hex(path).is_some())
}

fn blob_name(hex: &str, path: &str) -> Result<Digest, Error> {
    Digest::from_hex(hex).ok_or_else(|| Error::invalid(WHAT, format!("{path} is not named by a digest")))
}

fn read_small(
    source: impl Read,
    what: &str,
    unread: impl FnOnce(io::Error) -> Error,
) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    source.take(MANIFEST_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unread)?;
    crate::document::limit(what, &bytes, MANIFEST_MAX_BYTES)?;
    Ok(bytes)
}

/// A relative link from the folder of `path`, with `..` taken away within the archive.
fn resolve_link(path: &str, target: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    parts.join("/")
}

/// The names that an entry of `index.json` carries. A bare tag is no name.
fn names_of(entry: &Descriptor) -> Vec<Reference> {
    let whole = entry.annotations.get(NAME_ANNOTATION);
    let tag = entry.annotations.get(TAG_ANNOTATION).filter(|text| text.contains(['/', ':']));
    whole.or(tag).and_then(|text| text.parse().ok()).into_iter().collect()
}

/// Why an archive could not be read on: whoever gives it has failed, or its bytes are wrong.
fn unread(error: io::Error) -> Error {
    let error = match error.downcast::<archive::Error>() {
        Ok(archive) => return damaged(archive),
        Err(error) => error,
    };
    match error.downcast::<NotGiven>() {
        Ok(NotGiven(source)) => {
            Error::invalid(WHAT, format!("it could not be read to its end ({source}): give it again"))
        }
        // Everything between the tar archive and the bytes given is a decompressor.
        Err(error) => Error::invalid(
            WHAT,
            format!("it is damaged or cut short, for it cannot be decompressed ({error}): transfer it again"),
        ),
    }
}

fn damaged(error: archive::Error) -> Error {
    match error {
        archive::Error::Read(source) => unread(source),
        other => Error::invalid(WHAT, other.to_string()),
    }
}

/// The archive's bytes as they are given. Failures are marked, so that they are not taken for a decompressor's.
struct Given<R>(R);

/// The bytes could not be had.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct NotGiven(io::Error);

impl<R: Read> Read for Given<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ => io::Error::other(NotGiven(error)),
        })
    }
}

#[cfg(test)]
mod tests;

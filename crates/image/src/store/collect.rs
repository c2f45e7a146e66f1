//! Removing what nothing needs any more.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::digest::Digest;
use crate::error::Error;
use crate::store::{Held, Store, sync_folder};

/// What a collection freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Collected {
    /// Blobs removed.
    pub blobs: usize,
    /// Bytes of those blobs.
    pub blob_bytes: u64,
    /// Unpacked layers removed.
    pub layers: usize,
}

impl Store {
    /// Removes all content that no name, no pin and no running import or pull needs. `pins` are manifests that
    /// containers use ([`crate::store::Rootfs::manifest`]).
    pub async fn collect(&self, pins: &[Digest]) -> Result<Collected, Error> {
        let pins = pins.to_vec();
        self.blocking(move |store| store.collect_now(&pins)).await
    }

    fn collect_now(&self, pins: &[Digest]) -> Result<Collected, Error> {
        let mut collected = Collected::default();
        let mut trash = Vec::new();
        {
            // No lease begins or ends meanwhile, so what is found needless stays needless until it is gone.
            // Only small files are read and names removed under this lock; the trees go afterwards.
            let leases = self.leases();
            let needed = self.needed(pins, leases.keys())?;
            for path in entries(&self.0.root.join("blobs/sha256"))? {
                if digest_of(&path).is_some_and(|digest| !needed.contains(&digest)) {
                    collected.blob_bytes += path.metadata().map_or(0, |metadata| metadata.len());
                    std::fs::remove_file(&path).map_err(Error::storage("removing", &path))?;
                    collected.blobs += 1;
                }
            }
            for path in entries(&self.0.root.join("layers"))? {
                if digest_of(&path).is_some_and(|chain_id| !needed.contains(&chain_id)) {
                    let scratch = self.scratch();
                    std::fs::rename(&path, &scratch).map_err(Error::storage("removing", &path))?;
                    trash.push(scratch);
                }
            }
            for path in entries(&self.0.root.join("ingest"))? {
                let partial = path.extension().is_some_and(|extension| extension == "partial");
                let digest = path.file_stem().and_then(|stem| stem.to_str()).and_then(Digest::from_hex);
                if partial && digest.is_some_and(|digest| !needed.contains(&digest)) {
                    std::fs::remove_file(&path).map_err(Error::storage("removing", &path))?;
                }
            }
            self.drop_links()?;
        }
        collected.layers = trash.len();
        for path in trash {
            base::tree::remove(&path).map_err(Error::storage("removing", &path))?;
        }
        sync_folder(&self.0.root.join("blobs/sha256"))?;
        sync_folder(&self.0.root.join("layers"))?;
        Ok(collected)
    }

    fn needed<'a>(
        &self,
        pins: &[Digest],
        leased: impl Iterator<Item = &'a Held>,
    ) -> Result<HashSet<Digest>, Error> {
        let mut needed = HashSet::new();
        let named = self.list();
        let indexes = named.iter().filter(|named| named.target != named.manifest).map(|named| named.target);
        needed.extend(indexes);
        for manifest in named.iter().map(|named| named.manifest).chain(pins.iter().copied()) {
            self.reach(manifest, &mut needed)?;
        }
        for held in leased {
            match held {
                Held::Content(digest) => {
                    needed.insert(*digest);
                }
                Held::Image(manifest) => self.reach(*manifest, &mut needed)?,
            }
        }
        Ok(needed)
    }

    fn reach(&self, manifest: Digest, needed: &mut HashSet<Digest>) -> Result<(), Error> {
        if !needed.insert(manifest) {
            return Ok(());
        }
        // A pin of an image that was never here, or is damaged, keeps nothing more than itself.
        let (manifest, configuration) = match self.documents(manifest) {
            Ok(documents) => documents,
            Err(Error::NotFound { .. } | Error::Invalid { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        needed.insert(manifest.config.digest);
        needed.extend(manifest.layers.iter().map(|layer| layer.digest));
        needed.extend(configuration.chain_ids());
        Ok(())
    }

    /// Removes short links to layers that are gone.
    fn drop_links(&self) -> Result<(), Error> {
        for path in entries(&self.0.root.join("l"))? {
            if path.is_symlink() && !path.exists() {
                std::fs::remove_file(&path).map_err(Error::storage("removing", &path))?;
            }
        }
        Ok(())
    }

    /// Removes what a crash left in `ingest/`, but for downloads that can go on.
    pub(super) fn sweep(&self) -> Result<(), Error> {
        for path in entries(&self.0.root.join("ingest"))? {
            if path.extension().is_some_and(|extension| extension == "partial") {
                continue;
            }
            base::tree::remove(&path).map_err(Error::storage("removing", &path))?;
        }
        Ok(())
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let list = || std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>();
    list().map_err(Error::storage("listing", folder))
}

fn digest_of(path: &Path) -> Option<Digest> {
    path.file_name()?.to_str().and_then(Digest::from_hex)
}

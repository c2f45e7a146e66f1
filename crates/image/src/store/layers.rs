//! Unpacked layers under their chain ids.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::document::{CONFIG_MAX_BYTES, Configuration, Document, MANIFEST_MAX_BYTES, Manifest};
use crate::error::Error;
use crate::store::{Store, sync_folder};
use crate::unpack;

/// Digits of a chain id in a short link. A link that is taken by another chain gets more.
const LINK_MIN_DIGITS: usize = 10;

/// A layer to unpack: its blob, what it must hold, and its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) blob: Digest,
    pub(crate) diff_id: Digest,
    pub(crate) chain_id: Digest,
}

/// The layers of an image, bottom first.
pub(crate) fn plans(manifest: &Manifest, configuration: &Configuration) -> Result<Vec<Plan>, Error> {
    if manifest.layers.len() != configuration.diff_ids.len() {
        return Err(Error::invalid(
            "the image",
            format!(
                "its manifest has {} layers and its configuration {}",
                manifest.layers.len(),
                configuration.diff_ids.len()
            ),
        ));
    }
    let layers = manifest.layers.iter().zip(&configuration.diff_ids).zip(configuration.chain_ids());
    Ok(layers
        .map(|((layer, diff_id), chain_id)| Plan { blob: layer.digest, diff_id: *diff_id, chain_id })
        .collect())
}

impl Store {
    pub(super) fn layer_path(&self, chain_id: Digest) -> PathBuf {
        self.0.root.join("layers").join(chain_id.hex())
    }

    /// Reads manifest and configuration from the store. It blocks.
    pub(crate) fn documents(&self, manifest: Digest) -> Result<(Manifest, Configuration), Error> {
        let document = Document::parse(&self.read_blob(manifest, MANIFEST_MAX_BYTES)?)?;
        let Document::Manifest(manifest) = document else {
            return Err(Error::invalid("the image's manifest", "it is an index"));
        };
        let configuration = Configuration::parse(&self.read_blob(manifest.config.digest, CONFIG_MAX_BYTES)?)?;
        Ok((manifest, configuration))
    }

    /// Whether all blobs and unpacked layers of an image are here.
    pub(crate) async fn is_complete(&self, manifest: Digest) -> Result<bool, Error> {
        self.blocking(move |store| {
            if !store.has_blob(manifest) {
                return Ok(false);
            }
            let Ok((manifest, configuration)) = store.documents(manifest) else { return Ok(false) };
            let plans = plans(&manifest, &configuration)?;
            Ok(plans.iter().all(|plan| store.has_blob(plan.blob) && store.layer_path(plan.chain_id).exists()))
        })
        .await
    }

    /// Unpacks what is not unpacked yet; `below` are the chain ids under it, bottom first.
    pub(crate) async fn unpack_layer(&self, plan: Plan, below: Vec<Digest>) -> Result<(), Error> {
        let _flight = self.flight(plan.chain_id).await;
        self.blocking(move |store| store.unpack_layer_now(plan, &below)).await
    }

    /// The same, without waiting for others that do the same; it blocks.
    pub(crate) fn unpack_layer_now(&self, plan: Plan, below: &[Digest]) -> Result<(), Error> {
        let place = self.layer_path(plan.chain_id);
        if place.exists() {
            return self.link(plan.chain_id).map(|_| ());
        }
        let scratch = self.scratch();
        std::fs::create_dir(&scratch).map_err(Error::storage("making", &scratch))?;
        let parents: Vec<PathBuf> = below.iter().rev().map(|chain_id| self.layer_path(*chain_id)).collect();
        let done = self.fill(plan, &parents, &scratch).and_then(|()| self.settle(&scratch, &place));
        if done.is_err() {
            // A failure to clean up is swept at the next opening; the first error is the one to tell.
            let _ = base::tree::remove(&scratch);
        }
        done?;
        self.link(plan.chain_id).map(|_| ())
    }

    fn fill(&self, plan: Plan, parents: &[PathBuf], scratch: &Path) -> Result<(), Error> {
        let blob = self.open_blob(plan.blob)?;
        unpack::layer(blob, plan.diff_id, parents, scratch)
            .map_err(|source| Error::Unpack { layer: plan.blob, source })
    }

    fn settle(&self, scratch: &Path, place: &Path) -> Result<(), Error> {
        let failed = |error: rustix::io::Errno| Error::storage("syncing", scratch)(error.into());
        let folder = File::open(scratch).map_err(Error::storage("opening", scratch))?;
        rustix::fs::syncfs(&folder).map_err(failed)?;
        match std::fs::rename(scratch, place) {
            Ok(()) => sync_folder(&self.0.root.join("layers")),
            // An import and a pull unpacked the same layer at once; one is enough.
            Err(_) if place.exists() => {
                base::tree::remove(scratch).map_err(Error::storage("removing", scratch))
            }
            Err(error) => Err(Error::storage("renaming", scratch)(error)),
        }
    }

    /// The short name of an unpacked layer in `l/`, made if it is not there. A lost link is made again, so
    /// links need no syncing.
    pub(super) fn link(&self, chain_id: Digest) -> Result<String, Error> {
        let hex = chain_id.hex();
        let target = Path::new("../layers").join(&hex);
        for digits in (LINK_MIN_DIGITS..=hex.len()).step_by(2) {
            let name = &hex[..digits];
            let path = self.0.root.join("l").join(name);
            match std::fs::read_link(&path) {
                Ok(found) if found == target => return Ok(name.to_owned()),
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::storage("reading", &path)(error)),
            }
            match std::os::unix::fs::symlink(&target, &path) {
                Ok(()) => return Ok(name.to_owned()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if std::fs::read_link(&path).is_ok_and(|found| found == target) {
                        return Ok(name.to_owned());
                    }
                }
                Err(error) => return Err(Error::storage("linking", &path)(error)),
            }
        }
        Err(Error::invalid("the folder of short links", "all names of a layer are taken by others"))
    }

    /// Unpacks all layers of an image that is in the store.
    pub(crate) async fn unpack_image(&self, manifest: Digest) -> Result<(), Error> {
        let plans = self
            .blocking(move |store| {
                let (manifest, configuration) = store.documents(manifest)?;
                plans(&manifest, &configuration)
            })
            .await?;
        let mut below = Vec::with_capacity(plans.len());
        for plan in plans {
            if !self.layer_path(plan.chain_id).exists() {
                self.unpack_layer(plan, below.clone()).await?;
            }
            below.push(plan.chain_id);
        }
        Ok(())
    }
}

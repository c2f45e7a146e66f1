//! What others see of an image: how to mount it, and what it is made of.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::digest::Digest;
use crate::document::ImageConfig;
use crate::error::Error;
use crate::reference::Reference;
use crate::store::{Named, Store, layers};
use crate::unpack;

/// Everything that a sandbox needs of an image.
#[derive(Clone, Debug)]
pub struct Rootfs {
    /// The lower directories for overlayfs, top first; never empty.
    pub lower_dirs: Vec<PathBuf>,
    /// The directory that `lower_names` are relative to.
    pub lower_base: PathBuf,
    /// The same directories by short relative names, for a mount whose options must fit one page.
    pub lower_names: Vec<String>,
    /// What runs.
    pub config: ImageConfig,
    /// The digest of the configuration: the image's identity.
    pub image_id: Digest,
    /// The manifest; pin it while a container uses the image.
    pub manifest: Digest,
    /// `repository@digest` of each repository that names the image.
    pub repo_digests: Vec<String>,
    /// Bytes of configuration and layers as they are stored.
    pub size_bytes: u64,
}

impl Rootfs {
    /// The value of overlayfs' option `lowerdir`, relative to the directory that comes with it: change there
    /// before mounting.
    pub fn lowerdir_option(&self) -> (&Path, String) {
        (&self.lower_base, self.lower_names.join(":"))
    }
}

/// An image in detail.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// The name that was asked for.
    #[serde(flatten)]
    pub named: Named,
    /// All names of the same image.
    pub names: Vec<Reference>,
    /// What runs.
    pub config: ImageConfig,
    /// The layers, bottom first.
    pub layers: Vec<LayerView>,
}

/// One layer of an image.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerView {
    /// The blob's digest.
    pub digest: Digest,
    /// The digest of the plain archive.
    pub diff_id: Digest,
    /// The layer together with all below it.
    pub chain_id: Digest,
    /// The blob's media type as the manifest says it.
    pub media_type: String,
    /// The blob's length in bytes.
    pub size_bytes: u64,
    /// Whether it is unpacked.
    pub unpacked: bool,
}

impl Store {
    /// How to mount the image that `named` points at. Layers that are not unpacked yet are unpacked first.
    pub async fn rootfs(&self, named: &Named) -> Result<Rootfs, Error> {
        let mut lease = self.lease();
        lease.hold_image(named.manifest);
        self.unpack_image(named.manifest).await?;
        let named = named.clone();
        self.blocking(move |store| store.rootfs_now(&named)).await
    }

    fn rootfs_now(&self, named: &Named) -> Result<Rootfs, Error> {
        let (manifest, configuration) = self.documents(named.manifest)?;
        let base = self.root().join("l");
        let mut names = Vec::new();
        for chain_id in configuration.chain_ids().into_iter().rev() {
            names.push(self.link(chain_id)?);
            // Overlayfs knows no opaque root, so what is below one is left out.
            if is_opaque(&self.layer_path(chain_id)) {
                break;
            }
        }
        if names.is_empty() {
            let path = base.join("empty");
            match std::fs::create_dir(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(Error::storage("making", &path)(error));
                }
                _ => names.push("empty".to_owned()),
            }
        }
        let mut repo_digests: Vec<String> = self
            .list()
            .iter()
            .filter(|other| other.manifest == named.manifest)
            .map(Named::repo_digest)
            .collect();
        repo_digests.dedup();
        Ok(Rootfs {
            lower_dirs: names.iter().map(|name| base.join(name)).collect(),
            lower_base: base,
            lower_names: names,
            config: configuration.config,
            image_id: manifest.config.digest,
            manifest: named.manifest,
            repo_digests,
            size_bytes: manifest.content_bytes(),
        })
    }

    /// An image in detail, by name or id.
    pub async fn inspect(&self, text: &str) -> Result<Inspection, Error> {
        let text = text.to_owned();
        self.blocking(move |store| {
            let named = store.resolve(&text)?;
            let (manifest, configuration) = store.documents(named.manifest)?;
            let plans = layers::plans(&manifest, &configuration)?;
            let view = |(plan, layer): (layers::Plan, &crate::document::Descriptor)| LayerView {
                digest: plan.blob,
                diff_id: plan.diff_id,
                chain_id: plan.chain_id,
                media_type: layer.media_type.clone(),
                size_bytes: layer.size,
                unpacked: store.layer_path(plan.chain_id).exists(),
            };
            let same = store.list().into_iter().filter(|other| other.image_id == named.image_id);
            Ok(Inspection {
                names: same.map(|other| other.name).collect(),
                config: configuration.config,
                layers: plans.into_iter().zip(&manifest.layers).map(view).collect(),
                named,
            })
        })
        .await
    }
}

fn is_opaque(layer: &Path) -> bool {
    let mut value = [0_u8; 1];
    matches!(rustix::fs::lgetxattr(layer, unpack::OPAQUE, &mut value[..]), Ok(1)) && value == *b"y"
}

//! Putting an image together from a configuration and layers.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::digest::Digest;
use crate::document::{Descriptor, ImageConfig, Manifest, media};
use crate::error::Error;
use crate::layer::Layer;
use crate::reference::Reference;
use crate::store::{Named, Origin, Store};

/// The documents of an image; the same configuration and layers give the same bytes.
#[derive(Clone, Debug)]
pub struct Assembled {
    /// The configuration's bytes.
    pub config: Vec<u8>,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The configuration's digest: the image id.
    pub image_id: Digest,
    /// The manifest's digest.
    pub digest: Digest,
    /// Bytes of configuration and layers as they are stored.
    pub size_bytes: u64,
}

/// Writes configuration and manifest for `layers`, bottom first.
pub fn assemble(config: &ImageConfig, layers: &[Layer]) -> Assembled {
    let config_bytes = configuration(config, layers).to_string().into_bytes();
    let image_id = Digest::of(&config_bytes);
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::MANIFEST.to_owned(),
        config: Descriptor {
            media_type: media::CONFIG.to_owned(),
            digest: image_id,
            size: config_bytes.len() as u64,
            platform: None,
            annotations: BTreeMap::new(),
        },
        layers: layers.iter().map(Layer::descriptor).collect(),
    };
    let size_bytes = manifest.content_bytes();
    let manifest = json!(manifest).to_string().into_bytes();
    Assembled { config: config_bytes, image_id, digest: Digest::of(&manifest), manifest, size_bytes }
}

fn configuration(config: &ImageConfig, layers: &[Layer]) -> Value {
    let mut run = Map::new();
    let mut set = |key: &str, absent: bool, value: Value| {
        if !absent {
            run.insert(key.to_owned(), value);
        }
    };
    let keys = |names: &[String]| names.iter().map(|name| (name.clone(), json!({}))).collect::<Map<_, _>>();
    set("Entrypoint", config.entrypoint.is_empty(), json!(config.entrypoint));
    set("Cmd", config.cmd.is_empty(), json!(config.cmd));
    set("Env", config.env.is_empty(), json!(config.env));
    set("WorkingDir", config.working_dir.is_empty(), json!(config.working_dir));
    set("User", config.user.is_empty(), json!(config.user));
    set("ExposedPorts", config.exposed_ports.is_empty(), json!(keys(&config.exposed_ports)));
    set("Volumes", config.volumes.is_empty(), json!(keys(&config.volumes)));
    set("StopSignal", config.stop_signal.is_none(), json!(config.stop_signal));
    set("Labels", config.labels.is_empty(), json!(config.labels));
    let mut document = json!({
        "architecture": config.platform.architecture,
        "os": config.platform.os,
        "config": run,
        "rootfs": {
            "type": "layers",
            "diff_ids": layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>(),
        },
    });
    if !config.platform.variant.is_empty() {
        document["variant"] = json!(config.platform.variant);
    }
    if let Some(created) = &config.created {
        document["created"] = json!(created);
    }
    document
}

impl Store {
    /// Takes in an image whose layers are in the store ([`Store::write_layer`]), and names it.
    pub async fn build(
        &self,
        name: &Reference,
        config: &ImageConfig,
        layers: &[Layer],
    ) -> Result<Named, Error> {
        let assembled = assemble(config, layers);
        let mut lease = self.lease();
        for layer in layers {
            lease.hold(layer.digest);
        }
        lease.hold_image(assembled.digest);
        let missing = layers.iter().find(|layer| !self.has_blob(layer.digest));
        if let Some(layer) = missing {
            return Err(Error::NotFound {
                what: format!("the layer {}", layer.digest),
                hint: "write it into this store before the image is put together".to_owned(),
            });
        }
        let (digest, name) = (assembled.digest, name.key());
        self.blocking({
            let assembled = assembled.clone();
            move |store| {
                store.put_blob(&assembled.config)?;
                store.put_blob(&assembled.manifest)
            }
        })
        .await?;
        self.unpack_image(digest).await?;
        self.blocking(move |store| {
            let stored_at = store.clock().now();
            store.put_name(Named {
                name,
                manifest: digest,
                target: digest,
                image_id: assembled.image_id,
                size_bytes: assembled.size_bytes,
                origin: Origin::Built,
                stored_at,
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Configuration, Document};
    use crate::layer::Compression;

    #[test]
    fn what_is_assembled_reads_back_and_repeats() {
        let config = ImageConfig {
            entrypoint: vec!["/bin/app".into()],
            env: vec!["A=b".into()],
            exposed_ports: vec!["80/tcp".into()],
            stop_signal: Some("SIGINT".into()),
            platform: crate::document::Platform::here(),
            ..ImageConfig::default()
        };
        let layer = Layer {
            digest: Digest::of(b"blob"),
            diff_id: Digest::of(b"tar"),
            size_bytes: 4,
            compression: Compression::Gzip,
        };
        let assembled = assemble(&config, std::slice::from_ref(&layer));
        let back = Configuration::parse(&assembled.config).unwrap();
        assert_eq!((back.config, back.diff_ids), (config.clone(), vec![layer.diff_id]));
        assert!(matches!(Document::parse(&assembled.manifest).unwrap(), Document::Manifest(_)));
        assert_eq!(assemble(&config, &[layer]).digest, assembled.digest);
    }
}

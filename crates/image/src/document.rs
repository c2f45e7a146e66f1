//! The JSON documents of an image: index, manifest and configuration, in OCI's and Docker's spelling.
//!
//! Only the fields that something here acts on are read. Documents are stored and passed on as the bytes that they
//! came in, so nothing that is not read is lost.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::error::Error;

/// The largest index or manifest, in bytes. The distribution specification lets registries refuse above this.
pub const MANIFEST_MAX_BYTES: u64 = 4 << 20;
/// The largest image configuration, in bytes.
pub const CONFIG_MAX_BYTES: u64 = 4 << 20;
/// The most layers of one image; overlayfs stacks no more than 500, and docker writes no more than 127.
pub const LAYERS_MAX: usize = 256;

/// Media types that are written here.
pub mod media {
    /// An OCI image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI image configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A layer: a plain tar archive.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A layer compressed with gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A layer compressed with zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker's name for an index.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's name for a manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
}

/// What a document of an image points at.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    #[serde(default)]
    pub media_type: String,
    /// The content's digest.
    pub digest: Digest,
    /// The content's length in bytes.
    pub size: u64,
    /// For manifests in an index: what they run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Remarks, such as the name that an archive gives to an image.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An operating system on a processor, in Go's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Such as `amd64` or `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// Such as `linux`.
    #[serde(default)]
    pub os: String,
    /// Such as `v8`.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// The platform of this binary.
    pub fn here() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { architecture: architecture.to_owned(), os: "linux".to_owned(), variant: String::new() }
    }

    /// Whether an image for `self` runs on `host`. Variants are compared only where the image says one that
    /// the plain architecture does not include.
    pub fn runs_on(&self, host: &Self) -> bool {
        let baseline = matches!(
            (self.architecture.as_str(), self.variant.as_str()),
            (_, "") | ("arm64", "v8") | ("amd64", "v1")
        );
        self.os == host.os
            && self.architecture == host.architecture
            && (baseline || self.variant == host.variant)
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// One image on one platform: its configuration and its layers, bottom first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// OCI's or Docker's manifest type.
    #[serde(default)]
    pub media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, bottom first.
    pub layers: Vec<Descriptor>,
}

/// Several manifests, one a platform.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// OCI's or Docker's index type.
    #[serde(default)]
    pub media_type: String,
    /// The manifests.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub manifests: Vec<Descriptor>,
}

/// What a name may point at.
#[derive(Clone, Debug)]
pub enum Document {
    /// Several platforms.
    Index(Index),
    /// One platform.
    Manifest(Manifest),
}

impl Document {
    /// Reads an index or a manifest. What it is, is told by its content and not by what a server calls it, so
    /// that the same bytes always mean the same.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape {
            #[serde(default)]
            schema_version: u32,
            manifests: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
            #[serde(rename = "fsLayers")]
            fs_layers: Option<serde::de::IgnoredAny>,
        }
        let what = "the image's manifest";
        limit(what, bytes, MANIFEST_MAX_BYTES)?;
        let broken = |error: serde_json::Error| Error::invalid(what, error.to_string());
        let shape: Shape = serde_json::from_slice(bytes).map_err(broken)?;
        if shape.schema_version == 1 || shape.fs_layers.is_some() {
            return Err(Error::Unsupported {
                what: "a manifest of Docker's schema 1".to_owned(),
                hint: "push the image again with a current docker, buildah or skopeo".to_owned(),
            });
        }
        if shape.schema_version != 2 {
            return Err(Error::invalid(what, format!("schemaVersion is {}, not 2", shape.schema_version)));
        }
        match (shape.manifests.is_some(), shape.layers.is_some() || shape.config.is_some()) {
            (true, false) => serde_json::from_slice(bytes).map(Self::Index).map_err(broken),
            (false, true) => {
                let manifest: Manifest = serde_json::from_slice(bytes).map_err(broken)?;
                manifest.check()?;
                Ok(Self::Manifest(manifest))
            }
            // A document that is both would be read as one by us and as the other by the next tool.
            (true, true) => Err(Error::invalid(what, "it is both an index and a manifest")),
            (false, false) => Err(Error::invalid(what, "it has neither manifests nor layers")),
        }
    }
}

impl Manifest {
    fn check(&self) -> Result<(), Error> {
        if self.layers.len() > LAYERS_MAX {
            return Err(Error::invalid(
                "the image's manifest",
                format!("it has {} layers, more than {LAYERS_MAX}", self.layers.len()),
            ));
        }
        if self.config.size > CONFIG_MAX_BYTES {
            return Err(Error::TooLarge {
                what: "the image's configuration".to_owned(),
                limit: CONFIG_MAX_BYTES,
                bytes: self.config.size,
            });
        }
        let runnable = |media: &str| {
            media.is_empty() || media.contains("image.config") || media.contains("container.image.v1")
        };
        if !runnable(&self.config.media_type) {
            return Err(Error::Unsupported {
                what: format!("an artifact of type {}", self.config.media_type),
                hint: "only container images can run; check the name and its tag".to_owned(),
            });
        }
        match self.layers.iter().find(|layer| !is_layer(&layer.media_type)) {
            Some(layer) => Err(Error::Unsupported {
                what: format!("a layer of type {}", layer.media_type),
                hint: "only tar layers, plain or compressed with gzip or zstd, can be unpacked".to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// Bytes of the manifest's content: configuration and layers as they are stored.
    pub fn content_bytes(&self) -> u64 {
        self.layers.iter().fold(self.config.size, |sum, layer| sum.saturating_add(layer.size))
    }
}

/// The compression is found by looking at the bytes; here only what is no tar at all (or is encrypted) falls out.
fn is_layer(media_type: &str) -> bool {
    media_type.is_empty()
        || ((media_type.contains("image.layer") || media_type.contains("image.rootfs"))
            && !media_type.contains("encrypted"))
}

impl Index {
    /// The manifest for `host`; an index with one entry that names no platform means that entry.
    pub fn choose(&self, host: &Platform) -> Result<&Descriptor, Error> {
        let fitting = self
            .manifests
            .iter()
            .find(|entry| entry.platform.as_ref().is_some_and(|platform| platform.runs_on(host)));
        let lone = || match self.manifests.as_slice() {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        };
        fitting.or_else(lone).ok_or_else(|| {
            let mut has: Vec<String> = self
                .manifests
                .iter()
                .filter_map(|entry| entry.platform.as_ref())
                .filter(|platform| platform.os != "unknown")
                .map(ToString::to_string)
                .collect();
            has.dedup();
            Error::Unsupported {
                what: format!("this machine's platform {host}"),
                hint: format!("the image is only for {}: choose another tag or image", has.join(", ")),
            }
        })
    }
}

/// What a container of the image runs, from its configuration. Empty stands for absent everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageConfig {
    /// The command that arguments are appended to.
    pub entrypoint: Vec<String>,
    /// The arguments, or the whole command where there is no entrypoint.
    pub cmd: Vec<String>,
    /// `NAME=value`, in order.
    pub env: Vec<String>,
    /// An absolute path, or empty.
    pub working_dir: String,
    /// `user`, `uid`, `user:group`, `uid:gid`, or empty for root.
    pub user: String,
    /// Such as `8080/tcp`.
    pub exposed_ports: Vec<String>,
    /// Mount points that the image declares as volumes.
    pub volumes: Vec<String>,
    /// Such as `SIGQUIT`.
    pub stop_signal: Option<String>,
    /// The image's labels.
    pub labels: BTreeMap<String, String>,
    /// What it runs on.
    pub platform: Platform,
    /// When it was built, as written.
    pub created: Option<String>,
}

/// A configuration with the diff ids of its layers.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// What runs.
    pub config: ImageConfig,
    /// The digests of the plain tar layers, bottom first.
    pub diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct RawConfiguration {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    variant: String,
    created: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    config: RawConfig,
    rootfs: RawRootfs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    #[serde(deserialize_with = "null_is_empty")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    env: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    working_dir: String,
    #[serde(deserialize_with = "null_is_empty")]
    user: String,
    #[serde(deserialize_with = "null_is_empty")]
    exposed_ports: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "null_is_empty")]
    volumes: BTreeMap<String, serde_json::Value>,
    stop_signal: Option<String>,
    #[serde(deserialize_with = "null_is_empty")]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default, deserialize_with = "null_is_empty")]
    diff_ids: Vec<Digest>,
}

/// Docker writes `null` for what is empty.
fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Configuration {
    /// Reads an image configuration.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let what = "the image's configuration";
        limit(what, bytes, CONFIG_MAX_BYTES)?;
        let raw: RawConfiguration =
            serde_json::from_slice(bytes).map_err(|error| Error::invalid(what, error.to_string()))?;
        let config = ImageConfig {
            entrypoint: raw.config.entrypoint,
            cmd: raw.config.cmd,
            env: raw.config.env,
            working_dir: raw.config.working_dir,
            user: raw.config.user,
            exposed_ports: raw.config.exposed_ports.into_keys().collect(),
            volumes: raw.config.volumes.into_keys().collect(),
            stop_signal: raw.config.stop_signal.filter(|signal| !signal.is_empty()),
            labels: raw.config.labels,
            platform: Platform { architecture: raw.architecture, os: raw.os, variant: raw.variant },
            created: raw.created,
        };
        Ok(Self { config, diff_ids: raw.rootfs.diff_ids })
    }

    /// The chain ids of the layers, bottom first: each names a layer together with all below it (OCI image
    /// specification, "Layer ChainID").
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(self.diff_ids.len());
        for diff_id in &self.diff_ids {
            chain.push(match chain.last() {
                Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
                None => *diff_id,
            });
        }
        chain
    }
}

pub(crate) fn limit(what: &str, bytes: &[u8], limit: u64) -> Result<(), Error> {
    let length = bytes.len() as u64;
    if length > limit {
        return Err(Error::TooLarge { what: what.to_owned(), limit, bytes: length });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn manifest(layer_type: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{D}","size":2}},
               "layers":[{{"mediaType":"{layer_type}","digest":"{D}","size":3}}]}}"#,
            media::CONFIG
        )
    }

    #[test]
    fn content_tells_index_from_manifest() {
        let parsed = Document::parse(manifest(media::LAYER_GZIP).as_bytes()).unwrap();
        assert!(matches!(parsed, Document::Manifest(manifest) if manifest.content_bytes() == 5));
        let index = br#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(Document::parse(index).unwrap(), Document::Index(_)));
        let both = br#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
        assert!(Document::parse(both).unwrap_err().to_string().contains("both"));
    }

    #[test]
    fn what_cannot_run_is_refused_with_its_type() {
        let error = Document::parse(br#"{"schemaVersion":1,"fsLayers":[]}"#).unwrap_err();
        assert!(error.to_string().contains("schema 1"), "{error}");
        let error =
            Document::parse(manifest("application/vnd.cncf.helm.chart.content.v1.tar+gzip").as_bytes());
        assert!(error.unwrap_err().to_string().contains("helm"));
        let error = Document::parse(&vec![b' '; MANIFEST_MAX_BYTES as usize + 1]).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }));
    }

    #[test]
    fn the_platform_is_chosen_and_its_absence_explained() {
        let host = Platform { architecture: "arm64".into(), os: "linux".into(), variant: String::new() };
        let entry = |architecture: &str, variant: &str| {
            format!(
                r#"{{"digest":"{D}","size":1,"platform":{{"os":"linux","architecture":"{architecture}","variant":"{variant}"}}}}"#
            )
        };
        let index = |entries: &[String]| {
            let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
            match Document::parse(text.as_bytes()).unwrap() {
                Document::Index(index) => index,
                Document::Manifest(_) => panic!("an index"),
            }
        };
        let several = index(&[entry("amd64", ""), entry("arm64", "v8")]);
        assert_eq!(several.choose(&host).unwrap().platform.as_ref().unwrap().architecture, "arm64");
        let error = index(&[entry("amd64", ""), entry("arm", "v7")]).choose(&host).unwrap_err().to_string();
        assert!(error.contains("linux/arm64") && error.contains("linux/amd64, linux/arm/v7"), "{error}");
    }

    #[test]
    fn dockers_nulls_are_empty() {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["a"],"Entrypoint":null,"Env":null,
               "ExposedPorts":{{"80/tcp":{{}}}},"Labels":null,"Volumes":null}},
               "rootfs":{{"type":"layers","diff_ids":["{D}","{D}"]}}}}"#
        );
        let parsed = Configuration::parse(text.as_bytes()).unwrap();
        assert_eq!(parsed.config.cmd, ["a"]);
        assert_eq!(parsed.config.exposed_ports, ["80/tcp"]);
        let chain = parsed.chain_ids();
        assert_eq!(chain[0].to_string(), D);
        assert_eq!(chain[1], Digest::of(format!("{D} {D}").as_bytes()));
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_parsers(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Document::parse(&bytes);
            let _ = Configuration::parse(&bytes);
        }
    }
}

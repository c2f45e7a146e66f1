//! Names and what they point at: a small file that is rewritten whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Error;
use crate::reference::Reference;
use crate::store::{Store, sync_folder};

/// The version of the file's format.
const FORMAT: u32 = 1;
/// The fewest digits that stand for an image id.
const ID_MIN_DIGITS: usize = 6;

/// How a name came into this store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// From a registry.
    Pulled,
    /// From an archive.
    Imported,
    /// Put together on this machine.
    Built,
    /// Given to an image that was here already.
    Tagged,
}

/// A name and the image that it points at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Named {
    /// The normalised name.
    pub name: Reference,
    /// The manifest for this machine's platform. Pin this one to keep the image.
    pub manifest: Digest,
    /// What the registry's name points at: the manifest itself, or the index that it was chosen from.
    pub target: Digest,
    /// The digest of the configuration, which is the image's identity for docker and Kubernetes.
    pub image_id: Digest,
    /// Bytes of configuration and layers as they are stored.
    pub size_bytes: u64,
    /// How the name came here.
    pub origin: Origin,
    /// When the name was last given.
    #[serde(with = "rfc3339")]
    pub stored_at: Timestamp,
}

impl Named {
    /// `repository@digest`, as Kubernetes shows it.
    pub fn repo_digest(&self) -> String {
        format!("{}@{}", self.name.repository(), self.target)
    }
}

#[derive(Debug)]
pub(super) struct Names {
    path: PathBuf,
    by_name: BTreeMap<Reference, Named>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    names: Vec<Named>,
}

impl Names {
    pub(super) fn load(root: &Path) -> Result<Self, Error> {
        let path = root.join("names.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { path, by_name: BTreeMap::new() });
            }
            Err(error) => return Err(Error::storage("reading", &path)(error)),
        };
        let damaged = |reason: String| {
            let advice = "move the file away; the content stays, and images can be pulled or imported again";
            Error::invalid(path.display().to_string(), format!("{reason}; {advice}"))
        };
        let document: Document =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if document.format != FORMAT {
            return Err(damaged(format!("its format {} is not {FORMAT}", document.format)));
        }
        let by_name = document.names.into_iter().map(|named| (named.name.clone(), named)).collect();
        Ok(Self { path, by_name })
    }

    /// Writes `by_name`, and only then believes it.
    fn replace(&mut self, by_name: BTreeMap<Reference, Named>) -> Result<(), Error> {
        let document = Document { format: FORMAT, names: by_name.values().cloned().collect() };
        let temporary = self.path.with_extension("json.new");
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(&document)?)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &self.path)
        };
        write().map_err(Error::storage("writing", &self.path))?;
        sync_folder(self.path.parent().unwrap_or(Path::new("/")))?;
        self.by_name = by_name;
        Ok(())
    }
}

impl Store {
    fn names(&self) -> MutexGuard<'_, Names> {
        self.0.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All names, in order.
    pub fn list(&self) -> Vec<Named> {
        self.names().by_name.values().cloned().collect()
    }

    /// What the store has under `reference`. A name by digest is also answered by any name of the same
    /// repository that points at that digest.
    pub fn find(&self, reference: &Reference) -> Option<Named> {
        let names = self.names();
        let key = reference.key();
        if let Some(named) = names.by_name.get(&key) {
            return Some(named.clone());
        }
        let digest = key.digest()?;
        let same = |named: &&Named| {
            (named.target == digest || named.manifest == digest)
                && named.name.repository() == key.repository()
        };
        names.by_name.values().find(same).map(|named| Named { name: key.clone(), ..named.clone() })
    }

    /// What a person's text means: a name, or an image id (with or without `sha256:`, at least six digits).
    pub fn resolve(&self, text: &str) -> Result<Named, Error> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if digits.len() >= ID_MIN_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let names = self.names();
            let mut found: Option<&Named> = None;
            for named in names.by_name.values() {
                let fits = |digest: Digest| digest.hex().starts_with(&digits.to_ascii_lowercase());
                if !(fits(named.image_id) || fits(named.manifest) || fits(named.target)) {
                    continue;
                }
                if found.is_some_and(|found| found.image_id != named.image_id) {
                    return Err(Error::invalid(
                        format!("the image id {text}"),
                        "several images begin so; write more digits",
                    ));
                }
                found = found.or(Some(named));
            }
            if let Some(named) = found {
                return Ok(named.clone());
            }
            if text.starts_with("sha256:") || digits.len() == 64 {
                return Err(not_here(text));
            }
        }
        let reference: Reference = text.parse()?;
        self.find(&reference).ok_or_else(|| not_here(&reference.to_string()))
    }

    /// Points a name at an image. It blocks.
    pub(crate) fn put_name(&self, named: Named) -> Result<Named, Error> {
        let mut names = self.names();
        let mut by_name = names.by_name.clone();
        by_name.insert(named.name.clone(), named.clone());
        names.replace(by_name)?;
        Ok(named)
    }

    /// Gives the image that `source` (a name or an id) means the further name `new`.
    pub async fn tag(&self, source: &str, new: &Reference) -> Result<Named, Error> {
        if new.digest().is_some() {
            return Err(Error::invalid(
                new.to_string(),
                "a digest cannot be given, it is what the content has",
            ));
        }
        let (source, new) = (source.to_owned(), new.clone());
        self.blocking(move |store| {
            let found = store.resolve(&source)?;
            let mut lease = store.lease();
            lease.hold_image(found.manifest);
            // It may have been removed and collected between finding and holding.
            store.documents(found.manifest)?;
            let stored_at = store.clock().now();
            store.put_name(Named { name: new, origin: Origin::Tagged, stored_at, ..found })
        })
        .await
    }

    /// Takes a name away and returns what it pointed at. The content stays until it is collected.
    pub async fn remove(&self, reference: &Reference) -> Result<Named, Error> {
        let key = reference.key();
        self.blocking(move |store| {
            let mut names = store.names();
            let mut by_name = names.by_name.clone();
            let removed = by_name.remove(&key).ok_or_else(|| not_here(&key.to_string()))?;
            names.replace(by_name)?;
            Ok(removed)
        })
        .await
    }
}

/// Times as text.
mod rfc3339 {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(time)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn not_here(what: &str) -> Error {
    Error::NotFound {
        what: format!("the image {what}"),
        hint:
            "it is not in this machine's store; \"ondol image list\" shows what is, pull and import add to it"
                .to_owned(),
    }
}

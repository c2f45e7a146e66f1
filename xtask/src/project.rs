//! Where things are.

use std::path::{Path, PathBuf};

/// The repository and the folders that chores write to.
pub struct Project {
    root: PathBuf,
    cache: PathBuf,
}

impl Project {
    /// The checkout that this program was built from, and a cache that outlives it.
    pub fn new(cache: PathBuf) -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = here.parent().expect("xtask lies in the root of the repository").to_owned();
        Self { root, cache }
    }

    /// The root of the repository.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What outlives a `cargo clean`.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Cargo's target folder; its lines of output tell where binaries are.
    pub fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// Where cargo puts binaries of a profile (`debug`, `release`): `.cargo/config.toml` names the target.
    pub fn binary(&self, profile: &str, name: &str) -> PathBuf {
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        self.target().join(triple).join(profile).join(name)
    }
}

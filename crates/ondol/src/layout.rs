//! Where an instance keeps its things. Nothing else in the house knows these paths.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use net::instance::Instance;

/// Sockets of pods lie below the run directory, and their paths are limited.
const NAME_MAX_BYTES: usize = 24;
/// Data of all instances, and what lives until the next reboot.
const DATA_ROOT: &str = "/var/lib/ondol";
const RUN_ROOT: &str = "/run/ondol";

/// The paths of one instance.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Which one.
    pub instance: Instance,
    /// What lasts.
    pub data: PathBuf,
    /// What lives until the next reboot.
    pub run: PathBuf,
}

impl Layout {
    /// Of the instance `name`; `data` if the user has chosen a place.
    pub fn new(name: &str, data: Option<&Path>) -> anyhow::Result<Self> {
        if name.len() > NAME_MAX_BYTES {
            bail!("the instance name {name:?} is too long: at most {NAME_MAX_BYTES} letters");
        }
        let instance = Instance::new(name)?;
        let data = match data {
            Some(data) => std::path::absolute(data).context("--data-dir cannot be used")?,
            None => Path::new(DATA_ROOT).join(name),
        };
        Ok(Self { data, run: Path::new(RUN_ROOT).join(name), instance })
    }

    /// Data folders of all instances that use the common place, and run folders of all.
    pub fn roots() -> [&'static Path; 2] {
        [Path::new(DATA_ROOT), Path::new(RUN_ROOT)]
    }

    /// What the instance remembers of itself.
    pub fn facts(&self) -> PathBuf {
        self.data.join("instance.json")
    }

    /// The log of the background process.
    pub fn log(&self) -> PathBuf {
        self.data.join("ondol.log")
    }

    /// The state of the API.
    pub fn store(&self) -> PathBuf {
        self.data.join("store")
    }

    /// Authority and signing key.
    pub fn keys(&self) -> PathBuf {
        self.data.join("keys")
    }

    /// Kubeconfigs for agents.
    pub fn agents(&self) -> PathBuf {
        self.data.join("agents")
    }

    /// Content of images.
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// Volumes and writable layers of pods.
    pub fn pods(&self) -> PathBuf {
        self.data.join("pods")
    }

    /// Logs of containers.
    pub fn logs(&self) -> PathBuf {
        self.data.join("logs")
    }

    /// The machine's settings before us.
    pub fn network_record(&self) -> PathBuf {
        self.data.join("network.json")
    }

    /// Sockets of pods.
    pub fn sandboxes(&self) -> PathBuf {
        self.run.join("pods")
    }

    /// Where the instance can be asked.
    pub fn admin_socket(&self) -> PathBuf {
        self.run.join("admin.sock")
    }

    /// Held while the instance runs; the content is its process id.
    pub fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    /// The root of cgroups.
    pub fn cgroup_root(&self) -> String {
        format!("/ondol/{}", self.instance)
    }

    /// Name of context, cluster and user in kubeconfigs.
    pub fn context(&self) -> String {
        match self.instance.name() {
            "default" => "ondol".to_owned(),
            name => format!("ondol-{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_the_longest_name_fit() {
        let layout = Layout::new(&"x".repeat(NAME_MAX_BYTES), None).unwrap();
        assert!(layout.sandboxes().as_os_str().len() <= 40);
        assert!(Layout::new(&"x".repeat(NAME_MAX_BYTES + 1), None).is_err());
        assert!(Layout::new("../x", None).is_err());
    }

    #[test]
    fn the_default_instance_has_the_short_context() {
        assert_eq!(Layout::new("default", None).unwrap().context(), "ondol");
        assert_eq!(Layout::new("b", None).unwrap().context(), "ondol-b");
    }
}

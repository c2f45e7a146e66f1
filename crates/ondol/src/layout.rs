//! Where an instance keeps its things. Nothing else in the house knows these paths.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use net::instance::Instance;

/// Sockets of pods lie below the run directory, and their paths are limited.
const NAME_MAX_BYTES: usize = 24;
/// Data of all instances, and what lives until the next reboot.
const DATA_ROOT: &str = "/var/lib/ondol";
const RUN_ROOT: &str = "/run/ondol";
/// All that an instance makes in its data folder.
const DATA_ENTRIES: &[&str] = &[
    "agents",
    "images",
    "instance.json",
    "keys",
    "logs",
    "network.json",
    "ondol.log",
    "ondol.log.old",
    "pods",
    "store",
    ".check",
];
/// What the root of a disk has by itself.
const OF_THE_DISK: &str = "lost+found";

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

    /// Makes the folders of the instance, for root alone. A data folder of somebody else's is left as it is.
    pub fn make(&self) -> anyhow::Result<()> {
        self.refuse_foreign()?;
        for folder in [&self.data, &self.run] {
            let failed = || format!("cannot make {}", folder.display());
            std::fs::create_dir_all(folder).with_context(failed)?;
            std::fs::set_permissions(folder, Permissions::from_mode(0o700)).with_context(failed)?;
        }
        Ok(())
    }

    /// A data folder that no instance has used must be new or empty: a wipe would remove what is in it.
    pub fn refuse_foreign(&self) -> anyhow::Result<()> {
        if self.facts().exists() || !self.data.exists() {
            return Ok(());
        }
        let unreadable = || format!("{} cannot be used as data folder", self.data.display());
        for entry in std::fs::read_dir(&self.data).with_context(unreadable)? {
            let name = entry.with_context(unreadable)?.file_name();
            let ours = name.to_str().is_some_and(|name| DATA_ENTRIES.contains(&name) || name == OF_THE_DISK);
            if !ours {
                bail!(
                    "{} holds {name:?}, which is not Ondol's: choose a new or empty folder with --data-dir",
                    self.data.display()
                );
            }
        }
        Ok(())
    }

    /// Whether the data folder holds nothing of an instance yet.
    pub fn is_new(&self) -> bool {
        self.data_entries().all(|path| !path.exists())
    }

    /// What of the data folder is the instance's own.
    pub fn data_entries(&self) -> impl Iterator<Item = PathBuf> {
        DATA_ENTRIES.iter().map(|name| self.data.join(name))
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

    /// The names of the cluster as they were answered last.
    pub fn names(&self) -> PathBuf {
        self.run.join("names.json")
    }

    /// Whether a process of this instance has run a node since the machine was started.
    pub fn has_run(&self) -> bool {
        self.names().exists() && !self.is_new()
    }

    /// Held while the instance runs; the content is its process id.
    pub fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    /// Held by the command that starts or ends the instance. Beside the run folder, which a wipe removes.
    pub fn turn(&self) -> PathBuf {
        self.run.with_extension("turn")
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
    fn a_folder_with_somebody_elses_files_is_refused_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let layout =
            |name: &str| Layout { run: folder.path().join("run"), ..place(&folder.path().join(name)) };
        fn place(data: &Path) -> Layout {
            Layout::new("t-foreign", Some(data)).unwrap()
        }
        for name in ["mine", "disk"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::set_permissions(folder.path().join(name), Permissions::from_mode(0o755)).unwrap();
        }
        std::fs::write(folder.path().join("mine/precious"), "").unwrap();
        std::fs::create_dir(folder.path().join("disk/lost+found")).unwrap();
        let error = layout("mine").make().unwrap_err();
        assert!(error.to_string().contains("precious"), "{error}");
        let mode = std::fs::metadata(folder.path().join("mine")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        layout("disk").make().unwrap();
        layout("new").make().unwrap();
    }

    #[test]
    fn the_default_instance_has_the_short_context() {
        assert_eq!(Layout::new("default", None).unwrap().context(), "ondol");
        assert_eq!(Layout::new("b", None).unwrap().context(), "ondol-b");
    }
}

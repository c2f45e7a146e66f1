//! Volumes: each volume of a pod becomes a path on the node.
//!
//! To add a type, add its arm in [`Volumes::prepare_one`]; a type without an arm is refused with its name.

pub mod files;
pub mod of_image;
pub mod sub_path;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use api::object::Object;
use api::value::Value;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::pod::environment::{ConfigError, Facts, field, resource};
use crate::pod::quality::units;
use crate::pod::sources::{Data, Missing, Sources};
use files::{File, Files};

/// Permissions of files if the volume does not say.
const FILE_MODE: u32 = 0o644;

/// Why a volume cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Its sources are not there.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {source}")]
    Config {
        /// Its name.
        volume: String,
        /// What is wrong.
        source: ConfigError,
    },
    /// The node's disk refuses.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {source}")]
    Io {
        /// Its name.
        volume: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Its type is not known here.
    #[error("volume \"{volume}\" is of type {kind}, which this node does not support yet")]
    Unsupported {
        /// Its name.
        volume: String,
        /// The field that names its type.
        kind: String,
    },
    /// A token for it cannot be had.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : failed to fetch token: {why}")]
    Token {
        /// Its name.
        volume: String,
        /// Why.
        why: String,
    },
}

impl VolumeError {
    /// The volume that it is about.
    pub fn volume(&self) -> &str {
        match self {
            Self::Config { volume, .. }
            | Self::Io { volume, .. }
            | Self::Unsupported { volume, .. }
            | Self::Token { volume, .. } => volume,
        }
    }
}

/// A token that a projected volume wants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenRequest {
    /// Who it is for; empty for the API server.
    pub audience: String,
    /// How long it is to hold, in seconds.
    pub expiration_seconds: i64,
}

/// The tokens that a pod's volumes want, by volume and path.
pub fn tokens(pod: &core::Pod) -> BTreeMap<(String, String), TokenRequest> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut wanted = BTreeMap::new();
    for volume in volumes {
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for token in sources.filter_map(|source| source.service_account_token.as_ref()) {
            let request = TokenRequest {
                audience: token.audience.clone().unwrap_or_default(),
                expiration_seconds: token.expiration_seconds.unwrap_or(3600),
            };
            wanted.insert((volume.name.clone(), token.path.clone()), request);
        }
    }
    wanted
}

/// The ConfigMaps and Secrets that a pod names anywhere: volumes, variables, pull secrets.
pub fn references(pod: &core::Pod) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    let Some(spec) = &pod.spec else { return (maps, secrets) };
    for volume in spec.volumes.iter().flatten() {
        maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            maps.extend(source.config_map.iter().map(|source| source.name.clone()));
            secrets.extend(source.secret.iter().map(|source| source.name.clone()));
        }
    }
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        for from in container.env_from.iter().flatten() {
            maps.extend(from.config_map_ref.iter().map(|source| source.name.clone()));
            secrets.extend(from.secret_ref.iter().map(|source| source.name.clone()));
        }
        for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            maps.extend(from.config_map_key_ref.iter().map(|source| source.name.clone()));
            secrets.extend(from.secret_key_ref.iter().map(|source| source.name.clone()));
        }
    }
    secrets.extend(spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone()));
    for names in [&mut maps, &mut secrets] {
        names.retain(|name| !name.is_empty());
        names.sort();
        names.dedup();
    }
    (maps, secrets)
}

/// Whether a volume holds files that the node writes: those of ConfigMaps, Secrets, downward fields and tokens.
pub fn is_of_files(pod: &core::Pod, name: &str) -> bool {
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.find(|volume| volume.name == name).is_some_and(|volume| {
        volume.config_map.is_some()
            || volume.secret.is_some()
            || volume.downward_api.is_some()
            || volume.projected.is_some()
    })
}

/// The volumes of one pod.
pub struct Volumes<'a> {
    /// The pod as stored.
    pub object: &'a Object,
    /// The pod as read.
    pub pod: &'a core::Pod,
    /// The pod's directory of volumes.
    pub directory: &'a Path,
    /// Where ConfigMaps and Secrets come from.
    pub sources: &'a dyn Sources,
    /// Tokens, by volume and path.
    pub tokens: &'a BTreeMap<(String, String), String>,
    /// Facts for downward fields.
    pub facts: &'a Facts,
    /// For the names of directories.
    pub now: Timestamp,
}

impl Volumes<'_> {
    /// Makes all volumes, or brings their files up to date, each by itself: those that are there, and why others are
    /// not. Blocking.
    pub fn prepare(&self) -> (BTreeMap<String, PathBuf>, Vec<VolumeError>) {
        let (mut paths, mut errors) = (BTreeMap::new(), Vec::new());
        for volume in self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            match self.prepare_one(volume) {
                Ok(path) => drop(paths.insert(volume.name.clone(), path)),
                Err(error) => errors.push(error),
            }
        }
        (paths, errors)
    }

    fn prepare_one(&self, volume: &core::Volume) -> Result<PathBuf, VolumeError> {
        let path = self.directory.join(&volume.name);
        let io = |source| VolumeError::Io { volume: volume.name.clone(), source };
        let config = |source| VolumeError::Config { volume: volume.name.clone(), source };
        let files = if let Some(empty) = &volume.empty_dir {
            self.empty_dir(empty, &path).map_err(io)?;
            return Ok(path);
        } else if let Some(host) = &volume.host_path {
            return host_path(host).map_err(io);
        } else if let Some(map) = &volume.config_map {
            let data = self.sources.config_map(self.object.namespace(), &map.name);
            self.keys(data, map.items.as_deref(), map.default_mode, map.optional, "ConfigMap", &map.name)
        } else if let Some(secret) = &volume.secret {
            let name = secret.secret_name.as_deref().unwrap_or_default();
            let data = self.sources.secret(self.object.namespace(), name);
            self.keys(data, secret.items.as_deref(), secret.default_mode, secret.optional, "Secret", name)
        } else if let Some(downward) = &volume.downward_api {
            self.downward(downward.items.as_deref(), downward.default_mode)
        } else if let Some(projected) = &volume.projected {
            return self.projected(volume, projected, &path);
        } else {
            return Err(VolumeError::Unsupported { volume: volume.name.clone(), kind: kind(volume) });
        };
        let files = files.map_err(config)?;
        files::write(&path, &files, self.group(), self.now).map_err(io)?;
        Ok(path)
    }

    fn group(&self) -> Option<u32> {
        let security = self.pod.spec.as_ref()?.security_context.as_ref()?;
        security.fs_group.and_then(|group| u32::try_from(group).ok())
    }

    /// Makes it in one step, so that an agent that is killed meanwhile leaves none that is half made.
    fn empty_dir(&self, empty: &core::EmptyDirVolumeSource, path: &Path) -> io::Result<()> {
        let group = self.group();
        let mode = if group.is_some() { 0o2777 } else { 0o777 };
        if empty.medium.as_deref() == Some("Memory") {
            std::fs::create_dir_all(path)?;
            // After the machine was started anew the folder is there, and what was mounted on it is not.
            if is_mounted(path)? {
                return Ok(());
            }
            let mut options = format!("mode={mode:o},gid={}", group.unwrap_or(0));
            if let Some(bytes) = empty.size_limit.as_ref().map(units).filter(|bytes| *bytes > 0) {
                options.push_str(&format!(",size={bytes}"));
            }
            let options = std::ffi::CString::new(options)?;
            return Ok(mount("tmpfs", path, "tmpfs", MountFlags::empty(), options.as_c_str())?);
        }
        if path.exists() {
            return Ok(());
        }
        // No volume has a name with a dot.
        let draft = path.with_extension("draft");
        std::fs::create_dir_all(&draft)?;
        chown(&draft, None, group)?;
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(mode))?;
        std::fs::rename(draft, path)
    }

    fn keys(
        &self,
        data: Result<Data, Missing>,
        items: Option<&[core::KeyToPath]>,
        mode: Option<i32>,
        optional: Option<bool>,
        kind: &'static str,
        name: &str,
    ) -> Result<Files, ConfigError> {
        let data = match data {
            Err(Missing::Object { .. }) if optional == Some(true) => return Ok(Files::new()),
            other => other?,
        };
        let mode = permissions(mode, FILE_MODE);
        let file = |content: &[u8], mode| File { content: content.to_vec(), mode, owner: None };
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            return Ok(data.iter().map(|(key, content)| (key.clone(), file(content, mode))).collect());
        };
        let mut files = Files::new();
        for item in items {
            match data.get(&item.key) {
                Some(content) => {
                    files.insert(item.path.clone(), file(content, permissions(item.mode, mode)));
                }
                None if optional == Some(true) => {}
                None => return Err(Missing::key(kind, self.object.namespace(), name, &item.key).into()),
            }
        }
        Ok(files)
    }

    fn downward(
        &self,
        items: Option<&[core::DownwardAPIVolumeFile]>,
        mode: Option<i32>,
    ) -> Result<Files, ConfigError> {
        let mut files = Files::new();
        for item in items.into_iter().flatten() {
            let content = if let Some(reference) = &item.field_ref {
                field(self.object, self.pod, &reference.field_path, self.facts)?
            } else if let Some(reference) = &item.resource_field_ref {
                let divisor = reference.divisor.as_ref().map(|quantity| quantity.0.as_str());
                let named = reference.container_name.as_deref();
                resource(self.pod, None, named, &reference.resource, divisor, self.facts)?
            } else {
                return Err(ConfigError::Field(format!(
                    "item {} names neither field nor resource",
                    item.path
                )));
            };
            let mode = permissions(item.mode, permissions(mode, FILE_MODE));
            files.insert(item.path.clone(), File { content: content.into_bytes(), mode, owner: None });
        }
        Ok(files)
    }

    fn projected(
        &self,
        volume: &core::Volume,
        projected: &core::ProjectedVolumeSource,
        path: &Path,
    ) -> Result<PathBuf, VolumeError> {
        let config = |source| VolumeError::Config { volume: volume.name.clone(), source };
        let mode = projected.default_mode;
        let mut files = Files::new();
        for source in projected.sources.iter().flatten() {
            let some = if let Some(map) = &source.config_map {
                let data = self.sources.config_map(self.object.namespace(), &map.name);
                self.keys(data, map.items.as_deref(), mode, map.optional, "ConfigMap", &map.name)
                    .map_err(config)?
            } else if let Some(secret) = &source.secret {
                let data = self.sources.secret(self.object.namespace(), &secret.name);
                let items = secret.items.as_deref();
                self.keys(data, items, mode, secret.optional, "Secret", &secret.name).map_err(config)?
            } else if let Some(downward) = &source.downward_api {
                self.downward(downward.items.as_deref(), mode).map_err(config)?
            } else if let Some(token) = &source.service_account_token {
                self.token(volume, &token.path, mode)?
            } else {
                let kind = "projected.sources other than configMap, secret, downwardAPI, serviceAccountToken";
                return Err(VolumeError::Unsupported { volume: volume.name.clone(), kind: kind.to_owned() });
            };
            files.extend(some);
        }
        files::write(path, &files, self.group(), self.now)
            .map_err(|source| VolumeError::Io { volume: volume.name.clone(), source })?;
        Ok(path.to_owned())
    }

    fn token(&self, volume: &core::Volume, path: &str, mode: Option<i32>) -> Result<Files, VolumeError> {
        let key = (volume.name.clone(), path.to_owned());
        let token = self.tokens.get(&key).ok_or_else(|| VolumeError::Token {
            volume: volume.name.clone(),
            why: "the API server has not given one yet".to_owned(),
        })?;
        // With one user for the whole pod only that user reads it, as upstream does (KEP-2451), and with a group of the
        // volumes that group, too, which gets its right when the file is written.
        let spec = self.pod.spec.as_ref();
        let user =
            spec.and_then(|spec| spec.security_context.as_ref()).and_then(|security| security.run_as_user);
        let owner = user.and_then(|user| u32::try_from(user).ok());
        let mode = match (self.group(), owner) {
            (None, None) => permissions(mode, FILE_MODE),
            _ => 0o600,
        };
        let file = File { content: token.clone().into_bytes(), mode, owner };
        Ok(BTreeMap::from([(path.to_owned(), file)]))
    }
}

fn permissions(given: Option<i32>, default: u32) -> u32 {
    given.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default) & 0o7777
}

/// The field of a volume that names its type.
fn kind(volume: &core::Volume) -> String {
    let json = serde_json::to_vec(volume).ok().and_then(|json| api::value::parse(&json).ok());
    let map = json.as_ref().and_then(Value::as_object);
    let kind = map.and_then(|map| map.keys().find(|key| *key != "name")).map(ToString::to_string);
    kind.unwrap_or("unknown".to_owned())
}

fn host_path(host: &core::HostPathVolumeSource) -> io::Result<PathBuf> {
    let path = PathBuf::from(&host.path);
    let kind = host.type_.as_deref().unwrap_or_default();
    let wrong = |what: &str| {
        let why = format!("hostPath type check failed: {} is not {what}", path.display());
        Err(io::Error::new(io::ErrorKind::InvalidInput, why))
    };
    match kind {
        "DirectoryOrCreate" if !path.exists() => {
            std::fs::create_dir_all(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        }
        "FileOrCreate" if !path.exists() => {
            std::fs::OpenOptions::new().create_new(true).write(true).open(&path)?;
        }
        _ => {}
    }
    let file_type = match std::fs::metadata(&path) {
        Ok(metadata) => metadata.mode() & 0o170_000,
        Err(_) if kind.is_empty() => {
            // Without a type upstream checks nothing and the runtime makes a directory.
            std::fs::create_dir_all(&path)?;
            0o040_000
        }
        Err(_) => 0,
    };
    match (kind, file_type) {
        ("", _)
        | ("Directory" | "DirectoryOrCreate", 0o040_000)
        | ("File" | "FileOrCreate", 0o100_000)
        | ("Socket", 0o140_000)
        | ("CharDevice", 0o020_000)
        | ("BlockDevice", 0o060_000) => Ok(path),
        ("Directory" | "DirectoryOrCreate", _) => wrong("a directory"),
        ("File" | "FileOrCreate", _) => wrong("a file"),
        ("Socket", _) => wrong("a socket"),
        ("CharDevice", _) => wrong("a character device"),
        ("BlockDevice", _) => wrong("a block device"),
        (other, _) => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("unknown hostPath type {other}")))
        }
    }
}

/// Removes a pod's directory with its volumes; what is mounted below it is unmounted first. Blocking.
pub fn remove(directory: &Path) -> io::Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let targets = base::mounts::points(&mounts);
    let mut below: Vec<PathBuf> = targets.filter(|target| target.starts_with(directory)).collect();
    below.sort_by_key(|target| std::cmp::Reverse(target.as_os_str().len()));
    for target in below {
        unmount(&target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    match base::tree::remove(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a folder is the root of a file system of its own.
fn is_mounted(folder: &Path) -> io::Result<bool> {
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|metadata| metadata.dev());
    Ok(device(folder)? != device(&folder.join(".."))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ConfigMaps of any name but `gone`.
    struct Maps;

    impl Sources for Maps {
        fn config_map(&self, _: &str, name: &str) -> Result<Data, Missing> {
            match name {
                "gone" => Err(Missing::Object { kind: "ConfigMap", name: name.to_owned() }),
                _ => Ok(Data::from([("key".to_owned(), name.as_bytes().to_vec())])),
            }
        }

        fn config_map_text(&self, namespace: &str, name: &str) -> Result<Data, Missing> {
            self.config_map(namespace, name)
        }

        fn secret(&self, _: &str, name: &str) -> Result<Data, Missing> {
            Err(Missing::Object { kind: "Secret", name: name.to_owned() })
        }
    }

    #[test]
    fn a_folder_that_lost_its_mount_is_not_taken_for_one() {
        assert!(is_mounted(Path::new("/proc")).unwrap());
        assert!(!is_mounted(Path::new("/proc/self")).unwrap());
        assert!(is_mounted(Path::new("/nowhere/at/all")).is_err());
    }

    #[test]
    fn a_volume_that_cannot_be_made_holds_up_no_other() {
        let tree = serde_json::json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"containers": [], "volumes": [
            {"name": "first", "configMap": {"name": "gone"}}, {"name": "last", "configMap": {"name": "here"}}
        ]}});
        let object =
            Object::from_tree(&api::value::parse(&serde_json::to_vec(&tree).unwrap()).unwrap()).unwrap();
        let pod: core::Pod = serde_json::from_value(tree).unwrap();
        let directory = std::env::temp_dir().join(format!("ondt-volumes-{}", std::process::id()));
        let facts = Facts { host_ips: Vec::new(), pod_ips: Vec::new(), allocatable: BTreeMap::new() };
        let volumes = Volumes {
            object: &object,
            pod: &pod,
            directory: &directory,
            sources: &Maps,
            tokens: &BTreeMap::new(),
            facts: &facts,
            now: Timestamp::UNIX_EPOCH,
        };
        let (paths, errors) = volumes.prepare();
        let content = std::fs::read_to_string(directory.join("last/key"));
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(content.unwrap(), "here");
        assert_eq!(paths.into_keys().collect::<Vec<_>>(), ["last"]);
        assert_eq!(errors.iter().map(VolumeError::volume).collect::<Vec<_>>(), ["first"]);
    }
}

//! What a pod may keep on the node's disk: limits of emptyDirs and of `ephemeral-storage`, as kubelet keeps them. A
//! pod that has more is evicted.
//!
//! The file system does not tell who fills it, so it is looked at, as upstream does. Memory-backed volumes have limits
//! of the kernel's own and are not looked at here.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use rustix::fs::FileType;

use crate::pod::quality::units;
use crate::pod::worker::Worker;

/// How often the disk is looked at (kubelet's interval of housekeeping).
pub const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Reason of the status and of the event.
pub const EVICTED: &str = "Evicted";
/// Time for the containers of a pod that is evicted.
pub const EVICTION_GRACE: Duration = Duration::from_secs(1);
const STORAGE: &str = "ephemeral-storage";
/// `stat` counts blocks of this size, whatever the file system's own.
const BLOCK_BYTES: u64 = 512;

/// How often a folder is looked at, if it changes under the eyes.
const LOOKS: usize = 3;

/// A limit in bytes, and as the user wrote it.
type Limit = (i64, String);

/// What a pod may keep.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Limits {
    volumes: BTreeMap<String, Limit>,
    containers: BTreeMap<String, Limit>,
    pod_bytes: Option<i64>,
}

/// What it has, in bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Usage {
    volumes: BTreeMap<String, u64>,
    containers: BTreeMap<String, u64>,
}

/// Where it is.
struct Places {
    volumes: BTreeMap<String, PathBuf>,
    /// The container's directory and that of its logs.
    containers: BTreeMap<String, [PathBuf; 2]>,
}

impl Limits {
    /// Those of a pod; `None` if there is nothing to look at.
    pub fn of(pod: &core::Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let limit = |text: &Text| Some((units(text), text.0.clone())).filter(|(bytes, _)| *bytes > 0);
        let mut limits = Self::default();
        for (volume, empty) in disk_volumes(spec) {
            if let Some(limit) = empty.size_limit.as_ref().and_then(limit) {
                limits.volumes.insert(volume.name.clone(), limit);
            }
        }
        for container in lasting(spec) {
            let of_container = container.resources.as_ref().and_then(|all| all.limits.as_ref()?.get(STORAGE));
            if let Some(limit) = of_container.and_then(limit) {
                limits.pod_bytes = Some(limits.pod_bytes.unwrap_or_default().saturating_add(limit.0));
                limits.containers.insert(container.name.clone(), limit);
            }
        }
        (limits != Self::default()).then_some(limits)
    }

    /// Why the pod must go, in kubelet's words and order.
    pub fn verdict(&self, usage: &Usage) -> Option<String> {
        let over = |used: Option<&u64>, limit: i64| used.is_some_and(|used| *used > limit.unsigned_abs());
        for (name, (bytes, text)) in &self.volumes {
            if over(usage.volumes.get(name), *bytes) {
                return Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit {text:?}. "));
            }
        }
        let total = usage.volumes.values().chain(usage.containers.values()).sum::<u64>();
        if let Some(limit) = self.pod_bytes.filter(|limit| over(Some(&total), *limit)) {
            let text = match self.containers.values().next() {
                Some((_, text)) if self.containers.len() == 1 => text.clone(),
                _ => limit.to_string(),
            };
            return Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {text}. "
            ));
        }
        let exceeding =
            self.containers.iter().find(|(name, (bytes, _))| over(usage.containers.get(*name), *bytes));
        let (name, (_, text)) = exceeding?;
        Some(format!("Container {name} exceeded its local ephemeral storage limit {text:?}. "))
    }
}

/// The emptyDirs that lie on the disk.
fn disk_volumes(spec: &core::PodSpec) -> impl Iterator<Item = (&core::Volume, &core::EmptyDirVolumeSource)> {
    let volumes = spec.volumes.iter().flatten();
    volumes
        .filter_map(|volume| Some((volume, volume.empty_dir.as_ref()?)))
        .filter(|(_, empty)| empty.medium.as_deref().is_none_or(str::is_empty))
}

/// Mains and sidecars.
fn lasting(spec: &core::PodSpec) -> impl Iterator<Item = &core::Container> {
    let sidecars = spec.init_containers.iter().flatten();
    spec.containers.iter().chain(sidecars.filter(|init| init.restart_policy.as_deref() == Some("Always")))
}

impl Worker {
    /// Looks at the disk until the pod is over or exceeds a limit; then the pod fails.
    pub(super) async fn watch_disk(self: Arc<Self>, limits: Limits) {
        let clock = &self.context.clock;
        while self.context.stop.or(clock.sleep(LOOK_INTERVAL)).await.is_some() {
            if self.live().dismantled {
                return;
            }
            let places = self.places();
            let Ok(usage) = tokio::task::spawn_blocking(move || measure(&places)).await else { return };
            let Some(message) = limits.verdict(&usage) else { continue };
            self.note(None, true, EVICTED, message.as_str());
            self.change(|live| live.failed = Some((EVICTED.to_owned(), message)));
            return;
        }
    }

    fn places(&self) -> Places {
        let desired = self.desired();
        let Some(spec) = &desired.pod.spec else {
            return Places { volumes: BTreeMap::new(), containers: BTreeMap::new() };
        };
        let directory = self.directory();
        let volumes = disk_volumes(spec)
            .map(|(volume, _)| (volume.name.clone(), directory.join("volumes").join(&volume.name)));
        let containers =
            spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|container| {
                let logs = self.log_path(&desired, &container.name, 0);
                let logs = logs.parent().map(Path::to_owned).unwrap_or_default();
                (container.name.clone(), [directory.join("containers").join(&container.name), logs])
            });
        Places { volumes: volumes.collect(), containers: containers.collect() }
    }
}

/// Blocking.
fn measure(places: &Places) -> Usage {
    let volumes = places.volumes.iter().map(|(name, path)| (name.clone(), size(path)));
    let containers = places
        .containers
        .iter()
        .map(|(name, paths)| (name.clone(), paths.iter().map(|path| size(path)).sum()));
    Usage { volumes: volumes.collect(), containers: containers.collect() }
}

/// Bytes on the disk below `root`, each file once, and nothing of other file systems. What vanishes meanwhile has none.
/// A container that moves its folders about to hide them is looked at several times, and the most that is found counts.
fn size(root: &Path) -> u64 {
    let Ok(top) = std::fs::symlink_metadata(root) else { return 0 };
    let mut most = 0;
    for _ in 0..LOOKS {
        let (bytes, whole) = look(root, &top);
        most = bytes.max(most);
        if whole {
            break;
        }
    }
    most
}

/// What is found in one look, and whether that is all.
fn look(root: &Path, top: &std::fs::Metadata) -> (u64, bool) {
    let (mut bytes, mut seen) = (top.blocks() * BLOCK_BYTES, BTreeSet::new());
    let walked = base::tree::walk(root, |found| {
        let is_folder = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        if found.st_dev != top.dev() || (found.st_nlink > 1 && !is_folder && !seen.insert(found.st_ino)) {
            return false;
        }
        bytes += found.st_blocks.unsigned_abs() * BLOCK_BYTES;
        true
    });
    (bytes, walked.unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(spec: serde_json::Value) -> Option<Limits> {
        let pod = serde_json::from_value(serde_json::json!({"metadata": {}, "spec": spec}));
        Limits::of(&pod.expect("the test's pod is right"))
    }

    fn usage(volumes: &[(&str, u64)], containers: &[(&str, u64)]) -> Usage {
        let owned =
            |all: &[(&str, u64)]| all.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect();
        Usage { volumes: owned(volumes), containers: owned(containers) }
    }

    #[test]
    fn who_exceeds_what_is_said_as_upstream_says_it() {
        let all = limits(serde_json::json!({
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Ki"}}, {"name": "free", "emptyDir": {}}],
            "containers": [
                {"name": "a", "resources": {"limits": {"ephemeral-storage": "4Ki"}}},
                {"name": "b", "resources": {"limits": {"ephemeral-storage": "2Ki"}}}
            ]
        }));
        let all = all.expect("there are limits");
        let verdict =
            |volumes: &[(&str, u64)], containers: &[(&str, u64)]| all.verdict(&usage(volumes, containers));
        assert_eq!(verdict(&[("v", 1024), ("free", 1000)], &[("a", 1024), ("b", 2048)]), None);
        assert_eq!(
            verdict(&[("v", 1025)], &[]).as_deref(),
            Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\". ")
        );
        assert_eq!(
            verdict(&[("free", 6145)], &[]).as_deref(),
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 6144. ")
        );
        assert_eq!(
            verdict(&[], &[("b", 2049)]).as_deref(),
            Some("Container b exceeded its local ephemeral storage limit \"2Ki\". ")
        );
    }

    #[test]
    fn pods_without_limits_are_not_looked_at() {
        let memory = serde_json::json!([{"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Ki"}}]);
        assert_eq!(limits(serde_json::json!({"containers": [{"name": "a"}], "volumes": memory})), None);
    }

    #[test]
    fn a_file_with_two_names_is_counted_once() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("below")).expect("made");
        let empty = size(folder.path());
        std::fs::write(folder.path().join("below/file"), vec![1; 100_000]).expect("written");
        std::fs::hard_link(folder.path().join("below/file"), folder.path().join("other")).expect("linked");
        std::os::unix::fs::symlink("/usr", folder.path().join("link")).expect("linked");
        let grown = size(folder.path()) - empty;
        assert!((100_000..200_000).contains(&grown), "{grown}");
        assert_eq!(size(&folder.path().join("gone")), 0);
    }

    #[test]
    fn what_lies_deeper_than_any_path_reaches_is_counted() {
        use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
        let folder = tempfile::tempdir().expect("a folder");
        let below = folder.path().join("below");
        std::fs::create_dir(&below).expect("made");
        let mut at = openat(CWD, &below, OFlags::DIRECTORY, Mode::empty()).expect("opened");
        let name = "d".repeat(200);
        for _ in 0..40 {
            mkdirat(&at, &*name, Mode::RWXU).expect("made");
            at = openat(&at, &*name, OFlags::DIRECTORY, Mode::empty()).expect("opened");
        }
        let empty = size(folder.path());
        let file = openat(&at, "file", OFlags::WRONLY | OFlags::CREATE, Mode::RUSR).expect("made");
        std::io::Write::write_all(&mut std::fs::File::from(file), &vec![1; 100_000]).expect("written");
        let grown = size(folder.path()) - empty;
        base::tree::remove(&below).expect("removed");
        assert!((100_000..200_000).contains(&grown), "{grown}");
    }
}

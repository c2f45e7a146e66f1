//! What to write where: pure, for both versions.

use std::path::{Path, PathBuf};

use crate::cgroup::layout::Layout;
use crate::protocol;
use crate::spec::{Device, Resources};

/// What runc's users know as the period when none is given.
const DEFAULT_PERIOD_US: u64 = 100_000;

/// One file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The file.
    pub file: PathBuf,
    /// Its content.
    pub value: String,
    /// The machine may lack the file (swap accounting, an old kernel): then the limit is not needed either.
    pub optional: bool,
}

/// The directory of `group` in each tree that it exists in.
pub fn directories(layout: &Layout, group: &str) -> Vec<PathBuf> {
    layout.pod_mounts().into_iter().map(|mount| mount.join(group)).collect()
}

/// On version 2: the writes that hand the controllers down from the root to `group`'s children.
pub fn delegation(layout: &Layout, group: &str) -> Vec<Write> {
    let Layout::V2 { mount } = layout else { return Vec::new() };
    let mut directory = mount.clone();
    let mut writes = vec![subtree_control(&directory)];
    for part in group.split('/').filter(|part| !part.is_empty()) {
        directory.push(part);
        writes.push(subtree_control(&directory));
    }
    writes.into_iter().flatten().collect()
}

/// One write a controller: the kernel refuses all of a line if one of them is missing.
fn subtree_control(directory: &Path) -> Vec<Write> {
    let file = directory.join("cgroup.subtree_control");
    ["cpu", "memory", "pids"]
        .map(|controller| Write { file: file.clone(), value: format!("+{controller}"), optional: true })
        .into()
}

/// The limits of `group`. `whole` kills all of a group's processes together when memory runs out (version 2).
pub fn limits(layout: &Layout, group: &str, resources: &Resources, whole: bool) -> Vec<Write> {
    match layout {
        Layout::V1 { .. } => limits_v1(layout, group, resources),
        Layout::V2 { mount } => limits_v2(&mount.join(group), resources, whole),
    }
}

fn limits_v1(layout: &Layout, group: &str, resources: &Resources) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut put = |controller: &str, file: &str, value: String, optional: bool| {
        if let Some(mount) = layout.mount_of(controller) {
            writes.push(Write { file: mount.join(group).join(file), value, optional });
        }
    };
    if let Some(shares) = resources.cpu_shares {
        put("cpu", "cpu.shares", shares.clamp(2, 262_144).to_string(), false);
    }
    if let Some(quota) = resources.cpu_quota_us {
        put("cpu", "cpu.cfs_period_us", period(resources).to_string(), false);
        put("cpu", "cpu.cfs_quota_us", quota.to_string(), false);
    }
    if let Some(bytes) = resources.memory_bytes {
        put("memory", "memory.limit_in_bytes", bytes.to_string(), false);
        // Memory and swap together, so that no swap is given on top. Absent without swap accounting.
        put("memory", "memory.memsw.limit_in_bytes", bytes.to_string(), true);
    }
    if let Some(pids) = resources.pids {
        put("pids", "pids.max", pids.to_string(), false);
    }
    writes
}

fn limits_v2(directory: &Path, resources: &Resources, whole: bool) -> Vec<Write> {
    let write = |file: &str, value: String, optional| Write { file: directory.join(file), value, optional };
    let mut writes = Vec::new();
    if let Some(shares) = resources.cpu_shares {
        writes.push(write("cpu.weight", weight(shares).to_string(), false));
    }
    if let Some(quota) = resources.cpu_quota_us {
        writes.push(write("cpu.max", format!("{quota} {}", period(resources)), false));
    }
    if let Some(bytes) = resources.memory_bytes {
        writes.push(write("memory.max", bytes.to_string(), false));
        writes.push(write("memory.swap.max", "0".to_owned(), true));
    }
    if whole {
        writes.push(write("memory.oom.group", "1".to_owned(), true));
    }
    if let Some(pids) = resources.pids {
        writes.push(write("pids.max", pids.to_string(), false));
    }
    writes
}

fn period(resources: &Resources) -> u64 {
    resources.cpu_period_us.unwrap_or(DEFAULT_PERIOD_US)
}

/// Shares (2 to 262,144) onto weights (1 to 10,000), linearly, as KEP-2254 lays down.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// On version 1: forbid all devices, then allow `devices` (nothing is written for `None`: all are allowed).
pub fn devices(layout: &Layout, group: &str, devices: Option<&[Device]>) -> Vec<Write> {
    let (Layout::V1 { .. }, Some(mount), Some(devices)) = (layout, layout.mount_of("devices"), devices)
    else {
        return Vec::new();
    };
    let directory = mount.join(group);
    let deny = Write { file: directory.join("devices.deny"), value: "a".to_owned(), optional: false };
    // Making a node is harmless where it cannot be opened, and archives hold nodes.
    let nodes = ["b *:* m", "c *:* m"].map(str::to_owned);
    let allow = nodes.into_iter().chain(devices.iter().map(rule));
    let allow = allow.map(|value| Write { file: directory.join("devices.allow"), value, optional: false });
    std::iter::once(deny).chain(allow).collect()
}

fn rule(device: &Device) -> String {
    let kind = if device.block { 'b' } else { 'c' };
    let minor = if device.minor == u32::MAX { "*".to_owned() } else { device.minor.to_string() };
    format!("{kind} {}:{minor} {}", device.major, device.access)
}

/// What the pod process has to know of a container's `group`.
pub fn placement(layout: &Layout, group: &str, writable: bool) -> protocol::Cgroup {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let unified = layout.unified().map(|mount| mount.join(group));
    let procs = |directory: &Path| text(directory.join("cgroup.procs"));
    let oom = match layout {
        Layout::V1 { .. } => {
            layout.mount_of("memory").map(|mount| mount.join(group).join("memory.oom_control"))
        }
        Layout::V2 { mount } => Some(mount.join(group).join("memory.events")),
    };
    let limiting: Vec<PathBuf> = layout.limiting().map(|hierarchy| hierarchy.mount.join(group)).collect();
    let list = unified.clone().or_else(|| limiting.first().cloned());
    protocol::Cgroup {
        into: unified.clone().map(text).unwrap_or_default(),
        procs_files: limiting.iter().map(|directory| procs(directory)).collect(),
        kill_file: unified.map(|directory| text(directory.join("cgroup.kill"))).unwrap_or_default(),
        list_file: list.map(|directory| procs(&directory)).unwrap_or_default(),
        oom_file: oom.map(text).unwrap_or_default(),
        mounts: mounts(layout),
        writable,
    }
}

fn mounts(layout: &Layout) -> Vec<protocol::CgroupMount> {
    let folder = |mount: &Path| mount.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match layout {
        Layout::V1 { unified, .. } => {
            let controllers = layout.limiting().map(|hierarchy| protocol::CgroupMount {
                folder: folder(&hierarchy.mount),
                unified: false,
                options: hierarchy.controllers.clone(),
            });
            let unified = unified.iter().map(|mount| protocol::CgroupMount {
                folder: folder(mount),
                unified: true,
                options: Vec::new(),
            });
            controllers.chain(unified).collect()
        }
        Layout::V2 { .. } => vec![protocol::CgroupMount { unified: true, ..Default::default() }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::layout::Hierarchy;

    fn v1() -> Layout {
        let hierarchy = |names: &[&str]| Hierarchy {
            controllers: names.iter().map(ToString::to_string).collect(),
            mount: PathBuf::from("/c").join(names.join(",")),
        };
        Layout::V1 {
            hierarchies: vec![
                hierarchy(&["cpu", "cpuacct"]),
                hierarchy(&["memory"]),
                hierarchy(&["pids"]),
                hierarchy(&["devices"]),
            ],
            unified: Some("/c/unified".into()),
        }
    }

    fn v2() -> Layout {
        Layout::V2 { mount: "/c".into() }
    }

    fn some_limits() -> Resources {
        Resources {
            cpu_shares: Some(1024),
            cpu_quota_us: Some(50_000),
            cpu_period_us: None,
            memory_bytes: Some(64 << 20),
            pids: Some(100),
            huge_pages: Vec::new(),
        }
    }

    fn shown(writes: Vec<Write>) -> Vec<String> {
        let line = |write: Write| {
            format!("{}{} {}", write.file.display(), if write.optional { "?" } else { "" }, write.value)
        };
        writes.into_iter().map(line).collect()
    }

    #[test]
    fn limits_of_version_1() {
        assert_eq!(
            shown(limits(&v1(), "o/p", &some_limits(), true)),
            [
                "/c/cpu,cpuacct/o/p/cpu.shares 1024",
                "/c/cpu,cpuacct/o/p/cpu.cfs_period_us 100000",
                "/c/cpu,cpuacct/o/p/cpu.cfs_quota_us 50000",
                "/c/memory/o/p/memory.limit_in_bytes 67108864",
                "/c/memory/o/p/memory.memsw.limit_in_bytes? 67108864",
                "/c/pids/o/p/pids.max 100",
            ]
        );
    }

    #[test]
    fn limits_of_version_2() {
        assert_eq!(
            shown(limits(&v2(), "o/p", &some_limits(), true)),
            [
                "/c/o/p/cpu.weight 39",
                "/c/o/p/cpu.max 50000 100000",
                "/c/o/p/memory.max 67108864",
                "/c/o/p/memory.swap.max? 0",
                "/c/o/p/memory.oom.group? 1",
                "/c/o/p/pids.max 100",
            ]
        );
    }

    #[test]
    fn nothing_asked_for_is_nothing_written() {
        assert!(limits(&v1(), "o", &Resources::default(), false).is_empty());
        assert!(limits(&v2(), "o", &Resources::default(), false).is_empty());
        assert!(devices(&v1(), "o", None).is_empty());
    }

    #[test]
    fn weights_keep_their_ends() {
        assert_eq!(
            [weight(0), weight(2), weight(1024), weight(262_144), weight(u64::MAX)],
            [1, 1, 39, 10_000, 10_000]
        );
    }

    #[test]
    fn controllers_are_handed_down_from_the_root_of_version_2() {
        let lines = shown(delegation(&v2(), "o/pods"));
        assert_eq!(lines.len(), 9);
        assert_eq!(lines[0], "/c/cgroup.subtree_control? +cpu");
        assert_eq!(lines[8], "/c/o/pods/cgroup.subtree_control? +pids");
        assert!(delegation(&v1(), "o").is_empty());
    }

    #[test]
    fn version_1_forbids_devices_before_it_allows_some() {
        let null = Device {
            path: "/dev/null".into(),
            block: false,
            major: 1,
            minor: 3,
            mode: 0o666,
            uid: 0,
            gid: 0,
            access: "rwm".into(),
        };
        let terminals = Device { major: 136, minor: u32::MAX, ..null.clone() };
        assert_eq!(
            shown(devices(&v1(), "o", Some(&[null, terminals]))),
            [
                "/c/devices/o/devices.deny a",
                "/c/devices/o/devices.allow b *:* m",
                "/c/devices/o/devices.allow c *:* m",
                "/c/devices/o/devices.allow c 1:3 rwm",
                "/c/devices/o/devices.allow c 136:* rwm",
            ]
        );
    }

    #[test]
    fn a_hybrid_machine_is_entered_in_both_trees() {
        let placement = placement(&v1(), "o/c", false);
        assert_eq!(placement.into, "/c/unified/o/c");
        assert_eq!(placement.procs_files.len(), 4);
        assert_eq!(placement.kill_file, "/c/unified/o/c/cgroup.kill");
        assert_eq!(placement.oom_file, "/c/memory/o/c/memory.oom_control");
        assert_eq!(placement.mounts.len(), 5);
    }

    #[test]
    fn version_2_is_entered_by_birth_alone() {
        let placement = placement(&v2(), "o/c", false);
        assert!(placement.procs_files.is_empty());
        assert_eq!(
            (placement.into.as_str(), placement.oom_file.as_str()),
            ("/c/o/c", "/c/o/c/memory.events")
        );
    }
}

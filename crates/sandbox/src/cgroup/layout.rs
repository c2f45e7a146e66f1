//! Which hierarchies the machine has mounted, and where.

use std::path::{Path, PathBuf};

/// The controllers that containers are put into on version 1.
const WANTED: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "devices"];

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Controllers in hierarchies of their own, perhaps with an empty unified tree beside them.
    V1 {
        /// All of them, named ones too.
        hierarchies: Vec<Hierarchy>,
        /// The unified tree of a hybrid machine.
        unified: Option<PathBuf>,
    },
    /// One tree for all.
    V2 {
        /// Where.
        mount: PathBuf,
    },
}

/// One tree of version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its controllers, or `name=...`.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
}

impl Layout {
    /// Reads `/proc/self/mountinfo`; `None` if no usable cgroup is mounted.
    pub fn parse(mountinfo: &str) -> Option<Self> {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        let mut unified = None;
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let (Some(mount), mut right) = (left.split(' ').nth(4), right.split(' ')) else { continue };
            let mount = PathBuf::from(mount);
            match (right.next(), right.nth(1)) {
                (Some("cgroup2"), _) if unified.is_none() => unified = Some(mount),
                (Some("cgroup"), Some(options)) => {
                    let controllers = controllers(options);
                    if !controllers.is_empty()
                        && hierarchies.iter().all(|known| known.controllers != controllers)
                    {
                        hierarchies.push(Hierarchy { controllers, mount });
                    }
                }
                _ => {}
            }
        }
        if hierarchies.iter().any(|hierarchy| hierarchy.has("memory") || hierarchy.has("pids")) {
            return Some(Self::V1 { hierarchies, unified });
        }
        unified.map(|mount| Self::V2 { mount })
    }

    /// The hierarchies that carry limits of containers.
    pub fn limiting(&self) -> impl Iterator<Item = &Hierarchy> {
        let all: &[Hierarchy] = match self {
            Self::V1 { hierarchies, .. } => hierarchies,
            Self::V2 { .. } => &[],
        };
        all.iter().filter(|hierarchy| WANTED.iter().any(|wanted| hierarchy.has(wanted)))
    }

    /// The unified tree, on either version.
    pub fn unified(&self) -> Option<&Path> {
        match self {
            Self::V1 { unified, .. } => unified.as_deref(),
            Self::V2 { mount } => Some(mount),
        }
    }

    /// Where `controller` keeps its files.
    pub fn mount_of(&self, controller: &str) -> Option<&Path> {
        match self {
            Self::V1 { hierarchies, .. } => hierarchies
                .iter()
                .find(|hierarchy| hierarchy.has(controller))
                .map(|found| found.mount.as_path()),
            Self::V2 { mount } => Some(mount),
        }
    }

    /// The mounts that a pod's groups exist in.
    pub fn pod_mounts(&self) -> Vec<&Path> {
        self.limiting().map(|hierarchy| hierarchy.mount.as_path()).chain(self.unified()).collect()
    }

    /// The trees by which a service manager knows whose a process is: those with a name, and the unified one.
    pub fn managing(&self) -> Vec<&Path> {
        let all: &[Hierarchy] = match self {
            Self::V1 { hierarchies, .. } => hierarchies,
            Self::V2 { .. } => &[],
        };
        let is_named = |hierarchy: &&Hierarchy| hierarchy.controllers.iter().any(|c| c.starts_with("name="));
        let named = all.iter().filter(is_named);
        named.map(|hierarchy| hierarchy.mount.as_path()).chain(self.unified()).collect()
    }

    /// Every mount: the pod process leaves its starter's groups in all of them, so that whatever manages services
    /// counts it as none of theirs.
    pub fn all_mounts(&self) -> Vec<&Path> {
        let all: &[Hierarchy] = match self {
            Self::V1 { hierarchies, .. } => hierarchies,
            Self::V2 { .. } => &[],
        };
        // A new group of `cpuset` has no processors, so that nothing can enter it: it is left alone.
        let usable = all.iter().filter(|hierarchy| !hierarchy.has("cpuset"));
        usable.map(|hierarchy| hierarchy.mount.as_path()).chain(self.unified()).collect()
    }
}

impl Hierarchy {
    /// Whether `controller` is here.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }
}

/// Superblock options are flags and controllers; only the latter tell hierarchies apart.
fn controllers(options: &str) -> Vec<String> {
    const FLAGS: [&str; 6] = ["rw", "ro", "xattr", "clone_children", "noprefix", "favordynmods"];
    let words =
        options.split(',').filter(|word| !FLAGS.contains(word) && !word.starts_with("release_agent="));
    words.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime shared:7 - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_machine_is_version_1_with_a_unified_tree() {
        let layout = Layout::parse(HYBRID).unwrap();
        let limiting: Vec<_> = layout.limiting().map(|hierarchy| hierarchy.mount.to_str().unwrap()).collect();
        assert_eq!(limiting, ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory"]);
        assert_eq!(layout.unified(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(layout.mount_of("cpuacct"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(layout.all_mounts().len(), 4, "all but cpuset");
        let managing: Vec<_> = layout.managing().iter().map(|mount| mount.to_str().unwrap()).collect();
        assert_eq!(managing, ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"]);
    }

    #[test]
    fn one_tree_alone_is_version_2() {
        let layout =
            Layout::parse("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n").unwrap();
        assert_eq!(layout, Layout::V2 { mount: "/sys/fs/cgroup".into() });
        assert_eq!(layout.pod_mounts(), [Path::new("/sys/fs/cgroup")]);
    }

    #[test]
    fn nothing_mounted_is_said() {
        assert_eq!(Layout::parse("22 27 0:21 / /proc rw,relatime - proc proc rw\nnonsense\n"), None);
    }
}

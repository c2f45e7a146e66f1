//! Makes and removes groups.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cgroup::layout::Layout;
use crate::cgroup::plan::{self, Write};
use crate::error::Error;
use crate::protocol;
use crate::spec::{Device, Resources};
use crate::sys;

/// How long a removal waits for dying processes in all.
const REMOVAL_ATTEMPTS: u32 = 500;
/// How long between two looks. The kernel tells of emptiness only in the unified tree.
const REMOVAL_PAUSE: Duration = Duration::from_millis(10);

/// The groups of one instance.
#[derive(Clone, Debug)]
pub struct Tree {
    layout: Layout,
    root: String,
}

impl Tree {
    /// Finds the machine's hierarchies. `root` is a path below each of them, such as `/ondol/default`.
    pub fn detect(root: &str) -> Result<Self, Error> {
        let path = "/proc/self/mountinfo";
        let mountinfo =
            std::fs::read_to_string(path).map_err(|source| Error::kernel("reading mounts", path, source))?;
        let layout = Layout::parse(&mountinfo).ok_or_else(|| Error::Machine {
            what: "control groups".to_owned(),
            hint: "mount cgroup2 at /sys/fs/cgroup, or the hierarchies of version 1 below it".to_owned(),
        })?;
        Ok(Self { layout, root: root.trim_matches('/').to_owned() })
    }

    /// Makes a group of its own in every tree that pods need, and takes it away again.
    pub fn trial(&self) -> Result<(), Error> {
        let mut mounts = self.layout.all_mounts();
        mounts.extend(self.layout.pod_mounts());
        for mount in mounts {
            let place = mount.display();
            if !mount.join("cgroup.procs").exists() {
                return Err(Error::Machine {
                    what: format!("control groups at {place}, where they are mounted by the list of mounts"),
                    hint: "unmount what hides them, or mount cgroup2 at /sys/fs/cgroup".to_owned(),
                });
            }
            let group = mount.join(format!("ondol-trial-{}", std::process::id()));
            let tried = std::fs::create_dir(&group).and_then(|()| std::fs::remove_dir(&group));
            tried.map_err(|error| Error::Machine {
                what: format!("control groups at {place} that it may make ({error})"),
                hint: format!(
                    "make it writable (mount -o remount,rw {place}), or run ondol outside of a container, or in a privileged \
                     one with cgroups of its own"
                ),
            })?;
        }
        Ok(())
    }

    /// What is mounted.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The group of a pod.
    pub fn pod_group(&self, parent: &str, id: &str) -> String {
        let parts = [self.root.as_str(), "pods", parent.trim_matches('/'), id];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    }

    /// The leaf of a pod's pod process.
    pub fn process_group(&self, id: &str) -> String {
        format!("{}/processes/{id}", self.root)
    }

    /// Makes a pod's groups and tells the `cgroup.procs` files that the pod process has to enter.
    pub fn create_pod(&self, parent: &str, id: &str, resources: &Resources) -> Result<Vec<String>, Error> {
        let group = self.pod_group(parent, id);
        for directory in plan::directories(&self.layout, &group) {
            make(&directory)?;
        }
        write_all(plan::delegation(&self.layout, &group))?;
        write_all(plan::limits(&self.layout, &group, resources, false))?;
        let leaf = self.process_group(id);
        let mut files = Vec::new();
        for mount in self.layout.all_mounts() {
            let directory = mount.join(&leaf);
            make(&directory)?;
            files.push(directory.join("cgroup.procs").to_string_lossy().into_owned());
        }
        Ok(files)
    }

    /// Puts this process into a leaf below the root, in the trees that tell whose a process is.
    pub fn enter(&self, leaf: &str) -> Result<(), Error> {
        for mount in self.layout.managing() {
            let directory = mount.join(&self.root).join(leaf);
            make(&directory)?;
            let file = directory.join("cgroup.procs");
            std::fs::write(&file, "0")
                .map_err(|source| Error::kernel("entering the cgroup", file, source))?;
        }
        Ok(())
    }

    /// Makes a container's group. `devices` are all that it may use; `None` allows every device.
    pub fn create_container(
        &self,
        pod: &str,
        name: &str,
        resources: &Resources,
        devices: Option<&[Device]>,
        writable: bool,
    ) -> Result<protocol::Cgroup, Error> {
        let group = format!("{pod}/{name}");
        let directories = plan::directories(&self.layout, &group);
        for directory in &directories {
            make(directory)?;
        }
        write_all(plan::limits(&self.layout, &group, resources, true))?;
        write_all(plan::devices(&self.layout, &group, devices))?;
        if let (Layout::V2 { mount }, Some(devices)) = (&self.layout, devices) {
            let directory = mount.join(&group);
            sys::bpf::restrict_devices(&directory, devices)
                .map_err(|source| Error::kernel("attaching the device filter", directory, source))?;
        }
        Ok(plan::placement(&self.layout, &group, writable))
    }

    /// Kills all processes of `group` and of the groups in it.
    pub fn kill(&self, group: &str) {
        let Some(unified) = self.layout.unified() else {
            for mount in self.layout.pod_mounts().into_iter().take(1) {
                kill_each(&mount.join(group));
            }
            return;
        };
        let directory = unified.join(group);
        if std::fs::write(directory.join("cgroup.kill"), "1").is_err() {
            // `cgroup.kill` is younger (5.14) than the oldest kernels that we meet.
            kill_each(&directory);
        }
    }

    /// Kills what is left in `group` and removes it with the groups in it. It may be gone already.
    pub fn remove(&self, group: &str) -> Result<(), Error> {
        self.kill(group);
        let mut mounts = self.layout.all_mounts();
        mounts.extend(self.layout.pod_mounts());
        for mount in mounts {
            let directory = mount.join(group);
            remove_below(&directory)
                .map_err(|source| Error::kernel("removing the cgroup", directory, source))?;
        }
        Ok(())
    }

    /// Removes the group of a pod whose parent is not known any more.
    pub fn remove_wherever(&self, id: &str) -> Result<(), Error> {
        let mut parents = vec![String::new()];
        while let Some(parent) = parents.pop() {
            let group = self.pod_group(&parent, id);
            self.remove(&group)?;
            for mount in self.layout.pod_mounts() {
                let below = children(&mount.join(self.pod_group("", &parent)));
                let names = below.iter().filter_map(|child| child.file_name()?.to_str());
                // Parents hold pods, pods hold containers: groups with processes of their own are no parents.
                parents.extend(names.filter(|_| parent.is_empty()).map(str::to_owned));
            }
            parents.sort_unstable();
            parents.dedup();
        }
        Ok(())
    }

    /// Where `controller` has the files of `group`.
    pub fn directory(&self, controller: &str, group: &str) -> Option<PathBuf> {
        self.layout.mount_of(controller).map(|mount| mount.join(group))
    }

    /// Removes the instance's own groups, if nothing is in them any more.
    pub fn remove_root(&self) {
        let mut mounts = self.layout.all_mounts();
        mounts.extend(self.layout.pod_mounts());
        for mount in mounts {
            let mut directory = mount.join(&self.root);
            remove_empty(&directory);
            // Parents are shared between instances: only the last one finds them empty.
            while directory.pop() && directory != mount {
                let _ = std::fs::remove_dir(&directory);
            }
        }
    }
}

fn make(directory: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(directory).map_err(|source| Error::kernel("making the cgroup", directory, source))
}

fn write_all(writes: Vec<Write>) -> Result<(), Error> {
    for Write { file, value, optional } in writes {
        match std::fs::write(&file, value) {
            Err(source) if !optional => return Err(Error::kernel("setting the limit", file, source)),
            _ => {}
        }
    }
    Ok(())
}

fn kill_each(directory: &Path) {
    for child in children(directory) {
        kill_each(&child);
    }
    for pid in std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove_empty(directory: &Path) {
    for child in children(directory) {
        remove_empty(&child);
    }
    let _ = std::fs::remove_dir(directory);
}

fn remove_below(directory: &Path) -> io::Result<()> {
    for child in children(directory) {
        remove_below(&child)?;
    }
    let mut attempts = 0;
    loop {
        match std::fs::remove_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A process that was killed is still on its way out.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && attempts < REMOVAL_ATTEMPTS => {
                attempts += 1;
                kill_each(directory);
                std::thread::sleep(REMOVAL_PAUSE);
            }
            other => return other,
        }
    }
}

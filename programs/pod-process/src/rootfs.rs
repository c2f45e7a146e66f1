//! What a container sees as its file system: built in its own mount namespace, by handles, before it is entered.
//!
//! Every place inside is resolved with the new root as the root (`RESOLVE_IN_ROOT`), so that no link of a hostile
//! image leads out; every source below a volume is resolved beneath it.

use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::protocol::{Cgroup, Container, Device, Failure, Mount, Root, stage};
use crate::sys::mount::{
    NO_DEVICES, NO_EXEC, NO_SUID, READ_ONLY, Within, attach, copy_tree, give_node, is_directory, is_missing,
    make_directory, make_link, make_node, mount_at, new_file_system, open_place, open_within, read_link,
    return_to, set_attributes,
};
use crate::sys::process::{NEW_MOUNT, enter};

/// Makes errors failures of one step about one thing.
pub fn at(stage: u8, detail: &str) -> impl FnOnce(Error) -> Failure {
    let detail = detail.to_owned();
    move |error| Failure { stage, errno: error.raw_os_error().unwrap_or(libc::EINVAL), detail, reason: 0 }
}

/// A copy of the `/proc` that is the root of a mount namespace, attached nowhere yet.
pub fn processes_of(namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    let (home, root) = (std::fs::File::open("/proc/self/ns/mnt")?, open_place("/")?);
    enter(namespace, NEW_MOUNT)?;
    let copy = copy_tree(open_place("/")?.as_fd(), false);
    enter(home.as_fd(), NEW_MOUNT)?;
    // Entering leads to the root of the whole namespace, which need not be the one that this process had.
    return_to(root.as_fd())?;
    copy
}

/// Builds everything but what needs the old root to be gone; gives the root. `processes` is its `/proc`, if this
/// process cannot mount it.
pub fn build(
    container: &Container,
    run_dir: &str,
    processes: Option<OwnedFd>,
) -> std::result::Result<OwnedFd, Failure> {
    // Sources first: a mount may hide another's source.
    let mut sources = Vec::new();
    for mount in &container.mounts {
        sources.push(source(mount).map_err(at(stage::MOUNT, &mount.source))?);
    }
    let root = mount_root(&container.root, run_dir)?;
    let base = Base { root: root.as_fd(), container };
    base.mount_system(processes)?;
    for (mount, source) in container.mounts.iter().zip(sources) {
        place(root.as_fd(), mount, source).map_err(at(stage::MOUNT, &mount.target))?;
    }
    Ok(root)
}

/// The root file system, mounted at the run directory's `root` in this namespace only.
fn mount_root(root: &Root, run_dir: &str) -> std::result::Result<OwnedFd, Failure> {
    let target = format!("{run_dir}/root");
    let open = |path: &str| open_place(path).map_err(at(stage::ROOT, path));
    if root.upper.is_empty() {
        let path = root.lower.first().map_or("", String::as_str);
        let tree = copy_tree(open(path)?.as_fd(), true).map_err(at(stage::ROOT, path))?;
        set_attributes(tree.as_fd(), 0, Some(false), true).map_err(at(stage::ROOT, path))?;
        attach(tree.as_fd(), open(&target)?.as_fd()).map_err(at(stage::ROOT, path))?;
        return open(&target);
    }
    // By descriptors: paths of layers are long, and the kernel takes one page of options.
    let lower = root.lower.iter().map(|layer| open(layer)).collect::<std::result::Result<Vec<_>, _>>()?;
    let (upper, work) = (open(&root.upper)?, open(&root.work)?);
    let name = |place: &OwnedFd| format!("/proc/self/fd/{}", place.as_raw_fd());
    let layers: Vec<String> = lower.iter().map(name).collect();
    let options = format!("lowerdir={},upperdir={},workdir={}", layers.join(":"), name(&upper), name(&work));
    mount_at("overlay", &target, &options).map_err(at(stage::ROOT, &root.upper))?;
    open(&target)
}

fn source(mount: &Mount) -> Result<OwnedFd> {
    let attributes = [
        (mount.read_only, READ_ONLY),
        (mount.no_exec, NO_EXEC),
        (mount.no_suid, NO_SUID),
        (mount.no_dev, NO_DEVICES),
    ];
    let attributes = attributes.iter().filter(|(wanted, _)| *wanted).fold(0, |sum, (_, flag)| sum | flag);
    if mount.kind == 1 {
        let (mode, size) = (format!("{:o}", mount.mode), mount.size_bytes.to_string());
        let mut options = vec![("mode", mode.as_str())];
        if mount.size_bytes > 0 {
            options.push(("size", &size));
        }
        return new_file_system("tmpfs", &options, attributes);
    }
    let mut place = open_place(&mount.source)?;
    if !mount.sub_path.is_empty() {
        place = open_within(place.as_fd(), &mount.sub_path, Within::Beneath)?;
    }
    let tree = copy_tree(place.as_fd(), mount.recursive)?;
    set_attributes(tree.as_fd(), attributes, Some(mount.propagation == 1), mount.recursive)?;
    Ok(tree)
}

fn place(root: BorrowedFd<'_>, mount: &Mount, tree: OwnedFd) -> Result<()> {
    let target = make_place(root, &mount.target, is_directory(tree.as_fd())?)?;
    attach(tree.as_fd(), target.as_fd())
}

/// Links that are followed on the way to one place, as many as the kernel follows.
const MAX_LINKS: u32 = 40;

/// Finds a place in the root, making what is missing of it, also where links of the image lead to.
pub fn make_place(root: BorrowedFd<'_>, path: &str, directory: bool) -> Result<OwnedFd> {
    make_place_over(root, path, directory, MAX_LINKS)
}

fn make_place_over(root: BorrowedFd<'_>, path: &str, directory: bool, links: u32) -> Result<OwnedFd> {
    match open_within(root, path, Within::Root) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        other => return other,
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let mut reached = String::from("/");
    for (index, part) in parts.iter().enumerate() {
        let parent = open_within(root, &reached, Within::Root)?;
        let before = reached.len();
        if reached.len() > 1 {
            reached.push('/');
        }
        reached.push_str(part);
        match open_within(root, &reached, Within::Root) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            other => {
                other?;
                continue;
            }
        }
        // A link that leads nowhere: what it names is made, in this root as everything.
        if let Some(target) = read_link(parent.as_fd(), part)? {
            let links = links.checked_sub(1).ok_or(Error::from_raw_os_error(libc::ELOOP))?;
            let base = if target.starts_with('/') { "" } else { &reached[..before] };
            let onward = format!("{base}/{target}/{}", parts[index + 1..].join("/"));
            return make_place_over(root, &onward, directory, links);
        }
        if index + 1 < parts.len() || directory {
            make_directory(parent.as_fd(), part, 0o755)?;
        } else {
            make_node(parent.as_fd(), part, libc::S_IFREG | 0o644, 0, 0)?;
        }
    }
    open_within(root, path, Within::Root)
}

/// What every container has: `/proc`, `/dev`, `/sys`.
struct Base<'a> {
    root: BorrowedFd<'a>,
    container: &'a Container,
}

impl Base<'_> {
    fn mount_system(&self, processes: Option<OwnedFd>) -> std::result::Result<(), Failure> {
        let plain = NO_SUID | NO_DEVICES | NO_EXEC;
        match processes {
            Some(processes) => make_place(self.root, "/proc", true)
                .and_then(|place| attach(processes.as_fd(), place.as_fd()))
                .map_err(at(stage::MOUNT, "/proc"))?,
            None => drop(self.add("proc", &[], plain, "/proc")?),
        }
        let devices = self.add("tmpfs", &[("mode", "755"), ("size", "65536k")], NO_SUID, "/dev")?;
        self.fill_devices(devices.as_fd())?;
        let terminals = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
        self.add("devpts", &terminals, NO_SUID | NO_EXEC, "/dev/pts")?;
        self.add("mqueue", &[], plain, "/dev/mqueue")?;
        let sealed = if self.container.writable_sys { 0 } else { READ_ONLY };
        self.add("sysfs", &[], plain | sealed, "/sys")?;
        self.mount_cgroups(&self.container.cgroup)
    }

    fn add(
        &self,
        kind: &str,
        options: &[(&str, &str)],
        attributes: u64,
        target: &str,
    ) -> std::result::Result<OwnedFd, Failure> {
        let mounted = new_file_system(kind, options, attributes).and_then(|mount| {
            attach(mount.as_fd(), make_place(self.root, target, true)?.as_fd())?;
            Ok(mount)
        });
        mounted.map_err(at(stage::MOUNT, target))
    }

    fn fill_devices(&self, directory: BorrowedFd<'_>) -> std::result::Result<(), Failure> {
        for device in &self.container.devices {
            self.make_device(directory, device).map_err(at(stage::DEVICE, &device.path))?;
        }
        let links = [
            ("/proc/self/fd", "fd"),
            ("/proc/self/fd/0", "stdin"),
            ("/proc/self/fd/1", "stdout"),
            ("/proc/self/fd/2", "stderr"),
            ("pts/ptmx", "ptmx"),
        ];
        for (to, name) in links {
            make_link(to, directory, name).map_err(at(stage::DEVICE, name))?;
        }
        for name in ["pts", "shm", "mqueue"] {
            match make_directory(directory, name, 0o755) {
                Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
                    return Err(at(stage::DEVICE, name)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn make_device(&self, directory: BorrowedFd<'_>, device: &Device) -> Result<()> {
        let Some(path) = device.path.strip_prefix("/dev/") else {
            return Err(Error::from_raw_os_error(libc::EINVAL));
        };
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = if folder.is_empty() {
            directory.try_clone_to_owned()?
        } else {
            make_place(directory, folder, true)?
        };
        let kind = if device.block { libc::S_IFBLK } else { libc::S_IFCHR };
        make_node(parent.as_fd(), name, kind | device.mode, device.major, device.minor)?;
        if (device.uid, device.gid) == (0, 0) {
            return Ok(());
        }
        give_node(parent.as_fd(), name, device.uid, device.gid)
    }

    /// The container's own groups: its cgroup namespace makes them the root of what is seen.
    fn mount_cgroups(&self, cgroup: &Cgroup) -> std::result::Result<(), Failure> {
        const FOLDER: &str = "/sys/fs/cgroup";
        let attributes = NO_SUID | NO_DEVICES | NO_EXEC | if cgroup.writable { 0 } else { READ_ONLY };
        let single = cgroup.mounts.iter().any(|mount| mount.folder.is_empty());
        if !single && !cgroup.mounts.is_empty() {
            let folders = self.add(
                "tmpfs",
                &[("mode", "755"), ("size", "64k")],
                NO_SUID | NO_DEVICES | NO_EXEC,
                FOLDER,
            )?;
            self.mount_hierarchies(cgroup, attributes)?;
            return set_attributes(folders.as_fd(), READ_ONLY, None, false).map_err(at(stage::MOUNT, FOLDER));
        }
        self.mount_hierarchies(cgroup, attributes)
    }

    fn mount_hierarchies(&self, cgroup: &Cgroup, attributes: u64) -> std::result::Result<(), Failure> {
        for mount in &cgroup.mounts {
            let target = format!("/sys/fs/cgroup/{}", mount.folder);
            let pairs: Vec<(&str, &str)> =
                mount.options.iter().map(|option| option.split_once('=').unwrap_or((option, ""))).collect();
            self.add(
                if mount.unified { "cgroup2" } else { "cgroup" },
                &pairs,
                attributes,
                target.trim_end_matches('/'),
            )?;
        }
        Ok(())
    }
}

/// After the root was entered: hides paths and takes away the right to write.
pub fn seal(container: &Container) -> std::result::Result<(), Failure> {
    for path in &container.masked_paths {
        unless_missing(mask(path)).map_err(at(stage::MOUNT, path))?;
    }
    for path in &container.read_only_paths {
        let sealed = open_place(path).and_then(|place| {
            let tree = copy_tree(place.as_fd(), true)?;
            set_attributes(tree.as_fd(), READ_ONLY, None, true)?;
            attach(tree.as_fd(), place.as_fd())
        });
        unless_missing(sealed).map_err(at(stage::MOUNT, path))?;
    }
    if container.root.read_only {
        let sealed = open_place("/").and_then(|root| set_attributes(root.as_fd(), READ_ONLY, None, false));
        sealed.map_err(at(stage::ROOT, "read-only"))?;
    }
    Ok(())
}

fn mask(path: &str) -> Result<()> {
    let place = open_place(path)?;
    let cover = if is_directory(place.as_fd())? {
        new_file_system(
            "tmpfs",
            &[("mode", "755"), ("size", "0k")],
            READ_ONLY | NO_SUID | NO_DEVICES | NO_EXEC,
        )?
    } else {
        copy_tree(open_place("/dev/null")?.as_fd(), false)?
    };
    attach(cover.as_fd(), place.as_fd())
}

fn unless_missing(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if is_missing(&error) => Ok(()),
        other => other,
    }
}

/// Makes the working directory, as other runtimes do. Where it cannot be made, entering it will say so.
pub fn make_working_directory(path: &str) -> std::result::Result<(), Failure> {
    if !path.is_empty() && path != "/" {
        let root = open_place("/").map_err(at(stage::ROOT, "/"))?;
        let _ = make_place(root.as_fd(), path, true);
    }
    Ok(())
}

/// Shows the container's terminal as `/dev/console`.
pub fn mount_console(terminal: BorrowedFd<'_>) -> Result<()> {
    let root = open_place("/")?;
    let place = make_place(root.as_fd(), "/dev/console", false)?;
    attach(copy_tree(terminal, false)?.as_fd(), place.as_fd())
}

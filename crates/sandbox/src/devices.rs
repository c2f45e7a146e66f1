//! Device nodes: the few that every container has, and all of the host's for the privileged.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::protocol;
use crate::spec::{ContainerSpec, Device};

/// Major numbers of the two sides of terminals.
const TERMINAL_MAJOR: u32 = 136;
/// Folders of `/dev` that a container has its own of.
const SKIPPED: [&str; 5] = ["pts", "shm", "fd", "mqueue", "console"];

/// The usual nodes: name, major, minor.
const USUAL: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// The nodes to make.
pub fn nodes(spec: &ContainerSpec) -> Vec<Device> {
    let mut nodes: Vec<Device> =
        USUAL.iter().map(|(name, major, minor)| usual(name, *major, *minor)).collect();
    if spec.privileged {
        collect(Path::new("/dev"), &mut nodes);
    }
    for device in &spec.devices {
        nodes.retain(|known| known.path != device.path);
        nodes.push(device.clone());
    }
    nodes
}

/// All that may be used; `None` for everything.
pub fn allowed(spec: &ContainerSpec) -> Option<Vec<Device>> {
    if spec.privileged {
        return None;
    }
    let mut allowed = nodes(spec);
    // /dev/ptmx, the console, and the terminals that ptmx makes.
    allowed.push(usual("ptmx", 5, 2));
    allowed.push(usual("console", 5, 1));
    allowed.push(usual("pts", TERMINAL_MAJOR, u32::MAX));
    Some(allowed)
}

/// In the pod process' words.
pub fn to_wire(device: &Device) -> protocol::Device {
    let Device { path, block, major, minor, mode, uid, gid, access: _ } = device.clone();
    protocol::Device { path, block, major, minor, mode, uid, gid }
}

fn usual(name: &str, major: u32, minor: u32) -> Device {
    let path = format!("/dev/{name}");
    Device { path, block: false, major, minor, mode: 0o666, uid: 0, gid: 0, access: "rwm".to_owned() }
}

fn collect(directory: &Path, nodes: &mut Vec<Device>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        let (kind, path) = (metadata.file_type(), entry.path());
        let Some(text) = path.to_str() else { continue };
        if kind.is_dir() && !SKIPPED.iter().any(|name| entry.file_name() == *name) {
            collect(&path, nodes);
        } else if (kind.is_char_device() || kind.is_block_device())
            && text != "/dev/console"
            && text != "/dev/ptmx"
            && nodes.iter().all(|known| known.path != text)
        {
            nodes.push(Device {
                path: text.to_owned(),
                block: kind.is_block_device(),
                major: rustix::fs::major(metadata.rdev()),
                minor: rustix::fs::minor(metadata.rdev()),
                mode: metadata.mode() & 0o7777,
                uid: metadata.uid(),
                gid: metadata.gid(),
                access: "rwm".to_owned(),
            });
        }
    }
}

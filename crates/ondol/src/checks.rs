//! What must hold before anything is touched. Each failure is one sentence that says what to do.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context as _, bail};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::facts::{Facts, overlap, routes};
use crate::layout::Layout;
use crate::up::holder;

/// How it is told that all is well.
pub const PASSED: &str = "the machine has what is needed";

/// Only root can make namespaces, mounts and rules.
pub fn root() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "ondol must run as root, because it makes namespaces, mounts and packet rules: try \"sudo ondol ...\""
        );
    }
    Ok(())
}

/// No other process holds the instance.
pub fn alone(layout: &Layout) -> anyhow::Result<()> {
    if let Some(pid) = holder(&layout.lock()) {
        bail!(
            "ondol already runs (instance {}, pid {}); \"ondol status\" tells more",
            layout.instance,
            pid.as_raw_nonzero()
        );
    }
    Ok(())
}

/// What the node needs of the kernel. Whether it can mount overlays, [`data`] tries.
pub fn kernel() -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing_capabilities(&status);
    if !missing.is_empty() {
        bail!(
            "this root may not do what a node needs, it lacks {}: run ondol outside of a container, or in a \
             privileged one",
            missing.join(" and ")
        );
    }
    sandbox::trial()?;
    let network = net::link::Network::open(&net::instance::Instance::new("check")?)
        .context("the kernel has no rtnetlink for bridge and veth: enable CONFIG_BRIDGE and CONFIG_VETH")?;
    for kind in ["bridge", "veth"] {
        if !network.knows(kind).unwrap_or(true) {
            let option = kind.to_uppercase();
            bail!(
                "the kernel has no {kind} links: load them (\"modprobe {kind}\") or enable CONFIG_{option}"
            );
        }
    }
    Ok(net::rules::trial()?)
}

/// The capabilities that a node cannot do without, of those that `/proc/self/status` does not show as effective.
fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let shown = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    // A kernel that does not tell is asked by doing.
    let Some(effective) = shown.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()) else {
        return Vec::new();
    };
    let needed = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];
    needed.into_iter().filter(|(bit, _)| effective >> bit & 1 == 0).map(|(_, name)| name).collect()
}

/// Whether the API's port is free.
pub fn port(port: u16) -> anyhow::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    // The way the server itself listens: old connections that linger are no hindrance.
    let free = wire_listen(address);
    free.with_context(|| {
        format!("port {port} of 127.0.0.1 is in use by another program: stop it, or give another port with --api-port")
    })
}

fn wire_listen(address: SocketAddr) -> std::io::Result<()> {
    TcpListener::bind(address).map(|_| ())
}

/// The longest prefixes: of pods, so that there is a gateway and a pod; of Services, so that the tenth address, which
/// is the DNS server's, is one of them.
const POD_PREFIX_MAX: u8 = 29;
const SERVICE_PREFIX_MAX: u8 = 28;

/// Whether the ranges are of use, and free: a route to one of them would swallow the pods' packets, or the pods another's.
pub fn ranges(layout: &Layout, facts: &Facts) -> anyhow::Result<()> {
    let own = layout.instance.bridge();
    let both = [
        (facts.pods()?, "--pod-cidr", POD_PREFIX_MAX),
        (facts.services()?, "--service-cidr", SERVICE_PREFIX_MAX),
    ];
    for (range, flag, longest) in both {
        if !range.address().is_ipv4() {
            bail!("{range} is a range of IPv6, which is not supported yet: choose one of IPv4 with {flag}");
        }
        if range.prefix() > longest {
            bail!("{range} is too small: choose a prefix of at most {longest} bits with {flag}");
        }
        let clash = routes().into_iter().find(|route| route.link != own && overlap(&route.range, &range));
        if let Some(route) = clash {
            bail!(
                "{range} overlaps {} which this machine routes through {}: choose another range with {flag}",
                route.range,
                route.link
            );
        }
    }
    let (pods, services) = (facts.pods()?, facts.services()?);
    if overlap(&pods, &services) {
        bail!("the ranges of pods ({pods}) and Services ({services}) overlap: choose others");
    }
    Ok(())
}

/// What a new instance needs of its disk to begin with, in bytes: the images that it carries, keys, and a log.
const FIRST_BYTES: u64 = 16 << 20;

/// Whether the data folder can hold writable layers: tries it. What was made for that goes again if it cannot.
pub fn data(layout: &Layout) -> anyhow::Result<()> {
    layout.refuse_foreign()?;
    let first_new = layout.data.ancestors().take_while(|folder| !folder.exists()).last().map(Path::to_owned);
    let result = data_in(layout);
    if let (Err(_), Some(folder)) = (&result, first_new) {
        // Nothing is to be left of an attempt; a folder that cannot go does no harm.
        let _ = std::fs::remove_dir_all(folder);
    }
    result
}

fn data_in(layout: &Layout) -> anyhow::Result<()> {
    let folder = layout.data.join(".check");
    let is_new = layout.is_new();
    std::fs::create_dir_all(&layout.data).with_context(|| {
        format!("{} cannot be made; choose another place with --data-dir", layout.data.display())
    })?;
    // An attempt that was killed.
    let _ = unmount(folder.join("merged"), UnmountFlags::DETACH);
    let _ = std::fs::remove_dir_all(&folder);
    for name in ["lower/folder", "upper", "work", "merged"] {
        std::fs::create_dir_all(folder.join(name)).with_context(|| {
            format!("{} cannot be written; choose another place with --data-dir", layout.data.display())
        })?;
    }
    let free = rustix::fs::statvfs(&layout.data).map_or(u64::MAX, |disk| disk.f_bavail * disk.f_frsize);
    let result = try_overlay(&folder);
    let _ = std::fs::remove_dir_all(&folder);
    if is_new && free < FIRST_BYTES {
        bail!(
            "the disk of {} is full: {} KiB are left, and {} MiB are needed to begin; make room, or choose another \
             place with --data-dir",
            layout.data.display(),
            free >> 10,
            FIRST_BYTES >> 20
        );
    }
    match result {
        // What has run here before may run on: it reads, and tells of each write that the disk is full.
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => Ok(()),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => bail!(
            "the kernel has no overlay file system: load it (\"modprobe overlay\") or enable CONFIG_OVERLAY_FS"
        ),
        Err(error) => Err(error).with_context(|| {
            format!(
                "{} lies on a file system that cannot hold the writable layers of containers (an overlay itself, or \
                 a network disk): choose a place on ext4, xfs, btrfs or tmpfs with --data-dir",
                layout.data.display()
            )
        }),
        Ok(()) => Ok(()),
    }
}

fn try_overlay(folder: &Path) -> std::io::Result<()> {
    let options = format!(
        "lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work",
        folder.to_str().filter(|path| !path.contains([',', ':'])).ok_or_else(|| {
            std::io::Error::other("the path has characters that mounts cannot carry: ',' or ':'")
        })?
    );
    let options = std::ffi::CString::new(options).map_err(std::io::Error::other)?;
    let merged = folder.join("merged");
    mount("overlay", &merged, "overlay", MountFlags::empty(), Some(options.as_c_str()))?;
    let changed = change_layer(&merged);
    unmount(&merged, UnmountFlags::DETACH)?;
    changed
}

/// What containers do to their root: a new file, and a folder of the image that is replaced. The second needs
/// whiteouts and extended attributes, which not every file system has.
fn change_layer(merged: &Path) -> std::io::Result<()> {
    std::fs::write(merged.join("file"), "x")?;
    std::fs::remove_dir(merged.join("folder"))?;
    std::fs::create_dir(merged.join("folder"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_is_told_with_what_to_do() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = port(holder.local_addr().unwrap().port()).unwrap_err();
        assert!(error.to_string().contains("--api-port"), "{error}");
    }

    #[test]
    fn ranges_that_are_of_no_use_are_refused_with_their_option() {
        let layout = Layout::new("t-ranges", None).unwrap();
        let check = |pods: &str, services: &str, words: &str| {
            let wanted = cli::arguments::Ranges {
                pod_cidr: Some(pods.to_owned()),
                service_cidr: Some(services.to_owned()),
                ..cli::arguments::Ranges::default()
            };
            let facts = Facts::load_or_choose(&layout, &wanted).unwrap();
            let error = ranges(&layout, &facts).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        check("10.1.0.0/30", "10.2.0.0/16", "--pod-cidr");
        check("10.1.0.0/16", "10.2.0.0/29", "--service-cidr");
        check("fd00::/64", "10.2.0.0/16", "IPv6");
        check("10.1.0.0/16", "10.1.2.0/24", "overlap");
    }

    #[test]
    fn this_machine_passes() {
        root().unwrap();
        kernel().unwrap();
    }

    #[test]
    fn a_kind_of_link_that_the_kernel_lacks_is_found_out() {
        let network = net::link::Network::open(&net::instance::Instance::new("check").unwrap()).unwrap();
        assert!(network.knows("veth").unwrap() && network.knows("bridge").unwrap());
        assert!(!network.knows("nothing").unwrap());
    }

    #[test]
    fn a_root_without_its_powers_is_found_out() {
        let container = "Name:\tondol\nCapEff:\t00000000a80425fb\n";
        assert_eq!(missing_capabilities(container), ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]);
        assert!(missing_capabilities("CapEff:\t000001ffffffffff\n").is_empty());
        assert!(missing_capabilities("").is_empty());
    }

    #[test]
    fn a_place_that_cannot_hold_layers_is_refused_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let memory = folder.path().join("ramfs");
        std::fs::create_dir(&memory).unwrap();
        // No extended attributes there.
        mount("ramfs", &memory, "ramfs", MountFlags::empty(), None).unwrap();
        let layout = Layout::new("t-checks", Some(&memory.join("a/data"))).unwrap();
        let refused = data(&layout);
        let left = std::fs::read_dir(&memory).unwrap().count();
        unmount(&memory, UnmountFlags::DETACH).unwrap();
        assert!(refused.unwrap_err().to_string().contains("--data-dir"));
        assert_eq!(left, 0);

        let layout = Layout::new("t-checks", Some(&folder.path().join("b/data"))).unwrap();
        data(&layout).unwrap();
        assert_eq!(std::fs::read_dir(&layout.data).unwrap().count(), 0);
    }
}

//! What must hold before anything is touched. Each failure is one sentence that says what to do.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context as _, bail};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::facts::{Facts, overlap, routes};
use crate::layout::Layout;

/// Only root can make namespaces, mounts and rules.
pub fn root() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "ondol must run as root, because it makes namespaces, mounts and packet rules: try \"sudo ondol ...\""
        );
    }
    Ok(())
}

/// What the node needs of the kernel.
pub fn kernel() -> anyhow::Result<()> {
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.split_whitespace().any(|word| word == "overlay") && !loaded("overlay") {
        bail!(
            "the kernel has no overlay file system: load it (\"modprobe overlay\") or enable CONFIG_OVERLAY_FS"
        );
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if !mounts.lines().any(|line| line.split(' ').nth(2).is_some_and(|kind| kind.starts_with("cgroup"))) {
        bail!("no cgroups are mounted: mount cgroup2 at /sys/fs/cgroup");
    }
    net::link::Network::open(&net::instance::Instance::new("check")?)
        .context("the kernel has no rtnetlink for bridge and veth: enable CONFIG_BRIDGE and CONFIG_VETH")?;
    let rules = net::instance::Instance::new("check")
        .map_err(anyhow::Error::from)
        .and_then(|instance| Ok(net::rules::Rules::open(&instance)?.loaded().map(|_| ())?));
    rules.context("the kernel has no nftables: load it (\"modprobe nf_tables\") or enable CONFIG_NF_TABLES")
}

fn loaded(module: &str) -> bool {
    Path::new("/sys/module").join(module).exists()
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

/// Whether the ranges are free: a route to one of them would swallow the pods' packets, or the pods another's.
pub fn ranges(layout: &Layout, facts: &Facts) -> anyhow::Result<()> {
    let own = layout.instance.bridge();
    for (range, flag) in [(facts.pods()?, "--pod-cidr"), (facts.services()?, "--service-cidr")] {
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

/// Whether the data folder can hold writable layers: tries it.
pub fn data(layout: &Layout) -> anyhow::Result<()> {
    let folder = layout.data.join(".check");
    std::fs::create_dir_all(&layout.data).with_context(|| {
        format!("{} cannot be made; choose another place with --data-dir", layout.data.display())
    })?;
    let names = ["lower", "upper", "work", "merged"];
    for name in names {
        std::fs::create_dir_all(folder.join(name)).with_context(|| {
            format!("{} cannot be written; choose another place with --data-dir", layout.data.display())
        })?;
    }
    let result = try_overlay(&folder);
    let _ = std::fs::remove_dir_all(&folder);
    result.with_context(|| {
        format!(
            "{} lies on a file system that cannot hold the writable layers of containers (an overlay itself, or a \
             network disk): choose a place on ext4, xfs, btrfs or tmpfs with --data-dir",
            layout.data.display()
        )
    })
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
    let written = std::fs::write(merged.join("file"), "x");
    unmount(&merged, UnmountFlags::DETACH)?;
    written
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
    fn this_machine_passes() {
        root().unwrap();
        kernel().unwrap();
    }
}

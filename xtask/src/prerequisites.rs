//! What the tests need beyond Rust, installed when it is lacking.

use anyhow::{Result, bail};

use crate::command::{self, command, exists};

/// Programs that tests call, and the Debian packages that bring them.
const PROGRAMS: [(&str, &str); 12] = [
    ("busybox", "busybox-static"),
    ("docker-registry", "docker-registry"),
    ("skopeo", "skopeo"),
    ("buildah", "buildah"),
    ("setcap", "libcap2-bin"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("curl", "curl"),
    ("ps", "procps"),
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("tar", "tar"),
];

/// Makes sure that the tests can run: root, and the programs.
pub fn require() -> Result<()> {
    require_root()?;
    let missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| !exists(program)).map(|(_, package)| *package).collect();
    install(&missing)
}

/// Refuses to go on as another user: the tests make real namespaces, cgroups and packet rules.
pub fn require_root() -> Result<()> {
    if command::read(&mut command("id", ["-u"]))? != "0" {
        bail!(
            "the tests make real namespaces, cgroups and packet rules, which takes root: \
             run \"sudo -E cargo xtask test\", or in a virtual machine as root"
        );
    }
    Ok(())
}

/// Installs Debian packages; none is fine.
pub fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    if !exists("apt-get") {
        bail!("these are needed and there is no apt-get to install them with: {}", packages.join(" "));
    }
    command::run(&mut command("apt-get", ["update", "-qq"]))?;
    let options = ["install", "-y", "-qq", "--no-install-recommends"];
    let mut install = command("apt-get", options.iter().chain(packages));
    command::run(install.env("DEBIAN_FRONTEND", "noninteractive"))
}

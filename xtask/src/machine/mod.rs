//! The suite `machine`: a real Debian with its service manager, in a virtual machine without hardware help.
//!
//! What no namespace can show happens here: our unit under systemd, a reboot, a power cut, a clock that jumps under a
//! running server, a session that ends, and the whole stack on cgroup version 2. The machine runs the script in
//! conformance/machine at each boot and tells of each point over a serial line. Everything in it is some ten times
//! slower than here, so that its deadlines are generous and say nothing about speed.

mod image;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::command::{self, command};
use crate::project::Project;
use crate::script::Points;
use crate::upstream;
use image::Image;

/// How long the machine may take in all, in seconds: twofold of what it takes on two slow cores.
const TIMEOUT_S: u32 = 3600;
/// Its memory in MiB, and its processors.
const MEMORY_MIB: &str = "2048";
const PROCESSORS: &str = "2";
/// What the script says last.
const END: &str = "END";
/// How much of the machine's own words is shown when it ends too early.
const LAST_LINES: usize = 40;

/// Boots the machine with the `ondol` of a profile; tells of each point whether it passed.
pub fn run(project: &Project, profile: &str) -> Result<BTreeMap<String, bool>> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the machine of this suite is an x86-64 one");
    }
    let kubectl = upstream::kubectl(project)?;
    let image = image::image(project)?;
    eprintln!("running with {}, on Debian with {}", kubectl.origin, image.versions()?);
    let logs = project.target().join("machine");
    fs::create_dir_all(&logs)?;
    let scratch = tempfile::Builder::new().prefix("ondol-machine-").tempdir()?;
    let payload = payload(project, &project.binary(profile, "ondol"), &kubectl.path, scratch.path())?;
    let console = logs.join("console");
    let mut points = Points::default();
    let mut ended = false;
    command::follow(&mut boot(&image, &payload, &console), |line| {
        ended |= line == END;
        points.hear(line);
    })?;
    if !ended {
        let said = String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = said.lines().collect();
        bail!(
            "the machine ended before its script did; its console ({}) says:\n{}",
            console.display(),
            lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
        );
    }
    Ok(points.0)
}

/// The second disk: what is tested, and the script.
fn payload(project: &Project, ondol: &Path, kubectl: &Path, scratch: &Path) -> Result<PathBuf> {
    let folder = scratch.join("payload");
    fs::create_dir_all(folder.join("suite"))?;
    let copy = |from: &Path, to: &str| {
        fs::copy(from, folder.join(to)).with_context(|| format!("cannot read {}", from.display()))
    };
    copy(ondol, "ondol")?;
    copy(kubectl, "kubectl")?;
    copy(&project.root().join("packaging/ondol.service"), "ondol.service")?;
    for entry in fs::read_dir(project.root().join("conformance/machine"))? {
        let entry = entry?;
        copy(&entry.path(), &format!("suite/{}", entry.file_name().to_string_lossy()))?;
    }
    let disk = scratch.join("payload.disk");
    let mut make = command("mke2fs", ["-q", "-t", "ext4", "-O", "^has_journal", "-d"]);
    command::run(make.arg(&folder).arg(&disk).arg("512M"))?;
    fs::remove_dir_all(folder)?;
    Ok(disk)
}

/// The first serial line is the machine's console, the second one is what it tells us.
fn boot(image: &Image, payload: &Path, console: &Path) -> std::process::Command {
    let mut qemu = command("timeout", ["--signal=KILL", &TIMEOUT_S.to_string(), "qemu-system-x86_64"]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35"]);
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-smp", PROCESSORS, "-m", MEMORY_MIB]);
    qemu.arg("-kernel").arg(image.kernel()).arg("-initrd").arg(image.initrd());
    qemu.args(["-append", "root=/dev/vda rootfstype=ext4 rw console=ttyS0 panic=5 net.ifnames=0"]);
    // What the machine writes is forgotten when it is switched off, and not when it reboots.
    qemu.arg("-drive")
        .arg(format!("file={},format=raw,if=virtio,snapshot=on,cache=unsafe", image.disk().display()));
    qemu.arg("-drive").arg(format!("file={},format=raw,if=virtio,readonly=on", payload.display()));
    // A network of its own, from which nothing is reached.
    qemu.args(["-nic", "user,restrict=on,model=virtio", "-rtc", "base=utc"]);
    qemu.arg("-serial").arg(format!("file:{}", console.display()));
    qemu.args(["-chardev", "stdio,id=told,signal=off", "-serial", "chardev:told"]);
    qemu.stdin(Stdio::null());
    qemu
}

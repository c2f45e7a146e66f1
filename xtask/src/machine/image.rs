//! The machine's disk: Debian from its own packages, made once and kept in the cache.
//!
//! What Debian puts into a small server, and nothing prepared for us but the means to look on: a unit that runs the
//! suite's script from a second disk, and a way to log in. Its kernel is booted directly.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::command::{self, command, exists};
use crate::prerequisites;
use crate::project::Project;

/// Debian's release; its kernel is booted, its service manager starts us.
const RELEASE: &str = "bookworm";
/// What is installed beside the essential packages.
const PACKAGES: [&str; 16] = [
    "curl",
    "dbus",
    "e2fsprogs",
    "iproute2",
    "kmod",
    "libpam-systemd",
    "linux-image-cloud-amd64",
    "nftables",
    "openssh-client",
    "openssh-server",
    "procps",
    "systemd",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
    "util-linux",
];
/// Programs that make the disk and run the machine, and the packages that bring them.
const PROGRAMS: [(&str, &str); 4] = [
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("ssh-keygen", "openssh-client"),
];
/// Holds the system and what two instances of ours put on it.
const DISK_SIZE: &str = "4G";
/// Files of the machine that differ from what Debian's packages bring.
const FILES: [(&str, &str); 8] = [
    ("etc/hostname", "machine\n"),
    ("etc/fstab", "/dev/vda / ext4 defaults 0 0\n/dev/vdb /payload ext4 ro 0 0\n"),
    // As a careful administrator may have it: whoever logs out leaves no process, root neither.
    ("etc/systemd/logind.conf.d/logout.conf", "[Login]\nKillUserProcesses=yes\nKillExcludeUsers=nobody\n"),
    ("etc/systemd/network/wired.network", "[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n"),
    ("etc/systemd/system/suite.service", SUITE_UNIT),
    ("etc/systemd/journald.conf.d/persistent.conf", "[Journal]\nStorage=persistent\n"),
    // Every driver that Debian has would be unpacked at each boot.
    ("etc/initramfs-tools/conf.d/small", "MODULES=list\n"),
    ("usr/share/initramfs-tools/modules.d/small", "virtio_pci\nvirtio_blk\next4\n"),
];
const SUITE_UNIT: &str = "[Unit]
Description=What the suite does at each boot
After=multi-user.target network-online.target sshd.service
Wants=network-online.target
RequiresMountsFor=/payload

[Service]
Type=exec
ExecStart=/payload/suite/run.sh
Environment=HOME=/root
TimeoutStopSec=5

[Install]
WantedBy=default.target
";
/// Units that are to start.
const ENABLED: [&str; 4] = ["suite", "ssh", "systemd-networkd", "systemd-resolved"];

/// The files of a machine that can be booted.
pub struct Image {
    folder: PathBuf,
}

impl Image {
    /// The disk with the system; it stays as it is.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk")
    }

    /// Debian's kernel.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("kernel")
    }

    /// What Debian has made for it to find its disk.
    pub fn initrd(&self) -> PathBuf {
        self.folder.join("initrd")
    }

    /// What is on it that matters, with versions.
    pub fn versions(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join("versions"))?.trim_end().replace('\n', ", "))
    }
}

/// The machine, from the cache or made now.
pub fn image(project: &Project) -> Result<Image> {
    prerequisites::require_root()?;
    let missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| !exists(program)).map(|(_, package)| *package).collect();
    prerequisites::install(&missing)?;
    let folder = project.cache().join("machine").join(key());
    if !folder.exists() {
        let unfinished = folder.with_extension("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        fs::create_dir_all(&unfinished)?;
        make(&unfinished).context("the machine's disk cannot be made")?;
        // Named when it is whole, so that an interrupted one is never booted.
        fs::rename(&unfinished, &folder)?;
    }
    Ok(Image { folder })
}

/// What the machine is made of; another recipe is another machine.
fn key() -> String {
    let recipe = format!("{RELEASE} {PACKAGES:?} {DISK_SIZE} {FILES:?} {ENABLED:?}");
    Sha256::digest(recipe).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn make(folder: &Path) -> Result<()> {
    let root = folder.join("root");
    bootstrap(&root)?;
    fs::create_dir_all(root.join("payload"))?;
    log_in_by_key(&root)?;
    let units: Vec<String> = ENABLED.iter().map(|unit| format!("{unit}.service")).collect();
    let mut enable = command("chroot", [&root]);
    command::run(enable.args(["systemctl", "enable"]).args(units))?;
    keep_kernel(&root, folder)?;
    let mut query = command("dpkg-query", ["--admindir"]);
    query.arg(root.join("var/lib/dpkg")).args(["-W", "-f", "${Package} ${Version}\n"]);
    let versions = command::read(query.args(["systemd", "linux-image-cloud-amd64"]))?;
    fs::write(folder.join("versions"), versions)?;
    let mut disk = command("mke2fs", ["-q", "-t", "ext4", "-E", "root_owner=0:0", "-d"]);
    command::run(disk.arg(&root).arg(folder.join("disk")).arg(DISK_SIZE))?;
    fs::remove_dir_all(root)?;
    Ok(())
}

/// Debian's packages in a folder. Our files are there before the kernel's package looks at them.
fn bootstrap(root: &Path) -> Result<()> {
    let ours = root.with_extension("ours");
    for (path, text) in FILES {
        let path = ours.join(path);
        fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        fs::write(path, text)?;
    }
    let mut debootstrap = command("mmdebstrap", ["--variant=minbase", "--format=directory", "--quiet"]);
    debootstrap.arg(format!("--include={}", PACKAGES.join(",")));
    for left_out in ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"] {
        debootstrap.arg(format!("--dpkgopt=path-exclude={left_out}"));
    }
    debootstrap.arg("--keyring=/usr/share/keyrings/debian-archive-keyring.gpg");
    debootstrap.arg(format!("--essential-hook=cp -r '{}/.' \"$1\"", ours.display()));
    command::run(debootstrap.arg(RELEASE).arg(root))?;
    fs::remove_dir_all(ours)?;
    Ok(())
}

/// Root may log in from the machine itself, with a key that only this disk has.
fn log_in_by_key(root: &Path) -> Result<()> {
    let folder = root.join("root/.ssh");
    fs::create_dir_all(&folder)?;
    fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
    let key = folder.join("id_ed25519");
    command::run(command("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key))?;
    fs::copy(key.with_extension("pub"), folder.join("authorized_keys"))?;
    Ok(())
}

fn keep_kernel(root: &Path, folder: &Path) -> Result<()> {
    for (prefix, name) in [("vmlinuz-", "kernel"), ("initrd.img-", "initrd")] {
        let entries = fs::read_dir(root.join("boot"))?.collect::<std::io::Result<Vec<_>>>()?;
        let found = entries.iter().find(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        fs::copy(found.with_context(|| format!("no {prefix}* in /boot"))?.path(), folder.join(name))?;
    }
    Ok(())
}

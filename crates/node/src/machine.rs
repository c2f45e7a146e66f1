//! What the machine is: memory, processors, disk, system. Read from the kernel; decides nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

/// Memory that pods never get, so that the machine itself goes on (kubelet's hard eviction threshold).
pub const MEMORY_RESERVE_BYTES: u64 = 100 << 20;
/// Of the disk, and of its inodes, one part in this many is kept free (kubelet's thresholds of `nodefs`), but never more
/// than so much: a tenth of a big disk is no sign that anything is short, and a machine of one's own is often fuller than
/// that. Upstream's small clusters lower the share for the same reason.
const DISK_RESERVE_DIVISOR: u64 = 10;
const DISK_RESERVE_BYTES_MAX: u64 = 2 << 30;
const INODES_RESERVE_DIVISOR: u64 = 20;
const INODES_RESERVE_MAX: u64 = 100_000;
/// Conditions of a node that say that something is short.
pub const MEMORY_PRESSURE: &str = "MemoryPressure";
/// See [`MEMORY_PRESSURE`].
pub const DISK_PRESSURE: &str = "DiskPressure";
/// Pods on a node at most, as upstream.
pub const PODS_MAX: u32 = 110;

/// What does not change while the agent runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Processors that can be used.
    pub processors: u64,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Swap, in bytes.
    pub swap_bytes: u64,
    /// The disk under the data directory, in bytes.
    pub disk_bytes: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// The distribution, as it calls itself.
    pub os_image: String,
    /// Go's name of the architecture: `amd64`.
    pub architecture: String,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// Identity of this boot.
    pub boot_id: String,
    /// Identity of the hardware; the machine's id where there is none.
    pub system_uuid: String,
}

/// What changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Memory that can be had without swapping.
    pub memory_available_bytes: u64,
    /// Too little memory is left.
    pub memory_pressure: bool,
    /// Too little disk, or too few inodes, are left.
    pub disk_pressure: Option<Scarce>,
}

/// What of a disk is short, and how much of it must be free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scarce {
    /// Room.
    Bytes(u64),
    /// Files.
    Inodes(u64),
}

impl fmt::Display for Scarce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "less than {} MiB are free", bytes >> 20),
            Self::Inodes(inodes) => write!(f, "room for less than {inodes} more files is left"),
        }
    }
}

impl Machine {
    /// Reads what this machine is; `data` lies on the disk that pods use.
    pub fn read(data: &Path) -> io::Result<Self> {
        let memory = std::fs::read_to_string("/proc/meminfo")?;
        let disk = rustix::fs::statvfs(data)?;
        let line = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let machine_id = line("/etc/machine-id");
        let uuid = line("/sys/class/dmi/id/product_uuid").to_lowercase();
        Ok(Self {
            processors: std::thread::available_parallelism()?.get() as u64,
            memory_bytes: kibibytes(&memory, "MemTotal").unwrap_or_default() << 10,
            swap_bytes: kibibytes(&memory, "SwapTotal").unwrap_or_default() << 10,
            disk_bytes: disk.f_blocks * disk.f_frsize,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            os_image: os_image(&line("/etc/os-release")),
            architecture: architecture().to_owned(),
            system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
            machine_id,
            boot_id: line("/proc/sys/kernel/random/boot_id"),
        })
    }

    /// What there is, as quantities by resource.
    pub fn capacity(&self) -> BTreeMap<String, String> {
        let kibibytes = |bytes: u64| format!("{}Ki", bytes >> 10);
        self.resources(kibibytes(self.memory_bytes), kibibytes(self.disk_bytes))
    }

    /// What pods may have of it.
    pub fn allocatable(&self) -> BTreeMap<String, String> {
        let memory = self.memory_bytes.saturating_sub(MEMORY_RESERVE_BYTES) >> 10;
        let disk = self.disk_bytes - disk_reserve_bytes(self.disk_bytes);
        self.resources(format!("{memory}Ki"), disk.to_string())
    }

    fn resources(&self, memory: String, disk: String) -> BTreeMap<String, String> {
        let pairs = [
            ("cpu", self.processors.to_string()),
            ("ephemeral-storage", disk),
            ("memory", memory),
            ("pods", PODS_MAX.to_string()),
        ];
        pairs.map(|(name, quantity)| (name.to_owned(), quantity)).into()
    }
}

impl Load {
    /// Measures.
    pub fn read(data: &Path) -> io::Result<Self> {
        let memory = std::fs::read_to_string("/proc/meminfo")?;
        let available = kibibytes(&memory, "MemAvailable").unwrap_or_default() << 10;
        let disk = rustix::fs::statvfs(data)?;
        Ok(Self {
            memory_available_bytes: available,
            memory_pressure: available < MEMORY_RESERVE_BYTES,
            disk_pressure: scarce(
                (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize),
                (disk.f_favail, disk.f_files),
            ),
        })
    }

    /// The conditions that say that something is short, each with its words.
    pub fn pressures(&self) -> Vec<(&'static str, String)> {
        let memory = self.memory_pressure.then(|| {
            let words = format!("less than {} MiB are available", MEMORY_RESERVE_BYTES >> 20);
            (MEMORY_PRESSURE, format!("kubelet has insufficient memory available: {words}"))
        });
        let disk = self
            .disk_pressure
            .map(|scarce| (DISK_PRESSURE, format!("kubelet has disk pressure: {scarce} under its data")));
        memory.into_iter().chain(disk).collect()
    }
}

/// What is kept free of a disk of this size.
fn disk_reserve_bytes(disk_bytes: u64) -> u64 {
    (disk_bytes / DISK_RESERVE_DIVISOR).min(DISK_RESERVE_BYTES_MAX)
}

/// What is short of a disk; free and all, of bytes and of inodes. File systems without inodes say that they have none.
fn scarce(bytes: (u64, u64), inodes: (u64, u64)) -> Option<Scarce> {
    let least = disk_reserve_bytes(bytes.1);
    if bytes.0 < least {
        return Some(Scarce::Bytes(least));
    }
    let least = (inodes.1 / INODES_RESERVE_DIVISOR).min(INODES_RESERVE_MAX);
    (inodes.0 < least).then_some(Scarce::Inodes(least))
}

/// Go's name of the architecture that this was built for.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// `PRETTY_NAME` of os-release(5).
fn os_image(text: &str) -> String {
    let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    value.map_or_else(|| "Linux".to_owned(), |value| value.trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_from_pods_is_subtracted() {
        let machine =
            Machine { processors: 4, memory_bytes: 8 << 30, disk_bytes: 100_000, ..Machine::default() };
        assert_eq!(machine.capacity()["memory"], "8388608Ki");
        assert_eq!(machine.capacity()["ephemeral-storage"], "97Ki");
        let allocatable = machine.allocatable();
        assert_eq!(allocatable["memory"], "8286208Ki");
        assert_eq!(allocatable["ephemeral-storage"], "90000");
        assert_eq!((&*allocatable["cpu"], &*allocatable["pods"]), ("4", "110"));
    }

    #[test]
    fn a_big_disk_is_short_by_bytes_and_not_by_its_share() {
        let check = |free: u64, all: u64, expect: Option<Scarce>| {
            assert_eq!(scarce((free, all), (0, 0)), expect, "{free} of {all}");
        };
        let (gib, mib) = (1 << 30, 1 << 20);
        // 8 % of a big disk.
        check(21 * gib, 252 * gib, None);
        check(2 * gib, 252 * gib, None);
        check(2 * gib - 1, 252 * gib, Some(Scarce::Bytes(2 * gib)));
        check(100 * mib, 1000 * mib, None);
        check(100 * mib - 1, 1000 * mib, Some(Scarce::Bytes(100 * mib)));
        check(0, 0, None);
        assert_eq!(scarce((gib, gib), (99_999, 16 << 20)), Some(Scarce::Inodes(100_000)));
        assert_eq!(scarce((gib, gib), (50, 1000)), None);
        assert_eq!(scarce((gib, gib), (49, 1000)), Some(Scarce::Inodes(50)));
        let big = Machine { disk_bytes: 252 * gib, ..Machine::default() };
        assert_eq!(big.allocatable()["ephemeral-storage"], (250 * gib).to_string());
    }

    #[test]
    fn a_pressure_says_how_much_must_be_free() {
        let load =
            Load { memory_pressure: true, disk_pressure: Some(Scarce::Bytes(2 << 30)), ..Load::default() };
        let expect = [
            ("MemoryPressure", "kubelet has insufficient memory available: less than 100 MiB are available"),
            ("DiskPressure", "kubelet has disk pressure: less than 2048 MiB are free under its data"),
        ];
        assert_eq!(load.pressures(), expect.map(|(kind, words)| (kind, words.to_owned())));
        assert_eq!(Load::default().pressures(), []);
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::read(Path::new("/")).expect("proc is mounted");
        assert!(machine.processors > 0 && machine.memory_bytes > 0 && machine.disk_bytes > 0);
        assert!(!machine.kernel.is_empty() && !machine.boot_id.is_empty());
        assert!(Load::read(Path::new("/")).expect("proc is mounted").memory_available_bytes > 0);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"A B\"\n"), "A B");
    }
}

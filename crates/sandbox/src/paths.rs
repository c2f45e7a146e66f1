//! Paths of `/proc` and `/sys` that say too much about the host, or would change it.

/// Hidden behind nothing.
pub const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// What of a processor tells how warm it is, and so what its neighbours do; hidden where the machine has it.
const WARMTH: (&str, &str) = ("/sys/devices/system/cpu", "thermal_throttle");

/// All that is hidden on this machine unless a specification says otherwise.
pub fn masked() -> Vec<String> {
    let processors = std::fs::read_dir(WARMTH.0).into_iter().flatten().flatten();
    let warmth = processors.map(|entry| entry.path().join(WARMTH.1)).filter(|path| path.exists());
    let warmth = warmth.map(|path| path.to_string_lossy().into_owned());
    MASKED.iter().map(ToString::to_string).chain(warmth).collect()
}

/// Visible but not writable.
pub const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

//! What a group used.

use std::path::Path;

use crate::cgroup::layout::Layout;
use crate::cgroup::tree::Tree;

/// Use of the machine at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since the group was made, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory that cannot be taken back easily: all of it without inactive file pages.
    pub memory_working_set_bytes: u64,
    /// All memory, caches included.
    pub memory_bytes: u64,
}

/// Reads `group`; `None` if it is gone.
pub fn usage(tree: &Tree, group: &str) -> Option<Usage> {
    let memory = tree.directory("memory", group)?;
    let inactive = |name: &str| value(&read(&memory, "memory.stat").unwrap_or_default(), name);
    let (memory_bytes, cpu_ns, inactive_bytes): (u64, u64, Option<u64>) = match tree.layout() {
        Layout::V1 { .. } => {
            let cpu = tree.directory("cpuacct", group)?;
            let total = read(&memory, "memory.usage_in_bytes")?.trim().parse().ok()?;
            let cpu_ns = read(&cpu, "cpuacct.usage")?.trim().parse().ok()?;
            (total, cpu_ns, inactive("total_inactive_file"))
        }
        Layout::V2 { .. } => {
            let total = read(&memory, "memory.current")?.trim().parse().ok()?;
            let cpu_us = value(&read(&memory, "cpu.stat")?, "usage_usec").unwrap_or_default();
            (total, cpu_us.saturating_mul(1000), inactive("inactive_file"))
        }
    };
    let memory_working_set_bytes = memory_bytes.saturating_sub(inactive_bytes.unwrap_or_default());
    Some(Usage { cpu_ns, memory_working_set_bytes, memory_bytes })
}

fn read(directory: &Path, file: &str) -> Option<String> {
    std::fs::read_to_string(directory.join(file)).ok()
}

/// The number behind `name` in a file of lines `name number`.
fn value(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_whole() {
        let text = "inactive_file_more 1\ninactive_file 42\n";
        assert_eq!(value(text, "inactive_file"), Some(42));
        assert_eq!(value(text, "inactive"), None);
    }
}

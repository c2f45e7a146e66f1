//! System calls by name, for each architecture: plain data, and which of the tables is this machine's.

/// Numbers on aarch64.
#[path = "syscalls_aarch64.rs"]
pub mod aarch64;
/// Numbers on x86-64.
#[path = "syscalls_x86_64.rs"]
pub mod x86_64;

/// What a filter has to know of an architecture.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// `AUDIT_ARCH_...`.
    pub audit: u32,
    /// Names and numbers.
    pub table: &'static [(&'static str, u32)],
}

/// x86-64.
pub const X86_64: Architecture = Architecture { audit: 0xc000_003e, table: x86_64::TABLE };
/// aarch64.
pub const AARCH64: Architecture = Architecture { audit: 0xc000_00b7, table: aarch64::TABLE };

/// This machine's.
pub const NATIVE: Architecture = if cfg!(target_arch = "aarch64") { AARCH64 } else { X86_64 };

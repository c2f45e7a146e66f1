//! The host's sysctls that we change, and how they come back.
//!
//! `route_localnet` is never among them: node ports on 127.0.0.1 are served by [`crate::loopback`].

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Values as they were before us, by name relative to `/proc/sys` (`net/ipv4/ip_forward`). The caller keeps this
/// and hands it back when the instance is wiped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record(pub BTreeMap<String, String>);

/// A sysctl that could not be read or written.
#[derive(Debug, Error)]
#[error("sysctl {name} cannot be {action}: is /proc/sys mounted read-only here?")]
pub struct SysctlError {
    name: String,
    action: &'static str,
    source: io::Error,
}

/// Reads one value, without its newline.
pub fn read(name: &str) -> Result<String, SysctlError> {
    std::fs::read_to_string(path(name))
        .map(|value| value.trim_end().to_owned())
        .map_err(|source| SysctlError { name: name.to_owned(), action: "read", source })
}

/// Writes one value.
pub(crate) fn write(name: &str, value: &str) -> Result<(), SysctlError> {
    std::fs::write(path(name), value).map_err(|source| SysctlError {
        name: name.to_owned(),
        action: "written",
        source,
    })
}

/// `/proc/sys/net` shows the namespace of the thread that opens it.
fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}

//! The only place with `unsafe`: the kernel's calls behind safe functions, and nothing decided here.

#![expect(unsafe_code, reason = "system calls")]

pub mod identity;
pub mod io;
pub mod mount;
pub mod process;

use std::ffi::CString;
use std::io::{Error, Result};

/// A path or word as the kernel takes it.
pub fn c(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::from_raw_os_error(libc::EINVAL))
}

/// The result of a call: negative means that `errno` says why.
pub fn check(result: libc::c_long) -> Result<libc::c_long> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

/// The same for calls that give an `int`.
pub fn check_int(result: libc::c_int) -> Result<libc::c_int> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

//! What is mounted where, as the kernel tells it (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// The mount points that a text of `/proc/PID/mountinfo` names, in the order of mounting.
pub fn points(mountinfo: &str) -> impl Iterator<Item = PathBuf> {
    mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).map(PathBuf::from)
}

/// The kernel writes blanks and the like in paths as octal numbers.
fn unescape(text: &str) -> OsString {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let Some((first, rest)) = bytes.split_first() {
        let digits =
            rest.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) => {
                plain.push(code);
                bytes = &rest[3..];
            }
            None => {
                plain.push(*first);
                bytes = rest;
            }
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_mounts_are_read_as_the_kernel_writes_them() {
        assert_eq!(unescape("/with\\040space/\\134x"), "/with space/\\x");
        assert_eq!(unescape("/plain\\04"), "/plain\\04");
        assert_eq!(unescape("a\\04"), "a\\04");
        assert_eq!(unescape("\\134x\\999"), "\\x\\999");
        let text = "1 2 0:1 / /d rw - tmpfs a rw\nnothing\n1 2 0:1 / /d/with\\040blank rw - tmpfs a rw\n";
        assert_eq!(points(text).collect::<Vec<_>>(), [PathBuf::from("/d"), PathBuf::from("/d/with blank")]);
    }
}

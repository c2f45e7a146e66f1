//! Why a program could not be executed, in words that help: pure, from the first bytes of the file.

use crate::protocol::reason;

/// How much of the file is needed: the kernel itself looks no further for a script, and program headers of real
/// programs lie here.
pub const HEAD_BYTES: usize = 4096;

/// Machines of ELF, by number.
const MACHINES: [(u16, &str); 9] = [
    (3, "x86 (32 bit)"),
    (20, "powerpc"),
    (21, "powerpc64"),
    (22, "s390x"),
    (40, "arm (32 bit)"),
    (62, "x86_64"),
    (183, "aarch64"),
    (243, "riscv64"),
    (258, "loongarch64"),
];
const NATIVE_MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
const PROGRAM_HEADER_INTERPRETER: u32 = 3;

/// What the file at `path` is, judged by its `head`, after the kernel refused to execute it; `exists` looks for
/// other files in the same root. `None` if the file looks sound.
pub fn explain(path: &str, head: &[u8], exists: impl Fn(&str) -> bool) -> Option<(u8, String)> {
    if let Some(rest) = head.strip_prefix(b"#!") {
        return script(path, rest, exists);
    }
    if !head.starts_with(b"\x7fELF") {
        return Some((reason::UNKNOWN_FORMAT, path.to_owned()));
    }
    let machine = number::<2>(head, 18)? as u16;
    if machine != NATIVE_MACHINE {
        let known =
            MACHINES.iter().find(|(number, _)| *number == machine).map(|(_, name)| (*name).to_owned());
        return Some((reason::OTHER_ARCHITECTURE, known.unwrap_or_else(|| format!("ELF machine {machine}"))));
    }
    let loader = interpreter(head)?;
    (!exists(&loader)).then_some((reason::MISSING_LOADER, loader))
}

fn script(path: &str, rest: &[u8], exists: impl Fn(&str) -> bool) -> Option<(u8, String)> {
    let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if line.ends_with(b"\r") {
        return Some((reason::CARRIAGE_RETURN, path.to_owned()));
    }
    let line = String::from_utf8_lossy(line);
    let interpreter = line.split_whitespace().next().unwrap_or_default().to_owned();
    (!exists(&interpreter)).then_some((reason::MISSING_INTERPRETER, interpreter))
}

/// The loader that a 64-bit ELF asks for.
fn interpreter(head: &[u8]) -> Option<String> {
    let (table, size, count) = (number::<8>(head, 32)?, number::<2>(head, 54)?, number::<2>(head, 56)?);
    for index in 0..count {
        let start = usize::try_from(table.checked_add(index * size)?).ok()?;
        if number::<4>(head, start)? as u32 != PROGRAM_HEADER_INTERPRETER {
            continue;
        }
        let offset = usize::try_from(number::<8>(head, start.checked_add(8)?)?).ok()?;
        let length = usize::try_from(number::<8>(head, start.checked_add(32)?)?).ok()?;
        let text = head.get(offset..offset.checked_add(length)?)?;
        return Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
    }
    None
}

/// A little-endian number, as on both architectures that we run on.
fn number<const SIZE: usize>(head: &[u8], offset: usize) -> Option<u64> {
    let bytes = head.get(offset..offset.checked_add(SIZE)?)?;
    Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &[u8], there: &[&str], expect: Option<(u8, &str)>) {
        let found = explain("/x", head, |path| there.contains(&path));
        assert_eq!(found, expect.map(|(reason, detail)| (reason, detail.to_owned())));
    }

    fn elf(machine: u16, loader: &str) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[..4].copy_from_slice(b"\x7fELF");
        head[18..20].copy_from_slice(&machine.to_le_bytes());
        head[32] = 64;
        head[54] = 56;
        head[56] = 1;
        head.extend_from_slice(&[0; 56]);
        head[64] = 3;
        head[72] = 120;
        head[96] = loader.len() as u8;
        head.extend_from_slice(loader.as_bytes());
        head
    }

    #[test]
    fn scripts() {
        check(b"#!/bin/sh\necho", &["/bin/sh"], None);
        check(b"#! /bin/bash -e\n", &[], Some((reason::MISSING_INTERPRETER, "/bin/bash")));
        check(b"#!/bin/sh\r\necho\r\n", &["/bin/sh"], Some((reason::CARRIAGE_RETURN, "/x")));
        check(b"echo hello\n", &[], Some((reason::UNKNOWN_FORMAT, "/x")));
        check(b"", &[], Some((reason::UNKNOWN_FORMAT, "/x")));
    }

    #[test]
    fn programs() {
        check(&elf(NATIVE_MACHINE, "/lib/ld.so\0"), &[], Some((reason::MISSING_LOADER, "/lib/ld.so")));
        check(&elf(NATIVE_MACHINE, "/lib/ld.so\0"), &["/lib/ld.so"], None);
        check(&elf(243, "/lib/ld.so\0"), &[], Some((reason::OTHER_ARCHITECTURE, "riscv64")));
        check(&elf(9999, ""), &[], Some((reason::OTHER_ARCHITECTURE, "ELF machine 9999")));
    }

    #[test]
    fn cut_and_hostile_headers_say_nothing() {
        let whole = elf(NATIVE_MACHINE, "/lib/ld.so\0");
        for length in 4..whole.len() {
            let _ = explain("/x", &whole[..length], |_| false);
        }
        let mut hostile = whole;
        hostile[32..40].fill(0xff);
        check(&hostile, &[], None);
    }
}

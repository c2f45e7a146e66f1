//! The device filter of cgroup version 2: a small program that the kernel asks before a device is opened.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use crate::spec::Device;

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// Kinds and accesses as the kernel numbers them in the filter's context.
const KIND_BLOCK: i32 = 1;
const KIND_CHARACTER: i32 = 2;
const ACCESS_MAKE: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;

/// One instruction: `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

#[repr(C)]
struct LoadAttributes {
    prog_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Allows `devices` and the making of nodes in the group at `directory`, and nothing else.
pub fn restrict_devices(directory: &Path, devices: &[Device]) -> io::Result<()> {
    let instructions = program(devices);
    let group = File::open(directory)?;
    let load = LoadAttributes {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: `load` has the layout of this command's attributes; its pointers outlive the call.
    let program =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<LoadAttributes>()) };
    if program < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
    let program = unsafe { OwnedFd::from_raw_fd(program as i32) };
    let attach = AttachAttributes {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: `attach` has the layout of this command's attributes.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<AttachAttributes>())
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The filter. The context is `struct bpf_cgroup_dev_ctx`: access and kind in one word, major, minor.
fn program(devices: &[Device]) -> Vec<Instruction> {
    const LOAD_WORD: u8 = 0x61;
    const AND_IMMEDIATE: u8 = 0x54;
    const SHIFT_RIGHT: u8 = 0x74;
    const MOVE_REGISTER: u8 = 0xbc;
    let op = |code, to: u8, from: u8, offset, immediate| Instruction {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    };
    // r2: kind, r3: access, r4: major, r5: minor.
    let mut out = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(MOVE_REGISTER, 3, 2, 0, 0),
        op(AND_IMMEDIATE, 2, 0, 0, 0xffff),
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ];
    // Making a node is harmless where it cannot be opened, and archives hold nodes.
    out.extend([
        op(JUMP_UNEQUAL, 3, 0, 2, ACCESS_MAKE),
        op(MOVE_IMMEDIATE, 0, 0, 0, 1),
        op(EXIT, 0, 0, 0, 0),
    ]);
    for device in devices {
        let kind = if device.block { KIND_BLOCK } else { KIND_CHARACTER };
        let mut checks = vec![(2, kind), (4, device.major as i32)];
        if device.minor != u32::MAX {
            checks.push((5, device.minor as i32));
        }
        let access = access(&device.access);
        let steps = checks.len() as i16 + 3;
        for (index, (register, value)) in checks.into_iter().enumerate() {
            // Past the rest of this rule: the remaining checks, three steps of access, and the verdict.
            out.push(op(JUMP_UNEQUAL, register, 0, steps - index as i16 + 1, value));
        }
        out.push(op(MOVE_REGISTER, 1, 3, 0, 0));
        out.push(op(AND_IMMEDIATE, 1, 0, 0, !access));
        out.push(op(JUMP_UNEQUAL, 1, 0, 2, 0));
        out.extend([op(MOVE_IMMEDIATE, 0, 0, 0, 1), op(EXIT, 0, 0, 0, 0)]);
    }
    out.extend([op(MOVE_IMMEDIATE, 0, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    out
}

const JUMP_UNEQUAL: u8 = 0x55;
const MOVE_IMMEDIATE: u8 = 0xb4;
const EXIT: u8 = 0x95;

fn access(letters: &str) -> i32 {
    letters.chars().fold(0, |bits, letter| {
        bits | match letter {
            'r' => ACCESS_READ,
            'w' => ACCESS_WRITE,
            'm' => ACCESS_MAKE,
            _ => 0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the few instructions that we emit, as the kernel does.
    fn run(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> i32 {
        let mut registers = [0_i32; 8];
        let mut at = 0;
        loop {
            let Instruction { code, registers: pair, offset, immediate } = program[at];
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            at += 1;
            match code {
                0x61 => registers[to] = [access << 16 | kind, major, minor][offset as usize / 4],
                0x54 => registers[to] &= immediate,
                0x74 => registers[to] = ((registers[to] as u32) >> immediate) as i32,
                0xbc => registers[to] = registers[from],
                0xb4 => registers[to] = immediate,
                0x55 if registers[to] != immediate => at += offset as usize,
                0x55 => {}
                0x95 => return registers[0],
                _ => panic!("an instruction that we do not emit"),
            }
        }
    }

    fn device(block: bool, major: u32, minor: u32, access: &str) -> Device {
        Device { path: String::new(), block, major, minor, mode: 0, uid: 0, gid: 0, access: access.into() }
    }

    #[test]
    fn only_what_is_listed_can_be_opened() {
        let rules = [device(false, 1, 3, "rwm"), device(false, 136, u32::MAX, "rw"), device(true, 8, 0, "r")];
        let program = program(&rules);
        assert_eq!(run(&program, KIND_CHARACTER, ACCESS_READ | ACCESS_WRITE, 1, 3), 1);
        assert_eq!(run(&program, KIND_CHARACTER, ACCESS_READ, 1, 4), 0);
        assert_eq!(run(&program, KIND_BLOCK, ACCESS_READ, 1, 3), 0);
        assert_eq!(run(&program, KIND_CHARACTER, ACCESS_READ, 136, 77), 1);
        assert_eq!(run(&program, KIND_BLOCK, ACCESS_READ, 8, 0), 1);
        assert_eq!(run(&program, KIND_BLOCK, ACCESS_READ | ACCESS_WRITE, 8, 0), 0);
        assert_eq!(run(&program, KIND_BLOCK, ACCESS_MAKE, 254, 0), 1, "making a node is allowed");
        assert_eq!(run(&program, KIND_BLOCK, ACCESS_READ, 254, 0), 0);
    }
}

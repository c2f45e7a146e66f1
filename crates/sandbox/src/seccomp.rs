//! Which system calls a container may make: rules as data, compiled to the kernel's classic BPF.
//!
//! The default profile forbids what reaches past the container or is useless in it, unless a capability calls for
//! it, as the default profiles of other runtimes do. Calls younger than this table answer `ENOSYS`, so that C
//! libraries fall back to the older ones. A call of another architecture (32-bit, x32) answers `ENOSYS` as well.
//! Profiles in OCI's JSON are compiled if they are simple: default action, allow and errno by name, equality and
//! masked equality of one argument.

use serde::Deserialize;

use crate::capabilities::Set;
use crate::sys::syscalls::{Architecture, NATIVE};

/// The longest program that the kernel takes.
const MAX_INSTRUCTIONS: usize = 4096;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Offsets in `struct seccomp_data`.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

/// Instructions of classic BPF.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Flags of `clone` that make namespaces, but for the cgroup namespace's predecessors: mount, cgroup, UTS, IPC,
/// user, process ids, network.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// Address families that reach the hypervisor.
const AF_VSOCK: u64 = 40;
/// Execution domains that `personality` may ask for: Linux, with the flags for a 32-bit machine and its query.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Forbidden unless the capability is in the bounding set. An empty name: always.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "_sysctl",
            "add_key",
            "afs_syscall",
            "getpmsg",
            "io_uring_enter",
            "io_uring_register",
            "io_uring_setup",
            "kexec_file_load",
            "kexec_load",
            "keyctl",
            "map_shadow_stack",
            "migrate_pages",
            "move_pages",
            "nfsservctl",
            "putpmsg",
            "request_key",
            "security",
            "swapoff",
            "swapon",
            "sysfs",
            "tuxcall",
            "uselib",
            "userfaultfd",
            "ustat",
            "vserver",
        ],
    ),
    ("DAC_READ_SEARCH", &["open_by_handle_at"]),
    (
        "SYS_ADMIN",
        &[
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "listmount",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "pivot_root",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "statmount",
            "umount2",
            "unshare",
        ],
    ),
    ("SYS_BOOT", &["reboot"]),
    ("SYS_CHROOT", &["chroot"]),
    ("SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("SYS_PACCT", &["acct"]),
    ("SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev"]),
    ("SYS_RAWIO", &["ioperm", "iopl"]),
    ("SYS_TIME", &["clock_adjtime", "clock_settime", "settimeofday"]),
    ("SYS_TTY_CONFIG", &["vhangup"]),
    ("SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("SYSLOG", &["syslog"]),
    ("BPF", &["bpf"]),
    ("PERFMON", &["perf_event_open"]),
];

/// What to do with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Allow,
    Fail(u32),
    Kill,
    Log,
}

/// One condition on one argument: `(argument & mask) == value` has to be `equal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Condition {
    argument: u32,
    mask: u64,
    value: u64,
    equal: bool,
}

/// The alternatives for one call: the first whose condition holds (or that has none) decides.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    number: u32,
    alternatives: Vec<(Option<Condition>, Action)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    operand: u32,
}

/// Why a profile cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not the JSON of a profile.
    #[error("it is not a seccomp profile: {0}")]
    Json(#[from] serde_json::Error),
    /// It uses what is not compiled here.
    #[error("{0} is not supported; use RuntimeDefault, or leave it out of the profile")]
    Unsupported(String),
    /// More rules than the kernel takes.
    #[error("it compiles to more than {MAX_INSTRUCTIONS} instructions; use fewer rules")]
    TooLong,
}

/// The default profile for a container with these capabilities in its bounding set, in the kernel's form.
pub fn runtime_default(bounding: Set) -> Vec<u8> {
    let rules = default_rules(&NATIVE, bounding);
    encode(&compile(&NATIVE, &rules, Action::Fail(ENOSYS)))
}

/// Compiles a profile in OCI's JSON (as Docker and Kubernetes use it).
pub fn compile_profile(json: &str, bounding: Set) -> Result<Vec<u8>, ProfileError> {
    let profile: Profile = serde_json::from_str(json)?;
    let default = action(&profile.default_action, profile.default_errno)?;
    let mut rules: Vec<Rule> = Vec::new();
    for entry in profile.syscalls {
        if !entry.applies(bounding) {
            continue;
        }
        let action = action(&entry.action, entry.errno)?;
        let condition = entry.condition()?;
        for name in entry.names {
            // Names that this machine does not have are meant for others.
            let Some(number) = number(&NATIVE, &name) else { continue };
            match rules.iter_mut().find(|rule| rule.number == number) {
                Some(rule) => rule.alternatives.push((condition, action)),
                None => rules.push(Rule { number, alternatives: vec![(condition, action)] }),
            }
        }
    }
    let program = compile(&NATIVE, &rules, default);
    if program.len() > MAX_INSTRUCTIONS {
        return Err(ProfileError::TooLong);
    }
    Ok(encode(&program))
}

fn default_rules(architecture: &Architecture, bounding: Set) -> Vec<Rule> {
    let forbidden = |name: &str| {
        let mut groups = FORBIDDEN.iter().filter(|(_, names)| names.contains(&name));
        groups.any(|(capability, _)| {
            // SYS_ADMIN was all of these before they were split from it.
            let split = ["SYSLOG", "BPF", "PERFMON"].contains(capability) && bounding.contains("SYS_ADMIN");
            capability.is_empty() || !(bounding.contains(capability) || split)
        })
    };
    let equal = |argument, mask, value| Some(Condition { argument, mask, value, equal: true });
    let administers = bounding.contains("SYS_ADMIN");
    let rule = |&(name, number): &(&str, u32)| {
        let alternatives = match name {
            _ if forbidden(name) => vec![(None, Action::Fail(EPERM))],
            "clone" if !administers => {
                vec![(equal(0, CLONE_NAMESPACES, 0), Action::Allow), (None, Action::Fail(EPERM))]
            }
            // Its flags lie in memory, where a filter cannot look: C libraries fall back to `clone`.
            "clone3" if !administers => vec![(None, Action::Fail(ENOSYS))],
            "socket" => vec![(equal(0, 0xffff_ffff, AF_VSOCK), Action::Fail(EPERM)), (None, Action::Allow)],
            "personality" => {
                let allowed =
                    PERSONALITIES.iter().map(|value| (equal(0, 0xffff_ffff, *value), Action::Allow));
                allowed.chain([(None, Action::Fail(EPERM))]).collect()
            }
            _ => vec![(None, Action::Allow)],
        };
        Rule { number, alternatives }
    };
    architecture.table.iter().map(rule).collect()
}

fn number(architecture: &Architecture, name: &str) -> Option<u32> {
    architecture.table.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// Calls from a number on that share one fate: its alternatives.
type Run<'a> = (u32, &'a [(Option<Condition>, Action)]);

/// A binary search over the numbers: runs of calls with the same fate share one leaf.
fn compile(architecture: &Architecture, rules: &[Rule], default: Action) -> Vec<Instruction> {
    let mut sorted = rules.to_vec();
    sorted.sort_by_key(|rule| rule.number);
    let fallback = vec![(None, default)];
    let mut runs: Vec<Run<'_>> = Vec::new();
    let mut next = 0;
    let push = |runs: &mut Vec<_>, start, fate| match runs.last() {
        Some((_, last)) if *last == fate => {}
        _ => runs.push((start, fate)),
    };
    for rule in &sorted {
        if rule.number > next {
            push(&mut runs, next, &fallback);
        }
        push(&mut runs, rule.number, rule.alternatives.as_slice());
        next = rule.number + 1;
    }
    push(&mut runs, next, &fallback);
    let mut out = vec![
        load(OFFSET_ARCHITECTURE),
        Instruction { code: JUMP_EQUAL, if_true: 1, if_false: 0, operand: architecture.audit },
        ret(Action::Fail(ENOSYS)),
        load(OFFSET_NUMBER),
    ];
    out.extend(search(&runs, default));
    out
}

fn search(runs: &[Run<'_>], default: Action) -> Vec<Instruction> {
    if let [(_, alternatives)] = runs {
        return leaf(alternatives, default);
    }
    let (low, high) = runs.split_at(runs.len() / 2);
    let (left, right) = (search(low, default), search(high, default));
    let at = |if_true: usize, if_false: usize| Instruction {
        code: JUMP_GREATER_EQUAL,
        if_true: if_true as u8,
        if_false: if_false as u8,
        operand: high[0].0,
    };
    let mut out = if left.len() <= usize::from(u8::MAX) {
        vec![at(left.len(), 0)]
    } else {
        // Too far for a conditional jump: step over an unconditional one.
        vec![at(0, 1), Instruction { code: 0x05, if_true: 0, if_false: 0, operand: left.len() as u32 }]
    };
    out.extend(left);
    out.extend(right);
    out
}

fn leaf(alternatives: &[(Option<Condition>, Action)], default: Action) -> Vec<Instruction> {
    let mut out = Vec::new();
    for (condition, action) in alternatives {
        let Some(condition) = condition else {
            out.push(ret(*action));
            return out;
        };
        let low = OFFSET_ARGUMENTS + condition.argument * 8;
        let word = |offset, shift: u32| {
            let (mask, value) = ((condition.mask >> shift) as u32, (condition.value >> shift) as u32);
            [
                load(offset),
                Instruction { code: AND, if_true: 0, if_false: 0, operand: mask },
                Instruction { code: JUMP_EQUAL, if_true: 0, if_false: 0, operand: value },
            ]
        };
        // Both words equal: the verdict; either not: past it. For inequality the other way round.
        let (mut first, mut second) = (word(low, 0), word(low + 4, 32));
        if condition.equal {
            first[2].if_false = 4;
            second[2].if_false = 1;
        } else {
            first[2].if_false = 3;
            second[2].if_true = 1;
        }
        out.extend(first);
        out.extend(second);
        out.push(ret(*action));
    }
    out.push(ret(default));
    out
}

fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD, if_true: 0, if_false: 0, operand: offset }
}

fn ret(action: Action) -> Instruction {
    let operand = match action {
        Action::Allow => 0x7fff_0000,
        Action::Log => 0x7ffc_0000,
        Action::Fail(errno) => 0x0005_0000 | (errno & 0xffff),
        Action::Kill => 0x8000_0000,
    };
    Instruction { code: RETURN, if_true: 0, if_false: 0, operand }
}

fn encode(program: &[Instruction]) -> Vec<u8> {
    let mut out = Vec::with_capacity(program.len() * 8);
    for Instruction { code, if_true, if_false, operand } in program {
        out.extend_from_slice(&code.to_ne_bytes());
        out.extend_from_slice(&[*if_true, *if_false]);
        out.extend_from_slice(&operand.to_ne_bytes());
    }
    out
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    default_action: String,
    #[serde(rename = "defaultErrnoRet")]
    default_errno: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Entry>,
    /// Other architectures answer `ENOSYS` here, whatever is listed.
    #[serde(default, rename = "archMap")]
    _arch_map: Option<serde_json::Value>,
    #[serde(default, rename = "architectures")]
    _architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    names: Vec<String>,
    action: String,
    #[serde(rename = "errnoRet")]
    errno: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Guard,
    #[serde(default)]
    excludes: Guard,
    #[serde(default, rename = "comment")]
    _comment: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Guard {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    #[serde(default, rename = "minKernel")]
    _min_kernel: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

impl Entry {
    fn applies(&self, bounding: Set) -> bool {
        let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let here = |guard: &Guard| guard.arches.iter().any(|name| name == machine);
        let has = |guard: &Guard| guard.caps.iter().all(|name| bounding.contains(name));
        (self.includes.arches.is_empty() || here(&self.includes))
            && has(&self.includes)
            && !here(&self.excludes)
            && (self.excludes.caps.is_empty() || !has(&self.excludes))
    }

    fn condition(&self) -> Result<Option<Condition>, ProfileError> {
        let arguments = self.args.as_deref().unwrap_or_default();
        let [argument] = arguments else {
            let several = !arguments.is_empty();
            return if several {
                Err(ProfileError::Unsupported("a rule on several arguments".into()))
            } else {
                Ok(None)
            };
        };
        if argument.index > 5 {
            return Err(ProfileError::Unsupported(format!("argument {}", argument.index)));
        }
        let condition =
            |mask, value, equal| Ok(Some(Condition { argument: argument.index, mask, value, equal }));
        match argument.op.as_str() {
            "SCMP_CMP_EQ" => condition(u64::MAX, argument.value, true),
            "SCMP_CMP_NE" => condition(u64::MAX, argument.value, false),
            "SCMP_CMP_MASKED_EQ" => condition(argument.value, argument.value_two, true),
            other => Err(ProfileError::Unsupported(format!("the comparison {other}"))),
        }
    }
}

fn action(name: &str, errno: Option<u32>) -> Result<Action, ProfileError> {
    match name {
        "SCMP_ACT_ALLOW" => Ok(Action::Allow),
        "SCMP_ACT_LOG" => Ok(Action::Log),
        "SCMP_ACT_ERRNO" => Ok(Action::Fail(errno.unwrap_or(EPERM))),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_PROCESS" | "SCMP_ACT_KILL_THREAD" => Ok(Action::Kill),
        other => Err(ProfileError::Unsupported(format!("the action {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::syscalls::{AARCH64, X86_64};

    const ALLOW: u32 = 0x7fff_0000;
    const DENY: u32 = 0x0005_0001;
    const UNKNOWN: u32 = 0x0005_0026;

    /// Runs a filter as the kernel does.
    fn run(program: &[Instruction], audit: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let (mut accumulator, mut at) = (0_u32, 0_usize);
        loop {
            let step = program[at];
            at += 1;
            match step.code {
                LOAD => {
                    accumulator = match step.operand {
                        0 => number,
                        4 => audit,
                        offset => {
                            let place = offset - OFFSET_ARGUMENTS;
                            (arguments[place as usize / 8] >> (place % 8 * 8)) as u32
                        }
                    }
                }
                AND => accumulator &= step.operand,
                0x05 => at += step.operand as usize,
                RETURN => return step.operand,
                code => {
                    let holds = if code == JUMP_EQUAL {
                        accumulator == step.operand
                    } else {
                        accumulator >= step.operand
                    };
                    at += usize::from(if holds { step.if_true } else { step.if_false });
                }
            }
        }
    }

    fn default_for(architecture: &Architecture, names: &[&str]) -> Vec<Instruction> {
        let rules = default_rules(architecture, Set::from_names(names.iter().copied()).unwrap());
        compile(architecture, &rules, Action::Fail(ENOSYS))
    }

    #[test]
    fn every_call_of_both_architectures_meets_its_own_fate() {
        for architecture in [X86_64, AARCH64] {
            let rules = default_rules(&architecture, Set::default());
            let program = compile(&architecture, &rules, Action::Fail(ENOSYS));
            assert!(program.len() < MAX_INSTRUCTIONS, "{}", program.len());
            for rule in &rules {
                let want = match rule.alternatives.as_slice() {
                    [(None, action)] => ret(*action).operand,
                    _ => continue,
                };
                assert_eq!(run(&program, architecture.audit, rule.number, [0; 6]), want, "{}", rule.number);
            }
            assert_eq!(run(&program, architecture.audit, 5000, [0; 6]), UNKNOWN);
            assert_eq!(run(&program, 0x4000_0003, 1, [0; 6]), UNKNOWN, "32-bit calls");
        }
    }

    #[test]
    fn namespaces_need_the_capability() {
        let (none, admin) = (default_for(&X86_64, &[]), default_for(&X86_64, &["SYS_ADMIN"]));
        let (unshare, clone, socket) = (272, 56, 41);
        assert_eq!(run(&none, X86_64.audit, unshare, [0; 6]), DENY);
        assert_eq!(run(&admin, X86_64.audit, unshare, [0; 6]), ALLOW);
        assert_eq!(run(&none, X86_64.audit, clone, [0x0120_0011, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(run(&none, X86_64.audit, clone, [0x1000_0000, 0, 0, 0, 0, 0]), DENY);
        assert_eq!(run(&none, X86_64.audit, socket, [40, 0, 0, 0, 0, 0]), DENY);
        assert_eq!(run(&none, X86_64.audit, socket, [2, 0, 0, 0, 0, 0]), ALLOW);
    }

    #[test]
    fn every_forbidden_name_is_a_call_of_some_architecture() {
        for (_, names) in FORBIDDEN {
            for name in *names {
                let known = number(&X86_64, name).or_else(|| number(&AARCH64, name));
                assert!(known.is_some(), "{name}");
            }
        }
    }

    #[test]
    fn a_simple_profile_is_compiled_and_others_are_refused_by_name() {
        let simple = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["mkdir","no_such_call"],"action":"SCMP_ACT_ERRNO","errnoRet":13},
            {"names":["kill"],"action":"SCMP_ACT_ERRNO","args":[{"index":1,"value":9,"op":"SCMP_CMP_EQ"}]}]}"#;
        assert!(!compile_profile(simple, Set::default()).unwrap().is_empty());
        let refused = |json: &str, word: &str| {
            let message = compile_profile(json, Set::default()).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        };
        refused(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "SCMP_ACT_NOTIFY");
        refused(r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#, "listenerPath");
        refused("[]", "not a seccomp profile");
    }

    proptest::proptest! {
        #[test]
        fn a_hostile_profile_never_panics(json in ".{0,300}") {
            let _ = compile_profile(&json, Set::default());
        }
    }
}

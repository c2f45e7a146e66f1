//! The parts of a superuser's power, by the kernel's numbers.

/// Names without `CAP_`, at their numbers.
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has when nothing is said: the same fourteen as with other runtimes.
pub const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Set(pub u64);

/// The five sets of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The most that any program here can ever have.
    pub bounding: Set,
    /// What counts.
    pub effective: Set,
    /// What may be made effective.
    pub permitted: Set,
    /// What programs with file capabilities inherit.
    pub inheritable: Set,
    /// What ordinary programs inherit without being root.
    pub ambient: Set,
}

impl Set {
    /// Every capability that has a name.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// The set of these names, with or without `CAP_`, in any case; the unknown name otherwise.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        names.into_iter().try_fold(Self::default(), |set, name| match number(name) {
            Some(number) => Ok(Self(set.0 | 1 << number)),
            None => Err(name.to_owned()),
        })
    }

    /// Both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This without the other.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether the capability `name` is in it.
    pub fn contains(self, name: &str) -> bool {
        number(name).is_some_and(|number| self.0 & (1 << number) != 0)
    }
}

impl Capabilities {
    /// `set` as bounding, permitted and effective; nothing inherited: a user other than root gets none of it.
    pub fn of(set: Set) -> Self {
        let none = Set::default();
        Self { bounding: set, effective: set, permitted: set, inheritable: none, ambient: none }
    }
}

impl Default for Capabilities {
    fn default() -> Self {
        Self::of(Set::from_names(DEFAULT).unwrap_or_default())
    }
}

fn number(name: &str) -> Option<usize> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    NAMES.iter().position(|known| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_with_prefix_and_case() {
        assert_eq!(Set::from_names(["CAP_CHOWN", "kill"]), Ok(Set(1 | 1 << 5)));
        assert_eq!(Set::from_names(["CAP_FLY"]), Err("CAP_FLY".to_owned()));
    }

    #[test]
    fn the_default_is_the_fourteen_that_other_runtimes_give() {
        assert_eq!(Capabilities::default().effective, Set(0xa804_25fb));
    }
}

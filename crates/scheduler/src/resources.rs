//! Amounts of resources.

use std::collections::BTreeMap;

use api::quantity::Quantity;

/// What a container is assumed to use if it does not say, for comparing nodes: a tenth of a core, 200 MiB.
const ASSUMED_CPU_MILLI: i64 = 100;
const ASSUMED_MEMORY_BYTES: i64 = 200 << 20;

/// Amounts, asked for or there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// Bytes of local disk.
    pub ephemeral_bytes: i64,
    /// All others, by name.
    pub others: BTreeMap<String, i64>,
}

impl Resources {
    /// From a resource list. `pods` is no resource that a pod asks for, and is left out.
    pub fn read<'a>(amounts: impl Iterator<Item = (&'a str, Quantity)>) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in amounts {
            match name {
                "cpu" => resources.cpu_milli = quantity.milli_value(),
                "memory" => resources.memory_bytes = quantity.value(),
                "ephemeral-storage" => resources.ephemeral_bytes = quantity.value(),
                "pods" => {}
                other => {
                    resources.others.insert(other.to_owned(), quantity.value());
                }
            }
        }
        resources
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, |a, b| a + b);
    }

    /// Takes `other` away.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, |a, b| a - b);
    }

    /// The larger of both, each resource for itself.
    pub fn maximum(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    /// What `other` names replaces what is here.
    pub fn replace(&mut self, other: &Self) {
        self.combine(other, |a, b| if b > 0 { b } else { a });
    }

    fn combine(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        self.cpu_milli = with(self.cpu_milli, other.cpu_milli);
        self.memory_bytes = with(self.memory_bytes, other.memory_bytes);
        self.ephemeral_bytes = with(self.ephemeral_bytes, other.ephemeral_bytes);
        for (name, amount) in &other.others {
            let own = self.others.entry(name.clone()).or_default();
            *own = with(*own, *amount);
        }
    }

    /// Fills in what a container is assumed to use.
    pub fn assume_defaults(&mut self) {
        if self.cpu_milli == 0 {
            self.cpu_milli = ASSUMED_CPU_MILLI;
        }
        if self.memory_bytes == 0 {
            self.memory_bytes = ASSUMED_MEMORY_BYTES;
        }
    }

    /// Whether nothing is asked for.
    pub fn is_nothing(&self) -> bool {
        self.cpu_milli == 0
            && self.memory_bytes == 0
            && self.ephemeral_bytes == 0
            && self.others.values().all(|amount| *amount == 0)
    }

    /// The resources that are lacking when `self` is asked of `allocatable` of which `used` is taken, and whether
    /// even an empty node would lack them.
    pub fn lacking(&self, allocatable: &Self, used: &Self) -> Vec<(String, bool)> {
        let mut lacking = Vec::new();
        let mut check = |name: &str, asked: i64, there: i64, taken: i64| {
            if asked > 0 && asked > there - taken {
                lacking.push((name.to_owned(), asked > there));
            }
        };
        check("cpu", self.cpu_milli, allocatable.cpu_milli, used.cpu_milli);
        check("memory", self.memory_bytes, allocatable.memory_bytes, used.memory_bytes);
        check("ephemeral-storage", self.ephemeral_bytes, allocatable.ephemeral_bytes, used.ephemeral_bytes);
        for (name, asked) in &self.others {
            let of = |resources: &Self| resources.others.get(name).copied().unwrap_or_default();
            check(name, *asked, of(allocatable), of(used));
        }
        lacking
    }
}

//! Amounts of resources.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

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

    /// Whether `self` can be had of `allocatable` of which `used` is taken.
    pub fn fits(&self, allocatable: &Self, used: &Self) -> bool {
        let enough = |asked: i64, there: i64, taken: i64| asked <= 0 || asked <= there - taken;
        let other = |resources: &Self, name: &str| resources.others.get(name).copied().unwrap_or_default();
        enough(self.cpu_milli, allocatable.cpu_milli, used.cpu_milli)
            && enough(self.memory_bytes, allocatable.memory_bytes, used.memory_bytes)
            && enough(self.ephemeral_bytes, allocatable.ephemeral_bytes, used.ephemeral_bytes)
            && self
                .others
                .iter()
                .all(|(name, asked)| enough(*asked, other(allocatable, name), other(used, name)))
    }

    /// Names each resource that is lacking when `self` is asked of `allocatable` of which `used` is taken, and
    /// whether even an empty node would lack it.
    pub fn lacking(&self, allocatable: &Self, used: &Self, mut name_it: impl FnMut(&str, bool)) {
        let mut check = |name: &str, asked: i64, there: i64, taken: i64| {
            if asked > 0 && asked > there - taken {
                name_it(name, asked > there);
            }
        };
        check("cpu", self.cpu_milli, allocatable.cpu_milli, used.cpu_milli);
        check("memory", self.memory_bytes, allocatable.memory_bytes, used.memory_bytes);
        check("ephemeral-storage", self.ephemeral_bytes, allocatable.ephemeral_bytes, used.ephemeral_bytes);
        for (name, asked) in &self.others {
            let of = |resources: &Self| resources.others.get(name).copied().unwrap_or_default();
            check(name, *asked, of(allocatable), of(used));
        }
    }
}

/// What a pod asks for (`resource.PodRequests`): containers and sidecars together, or the largest moment of its
/// start, whichever is more; and its overhead. The second result assumes something for who asks for nothing.
pub fn of_pod(spec: &core::PodSpec) -> (Resources, Resources) {
    let container = |container: &core::Container, assume: bool| {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let mut resources = Resources::read(requests.into_iter().flatten().filter_map(amount));
        // Only what is not said is assumed; an explicit zero is taken at its word.
        let silent = |name: &str| assume && requests.is_none_or(|requests| !requests.contains_key(name));
        if silent("cpu") {
            resources.cpu_milli = ASSUMED_CPU_MILLI;
        }
        if silent("memory") {
            resources.memory_bytes = ASSUMED_MEMORY_BYTES;
        }
        resources
    };
    let total = |assume: bool| {
        let mut running = Resources::default();
        spec.containers.iter().for_each(|c| running.add(&container(c, assume)));
        let (mut sidecars, mut starting) = (Resources::default(), Resources::default());
        for init in spec.init_containers.iter().flatten() {
            let mut moment = container(init, assume);
            if init.restart_policy.as_deref() == Some("Always") {
                running.add(&moment);
                sidecars.add(&moment);
                moment = sidecars.clone();
            } else {
                moment.add(&sidecars);
            }
            starting.maximum(&moment);
        }
        running.maximum(&starting);
        // Requests of the whole pod replace what its containers add up to.
        let whole = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        running.replace(&Resources::read(whole.into_iter().flatten().filter_map(amount)));
        running.add(&Resources::read(spec.overhead.iter().flatten().filter_map(amount)));
        running
    };
    (total(false), total(true))
}

fn amount<'a>((name, text): (&'a String, &Text)) -> Option<(&'a str, Quantity)> {
    Quantity::parse(&text.0).ok().map(|quantity| (name.as_str(), quantity))
}

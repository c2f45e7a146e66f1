//! Quality of service: how a pod is treated when the node runs short.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// Score of a guaranteed pod's containers, of those that asked for nothing, and the least of all others.
const GUARANTEED_SCORE: i32 = -997;
const BEST_EFFORT_SCORE: i32 = 1000;
const BURSTABLE_LEAST: i64 = 1000 + GUARANTEED_SCORE as i64;

/// The classes (`status.qosClass`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quality {
    /// Requests equal limits, for CPU and memory of every container.
    Guaranteed,
    /// Something is asked for.
    Burstable,
    /// Nothing is.
    BestEffort,
}

/// Thousandths of an amount; zero if it cannot be read, for validation lets none such in.
pub fn milli(text: &Text) -> i64 {
    Quantity::parse(&text.0).map_or(0, |quantity| quantity.milli_value())
}

/// Whole units of an amount.
pub fn units(text: &Text) -> i64 {
    Quantity::parse(&text.0).map_or(0, |quantity| quantity.value())
}

impl Quality {
    /// The class of a pod.
    pub fn of(pod: &core::Pod) -> Self {
        let spec = pod.spec.as_ref();
        let containers: Vec<&core::Container> = spec
            .into_iter()
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
            .collect();
        let counted = |list: Option<&BTreeMap<String, Text>>| -> BTreeMap<String, i64> {
            let named =
                list.into_iter().flatten().filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory"));
            named.map(|(name, text)| (name.clone(), milli(text))).filter(|(_, amount)| *amount > 0).collect()
        };
        let mut all_guaranteed = !containers.is_empty();
        let mut anything = false;
        for container in containers {
            let resources = container.resources.as_ref();
            let limits = counted(resources.and_then(|resources| resources.limits.as_ref()));
            let mut requests = counted(resources.and_then(|resources| resources.requests.as_ref()));
            anything |= !limits.is_empty() || !requests.is_empty();
            for (name, amount) in &limits {
                requests.entry(name.clone()).or_insert(*amount);
            }
            all_guaranteed &= limits.len() == 2 && requests == limits;
        }
        match (anything, all_guaranteed) {
            (false, _) => Self::BestEffort,
            (true, true) => Self::Guaranteed,
            (true, false) => Self::Burstable,
        }
    }

    /// The name of its cgroup, below which burstable and best-effort pods live.
    pub fn cgroup(self) -> &'static str {
        match self {
            Self::Guaranteed => "",
            Self::Burstable => "burstable",
            Self::BestEffort => "besteffort",
        }
    }

    /// How readily the kernel kills a container when memory runs out.
    pub fn oom_score(self, container: &core::Container, node_memory_bytes: i64) -> i32 {
        match self {
            Self::Guaranteed => GUARANTEED_SCORE,
            Self::BestEffort => BEST_EFFORT_SCORE,
            Self::Burstable => {
                let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
                let memory = requests.and_then(|requests| requests.get("memory")).map_or(0, units);
                let share = 1000 * memory / node_memory_bytes.max(1);
                i32::try_from((1000 - share).clamp(BURSTABLE_LEAST, 999)).unwrap_or(BEST_EFFORT_SCORE)
            }
        }
    }
}

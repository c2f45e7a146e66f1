//! Which of the nodes that will do is best. One function a view, all named in [`SCORES`] with upstream's weights.

use crate::affinity;
use crate::cluster::{Cluster, Node};
use crate::filters::{self, Request};
use crate::resources::Resources;
use crate::spread;

/// The best score of one view.
pub const MAX: i64 = 100;
/// Images below and above these sizes (times the number of containers) make no difference.
const IMAGE_SMALL_BYTES: i64 = 23 << 20;
const IMAGE_LARGE_BYTES: i64 = 1000 << 20;

/// How one view sees nodes, 0 to 100.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// All alike.
    Same(i64),
    /// Each, in their order.
    Each(Vec<i64>),
}

/// One view.
pub struct Score {
    /// Upstream's name of the plugin.
    pub name: &'static str,
    /// How much it counts.
    pub weight: i64,
    /// Looks at nodes, given by their slots. It changes nothing but which counts are kept.
    pub of: fn(&Request, &mut Cluster, &[usize]) -> View,
}

/// All views.
pub const SCORES: &[Score] = &[
    Score { name: "TaintToleration", weight: 3, of: taint_toleration },
    Score { name: "NodeAffinity", weight: 2, of: node_affinity },
    Score { name: "NodeResourcesFit", weight: 1, of: least_allocated },
    Score { name: "PodTopologySpread", weight: 2, of: spread::score },
    Score { name: "InterPodAffinity", weight: 2, of: affinity::score },
    Score { name: "NodeResourcesBalancedAllocation", weight: 1, of: balanced_allocation },
    Score { name: "ImageLocality", weight: 1, of: image_locality },
];

impl View {
    /// The score of the node at this place.
    pub fn at(&self, index: usize) -> i64 {
        match self {
            Self::Same(score) => *score,
            Self::Each(scores) => scores[index],
        }
    }

    fn of(cluster: &Cluster, slots: &[usize], score: impl Fn(&Node) -> i64) -> Self {
        Self::Each(slots.iter().map(|slot| cluster.slot(*slot).map_or(0, &score)).collect())
    }

    /// Scales the largest to 100; `reverse` makes the smallest best.
    fn normalised(self, reverse: bool) -> Self {
        let Self::Each(mut scores) = self else { return self };
        let largest = scores.iter().copied().max().unwrap_or_default();
        for score in &mut scores {
            let scaled = if largest == 0 { 0 } else { MAX * *score / largest };
            *score = if reverse { MAX - scaled } else { scaled };
        }
        Self::Each(scores)
    }
}

fn taint_toleration(request: &Request, cluster: &mut Cluster, slots: &[usize]) -> View {
    let tainted = |slot: &usize| cluster.slot(*slot).is_some_and(|node| !node.taints.is_empty());
    if !slots.iter().any(tainted) {
        return View::Same(MAX);
    }
    let soft: Vec<_> = request
        .pod
        .tolerations
        .iter()
        .filter(|toleration| matches!(toleration.effect.as_deref(), None | Some("" | "PreferNoSchedule")))
        .collect();
    let unborne = |node: &Node| {
        let taints = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        taints.filter(|taint| !soft.iter().any(|toleration| filters::tolerates(toleration, taint))).count()
            as i64
    };
    View::of(cluster, slots, unborne).normalised(true)
}

fn node_affinity(request: &Request, cluster: &mut Cluster, slots: &[usize]) -> View {
    let preferred = &request.pod.preferred;
    if preferred.is_empty() {
        return View::Same(0);
    }
    let weight = |node: &Node| {
        let matching = preferred.iter().filter(|(_, term)| term.matches(&node.name, &node.labels));
        matching.map(|(weight, _)| weight).sum()
    };
    View::of(cluster, slots, weight).normalised(false)
}

fn least_allocated(request: &Request, cluster: &mut Cluster, slots: &[usize]) -> View {
    let free = |asked: i64, there: i64| if asked > there { 0 } else { (there - asked) * MAX / there };
    let asked = &request.pod.assumed;
    View::of(cluster, slots, |node| {
        let (there, used) = (&node.allocatable, &node.assumed);
        let (mut sum, mut known) = (0, 0);
        if there.cpu_milli > 0 {
            sum += free(asked.cpu_milli + used.cpu_milli, there.cpu_milli);
            known += 1;
        }
        if there.memory_bytes > 0 {
            sum += free(asked.memory_bytes + used.memory_bytes, there.memory_bytes);
            known += 1;
        }
        if known == 0 { 0 } else { sum / known }
    })
}

fn balanced_allocation(request: &Request, cluster: &mut Cluster, slots: &[usize]) -> View {
    let asked = &request.pod.requests;
    // A pod that asks for nothing unbalances nothing.
    if asked.cpu_milli == 0 && asked.memory_bytes == 0 {
        return View::Same(0);
    }
    let balance = |cpu_milli: i64, memory_bytes: i64, there: &Resources| {
        let share = |used: i64, there: i64| (used as f64 / there as f64).min(1.0);
        let both = there.cpu_milli != 0 && there.memory_bytes != 0;
        let deviation = if both {
            ((share(cpu_milli, there.cpu_milli) - share(memory_bytes, there.memory_bytes)) / 2.0).abs()
        } else {
            0.0
        };
        ((1.0 - deviation) * MAX as f64) as i64
    };
    View::of(cluster, slots, |node| {
        let (cpu, memory) = (node.requested.cpu_milli, node.requested.memory_bytes);
        let with = balance(cpu + asked.cpu_milli, memory + asked.memory_bytes, &node.allocatable);
        MAX / 2 + (MAX / 2 + with - balance(cpu, memory, &node.allocatable)) / 2
    })
}

fn image_locality(request: &Request, cluster: &mut Cluster, slots: &[usize]) -> View {
    let images: Vec<(&str, f64)> = request
        .pod
        .images
        .iter()
        .map(|image| (image.as_str(), cluster.nodes_with_image(image) as f64 / cluster.len().max(1) as f64))
        .collect();
    if images.iter().all(|(_, spread)| *spread == 0.0) {
        return View::Same(0);
    }
    let largest = IMAGE_LARGE_BYTES * images.len() as i64;
    View::of(cluster, slots, |node| {
        let here = images.iter().filter_map(|(image, spread)| {
            // An image that few nodes have attracts less, lest all its pods end on them.
            node.images.get(*image).map(|size| (*size as f64 * spread) as i64)
        });
        let sum = here.sum::<i64>().clamp(IMAGE_SMALL_BYTES, largest);
        MAX * (sum - IMAGE_SMALL_BYTES) / (largest - IMAGE_SMALL_BYTES)
    })
}

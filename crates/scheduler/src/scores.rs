//! Which of the nodes that will do is best. One function a view, all named in [`SCORES`] with upstream's weights.

use std::collections::BTreeMap;

use api::selector::label::{Operator, Requirement, Selector};
use api::value::Str;

use crate::cluster::{Cluster, Node};
use crate::filters::{self, Request};
use crate::pod::{Pod, Spread};
use crate::resources::Resources;

/// The best score of one view.
const MAX: i64 = 100;
/// Images below and above these sizes (times the number of containers) make no difference.
const IMAGE_SMALL_BYTES: i64 = 23 << 20;
const IMAGE_LARGE_BYTES: i64 = 1000 << 20;

/// One view.
pub struct Score {
    /// Upstream's name of the plugin.
    pub name: &'static str,
    /// How much it counts.
    pub weight: i64,
    /// Scores of all nodes, 0 to 100, in their order.
    pub of: fn(&Request, &Cluster, &[&Node]) -> Vec<i64>,
}

/// All views.
pub const SCORES: &[Score] = &[
    Score { name: "TaintToleration", weight: 3, of: taint_toleration },
    Score { name: "NodeAffinity", weight: 2, of: node_affinity },
    Score { name: "NodeResourcesFit", weight: 1, of: least_allocated },
    Score { name: "PodTopologySpread", weight: 2, of: pod_topology_spread },
    Score { name: "NodeResourcesBalancedAllocation", weight: 1, of: balanced_allocation },
    Score { name: "ImageLocality", weight: 1, of: image_locality },
];

/// Scales the largest to 100; `reverse` makes the smallest best.
fn normalise(mut scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let largest = scores.iter().copied().max().unwrap_or_default();
    for score in &mut scores {
        let scaled = if largest == 0 { 0 } else { MAX * *score / largest };
        *score = if reverse { MAX - scaled } else { scaled };
    }
    scores
}

fn taint_toleration(request: &Request, _: &Cluster, nodes: &[&Node]) -> Vec<i64> {
    if nodes.iter().all(|node| node.taints.is_empty()) {
        return vec![MAX; nodes.len()];
    }
    let soft: Vec<_> = request
        .pod
        .tolerations
        .iter()
        .filter(|toleration| matches!(toleration.effect.as_deref(), None | Some("" | "PreferNoSchedule")))
        .collect();
    let unborne = |node: &&Node| {
        let taints = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        taints.filter(|taint| !soft.iter().any(|toleration| filters::tolerates(toleration, taint))).count()
            as i64
    };
    normalise(nodes.iter().map(unborne).collect(), true)
}

fn node_affinity(request: &Request, _: &Cluster, nodes: &[&Node]) -> Vec<i64> {
    let preferred = &request.pod.preferred;
    if preferred.is_empty() {
        return vec![0; nodes.len()];
    }
    let weight = |node: &&Node| {
        preferred
            .iter()
            .filter(|(_, term)| term.matches(&node.name, &node.labels))
            .map(|(weight, _)| weight)
            .sum()
    };
    normalise(nodes.iter().map(weight).collect(), false)
}

fn least_allocated(request: &Request, _: &Cluster, nodes: &[&Node]) -> Vec<i64> {
    let free = |asked: i64, there: i64| if asked > there { 0 } else { (there - asked) * MAX / there };
    let score = |node: &&Node| {
        let (asked, there) = (&request.pod.assumed, &node.allocatable);
        let pairs = [
            (asked.cpu_milli + node.assumed.cpu_milli, there.cpu_milli),
            (asked.memory_bytes + node.assumed.memory_bytes, there.memory_bytes),
        ];
        let known: Vec<i64> =
            pairs.iter().filter(|(_, there)| *there > 0).map(|(a, t)| free(*a, *t)).collect();
        if known.is_empty() { 0 } else { known.iter().sum::<i64>() / known.len() as i64 }
    };
    nodes.iter().map(score).collect()
}

fn balanced_allocation(request: &Request, _: &Cluster, nodes: &[&Node]) -> Vec<i64> {
    let balance = |used: [i64; 2], there: &Resources| {
        let there = [there.cpu_milli, there.memory_bytes];
        let shares: Vec<f64> = used
            .iter()
            .zip(there)
            .filter(|(_, there)| *there > 0)
            .map(|(used, there)| (*used as f64 / there as f64).min(1.0))
            .collect();
        let deviation = if let [a, b] = shares[..] { ((a - b) / 2.0).abs() } else { 0.0 };
        ((1.0 - deviation) * MAX as f64) as i64
    };
    let asked = &request.pod.requests;
    // A pod that asks for nothing unbalances nothing.
    if asked.is_nothing() {
        return vec![0; nodes.len()];
    }
    let score = |node: &&Node| {
        let used = [node.requested.cpu_milli, node.requested.memory_bytes];
        let with = balance([used[0] + asked.cpu_milli, used[1] + asked.memory_bytes], &node.allocatable);
        MAX / 2 + (MAX / 2 + with - balance(used, &node.allocatable)) / 2
    };
    nodes.iter().map(score).collect()
}

fn image_locality(request: &Request, cluster: &Cluster, nodes: &[&Node]) -> Vec<i64> {
    let images: Vec<(&str, f64)> = request
        .pod
        .images
        .iter()
        .map(|image| (image.as_str(), cluster.nodes_with_image(image) as f64 / cluster.len().max(1) as f64))
        .collect();
    if images.iter().all(|(_, spread)| *spread == 0.0) {
        return vec![0; nodes.len()];
    }
    let largest = IMAGE_LARGE_BYTES * images.len() as i64;
    let score = |node: &&Node| {
        let here = images.iter().filter_map(|(image, spread)| {
            // An image that few nodes have attracts less, lest all its pods end on them.
            node.images.get(*image).map(|size| (*size as f64 * spread) as i64)
        });
        let sum = here.sum::<i64>().clamp(IMAGE_SMALL_BYTES, largest);
        MAX * (sum - IMAGE_SMALL_BYTES) / (largest - IMAGE_SMALL_BYTES)
    };
    nodes.iter().map(score).collect()
}

/// Pods that say nothing are spread over hosts and zones with their fellows (upstream's system defaults).
fn default_spread(pod: &Pod) -> Vec<Spread> {
    let app: Vec<Requirement> = pod
        .labels
        .iter()
        .filter_map(|(key, value)| Requirement::new(key, Operator::Equals, vec![value.clone()]).ok())
        .collect();
    if app.is_empty() {
        return Vec::new();
    }
    let spread = |key: &'static str, max_skew| Spread {
        max_skew,
        topology_key: Str::const_new(key),
        required: false,
        selector: Selector::of(app.clone()),
        min_domains: 1,
        honours_affinity: true,
        honours_taints: false,
    };
    vec![spread("kubernetes.io/hostname", 3), spread("topology.kubernetes.io/zone", 5)]
}

fn pod_topology_spread(request: &Request, cluster: &Cluster, nodes: &[&Node]) -> Vec<i64> {
    let pod = request.pod;
    let own: Vec<Spread> = pod.spread.iter().filter(|constraint| !constraint.required).cloned().collect();
    let system = own.is_empty() && pod.spread.is_empty();
    let constraints = if system { default_spread(pod) } else { own };
    if constraints.is_empty() || nodes.len() < 2 {
        return vec![0; nodes.len()];
    }
    let lacks_key =
        |node: &Node| !system && constraints.iter().any(|c| node.label(&c.topology_key).is_none());
    let mut sums = vec![0.0_f64; nodes.len()];
    for constraint in &constraints {
        add_spread(pod, constraint, cluster, nodes, &lacks_key, &mut sums);
    }
    let scores: Vec<Option<i64>> =
        nodes.iter().zip(&sums).map(|(node, sum)| (!lacks_key(node)).then_some(sum.round() as i64)).collect();
    let known = scores.iter().flatten().copied();
    let (least, most) = (known.clone().min().unwrap_or_default(), known.max().unwrap_or_default());
    let scaled = |score: Option<i64>| match score {
        None => 0,
        Some(_) if most == 0 => MAX,
        Some(score) => MAX * (most + least - score) / most,
    };
    scores.into_iter().map(scaled).collect()
}

fn add_spread(
    pod: &Pod,
    constraint: &Spread,
    cluster: &Cluster,
    nodes: &[&Node],
    lacks_key: &dyn Fn(&Node) -> bool,
    sums: &mut [f64],
) {
    let by_host = constraint.topology_key == "kubernetes.io/hostname";
    let mut domains: BTreeMap<&str, i64> = BTreeMap::new();
    for node in nodes.iter().filter(|node| !lacks_key(node)) {
        if let Some(domain) = node.label(&constraint.topology_key) {
            domains.entry(domain).or_default();
        }
    }
    let size = if by_host { nodes.iter().filter(|node| !lacks_key(node)).count() } else { domains.len() };
    let weight = ((size + 2) as f64).ln();
    if !by_host {
        for node in cluster.nodes().filter(|node| filters::counts(pod, constraint, node)) {
            let count = node.label(&constraint.topology_key).and_then(|domain| domains.get_mut(domain));
            if let Some(count) = count {
                *count += filters::matching(pod, constraint, node);
            }
        }
    }
    for (node, sum) in nodes.iter().zip(sums) {
        let Some(domain) = node.label(&constraint.topology_key) else { continue };
        let count = if by_host {
            filters::matching(pod, constraint, node)
        } else {
            domains.get(domain).copied().unwrap_or_default()
        };
        *sum += count as f64 * weight + (constraint.max_skew - 1) as f64;
    }
}

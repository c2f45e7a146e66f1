//! Spreading of pods over domains (`topologySpreadConstraints`): what is required, and what is only better.

use std::borrow::Cow;

use crate::cluster::{Cluster, Node};
use crate::filters::{Reasons, Request, Verdict, refuse_if};
use crate::pod::{Pod, Spread, default_spreads};
use crate::scores::{MAX, View};
use crate::tally::Tally;

const HOST: &str = "kubernetes.io/hostname";

/// A required constraint with what is counted for it.
pub struct Counted {
    /// Number of the tally.
    tally: usize,
    /// The fewest matching pods in any domain, and whether the pod itself is one more where it goes.
    fewest: i64,
    itself: i64,
    max_skew: i64,
}

/// Counts what the required constraints of a pod need.
pub fn count(pod: &Pod, cluster: &mut Cluster) -> Vec<Counted> {
    let required = pod.spread.iter().filter(|constraint| constraint.required);
    let counted = required.map(|constraint| {
        let tally = cluster.count(&constraint.rule);
        let (domains, fewest) = cluster.counts().tally(tally).fewest();
        Counted {
            tally,
            fewest: if (domains as i64) < constraint.min_domains { 0 } else { fewest },
            itself: i64::from(constraint.counts_itself),
            max_skew: constraint.max_skew,
        }
    });
    counted.collect()
}

/// Whether all required constraints hold with the pod on this node.
pub fn check(request: &Request, cluster: &Cluster, node: &Node, reasons: &mut Reasons) -> Verdict {
    const UNEVEN: &str = "node(s) didn't match pod topology spread constraints";
    for counted in &request.spreads {
        let Some(here) = cluster.counts().tally(counted.tally).around(node.slot) else {
            reasons.push(Cow::Borrowed(
                "node(s) didn't match pod topology spread constraints (missing required label)",
            ));
            return Verdict::Hopeless;
        };
        let uneven = here + counted.itself - counted.fewest > counted.max_skew;
        if refuse_if(uneven, Verdict::Refused, UNEVEN, reasons) != Verdict::Fits {
            return Verdict::Refused;
        }
    }
    Verdict::Fits
}

/// How even nodes would leave it, by the constraints that only prefer; the system's own if the pod has none at all.
pub fn score(request: &Request, cluster: &mut Cluster, nodes: &[usize]) -> View {
    let pod = request.pod;
    let system = pod.spread.is_empty();
    let constraints: Cow<[Spread]> = if system {
        match cluster.fellows(pod) {
            Some(selector) => Cow::Owned(default_spreads(pod, &selector)),
            None => return View::Same(0),
        }
    } else {
        Cow::Borrowed(&pod.spread)
    };
    let soft: Vec<(&Spread, usize)> = constraints
        .iter()
        .filter(|constraint| !constraint.required)
        .map(|constraint| (constraint, cluster.count(&constraint.rule)))
        .collect();
    if soft.is_empty() {
        return View::Same(0);
    }
    let tallies: Vec<(&Spread, &Tally)> =
        soft.into_iter().map(|(constraint, id)| (constraint, cluster.counts().tally(id))).collect();
    // A node without one of the labels is not compared; with the system's constraints one label is enough.
    let compared = |slot: usize| system || tallies.iter().all(|(_, tally)| tally.domain(slot).is_some());
    let mut sums = vec![0.0_f64; nodes.len()];
    for (constraint, tally) in &tallies {
        let by_host = constraint.rule.topology_key == HOST;
        let among = nodes.iter().copied().filter(|slot| compared(*slot));
        let size = if by_host { among.count() } else { domains(tally, among) };
        let weight = ((size + 2) as f64).ln();
        for (slot, sum) in nodes.iter().zip(&mut sums) {
            let Some(around) = tally.around(*slot) else { continue };
            let count = if by_host { tally.on(*slot) } else { around };
            *sum += count as f64 * weight + (constraint.max_skew - 1) as f64;
        }
    }
    let scores = nodes.iter().zip(&sums).map(|(slot, sum)| compared(*slot).then_some(sum.round() as i64));
    evenest(scores.collect())
}

/// How many domains nodes are in. Those without the label are one more.
fn domains(tally: &Tally, nodes: impl Iterator<Item = usize>) -> usize {
    let mut seen = vec![false; tally.domain_ids() + 1];
    let mut count = 0;
    for slot in nodes {
        let domain = tally.domain(slot).unwrap_or(tally.domain_ids());
        count += usize::from(!std::mem::replace(&mut seen[domain], true));
    }
    count
}

/// The fewer pods the better; who is not compared gets nothing.
fn evenest(scores: Vec<Option<i64>>) -> View {
    let known = scores.iter().flatten().copied();
    let (least, most) = (known.clone().min().unwrap_or_default(), known.max().unwrap_or_default());
    let scaled = |score: Option<i64>| match score {
        None => 0,
        Some(_) if most == 0 => MAX,
        Some(score) => MAX * (most + least - score) / most,
    };
    View::Each(scores.into_iter().map(scaled).collect())
}

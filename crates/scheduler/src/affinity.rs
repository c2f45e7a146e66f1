//! Pods near which a pod wants to be or not to be, and pods that have a place and say the same of it.

use crate::cluster::{Cluster, Node};
use crate::filters::{Reasons, Request, Verdict, refuse_if};
use crate::pod::Pod;
use crate::rule::Kind;
use crate::scores::{MAX, View};

/// What is counted for the affinities that concern a pod. All are numbers of tallies.
pub struct Near {
    /// One for each required term: pods that match all of them.
    near: Vec<usize>,
    /// Whether no such pod is anywhere, and the pod itself would do.
    first: bool,
    /// Pods that the pod keeps away from.
    apart: Vec<usize>,
    /// Pods that keep away from the pod: those that carry a term which means it.
    repelling: Vec<usize>,
    /// Pods that carry a term which draws it, with how much.
    drawing: Vec<(i64, usize)>,
}

impl Near {
    /// Counts what the affinities of a pod need, and finds whose terms mean it.
    pub fn count(pod: &Pod, cluster: &mut Cluster) -> Self {
        let near: Vec<usize> = pod.near.iter().map(|rule| cluster.count(rule)).collect();
        let nowhere = near.iter().all(|id| cluster.counts().tally(*id).is_empty());
        let itself = || pod.near.iter().all(|rule| rule.who.matches(pod, cluster.namespace(&pod.namespace)));
        let first = nowhere && itself();
        let apart = pod.apart.iter().map(|rule| cluster.count(rule)).collect();
        let (mut repelling, mut drawing) = (Vec::new(), Vec::new());
        for (id, kind) in cluster.counts().about(pod, cluster.namespace(&pod.namespace)) {
            match kind {
                Kind::Repels => repelling.push(id),
                Kind::Draws(weight) => drawing.push((weight, id)),
            }
        }
        Self { near, first, apart, repelling, drawing }
    }

    /// Whether no node can be refused for it.
    pub fn is_empty(&self) -> bool {
        self.near.is_empty() && self.apart.is_empty() && self.repelling.is_empty()
    }
}

/// Whether a node's domains have who must be near and nobody who must not.
pub fn check(request: &Request, cluster: &Cluster, node: &Node, reasons: &mut Reasons) -> Verdict {
    let (near, counts, slot) = (&request.near, cluster.counts(), node.slot);
    let mut company = true;
    for id in &near.near {
        match counts.tally(*id).around(slot) {
            Some(pods) => company &= pods > 0,
            // All labels must be there, for the first of its sort too.
            None => return lonely(reasons),
        }
    }
    if !company && !near.first {
        return lonely(reasons);
    }
    let any = |id: &usize| counts.tally(*id).around(slot).is_some_and(|pods| pods > 0);
    if near.apart.iter().any(any) {
        let reason = "node(s) didn't match pod anti-affinity rules";
        return refuse_if(true, Verdict::Refused, reason, reasons);
    }
    let repelled = |id: &usize| counts.carried_tally(*id).around(slot).is_some_and(|pods| pods > 0);
    let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
    refuse_if(near.repelling.iter().any(repelled), Verdict::Refused, reason, reasons)
}

fn lonely(reasons: &mut Reasons) -> Verdict {
    refuse_if(true, Verdict::Hopeless, "node(s) didn't match pod affinity rules", reasons)
}

/// How much the pods around nodes draw the pod, and are drawn by it.
pub fn score(request: &Request, cluster: &mut Cluster, nodes: &[usize]) -> View {
    let own: Vec<(i64, usize)> =
        request.pod.drawn.iter().map(|(weight, rule)| (*weight, cluster.count(rule))).collect();
    let counts = cluster.counts();
    let mut sums = vec![0_i64; nodes.len()];
    let own = own.iter().map(|(weight, id)| (*weight, counts.tally(*id)));
    let drawing = request.near.drawing.iter().map(|(weight, id)| (*weight, counts.carried_tally(*id)));
    let mut any = false;
    for (weight, tally) in own.chain(drawing) {
        any = true;
        for (slot, sum) in nodes.iter().zip(&mut sums) {
            *sum += weight * tally.around(*slot).unwrap_or_default();
        }
    }
    let (least, most) =
        (sums.iter().min().copied().unwrap_or_default(), sums.iter().max().copied().unwrap_or_default());
    if !any || least == most {
        return View::Same(0);
    }
    let span = (most - least) as f64;
    let scaled = |sum: i64| (MAX as f64 * ((sum - least) as f64 / span)) as i64;
    View::Each(sums.into_iter().map(scaled).collect())
}

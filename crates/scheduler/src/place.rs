//! `place(pod, nodes) -> node`, with reasons.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use api::value::Str;
use base::Random;

use crate::cluster::Cluster;
use crate::filters::{Filters, Reasons, Request, Verdict};
use crate::pod::Pod;
use crate::preempt::Preemption;
use crate::scores::{SCORES, View};

/// With fewer nodes than these all are looked at, and never fewer are.
const FEASIBLE_AT_LEAST: usize = 100;
/// Of many nodes at least this share is looked at.
const PERCENT_AT_LEAST: usize = 5;

/// Where a pod goes, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// The node.
    pub node: Str,
    /// The nodes that were compared, best first; no more than [`Placement::SHOWN`].
    pub candidates: Vec<Candidate>,
    /// How many nodes would have done, of those looked at.
    pub feasible: usize,
    /// How many nodes were looked at.
    pub evaluated: usize,
}

/// One node that would have done.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The node.
    pub node: Str,
    /// All views together.
    pub total: i64,
    /// Each view's score, 0 to 100, in the order of [`SCORES`].
    pub scores: Vec<i64>,
}

/// Why a pod goes nowhere. `Display` is upstream's sentence.
#[derive(Clone, Debug, Default)]
pub struct Unschedulable {
    /// How many nodes there are.
    pub nodes: usize,
    /// How many of them have each reason.
    pub reasons: Histogram,
    /// What is wrong with the pod itself, whatever the nodes.
    pub contradiction: Option<&'static str>,
    /// Which filters refused nodes.
    pub filters: Filters,
    /// Whether others can be sent away for it.
    pub preemption: Preemption,
    /// Rules of the pod that no filter knows; while there is one, the pod is not placed.
    pub unknown: Vec<&'static str>,
}

/// How often each reason was given.
#[derive(Clone, Debug, Default)]
pub struct Histogram(Vec<(Cow<'static, str>, usize)>);

/// What a search through the nodes found.
struct Search {
    feasible: Vec<usize>,
    looked: usize,
    reasons: Histogram,
    filters: Filters,
    /// Nodes that would do if some of their pods went.
    refused: Vec<usize>,
}

/// The verdict on a node for which other pods wait.
type Answered = (usize, (Verdict, usize), Reasons);

impl Placement {
    /// How many candidates an explanation shows.
    pub const SHOWN: usize = 5;
}

impl Histogram {
    /// Counts a reason.
    #[expect(clippy::ptr_arg, reason = "a reason that is a constant is kept without copying it")]
    pub fn add(&mut self, reason: &Cow<'static, str>, nodes: usize) {
        match self.0.iter_mut().find(|(other, _)| other == reason) {
            Some((_, count)) => *count += nodes,
            None => self.0.push((reason.clone(), nodes)),
        }
    }

    /// Every reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (&str, usize)> {
        self.0.iter().map(|(reason, count)| (&**reason, *count))
    }
}

impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Sorted as text, as upstream does, so "10 x" comes before "2 y".
        let mut reasons: Vec<String> =
            self.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        f.write_str(&reasons.join(", "))
    }
}

impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.unknown.is_empty() {
            let rules = self.unknown.join(", ");
            return write!(
                f,
                "this scheduler does not know {rules} yet; remove it from the pod to have it placed"
            );
        }
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let nodes = self.nodes;
        match self.contradiction {
            Some(contradiction) => write!(f, "0/{nodes} nodes are available: {contradiction}.")?,
            None => write!(f, "0/{nodes} nodes are available: {}.", self.reasons)?,
        }
        write!(f, "{}", self.preemption)
    }
}

/// How many nodes that will do are enough (`percentageOfNodesToScore` unset).
fn enough(nodes: usize) -> usize {
    if nodes < FEASIBLE_AT_LEAST {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(PERCENT_AT_LEAST);
    (nodes * percent / 100).max(FEASIBLE_AT_LEAST)
}

impl Cluster {
    /// Finds the best node, or says why there is none and whether evicting others helps. Changes nothing but where the
    /// next search begins and which counts are kept; the caller counts the pod with [`Cluster::put_pod`]. Of equal
    /// nodes `random` chooses.
    pub fn place(&mut self, pod: &Pod, random: &Random) -> Result<Placement, Box<Unschedulable>> {
        let refusal = Unschedulable { nodes: self.len(), ..Unschedulable::default() };
        if !pod.unknown.is_empty() {
            return Err(Box::new(Unschedulable { unknown: pod.unknown.clone(), ..refusal }));
        }
        if self.is_empty() {
            return Err(Box::new(refusal));
        }
        self.tidy();
        self.arrange();
        if pod.required.names.as_ref().is_some_and(BTreeSet::is_empty) {
            let mut filters = Filters::default();
            filters.insert_named("NodeAffinity");
            let preemption = Preemption::hopeless(self.len());
            let contradiction = Some("pod affinity terms conflict");
            return Err(Box::new(Unschedulable { contradiction, filters, preemption, ..refusal }));
        }
        let search = self.search(pod);
        if search.feasible.is_empty() {
            let preemption = self.preempt(pod, &search.refused, random);
            let Search { reasons, filters, .. } = search;
            return Err(Box::new(Unschedulable { reasons, filters, preemption, ..refusal }));
        }
        let request = Request::new(pod, self);
        Ok(self.best(&request, &search.feasible, search.looked, random.bits()))
    }

    fn search(&mut self, pod: &Pod) -> Search {
        let answered = self.answer_for_nominated(pod);
        let request = Request::new(pod, self);
        // The node that is being cleared for the pod is looked at first, and is enough.
        if let Some(slot) = self.slot_of(&pod.nominated) {
            let search = self.look(&request, &[slot], 0, &answered);
            if !search.feasible.is_empty() {
                return search;
            }
        }
        let Some(names) = request.names() else {
            let search = self.look(&request, self.order(), self.next, &answered);
            self.next = (self.next + search.looked) % self.len();
            return search;
        };
        let named: Vec<usize> = names.iter().filter_map(|name| self.slot_of(name)).collect();
        let mut search = self.look(&request, &named, self.next, &answered);
        self.next = (self.next + search.looked) % self.len();
        if named.len() < self.len() {
            let reason = Cow::Borrowed("node(s) didn't satisfy plugin(s) [NodeAffinity]");
            search.reasons.add(&reason, self.len() - named.len());
            search.filters.insert_named("NodeAffinity");
        }
        search
    }

    fn look(&self, request: &Request, slots: &[usize], start: usize, answered: &[Answered]) -> Search {
        let wanted = enough(slots.len());
        let mut search = Search {
            feasible: Vec::with_capacity(wanted),
            looked: 0,
            reasons: Histogram::default(),
            filters: Filters::default(),
            refused: Vec::new(),
        };
        let mut reasons = Reasons::new();
        let start = if slots.is_empty() { 0 } else { start % slots.len() };
        for slot in slots[start..].iter().chain(&slots[..start]) {
            let Some(node) = self.slot(*slot) else { continue };
            search.looked += 1;
            reasons.clear();
            let (verdict, filter) = match answered.iter().find(|(other, ..)| other == slot) {
                Some((_, answer, why)) => {
                    reasons.clone_from(why);
                    *answer
                }
                None => request.check(self, node, &mut reasons),
            };
            if verdict == Verdict::Fits {
                search.feasible.push(*slot);
                if search.feasible.len() == wanted {
                    break;
                }
                continue;
            }
            search.filters.insert(filter);
            reasons.iter().for_each(|reason| search.reasons.add(reason, 1));
            if verdict == Verdict::Refused {
                search.refused.push(*slot);
            }
        }
        search
    }

    /// The verdicts on nodes that are being cleared for other pods of no lower priority: there the pod must fit with
    /// these and without.
    fn answer_for_nominated(&mut self, pod: &Pod) -> Vec<Answered> {
        let waited_for = self.nominated.iter().filter(|(_, guests)| {
            guests.iter().any(|guest| guest.priority >= pod.priority && guest.uid != pod.uid)
        });
        let slots: Vec<usize> = waited_for.filter_map(|(node, _)| self.slot_of(node)).collect();
        let answer = |slot: usize| {
            let mut reasons = Reasons::new();
            let answer = self.check_with_nominated(pod, slot, &mut reasons);
            (slot, answer, reasons)
        };
        slots.into_iter().map(answer).collect()
    }

    /// Whether a node will do, both with the pods for which it is being cleared and without them.
    pub(crate) fn check_with_nominated(
        &mut self,
        pod: &Pod,
        slot: usize,
        reasons: &mut Reasons,
    ) -> (Verdict, usize) {
        let Some(name) = self.slot(slot).map(|node| node.name.clone()) else { return (Verdict::Hopeless, 0) };
        let guests = self.nominated.get(&name).into_iter().flatten();
        let guests: Vec<_> =
            guests.filter(|guest| guest.priority >= pod.priority && guest.uid != pod.uid).cloned().collect();
        let mut rounds = vec![&guests[..]];
        if !guests.is_empty() {
            rounds.push(&[]);
        }
        for guests in rounds {
            guests.iter().for_each(|guest| self.put_pod(guest, &name));
            let request = Request::new(pod, self);
            let answer = match self.slot(slot) {
                Some(node) => request.check(self, node, reasons),
                None => (Verdict::Hopeless, 0),
            };
            guests.iter().for_each(|guest| {
                self.remove_pod(&guest.uid);
            });
            if answer.0 != Verdict::Fits {
                return answer;
            }
        }
        (Verdict::Fits, 0)
    }

    fn best(&mut self, request: &Request, feasible: &[usize], evaluated: usize, seed: u64) -> Placement {
        let name = |cluster: &Self, slot: usize| {
            cluster.slot(slot).map(|node| node.name.clone()).unwrap_or_default()
        };
        let one = |node: Str| Placement {
            node: node.clone(),
            candidates: vec![Candidate { node, total: 0, scores: Vec::new() }],
            feasible: 1,
            evaluated,
        };
        if let [only] = feasible {
            return one(name(self, *only));
        }
        let views: Vec<View> = SCORES.iter().map(|score| (score.of)(request, self, feasible)).collect();
        let candidates = ranked(&views, feasible.len(), seed).into_iter().map(|(total, at)| Candidate {
            node: name(self, feasible[at]),
            total,
            scores: views.iter().map(|view| view.at(at)).collect(),
        });
        let candidates: Vec<Candidate> = candidates.collect();
        Placement { node: candidates[0].node.clone(), candidates, feasible: feasible.len(), evaluated }
    }
}

/// The best of `count` nodes with their totals; equal ones in an order that the seed decides.
fn ranked(views: &[View], count: usize, seed: u64) -> Vec<(i64, usize)> {
    let mut totals = vec![0_i64; count];
    for (score, view) in SCORES.iter().zip(views) {
        match view {
            View::Same(same) => totals.iter_mut().for_each(|total| *total += score.weight * same),
            View::Each(each) => {
                totals.iter_mut().zip(each).for_each(|(total, own)| *total += score.weight * own);
            }
        }
    }
    let mut best: Vec<(i64, u64, usize)> = Vec::with_capacity(Placement::SHOWN + 1);
    for (at, total) in totals.into_iter().enumerate() {
        let full = best.len() == Placement::SHOWN;
        if full && best.last().is_some_and(|(least, ..)| total < *least) {
            continue;
        }
        let candidate = (total, lot(seed, at), at);
        let place = best.partition_point(|other| *other > candidate);
        if place < Placement::SHOWN {
            best.insert(place, candidate);
            best.truncate(Placement::SHOWN);
        }
    }
    best.into_iter().map(|(total, _, at)| (total, at)).collect()
}

/// The lot that a node draws: one step of splitmix64 (Steele, Lea, Flood 2014).
fn lot(seed: u64, at: usize) -> u64 {
    let mut x = seed.wrapping_add((at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;

//! Sending pods away for one of higher priority (upstream's DefaultPreemption): on which node, and whom.
//!
//! What would be is found by trying: victims are taken off the cluster, the filters are asked, and all is put back.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;

use api::value::Str;
use base::Random;

use crate::cluster::Cluster;
use crate::filters::{Reasons, Verdict};
use crate::place::Histogram;
use crate::pod::Pod;

/// As many nodes are tried at least, if there are so many.
const CANDIDATES_AT_LEAST: usize = 100;
/// Of many nodes this share is tried.
const CANDIDATES_PERCENT: usize = 10;
const NOT_HELPFUL: Cow<'static, str> = Cow::Borrowed("Preemption is not helpful for scheduling");
const NO_VICTIMS: Cow<'static, str> = Cow::Borrowed("No preemption victims found for incoming pod");

/// Whether sending pods away helps one that fits nowhere. `Display` is what upstream adds to the reasons.
#[derive(Clone, Debug, Default)]
pub enum Preemption {
    /// Nobody has looked, for there are no nodes.
    #[default]
    Unasked,
    /// The pod is not to send others away.
    Never,
    /// Those that it has sent away are still going.
    UnderWay,
    /// It helps nowhere, for these reasons.
    Useless(usize, Histogram),
    /// It helps.
    Helps {
        /// The node that is to be cleared.
        node: Str,
        /// Who must go, the most important first.
        victims: Vec<Arc<Pod>>,
    },
}

impl Preemption {
    /// Useless on each of so many nodes, whoever went.
    pub fn hopeless(nodes: usize) -> Self {
        let mut reasons = Histogram::default();
        reasons.add(&NOT_HELPFUL, nodes);
        Self::Useless(nodes, reasons)
    }
}

impl fmt::Display for Preemption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unasked => Ok(()),
            Self::Never => f.write_str(" preemption: not eligible due to preemptionPolicy=Never."),
            Self::UnderWay => {
                f.write_str(" preemption: not eligible due to a terminating pod on the nominated node.")
            }
            Self::Useless(nodes, reasons) => {
                write!(f, " preemption: 0/{nodes} nodes are available: {reasons}.")
            }
            Self::Helps { node, victims } => write!(
                f,
                " preemption: found a potential placement for pod on node {node}, preempting {} victims",
                victims.len()
            ),
        }
    }
}

/// A node and who must go from it.
struct Candidate {
    node: Str,
    victims: Vec<Arc<Pod>>,
    /// How many of them a disruption budget would have stay.
    violations: usize,
}

/// How important a pod is among those that might go: by priority, and the longer it runs.
fn importance(pod: &Pod) -> (i32, Reverse<i64>) {
    (pod.priority, Reverse(pod.started.unwrap_or(i64::MAX)))
}

impl Candidate {
    /// The least of these is sent away: few broken budgets, low priorities, few pods, pods that began late.
    fn cost(&self) -> (usize, i32, i64, usize, Reverse<i64>) {
        let highest = self.victims.iter().map(|pod| pod.priority).max().unwrap_or(i32::MIN);
        // Raised above zero, so that several pods of negative priority never cost less than one of them.
        let sum = self.victims.iter().map(|pod| i64::from(pod.priority) + (1 << 31)).sum();
        let earliest = self
            .victims
            .iter()
            .filter(|pod| pod.priority == highest)
            .map(|pod| pod.started.unwrap_or(i64::MAX))
            .min();
        (self.violations, highest, sum, self.victims.len(), Reverse(earliest.unwrap_or(i64::MIN)))
    }
}

impl Cluster {
    /// Whom to send away for a pod that fits nowhere. `refused` are the nodes where that might help.
    pub(crate) fn preempt(&mut self, pod: &Pod, refused: &[usize], random: &Random) -> Preemption {
        if pod.never_preempts {
            return Preemption::Never;
        }
        if self.is_going(pod, refused) {
            return Preemption::UnderWay;
        }
        if refused.is_empty() {
            return Preemption::hopeless(self.len());
        }
        let count = refused.len();
        let wanted = (count * CANDIDATES_PERCENT / 100).max(CANDIDATES_AT_LEAST).min(count);
        let start = random.below(count as u64) as usize;
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut reasons = Histogram::default();
        let mut tried = 0;
        for slot in refused[start..].iter().chain(&refused[..start]) {
            tried += 1;
            match self.victims(pod, *slot) {
                Ok(candidate) => candidates.push(candidate),
                Err(why) => why.iter().for_each(|reason| reasons.add(reason, 1)),
            }
            if candidates.len() >= wanted && candidates.iter().any(|candidate| candidate.violations == 0) {
                break;
            }
        }
        match candidates.into_iter().min_by_key(Candidate::cost) {
            Some(Candidate { node, victims, .. }) => Preemption::Helps { node, victims },
            None => {
                if tried < self.len() {
                    reasons.add(&NOT_HELPFUL, self.len() - tried);
                }
                Preemption::Useless(self.len(), reasons)
            }
        }
    }

    /// Whether pods are still going from the node that is being cleared for a pod.
    fn is_going(&self, pod: &Pod, refused: &[usize]) -> bool {
        let nominated = self.slot_of(&pod.nominated).filter(|slot| refused.contains(slot));
        let node = nominated.and_then(|slot| self.slot(slot));
        node.is_some_and(|node| {
            let mut going = node.pods.values().filter(|other| other.terminating && other.preempted);
            going.any(|other| other.priority < pod.priority)
        })
    }

    /// The fewest and least pods that must go from a node, or why none would help.
    fn victims(&mut self, pod: &Pod, slot: usize) -> Result<Candidate, Reasons> {
        let Some(node) = self.slot(slot) else { return Err(Reasons::new()) };
        let name = node.name.clone();
        let mut weaker: Vec<Arc<Pod>> =
            node.pods.values().filter(|other| other.priority < pod.priority).cloned().collect();
        if weaker.is_empty() {
            return Err(vec![NO_VICTIMS]);
        }
        for other in &weaker {
            self.remove_pod(&other.uid);
        }
        let mut reasons = Reasons::new();
        if self.check_with_nominated(pod, slot, &mut reasons).0 != Verdict::Fits {
            weaker.iter().for_each(|other| self.put_pod(other, &name));
            return Err(reasons);
        }
        weaker.sort_by_key(|other| Reverse(importance(other)));
        let (protected, others) = self.by_budget(weaker);
        let protected_count = protected.len();
        let (mut victims, mut violations) = (Vec::new(), 0);
        // As many as possible stay, first those whom a budget protects.
        for (index, other) in protected.into_iter().chain(others).enumerate() {
            self.put_pod(&other, &name);
            if self.check_with_nominated(pod, slot, &mut reasons).0 != Verdict::Fits {
                self.remove_pod(&other.uid);
                violations += usize::from(index < protected_count);
                victims.push(other);
            }
        }
        victims.iter().for_each(|other| self.put_pod(other, &name));
        victims.sort_by_key(|other| Reverse(importance(other)));
        if victims.is_empty() {
            return Err(reasons);
        }
        Ok(Candidate { node: name, victims, violations })
    }

    /// Those whose going would break a budget, if all went in this order, and the others.
    fn by_budget(&self, pods: Vec<Arc<Pod>>) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
        let mut budgets: Vec<_> = self.budgets.values().map(|budget| (budget, budget.allowed)).collect();
        let mut breaks = |pod: &Arc<Pod>| {
            let covers = |budget: &crate::cluster::Budget| {
                !pod.labels.is_empty()
                    && budget.namespace == pod.namespace
                    && !budget.selector.is_everything()
                    && budget.selector.matches(&pod.labels)
                    && !budget.disrupted.contains(&pod.name)
            };
            budgets.iter_mut().filter(|(budget, _)| covers(budget)).any(|(_, allowed)| {
                *allowed -= 1;
                *allowed < 0
            })
        };
        pods.into_iter().partition(|pod| breaks(pod))
    }
}

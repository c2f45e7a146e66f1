//! How many pods a rule counts: on each node, and in each domain of the rule's topology. Kept up pod by pod, so that
//! a filter reads two numbers where it would otherwise walk over all pods of all nodes.

use std::collections::HashMap;

use api::value::Str;

/// The domain of a node that has no label for it.
const NONE: u32 = u32::MAX;

/// The counts of one rule. Nodes are slots of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    by_node: Vec<u32>,
    domain_of: Vec<u32>,
    takes_part: Vec<bool>,
    domains: Vec<Domain>,
    names: HashMap<Str, u32>,
    free: Vec<u32>,
}

#[derive(Clone, Debug, Default)]
struct Domain {
    name: Str,
    /// Pods on those of its nodes that take part.
    pods: i64,
    /// Nodes that have the label, and those of them that take part.
    nodes: u32,
    taking_part: u32,
}

impl Tally {
    /// Says where a node belongs now: the value of its label, and whether its pods count for their domain. Its own
    /// count stays.
    pub fn set_node(&mut self, slot: usize, domain: Option<&str>, takes_part: bool) {
        if self.by_node.len() <= slot {
            self.by_node.resize(slot + 1, 0);
            self.domain_of.resize(slot + 1, NONE);
            self.takes_part.resize(slot + 1, false);
        }
        self.leave(slot);
        let Some(name) = domain else { return };
        let id = match self.names.get(name) {
            Some(id) => *id,
            None => self.begin(name.into()),
        };
        self.domain_of[slot] = id;
        self.takes_part[slot] = takes_part;
        let count = i64::from(self.by_node[slot]);
        let domain = &mut self.domains[id as usize];
        domain.nodes += 1;
        if takes_part {
            domain.taking_part += 1;
            domain.pods += count;
        }
    }

    /// Forgets a node and what was counted on it.
    pub fn remove_node(&mut self, slot: usize) {
        if slot < self.by_node.len() {
            self.leave(slot);
            self.by_node[slot] = 0;
        }
    }

    /// Counts a pod on a node.
    pub fn add(&mut self, slot: usize) {
        self.by_node[slot] += 1;
        if self.takes_part[slot] {
            self.domains[self.domain_of[slot] as usize].pods += 1;
        }
    }

    /// Counts a pod on a node no longer.
    pub fn subtract(&mut self, slot: usize) {
        debug_assert!(self.by_node[slot] > 0, "only what was counted is taken back");
        self.by_node[slot] -= 1;
        if self.takes_part[slot] {
            self.domains[self.domain_of[slot] as usize].pods -= 1;
        }
    }

    /// Pods on a node.
    pub fn on(&self, slot: usize) -> i64 {
        i64::from(self.by_node[slot])
    }

    /// The domain of a node, as a number below [`Tally::domain_ids`].
    pub fn domain(&self, slot: usize) -> Option<usize> {
        Some(self.domain_of[slot]).filter(|id| *id != NONE).map(|id| id as usize)
    }

    /// All numbers of domains are below this.
    pub fn domain_ids(&self) -> usize {
        self.domains.len()
    }

    /// Pods in the domain of a node; `None` if the node has no label for it.
    pub fn around(&self, slot: usize) -> Option<i64> {
        self.domain(slot).map(|id| self.domains[id].pods)
    }

    /// Whether any pod counts for any domain.
    pub fn is_empty(&self) -> bool {
        self.domains.iter().all(|domain| domain.pods == 0)
    }

    /// How many domains have nodes that take part, and the fewest pods in one of them.
    pub fn fewest(&self) -> (usize, i64) {
        let (mut domains, mut fewest) = (0, i64::MAX);
        for domain in self.domains.iter().filter(|domain| domain.taking_part > 0) {
            domains += 1;
            fewest = fewest.min(domain.pods);
        }
        (domains, if domains == 0 { 0 } else { fewest })
    }

    fn begin(&mut self, name: Str) -> u32 {
        let domain = Domain { name: name.clone(), ..Domain::default() };
        let id = match self.free.pop() {
            Some(id) => {
                self.domains[id as usize] = domain;
                id
            }
            None => {
                self.domains.push(domain);
                self.domains.len() as u32 - 1
            }
        };
        self.names.insert(name, id);
        id
    }

    fn leave(&mut self, slot: usize) {
        let id = std::mem::replace(&mut self.domain_of[slot], NONE);
        let took_part = std::mem::replace(&mut self.takes_part[slot], false);
        if id == NONE {
            return;
        }
        let count = i64::from(self.by_node[slot]);
        let domain = &mut self.domains[id as usize];
        domain.nodes -= 1;
        if took_part {
            domain.taking_part -= 1;
            domain.pods -= count;
        }
        if domain.nodes == 0 {
            self.names.remove(&domain.name);
            self.free.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Place(usize, Option<u8>, bool),
        Remove(usize),
        Add(usize),
        Subtract(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let slot = 0..5_usize;
        prop_oneof![
            (slot.clone(), proptest::option::of(0..3_u8), any::<bool>())
                .prop_map(|(slot, domain, part)| Step::Place(slot, domain, part)),
            slot.clone().prop_map(Step::Remove),
            slot.clone().prop_map(Step::Add),
            slot.prop_map(Step::Subtract),
        ]
    }

    proptest! {
        #[test]
        fn a_tally_is_what_counting_anew_gives(steps in proptest::collection::vec(step(), 0..60)) {
            let mut tally = Tally::default();
            let mut nodes: BTreeMap<usize, (Option<u8>, bool, i64)> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Place(slot, domain, part) => {
                        let name = domain.map(|domain| domain.to_string());
                        tally.set_node(slot, name.as_deref(), part);
                        let count = nodes.get(&slot).map_or(0, |node| node.2);
                        nodes.insert(slot, (domain, part, count));
                    }
                    Step::Remove(slot) => {
                        tally.remove_node(slot);
                        nodes.remove(&slot);
                    }
                    Step::Add(slot) => if let Some(node) = nodes.get_mut(&slot) {
                        tally.add(slot);
                        node.2 += 1;
                    },
                    Step::Subtract(slot) => if let Some(node) = nodes.get_mut(&slot).filter(|node| node.2 > 0) {
                        tally.subtract(slot);
                        node.2 -= 1;
                    },
                }
            }
            let mut domains: BTreeMap<u8, i64> = BTreeMap::new();
            for (domain, _, count) in nodes.values().filter(|node| node.1) {
                if let Some(domain) = domain {
                    *domains.entry(*domain).or_default() += count;
                }
            }
            let fewest = domains.values().min().copied().unwrap_or_default();
            prop_assert_eq!(tally.fewest(), (domains.len(), fewest));
            prop_assert_eq!(tally.is_empty(), domains.values().all(|pods| *pods == 0));
            for (slot, (domain, _, count)) in nodes {
                prop_assert_eq!(tally.on(slot), count);
                let around = domain.map(|domain| domains.get(&domain).copied().unwrap_or_default());
                prop_assert_eq!(tally.around(slot), around);
            }
        }
    }
}

//! All that is counted of pods by rules, kept up with the cluster.
//!
//! Two sorts of things are counted. A *rule* of a pod that looks for a place asks how many pods of some sort are where;
//! its tally is made when a pod first comes with it, and kept as long as pods come with it. A *carried term* is the
//! other direction: what pods that have a place say of others that look for one.

use std::collections::HashMap;

use api::value::Str;

use crate::cluster::Node;
use crate::pod::Pod;
use crate::rule::{Carried, Kind, Labels, Rule, Term};
use crate::tally::Tally;

/// Rules whose tallies are kept; with more than these, those that were not asked for longest go.
const RULES_KEPT: usize = 512;
/// How many go then.
const RULES_DROPPED: usize = 128;

/// Everything that is counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    rules: Registry<Kept>,
    carried: Registry<Carriers>,
    asked: u64,
}

#[derive(Clone, Debug)]
struct Kept {
    rule: Rule,
    tally: Tally,
    asked: u64,
}

/// A term and the pods that carry it.
#[derive(Clone, Debug)]
struct Carriers {
    carried: Carried,
    tally: Tally,
    pods: usize,
}

/// Things under a number, found by identity or by a namespace that they may concern.
#[derive(Clone, Debug)]
struct Registry<T> {
    slots: Vec<Option<T>>,
    by_identity: HashMap<Str, usize>,
    by_namespace: HashMap<Str, Vec<usize>>,
    everywhere: Vec<usize>,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            by_identity: HashMap::new(),
            by_namespace: HashMap::new(),
            everywhere: Vec::new(),
        }
    }
}

impl<T> Registry<T> {
    fn insert(&mut self, identity: &Str, namespaces: Option<&[Str]>, thing: T) -> usize {
        let free = (self.by_identity.len() < self.slots.len())
            .then(|| self.slots.iter().position(Option::is_none))
            .flatten();
        let id = free.unwrap_or(self.slots.len());
        if id == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[id] = Some(thing);
        self.by_identity.insert(identity.clone(), id);
        match namespaces {
            Some(names) => {
                names.iter().for_each(|name| self.by_namespace.entry(name.clone()).or_default().push(id))
            }
            None => self.everywhere.push(id),
        }
        id
    }

    fn remove(&mut self, identity: &str) {
        let Some(id) = self.by_identity.remove(identity) else { return };
        self.slots[id] = None;
        self.everywhere.retain(|other| *other != id);
        self.by_namespace.retain(|_, ids| {
            ids.retain(|other| *other != id);
            !ids.is_empty()
        });
    }

    /// Those that may concern pods of a namespace.
    fn concerning(&self, namespace: &str) -> impl Iterator<Item = usize> {
        let named = self.by_namespace.get(namespace).map_or(&[][..], Vec::as_slice);
        named.iter().chain(&self.everywhere).copied()
    }

    fn each(&mut self, namespace: &str, mut visit: impl FnMut(&mut T)) {
        let named = self.by_namespace.get(namespace).map_or(&[][..], Vec::as_slice);
        for id in named.iter().chain(&self.everywhere) {
            if let Some(thing) = &mut self.slots[*id] {
                visit(thing);
            }
        }
    }
}

impl Counts {
    /// The tally of a rule, by a number that holds until the next [`Counts::tidy`]. `nodes` are all that there are,
    /// and `namespace` gives the labels of one.
    pub fn of<'a>(
        &mut self,
        rule: &Rule,
        nodes: impl Iterator<Item = &'a Node>,
        namespace: impl Fn(&str) -> &'a Labels,
    ) -> usize {
        self.asked += 1;
        if let Some(id) = self.rules.by_identity.get(&rule.identity).copied()
            && let Some(kept) = &mut self.rules.slots[id]
        {
            kept.asked = self.asked;
            return id;
        }
        let mut tally = Tally::default();
        for node in nodes {
            tally.set_node(node.slot, node.label(&rule.topology_key), rule.part.holds(node));
            let matching = node.pods.values().filter(|pod| rule.who.matches(pod, namespace(&pod.namespace)));
            matching.for_each(|_| tally.add(node.slot));
        }
        let kept = Kept { rule: rule.clone(), tally, asked: self.asked };
        self.rules.insert(&rule.identity, rule.who.namespaces(), kept)
    }

    /// Makes room if too many rules are kept. Their numbers change, so it is called before any is asked for.
    pub fn tidy(&mut self) {
        if self.rules.by_identity.len() <= RULES_KEPT {
            return;
        }
        let kept = self.rules.slots.iter().flatten();
        let mut oldest: Vec<(u64, Str)> = kept.map(|kept| (kept.asked, kept.rule.identity.clone())).collect();
        oldest.sort_unstable();
        oldest.iter().take(RULES_DROPPED).for_each(|(_, identity)| self.rules.remove(identity));
    }

    /// Forgets all rules that tell namespaces by their labels, for these have changed.
    pub fn namespaces_changed(&mut self) {
        let kept = self.rules.slots.iter().flatten().filter(|kept| kept.rule.who.reads_namespaces());
        let ids: Vec<Str> = kept.map(|kept| kept.rule.identity.clone()).collect();
        ids.iter().for_each(|identity| self.rules.remove(identity));
    }

    /// The tally with a number that [`Counts::of`] gave.
    pub fn tally(&self, id: usize) -> &Tally {
        &self.rules.slots[id].as_ref().expect("numbers of rules hold while a pod is placed").tally
    }

    /// What pods say of a pod that looks for a place: each term that means it, by a number for
    /// [`Counts::carried_tally`], and what the term does.
    pub fn about(&self, pod: &Pod, namespace: &Labels) -> Vec<(usize, Kind)> {
        let concerning = self.carried.concerning(&pod.namespace);
        let about = concerning.filter_map(|id| {
            let carriers = self.carried.slots[id].as_ref()?;
            carriers.carried.term.matches(pod, namespace).then_some((id, carriers.carried.kind))
        });
        about.collect()
    }

    /// The tally of a carried term: the pods that carry it.
    pub fn carried_tally(&self, id: usize) -> &Tally {
        &self.carried.slots[id].as_ref().expect("numbers of terms hold while a pod is placed").tally
    }

    /// A node is new or has changed. Counts on it stay.
    pub fn set_node(&mut self, node: &Node) {
        for kept in self.rules.slots.iter_mut().flatten() {
            let domain = node.label(&kept.rule.topology_key);
            kept.tally.set_node(node.slot, domain, kept.rule.part.holds(node));
        }
        for carriers in self.carried.slots.iter_mut().flatten() {
            let domain = node.label(&carriers.carried.term.topology_key);
            carriers.tally.set_node(node.slot, domain, true);
        }
    }

    /// A node is gone, and its pods with it.
    pub fn remove_node(&mut self, node: &Node) {
        for pod in node.pods.values() {
            self.drop_terms(node.slot, pod);
        }
        self.rules.slots.iter_mut().flatten().for_each(|kept| kept.tally.remove_node(node.slot));
        self.carried.slots.iter_mut().flatten().for_each(|carriers| carriers.tally.remove_node(node.slot));
    }

    /// A pod has come to a node. `nodes` are all nodes, this one among them.
    pub fn add<'a>(
        &mut self,
        slot: usize,
        pod: &Pod,
        namespace: &Labels,
        nodes: impl Iterator<Item = &'a Node> + Clone,
    ) {
        self.rules.each(&pod.namespace, |kept| {
            if kept.rule.who.matches(pod, namespace) {
                kept.tally.add(slot);
            }
        });
        for carried in &pod.carries {
            let id = match self.carried.by_identity.get(&carried.identity) {
                Some(id) => *id,
                None => self.begin_carrying(carried, nodes.clone()),
            };
            if let Some(carriers) = &mut self.carried.slots[id] {
                carriers.tally.add(slot);
                carriers.pods += 1;
            }
        }
    }

    /// A pod has left a node.
    pub fn subtract(&mut self, slot: usize, pod: &Pod, namespace: &Labels) {
        self.rules.each(&pod.namespace, |kept| {
            if kept.rule.who.matches(pod, namespace) {
                kept.tally.subtract(slot);
            }
        });
        self.drop_terms(slot, pod);
    }

    fn drop_terms(&mut self, slot: usize, pod: &Pod) {
        for carried in &pod.carries {
            let Some(id) = self.carried.by_identity.get(&carried.identity).copied() else { continue };
            let Some(carriers) = &mut self.carried.slots[id] else { continue };
            carriers.tally.subtract(slot);
            carriers.pods -= 1;
            if carriers.pods == 0 {
                self.carried.remove(&carried.identity);
            }
        }
    }

    fn begin_carrying<'a>(&mut self, carried: &Carried, nodes: impl Iterator<Item = &'a Node>) -> usize {
        let mut tally = Tally::default();
        for node in nodes {
            tally.set_node(node.slot, node.label(&carried.term.topology_key), true);
        }
        let namespaces: Option<Vec<Str>> = Term::only_namespaces(&carried.term).map(<[Str]>::to_vec);
        let carriers = Carriers { carried: carried.clone(), tally, pods: 0 };
        self.carried.insert(&carried.identity, namespaces.as_deref(), carriers)
    }
}

//! The nodes and what is on them, kept up to date change by change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use api::object::Object;
use api::quantity::Quantity;
use api::selector::label::Selector;
use api::value::Str;
use k8s_openapi::api::core::v1 as core;

use crate::counts::Counts;
use crate::pod::{HostPort, Pod};
use crate::resources::Resources;
use crate::rule::{Labels, Rule};
use crate::selectors;

/// A node and what is on it.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Its place in the cluster, as long as it is there.
    pub slot: usize,
    /// What pods may have of it.
    pub allocatable: Resources,
    /// What the pods on it ask for.
    pub requested: Resources,
    /// The same with assumptions for pods that ask for nothing.
    pub assumed: Resources,
    /// How many pods it takes.
    pub max_pods: i64,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// Its taints.
    pub taints: Vec<core::Taint>,
    /// Its name.
    pub name: Str,
    /// Its labels, sorted.
    pub labels: Vec<(Str, Str)>,
    /// Sizes in bytes of the images that it has, by every name they have.
    pub images: BTreeMap<String, i64>,
    /// Ports of it that are taken.
    pub ports: Vec<HostPort>,
    /// The pods on it, by uid.
    pub pods: BTreeMap<Str, Arc<Pod>>,
}

/// A PodDisruptionBudget, as far as the scheduler respects it.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Its namespace.
    pub namespace: Str,
    /// Its pods.
    pub selector: Selector,
    /// How many more of them may go.
    pub allowed: i64,
    /// Names of pods whose going has been counted already.
    pub disrupted: BTreeSet<Str>,
}

/// Kind, namespace and name of what selects pods: Services and the controllers that own pods.
pub type Selecting = (&'static str, Str, Str);

/// All nodes. A slot stays with its node; emptied slots are used again.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    nodes: Vec<Option<Node>>,
    by_name: HashMap<Str, usize>,
    /// Where each pod counts; also on nodes that are not there (yet), which count nowhere.
    placed: HashMap<Str, (Str, Arc<Pod>)>,
    /// How many nodes have an image, by name: common images attract less.
    image_nodes: BTreeMap<String, i64>,
    counts: Counts,
    namespaces: HashMap<Str, Vec<(Str, Str)>>,
    selecting: BTreeMap<Selecting, Selector>,
    pub(crate) budgets: BTreeMap<(Str, Str), Budget>,
    /// Pods for which a node is being cleared, by node.
    pub(crate) nominated: BTreeMap<Str, Vec<Arc<Pod>>>,
    /// Slots in the order in which they are looked at: zone by zone in turn. Empty if it must be made anew.
    order: Vec<usize>,
    /// Where in that order the next search begins, so that every node gets its turn.
    pub(crate) next: usize,
}

impl Node {
    /// The label `key`.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels
            .binary_search_by(|(other, _)| other.as_str().cmp(key))
            .ok()
            .map(|at| self.labels[at].1.as_str())
    }

    fn read(object: &Object, node: &core::Node) -> Self {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        let amounts: Vec<(&str, Quantity)> = allocatable
            .into_iter()
            .flatten()
            .filter_map(|(name, text)| {
                Quantity::parse(&text.0).ok().map(|quantity| (name.as_str(), quantity))
            })
            .collect();
        let max_pods = amounts.iter().find(|(name, _)| *name == "pods").map(|(_, quantity)| quantity.value());
        let images = status.and_then(|status| status.images.as_ref()).into_iter().flatten();
        Self {
            name: object.name().into(),
            labels: object.labels().to_vec(),
            taints: spec.and_then(|spec| spec.taints.clone()).unwrap_or_default(),
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or_default(),
            allocatable: Resources::read(amounts.into_iter()),
            max_pods: max_pods.unwrap_or_default(),
            images: images
                .flat_map(|image| {
                    let size = image.size_bytes.unwrap_or_default();
                    image.names.iter().flatten().map(move |name| (name.clone(), size))
                })
                .collect(),
            ..Self::default()
        }
    }

    fn zone(&self) -> (Option<&str>, Option<&str>) {
        (self.label("topology.kubernetes.io/region"), self.label("topology.kubernetes.io/zone"))
    }

    fn put(&mut self, pod: &Arc<Pod>) {
        self.requested.add(&pod.requests);
        self.assumed.add(&pod.assumed);
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.insert(pod.uid.clone(), pod.clone());
    }

    fn take(&mut self, pod: &Pod) {
        self.pods.remove(&pod.uid);
        self.requested.subtract(&pod.requests);
        self.assumed.subtract(&pod.assumed);
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|other| other == port) {
                self.ports.swap_remove(at);
            }
        }
    }
}

impl Cluster {
    /// No nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> + Clone {
        self.nodes.iter().flatten()
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes[*self.by_name.get(name)?].as_ref()
    }

    /// How many nodes have an image.
    pub fn nodes_with_image(&self, image: &str) -> i64 {
        self.image_nodes.get(image).copied().unwrap_or_default()
    }

    /// What is counted.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The labels of a namespace; none of one that is not known.
    pub fn namespace(&self, name: &str) -> &Labels {
        labels_of(&self.namespaces, name)
    }

    pub(crate) fn slot(&self, slot: usize) -> Option<&Node> {
        self.nodes[slot].as_ref()
    }

    /// The slot of a node.
    pub(crate) fn slot_of(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Puts the nodes in order, if that has to be made anew.
    pub(crate) fn arrange(&mut self) {
        if self.order.len() != self.by_name.len() {
            self.order = in_turn(self.nodes.iter().flatten());
        }
    }

    /// The slots of all nodes, in the order in which they are to be looked at.
    pub(crate) fn order(&self) -> &[usize] {
        &self.order
    }

    /// The tally of a rule, by its number, until [`Cluster::tidy`].
    pub(crate) fn count(&mut self, rule: &Rule) -> usize {
        let namespaces = &self.namespaces;
        self.counts.of(rule, self.nodes.iter().flatten(), |name| labels_of(namespaces, name))
    }

    /// Lets go of counts that nobody has asked for lately.
    pub(crate) fn tidy(&mut self) {
        self.counts.tidy();
    }

    /// What the Services and the owner of a pod select: its fellows. Nothing if there are none.
    pub fn fellows(&self, pod: &Pod) -> Option<Selector> {
        let of = |kind: &'static str| {
            let from = (kind, pod.namespace.clone(), Str::default());
            self.selecting
                .range(from..)
                .take_while(move |((other, namespace, _), _)| *other == kind && *namespace == pod.namespace)
        };
        let mut fellows = Selector::everything();
        for (_, selector) in of("Service").filter(|(_, selector)| selector.matches(&pod.labels)) {
            fellows = selectors::both(&fellows, selector);
        }
        if let Some((kind, name)) = &pod.owner {
            let mut owners = of(owner_kind(kind)?);
            if let Some((_, selector)) = owners.find(|((_, _, other), _)| other == name) {
                fellows = selectors::both(&fellows, selector);
            }
        }
        (!fellows.is_everything()).then_some(fellows)
    }

    /// Takes in a node as it is now.
    pub fn put_node(&mut self, object: &Object, node: &core::Node) {
        let mut new = Node::read(object, node);
        for image in new.images.keys() {
            *self.image_nodes.entry(image.clone()).or_default() += 1;
        }
        if let Some(slot) = self.by_name.get(&new.name).copied()
            && let Some(old) = self.nodes[slot].take()
        {
            forget_images(&mut self.image_nodes, &old);
            if old.zone() != new.zone() {
                self.order.clear();
            }
            new.slot = slot;
            (new.requested, new.assumed, new.ports, new.pods) =
                (old.requested, old.assumed, old.ports, old.pods);
            self.counts.set_node(&new);
            self.nodes[slot] = Some(new);
            return;
        }
        let slot = self.nodes.iter().position(Option::is_none).unwrap_or(self.nodes.len());
        if slot == self.nodes.len() {
            self.nodes.push(None);
        }
        self.by_name.insert(new.name.clone(), slot);
        self.order.clear();
        new.slot = slot;
        self.counts.set_node(&new);
        // Pods that were bound to it before it was known.
        let early: Vec<Arc<Pod>> =
            self.placed.values().filter(|(node, _)| *node == new.name).map(|(_, pod)| pod.clone()).collect();
        self.nodes[slot] = Some(new);
        early.iter().for_each(|pod| self.arrive(slot, pod));
    }

    /// Forgets a node. Its pods stay known, in case it returns.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(slot) = self.by_name.remove(name)
            && let Some(old) = self.nodes[slot].take()
        {
            forget_images(&mut self.image_nodes, &old);
            self.counts.remove_node(&old);
            self.order.clear();
        }
    }

    /// Counts a pod on a node: as read, or as just decided.
    pub fn put_pod(&mut self, pod: &Arc<Pod>, node: &str) {
        self.remove_pod(&pod.uid);
        if let Some(slot) = self.by_name.get(node).copied() {
            self.arrive(slot, pod);
        }
        self.placed.insert(pod.uid.clone(), (node.into(), pod.clone()));
    }

    /// Stops counting a pod. Returns it, and the node that it was counted on.
    pub fn remove_pod(&mut self, uid: &str) -> Option<(Str, Arc<Pod>)> {
        let (node, pod) = self.placed.remove(uid)?;
        if let Some(slot) = self.by_name.get(&node).copied()
            && let Some(on) = self.nodes[slot].as_mut()
        {
            on.take(&pod);
            self.counts.subtract(slot, &pod, labels_of(&self.namespaces, &pod.namespace));
        }
        Some((node, pod))
    }

    fn arrive(&mut self, slot: usize, pod: &Arc<Pod>) {
        let Some(node) = self.nodes[slot].as_mut() else { return };
        node.put(pod);
        let namespace = labels_of(&self.namespaces, &pod.namespace);
        self.counts.add(slot, pod, namespace, self.nodes.iter().flatten());
    }

    /// Takes in the labels of a namespace (`None`: it is gone). Returns whether they are new.
    pub fn put_namespace(&mut self, name: &str, labels: Option<&Labels>) -> bool {
        if self.namespaces.get(name).map(Vec::as_slice) == labels {
            return false;
        }
        // What was counted by them must be forgotten before they change.
        self.counts.namespaces_changed();
        match labels {
            Some(labels) => self.namespaces.insert(name.into(), labels.to_vec()),
            None => self.namespaces.remove(name),
        };
        true
    }

    /// Takes in what a Service or an owner of pods selects (`None`: it is gone).
    pub fn put_selector(&mut self, of: Selecting, selector: Option<Selector>) {
        match selector {
            Some(selector) => self.selecting.insert(of, selector),
            None => self.selecting.remove(&of),
        };
    }

    /// Takes in a PodDisruptionBudget (`None`: it is gone).
    pub fn put_budget(&mut self, namespace: &str, name: &str, budget: Option<Budget>) {
        let key = (namespace.into(), name.into());
        match budget {
            Some(budget) => self.budgets.insert(key, budget),
            None => self.budgets.remove(&key),
        };
    }

    /// Says that a node is being cleared for a pod: others of no higher priority leave it the room.
    pub fn nominate(&mut self, pod: &Arc<Pod>, node: &str) {
        self.withdraw(&pod.uid);
        self.nominated.entry(node.into()).or_default().push(pod.clone());
    }

    /// Says that no node is being cleared for a pod any more. Returns whether one was.
    pub fn withdraw(&mut self, uid: &str) -> bool {
        let mut was = false;
        self.nominated.retain(|_, pods| {
            let before = pods.len();
            pods.retain(|pod| pod.uid != uid);
            was |= pods.len() < before;
            !pods.is_empty()
        });
        was
    }
}

/// The kind of an owner whose selector says who its pods are.
pub fn owner_kind(kind: &str) -> Option<&'static str> {
    ["ReplicaSet", "ReplicationController", "StatefulSet"].into_iter().find(|known| *known == kind)
}

fn labels_of<'a>(namespaces: &'a HashMap<Str, Vec<(Str, Str)>>, name: &str) -> &'a Labels {
    namespaces.get(name).map_or(&[], Vec::as_slice)
}

/// One node of each zone after the other, so that a search that ends early has seen all zones.
fn in_turn<'a>(nodes: impl Iterator<Item = &'a Node>) -> Vec<usize> {
    let mut zones: Vec<Vec<usize>> = Vec::new();
    let mut known = HashMap::new();
    for node in nodes {
        let zone = *known.entry(node.zone()).or_insert(zones.len());
        if zone == zones.len() {
            zones.push(Vec::new());
        }
        zones[zone].push(node.slot);
    }
    let longest = zones.iter().map(Vec::len).max().unwrap_or_default();
    (0..longest).flat_map(|turn| zones.iter().filter_map(move |zone| zone.get(turn).copied())).collect()
}

fn forget_images(counts: &mut BTreeMap<String, i64>, node: &Node) {
    for image in node.images.keys() {
        if let Some(count) = counts.get_mut(image) {
            *count -= 1;
            if *count <= 0 {
                counts.remove(image);
            }
        }
    }
}

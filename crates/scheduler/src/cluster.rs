//! The nodes and what is on them, kept up to date change by change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::object::Object;
use api::quantity::Quantity;
use api::value::Str;
use k8s_openapi::api::core::v1 as core;

use crate::pod::{HostPort, Pod};
use crate::resources::Resources;

/// A node and what is on it.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Its name.
    pub name: Str,
    /// Its labels, sorted.
    pub labels: Vec<(Str, Str)>,
    /// Its taints.
    pub taints: Vec<core::Taint>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// What pods may have of it.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub max_pods: i64,
    /// Sizes in bytes of the images that it has, by every name they have.
    pub images: BTreeMap<String, i64>,
    /// What the pods on it ask for.
    pub requested: Resources,
    /// The same with assumptions for pods that ask for nothing.
    pub assumed: Resources,
    /// Ports of it that are taken.
    pub ports: Vec<HostPort>,
    /// The pods on it, by uid.
    pub pods: BTreeMap<Str, Arc<Pod>>,
}

/// All nodes. A slot stays with its node; emptied slots are used again.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    nodes: Vec<Option<Node>>,
    by_name: HashMap<Str, usize>,
    /// Where each pod counts; also on nodes that are not there (yet), which count nowhere.
    placed: HashMap<Str, (Str, Arc<Pod>)>,
    /// How many nodes have an image, by name: common images attract less.
    image_nodes: BTreeMap<String, i64>,
    /// The slot at which the next search begins, so that every node gets its turn.
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

    fn put(&mut self, pod: &Arc<Pod>) {
        self.requested.add(&pod.requests);
        self.assumed.add(&pod.assumed);
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.insert(pod.uid.clone(), pod.clone());
    }

    fn take(&mut self, pod: &Pod) {
        if self.pods.remove(&pod.uid).is_none() {
            return;
        }
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
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
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

    /// How many nodes have an image.
    pub fn nodes_with_image(&self, image: &str) -> i64 {
        self.image_nodes.get(image).copied().unwrap_or_default()
    }

    pub(crate) fn slots(&self) -> &[Option<Node>] {
        &self.nodes
    }

    /// Takes in a node as it is now.
    pub fn put_node(&mut self, object: &Object, node: &core::Node) {
        let mut new = Node::read(object, node);
        for image in new.images.keys() {
            *self.image_nodes.entry(image.clone()).or_default() += 1;
        }
        let slot = match self.by_name.get(&new.name) {
            Some(slot) => *slot,
            None => {
                let slot = self.nodes.iter().position(Option::is_none).unwrap_or(self.nodes.len());
                if slot == self.nodes.len() {
                    self.nodes.push(None);
                }
                self.by_name.insert(new.name.clone(), slot);
                // Pods that were bound to it before it was known.
                let name = new.name.clone();
                self.placed.values().filter(|(node, _)| *node == name).for_each(|(_, pod)| new.put(pod));
                slot
            }
        };
        if let Some(old) = self.nodes[slot].take() {
            forget_images(&mut self.image_nodes, &old);
            (new.requested, new.assumed, new.ports, new.pods) =
                (old.requested, old.assumed, old.ports, old.pods);
        }
        self.nodes[slot] = Some(new);
    }

    /// Forgets a node. Its pods stay known, in case it returns.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(slot) = self.by_name.remove(name)
            && let Some(old) = self.nodes[slot].take()
        {
            forget_images(&mut self.image_nodes, &old);
        }
    }

    /// Counts a pod on a node: as read, or as just decided.
    pub fn put_pod(&mut self, pod: &Arc<Pod>, node: &str) {
        self.remove_pod(&pod.uid);
        if let Some(node) = self.node_mut(node) {
            node.put(pod);
        }
        self.placed.insert(pod.uid.clone(), (node.into(), pod.clone()));
    }

    /// Stops counting a pod.
    pub fn remove_pod(&mut self, uid: &str) {
        if let Some((node, pod)) = self.placed.remove(uid)
            && let Some(node) = self.node_mut(&node)
        {
            node.take(&pod);
        }
    }

    fn node_mut(&mut self, name: &str) -> Option<&mut Node> {
        let slot = *self.by_name.get(name)?;
        self.nodes[slot].as_mut()
    }
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

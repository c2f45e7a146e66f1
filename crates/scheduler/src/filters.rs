//! Which nodes will do. One function a rule, all named in [`FILTERS`], in upstream's order.

use std::borrow::Cow;
use std::collections::BTreeSet;

use api::value::Str;
use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::affinity::{self, Near};
use crate::cluster::{Cluster, Node};
use crate::pod::Pod;
use crate::spread::{self, Counted};

/// What a rule says of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It will do.
    Fits,
    /// It will not, as long as its pods are there.
    Refused,
    /// It will not, and evicting pods could not help.
    Hopeless,
}

/// Why a node will not do, in upstream's words; several where several resources lack.
pub type Reasons = Vec<Cow<'static, str>>;

/// One rule.
pub struct Filter {
    /// Upstream's name of the plugin.
    pub name: &'static str,
    /// Whether it has anything to say about a pod at all.
    pub concerns: fn(&Request) -> bool,
    /// Says whether a node will do, and puts the reason why not into the list.
    pub check: fn(&Request, &Cluster, &Node, &mut Reasons) -> Verdict,
}

/// All rules, in the order in which they are asked; the first that refuses a node gives the reason.
pub const FILTERS: &[Filter] = &[
    Filter { name: "NodeName", concerns: |request| !request.pod.node.is_empty(), check: node_name },
    Filter { name: "NodeUnschedulable", concerns: |_| true, check: node_unschedulable },
    Filter { name: "TaintToleration", concerns: |_| true, check: taint_toleration },
    Filter {
        name: "NodeAffinity",
        concerns: |request| !request.pod.required.is_empty(),
        check: node_affinity,
    },
    Filter { name: "NodePorts", concerns: |request| !request.pod.ports.is_empty(), check: node_ports },
    Filter { name: "NodeResourcesFit", concerns: |_| true, check: node_resources_fit },
    Filter {
        name: "PodTopologySpread",
        concerns: |request| !request.spreads.is_empty(),
        check: spread::check,
    },
    Filter { name: "InterPodAffinity", concerns: |request| !request.near.is_empty(), check: affinity::check },
];

/// A set of [`FILTERS`], by their place in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filters(u32);

impl Filters {
    /// Adds a filter.
    pub fn insert(&mut self, index: usize) {
        self.0 |= 1 << index;
    }

    /// Adds a filter by its name.
    pub fn insert_named(&mut self, name: &str) {
        if let Some(index) = FILTERS.iter().position(|filter| filter.name == name) {
            self.insert(index);
        }
    }

    /// Whether the filter of this name is in it.
    pub fn contains(self, name: &str) -> bool {
        FILTERS.iter().position(|filter| filter.name == name).is_some_and(|index| self.0 & (1 << index) != 0)
    }
}

/// A pod that looks for a place, with what is counted once for all nodes. It holds as long as no pod and no node
/// changes.
pub struct Request<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its required spread constraints.
    pub spreads: Vec<Counted>,
    /// Its affinities, and those of others that concern it.
    pub near: Near,
    filters: Vec<usize>,
}

impl<'a> Request<'a> {
    /// Counts what the rules need of the whole cluster.
    pub fn new(pod: &'a Pod, cluster: &mut Cluster) -> Self {
        let spreads = spread::count(pod, cluster);
        let near = Near::count(pod, cluster);
        let mut request = Self { pod, spreads, near, filters: Vec::new() };
        let concerned = FILTERS.iter().enumerate().filter(|(_, filter)| (filter.concerns)(&request));
        request.filters = concerned.map(|(index, _)| index).collect();
        request
    }

    /// Whether a node will do; if not, which of [`FILTERS`] refused it, and why, in `reasons`.
    pub fn check(&self, cluster: &Cluster, node: &Node, reasons: &mut Reasons) -> (Verdict, usize) {
        for index in &self.filters {
            let verdict = (FILTERS[*index].check)(self, cluster, node, reasons);
            if verdict != Verdict::Fits {
                return (verdict, *index);
            }
        }
        (Verdict::Fits, 0)
    }

    /// If only nodes of some names need to be looked at, these.
    pub fn names(&self) -> Option<&'a BTreeSet<Str>> {
        self.pod.required.names.as_ref()
    }
}

/// What a filter answers: `refused` if it refuses at all.
pub fn refuse_if(refuses: bool, refused: Verdict, reason: &'static str, reasons: &mut Reasons) -> Verdict {
    if !refuses {
        return Verdict::Fits;
    }
    reasons.push(Cow::Borrowed(reason));
    refused
}

fn node_unschedulable(request: &Request, _: &Cluster, node: &Node, reasons: &mut Reasons) -> Verdict {
    if !node.unschedulable {
        return Verdict::Fits;
    }
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    let borne = request.pod.tolerations.iter().any(|toleration| tolerates(toleration, &taint));
    refuse_if(!borne, Verdict::Hopeless, "node(s) were unschedulable", reasons)
}

fn node_name(request: &Request, _: &Cluster, node: &Node, reasons: &mut Reasons) -> Verdict {
    let other = request.pod.node != node.name;
    refuse_if(other, Verdict::Hopeless, "node(s) didn't match the requested node name", reasons)
}

fn taint_toleration(request: &Request, _: &Cluster, node: &Node, reasons: &mut Reasons) -> Verdict {
    let untolerated = untolerated(node, &request.pod.tolerations).is_some();
    refuse_if(untolerated, Verdict::Hopeless, "node(s) had untolerated taint(s)", reasons)
}

fn node_affinity(request: &Request, _: &Cluster, node: &Node, reasons: &mut Reasons) -> Verdict {
    let matches = request.pod.required.matches(&node.name, &node.labels);
    refuse_if(!matches, Verdict::Hopeless, "node(s) didn't match Pod's node affinity/selector", reasons)
}

fn node_ports(request: &Request, _: &Cluster, node: &Node, reasons: &mut Reasons) -> Verdict {
    let taken = request.pod.ports.iter().any(|port| node.ports.iter().any(|other| port.conflicts(other)));
    let reason = "node(s) didn't have free ports for the requested pod ports";
    refuse_if(taken, Verdict::Refused, reason, reasons)
}

fn node_resources_fit(request: &Request, _: &Cluster, node: &Node, reasons: &mut Reasons) -> Verdict {
    let full = node.pods.len() as i64 + 1 > node.max_pods;
    let asked = &request.pod.requests;
    if !full && asked.fits(&node.allocatable, &node.requested) {
        return Verdict::Fits;
    }
    let mut verdict = Verdict::Refused;
    if full {
        reasons.push(Cow::Borrowed("Too many pods"));
    }
    asked.lacking(&node.allocatable, &node.requested, |name, hopeless| {
        reasons.push(match name {
            "cpu" => Cow::Borrowed("Insufficient cpu"),
            "memory" => Cow::Borrowed("Insufficient memory"),
            other => Cow::Owned(format!("Insufficient {other}")),
        });
        if hopeless {
            verdict = Verdict::Hopeless;
        }
    });
    verdict
}

/// The first taint that keeps the pod off the node.
pub fn untolerated<'a>(node: &'a Node, tolerations: &[Toleration]) -> Option<&'a Taint> {
    let mut hard =
        node.taints.iter().filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    hard.find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

/// Whether a toleration bears a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    let effect = empty(&toleration.effect) || toleration.effect.as_deref() == Some(taint.effect.as_str());
    let key = empty(&toleration.key) || toleration.key.as_deref() == Some(taint.key.as_str());
    let value = || taint.value.as_deref().unwrap_or_default();
    effect
        && key
        && match toleration.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => toleration.value.as_deref().unwrap_or_default() == value(),
            "Exists" => true,
            _ => false,
        }
}

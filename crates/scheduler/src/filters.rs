//! Which nodes will do. One function a rule, all named in [`FILTERS`], in upstream's order.

use std::collections::BTreeMap;

use api::value::Str;
use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::cluster::{Cluster, Node};
use crate::pod::{Pod, Spread};

/// Why a node will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// In upstream's words; several where several resources lack.
    pub reasons: Vec<String>,
    /// Whether evicting pods could not help.
    pub unresolvable: bool,
}

/// One rule.
pub struct Filter {
    /// Upstream's name of the plugin.
    pub name: &'static str,
    /// `None` if the node will do.
    pub check: fn(&Request, &Node) -> Option<Rejection>,
}

/// All rules, in the order in which they are asked; the first that rejects a node gives the reason.
pub const FILTERS: &[Filter] = &[
    Filter { name: "NodeUnschedulable", check: node_unschedulable },
    Filter { name: "NodeName", check: node_name },
    Filter { name: "TaintToleration", check: taint_toleration },
    Filter { name: "NodeAffinity", check: node_affinity },
    Filter { name: "NodePorts", check: node_ports },
    Filter { name: "NodeResourcesFit", check: node_resources_fit },
    Filter { name: "PodTopologySpread", check: pod_topology_spread },
];

/// A pod that looks for a place, with what is counted once for all nodes.
pub struct Request<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// For each required spread constraint: matching pods by domain.
    spreads: Vec<Counted<'a>>,
}

struct Counted<'a> {
    constraint: &'a Spread,
    by_domain: BTreeMap<Str, i64>,
    self_match: i64,
}

impl<'a> Request<'a> {
    /// Counts what the rules need of the whole cluster.
    pub fn new(pod: &'a Pod, cluster: &Cluster) -> Self {
        let required = pod.spread.iter().filter(|constraint| constraint.required);
        let keys: Vec<&Spread> = required.clone().collect();
        let spreads = required.map(|constraint| {
            let mut by_domain: BTreeMap<Str, i64> = BTreeMap::new();
            for node in cluster.nodes() {
                let has_all_keys = keys.iter().all(|other| node.label(&other.topology_key).is_some());
                if !has_all_keys || !counts(pod, constraint, node) {
                    continue;
                }
                if let Some(domain) = node.label(&constraint.topology_key) {
                    *by_domain.entry(domain.into()).or_default() += matching(pod, constraint, node);
                }
            }
            Counted { self_match: i64::from(constraint.selector.matches(&pod.labels)), constraint, by_domain }
        });
        Self { pod, spreads: spreads.collect() }
    }

    /// The first rule's reason why a node will not do.
    pub fn reject(&self, node: &Node) -> Option<Rejection> {
        FILTERS.iter().find_map(|filter| (filter.check)(self, node))
    }
}

/// Whether a node takes part in the counting of a constraint.
pub fn counts(pod: &Pod, constraint: &Spread, node: &Node) -> bool {
    let affinity = !constraint.honours_affinity || pod.required.matches(&node.name, &node.labels);
    affinity && (!constraint.honours_taints || untolerated(node, &pod.tolerations).is_none())
}

/// Pods on a node that a constraint counts.
pub fn matching(pod: &Pod, constraint: &Spread, node: &Node) -> i64 {
    let peers = node.pods.values().filter(|other| other.namespace == pod.namespace);
    peers.filter(|other| constraint.selector.matches(&other.labels)).count() as i64
}

fn rejection(reason: &str, unresolvable: bool) -> Option<Rejection> {
    Some(Rejection { reasons: vec![reason.to_owned()], unresolvable })
}

fn node_unschedulable(request: &Request, node: &Node) -> Option<Rejection> {
    if !node.unschedulable {
        return None;
    }
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    let tolerated = request.pod.tolerations.iter().any(|toleration| tolerates(toleration, &taint));
    if tolerated { None } else { rejection("node(s) were unschedulable", true) }
}

fn node_name(request: &Request, node: &Node) -> Option<Rejection> {
    let wanted = &request.pod.node;
    if wanted.is_empty() || *wanted == node.name {
        return None;
    }
    rejection("node(s) didn't match the requested node name", true)
}

fn taint_toleration(request: &Request, node: &Node) -> Option<Rejection> {
    untolerated(node, &request.pod.tolerations)?;
    rejection("node(s) had untolerated taint(s)", true)
}

fn node_affinity(request: &Request, node: &Node) -> Option<Rejection> {
    if request.pod.required.matches(&node.name, &node.labels) {
        return None;
    }
    rejection("node(s) didn't match Pod's node affinity/selector", true)
}

fn node_ports(request: &Request, node: &Node) -> Option<Rejection> {
    let taken = request.pod.ports.iter().any(|port| node.ports.iter().any(|other| port.conflicts(other)));
    if taken { rejection("node(s) didn't have free ports for the requested pod ports", false) } else { None }
}

fn node_resources_fit(request: &Request, node: &Node) -> Option<Rejection> {
    let mut reasons = Vec::new();
    let mut unresolvable = false;
    if node.pods.len() as i64 + 1 > node.max_pods {
        reasons.push("Too many pods".to_owned());
    }
    for (name, hopeless) in request.pod.requests.lacking(&node.allocatable, &node.requested) {
        reasons.push(format!("Insufficient {name}"));
        unresolvable |= hopeless;
    }
    (!reasons.is_empty()).then_some(Rejection { reasons, unresolvable })
}

fn pod_topology_spread(request: &Request, node: &Node) -> Option<Rejection> {
    request.spreads.iter().find_map(|counted| {
        let constraint = counted.constraint;
        let Some(domain) = node.label(&constraint.topology_key) else {
            return rejection(
                "node(s) didn't match pod topology spread constraints (missing required label)",
                true,
            );
        };
        let domains = counted.by_domain.len() as i64;
        let fewest = counted.by_domain.values().min().copied().unwrap_or_default();
        let fewest = if domains < constraint.min_domains { 0 } else { fewest };
        let here = counted.by_domain.get(domain).copied().unwrap_or_default();
        if here + counted.self_match - fewest > constraint.max_skew {
            return rejection("node(s) didn't match pod topology spread constraints", false);
        }
        None
    })
}

/// The first taint that keeps the pod off the node.
pub fn untolerated<'a>(node: &'a Node, tolerations: &[Toleration]) -> Option<&'a Taint> {
    let hard = node.taints.iter().filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    hard.into_iter().find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
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

//! What the scheduler needs to know of a pod, read once.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::object::Object;
use api::selector::label::Selector;
use api::value::Str;
use k8s_openapi::api::core::v1 as core;

use crate::resources::{self, Resources};
use crate::rule::{Carried, Kind, Part, Rule, Term};
use crate::selectors::{self, NodeRule, equal_to, label_selector};

/// What a required affinity of a pod that has a place draws others by (`hardPodAffinityWeight`).
const REQUIRED_DRAWS: i64 = 1;

/// A pod, reduced to what decides its place.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// Its uid.
    pub uid: Str,
    /// Its namespace.
    pub namespace: Str,
    /// Its name.
    pub name: Str,
    /// Its labels, sorted.
    pub labels: Vec<(Str, Str)>,
    /// Kind and name of the controller that it belongs to.
    pub owner: Option<(Str, Str)>,
    /// The node that it is on, or wants by name.
    pub node: Str,
    /// The node that is being cleared for it.
    pub nominated: Str,
    /// `spec.schedulerName`.
    pub scheduler: Str,
    /// `spec.priority`.
    pub priority: i32,
    /// `preemptionPolicy: Never`.
    pub never_preempts: bool,
    /// Whether it is about to go.
    pub terminating: bool,
    /// Whether a scheduler has sent it away for another pod.
    pub preempted: bool,
    /// When it started, in seconds since 1970; `None` if it has not.
    pub started: Option<i64>,
    /// Gates that hold it back.
    pub gates: Vec<Str>,
    /// What it asks for.
    pub requests: Resources,
    /// The same with upstream's assumptions for containers that ask for nothing, by which nodes are compared.
    pub assumed: Resources,
    /// What a node must be like.
    pub required: NodeRule,
    /// What a node is better for being like, with weights.
    pub preferred: Vec<(i64, selectors::Term)>,
    /// What it bears.
    pub tolerations: Vec<core::Toleration>,
    /// Ports of the node that it takes.
    pub ports: Vec<HostPort>,
    /// Its images, as nodes list them.
    pub images: Vec<String>,
    /// How it wants its peers spread.
    pub spread: Vec<Spread>,
    /// Pods of which one must be near; it alone must match all terms, so each rule counts pods that do.
    pub near: Vec<Rule>,
    /// Whether it would itself do as the pod that must be near.
    pub near_itself: bool,
    /// Pods none of which may be near.
    pub apart: Vec<Rule>,
    /// Pods near which it would rather be, or (negative) not be.
    pub drawn: Vec<(i64, Rule)>,
    /// What it says of other pods when it has a place.
    pub carries: Vec<Carried>,
    /// Rules in it that no filter here knows yet, by field.
    pub unknown: Vec<&'static str>,
}

/// A port of the node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Empty for all addresses.
    pub address: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The port.
    pub port: i32,
}

/// One topology spread constraint.
#[derive(Clone, Debug)]
pub struct Spread {
    /// How uneven it may be.
    pub max_skew: i64,
    /// Whether it forbids, or only prefers.
    pub required: bool,
    /// Whether the pod itself counts where it will be.
    pub counts_itself: bool,
    /// Fewer domains than these count as an empty one more.
    pub min_domains: i64,
    /// Who counts where.
    pub rule: Rule,
}

impl HostPort {
    /// Whether both cannot be had.
    pub fn conflicts(&self, other: &Self) -> bool {
        let everywhere = |port: &Self| port.address.is_empty() || port.address == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || everywhere(self) || everywhere(other))
    }
}

impl Pod {
    /// Reads a pod; `None` if it has ended, for it takes nothing any more.
    pub fn read(object: &Object, pod: &core::Pod) -> Option<Arc<Self>> {
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        let spec = pod.spec.as_ref()?;
        let node_affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let preferred =
            node_affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let (requests, assumed) = resources::of_pod(spec);
        let mut unknown = Vec::new();
        if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
            unknown.push("spec.resourceClaims");
        }
        let owner = object.controller().map(|owner| (owner.kind.clone(), owner.name.clone()));
        let text = |text: &Option<String>| Str::from(text.as_deref().unwrap_or_default());
        let mut read = Self {
            uid: object.uid().into(),
            namespace: object.namespace().into(),
            name: object.name().into(),
            labels: object.labels().to_vec(),
            owner,
            node: text(&spec.node_name),
            nominated: status.map(|status| text(&status.nominated_node_name)).unwrap_or_default(),
            scheduler: spec.scheduler_name.as_deref().unwrap_or("default-scheduler").into(),
            priority: spec.priority.unwrap_or_default(),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            terminating: object.is_deleting(),
            preempted: status.is_some_and(was_preempted),
            started: status.and_then(|status| status.start_time.as_ref()).map(|time| time.0.as_second()),
            gates: spec.scheduling_gates.iter().flatten().map(|gate| gate.name.as_str().into()).collect(),
            requests,
            assumed,
            required: NodeRule::read(spec),
            preferred: preferred
                .into_iter()
                .flatten()
                .map(|weighted| (i64::from(weighted.weight), selectors::Term::read(&weighted.preference)))
                .collect(),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            ports: host_ports(spec),
            images: images(spec),
            unknown,
            ..Self::default()
        };
        if let Some(constraints) = spec.topology_spread_constraints.as_ref().filter(|all| !all.is_empty()) {
            read.spread = read.spreads(constraints);
        }
        if let Some(affinity) = &spec.affinity {
            read.read_affinity(affinity);
        }
        Some(Arc::new(read))
    }

    /// Whether this scheduler is to place it now.
    pub fn wants_place(&self, scheduler: &str) -> bool {
        self.node.is_empty() && self.gates.is_empty() && self.scheduler == scheduler && !self.terminating
    }

    /// Constraints over peers that `selector` selects: kept by all nodes with all of the keys.
    pub(crate) fn part(&self, keys: Vec<Str>, honours_affinity: bool, honours_taints: bool) -> Part {
        Part {
            keys,
            nodes: (honours_affinity && !self.required.is_empty()).then(|| self.required.clone()),
            tolerations: honours_taints.then(|| self.tolerations.clone()),
        }
    }

    fn spreads(&self, constraints: &[core::TopologySpreadConstraint]) -> Vec<Spread> {
        let keys = |when: &str| -> Vec<Str> {
            let same = constraints.iter().filter(|constraint| constraint.when_unsatisfiable == when);
            same.map(|constraint| constraint.topology_key.as_str().into()).collect()
        };
        let spread = |constraint: &core::TopologySpreadConstraint| {
            let own = |key: &String| {
                let at = self.labels.binary_search_by(|(other, _)| other.as_str().cmp(key)).ok()?;
                Some((key.clone(), self.labels[at].1.to_string()))
            };
            let mut selector = label_selector(constraint.label_selector.as_ref());
            let also: BTreeMap<String, String> =
                constraint.match_label_keys.iter().flatten().filter_map(own).collect();
            if !also.is_empty() {
                selector = selectors::both(&equal_to(&also), &selector);
            }
            let part = self.part(
                keys(&constraint.when_unsatisfiable),
                constraint.node_affinity_policy.as_deref() != Some("Ignore"),
                constraint.node_taints_policy.as_deref() == Some("Honor"),
            );
            Spread {
                max_skew: i64::from(constraint.max_skew),
                required: constraint.when_unsatisfiable == "DoNotSchedule",
                counts_itself: selector.matches(&self.labels),
                min_domains: i64::from(constraint.min_domains.unwrap_or(1)),
                rule: Rule::of_peers(
                    &self.namespace,
                    selector,
                    &constraint.topology_key.as_str().into(),
                    part,
                ),
            }
        };
        constraints.iter().map(spread).collect()
    }

    fn read_affinity(&mut self, affinity: &core::Affinity) {
        let namespace = self.namespace.clone();
        let required = |terms: &Option<Vec<core::PodAffinityTerm>>| -> Vec<Term> {
            terms.iter().flatten().map(|term| Term::read(term, &namespace)).collect()
        };
        let preferred = |terms: &Option<Vec<core::WeightedPodAffinityTerm>>| -> Vec<(i64, Term)> {
            let terms = terms.iter().flatten();
            terms
                .map(|term| (i64::from(term.weight), Term::read(&term.pod_affinity_term, &namespace)))
                .collect()
        };
        let mut drawn = Vec::new();
        if let Some(affinity) = &affinity.pod_affinity {
            let terms = required(&affinity.required_during_scheduling_ignored_during_execution);
            self.near = terms.iter().map(|term| Rule::of_terms(&terms, &term.topology_key)).collect();
            self.carries
                .extend(terms.into_iter().map(|term| Carried::new(Kind::Draws(REQUIRED_DRAWS), term)));
            drawn = preferred(&affinity.preferred_during_scheduling_ignored_during_execution);
        }
        if let Some(affinity) = &affinity.pod_anti_affinity {
            let terms = required(&affinity.required_during_scheduling_ignored_during_execution);
            let rules =
                terms.iter().map(|term| Rule::of_terms(std::slice::from_ref(term), &term.topology_key));
            self.apart = rules.collect();
            self.carries.extend(terms.into_iter().map(|term| Carried::new(Kind::Repels, term)));
            let terms = preferred(&affinity.preferred_during_scheduling_ignored_during_execution);
            drawn.extend(terms.into_iter().map(|(weight, term)| (-weight, term)));
        }
        for (weight, term) in drawn {
            self.drawn.push((weight, Rule::of_terms(std::slice::from_ref(&term), &term.topology_key)));
            self.carries.push(Carried::new(Kind::Draws(weight), term));
        }
    }
}

fn was_preempted(status: &core::PodStatus) -> bool {
    status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "DisruptionTarget"
            && condition.status == "True"
            && condition.reason.as_deref() == Some("PreemptionByScheduler")
    })
}

/// Images by the names that nodes list: a tag is always there.
fn images(spec: &core::PodSpec) -> Vec<String> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let images = containers.filter_map(|container| container.image.as_ref());
    let tagged = |image: &String| {
        let name = image.rsplit('/').next().unwrap_or(image);
        if name.contains(':') { image.clone() } else { format!("{image}:latest") }
    };
    images.map(tagged).collect()
}

fn host_ports(spec: &core::PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let taken = ports.filter_map(|port| {
        Some(HostPort {
            address: port.host_ip.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or("TCP".to_owned()),
            port: port.host_port.filter(|port| *port > 0)?,
        })
    });
    taken.collect()
}

/// Pods that say nothing are spread over hosts and zones with those that `selector` selects (upstream's system
/// defaults).
pub fn default_spreads(pod: &Pod, selector: &Selector) -> Vec<Spread> {
    let spread = |key: &'static str, max_skew| Spread {
        max_skew,
        required: false,
        counts_itself: selector.matches(&pod.labels),
        min_domains: 1,
        rule: Rule::of_peers(
            &pod.namespace,
            selector.clone(),
            &Str::const_new(key),
            pod.part(Vec::new(), true, false),
        ),
    };
    vec![spread("kubernetes.io/hostname", 3), spread("topology.kubernetes.io/zone", 5)]
}

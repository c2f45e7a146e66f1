//! What the scheduler needs to know of a pod, read once.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::object::Object;
use api::quantity::Quantity;
use api::selector::label::{Operator, Requirement, Selector};
use api::value::Str;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::resources::Resources;

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
    /// The node that it is on, or wants by name.
    pub node: Str,
    /// `spec.schedulerName`.
    pub scheduler: Str,
    /// Gates that hold it back.
    pub gates: Vec<Str>,
    /// What it asks for.
    pub requests: Resources,
    /// The same with upstream's assumptions for containers that ask for nothing, by which nodes are compared.
    pub assumed: Resources,
    /// What a node must be like.
    pub required: NodeRule,
    /// What a node is better for being like, with weights.
    pub preferred: Vec<(i64, Term)>,
    /// What it bears.
    pub tolerations: Vec<core::Toleration>,
    /// Ports of the node that it takes.
    pub ports: Vec<HostPort>,
    /// Its images, as nodes list them.
    pub images: Vec<String>,
    /// How it wants its peers spread.
    pub spread: Vec<Spread>,
    /// Rules in it that no filter here knows yet, by field.
    pub unknown: Vec<&'static str>,
}

/// `nodeSelector` and required node affinity together.
#[derive(Clone, Debug, Default)]
pub struct NodeRule {
    /// Labels that all must be there.
    pub labels: Option<Selector>,
    /// Of these one must match, if there is any list at all.
    pub any_of: Option<Vec<Term>>,
}

/// One term of a node selector.
#[derive(Clone, Debug)]
pub struct Term {
    /// On the node's labels; `None` matches nothing.
    pub labels: Option<Selector>,
    /// On the node's name.
    pub name: Option<Selector>,
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
    /// Label that names the domains.
    pub topology_key: Str,
    /// Whether it forbids, or only prefers.
    pub required: bool,
    /// Who counts.
    pub selector: Selector,
    /// Fewer domains than these count as an empty one more.
    pub min_domains: i64,
    /// Whether nodes that the pod may not use are left out of the count.
    pub honours_affinity: bool,
    /// Whether nodes whose taints the pod does not bear are left out of the count.
    pub honours_taints: bool,
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

impl Term {
    /// Whether a node matches. A term without anything in it matches none.
    pub fn matches(&self, name: &str, labels: &[(Str, Str)]) -> bool {
        let by_labels = self.labels.as_ref().map(|selector| selector.matches(labels));
        let by_name =
            self.name.as_ref().map(|selector| selector.matches(&[("metadata.name".into(), name.into())]));
        match (by_labels, by_name) {
            (None, None) => false,
            (labels, name) => labels.unwrap_or(true) && name.unwrap_or(true),
        }
    }
}

impl NodeRule {
    /// Whether a node will do.
    pub fn matches(&self, name: &str, labels: &[(Str, Str)]) -> bool {
        self.labels.as_ref().is_none_or(|selector| selector.matches(labels))
            && self.any_of.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(name, labels)))
    }

    /// Whether any node will do.
    pub fn is_empty(&self) -> bool {
        self.labels.is_none() && self.any_of.is_none()
    }
}

impl Pod {
    /// Reads a pod; `None` if it has ended, for it takes nothing any more.
    pub fn read(object: &Object, pod: &core::Pod) -> Option<Arc<Self>> {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        let spec = pod.spec.as_ref()?;
        let affinity = spec.affinity.as_ref();
        let node_affinity = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
        let required =
            node_affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let preferred =
            node_affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let node_labels = spec.node_selector.as_ref().filter(|labels| !labels.is_empty());
        let (requests, assumed) = requests(spec);
        let mut unknown = Vec::new();
        if affinity.is_some_and(|affinity| affinity.pod_affinity.is_some()) {
            unknown.push("spec.affinity.podAffinity");
        }
        if affinity.is_some_and(|affinity| affinity.pod_anti_affinity.is_some()) {
            unknown.push("spec.affinity.podAntiAffinity");
        }
        if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
            unknown.push("spec.resourceClaims");
        }
        Some(Arc::new(Self {
            uid: object.uid().into(),
            namespace: object.namespace().into(),
            name: object.name().into(),
            labels: object.labels().to_vec(),
            node: spec.node_name.as_deref().unwrap_or_default().into(),
            scheduler: spec.scheduler_name.as_deref().unwrap_or("default-scheduler").into(),
            gates: spec.scheduling_gates.iter().flatten().map(|gate| gate.name.as_str().into()).collect(),
            requests,
            assumed,
            required: NodeRule {
                labels: node_labels.map(equal_to),
                any_of: required.map(|selector| selector.node_selector_terms.iter().map(term).collect()),
            },
            preferred: preferred
                .into_iter()
                .flatten()
                .map(|weighted| (i64::from(weighted.weight), term(&weighted.preference)))
                .collect(),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            ports: host_ports(spec),
            images: spec
                .init_containers
                .iter()
                .flatten()
                .chain(&spec.containers)
                .filter_map(|container| container.image.clone())
                .collect(),
            spread: spec
                .topology_spread_constraints
                .iter()
                .flatten()
                .map(|constraint| spread(constraint, object))
                .collect(),
            unknown,
        }))
    }

    /// Whether this scheduler is to place it now.
    pub fn wants_place(&self, scheduler: &str) -> bool {
        self.node.is_empty() && self.gates.is_empty() && self.scheduler == scheduler
    }
}

fn equal_to(labels: &BTreeMap<String, String>) -> Selector {
    let requirements = labels.iter().filter_map(|(key, value)| {
        Requirement::new(key, Operator::Equals, vec![Str::from(value.as_str())]).ok()
    });
    Selector::of(requirements.collect())
}

fn term(term: &core::NodeSelectorTerm) -> Term {
    let selector = |all: &Option<Vec<core::NodeSelectorRequirement>>| {
        let all = all.as_ref().filter(|all| !all.is_empty())?;
        let requirements: Option<Vec<Requirement>> = all.iter().map(requirement).collect();
        // What cannot be read matches nothing; validation lets none of it in.
        Some(requirements.map_or(Selector::nothing(), Selector::of))
    };
    Term { labels: selector(&term.match_expressions), name: selector(&term.match_fields) }
}

fn requirement(requirement: &core::NodeSelectorRequirement) -> Option<Requirement> {
    let operator = match requirement.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return None,
    };
    let values = requirement.values.iter().flatten().map(|value| Str::from(value.as_str())).collect();
    Requirement::new(&requirement.key, operator, values).ok()
}

fn spread(constraint: &core::TopologySpreadConstraint, object: &Object) -> Spread {
    let own = |key: &String| object.label(key).map(|value| (key.clone(), value.to_owned()));
    let mut selector = constraint.label_selector.as_ref().map_or(Selector::nothing(), label_selector);
    let also: BTreeMap<String, String> =
        constraint.match_label_keys.iter().flatten().filter_map(own).collect();
    if !also.is_empty() {
        let all = selector.requirements().iter().chain(equal_to(&also).requirements()).cloned().collect();
        selector = Selector::of(all);
    }
    Spread {
        max_skew: i64::from(constraint.max_skew),
        topology_key: constraint.topology_key.as_str().into(),
        required: constraint.when_unsatisfiable == "DoNotSchedule",
        selector,
        min_domains: i64::from(constraint.min_domains.unwrap_or(1)),
        honours_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
        honours_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
    }
}

fn label_selector(selector: &LabelSelector) -> Selector {
    let labels = selector.match_labels.as_ref().map(equal_to);
    let expressions = selector.match_expressions.iter().flatten().filter_map(|expression| {
        let as_node = core::NodeSelectorRequirement {
            key: expression.key.clone(),
            operator: expression.operator.clone(),
            values: expression.values.clone(),
        };
        requirement(&as_node)
    });
    let labels = labels.iter().flat_map(|labels| labels.requirements().iter().cloned());
    Selector::of(labels.chain(expressions).collect())
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

/// What a pod asks for (`resource.PodRequests`): containers and sidecars together, or the largest moment of its
/// start, whichever is more; and its overhead. The second result assumes something for who asks for nothing.
fn requests(spec: &core::PodSpec) -> (Resources, Resources) {
    let container = |container: &core::Container, assume: bool| {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let mut resources = Resources::read(requests.into_iter().flatten().filter_map(amount));
        if assume {
            resources.assume_defaults();
        }
        resources
    };
    let total = |assume: bool| {
        let mut running = Resources::default();
        spec.containers.iter().for_each(|c| running.add(&container(c, assume)));
        let (mut sidecars, mut starting) = (Resources::default(), Resources::default());
        for init in spec.init_containers.iter().flatten() {
            let mut moment = container(init, assume);
            if init.restart_policy.as_deref() == Some("Always") {
                running.add(&moment);
                sidecars.add(&moment);
                moment = sidecars.clone();
            } else {
                moment.add(&sidecars);
            }
            starting.maximum(&moment);
        }
        running.maximum(&starting);
        // Requests of the whole pod replace what its containers add up to.
        let whole = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        running.replace(&Resources::read(whole.into_iter().flatten().filter_map(amount)));
        running.add(&Resources::read(spec.overhead.iter().flatten().filter_map(amount)));
        running
    };
    (total(false), total(true))
}

fn amount<'a>((name, text): (&'a String, &Text)) -> Option<(&'a str, Quantity)> {
    Quantity::parse(&text.0).ok().map(|quantity| (name.as_str(), quantity))
}

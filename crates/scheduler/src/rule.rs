//! Rules by which pods count each other: spreading constraints, affinity and anti-affinity.

use std::fmt::Write;

use api::selector::label::Selector;
use api::value::Str;
use k8s_openapi::api::core::v1 as core;

use crate::cluster::Node;
use crate::filters;
use crate::pod::Pod;
use crate::selectors::{self, NodeRule, label_selector};

/// Labels, sorted by key.
pub type Labels = [(Str, Str)];

/// One rule: which pods count, in the domains of which label, on which nodes. Rules with the same identity share one
/// [`crate::tally::Tally`], whichever pods they came with.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Says all of the rule in one text.
    pub identity: Str,
    /// Label that names the domains.
    pub topology_key: Str,
    /// Which pods count.
    pub who: Who,
    /// Which nodes take part.
    pub part: Part,
}

/// Which pods a rule counts.
#[derive(Clone, Debug)]
pub enum Who {
    /// Pods of one namespace that are not about to go.
    Peers {
        /// The namespace.
        namespace: Str,
        /// Their labels.
        selector: Selector,
    },
    /// Pods that match all of these terms.
    Matching(Vec<Term>),
}

/// Which nodes take part in the counting of domains. The default is all that have the label.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// Labels that all must be there.
    pub keys: Vec<Str>,
    /// What the pod asks of nodes, if it matters.
    pub nodes: Option<NodeRule>,
    /// What the pod bears, if it matters.
    pub tolerations: Option<Vec<core::Toleration>>,
}

/// One term of an affinity or anti-affinity: pods near which to be, or not to be.
#[derive(Clone, Debug)]
pub struct Term {
    /// Label that names the domains.
    pub topology_key: Str,
    /// Namespaces by name, sorted.
    pub namespaces: Vec<Str>,
    /// Namespaces by label.
    pub namespace_selector: Selector,
    /// The labels of the pods.
    pub selector: Selector,
}

/// What a term is to the pod that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The pod keeps others away.
    Repels,
    /// The pod draws others by this much, or (negative) would rather not have them.
    Draws(i64),
}

/// A term that a pod carries to its node, where it concerns others that look for a place.
#[derive(Clone, Debug)]
pub struct Carried {
    /// Says all of it in one text.
    pub identity: Str,
    /// What it does.
    pub kind: Kind,
    /// Whom it concerns.
    pub term: Term,
}

impl Term {
    /// Reads a term of a pod of `namespace`.
    pub fn read(term: &core::PodAffinityTerm, namespace: &str) -> Self {
        let mut namespaces: Vec<Str> =
            term.namespaces.iter().flatten().map(|name| name.as_str().into()).collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(namespace.into());
        }
        namespaces.sort();
        namespaces.dedup();
        Self {
            topology_key: term.topology_key.as_str().into(),
            namespaces,
            namespace_selector: label_selector(term.namespace_selector.as_ref()),
            selector: label_selector(term.label_selector.as_ref()),
        }
    }

    /// Whether it means a pod, whose namespace has these labels.
    pub fn matches(&self, pod: &Pod, namespace: &Labels) -> bool {
        (self.namespaces.binary_search(&pod.namespace).is_ok() || self.namespace_selector.matches(namespace))
            && self.selector.matches(&pod.labels)
    }

    fn identity(&self) -> String {
        format!(
            "{} in {:?} or {} at {}",
            selectors::identity(&self.selector),
            self.namespaces,
            selectors::identity(&self.namespace_selector),
            self.topology_key
        )
    }
}

impl Carried {
    /// A term with what it does.
    pub fn new(kind: Kind, term: Term) -> Self {
        Self { identity: format!("{kind:?} {}", term.identity()).into(), kind, term }
    }
}

impl Who {
    /// Whether a pod counts, whose namespace has these labels.
    pub fn matches(&self, pod: &Pod, namespace: &Labels) -> bool {
        match self {
            Self::Peers { namespace, selector } => {
                pod.namespace == *namespace && !pod.terminating && selector.matches(&pod.labels)
            }
            Self::Matching(terms) => {
                !terms.is_empty() && terms.iter().all(|term| term.matches(pod, namespace))
            }
        }
    }

    /// Whether it depends on the labels of namespaces.
    pub fn reads_namespaces(&self) -> bool {
        match self {
            Self::Peers { .. } => false,
            Self::Matching(terms) => terms.iter().any(|term| term.only_namespaces().is_none()),
        }
    }

    /// The only namespaces whose pods can count, if they are known by name.
    pub fn namespaces(&self) -> Option<&[Str]> {
        match self {
            Self::Peers { namespace, .. } => Some(std::slice::from_ref(namespace)),
            Self::Matching(terms) => terms.iter().find_map(Term::only_namespaces),
        }
    }
}

impl Term {
    /// The only namespaces that it means, if they are known by name.
    pub fn only_namespaces(&self) -> Option<&[Str]> {
        self.namespace_selector.is_nothing().then_some(&self.namespaces)
    }
}

impl Rule {
    /// Pods that match all `terms`, in the domains of `topology_key`.
    pub fn of_terms(terms: &[Term], topology_key: &Str) -> Self {
        let mut identity = String::new();
        for term in terms {
            let _ = write!(identity, "{} and ", term.identity());
        }
        let _ = write!(identity, "by {topology_key}");
        Self {
            identity: identity.into(),
            topology_key: topology_key.clone(),
            who: Who::Matching(terms.to_vec()),
            part: Part::default(),
        }
    }

    /// Peers of one namespace.
    pub fn of_peers(namespace: &Str, selector: Selector, topology_key: &Str, part: Part) -> Self {
        let mut identity =
            format!("peers {} of {namespace} by {topology_key}", selectors::identity(&selector));
        if !part.keys.is_empty() {
            let _ = write!(identity, " with {:?}", part.keys);
        }
        if let Some(nodes) = &part.nodes {
            let _ = write!(identity, " on {nodes:?}");
        }
        if let Some(tolerations) = &part.tolerations {
            let _ = write!(identity, " bearing {tolerations:?}");
        }
        // A selector that selects all selects none here, as upstream has it.
        let selector = if selector.is_everything() { Selector::nothing() } else { selector };
        let who = Who::Peers { namespace: namespace.clone(), selector };
        Self { identity: identity.into(), topology_key: topology_key.clone(), who, part }
    }
}

impl Part {
    /// Whether a node takes part.
    pub fn holds(&self, node: &Node) -> bool {
        self.keys.iter().all(|key| node.label(key).is_some())
            && self.nodes.as_ref().is_none_or(|rule| rule.matches(&node.name, &node.labels))
            && self
                .tolerations
                .as_ref()
                .is_none_or(|tolerations| filters::untolerated(node, tolerations).is_none())
    }
}

//! Selectors as pods write them, made ready to be asked often.

use std::collections::{BTreeMap, BTreeSet};

use api::selector::label::{Operator, Requirement, Selector};
use api::value::Str;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// `nodeSelector` and required node affinity together.
#[derive(Clone, Debug, Default)]
pub struct NodeRule {
    /// Labels that all must be there.
    pub labels: Option<Selector>,
    /// Of these one must match, if there is any list at all.
    pub any_of: Option<Vec<Term>>,
    /// If every term asks for nodes by name, these names: no others need to be looked at.
    pub names: Option<BTreeSet<Str>>,
}

/// One term of a node selector.
#[derive(Clone, Debug)]
pub struct Term {
    /// On the node's labels; `None` matches nothing.
    pub labels: Option<Selector>,
    /// On the node's name.
    pub name: Option<Selector>,
}

impl Term {
    /// Reads a term.
    pub fn read(term: &core::NodeSelectorTerm) -> Self {
        let selector = |all: &Option<Vec<core::NodeSelectorRequirement>>| {
            let all = all.as_ref().filter(|all| !all.is_empty())?;
            let requirements: Option<Vec<Requirement>> = all.iter().map(requirement).collect();
            // What cannot be read matches nothing; validation lets none of it in.
            Some(requirements.map_or(Selector::nothing(), Selector::of))
        };
        Self { labels: selector(&term.match_expressions), name: selector(&term.match_fields) }
    }

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
    /// Reads what a pod's spec asks of nodes.
    pub fn read(spec: &core::PodSpec) -> Self {
        let node_labels = spec.node_selector.as_ref().filter(|labels| !labels.is_empty());
        let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required =
            affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
        let terms = required.map(|selector| selector.node_selector_terms.as_slice());
        Self {
            labels: node_labels.map(equal_to),
            any_of: terms.map(|terms| terms.iter().map(Term::read).collect()),
            names: terms.and_then(names_of),
        }
    }

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

/// The names that terms allow, if each of them names some. An empty set means that they contradict each other.
fn names_of(terms: &[core::NodeSelectorTerm]) -> Option<BTreeSet<Str>> {
    let mut all = None;
    for term in terms {
        let mut of_term: Option<BTreeSet<Str>> = None;
        let fields = term.match_fields.iter().flatten();
        for field in fields.filter(|field| field.key == "metadata.name" && field.operator == "In") {
            let values: BTreeSet<Str> =
                field.values.iter().flatten().map(|value| value.as_str().into()).collect();
            of_term = Some(match of_term {
                Some(before) => before.intersection(&values).cloned().collect(),
                None => values,
            });
        }
        all.get_or_insert_with(BTreeSet::new).extend(of_term?);
    }
    all
}

/// Selects what has all of these labels.
pub fn equal_to(labels: &BTreeMap<String, String>) -> Selector {
    let requirements = labels.iter().filter_map(|(key, value)| {
        Requirement::new(key, Operator::Equals, vec![Str::from(value.as_str())]).ok()
    });
    Selector::of(requirements.collect())
}

/// A selector of the API's object form; none at all selects nothing.
pub fn label_selector(selector: Option<&LabelSelector>) -> Selector {
    let Some(selector) = selector else { return Selector::nothing() };
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

/// What meets both.
pub fn both(a: &Selector, b: &Selector) -> Selector {
    if a.is_nothing() || b.is_nothing() {
        return Selector::nothing();
    }
    Selector::of(a.requirements().iter().chain(b.requirements()).cloned().collect())
}

/// A selector as text that no other selector has.
pub fn identity(selector: &Selector) -> String {
    if selector.is_nothing() { "(nothing)".to_owned() } else { selector.to_string() }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn named(values: &[&[&str]]) -> core::NodeSelectorTerm {
        let field = |values: &&[&str]| core::NodeSelectorRequirement {
            key: "metadata.name".to_owned(),
            operator: "In".to_owned(),
            values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
        };
        core::NodeSelectorTerm {
            match_fields: Some(values.iter().map(field).collect()),
            match_expressions: None,
        }
    }

    #[test]
    fn names_restrict_only_if_every_term_has_some() {
        let check = |terms: &[core::NodeSelectorTerm], expect: Option<&[&str]>| {
            let expect = expect.map(|names| names.iter().map(|name| Str::from(*name)).collect());
            assert_eq!(names_of(terms), expect);
        };
        check(&[named(&[&["a", "b"]]), named(&[&["c"]])], Some(&["a", "b", "c"]));
        check(&[named(&[&["a", "b"], &["b", "c"]])], Some(&["b"]));
        check(&[named(&[&["a"], &["b"]])], Some(&[]));
        check(&[named(&[&["a"]]), core::NodeSelectorTerm::default()], None);
        check(&[], None);
    }
}

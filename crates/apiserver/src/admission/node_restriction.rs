//! A node changes of itself only what cannot draw others' pods to it.
//!
//! The other half of upstream's plugin, which nodes and pods a node may write at all, is in `authz::node`.

use std::collections::BTreeSet;

use api::status::Status;
use api::value::Value;

use super::{Attributes, Operation, Plugin};
use crate::lookups::Lookups;

/// Labels under these names are for those who place pods, and never a node's.
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Labels of Kubernetes that a node sets on itself; the others are not its.
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
/// The same by the names before the slash.
const OWN_PREFIXES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];
/// The names that are Kubernetes' own.
const KUBERNETES: &[&str] = &["kubernetes.io", "k8s.io"];

pub(super) struct NodeRestriction;

impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn mutate(&self, attributes: &mut Attributes<'_>, _lookups: &dyn Lookups) -> Result<(), Status> {
        let Some(node) = attributes.identity.node_name() else { return Ok(()) };
        let Some(object) = attributes.object.as_deref() else { return Ok(()) };
        if !attributes.resource.group.is_empty() {
            return Ok(());
        }
        let refused = match (attributes.resource.resource.as_str(), attributes.subresource) {
            ("nodes", "" | "status") => match attributes.old {
                None if attributes.operation == Operation::Create => created_node(node, object),
                None => None,
                Some(old) => changed_node(node, object, old),
            },
            ("pods", "status") => attributes.old.and_then(|old| changed_pod(node, object, old)),
            _ => None,
        };
        refused.map_or(Ok(()), |why| Err(attributes.forbidden(&why)))
    }
}

fn created_node(node: &str, object: &Value) -> Option<String> {
    if is_set(object, &["spec", "configSource"]) {
        return Some(format!("node \"{node}\" is not allowed to create pods with a non-nil configSource"));
    }
    let labels = forbidden_labels(object, &Value::object());
    let why = format!("node \"{node}\" is not allowed to set the following labels: {labels}");
    (!labels.is_empty()).then_some(why)
}

fn changed_node(node: &str, object: &Value, old: &Value) -> Option<String> {
    let source = &["spec", "configSource"][..];
    let why = if is_set(object, source) && differ(object, old, source) {
        format!("node \"{node}\" is not allowed to update configSource to a new non-nil configSource")
    } else if differ(object, old, &["spec", "taints"]) {
        format!("node \"{node}\" is not allowed to modify taints")
    } else if differ(object, old, &["metadata", "ownerReferences"]) {
        format!("node \"{node}\" is not allowed to modify ownerReferences")
    } else {
        let labels = forbidden_labels(object, old);
        if labels.is_empty() {
            return None;
        }
        format!("is not allowed to modify labels: {labels}")
    };
    Some(why)
}

fn changed_pod(node: &str, object: &Value, old: &Value) -> Option<String> {
    // Upstream's words to the letter, its slip of the pen included.
    let claims = [
        ("resourceClaimStatuses", "resource claim statues"),
        ("extendedResourceClaimStatus", "extended resource claim status"),
    ];
    if !changed_labels(object, old).is_empty() {
        return Some(format!("node \"{node}\" cannot update labels through pod status"));
    }
    let (_, what) = claims.into_iter().find(|(field, _)| differ(object, old, &["status", field]))?;
    Some(format!("node \"{node}\" cannot update {what}"))
}

fn is_set(object: &Value, path: &[&str]) -> bool {
    object.at(path).is_some_and(|value| !value.is_null())
}

/// Whether two lists or structs differ; one that is empty is as none.
fn differ(object: &Value, old: &Value, path: &[&str]) -> bool {
    let there =
        |value: &'_ Value| value.at(path).filter(|value| !value.is_null() && !value.is_empty()).cloned();
    there(object) != there(old)
}

fn changed_labels(object: &Value, old: &Value) -> BTreeSet<String> {
    const LABELS: &[&str] = &["metadata", "labels"];
    let mut changed = BTreeSet::new();
    for (one, other) in [(object, old), (old, object)] {
        let Some(labels) = one.at(LABELS).and_then(Value::as_object) else { continue };
        let others = other.at(LABELS);
        let differs = |key: &str, value: &Value| others.and_then(|others| others.get(key)) != Some(value);
        let keys = labels.iter().filter(|(key, value)| differs(key, value)).map(|(key, _)| key.to_string());
        changed.extend(keys);
    }
    changed
}

/// The changed labels that are not a node's to change, in upstream's words.
fn forbidden_labels(object: &Value, old: &Value) -> String {
    let mut changed = changed_labels(object, old);
    changed.retain(|label| {
        let prefix = label.split_once('/').map_or("", |(prefix, _)| prefix);
        let kubernetes = KUBERNETES.iter().any(|name| is_within(prefix, name));
        let own =
            OWN_LABELS.contains(&label.as_str()) || OWN_PREFIXES.iter().any(|name| is_within(prefix, name));
        is_within(prefix, RESTRICTED) || (kubernetes && !own)
    });
    changed.into_iter().collect::<Vec<_>>().join(", ")
}

/// Whether a domain is another or below it.
fn is_within(domain: &str, other: &str) -> bool {
    domain.strip_suffix(other).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;

    fn node(labels: Value) -> Value {
        json!({"metadata": {"name": "n", "labels": labels}, "spec": {"taints": [{"key": "a"}]}})
    }

    #[test]
    fn a_node_labels_itself_with_its_own_words_alone() {
        let own = node(json!({
            "kubernetes.io/hostname": "n", "node.kubernetes.io/any": "x", "a.kubelet.kubernetes.io/b": "",
            "example.org/team": "x", "plain": "x"
        }));
        assert_eq!(created_node("n", &own), None);
        let others = node(json!({
            "node-restriction.kubernetes.io/x": "", "a.node-restriction.kubernetes.io/x": "",
            "node-role.kubernetes.io/master": "", "x.k8s.io/y": ""
        }));
        let why = created_node("n", &others).unwrap();
        assert_eq!(
            why,
            "node \"n\" is not allowed to set the following labels: a.node-restriction.kubernetes.io/x, \
             node-restriction.kubernetes.io/x, node-role.kubernetes.io/master, x.k8s.io/y"
        );
        assert_eq!(
            changed_node("n", &node(json!({})), &others).unwrap(),
            why.replace("node \"n\" is not allowed to set the following", "is not allowed to modify")
        );
        assert_eq!(changed_node("n", &others, &others), None);
    }

    #[test]
    fn a_node_leaves_its_taints_and_owners_alone() {
        let before = node(json!({}));
        let mut free = before.clone();
        free.set(&["spec", "taints"], Vec::<Value>::new());
        assert_eq!(changed_node("n", &free, &before).unwrap(), "node \"n\" is not allowed to modify taints");
        let mut owned = before.clone();
        owned.set(&["metadata", "ownerReferences"], vec![json!({"uid": "1"})]);
        assert!(changed_node("n", &owned, &before).unwrap().ends_with("modify ownerReferences"));
        owned.set(&["metadata", "ownerReferences"], Vec::<Value>::new());
        assert_eq!(changed_node("n", &owned, &before), None);
    }

    #[test]
    fn a_node_labels_no_pods() {
        let pod = json!({"metadata": {"labels": {"a": "b"}}, "status": {"phase": "Running"}});
        let mut other = pod.clone();
        other.set(&["status", "phase"], "Failed");
        assert_eq!(changed_pod("n", &other, &pod), None);
        other.set(&["metadata", "labels", "a"], "c");
        assert_eq!(
            changed_pod("n", &other, &pod).unwrap(),
            "node \"n\" cannot update labels through pod status"
        );
    }
}

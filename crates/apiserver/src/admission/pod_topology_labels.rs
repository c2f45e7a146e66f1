//! A pod bears zone and region of its node as labels of its own, so that its containers can be told of them.

use api::names::NODES;
use api::object::Object;
use api::status::Status;

use super::{Attributes, Operation, Plugin};
use crate::lookups::Lookups;

/// The labels of nodes that are copied.
const COPIED: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

pub(super) struct PodTopologyLabels;

impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    /// A binding hands its labels on to the pod; a pod that is made with a node gets them at once.
    fn mutate(&self, attributes: &mut Attributes<'_>, lookups: &dyn Lookups) -> Result<(), Status> {
        let is_pod = attributes.resource.group.is_empty() && attributes.resource.resource == "pods";
        let place: &[&str] = match (attributes.operation, attributes.subresource) {
            (Operation::Create, "") if is_pod => &["spec", "nodeName"],
            (Operation::Create, "binding") if is_pod => &["target", "name"],
            _ => return Ok(()),
        };
        let Some(object) = attributes.object.as_deref_mut() else { return Ok(()) };
        // Upstream's plugin looks at the kind as it is written, too.
        if place[0] == "target" && object.str_at(&["target", "kind"]) != Some("Node") {
            return Ok(());
        }
        let name = object.str_at(place).unwrap_or_default();
        let node = if name.is_empty() { None } else { lookups.get(&NODES, "", name) };
        let label = |node: &Object, key: &str| node.label(key).map(str::to_owned);
        for key in COPIED {
            if let Some(value) = node.as_deref().and_then(|node| label(node, key)) {
                object.set(&["metadata", "labels", key], value);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Case;
    use super::*;
    use api::json;

    #[test]
    fn zone_and_region_of_the_node_are_taken_and_no_other_label() {
        let check = |node: &str, expect: &str| {
            let there = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {
                "topology.kubernetes.io/zone": "z1", "kubernetes.io/os": "linux"}}});
            let pod = json!({"metadata": {"name": "p", "labels": {"topology.kubernetes.io/zone": "mine"}},
                "spec": {"nodeName": node}});
            let pod = Case::pod(pod).having(NODES, there).mutate(&PodTopologyLabels).unwrap();
            assert_eq!(pod.at(&["metadata", "labels"]).unwrap().to_string(), expect);
        };
        check("n", r#"{"topology.kubernetes.io/zone":"z1"}"#);
        check("gone", r#"{"topology.kubernetes.io/zone":"mine"}"#);
        check("", r#"{"topology.kubernetes.io/zone":"mine"}"#);
    }
}

//! Pods by their node.

use std::sync::Arc;

use api::names::PODS;
use api::object::Object;
use control::world::World;

/// The node of a pod; empty before it is scheduled.
pub fn node_of(pod: &Object) -> String {
    selected(pod, "spec.nodeName", &["spec", "nodeName"])
}

/// `status.phase` of a pod.
pub fn phase_of(pod: &Object) -> String {
    selected(pod, "status.phase", &["status", "phase"])
}

/// All pods bound to a node.
pub fn on_node(world: &World, node: &str) -> Vec<Arc<Object>> {
    world.list(&PODS, "").into_iter().filter(|pod| node_of(pod) == node).collect()
}

/// A selectable field. The server's objects have these at hand; those that came over HTTP must be read.
fn selected(pod: &Object, field: &str, path: &[&str]) -> String {
    if let Some(value) = pod.field(field) {
        return value.to_owned();
    }
    pod.to_tree().str_at(path).unwrap_or_default().to_owned()
}

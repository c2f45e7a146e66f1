//! What controllers ask of a pod.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::object::Object;
use api::value::Str;
use control::world;
use jiff::Timestamp;
use serde::Deserialize;

/// A pod and what controllers ask of it.
#[derive(Clone, Debug)]
pub struct PodView {
    /// As stored.
    pub object: Arc<Object>,
    facts: Facts,
}

/// What is read of a pod: the fields that controllers ask for and no others, for they look at many pods at a time.
#[derive(Clone, Debug, Default, Deserialize)]
struct Facts {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    annotations: Option<Annotations>,
    #[serde(default)]
    creation_timestamp: Option<Str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Annotations {
    #[serde(default, rename = "controller.kubernetes.io/pod-deletion-cost")]
    deletion_cost: Option<Str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    node_name: Option<Str>,
    #[serde(default)]
    hostname: Option<Str>,
    #[serde(default)]
    subdomain: Option<Str>,
    #[serde(default)]
    containers: Option<Vec<Container>>,
    #[serde(default)]
    init_containers: Option<Vec<Container>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    #[serde(default)]
    restart_policy: Option<Str>,
    #[serde(default)]
    ports: Option<Vec<ContainerPort>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerPort {
    #[serde(default)]
    name: Option<Str>,
    #[serde(default)]
    protocol: Option<Str>,
    container_port: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    #[serde(default)]
    phase: Option<Str>,
    #[serde(default)]
    conditions: Option<Vec<Condition>>,
    #[serde(default)]
    container_statuses: Option<Vec<ContainerStatus>>,
    #[serde(default, rename = "podIP")]
    pod_ip: Option<Str>,
    #[serde(default, rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    kind: Str,
    status: Str,
    #[serde(default)]
    last_transition_time: Option<Str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    #[serde(default)]
    restart_count: i32,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct PodIp {
    #[serde(default)]
    ip: Str,
}

impl PodView {
    /// Views of those that can be viewed.
    pub fn of(objects: Vec<Arc<Object>>) -> Vec<Self> {
        objects
            .into_iter()
            .filter_map(|object| world::part(&object).map(|facts| Self { object, facts }))
            .collect()
    }

    /// `status.phase`; `Pending` before anybody has said.
    pub fn phase(&self) -> &str {
        self.facts.status.phase.as_deref().unwrap_or("Pending")
    }

    /// Whether it has ended for good.
    pub fn is_terminal(&self) -> bool {
        matches!(self.phase(), "Succeeded" | "Failed")
    }

    /// Whether it counts as a replica: neither ended nor going away.
    pub fn is_active(&self) -> bool {
        !self.is_terminal() && !self.object.is_deleting()
    }

    /// `spec.nodeName`; empty before it is scheduled.
    pub fn node(&self) -> &str {
        self.facts.spec.node_name.as_deref().unwrap_or_default()
    }

    /// `spec.hostname`; empty if it is the pod's own name.
    pub fn hostname(&self) -> &str {
        self.facts.spec.hostname.as_deref().unwrap_or_default()
    }

    /// `spec.subdomain`; empty if there is none.
    pub fn subdomain(&self) -> &str {
        self.facts.spec.subdomain.as_deref().unwrap_or_default()
    }

    /// Its addresses in order, none twice.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let status = &self.facts.status;
        let several = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
        let mut addresses: Vec<IpAddr> =
            several.chain(status.pod_ip.as_deref()).filter_map(|text| text.parse().ok()).collect();
        addresses.sort();
        addresses.dedup();
        addresses
    }

    /// The number of a port that containers or sidecars name.
    pub fn named_port(&self, name: &str, protocol: &str) -> Option<i64> {
        let sidecars = self.facts.spec.init_containers.iter().flatten();
        let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let containers = self.facts.spec.containers.iter().flatten().chain(sidecars);
        let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
        let named = ports.find(|port| {
            port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
        });
        named.map(|port| port.container_port)
    }

    fn ready_condition(&self) -> Option<&Condition> {
        self.readiness().filter(|ready| ready.status == "True")
    }

    fn readiness(&self) -> Option<&Condition> {
        self.facts.status.conditions.iter().flatten().find(|condition| condition.kind == "Ready")
    }

    /// Since when it is ready, or is not.
    pub fn readiness_since(&self) -> Option<Timestamp> {
        read_time(self.readiness()?.last_transition_time.as_deref())
    }

    /// Whether its `Ready` condition holds.
    pub fn is_ready(&self) -> bool {
        self.ready_condition().is_some()
    }

    /// Since when it is ready.
    pub fn ready_since(&self) -> Option<Timestamp> {
        read_time(self.ready_condition()?.last_transition_time.as_deref())
    }

    /// How long until it has been ready for `min_ready`: zero if it is available, `None` if it is not ready.
    pub fn available_in(&self, min_ready: Duration, now: Timestamp) -> Option<Duration> {
        if !self.is_ready() {
            return None;
        }
        if min_ready.is_zero() {
            return Some(Duration::ZERO);
        }
        let ready_for = Duration::try_from(now.duration_since(self.ready_since()?)).unwrap_or_default();
        Some(min_ready.saturating_sub(ready_for))
    }

    fn restarts(&self) -> i32 {
        let statuses = self.facts.status.container_statuses.iter().flatten();
        statuses.map(|status| status.restart_count).max().unwrap_or_default()
    }

    fn deletion_cost(&self) -> i32 {
        let annotations = self.facts.metadata.annotations.as_ref();
        let cost = annotations.and_then(|annotations| annotations.deletion_cost.as_deref());
        cost.and_then(|cost| cost.parse().ok()).unwrap_or_default()
    }

    fn created(&self) -> Option<Timestamp> {
        read_time(self.facts.metadata.creation_timestamp.as_deref())
    }
}

fn read_time(text: Option<&str>) -> Option<Timestamp> {
    text?.parse().ok()
}

/// The order in which pods are deleted when there are too many: those whose loss costs least first
/// (`ActivePodsWithRanks`). `peers` are the pods that count for being doubled up on a node.
pub fn deletion_order(pods: &mut [PodView], peers: &[PodView], now: Timestamp) {
    let mut on_node: BTreeMap<String, usize> = BTreeMap::new();
    for peer in peers.iter().filter(|peer| peer.is_active() && !peer.node().is_empty()) {
        *on_node.entry(peer.node().to_owned()).or_default() += 1;
    }
    pods.sort_by(|a, b| {
        let rank = |pod: &PodView| on_node.get(pod.node()).copied().unwrap_or_default();
        (!a.node().is_empty())
            .cmp(&!b.node().is_empty())
            .then_with(|| phase_order(a).cmp(&phase_order(b)))
            .then_with(|| a.is_ready().cmp(&b.is_ready()))
            .then_with(|| a.deletion_cost().cmp(&b.deletion_cost()))
            .then_with(|| rank(b).cmp(&rank(a)))
            .then_with(|| by_age(a.ready_since(), b.ready_since(), now))
            .then_with(|| Reverse(a.restarts()).cmp(&Reverse(b.restarts())))
            .then_with(|| by_age(a.created(), b.created(), now))
            .then_with(|| a.object.uid().cmp(b.object.uid()))
    });
}

fn phase_order(pod: &PodView) -> u8 {
    match pod.phase() {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

/// Younger first, but ages of the same order of magnitude are equal (KEP-2185): which of them goes is left to the
/// uid, that is, to chance.
fn by_age(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let magnitude = |at: Option<Timestamp>| {
        let age = now.duration_since(at?).as_secs();
        Some(age.max(0).checked_ilog2().map_or(0, |log| log + 1))
    };
    magnitude(a).cmp(&magnitude(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;
    use api::value::Value;

    fn pod(name: &str, status: Value, node: &str) -> PodView {
        let tree = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": node, "containers": []}, "status": status
        });
        PodView::of(vec![Arc::new(Object::from_tree(&tree).unwrap())]).remove(0)
    }

    fn ready(since: &str) -> Value {
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}]})
    }

    #[test]
    fn the_least_useful_pods_go_first() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let mut pods = vec![
            pod("old", ready("2026-01-01T00:00:00Z"), "a"),
            pod("young", ready("2026-01-01T23:59:50Z"), "a"),
            pod("unready", json!({"phase": "Running"}), "a"),
            pod("pending", json!({"phase": "Pending"}), "a"),
            pod("unscheduled", json!({"phase": "Pending"}), ""),
        ];
        let peers = pods.clone();
        deletion_order(&mut pods, &peers, now);
        let names: Vec<_> = pods.iter().map(|pod| pod.object.name()).collect();
        assert_eq!(names, ["unscheduled", "pending", "unready", "young", "old"]);
    }

    #[test]
    fn availability_counts_from_readiness() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let view = pod("a", ready("2026-01-01T23:59:50Z"), "n");
        assert_eq!(view.available_in(Duration::from_secs(30), now), Some(Duration::from_secs(20)));
        assert_eq!(view.available_in(Duration::from_secs(10), now), Some(Duration::ZERO));
        assert_eq!(pod("b", json!({}), "n").available_in(Duration::ZERO, now), None);
    }
}

//! `place(pod, nodes) -> node`, with reasons.

use std::collections::BTreeMap;
use std::fmt;

use api::value::Str;
use base::Random;

use crate::cluster::{Cluster, Node};
use crate::filters::Request;
use crate::pod::Pod;
use crate::scores::SCORES;

/// With fewer nodes than these all are looked at, and never fewer are.
const FEASIBLE_AT_LEAST: usize = 100;
/// Of many nodes at least this share is looked at.
const PERCENT_AT_LEAST: usize = 5;

/// Where a pod goes, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// The node.
    pub node: Str,
    /// The nodes that were compared, best first; no more than [`Placement::SHOWN`].
    pub candidates: Vec<Candidate>,
    /// How many nodes would have done, of those looked at.
    pub feasible: usize,
    /// How many nodes were looked at.
    pub evaluated: usize,
}

/// One node that would have done.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The node.
    pub node: Str,
    /// All views together.
    pub total: i64,
    /// Each view's score, 0 to 100, in the order of [`SCORES`].
    pub scores: Vec<i64>,
}

/// Why a pod goes nowhere. `Display` is upstream's sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unschedulable {
    /// How many nodes there are.
    pub nodes: usize,
    /// How many of them have each reason.
    pub reasons: BTreeMap<String, usize>,
    /// On how many of them evicting others could not help.
    pub unresolvable: usize,
    /// Rules of the pod that no filter knows; while there is one, the pod is not placed.
    pub unknown: Vec<&'static str>,
}

impl Placement {
    /// How many candidates an explanation shows.
    pub const SHOWN: usize = 5;
}

impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.unknown.is_empty() {
            let rules = self.unknown.join(", ");
            return write!(
                f,
                "this scheduler does not know {rules} yet; remove it from the pod to have it placed"
            );
        }
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let nodes = self.nodes;
        // Sorted as text, as upstream does, so "10 x" comes before "2 y".
        let mut reasons: Vec<String> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        write!(f, "0/{nodes} nodes are available: {}.", reasons.join(", "))?;
        let mut help = Vec::new();
        if nodes > self.unresolvable {
            help.push(format!("{} No preemption victims found for incoming pod", nodes - self.unresolvable));
        }
        if self.unresolvable > 0 {
            help.push(format!("{} Preemption is not helpful for scheduling", self.unresolvable));
        }
        help.sort();
        write!(f, " preemption: 0/{nodes} nodes are available: {}.", help.join(", "))
    }
}

/// How many nodes that will do are enough (`percentageOfNodesToScore` unset).
fn enough(nodes: usize) -> usize {
    if nodes < FEASIBLE_AT_LEAST {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(PERCENT_AT_LEAST);
    (nodes * percent / 100).max(FEASIBLE_AT_LEAST)
}

impl Cluster {
    /// Finds the best node. Changes nothing but where the next search begins; the caller counts the pod with
    /// [`Cluster::put_pod`]. Of equal nodes `random` chooses.
    pub fn place(&mut self, pod: &Pod, random: &Random) -> Result<Placement, Unschedulable> {
        if !pod.unknown.is_empty() {
            return Err(Unschedulable {
                unknown: pod.unknown.clone(),
                nodes: self.len(),
                ..Unschedulable::default()
            });
        }
        let request = Request::new(pod, self);
        let mut refused = Unschedulable { nodes: self.len(), ..Unschedulable::default() };
        let wanted = enough(self.len());
        let mut feasible: Vec<&Node> = Vec::with_capacity(wanted);
        let slots = self.slots();
        let (start, mut looked) = (self.next, 0);
        for offset in 0..slots.len() {
            let slot = (start + offset) % slots.len();
            let Some(node) = &slots[slot] else { continue };
            looked += 1;
            match request.reject(node) {
                None => feasible.push(node),
                Some(rejection) => {
                    refused.unresolvable += usize::from(rejection.unresolvable);
                    for reason in rejection.reasons {
                        *refused.reasons.entry(reason).or_default() += 1;
                    }
                }
            }
            if feasible.len() == wanted {
                break;
            }
        }
        if feasible.is_empty() {
            return Err(refused);
        }
        let placement = self.best(&request, &feasible, looked, random);
        self.next = (start + looked) % self.slots().len();
        Ok(placement)
    }

    fn best(&self, request: &Request, feasible: &[&Node], evaluated: usize, random: &Random) -> Placement {
        let of_one = |node: &Node| Placement {
            node: node.name.clone(),
            candidates: vec![Candidate { node: node.name.clone(), total: 0, scores: Vec::new() }],
            feasible: 1,
            evaluated,
        };
        if let [only] = feasible {
            return of_one(only);
        }
        let views: Vec<Vec<i64>> = SCORES.iter().map(|score| (score.of)(request, self, feasible)).collect();
        let total =
            |at: usize| SCORES.iter().zip(&views).map(|(score, view)| score.weight * view[at]).sum::<i64>();
        let mut ranked: Vec<(i64, u64, usize)> =
            (0..feasible.len()).map(|at| (total(at), random.bits(), at)).collect();
        let shown = Placement::SHOWN.min(ranked.len());
        ranked.select_nth_unstable_by(shown - 1, |a, b| b.cmp(a));
        ranked.truncate(shown);
        ranked.sort_unstable_by(|a, b| b.cmp(a));
        let candidates: Vec<Candidate> = ranked
            .into_iter()
            .map(|(total, _, at)| Candidate {
                node: feasible[at].name.clone(),
                total,
                scores: views.iter().map(|view| view[at]).collect(),
            })
            .collect();
        Placement { node: candidates[0].node.clone(), candidates, feasible: feasible.len(), evaluated }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;
    use api::object::Object;
    use api::value::Value;

    fn cluster(nodes: &[Value]) -> Cluster {
        let mut cluster = Cluster::new();
        for (n, extra) in nodes.iter().enumerate() {
            let name = format!("n{n}");
            let mut tree = json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": (name.as_str())},
                "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"}}
            });
            for (key, value) in extra.as_object().into_iter().flat_map(api::value::Map::iter) {
                if key == "labels" {
                    tree.set(&["metadata", "labels"], value.clone())
                } else {
                    tree.set(&["spec", key], value.clone())
                }
            }
            let object = Object::from_tree(&tree).unwrap();
            cluster.put_node(&object, &object.view().unwrap());
        }
        cluster
    }

    fn pod(name: &str, spec: Value) -> std::sync::Arc<Pod> {
        let mut tree = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": "a"}}, "spec": spec
        });
        if tree.at(&["spec", "containers"]).is_none() {
            tree.set(&["spec", "containers"], json!([{"name": "c", "image": "i"}]));
        }
        let object = Object::from_tree(&tree).unwrap();
        Pod::read(&object, &object.view().unwrap()).unwrap()
    }

    fn asking(cpu: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
    }

    fn refusal(cluster: &mut Cluster, pod: &Pod) -> String {
        cluster.place(pod, &Random::seeded(1)).unwrap_err().to_string()
    }

    #[test]
    fn refusals_read_as_upstreams() {
        let taint = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
        let mut cluster = cluster(&[taint, json!({"unschedulable": true}), json!({}), json!({})]);
        assert_eq!(
            refusal(&mut cluster, &pod("p", asking("3"))),
            "0/4 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, \
             2 Insufficient cpu. preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling."
        );
        for name in ["n2", "n3"] {
            cluster.put_pod(&pod(name, asking("1500m")), name);
        }
        assert_eq!(
            refusal(&mut cluster, &pod("p", asking("1"))),
            "0/4 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, \
             2 Insufficient cpu. preemption: 0/4 nodes are available: 2 No preemption victims found for incoming pod, \
             2 Preemption is not helpful for scheduling."
        );
        assert_eq!(refusal(&mut Cluster::new(), &pod("p", json!({}))), "no nodes available to schedule pods");
    }

    #[test]
    fn the_emptier_node_wins() {
        let mut cluster = cluster(&[json!({}), json!({})]);
        cluster.put_pod(&pod("x", asking("1")), "n0");
        let placement = cluster.place(&pod("p", asking("500m")), &Random::seeded(1)).unwrap();
        assert_eq!(placement.node, "n1");
        assert!(placement.candidates[0].total > placement.candidates[1].total);
    }

    #[test]
    fn selectors_affinity_names_and_ports_bind() {
        let mut cluster =
            cluster(&[json!({"labels": {"disk": "ssd", "n": "7"}}), json!({"labels": {"disk": "hdd"}})]);
        let place = |cluster: &mut Cluster, spec: Value| {
            cluster.place(&pod("p", spec), &Random::seeded(1)).map(|placement| placement.node.to_string())
        };
        assert_eq!(place(&mut cluster, json!({"nodeSelector": {"disk": "hdd"}})).unwrap(), "n1");
        let greater = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "n", "operator": "Gt", "values": ["5"]}]}]}}}});
        assert_eq!(place(&mut cluster, greater).unwrap(), "n0");
        let by_name = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]}}}});
        assert_eq!(place(&mut cluster, by_name).unwrap(), "n1");
        let port = json!({"containers": [{"name": "c", "ports": [{"hostPort": 80, "containerPort": 80}]}]});
        cluster.put_pod(&pod("a", port.clone()), "n0");
        assert_eq!(place(&mut cluster, port).unwrap(), "n1");
    }

    #[test]
    fn required_spread_keeps_the_skew() {
        let zone = |zone: &str| json!({"labels": {"zone": zone}});
        let mut cluster = cluster(&[zone("a"), zone("a"), zone("b")]);
        let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "a"}}}]});
        let mut zones = BTreeMap::new();
        for n in 0..8 {
            let pod = pod(&format!("p{n}"), spread.clone());
            let placement = cluster.place(&pod, &Random::seeded(n)).unwrap();
            cluster.put_pod(&pod, &placement.node);
            *zones.entry(if placement.node == "n2" { "b" } else { "a" }).or_insert(0) += 1;
        }
        assert_eq!(zones, BTreeMap::from([("a", 4), ("b", 4)]));
    }

    #[test]
    fn rules_that_are_not_known_are_named() {
        let mut cluster = cluster(&[json!({})]);
        let spec = json!({"affinity": {"podAntiAffinity": {}}});
        assert!(refusal(&mut cluster, &pod("p", spec)).contains("spec.affinity.podAntiAffinity"));
    }

    #[test]
    fn counting_a_pod_and_forgetting_it_leaves_no_trace() {
        let mut cluster = cluster(&[json!({})]);
        let before = cluster.nodes().next().unwrap().clone();
        let one = pod("p", asking("1"));
        cluster.put_pod(&one, "n0");
        cluster.put_pod(&one, "n0");
        assert_eq!(cluster.nodes().next().unwrap().requested.cpu_milli, 1000);
        cluster.remove_pod("p");
        let after = cluster.nodes().next().unwrap();
        assert_eq!((after.requested.clone(), after.pods.len()), (before.requested, 0));
    }
}

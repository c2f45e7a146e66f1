//! Blocks of pod addresses for nodes.
//!
//! All nodes are one key, so that no two plans choose at the same time: two nodes with one block would send each
//! other's packets astray. An API server refuses to change a block that is set, so a plan on an old view does no
//! harm to nodes that have theirs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::interface::Target;
use api::json;
use api::names::NODES;
use api::object::Object;
use api::validation::address::Cidr;
use api::value::Value;
use control::mirror::{Change, Key};
use control::plan::{Controller, Plan, Watches, Write};
use control::recorder::Note;
use control::world::World;
use jiff::Timestamp;

use crate::settings::PodNetwork;

/// Blocks that one network is cut into at the most, as upstream.
const BLOCKS: u128 = 1 << 16;

/// The controller of nodes' address blocks.
pub struct NodeAddresses {
    networks: Vec<PodNetwork>,
    /// Never given to nodes.
    service_cidrs: Vec<Cidr>,
}

impl NodeAddresses {
    /// Cuts `networks`, sparing what Services use.
    pub fn new(networks: &[PodNetwork], service_cidrs: &[Cidr]) -> Self {
        Self { networks: networks.to_vec(), service_cidrs: service_cidrs.to_vec() }
    }
}

impl Controller for NodeAddresses {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    fn watches(&self) -> Vec<Watches> {
        vec![Watches::mapped(&NODES, all_nodes)]
    }

    fn plan(&self, world: &World, _key: &Key, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let nodes: Vec<_> =
            world.list(&NODES, "").into_iter().map(|node| (blocks_of(&node.to_tree()), node)).collect();
        let given = nodes.iter().flat_map(|(blocks, _)| blocks.iter().copied());
        let mut used: Vec<Cidr> = given.chain(self.service_cidrs.iter().copied()).collect();
        for (_, node) in nodes.iter().filter(|(blocks, node)| blocks.is_empty() && !node.is_deleting()) {
            let chosen: Option<Vec<Cidr>> =
                self.networks.iter().map(|network| free_block(network, &used)).collect();
            match chosen {
                Some(blocks) if blocks.is_empty() => {}
                Some(blocks) => {
                    // One after the other: a write that fails leaves the later nodes to the next plan, which
                    // sees what this one has not seen.
                    plan.then();
                    plan.write(assign(node, &blocks));
                    used.extend(blocks);
                }
                None => {
                    let words = format!(
                        "Node {} status is now: CIDRNotAvailable; every block of the pod network is in use, so \
                         remove nodes or give a larger network",
                        node.name()
                    );
                    plan.note(Note::normal(node, "CIDRNotAvailable", words));
                }
            }
        }
        plan
    }
}

/// A node that comes, goes, or gets a block.
fn all_nodes(_: &World, change: &Change) -> Vec<Key> {
    let blocks = |side: &Option<std::sync::Arc<Object>>| side.as_ref().map(|node| blocks_of(&node.to_tree()));
    if blocks(&change.old) == blocks(&change.new) { Vec::new() } else { vec![Key::default()] }
}

fn blocks_of(node: &Value) -> Vec<Cidr> {
    let several = node.array_at(&["spec", "podCIDRs"]).iter().filter_map(Value::as_str);
    let mut blocks: Vec<Cidr> =
        several.chain(node.str_at(&["spec", "podCIDR"])).filter_map(Cidr::parse).collect();
    blocks.dedup();
    blocks
}

fn assign(node: &Object, blocks: &[Cidr]) -> Write {
    let texts: Vec<String> =
        blocks.iter().map(|block| format!("{}/{}", block.address, block.prefix)).collect();
    let patch = json!({
        "metadata": {"uid": (node.uid())},
        "spec": {"podCIDR": (texts[0].as_str()), "podCIDRs": (texts.clone())}
    });
    Write::merge(Target::new(&NODES, "", node.name()), &patch)
}

/// The first block of a network that touches nothing in use.
fn free_block(network: &PodNetwork, used: &[Cidr]) -> Option<Cidr> {
    let bits = network.node_prefix.checked_sub(network.cidr.prefix)?;
    let count = 1u128.checked_shl(u32::from(bits)).map_or(BLOCKS, |count| count.min(BLOCKS));
    let blocks = (0..count).map(|number| block(network, number));
    let mut free = blocks.filter(|block| !used.iter().any(|other| overlap(block, other)));
    free.next()
}

fn block(network: &PodNetwork, number: u128) -> Cidr {
    let address = match network.cidr.network() {
        IpAddr::V4(first) => {
            let offset = number.checked_shl(32 - u32::from(network.node_prefix)).unwrap_or_default();
            IpAddr::V4(Ipv4Addr::from_bits(first.to_bits().wrapping_add(offset as u32)))
        }
        IpAddr::V6(first) => {
            let offset = number.checked_shl(128 - u32::from(network.node_prefix)).unwrap_or_default();
            IpAddr::V6(Ipv6Addr::from_bits(first.to_bits().wrapping_add(offset)))
        }
    };
    Cidr { address, prefix: network.node_prefix }
}

/// Whether two networks share an address.
pub fn overlap(one: &Cidr, other: &Cidr) -> bool {
    one.contains(other.network()) || other.contains(one.network())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use api::interface::Call;

    use super::*;
    use crate::stage::Stage;

    fn network(cidr: &str, node_prefix: u8) -> PodNetwork {
        PodNetwork { cidr: Cidr::parse(cidr).unwrap(), node_prefix }
    }

    fn node(name: &str, block: Option<&str>) -> Value {
        let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name}});
        if let Some(block) = block {
            node.set(&["spec"], json!({"podCIDR": block, "podCIDRs": [block]}));
        }
        node
    }

    #[test]
    fn every_node_gets_a_block_of_its_own() {
        let controller =
            NodeAddresses::new(&[network("10.0.0.0/21", 24)], &[Cidr::parse("10.0.1.0/24").unwrap()]);
        let stage = Stage::new(controller);
        stage.put(&NODES, node("a", Some("10.0.0.128/25")));
        stage.put(&NODES, node("b", None));
        stage.put(&NODES, node("c", None));
        stage.check(
            "/",
            &[
                r#"patch nodes /b {"metadata":{"uid":"b"},"spec":{"podCIDR":"10.0.2.0/24","podCIDRs":["10.0.2.0/24"]}}"#,
                r#"patch nodes /c {"metadata":{"uid":"c"},"spec":{"podCIDR":"10.0.3.0/24","podCIDRs":["10.0.3.0/24"]}}"#,
            ],
        );
    }

    #[test]
    fn both_families_are_cut_and_no_two_nodes_are_alike() {
        let controller = NodeAddresses::new(&[network("10.0.0.0/16", 24), network("fd00::/48", 64)], &[]);
        let stage = Stage::new(controller);
        (0..200).for_each(|n| stage.put(&NODES, node(&format!("n{n}"), None)));
        let mut seen = BTreeSet::new();
        for write in stage.plan("/").writes() {
            let Call::Patch(_, _, body, _) = &write.call else { panic!("a patch is expected") };
            let patch = api::value::parse(body).unwrap();
            let blocks = patch.array_at(&["spec", "podCIDRs"]).to_vec();
            assert_eq!(blocks.len(), 2);
            blocks.iter().for_each(|block| assert!(seen.insert(block.to_string())));
        }
        assert_eq!(seen.len(), 400);
    }

    #[test]
    fn a_network_that_is_used_up_says_so() {
        let stage = Stage::new(NodeAddresses::new(&[network("10.0.0.0/24", 24)], &[]));
        stage.put(&NODES, node("a", Some("10.0.0.0/24")));
        stage.put(&NODES, node("b", None));
        let plan = stage.plan("/");
        assert!(plan.writes().next().is_none());
        assert_eq!(plan.notes[0].reason, "CIDRNotAvailable");
    }
}

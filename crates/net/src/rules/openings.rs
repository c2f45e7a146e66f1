//! Ways for pods' packets through other programs' firewalls.
//!
//! A packet passes only if every program's chain lets it, so that no rule of ours can undo another's "drop": where a
//! foreign chain drops what it does not know (Docker, ufw and firewalld make such), rules at its head let through what
//! comes from the instance's bridge and what goes there. What is closed to the outside stays so, for our own table says
//! that ([`super::Filter`]). Programs that write their chains anew take our rules away with them; they are put back
//! whenever the rules of others have changed. Chains of the old iptables, which nf_tables does not show, are not looked at.

use rustix::io::Errno;
use tracing::{info, warn};

use super::encode::{FAMILY_IPV4, HOOK_FORWARD, HOOK_INPUT, foreign_rule, remove_foreign_rule, transaction};
use super::expression::{Field, Interface, NF_ACCEPT, NF_DROP, Rule};
use super::ruleset::Frame;
use crate::address::Cidr;
use crate::instance::Instance;
use crate::netlink::message::{Attributes, NLM_F_DUMP};
use crate::netlink::{NetlinkError, Socket};

const SUBSYSTEM: u16 = 10 << 8;
const NFT_MSG_GETCHAIN: u16 = SUBSYSTEM | 4;
const NFT_MSG_GETRULE: u16 = SUBSYSTEM | 7;
/// `inet`: both families of addresses (linux/netfilter.h, NFPROTO_INET).
const FAMILY_INET: u8 = 1;
/// What our rules in others' chains say of themselves.
const COMMENT: &str = "pods of Ondol";
/// It refuses at the end of its chains, whose policy says otherwise.
const FIREWALLD: &str = "firewalld";
/// All tables of instances begin so.
const OWN_TABLES: &str = "ondol-";

/// A base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chain {
    family: u8,
    table: String,
    name: String,
    hook: u32,
}

/// One of our rules in such a chain.
struct Opening {
    chain: Chain,
    handle: Vec<u8>,
}

/// Opens the chains of others to the pods of `instance`, where that is not done. What cannot be opened is told in the log:
/// our own rules do not wait for that.
pub(super) fn open(socket: &mut Socket, instance: &Instance, frame: &Frame) -> Result<(), NetlinkError> {
    let closed = closed_chains(socket)?;
    if closed.is_empty() {
        return Ok(());
    }
    let there = openings(socket, instance)?;
    for chain in closed.iter().filter(|chain| !there.iter().any(|opening| opening.chain == **chain)) {
        let rules = rules(instance, frame, chain);
        let batch = transaction(socket.batch(), None, |batch| {
            // Each goes to the head, so that the last is the first there; they do not depend on their order.
            for rule in &rules {
                foreign_rule(batch, chain.family, &chain.table, &chain.name, rule);
            }
        });
        let Chain { table, name, .. } = chain;
        match socket.execute(&batch, &format!("let pods through chain {name} of table {table}")) {
            Ok(()) => info!(table, chain = name, "pods are let through another program's firewall"),
            Err(error) => {
                warn!(table, chain = name, %error, "another program's firewall drops packets of pods, and cannot be opened");
            }
        }
    }
    Ok(())
}

/// Takes the openings of `instance` away.
pub(super) fn close(socket: &mut Socket, instance: &Instance) -> Result<(), NetlinkError> {
    for Opening { chain, handle } in openings(socket, instance)? {
        let batch = transaction(socket.batch(), None, |batch| {
            remove_foreign_rule(batch, chain.family, &chain.table, &chain.name, &handle);
        });
        match socket.execute(&batch, "remove a rule of ours in another program's chain") {
            // Its owner was faster.
            Err(error) if !error.is(Errno::NOENT) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// What is let through at a hook: what is forwarded from the bridge or to it, and what pods ask the node itself at their
/// gateway, as for names.
fn rules(instance: &Instance, frame: &Frame, chain: &Chain) -> Vec<Rule> {
    let bridge = Interface::named(&instance.bridge());
    let accept = |rule: Rule| rule.verdict(NF_ACCEPT, None).comment(COMMENT);
    if chain.hook == HOOK_FORWARD {
        return vec![accept(Rule::new().input(&bridge, true)), accept(Rule::new().output(&bridge, true))];
    }
    let pods = frame.pods.iter().filter(|range| range.address().is_ipv4());
    let to_gateway = |range: &Cidr| {
        let rule = Rule::new().input(&bridge, true);
        // In a table of IPv4 alone this goes without saying, and tools do not expect it.
        let rule = if chain.family == FAMILY_INET { rule.when_ipv4() } else { rule };
        accept(rule.in_range(Field::Destination, *range, true))
    };
    pods.map(to_gateway).collect()
}

/// Others' chains that drop what they do not know.
fn closed_chains(socket: &mut Socket) -> Result<Vec<Chain>, NetlinkError> {
    let mut batch = socket.batch();
    batch.message(NFT_MSG_GETCHAIN, NLM_F_DUMP, &super::encode::header(0), |_| ());
    let answers = socket.query(&batch, "list chains")?;
    Ok(answers.iter().filter_map(|(_, payload)| closed_chain(payload)).collect())
}

fn closed_chain(payload: &[u8]) -> Option<Chain> {
    let family = *payload.first()?;
    let attributes = Attributes::new(payload.get(4..)?);
    let (table, name) = (text(attributes.get(1)?), text(attributes.get(3)?));
    // Only base chains have a hook, and only those of this type may drop.
    let hook = u32::from_be_bytes(*Attributes::new(attributes.get(4)?).get(1)?.first_chunk()?);
    let is_filter = attributes.get(7).map(text).as_deref() == Some("filter");
    let policy = attributes.get(5).and_then(|policy| Some(u32::from_be_bytes(*policy.first_chunk()?)));
    let drops = policy == Some(NF_DROP as u32) || table == FIREWALLD;
    let is_meant = is_filter
        && drops
        && matches!(family, FAMILY_IPV4 | FAMILY_INET)
        && matches!(hook, HOOK_INPUT | HOOK_FORWARD)
        && !table.starts_with(OWN_TABLES);
    is_meant.then_some(Chain { family, table, name, hook })
}

/// The rules that this instance has in others' chains.
fn openings(socket: &mut Socket, instance: &Instance) -> Result<Vec<Opening>, NetlinkError> {
    let mut batch = socket.batch();
    batch.message(NFT_MSG_GETRULE, NLM_F_DUMP, &super::encode::header(0), |_| ());
    let answers = socket.query(&batch, "list rules")?;
    let hooks = closed_chains(socket)?;
    let bridge = [instance.bridge().as_bytes(), &[0]].concat();
    let found = answers.iter().filter_map(|(_, payload)| {
        let family = *payload.first()?;
        let attributes = Attributes::new(payload.get(4..)?);
        let (table, name) = (text(attributes.get(1)?), text(attributes.get(2)?));
        let says = |bytes: &[u8]| bytes.windows(COMMENT.len()).any(|part| part == COMMENT.as_bytes());
        let is_ours = attributes.get(7).is_some_and(says)
            && attributes.get(4)?.windows(bridge.len()).any(|part| part == bridge)
            && !table.starts_with(OWN_TABLES);
        let hook =
            hooks.iter().find(|chain| chain.family == family && chain.table == table && chain.name == name);
        let hook = hook.map_or(HOOK_FORWARD, |chain| chain.hook);
        let chain = Chain { family, table, name, hook };
        is_ours.then_some(Opening { chain, handle: attributes.get(3)?.to_vec() })
    });
    Ok(found.collect())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic(payload in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = closed_chain(&payload);
        }
    }
}

//! Rule sets as messages to nf_tables (linux/netfilter/nf_tables.h).

use std::net::{IpAddr, SocketAddr};

use super::compile::{Chain, Change, Compiled, Frontend, Key, Value};
use super::expression::{
    Field, Interface, NF_ACCEPT, NF_DROP, NFT_GOTO, NFT_RETURN, NFTA_LIST_ELEM, REG, Rule, write_value,
    write_verdict,
};
use super::ruleset::Frame;
use crate::address::Cidr;
use crate::instance::{BRIDGE_PREFIX, Instance, fnv1a};
use crate::netlink::message::{Batch, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};

const SUBSYSTEM: u16 = 10 << 8;
const NFT_MSG_NEWTABLE: u16 = SUBSYSTEM;
const NFT_MSG_DELTABLE: u16 = SUBSYSTEM | 2;
const NFT_MSG_NEWCHAIN: u16 = SUBSYSTEM | 3;
const NFT_MSG_DELCHAIN: u16 = SUBSYSTEM | 5;
const NFT_MSG_NEWRULE: u16 = SUBSYSTEM | 6;
const NFT_MSG_DELRULE: u16 = SUBSYSTEM | 8;
const NFT_MSG_NEWSET: u16 = SUBSYSTEM | 9;
const NFT_MSG_NEWSETELEM: u16 = SUBSYSTEM | 12;
const NFT_MSG_DELSETELEM: u16 = SUBSYSTEM | 14;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_BATCH_GENID: u16 = 1;

pub(super) const FAMILY_IPV4: u8 = 2;
/// IANA's numbers of the hooks' places in the stack (linux/netfilter.h).
pub(super) const HOOK_PREROUTING: u32 = 0;
pub(super) const HOOK_INPUT: u32 = 1;
pub(super) const HOOK_FORWARD: u32 = 2;
const HOOK_OUTPUT: u32 = 3;
pub(super) const HOOK_POSTROUTING: u32 = 4;

const SET_MAP: u32 = 0x8;
const SET_TIMEOUT: u32 = 0x10;
const SET_DYNAMIC: u32 = 0x20;
/// nft's own numbers of types, six bits each in a concatenation; `nft list` names elements by them.
const TYPE_IPV4: u32 = 7;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const TYPE_MARK: u32 = 19;
const TYPE_VERDICT: u32 = 0xffff_ff00;

/// How many pairs of client and Service are remembered for affinity; more find their endpoint by chance.
pub const AFFINITY_MAX_ENTRIES: u32 = 65_536;
/// Elements are sent in lists of at most this many bytes: an attribute's length has 16 bits.
const ELEMENT_LIST_MAX_BYTES: usize = 60_000;

pub(super) const SERVICES: &str = "services";
pub(super) const ENDPOINTS: &str = "endpoints";
pub(super) const REFUSED: &str = "refused";
pub(super) const STICKY: &str = "sticky";
pub(super) const HAIRPIN: &str = "hairpin";
pub(super) const AFFINITY: &str = "affinity";
pub(super) const REJECT_CHAIN: &str = "reject-it";
const LEAVING_CHAIN: &str = "leaving";

const FRONTEND: [Field; 3] = [Field::Destination, Field::Protocol, Field::Port];
/// The same of a packet whose destination was rewritten.
const ASKED: [Field; 3] = [Field::AskedAddress, Field::Protocol, Field::AskedPort];

/// The table's own small header (`nfgenmsg`), as every message of netfilter begins with it.
pub(super) fn header(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

/// A transaction: all of it happens or nothing. `generation` makes the kernel refuse it (ERESTART) if anyone
/// changed any rules since.
pub(super) fn transaction(mut batch: Batch, generation: Option<u32>, fill: impl FnOnce(&mut Batch)) -> Batch {
    let subsystem = [0, 0, 0, 10];
    batch.message(NFNL_MSG_BATCH_BEGIN, 0, &subsystem, |m| {
        if let Some(generation) = generation {
            m.be32(NFNL_BATCH_GENID, generation);
        }
    });
    fill(&mut batch);
    batch.message(NFNL_MSG_BATCH_END, 0, &subsystem, |_| ());
    batch
}

/// A transaction without its end: the kernel tries all of it, says what it refuses, and takes it back.
pub(super) fn unfinished(mut batch: Batch, fill: impl FnOnce(&mut Batch)) -> Batch {
    batch.message(NFNL_MSG_BATCH_BEGIN, 0, &[0, 0, 0, 10], |_| ());
    fill(&mut batch);
    batch
}

/// Puts a rule at the head of a chain of any table.
pub(super) fn foreign_rule(batch: &mut Batch, family: u8, table: &str, chain: &str, rule: &Rule) {
    batch.message(NFT_MSG_NEWRULE, NLM_F_CREATE, &header(family), |m| {
        m.string(1, table);
        m.string(2, chain);
        m.nested(4, |m| m.raw(rule.bytes()));
        if let Some(comment) = rule.comment {
            m.attribute(7, &comment_data(comment));
        }
    });
}

/// Takes a rule out of a chain of any table; the handle is as the kernel has told it.
pub(super) fn remove_foreign_rule(batch: &mut Batch, family: u8, table: &str, chain: &str, handle: &[u8]) {
    batch.message(NFT_MSG_DELRULE, 0, &header(family), |m| {
        m.string(1, table);
        m.string(2, chain);
        m.attribute(3, handle);
    });
}

/// Writes the messages of one table.
pub(super) struct Writer<'a> {
    pub(super) batch: &'a mut Batch,
    pub(super) table: &'a str,
}

impl Writer<'_> {
    /// Removes the table, whether or not it is there.
    pub(super) fn remove_table(&mut self) {
        for (kind, flags) in [(NFT_MSG_NEWTABLE, NLM_F_CREATE), (NFT_MSG_DELTABLE, 0)] {
            self.batch.message(kind, flags, &header(FAMILY_IPV4), |m| m.string(1, self.table));
        }
    }

    /// A table with nothing in it.
    pub(super) fn trial_table(&mut self) {
        self.batch.message(NFT_MSG_NEWTABLE, NLM_F_CREATE, &header(FAMILY_IPV4), |m| m.string(1, self.table));
    }

    /// A table with one chain, which may be a base chain of a type, hook and priority, and one rule in it.
    pub(super) fn trial_chain(&mut self, hook: Option<(&str, u32, i32)>, rule: &Rule) {
        self.trial_table();
        self.chain("trial", hook);
        self.rule("trial", rule);
    }

    /// Makes the table with all that does not depend on Services.
    pub(super) fn frame(&mut self, instance: &Instance, frame: &Frame) {
        let comment = frame_comment(instance, frame);
        self.batch.message(NFT_MSG_NEWTABLE, NLM_F_CREATE, &header(FAMILY_IPV4), |m| {
            m.string(1, self.table);
            m.attribute(6, &comment_data(&comment));
        });
        self.sets();
        self.chain(REJECT_CHAIN, None);
        self.rule(REJECT_CHAIN, &Rule::new().when_tcp().reject_tcp());
        self.rule(REJECT_CHAIN, &Rule::new().reject());
        self.destination_nat();
        self.memory();
        self.source_nat(instance, frame);
        self.guard(instance, frame);
        self.filter(instance, frame);
    }

    fn sets(&mut self) {
        let frontend = (TYPE_IPV4 << 12 | TYPE_PROTOCOL << 6 | TYPE_PORT, 12);
        let endpoint = (frontend.0 << 6 | TYPE_MARK, 16);
        let client = (TYPE_IPV4 << 18 | frontend.0, 16);
        let target = (TYPE_IPV4 << 6 | TYPE_PORT, 8);
        let verdict = (TYPE_VERDICT, 0);
        self.set(SERVICES, SET_MAP, frontend, Some(verdict), 1);
        self.set(ENDPOINTS, SET_MAP, endpoint, Some(target), 2);
        self.set(REFUSED, SET_MAP, frontend, Some(verdict), 3);
        self.set(HAIRPIN, 0, (TYPE_IPV4 << 6 | TYPE_IPV4, 8), None, 4);
        self.set(AFFINITY, SET_MAP | SET_TIMEOUT | SET_DYNAMIC, client, Some(target), 5);
        self.set(STICKY, SET_MAP, frontend, Some(verdict), 6);
    }

    fn set(&mut self, name: &str, flags: u32, key: (u32, u32), data: Option<(u32, u32)>, id: u32) {
        self.batch.message(NFT_MSG_NEWSET, NLM_F_CREATE | NLM_F_EXCL, &header(FAMILY_IPV4), |m| {
            m.string(1, self.table);
            m.string(2, name);
            m.be32(3, flags);
            m.be32(4, key.0);
            m.be32(5, key.1);
            if let Some((kind, length)) = data {
                m.be32(6, kind);
                if length > 0 {
                    m.be32(7, length);
                }
            }
            if flags & SET_DYNAMIC != 0 {
                m.nested(9, |m| m.be32(1, AFFINITY_MAX_ENTRIES));
            }
            m.be32(10, id);
        });
    }

    fn destination_nat(&mut self) {
        self.base_chain("nat-prerouting", "nat", HOOK_PREROUTING, -100);
        self.base_chain("nat-output", "nat", HOOK_OUTPUT, -100);
        for chain in ["nat-prerouting", "nat-output"] {
            self.rule(chain, &Rule::new().verdict_of(&FRONTEND, SERVICES));
        }
    }

    /// Remembers where clients were sent, behind the chains that send them: a rule that both looked an endpoint up and
    /// remembered it is one that nft 1.0.6 aborts on when it lists rules.
    fn memory(&mut self) {
        let hooks = [("memory-prerouting", HOOK_PREROUTING), ("memory-output", HOOK_OUTPUT)];
        for (chain, hook) in hooks {
            self.base_chain(chain, "filter", hook, -99);
            self.rule(chain, &Rule::new().when_new().when_dnat().verdict_of(&ASKED, STICKY));
        }
    }

    fn source_nat(&mut self, instance: &Instance, frame: &Frame) {
        let (bridge, lo) = (Interface::named(&instance.bridge()), Interface::named("lo"));
        let chain = "nat-postrouting";
        self.base_chain(chain, "nat", HOOK_POSTROUTING, 100);
        self.chain(LEAVING_CHAIN, None);
        let hairpin = Rule::new().when_in(&[Field::Source, Field::Destination], HAIRPIN).masquerade();
        self.rule(chain, &hairpin.comment("a pod reaches itself through its Service"));
        for range in ipv4(&frame.pods) {
            let rule = Rule::new()
                .in_range(Field::Source, range, true)
                .output(&bridge, false)
                .verdict(NFT_GOTO, Some(LEAVING_CHAIN));
            self.rule(chain, &rule);
        }
        let answer_returns = Rule::new().when_dnat().output(&bridge, false).output(&lo, false).masquerade();
        self.rule(
            chain,
            &answer_returns.comment("to an endpoint elsewhere, whose answer must come back here"),
        );
        for range in ipv4(&frame.masquerade_except) {
            let rule = Rule::new().in_range(Field::Destination, range, true).verdict(NFT_RETURN, None);
            self.rule(LEAVING_CHAIN, &rule);
        }
        self.rule(LEAVING_CHAIN, &Rule::new().masquerade());
    }

    fn guard(&mut self, instance: &Instance, frame: &Frame) {
        let (bridge, lo) = (Interface::named(&instance.bridge()), Interface::named("lo"));
        let chain = "guard-prerouting";
        self.base_chain(chain, "filter", HOOK_PREROUTING, -110);
        for interface in [&bridge, &lo] {
            self.rule(chain, &Rule::new().input(interface, true).verdict(NF_ACCEPT, None));
        }
        for range in ipv4(&frame.filter.trusted) {
            self.rule(chain, &Rule::new().in_range(Field::Source, range, true).verdict(NF_ACCEPT, None));
        }
        for range in ipv4(&frame.filter.guarded) {
            let rule =
                Rule::new().in_range(Field::Destination, range, true).when_new().verdict(NF_DROP, None);
            self.rule(chain, &rule.comment("closed to the outside"));
        }
    }

    fn filter(&mut self, instance: &Instance, frame: &Frame) {
        let bridge = Interface::named(&instance.bridge());
        let hooks =
            [("filter-input", HOOK_INPUT), ("filter-forward", HOOK_FORWARD), ("filter-output", HOOK_OUTPUT)];
        for (chain, hook) in hooks {
            self.base_chain(chain, "filter", hook, 0);
            self.rule(chain, &Rule::new().verdict_of(&FRONTEND, REFUSED));
        }
        for range in ipv4(&frame.service_ranges) {
            for chain in ["filter-forward", "filter-output"] {
                let rule = Rule::new()
                    .in_range(Field::Destination, range, true)
                    .verdict(NFT_GOTO, Some(REJECT_CHAIN))
                    .comment("no such Service");
                self.rule(chain, &rule);
            }
        }
        let redirect = Rule::new().output(&bridge, true).when_icmp_redirect().verdict(NF_DROP, None);
        self.rule("filter-output", &redirect.comment("pods reach each other through us alone"));
        if frame.filter.seal_forwarding {
            let ours = Interface::beginning_with(BRIDGE_PREFIX);
            let seal = Rule::new().input(&ours, false).output(&ours, false).verdict(NF_DROP, None);
            self.rule("filter-forward", &seal.comment("this machine was no router before us"));
        }
    }

    fn chain(&mut self, name: &str, hook: Option<(&str, u32, i32)>) {
        self.batch.message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, &header(FAMILY_IPV4), |m| {
            m.string(1, self.table);
            m.string(3, name);
            if let Some((kind, number, priority)) = hook {
                m.string(7, kind);
                m.nested(4, |m| {
                    m.be32(1, number);
                    m.attribute(2, &priority.to_be_bytes());
                });
                m.be32(5, NF_ACCEPT as u32);
            }
        });
    }

    fn base_chain(&mut self, name: &str, kind: &str, hook: u32, priority: i32) {
        self.chain(name, Some((kind, hook, priority)));
    }

    fn rule(&mut self, chain: &str, rule: &Rule) {
        self.batch.message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, &header(FAMILY_IPV4), |m| {
            m.string(1, self.table);
            m.string(2, chain);
            m.nested(4, |m| m.raw(rule.bytes()));
            if let Some(comment) = rule.comment {
                m.attribute(7, &comment_data(comment));
            }
        });
    }

    /// Loads everything that depends on Services into a table that has none of it.
    pub(super) fn load(&mut self, compiled: &Compiled) {
        for chain in &compiled.chains {
            self.add_chain(*chain);
        }
        let elements: Vec<(Key, Value)> = compiled.elements.iter().map(|(k, v)| (*k, *v)).collect();
        self.elements(NFT_MSG_NEWSETELEM, NLM_F_CREATE, &elements);
    }

    /// Applies changes; their order is kept.
    pub(super) fn changes(&mut self, changes: &[Change]) {
        for chain in changes {
            if let Change::AddChain(chain) = chain {
                self.add_chain(*chain);
            }
        }
        let removed: Vec<(Key, Value)> = changes
            .iter()
            .filter_map(|c| if let Change::Remove(key, value) = c { Some((*key, *value)) } else { None })
            .collect();
        self.elements(NFT_MSG_DELSETELEM, 0, &removed);
        let added: Vec<(Key, Value)> = changes
            .iter()
            .filter_map(|c| if let Change::Add(key, value) = c { Some((*key, *value)) } else { None })
            .collect();
        self.elements(NFT_MSG_NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL, &added);
        for chain in changes {
            if let Change::RemoveChain(chain) = chain {
                self.remove_chain(&chain.name());
            }
        }
    }

    fn add_chain(&mut self, chain: Chain) {
        let name = chain.name();
        self.chain(&name, None);
        let number = |count| [Field::Destination, Field::Protocol, Field::Port, Field::Random(count)];
        match chain {
            Chain::Random(count) => self.rule(&name, &Rule::new().dnat_to(&number(count), ENDPOINTS)),
            Chain::Sticky(count) => {
                let client = [Field::Source, Field::Destination, Field::Protocol, Field::Port];
                self.rule(&name, &Rule::new().dnat_to(&client, AFFINITY));
                // For clients that nothing is remembered of.
                self.rule(&name, &Rule::new().dnat_to(&number(count), ENDPOINTS));
            }
            Chain::Remember(timeout_s) => {
                let client = [Field::Source, Field::AskedAddress, Field::Protocol, Field::AskedPort];
                let target = REG + client.len() as u32;
                let remember = Rule::new()
                    .load(&client, REG)
                    .load(&[Field::Destination, Field::Port], target)
                    .remember(AFFINITY, REG, target, u64::from(timeout_s) * 1000);
                self.rule(&name, &remember);
            }
        }
    }

    fn remove_chain(&mut self, name: &str) {
        self.batch.message(NFT_MSG_DELRULE, 0, &header(FAMILY_IPV4), |m| {
            m.string(1, self.table);
            m.string(2, name);
        });
        self.batch.message(NFT_MSG_DELCHAIN, 0, &header(FAMILY_IPV4), |m| {
            m.string(1, self.table);
            m.string(3, name);
        });
    }

    /// `elements` are grouped by map.
    fn elements(&mut self, kind: u16, flags: u16, elements: &[(Key, Value)]) {
        let with_data = kind == NFT_MSG_NEWSETELEM;
        let mut rest = elements.iter().peekable();
        while let Some((first, _)) = rest.peek() {
            let set = set_name(first);
            self.batch.message(kind, flags, &header(FAMILY_IPV4), |m| {
                m.string(1, self.table);
                m.string(2, set);
                let list = m.begin(3);
                let start = m.len();
                while let Some((key, value)) =
                    rest.next_if(|(key, _)| set_name(key) == set && m.len() - start < ELEMENT_LIST_MAX_BYTES)
                {
                    m.nested(NFTA_LIST_ELEM, |m| {
                        m.nested(1, |m| write_value(m, &key_bytes(key)));
                        if with_data && !matches!(value, Value::Member) {
                            m.nested(2, |m| write_data(m, value));
                        }
                    });
                }
                m.end(list);
            });
        }
    }

    /// Removes remembered clients, by the bytes of their keys.
    pub(super) fn forget(&mut self, keys: &[Vec<u8>]) {
        for keys in keys.chunks(ELEMENT_LIST_MAX_BYTES / 64) {
            self.batch.message(NFT_MSG_DELSETELEM, NLM_F_ACK, &header(FAMILY_IPV4), |m| {
                m.string(1, self.table);
                m.string(2, AFFINITY);
                m.nested(3, |m| {
                    for key in keys {
                        m.nested(NFTA_LIST_ELEM, |m| m.nested(1, |m| write_value(m, key)));
                    }
                });
            });
        }
    }
}

fn set_name(key: &Key) -> &'static str {
    match key {
        Key::Service(_) => SERVICES,
        Key::Endpoint(..) => ENDPOINTS,
        Key::Refused(_) => REFUSED,
        Key::Sticky(_) => STICKY,
        Key::Hairpin(_) => HAIRPIN,
    }
}

/// Each part takes a register of four bytes.
fn key_bytes(key: &Key) -> Vec<u8> {
    match key {
        Key::Service(frontend) | Key::Refused(frontend) | Key::Sticky(frontend) => frontend_bytes(frontend),
        Key::Endpoint(frontend, number) => {
            let mut bytes = frontend_bytes(frontend);
            bytes.extend_from_slice(&number.to_ne_bytes());
            bytes
        }
        Key::Hairpin(address) => [octets(*address), octets(*address)].concat(),
    }
}

pub(super) fn frontend_bytes(frontend: &Frontend) -> Vec<u8> {
    let mut bytes = octets(frontend.address).to_vec();
    bytes.extend_from_slice(&[frontend.protocol.number(), 0, 0, 0]);
    bytes.extend_from_slice(&frontend.port.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes
}

fn octets(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => unreachable!("only IPv4 elements are compiled into the IPv4 table"),
    }
}

pub(super) fn target_bytes(target: SocketAddr) -> Vec<u8> {
    let mut bytes = octets(target.ip()).to_vec();
    bytes.extend_from_slice(&target.port().to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes
}

fn write_data(m: &mut Batch, value: &Value) {
    match value {
        Value::Goto(chain) => write_verdict(m, NFT_GOTO, Some(&chain.name())),
        Value::Reject => write_verdict(m, NFT_GOTO, Some(REJECT_CHAIN)),
        Value::Drop => write_verdict(m, NF_DROP, None),
        Value::Target(target) => write_value(m, &target_bytes(*target)),
        Value::Member => {}
    }
}

fn ipv4(ranges: &[Cidr]) -> impl Iterator<Item = Cidr> {
    ranges.iter().copied().filter(|range| range.address().is_ipv4())
}

/// nft's own way to keep a comment: type 0, length, text with its zero byte.
fn comment_data(comment: &str) -> Vec<u8> {
    let length = comment.len().min(126);
    let mut data = vec![0, length as u8 + 1];
    data.extend_from_slice(&comment.as_bytes()[..length]);
    data.push(0);
    data
}

/// The comment of the table: it tells a later start whether the table was made of the same frame by the same
/// program, so that only elements need to be compared.
pub(super) fn frame_comment(instance: &Instance, frame: &Frame) -> String {
    let mut batch = Batch::new(0);
    let mut writer = Writer { batch: &mut batch, table: "" };
    writer.sets();
    writer.destination_nat();
    writer.memory();
    writer.source_nat(instance, frame);
    writer.guard(instance, frame);
    writer.filter(instance, frame);
    for chain in [Chain::Sticky(1), Chain::Remember(1)] {
        writer.add_chain(chain);
    }
    format!("made by ondol, frame {:016x}", fnv1a(batch.bytes()))
}

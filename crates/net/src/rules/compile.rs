//! From Services to elements of flat maps; and from two rule sets to the changes between them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::ruleset::{Affinity, Endpoint, Ruleset, ServiceKey, TrafficPolicy, VirtualService};
use crate::address::Protocol;

/// An address and port that a Service answers on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The address.
    pub address: IpAddr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

impl Frontend {
    /// All of it in one number, for finding equal ones fast. Those of IPv6 may collide, which costs a comparison.
    fn packed(&self) -> u64 {
        let address = match self.address {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => crate::instance::fnv1a(&address.octets()) & 0xffff_ffff,
        };
        address << 24 | u64::from(self.protocol.number()) << 16 | u64::from(self.port)
    }
}

/// The key of one element, with the map that it is in. Ordered so that each map's elements are together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `services`: which chain chooses the endpoint.
    Service(Frontend),
    /// `endpoints`: the endpoint with this number.
    Endpoint(Frontend, u32),
    /// `refused`: nothing can answer.
    Refused(Frontend),
    /// `sticky`: which chain remembers the endpoint that a client was sent to.
    Sticky(Frontend),
    /// `hairpin`: this endpoint may reach itself.
    Hairpin(IpAddr),
}

/// The value of one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// The chain that chooses, or that remembers.
    Goto(Chain),
    /// The endpoint.
    Target(SocketAddr),
    /// Answered with a refusal, so that the client knows at once.
    Reject,
    /// Dropped silently: it would be served on another node.
    Drop,
    /// A member of a set.
    Member,
}

/// A chain that elements go to. Those that choose are one for each number of endpoints in use, those that remember one
/// for each time in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Chain {
    /// Chooses by chance among this many.
    Random(u32),
    /// Chooses what is remembered of the client, or else by chance among this many.
    Sticky(u32),
    /// Remembers the choice of a client for so many seconds.
    Remember(u32),
}

impl Chain {
    /// `random-3`, `sticky-3`, `remember-10800s`.
    pub fn name(self) -> String {
        match self {
            Self::Random(count) => format!("random-{count}"),
            Self::Sticky(count) => format!("sticky-{count}"),
            Self::Remember(timeout_s) => format!("remember-{timeout_s}s"),
        }
    }

    /// The chain of that name, if it is one of these.
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(count) = name.strip_prefix("random-") {
            return Some(Self::Random(count.parse().ok()?));
        }
        if let Some(count) = name.strip_prefix("sticky-") {
            return Some(Self::Sticky(count.parse().ok()?));
        }
        let timeout_s = name.strip_prefix("remember-")?.strip_suffix('s')?;
        Some(Self::Remember(timeout_s.parse().ok()?))
    }
}

/// All elements and chains of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// The elements of all maps.
    pub elements: BTreeMap<Key, Value>,
    /// The chains that elements go to.
    pub chains: BTreeSet<Chain>,
}

/// One step from one rule set to another. In the order of a list of changes each step is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The frame changed: load everything anew. Always alone.
    Reload,
    /// Make a chain.
    AddChain(Chain),
    /// Remove an element. Its former value is given, because the kernel asks for it in no case but we print it.
    Remove(Key, Value),
    /// Add an element that is not there (any more).
    Add(Key, Value),
    /// Remove a chain that no element goes to any more.
    RemoveChain(Chain),
}

impl Compiled {
    /// Compiles all of `ruleset` for IPv4.
    pub fn new(ruleset: &Ruleset) -> Self {
        let mut compiled = Self::of(ruleset, ruleset.services.iter());
        compiled.chains = compiled.elements.values().filter_map(chain_of).collect();
        compiled
    }

    fn of<'a>(
        ruleset: &Ruleset,
        services: impl Iterator<Item = (&'a ServiceKey, &'a Arc<VirtualService>)>,
    ) -> Self {
        let mut elements = BTreeMap::new();
        for (_, service) in services {
            for (frontend, policy) in frontends(ruleset, service) {
                if elements.contains_key(&Key::Service(frontend))
                    || elements.contains_key(&Key::Refused(frontend))
                {
                    continue;
                }
                compile_frontend(&mut elements, frontend, service, policy);
            }
        }
        Self { elements, chains: BTreeSet::new() }
    }

    /// What `changes` make of this table; the model that the kernel is compared with.
    pub fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Reload => {}
                Change::AddChain(chain) => assert!(self.chains.insert(*chain), "{chain:?} is there already"),
                Change::RemoveChain(chain) => {
                    let used = self.elements.values().any(|v| chain_of(v) == Some(*chain));
                    assert!(self.chains.remove(chain) && !used, "{chain:?} is in use or not there");
                }
                Change::Remove(key, value) => assert_eq!(self.elements.remove(key), Some(*value)),
                Change::Add(key, value) => {
                    assert!(chain_of(value).is_none_or(|chain| self.chains.contains(&chain)));
                    assert_eq!(self.elements.insert(*key, *value), None, "{key:?} is there already");
                }
            }
        }
    }
}

fn chain_of(value: &Value) -> Option<Chain> {
    match value {
        Value::Goto(chain) => Some(*chain),
        _ => None,
    }
}

/// The IPv4 addresses and ports that `service` answers on, each with the policy that chooses its endpoints.
fn frontends<'a>(
    ruleset: &'a Ruleset,
    service: &'a VirtualService,
) -> impl Iterator<Item = (Frontend, TrafficPolicy)> + 'a {
    let frontend = |address: IpAddr, port| Frontend { address, protocol: service.protocol, port };
    let cluster = service.cluster_addresses.iter();
    let external = service.external_addresses.iter();
    let node = service
        .node_port
        .into_iter()
        .flat_map(|port| ruleset.frame.node_addresses.iter().map(move |address| (*address, port)));
    cluster
        .map(move |address| (frontend(*address, service.port), service.internal_policy))
        .chain(external.map(move |address| (frontend(*address, service.port), service.external_policy)))
        .chain(node.map(move |(address, port)| (frontend(address, port), service.external_policy)))
        .filter(|(frontend, _)| frontend.address.is_ipv4())
}

fn serving(service: &VirtualService, policy: TrafficPolicy) -> impl Iterator<Item = &Endpoint> {
    service
        .endpoints
        .iter()
        .filter(move |e| e.address.is_ipv4() && (e.local || policy == TrafficPolicy::Cluster))
}

fn compile_frontend(
    elements: &mut BTreeMap<Key, Value>,
    frontend: Frontend,
    service: &VirtualService,
    policy: TrafficPolicy,
) {
    let mut count = 0;
    for (endpoint, number) in serving(service, policy).zip(0_u32..) {
        elements.insert(Key::Endpoint(frontend, number), Value::Target(endpoint.address));
        elements.insert(Key::Hairpin(endpoint.address.ip()), Value::Member);
        count = number + 1;
    }
    let Some((chain, memory)) = chains_for(service, count) else {
        let elsewhere = serving(service, TrafficPolicy::Cluster).next().is_some();
        elements.insert(Key::Refused(frontend), if elsewhere { Value::Drop } else { Value::Reject });
        return;
    };
    elements.insert(Key::Service(frontend), Value::Goto(chain));
    if let Some(memory) = memory {
        elements.insert(Key::Sticky(frontend), Value::Goto(memory));
    }
}

/// The chain that chooses among `count` endpoints, and the one that remembers the choice.
fn chains_for(service: &VirtualService, count: u32) -> Option<(Chain, Option<Chain>)> {
    match service.affinity {
        _ if count == 0 => None,
        // One endpoint needs no memory.
        Affinity::ClientIp { timeout_s } if count > 1 => {
            Some((Chain::Sticky(count), Some(Chain::Remember(timeout_s.max(1)))))
        }
        _ => Some((Chain::Random(count), None)),
    }
}

/// The changes that turn the table of `old` into the table of `new`. Costs little when little differs: the
/// Services that are equal are walked over once, and not compiled.
pub fn diff(old: &Ruleset, new: &Ruleset) -> Vec<Change> {
    if old.frame != new.frame {
        return vec![Change::Reload];
    }
    let (changed, unchanged) = compare(old, new);
    if changed.is_empty() {
        return Vec::new();
    }
    let part = |ruleset: &Ruleset| {
        Compiled::of(ruleset, changed.iter().filter_map(|key| ruleset.services.get_key_value(*key)))
    };
    let (mut before, mut after) = (part(old), part(new));
    let touched: BTreeSet<Frontend> = changed
        .iter()
        .flat_map(|key| [old.services.get(*key), new.services.get(*key)])
        .flatten()
        .flat_map(|service| frontends(new, service).map(|(frontend, _)| frontend))
        .collect();
    let hairpins: BTreeSet<IpAddr> =
        before.elements.keys().chain(after.elements.keys()).filter_map(hairpin).collect();
    let mut shared_chains = BTreeSet::new();
    let mut claimed: Vec<u64> = Vec::with_capacity(unchanged.len() * 2);
    for service in unchanged {
        for (frontend, policy) in frontends(new, service) {
            if touched.contains(&frontend) {
                // Two Services claim one address: who has it depends on all of them.
                return between(&Compiled::new(old), &Compiled::new(new));
            }
            claimed.push(frontend.packed());
            if let Some((chain, memory)) = chains_for(service, serving(service, policy).count() as u32) {
                shared_chains.insert(chain);
                shared_chains.extend(memory);
            }
            for endpoint in serving(service, policy) {
                if hairpins.contains(&endpoint.address.ip()) {
                    before.elements.insert(Key::Hairpin(endpoint.address.ip()), Value::Member);
                    after.elements.insert(Key::Hairpin(endpoint.address.ip()), Value::Member);
                }
            }
        }
    }
    claimed.sort_unstable();
    if claimed.windows(2).any(|pair| pair[0] == pair[1]) {
        // What a Service needs that never gets its address is not in the table.
        return between(&Compiled::new(old), &Compiled::new(new));
    }
    for compiled in [&mut before, &mut after] {
        compiled.chains = compiled.elements.values().filter_map(chain_of).collect();
        compiled.chains.extend(&shared_chains);
    }
    between(&before, &after)
}

fn hairpin(key: &Key) -> Option<IpAddr> {
    match key {
        Key::Hairpin(address) => Some(*address),
        _ => None,
    }
}

/// The keys whose Services differ, and the Services that do not.
fn compare<'a>(old: &'a Ruleset, new: &'a Ruleset) -> (Vec<&'a ServiceKey>, Vec<&'a VirtualService>) {
    let (mut changed, mut unchanged) = (Vec::new(), Vec::with_capacity(new.services.len()));
    let mut olds = old.services.iter().peekable();
    for (key, service) in &new.services {
        while let Some((gone, _)) = olds.next_if(|(old_key, _)| *old_key < key) {
            changed.push(gone);
        }
        match olds.next_if(|(old_key, _)| *old_key == key) {
            Some((_, former)) if Arc::ptr_eq(former, service) || former == service => {
                unchanged.push(&**service)
            }
            _ => changed.push(key),
        }
    }
    changed.extend(olds.map(|(gone, _)| gone));
    (changed, unchanged)
}

/// The changes between two tables that share a frame.
pub fn between(old: &Compiled, new: &Compiled) -> Vec<Change> {
    let mut changes: Vec<Change> = new.chains.difference(&old.chains).map(|c| Change::AddChain(*c)).collect();
    changes.extend(
        old.elements
            .iter()
            .filter(|(key, value)| new.elements.get(key) != Some(value))
            .map(|(key, value)| Change::Remove(*key, *value)),
    );
    changes.extend(
        new.elements
            .iter()
            .filter(|(key, value)| old.elements.get(key) != Some(value))
            .map(|(key, value)| Change::Add(*key, *value)),
    );
    changes.extend(old.chains.difference(&new.chains).map(|c| Change::RemoveChain(*c)));
    changes
}

/// For each frontend that `changes` touch: the endpoints that may go on serving it. Memory of others (connection
/// tracking of UDP, affinity) is stale.
pub(super) fn surviving(changes: &[Change], new: &Ruleset) -> BTreeMap<Frontend, BTreeSet<SocketAddr>> {
    let mut touched: BTreeMap<Frontend, BTreeSet<SocketAddr>> = BTreeMap::new();
    for change in changes {
        if let Change::Remove(key, _) | Change::Add(key, _) = change
            && let Key::Service(frontend) | Key::Endpoint(frontend, _) | Key::Refused(frontend) = key
        {
            touched.entry(*frontend).or_default();
        }
    }
    if touched.is_empty() {
        return touched;
    }
    let mut owned = BTreeSet::new();
    for service in new.services.values() {
        for (frontend, policy) in frontends(new, service) {
            if let Some(survivors) = touched.get_mut(&frontend)
                && owned.insert(frontend)
            {
                survivors.extend(serving(service, policy).map(|e| e.address));
            }
        }
    }
    touched
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_service() -> impl Strategy<Value = VirtualService> {
        let endpoint = (0_u8..9, any::<bool>()).prop_map(|(n, local)| Endpoint {
            address: SocketAddr::from(([10, 244, 0, n], 8080 + u16::from(n % 2))),
            local,
        });
        let policy =
            any::<bool>().prop_map(|b| if b { TrafficPolicy::Local } else { TrafficPolicy::Cluster });
        let affinity = prop_oneof![
            3 => Just(Affinity::None),
            1 => (1_u32..3).prop_map(|timeout_s| Affinity::ClientIp { timeout_s }),
        ];
        let addresses = (0_u8..8, proptest::option::of(0_u16..3), any::<bool>());
        (addresses, proptest::collection::vec(endpoint, 0..5), affinity, policy.clone(), policy).prop_map(
            |((cluster, node_port, external), endpoints, affinity, internal_policy, external_policy)| {
                VirtualService {
                    protocol: if cluster % 2 == 0 { Protocol::Tcp } else { Protocol::Udp },
                    port: 80,
                    cluster_addresses: vec![[10, 96, 0, cluster].into()],
                    external_addresses: external.then(|| [192, 0, 2, 9].into()).into_iter().collect(),
                    node_port: node_port.map(|port| 30_000 + port),
                    endpoints,
                    affinity,
                    internal_policy,
                    external_policy,
                }
            },
        )
    }

    fn any_ruleset() -> impl Strategy<Value = Ruleset> {
        proptest::collection::btree_map("[a-h]", any_service(), 0..7).prop_map(|services| {
            let mut ruleset = Ruleset {
                services: services.into_iter().map(|(k, s)| (ServiceKey(k), Arc::new(s))).collect(),
                ..Ruleset::default()
            };
            ruleset.frame.node_addresses =
                vec![[10, 244, 0, 1].into(), "fd00::1".parse().expect("an address")];
            ruleset
        })
    }

    proptest! {
        #[test]
        fn changes_lead_from_one_table_to_the_other(
            old in any_ruleset(),
            other in any_ruleset(),
            kept in proptest::collection::btree_set("[a-h]", 0..7),
        ) {
            // Services that are the same on both sides take the short way, so some are.
            let mut new = other;
            for key in kept.into_iter().map(ServiceKey) {
                match old.services.get(&key) {
                    Some(service) => _ = new.services.insert(key, service.clone()),
                    None => _ = new.services.remove(&key),
                }
            }
            let mut table = Compiled::new(&old);
            table.apply(&diff(&old, &new));
            prop_assert_eq!(table, Compiled::new(&new));
        }
    }

    #[test]
    fn a_change_of_one_endpoint_is_a_change_of_its_elements_alone() {
        let service = |last: u8| VirtualService {
            protocol: Protocol::Tcp,
            port: 80,
            cluster_addresses: vec![[10, 96, 0, 1].into()],
            external_addresses: vec![],
            node_port: None,
            endpoints: vec![
                Endpoint { address: SocketAddr::from(([10, 244, 0, 2], 80)), local: true },
                Endpoint { address: SocketAddr::from(([10, 244, 0, last], 80)), local: true },
            ],
            affinity: Affinity::None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
        };
        let ruleset = |last| Ruleset {
            services: BTreeMap::from([(ServiceKey("a".to_owned()), Arc::new(service(last)))]),
            ..Ruleset::default()
        };
        let frontend = Frontend { address: [10, 96, 0, 1].into(), protocol: Protocol::Tcp, port: 80 };
        let target = |last| Value::Target(SocketAddr::from(([10, 244, 0, last], 80)));
        let expect = [
            Change::Remove(Key::Endpoint(frontend, 1), target(3)),
            Change::Remove(Key::Hairpin([10, 244, 0, 3].into()), Value::Member),
            Change::Add(Key::Endpoint(frontend, 1), target(4)),
            Change::Add(Key::Hairpin([10, 244, 0, 4].into()), Value::Member),
        ];
        assert_eq!(diff(&ruleset(3), &ruleset(4)), expect);
        assert_eq!(diff(&ruleset(3), &ruleset(3)), []);
    }

    #[test]
    fn chains_are_known_by_their_names() {
        for chain in [Chain::Random(3), Chain::Sticky(2), Chain::Remember(10_800)] {
            assert_eq!(Chain::parse(&chain.name()), Some(chain));
        }
        for other in ["random-", "random-x", "sticky-3s", "remember-3", "remember", "reject-it"] {
            assert_eq!(Chain::parse(other), None);
        }
    }
}

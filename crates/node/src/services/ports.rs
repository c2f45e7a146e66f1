//! Which addresses and ports of this machine Services and pods get: those on which no other program listens.
//!
//! The kernel tells nobody when a program begins to listen. So it is looked when a Service or pod asks for a port that
//! it does not hold yet, at once when a socket that was in the way ends, and at each review. What a rule in the kernel
//! holds stays ours, though a program begins to listen there later: that program is not reached at that address.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::PoisonError;

use api::names::SERVICES;
use control::recorder::Note;
use net::address::Protocol;
use net::listeners::{self, Endings};
use net::loopback::LoopbackPort;
use net::rules::{self, Frame, Frontend, Key, Ruleset, VirtualService};
use tracing::warn;

use super::Services;
use super::compile::Compiled;

/// Ports that a Node tells of at most: an annotation is bounded. Those that are free are told first, so that Services
/// which wait for them go on, and make room.
const TOLD_MAX: usize = 1000;

/// What other programs of the machine hold, each with that program in words.
pub(super) type Taken = BTreeMap<Frontend, String>;

/// The ports of the machine.
#[derive(Default)]
pub(super) struct Ports {
    /// What rules in the kernel hold.
    held: BTreeSet<Frontend>,
    /// What was looked for last.
    looked: BTreeSet<Frontend>,
    taken: Taken,
    /// Hears of sockets that end, while one is in the way.
    endings: Option<Endings>,
}

/// What `service` asks of the machine itself, beside the cluster's own addresses.
pub(super) fn asked<'a>(
    frame: &'a Frame,
    service: &'a VirtualService,
) -> impl Iterator<Item = Frontend> + 'a {
    let at = |address: IpAddr, port| Frontend { address, protocol: service.protocol, port };
    let external = service.external_addresses.iter().map(move |address| at(*address, service.port));
    let node = service
        .node_port
        .into_iter()
        .flat_map(move |port| frame.node_addresses.iter().map(move |address| at(*address, port)));
    external.chain(node)
}

/// `service` without what other programs hold. A node port is one thing: it is served on all addresses or none.
pub(super) fn spared<'a>(
    frame: &Frame,
    service: &'a VirtualService,
    taken: &Taken,
) -> Cow<'a, VirtualService> {
    let is_taken =
        |address: IpAddr, port| taken.contains_key(&Frontend { address, protocol: service.protocol, port });
    if taken.is_empty() || !asked(frame, service).any(|frontend| taken.contains_key(&frontend)) {
        return Cow::Borrowed(service);
    }
    let mut spared = service.clone();
    spared.external_addresses.retain(|address| !is_taken(*address, service.port));
    spared.node_port = service
        .node_port
        .filter(|port| !frame.node_addresses.iter().any(|address| is_taken(*address, *port)));
    Cow::Owned(spared)
}

/// `10.244.0.1:80/TCP`, as the Node tells of it.
pub(super) fn spelled(frontend: &Frontend) -> String {
    let at = SocketAddr::new(frontend.address, frontend.port);
    format!("{at}/{}", frontend.protocol.name().to_uppercase())
}

impl Ports {
    /// Begins with what the kernel's rules hold from an earlier process.
    pub(super) fn holding(loaded: Option<&rules::Compiled>) -> Self {
        let keys = loaded.into_iter().flat_map(|compiled| compiled.elements.keys());
        let held = keys.filter_map(|key| match key {
            Key::Service(frontend) | Key::Refused(frontend) => Some(*frontend),
            _ => None,
        });
        Self { held: held.collect(), ..Self::default() }
    }

    /// What other programs hold, as it was last looked.
    pub(super) fn taken(&self) -> &Taken {
        &self.taken
    }

    /// Looks who listens on what is asked for and not held. `anew` if the answer may be another than for the same
    /// question before. Returns what is newly found to be taken.
    pub(super) async fn look(&mut self, asked: BTreeSet<Frontend>, anew: bool) -> Vec<Frontend> {
        let new: BTreeSet<Frontend> = asked.difference(&self.held).copied().collect();
        if new == self.looked && !anew {
            return Vec::new();
        }
        self.looked = new;
        if self.looked.is_empty() {
            self.taken.clear();
            self.endings = None;
            return Vec::new();
        }
        // Before looking, so that no end falls in between.
        if self.endings.is_none() {
            self.endings = Endings::open()
                .inspect_err(|error| warn!(%error, "ports that become free are seen at the next review only"))
                .ok();
        }
        let before = std::mem::replace(&mut self.taken, who_listens(&self.looked).await);
        if self.taken.is_empty() {
            self.endings = None;
        }
        self.taken.keys().filter(|frontend| !before.contains_key(*frontend)).copied().collect()
    }

    /// The kernel has the rules of `ruleset` now.
    pub(super) fn hold(&mut self, ruleset: &Ruleset) {
        let frame = &ruleset.frame;
        self.held = ruleset.services.values().flat_map(|service| asked(frame, service)).collect();
    }

    /// Returns when a port that was taken may have become free.
    pub(super) async fn freed(&mut self) {
        let ports = self.taken.keys().map(|frontend| frontend.port).collect();
        match &mut self.endings {
            Some(endings) => endings.of(&ports).await,
            None => std::future::pending().await,
        }
    }

    /// What the Node tells: of `claims`, which wait for an answer, and of all that is taken.
    pub(super) fn told(&self, claims: &BTreeSet<Frontend>) -> BTreeMap<String, String> {
        let free = claims.iter().filter(|claim| !self.taken.contains_key(*claim));
        let free = free.map(|claim| (spelled(claim), String::new()));
        let taken = self.taken.iter().map(|(frontend, program)| (spelled(frontend), program.clone()));
        free.chain(taken).take(TOLD_MAX).collect()
    }
}

impl Services {
    /// Looks which of the machine's ports that are asked for are free, and tells it.
    pub(super) async fn look(&mut self, anew: bool) {
        let frame = &self.settings.frame;
        let rules = self.all().flat_map(|compiled| &compiled.rules);
        let mut wanted: BTreeSet<Frontend> = rules.flat_map(|(_, service)| asked(frame, service)).collect();
        let claims: BTreeSet<Frontend> =
            self.compiled.values().flat_map(|compiled| &compiled.claims).copied().collect();
        wanted.extend(&claims);
        // Those on the loopback are opened by a listener of ours; here we only hear when they become free.
        let closed = self.applied.closed.iter();
        wanted.extend(closed.map(|LoopbackPort { protocol, port }| Frontend {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            protocol: *protocol,
            port: *port,
        }));
        if self.ports.is_none() && !wanted.is_empty() {
            self.ports = Some(self.held().await);
        }
        let mut ports = self.ports.take().unwrap_or_default();
        let newly_taken = ports.look(wanted, anew).await;
        self.offer.tell(&ports.told(&claims));
        newly_taken.iter().for_each(|frontend| self.tell_taken(frontend, ports.taken()));
        self.ports = Some(ports);
    }

    /// What rules of an earlier process hold.
    async fn held(&self) -> Ports {
        let rules = self.rules.clone();
        let load = move || rules.lock().unwrap_or_else(PoisonError::into_inner).loaded();
        match tokio::task::spawn_blocking(load).await {
            Ok(Ok(loaded)) => Ports::holding(loaded.as_ref()),
            Ok(Err(error)) => {
                warn!(%error, "the rules of an earlier process cannot be read");
                Ports::default()
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Ports::default(),
        }
    }

    /// Tells the Services and pods that do not get a port.
    fn tell_taken(&self, frontend: &Frontend, taken: &Taken) {
        let Some(program) = taken.get(frontend) else { return };
        let words = complaint(frontend, program);
        warn!("{words}");
        let asks = |compiled: &Compiled| {
            let mut rules = compiled.rules.iter();
            rules.any(|(_, rule)| asked(&self.settings.frame, rule).any(|other| other == *frontend))
        };
        let services = self.compiled.iter().filter(|(_, compiled)| asks(compiled));
        let services = services.filter_map(|(key, _)| self.world.get(&SERVICES, &key.namespace, &key.name));
        let pods = self.hosted.iter().filter(|(_, compiled)| asks(compiled));
        let pods = pods.filter_map(|(key, _)| self.pods.get(&key.namespace, &key.name));
        for object in services.chain(pods) {
            self.recorder.note(Note::warning(&object, "PortTaken", words.as_str()));
        }
    }
}

/// Who listens on `wanted`. What cannot be looked at is taken: nothing is stolen from a program that is not seen.
async fn who_listens(wanted: &BTreeSet<Frontend>) -> Taken {
    let asked: Vec<Frontend> = wanted.iter().copied().collect();
    let found = match tokio::task::spawn_blocking(move || listeners::taken(&asked)).await {
        Ok(found) => found,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime ends; so does the loop.
        Err(_) => return Taken::new(),
    };
    match found {
        Ok(found) => found
            .into_iter()
            .map(|(frontend, program)| {
                (
                    frontend,
                    program
                        .map_or_else(|| "another program".to_owned(), |name| format!("the program {name}")),
                )
            })
            .collect(),
        Err(error) => {
            warn!(%error, "the machine's listeners cannot be read");
            let words = "a program that cannot be seen, for the kernel does not tell who listens (\"modprobe \
                         inet_diag tcp_diag udp_diag\")";
            wanted.iter().map(|frontend| (*frontend, words.to_owned())).collect()
        }
    }
}

/// What an event says of a port that is not served.
pub(super) fn complaint(frontend: &Frontend, program: &str) -> String {
    let Frontend { address, protocol, port } = frontend;
    let protocol: &Protocol = protocol;
    format!(
        "port {port}/{} of {address} is taken by {program}, so it is not served there: stop that program, or choose \
         another port",
        protocol.name().to_uppercase()
    )
}

#[cfg(test)]
mod tests {
    use net::rules::{Affinity, TrafficPolicy};

    use super::*;

    fn frame() -> Frame {
        let node_addresses = ["10.244.0.1", "192.0.2.1"].map(|ip| ip.parse().expect("an address"));
        Frame { node_addresses: node_addresses.to_vec(), ..Frame::default() }
    }

    fn service() -> VirtualService {
        let external_addresses = ["192.0.2.1", "192.0.2.7"].map(|ip| ip.parse().expect("an address"));
        VirtualService {
            protocol: Protocol::Tcp,
            port: 80,
            cluster_addresses: vec![[10, 96, 0, 9].into()],
            external_addresses: external_addresses.to_vec(),
            node_port: Some(30_080),
            endpoints: Vec::new(),
            affinity: Affinity::None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
        }
    }

    fn taken(which: &[&str]) -> Taken {
        let at = |text: &&str| {
            let at: SocketAddr = text.parse().expect("an address");
            Frontend { address: at.ip(), protocol: Protocol::Tcp, port: at.port() }
        };
        which.iter().map(|text| (at(text), "the program x".to_owned())).collect()
    }

    #[test]
    fn what_other_programs_hold_is_left_to_them() {
        let (frame, service) = (frame(), service());
        let all: Vec<String> = asked(&frame, &service).map(|frontend| spelled(&frontend)).collect();
        let expect = ["192.0.2.1:80/TCP", "192.0.2.7:80/TCP", "10.244.0.1:30080/TCP", "192.0.2.1:30080/TCP"];
        assert_eq!(all, expect);
        let check = |which: &[&str], external: &[&str], node_port: Option<u16>| {
            let spared = spared(&frame, &service, &taken(which));
            let left: Vec<String> = spared.external_addresses.iter().map(ToString::to_string).collect();
            assert_eq!(
                (left.as_slice(), spared.node_port),
                (external.iter().map(ToString::to_string).collect::<Vec<_>>().as_slice(), node_port)
            );
            assert_eq!(spared.cluster_addresses, service.cluster_addresses);
        };
        check(&[], &["192.0.2.1", "192.0.2.7"], Some(30_080));
        check(&["192.0.2.1:81", "10.96.0.9:80"], &["192.0.2.1", "192.0.2.7"], Some(30_080));
        check(&["192.0.2.1:80"], &["192.0.2.7"], Some(30_080));
        check(&["10.244.0.1:30080"], &["192.0.2.1", "192.0.2.7"], None);
    }

    #[tokio::test]
    async fn what_is_held_stays_held_and_what_is_free_or_taken_is_told() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = |listener: &std::net::TcpListener| {
            let port = listener.local_addr().expect("bound").port();
            Frontend { address: [127, 0, 0, 1].into(), protocol: Protocol::Tcp, port }
        };
        let (mine, theirs) = (at(&listener), at(&other));
        let held = rules::Compiled {
            elements: BTreeMap::from([(Key::Refused(mine), net::rules::Value::Reject)]),
            ..rules::Compiled::default()
        };
        let mut ports = Ports::holding(Some(&held));
        let both = BTreeSet::from([mine, theirs]);
        assert_eq!(ports.look(both.clone(), false).await, [theirs]);
        assert_eq!(ports.look(both.clone(), true).await, [], "it is told once");
        assert!(ports.taken()[&theirs].starts_with("the program "), "{:?}", ports.taken());
        assert_eq!(ports.told(&both)[&spelled(&mine)], "");
        drop(other);
        ports.freed().await;
        ports.look(both.clone(), true).await;
        assert!(ports.taken().is_empty());
        assert_eq!(ports.told(&both).values().filter(|program| program.is_empty()).count(), 2);
    }
}

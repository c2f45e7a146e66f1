//! The listeners of the node: node ports on 127.0.0.1, and the ports at which balancers ask.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use api::names::SERVICES;
use base::Stop;
use control::mirror::Key;
use control::recorder::Note;
use net::loopback::{LoopbackError, LoopbackPort, LoopbackPorts};
use tracing::warn;

use super::Services;
use super::compile::Compiled;
use super::health::HealthPorts;

/// The listeners of the loop.
pub(super) struct Doors {
    pub(super) loopback: LoopbackPorts,
    pub(super) health: HealthPorts,
}

impl Services {
    pub(super) fn doors(&self, stop: &Stop) -> Doors {
        let (clock, tasks) = (self.clock.clone(), self.tasks.clone());
        let mut addresses = self.settings.frame.node_addresses.clone();
        addresses.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Doors {
            loopback: LoopbackPorts::new(tasks.clone(), stop.clone(), clock.clone(), self.random.clone()),
            health: HealthPorts::new(addresses, tasks, clock, stop.clone()),
        }
    }

    pub(super) async fn apply_loopback(&mut self, ports: &mut LoopbackPorts) -> bool {
        let wanted = loopback(&self.compiled, &self.hosted);
        if wanted == self.applied.loopback && !self.applied.loopback_failed {
            return true;
        }
        let errors = ports.apply(&wanted).await;
        let failed: BTreeSet<LoopbackPort> = errors.iter().map(LoopbackError::port).collect();
        // A port that another program holds is told once; it is tried again at each review.
        for error in errors.iter().filter(|error| !self.applied.closed.contains(&error.port())) {
            warn!(%error, "a node port is not served on 127.0.0.1");
            self.tell_closed(error);
        }
        if !failed.is_subset(&self.applied.closed) {
            // Who is in the way is looked for in the next round.
            self.marks.wake.notify_one();
        }
        self.applied.closed = failed;
        self.applied.loopback = wanted;
        self.applied.loopback_failed = !errors.is_empty();
        true
    }

    pub(super) fn apply_health(&mut self, ports: &mut HealthPorts, healthy: bool) {
        let checked =
            self.compiled.iter().filter_map(|(key, compiled)| Some((key.clone(), compiled.health?)));
        let failed = ports.apply(&checked.collect(), healthy);
        for (key, why) in failed.iter().filter(|(key, _)| !self.applied.unchecked.contains(key)) {
            warn!(service = %key, why, "a health check port is not served");
            if let Some(object) = self.world.get(&SERVICES, &key.namespace, &key.name) {
                let node = &self.settings.facts.node;
                let words = format!("node {node} failed to start healthcheck \"{key}\": {why}");
                self.recorder.note(Note::warning(&object, "FailedToStartServiceHealthcheck", words));
            }
        }
        self.applied.unchecked = failed.into_iter().map(|(key, _)| key).collect();
    }

    /// Tells the Services whose node port is not served on 127.0.0.1.
    fn tell_closed(&self, error: &LoopbackError) {
        let concerned = self
            .compiled
            .iter()
            .filter(|(_, compiled)| compiled.loopback.iter().any(|(port, _)| *port == error.port()));
        for (key, _) in concerned {
            if let Some(object) = self.world.get(&SERVICES, &key.namespace, &key.name) {
                self.recorder.note(Note::warning(&object, "NodePortNotServed", error.to_string()));
            }
        }
    }
}

/// The ports on 127.0.0.1. Node ports are unique, which the API sees to; a host port that is taken stays closed.
fn loopback(
    services: &BTreeMap<Key, Compiled>,
    hosted: &BTreeMap<Key, Compiled>,
) -> BTreeMap<LoopbackPort, Vec<SocketAddr>> {
    let mut ports: BTreeMap<LoopbackPort, Vec<SocketAddr>> = BTreeMap::new();
    for (port, target) in services.values().flat_map(|compiled| &compiled.loopback) {
        ports.entry(*port).or_default().push(*target);
    }
    for (port, target) in hosted.values().flat_map(|compiled| &compiled.loopback) {
        ports.entry(*port).or_insert_with(|| vec![*target]);
    }
    ports
}

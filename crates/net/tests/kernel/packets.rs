//! What happens to packets.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::UdpSocket;
use std::time::Duration;

use net::address::Protocol;
use net::rules::{Affinity, Applied, TrafficPolicy};

use crate::space::{
    BRIDGE_ADDRESS, NODE_OUTSIDE_ADDRESS, OUTSIDE_ADDRESS, PATIENCE, World, greeting, service,
};

/// How long we wait for what must not come.
const SOON: Duration = Duration::from_millis(400);

fn refused(world: &crate::space::Space, to: &str) {
    let error = world.connect(to, PATIENCE).expect_err("nothing may answer");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
}

#[test]
fn connections_are_balanced_from_pods_and_from_the_node() {
    for bridge_netfilter in [false, true] {
        let mut world = World::new("balance", bridge_netfilter);
        world.set("a", Some(service(Protocol::Tcp, &[0, 1, 2])));
        for from in [&world.pods[0], &world.node] {
            let mut seen: BTreeMap<String, usize> = BTreeMap::new();
            for _ in 0..60 {
                *seen.entry(from.ask("10.96.0.10:80").0).or_default() += 1;
            }
            // Each endpoint is missed by 60 draws of three with a chance of 3e-11.
            assert_eq!(seen.len(), 3, "{seen:?} with br_netfilter {bridge_netfilter}");
        }
    }
}

#[test]
fn pods_see_who_calls_and_reach_themselves_through_their_service() {
    for bridge_netfilter in [false, true] {
        let mut world = World::new("hairpin", bridge_netfilter);
        world.set("a", Some(service(Protocol::Tcp, &[0])));
        let itself = world.pods[0].ask("10.96.0.10:80");
        assert_eq!(itself, ("pod-a".to_owned(), BRIDGE_ADDRESS.to_owned()));
        let other = world.pods[1].ask("10.96.0.10:80");
        assert_eq!(other, ("pod-a".to_owned(), "10.244.0.3".to_owned()));
        let direct = world.pods[1].ask("10.244.0.2:8080");
        assert_eq!(direct, ("pod-a".to_owned(), "10.244.0.3".to_owned()));
        assert_eq!(world.node.ask("10.96.0.10:80").1, BRIDGE_ADDRESS);
    }
}

#[test]
fn node_ports_and_load_balancers_answer_inside_and_outside() {
    let mut world = World::new("nodeport", true);
    let mut exposed = service(Protocol::Tcp, &[0]);
    exposed.node_port = Some(30080);
    exposed.external_addresses = vec![NODE_OUTSIDE_ADDRESS.parse().expect("an address")];
    world.set("a", Some(exposed));
    let outside = world.outside.ask("192.0.2.1:30080");
    assert_eq!(outside, ("pod-a".to_owned(), OUTSIDE_ADDRESS.to_owned()), "the caller's address is kept");
    assert_eq!(world.outside.ask("192.0.2.1:80").0, "pod-a");
    for to in ["192.0.2.1:30080", "10.244.0.1:30080"] {
        assert_eq!(world.node.ask(to).0, "pod-a");
        assert_eq!(world.pods[1].ask(to).0, "pod-a");
        assert_eq!(world.pods[0].ask(to).0, "pod-a", "hairpin through {to}");
    }
    refused(&world.outside, "192.0.2.1:30081");
}

#[test]
fn what_has_no_endpoints_is_refused_at_once() {
    let mut world = World::new("refuse", true);
    let mut empty = service(Protocol::Tcp, &[]);
    empty.node_port = Some(30080);
    world.set("a", Some(empty.clone()));
    for from in [&world.pods[0], &world.node] {
        refused(from, "10.96.0.10:80");
        refused(from, "10.96.0.10:81");
        refused(from, "10.96.9.9:80");
        refused(from, "10.244.0.1:30080");
    }
    refused(&world.outside, "192.0.2.1:30080");
    let udp = UdpSocketIn::new(&world.pods[0], "10.96.0.10:80");
    assert_eq!(udp.ask().expect_err("refused").kind(), ErrorKind::ConnectionRefused);
    empty.endpoints = service(Protocol::Tcp, &[1]).endpoints;
    world.set("a", Some(empty));
    assert_eq!(world.pods[0].ask("10.96.0.10:80").0, "pod-b");
}

#[test]
fn local_policy_drops_what_only_other_nodes_could_serve() {
    let mut world = World::new("local", true);
    let mut local = service(Protocol::Tcp, &[0, 1]);
    local.endpoints[0].local = false;
    local.node_port = Some(30080);
    local.external_policy = TrafficPolicy::Local;
    world.set("a", Some(local.clone()));
    for _ in 0..12 {
        assert_eq!(world.outside.ask("192.0.2.1:30080").0, "pod-b");
    }
    local.endpoints[1].local = false;
    world.set("a", Some(local));
    let error = world.outside.connect("192.0.2.1:30080", SOON).expect_err("dropped");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(world.pods[2].ask("10.96.0.10:80").0.starts_with("pod-"), "inside, all endpoints serve");
}

#[test]
fn the_outside_reaches_only_what_is_exposed_and_pods_reach_it_masqueraded() {
    let mut world = World::new("guard", true);
    world.set("a", Some(service(Protocol::Tcp, &[0])));
    world.outside.serve_tcp(9000, "outside");
    let (name, caller) = world.pods[0].ask("192.0.2.2:9000");
    assert_eq!((name.as_str(), caller.as_str()), ("outside", NODE_OUTSIDE_ADDRESS));
    for to in ["10.244.0.2:8080", "10.96.0.10:80", "10.244.0.1:22"] {
        let error = world.outside.connect(to, SOON).expect_err("closed");
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{to}: {error}");
    }
    let mut open = world.ruleset.clone();
    open.frame.filter.trusted = vec!["192.0.2.0/24".parse().expect("a range")];
    open.frame.masquerade_except = vec!["192.0.2.0/24".parse().expect("a range")];
    assert_eq!(world.rules.update(&world.ruleset, &open).expect("updated"), Applied::Replaced);
    assert_eq!(world.pods[0].ask("192.0.2.2:9000").1, "10.244.0.2");
    assert_eq!(world.outside.ask("10.244.0.2:8080").0, "pod-a");
}

#[test]
fn clients_with_affinity_come_back_until_their_endpoint_goes() {
    let mut world = World::new("affinity", true);
    let mut sticky = service(Protocol::Tcp, &[0, 1, 2]);
    sticky.affinity = Affinity::ClientIp { timeout_s: 3600 };
    world.set("a", Some(sticky.clone()));
    let first = world.node.ask("10.96.0.10:80").0;
    for _ in 0..20 {
        assert_eq!(world.node.ask("10.96.0.10:80").0, first);
    }
    let all: Vec<&str> = crate::space::PODS.to_vec();
    let gone = all.iter().position(|name| *name == first).expect("one of ours");
    sticky.endpoints.remove(gone);
    world.set("a", Some(sticky.clone()));
    let second = world.node.ask("10.96.0.10:80").0;
    assert_ne!(second, first);
    for _ in 0..20 {
        assert_eq!(world.node.ask("10.96.0.10:80").0, second);
    }
    // A program that starts again finds the table, and its clients stay where they are.
    let again = world.node.run(|| net::rules::Rules::open(&world.instance).expect("opened"));
    world.rules = again;
    assert_eq!(world.rules.sync(&world.ruleset).expect("synced"), Applied::Unchanged);
    assert_eq!(world.node.ask("10.96.0.10:80").0, second);
    sticky.affinity = Affinity::ClientIp { timeout_s: 1 };
    world.set("a", Some(sticky));
    assert!(world.node.ask("10.96.0.10:80").0.starts_with("pod-"));
}

struct UdpSocketIn(UdpSocket);

impl UdpSocketIn {
    fn new(space: &crate::space::Space, to: &str) -> Self {
        let socket = space.run(|| UdpSocket::bind("0.0.0.0:0").expect("a port"));
        socket.connect(to).expect("connected");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        Self(socket)
    }

    fn ask(&self) -> std::io::Result<String> {
        self.0.send(b"?")?;
        let mut buffer = [0; 64];
        let length = self.0.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }
}

#[test]
fn a_udp_flow_leaves_a_removed_endpoint_at_once() {
    let mut world = World::new("udp", true);
    world.set("a", Some(service(Protocol::Udp, &[0])));
    for space in 0..2 {
        let from = if space == 0 { &world.pods[2] } else { &world.node };
        let flow = UdpSocketIn::new(from, "10.96.0.10:80");
        assert_eq!(flow.ask().expect("answered"), "pod-a");
        world.set("a", Some(service(Protocol::Udp, &[1])));
        assert_eq!(flow.ask().expect("answered"), "pod-b", "the same socket");
        world.set("a", None);
        // What the kernel refuses to this machine's own sockets, it tells them as it is sent.
        let expect = if space == 0 { ErrorKind::ConnectionRefused } else { ErrorKind::PermissionDenied };
        assert_eq!(flow.ask().expect_err("refused").kind(), expect);
        world.set("a", Some(service(Protocol::Udp, &[0])));
    }
}

#[test]
fn established_connections_stay_and_new_ones_move() {
    let mut world = World::new("moves", true);
    world.set("a", Some(service(Protocol::Tcp, &[0])));
    let mut old = world.pods[2].connect("10.96.0.10:80", PATIENCE).expect("connected");
    assert_eq!(greeting(old.try_clone().expect("cloned")).0, "pod-a");
    world.set("a", Some(service(Protocol::Tcp, &[1])));
    assert_eq!(world.pods[2].ask("10.96.0.10:80").0, "pod-b");
    old.write_all(b"x").expect("still there");
    let mut byte = [0; 1];
    old.read_exact(&mut byte).expect("still answered");
    assert_eq!(&byte, b"x");
}

#[test]
fn replacing_the_table_under_load_loses_no_connection() {
    let mut world = World::new("load", true);
    world.set("a", Some(service(Protocol::Tcp, &[0, 1])));
    let done = std::sync::atomic::AtomicBool::new(false);
    let World { rules, ruleset, pods, .. } = &mut world;
    let made = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            pods[2].run(|| {
                let to = "10.96.0.10:80".parse().expect("an address");
                let mut made = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) || made < 100 {
                    let stream = std::net::TcpStream::connect_timeout(&to, PATIENCE).expect("no failure");
                    stream.set_read_timeout(Some(PATIENCE)).expect("set");
                    assert!(greeting(stream).0.starts_with("pod-"));
                    made += 1;
                }
                made
            })
        });
        for round in 0..60 {
            let mut new = ruleset.clone();
            let pods: &[usize] = if round % 2 == 0 { &[1] } else { &[0, 1, 2] };
            new.services.values_mut().for_each(|s| *s = service(Protocol::Tcp, pods).into());
            match round % 3 {
                0 => rules.replace(&new).expect("replaced"),
                _ => _ = rules.update(ruleset, &new).expect("updated"),
            }
            *ruleset = new;
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        load.join().expect("no connection failed")
    });
    assert!(made >= 100);
}

//! What is made and what is left.

use std::collections::BTreeSet;
use std::time::Duration;

use net::address::Protocol;
use net::instance::Instance;
use net::link::{Attachment, BridgeSpec, LinkError, Network};
use net::rules::{Applied, Rules};
use net::sysctl::Record;

use crate::space::{BRIDGE_ADDRESS, MTU, Space, World, attach, greeting, pod_address, service};

/// Links, routes and our sysctl, as text.
fn snapshot(space: &Space) -> String {
    space.run(|| {
        let read = |path: &str| std::fs::read_to_string(path).expect("procfs");
        let links: BTreeSet<String> = read("/proc/thread-self/net/dev")
            .lines()
            .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
            .collect();
        format!(
            // The heading is there as soon as the namespace has a routing table at all.
            "{links:?}\n{:?}\n{}{}{}",
            read("/proc/thread-self/net/route").lines().skip(1).collect::<Vec<_>>(),
            read("/proc/sys/net/ipv4/ip_forward"),
            read("/proc/sys/net/ipv4/conf/all/accept_redirects"),
            read("/proc/sys/net/ipv4/conf/all/send_redirects")
        )
    })
}

fn spec(address: &str) -> BridgeSpec {
    BridgeSpec {
        addresses: vec![address.parse().expect("a range")],
        routes: vec!["10.96.0.0/16".parse().expect("a range")],
        mtu: MTU,
    }
}

#[test]
fn removal_leaves_nothing_and_can_be_repeated() {
    let (node, pod) = (Space::new(), Space::new());
    let before = snapshot(&node);
    let instance = Instance::new("gone").expect("a name");
    let network = node.run(|| Network::open(&instance)).expect("opened");
    let mut record = Record::default();
    node.run(|| {
        network.ensure_bridge(&spec("10.244.0.1/24")).expect("made");
        network.enable_forwarding(&mut record).expect("on");
        let mut rules = Rules::open(&instance).expect("opened");
        let mut ruleset = crate::space::ruleset();
        let service = service(Protocol::Tcp, &[0, 1]);
        ruleset.services.insert(net::rules::ServiceKey("a".to_owned()), service.into());
        rules.replace(&ruleset).expect("loaded");
    });
    attach(&network, &pod, "pod", pod_address(0), BRIDGE_ADDRESS);
    assert_ne!(snapshot(&node), before);
    assert_eq!(record.0.get("net/ipv4/ip_forward").map(String::as_str), Some("0"));
    for _ in 0..2 {
        node.run(|| network.remove_all(&record)).expect("removed");
        assert_eq!(snapshot(&node), before);
        let loaded = node.run(|| Rules::open(&instance).expect("opened").loaded()).expect("asked");
        assert_eq!(loaded, None);
    }
}

#[test]
fn instances_share_a_machine_and_the_last_one_restores_it() {
    let node = Space::new();
    node.run(|| {
        let mut records = [Record::default(), Record::default()];
        let networks: Vec<Network> = ["one", "two"]
            .iter()
            .zip(&mut records)
            .zip(["10.244.0.1/24", "10.245.0.1/24"])
            .map(|((name, record), address)| {
                let network = Network::open(&Instance::new(name).expect("a name")).expect("opened");
                network.ensure_bridge(&BridgeSpec { routes: vec![], ..spec(address) }).expect("made");
                network.enable_forwarding(record).expect("on");
                network
            })
            .collect();
        assert_eq!(records[0], records[1], "both know how it was before either");
        networks[0].remove_all(&records[0]).expect("removed");
        assert_eq!(net::sysctl::read("net/ipv4/ip_forward").expect("read"), "1");
        networks[1].remove_all(&records[1]).expect("removed");
        assert_eq!(net::sysctl::read("net/ipv4/ip_forward").expect("read"), "0");
    });
}

#[test]
fn bridges_and_pods_can_be_made_again_and_swept() {
    let node = Space::new();
    let network = node.run(|| {
        let network = Network::open(&Instance::new("again").expect("a name")).expect("opened");
        let first = network.ensure_bridge(&spec("10.243.0.1/24")).expect("made");
        let again = network.ensure_bridge(&spec("10.244.0.1/24")).expect("made again");
        assert_eq!(first, again);
        network
    });
    let route = snapshot(&node);
    assert!(route.contains("0000F40A") && !route.contains("0000F30A"), "the former range is gone: {route}");
    let pods = [Space::new(), Space::new()];
    attach(&network, &pods[0], "a", pod_address(0), BRIDGE_ADDRESS);
    attach(&network, &pods[0], "a", pod_address(1), BRIDGE_ADDRESS);
    attach(&network, &pods[1], "b", pod_address(2), BRIDGE_ADDRESS);
    let keys = |network: &Network| -> Vec<String> {
        network.attached().expect("listed").into_iter().map(|attached| attached.key).collect()
    };
    let mut found = keys(&network);
    found.sort();
    assert_eq!(found, ["a", "b"]);
    assert_eq!(network.sweep(&BTreeSet::from(["a".to_owned()])).expect("swept"), 1);
    assert_eq!(keys(&network), ["a"]);
    assert_eq!(network.sweep(&BTreeSet::from(["a".to_owned()])).expect("swept"), 0);
}

#[test]
fn a_pod_with_the_address_of_a_former_one_is_reached_at_once() {
    let world = World::new("heir", false);
    let network = world.node.run(|| Network::open(&world.instance).expect("opened"));
    assert_eq!(world.node.ask("10.244.0.2:8080").0, "pod-a");
    // The node remembers where the former one was until it has waited for an answer in vain.
    network.sweep(&BTreeSet::from(["pod-b".to_owned(), "pod-c".to_owned()])).expect("swept");
    let heir = Space::new();
    attach(&network, &heir, "heir", pod_address(0), BRIDGE_ADDRESS);
    heir.serve_tcp(8080, "heir");
    let stream = world.node.connect("10.244.0.2:8080", Duration::from_secs(2)).expect("reached");
    assert_eq!(greeting(stream).0, "heir");
}

#[test]
fn attaching_without_a_bridge_says_so() {
    let (node, pod) = (Space::new(), Space::new());
    let network = node.run(|| Network::open(&Instance::new("none").expect("a name"))).expect("opened");
    let (addresses, gateways) = ([pod_address(0)], [BRIDGE_ADDRESS.parse().expect("an address")]);
    let attachment =
        Attachment { key: "a", netns: pod.fd(), addresses: &addresses, gateways: &gateways, mtu: MTU };
    assert!(matches!(network.attach(&attachment), Err(LinkError::NoBridge(name)) if name == "ondbr-none"));
}

#[test]
fn rules_that_others_altered_are_restored() {
    let mut world = World::new("altered", true);
    world.set("a", Some(service(Protocol::Tcp, &[0])));
    assert!(!world.rules.is_altered().expect("asked"));
    let other = world.node.run(|| Rules::open(&Instance::new("other").expect("a name"))).expect("opened");
    let mut other = other;
    other.replace(&crate::space::ruleset()).expect("loaded");
    assert!(world.rules.is_altered().expect("asked"));
    // Another table changed: ours is compared and only what differs is sent.
    assert_eq!(world.set("a", Some(service(Protocol::Tcp, &[1]))), Applied::Incremental(4));
    assert!(!world.rules.is_altered().expect("asked"));
    // Our own table was removed.
    world.node.run(|| net::rules::remove_tables(&world.instance)).expect("removed");
    assert_eq!(world.set("a", Some(service(Protocol::Tcp, &[2]))), Applied::Replaced);
    assert_eq!(world.node.ask("10.96.0.10:80").0, "pod-c");
}

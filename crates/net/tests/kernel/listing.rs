//! What the distribution's own tool shows of our rules: a user looks at his firewall with it, and other programs do.

use std::process::Command;

use net::address::Protocol;
use net::rules::{Affinity, TrafficPolicy};

use crate::space::{NODE_OUTSIDE_ADDRESS, World, service};

/// Every sort of rule and element that we make.
fn full(name: &str) -> World {
    let mut world = World::new(name, true);
    let mut exposed = service(Protocol::Tcp, &[0, 1, 2]);
    exposed.node_port = Some(30080);
    exposed.external_addresses = vec![NODE_OUTSIDE_ADDRESS.parse().expect("an address")];
    exposed.affinity = Affinity::ClientIp { timeout_s: 3600 };
    world.set("sticky", Some(exposed));
    for (last, protocol, pods) in
        [(11, Protocol::Udp, &[0, 1][..]), (12, Protocol::Sctp, &[2]), (13, Protocol::Tcp, &[])]
    {
        let mut other = service(protocol, pods);
        other.cluster_addresses = vec![[10, 96, 0, last].into()];
        world.set(&format!("other-{last}"), Some(other));
    }
    let mut elsewhere = service(Protocol::Tcp, &[0]);
    elsewhere.cluster_addresses = vec![[10, 96, 0, 14].into()];
    elsewhere.internal_policy = TrafficPolicy::Local;
    elsewhere.endpoints[0].local = false;
    world.set("elsewhere", Some(elsewhere));
    world.pods[0].ask("10.96.0.10:80");
    world
}

#[test]
fn nft_lists_every_rule_that_we_make() {
    let world = full("listing");
    for arguments in [&["list", "ruleset"][..], &["-j", "list", "ruleset"], &["list", "tables"]] {
        let output = world.node.run(|| Command::new("nft").args(arguments).output());
        let output = output.expect("nft is installed (cargo xtask test installs it)");
        let (shown, said) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        // What this nft cannot put into JSON, it says, and goes on.
        let said = said.replace("warning: stmt ops map have no json callback", "");
        assert!(
            output.status.success() && said.trim().is_empty(),
            "nft {arguments:?}: {}, {said}",
            output.status
        );
        assert!(shown.contains("ondol-listing"), "{shown}");
    }
    let output = world.node.run(|| {
        Command::new("nft").args(["list", "chain", "ip", "ondol-listing", "remember-3600s"]).output()
    });
    let shown = String::from_utf8(output.expect("nft").stdout).expect("text");
    let remembering =
        "update @affinity { ip saddr . ct original ip daddr . meta l4proto . ct original proto-dst";
    assert!(shown.contains(remembering) && shown.contains("ip daddr . th dport }"), "{shown}");
}

//! Firewalls of other programs that drop what they do not know, as Docker and ufw make them.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use net::address::Protocol;
use net::rules::{Applied, remove_tables};

use crate::space::{BRIDGE_ADDRESS, NODE_OUTSIDE_ADDRESS, World, service};

const BLOCKED: Duration = Duration::from_millis(300);

fn nft(world: &World, arguments: &str) -> String {
    let output = world.node.run(|| Command::new("nft").args(arguments.split(' ')).output());
    let output = output.expect("nft is installed (cargo xtask test installs it)");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// A base chain that drops all that it does not know: its table with family, and its hook.
fn close(world: &World, table: &str, hook: &str) {
    nft(world, &format!("add table {table}"));
    nft(
        world,
        &format!(
            "add chain {table} {} {{ type filter hook {hook} priority 0 ; policy drop ; }}",
            hook.to_uppercase()
        ),
    );
}

#[test]
fn pods_get_through_another_programs_firewall_and_leave_it_as_it_was() {
    for (number, family) in ["ip", "inet"].into_iter().enumerate() {
        let mut world = World::new(&format!("closed-{number}"), true);
        let mut exposed = service(Protocol::Tcp, &[1]);
        exposed.node_port = Some(30080);
        world.set("web", Some(exposed));
        world.node.serve_tcp(5353, "node");
        let table = format!("{family} filter");
        close(&world, &table, "forward");
        close(&world, &table, "input");
        let before = nft(&world, &format!("list table {table}"));
        assert!(world.pods[0].connect("10.244.0.3:8080", BLOCKED).is_err(), "the firewall closes the way");
        assert!(world.pods[0].connect(&format!("{BRIDGE_ADDRESS}:5353"), BLOCKED).is_err());

        let ruleset = world.ruleset.clone();
        assert!(world.rules.is_altered().expect("asked"), "so that the next review syncs");
        assert_eq!(world.rules.sync(&ruleset).expect("synced"), Applied::Unchanged);
        assert_eq!(world.pods[0].ask("10.244.0.3:8080").0, "pod-b");
        assert_eq!(world.pods[0].ask("10.96.0.10:80").0, "pod-b");
        assert_eq!(world.pods[0].ask(&format!("{BRIDGE_ADDRESS}:5353")).0, "node");
        assert_eq!(world.outside.ask(&format!("{NODE_OUTSIDE_ADDRESS}:30080")).0, "pod-b");
        // Only pods are let in, and they at their gateway alone.
        let outer = format!("{NODE_OUTSIDE_ADDRESS}:5353");
        assert!(world.outside.connect(&outer, BLOCKED).is_err());
        assert!(world.pods[0].connect(&outer, BLOCKED).is_err());

        let opened = nft(&world, &format!("list table {table}"));
        assert!(!world.rules.is_altered().expect("asked"), "what we have changed is no news");
        world.rules.sync(&ruleset).expect("synced");
        assert_eq!(nft(&world, &format!("list table {table}")), opened, "each rule is there once");
        // Its owner writes it anew.
        nft(&world, &format!("flush table {table}"));
        world.rules.sync(&ruleset).expect("synced");
        assert_eq!(nft(&world, &format!("list table {table}")), opened);

        let instance = world.instance.clone();
        world.node.run(|| remove_tables(&instance)).expect("removed");
        assert_eq!(nft(&world, &format!("list table {table}")), before, "nothing of us is left");
    }
}

#[test]
fn a_firewall_that_lets_pass_what_it_does_not_know_is_left_alone() {
    let mut world = World::new("open", false);
    nft(&world, "add table ip filter");
    nft(&world, "add chain ip filter FORWARD { type filter hook forward priority 0 ; policy accept ; }");
    nft(&world, "add chain ip filter OUTPUT { type filter hook output priority 0 ; policy drop ; }");
    let before = nft(&world, "list table ip filter");
    let ruleset = world.ruleset.clone();
    world.rules.sync(&ruleset).expect("synced");
    assert_eq!(nft(&world, "list table ip filter"), before);
    assert_eq!(world.pods[0].ask(&format!("{}:8080", Ipv4Addr::from([10, 244, 0, 3]))).0, "pod-b");
}

//! Who listens on this machine, and when they end.

use std::collections::BTreeSet;
use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use net::address::Protocol;
use net::listeners::{Endings, taken};
use net::rules::Frontend;

use crate::space::{BRIDGE_ADDRESS, NODE_OUTSIDE_ADDRESS, PATIENCE, World};

/// How long we wait for what must not come.
const SOON: Duration = Duration::from_millis(300);

fn at(address: &str, protocol: Protocol, port: u16) -> Frontend {
    Frontend { address: address.parse().expect("an address"), protocol, port }
}

#[test]
fn programs_that_listen_are_found_by_address_protocol_and_port() {
    let world = World::new("listeners", false);
    world.node.run(|| {
        let held = (
            TcpListener::bind("0.0.0.0:8081").expect("free"),
            TcpListener::bind("[::]:8082").expect("free"),
            TcpListener::bind((NODE_OUTSIDE_ADDRESS, 8083)).expect("free"),
            UdpSocket::bind("0.0.0.0:8084").expect("free"),
        );
        let mut asked = Vec::new();
        for address in [BRIDGE_ADDRESS, NODE_OUTSIDE_ADDRESS, "192.0.2.77"] {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                asked.extend((8081..=8084).map(|port| at(address, protocol, port)));
            }
        }
        let found = taken(&asked).expect("a kernel with inet_diag");
        let expect = [
            at(BRIDGE_ADDRESS, Protocol::Tcp, 8081),
            at(BRIDGE_ADDRESS, Protocol::Tcp, 8082),
            at(BRIDGE_ADDRESS, Protocol::Udp, 8084),
            at(NODE_OUTSIDE_ADDRESS, Protocol::Tcp, 8081),
            at(NODE_OUTSIDE_ADDRESS, Protocol::Tcp, 8082),
            at(NODE_OUTSIDE_ADDRESS, Protocol::Tcp, 8083),
            at(NODE_OUTSIDE_ADDRESS, Protocol::Udp, 8084),
        ];
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), expect);
        let own = std::fs::read_to_string("/proc/self/comm").expect("our own name");
        assert!(found.values().all(|name| name.as_deref() == Some(own.trim())), "{found:?}");
        drop(held);
        assert!(taken(&asked).expect("read").is_empty());
    });
}

#[test]
fn the_end_of_a_listener_is_told_and_that_of_its_connections_is_not() {
    let world = World::new("endings", false);
    world.node.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(scenario());
    });
}

async fn scenario() {
    let clock = base::Clock::system();
    let listener = TcpListener::bind("0.0.0.0:8081").expect("free");
    let datagrams = UdpSocket::bind("0.0.0.0:8082").expect("free");
    let mut endings = Endings::open().expect("a kernel with sock_diag");
    let client = std::net::TcpStream::connect((NODE_OUTSIDE_ADDRESS, 8081)).expect("connected");
    let (server, _) = listener.accept().expect("accepted");
    drop((client, server));
    let both = BTreeSet::from([8081, 8082]);
    assert!(clock.timeout(SOON, endings.of(&both)).await.is_none(), "nobody who listens has ended");
    drop(listener);
    assert!(clock.timeout(SOON, endings.of(&BTreeSet::from([8082]))).await.is_none(), "another port's");
    drop(datagrams);
    assert!(clock.timeout(PATIENCE, endings.of(&BTreeSet::from([8082]))).await.is_some());
    drop(TcpListener::bind("[::]:8081").expect("free again"));
    assert!(clock.timeout(PATIENCE, endings.of(&BTreeSet::from([8081]))).await.is_some());
}

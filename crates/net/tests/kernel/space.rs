//! Network namespaces for tests: made by threads, gone with their descriptors.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use net::address::{Cidr, Protocol};
use net::instance::Instance;
use net::link::{Attachment, BridgeSpec, Network};
use net::rules::{
    Affinity, Endpoint, Filter, Frame, Rules, Ruleset, ServiceKey, TrafficPolicy, VirtualService,
};
use rustix::thread::LinkNameSpaceType;

/// How long a connection may take that is expected to work.
pub const PATIENCE: Duration = Duration::from_secs(5);
pub const MTU: u32 = 1500;

/// A network namespace of its own.
pub struct Space(OwnedFd);

impl Space {
    pub fn new() -> Self {
        let made = std::thread::spawn(|| {
            crate::sys::unshare_network().expect("root is needed for network namespaces");
            // A new namespace begins as the machine is, which routes if Ondol runs on it.
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("a setting of our own");
            std::fs::File::open("/proc/thread-self/ns/net").expect("our own namespace")
        });
        Self(made.join().expect("made").into())
    }

    /// Runs `action` inside.
    pub fn run<R: Send>(&self, action: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                rustix::thread::move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("entered");
                action()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Starts a TCP server that sends `name`, a space and the caller's address to everyone, then echoes.
    pub fn serve_tcp(&self, port: u16, name: &'static str) {
        let listener = self.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a free port"));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    let Ok(peer) = stream.peer_addr() else { return };
                    let _ = writeln!(stream, "{name} {}", peer.ip());
                    let mut byte = [0; 1];
                    while matches!(stream.read(&mut byte), Ok(1)) && stream.write_all(&byte).is_ok() {}
                });
            }
        });
    }

    /// Starts a UDP server that answers everything with `name`.
    pub fn serve_udp(&self, port: u16, name: &'static str) {
        let socket = self.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a free port"));
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), from);
            }
        });
    }

    /// Connects from inside.
    pub fn connect(&self, to: &str, patience: Duration) -> std::io::Result<TcpStream> {
        let to: SocketAddr = to.parse().expect("an address");
        let stream = self.run(|| TcpStream::connect_timeout(&to, patience))?;
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        Ok(stream)
    }

    /// Who answers at `to`, and whom it takes us for.
    pub fn ask(&self, to: &str) -> (String, String) {
        let stream = self.connect(to, PATIENCE).unwrap_or_else(|error| panic!("{to}: {error}"));
        greeting(stream)
    }
}

pub fn greeting(stream: TcpStream) -> (String, String) {
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stream), &mut line).expect("a greeting");
    let (name, caller) = line.trim_end().split_once(' ').expect("name and caller");
    (name.to_owned(), caller.to_owned())
}

/// A node with its rules, three pods and a client outside.
pub struct World {
    pub node: Space,
    pub rules: Rules,
    pub ruleset: Ruleset,
    pub pods: Vec<Space>,
    pub outside: Space,
    pub instance: Instance,
}

pub const PODS: [&str; 3] = ["pod-a", "pod-b", "pod-c"];
pub const BRIDGE_ADDRESS: &str = "10.244.0.1";
pub const NODE_OUTSIDE_ADDRESS: &str = "192.0.2.1";
pub const OUTSIDE_ADDRESS: &str = "192.0.2.2";
pub const CLUSTER_ADDRESS: [u8; 4] = [10, 96, 0, 10];

pub fn pod_address(number: usize) -> IpAddr {
    IpAddr::from([10, 244, 0, 2 + number as u8])
}

fn cidr(text: &str) -> Cidr {
    text.parse().expect("a range")
}

impl World {
    /// `bridge_netfilter` is the machine's setting that Docker, among others, turns on.
    pub fn new(name: &str, bridge_netfilter: bool) -> Self {
        let (node, outside) = (Space::new(), Space::new());
        let instance = Instance::new(name).expect("a name");
        let (network, rules) = node.run(|| {
            std::fs::write(
                "/proc/sys/net/bridge/bridge-nf-call-iptables",
                u8::from(bridge_netfilter).to_string(),
            )
            .expect("a kernel with br_netfilter");
            let other = Network::open(&Instance::new("outside").expect("a name")).expect("opened");
            let spec = BridgeSpec { addresses: vec![cidr("192.0.2.1/24")], routes: vec![], mtu: MTU };
            other.ensure_bridge(&spec).expect("the outside's bridge");
            attach(&other, &outside, "client", OUTSIDE_ADDRESS.parse().expect("ip"), "192.0.2.1");
            let network = Network::open(&instance).expect("opened");
            let spec = BridgeSpec {
                addresses: vec![cidr("10.244.0.1/24")],
                routes: vec![cidr("10.96.0.0/16")],
                mtu: MTU,
            };
            network.ensure_bridge(&spec).expect("the bridge");
            network.enable_forwarding(&mut net::sysctl::Record::default()).expect("forwarding");
            (network, Rules::open(&instance).expect("opened"))
        });
        let mut pods = Vec::new();
        for (number, name) in PODS.iter().enumerate() {
            let pod = Space::new();
            attach(&network, &pod, name, pod_address(number), BRIDGE_ADDRESS);
            pod.serve_tcp(8080, name);
            pod.serve_udp(8080, name);
            pods.push(pod);
        }
        let mut world = Self { node, rules, ruleset: ruleset(), pods, outside, instance };
        world.rules.replace(&world.ruleset).expect("loaded");
        world
    }

    /// Changes the Service under `key` and sends the difference to the kernel.
    pub fn set(&mut self, key: &str, service: Option<VirtualService>) -> net::rules::Applied {
        let mut new = self.ruleset.clone();
        match service {
            Some(service) => _ = new.services.insert(ServiceKey(key.to_owned()), service.into()),
            None => _ = new.services.remove(&ServiceKey(key.to_owned())),
        }
        let applied = self.rules.update(&self.ruleset, &new).expect("updated");
        self.ruleset = new;
        assert_eq!(
            self.rules.loaded().expect("dumped").expect("a table"),
            net::rules::Compiled::new(&self.ruleset),
            "what the kernel has is what was compiled"
        );
        applied
    }
}

pub fn attach(network: &Network, space: &Space, key: &str, address: IpAddr, gateway: &str) {
    let gateways = [gateway.parse().expect("an address")];
    let attachment =
        Attachment { key, netns: space.fd(), addresses: &[address], gateways: &gateways, mtu: MTU };
    network.attach(&attachment).expect("attached");
}

pub fn ruleset() -> Ruleset {
    let frame = Frame {
        pods: vec![cidr("10.244.0.0/24")],
        service_ranges: vec![cidr("10.96.0.0/16")],
        node_addresses: vec![
            BRIDGE_ADDRESS.parse().expect("an address"),
            NODE_OUTSIDE_ADDRESS.parse().expect("an address"),
        ],
        masquerade_except: vec![],
        filter: Filter {
            guarded: vec![cidr("10.244.0.0/24"), cidr("10.96.0.0/16")],
            trusted: vec![],
            seal_forwarding: true,
        },
    };
    Ruleset { services: Default::default(), frame }
}

/// A Service on 10.96.0.10:80 whose endpoints are these pods.
pub fn service(protocol: Protocol, pods: &[usize]) -> VirtualService {
    let endpoint = |n: &usize| Endpoint { address: SocketAddr::new(pod_address(*n), 8080), local: true };
    VirtualService {
        protocol,
        port: 80,
        cluster_addresses: vec![CLUSTER_ADDRESS.into()],
        external_addresses: vec![],
        node_port: None,
        endpoints: pods.iter().map(endpoint).collect(),
        affinity: Affinity::None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
    }
}

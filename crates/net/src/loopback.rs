//! Node ports on 127.0.0.1, served by listeners of ours.
//!
//! The kernel would only translate loopback addresses with `route_localnet`, which opens every service that
//! trusts 127.0.0.1 to the network (CVE-2020-8558). So the bytes are passed on in user space.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base::{Clock, Random, Stop, Stopper, Tasks};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tracing::debug;

use crate::address::Protocol;

/// Connections and UDP flows that one port passes on at once; more wait in the kernel's queue, or are dropped.
pub const PORT_MAX_CONNECTIONS: usize = 1024;
/// How long one target may take to accept a connection before the next is tried.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A UDP flow without a packet in either direction ends after this long, as in the kernel.
pub const UDP_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest UDP payload.
const DATAGRAM_MAX_BYTES: usize = 65_507;

/// A port on 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoopbackPort {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The node port.
    pub port: u16,
}

/// Why a port cannot be served. The other ports are.
#[derive(Debug, Error)]
pub enum LoopbackError {
    /// Another program listens there.
    #[error(
        "127.0.0.1:{port}/{protocol} is in use by another program: stop it, or give the Service another nodePort"
    )]
    Busy { protocol: Protocol, port: u16 },
    /// User space has no such protocol here.
    #[error(
        "node ports of protocol {protocol} are not served on 127.0.0.1: use the node's address, port {port}"
    )]
    Unsupported { protocol: Protocol, port: u16 },
    /// The listener failed otherwise.
    #[error("127.0.0.1:{port}/{protocol} cannot be listened on")]
    Listen { protocol: Protocol, port: u16, source: io::Error },
}

impl LoopbackError {
    /// Which port it is about.
    pub fn port(&self) -> LoopbackPort {
        let (Self::Busy { protocol, port }
        | Self::Unsupported { protocol, port }
        | Self::Listen { protocol, port, .. }) = self;
        LoopbackPort { protocol: *protocol, port: *port }
    }
}

type Targets = Arc<ArcSwap<Vec<SocketAddr>>>;

/// The listeners on 127.0.0.1. Owned by one task, which calls [`LoopbackPorts::apply`] with what is wanted.
#[derive(Debug)]
pub struct LoopbackPorts {
    tasks: Tasks,
    stop: Stop,
    clock: Clock,
    random: Random,
    open: BTreeMap<LoopbackPort, (Targets, Stopper)>,
}

impl LoopbackPorts {
    /// No port is open yet. Listeners run on the current runtime until `stop`, and are joined by `tasks`.
    pub fn new(tasks: Tasks, stop: Stop, clock: Clock, random: Random) -> Self {
        Self { tasks, stop, clock, random, open: BTreeMap::new() }
    }

    /// Opens, closes and redirects ports so that exactly `wanted` are served. A target is best the Service's own
    /// ClusterIP and port: the kernel then balances, and knows affinity. Connections that are established go on.
    /// Returns what could not be opened; the next call tries it again.
    pub async fn apply(&mut self, wanted: &BTreeMap<LoopbackPort, Vec<SocketAddr>>) -> Vec<LoopbackError> {
        self.open.retain(|port, (_, stopper)| {
            let keep = wanted.contains_key(port);
            if !keep {
                stopper.stop();
            }
            keep
        });
        let mut errors = Vec::new();
        for (port, targets) in wanted {
            match self.open.get(port) {
                Some((open, _)) if **open.load() == *targets => {}
                Some((open, _)) => open.store(Arc::new(targets.clone())),
                None => {
                    if let Err(error) = self.listen(*port, targets).await {
                        errors.push(error);
                    }
                }
            }
        }
        errors
    }

    /// The ports that are open.
    pub fn ports(&self) -> impl Iterator<Item = LoopbackPort> {
        self.open.keys().copied()
    }

    async fn listen(&mut self, key: LoopbackPort, targets: &[SocketAddr]) -> Result<(), LoopbackError> {
        let LoopbackPort { protocol, port } = key;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => LoopbackError::Busy { protocol, port },
            _ => LoopbackError::Listen { protocol, port, source },
        };
        let targets: Targets = Arc::new(ArcSwap::from_pointee(targets.to_vec()));
        let stopper = Stopper::child(&self.stop);
        let worker = Worker {
            targets: targets.clone(),
            stop: stopper.signal(),
            tasks: self.tasks.clone(),
            clock: self.clock.clone(),
            random: self.random.clone(),
            limit: Arc::new(Semaphore::new(PORT_MAX_CONNECTIONS)),
        };
        match protocol {
            Protocol::Tcp => {
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                self.tasks.spawn("loopback-tcp", worker.serve_tcp(listener));
            }
            Protocol::Udp => {
                let socket = UdpSocket::bind(address).await.map_err(failed)?;
                self.tasks.spawn("loopback-udp", worker.serve_udp(Arc::new(socket)));
            }
            Protocol::Sctp => return Err(LoopbackError::Unsupported { protocol, port }),
        }
        self.open.insert(key, (targets, stopper));
        Ok(())
    }
}

#[derive(Clone)]
struct Worker {
    targets: Targets,
    stop: Stop,
    tasks: Tasks,
    clock: Clock,
    random: Random,
    limit: Arc<Semaphore>,
}

impl Worker {
    /// The targets, beginning with one drawn by chance.
    fn order(&self) -> Vec<SocketAddr> {
        let mut targets = self.targets.load().to_vec();
        if !targets.is_empty() {
            let first = self.random.below(targets.len() as u64) as usize;
            targets.rotate_left(first);
        }
        targets
    }

    async fn serve_tcp(self, listener: TcpListener) {
        loop {
            let Some(Ok(permit)) = self.stop.or(self.limit.clone().acquire_owned()).await else { return };
            let client = match self.stop.or(listener.accept()).await {
                None => return,
                Some(Ok((client, _))) => client,
                Some(Err(error)) => {
                    // Out of file descriptors, mostly: waiting is all that helps.
                    debug!(%error, "a connection to a loopback node port was lost");
                    self.clock.sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let worker = self.clone();
            self.tasks.spawn("loopback-connection", async move {
                worker.pass_on(client).await;
                drop(permit);
            });
        }
    }

    async fn pass_on(&self, mut client: TcpStream) {
        for target in self.order() {
            let connect = self.clock.timeout(CONNECT_TIMEOUT, TcpStream::connect(target));
            match self.stop.or(connect).await {
                None => return,
                Some(Some(Ok(mut server))) => {
                    // Small writes pass at once, as they would through the kernel. Closing the port does not end
                    // connections; stopping the agent does.
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    let both = tokio::io::copy_bidirectional(&mut client, &mut server);
                    if let Some(Err(error)) = self.stop.or(both).await {
                        debug!(%target, %error, "a loopback connection ended");
                    }
                    return;
                }
                Some(Some(Err(error))) => debug!(%target, %error, "a target refused"),
                Some(None) => debug!(%target, "a target did not answer in time"),
            }
        }
        // Nothing answers: a reset tells the client as much as a refusal would.
        let _ = client.set_zero_linger();
    }

    async fn serve_udp(self, socket: Arc<UdpSocket>) {
        let mut flows: HashMap<SocketAddr, (Arc<UdpSocket>, SocketAddr, Stopper)> = HashMap::new();
        let mut buffer = vec![0; DATAGRAM_MAX_BYTES];
        loop {
            let (bytes, client) = match self.stop.or(socket.recv_from(&mut buffer)).await {
                None => return,
                Some(Ok(received)) => received,
                // The answer to an earlier datagram met a closed port.
                Some(Err(_)) => continue,
            };
            let targets = self.targets.load_full();
            flows.retain(|_, (_, target, stopper)| {
                let stale = !targets.contains(target);
                if stale {
                    stopper.stop();
                }
                !stale && !stopper.signal().is_stopped()
            });
            let server = match flows.get(&client) {
                Some((server, _, _)) => server.clone(),
                None => {
                    let Some(flow) = self.open_flow(&socket, client).await else { continue };
                    let server = flow.0.clone();
                    flows.insert(client, flow);
                    server
                }
            };
            let _ = server.send(&buffer[..bytes]).await;
        }
    }

    /// A socket towards one target, and the task that carries its answers back.
    async fn open_flow(
        &self,
        socket: &Arc<UdpSocket>,
        client: SocketAddr,
    ) -> Option<(Arc<UdpSocket>, SocketAddr, Stopper)> {
        let permit = self.limit.clone().try_acquire_owned().ok()?;
        let target = *self.order().first()?;
        let server = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.ok()?;
        server.connect(target).await.ok()?;
        let (server, stopper) = (Arc::new(server), Stopper::child(&self.stop));
        let (answers, back, ended) = (server.clone(), socket.clone(), stopper.clone());
        let (stop, clock) = (stopper.signal(), self.clock.clone());
        self.tasks.spawn("loopback-flow", async move {
            let mut buffer = vec![0; DATAGRAM_MAX_BYTES];
            while let Some(Some(Ok(bytes))) =
                stop.or(clock.timeout(UDP_IDLE_TIMEOUT, answers.recv(&mut buffer))).await
            {
                if back.send_to(&buffer[..bytes], client).await.is_err() {
                    break;
                }
            }
            ended.stop();
            drop(permit);
        });
        Some((server, target, stopper))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn ports(tasks: &Tasks, stopper: &Stopper) -> LoopbackPorts {
        LoopbackPorts::new(tasks.clone(), stopper.signal(), Clock::system(), Random::seeded(1))
    }

    async fn free_port() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        listener.local_addr().expect("an address").port()
    }

    #[tokio::test]
    async fn tcp_is_passed_on_and_a_dead_target_is_skipped() {
        let (tasks, stopper) = (Tasks::new(), Stopper::new());
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target = server.local_addr().expect("an address");
        let dead: SocketAddr = ([127, 0, 0, 1], free_port().await).into();
        let port = LoopbackPort { protocol: Protocol::Tcp, port: free_port().await };
        let mut ports = ports(&tasks, &stopper);
        assert!(ports.apply(&BTreeMap::from([(port, vec![dead, target])])).await.is_empty());
        for _ in 0..8 {
            let mut client = TcpStream::connect(("127.0.0.1", port.port)).await.expect("listening");
            let (mut accepted, _) = server.accept().await.expect("passed on");
            client.write_all(b"ping").await.expect("written");
            let mut bytes = [0; 4];
            accepted.read_exact(&mut bytes).await.expect("read");
            accepted.write_all(&bytes).await.expect("written");
            client.read_exact(&mut bytes).await.expect("read");
            assert_eq!(&bytes, b"ping");
        }
        assert!(ports.apply(&BTreeMap::new()).await.is_empty());
        stopper.stop();
        assert!(tasks.join(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn a_port_without_targets_resets_its_clients() {
        let (tasks, stopper) = (Tasks::new(), Stopper::new());
        let port = LoopbackPort { protocol: Protocol::Tcp, port: free_port().await };
        let mut ports = ports(&tasks, &stopper);
        assert!(ports.apply(&BTreeMap::from([(port, vec![])])).await.is_empty());
        let mut client = TcpStream::connect(("127.0.0.1", port.port)).await.expect("listening");
        let error = client.read(&mut [0; 1]).await.expect_err("reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn udp_answers_come_back_and_flows_follow_their_targets() {
        let (tasks, stopper) = (Tasks::new(), Stopper::new());
        let servers = [
            UdpSocket::bind("127.0.0.1:0").await.expect("a"),
            UdpSocket::bind("127.0.0.1:0").await.expect("b"),
        ];
        let port = LoopbackPort { protocol: Protocol::Udp, port: free_port().await };
        let mut ports = ports(&tasks, &stopper);
        let client = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        client.connect(("127.0.0.1", port.port)).await.expect("connected");
        for server in &servers {
            let target = server.local_addr().expect("an address");
            assert!(ports.apply(&BTreeMap::from([(port, vec![target])])).await.is_empty());
            client.send(b"ping").await.expect("sent");
            let mut bytes = [0; 16];
            let (length, from) = server.recv_from(&mut bytes).await.expect("received");
            server.send_to(&bytes[..length], from).await.expect("answered");
            assert_eq!(client.recv(&mut bytes).await.expect("answer"), 4);
        }
    }

    #[tokio::test]
    async fn a_busy_port_and_sctp_are_told_apart() {
        let (tasks, stopper) = (Tasks::new(), Stopper::new());
        let holder = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let busy = holder.local_addr().expect("an address").port();
        let wanted = BTreeMap::from([
            (LoopbackPort { protocol: Protocol::Tcp, port: busy }, vec![]),
            (LoopbackPort { protocol: Protocol::Sctp, port: busy }, vec![]),
        ]);
        let mut ports = ports(&tasks, &stopper);
        let errors = ports.apply(&wanted).await;
        assert!(matches!(errors[0], LoopbackError::Busy { port, .. } if port == busy));
        assert!(matches!(errors[1], LoopbackError::Unsupported { .. }));
        drop(holder);
        assert_eq!(ports.apply(&wanted).await.len(), 1);
        assert_eq!(ports.ports().count(), 1);
    }
}

//! The cluster's name server: its own zone from a snapshot, everything else from the machine's resolvers.
//!
//! The zone is swapped whole; a question sees one zone from beginning to end. The messages are hickory's, the
//! loops around them our own: two sockets an address, with limits that have names.
//!
//! A server may begin with the zone of an earlier process ([`Zone::of_the_past`]). It answers what that knows, and keeps
//! whoever asks for anything else waiting for the next zone: a name that is new must not be denied.

mod answer;
mod forward;
mod zone;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base::{Clock, Level, Random, Stop, Stopper, Tasks};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tracing::debug;

pub use forward::{
    CACHE_MAX_ENTRIES, CACHE_MAX_TTL_S, FORWARD_DEADLINE, FORWARD_MAX_QUESTIONS, UPSTREAM_TIMEOUT,
};
pub use zone::{DEFAULT_TTL_S, HeadlessEndpoint, Port, Service, Zone};

use answer::Answer;
use forward::Forwarder;

/// The largest message that we send over UDP, whatever the client could take: it passes everywhere unfragmented
/// (DNS flag day 2020).
pub const UDP_MAX_BYTES: u16 = 1232;
/// The largest message at all: its length has 16 bits.
const MESSAGE_MAX_BYTES: usize = 65_535;
/// What a client without EDNS takes (RFC 1035).
const PLAIN_UDP_MAX_BYTES: u16 = 512;
/// Connections that are served at once; more wait.
pub const TCP_MAX_CONNECTIONS: usize = 256;
/// How long a connection may be silent.
pub const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Questions over UDP that wait for other resolvers at once; more are dropped, and clients ask again.
pub const UDP_MAX_WAITING: usize = 1024;
/// How long a question waits for the zone that may know its answer: less than clients wait before they ask again.
pub const HOLD_LONGEST: Duration = Duration::from_secs(4);
/// The header of a message.
const HEADER_BYTES: usize = 12;

/// Where to listen and whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses to answer on, UDP and TCP: the bridge's, port 53. Port 0 takes a free one.
    pub addresses: Vec<SocketAddr>,
    /// The machine's resolvers, in order. Our own addresses among them are left out.
    pub upstreams: Vec<SocketAddr>,
}

/// Why the server cannot start.
#[derive(Debug, Error)]
pub enum DnsError {
    /// Another server is there.
    #[error(
        "{0} is in use by another DNS server: stop it, or keep it off this address (listen only on its own)"
    )]
    Busy(SocketAddr),
    /// Listening failed otherwise.
    #[error("cannot listen for DNS on {address}")]
    Listen { address: SocketAddr, source: io::Error },
}

/// The running server. Dropping it changes nothing: the `Stop` that it was given ends it, or [`Server::close`].
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    stopper: Stopper,
}

struct Shared {
    zone: ArcSwap<Zone>,
    /// Whether the zone is of this process, so that it knows all names.
    present: Level<bool>,
    forwarder: Forwarder,
    clock: Clock,
    stop: Stop,
    tasks: Tasks,
}

impl Server {
    /// Binds all addresses, then answers until `stop`.
    pub async fn start(
        config: &Config,
        zone: Zone,
        tasks: &Tasks,
        stop: Stop,
        clock: Clock,
        random: Random,
    ) -> Result<Self, DnsError> {
        let mut sockets = Vec::new();
        for address in &config.addresses {
            sockets.push(bind(*address).await?);
        }
        let addresses: Vec<SocketAddr> =
            sockets.iter().filter_map(|(udp, _)| udp.local_addr().ok()).collect();
        let forwarder = Forwarder::new(&config.upstreams, &addresses, clock.clone(), random);
        let mut zone = zone;
        zone.index();
        let stopper = Stopper::child(&stop);
        let shared = Arc::new(Shared {
            present: Level::new(!zone.past),
            zone: ArcSwap::from_pointee(zone),
            forwarder,
            clock,
            stop: stopper.signal(),
            tasks: tasks.clone(),
        });
        for (udp, tcp) in sockets {
            tasks.spawn("dns-udp", shared.clone().serve_udp(Arc::new(udp)));
            tasks.spawn("dns-tcp", shared.clone().serve_tcp(tcp));
        }
        Ok(Self { shared, addresses, stopper })
    }

    /// Answers from `zone` from now on, and those who wait.
    pub fn publish(&self, mut zone: Zone) {
        zone.index();
        let present = !zone.past;
        self.shared.zone.store(Arc::new(zone));
        self.shared.present.update(|level| *level = present);
    }

    /// Answers no more.
    pub fn close(&self) {
        self.stopper.stop();
    }

    /// The addresses that are answered on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

/// Both sockets on one port. tokio sets SO_REUSEADDR for TCP, so a restart does not wait for old connections; UDP
/// must not have it, or two servers would share an address without a word.
async fn bind(address: SocketAddr) -> Result<(UdpSocket, TcpListener), DnsError> {
    let failed = |address: SocketAddr| {
        move |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => DnsError::Busy(address),
            _ => DnsError::Listen { address, source },
        }
    };
    let udp = UdpSocket::bind(address).await.map_err(failed(address))?;
    let bound = udp.local_addr().map_err(failed(address))?;
    let tcp = TcpListener::bind(bound).await.map_err(failed(bound))?;
    Ok((udp, tcp))
}

/// What to do with a message that came in.
enum Step {
    /// Not worth an answer.
    Ignore,
    /// The whole answer.
    Reply(Message),
    /// The zone of the past does not know: the next one is waited for, and this is the answer if it does not come.
    Hold(Message),
    /// Others have to be asked: the reply so far, and the name to ask for.
    Ask { reply: Message, name: Name, kind: RecordType, dnssec: bool },
}

impl Shared {
    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let waiting = Arc::new(Semaphore::new(UDP_MAX_WAITING));
        let mut buffer = vec![0; MESSAGE_MAX_BYTES];
        while let Some(received) = self.stop.or(socket.recv_from(&mut buffer)).await {
            // An answer of ours met a closed port; the next client has nothing to do with it.
            let Ok((length, client)) = received else { continue };
            let (step, limit) = self.begin(&buffer[..length]);
            match step {
                Step::Ignore => {}
                Step::Reply(reply) => {
                    if let Some(bytes) = encode(&reply, limit) {
                        let _ = socket.send_to(&bytes, client).await;
                    }
                }
                later @ (Step::Ask { .. } | Step::Hold(_)) => {
                    let Ok(permit) = waiting.clone().try_acquire_owned() else { continue };
                    let (shared, socket) = (self.clone(), socket.clone());
                    let question = buffer[..length].to_vec();
                    self.tasks.spawn("dns-question", async move {
                        let stop = shared.stop.clone();
                        if let Some(Some(reply)) = stop.or(shared.finish(later, &question)).await
                            && let Some(bytes) = encode(&reply, limit)
                        {
                            let _ = socket.send_to(&bytes, client).await;
                        }
                        drop(permit);
                    });
                }
            }
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        let limit = Arc::new(Semaphore::new(TCP_MAX_CONNECTIONS));
        loop {
            let Some(Ok(permit)) = self.stop.or(limit.clone().acquire_owned()).await else { return };
            let stream = match self.stop.or(listener.accept()).await {
                None => return,
                Some(Ok((stream, _))) => stream,
                Some(Err(error)) => {
                    debug!(%error, "a DNS connection was lost");
                    self.clock.sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let shared = self.clone();
            self.tasks.spawn("dns-connection", async move {
                if let Some(Err(error)) = shared.stop.or(shared.converse(stream)).await {
                    debug!(%error, "a DNS connection ended");
                }
                drop(permit);
            });
        }
    }

    /// Questions and answers over one connection, in turn, each behind its length.
    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut buffer = Vec::new();
        loop {
            let read = async {
                let length = stream.read_u16().await?;
                buffer.resize(usize::from(length), 0);
                stream.read_exact(&mut buffer).await
            };
            match self.clock.timeout(TCP_IDLE_TIMEOUT, read).await {
                None => return Ok(()),
                Some(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Some(read) => _ = read?,
            }
            let (step, _) = self.begin(&buffer);
            let Some(bytes) = self.finish(step, &buffer).await.and_then(|reply| encode(&reply, u16::MAX))
            else {
                continue;
            };
            let mut framed = (bytes.len() as u16).to_be_bytes().to_vec();
            framed.extend_from_slice(&bytes);
            let written = self.clock.timeout(TCP_IDLE_TIMEOUT, stream.write_all(&framed)).await;
            written.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))?;
        }
    }

    fn begin(&self, bytes: &[u8]) -> (Step, u16) {
        begin(&self.zone.load(), bytes)
    }

    /// Waits for the zone, and asks others, where that is needed.
    async fn finish(&self, mut step: Step, question: &[u8]) -> Option<Message> {
        if let Step::Hold(failure) = step {
            let present = self.present.wait_for(|present| present);
            if self.clock.timeout(HOLD_LONGEST, present).await.is_none() {
                return Some(failure);
            }
            step = self.begin(question).0;
        }
        match step {
            Step::Ignore => None,
            Step::Reply(reply) | Step::Hold(reply) => Some(reply),
            Step::Ask { mut reply, name, kind, dnssec } => {
                let found = self.forwarder.ask(&name, kind, dnssec).await;
                reply.metadata.response_code = found.code;
                reply.answers.extend(found.answers);
                reply.authorities = found.authorities;
                reply.additionals = found.additionals;
                Some(reply)
            }
        }
    }
}

/// Reads a message and answers it as far as the zone can; also tells how large the answer may be over UDP. Pure.
fn begin(zone: &Zone, bytes: &[u8]) -> (Step, u16) {
    let request = match Message::from_vec(bytes) {
        Ok(request) => request,
        Err(_) => return (malformed(bytes), PLAIN_UDP_MAX_BYTES),
    };
    if request.metadata.message_type == MessageType::Response {
        return (Step::Ignore, PLAIN_UDP_MAX_BYTES);
    }
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.checking_disabled = request.metadata.checking_disabled;
    reply.queries.clone_from(&request.queries);
    let mut limit = PLAIN_UDP_MAX_BYTES;
    let mut dnssec = false;
    if let Some(edns) = &request.edns {
        limit = edns.max_payload().clamp(PLAIN_UDP_MAX_BYTES, UDP_MAX_BYTES);
        dnssec = edns.flags().dnssec_ok;
        let mut own = Edns::new();
        own.set_max_payload(UDP_MAX_BYTES).set_version(0).set_dnssec_ok(dnssec);
        reply.set_edns(own);
        if edns.version() > 0 {
            return (refuse(reply, ResponseCode::BADVERS), limit);
        }
    }
    if request.metadata.op_code != OpCode::Query {
        return (refuse(reply, ResponseCode::NotImp), limit);
    }
    let [query] = &request.queries[..] else { return (refuse(reply, ResponseCode::FormErr), limit) };
    let (name, kind) = (query.name().clone(), query.query_type());
    if query.query_class() != DNSClass::IN {
        return (refuse(reply, ResponseCode::Refused), limit);
    }
    if matches!(kind, RecordType::ANY | RecordType::AXFR | RecordType::IXFR) {
        return (refuse(reply, ResponseCode::NotImp), limit);
    }
    (resolve(zone, reply, name, kind, dnssec), limit)
}

fn resolve(zone: &Zone, mut reply: Message, name: Name, kind: RecordType, dnssec: bool) -> Step {
    match answer::answer(zone, &name, kind) {
        Answer::NoSuchName if zone.past => hold(reply),
        // Whether an address is the cluster's, only the present zone knows.
        Answer::Elsewhere if zone.past && answer::is_reverse(&name) => hold(reply),
        Answer::Elsewhere if reply.metadata.recursion_desired => Step::Ask { reply, name, kind, dnssec },
        Answer::Elsewhere => refuse(reply, ResponseCode::Refused),
        Answer::NoSuchName => {
            reply.metadata.response_code = ResponseCode::NXDomain;
            Step::Reply(authoritative(zone, reply))
        }
        Answer::Records { mut answers, additional } => {
            // Clients take the first address, so each question begins with another one.
            if !answers.is_empty() {
                let first = usize::from(reply.metadata.id) % answers.len();
                answers.rotate_left(first);
            }
            reply.answers.extend(answers);
            reply.additionals = additional;
            Step::Reply(authoritative(zone, reply))
        }
        Answer::Alias { record, target } => {
            reply.metadata.authoritative = true;
            let stop_here = kind == RecordType::CNAME || reply.answers.contains(&record);
            reply.answers.push(*record);
            if stop_here || reply.answers.len() > ALIAS_MAX_STEPS {
                return Step::Reply(reply);
            }
            resolve(zone, reply, target, kind, dnssec)
        }
    }
}

/// How many aliases inside the zone are followed.
const ALIAS_MAX_STEPS: usize = 8;

fn authoritative(zone: &Zone, mut reply: Message) -> Message {
    reply.metadata.authoritative = true;
    if reply.answers.is_empty() {
        reply.authorities.extend(answer::start_of_authority(zone));
    }
    reply
}

fn hold(mut reply: Message) -> Step {
    reply.answers.clear();
    reply.metadata.response_code = ResponseCode::ServFail;
    Step::Hold(reply)
}

fn refuse(mut reply: Message, code: ResponseCode) -> Step {
    reply.metadata.response_code = code;
    Step::Reply(reply)
}

/// A message that cannot be read gets FORMERR if at least its header can be, and is no answer itself.
fn malformed(bytes: &[u8]) -> Step {
    let is_question = bytes.len() >= HEADER_BYTES && bytes[2] & 0x80 == 0;
    if !is_question {
        return Step::Ignore;
    }
    let id = u16::from_be_bytes([bytes[0], bytes[1]]);
    Step::Reply(Message::error_msg(id, OpCode::from_u8(bytes[2] >> 3 & 0xf), ResponseCode::FormErr))
}

/// The bytes of `reply`; without its records and marked as cut if they are more than `limit`.
fn encode(reply: &Message, limit: u16) -> Option<Vec<u8>> {
    let bytes = reply.to_vec().ok();
    if let Some(bytes) = bytes.filter(|bytes| bytes.len() <= usize::from(limit)) {
        return Some(bytes);
    }
    let mut cut = reply.clone();
    cut.additionals.clear();
    if let Some(bytes) = cut.to_vec().ok().filter(|bytes| bytes.len() <= usize::from(limit)) {
        return Some(bytes);
    }
    cut.metadata.truncation = true;
    cut.authorities.clear();
    let mut records: Vec<Record> = std::mem::take(&mut cut.answers);
    loop {
        // Some addresses are of use to clients that never try TCP.
        records.truncate(records.len() / 2);
        cut.answers.clone_from(&records);
        match cut.to_vec() {
            Ok(bytes) if bytes.len() <= usize::from(limit) => return Some(bytes),
            _ if records.is_empty() => return None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;

//! Names that are not the cluster's: asked of the resolvers that the machine itself uses, and kept for a while.
//!
//! Equal questions that are under way at once are asked once. That also ends loops: when a resolver sends our own
//! question back to us, it waits for the first one, which ends at its deadline.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{Clock, Random};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tracing::debug;

use super::answer::text_of;
use super::{MESSAGE_MAX_BYTES, UDP_MAX_BYTES};

/// How long one resolver has for its answer before the next is asked.
pub const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(2);
/// How long all resolvers together have.
pub const FORWARD_DEADLINE: Duration = Duration::from_secs(5);
/// How many answers are kept.
pub const CACHE_MAX_ENTRIES: usize = 4096;
/// The longest that an answer, or the absence of one, is kept.
pub const CACHE_MAX_TTL_S: u32 = 30;
/// How many different questions are under way at once; more are answered SERVFAIL.
pub const FORWARD_MAX_QUESTIONS: usize = 512;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    name: String,
    kind: RecordType,
    dnssec: bool,
}

/// What a resolver said, without its header.
#[derive(Clone, Debug)]
pub(super) struct Forwarded {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) additionals: Vec<Record>,
}

struct Kept {
    answer: Arc<Forwarded>,
    since: Duration,
    until: Duration,
}

type Pending = watch::Receiver<Option<Arc<Forwarded>>>;

/// Asks upstream resolvers.
pub(super) struct Forwarder {
    upstreams: Vec<SocketAddr>,
    clock: Clock,
    random: Random,
    kept: Mutex<HashMap<Question, Kept>>,
    pending: Mutex<HashMap<Question, Pending>>,
}

/// Takes the question out of those under way, also when asking is cut short.
struct Asking<'a> {
    forwarder: &'a Forwarder,
    question: Question,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.forwarder.pending().remove(&self.question);
    }
}

impl Forwarder {
    /// `own` are our addresses, which are never asked.
    pub(super) fn new(upstreams: &[SocketAddr], own: &[SocketAddr], clock: Clock, random: Random) -> Self {
        Self {
            upstreams: upstreams.iter().filter(|upstream| !own.contains(upstream)).copied().collect(),
            clock,
            random,
            kept: Mutex::default(),
            pending: Mutex::default(),
        }
    }

    /// The answer for `name` and `kind`; SERVFAIL if nobody has one.
    pub(super) async fn ask(&self, name: &Name, kind: RecordType, dnssec: bool) -> Forwarded {
        let question = Question { name: text_of(name), kind, dnssec };
        if let Some(kept) = self.recall(&question) {
            return kept;
        }
        enum Role {
            First(watch::Sender<Option<Arc<Forwarded>>>),
            Waiting(Pending),
        }
        let role = {
            let mut pending = self.pending();
            match pending.get(&question) {
                Some(waiting) => Role::Waiting(waiting.clone()),
                None if pending.len() >= FORWARD_MAX_QUESTIONS => return failure(ResponseCode::ServFail),
                None => {
                    let (sender, receiver) = watch::channel(None);
                    pending.insert(question.clone(), receiver);
                    Role::First(sender)
                }
            }
        };
        match role {
            Role::Waiting(mut answer) => {
                // The sender is dropped with no answer only when the server stops.
                let waited = self.clock.timeout(FORWARD_DEADLINE, answer.wait_for(Option::is_some)).await;
                match waited {
                    Some(Ok(answer)) => {
                        answer.as_deref().cloned().unwrap_or_else(|| failure(ResponseCode::ServFail))
                    }
                    _ => failure(ResponseCode::ServFail),
                }
            }
            Role::First(sender) => {
                let asking = Asking { forwarder: self, question };
                let answer =
                    self.clock.timeout(FORWARD_DEADLINE, self.ask_upstreams(name, kind, dnssec)).await;
                let answer = Arc::new(answer.unwrap_or_else(|| failure(ResponseCode::ServFail)));
                self.keep(&asking.question, &answer);
                sender.send_replace(Some(answer.clone()));
                drop(asking);
                answer.as_ref().clone()
            }
        }
    }

    async fn ask_upstreams(&self, name: &Name, kind: RecordType, dnssec: bool) -> Forwarded {
        let mut last = failure(ResponseCode::ServFail);
        for upstream in &self.upstreams {
            let ask = self.ask_one(*upstream, name, kind, dnssec);
            match self.clock.timeout(UPSTREAM_TIMEOUT, ask).await {
                Some(Ok(answer))
                    if answer.code != ResponseCode::ServFail && answer.code != ResponseCode::Refused =>
                {
                    return answer;
                }
                Some(Ok(answer)) => last = answer,
                Some(Err(error)) => debug!(%upstream, %name, %error, "a resolver failed"),
                None => debug!(%upstream, %name, "a resolver did not answer in time"),
            }
        }
        last
    }

    /// Over UDP with a port and number of its own, so that answers are hard to forge; over TCP if it was cut.
    async fn ask_one(
        &self,
        upstream: SocketAddr,
        name: &Name,
        kind: RecordType,
        dnssec: bool,
    ) -> io::Result<Forwarded> {
        let mut message = Message::new(self.random.bits() as u16, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name.clone(), kind));
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MAX_BYTES).set_version(0).set_dnssec_ok(dnssec);
        message.set_edns(edns);
        let bytes = message.to_vec().map_err(io::Error::other)?;
        let any: IpAddr = match upstream {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(upstream).await?;
        socket.send(&bytes).await?;
        let mut buffer = vec![0; MESSAGE_MAX_BYTES];
        loop {
            let length = socket.recv(&mut buffer).await?;
            // What is not the answer to this question is somebody's attempt, or late: wait on.
            if let Some(answer) = matching(&buffer[..length], &message) {
                if !answer.metadata.truncation {
                    return Ok(forwarded(answer));
                }
                break;
            }
        }
        let mut stream = TcpStream::connect(upstream).await?;
        let mut framed = (bytes.len() as u16).to_be_bytes().to_vec();
        framed.extend_from_slice(&bytes);
        stream.write_all(&framed).await?;
        let length = usize::from(stream.read_u16().await?);
        stream.read_exact(&mut buffer[..length]).await?;
        matching(&buffer[..length], &message)
            .map(forwarded)
            .ok_or_else(|| io::Error::other("the answer over TCP does not match the question"))
    }

    fn recall(&self, question: &Question) -> Option<Forwarded> {
        let now = self.clock.monotonic();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = kept.get(question)?;
        if entry.until <= now {
            kept.remove(question);
            return None;
        }
        let age_s = (now - entry.since).as_secs() as u32;
        let mut answer = entry.answer.as_ref().clone();
        for record in answer.answers.iter_mut().chain(&mut answer.authorities).chain(&mut answer.additionals)
        {
            record.ttl = record.ttl.saturating_sub(age_s);
        }
        Some(answer)
    }

    fn keep(&self, question: &Question, answer: &Arc<Forwarded>) {
        let ttl_s = match answer.code {
            ResponseCode::NoError | ResponseCode::NXDomain => time_to_live_s(answer).min(CACHE_MAX_TTL_S),
            _ => 0,
        };
        if ttl_s == 0 {
            return;
        }
        let now = self.clock.monotonic();
        let until = now + Duration::from_secs(ttl_s.into());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= CACHE_MAX_ENTRIES {
            kept.retain(|_, entry| entry.until > now);
        }
        if kept.len() >= CACHE_MAX_ENTRIES {
            // Everything lives 30 seconds at most, so starting over costs little and needs no bookkeeping.
            kept.clear();
        }
        kept.insert(question.clone(), Kept { answer: answer.clone(), since: now, until });
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<Question, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The shortest of the answers; without answers, what the authority says of absence (RFC 2308).
fn time_to_live_s(answer: &Forwarded) -> u32 {
    let records = if answer.answers.is_empty() { &answer.authorities } else { &answer.answers };
    let of = |record: &Record| match &record.data {
        hickory_proto::rr::RData::SOA(soa) => record.ttl.min(soa.minimum),
        _ => record.ttl,
    };
    records.iter().map(of).min().unwrap_or(0)
}

fn failure(code: ResponseCode) -> Forwarded {
    Forwarded { code, answers: Vec::new(), authorities: Vec::new(), additionals: Vec::new() }
}

fn forwarded(answer: Message) -> Forwarded {
    Forwarded {
        code: answer.metadata.response_code,
        answers: answer.answers,
        authorities: answer.authorities,
        additionals: answer.additionals,
    }
}

/// The message if it answers `question`.
fn matching(bytes: &[u8], question: &Message) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let same = answer.metadata.id == question.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries == question.queries;
    same.then_some(answer)
}

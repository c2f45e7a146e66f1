//! A conversation with one pod process: requests are paired with answers, changes of state flow in unasked.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::Signal;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::protocol::{
    self, ContainerState, Ended, ExecSignal, HEADER_BYTES, MAX_DESCRIPTORS, Request, Response, Target,
};

/// Requests that may wait for the socket.
const OUTGOING_FRAMES: usize = 64;
/// How much is read at once.
const READ_BYTES: usize = 64 << 10;

/// The number of requests whose answer nobody waits for: the last that would be given.
const UNHEARD: u32 = u32::MAX;

/// One end of the conversation. Cheap to clone.
#[derive(Clone)]
pub struct Connection {
    outgoing: mpsc::Sender<Outgoing>,
    waiting: Arc<Mutex<Waiting>>,
}

/// An answer and the descriptors that came with it.
pub struct Answer {
    pub response: Response,
    pub descriptors: Vec<OwnedFd>,
}

/// What comes unasked.
pub enum Change {
    State(ContainerState),
    Forgotten(Target),
}

/// The conversation is over.
#[derive(Debug)]
pub struct Gone;

struct Outgoing {
    frame: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

#[derive(Default)]
struct Waiting {
    closed: bool,
    last: u32,
    answers: HashMap<u32, oneshot::Sender<Answer>>,
    commands: HashMap<u32, oneshot::Sender<Ended>>,
}

/// A request that was sent: its answer, and for a command also its end.
pub struct Sent {
    pub number: u32,
    pub answer: oneshot::Receiver<Answer>,
    pub ended: oneshot::Receiver<Ended>,
}

impl Connection {
    /// A connection, and the work that moves its bytes until the other side is gone; `on_change` is called for
    /// whatever comes unasked.
    pub fn new(
        stream: UnixStream,
        on_change: impl FnMut(Change) + Send + 'static,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (outgoing, queue) = mpsc::channel(OUTGOING_FRAMES);
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let connection = Self { outgoing, waiting: Arc::clone(&waiting) };
        let replies = connection.outgoing.downgrade();
        (connection, run(stream, queue, waiting, replies, on_change))
    }

    /// Sends a request and waits for its answer.
    pub async fn ask(&self, request: &Request, descriptors: Vec<OwnedFd>) -> Result<Answer, Gone> {
        self.send(request, descriptors).await?.answer.await.map_err(|_| Gone)
    }

    /// Sends a request.
    pub async fn send(&self, request: &Request, descriptors: Vec<OwnedFd>) -> Result<Sent, Gone> {
        let (answer_to, answer) = oneshot::channel();
        let (ended_to, ended) = oneshot::channel();
        let number = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.closed {
                return Err(Gone);
            }
            // Numbers wrap after four billion requests; 0 is kept for what comes unasked.
            waiting.last = waiting.last.wrapping_add(1).max(1);
            let number = waiting.last;
            waiting.answers.insert(number, answer_to);
            if matches!(request, Request::Exec(_)) {
                waiting.commands.insert(number, ended_to);
            }
            number
        };
        let frame = protocol::frame(number, request, descriptors.len());
        self.outgoing.send(Outgoing { frame, descriptors }).await.map_err(|_| Gone)?;
        Ok(Sent { number, answer, ended })
    }
}

async fn run(
    stream: UnixStream,
    mut queue: mpsc::Receiver<Outgoing>,
    waiting: Arc<Mutex<Waiting>>,
    replies: mpsc::WeakSender<Outgoing>,
    mut on_change: impl FnMut(Change) + Send,
) {
    let write = async {
        while let Some(outgoing) = queue.recv().await {
            write_frame(&stream, &outgoing).await?;
        }
        Ok::<(), io::Error>(())
    };
    let read = async {
        let mut incoming = Incoming::default();
        loop {
            incoming.fill(&stream).await?;
            while let Some((number, response, descriptors)) = incoming.next()? {
                let orphan = deliver(&waiting, number, response, descriptors, &mut on_change);
                if let (Some(exec), Some(outgoing)) = (orphan, replies.upgrade()) {
                    let kill = ExecSignal { exec, signal: Signal::KILL.as_raw(), group: true };
                    let frame = protocol::frame(UNHEARD, &Request::ExecSignal(kill), 0);
                    // With so many requests waiting, this command is left to its container's end.
                    let _ = outgoing.try_send(Outgoing { frame, descriptors: Vec::new() });
                }
            }
        }
        #[expect(unreachable_code, reason = "names the type of the block")]
        Ok::<(), io::Error>(())
    };
    let result = tokio::select! {
        result = write => result,
        result = read => result,
    };
    if let Err(error) = result
        && error.kind() != io::ErrorKind::UnexpectedEof
    {
        tracing::warn!(%error, "the conversation with a pod process broke");
    }
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.closed = true;
    // Dropping the senders tells everyone who waits.
    waiting.answers.clear();
    waiting.commands.clear();
}

/// Hands a message to whoever waits for it. Gives the number of a command that has started after the one who asked for
/// it stopped waiting.
fn deliver(
    waiting: &Mutex<Waiting>,
    number: u32,
    response: Response,
    descriptors: Vec<OwnedFd>,
    on_change: &mut impl FnMut(Change),
) -> Option<u32> {
    let lock = || waiting.lock().unwrap_or_else(PoisonError::into_inner);
    match (number, response) {
        (protocol::UNASKED, Response::State(state)) => on_change(Change::State(state)),
        (protocol::UNASKED, Response::Forgotten(target)) => on_change(Change::Forgotten(target)),
        (protocol::UNASKED, _) => {}
        (_, Response::ExecEnded(ended)) => {
            let waiter = lock().commands.remove(&number);
            let _ = waiter.map(|waiter| waiter.send(ended));
        }
        (_, response) => {
            let waiter = lock().answers.remove(&number)?;
            // Who asked may have stopped waiting; then nobody needs the answer.
            if let Err(Answer { response: Response::ExecStarted(_), .. }) =
                waiter.send(Answer { response, descriptors })
            {
                return Some(number);
            }
        }
    }
    None
}

async fn write_frame(stream: &UnixStream, outgoing: &Outgoing) -> io::Result<()> {
    let mut written = 0;
    let fds: Vec<_> = outgoing.descriptors.iter().map(AsFd::as_fd).collect();
    while written < outgoing.frame.len() {
        let rest = &outgoing.frame[written..];
        written += stream
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                // Descriptors travel with the first byte, and only once.
                if written == 0 && !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                    return Err(io::Error::from(io::ErrorKind::InvalidInput));
                }
                Ok(sendmsg(
                    stream,
                    &[IoSlice::new(rest)],
                    &mut control,
                    SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
                )?)
            })
            .await?;
    }
    Ok(())
}

/// Bytes and descriptors that are not a whole frame yet.
#[derive(Default)]
struct Incoming {
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Incoming {
    async fn fill(&mut self, stream: &UnixStream) -> io::Result<()> {
        let start = self.bytes.len();
        self.bytes.resize(start + READ_BYTES, 0);
        let (bytes, descriptors) = (&mut self.bytes[start..], &mut self.descriptors);
        let count = stream
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
                let received = recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(fds) = message {
                        descriptors.extend(fds);
                    }
                }
                Ok(received.bytes)
            })
            .await?;
        self.bytes.truncate(start + count);
        if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn next(&mut self) -> io::Result<Option<(u32, Response, Vec<OwnedFd>)>> {
        let malformed = |error: protocol::Malformed| io::Error::new(io::ErrorKind::InvalidData, error.0);
        let Some(head) = self.bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let (length, count) = protocol::header(*head).map_err(malformed)?;
        let Some(body) = self.bytes.get(HEADER_BYTES..HEADER_BYTES + length) else { return Ok(None) };
        let (number, response) = protocol::body::<Response>(body).map_err(malformed)?;
        let response = response.map_err(malformed)?;
        if count > self.descriptors.len() {
            return Err(malformed(protocol::Malformed("descriptors are missing")));
        }
        let descriptors = self.descriptors.drain(..count).collect();
        self.bytes.drain(..HEADER_BYTES + length);
        Ok(Some((number, response, descriptors)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::{Container, Exec, Failure, Hello, Limit, Mount, Pair, Setup, Wire};

    fn check(request: Request) {
        let frame = protocol::frame(7, &request, 2);
        let head: [u8; HEADER_BYTES] = frame[..HEADER_BYTES].try_into().unwrap();
        assert_eq!(protocol::header(head), Ok((frame.len() - HEADER_BYTES, 2)));
        assert_eq!(protocol::body::<Request>(&frame[HEADER_BYTES..]), Ok((7, Ok(request))));
    }

    #[test]
    fn what_is_written_is_read() {
        check(Request::Shutdown(()));
        check(Request::Hello(Hello { version: 3 }));
        let pair = Pair { name: "net/x".into(), value: "\u{e9}".into() };
        check(Request::Setup(Setup {
            id: "a".into(),
            new_uts: true,
            sysctls: vec![pair],
            ..Setup::default()
        }));
        let mut container = Container { name: "c".into(), attempt: 9, input: true, ..Container::default() };
        container.process.seccomp = vec![1, 2, 3];
        container.process.limits = vec![Limit { resource: 7, soft: 1, hard: u64::MAX }];
        container.mounts = vec![Mount { target: "/x".into(), size_bytes: 5, ..Mount::default() }];
        check(Request::Start(container));
        check(Request::Exec(Exec { args: vec!["a".into(), String::new()], columns: 80, ..Exec::default() }));
    }

    #[test]
    fn newer_and_older_records_understand_each_other() {
        let mut bytes = Vec::new();
        Pair { name: "a".into(), value: "b".into() }.put(&mut bytes);
        // A newer writer adds a field at the end; an older one lacks the last.
        let mut newer = bytes.clone();
        newer.extend_from_slice(b"more");
        newer[0] += 4;
        let read = |bytes: &[u8]| Pair::get(&mut protocol::Reader::new(bytes)).unwrap();
        assert_eq!(read(&newer), Pair { name: "a".into(), value: "b".into() });
        let mut older = bytes[..9].to_vec();
        older[0] = 5;
        assert_eq!(read(&older), Pair { name: "a".into(), value: String::new() });
    }

    #[test]
    fn an_unknown_word_keeps_its_number_so_that_it_can_be_answered() {
        let body = [9, 0, 0, 0, 250];
        assert!(matches!(protocol::body::<Request>(&body), Ok((9, Err(_)))));
        assert!(protocol::header([255, 255, 255, 255, 0]).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic_nor_allocate_what_they_claim(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = protocol::body::<Request>(&bytes);
            let _ = protocol::body::<Response>(&bytes);
            let _ = Failure::get(&mut protocol::Reader::new(&bytes));
        }

        #[test]
        fn cut_and_flipped_requests_never_panic(cut in 0_usize..300, at in 0_usize..300, bit in 0_u8..8) {
            let container = Container { name: "c".into(), attempt: 1, mounts: vec![Mount::default()], ..Container::default() };
            let mut frame = protocol::frame(1, &Request::Start(container), 0);
            let place = at % frame.len();
            frame[place] ^= 1 << bit;
            frame.truncate(cut.min(frame.len()));
            let _ = protocol::body::<Request>(frame.get(HEADER_BYTES..).unwrap_or_default());
        }
    }
}

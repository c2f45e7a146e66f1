//! A client that costs little: HTTP/2 frame by frame (RFC 9113).
//!
//! It shares the cores with the server that it measures, and what it spends the server lacks. So all requests of a
//! connection have the same head, which is encoded once; their bodies have the same length; what can be sent at once
//! goes out in one write; and of answers only the ends are looked for. A stream that is reset is an error. Whether
//! what was answered was done must be counted afterwards.

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
/// Room for what one read brings.
const READ_BYTES: usize = 256 * 1024;
/// What RFC 9113 lets a connection send before the peer says anything.
const FIRST_WINDOW_BYTES: i64 = 65_535;
/// What the server may send on a connection until it hears of us; renewed when half of it is used.
const WINDOW_BYTES: u32 = 512 * 1024 * 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const SETTING_ENABLE_PUSH: u16 = 2;

/// The head of all requests of a connection, encoded (RFC 7541): at first with words that the server remembers, then
/// by their numbers.
pub struct Head {
    first: Vec<u8>,
    later: Vec<u8>,
}

impl Head {
    /// Of fields in their order, pseudo fields first.
    pub fn new(fields: &[(&str, &str)]) -> Self {
        /// Fields and names of the static table that we use, with their numbers.
        const WHOLE: [(&str, &str, u8); 3] =
            [(":method", "POST", 3), (":scheme", "http", 6), (":scheme", "https", 7)];
        const NAMES: [(&str, u8); 3] = [(":authority", 1), (":path", 4), ("content-type", 31)];
        /// The number behind those of the static table.
        const NEWEST: u8 = 62;
        let (mut first, mut later, mut remembered) = (Vec::new(), Vec::new(), Vec::new());
        for (name, value) in fields {
            if let Some((.., number)) = WHOLE.iter().find(|known| (known.0, known.1) == (*name, *value)) {
                first.push(0x80 | number);
                later.push(0x80 | number);
                continue;
            }
            let number = NAMES.iter().find(|known| known.0 == *name).map_or(0, |known| known.1);
            first.push(0x40 | number);
            if number == 0 {
                text(name, &mut first);
            }
            text(value, &mut first);
            remembered.push(later.len());
            later.push(0);
        }
        for (place, number) in remembered.into_iter().rev().zip(NEWEST..) {
            later[place] = 0x80 | number;
        }
        Self { first, later }
    }
}

fn text(text: &str, out: &mut Vec<u8>) {
    assert!(text.len() < 127, "a length of one byte");
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

/// A connection with its streams.
pub struct Connection<I> {
    stream: I,
    head: Head,
    next_stream: u32,
    /// Bytes that may be sent yet.
    window: i64,
    /// Bytes that came since the server heard of it.
    received: u32,
    incoming: BytesMut,
    outgoing: Vec<u8>,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Connection<I> {
    /// Begins to speak.
    pub async fn open(stream: I, head: Head) -> Result<Self> {
        let mut connection = Self {
            stream,
            head,
            next_stream: 1,
            window: FIRST_WINDOW_BYTES,
            received: 0,
            incoming: BytesMut::with_capacity(READ_BYTES),
            outgoing: PREFACE.to_vec(),
        };
        let no_push = [&SETTING_ENABLE_PUSH.to_be_bytes()[..], &0_u32.to_be_bytes()].concat();
        connection.frame(SETTINGS, 0, 0, &no_push);
        connection.frame(WINDOW_UPDATE, 0, 0, &WINDOW_BYTES.to_be_bytes());
        connection.send().await?;
        Ok(connection)
    }

    /// Keeps `streams` requests on their way until `runs` says no, and waits for the last answers; returns how many
    /// there were. `body` appends a body; all are of one length.
    pub async fn load(
        &mut self,
        streams: u64,
        mut body: impl FnMut(&mut Vec<u8>),
        runs: impl Fn() -> bool,
    ) -> Result<u64> {
        let (mut sent, mut answered) = (0, 0);
        let mut payload = Vec::new();
        loop {
            while sent - answered < streams && runs() {
                if payload.is_empty() {
                    body(&mut payload);
                }
                if self.window < payload.len() as i64 {
                    break;
                }
                self.request(&payload);
                payload.clear();
                sent += 1;
            }
            self.send().await?;
            if sent == answered {
                return Ok(answered);
            }
            answered += self.receive().await?;
        }
    }

    fn request(&mut self, payload: &[u8]) {
        let stream = self.next_stream;
        self.next_stream += 2;
        let head = if stream == 1 { self.head.first.clone() } else { self.head.later.clone() };
        self.frame(HEADERS, END_HEADERS, stream, &head);
        self.frame(DATA, END_STREAM, stream, payload);
        self.window -= payload.len() as i64;
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = payload.len() as u32;
        self.outgoing.extend_from_slice(&length.to_be_bytes()[1..]);
        self.outgoing.extend_from_slice(&[kind, flags]);
        self.outgoing.extend_from_slice(&stream.to_be_bytes());
        self.outgoing.extend_from_slice(payload);
    }

    async fn send(&mut self) -> Result<()> {
        if !self.outgoing.is_empty() {
            self.stream.write_all(&self.outgoing).await?;
            self.stream.flush().await?;
            self.outgoing.clear();
        }
        Ok(())
    }

    /// Reads what there is; returns how many answers ended in it.
    async fn receive(&mut self) -> Result<u64> {
        self.incoming.reserve(READ_BYTES);
        let read = self.stream.read_buf(&mut self.incoming).await?;
        ensure!(read > 0, "the server closed a connection");
        let mut ended = 0;
        while let Some(head) = self.incoming.first_chunk::<FRAME_HEAD_BYTES>().copied() {
            let [high, middle, low, kind, flags, stream @ ..] = head;
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            if self.incoming.len() < FRAME_HEAD_BYTES + length {
                break;
            }
            self.incoming.advance(FRAME_HEAD_BYTES);
            if matches!(kind, DATA | HEADERS) {
                if kind == DATA {
                    self.received += length as u32;
                }
                ended += u64::from(flags & END_STREAM);
                self.incoming.advance(length);
            } else {
                let payload = self.incoming.split_to(length);
                self.control(kind, flags, u32::from_be_bytes(stream), &payload)?;
            }
        }
        if self.received > WINDOW_BYTES / 2 {
            let received = std::mem::take(&mut self.received);
            self.frame(WINDOW_UPDATE, 0, 0, &received.to_be_bytes());
        }
        Ok(ended)
    }

    /// What concerns the connection.
    fn control(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<()> {
        match kind {
            RST_STREAM | GOAWAY | PUSH_PROMISE => bail!("the server sent frame {kind} on stream {stream}"),
            SETTINGS if flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => self.frame(PING, ACK, 0, payload),
            // Streams end before their windows do.
            WINDOW_UPDATE if stream == 0 => {
                let more = payload.first_chunk().context("a window update has four bytes")?;
                self.window += i64::from(u32::from_be_bytes(*more));
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_told_once_and_then_by_its_numbers() {
        let head = Head::new(&[(":method", "POST"), (":path", "/a"), ("te", "b")]);
        assert_eq!(head.first, b"\x83\x44\x02/a\x40\x02te\x01b");
        assert_eq!(head.later, [0x83, 0x80 | 63, 0x80 | 62]);
    }
}

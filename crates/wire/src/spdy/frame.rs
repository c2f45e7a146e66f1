//! Frames.

use bytes::{Buf as _, BufMut as _, Bytes};

use super::headers::{Deflater, Headers, HeadersError, Inflater};

/// A control frame may be this long; only headers make it long.
pub const CONTROL_MAX_BYTES: usize = 64 * 1024;
/// A data frame can say no more than this.
const DATA_MAX_BYTES: usize = (1 << 24) - 1;
pub(super) const HEADER_BYTES: usize = 8;
const VERSION: u16 = 3;
const CONTROL_BIT: u32 = 1 << 31;
const ID_MASK: u32 = CONTROL_BIT - 1;
const FLAG_FIN: u8 = 1;
const FLAG_UNIDIRECTIONAL: u8 = 2;
/// The setting that tells the window of new streams.
const SETTING_INITIAL_WINDOW: u32 = 7;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another version.
    #[error("SPDY version {0} is not spoken here; use 3.1")]
    Version(u16),
    /// Too long.
    #[error("a control frame of {0} bytes is too long")]
    TooLarge(usize),
    /// Its length does not fit its type.
    #[error("a frame of type {0} is damaged")]
    Damaged(u16),
    /// Its headers cannot be read.
    #[error(transparent)]
    Headers(#[from] HeadersError),
}

/// The first eight bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Data follows.
    Data {
        /// The stream.
        id: u32,
        /// Whether it is the stream's last.
        fin: bool,
        /// How many bytes follow.
        length: usize,
    },
    /// A control frame follows.
    Control {
        /// Its type.
        kind: u16,
        /// Its flags.
        flags: u8,
        /// How many bytes follow.
        length: usize,
    },
}

impl Header {
    /// Reads a header.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let mut bytes = &bytes[..];
        let (first, second) = (bytes.get_u32(), bytes.get_u32());
        let (flags, length) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
        if first & CONTROL_BIT == 0 {
            return Ok(Self::Data { id: first, fin: flags & FLAG_FIN != 0, length });
        }
        let (version, kind) = (((first & ID_MASK) >> 16) as u16, first as u16);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if length > CONTROL_MAX_BYTES {
            return Err(FrameError::TooLarge(length));
        }
        Ok(Self::Control { kind, flags, length })
    }
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of a stream.
    Data {
        /// The stream.
        id: u32,
        /// Whether they are the last.
        fin: bool,
        /// The bytes; at most 2^24 - 1.
        bytes: Bytes,
    },
    /// Begins a stream.
    SynStream {
        /// The stream.
        id: u32,
        /// Whether its opener will send nothing.
        fin: bool,
        /// Whether its opener wants to hear nothing.
        unidirectional: bool,
        /// What it is for.
        headers: Headers,
    },
    /// Accepts a stream.
    SynReply {
        /// The stream.
        id: u32,
        /// Whether the other side will send nothing.
        fin: bool,
        /// Answers to the opener's headers.
        headers: Headers,
    },
    /// Ends a stream at once.
    Reset {
        /// The stream.
        id: u32,
        /// Why: see [`super::status`].
        status: u32,
    },
    /// The window of new streams, if it is told.
    Settings {
        /// In bytes.
        initial_window: Option<u32>,
    },
    /// To be sent back by the other side.
    Ping {
        /// Odd from clients, even from servers.
        id: u32,
    },
    /// No new streams are taken.
    GoAway {
        /// The last stream that was.
        last_id: u32,
        /// Why.
        status: u32,
    },
    /// More headers of a stream.
    Headers {
        /// The stream.
        id: u32,
        /// Whether they are the last.
        fin: bool,
        /// The headers.
        headers: Headers,
    },
    /// More may be sent.
    WindowUpdate {
        /// The stream; 0 is the connection.
        id: u32,
        /// So many bytes more.
        delta: u32,
    },
    /// A type that this version does not know, to be skipped.
    Unknown(u16),
}

impl Frame {
    /// Reads what follows a control header. Every block of headers must pass here, wanted or not, since they are
    /// packed as one.
    pub fn parse(
        kind: u16,
        flags: u8,
        mut bytes: &[u8],
        inflater: &mut Inflater,
    ) -> Result<Self, FrameError> {
        let damaged = FrameError::Damaged(kind);
        let number = |bytes: &mut &[u8]| bytes.try_get_u32().map_err(|_| damaged);
        let fin = flags & FLAG_FIN != 0;
        let frame = match kind {
            SYN_STREAM => {
                let id = number(&mut bytes)? & ID_MASK;
                let _associated = number(&mut bytes)?;
                let _priority_and_slot = bytes.try_get_u16().map_err(|_| damaged)?;
                let unidirectional = flags & FLAG_UNIDIRECTIONAL != 0;
                let headers = inflater.read(std::mem::take(&mut bytes))?;
                Self::SynStream { id, fin, unidirectional, headers }
            }
            SYN_REPLY => {
                let id = number(&mut bytes)? & ID_MASK;
                Self::SynReply { id, fin, headers: inflater.read(std::mem::take(&mut bytes))? }
            }
            HEADERS => {
                let id = number(&mut bytes)? & ID_MASK;
                Self::Headers { id, fin, headers: inflater.read(std::mem::take(&mut bytes))? }
            }
            RST_STREAM => Self::Reset { id: number(&mut bytes)? & ID_MASK, status: number(&mut bytes)? },
            SETTINGS => {
                let mut initial_window = None;
                for _ in 0..number(&mut bytes)? {
                    let (setting, value) = (number(&mut bytes)? & 0x00ff_ffff, number(&mut bytes)?);
                    if setting == SETTING_INITIAL_WINDOW {
                        initial_window = Some(value & ID_MASK);
                    }
                }
                Self::Settings { initial_window }
            }
            PING => Self::Ping { id: number(&mut bytes)? },
            GOAWAY => Self::GoAway { last_id: number(&mut bytes)? & ID_MASK, status: number(&mut bytes)? },
            WINDOW_UPDATE => {
                Self::WindowUpdate { id: number(&mut bytes)? & ID_MASK, delta: number(&mut bytes)? & ID_MASK }
            }
            other => return Ok(Self::Unknown(other)),
        };
        if bytes.is_empty() { Ok(frame) } else { Err(damaged) }
    }

    /// Appends the frame to `out`.
    pub fn write(&self, deflater: &mut Deflater, out: &mut Vec<u8>) {
        let fin_flag = |fin: bool| if fin { FLAG_FIN } else { 0 };
        match self {
            Self::Data { id, fin, bytes } => {
                assert!(bytes.len() <= DATA_MAX_BYTES, "writers cut data into smaller frames");
                out.put_u32(id & ID_MASK);
                out.put_u32(u32::from(fin_flag(*fin)) << 24 | bytes.len() as u32);
                out.extend_from_slice(bytes);
            }
            Self::SynStream { id, fin, unidirectional, headers } => {
                let flags = fin_flag(*fin) | if *unidirectional { FLAG_UNIDIRECTIONAL } else { 0 };
                control(SYN_STREAM, flags, out, |out| {
                    out.put_u32(*id);
                    out.put_u32(0);
                    out.put_u16(0);
                    deflater.write(headers, out);
                });
            }
            Self::SynReply { id, fin, headers } => control(SYN_REPLY, fin_flag(*fin), out, |out| {
                out.put_u32(*id);
                deflater.write(headers, out);
            }),
            Self::Headers { id, fin, headers } => control(HEADERS, fin_flag(*fin), out, |out| {
                out.put_u32(*id);
                deflater.write(headers, out);
            }),
            Self::Reset { id, status } => numbers(RST_STREAM, &[*id, *status], out),
            Self::Settings { initial_window } => match initial_window {
                Some(window) => numbers(SETTINGS, &[1, SETTING_INITIAL_WINDOW, *window], out),
                None => numbers(SETTINGS, &[0], out),
            },
            Self::Ping { id } => numbers(PING, &[*id], out),
            Self::GoAway { last_id, status } => numbers(GOAWAY, &[*last_id, *status], out),
            Self::WindowUpdate { id, delta } => numbers(WINDOW_UPDATE, &[*id, *delta], out),
            Self::Unknown(kind) => control(*kind, 0, out, |_| {}),
        }
    }
}

fn numbers(kind: u16, numbers: &[u32], out: &mut Vec<u8>) {
    control(kind, 0, out, |out| numbers.iter().for_each(|number| out.put_u32(*number)));
}

fn control(kind: u16, flags: u8, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    out.put_u32(CONTROL_BIT | u32::from(VERSION) << 16 | u32::from(kind));
    let at = out.len();
    out.put_u32(0);
    body(out);
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&(u32::from(flags) << 24 | length).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(bytes: &[u8]) -> (Header, &[u8]) {
        let (header, rest) = bytes.split_first_chunk().unwrap();
        (Header::parse(header).unwrap(), rest)
    }

    #[test]
    fn a_ping_looks_as_the_draft_says() {
        let mut out = Vec::new();
        Frame::Ping { id: 7 }.write(&mut Deflater::default(), &mut out);
        assert_eq!(out, [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7]);
    }

    #[test]
    fn other_versions_and_giant_control_frames_are_refused() {
        assert_eq!(Header::parse(&[0x80, 2, 0, 6, 0, 0, 0, 4]), Err(FrameError::Version(2)));
        assert_eq!(Header::parse(&[0x80, 3, 0, 1, 0, 2, 0, 0]), Err(FrameError::TooLarge(0x20000)));
        let data = Header::Data { id: 5, fin: true, length: 0xff_ffff };
        assert_eq!(Header::parse(&[0, 0, 0, 5, 1, 0xff, 0xff, 0xff]), Ok(data));
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let id = 0_u32..=ID_MASK;
        let headers = proptest::collection::vec(("[a-z]{1,9}", "[ -~]{0,30}"), 0..4)
            .prop_map(|pairs| Headers::new(pairs.iter().map(|(name, value)| (&**name, &**value))));
        (id, any::<bool>(), any::<bool>(), any::<u32>(), headers, 0..9).prop_map(
            |(id, fin, unidirectional, number, headers, choice)| match choice {
                0 => Frame::SynStream { id, fin, unidirectional, headers },
                1 => Frame::SynReply { id, fin, headers },
                2 => Frame::Headers { id, fin, headers },
                3 => Frame::Reset { id, status: number },
                4 => Frame::Settings { initial_window: fin.then_some(number & ID_MASK) },
                5 => Frame::Ping { id: number },
                6 => Frame::GoAway { last_id: id, status: number },
                7 => Frame::WindowUpdate { id, delta: number & ID_MASK },
                _ => Frame::Unknown(10),
            },
        )
    }

    proptest! {
        #[test]
        fn frames_come_back(frames in proptest::collection::vec(any_frame(), 0..5)) {
            let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
            for frame in frames {
                let mut out = Vec::new();
                frame.write(&mut deflater, &mut out);
                let (Header::Control { kind, flags, length }, rest) = split(&out) else { panic!("no control") };
                prop_assert_eq!(length, rest.len());
                prop_assert_eq!(Frame::parse(kind, flags, rest, &mut inflater).unwrap(), frame);
            }
        }

        #[test]
        fn strange_frames_do_not_panic(
            header: [u8; 8], kind in 0_u16..12, flags: u8,
            body in proptest::collection::vec(any::<u8>(), 0..99),
        ) {
            let _ = Header::parse(&header);
            let _ = Frame::parse(kind, flags, &body, &mut Inflater::default());
        }
    }
}

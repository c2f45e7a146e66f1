//! gzip for responses, by upstream's rule: only large bodies, only when asked, at a cheap level.

use std::io::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress, write::GzEncoder};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue, VARY};

use crate::{Body, Response};

/// Bodies that are not larger than this are sent as they are (upstream's `defaultGzipThresholdBytes`).
pub const THRESHOLD_BYTES: usize = 128 * 1024;
/// Upstream's level: 4 costs little more than 1 and packs lists much better.
pub const LEVEL: u32 = 4;
/// The level for answers that are made once and sent once.
pub const LEVEL_FAST: u32 = 1;

/// Whether the client takes gzip: named with a weight above 0.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"))
                && !parts.any(|weight| {
                    weight.strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0))
                })
        })
    })
}

/// Packs `bytes`. `level` is 1 (fast) to 9 (small).
pub fn gzip(bytes: &[u8], level: u32) -> Bytes {
    let packed = BytesMut::with_capacity(bytes.len() / 6 + 64).writer();
    let mut encoder = GzEncoder::new(packed, Compression::new(level.clamp(1, 9)));
    // Writing to memory cannot fail; if it ever did, the finish below would panic into the request's catch.
    encoder.write_all(bytes).expect("memory takes every write");
    encoder.finish().expect("memory takes every write").into_inner().freeze()
}

/// Bytes that were packed by themselves, to be put into a [`Parts`] as often as wanted.
#[derive(Clone, Debug)]
pub struct Part(Box<[u8]>);

impl Part {
    /// Packs `plain`. What was packed elsewhere is not looked at, so that parts can stand behind each other in any
    /// order; large parts pack better.
    pub fn new(plain: &[u8], level: u32) -> Self {
        let mut room = plain.len() + plain.len() / 8 + 256;
        loop {
            let mut compress = Compress::new(Compression::new(level.clamp(1, 9)), false);
            let mut out = Vec::with_capacity(room);
            let flushed = compress.compress_vec(plain, &mut out, FlushCompress::Full);
            flushed.expect("a compressor in memory takes every byte");
            // Where room is left, nothing waits to be written.
            if compress.total_in() == plain.len() as u64 && out.len() < out.capacity() {
                return Self(out.into());
            }
            room *= 2;
        }
    }

    /// How long it is.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

/// A gzip body (RFC 1952) that is put together of plain bytes and of parts that were packed before (RFC 1951 lets
/// blocks that end at a byte follow each other).
pub struct Parts {
    out: Vec<u8>,
    checksum: crc32fast::Hasher,
    length: u32,
}

/// The most bytes of a deflate block that is not packed.
const STORED_BLOCK_BYTES: usize = u16::MAX as usize;

impl Parts {
    /// Nothing yet, with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        let mut out = Vec::with_capacity(capacity + 64);
        // Magic, deflate, no flags, no time, packed fast, by an unknown system.
        out.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255]);
        Self { out, checksum: crc32fast::Hasher::new(), length: 0 }
    }

    /// Adds bytes that are not packed.
    pub fn plain(&mut self, plain: &[u8]) {
        self.stored(plain, false);
        self.count(plain);
    }

    /// Adds a part and the pieces of the bytes that it was made of, which the checksum takes.
    pub fn part(&mut self, part: &Part, plain: [&[u8]; 2]) {
        self.out.extend_from_slice(&part.0);
        plain.into_iter().for_each(|piece| self.count(piece));
    }

    /// The body, ended with bytes that are not packed.
    pub fn finish(mut self, plain: &[u8]) -> Bytes {
        self.stored(plain, true);
        self.count(plain);
        let Self { mut out, checksum, length } = self;
        out.extend_from_slice(&checksum.finalize().to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        out.into()
    }

    fn count(&mut self, plain: &[u8]) {
        self.checksum.update(plain);
        // By the format, the length counts modulo 2^32.
        self.length = self.length.wrapping_add(plain.len() as u32);
    }

    fn stored(&mut self, plain: &[u8], last: bool) {
        let blocks = plain.len().div_ceil(STORED_BLOCK_BYTES).max(1);
        for number in 0..blocks {
            let from = number * STORED_BLOCK_BYTES;
            let block = &plain[from..plain.len().min(from + STORED_BLOCK_BYTES)];
            let length = block.len() as u16;
            self.out.push(u8::from(last && number + 1 == blocks));
            self.out.extend_from_slice(&length.to_le_bytes());
            self.out.extend_from_slice(&(!length).to_le_bytes());
            self.out.extend_from_slice(block);
        }
    }
}

/// Marks `headers` as those of a packed body, for callers that keep packed bodies.
pub fn mark_gzip(headers: &mut HeaderMap) {
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    headers.remove(CONTENT_LENGTH);
}

/// Packs the body of `response` if the request asked for it and the body is one large buffer.
/// `bytes` of several buffers, streams, and what is packed already pass untouched.
pub fn response(request: &HeaderMap, mut response: Response, level: u32) -> Response {
    match response.body() {
        Body::Full(bytes)
            if bytes.len() > THRESHOLD_BYTES
                && !response.headers().contains_key(CONTENT_ENCODING)
                && accepts_gzip(request) =>
        {
            let packed = gzip(bytes, level);
            mark_gzip(response.headers_mut());
            *response.body_mut() = Body::Full(packed);
            response
        }
        _ => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn asking(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))])
    }

    #[test]
    fn gzip_is_taken_when_named_with_weight() {
        for (value, expect) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("gzip; q=0.0", false),
            ("br", false),
            ("gzipped", false),
            ("", false),
        ] {
            assert_eq!(accepts_gzip(&asking(value)), expect, "{value}");
        }
    }

    fn unpacked(bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
        plain
    }

    proptest::proptest! {
        #[test]
        fn parts_unpack_to_what_they_were_made_of(
            pieces in proptest::collection::vec(proptest::collection::vec(0_u8..8, 0..5000), 0..6),
            noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..70_000),
        ) {
            let packed: Vec<Part> = pieces.iter().map(|piece| Part::new(piece, LEVEL_FAST)).collect();
            let noisy = Part::new(&noise, LEVEL_FAST);
            let (mut parts, mut expect) = (Parts::with_capacity(10), Vec::new());
            for (part, piece) in packed.iter().zip(&pieces) {
                let (front, back) = piece.split_at(piece.len() / 3);
                parts.part(part, [front, back]);
                parts.plain(b",");
                expect.extend_from_slice(piece);
                expect.push(b',');
            }
            parts.plain(&noise);
            parts.part(&noisy, [&noise, &[]]);
            expect.extend_from_slice(&noise);
            expect.extend_from_slice(&noise);
            expect.extend_from_slice(b"end");
            proptest::prop_assert_eq!(unpacked(&parts.finish(b"end")), expect);
        }
    }

    #[test]
    fn only_large_answers_are_packed() {
        let large = vec![b'x'; THRESHOLD_BYTES + 1];
        let packed = response(&asking("gzip"), Response::new(Body::from(large.clone())), LEVEL);
        assert_eq!(packed.headers()[CONTENT_ENCODING], "gzip");
        let Body::Full(bytes) = packed.body() else { panic!("one buffer stays one buffer") };
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
        assert_eq!(plain, large);
        let small = response(&asking("gzip"), Response::new(Body::from("small")), LEVEL);
        assert!(small.headers().is_empty());
    }
}

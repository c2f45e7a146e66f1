//! gzip for responses, by upstream's rule: only large bodies, only when asked, at a cheap level.

use std::io::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
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

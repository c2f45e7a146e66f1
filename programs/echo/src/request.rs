//! Reading a request's head. Nothing here touches a socket.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// The largest head of a request, in bytes.
pub const HEAD_MAX_BYTES: usize = 16 << 10;

pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: Vec<(String, String)>,
    /// Bytes of body that follow.
    pub body_bytes: u64,
    pub keep_alive: bool,
    pub expects_continue: bool,
}

/// How far the bytes go.
pub enum Parsed {
    /// A whole head of so many bytes.
    Head(Request, usize),
    /// Not yet.
    Partial,
    /// Never: the status to answer with.
    Broken(u16),
}

pub fn parse(bytes: &[u8]) -> Parsed {
    // Empty lines before a request are to be skipped (RFC 9112, 2.2).
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    let Some(end) = bytes[start..].windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() > HEAD_MAX_BYTES { Parsed::Broken(431) } else { Parsed::Partial };
    };
    if end > HEAD_MAX_BYTES {
        return Parsed::Broken(431);
    }
    let Ok(head) = core::str::from_utf8(&bytes[start..start + end]) else { return Parsed::Broken(400) };
    match read_head(head) {
        Ok(request) => Parsed::Head(request, start + end + 4),
        Err(status) => Parsed::Broken(status),
    }
}

fn read_head(head: &str) -> Result<Request, u16> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or("").split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(400);
    };
    let minor = match version {
        "HTTP/1.1" => 1,
        "HTTP/1.0" => 0,
        _ => return Err(505),
    };
    // A proxy's client writes the whole address.
    let target = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: method.to_string(),
        path: path.to_string(),
        query: query.to_string(),
        headers: Vec::new(),
        body_bytes: 0,
        keep_alive: minor == 1,
        expects_continue: false,
    };
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(400_u16)?;
        if name.is_empty() || name.ends_with(' ') {
            return Err(400);
        }
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => request.body_bytes = value.parse().map_err(|_| 400_u16)?,
            // The length must be known before; no client that this is for sends chunks.
            "transfer-encoding" => return Err(411),
            "connection" => {
                let has = |word: &str| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word));
                request.keep_alive = (request.keep_alive || has("keep-alive")) && !has("close");
            }
            "expect" => request.expects_continue = value.eq_ignore_ascii_case("100-continue"),
            _ => {}
        }
        request.headers.push((name.to_string(), value.to_string()));
    }
    Ok(request)
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    /// A parameter of the query. Values here are numbers and words, so nothing is decoded.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }
}

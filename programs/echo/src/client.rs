//! `get URL`: a small client, so that a pod without curl can call others.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::sys::{self, Address};

const TIMEOUT_S: i64 = 10;
const DNS_TIMEOUT_S: i64 = 2;
const DNS_ATTEMPTS: u32 = 3;
const DNS_PORT: u16 = 53;
/// The longest answer by datagram without extensions, with room to spare.
const DNS_MAX_BYTES: usize = 4096;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

/// Prints the body of the answer. Exit code 0 for a status below 400, 22 (as curl -f) for others, 1 without one.
pub fn get(url: &str) -> i32 {
    match fetch(url) {
        Ok(status) if status < 400 => 0,
        Ok(_) => 22,
        Err(message) => {
            sys::print(2, &format!("get: {message}\n"));
            1
        }
    }
}

fn fetch(url: &str) -> Result<u16, String> {
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        Some((scheme, _)) => return Err(format!("{scheme} is not spoken here, only http")),
        None => url,
    };
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
    let (host, port) = split_port(authority)?;
    let mut failure = format!("{host} has no address");
    for address in resolve(&host)? {
        let address = match address {
            IpAddr::V4(v4) => Address::v4(v4.octets(), port),
            IpAddr::V6(v6) => Address::v6(v6.octets(), port),
        };
        match sys::connect(&address, TIMEOUT_S) {
            Ok(file) => return exchange(&file, authority, &path),
            Err(errno) => failure = format!("{} cannot be reached (error {})", address.show(), errno.0),
        }
    }
    Err(failure)
}

fn split_port(authority: &str) -> Result<(String, u16), String> {
    let wrong = || format!("{authority} is no host with a port");
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(wrong)?;
            (host, after.strip_prefix(':'))
        }
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() {
        return Err(wrong());
    }
    Ok((host.to_string(), port.map_or(Ok(80), |port| port.parse().map_err(|_| wrong()))?))
}

fn exchange(file: &sys::File, authority: &str, path: &str) -> Result<u16, String> {
    // HTTP/1.0, so that the body comes plain and ends with the connection.
    let request = format!(
        "GET {path} HTTP/1.0\r\nHost: {authority}\r\nUser-Agent: echo-get\r\nConnection: close\r\n\r\n"
    );
    let mut left = request.as_bytes();
    while !left.is_empty() {
        let count = sys::send(file, left).map_err(|errno| format!("sending failed (error {})", errno.0))?;
        left = &left[count..];
    }
    let mut head = Vec::new();
    let mut buffer = [0_u8; 4096];
    let mut answer: Option<Answer> = None;
    let mut got = 0;
    loop {
        let count = sys::read(file, &mut buffer).map_err(|errno| format!("no answer (error {})", errno.0))?;
        if count == 0 {
            let answer = answer.ok_or_else(|| "the answer is no HTTP".to_string())?;
            // Where no length was told, the end of the connection is the end of the body.
            return match answer.body_bytes {
                Some(told) if got < told => Err(format!("the answer ends after {got} of {told} bytes")),
                _ => Ok(answer.status),
            };
        }
        if answer.is_some() {
            got += count as u64;
            sys::write_bytes(1, &buffer[..count]);
            continue;
        }
        head.extend_from_slice(&buffer[..count]);
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            let read = Answer::read(&String::from_utf8_lossy(&head[..end]));
            answer = Some(read.ok_or_else(|| "the answer is no HTTP".to_string())?);
            got += (head.len() - end - 4) as u64;
            sys::write_bytes(1, &head[end + 4..]);
        }
    }
}

/// What the head of an answer says.
struct Answer {
    status: u16,
    /// Bytes of body that follow, if it tells.
    body_bytes: Option<u64>,
}

impl Answer {
    fn read(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
        let length = lines.filter_map(|line| line.split_once(':'));
        let length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        Some(Self { status, body_bytes: length.filter_map(|(_, value)| value.trim().parse().ok()).last() })
    }
}

/// Addresses of a host: as written, from /etc/hosts, or from the name servers with their search list.
fn resolve(host: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(alloc::vec![address]);
    }
    let hosts = sys::read_file(c"/etc/hosts").unwrap_or_default();
    let found = from_hosts(&String::from_utf8_lossy(&hosts), host);
    if !found.is_empty() {
        return Ok(found);
    }
    let text = sys::read_file(c"/etc/resolv.conf").unwrap_or_default();
    let config = Resolver::read(&String::from_utf8_lossy(&text));
    let mut failure = format!("{host} is not known");
    for name in config.names(host) {
        for server in &config.servers {
            match config.ask_both(*server, &name) {
                Ok(found) if !found.is_empty() => return Ok(found),
                Ok(_) => break,
                Err(message) => failure = message,
            }
        }
    }
    Err(failure)
}

fn from_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or(""));
    let fits = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next()?.parse::<IpAddr>().ok()?;
        words.any(|name| name.eq_ignore_ascii_case(host)).then_some(address)
    };
    lines.filter_map(fits).collect()
}

struct Resolver {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    ndots: usize,
}

impl Resolver {
    fn read(text: &str) -> Self {
        let mut resolver = Self { servers: Vec::new(), search: Vec::new(), ndots: 1 };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    resolver.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()))
                }
                Some("search") => resolver.search = words.map(ToString::to_string).collect(),
                Some("options") => {
                    let ndots = words.find_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                    resolver.ndots = ndots.unwrap_or(resolver.ndots);
                }
                _ => {}
            }
        }
        resolver
    }

    /// The names to ask for, in order (resolv.conf(5)).
    fn names(&self, host: &str) -> Vec<String> {
        if let Some(absolute) = host.strip_suffix('.') {
            return alloc::vec![absolute.to_string()];
        }
        let mut names: Vec<String> = self.search.iter().map(|domain| format!("{host}.{domain}")).collect();
        let whole_first = host.matches('.').count() >= self.ndots;
        names.insert(if whole_first { 0 } else { names.len() }, host.to_string());
        names
    }

    fn ask_both(&self, server: IpAddr, name: &str) -> Result<Vec<IpAddr>, String> {
        let v4 = self.ask(server, name, TYPE_A)?;
        if !v4.is_empty() {
            return Ok(v4);
        }
        self.ask(server, name, TYPE_AAAA)
    }

    fn ask(&self, server: IpAddr, name: &str, kind: u16) -> Result<Vec<IpAddr>, String> {
        let address = match server {
            IpAddr::V4(v4) => Address::v4(v4.octets(), DNS_PORT),
            IpAddr::V6(v6) => Address::v6(v6.octets(), DNS_PORT),
        };
        let id = (sys::now_ms() as u16) ^ kind;
        let question = question(id, name, kind).ok_or_else(|| format!("{name} is no name"))?;
        let mut buffer = [0_u8; DNS_MAX_BYTES];
        for _ in 0..DNS_ATTEMPTS {
            let Ok(file) = sys::ask(&address, DNS_TIMEOUT_S) else { continue };
            if sys::send(&file, &question).is_err() {
                continue;
            }
            if let Ok(count) = sys::read(&file, &mut buffer)
                && let Some(found) = addresses(&buffer[..count], id, kind)
            {
                return Ok(found);
            }
        }
        Err(format!("the name server {} does not answer", address.show()))
    }
}

fn question(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    const RECURSION_DESIRED: u16 = 0x0100;
    let mut bytes = Vec::with_capacity(name.len() + 18);
    for word in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        bytes.push(length);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&1_u16.to_be_bytes());
    Some(bytes)
}

/// The addresses in an answer; empty if the name has none, `None` if this is no answer to our question.
fn addresses(bytes: &[u8], id: u16, kind: u16) -> Option<Vec<IpAddr>> {
    const REFUSED_OR_FAILED: [u8; 3] = [2, 4, 5];
    let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    if word(0)? != id || REFUSED_OR_FAILED.contains(&(bytes.get(3)? & 15)) {
        return None;
    }
    let (questions, answers) = (word(4)?, word(6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = skip_name(bytes, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..answers {
        at = skip_name(bytes, at)?;
        let (record, length) = (word(at)?, usize::from(word(at + 8)?));
        let data = bytes.get(at + 10..at + 10 + length)?;
        if record == kind {
            if let Ok(v4) = <[u8; 4]>::try_from(data) {
                found.push(IpAddr::V4(Ipv4Addr::from(v4)));
            } else if let Ok(v6) = <[u8; 16]>::try_from(data) {
                found.push(IpAddr::V6(Ipv6Addr::from(v6)));
            }
        }
        at += 10 + length;
    }
    Some(found)
}

fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += usize::from(length) + 1,
        }
    }
}

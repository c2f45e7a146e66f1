//! The table as the kernel has it, read back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rustix::io::Errno;

use super::compile::{Chain, Compiled, Frontend, Key, Value};
use super::encode::{
    AFFINITY, ENDPOINTS, FAMILY_IPV4, HAIRPIN, REFUSED, REJECT_CHAIN, SERVICES, STICKY, frontend_bytes,
    header,
};
use super::expression::{NF_DROP, NFT_GOTO, NFTA_LIST_ELEM, read_value, read_verdict};
use crate::address::Protocol;
use crate::netlink::message::{Attributes, NLM_F_ACK, NLM_F_DUMP};
use crate::netlink::{NetlinkError, Socket};

const SUBSYSTEM: u16 = 10 << 8;
const NFT_MSG_GETTABLE: u16 = SUBSYSTEM | 1;
const NFT_MSG_GETCHAIN: u16 = SUBSYSTEM | 4;
const NFT_MSG_GETRULE: u16 = SUBSYSTEM | 7;
const NFT_MSG_GETSETELEM: u16 = SUBSYSTEM | 13;
const NFT_MSG_GETGEN: u16 = SUBSYSTEM | 16;

/// What the kernel has of our table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dump {
    /// The comment that tells the frame.
    pub(super) comment: String,
    pub(super) compiled: Compiled,
    /// Something is in the table that we never put there.
    pub(super) foreign: bool,
}

/// The generation of all rules of this network namespace; any change by anyone makes a new one.
pub(super) fn generation(socket: &mut Socket) -> Result<u32, NetlinkError> {
    let mut batch = socket.batch();
    batch.message(NFT_MSG_GETGEN, NLM_F_ACK, &header(0), |_| ());
    let answers = socket.query(&batch, "tell the generation of its rules")?;
    answers
        .iter()
        .find_map(|(_, payload)| Attributes::new(payload.get(4..)?).get(1)?.first_chunk().copied())
        .map(u32::from_be_bytes)
        .ok_or_else(|| NetlinkError::Garbled { action: "NFT_MSG_GETGEN".to_owned() })
}

/// Reads the whole table but the clients that are remembered; `None` if it is not there.
pub(super) fn table(socket: &mut Socket, table: &str) -> Result<Option<Dump>, NetlinkError> {
    let mut batch = socket.batch();
    batch.message(NFT_MSG_GETTABLE, NLM_F_ACK, &header(FAMILY_IPV4), |m| m.string(1, table));
    let answers = match socket.query(&batch, &format!("show table {table}")) {
        Err(error) if error.is(Errno::NOENT) => return Ok(None),
        other => other?,
    };
    let comment = answers
        .iter()
        .find_map(|(_, payload)| Attributes::new(payload.get(4..)?).get(6)?.get(2..))
        .map(|text| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
        .unwrap_or_default();
    let mut dump = Dump { comment, compiled: Compiled::default(), foreign: false };
    for name in chains(socket, table)? {
        dump.compiled.chains.extend(Chain::parse(&name));
    }
    for set in [SERVICES, ENDPOINTS, REFUSED, STICKY, HAIRPIN] {
        match elements(socket, table, set) {
            Ok(elements) => {
                for (key, data) in elements {
                    match parse(set, &key, &data) {
                        Some((key, value)) => _ = dump.compiled.elements.insert(key, value),
                        None => dump.foreign = true,
                    }
                }
            }
            Err(error) if error.is(Errno::NOENT) => dump.foreign = true,
            Err(error) => return Err(error),
        }
    }
    Ok(Some(dump))
}

fn chains(socket: &mut Socket, table: &str) -> Result<Vec<String>, NetlinkError> {
    let mut batch = socket.batch();
    batch.message(NFT_MSG_GETCHAIN, NLM_F_DUMP, &header(FAMILY_IPV4), |_| ());
    let answers = socket.query(&batch, "list chains")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    Ok(answers
        .iter()
        .filter_map(|(_, payload)| {
            let attributes = Attributes::new(payload.get(4..)?);
            (text(attributes.get(1)?) == table).then(|| attributes.get(3).map(text))?
        })
        .collect())
}

/// Chain and expressions of every rule of a table.
pub(super) fn programs(socket: &mut Socket, table: &str) -> Result<Vec<(String, Vec<u8>)>, NetlinkError> {
    let mut batch = socket.batch();
    batch.message(NFT_MSG_GETRULE, NLM_F_DUMP, &header(FAMILY_IPV4), |m| m.string(1, table));
    let answers = socket.query(&batch, "list rules")?;
    let mut programs: Vec<(String, Vec<u8>)> = answers
        .iter()
        .filter_map(|(_, payload)| {
            let attributes = Attributes::new(payload.get(4..)?);
            let chain = String::from_utf8_lossy(attributes.get(2)?).trim_end_matches('\0').to_owned();
            Some((chain, attributes.get(4).unwrap_or_default().to_vec()))
        })
        .collect();
    // The order inside a chain is kept: it is what the chain does.
    programs.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(programs)
}

/// An element's key and data, as bytes.
type Element = (Vec<u8>, Vec<u8>);

/// The elements of a set.
fn elements(socket: &mut Socket, table: &str, set: &str) -> Result<Vec<Element>, NetlinkError> {
    let mut batch = socket.batch();
    batch.message(NFT_MSG_GETSETELEM, NLM_F_DUMP, &header(FAMILY_IPV4), |m| {
        m.string(1, table);
        m.string(2, set);
    });
    let answers = socket.query(&batch, &format!("list the elements of {set}"))?;
    let mut elements = Vec::new();
    for (_, payload) in answers {
        let Some(list) = payload.get(4..).and_then(|p| Attributes::new(p).get(3)) else { continue };
        for (_, element) in Attributes::new(list).filter(|(kind, _)| *kind == NFTA_LIST_ELEM) {
            let element = Attributes::new(element);
            let Some(key) = element.get(1).and_then(read_value) else { continue };
            elements.push((key.to_vec(), element.get(2).unwrap_or_default().to_vec()));
        }
    }
    Ok(elements)
}

/// A client that is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remembered {
    /// The element's key, for removing it.
    pub(super) key: Vec<u8>,
    pub(super) frontend: Vec<u8>,
    pub(super) target: Vec<u8>,
}

/// Which clients are remembered at which endpoints.
pub(super) fn affinity(socket: &mut Socket, table: &str) -> Result<Vec<Remembered>, NetlinkError> {
    let remembered = |(key, data): Element| {
        Some(Remembered { frontend: key.get(4..)?.to_vec(), target: read_value(&data)?.to_vec(), key })
    };
    Ok(elements(socket, table, AFFINITY)?.into_iter().filter_map(remembered).collect())
}

fn parse(set: &str, key: &[u8], data: &[u8]) -> Option<(Key, Value)> {
    match set {
        SERVICES | STICKY => {
            let (code, chain) = read_verdict(data)?;
            let value = Value::Goto(Chain::parse(&chain.filter(|_| code == NFT_GOTO)?)?);
            let frontend = frontend(key)?;
            Some((if set == STICKY { Key::Sticky(frontend) } else { Key::Service(frontend) }, value))
        }
        REFUSED => {
            let value = match read_verdict(data)? {
                (NFT_GOTO, Some(chain)) if chain == REJECT_CHAIN => Value::Reject,
                (NF_DROP, None) => Value::Drop,
                _ => return None,
            };
            Some((Key::Refused(frontend(key)?), value))
        }
        ENDPOINTS => {
            let number = u32::from_ne_bytes(*key.get(12..)?.first_chunk()?);
            let value = read_value(data)?;
            let target = SocketAddr::new(address(value)?, port(value.get(4..)?)?);
            Some((Key::Endpoint(frontend(key)?, number), Value::Target(target)))
        }
        _ => {
            let address = address(key)?;
            (key.get(4..8)? == &key[..4]).then_some((Key::Hairpin(address), Value::Member))
        }
    }
}

fn frontend(key: &[u8]) -> Option<Frontend> {
    let protocol = match *key.get(4)? {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        132 => Protocol::Sctp,
        _ => return None,
    };
    let frontend = Frontend { address: address(key)?, protocol, port: port(key.get(8..)?)? };
    (frontend_bytes(&frontend) == key.get(..12)?).then_some(frontend)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into())
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.first_chunk::<2>()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_element_makes_the_reader_panic(
            key in proptest::collection::vec(any::<u8>(), 0..20),
            data in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            for set in [SERVICES, ENDPOINTS, REFUSED, STICKY, HAIRPIN] {
                let _ = parse(set, &key, &data);
            }
        }
    }
}

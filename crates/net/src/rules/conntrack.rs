//! Connection tracking's memory of UDP flows to endpoints that no longer serve (ctnetlink).
//!
//! A UDP client that keeps its port would be sent to a removed endpoint for as long as it speaks. TCP connections
//! are left alone: they end by themselves, and those to a draining pod are meant to go on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rustix::io::Errno;

use super::compile::Frontend;
use crate::address::Protocol;
use crate::netlink::message::{Attributes, NLM_F_ACK, NLM_F_DUMP};
use crate::netlink::{NetlinkError, Socket, refused};

const SUBSYSTEM: u16 = 1 << 8;
const IPCTNL_MSG_CT_GET: u16 = SUBSYSTEM | 1;
const IPCTNL_MSG_CT_DELETE: u16 = SUBSYSTEM | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const HEADER: [u8; 4] = [2, 0, 0, 0];

/// One flow as it is tracked.
struct Flow<'a> {
    original: &'a [u8],
    id: Option<&'a [u8]>,
    frontend: Frontend,
    served_by: SocketAddr,
}

/// Deletes the UDP flows to those of `frontends` that are served by none of their survivors; returns how many.
pub(super) fn clear(
    socket: &mut Socket,
    frontends: &BTreeMap<Frontend, BTreeSet<SocketAddr>>,
) -> Result<usize, NetlinkError> {
    if !frontends.keys().any(|frontend| frontend.protocol == Protocol::Udp) {
        return Ok(0);
    }
    let mut query = socket.batch();
    query.message(IPCTNL_MSG_CT_GET, NLM_F_DUMP, &HEADER, |_| ());
    let answers = socket.query(&query, "list tracked connections")?;
    let mut batch = socket.batch();
    let mut count = 0;
    for flow in answers.iter().filter_map(|(_, payload)| parse(payload)) {
        let stale = frontends.get(&flow.frontend).is_some_and(|alive| !alive.contains(&flow.served_by));
        if stale {
            count += 1;
            batch.message(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, &HEADER, |m| {
                m.attribute(CTA_TUPLE_ORIG | 0x8000, flow.original);
                if let Some(id) = flow.id {
                    m.attribute(CTA_ID, id);
                }
            });
        }
    }
    if count == 0 {
        return Ok(0);
    }
    // A flow that ended meanwhile is gone, which is what we want.
    let gone = Errno::NOENT.raw_os_error();
    match socket.submit(&batch)?.into_iter().find(|refusal| refusal.errno != gone) {
        Some(refusal) => Err(refused(refusal, "delete tracked connections")),
        None => Ok(count),
    }
}

fn parse(payload: &[u8]) -> Option<Flow<'_>> {
    let attributes = Attributes::new(payload.get(4..)?);
    let original = attributes.get(CTA_TUPLE_ORIG)?;
    let (_, to, protocol) = tuple(original)?;
    let (served_by, _, _) = tuple(attributes.get(CTA_TUPLE_REPLY)?)?;
    let udp = protocol == Protocol::Udp.number();
    udp.then_some(Flow {
        original,
        id: attributes.get(CTA_ID),
        frontend: Frontend { address: to.ip(), protocol: Protocol::Udp, port: to.port() },
        served_by,
    })
}

/// From, to, protocol.
fn tuple(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr, u8)> {
    let attributes = Attributes::new(bytes);
    let ip = Attributes::new(attributes.get(1)?);
    let protocol = Attributes::new(attributes.get(2)?);
    let address = |kind| Some(IpAddr::V4(Ipv4Addr::from(*ip.get(kind)?.first_chunk::<4>()?)));
    let port = |kind| Some(u16::from_be_bytes(*protocol.get(kind)?.first_chunk::<2>()?));
    let number = *protocol.get(1)?.first()?;
    Some((SocketAddr::new(address(1)?, port(2)?), SocketAddr::new(address(2)?, port(3)?), number))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_flow_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..150)) {
            let _ = parse(&bytes);
        }
    }
}

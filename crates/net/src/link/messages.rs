//! rtnetlink's messages that we use (linux/rtnetlink.h, if_link.h), written and read.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::address::Cidr;
use crate::netlink::message::{
    Attributes, Batch, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE,
};

pub(super) const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELNEIGH: u16 = 29;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const NDA_DST: u16 = 1;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;

/// The index of `lo` in every network namespace.
pub(super) const LOOPBACK_INDEX: u32 = 1;

/// What a dump tells of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) alias: String,
    pub(super) kind: String,
    pub(super) mtu: u32,
}

/// How a veth pair is to be made.
pub(super) struct VethPair<'a> {
    pub(super) host_name: &'a str,
    pub(super) bridge_index: u32,
    pub(super) mtu: u32,
    pub(super) peer_name: &'a str,
    pub(super) peer_netns: BorrowedFd<'a>,
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

pub(super) fn create_bridge(batch: &mut Batch, name: &str, mac: [u8; 6], mtu: u32) {
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    batch.message(RTM_NEWLINK, flags, &link_header(0, 0, 0), |m| {
        m.string(IFLA_IFNAME, name);
        m.attribute(IFLA_ADDRESS, &mac);
        m.u32(IFLA_MTU, mtu);
        m.nested(IFLA_LINKINFO, |m| m.string(IFLA_INFO_KIND, "bridge"));
    });
}

/// Asks for a link with more queues than there may be. The kernel looks for the kind first, and loads its module.
pub(super) fn ask_for_kind(batch: &mut Batch, kind: &str) {
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    batch.message(RTM_NEWLINK, flags, &link_header(0, 0, 0), |m| {
        m.u32(IFLA_NUM_TX_QUEUES, u32::MAX);
        m.nested(IFLA_LINKINFO, |m| m.string(IFLA_INFO_KIND, kind));
    });
}

/// Creates both ends with one message, the peer inside its namespace. Both are born down: the peer cannot be up
/// before it has its partner, and the host's end needs its other settings first.
pub(super) fn create_veth(batch: &mut Batch, pair: &VethPair<'_>) {
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    batch.message(RTM_NEWLINK, flags, &link_header(0, 0, 0), |m| {
        m.string(IFLA_IFNAME, pair.host_name);
        m.u32(IFLA_MTU, pair.mtu);
        m.u32(IFLA_MASTER, pair.bridge_index);
        m.nested(IFLA_LINKINFO, |m| {
            m.string(IFLA_INFO_KIND, "veth");
            m.nested(IFLA_INFO_DATA, |m| {
                m.nested(VETH_INFO_PEER, |m| {
                    m.raw(&link_header(0, 0, 0));
                    m.string(IFLA_IFNAME, pair.peer_name);
                    m.u32(IFLA_MTU, pair.mtu);
                    m.u32(IFLA_NET_NS_FD, pair.peer_netns.as_raw_fd() as u32);
                });
            });
        });
    });
}

/// Makes a created veth a port that may send back what it sent (hairpin), names its owner and brings it up.
pub(super) fn configure_port(batch: &mut Batch, name: &str, alias: &str, without_ipv6: bool) {
    batch.message(RTM_NEWLINK, NLM_F_ACK, &link_header(0, IFF_UP, IFF_UP), |m| {
        m.string(IFLA_IFNAME, name);
        m.string(IFLA_IFALIAS, alias);
        m.nested(IFLA_LINKINFO, |m| {
            m.string(IFLA_INFO_SLAVE_KIND, "bridge");
            m.nested(IFLA_INFO_SLAVE_DATA, |m| m.attribute(IFLA_BRPORT_MODE, &[1]));
        });
        no_link_local(m, without_ipv6);
    });
}

/// Alias, MTU and state of a link that exists.
pub(super) fn configure_link(
    batch: &mut Batch,
    index: u32,
    alias: Option<&str>,
    mtu: Option<u32>,
    no_ipv6: bool,
) {
    batch.message(RTM_NEWLINK, NLM_F_ACK, &link_header(index, IFF_UP, IFF_UP), |m| {
        if let Some(alias) = alias {
            m.string(IFLA_IFALIAS, alias);
        }
        if let Some(mtu) = mtu {
            m.u32(IFLA_MTU, mtu);
        }
        no_link_local(m, no_ipv6);
    });
}

/// Ports and bridges need no IPv6 address of their own making.
fn no_link_local(m: &mut Batch, wanted: bool) {
    if wanted {
        m.nested(IFLA_AF_SPEC, |m| {
            m.nested(u16::from(AF_INET6), |m| {
                m.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
            });
        });
    }
}

pub(super) fn set_group(batch: &mut Batch, index: u32, group: u32) {
    batch.message(RTM_NEWLINK, NLM_F_ACK, &link_header(index, 0, 0), |m| m.u32(IFLA_GROUP, group));
}

/// Deletes all links of a group at once: one wait for the kernel's grace period instead of one each.
pub(super) fn delete_group(batch: &mut Batch, group: u32) {
    batch.message(RTM_DELLINK, NLM_F_ACK, &link_header(0, 0, 0), |m| m.u32(IFLA_GROUP, group));
}

pub(super) fn delete_link(batch: &mut Batch, index: u32) {
    batch.message(RTM_DELLINK, NLM_F_ACK, &link_header(index, 0, 0), |_| ());
}

pub(super) fn dump_links(batch: &mut Batch) {
    batch.message(RTM_GETLINK, NLM_F_DUMP, &link_header(0, 0, 0), |_| ());
}

pub(super) fn get_link(batch: &mut Batch, name: &str) {
    batch.message(RTM_GETLINK, NLM_F_ACK, &link_header(0, 0, 0), |m| m.string(IFLA_IFNAME, name));
}

pub(super) fn parse_link(payload: &[u8]) -> Option<Link> {
    let index = u32::from_ne_bytes(*payload.get(4..)?.first_chunk::<4>()?);
    let attributes = Attributes::new(payload.get(16..)?);
    let text = |bytes: Option<&[u8]>| {
        bytes.map(|b| String::from_utf8_lossy(b).trim_end_matches('\0').to_owned()).unwrap_or_default()
    };
    let info = attributes.get(IFLA_LINKINFO).map(Attributes::new);
    Some(Link {
        index,
        name: text(attributes.get(IFLA_IFNAME)),
        alias: text(attributes.get(IFLA_IFALIAS)),
        kind: text(info.and_then(|i| i.get(IFLA_INFO_KIND))),
        mtu: attributes.get(IFLA_MTU).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_ne_bytes(*b)),
    })
}

fn octets(address: IpAddr) -> ([u8; 16], usize) {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(a) => {
            bytes[..4].copy_from_slice(&a.octets());
            (bytes, 4)
        }
        IpAddr::V6(a) => (a.octets(), 16),
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// Forgets whose hardware address belongs to `address` behind a link.
pub(super) fn delete_neighbour(batch: &mut Batch, index: u32, address: IpAddr) {
    // struct ndmsg: family, padding, index, state, flags, type.
    let mut header = [0_u8; 12];
    header[0] = family(address);
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let (bytes, length) = octets(address);
    batch.message(RTM_DELNEIGH, NLM_F_ACK, &header, |m| m.attribute(NDA_DST, &bytes[..length]));
}

fn address_message(batch: &mut Batch, kind: u16, flags: u16, index: u32, cidr: Cidr) {
    let mut header = [0; 8];
    header[0] = family(cidr.address());
    header[1] = cidr.prefix();
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    batch.message(kind, flags, &header, |m| {
        let (bytes, length) = octets(cidr.address());
        m.attribute(IFA_LOCAL, &bytes[..length]);
        m.attribute(IFA_ADDRESS, &bytes[..length]);
    });
}

/// Adds an address; one that is there already is no error.
pub(super) fn add_address(batch: &mut Batch, index: u32, cidr: Cidr) {
    address_message(batch, RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, index, cidr);
}

pub(super) fn delete_address(batch: &mut Batch, index: u32, cidr: Cidr) {
    address_message(batch, RTM_DELADDR, NLM_F_ACK, index, cidr);
}

pub(super) fn dump_addresses(batch: &mut Batch) {
    batch.message(RTM_GETADDR, NLM_F_DUMP, &[0; 8], |_| ());
}

/// The link's index and the address.
pub(super) fn parse_address(payload: &[u8]) -> Option<(u32, Cidr)> {
    let index = u32::from_ne_bytes(*payload.get(4..)?.first_chunk::<4>()?);
    let attributes = Attributes::new(payload.get(8..)?);
    let bytes = attributes.get(IFA_LOCAL).or_else(|| attributes.get(IFA_ADDRESS))?;
    let address: IpAddr = match *payload.first()? {
        AF_INET => (*bytes.first_chunk::<4>()?).into(),
        AF_INET6 => (*bytes.first_chunk::<16>()?).into(),
        _ => return None,
    };
    Some((index, Cidr::new(address, *payload.get(1)?).ok()?))
}

/// A route to `destination` through link `index`; directly, or by way of `gateway`. `source` is the address that
/// packets of this machine carry there. A route to the same destination is replaced.
pub(super) fn add_route(
    batch: &mut Batch,
    index: u32,
    destination: Cidr,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
) {
    let scope = if gateway.is_some() { RT_SCOPE_UNIVERSE } else { RT_SCOPE_LINK };
    let destination = destination.network();
    let mut header = [0; 12];
    header[0] = family(destination.address());
    header[1] = destination.prefix();
    header[4] = RT_TABLE_MAIN;
    header[5] = RTPROT_STATIC;
    header[6] = scope;
    header[7] = RTN_UNICAST;
    batch.message(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &header, |m| {
        if destination.prefix() > 0 {
            let (bytes, length) = octets(destination.address());
            m.attribute(RTA_DST, &bytes[..length]);
        }
        m.u32(RTA_OIF, index);
        for (kind, address) in [(RTA_GATEWAY, gateway), (RTA_PREFSRC, source)] {
            if let Some(address) = address {
                let (bytes, length) = octets(address);
                m.attribute(kind, &bytes[..length]);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_answer_makes_the_readers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse_link(&bytes);
            let _ = parse_address(&bytes);
        }
    }
}

//! nftables' expressions (linux/netfilter/nf_tables.h): the small programs that rules are.

use std::net::IpAddr;

use crate::address::Cidr;
use crate::netlink::message::Batch;

pub(super) const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;

/// The verdict's register and the first of the sixteen registers of four bytes.
const VERDICT: u32 = 0;
pub(super) const REG: u32 = 8;

const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const CT_PROTO_DST: u32 = 12;
const CT_DST_IP: u32 = 20;
/// The direction of a connection's first packet (IP_CT_DIR_ORIGINAL).
const CT_ORIGINAL: u8 = 0;
/// The bit of `ct state new`.
const CT_STATE_NEW: u32 = 8;
/// The bit of `ct status dnat` (IPS_DST_NAT).
const CT_STATUS_DNAT: u32 = 1 << 5;
const NG_RANDOM: u32 = 1;
const NAT_DNAT: u32 = 1;
const RANGE_FULLY_RANDOM: u32 = 1 << 4;
const REJECT_ICMP_UNREACHABLE: u32 = 0;
const REJECT_TCP_RESET: u32 = 1;
const ICMP_PORT_UNREACHABLE: u8 = 3;
const ICMP_REDIRECT: u8 = 5;
const DYNSET_UPDATE: u32 = 1;

pub(super) const NF_DROP: i32 = 0;
pub(super) const NF_ACCEPT: i32 = 1;
pub(super) const NFT_RETURN: i32 = -5;
pub(super) const NFT_GOTO: i32 = -4;

const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;

/// One rule: its expressions, written in the order that they run, and the comment that `nft list` shows.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    expressions: Batch,
    pub(super) comment: Option<&'static str>,
}

/// A field of the packet that a table keys by.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field {
    Source,
    Destination,
    Protocol,
    Port,
    /// What the client asked for, before anything was rewritten.
    AskedAddress,
    AskedPort,
    /// A random number below the modulus.
    Random(u32),
}

impl Rule {
    pub(super) fn new() -> Self {
        Self { expressions: Batch::new(0), comment: None }
    }

    pub(super) fn comment(mut self, comment: &'static str) -> Self {
        self.comment = Some(comment);
        self
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.expressions.bytes()
    }

    fn expression(mut self, name: &str, fill: impl FnOnce(&mut Batch)) -> Self {
        self.expressions.nested(NFTA_LIST_ELEM, |m| {
            m.string(NFTA_EXPR_NAME, name);
            m.nested(NFTA_EXPR_DATA, fill);
        });
        self
    }

    fn payload(self, base: u32, offset: u32, length: u32, register: u32) -> Self {
        self.expression("payload", |m| {
            m.be32(1, register);
            m.be32(2, base);
            m.be32(3, offset);
            m.be32(4, length);
        })
    }

    fn meta(self, key: u32, register: u32) -> Self {
        self.expression("meta", |m| {
            m.be32(1, register);
            m.be32(2, key);
        })
    }

    fn compare(self, operator: u32, value: &[u8]) -> Self {
        self.expression("cmp", |m| {
            m.be32(1, REG);
            m.be32(2, operator);
            m.nested(3, |m| m.attribute(NFTA_DATA_VALUE, value));
        })
    }

    fn mask(self, mask: &[u8]) -> Self {
        let zero = vec![0; mask.len()];
        self.expression("bitwise", |m| {
            m.be32(1, REG);
            m.be32(2, REG);
            m.be32(3, mask.len() as u32);
            m.nested(4, |m| m.attribute(NFTA_DATA_VALUE, mask));
            m.nested(5, |m| m.attribute(NFTA_DATA_VALUE, &zero));
        })
    }

    /// Loads `fields` into consecutive registers from `register` on. IPv4's layout; addresses take one register.
    pub(super) fn load(mut self, fields: &[Field], register: u32) -> Self {
        for (field, register) in fields.iter().zip(register..) {
            self = match field {
                Field::Source => self.payload(NETWORK_HEADER, 12, 4, register),
                Field::Destination => self.payload(NETWORK_HEADER, 16, 4, register),
                Field::Protocol => self.meta(META_L4PROTO, register),
                Field::Port => self.payload(TRANSPORT_HEADER, 2, 2, register),
                Field::AskedAddress => self.ct_original(CT_DST_IP, register),
                Field::AskedPort => self.ct_original(CT_PROTO_DST, register),
                Field::Random(modulus) => self.expression("numgen", |m| {
                    m.be32(1, register);
                    m.be32(2, *modulus);
                    m.be32(3, NG_RANDOM);
                }),
            };
        }
        self
    }

    /// Continues if `fields` are in `set`.
    pub(super) fn when_in(self, fields: &[Field], set: &str) -> Self {
        self.load(fields, REG).expression("lookup", |m| {
            m.string(1, set);
            m.be32(2, REG);
        })
    }

    /// Does what `map` says for `fields`; continues with the next rule if it says nothing.
    pub(super) fn verdict_of(self, fields: &[Field], map: &str) -> Self {
        self.load(fields, REG).lookup(map, REG, VERDICT)
    }

    pub(super) fn lookup(self, map: &str, key: u32, into: u32) -> Self {
        self.expression("lookup", |m| {
            m.string(1, map);
            m.be32(2, key);
            m.be32(3, into);
        })
    }

    /// Sends the packet to the address and port that `map` has for `fields`.
    pub(super) fn dnat_to(self, fields: &[Field], map: &str) -> Self {
        self.load(fields, REG).lookup(map, REG, REG).expression("nat", |m| {
            m.be32(1, NAT_DNAT);
            m.be32(2, u32::from(libc::AF_INET as u16));
            m.be32(3, REG);
            m.be32(5, REG + 1);
        })
    }

    /// Remembers in the dynamic map `map`, under the key in `key`'s registers, what `data`'s registers hold. An
    /// entry that is there keeps its data and only lives on for another `timeout_ms`.
    pub(super) fn remember(self, map: &str, key: u32, data: u32, timeout_ms: u64) -> Self {
        self.expression("dynset", |m| {
            m.string(1, map);
            m.be32(3, DYNSET_UPDATE);
            m.be32(4, key);
            m.be32(5, data);
            m.attribute(6, &timeout_ms.to_be_bytes());
        })
    }

    /// Continues if the packet came in through `interface` (`is`), or did not.
    pub(super) fn input(self, interface: &Interface, is: bool) -> Self {
        self.meta(META_IIFNAME, REG).compare(if is { CMP_EQ } else { CMP_NEQ }, &interface.0)
    }

    /// Continues if the packet goes out through `interface` (`is`), or does not.
    pub(super) fn output(self, interface: &Interface, is: bool) -> Self {
        self.meta(META_OIFNAME, REG).compare(if is { CMP_EQ } else { CMP_NEQ }, &interface.0)
    }

    /// Continues if `field` lies in the IPv4 range (`is`), or does not.
    pub(super) fn in_range(self, field: Field, range: Cidr, is: bool) -> Self {
        let IpAddr::V4(network) = range.network().address() else {
            unreachable!("only IPv4 ranges are compiled into the IPv4 table");
        };
        let mask = u32::MAX.checked_shl(32 - u32::from(range.prefix())).unwrap_or(0);
        let loaded = self.load(&[field], REG);
        let masked = if range.prefix() < 32 { loaded.mask(&mask.to_be_bytes()) } else { loaded };
        masked.compare(if is { CMP_EQ } else { CMP_NEQ }, &network.octets())
    }

    /// Continues if the packet is one of IPv4, in tables of both families.
    pub(super) fn when_ipv4(self) -> Self {
        self.meta(META_NFPROTO, REG).compare(CMP_EQ, &[libc::NFPROTO_IPV4 as u8])
    }

    pub(super) fn when_tcp(self) -> Self {
        self.meta(META_L4PROTO, REG).compare(CMP_EQ, &[libc::IPPROTO_TCP as u8])
    }

    pub(super) fn when_icmp_redirect(self) -> Self {
        self.meta(META_L4PROTO, REG)
            .compare(CMP_EQ, &[libc::IPPROTO_ICMP as u8])
            .payload(TRANSPORT_HEADER, 0, 1, REG)
            .compare(CMP_EQ, &[ICMP_REDIRECT])
    }

    pub(super) fn when_new(self) -> Self {
        self.ct_bit(CT_STATE, CT_STATE_NEW)
    }

    pub(super) fn when_dnat(self) -> Self {
        self.ct_bit(CT_STATUS, CT_STATUS_DNAT)
    }

    fn ct_original(self, key: u32, register: u32) -> Self {
        self.expression("ct", |m| {
            m.be32(1, register);
            m.be32(2, key);
            m.attribute(3, &[CT_ORIGINAL]);
        })
    }

    fn ct_bit(self, key: u32, bit: u32) -> Self {
        self.expression("ct", |m| {
            m.be32(1, REG);
            m.be32(2, key);
        })
        .mask(&bit.to_ne_bytes())
        .compare(CMP_NEQ, &[0; 4])
    }

    pub(super) fn masquerade(self) -> Self {
        self.expression("masq", |m| m.be32(1, RANGE_FULLY_RANDOM))
    }

    pub(super) fn reject_tcp(self) -> Self {
        self.expression("reject", |m| m.be32(1, REJECT_TCP_RESET))
    }

    pub(super) fn reject(self) -> Self {
        self.expression("reject", |m| {
            m.be32(1, REJECT_ICMP_UNREACHABLE);
            m.attribute(2, &[ICMP_PORT_UNREACHABLE]);
        })
    }

    pub(super) fn verdict(self, code: i32, chain: Option<&str>) -> Self {
        self.expression("immediate", |m| {
            m.be32(1, VERDICT);
            m.nested(2, |m| write_verdict(m, code, chain));
        })
    }
}

/// The data of a verdict, in rules and in the elements of verdict maps.
pub(super) fn write_verdict(m: &mut Batch, code: i32, chain: Option<&str>) {
    m.nested(NFTA_DATA_VERDICT, |m| {
        m.attribute(NFTA_VERDICT_CODE, &code.to_be_bytes());
        if let Some(chain) = chain {
            m.string(NFTA_VERDICT_CHAIN, chain);
        }
    });
}

pub(super) fn write_value(m: &mut Batch, value: &[u8]) {
    m.attribute(NFTA_DATA_VALUE, value);
}

/// The verdict's code and the name of its chain.
pub(super) fn read_verdict(data: &[u8]) -> Option<(i32, Option<String>)> {
    use crate::netlink::message::Attributes;
    let verdict = Attributes::new(Attributes::new(data).get(NFTA_DATA_VERDICT)?);
    let code = i32::from_be_bytes(*verdict.get(NFTA_VERDICT_CODE)?.first_chunk()?);
    let chain =
        verdict.get(NFTA_VERDICT_CHAIN).map(|b| String::from_utf8_lossy(b).trim_end_matches('\0').to_owned());
    Some((code, chain))
}

pub(super) fn read_value(data: &[u8]) -> Option<&[u8]> {
    crate::netlink::message::Attributes::new(data).get(NFTA_DATA_VALUE)
}

/// An interface's name as rules compare it.
#[derive(Clone, Debug)]
pub(super) struct Interface(Vec<u8>);

impl Interface {
    /// Exactly `name`.
    pub(super) fn named(name: &str) -> Self {
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(16, 0);
        Self(bytes)
    }

    /// Any name that begins with `prefix` (`prefix*`).
    pub(super) fn beginning_with(prefix: &str) -> Self {
        Self(prefix.as_bytes().to_vec())
    }
}

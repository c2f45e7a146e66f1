//! Addresses, ranges and transport protocols, as plain data.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An address with the length of its network's prefix. The host bits are kept: `10.1.0.1/24` is both an
/// interface's address and a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Text or numbers that are no address range.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no address range: write it like 10.244.0.0/16")]
pub struct CidrError(String);

impl Cidr {
    /// `prefix` is at most the address' number of bits.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, CidrError> {
        if u32::from(prefix) > bits(address) {
            return Err(CidrError(format!("{address}/{prefix}")));
        }
        Ok(Self { address, prefix })
    }

    /// The range that holds this one address.
    pub fn host(address: IpAddr) -> Self {
        Self { address, prefix: bits(address) as u8 }
    }

    /// The address as it was given, host bits included.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The length of the prefix, in bits.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The same range with its host bits cleared.
    pub fn network(&self) -> Self {
        let address = match self.address {
            IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & mask32(self.prefix))),
            IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & mask128(self.prefix))),
        };
        Self { address, prefix: self.prefix }
    }

    /// Whether `address` lies in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()) & mask32(self.prefix) == 0,
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()) & mask128(self.prefix) == 0,
            _ => false,
        }
    }
}

fn bits(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask32(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn mask128(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let plain = !prefix.is_empty() && prefix.len() <= 3 && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix: u8 = prefix.parse().ok().filter(|_| plain).ok_or_else(error)?;
        Self::new(address, prefix).map_err(|_| error())
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The transport protocols that a Service can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl Protocol {
    /// IANA's number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The lower-case name, as in DNS' SRV labels (without the underscore).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a range")
    }

    #[test]
    fn ranges_contain_what_their_prefix_says() {
        assert!(cidr("10.244.0.1/16").contains("10.244.255.255".parse().expect("an address")));
        assert!(!cidr("10.244.0.1/16").contains("10.245.0.0".parse().expect("an address")));
        assert!(cidr("0.0.0.0/0").contains("8.8.8.8".parse().expect("an address")));
        assert!(!cidr("0.0.0.0/0").contains("::1".parse().expect("an address")));
        assert_eq!(cidr("fd00::17/64").network(), cidr("fd00::/64"));
        assert_eq!(cidr("10.1.2.3/8").network().to_string(), "10.0.0.0/8");
    }

    #[test]
    fn text_that_is_no_range_is_refused() {
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "::/129", "10.0.0.0/+8"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}

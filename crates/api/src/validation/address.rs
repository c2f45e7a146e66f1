//! IP addresses and CIDRs, with upstream's sentences.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::status::Cause;

use super::cause::{self, quoted};

const NOT_AN_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NOT_A_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// Reads an address as upstream's old parser does, which takes leading zeros in IPv4 for decimal.
fn parse_sloppy(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    let octets: Vec<u8> = text
        .split('.')
        .map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            digits
                .then(|| part.trim_start_matches('0'))
                .and_then(|part| if part.is_empty() { Some(0) } else { part.parse().ok() })
        })
        .collect::<Option<_>>()?;
    let octets: [u8; 4] = octets.try_into().ok()?;
    Some(IpAddr::V4(Ipv4Addr::from(octets)))
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// The rule of fields that are older than strict parsing: no canonical form is asked for.
pub fn ip_for_legacy_field(field: impl std::fmt::Display, value: &str) -> Vec<Cause> {
    ip_problems(value).into_iter().map(|detail| cause::invalid(&field, value, &detail)).collect()
}

fn ip_problems(value: &str) -> Vec<String> {
    if parse_sloppy(value).is_none() {
        return vec![NOT_AN_IP.to_owned()];
    }
    match value.parse::<IpAddr>() {
        Err(_) => vec!["must not have leading 0s".to_owned()],
        Ok(address) if is_mapped(address) => vec!["must not be an IPv4-mapped IPv6 address".to_owned()],
        Ok(_) => Vec::new(),
    }
}

/// An address in canonical form: the rule of new fields.
pub fn is_canonical_ip(value: &str) -> Vec<String> {
    let wrong = ip_problems(value);
    if !wrong.is_empty() {
        return wrong;
    }
    match value.parse::<IpAddr>() {
        Ok(address) if address.to_string() != value => {
            vec![format!("must be in canonical form ({})", quoted(&address.to_string()))]
        }
        _ => Vec::new(),
    }
}

/// An address and the length of its network's prefix: `10.9.8.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address as written.
    pub address: IpAddr,
    /// Length of the prefix in bits.
    pub prefix: u8,
}

impl Cidr {
    /// Reads `10.9.8.0/24`. Leading zeros are refused.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let plain =
            prefix.bytes().all(|byte| byte.is_ascii_digit()) && (prefix == "0" || !prefix.starts_with('0'));
        let prefix: u8 = if plain { prefix.parse().ok()? } else { return None };
        (prefix <= if address.is_ipv4() { 32 } else { 128 }).then_some(Self { address, prefix })
    }

    /// The first address of the network.
    pub fn network(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        }
    }

    /// Whether `address` lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && Self { address, prefix: self.prefix }.network() == self.network()
    }
}

/// The rule of fields that are older than strict parsing.
pub fn cidr_for_legacy_field(field: impl std::fmt::Display, value: &str) -> Vec<Cause> {
    cidr_problems(value).into_iter().map(|detail| cause::invalid(&field, value, &detail)).collect()
}

/// A network in canonical form: the rule of new fields.
pub fn is_canonical_cidr(value: &str) -> Vec<String> {
    let wrong = cidr_problems(value);
    if !wrong.is_empty() {
        return wrong;
    }
    match Cidr::parse(value) {
        Some(cidr) => {
            let canonical = format!("{}/{}", cidr.network(), cidr.prefix);
            if canonical == value {
                Vec::new()
            } else {
                vec![format!("must be in canonical form ({})", quoted(&canonical))]
            }
        }
        None => Vec::new(),
    }
}

fn cidr_problems(value: &str) -> Vec<String> {
    let sloppy = value.split_once('/').and_then(|(address, prefix)| {
        let address = parse_sloppy(address)?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let bits: u32 = if digits { prefix.parse().ok()? } else { return None };
        (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(())
    });
    if sloppy.is_none() {
        return vec![NOT_A_CIDR.to_owned()];
    }
    match Cidr::parse(value) {
        None => vec!["must not have leading 0s in IP or prefix length".to_owned()],
        Some(cidr) if is_mapped(cidr.address) => vec!["must not have an IPv4-mapped IPv6 address".to_owned()],
        Some(cidr) if cidr.network() != cidr.address => {
            vec!["must not have bits set beyond the prefix length".to_owned()]
        }
        Some(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert!(is_canonical_ip("10.0.0.1").is_empty());
        assert!(is_canonical_ip("fe80::1").is_empty());
        assert_eq!(is_canonical_ip("FE80::1"), ["must be in canonical form (\"fe80::1\")"]);
        assert_eq!(is_canonical_ip("010.0.0.1"), ["must not have leading 0s"]);
        assert_eq!(is_canonical_ip("::ffff:1.2.3.4"), ["must not be an IPv4-mapped IPv6 address"]);
        for bad in ["", "1.2.3", "1.2.3.256", "a", "1.2.3.4/24"] {
            assert_eq!(is_canonical_ip(bad), [NOT_AN_IP], "{bad}");
        }
    }

    #[test]
    fn networks() {
        assert!(is_canonical_cidr("10.9.8.0/24").is_empty());
        assert!(is_canonical_cidr("0.0.0.0/0").is_empty());
        assert!(is_canonical_cidr("2001:db8::/64").is_empty());
        assert_eq!(is_canonical_cidr("10.9.8.1/24"), ["must not have bits set beyond the prefix length"]);
        assert_eq!(is_canonical_cidr("10.9.8.0/024"), ["must not have leading 0s in IP or prefix length"]);
        assert_eq!(is_canonical_cidr("10.9.8.0/33"), [NOT_A_CIDR]);
        assert!(Cidr::parse("10.0.0.0/8").unwrap().contains("10.200.0.1".parse().unwrap()));
        assert!(!Cidr::parse("10.0.0.0/8").unwrap().contains("11.0.0.1".parse().unwrap()));
    }
}

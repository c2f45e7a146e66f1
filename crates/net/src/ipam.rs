//! Addresses of pods: a bitmap over one range.
//!
//! Nothing is written down: after a restart the allocator is filled again from the pods that live.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

use crate::address::Cidr;

/// The most addresses that one range hands out; larger ranges (IPv6) are cut to their beginning.
pub const RANGE_MAX_ADDRESSES: u64 = 65_536;

/// Hands out addresses of one range, each at most once at a time.
///
/// The first address (the network's), the second (the gateway's) and the last (the broadcast's) are never given.
/// The search goes on behind the last address given, so that a freed address rests as long as possible.
#[derive(Clone, Debug)]
pub struct Ipam {
    range: Cidr,
    size: u64,
    words: Vec<u64>,
    used: u64,
    next: u64,
}

/// Why no address was given.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum IpamError {
    /// All addresses are in use.
    #[error("all {usable} addresses of {range} are in use: delete pods or give the node a larger range")]
    Exhausted { range: Cidr, usable: u64 },
    /// The address is somebody's already.
    #[error("address {0} is in use already")]
    InUse(IpAddr),
    /// The address is not of this range, or one of those never given.
    #[error("address {address} is not one that {range} gives to pods")]
    OutOfRange { address: IpAddr, range: Cidr },
    /// The range has no room for a gateway and a pod.
    #[error("range {0} is too small: it needs a prefix of at most 29 bits (IPv4) or 125 (IPv6)")]
    TooSmall(Cidr),
}

impl Ipam {
    /// An empty allocator over `range`.
    pub fn new(range: Cidr) -> Result<Self, IpamError> {
        let range = range.network();
        let host_bits = if range.address().is_ipv4() { 32 } else { 128 } - u32::from(range.prefix());
        if host_bits < 3 {
            return Err(IpamError::TooSmall(range));
        }
        let size = 1_u64.checked_shl(host_bits).unwrap_or(u64::MAX).min(RANGE_MAX_ADDRESSES);
        let words = vec![0; size.div_ceil(64) as usize];
        Ok(Self { range, size, words, used: 0, next: 2 })
    }

    /// The range, its host bits cleared.
    pub fn range(&self) -> Cidr {
        self.range
    }

    /// The address of the bridge: the first after the network's own.
    pub fn gateway(&self) -> IpAddr {
        self.nth(1)
    }

    /// How many addresses are given out.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// A free address, which is in use from now on.
    pub fn reserve(&mut self) -> Result<IpAddr, IpamError> {
        let usable = self.size - 3;
        if self.used == usable {
            return Err(IpamError::Exhausted { range: self.range, usable });
        }
        // Some address is free, so going once around finds it.
        let mut index = self.next;
        while self.is_set(index) {
            index = self.after(index);
        }
        self.set(index);
        self.next = self.after(index);
        Ok(self.nth(index))
    }

    /// Marks `address` as in use: for the pods that a restart finds alive.
    pub fn reserve_exactly(&mut self, address: IpAddr) -> Result<(), IpamError> {
        let index = self.index(address)?;
        if self.is_set(index) {
            return Err(IpamError::InUse(address));
        }
        self.set(index);
        Ok(())
    }

    /// Frees `address`; returns whether it was in use.
    pub fn release(&mut self, address: IpAddr) -> bool {
        match self.index(address) {
            Ok(index) if self.is_set(index) => {
                self.words[(index / 64) as usize] &= !(1 << (index % 64));
                self.used -= 1;
                true
            }
            _ => false,
        }
    }

    fn after(&self, index: u64) -> u64 {
        if index + 2 >= self.size { 2 } else { index + 1 }
    }

    fn is_set(&self, index: u64) -> bool {
        self.words[(index / 64) as usize] >> (index % 64) & 1 == 1
    }

    fn set(&mut self, index: u64) {
        self.words[(index / 64) as usize] |= 1 << (index % 64);
        self.used += 1;
    }

    fn nth(&self, index: u64) -> IpAddr {
        match self.range.address() {
            IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() + index as u32)),
            IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() + u128::from(index))),
        }
    }

    fn index(&self, address: IpAddr) -> Result<u64, IpamError> {
        let out_of_range = IpamError::OutOfRange { address, range: self.range };
        let index = match (self.range.address(), address) {
            (IpAddr::V4(base), IpAddr::V4(a)) => u128::from(a.to_bits()).checked_sub(base.to_bits().into()),
            (IpAddr::V6(base), IpAddr::V6(a)) => a.to_bits().checked_sub(base.to_bits()),
            _ => None,
        };
        match index {
            Some(index) if index >= 2 && index < u128::from(self.size) - 1 => Ok(index as u64),
            _ => Err(out_of_range),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ipam(range: &str) -> Ipam {
        Ipam::new(range.parse().expect("a range")).expect("large enough")
    }

    #[test]
    fn network_gateway_and_broadcast_are_never_given() {
        let mut ipam = ipam("10.1.0.0/29");
        let given: Vec<String> = (0..5).map(|_| ipam.reserve().expect("five are free").to_string()).collect();
        assert_eq!(given, ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"]);
        assert!(matches!(ipam.reserve(), Err(IpamError::Exhausted { usable: 5, .. })));
        assert_eq!(ipam.gateway().to_string(), "10.1.0.1");
        let broadcast = "10.1.0.7".parse().expect("an address");
        assert!(matches!(ipam.reserve_exactly(broadcast), Err(IpamError::OutOfRange { .. })));
    }

    #[test]
    fn a_freed_address_rests_until_the_others_were_given() {
        let mut ipam = ipam("10.1.0.0/29");
        let first = ipam.reserve().expect("free");
        assert!(ipam.release(first));
        assert!(!ipam.release(first));
        let next: Vec<IpAddr> = (0..4).map(|_| ipam.reserve().expect("free")).collect();
        assert!(!next.contains(&first));
        assert_eq!(ipam.reserve(), Ok(first));
    }

    #[test]
    fn ipv6_ranges_are_cut_to_the_limit() {
        let mut ipam = ipam("fd00::/64");
        assert_eq!(ipam.reserve().expect("free").to_string(), "fd00::2");
        let far = "fd00::2:0".parse().expect("an address");
        assert!(matches!(ipam.reserve_exactly(far), Err(IpamError::OutOfRange { .. })));
    }

    proptest! {
        #[test]
        fn no_address_is_ever_given_twice(steps in proptest::collection::vec((any::<bool>(), 0_u8..16), 0..200)) {
            let mut ipam = ipam("10.9.0.0/28");
            let mut model: BTreeSet<IpAddr> = BTreeSet::new();
            for (take, which) in steps {
                if take {
                    match ipam.reserve() {
                        Ok(address) => prop_assert!(model.insert(address)),
                        Err(_) => prop_assert_eq!(model.len(), 13),
                    }
                } else {
                    let address = IpAddr::from([10, 9, 0, which]);
                    prop_assert_eq!(ipam.release(address), model.remove(&address));
                }
                prop_assert_eq!(ipam.used() as usize, model.len());
            }
        }
    }
}

//! How many connections each address has.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

/// The bits of an IPv6 address that one customer, or one machine, cannot choose.
const NETWORK: u128 = !0 << 64;

/// The connections of each address.
pub(super) struct Peers {
    most: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection of an address, as long as this is kept.
pub(super) struct Place(Arc<Peers>, IpAddr);

impl Peers {
    /// Nobody yet; each address may have `most` connections.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, counts: Mutex::default() })
    }

    /// A place for one more connection of `peer`, unless it has all that it may have.
    pub(super) fn take(self: &Arc<Self>, peer: SocketAddr) -> Option<Place> {
        let peer = match peer.ip().to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & NETWORK)),
            address @ IpAddr::V4(_) => address,
        };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Place(self.clone(), peer))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share_and_gets_it_back() {
        let peers = Peers::new(2);
        let take = |address: &str| peers.take(SocketAddr::new(address.parse().unwrap(), 1));
        let (first, second) = (take("10.0.0.1"), take("::ffff:10.0.0.1"));
        assert!(first.is_some() && second.is_some());
        assert!(take("10.0.0.1").is_none(), "both forms are one address");
        assert!(take("10.0.0.2").is_some(), "another address has a share of its own");
        drop(first);
        assert!(take("10.0.0.1").is_some());
        let network = [take("2001:db8::1"), take("2001:db8::2")];
        assert!(take("2001:db8::3").is_none(), "a network is one customer");
        assert!(take("2001:db8:0:1::3").is_some());
        drop((second, network));
        assert!(peers.counts.lock().unwrap().is_empty(), "nothing is remembered of those who have gone");
    }
}

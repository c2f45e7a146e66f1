//! The name that everything of ours in the kernel carries.

use std::fmt;

use thiserror::Error;

/// What the names of all our bridges begin with, whatever their instance: rules match it as `ondbr-*`.
pub const BRIDGE_PREFIX: &str = "ondbr-";

/// The longest instance name that is accepted, in bytes.
pub const INSTANCE_NAME_MAX_BYTES: usize = 40;

/// How many bytes of a bridge's name tell the instance: the kernel takes 15 bytes in all.
const TAG_BYTES: usize = 9;

/// One instance of the whole system on this machine. Names of links and tables derive from it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance(String);

/// A name that cannot be an instance's.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "instance name {0:?} is not usable: take 1 to {INSTANCE_NAME_MAX_BYTES} lower-case letters, digits or '-', \
     with a letter or digit at both ends"
)]
pub struct InstanceError(String);

impl Instance {
    /// Accepts names that are DNS labels, so that they are safe wherever they appear.
    pub fn new(name: &str) -> Result<Self, InstanceError> {
        let bytes = name.as_bytes();
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let ends_plain = bytes.first().is_some_and(plain) && bytes.last().is_some_and(plain);
        if !ends_plain
            || bytes.len() > INSTANCE_NAME_MAX_BYTES
            || !bytes.iter().all(|b| plain(b) || *b == b'-')
        {
            return Err(InstanceError(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as given.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The bridge: the name itself where it fits, else its beginning and a hash of the whole.
    pub fn bridge(&self) -> String {
        if self.0.len() <= TAG_BYTES {
            return format!("{BRIDGE_PREFIX}{}", self.0);
        }
        format!("{BRIDGE_PREFIX}{}{}", &self.0[..4], letters(fnv1a(self.0.as_bytes()), 5))
    }

    /// The nftables table, the same name in each family.
    pub fn table(&self) -> String {
        format!("ondol-{}", self.0)
    }

    /// The host's end of the veth pair of the pod that `key` (its UID, say) names.
    pub fn veth(&self, key: &str) -> String {
        let hash = fnv1a(key.as_bytes()) ^ fnv1a(self.0.as_bytes()).rotate_left(31);
        format!("od{}", letters(hash, 12))
    }

    /// What the alias of each of our links begins with; the key of the pod follows.
    pub fn alias_prefix(&self) -> String {
        format!("ondol {} ", self.0)
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// FNV-1a with the finaliser of splitmix64, so that names that differ in a digit differ in every letter.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^ (hash >> 31)
}

fn letters(mut hash: u64, count: usize) -> String {
    let alphabet = b"abcdefghijklmnopqrstuvwxyz234567";
    (0..count)
        .map(|_| {
            let letter = alphabet[(hash & 31) as usize] as char;
            hash >>= 5;
            letter
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_into_the_kernels_fifteen_bytes_and_differ() {
        let short = Instance::new("default").expect("valid");
        assert_eq!(short.bridge(), "ondbr-default");
        let long = Instance::new("a-rather-long-name-of-an-instance").expect("valid");
        let other = Instance::new("a-rather-long-name-of-an-instancf").expect("valid");
        assert_eq!(long.bridge().len(), 15);
        assert_ne!(long.bridge(), other.bridge());
        assert!(long.veth("0a1b").len() <= 15);
        assert_ne!(long.veth("0a1b"), long.veth("0a1c"));
        assert_ne!(long.veth("0a1b"), other.veth("0a1b"));
    }

    #[test]
    fn names_that_are_no_labels_are_refused() {
        for bad in ["", "-a", "a-", "A", "a_b", "a b", "ä", &"x".repeat(41)] {
            assert!(Instance::new(bad).is_err(), "{bad:?}");
        }
    }
}

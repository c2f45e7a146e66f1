//! The only source of randomness: the kernel's, or a seed's.

use std::sync::{Arc, Mutex, PoisonError};

/// Letters that `generateName` suffixes are made of: no vowels and no look-alikes, so no words appear.
const SUFFIX_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Random numbers, passed in. Clones share the sequence.
#[derive(Clone, Debug)]
pub struct Random(Arc<Mutex<Generator>>);

#[derive(Debug)]
struct Generator {
    state: [u64; 4],
}

impl Random {
    /// Seeded by the kernel. Good for names and uids; keys and tokens are the crypto provider's business.
    pub fn system() -> Self {
        let mut seed = [0_u8; 32];
        let mut filled = 0;
        while filled < seed.len() {
            filled += rustix::rand::getrandom(&mut seed[filled..], rustix::rand::GetRandomFlags::empty())
                .expect("getrandom cannot fail for 32 bytes once the kernel is up");
        }
        let (words, _) = seed.as_chunks::<8>();
        Self::from_state(std::array::from_fn(|i| u64::from_le_bytes(words[i])))
    }

    /// The same sequence for the same seed.
    pub fn seeded(seed: u64) -> Self {
        // splitmix64 (Steele, Lea, Flood 2014) spreads the seed over the whole state.
        let mut z = seed;
        Self::from_state(std::array::from_fn(|_| {
            z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut x = z;
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ (x >> 31)
        }))
    }

    fn from_state(state: [u64; 4]) -> Self {
        Self(Arc::new(Mutex::new(Generator { state })))
    }

    /// 64 evenly distributed bits.
    pub fn bits(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    /// A number in `0..bound`. `bound` is at least 1.
    pub fn below(&self, bound: u64) -> u64 {
        assert!(bound > 0, "an empty range has no member");
        // Widening multiplication (Lemire 2019); the bias is below 2^-32 for the bounds that we use.
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// True with probability `numerator / denominator`.
    pub fn chance(&self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }

    /// `length` letters as `generateName` appends them.
    pub fn suffix(&self, length: usize) -> String {
        (0..length).map(|_| SUFFIX_LETTERS[self.below(27) as usize] as char).collect()
    }

    /// A random UUID (RFC 9562, version 4), in lower case.
    pub fn uuid(&self) -> String {
        let high = (self.bits() & 0xffff_ffff_ffff_0fff) | 0x4000;
        let low = (self.bits() & 0x3fff_ffff_ffff_ffff) | 0x8000_0000_0000_0000;
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }
}

impl Generator {
    /// xoshiro256** (Blackman, Vigna 2018).
    fn next(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_two_seeds_differ() {
        let sequence = |seed| (0..8).map(|_| Random::seeded(seed).bits()).collect::<Vec<_>>();
        assert_eq!(sequence(7), sequence(7));
        assert_ne!(Random::seeded(7).bits(), Random::seeded(8).bits());
    }

    #[test]
    fn uuids_carry_version_and_variant() {
        let uuid = Random::seeded(1).uuid();
        assert_eq!(uuid.len(), 36);
        assert_eq!(uuid.as_bytes()[14], b'4');
        assert!(matches!(uuid.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
    }

    #[test]
    fn below_stays_below() {
        let random = Random::system();
        assert!((0..1000).all(|_| random.below(3) < 3));
        assert_eq!(random.suffix(5).len(), 5);
    }
}

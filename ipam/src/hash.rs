//! A fast hash of holders' names, which are looked up with every request. Knows nothing of what they mean.
//!
//! Not made to withstand chosen names: they come from the container runtime of this host, which could take all addresses
//! with less effort. The same on every run, so that a seed replays.

use std::hash::{BuildHasherDefault, Hasher};

use crate::span::mix;

/// Makes the hashers of a map.
pub(crate) type NameHash = BuildHasherDefault<NameHasher>;

/// Eight bytes at a time; the finaliser spreads them over all bits.
#[derive(Debug, Default)]
pub(crate) struct NameHasher(u64);

impl NameHasher {
    /// Of FxHash: odd, and with as many ones as zeros in every part.
    const FACTOR: u64 = 0x517C_C1B7_2722_0A95;

    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(Self::FACTOR);
    }
}

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.add(u64::from_le_bytes(last));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.add(u64::from(byte));
    }

    fn finish(&self) -> u64 {
        mix(self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn names_that_differ_in_any_byte_are_spread() {
        let hash = NameHash::default();
        let names = (0..10_000).flat_map(|n| {
            [format!("cni:{n:064x}/eth0"), format!("cni:{n:<064}/eth0"), format!("{n}"), "0".repeat(n % 300)]
        });
        let names: BTreeSet<String> = names.collect();
        let buckets: BTreeSet<u64> = names.iter().map(|name| hash.hash_one(name) % (1 << 22)).collect();
        // 30,300 balls in four million bins: about a hundred fall into a bin with another one.
        assert!(buckets.len() + 200 > names.len(), "{} of {}", buckets.len(), names.len());
    }
}

//! A 64-bit hash for digests: the same on every machine and in every release, as it goes over the wire.
//!
//! Not cryptographic. A peer that forges collisions among its own signed records only hides them from itself.

/// In the manner of FNV-1a, eight bytes at a time, with a final mix, so that sums of hashes do not cancel out in patterns. Whoever writes
/// parts of different lengths writes the lengths as well: the last word of a part is filled up with zeros.
pub(crate) struct Hasher(u64);

impl Default for Hasher {
    fn default() -> Self {
        Hasher(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher {
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.absorb(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.absorb(u64::from_le_bytes(last));
        }
    }

    fn absorb(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }

    pub(crate) fn finish(&self) -> u64 {
        mix(self.0)
    }
}

/// Spreads every bit of `x` over all others (the finaliser of SplitMix64).
pub(crate) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

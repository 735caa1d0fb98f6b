//! Randomness comes in from outside, so that a seed replays a run. boringtun and ML-KEM draw their own (ADR 0003).

use std::time::Duration;

/// Fills a buffer with random bytes: the operating system's in `weaved`, a seeded stream in tests.
pub type RandomSource = Box<dyn FnMut(&mut [u8]) + Send>;

/// Draws values from the source.
pub(super) struct Random(RandomSource);

impl Random {
    pub(super) fn new(source: RandomSource) -> Self {
        Self(source)
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.0)(&mut bytes);
        bytes
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// Between nothing and `most`, in whole milliseconds.
    pub(super) fn up_to(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        Duration::from_millis(u64::from_le_bytes(self.bytes()) % most)
    }
}

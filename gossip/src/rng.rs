//! Chance for jitter and choice of neighbours, from a seed. Never for anything that must be secret.

use std::time::Duration;

use crate::hash::mix;

/// SplitMix64.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Rng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which must not be zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "a choice among nothing");
        // The bias of the remainder is far below what a choice of neighbours can feel.
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    pub(crate) fn choose<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { Some(&from[self.below(from.len())]) }
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// `base` less up to a quarter, so that peers that started together do not act together.
    pub(crate) fn jitter(&mut self, base: Duration) -> Duration {
        base.mul_f64(1.0 - (self.next() % 1024) as f64 / 4096.0)
    }
}

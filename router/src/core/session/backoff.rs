//! When to try again: exponential, bounded, with jitter. All dialling goes through here.

use std::time::{Duration, Instant};

use super::random::Random;

/// Doubles from `first` to `most`; each wait is stretched by up to a quarter, so that a fabric does not dial in step.
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// The time of the next try after one more failure.
    pub(super) fn fail(&mut self, random: &mut Random, now: Instant) -> Instant {
        let wait = self.first.saturating_mul(1 << self.failures.min(16)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        now + wait + random.up_to(wait / 4)
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

//! A token bucket over the caller's clock.

use std::time::{Duration, Instant};

/// Allows `rate` events a second, and `burst` at once.
pub(super) struct Bucket {
    cost: Duration,
    room: Duration,
    /// The bucket is full at this time.
    full_at: Instant,
}

impl Bucket {
    pub(super) fn new(rate: u32, burst: u32, now: Instant) -> Self {
        let cost = Duration::from_secs(1) / rate;
        Self { cost, room: cost * burst, full_at: now }
    }

    /// Takes a token if there is one.
    pub(super) fn take(&mut self, now: Instant) -> Taken {
        let after = self.full_at.max(now) + self.cost;
        if after.duration_since(now) > self.room {
            return Taken::Empty;
        }
        self.full_at = after;
        Taken::Token
    }
}

/// What came out of the bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    Token,
    Empty,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 5, start);
        let taken = |bucket: &mut Bucket, now| (0..100).filter(|_| bucket.take(now) == Taken::Token).count();
        assert_eq!(taken(&mut bucket, start), 5);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(200)), 2);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(60)), 5);
    }
}

//! How often one client may ask. Who asks more often is not heard, before anything is read: what it costs to throw a question away must be
//! far less than to send one, or one container's flood fills the socket for all others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Questions a second that one client may ask for long. A container that looks names up for each of its requests stays below it; a
/// hundred of them at once take a part of one processor.
const RATE: u32 = 1_000;
/// Questions at once, after a time of silence.
const BURST: u32 = 2_000;
/// Clients remembered. There are as many as containers on a host; more are forgers of addresses, who then share what is left.
const MAX_CLIENTS: usize = 4_096;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Rates {
    clients: HashMap<IpAddr, Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: u32,
    filled: Instant,
}

impl Rates {
    /// Whether a client may ask now; it has asked then.
    pub(super) fn admit(&mut self, client: IpAddr, now: Instant) -> bool {
        if !self.clients.contains_key(&client) && self.clients.len() >= MAX_CLIENTS {
            // Who was silent for so long that its bucket is full again need not be remembered.
            self.clients.retain(|_, bucket| now.saturating_duration_since(bucket.filled) < REFILL);
            if self.clients.len() >= MAX_CLIENTS {
                return false;
            }
        }
        let bucket = self.clients.entry(client).or_insert(Bucket { left: BURST, filled: now });
        let time = now.saturating_duration_since(bucket.filled).min(REFILL);
        let fresh = time.as_micros() * u128::from(RATE) / 1_000_000;
        if fresh > 0 {
            bucket.left = (u128::from(bucket.left) + fresh).min(u128::from(BURST)) as u32;
            bucket.filled = now;
        }
        if bucket.left == 0 {
            return false;
        }
        bucket.left -= 1;
        true
    }
}

/// The time in which an empty bucket fills.
const REFILL: Duration = Duration::from_secs((BURST / RATE) as u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_has_a_burst_then_a_rate_and_others_are_not_touched() {
        let (start, one, two) = (Instant::now(), IpAddr::from([10, 32, 0, 1]), IpAddr::from([10, 32, 0, 2]));
        let mut rates = Rates::default();
        let admitted = (0..3 * BURST).filter(|_| rates.admit(one, start)).count();
        assert_eq!(admitted, BURST as usize);
        assert!(rates.admit(two, start));
        // A question each 100 µs for a second.
        let flood = (1..=10_000).map(|step| start + Duration::from_micros(100 * step));
        let admitted = flood.filter(|at| rates.admit(one, *at)).count();
        assert!((990..=1_001).contains(&admitted), "{admitted}");
        let later = start + Duration::from_secs(10);
        assert_eq!((0..3 * BURST).filter(|_| rates.admit(one, later)).count(), BURST as usize);
    }

    #[test]
    fn forged_addresses_fill_the_table_and_no_more() {
        let start = Instant::now();
        let mut rates = Rates::default();
        let forged = |n: u32| IpAddr::from((0x0a20_0000 + n).to_be_bytes());
        let admitted = (0..20_000).filter(|n| rates.admit(forged(*n), start)).count();
        assert_eq!((admitted, rates.clients.len()), (MAX_CLIENTS, MAX_CLIENTS));
        assert!(rates.admit(forged(1), start), "who was there stays");
        assert!(rates.admit(forged(30_000), start + REFILL), "and the silent are forgotten");
    }
}

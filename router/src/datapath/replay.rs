//! The replay window of a lane: which counters were seen (RFC 6479, bitmap in blocks so that sliding is cheap).

/// Counters behind the newest one that are still told apart. Chosen as 2^14: at 1 Mpps it covers 16 ms of reordering, at
/// 2 KiB a lane; RFC 6479 implementations use 8192.
pub const WINDOW: u64 = 16_384;

const WORD: u64 = 64;
/// One word more than the window, so that the word being filled never holds bits of the oldest counters.
const WORDS: usize = 257;

/// What the window says about a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Not seen.
    Fresh,
    /// Seen before.
    Replayed,
    /// Too far behind to tell.
    TooOld,
}

/// The counters seen on one lane.
#[derive(Clone)]
pub struct ReplayWindow {
    words: Box<[u64; WORDS]>,
    /// One more than the highest counter seen; zero when none was.
    next: u64,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        ReplayWindow { words: Box::new([0; WORDS]), next: 0 }
    }
}

impl ReplayWindow {
    /// Looks, without remembering. To be called before the datagram is opened: an attacker must not move the window.
    pub fn check(&self, counter: u64) -> Verdict {
        if counter >= self.next {
            return Verdict::Fresh;
        }
        if self.next - counter > WINDOW {
            return Verdict::TooOld;
        }
        let (word, bit) = place(counter);
        if self.words[word] & bit == 0 { Verdict::Fresh } else { Verdict::Replayed }
    }

    /// Remembers a counter that `check` called fresh and whose datagram was authentic.
    pub fn mark(&mut self, counter: u64) {
        if counter >= self.next {
            self.slide(counter);
        }
        let (word, bit) = place(counter);
        self.words[word] |= bit;
    }

    fn slide(&mut self, counter: u64) {
        // The word of `next - 1` is in use already; all after it, up to the one of `counter`, are emptied.
        let first = if self.next == 0 { 0 } else { (self.next - 1) / WORD + 1 };
        let last = counter / WORD;
        if last >= first {
            let count = (last - first + 1).min(WORDS as u64);
            for word in (last + 1 - count)..=last {
                self.words[place(word * WORD).0] = 0;
            }
        }
        self.next = counter.saturating_add(1);
    }
}

fn place(counter: u64) -> (usize, u64) {
    let word = (counter / WORD) % (WORDS as u64);
    (usize::try_from(word).unwrap_or(0), 1 << (counter % WORD))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn model(seen: &BTreeSet<u64>, counter: u64) -> Verdict {
        match seen.last() {
            Some(&highest) if counter <= highest && highest + 1 - counter > WINDOW => Verdict::TooOld,
            _ if seen.contains(&counter) => Verdict::Replayed,
            _ => Verdict::Fresh,
        }
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_counters(steps in proptest::collection::vec((0..8u8, 0..WINDOW * 2), 1..300)) {
            let mut window = ReplayWindow::default();
            let mut seen = BTreeSet::new();
            let mut at = 0u64;
            for (kind, distance) in steps {
                let counter = match kind {
                    0..=2 => at + distance % 3,
                    3..=4 => at.saturating_sub(distance % 200),
                    5 => at.saturating_sub(distance),
                    6 => at + distance % 130,
                    _ => at + distance,
                };
                let verdict = window.check(counter);
                prop_assert_eq!(verdict, model(&seen, counter), "counter {} after {:?}", counter, seen.last());
                if verdict == Verdict::Fresh {
                    window.mark(counter);
                    seen.insert(counter);
                    at = at.max(counter);
                }
            }
        }
    }

    #[test]
    fn whole_window_is_usable_backwards() {
        let mut window = ReplayWindow::default();
        window.mark(WINDOW * 3);
        for counter in (WINDOW * 2 + 1..WINDOW * 3).rev() {
            assert_eq!(window.check(counter), Verdict::Fresh);
            window.mark(counter);
            assert_eq!(window.check(counter), Verdict::Replayed);
        }
        assert_eq!(window.check(WINDOW * 2), Verdict::TooOld);
    }
}

//! What became of questions, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// What became of a question. Every question comes to one of these, and those with an upstream also to the last ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// A name of the fabric, answered.
    Answered,
    /// A name of the fabric without what was asked for.
    NoData,
    /// A name that the fabric would have, and has not.
    NoSuchName,
    /// Another name, answered as the upstream did.
    Forwarded,
    /// Another name, answered from what the upstream said before.
    Cached,
    /// Another name, and no upstream gave an answer in time.
    UpstreamFailed,
    /// Another name, and there is no upstream.
    NoUpstream,
    /// More questions under way than this router works on at once.
    Busy,
    /// More questions under way than one client may have.
    ClientBusy,
    /// Asked for what is not given to anybody: zone transfers, other classes, other operations.
    Refused,
    /// Did not parse as a question, and got an error.
    Malformed,
    /// One client asks more often than it is heard: dropped in silence.
    TooOften,
    /// No question at all, or too short for an answer: dropped in silence.
    NotAQuestion,
    /// A TCP connection beyond what is served at once: closed.
    TooManyConnections,
    /// An answer of an upstream that nobody waited for or that was to another question: ignored.
    Stray,
}

impl Fate {
    /// All of them, in order.
    pub const ALL: [Fate; 15] = [
        Fate::Answered,
        Fate::NoData,
        Fate::NoSuchName,
        Fate::Forwarded,
        Fate::Cached,
        Fate::UpstreamFailed,
        Fate::NoUpstream,
        Fate::Busy,
        Fate::ClientBusy,
        Fate::Refused,
        Fate::Malformed,
        Fate::TooOften,
        Fate::NotAQuestion,
        Fate::TooManyConnections,
        Fate::Stray,
    ];

    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Fate::Answered => "answered",
            Fate::NoData => "no-data",
            Fate::NoSuchName => "no-such-name",
            Fate::Forwarded => "forwarded",
            Fate::Cached => "from-cache",
            Fate::UpstreamFailed => "upstream-failed",
            Fate::NoUpstream => "no-upstream",
            Fate::Busy => "busy",
            Fate::ClientBusy => "client-busy",
            Fate::Refused => "refused",
            Fate::Malformed => "malformed",
            Fate::TooOften => "too-often",
            Fate::NotAQuestion => "not-a-question",
            Fate::TooManyConnections => "too-many-connections",
            Fate::Stray => "stray-answer",
        }
    }
}

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Counters {
    counts: [AtomicU64; Fate::ALL.len()],
}

impl Counters {
    /// One more.
    pub(super) fn add(&self, fate: Fate) {
        self.counts[fate as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// All that are not zero.
    pub(super) fn read(&self) -> Vec<(Fate, u64)> {
        let all =
            Fate::ALL.into_iter().map(|fate| (fate, self.counts[fate as usize].load(Ordering::Relaxed)));
        all.filter(|(_, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fate_has_a_counter_of_its_own() {
        for (at, fate) in Fate::ALL.into_iter().enumerate() {
            assert_eq!(fate as usize, at);
        }
        let counters = Counters::default();
        counters.add(Fate::Busy);
        assert_eq!(counters.read(), [(Fate::Busy, 1)]);
    }
}

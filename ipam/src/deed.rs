//! Deeds: gifts that were taken up, and stay known for a while as proof of how space came to whoever has it (ADR 0011).
//!
//! A deed moves nothing and offers nothing. Its recipient has taken the gift up long ago; one whose disk was put back to before that
//! must not take it up again, since it has perhaps passed it on. It only connects what is known to a claim that came later.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use gossip::PeerId;
use ipnet::Ipv4Net;

use crate::Ipam;
use crate::doubt::{Memory, Present};
use crate::ipam::Publish;
use crate::journal::JournalEntry;
use crate::map::{Holding, Standing};
use crate::record::{BlockRecord, Deed, block_key};
use crate::span::Span;

/// Own deeds that stay published, and those of one other peer that are kept. Few peers give more while somebody is away; who missed
/// some asks the owner (`doubt`). Each takes some 250 bytes at every peer, and only for [`DEED_TIME`].
pub(crate) const DEEDS: usize = 16;

/// How long they stay: the time of a restart or of most partitions. Longer would keep the state above the number of peers after churn.
const DEED_TIME: Duration = Duration::from_secs(600);

/// Deeds of all others that are kept, a hundred bytes each. Only those are kept that are ahead of what is known, so that a peer that was
/// not away has next to none.
pub(crate) const MAX_DEEDS: usize = 4096;

/// Deeds of others that are ahead of what is known here.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Deeds {
    /// By epoch, so that they can be followed in the order in which they were signed.
    kept: Vec<(Span, Holding)>,
}

impl Deeds {
    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Keeps one; says whether it is new.
    pub(crate) fn keep(
        &mut self,
        span: Span,
        gift: Holding,
        is_ahead: impl Fn(Span, &Holding) -> bool,
    ) -> bool {
        if !is_ahead(span, &gift) || self.kept.contains(&(span, gift)) {
            return false;
        }
        let of_same = self.kept.iter().filter(|(_, kept)| kept.signer == gift.signer).count();
        if of_same >= DEEDS || self.kept.len() >= MAX_DEEDS {
            self.kept.retain(|(span, kept)| is_ahead(*span, kept));
        }
        let of_same = |kept: &(Span, Holding)| kept.1.signer == gift.signer;
        if self.kept.iter().filter(|kept| of_same(kept)).count() >= DEEDS {
            let oldest = self.kept.iter().position(of_same).expect("there are some");
            self.kept.remove(oldest);
        } else if self.kept.len() >= MAX_DEEDS {
            self.kept.remove(0);
        }
        let at = self.kept.partition_point(|(_, kept)| kept.epoch <= gift.epoch);
        self.kept.insert(at, (span, gift));
        true
    }

    /// Whether deeds lead from who holds `piece` now to the signer of `step`. They are followed in order and to the end: who has given
    /// the space away in between signs in vain.
    pub(crate) fn connect(&self, piece: Span, current: &Holding, step: &Holding) -> bool {
        let mut owner = current.owner;
        for (span, gift) in &self.kept {
            let between = current.epoch < gift.epoch && gift.epoch < step.epoch;
            if between && gift.signer == owner && span.intersection(piece) == Some(piece) {
                owner = gift.owner;
            }
        }
        owner == step.signer
    }
}

/// What this peer publishes of its own.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// Oldest first, and until when.
    deeds: VecDeque<(Instant, BlockRecord)>,
}

impl Published {
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        self.deeds.front().map(|&(until, _)| until)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Deed> + '_ {
        self.deeds.iter().map(|&(_, deed)| Deed(deed))
    }

    /// Something else is published in its place.
    pub(crate) fn replaced(&mut self, prefix: Ipv4Net) {
        self.deeds.retain(|(_, deed)| deed.prefix != prefix);
    }
}

impl Ipam {
    /// Another peer shows a gift that was taken up; or one of ours comes back to us that we have forgotten, and binds us as any other.
    pub(crate) fn handle_deed(&mut self, signer: PeerId, deed: Deed, now: Instant) {
        let (record, span) = (deed.0, Span::of(deed.0.prefix));
        if span.intersection(self.range) != Some(span) {
            self.stats.records_out_of_range += 1;
            return;
        }
        if signer == self.me {
            return self.remember_gift(record, now);
        }
        self.note_member(signer);
        self.note_member(record.owner);
        if self.map.keep_deed(span, Holding::new(signer, &record)) {
            self.judge_again(span, now);
        }
    }

    /// We gave this away in an earlier life, and the disk was put back since. It is said again as what it is, not as an offer.
    fn remember_gift(&mut self, record: BlockRecord, now: Instant) {
        let court = Present::new(self.me, self.memory, &self.removals, &self.peers);
        let outcome = self.map.merge(self.me, &record, &court);
        if outcome.changes.is_empty() {
            return;
        }
        let standing = Standing::Clean;
        self.out.persist(JournalEntry::Block { signer: self.me, record, standing });
        self.journal_rest(&record, &outcome.changes);
        // Filed under the same name.
        self.records.remove(&record.prefix);
        self.show(record, now);
        self.apply(outcome, now);
        self.doubt_memory(now);
    }

    /// After [`Ipam::restored`] of an allocator that takes the place of one whose last changes could not be written: what that one has
    /// said in public stays said, and what it doubted is in doubt.
    pub fn follow_on(&mut self, before: Ipam, now: Instant) {
        for (until, deed) in before.published.deeds {
            let said_anew = self.records.contains_key(&deed.prefix);
            if !said_anew && self.published.iter().all(|shown| shown.0.prefix != deed.prefix) {
                self.published.deeds.push_front((until, deed));
            }
        }
        while self.published.deeds.len() > DEEDS {
            self.withdraw_oldest();
        }
        if before.memory == Memory::Holes {
            self.doubt_memory(now);
        }
    }

    /// A record of ours is the newest one about no address any more. If it was a gift, its deed is shown for a while.
    pub(crate) fn retire(&mut self, prefix: Ipv4Net, now: Instant) {
        let Some(record) = self.records.remove(&prefix) else { return };
        let returned = || self.map.all(Span::of(prefix), |holding| holding.signer == self.me);
        if record.owner == self.me || returned() {
            return self.out.publish(Publish { key: block_key(prefix), value: None });
        }
        self.show(record, now);
    }

    fn show(&mut self, record: BlockRecord, now: Instant) {
        self.published.replaced(record.prefix);
        self.published.deeds.push_back((now + DEED_TIME, record));
        self.out.publish(Publish { key: record.key(), value: Some(Deed(record).encode()) });
        if self.published.deeds.len() > DEEDS {
            self.withdraw_oldest();
        }
    }

    pub(crate) fn withdraw_deeds_due(&mut self, now: Instant) {
        while self.published.next_wakeup().is_some_and(|until| until <= now) {
            self.withdraw_oldest();
        }
    }

    fn withdraw_oldest(&mut self) {
        if let Some((_, deed)) = self.published.deeds.pop_front() {
            self.out.publish(Publish { key: block_key(deed.prefix), value: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gift(signer: u8, owner: u8, epoch: u64) -> Holding {
        let record = BlockRecord { prefix: "0.0.0.0/28".parse().unwrap(), owner: PeerId([owner; 16]), epoch };
        Holding::new(PeerId([signer; 16]), &record)
    }

    #[test]
    fn deeds_are_followed_to_the_end() {
        let mut deeds = Deeds::default();
        let span = Span { first: 0, last: 15 };
        let current = gift(1, 1, 1);
        assert!(!deeds.connect(span, &current, &gift(2, 2, 9)));
        assert!(deeds.keep(span, gift(3, 4, 6), |_, _| true));
        assert!(!deeds.connect(span, &current, &gift(4, 4, 9)), "a step is missing");
        assert!(deeds.keep(span, gift(1, 3, 4), |_, _| true));
        assert!(!deeds.keep(span, gift(1, 3, 4), |_, _| true), "known");
        assert!(deeds.connect(span, &current, &gift(4, 4, 9)));
        assert!(!deeds.connect(span, &current, &gift(3, 3, 9)), "it has given it away");
        assert!(deeds.connect(span, &current, &gift(3, 3, 5)), "before that it was its own");
        let larger = Span { first: 0, last: 16 };
        assert!(!deeds.connect(larger, &current, &gift(4, 4, 9)), "not all of it was given");
    }

    #[test]
    fn nobody_fills_the_table_alone() {
        let mut deeds = Deeds::default();
        let span = Span { first: 0, last: 15 };
        for epoch in 1..100 {
            deeds.keep(span, gift(1, 2, epoch), |_, _| true);
        }
        assert_eq!(deeds.len(), DEEDS);
        assert!(!deeds.keep(span, gift(1, 2, 200), |_, _| false), "behind what is known");
    }
}

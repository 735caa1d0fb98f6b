//! Who owns which address, as far as this peer has heard: for every address the record with the highest epoch.
//!
//! Merging takes the maximum address by address, so that order, repetition and loss of records do not matter, and the
//! withdrawal of a superseded record changes nothing. The map knows nothing of leases, of time, or of who "we" are.

use std::collections::BTreeMap;

use gossip::PeerId;
use gossip::planted::{Bug, planted};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::deed::Deeds;
use crate::record::BlockRecord;
use crate::span::Span;

mod refused;

pub(crate) use refused::MAX_REFUSED;
use refused::Refused;

/// Whether two records disagree about the present owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Standing {
    /// One record says who the owner is.
    Clean,
    /// Two records of one epoch name two owners: somebody is faulty. The smaller id counts, nobody allocates.
    Contested,
}

/// One step in the history of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) owner: PeerId,
    pub(crate) epoch: u64,
    pub(crate) signer: PeerId,
    pub(crate) standing: Standing,
}

impl Holding {
    pub(crate) fn new(signer: PeerId, record: &BlockRecord) -> Holding {
        Holding { owner: record.owner, epoch: record.epoch, signer, standing: Standing::Clean }
    }

    /// Whether this is the step that `record`, signed by `signer`, made.
    pub(crate) fn is_of(&self, signer: PeerId, record: &BlockRecord) -> bool {
        (self.owner, self.epoch, self.signer) == (record.owner, record.epoch, signer)
    }

    fn rank(&self) -> (PeerId, PeerId) {
        (self.owner, self.signer)
    }
}

/// What a merge did to one span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) span: Span,
    pub(crate) before: Option<Holding>,
    pub(crate) after: Holding,
}

/// What a merge did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Spans whose holding is another one now.
    pub(crate) changes: Vec<Change>,
    /// Spans on which the record was refused because its signer was not the owner of the epoch before.
    pub(crate) refused: usize,
    /// Spans on which steps are missing between what is known and the record.
    pub(crate) unconnected: usize,
    /// Spans on which the record contradicts another one of the same epoch.
    pub(crate) contested: usize,
}

/// What a step means for a span.
enum Verdict {
    /// It is the newest.
    Take(Standing),
    /// Known, or superseded.
    Stale,
    /// Same epoch, different content; the value is the one that counts.
    Contradiction(Holding),
    /// Its signer did not own what it gave away.
    NotTheOwner,
    /// Steps between are missing, without which nobody can say whether its signer was the owner.
    Unconnected,
}

/// What the map does not know and a judgement needs.
pub(crate) trait Court {
    /// Whether a step that skips epochs may follow on `current` at the addresses of `piece`, although its signer is not the owner that we
    /// know (ADR 0011).
    fn may_skip(&self, piece: Span, current: &Holding, step: &Holding) -> bool;
}

/// See the top of the file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct OwnerMap {
    /// First address → last address and holding. Disjoint; equal neighbours are joined.
    segments: BTreeMap<u32, (u32, Holding)>,
    /// Records that do not count on some part of a span: refused, or with nothing that connects them to what is known.
    refused: Vec<Refused>,
    /// How many were refused so far: tells those apart that came before a question from those that came after.
    kept: u64,
    /// Gifts that were taken up, and that tell how a claim connects to what is known.
    deeds: Deeds,
}

impl OwnerMap {
    /// Takes in a record of somebody else or of our own.
    pub(crate) fn merge(&mut self, signer: PeerId, record: &BlockRecord, court: &impl Court) -> Outcome {
        let mut outcome = Outcome::default();
        let span = Span::of(record.prefix);
        self.step(span, Holding::new(signer, record), court, &mut outcome);
        self.judge_refused_again(court, &mut outcome);
        outcome
    }

    /// Puts back a step from the journal. It was judged when it was written; here only the epoch counts.
    pub(crate) fn restore(&mut self, prefix: Ipv4Net, holding: Holding) {
        for (piece, current) in self.pieces(Span::of(prefix)) {
            let newer = match current {
                None => true,
                Some(current) => {
                    (holding.epoch, holding.standing) > (current.epoch, current.standing)
                        && !(holding.epoch == current.epoch && holding.rank() > current.rank())
                }
            };
            if newer {
                self.put(piece, holding);
            }
        }
    }

    /// The holding of one address.
    pub(crate) fn at(&self, addr: u32) -> Option<Holding> {
        let (_, &(last, holding)) = self.segments.range(..=addr).next_back()?;
        (addr <= last).then_some(holding)
    }

    /// All that is known, in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Span, Holding)> + '_ {
        self.segments.iter().map(|(&first, &(last, holding))| (Span { first, last }, holding))
    }

    /// What is known inside `span`, cut to it.
    pub(crate) fn within(&self, span: Span) -> impl Iterator<Item = (Span, Holding)> + '_ {
        let start = match self.segments.range(..=span.first).next_back() {
            Some((&first, &(last, _))) if last >= span.first => first,
            Some(_) | None => span.first,
        };
        self.segments.range(start..=span.last).filter_map(move |(&first, &(last, holding))| {
            Some((Span { first, last }.intersection(span)?, holding))
        })
    }

    /// Whether every address of `span` has a holding that `wanted` likes.
    pub(crate) fn all(&self, span: Span, mut wanted: impl FnMut(&Holding) -> bool) -> bool {
        let mut covered = 0;
        for (piece, holding) in self.within(span) {
            if !wanted(&holding) {
                return false;
            }
            covered += piece.size();
        }
        covered == span.size()
    }

    /// Parts of `span` without a known owner.
    pub(crate) fn gaps(&self, span: Span) -> impl Iterator<Item = Span> {
        self.pieces(span).into_iter().filter(|(_, holding)| holding.is_none()).map(|(gap, _)| gap)
    }

    /// Addresses of `span` without a known owner.
    pub(crate) fn unowned(&self, span: Span) -> u64 {
        span.size() - self.within(span).map(|(piece, _)| piece.size()).sum::<u64>()
    }

    /// An epoch above everything that anybody has claimed inside `span`.
    pub(crate) fn next_epoch(&self, span: Span) -> u64 {
        let known = self.within(span).map(|(_, holding)| holding.epoch).max().unwrap_or(0);
        self.above_refused(span, known) + 1
    }

    fn step(&mut self, span: Span, step: Holding, court: &impl Court, outcome: &mut Outcome) {
        let mut refused = false;
        for (piece, current) in self.pieces(span) {
            let after = match self.verdict(piece, current.as_ref(), &step, court) {
                Verdict::Stale => continue,
                Verdict::NotTheOwner => {
                    outcome.refused += 1;
                    refused = true;
                    continue;
                }
                Verdict::Unconnected => {
                    outcome.unconnected += 1;
                    refused = true;
                    continue;
                }
                Verdict::Contradiction(winner) => {
                    outcome.contested += 1;
                    winner
                }
                Verdict::Take(standing) => Holding { standing, ..step },
            };
            if current != Some(after) {
                self.put(piece, after);
                outcome.changes.push(Change { span: piece, before: current, after });
            }
        }
        if refused {
            self.keep_refused(span, step);
        }
    }

    /// `span` cut along the borders of what is known, gaps included.
    pub(crate) fn pieces(&self, span: Span) -> Vec<(Span, Option<Holding>)> {
        let mut pieces = Vec::new();
        let mut next = Some(span.first);
        for (piece, holding) in self.within(span) {
            if let Some(gap) = next.filter(|&next| next < piece.first) {
                pieces.push((Span { first: gap, last: piece.first - 1 }, None));
            }
            pieces.push((piece, Some(holding)));
            next = piece.last.checked_add(1);
        }
        if let Some(gap) = next.filter(|&next| next <= span.last) {
            pieces.push((Span { first: gap, last: span.last }, None));
        }
        pieces
    }

    /// Another peer shows a gift that was taken up. Says whether it may connect something.
    pub(crate) fn keep_deed(&mut self, span: Span, gift: Holding) -> bool {
        let mut deeds = std::mem::take(&mut self.deeds);
        let is_ahead = |span: Span, gift: &Holding| {
            self.pieces(span).iter().any(|(_, known)| known.is_some_and(|known| known.epoch < gift.epoch))
        };
        let is_new = deeds.keep(span, gift, is_ahead);
        self.deeds = deeds;
        is_new
    }

    /// How many deeds are kept.
    pub(crate) fn deeds(&self) -> usize {
        self.deeds.len()
    }

    fn verdict(&self, piece: Span, current: Option<&Holding>, step: &Holding, court: &impl Court) -> Verdict {
        match (current, judge(piece, current, step, court)) {
            (Some(current), Verdict::Unconnected) if self.deeds.connect(piece, current, step) => {
                Verdict::Take(Standing::Clean)
            }
            (_, verdict) => verdict,
        }
    }

    /// Writes `holding` over `piece`, which lies inside one segment or one gap, and joins equal neighbours.
    pub(crate) fn put(&mut self, piece: Span, holding: Holding) {
        let mut joined = piece;
        if let Some((&first, &(last, old))) = self.segments.range(..=piece.first).next_back()
            && last >= piece.first
        {
            self.segments.remove(&first);
            if first < piece.first {
                self.segments.insert(first, (piece.first - 1, old));
            }
            if piece.last < last {
                self.segments.insert(piece.last + 1, (last, old));
            }
        }
        if let Some((&first, &(last, left))) = self.segments.range(..piece.first).next_back()
            && last + 1 == piece.first
            && left == holding
        {
            joined.first = first;
        }
        if let Some(after) = piece.last.checked_add(1)
            && let Some(&(last, right)) = self.segments.get(&after)
            && right == holding
        {
            self.segments.remove(&after);
            joined.last = last;
        }
        self.segments.insert(joined.first, (joined.last, holding));
    }
}

/// ADR 0004: a step is newer when its epoch is higher; the next epoch can only be written by the owner of this one. The owner may
/// also skip epochs. Of others a step that skips some has to wait until it is connected, by the steps between or by the owner's word.
fn judge(piece: Span, current: Option<&Holding>, step: &Holding, court: &impl Court) -> Verdict {
    let Some(current) = current else { return Verdict::Take(Standing::Clean) };
    if planted(Bug::LowerEpochWins) && step.epoch < current.epoch {
        return Verdict::Take(Standing::Clean);
    }
    if step.epoch < current.epoch || current.is_same_step(step) {
        return Verdict::Stale;
    }
    if step.epoch == current.epoch {
        let winner = if step.rank() < current.rank() { step } else { current };
        return Verdict::Contradiction(Holding { standing: Standing::Contested, ..*winner });
    }
    if step.signer == current.owner {
        return Verdict::Take(Standing::Clean);
    }
    match (current.standing, step.epoch > current.epoch + 1) {
        (Standing::Clean, _) if planted(Bug::OwnerUnchecked) => Verdict::Take(Standing::Clean),
        (Standing::Clean, false) => Verdict::NotTheOwner,
        (Standing::Clean, true) if court.may_skip(piece, current, step) => Verdict::Take(Standing::Clean),
        (Standing::Clean, true) => Verdict::Unconnected,
        // Which of the two was the owner cannot be known here; elsewhere the other one may have come first.
        (Standing::Contested, false) => Verdict::Take(Standing::Contested),
        (Standing::Contested, true) => Verdict::Take(Standing::Clean),
    }
}

impl Holding {
    fn is_same_step(&self, other: &Holding) -> bool {
        (self.owner, self.epoch, self.signer) == (other.owner, other.epoch, other.signer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(n: u8) -> PeerId {
        PeerId([n; 16])
    }

    /// Whether steps that skip epochs are taken.
    struct Takes(bool);

    impl Court for Takes {
        fn may_skip(&self, _piece: Span, _current: &Holding, _step: &Holding) -> bool {
            self.0
        }
    }

    fn block(prefix: &str, owner: u8, epoch: u64) -> BlockRecord {
        BlockRecord { prefix: prefix.parse().unwrap(), owner: peer(owner), epoch }
    }

    fn owners(map: &OwnerMap) -> Vec<(u32, u32, u8, u64, Standing)> {
        map.iter().map(|(s, h)| (s.first, s.last, h.owner.0[0], h.epoch, h.standing)).collect()
    }

    /// What honest peers may have written: the founder gives, the recipient confirms, gives on, folds.
    fn history() -> Vec<(u8, BlockRecord)> {
        vec![
            (1, block("0.0.0.0/28", 1, 1)),
            (1, block("0.0.0.8/29", 2, 2)),
            (2, block("0.0.0.8/29", 2, 3)),
            (2, block("0.0.0.12/30", 3, 4)),
            (3, block("0.0.0.12/30", 3, 5)),
            (3, block("0.0.0.12/30", 2, 6)),
            (2, block("0.0.0.8/29", 2, 7)),
            (1, block("0.0.0.0/30", 3, 2)),
        ]
    }

    proptest! {
        #[test]
        fn order_loss_of_superseded_and_repetition_do_not_matter(
            order in Just((0..history().len()).collect::<Vec<_>>()).prop_shuffle(),
            again in prop::collection::vec(0..history().len(), 0..6),
            skip: [bool; 3],
        ) {
            let all = history();
            let mut map = OwnerMap::default();
            let superseded = [1, 3, 5];
            for index in order.into_iter().chain(again) {
                let skipped = superseded.iter().zip(skip).any(|(&i, skip)| skip && i == index);
                if !skipped {
                    let outcome = map.merge(peer(all[index].0), &all[index].1, &Takes(true));
                    prop_assert_eq!((outcome.refused, outcome.contested), (0, 0));
                }
            }
            let clean = Standing::Clean;
            prop_assert_eq!(owners(&map), vec![(0, 3, 3, 2, clean), (4, 7, 1, 1, clean), (8, 15, 2, 7, clean)]);
        }

        #[test]
        fn faulty_records_leave_all_peers_with_one_owner(
            order in Just((0..5usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            // Peer 1 gives one block to 3 and to 4 with one epoch; both confirm it and 4 gives it on.
            let all = [
                (1, block("0.0.0.0/28", 1, 1)),
                (1, block("0.0.0.8/29", 3, 2)),
                (1, block("0.0.0.8/29", 4, 2)),
                (3, block("0.0.0.8/29", 3, 3)),
                (4, block("0.0.0.8/29", 4, 3)),
            ];
            let mut map = OwnerMap::default();
            for index in order {
                map.merge(peer(all[index].0), &all[index].1, &Takes(true));
            }
            prop_assert_eq!(
                owners(&map),
                vec![(0, 7, 1, 1, Standing::Clean), (8, 15, 3, 3, Standing::Contested)]
            );
        }
    }

    #[test]
    fn a_gift_of_what_is_not_the_signers_is_refused() {
        let mut map = OwnerMap::default();
        map.merge(peer(1), &block("0.0.0.0/28", 1, 1), &Takes(true));
        let outcome = map.merge(peer(9), &block("0.0.0.0/30", 9, 2), &Takes(true));
        assert_eq!((outcome.refused, outcome.changes.len()), (1, 0));
        // The owner's own next step goes above it, so that the refused one never counts.
        assert_eq!(map.next_epoch(Span { first: 0, last: 3 }), 3);
    }

    #[test]
    fn a_step_that_skips_epochs_waits_for_those_between() {
        let steps = history();
        let unknown = Takes(false);
        let mut map = OwnerMap::default();
        map.merge(peer(1), &steps[0].1, &unknown);
        for late in [5, 3, 1] {
            let outcome = map.merge(peer(steps[late].0), &steps[late].1, &unknown);
            assert_eq!((outcome.refused, outcome.changes.is_empty()), (0, late != 1), "step {late}");
        }
        // The gift that connects them lets all of them count.
        assert_eq!(map.at(12).unwrap().owner, peer(2));
        assert_eq!(map.unconnected(&unknown), []);
    }

    #[test]
    fn what_is_not_connected_and_refuted_is_forgotten() {
        let mut map = OwnerMap::default();
        let unknown = Takes(false);
        map.merge(peer(1), &block("0.0.0.0/28", 1, 1), &unknown);
        let lie = block("0.0.0.0/30", 9, 40);
        assert_eq!(map.merge(peer(9), &lie, &unknown).unconnected, 1);
        let asked = Span { first: 0, last: 3 };
        assert_eq!(map.unconnected(&unknown), [(peer(1), peer(9), asked)]);
        assert_eq!(map.next_epoch(asked), 2, "nobody is led far ahead");
        assert_eq!(map.refute(asked, 0, &unknown), 0, "the answer was given before");
        assert_eq!((map.refute(asked, map.mark(), &unknown), map.unconnected(&unknown)), (1, vec![]));
        assert_eq!(map.refuted(&unknown), [(peer(1), peer(9), asked)], "the owner may have forgotten");
        assert_eq!(map.at(0).unwrap().owner, peer(1));
    }

    #[test]
    fn the_end_of_the_address_space_is_an_address() {
        let mut map = OwnerMap::default();
        map.merge(peer(1), &block("255.255.255.254/31", 1, 1), &Takes(true));
        map.merge(peer(1), &block("255.255.255.255/32", 2, 2), &Takes(true));
        assert_eq!(map.at(u32::MAX).unwrap().owner, peer(2));
        assert_eq!(map.at(u32::MAX - 1).unwrap().owner, peer(1));
        assert_eq!(map.unowned(Span { first: u32::MAX - 3, last: u32::MAX }), 2);
    }
}

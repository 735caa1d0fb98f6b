//! Who is removed and who takes over: computed from the set of claims, which only grows.
//!
//! All peers that have seen the same claims agree: of two heirs of one peer the smaller id wins, of two peers that remove each other the
//! smaller stays (ADR 0004). What follows from it for space is in `removal`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use gossip::PeerId;

use crate::map::Holding;
use crate::record::RemovalRecord;
use crate::span::mix;

/// One takeover that is not finished.
#[derive(Debug)]
pub(crate) struct Takeover {
    pub(crate) settle_at: Instant,
    /// Until when the removed peer itself is waited for, should it still be reachable.
    pub(crate) patience_until: Instant,
    pub(crate) next_query: Instant,
    pub(crate) wake: Instant,
    pub(crate) round: u64,
    /// Parts of reports that are not complete, by member and round.
    pub(crate) partial: BTreeMap<(PeerId, u64), BTreeSet<u16>>,
    pub(crate) answered: BTreeSet<PeerId>,
}

/// All that is known about removals.
#[derive(Debug, Default)]
pub(crate) struct Removals {
    /// (heir, removed), as signed by the heirs.
    pub(crate) claims: BTreeSet<(PeerId, PeerId)>,
    /// Who is removed, and who takes over: the first of those who wanted to and are still there, or else whoever takes over
    /// from one of those.
    pub(crate) heirs: BTreeMap<PeerId, PeerId>,
    /// Removed peers whose heir inherited them and has not signed for it: the removal by somebody who is removed in turn.
    pub(crate) unclaimed: BTreeMap<PeerId, RemovalRecord>,
    pub(crate) next_nudge: Option<Instant>,
    /// Of all claims: peers with the same digest know the same removals.
    pub(crate) digest: u64,
    pub(crate) takeovers: BTreeMap<PeerId, Takeover>,
    /// Takeovers that we have finished. Should more of such a peer's space turn up, they start again.
    pub(crate) taken_over: BTreeSet<PeerId>,
}

impl Removals {
    pub(crate) fn is_removed(&self, peer: PeerId) -> bool {
        self.heirs.contains_key(&peer)
    }

    /// Who takes over from `peer`, which is removed.
    pub(crate) fn removed_by(&self, peer: PeerId) -> Option<PeerId> {
        self.heirs.get(&peer).copied()
    }

    /// The removed peer whose heir gets what is held so: its owner; or who gave it, if that is not taken up.
    pub(crate) fn orphaned_by(&self, holding: &Holding) -> Option<PeerId> {
        [holding.owner, holding.signer].into_iter().find(|peer| self.is_removed(*peer))
    }

    /// Whether `peer` has taken over from somebody, or wants to.
    pub(crate) fn is_heir(&self, peer: PeerId) -> bool {
        self.claims.range((peer, PeerId([0; 16]))..).next().is_some_and(|claim| claim.0 == peer)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PeerId, PeerId)> + '_ {
        self.heirs.iter().map(|(&removed, &heir)| (removed, heir))
    }

    pub(crate) fn claims(&self) -> impl Iterator<Item = RemovalRecord> + '_ {
        self.claims.iter().map(|&(heir, removed)| RemovalRecord { removed, heir })
    }

    pub(crate) fn taken_over(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.taken_over.iter().copied()
    }

    pub(crate) fn note_taken_over(&mut self, removed: PeerId) {
        self.taken_over.insert(removed);
    }

    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        let takeovers = self.takeovers.values().map(|takeover| takeover.wake);
        takeovers.chain(self.next_nudge.filter(|_| !self.unclaimed.is_empty())).min()
    }

    pub(crate) fn hurry(&mut self, now: Instant) {
        for takeover in self.takeovers.values_mut() {
            takeover.next_query = takeover.next_query.min(now);
        }
    }

    /// Adds a claim; says whether it is new.
    pub(crate) fn insert(&mut self, removal: RemovalRecord) -> Novelty {
        if removal.heir == removal.removed || !self.claims.insert((removal.heir, removal.removed)) {
            return Novelty::Known;
        }
        self.recompute();
        Novelty::New
    }
}

impl Removals {
    fn recompute(&mut self) {
        let words = self.claims.iter().flat_map(|(heir, removed)| [heir.0, removed.0]);
        self.digest = words.fold(0, |digest, bytes| {
            let word = u128::from_be_bytes(bytes);
            mix(digest ^ mix(low(word) ^ mix(low(word >> 64))))
        });
        let mut removers: BTreeMap<PeerId, PeerId> = BTreeMap::new();
        for &(heir, removed) in &self.claims {
            if !self.is_countered(heir, removed) {
                removers.entry(removed).or_insert(heir);
            }
        }
        let mut heirs: BTreeMap<PeerId, PeerId> = BTreeMap::new();
        for &(heir, removed) in &self.claims {
            if !removers.contains_key(&heir) && removers.contains_key(&removed) {
                heirs.entry(removed).or_insert(heir);
            }
        }
        self.unclaimed.clear();
        for (&removed, &remover) in &removers {
            if heirs.contains_key(&removed) {
                continue;
            }
            let mut heir = remover;
            while let Some(&next) = removers.get(&heir) {
                heir = next;
            }
            self.unclaimed.insert(removed, RemovalRecord { removed, heir: remover });
            heirs.insert(removed, heir);
        }
        self.heirs = heirs;
    }

    /// Whether `removed` has removed `heir` as well, directly or through others, and counts more: of each circle of
    /// removals the smallest id stays.
    fn is_countered(&self, heir: PeerId, removed: PeerId) -> bool {
        let (mut reached, mut next) = (BTreeSet::new(), vec![removed]);
        while let Some(peer) = next.pop() {
            if peer == heir {
                return removed < heir;
            }
            if reached.insert(peer) {
                let least = PeerId([0; 16]);
                let own = self.claims.range((peer, least)..).take_while(|claim| claim.0 == peer);
                next.extend(own.map(|&(_, removed)| removed));
            }
        }
        false
    }
}

fn low(word: u128) -> u64 {
    u64::try_from(word & u128::from(u64::MAX)).expect("masked")
}

/// Whether something was not known before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Novelty {
    New,
    Known,
}

//! `rmpeer`: taking over the space of a peer that will not come back, without ever giving an address a second owner.
//!
//! The removed peer may have given space away that nobody here has heard of. Therefore the heir first asks every member:
//! each promises to take up nothing more from the removed peer, and reports all that it owns. Only when all have answered,
//! or were removed themselves, does the heir sign for what is left. Until then that space is out of use, and the status
//! names who is waited for. A partition thus delays a takeover; it cannot make two owners (ADR 0004).
//!
//! Removals only accumulate, and everything about them is computed from their set, so that all peers that have seen the
//! same ones agree: of two heirs of one peer the smaller id wins, of two peers that remove each other the smaller stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use gossip::PeerId;
use gossip::planted::{Bug, planted};

use crate::AllocateError;
use crate::ipam::{Ipam, Presence, Publish, Ticket};
use crate::journal::JournalEntry;
use crate::message::{MAX_PARTS, Message, REMOVALS, REPORT_BLOCKS, RemovalQuery, ReportHeader};
use crate::record::{BlockRecord, RemovalRecord};
use crate::removed::{Novelty, Takeover};
use crate::span::Span;

/// Epochs that a takeover skips for each removal that its heir knows: more steps than the removed peer and its recipients can have
/// made unseen, so that the takeover is the last word about an address even if a member was not known and not asked. An heir that was
/// removed in turn may have taken over unseen as well; who inherits from both knows more removals and ends above it.
pub(crate) const TAKEOVER_STEP: u64 = 1 << 16;

/// Answers to earlier rounds of questions that still count: they may be on their way for a few seconds.
const ROUNDS_KEPT: u64 = 8;

/// What [`Ipam::remove_peer`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// This peer is going to take over. The addresses can be used when everybody has answered; that usually takes seconds.
    Started {
        /// Addresses that the removed peer owns as far as is known now.
        addresses: u64,
        /// Members that have to answer first, or to be removed as well.
        waiting_for: Vec<PeerId>,
    },
    /// Removed before; nothing changed.
    AlreadyRemoved {
        /// Who took over or is going to.
        heir: PeerId,
    },
    /// Nothing is known of such a peer; nothing changed.
    UnknownPeer,
    /// Nobody here has heard who owns the range: if that is the peer, nobody could inherit. Nothing changed.
    NoOwnerKnown,
    /// A peer does not remove itself (`reset` does); nothing changed.
    Myself,
    /// This peer has been removed and has no say any more; nothing changed.
    RemovedMyself {
        /// Who took over.
        by: PeerId,
    },
}

impl Ipam {
    /// Declares `peer` dead and takes over its space. A second run, here or elsewhere, changes nothing.
    ///
    /// The caller vouches that the peer is stopped. Should it run on behind a partition, it goes on using its own addresses
    /// until it hears of this; then it gives them up and reports them as lost.
    pub fn remove_peer(&mut self, peer: PeerId, now: Instant) -> Removal {
        if peer == self.me {
            return Removal::Myself;
        }
        if let Some(by) = self.removals.removed_by(self.me) {
            return Removal::RemovedMyself { by };
        }
        if let Some(heir) = self.removals.removed_by(peer) {
            return Removal::AlreadyRemoved { heir };
        }
        if !self.members.contains(&peer) {
            return Removal::UnknownPeer;
        }
        if self.knows_no_owner() {
            return Removal::NoOwnerKnown;
        }
        self.claim_removal(peer, now);
        self.turn(now);
        let addresses = self.owners_within(self.range).get(&peer).copied().unwrap_or(0);
        Removal::Started { addresses, waiting_for: self.takeover_waits_for(peer) }
    }

    /// The creator of a fabric owns all of it at first, and its word may not have come yet. Were it removed before that, the range would
    /// be lost: an heir takes over what is known.
    pub(crate) fn knows_no_owner(&self) -> bool {
        self.map.iter().next().is_none()
    }

    /// Somebody takes over the space of somebody else; perhaps ours. The claim must come from the heir itself.
    pub fn handle_removal(&mut self, removal: RemovalRecord, now: Instant) {
        let was_removed = self.removals.is_removed(self.me);
        match self.removals.insert(removal) {
            Novelty::Known => return,
            Novelty::New => self.out.persist(JournalEntry::Removal(removal)),
        }
        self.note_member(removal.heir);
        match (was_removed, self.removals.removed_by(self.me)) {
            (false, Some(by)) => self.give_up(by, now),
            (true, None) => self.regain(),
            (false, None) | (true, Some(_)) => {}
        }
        let me = self.me;
        let heirs = &self.removals.heirs;
        self.removals.takeovers.retain(|removed, _| heirs.get(removed) == Some(&me));
        // An answer tells of the space of peers that were known to be removed when it was given, so that all are asked
        // again; otherwise two heirs of two peers could both take what one of these had given to the other.
        for takeover in self.removals.takeovers.values_mut() {
            takeover.answered.clear();
            takeover.partial.clear();
            takeover.next_query = now;
        }
        self.removals.next_nudge = Some(now);
        self.judge_again(self.range, now);
        self.claim_inherited(now);
        self.consider_takeovers(now);
        self.consider_forwarding_all(now);
        self.pass_on(now);
        self.turn(now);
    }

    /// The record of a removed heir goes with it, so that its own removals need another signature: ours, if we inherit.
    pub(crate) fn claim_inherited(&mut self, now: Instant) {
        let unclaimed = self.removals.unclaimed.keys();
        let inherited = unclaimed.filter(|removed| self.removals.removed_by(**removed) == Some(self.me));
        for removed in inherited.copied().collect::<Vec<_>>() {
            self.claim_removal(removed, now);
        }
    }

    /// Tells heirs what they inherit; they may not have heard of it, and gossip has dropped it.
    pub(crate) fn nudge_heirs(&mut self, now: Instant) {
        if self.removals.unclaimed.is_empty() || self.removals.next_nudge.is_some_and(|at| now < at) {
            return;
        }
        self.removals.next_nudge = Some(now + self.config.removal_retry);
        for removal in self.removals.unclaimed.values() {
            if let Some(heir) = self.removals.removed_by(removal.removed).filter(|&heir| heir != self.me) {
                self.out.send(heir, &Message::RemovalsKnown { removals: vec![*removal] });
            }
        }
    }

    /// Peers that were removed, with who takes over.
    pub fn removed(&self) -> impl Iterator<Item = (PeerId, PeerId)> + '_ {
        self.removals.iter()
    }

    /// Whether `peer` was removed.
    pub fn is_removed(&self, peer: PeerId) -> bool {
        self.removals.is_removed(peer)
    }

    /// Members whose answer is missing before the space of `removed` can be used.
    pub(crate) fn takeover_waits_for(&self, removed: PeerId) -> Vec<PeerId> {
        let Some(takeover) = self.removals.takeovers.get(&removed) else { return Vec::new() };
        if planted(Bug::TakeoverUnasked) {
            return Vec::new();
        }
        let has_to_answer = |&&peer: &&PeerId| {
            if takeover.answered.contains(&peer) {
                return false;
            }
            if self.removals.is_removed(peer) {
                // While it can be reached it is not dead yet, and has to stop first.
                return peer == removed && self.presence(peer) == Some(Presence::Reachable);
            }
            match self.presence(peer) {
                Some(Presence::Reachable | Presence::Unreachable) | None => true,
                Some(Presence::Left) => self.map.iter().any(|(_, holding)| holding.owner == peer),
            }
        };
        self.members.iter().filter(has_to_answer).copied().collect()
    }

    pub(crate) fn pending_takeovers(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.removals.takeovers.keys().copied()
    }

    /// Starts a takeover when `owner` is removed, we are its heir, and something of it is left.
    pub(crate) fn consider_takeover(&mut self, owner: PeerId, now: Instant) {
        let is_ours = self.removals.removed_by(owner) == Some(self.me);
        if !is_ours || self.removals.takeovers.contains_key(&owner) || planted(Bug::TakeoverSkipped) {
            return;
        }
        let takeover = Takeover {
            settle_at: now + self.config.removal_settle,
            patience_until: now + self.config.removal_patience,
            next_query: now,
            wake: now,
            round: 0,
            partial: BTreeMap::new(),
            answered: BTreeSet::new(),
        };
        self.removals.takeovers.insert(owner, takeover);
    }

    /// Starts all takeovers that are ours and were never finished, or for which there is something left.
    pub(crate) fn consider_takeovers(&mut self, now: Instant) {
        let removed: Vec<PeerId> = self.removals.heirs.keys().copied().collect();
        for peer in removed {
            let is_left =
                || self.map.iter().any(|(_, holding)| holding.owner == peer || holding.signer == peer);
            if !self.removals.taken_over.contains(&peer) || is_left() {
                self.consider_takeover(peer, now);
            }
        }
    }

    /// Moves all takeovers on: asks who has not answered, finishes what is complete.
    pub(crate) fn take_over_due(&mut self, now: Instant) {
        let pending: Vec<PeerId> = self.pending_takeovers().collect();
        for removed in pending {
            if let Some(takeover) = self.removals.takeovers.get_mut(&removed)
                && now >= takeover.patience_until
            {
                // The operator vouches for it, and the members may have cut it off already.
                takeover.answered.insert(removed);
            }
            let waits_for = self.takeover_waits_for(removed);
            let Some(takeover) = self.removals.takeovers.get_mut(&removed) else { continue };
            if waits_for.is_empty() && now >= takeover.settle_at {
                self.finish_takeover(removed, now);
                continue;
            }
            let mut ask = Vec::new();
            if now >= takeover.next_query {
                takeover.round += 1;
                takeover.next_query = now + self.config.removal_retry;
                let oldest = takeover.round.saturating_sub(ROUNDS_KEPT);
                takeover.partial.retain(|&(_, round), _| round >= oldest);
                ask = waits_for;
            }
            let moments = [takeover.next_query, takeover.settle_at, takeover.patience_until];
            takeover.wake = moments.into_iter().filter(|&at| at > now).min().unwrap_or(takeover.next_query);
            let removal = RemovalRecord { removed, heir: self.me };
            let query = RemovalQuery { round: takeover.round, removal, digest: self.removals.digest };
            for member in ask {
                if self.presence(member) != Some(Presence::Unreachable) {
                    self.out.send(member, &Message::RemovalQuery(query));
                }
            }
        }
    }

    /// Tells a peer of all removals. For one that was removed and came back: it may listen only for a while, in which it must
    /// hear of it even when much of what is sent is lost.
    pub fn tell_removals(&mut self, to: PeerId) {
        self.send_removals(to);
    }

    pub(crate) fn handle_removal_query(&mut self, from: PeerId, query: &RemovalQuery, now: Instant) {
        let RemovalQuery { round, removal, digest } = *query;
        if removal.heir != from {
            self.stats.removals_not_the_heirs += 1;
            return;
        }
        self.handle_removal(removal, now);
        if digest != self.removals.digest {
            // Whoever knows more says so; the question is repeated when both know the same.
            self.send_removals(from);
        }
        if self.removals.removed_by(removal.removed) == Some(from) {
            self.send_report(from, round, removal.removed);
        }
    }

    /// Takes in what a member owns.
    pub(crate) fn handle_removal_report(
        &mut self,
        from: PeerId,
        header: &ReportHeader,
        blocks: &[(PeerId, BlockRecord)],
        now: Instant,
    ) {
        let ReportHeader { round, removed, digest, part, parts } = *header;
        for (signer, record) in blocks {
            self.hear_say(from, *signer, record, now);
        }
        if digest != self.removals.digest {
            self.send_removals(from);
            return;
        }
        let Some(takeover) = self.removals.takeovers.get_mut(&removed) else { return };
        if part < parts && round <= takeover.round {
            let got = takeover.partial.entry((from, round)).or_default();
            got.insert(part);
            if got.len() == usize::from(parts) {
                takeover.answered.insert(from);
            }
        }
    }

    fn send_removals(&mut self, to: PeerId) {
        let claims: Vec<RemovalRecord> = self.removals.claims().collect();
        for removals in claims.chunks(REMOVALS) {
            self.out.send(to, &Message::RemovalsKnown { removals: removals.to_vec() });
        }
    }

    pub(crate) fn claim_removal(&mut self, removed: PeerId, now: Instant) {
        let removal = RemovalRecord { removed, heir: self.me };
        self.handle_removal(removal, now);
        self.publish_removal(removal);
        self.consider_takeover(removed, now);
    }

    pub(crate) fn publish_removal(&mut self, removal: RemovalRecord) {
        self.out.publish(Publish { key: removal.key(), value: Some(removal.encode()) });
    }

    /// Everything that this peer has signed, and what it knows of removed owners.
    fn send_report(&mut self, to: PeerId, round: u64, removed: PeerId) {
        let own = self.records.values().map(|record| (self.me, *record));
        let of_removed = self
            .map
            .iter()
            .filter(|(_, holding)| self.inheritor(holding).is_some())
            .flat_map(|(span, holding)| span.blocks().map(move |prefix| (prefix, holding)))
            .map(|(prefix, holding)| {
                (holding.signer, BlockRecord { prefix, owner: holding.owner, epoch: holding.epoch })
            });
        let mut blocks: Vec<(PeerId, BlockRecord)> = own.chain(of_removed).collect();
        if blocks.len() > MAX_PARTS * REPORT_BLOCKS {
            self.stats.reports_truncated += 1;
            blocks.truncate(MAX_PARTS * REPORT_BLOCKS);
        }
        let parts = u16::try_from(blocks.len().div_ceil(REPORT_BLOCKS).max(1)).expect("truncated above");
        for part in 0..parts {
            let first = usize::from(part) * REPORT_BLOCKS;
            let blocks = blocks[first..blocks.len().min(first + REPORT_BLOCKS)].to_vec();
            let header = ReportHeader { round, removed, digest: self.removals.digest, part, parts };
            self.out.send(to, &Message::RemovalReport { header, blocks });
        }
    }

    /// Everybody has answered: what the removed peer owns now, or gave to somebody who did not take it up, is ours.
    fn finish_takeover(&mut self, removed: PeerId, now: Instant) {
        self.removals.takeovers.remove(&removed);
        if self.removals.taken_over.insert(removed) {
            self.out.persist(JournalEntry::TakenOver(removed));
        }
        let left: Vec<Span> = self
            .map
            .iter()
            .filter(|(_, holding)| self.removals.orphaned_by(holding) == Some(removed))
            .map(|(span, _)| span)
            .collect();
        let step = TAKEOVER_STEP * self.removals.claims.len() as u64;
        for span in left {
            for block in span.blocks() {
                self.claim(block, self.map.next_epoch(Span::of(block)) + step, now);
                let folded = self.folded(block);
                if folded != block {
                    self.claim(folded, self.map.next_epoch(Span::of(folded)), now);
                }
            }
        }
        self.pass_on(now);
    }

    /// We are the removed one.
    fn give_up(&mut self, by: PeerId, now: Instant) {
        let own: Vec<Span> =
            self.map.iter().filter(|(_, h)| h.owner == self.me).map(|(span, _)| span).collect();
        for span in own {
            self.lose(span);
        }
        for ticket in self.waiting.keys().copied().collect::<Vec<Ticket>>() {
            self.fail(ticket, AllocateError::Removed { by }, now);
        }
    }

    /// Everything that is ours can be used again: the one who had removed us turns out to be removed itself, by somebody whose
    /// word counts more, or our own journal is believed.
    pub(crate) fn regain(&mut self) {
        let own: Vec<Span> =
            self.map.iter().filter(|(_, holding)| self.is_usable(holding)).map(|(span, _)| span).collect();
        for span in own {
            self.space.gain(span);
        }
    }
}

//! How blocks come and go: learning records, taking up what was granted, folding, granting.
//!
//! Invariant: an address is handed out or given away only while the newest known record about it names us as the owner
//! and was signed by us. Whatever others grant us is taken up by signing its next epoch, which is journalled first; so
//! the record of a granter is needed only until ours is seen, and the state stays near the number of owners.

use std::time::Instant;

use gossip::PeerId;
use gossip::planted::{Bug, planted};
use ipnet::Ipv4Net;

use crate::Ipam;
use crate::doubt::{Present, Word};
use crate::ipam::{Publish, Trust};
use crate::journal::JournalEntry;
use crate::map::{Change, Holding, Outcome, Standing};
use crate::record::BlockRecord;
use crate::span::{Span, parent};

impl Ipam {
    /// Whether an address with this holding may be handed out or given away by us.
    pub(crate) fn is_usable(&self, holding: &Holding) -> bool {
        holding.owner == self.me
            && holding.signer == self.me
            && holding.standing == Standing::Clean
            && self.trust == Trust::Sure
            && !self.removals.is_removed(self.me)
    }

    /// Whether we own it by the word of somebody who may give it, and have only to take it up.
    fn is_offered(&self, holding: &Holding) -> bool {
        holding.owner == self.me
            && holding.signer != self.me
            && holding.standing == Standing::Clean
            && !self.removals.is_removed(self.me)
            // Promised to the heir: whatever the removed peer gave us and we have not taken up is taken over by the heir.
            && !self.removals.is_removed(holding.signer)
    }

    /// Takes in a record that `signer` wrote.
    pub(crate) fn learn(&mut self, signer: PeerId, record: &BlockRecord, now: Instant) {
        self.learn_with(None, signer, record, now);
    }

    /// As [`Ipam::learn`], of what the owner that we know has said itself.
    pub(crate) fn learn_with(
        &mut self,
        word_of: Option<PeerId>,
        signer: PeerId,
        record: &BlockRecord,
        now: Instant,
    ) {
        let span = Span::of(record.prefix);
        if span.intersection(self.range) != Some(span) {
            self.stats.records_out_of_range += 1;
            return;
        }
        self.note_member(signer);
        self.note_member(record.owner);
        let word = word_of.map(|of| Word { of, about: span, said: Holding::new(signer, record) });
        let court = Present::new(self.me, self.memory, &self.removals, &self.peers).told(word);
        let outcome = self.map.merge(signer, record, &court);
        if outcome.unconnected > 0 {
            self.consider_doubts(record, now);
        }
        if signer == self.me && !outcome.changes.is_empty() {
            // A record of an earlier life that the journal does not know: the disk was put back. It binds us all the same.
            self.write_down(*record);
            self.journal_rest(record, &outcome.changes);
            self.apply(outcome, now);
            return self.doubt_memory(now);
        }
        self.journal_learnt(signer, record, &outcome);
        self.apply(outcome, now);
    }

    /// What is known about others is kept as well: after a removal, the disks of those who remain may be the only place
    /// that knows what the removed peer owned. Ownership changes rarely, so this costs little.
    fn journal_learnt(&mut self, signer: PeerId, record: &BlockRecord, outcome: &Outcome) {
        let whole =
            |change: &Change| change.after.standing == Standing::Clean && change.after.is_of(signer, record);
        let counts = outcome.refused + outcome.unconnected == 0 && !outcome.changes.is_empty();
        if counts && outcome.changes.iter().all(whole) {
            let standing = Standing::Clean;
            self.out.persist(JournalEntry::Block { signer, record: *record, standing });
            return;
        }
        self.journal_changes(&outcome.changes);
    }

    /// A record of our own is written down already; it may have let records of others count.
    pub(crate) fn journal_rest(&mut self, own: &BlockRecord, changes: &[Change]) {
        let rest = changes.iter().filter(|change| !change.after.is_of(self.me, own));
        self.journal_changes(&rest.copied().collect::<Vec<_>>());
    }

    pub(crate) fn journal_changes(&mut self, changes: &[Change]) {
        for change in changes {
            for prefix in change.span.blocks() {
                let record = BlockRecord { prefix, owner: change.after.owner, epoch: change.after.epoch };
                let (signer, standing) = (change.after.signer, change.after.standing);
                self.out.persist(JournalEntry::Block { signer, record, standing });
            }
        }
    }

    /// Draws all consequences of changes in the map.
    pub(crate) fn apply(&mut self, outcome: Outcome, now: Instant) {
        self.stats.records_not_the_owners += outcome.refused as u64;
        self.stats.records_contested += outcome.contested as u64;
        self.stats.records_unconnected += outcome.unconnected as u64;
        let mut offered = Vec::new();
        for change in &outcome.changes {
            self.apply_change(change);
            if self.is_offered(&change.after) {
                offered.push(change.span);
            }
            self.consider_takeover(change.after.owner, now);
            self.consider_takeover(change.after.signer, now);
            self.consider_forwarding(change, now);
        }
        if !outcome.changes.is_empty() {
            self.consider_tidying(now);
        }
        for span in offered {
            self.take_up(span, now);
        }
        for change in &outcome.changes {
            self.prune(change.span, now);
        }
    }

    fn apply_change(&mut self, change: &Change) {
        let was = change.before.is_some_and(|before| self.is_usable(&before));
        let is = self.is_usable(&change.after);
        match (was, is) {
            (false, true) => self.space.gain(change.span),
            (true, false) if change.after.owner == self.me => self.space.withhold(change.span),
            (true, false) => self.lose(change.span),
            (true, true) | (false, false) => {}
        }
    }

    /// Leases in `span` are void; their holders do not know yet.
    pub(crate) fn lose(&mut self, span: Span) {
        for (addr, holder) in self.space.lose(span) {
            self.remember_lost(addr, holder);
        }
    }

    /// Takes up everything that is offered and was not taken up yet.
    pub(crate) fn take_up_offers(&mut self, now: Instant) {
        let offered: Vec<Span> =
            self.map.iter().filter(|(_, holding)| self.is_offered(holding)).map(|(span, _)| span).collect();
        for span in offered {
            self.take_up(span, now);
        }
    }

    /// Takes up what was offered in `span`, folded together with what we own beside it.
    fn take_up(&mut self, span: Span, now: Instant) {
        self.stats.received += 1;
        for block in span.blocks() {
            // Taken up together with another block, and perhaps passed on since.
            if !self.map.all(Span::of(block), |holding| self.is_offered(holding)) {
                continue;
            }
            let folded = self.folded(block);
            self.claim(folded, self.map.next_epoch(Span::of(folded)), now);
        }
        self.pass_on(now);
    }

    /// The largest block around `block` that is all ours.
    pub(crate) fn folded(&self, block: Ipv4Net) -> Ipv4Net {
        let mut folded = block;
        while let Some(larger) = parent(folded) {
            let span = Span::of(larger);
            let inside = span.intersection(self.range) == Some(span);
            let grown = |holding: &Holding| self.is_usable(holding) || self.is_offered(holding);
            if !inside
                || !halves_beside(larger, folded).is_some_and(|other| self.map.all(Span::of(other), grown))
            {
                break;
            }
            folded = larger;
        }
        folded
    }

    /// Signs that `prefix` is ours from `epoch` on. The caller made sure that it is.
    pub(crate) fn claim(&mut self, prefix: Ipv4Net, epoch: u64, now: Instant) {
        self.sign(BlockRecord { prefix, owner: self.me, epoch }, now);
    }

    /// Signs that `prefix`, which is ours, belongs to `to` from now on.
    pub(crate) fn grant(&mut self, prefix: Ipv4Net, to: PeerId, now: Instant) -> BlockRecord {
        let raise = u64::from(planted(Bug::EpochNotRaised));
        let record = BlockRecord { prefix, owner: to, epoch: self.map.next_epoch(Span::of(prefix)) - raise };
        self.stats.given += 1;
        self.sign(record, now);
        record
    }

    fn sign(&mut self, record: BlockRecord, now: Instant) {
        self.write_down(record);
        let court = Present::new(self.me, self.memory, &self.removals, &self.peers);
        let outcome = self.map.merge(self.me, &record, &court);
        // The step may let others count at once that were not connected before: only what is older must be gone.
        let counted = |holding: &Holding| {
            let is_ours = (holding.signer, holding.owner) == (self.me, record.owner);
            holding.epoch > record.epoch || holding.epoch == record.epoch && is_ours
        };
        assert!(self.map.all(Span::of(record.prefix), counted), "own steps follow what is known");
        self.journal_rest(&record, &outcome.changes);
        self.apply(outcome, now);
    }

    /// Journals and publishes a record of ours.
    fn write_down(&mut self, record: BlockRecord) {
        let standing = Standing::Clean;
        if !planted(Bug::GrantForgotten) || record.owner == self.me {
            self.out.persist(JournalEntry::Block { signer: self.me, record, standing });
        }
        self.records.insert(record.prefix, record);
        self.published.replaced(record.prefix);
        self.out.publish(Publish { key: record.key(), value: Some(record.encode()) });
    }

    /// Withdraws own records around `span` that say nothing current any more: a record is needed while it is the newest
    /// one about any address.
    pub(crate) fn prune(&mut self, span: Span, now: Instant) {
        let mut near: Vec<Ipv4Net> = Vec::new();
        // Whatever overlaps the span either covers its first address or begins inside.
        let mut around = Some(Span::single(span.first).largest_block());
        while let Some(block) = around {
            near.extend(self.records.get_key_value(&block).map(|(prefix, _)| *prefix));
            around = parent(block);
        }
        let first = Ipv4Net::new(span.first.into(), 0).expect("no length is valid");
        let inside = self.records.range(first..).map(|(prefix, _)| *prefix);
        near.extend(inside.take_while(|prefix| Span::of(*prefix).first <= span.last));
        for prefix in near {
            // A block that begins where the span does comes up twice.
            let Some(record) = self.records.get(&prefix) else { continue };
            if !self.is_current(record) {
                self.retire(prefix, now);
            }
        }
    }

    /// Whether a record of ours is the newest one about any address.
    pub(crate) fn is_current(&self, record: &BlockRecord) -> bool {
        self.map.within(Span::of(record.prefix)).any(|(_, holding)| holding.is_of(self.me, record))
    }
}

/// The other half of `whole`, of which `half` is one.
fn halves_beside(whole: Ipv4Net, half: Ipv4Net) -> Option<Ipv4Net> {
    crate::span::halves(whole)?.into_iter().find(|part| *part != half)
}

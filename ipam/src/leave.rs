//! Leaving: all own space goes to an heir, and so does what still arrives.
//!
//! An heir may be about to leave as well, and two that leave to each other would pass everything to and fro. So nobody passes a
//! block on twice: what comes back shows a circle, and another heir has to be named.

use std::collections::BTreeSet;
use std::time::Instant;

use gossip::PeerId;

use crate::AllocateError;
use crate::ipam::{HandoverError, Ipam, Ticket};
use crate::journal::JournalEntry;
use crate::span::Span;

/// What a peer that leaves has done about it. Forgotten in a restart: then a circle is gone through once more.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// What the present heir was given.
    spans: Vec<Span>,
    /// All heirs so far.
    heirs: BTreeSet<PeerId>,
    /// Something of it came back.
    circle: bool,
}

impl Ipam {
    /// Gives all own space to `to`, and whatever should still arrive. Leases that are left are lost. Answers how many
    /// addresses went; done for good when [`Ipam::is_handed_over`]. The same call again is a no-op.
    pub fn handover(&mut self, to: PeerId, now: Instant) -> Result<u64, HandoverError> {
        if to == self.me {
            return Err(HandoverError::ToOneself);
        }
        if self.removals.is_removed(to) {
            return Err(HandoverError::HeirRemoved { heir: to });
        }
        if let Some(by) = self.removals.removed_by(self.me) {
            return Err(HandoverError::Removed { by });
        }
        self.leaving = Some(to);
        self.passed.spans.clear();
        self.passed.circle = false;
        self.passed.heirs.insert(to);
        self.out.persist(JournalEntry::HandedOver(to));
        let addresses = self.usable_blocks().into_iter().map(|block| Span::of(block).size()).sum();
        self.pass_on(now);
        for ticket in self.waiting.keys().copied().collect::<Vec<Ticket>>() {
            self.fail(ticket, AllocateError::Leaving, now);
        }
        self.turn(now);
        Ok(addresses)
    }

    /// Whether nothing depends on this peer any more after [`Ipam::handover`]. Should it go earlier, or should space of a
    /// peer that it removed turn up later, then `rmpeer` of this peer passes the rest on.
    pub fn is_handed_over(&self) -> bool {
        self.leaving.is_some()
            && self.unconfirmed() == 0
            && self.usable_blocks().is_empty()
            && self.pending_takeovers().next().is_none()
    }

    /// Whether the heir turned out to be leaving too, to us in the end: it takes another one, if there is any, to hand over.
    pub fn needs_other_heir(&self) -> bool {
        self.passed.circle && self.leaving.is_some() && !self.usable_blocks().is_empty()
    }

    /// Whether `peer` was the heir already.
    pub fn was_heir(&self, peer: PeerId) -> bool {
        self.passed.heirs.contains(&peer)
    }

    /// A peer that is leaving keeps nothing: all goes to its heir, or to whoever took over from that one. If that is this
    /// peer itself, it keeps the space until another heir is named; and so it does with what comes back.
    pub(crate) fn pass_on(&mut self, now: Instant) {
        let Some(heir) = self.leaving else { return };
        let heir = self.removals.removed_by(heir).unwrap_or(heir);
        if heir == self.me || self.removals.is_removed(heir) {
            return;
        }
        for block in self.usable_blocks() {
            let span = Span::of(block);
            if self.passed.spans.iter().any(|passed| passed.intersection(span).is_some()) {
                self.passed.circle = true;
            } else {
                self.passed.spans.push(span);
                self.grant(block, heir, now);
            }
        }
    }
}

//! Telling heirs of space that they may not have heard of.
//!
//! An heir asks all members once, and finishes with what it was told. Later another heir can learn, from an answer about
//! another removed peer, of a gift between two removed peers that nobody else has seen; gossip does not carry it, because
//! it has dropped the records of removed peers. Whoever sees such space tells its heir, again and again until the heir's
//! own record about it comes (ADR 0004). In an ordinary takeover that record comes before the first message would go.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gossip::PeerId;

use crate::Ipam;
use crate::ipam::Presence;
use crate::map::{Change, Holding};
use crate::message::{MAX_PARTS, Message, REPORT_BLOCKS};
use crate::record::BlockRecord;
use crate::span::Span;

/// The pause between two messages doubles up to so many times the first one, about a minute: a takeover that waits for
/// somebody can take hours, and its heir usually knows.
const MAX_PAUSES: u32 = 8;

/// When heirs are told next.
#[derive(Debug, Default)]
pub(crate) struct Forwarding {
    /// None when no space of removed peers is known, apart from our own inheritance.
    next: Option<Instant>,
    pause: Duration,
}

impl Forwarding {
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        self.next
    }

    /// An heir can be reached again: do not wait for the end of a long pause.
    pub(crate) fn hurry(&mut self, pause: Duration, now: Instant) {
        if self.next.is_some() {
            self.start(pause, now);
        }
    }

    fn start(&mut self, pause: Duration, now: Instant) {
        let first = now + pause;
        self.next = Some(self.next.map_or(first, |next| next.min(first)));
        self.pause = pause;
    }
}

impl Ipam {
    /// Something became known about space; perhaps its heir does not know.
    pub(crate) fn consider_forwarding(&mut self, change: &Change, now: Instant) {
        if self.heir_to_tell(&change.after).is_some() {
            self.forwarding.start(self.config.removal_patience, now);
        }
    }

    /// As [`Ipam::consider_forwarding`], for all that is known: heirs have changed, or we forgot in a restart whom we told.
    pub(crate) fn consider_forwarding_all(&mut self, now: Instant) {
        if self.map.iter().any(|(_, holding)| self.heir_to_tell(&holding).is_some()) {
            self.forwarding.start(self.config.removal_patience, now);
        }
    }

    /// Tells all heirs what is left for them.
    pub(crate) fn forward_due(&mut self, now: Instant) {
        if self.forwarding.next.is_none_or(|at| now < at) {
            return;
        }
        let mut left: BTreeMap<PeerId, Vec<(PeerId, BlockRecord)>> = BTreeMap::new();
        for (span, holding) in self.map.iter() {
            let Some(heir) = self.heir_to_tell(&holding) else { continue };
            let record = |prefix| BlockRecord { prefix, owner: holding.owner, epoch: holding.epoch };
            left.entry(heir).or_default().extend(span.blocks().map(|block| (holding.signer, record(block))));
        }
        let pause = self.forwarding.pause;
        self.forwarding.next = (!left.is_empty()).then(|| now + pause);
        self.forwarding.pause = (pause * 2).min(self.config.removal_patience * MAX_PAUSES);
        for (heir, mut blocks) in left {
            if matches!(self.presence(heir), Some(Presence::Unreachable | Presence::Left)) {
                continue;
            }
            if blocks.len() > MAX_PARTS * REPORT_BLOCKS {
                self.stats.reports_truncated += 1;
                blocks.truncate(MAX_PARTS * REPORT_BLOCKS);
            }
            for blocks in blocks.chunks(REPORT_BLOCKS) {
                self.out.send(heir, &Message::LeftBehind { blocks: blocks.to_vec() });
            }
        }
    }

    /// Somebody knows of space of removed peers. If we are the heir and did not know, the takeover starts again.
    pub(crate) fn handle_left_behind(
        &mut self,
        from: PeerId,
        blocks: &[(PeerId, BlockRecord)],
        now: Instant,
    ) {
        for (signer, record) in blocks {
            self.hear_say(from, *signer, record, now);
        }
    }

    /// Takes in what `from` says that `signer` has signed.
    ///
    /// A removed peer is not heard: what it alone knows of has been taken over, or is going to be, by an heir who asked everybody
    /// else. A member's word counts for what it signed itself and for what it owns. What others signed counts only if it is space of
    /// a removed peer; where a member is known to own that, the owner is asked first.
    pub(crate) fn hear_say(&mut self, from: PeerId, signer: PeerId, record: &BlockRecord, now: Instant) {
        if self.removals.is_removed(from) {
            self.stats.messages_of_removed += 1;
            return;
        }
        if signer == from {
            return self.learn(signer, record, now);
        }
        let (span, said) = (Span::of(record.prefix), Holding::new(signer, record));
        if self.inheritor(&said).is_none() || span.intersection(self.range) != Some(span) {
            return;
        }
        for (piece, known) in self.map.pieces(span) {
            let known = known.filter(|known| known.epoch < record.epoch);
            let is_owned = known.is_some_and(|known| known.owner != from && self.inheritor(&known).is_none());
            let has_left = known.is_some_and(|known| self.presence(known.owner) == Some(Presence::Left));
            for prefix in piece.blocks() {
                match is_owned && !has_left {
                    true if known.is_some_and(|known| known.owner == self.me) => {}
                    true => self.doubt_rumour(prefix, now),
                    false => self.learn_with(Some(from), signer, &BlockRecord { prefix, ..*record }, now),
                }
            }
        }
    }

    /// Who inherits what is held so, if that is somebody else than us, and we have a say.
    fn heir_to_tell(&self, holding: &Holding) -> Option<PeerId> {
        self.inheritor(holding).filter(|&heir| heir != self.me && !self.removals.is_removed(self.me))
    }

    /// Who inherits what is held so, as it is left by somebody who was removed.
    pub(crate) fn inheritor(&self, holding: &Holding) -> Option<PeerId> {
        self.removals.removed_by(self.removals.orphaned_by(holding)?)
    }
}

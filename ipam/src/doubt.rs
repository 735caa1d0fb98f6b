//! Claims that do not follow from what is known, and how the owner that is known is asked about them (ADR 0011).
//!
//! Gossip keeps the newest record about an address and the last gifts of each giver; whoever was away for longer sees a claim whose
//! steps between are gone. A member that lies shows the same. So the claim does not count until the owner that is known here was
//! asked: its word about its own is the only one that is needed, and it takes nothing from anybody else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use gossip::PeerId;
use ipnet::Ipv4Net;

use crate::Ipam;
use crate::ipam::{Peer, Presence};
use crate::map::{Court, Holding};
use crate::message::{Message, REPORT_BLOCKS};
use crate::record::BlockRecord;
use crate::removal::TAKEOVER_STEP;
use crate::removed::Removals;
use crate::span::{Span, mix};

/// First pause: gossip usually brings what is missing within a second.
const PATIENCE: Duration = Duration::from_secs(1);

/// The pause doubles up to this: an owner that cannot be reached is asked when it comes back.
const LONGEST: Duration = Duration::from_secs(64);

/// When an owner is asked again that has denied a claim: it may have forgotten what it gave away, and finds out. The pause doubles up to
/// [`LONGEST_AGAIN`], so that somebody who lies does not make everybody ask for ever.
const AGAIN: Duration = Duration::from_secs(64);

/// See [`AGAIN`].
const LONGEST_AGAIN: Duration = Duration::from_secs(2048);

/// Blocks that are asked for in one message, and messages of one answer. What is left is asked for in the next round.
const ASKED: usize = 64;

/// Messages of one answer: a block that was divided among a thousand.
const ANSWERS: usize = 50;

/// Blocks that others call left behind and whose owner is asked: past it they have to say so again, as they do.
const MAX_RUMOURS: usize = 1024;

/// Where the marks of a life begin: far enough from the end that they do not wrap.
const MARKS: u64 = u64::MAX >> 1;

/// Whether what this peer remembers of its own gifts can be relied on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Memory {
    /// It is whole.
    #[default]
    Whole,
    /// This peer said things that it does not remember: its disk was put back, or it is a copy.
    Holes,
}

/// What waits for the word of an owner.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    next: Option<Instant>,
    pause: Duration,
    /// When owners are asked again about what they have denied, and the pause after that.
    again: Option<(Instant, Duration)>,
    /// Blocks of which somebody said that they were left behind by a removed peer, though another owner is known.
    rumours: BTreeSet<Ipv4Net>,
}

impl Doubts {
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        self.next.into_iter().chain(self.again.map(|(at, _)| at)).min()
    }

    /// An owner can be reached again.
    pub(crate) fn hurry(&mut self, now: Instant) {
        if self.next.is_some() {
            self.start(now);
        }
    }

    fn start(&mut self, now: Instant) {
        self.pause = PATIENCE;
        self.next = Some(self.next.map_or(now + PATIENCE, |next| next.min(now + PATIENCE)));
    }
}

/// What an owner said of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word {
    /// The owner.
    pub(crate) of: PeerId,
    /// About these addresses.
    pub(crate) about: Span,
    /// The step that followed.
    pub(crate) said: Holding,
}

/// Who is there to be asked, and who may take over, as this peer sees it.
pub(crate) struct Present<'a> {
    pub(crate) me: PeerId,
    pub(crate) memory: Memory,
    pub(crate) removals: &'a Removals,
    pub(crate) peers: &'a BTreeMap<PeerId, Peer>,
    /// What an owner itself says came after it, and where. Only that and only there: what others say is still judged without it, also when
    /// they say the same of more.
    word: Option<Word>,
}

impl<'a> Present<'a> {
    pub(crate) fn new(
        me: PeerId,
        memory: Memory,
        removals: &'a Removals,
        peers: &'a BTreeMap<PeerId, Peer>,
    ) -> Present<'a> {
        Present { me, memory, removals, peers, word: None }
    }

    pub(crate) fn told(self, word: Option<Word>) -> Present<'a> {
        Present { word, ..self }
    }
}

impl Court for Present<'_> {
    fn may_skip(&self, piece: Span, current: &Holding, step: &Holding) -> bool {
        let given_word = |word: Word| {
            (word.of, word.said) == (current.owner, *step) && word.about.intersection(piece) == Some(piece)
        };
        let owner = current.owner;
        let has_left = || self.peers.get(&owner).is_some_and(|peer| peer.presence == Some(Presence::Left));
        // The last word about what was inherited, also where the heir did not know of the last owner.
        let takes_over =
            || step.epoch - current.epoch >= TAKEOVER_STEP / 2 && self.removals.is_heir(step.signer);
        self.word.is_some_and(given_word)
            || step.signer == self.me
            || takes_over()
            || match owner == self.me {
                true => self.memory == Memory::Holes,
                // Nobody is left to be asked, and nobody to be harmed.
                false => self.removals.is_removed(owner) || has_left(),
            }
    }
}

impl Ipam {
    /// This peer finds records of its own that it did not write in this life: it does not know all that it has given away, so
    /// that the claims of others about its space count.
    pub fn doubt_memory(&mut self, now: Instant) {
        if std::mem::replace(&mut self.memory, Memory::Holes) == Memory::Whole {
            self.judge_again(self.range, now);
            self.turn(now);
        }
    }

    /// Who is there or may take over has changed, or a deed of `span` has come.
    pub(crate) fn judge_again(&mut self, span: Span, now: Instant) {
        let court = Present::new(self.me, self.memory, &self.removals, &self.peers);
        let outcome = self.map.judge_again(span, &court);
        self.journal_changes(&outcome.changes);
        self.apply(outcome, now);
    }

    /// Something does not follow from what is known. If it is for us, a caller may wait for it.
    pub(crate) fn consider_doubts(&mut self, record: &BlockRecord, now: Instant) {
        self.doubts.start(now);
        if record.owner == self.me {
            self.doubts.next = Some(now);
        }
    }

    /// Somebody says, without a signature, that a block was left behind by a removed peer. Its owner has to know.
    pub(crate) fn doubt_rumour(&mut self, prefix: Ipv4Net, now: Instant) {
        if self.doubts.rumours.len() < MAX_RUMOURS && self.doubts.rumours.insert(prefix) {
            self.doubts.start(now);
        }
    }

    /// Whether space may have gone on to somebody, without our knowing yet.
    pub(crate) fn is_doubtful(&self, within: Span) -> bool {
        let court = Present::new(self.me, self.memory, &self.removals, &self.peers);
        let open = self.map.unconnected(&court);
        open.into_iter().any(|(owner, _, span)| owner != self.me && span.intersection(within).is_some())
    }

    /// Asks the owners, if it is time.
    pub(crate) fn ask_owners_due(&mut self, now: Instant) {
        let mut open: BTreeMap<PeerId, BTreeSet<Ipv4Net>> = BTreeMap::new();
        if self.doubts.next.is_some_and(|at| at <= now) {
            self.open_questions(&mut open);
            self.doubts.next = (!open.is_empty()).then(|| now + self.doubts.pause);
            self.doubts.pause = (self.doubts.pause * 2).min(LONGEST);
        }
        if let Some((_, pause)) = self.doubts.again.take_if(|(at, _)| *at <= now) {
            let court = Present::new(self.me, self.memory, &self.removals, &self.peers);
            let denied = self.map.refuted(&court);
            self.doubts.again = (!denied.is_empty()).then(|| (now + pause, (pause * 2).min(LONGEST_AGAIN)));
            for (owner, _, span) in denied {
                open.entry(owner).or_default().extend(span.blocks());
            }
            open.remove(&self.me);
        }
        for (owner, blocks) in open {
            if self.presence(owner) != Some(Presence::Unreachable) {
                let blocks: Vec<Ipv4Net> = blocks.into_iter().take(ASKED).collect();
                self.stats.asked_owners += 1;
                let mark = self.mark();
                self.out.send(owner, &Message::AskStanding { mark, blocks });
            }
        }
    }

    /// Blocks by the peer who has to know about them.
    fn open_questions(&mut self, open: &mut BTreeMap<PeerId, BTreeSet<Ipv4Net>>) {
        let court = Present::new(self.me, self.memory, &self.removals, &self.peers);
        for (owner, signer, span) in self.map.unconnected(&court) {
            // What others claim of our own: perhaps we were removed, and those who know it say so.
            let asked = if owner == self.me { signer } else { owner };
            open.entry(asked).or_default().extend(span.blocks());
        }
        let (map, removals) = (&self.map, &self.removals);
        self.doubts.rumours.retain(|prefix| {
            // Nobody's word is needed for what is taken over already, or known to be left behind.
            map.within(Span::of(*prefix)).any(|(_, holding)| removals.orphaned_by(&holding).is_none())
        });
        for prefix in &self.doubts.rumours {
            for (span, holding) in self.map.within(Span::of(*prefix)) {
                open.entry(holding.owner).or_default().extend(span.blocks());
            }
        }
        open.remove(&self.me);
    }

    /// Somebody asks what became of blocks that we owned.
    pub(crate) fn handle_ask_standing(&mut self, from: PeerId, mark: u64, blocks: &[Ipv4Net], now: Instant) {
        // Whoever asks a removed peer, or was removed and asks, has not heard of it.
        if self.removals.is_removed(self.me) || self.removals.is_removed(from) {
            return self.tell_removals(from);
        }
        // Who may have forgotten a gift does not say that there was none.
        let sure = self.memory == Memory::Whole && self.listens_until.is_none_or(|until| until <= now);
        let pieces = blocks.iter().flat_map(|block| self.map.within(Span::of(*block)));
        let pieces = pieces.filter(|(_, holding)| sure || holding.owner != self.me);
        let standing = pieces.flat_map(|(span, holding)| {
            span.blocks().map(move |prefix| {
                (holding.signer, BlockRecord { prefix, owner: holding.owner, epoch: holding.epoch })
            })
        });
        let standing: Vec<(PeerId, BlockRecord)> = standing.take(ANSWERS * REPORT_BLOCKS).collect();
        for blocks in standing.chunks(REPORT_BLOCKS) {
            self.out.send(from, &Message::Standing { mark, blocks: blocks.to_vec() });
        }
    }

    /// The owner, if it is the one, says who owns what now.
    pub(crate) fn handle_standing(
        &mut self,
        from: PeerId,
        mark: u64,
        blocks: &[(PeerId, BlockRecord)],
        now: Instant,
    ) {
        if self.removals.is_removed(from) {
            self.stats.messages_of_removed += 1;
            return;
        }
        for (signer, record) in blocks {
            let span = Span::of(record.prefix);
            if span.intersection(self.range) != Some(span) {
                continue;
            }
            let its: Vec<Span> = self
                .map
                .within(span)
                .filter(|(_, holding)| holding.owner == from)
                .map(|(piece, _)| piece)
                .collect();
            for piece in its {
                self.doubts.rumours.retain(|rumour| Span::of(*rumour).intersection(piece).is_none());
                for prefix in piece.blocks() {
                    self.learn_with(Some(from), *signer, &BlockRecord { prefix, ..*record }, now);
                }
                if record.owner == from {
                    self.refute(piece, mark, now);
                }
            }
        }
    }

    /// Goes back and forth with a question: what came after it is not answered by it, nor what another life has asked.
    fn mark(&self) -> u64 {
        (mix(self.seed) & MARKS).wrapping_add(self.map.mark())
    }

    fn refute(&mut self, span: Span, mark: u64, now: Instant) {
        let number = mark.wrapping_sub(mix(self.seed) & MARKS);
        if number > self.map.mark() {
            return;
        }
        let court = Present::new(self.me, self.memory, &self.removals, &self.peers);
        let refuted = self.map.refute(span, number, &court);
        self.stats.records_not_the_owners += refuted as u64;
        if refuted > 0 {
            self.doubts.again = Some((now + AGAIN, AGAIN * 2));
        }
    }
}

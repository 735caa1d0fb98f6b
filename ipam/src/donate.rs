//! Answering peers that need space: half of the largest free block, or one address.
//!
//! The record is journalled, published and sent; any one of them moves the block. A repeated question gets the same
//! answer, so that a lost reply does not cost a second block.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Instant;

use gossip::PeerId;
use gossip::planted::{Bug, planted};
use ipnet::Ipv4Net;

use crate::Ipam;
use crate::map::Standing;
use crate::message::{Deny, Message};
use crate::record::BlockRecord;
use crate::space::Use;
use crate::span::Span;

/// Gifts that are remembered against repeated questions: a question is repeated within seconds, so that this covers
/// hundreds of gifts a second. Past it a repetition gets another block, which wastes nothing: it is owned and usable.
pub(crate) const MAX_REMEMBERED: usize = 1024;

/// What was given under which question.
#[derive(Debug, Default)]
pub(crate) struct Given {
    by_question: BTreeMap<(PeerId, u64), BlockRecord>,
    order: VecDeque<(PeerId, u64)>,
}

impl Given {
    /// How many are remembered.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    fn remember(&mut self, question: (PeerId, u64), record: BlockRecord) {
        if self.order.len() == MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_question.remove(&oldest);
        }
        self.order.push_back(question);
        self.by_question.insert(question, record);
    }
}

impl Ipam {
    pub(crate) fn handle_ask(&mut self, from: PeerId, id: u64, within: Ipv4Net, now: Instant) {
        let answer = match self.answer_again(from, id) {
            Some(answer) => Ok(answer),
            None => self.choose_gift(from, within, now),
        };
        self.answer_question(from, id, answer, now);
    }

    pub(crate) fn handle_ask_address(&mut self, from: PeerId, id: u64, addr: Ipv4Addr, now: Instant) {
        let answer = match self.answer_again(from, id) {
            Some(answer) => Ok(answer),
            None => self.choose_address(from, addr.to_bits(), now),
        };
        self.answer_question(from, id, answer, now);
    }

    fn answer_again(&self, from: PeerId, id: u64) -> Option<Gift> {
        self.given.by_question.get(&(from, id)).copied().map(Gift::Again)
    }

    fn answer_question(&mut self, from: PeerId, id: u64, gift: Result<Gift, Deny>, now: Instant) {
        self.postpone_tidying(now);
        let message = match gift {
            Ok(Gift::Again(record)) => Message::Give { id, record },
            Ok(Gift::New(prefix)) => {
                let record = self.grant(prefix, from, now);
                self.given.remember((from, id), record);
                Message::Give { id, record }
            }
            Err(reason) => {
                self.stats.denied += 1;
                Message::Deny { id, reason }
            }
        };
        self.out.send(from, &message);
    }

    fn choose_gift(&self, from: PeerId, within: Ipv4Net, now: Instant) -> Result<Gift, Deny> {
        self.may_give(from, now)?;
        let within = Span::of(within).intersection(self.range).ok_or(Deny::NoSpace)?;
        let rank = |part: Span| self.fit(part, from);
        let nothing = || match self.is_doubtful(within) {
            // Space may be on its way to us.
            true => Deny::NotYet,
            false => Deny::NoSpace,
        };
        self.space.gift(within, rank).map(Gift::New).ok_or_else(nothing)
    }

    /// How much better than others a part is to give: what lies beside the recipient's own folds into it, and what lies among others'
    /// leaves no hole here. Both keep the number of blocks down where single addresses are moved.
    fn fit(&self, part: Span, to: PeerId) -> u8 {
        let before = part.first.checked_sub(1).and_then(|addr| self.map.at(addr));
        let after = part.last.checked_add(1).and_then(|addr| self.map.at(addr));
        let beside = |peer: PeerId| [before, after].into_iter().flatten().filter(|h| h.owner == peer).count();
        u8::try_from(2 + beside(to) - beside(self.me)).unwrap_or_default()
    }

    fn choose_address(&self, from: PeerId, addr: u32, now: Instant) -> Result<Gift, Deny> {
        self.may_give(from, now)?;
        match self.space.usage(addr) {
            Use::Free => Ok(Gift::New(Span::single(addr).largest_block())),
            Use::Leased(_) if planted(Bug::LeaseGivenAway) => {
                Ok(Gift::New(Span::single(addr).largest_block()))
            }
            Use::Leased(holder) => Err(Deny::InUse(holder.to_string())),
            Use::Resting => Err(Deny::Resting),
            Use::Unusable => match self.map.at(addr) {
                Some(holding) if holding.owner == self.me || holding.standing == Standing::Contested => {
                    Err(Deny::Withheld)
                }
                holding => Err(Deny::NotTheOwner(holding.map(|holding| holding.owner))),
            },
        }
    }

    pub(crate) fn may_give(&self, from: PeerId, now: Instant) -> Result<(), Deny> {
        if self.removals.is_removed(from) {
            return Err(Deny::YouAreRemoved);
        }
        if self.listens_until.is_some_and(|until| now < until) {
            return Err(Deny::NotYet);
        }
        if self.leaving.is_some() || self.removals.is_removed(self.me) {
            return Err(Deny::Leaving);
        }
        Ok(())
    }
}

enum Gift {
    New(Ipv4Net),
    Again(BlockRecord),
}

//! Asking other peers for space on behalf of callers that wait, and of a peer that has none yet.
//!
//! Callers with the same need share one conversation: one peer is asked at a time, the most promising first; who denies
//! or stays silent is passed over until everybody was asked; then a pause, and again. A conversation ends when nobody
//! waits, or when it is certain that there is nothing to be had.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use gossip::PeerId;
use gossip::planted::{Bug, planted};
use ipnet::Ipv4Net;

use crate::ipam::{Ipam, Presence, Ticket, Trust};
use crate::map::Standing;
use crate::message::{Deny, Message};
use crate::record::BlockRecord;
use crate::span::{Span, mix};
use crate::{AllocateError, Owner};

/// Peers that are asked in one round. Free counts tell who has space; where eight of the best were wrong, more will be.
/// Twice that costs a caller a few round trips.
pub(crate) const MAX_ASKED: usize = 16;

/// Peers that an error names: enough to act on.
const MAX_NAMED: usize = 8;

/// Pause after a peer without space found that nobody has any and no caller waits, and between two shares: it only wants
/// to be prepared. Where peers are more than free addresses, each share is the last one of somebody else.
const SHARE_PAUSE: Duration = Duration::from_secs(30);

/// What is asked for: the key of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    Within(Ipv4Net),
    Address(u32),
}

impl Need {
    pub(crate) fn span(self) -> Span {
        match self {
            Need::Within(net) => Span::of(net),
            Need::Address(addr) => Span::single(addr),
        }
    }
}

/// A question that is not answered yet.
#[derive(Debug, Clone, Copy)]
struct Question {
    to: PeerId,
    until: Instant,
}

/// One conversation.
#[derive(Debug)]
struct Ask {
    tickets: VecDeque<Ticket>,
    question: Option<Question>,
    /// Ids of questions that were not answered: repeated with the same id, so that the donor knows them again.
    ids: BTreeMap<PeerId, u64>,
    denied: BTreeMap<PeerId, Deny>,
    silent: BTreeSet<PeerId>,
    /// Whom the last owner named as the owner.
    hint: Option<PeerId>,
    rounds: u32,
    next_at: Instant,
}

/// All conversations.
#[derive(Debug, Default)]
pub(crate) struct Asks {
    by_need: BTreeMap<Need, Ask>,
    /// Before it a share is not sought again for nobody.
    next_share: Option<Instant>,
}

impl Asks {
    /// Peers that were asked for the need for which most were.
    pub(crate) fn most_asked(&self) -> usize {
        self.by_need.values().map(|ask| ask.denied.len() + ask.silent.len()).max().unwrap_or(0)
    }

    pub(crate) fn join(&mut self, need: Need, ticket: Ticket, now: Instant) {
        let ask = self.by_need.entry(need).or_insert_with(|| Ask::new(now));
        // A caller does not wait for a pause that was made when nobody did.
        ask.next_at = ask.next_at.min(now);
        ask.tickets.push_back(ticket);
    }

    pub(crate) fn leave(&mut self, need: Need, ticket: Ticket) {
        if let Some(ask) = self.by_need.get_mut(&need) {
            ask.tickets.retain(|&other| other != ticket);
        }
    }

    /// Something happened that may make a difference: do not wait for the end of a pause.
    pub(crate) fn hurry(&mut self, now: Instant) {
        for ask in self.by_need.values_mut() {
            ask.next_at = ask.next_at.min(now);
        }
    }

    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        self.by_need.values().map(|ask| ask.question.map_or(ask.next_at, |question| question.until)).min()
    }

    fn of_question(&mut self, from: PeerId, id: u64) -> Option<(Need, &mut Ask)> {
        self.by_need
            .iter_mut()
            .find(|(_, ask)| ask.ids.get(&from) == Some(&id))
            .map(|(need, ask)| (*need, ask))
    }
}

impl Ask {
    fn new(now: Instant) -> Ask {
        Ask {
            tickets: VecDeque::new(),
            question: None,
            ids: BTreeMap::new(),
            denied: BTreeMap::new(),
            silent: BTreeSet::new(),
            hint: None,
            rounds: 0,
            next_at: now,
        }
    }

    /// The answer to a question of this conversation came.
    fn close_question(&mut self, from: PeerId) {
        self.ids.remove(&from);
        self.silent.remove(&from);
        if self.question.is_some_and(|question| question.to == from) {
            self.question = None;
        }
    }

    fn was_tried(&self, peer: PeerId) -> bool {
        self.denied.contains_key(&peer) || self.silent.contains(&peer)
    }
}

impl Ipam {
    pub(crate) fn handle_give(&mut self, from: PeerId, id: u64, record: &BlockRecord, now: Instant) {
        if self.removals.is_removed(from) {
            self.stats.messages_of_removed += 1;
            return;
        }
        match self.asks.of_question(from, id) {
            Some((_, ask)) => ask.close_question(from),
            None => self.stats.answers_late += 1,
        }
        // Its own account comes late; without it the same peer would be asked again for what it does not have any more.
        if let Some(known) = self.peers.get_mut(&from) {
            let gone = u32::try_from(Span::of(record.prefix).size()).unwrap_or(u32::MAX);
            known.free = known.free.map(|free| free.saturating_sub(gone));
        }
        // Late or not: the space is ours, and nobody else would use it.
        self.learn(from, record, now);
    }

    pub(crate) fn handle_deny(&mut self, from: PeerId, id: u64, reason: Deny, now: Instant) {
        let Some((need, ask)) = self.asks.of_question(from, id) else {
            self.stats.answers_late += 1;
            return;
        };
        ask.close_question(from);
        ask.hint = match &reason {
            Deny::NotTheOwner(owner) => *owner,
            Deny::NoSpace
            | Deny::InUse(_)
            | Deny::Resting
            | Deny::Withheld
            | Deny::Leaving
            | Deny::YouAreRemoved
            | Deny::NotYet => ask.hint,
        };
        ask.denied.insert(from, reason.clone());
        if let (Need::Address(addr), Deny::InUse(holder)) = (need, reason) {
            let mut holder = holder;
            holder.truncate(holder.floor_char_boundary(crate::MAX_OWNER));
            let error = AllocateError::InUse { addr: addr.into(), by: from, holder: Owner(holder) };
            self.fail_all(need, &error, now);
        }
    }

    /// Hands out what is here to the callers that wait for it, first come first served.
    pub(crate) fn serve(&mut self, now: Instant) {
        let needs: Vec<Need> = self.asks.by_need.keys().copied().collect();
        for need in needs {
            while let Some(&ticket) = self.asks.by_need.get(&need).and_then(|ask| ask.tickets.front()) {
                let owner = std::sync::Arc::clone(&self.waiting[&ticket].owner);
                match self.try_local(&owner, need) {
                    Ok(Some(addr)) => {
                        self.cancel(ticket, now);
                        self.answer_lease(ticket, addr);
                    }
                    Ok(None) => break,
                    Err(error) => self.fail(ticket, error, now),
                }
            }
        }
    }

    /// A peer without any space asks for a share before the first caller comes.
    pub(crate) fn seek_share(&mut self, now: Instant) {
        let everywhere = Need::Within(self.config.range);
        if self.lacks_share() && !self.asks.by_need.contains_key(&everywhere) {
            let next_at = self.asks.next_share.map_or(now, |at| at.max(now));
            self.asks.next_share = Some(next_at + SHARE_PAUSE);
            self.asks.by_need.insert(everywhere, Ask { next_at, ..Ask::new(now) });
        }
    }

    fn lacks_share(&self) -> bool {
        let waits = self.claim.is_some() || self.trust == Trust::Unsure;
        if self.leaving.is_some() || waits || self.removals.is_removed(self.me) {
            return false;
        }
        // Free addresses say the same without a look at the whole map.
        let owns_nothing = || {
            self.space.free_count() == 0
                && self.map.iter().next().is_some()
                && !self.map.iter().any(|(_, holding)| self.is_usable(&holding))
        };
        self.is_poor() || owns_nothing()
    }

    pub(crate) fn advance_asks(&mut self, now: Instant) {
        let needs: Vec<Need> = self.asks.by_need.keys().copied().collect();
        for need in needs {
            let Some(mut ask) = self.asks.by_need.remove(&need) else { continue };
            let for_share = need == Need::Within(self.config.range) && self.lacks_share();
            if ask.tickets.is_empty() && !for_share {
                continue;
            }
            let certain = self.advance(need, &mut ask, now);
            self.asks.by_need.insert(need, ask);
            if let Some(error) = certain {
                self.fail_all(need, &error, now);
            }
        }
    }

    /// Moves one conversation on; answers an error when there is nothing to wait for.
    fn advance(&mut self, need: Need, ask: &mut Ask, now: Instant) -> Option<AllocateError> {
        if let Some(question) = ask.question {
            if now < question.until && self.presence(question.to) != Some(Presence::Unreachable) {
                return None;
            }
            ask.silent.insert(question.to);
            ask.question = None;
        }
        if now < ask.next_at {
            return None;
        }
        if let Some(to) = self.most_promising(need, ask) {
            self.put_question(need, ask, to, now);
            return None;
        }
        // Space can be on its way between two peers that were asked one after the other: nothing is certain before the second round.
        let first_round = ask.rounds == 0 && !ask.denied.is_empty() && !ask.tickets.is_empty();
        let certain = self.certain_failure(need, ask).filter(|_| !first_round);
        let pause = match (certain.is_some(), ask.tickets.is_empty()) {
            (true, true) => SHARE_PAUSE,
            (true, false) | (false, true | false) => self.pause(ask.rounds),
        };
        ask.rounds += 1;
        ask.next_at = now + pause;
        ask.silent.clear();
        ask.denied.clear();
        ask.hint = None;
        certain
    }

    fn pause(&self, rounds: u32) -> Duration {
        let doubled = self.config.ask_pause.saturating_mul(1 << rounds.min(16));
        doubled.min(self.config.ask_pause_max)
    }

    fn put_question(&mut self, need: Need, ask: &mut Ask, to: PeerId, now: Instant) {
        let fresh = mix(self.seed ^ mix(self.next_id));
        let id = *ask.ids.entry(to).or_insert_with(|| {
            self.next_id += 1;
            fresh
        });
        let message = match need {
            Need::Within(within) => Message::Ask { id, within },
            Need::Address(addr) => Message::AskAddress { id, addr: addr.into() },
        };
        self.stats.asked += 1;
        self.postpone_tidying(now);
        self.out.send(to, &message);
        ask.question = Some(Question { to, until: now + self.config.ask_timeout });
    }

    fn most_promising(&self, need: Need, ask: &Ask) -> Option<PeerId> {
        if ask.denied.len() + ask.silent.len() >= MAX_ASKED {
            return None;
        }
        let may_be_asked = |peer: PeerId| {
            peer != self.me
                && !ask.was_tried(peer)
                && !self.removals.is_removed(peer)
                && match self.presence(peer) {
                    Some(Presence::Reachable) | None => true,
                    Some(Presence::Unreachable | Presence::Left) => false,
                }
        };
        match need {
            Need::Address(addr) => {
                let owner = self.holding_at(addr).map(|holding| holding.owner);
                [ask.hint, owner].into_iter().flatten().find(|&peer| may_be_asked(peer))
            }
            Need::Within(_) => {
                let owners = self.owners_within(need.span());
                let candidates = owners.into_iter().filter(|&(peer, _)| may_be_asked(peer));
                candidates
                    .max_by_key(|&(peer, owned)| {
                        let free = self.peers.get(&peer).and_then(|peer| peer.free);
                        // What lies in the subnet bounds what can be free there; an unknown count is taken for half.
                        let likely = free.map_or(owned.div_ceil(2), |free| owned.min(u64::from(free)));
                        (likely, mix(self.seed ^ first_bytes(peer)), Reverse(peer))
                    })
                    .map(|(peer, _)| peer)
            }
        }
    }

    /// Owners of addresses inside `span`, and how many.
    pub(crate) fn owners_within(&self, span: Span) -> BTreeMap<PeerId, u64> {
        let mut owners = BTreeMap::new();
        for (piece, holding) in self.map.within(span) {
            *owners.entry(holding.owner).or_insert(0) += piece.size();
        }
        owners
    }

    /// Whether everybody who owns a part of what is needed has said that nothing of it is free.
    fn certain_failure(&self, need: Need, ask: &Ask) -> Option<AllocateError> {
        let span = need.span();
        match need {
            Need::Address(_) => None,
            Need::Within(asked) => {
                let resting = self.space.resting_within(span);
                let everybody_denied = self.owners_within(span).into_keys().all(|peer| {
                    let reports_none = self.peers.get(&peer).and_then(|peer| peer.free) == Some(0)
                        && ask.denied.len() >= MAX_ASKED
                        && self.presence(peer) == Some(Presence::Reachable);
                    peer == self.me || reports_none || ask.denied.get(&peer) == Some(&Deny::NoSpace)
                });
                let all_known =
                    self.map.unowned(span) == 0 && !self.is_under_way(span) && !self.is_doubtful(span);
                (all_known && resting == 0 && everybody_denied)
                    .then_some(AllocateError::Exhausted { asked, resting })
            }
        }
    }

    /// Whether somebody who can be reached was given space and has not taken it up yet: it may have denied before it heard.
    fn is_under_way(&self, span: Span) -> bool {
        self.map.within(span).any(|(_, holding)| {
            holding.owner != holding.signer && self.presence(holding.owner) == Some(Presence::Reachable)
        })
    }

    fn fail_all(&mut self, need: Need, error: &AllocateError, now: Instant) {
        let tickets: Vec<Ticket> =
            self.asks.by_need.get(&need).map(|ask| ask.tickets.iter().copied().collect()).unwrap_or_default();
        for ticket in tickets {
            self.fail(ticket, error.clone(), now);
        }
    }

    /// The deadline of a caller has come: say what it was that did not happen.
    pub(crate) fn expire(&mut self, ticket: Ticket, now: Instant) {
        let need = self.waiting[&ticket].need;
        let error = match need {
            Need::Address(addr) => self.why_not_address(addr),
            Need::Within(asked) => self.why_not_within(need, asked),
        };
        if planted(Bug::DeadlineUnanswered) {
            return self.cancel(ticket, now);
        }
        self.fail(ticket, error, now);
    }

    fn why_not_address(&self, addr: u32) -> AllocateError {
        let address = Ipv4Addr::from_bits(addr);
        let Some(holding) = self.map.at(addr) else {
            return AllocateError::NoSpaceYet { asked: address.into() };
        };
        let owner = holding.owner;
        match self.presence(owner) {
            _ if holding.standing == Standing::Contested => AllocateError::Contested { addr: address },
            _ if self.removals.is_removed(owner) => self.takeover_pending(owner),
            Some(Presence::Unreachable | Presence::Left) => {
                AllocateError::OwnerUnreachable { addr: address, owner }
            }
            Some(Presence::Reachable) | None => AllocateError::DeadlinePassed { waiting_for: vec![owner] },
        }
    }

    fn why_not_within(&self, need: Need, asked: Ipv4Net) -> AllocateError {
        let owners = self.owners_within(need.span());
        let others = || owners.keys().copied().filter(|&peer| peer != self.me);
        let named = |wanted: &dyn Fn(PeerId) -> bool| -> Vec<PeerId> {
            others().filter(|&peer| wanted(peer)).take(MAX_NAMED).collect()
        };
        let may_have = |peer: PeerId| self.peers.get(&peer).and_then(|peer| peer.free) != Some(0);
        let is_away =
            |peer: PeerId| matches!(self.presence(peer), Some(Presence::Unreachable | Presence::Left));
        let present = named(&|peer| !is_away(peer) && !self.removals.is_removed(peer) && may_have(peer));
        let removed = others().find(|&peer| self.removals.is_removed(peer));
        let away = named(&|peer| is_away(peer) && !self.removals.is_removed(peer));
        if owners.is_empty() {
            AllocateError::NoSpaceYet { asked }
        } else if !present.is_empty() {
            AllocateError::DeadlinePassed { waiting_for: present }
        } else if let Some(removed) = removed {
            self.takeover_pending(removed)
        } else if !away.is_empty() {
            AllocateError::OwnersUnreachable { owners: away }
        } else {
            AllocateError::Exhausted { asked, resting: self.space.resting_within(need.span()) }
        }
    }

    fn takeover_pending(&self, removed: PeerId) -> AllocateError {
        let mut waiting_for = self.takeover_waits_for(removed);
        waiting_for.truncate(MAX_NAMED);
        AllocateError::TakeoverPending { removed, waiting_for }
    }
}

fn first_bytes(peer: PeerId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = peer.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

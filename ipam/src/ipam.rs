//! The allocator of one peer: what goes in, what comes out, and in which order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use gossip::planted::{Bug, planted};
use gossip::{Kind, PeerId, RecordKey};
use ipnet::Ipv4Net;

use crate::ask::{Asks, Need};
use crate::deed::Published;
use crate::donate::Given;
use crate::doubt::{Doubts, Memory};
use crate::forward::Forwarding;
use crate::journal::JournalEntry;
use crate::leave::Passed;
use crate::map::{Holding, OwnerMap};
use crate::message::{Message, MessageError};
use crate::reclaim::Reclaiming;
use crate::record::{BlockRecord, FreeRecord, RecordError, RemovalRecord, Said};
use crate::removed::Removals;
use crate::seed::Claim;
use crate::space::{Space, Use, Woken};
use crate::span::Span;
use crate::tidy::Tidying;
pub use crate::types::{
    Answer, HandoverError, Lease, Owner, Presence, Publish, Rest, Ticket, Transmit, Trust, Want,
};
use crate::{AllocateError, Config, MAX_OWNER, Stats};

/// Callers that may wait at once: a thousand containers starting together, with room to spare.
pub const MAX_WAITING: usize = 4096;

/// Lost leases that are remembered for the status; past it the oldest are forgotten. A peer rarely has more containers.
pub(crate) const MAX_LOST: usize = 4096;

/// What is known about another peer apart from its blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) presence: Option<Presence>,
    pub(crate) free: Option<u32>,
}

/// A caller that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) owner: Arc<str>,
    pub(crate) need: Need,
    pub(crate) deadline: Instant,
}

/// What the caller has to carry away.
#[derive(Debug, Default)]
pub(crate) struct Out {
    persist: VecDeque<JournalEntry>,
    transmit: VecDeque<Transmit>,
    publish: VecDeque<Publish>,
    answers: VecDeque<Answer>,
}

impl Out {
    pub(crate) fn persist(&mut self, entry: JournalEntry) {
        self.persist.push_back(entry);
    }

    pub(crate) fn publish(&mut self, publish: Publish) {
        self.publish.push_back(publish);
    }

    pub(crate) fn send(&mut self, to: PeerId, message: &Message) {
        self.transmit.push_back(Transmit { to, payload: message.encode() });
    }

    pub(crate) fn answer(&mut self, ticket: Ticket, result: Result<Lease, AllocateError>) {
        self.answers.push_back(Answer { ticket, result });
    }
}

/// One peer's allocator.
///
/// Order of calls: `new`; then `found` for the creator of a fabric, or `restore` for each journal entry and `restored`.
/// After every `handle_*` or other change: first make **all** of `poll_persist` durable, then carry out `poll_publish`,
/// `poll_transmit` and `poll_answer`, then sleep until `poll_timeout` and call `handle_timeout`.
///
/// ```
/// use std::time::{Duration, Instant};
/// use gossip::PeerId;
/// use ipam::{Config, Ipam, Owner, Ticket, Want};
///
/// let now = Instant::now();
/// let mut ipam = Ipam::new(Config::new("10.32.0.0/12".parse().unwrap()), PeerId([1; 16]), 1, now);
/// ipam.found(now);
/// ipam.allocate(Ticket(1), Owner("cni:a/eth0".to_owned()), Want::Any, now + Duration::from_secs(5), now);
/// while let Some(_entry) = ipam.poll_persist() { /* append to the journal, then fsync once */ }
/// let lease = ipam.poll_answer().unwrap().result.unwrap();
/// assert_eq!(lease.addr.to_string(), "10.32.0.1");
/// ```
#[derive(Debug)]
pub struct Ipam {
    pub(crate) config: Config,
    pub(crate) me: PeerId,
    pub(crate) range: Span,
    pub(crate) seed: u64,
    pub(crate) next_id: u64,
    pub(crate) map: OwnerMap,
    pub(crate) space: Space,
    /// What we have signed and not withdrawn: holdings, and grants that are not taken up yet.
    pub(crate) records: BTreeMap<Ipv4Net, BlockRecord>,
    pub(crate) published: Published,
    pub(crate) doubts: Doubts,
    pub(crate) memory: Memory,
    pub(crate) peers: BTreeMap<PeerId, Peer>,
    pub(crate) members: BTreeSet<PeerId>,
    pub(crate) removals: Removals,
    pub(crate) forwarding: Forwarding,
    pub(crate) tidying: Tidying,
    pub(crate) reclaiming: Reclaiming,
    /// The part that this peer takes as a seed, before it is taken.
    pub(crate) claim: Option<Claim>,
    pub(crate) part_taken: Option<PeerId>,
    pub(crate) leaving: Option<PeerId>,
    pub(crate) passed: Passed,
    /// Before it nothing is given away: this peer has come back, and perhaps it was removed meanwhile.
    pub(crate) listens_until: Option<Instant>,
    pub(crate) trust: Trust,
    pub(crate) lost: BTreeMap<u32, Arc<str>>,
    pub(crate) waiting: BTreeMap<Ticket, Waiting>,
    pub(crate) deadlines: BTreeSet<(Instant, Ticket)>,
    pub(crate) asks: Asks,
    pub(crate) given: Given,
    /// Resting addresses of the journal, until all of it is in.
    pub(crate) restoring: BTreeSet<u32>,
    pub(crate) reported: Option<u32>,
    pub(crate) next_report: Instant,
    pub(crate) out: Out,
    pub(crate) stats: Stats,
}

impl Ipam {
    /// An allocator that owns nothing and knows nobody. `seed` spreads request ids and breaks ties between donors.
    pub fn new(config: Config, me: PeerId, seed: u64, now: Instant) -> Ipam {
        let range = Span::of(config.range);
        Ipam {
            me,
            range,
            seed,
            next_id: 0,
            map: OwnerMap::default(),
            space: Space::new(range),
            records: BTreeMap::new(),
            published: Published::default(),
            doubts: Doubts::default(),
            memory: Memory::Whole,
            peers: BTreeMap::new(),
            members: BTreeSet::new(),
            removals: Removals::default(),
            forwarding: Forwarding::default(),
            tidying: Tidying::default(),
            reclaiming: Reclaiming::default(),
            claim: None,
            part_taken: None,
            leaving: None,
            passed: Passed::default(),
            listens_until: None,
            trust: Trust::Sure,
            lost: BTreeMap::new(),
            waiting: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            asks: Asks::default(),
            given: Given::default(),
            restoring: BTreeSet::new(),
            reported: None,
            next_report: now,
            out: Out::default(),
            stats: Stats::default(),
            config,
        }
    }

    /// Makes this peer the owner of the whole range: it creates the fabric. No-op when any owner is known.
    pub fn found(&mut self, now: Instant) {
        if self.map.iter().next().is_none() {
            self.claim(self.config.range, 1, now);
            self.turn(now);
        }
    }

    /// Wants an address for `owner` until `deadline`. The same owner and want again get the same address.
    pub fn allocate(&mut self, ticket: Ticket, owner: Owner, want: Want, deadline: Instant, now: Instant) {
        let need = match self.checked(&owner, want) {
            Ok(need) => need,
            Err(error) => return self.out.answer(ticket, Err(error)),
        };
        let owner: Arc<str> = owner.0.into();
        match self.try_local(&owner, need) {
            Ok(Some(addr)) => {
                self.answer_lease(ticket, addr);
                self.report_free(now);
            }
            Ok(None) if self.waiting.len() >= MAX_WAITING => {
                self.out.answer(ticket, Err(AllocateError::TooManyWaiting { limit: MAX_WAITING }));
            }
            Ok(None) => {
                self.cancel(ticket, now);
                self.deadlines.insert((deadline, ticket));
                self.waiting.insert(ticket, Waiting { owner, need, deadline });
                self.asks.join(need, ticket, now);
                self.turn(now);
            }
            Err(error) => self.out.answer(ticket, Err(error)),
        }
    }

    /// The caller does not wait any more. A lease that was made already stays until it is released.
    pub fn cancel(&mut self, ticket: Ticket, _now: Instant) {
        if let Some(waiting) = self.waiting.remove(&ticket) {
            self.deadlines.remove(&(waiting.deadline, ticket));
            self.asks.leave(waiting.need, ticket);
        }
    }

    /// The holder is gone: its addresses rest, lost ones are forgotten. Answers what it held. Idempotent.
    pub fn release(&mut self, owner: &Owner, now: Instant) -> Vec<Ipv4Addr> {
        self.release_all(owner, Rest::Used, now)
    }

    /// As [`Ipam::release`], of addresses that were never used: they are free at once.
    pub fn release_unused(&mut self, owner: &Owner, now: Instant) -> Vec<Ipv4Addr> {
        self.release_all(owner, Rest::NeverUsed, now)
    }

    /// Releases one address, whoever holds it; says whether somebody did.
    pub fn release_address(&mut self, addr: Ipv4Addr, rest: Rest, now: Instant) -> bool {
        let bits = addr.to_bits();
        if self.lost.remove(&bits).is_some() {
            self.out.persist(JournalEntry::LostGone { addr });
            return true;
        }
        let (until, entry) = match rest {
            Rest::Used if planted(Bug::RestIgnored) => (None, JournalEntry::Free { addr }),
            Rest::Used => (Some(now + self.config.rest), JournalEntry::Resting { addr }),
            Rest::NeverUsed => (None, JournalEntry::Free { addr }),
        };
        if self.space.release(bits, until).is_none() {
            return false;
        }
        if !self.map.at(bits).is_some_and(|holding| self.is_usable(&holding)) {
            // Contested: it stays out of use. Or the journal is not trusted yet: it rests from when it is.
            self.space.withhold(Span::single(bits));
            if until.is_some() && self.trust == Trust::Unsure {
                self.restoring.insert(bits);
            }
        }
        self.out.persist(entry);
        self.consider_tidying(now);
        self.turn(now);
        true
    }

    /// A gossip record of [`Kind::BLOCK`], [`Kind::REMOVAL`] or [`Kind::FREE_SPACE`] is new, has changed, or is gone
    /// (no value). Records of our own that gossip found belong here too. Errors change nothing.
    pub fn handle_record(
        &mut self,
        origin: PeerId,
        key: &RecordKey,
        value: Option<&[u8]>,
        now: Instant,
    ) -> Result<(), RecordError> {
        let result = self.dispatch_record(origin, key, value, now);
        match result {
            Ok(()) => self.turn(now),
            Err(_) => self.stats.records_undecodable += 1,
        }
        result
    }

    /// A gossip record is gone. Ownership does not change by it: the record that superseded it tells who owns what.
    pub fn handle_record_gone(&mut self, origin: PeerId, key: &RecordKey, now: Instant) {
        // Without a value there is nothing that could be wrong.
        let _ = self.handle_record(origin, key, None, now);
    }

    /// `peer` says that it has about `free` addresses to give.
    pub fn handle_free_report(&mut self, peer: PeerId, free: u32, now: Instant) {
        self.note_member(peer);
        self.peers.entry(peer).or_default().free = Some(free);
        self.turn(now);
    }

    /// The failure detector has an opinion about `peer`. Also how membership is learnt: tell of every member.
    pub fn handle_reachable(&mut self, peer: PeerId, presence: Presence, now: Instant) {
        self.note_member(peer);
        let before = self.peers.entry(peer).or_default().presence.replace(presence);
        if presence == Presence::Left && before != Some(presence) {
            // Nobody is left to be asked about its space.
            self.judge_again(self.range, now);
        }
        self.note_presence(peer, presence, now);
        if presence == Presence::Reachable {
            self.hear_before_claim(now);
            self.asks.hurry(now);
            self.removals.hurry(now);
            self.doubts.hurry(now);
            self.forwarding.hurry(self.config.removal_patience, now);
        }
        self.turn(now);
    }

    /// A message of another peer arrived over an authenticated session. Errors are counted and change nothing.
    pub fn handle_message(&mut self, from: PeerId, bytes: &[u8], now: Instant) -> Result<(), MessageError> {
        let message = match Message::decode(bytes) {
            Ok(message) => message,
            Err(error) => {
                self.stats.messages_undecodable += 1;
                return Err(error);
            }
        };
        self.note_member(from);
        match message {
            Message::Ask { id, within } => self.handle_ask(from, id, within, now),
            Message::AskAddress { id, addr } => self.handle_ask_address(from, id, addr, now),
            Message::Give { id, record } => self.handle_give(from, id, &record, now),
            Message::Deny { id, reason } => self.handle_deny(from, id, reason, now),
            Message::RemovalQuery(query) => self.handle_removal_query(from, &query, now),
            Message::RemovalReport { header, blocks } => {
                self.handle_removal_report(from, &header, &blocks, now);
            }
            Message::RemovalsKnown { removals } => {
                for removal in removals {
                    self.handle_removal(removal, now);
                }
            }
            Message::AskStanding { mark, blocks } => self.handle_ask_standing(from, mark, &blocks, now),
            Message::Standing { mark, blocks } => self.handle_standing(from, mark, &blocks, now),
            Message::LeftBehind { blocks } => self.handle_left_behind(from, &blocks, now),
        }
        self.turn(now);
        Ok(())
    }

    /// Time has passed. May be called early or late.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.space.wake(now) {
            Woken::Some => {
                self.asks.hurry(now);
                self.consider_tidying(now);
            }
            Woken::None => {}
        }
        self.turn(now);
        while let Some(&(deadline, ticket)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.expire(ticket, now);
        }
    }

    /// Grants that their recipients have not taken up yet, as far as is known here.
    pub fn unconfirmed(&self) -> usize {
        self.records.values().filter(|record| record.owner != self.me).count()
    }

    /// Must be durable before anything else that is polled in the same turn is acted on.
    pub fn poll_persist(&mut self) -> Option<JournalEntry> {
        self.out.persist.pop_front()
    }

    /// Messages to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.transmit.pop_front()
    }

    /// Gossip records to publish or withdraw.
    pub fn poll_publish(&mut self) -> Option<Publish> {
        self.out.publish.pop_front()
    }

    /// Answers to callers.
    pub fn poll_answer(&mut self) -> Option<Answer> {
        self.out.answers.pop_front()
    }

    /// When to call [`Ipam::handle_timeout`], and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let deadline = self.deadlines.first().map(|&(at, _)| (at, "deadline of a caller"));
        let rest = self.space.next_wakeup().map(|at| (at, "a released address has rested"));
        let ask = self.asks.next_wakeup().map(|at| (at, "request for space"));
        let removal = self.removals.next_wakeup().map(|at| (at, "takeover of a removed peer's space"));
        let forward = self.forwarding.next_wakeup().map(|at| (at, "space that an heir may not know of"));
        let claim = self.next_claim().map(|at| (at, "part of a seed"));
        let doubt = self.doubts.next_wakeup().map(|at| (at, "claims that an owner has to confirm"));
        let deed = self.published.next_wakeup().map(|at| (at, "deeds that everybody knows by now"));
        let reclaim = self.next_reclaim().map(|at| (at, "look at dead peers"));
        let tidying = self.tidying.next_wakeup().map(|at| (at, "scraps to give back"));
        let report = self.report_is_due().then_some((self.next_report, "report of free space"));
        let all = [deadline, rest, ask, removal, forward, doubt, deed, claim, reclaim, tidying, report];
        all.into_iter().flatten().min()
    }

    /// Everything that time and events make possible: waiting callers served, requests and takeovers moved on.
    pub(crate) fn turn(&mut self, now: Instant) {
        self.claim_part_due(now);
        self.reclaim_due(now);
        self.take_over_due(now);
        self.nudge_heirs(now);
        self.forward_due(now);
        self.ask_owners_due(now);
        self.withdraw_deeds_due(now);
        self.tidy_due(now);
        self.serve(now);
        self.seek_share(now);
        self.advance_asks(now);
        self.report_free(now);
    }

    pub(crate) fn note_member(&mut self, peer: PeerId) {
        if peer != self.me && self.members.insert(peer) {
            self.out.persist(JournalEntry::Member(peer));
        }
    }

    pub(crate) fn presence(&self, peer: PeerId) -> Option<Presence> {
        self.peers.get(&peer).and_then(|peer| peer.presence)
    }

    pub(crate) fn remember_lost(&mut self, addr: u32, holder: Arc<str>) {
        self.out.persist(JournalEntry::Lost { addr: addr.into(), owner: Arc::clone(&holder) });
        self.lost.insert(addr, holder);
        if self.lost.len() > MAX_LOST
            && let Some((addr, _)) = self.lost.pop_first()
        {
            self.out.persist(JournalEntry::LostGone { addr: addr.into() });
        }
    }

    /// An address for `holder` from what is here: the one it has, or a new lease. `None` when others have to be asked.
    pub(crate) fn try_local(
        &mut self,
        holder: &Arc<str>,
        need: Need,
    ) -> Result<Option<Ipv4Addr>, AllocateError> {
        let span = need.span();
        if let Some(&addr) = self.space.leased_to(holder).iter().find(|&&addr| span.contains(addr)) {
            return Ok(Some(addr.into()));
        }
        let addr = match need {
            Need::Within(_) => self.space.lease_lowest(span, holder),
            Need::Address(addr) => match self.space.usage(addr) {
                Use::Free | Use::Resting => {
                    self.space.lease(addr, holder);
                    Some(addr)
                }
                Use::Leased(other) => {
                    let holder = Owner(other.to_string());
                    return Err(AllocateError::InUse { addr: addr.into(), by: self.me, holder });
                }
                Use::Unusable => None,
            },
        };
        if let Some(addr) = addr
            && !planted(Bug::LeaseForgotten)
        {
            self.out.persist(JournalEntry::Lease { addr: addr.into(), owner: Arc::clone(holder) });
        }
        Ok(addr.map(Ipv4Addr::from_bits))
    }

    pub(crate) fn answer_lease(&mut self, ticket: Ticket, addr: Ipv4Addr) {
        self.out.answer(ticket, Ok(Lease { addr, prefix_len: self.config.range.prefix_len() }));
    }

    pub(crate) fn fail(&mut self, ticket: Ticket, error: AllocateError, now: Instant) {
        self.cancel(ticket, now);
        self.out.answer(ticket, Err(error));
    }

    /// Runs of usable addresses in the fewest blocks.
    pub(crate) fn usable_blocks(&self) -> Vec<Ipv4Net> {
        let mut runs: Vec<Span> = Vec::new();
        for (span, _) in self.map.iter().filter(|(_, holding)| self.is_usable(holding)) {
            match runs.last_mut() {
                Some(run) if run.last.checked_add(1) == Some(span.first) => run.last = span.last,
                Some(_) | None => runs.push(span),
            }
        }
        runs.into_iter().flat_map(Span::blocks).collect()
    }

    /// What can be said about a request before anybody is asked.
    fn checked(&self, owner: &Owner, want: Want) -> Result<Need, AllocateError> {
        if owner.0.len() > MAX_OWNER {
            return Err(AllocateError::OwnerTooLong { got: owner.0.len() });
        }
        if let Some(by) = self.removals.removed_by(self.me) {
            return Err(AllocateError::Removed { by });
        }
        if self.leaving.is_some() {
            return Err(AllocateError::Leaving);
        }
        let range = self.config.range;
        match want {
            Want::Any => Ok(Need::Within(range)),
            Want::In(net) => {
                let net = net.trunc();
                let span = Span::of(net);
                if span.intersection(self.range) != Some(span) {
                    return Err(AllocateError::OutOfRange { asked: net, range });
                }
                Ok(Need::Within(net))
            }
            Want::Fixed(addr) => {
                let bits = addr.to_bits();
                if !self.range.contains(bits) {
                    return Err(AllocateError::OutOfRange { asked: Ipv4Net::from(addr), range });
                }
                if self.space.is_reserved(bits) {
                    return Err(AllocateError::Reserved { addr, range });
                }
                Ok(Need::Address(bits))
            }
        }
    }

    fn release_all(&mut self, owner: &Owner, rest: Rest, now: Instant) -> Vec<Ipv4Addr> {
        let mut addrs: Vec<Ipv4Addr> =
            self.space.leased_to(&owner.0).iter().copied().map(Ipv4Addr::from_bits).collect();
        let lost = self.lost.iter().filter(|(_, holder)| ***holder == *owner.0);
        addrs.extend(lost.map(|(&addr, _)| Ipv4Addr::from_bits(addr)));
        addrs.retain(|&addr| self.release_address(addr, rest, now));
        addrs
    }

    fn dispatch_record(
        &mut self,
        origin: PeerId,
        key: &RecordKey,
        value: Option<&[u8]>,
        now: Instant,
    ) -> Result<(), RecordError> {
        match (key.kind, value) {
            (Kind::BLOCK, Some(value)) => {
                let said = Said::decode(key, value)?;
                if self.removals.is_removed(origin) && origin != self.me {
                    self.stats.messages_of_removed += 1;
                    return Ok(());
                }
                match said {
                    Said::Step(record) => self.learn(origin, &record, now),
                    Said::Deed(deed) => self.handle_deed(origin, deed, now),
                }
            }
            (Kind::REMOVAL, Some(value)) => {
                let removal = RemovalRecord::decode(value)?;
                if removal.key() != *key {
                    return Err(RecordError::MisfiledName);
                }
                if removal.heir == origin {
                    self.handle_removal(removal, now);
                } else {
                    self.stats.removals_not_the_heirs += 1;
                }
            }
            (Kind::FREE_SPACE, Some(value)) => {
                self.handle_free_report(origin, FreeRecord::decode(value)?.free, now);
            }
            (Kind::FREE_SPACE, None) => {
                self.peers.entry(origin).or_default().free = None;
            }
            // Withdrawn blocks were superseded, removals stay, and other kinds are not ours.
            (_, None) | (_, Some(_)) => {}
        }
        Ok(())
    }

    /// Publishes the own free count when it is another order of magnitude, or none, and the last time was a while ago.
    fn report_free(&mut self, now: Instant) {
        if now < self.next_report || !self.report_is_due() {
            return;
        }
        let free = self.free_now();
        self.reported = Some(free);
        self.next_report = now + self.config.report_interval;
        self.out.publish(Publish { key: FreeRecord::key(), value: Some(FreeRecord { free }.encode()) });
    }

    fn report_is_due(&self) -> bool {
        let magnitude = |free: u32| free.checked_ilog2();
        match self.reported {
            None => true,
            Some(reported) => magnitude(reported) != magnitude(self.free_now()),
        }
    }

    fn free_now(&self) -> u32 {
        u32::try_from(self.space.free_count()).unwrap_or(u32::MAX)
    }

    pub(crate) fn holding_at(&self, addr: u32) -> Option<Holding> {
        self.map.at(addr)
    }
}

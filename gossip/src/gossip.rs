//! One peer's half of the conversation: the parts put together, and the messages between them and the links.
//!
//! Calling order: after any number of `handle_*`, `publish`, `withdraw` and the like, drain [`Gossip::poll_transmit`] and
//! [`Gossip::poll_event`], then sleep until [`Gossip::poll_timeout`] or the next input. Nothing blocks and nothing is sent
//! by itself. `now` never goes backwards.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::adjacency::{self, Adjacency};
use crate::bulk::Bulk;
use crate::codec::DecodeError;
use crate::config::Config;
use crate::detector::{self, Answer, Detector};
use crate::keys::Keys;
use crate::link::{Flow, Link, Queued};
use crate::links::Links;
use crate::membership::{Member, MemberState, Membership};
use crate::mesh::{self, Calm, Mesh, Scope, View};
use crate::own::Own;
use crate::peer::PeerId;
use crate::record::{Kind, Record, RecordKey};
use crate::rng::Rng;
use crate::rumours::Reach;
use crate::stats::{DropReason, Stats};
use crate::store::Store;
use crate::tree::Missing;
use crate::wire::{self, MAX_MESSAGE, Message, Pulse, Purpose, Rumour};

/// Peers that may be worth a link and are not members yet: those of one join token, many times over.
pub(crate) const MAX_CANDIDATES: usize = 256;

/// When records or rumours were sent, the next ones wait so long for more of them: while a fleet starts, each peer hears hundreds in a
/// second, and one message for each would cost more than what it carries. The first of a burst waits for nothing; more would be felt, as
/// it adds up over the hops.
const GATHER: Duration = Duration::from_millis(30);

/// Quarantine notices that wait to be fetched; counters tell of the rest.
pub(crate) const MAX_QUARANTINE_EVENTS: usize = 64;

/// A message for a neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Over the link to whom.
    pub to: PeerId,
    /// At most [`MAX_MESSAGE`] bytes.
    pub payload: Vec<u8>,
}

/// What happened, for the caller to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Another peer says something new. Never emitted for records of our own.
    ///
    /// Records outlive their origin: those of a dead member are kept, as it still owns what they say. Whoever uses records
    /// to reach somebody (endpoints) disregards those whose origin is down or left, by the member events below.
    RecordChanged {
        /// Who says it.
        origin: PeerId,
        /// Under which key.
        key: RecordKey,
        /// What it says; `None` when it no longer says anything.
        value: Option<Vec<u8>>,
    },
    /// A member is alive: new, back again, or cleared of a suspicion.
    MemberUp(PeerId),
    /// A member does not answer somebody. It still counts as up.
    MemberSuspect(PeerId),
    /// A member is dead, or was removed. Also emitted when it is first heard of as dead.
    MemberDown(PeerId),
    /// A member said goodbye.
    MemberLeft(PeerId),
    /// Make a session to this peer and keep it, until [`Event::DropLink`].
    WantLink(PeerId),
    /// The session is no longer needed for gossip.
    DropLink(PeerId),
    /// A record was refused. At most 64 of these wait; [`Stats::quarantined`] counts all.
    Quarantined {
        /// Its claimed origin.
        origin: PeerId,
        /// Its key.
        key: RecordKey,
        /// What is wrong with it.
        reason: DropReason,
    },
    /// Somebody holds a record of ours of an earlier boot that was not published again. It is withdrawn after
    /// [`Config::own_record_grace`] unless it is published by then.
    OwnRecordFound {
        /// Its key.
        key: RecordKey,
        /// What it says.
        value: Vec<u8>,
    },
    /// Something signed by us came that we never signed in this boot: another router has our identity, or our disk was
    /// rolled back. Everything of ours was published again under `boot`, which should be persisted.
    CloneSuspected {
        /// The version or incarnation that was found.
        found: u64,
        /// The boot counter used from now on.
        boot: u32,
    },
}

/// Why a message was not used. The link is none the worse for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The sender is broken, hostile, or of another version.
    #[error("message does not decode")]
    Decode(#[from] DecodeError),
    /// It came from a peer with which no link is up. Happens when a link goes down with messages in flight.
    #[error("no link is up to {from}")]
    NoLink {
        /// The sender.
        from: PeerId,
    },
}

pub use crate::own::PublishError;

/// Whether records or rumours left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flowed {
    Nothing,
    Something,
}

/// One peer's half of the conversation.
pub struct Gossip<K> {
    pub(crate) config: Config,
    pub(crate) me: PeerId,
    pub(crate) keys: K,
    pub(crate) own: Own,
    pub(crate) rng: Rng,
    pub(crate) store: Store,
    pub(crate) membership: Membership,
    pub(crate) detector: Detector,
    pub(crate) mesh: Mesh,
    pub(crate) adjacency: Adjacency,
    pub(crate) links: Links,
    pub(crate) candidates: BTreeSet<PeerId>,
    pub(crate) parked_rumours: BTreeMap<PeerId, (Rumour, PeerId)>,
    pub(crate) missing: Missing,
    pub(crate) bulk: Option<Bulk>,
    pub(crate) stats: Stats,
    /// When the store last changed: digests differ for a moment then, and that needs no repair.
    pub(crate) last_change: Instant,
    pub(crate) next_repair: Instant,
    /// When members or their adjacencies last changed.
    pub(crate) last_graph_change: Instant,
    events: VecDeque<Event>,
    quarantine_events: usize,
    /// The link that was served last, so that all get their turn.
    cursor: PeerId,
    /// The latest time that was told.
    now: Instant,
    /// Records and rumours that do not fill a message are sent again from then on.
    flows_at: Instant,
    /// Whether some were sent at the latest time.
    flowed: Flowed,
}

impl<K: Keys> Gossip<K> {
    /// A peer that knows nobody. `boot` must be higher at each start than at any before; `keys` must know our own keys.
    pub fn new(config: Config, me: PeerId, boot: u32, keys: K, seed: u64, now: Instant) -> Self {
        let own = Own::new(me, boot, &keys, now);
        Gossip {
            me,
            own,
            keys,
            rng: Rng::new(seed),
            store: Store::new(config.tombstone_age),
            membership: Membership::new(&config),
            detector: Detector::new(&config),
            mesh: Mesh::new(&config, now),
            adjacency: Adjacency::new(now),
            links: Links::default(),
            candidates: BTreeSet::new(),
            parked_rumours: BTreeMap::new(),
            missing: Missing::default(),
            bulk: None,
            stats: Stats { health_multiplier: 1, ..Stats::default() },
            last_change: now,
            next_repair: now + config.repair_interval,
            last_graph_change: now,
            events: VecDeque::new(),
            quarantine_events: 0,
            cursor: me,
            now,
            flows_at: now,
            flowed: Flowed::Nothing,
            config,
        }
    }

    /// A session to `peer` exists and may carry gossip. Also when it was replaced by a new one.
    pub fn handle_link_up(&mut self, peer: PeerId, now: Instant) {
        self.note_time(now);
        if peer == self.me || self.has_left() {
            return;
        }
        self.links.insert(peer, Link::new(&self.config, now));
        self.candidates.remove(&peer);
        if !self.store.is_removed(peer) {
            match self.membership.meet(peer, now) {
                Ok(change) => self.settle(peer, change, Reach::All, None, now),
                Err(reason) => self.stats.count(reason),
            }
            let actions = self.mesh.handle_link_up(peer);
            self.perform(actions, now);
        }
        self.push_to(peer, self.me, &RecordKey::only(Kind::PEER));
        self.tell(peer, self.me);
        self.tell(peer, peer);
        // Who is no neighbour, and lives, hears everything from its own; all sessions for other ends have links as well.
        let lives = self.membership.state(peer) == Some(MemberState::Alive);
        if self.mesh.is_neighbour(peer) || !lives || self.store.is_removed(peer) {
            self.send(peer, &Message::Digest { root: self.store.root() });
        }
    }

    /// The session to `peer` is gone.
    pub fn handle_link_down(&mut self, peer: PeerId, now: Instant) {
        self.note_time(now);
        if self.links.remove(&peer).is_none() || self.has_left() {
            return;
        }
        if self.mesh.handle_link_down(peer, now) {
            self.detector.unwatch(peer);
            self.adjacency.touch();
            let change = self.membership.suspect(peer, self.me, now);
            self.settle(peer, change, Reach::All, None, now);
        }
    }

    /// A message came over the link to `from`. An error changes nothing and is counted.
    pub fn handle_message(&mut self, from: PeerId, bytes: &[u8], now: Instant) -> Result<(), MessageError> {
        self.note_time(now);
        self.stats.messages_received += 1;
        self.stats.bytes_received += bytes.len() as u64;
        if self.has_left() {
            return Ok(());
        }
        let Some(link) = self.links.get_mut(&from) else {
            self.stats.count(DropReason::NoLink);
            return Err(MessageError::NoLink { from });
        };
        link.last_heard = now;
        link.refill(now);
        let message = Message::parse(bytes).inspect_err(|_| self.stats.count(DropReason::Malformed))?;
        if message.compares() && !link.may_compare() {
            self.stats.count(DropReason::CompareBudget);
            return Ok(());
        }
        match message {
            Message::Probe { nonce, purpose, pulse } => self.handle_probe(from, nonce, purpose, pulse, now),
            Message::Ack { nonce, pulse } => self.handle_ack(from, nonce, pulse, now),
            Message::ProbeRequest { nonce, target } => self.handle_probe_request(from, nonce, target, now),
            Message::RelayedAck { nonce } => self.handle_relayed_ack(nonce, now),
            Message::Nack { nonce } => self.detector.handle_nack(nonce),
            Message::Prune => self.handle_prune(from, now),
            Message::Rumours(rumours) => rumours.into_iter().for_each(|rumour| self.hear(rumour, from, now)),
            Message::Push(records) => records.into_iter().for_each(|record| self.take_in(record, from, now)),
            Message::Digest { root } => self.handle_digest(from, root),
            Message::DigestReply { buckets } => self.handle_digest_reply(from, &buckets),
            Message::Origins { mask, range, entries } => self.handle_origins(from, mask, &range, entries),
            Message::KeyBuckets { origin, buckets } => self.handle_key_buckets(from, origin, &buckets),
            Message::Keys { origin, mask, range, entries } => {
                self.handle_keys(from, origin, mask, &range, entries)
            }
            Message::Want { origin, keys } => keys.iter().for_each(|key| self.push_to(from, origin, key)),
            Message::Announce(all) => self.handle_announcements(from, all, now),
            Message::Lazy => self.handle_lazy(from),
            Message::Graft { origin, keys } => self.handle_graft(from, origin, &keys),
            Message::WantRumours(ids) => ids.into_iter().for_each(|id| self.tell(from, id)),
        }
        Ok(())
    }

    /// The time of [`Gossip::poll_timeout`] has come. Harmless at any other time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.note_time(now);
        if self.has_left() {
            return;
        }
        self.links.refill(now);
        for action in self.detector.handle_timeout(now, &mut self.rng) {
            self.perform_probe(action, now);
        }
        self.stats.health_multiplier = self.detector.multiplier();
        self.end_suspicions(now);
        self.look_around(now);
        self.ask_for_missing(now);
        self.repair_someone(now);
        self.publish_adjacency(now);
        self.withdraw_unclaimed(now);
        self.store.handle_timeout(now);
    }

    /// Somebody who may be worth a link. Peers that others know of come by themselves.
    pub fn handle_candidate(&mut self, peer: PeerId, now: Instant) {
        let unknown =
            peer != self.me && self.membership.state(peer).is_none() && !self.store.is_removed(peer);
        if unknown && self.candidates.len() < MAX_CANDIDATES && self.candidates.insert(peer) {
            self.mesh.look_soon(now);
        }
    }

    /// Forgets a peer for which a removal was accepted: drops its records and refuses them from now on. The link to it, if
    /// any, still carries records of others, so that it can find its removal.
    pub fn remove_peer(&mut self, peer: PeerId, now: Instant) {
        self.note_time(now);
        if peer == self.me || self.store.is_removed(peer) {
            return;
        }
        self.candidates.remove(&peer);
        self.parked_rumours.remove(&peer);
        for record in self.store.remove_origin(peer) {
            self.events.push_back(Event::RecordChanged {
                origin: peer,
                key: record.key.clone(),
                value: None,
            });
        }
        match self.membership.forget(peer) {
            Some(MemberState::Alive | MemberState::Suspect) => self.emit(Event::MemberDown(peer)),
            Some(MemberState::Dead | MemberState::Left) | None => {}
        }
        let actions = self.mesh.handle_gone(peer, now);
        self.perform(actions, now);
        self.last_change = now;
        self.last_graph_change = now;
    }

    /// The next message to send, if any.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.links.refill(self.now);
        loop {
            let flow = self.flow();
            let Some(to) = self.links.next_busy(self.cursor, |link| link.may_send(flow)) else {
                self.links.let_rest();
                return None;
            };
            // Nothing comes of a link whose names all stand for what was dropped since; it has no more names then.
            if let Some(payload) = self.next_for(to) {
                self.cursor = to;
                self.stats.messages_sent += 1;
                self.stats.bytes_sent += payload.len() as u64;
                return Some(Transmit { to, payload });
            }
        }
    }

    /// The next thing that happened, if any.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        if matches!(event, Event::Quarantined { .. }) {
            self.quarantine_events -= 1;
        }
        Some(event)
    }

    /// When to call [`Gossip::handle_timeout`], and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.has_left() {
            return None;
        }
        let timers = [
            (self.detector.poll_timeout(), "probe"),
            (self.membership.poll_timeout(), "suspicion"),
            (Some(self.mesh.poll_timeout()), "mesh"),
            (Some(self.next_repair), "repair"),
            (self.missing.poll_timeout(), "missing record"),
            (self.adjacency.poll_timeout(), "adjacency"),
            (self.own.poll_timeout(), "unclaimed record"),
            (self.store.poll_timeout(), "tombstone"),
            (self.links.busy().filter_map(Link::poll_timeout).min(), "link budget"),
            (
                self.links.busy().any(|link| link.may_flow(Flow::Open)).then_some(self.flows_next()),
                "records gather",
            ),
        ];
        timers.into_iter().filter_map(|(at, why)| Some((at?, why))).min()
    }

    /// What an origin says under a key, tombstones included.
    pub fn record(&self, origin: PeerId, key: &RecordKey) -> Option<&Record> {
        self.store.get(origin, key)
    }

    /// All records of one kind, our own included, tombstones not, by origin and key.
    pub fn records(&self, kind: Kind) -> impl Iterator<Item = &Record> {
        self.store.records(kind)
    }

    /// All records of all kinds, our own and tombstones included, by origin and key.
    pub fn all_records(&self) -> impl Iterator<Item = &Record> {
        self.store.all()
    }

    /// All members that are known, without this peer, by id.
    pub fn members(&self) -> impl Iterator<Item = Member> {
        self.membership.iter()
    }

    /// One member, if it is known.
    pub fn member(&self, peer: PeerId) -> Option<Member> {
        self.membership.get(peer)
    }

    /// What could be told of all other members, by id, with their own word for it.
    pub fn rumours(&self) -> impl Iterator<Item = Rumour> {
        self.membership.iter().filter_map(|member| self.membership.rumour(member.id))
    }

    /// The peers with which gossip is exchanged, by id.
    pub fn neighbours(&self) -> impl Iterator<Item = PeerId> {
        self.mesh.neighbours()
    }

    /// The digest of all records and standings: two peers that know the same have the same.
    pub fn digest(&self) -> u64 {
        self.store.root()
    }

    /// Messages, rumours and records waiting for all links together.
    pub fn waiting(&self) -> usize {
        self.links.busy().map(Link::waiting).sum()
    }

    /// What was counted.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    fn handle_probe(&mut self, from: PeerId, nonce: u32, purpose: Purpose, pulse: Pulse, now: Instant) {
        let answer = Message::Ack { nonce, pulse: self.pulse() };
        self.send(from, &answer);
        match purpose {
            Purpose::Neighbour if self.store.is_removed(from) => self.send(from, &Message::Prune),
            Purpose::Neighbour => {
                self.detector.handle_probe(from, now);
                let actions = self.mesh.handle_claim(from, pulse.degree, now);
                self.perform(actions, now);
            }
            Purpose::Relay => return,
        }
        self.greet(from, pulse, now);
    }

    fn handle_ack(&mut self, from: PeerId, nonce: u32, pulse: Pulse, now: Instant) {
        match self.detector.handle_ack(from, nonce) {
            Answer::Ours => {
                self.mesh.note_degree(from, pulse.degree);
                self.greet(from, pulse, now);
            }
            Answer::Relay { to, nonce } => self.send(to, &Message::RelayedAck { nonce }),
            Answer::Stray => self.stats.count(DropReason::StrayAck),
        }
    }

    fn handle_probe_request(&mut self, from: PeerId, nonce: u32, target: PeerId, now: Instant) {
        self.send(from, &Message::Nack { nonce });
        if !self.links.contains_key(&target) {
            return;
        }
        match self.detector.relay(from, target, nonce, now, &mut self.rng) {
            Some(nonce) => {
                let probe = Message::Probe { nonce, purpose: Purpose::Relay, pulse: self.pulse() };
                self.send(target, &probe);
            }
            None => self.stats.count(DropReason::RelayFull),
        }
    }

    fn handle_relayed_ack(&mut self, nonce: u32, now: Instant) {
        match self.detector.handle_relayed_ack(nonce) {
            Some(peer) => {
                if let Some(link) = self.links.get_mut(&peer) {
                    link.last_heard = now;
                }
            }
            None => self.stats.count(DropReason::StrayAck),
        }
    }

    fn handle_prune(&mut self, from: PeerId, now: Instant) {
        let actions = self.mesh.handle_prune(from, now);
        self.perform(actions, now);
        // What it knows shows whom to ask instead; it may be the only way to the rest of the fabric.
        self.send(from, &Message::Digest { root: self.store.root() });
    }

    /// A peer showed that it lives. Whoever is thought otherwise is told, so that it contradicts.
    fn greet(&mut self, peer: PeerId, pulse: Pulse, now: Instant) {
        match self.membership.state(peer) {
            Some(MemberState::Suspect | MemberState::Dead | MemberState::Left) => self.tell(peer, peer),
            Some(MemberState::Alive) | None => {}
        }
        self.consider_repair(peer, pulse.root, now);
    }

    fn look_around(&mut self, now: Instant) {
        let graph_age = adjacency::graph_age(self.adjacency_interval());
        let view = |scope| {
            let linked = self.links.keys().copied().filter(|peer| !self.store.is_removed(*peer)).collect();
            let mut view = View { linked, ..View::default() };
            for member in self.membership.iter().filter(|member| !self.store.is_removed(member.id)) {
                match member.state {
                    MemberState::Alive | MemberState::Suspect => view.alive.push(member.id),
                    MemberState::Dead if now < member.since + self.config.forget_after => {
                        view.dead.push(member.id)
                    }
                    MemberState::Dead | MemberState::Left => {}
                }
            }
            view.alive.extend(self.candidates.iter().copied());
            view.cut_off = match scope {
                Scope::Peers => Vec::new(),
                Scope::Graph => {
                    self.adjacency.cut_off(self.me, &self.store, &self.membership, graph_age, now)
                }
            };
            // Even with neighbours enough: somebody was told of them, and they may belong to the rest of the fabric.
            view.cut_off.extend(self.candidates.iter().copied());
            view
        };
        let calm = Calm {
            graph: self.candidates.is_empty() && now >= self.last_graph_change + graph_age * 2,
            members: self.membership.all_run(),
        };
        let actions = self.mesh.handle_timeout(now, &mut self.rng, calm, view);
        self.perform(actions, now);
    }

    pub(crate) fn perform(&mut self, actions: Vec<mesh::Action>, now: Instant) {
        for action in actions {
            match action {
                mesh::Action::Want(peer) => self.emit(Event::WantLink(peer)),
                mesh::Action::Drop(peer) => {
                    self.detector.unwatch(peer);
                    self.adjacency.touch();
                    self.emit(Event::DropLink(peer));
                }
                mesh::Action::Adopt(peer) => {
                    self.detector.watch(peer, now);
                    self.adjacency.touch();
                }
                mesh::Action::Unwatch(peer) => {
                    self.detector.unwatch(peer);
                    self.adjacency.touch();
                }
                mesh::Action::Prune(peer) => {
                    self.detector.unwatch(peer);
                    self.adjacency.touch();
                    self.send(peer, &Message::Prune);
                }
                mesh::Action::Accuse(peer) => {
                    let change = self.membership.suspect(peer, self.me, now);
                    self.settle(peer, change, Reach::All, None, now);
                }
            }
        }
    }

    fn perform_probe(&mut self, action: detector::Action, now: Instant) {
        match action {
            detector::Action::Probe { to, nonce } => {
                let probe = Message::Probe { nonce, purpose: Purpose::Neighbour, pulse: self.pulse() };
                self.send(to, &probe);
                match self.membership.state(to) {
                    Some(MemberState::Suspect | MemberState::Dead) => self.tell(to, to),
                    Some(MemberState::Alive | MemberState::Left) | None => {}
                }
            }
            detector::Action::AskHelpers { target, nonce } => {
                let helpers = self.helpers_for(target);
                self.detector.asked(target, u32::try_from(helpers.len()).expect("a few"));
                for helper in helpers {
                    self.send(helper, &Message::ProbeRequest { nonce, target });
                }
            }
            detector::Action::Failed { peer } => {
                self.stats.probes_failed += 1;
                let change = self.membership.suspect(peer, self.me, now);
                self.settle(peer, change, Reach::All, None, now);
            }
        }
    }

    /// Neighbours that say that they have a link to `target`, at random.
    fn helpers_for(&mut self, target: PeerId) -> Vec<PeerId> {
        let others = self.mesh.neighbours().filter(|peer| *peer != target);
        let mut able: Vec<PeerId> =
            others.filter(|peer| self.adjacency.claims(&self.store, *peer, target)).collect();
        self.rng.shuffle(&mut able);
        able.truncate(self.config.probe_helpers);
        able
    }

    fn pulse(&self) -> Pulse {
        Pulse { degree: self.mesh.degree(), root: self.store.root() }
    }

    /// Queues a message, if there is a link.
    pub(crate) fn send(&mut self, to: PeerId, message: &Message) {
        let Some(link) = self.links.get_mut(&to) else { return };
        match link.queue(message.emit()) {
            Queued::Yes => {}
            Queued::Full => self.stats.count(DropReason::QueueShed),
        }
    }

    /// Queues what is known of a member, if there is a link.
    pub(crate) fn tell(&mut self, to: PeerId, of: PeerId) {
        if self.rumour(of).is_some()
            && let Some(link) = self.links.get_mut(&to)
        {
            link.rumours.insert(of);
        }
    }

    /// Queues a record that is held, if there is a link.
    pub(crate) fn push_to(&mut self, to: PeerId, origin: PeerId, key: &RecordKey) {
        if self.store.get(origin, key).is_some()
            && let Some(link) = self.links.get_mut(&to)
        {
            match link.queue_push(origin, key) {
                Queued::Yes => {}
                Queued::Full => self.stats.count(DropReason::PushShed),
            }
        }
    }

    pub(crate) fn emit(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Quarantine notices that wait to be fetched.
    pub(crate) fn quarantine_events(&self) -> usize {
        self.quarantine_events
    }

    /// Counts a refused record and tells of it, as long as somebody fetches.
    pub(crate) fn quarantine(&mut self, record: &Record, reason: DropReason) {
        tracing::debug!(origin = %record.origin, key = ?record.key, ?reason, "record quarantined");
        self.stats.count_quarantined(record.origin, reason);
        if self.quarantine_events >= MAX_QUARANTINE_EVENTS {
            self.stats.count(DropReason::EventShed);
            return;
        }
        self.quarantine_events += 1;
        self.emit(Event::Quarantined { origin: record.origin, key: record.key.clone(), reason });
    }

    /// The latest time that was told.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// Time moves on. What was sent at the time before makes what comes next wait.
    pub(crate) fn note_time(&mut self, now: Instant) {
        if now > self.now {
            self.flows_at = self.flows_next();
            self.flowed = Flowed::Nothing;
            self.now = now;
        }
    }

    /// Everything that waits is sent now, however little it is.
    pub(crate) fn flush(&mut self) {
        (self.flows_at, self.flowed) = (self.now, Flowed::Nothing);
    }

    fn flow(&self) -> Flow {
        if self.now >= self.flows_at { Flow::Open } else { Flow::Gathering }
    }

    /// When records and rumours are sent after the present time.
    fn flows_next(&self) -> Instant {
        match self.flowed {
            Flowed::Something => self.now + GATHER,
            Flowed::Nothing => self.flows_at,
        }
    }

    fn next_for(&mut self, to: PeerId) -> Option<Vec<u8>> {
        let flow = self.flow();
        let link = self.links.get_mut(&to)?;
        if let Some(message) = link.next_ready() {
            return Some(message);
        }
        if link.may_flow(flow) {
            self.flowed = match flow {
                Flow::Open => Flowed::Something,
                Flow::Gathering => self.flowed,
            };
            let next = self.next_rumours(to).or_else(|| self.next_push(to));
            if let Some(message) = next {
                return Some(message.emit());
            }
        }
        self.next_announcements(to).map(|message| message.emit())
    }

    fn next_rumours(&mut self, to: PeerId) -> Option<Message> {
        let mut waiting = std::mem::take(&mut self.links.get_mut(&to)?.rumours);
        let (mut rumours, mut room) = (Vec::new(), wire::LIST_ROOM);
        while let Some(&subject) = waiting.first() {
            if let Some(rumour) = self.rumour(subject) {
                let size = wire::rumour_size(&rumour);
                if size > room {
                    break;
                }
                room -= size;
                rumours.push(rumour);
            }
            waiting.pop_first();
        }
        self.links.get_mut(&to)?.rumours = waiting;
        (!rumours.is_empty()).then_some(Message::Rumours(rumours))
    }

    fn next_push(&mut self, to: PeerId) -> Option<Message> {
        let link = self.links.get_mut(&to)?;
        let (mut records, mut room) = (Vec::new(), wire::LIST_ROOM);
        while let Some((origin, key)) = link.next_push() {
            // What was dropped since it was queued is simply not sent.
            let Some(record) = self.store.get(origin, &key) else { continue };
            let size = wire::record_size(record);
            if size > room {
                let _ = link.queue_push(origin, &key);
                break;
            }
            room -= size;
            records.push(record.clone());
        }
        if records.is_empty() {
            return None;
        }
        link.spend(MAX_MESSAGE - room);
        Some(Message::Push(records))
    }
}

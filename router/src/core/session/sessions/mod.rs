//! All sessions of a router: the public interface, and the tables of peers and targets.

mod arrivals;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gossip::{Fill, PeerId};

use super::bucket::Bucket;
use super::common::Common;
use super::dial::MAX_CANDIDATES;
use super::drops::{DropReason, RefusedSender};
use super::link::MAX_RECEIVED;
use super::peer::{Peer, Usage};
use super::random::RandomSource;
use super::target::{Target, TargetState};
use super::timer::Timer;
use super::types::{Channel, DownReason, SessionConfig, SessionEvent, Want};
use crate::core::advert::PeerAdvert;
use crate::core::fabric::FabricKeys;
use crate::core::hello::{HELLO, HELLO_REPLY, REJECT};
use crate::core::identity::{Identity, PublicIdentity};
use crate::core::sealed::SealedDatagram;

/// Peers known at a time: twice the largest fabric that is tested.
const MAX_PEERS: usize = 20_000;
/// Addresses that the user named.
const MAX_TARGETS: usize = 256;
/// Peers wanted before they are described: gossip names a few at a time.
const MAX_EARLY_WANTS: usize = 1024;
/// HELLOs checked and answered in a second: each costs a signature and its check, together some 100 µs.
const HELLOS_PER_SECOND: u32 = 500;
/// REJECTs in a second: a person reads one of them.
const REJECTS_PER_SECOND: u32 = 10;
/// Handshakes in a second before senders need a cookie: each costs up to five scalar multiplications, some 200 µs.
const HANDSHAKES_PER_SECOND: u32 = 200;
/// A burst of each of these: two seconds' worth, so that a fabric that restarts is not refused.
const BURST_SECONDS: u32 = 2;
/// A clone is challenged so often at most; its HELLOs between are answered, so that it learns of us.
const CHALLENGE_EVERY: Duration = Duration::from_secs(10);

/// All sessions of a router.
///
/// Calling order: after any call that goes in (`handle_*`, `connect_address`, `set_peer`, `want`, `send`, ..), first drain
/// `poll_event` and act on each, then drain `poll_transmit` and send each, then sleep until `poll_timeout` or the next
/// input. Events come first because a lane key must be installed before the datagram leaves that allows the peer to use it.
pub struct Sessions {
    common: Common,
    /// What gossip knows of everybody.
    known: BTreeMap<PeerId, Arc<PeerAdvert>>,
    /// Those with whom there is, was or should be a session, or who have dialled us.
    peers: BTreeMap<PeerId, Peer>,
    by_key: BTreeMap<[u8; 32], PeerId>,
    targets: BTreeMap<SocketAddr, Target>,
    removed: BTreeSet<PeerId>,
    /// The session keys of removed peers, as far as they were known: to name them when they dial.
    removed_keys: BTreeMap<[u8; 32], PeerId>,
    /// Wants for peers whose keys have not come yet.
    early_wants: BTreeMap<PeerId, BTreeSet<Want>>,
    /// Each peer's next wake-up, as it stands in its `wake`.
    deadlines: BTreeSet<(Instant, PeerId, Timer)>,
    hellos: Bucket,
    rejects: Bucket,
    handshakes: Bucket,
    clone: CloneWatch,
    /// The list of seeds that the fabric started from, if it did.
    seeds: Option<String>,
}

/// What is known about another router with our identity.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CloneWatch {
    None,
    Challenged(Instant),
    /// Proven, and older than we are not: it quarantines itself.
    Newer,
    /// Proven and older: this router is out of the fabric.
    Quarantined,
}

impl Sessions {
    /// `random` must be the operating system's, except in tests.
    pub fn new(
        config: SessionConfig,
        identity: &Identity,
        keys: FabricKeys,
        random: RandomSource,
        now: Instant,
    ) -> Self {
        Self {
            common: Common::new(config, identity, keys, random, now),
            known: BTreeMap::new(),
            peers: BTreeMap::new(),
            by_key: BTreeMap::new(),
            targets: BTreeMap::new(),
            removed: BTreeSet::new(),
            removed_keys: BTreeMap::new(),
            early_wants: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            hellos: Bucket::new(HELLOS_PER_SECOND, HELLOS_PER_SECOND * BURST_SECONDS, now),
            rejects: Bucket::new(REJECTS_PER_SECOND, REJECTS_PER_SECOND * BURST_SECONDS, now),
            handshakes: Bucket::new(HANDSHAKES_PER_SECOND, HANDSHAKES_PER_SECOND * BURST_SECONDS, now),
            clone: CloneWatch::None,
            seeds: None,
        }
    }

    /// The fabric started from this list: told to those that started from another one, so that somebody can put it right.
    pub fn set_seeds(&mut self, list: String) {
        self.seeds = Some(list);
    }

    // ---- In ----

    /// Dials an address, whoever is there, until it is forgotten. Again for a waiting one: dials now.
    pub fn connect_address(&mut self, address: SocketAddr, now: Instant) {
        if self.targets.len() >= MAX_TARGETS && !self.targets.contains_key(&address) {
            self.common.drops.count(DropReason::TargetTableFull);
            return;
        }
        if self.is_quarantined() {
            return;
        }
        let target = self.targets.entry(address).or_insert_with(|| Target::new(address, now));
        target.hurry(now);
        target.handle_timeout(&mut self.common, now);
    }

    /// Whether an address is dialled until it is forgotten.
    pub fn is_dialled(&self, address: SocketAddr) -> bool {
        self.targets.contains_key(&address)
    }

    /// Stops dialling an address. Its session stays as long as something else wants it or uses it.
    pub fn forget_address(&mut self, address: SocketAddr, now: Instant) {
        let Some(target) = self.targets.remove(&address) else { return };
        if let Some(id) = target.peer {
            self.drop_target_want(id, now);
        }
    }

    /// What gossip knows of a peer. New addresses are tried at once if the peer is wanted.
    pub fn set_peer(&mut self, peer: PeerId, advert: Arc<PeerAdvert>, now: Instant) {
        if advert.public().peer_id() != peer || peer == self.common.me || self.removed.contains(&peer) {
            return;
        }
        if self.known.len() >= MAX_PEERS && !self.known.contains_key(&peer) {
            self.common.drops.count(DropReason::PeerTableFull);
            return;
        }
        let addresses = advert.addresses.clone();
        self.known.insert(peer, advert);
        let early = self.early_wants.remove(&peer).unwrap_or_default();
        if !early.is_empty() && !self.meet(peer, now) {
            self.common.drops.count(DropReason::PeerTableFull);
            return;
        }
        let quarantined = self.is_quarantined();
        self.with_peer(peer, now, |peer, common| {
            if !quarantined {
                peer.wants.extend(early);
                peer.set_addresses(addresses, common, now);
            }
        });
    }

    /// Gossip has forgotten the peer: closes its session and drops everything about it.
    pub fn forget_peer(&mut self, peer: PeerId, now: Instant) {
        self.take_out(peer, DownReason::Leaving, now);
    }

    /// The peer was removed from the fabric: closes its session, and refuses it from now on with that reason.
    pub fn refuse_peer(&mut self, peer: PeerId, now: Instant) {
        if peer != self.common.me {
            self.removed.insert(peer);
            let key = self.peers.get(&peer).map(|known| known.public.x25519);
            let key = key.or_else(|| self.known.get(&peer).map(|advert| advert.x25519));
            self.removed_keys.extend(key.map(|key| (key, peer)));
            self.take_out(peer, DownReason::Removed, now);
        }
    }

    /// Takes a refusal back.
    pub fn accept_peer(&mut self, peer: PeerId) {
        self.removed.remove(&peer);
        self.removed_keys.retain(|_, owner| *owner != peer);
    }

    /// Makes a session with the peer and keeps it. The same want twice is one want.
    ///
    /// A want for a peer that nobody has described yet waits for `set_peer`.
    pub fn want(&mut self, peer: PeerId, why: Want, now: Instant) {
        if !self.meet(peer, now) {
            if self.early_wants.len() >= MAX_EARLY_WANTS {
                self.common.drops.count(DropReason::WantTableFull);
            } else if peer != self.common.me {
                self.early_wants.entry(peer).or_default().insert(why);
            }
            return;
        }
        if !self.is_quarantined() {
            self.with_peer(peer, now, |peer, common| peer.want(why, common, now));
        }
    }

    /// Takes a want back. The session goes when nothing wants it and nothing uses it.
    pub fn unwant(&mut self, peer: PeerId, why: Want, now: Instant) {
        if let Some(early) = self.early_wants.get_mut(&peer) {
            early.remove(&why);
            if early.is_empty() {
                self.early_wants.remove(&peer);
            }
        }
        self.with_peer(peer, now, |peer, _| {
            peer.wants.remove(&why);
        });
    }

    /// The hot path moves frames of this peer; keeps the session from being closed as idle.
    pub fn note_traffic(&mut self, peer: PeerId, now: Instant) {
        self.with_peer(peer, now, |peer, _| (peer.last_used, peer.usage) = (now, Usage::Frames));
    }

    /// Sends a message, after a session is made if there is none. May be lost, like a datagram; never comes twice.
    pub fn send(&mut self, peer: PeerId, channel: Channel, message: Vec<u8>, now: Instant) {
        if self.is_quarantined() {
            self.common.drops.count(DropReason::Quarantined);
            return;
        }
        if !self.meet(peer, now) {
            self.common.drops.count(DropReason::MessageUnknownPeer);
            return;
        }
        self.with_peer(peer, now, |peer, common| peer.send(channel.stream(), message, common, now));
    }

    /// Says goodbye to all, for a shutdown. The datagrams still have to be polled and sent.
    pub fn leave(&mut self, now: Instant) {
        self.targets.clear();
        self.end_all(DownReason::Leaving, now);
    }

    /// Takes any datagram that is not a lane's.
    pub fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) {
        let result = match bytes.first() {
            None => Err(DropReason::Empty),
            Some(_) if self.is_quarantined() => Err(DropReason::Quarantined),
            Some(_) if bytes.len() > MAX_RECEIVED => Err(DropReason::TooLong),
            Some(&HELLO) => self.handle_hello(from, bytes, now),
            Some(&HELLO_REPLY) => self.handle_reply(bytes, now),
            Some(&REJECT) => self.handle_reject(from, bytes, now),
            Some(1..=4) => self.handle_wireguard(from, bytes, now),
            Some(0x20) => Err(DropReason::LaneOnControlPath),
            Some(_) => Err(DropReason::UnknownKind),
        };
        match result {
            Ok(()) => {}
            Err(reason) if names_sender(reason) => self.common.drops.refuse(from, reason, now),
            Err(reason) => self.common.drops.count(reason),
        }
        // No session comes or goes without an event.
        if !self.common.events.is_empty() {
            self.note_events(now);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.is_quarantined() {
            for target in self.targets.values_mut() {
                target.handle_timeout(&mut self.common, now);
            }
        }
        // Each peer once, so that a timer that does not move cannot hold the loop.
        let due: Vec<PeerId> =
            self.deadlines.iter().take_while(|(at, ..)| *at <= now).map(|(_, peer, _)| *peer).collect();
        for peer in due {
            self.with_peer(peer, now, |peer, common| peer.handle_timeout(common, now));
        }
        self.note_events(now);
    }

    // ---- Out ----

    /// The next datagram to send, and where to. Drain after `poll_event`.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, SealedDatagram)> {
        self.common.transmits.pop_front()
    }

    /// The next thing that happened. Drain before `poll_transmit`.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        self.common.events.pop_front()
    }

    /// When `handle_timeout` wants to be called next, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let peer = self.deadlines.first().map(|(at, _, timer)| (*at, timer.as_str()));
        let target = match self.is_quarantined() {
            true => None,
            false => self.targets.values().filter_map(Target::wake).min().map(|at| (at, "dial of a target")),
        };
        peer.into_iter().chain(target).min()
    }

    // ---- Look ----

    /// Dropped datagrams and messages, each reason once.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        self.common.drops.counts()
    }

    /// How often one reason was counted.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.common.drops.of(reason)
    }

    /// The senders that were refused last; bounded.
    pub fn refused(&self) -> &[RefusedSender] {
        self.common.drops.refused()
    }

    /// How full the tables are that others can fill.
    pub fn fill(&self) -> Vec<Fill> {
        let mut fills = vec![
            Fill::of("peers with a session", self.peers.len(), MAX_PEERS),
            Fill::of("dialled addresses", self.targets.len(), MAX_TARGETS),
            Fill::of("peers without keys that are wanted", self.early_wants.len(), MAX_EARLY_WANTS),
        ];
        fills.extend(self.peers.values().flat_map(Peer::fill).filter(Fill::is_over));
        fills
    }

    /// Whether this router found itself to be the newer of two clones.
    pub fn is_quarantined(&self) -> bool {
        self.clone == CloneWatch::Quarantined
    }

    /// Where the session with a peer goes to, if there is one.
    pub fn address(&self, peer: PeerId) -> Option<SocketAddr> {
        self.peers.get(&peer)?.active.as_ref().map(|link| link.address)
    }

    pub(super) fn peer(&self, peer: PeerId) -> Option<&Peer> {
        self.peers.get(&peer)
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = &Target> {
        self.targets.values()
    }
    // ---- Tables ----

    /// Whether a peer that gossip knows is in the table afterwards.
    pub(super) fn meet(&mut self, id: PeerId, now: Instant) -> bool {
        if self.peers.contains_key(&id) {
            return true;
        }
        let public = self.known.get(&id).map(|advert| advert.public());
        public.is_some_and(|public| self.learn(id, public, now))
    }

    /// Whose session key this is, if that is known.
    pub(super) fn owner_of(&mut self, key: &[u8; 32], now: Instant) -> Option<PeerId> {
        if let Some(id) = self.by_key.get(key) {
            return Some(*id);
        }
        // Hardly ever: a peer says hello before it begins a handshake.
        let (&id, _) = self.known.iter().find(|(_, advert)| advert.x25519 == *key)?;
        self.meet(id, now).then_some(id)
    }

    /// Whether the peer is in the table afterwards.
    pub(super) fn learn(&mut self, id: PeerId, public: PublicIdentity, now: Instant) -> bool {
        if self.peers.contains_key(&id) {
            return true;
        }
        if self.peers.len() >= MAX_PEERS && !self.make_room() {
            return false;
        }
        self.by_key.insert(public.x25519, id);
        let mut peer = Peer::new(id, public, &mut self.common, now);
        if let Some(advert) = self.known.get(&id) {
            peer.addresses = advert.addresses.iter().copied().take(MAX_CANDIDATES).collect();
        }
        self.peers.insert(id, peer);
        true
    }

    /// Drops a peer that only a HELLO has named.
    pub(super) fn make_room(&mut self) -> bool {
        let unused = |peer: &Peer| {
            let linked = peer.active.is_some() || peer.dialing.is_some() || peer.answering.is_some();
            !linked && peer.wants.is_empty() && peer.addresses.is_empty()
        };
        let oldest = self.peers.values().filter(|peer| unused(peer)).min_by_key(|peer| peer.since);
        let Some(id) = oldest.map(|peer| peer.id) else { return false };
        self.remove_entry(id);
        true
    }

    pub(super) fn take_out(&mut self, id: PeerId, reason: DownReason, now: Instant) {
        self.with_peer(id, now, |peer, common| peer.close(reason, common, now));
        self.note_events(now);
        self.known.remove(&id);
        self.remove_entry(id);
    }

    pub(super) fn remove_entry(&mut self, id: PeerId) {
        let Some(peer) = self.peers.remove(&id) else { return };
        if let Some((at, timer)) = peer.wake {
            self.deadlines.remove(&(at, id, timer));
        }
        if self.by_key.get(&peer.public.x25519) == Some(&id) {
            self.by_key.remove(&peer.public.x25519);
        }
    }

    pub(super) fn end_all(&mut self, reason: DownReason, now: Instant) {
        let all: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in all {
            self.with_peer(id, now, |peer, common| {
                peer.wants.clear();
                peer.close(reason, common, now);
            });
        }
    }

    pub(super) fn peer_result(
        &mut self,
        id: PeerId,
        now: Instant,
        run: impl FnOnce(&mut Peer, &mut Common) -> Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        let mut result = Err(DropReason::UnknownSession);
        self.with_peer(id, now, |peer, common| result = run(peer, common));
        result
    }

    /// Runs something on a peer and notes when it wants to be woken.
    pub(super) fn with_peer(&mut self, id: PeerId, now: Instant, run: impl FnOnce(&mut Peer, &mut Common)) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        run(peer, &mut self.common);
        let wake = peer.next_wake(&self.common, now);
        if wake != peer.wake {
            if let Some((at, timer)) = peer.wake {
                self.deadlines.remove(&(at, id, timer));
            }
            if let Some((at, timer)) = wake {
                self.deadlines.insert((at, id, timer));
            }
            peer.wake = wake;
        }
    }

    /// Targets follow the sessions of their peers.
    pub(super) fn note_events(&mut self, now: Instant) {
        for target in self.targets.values_mut() {
            let Some(peer) = target.peer.and_then(|id| self.peers.get(&id)) else { continue };
            match (&target.state, peer.active.is_some()) {
                (TargetState::Connected, false) => target.lost(&mut self.common, now),
                (TargetState::Answered(_) | TargetState::Waiting(_) | TargetState::Probing(_), true) => {
                    target.connected(now);
                }
                (TargetState::Connected, true)
                | (TargetState::Answered(_) | TargetState::Waiting(_) | TargetState::Probing(_), false)
                | (TargetState::Ourselves, _) => {}
            }
        }
    }
}

/// Drops that a user wants to see with the address of the sender.
fn names_sender(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::HelloVersion
            | DropReason::HelloForeignFabric
            | DropReason::HelloWrongSecret
            | DropReason::HelloBadSignature
            | DropReason::HelloFromClone
            | DropReason::HelloRemoved
            | DropReason::HandshakeUnknownPeer
            | DropReason::PeerTableFull
    )
}

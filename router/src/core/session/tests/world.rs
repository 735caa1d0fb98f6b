//! Several routers' sessions on one virtual clock and one seeded bad network, with a model of the hot path that checks every lane.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use gossip::PeerId;

use crate::core::advert::PeerAdvert;
use crate::core::fabric::{FabricId, FabricKeys, Secret};
use crate::core::hello::Capabilities;
use crate::core::identity::{Identity, PublicIdentity};
use crate::core::session::{
    Channel, Cipher, DownReason, LaneId, LaneKeys, RxLaneKey, SessionConfig, SessionEvent, Sessions,
    TxLaneKey,
};

/// SplitMix64: enough for a test network, and the same everywhere.
#[derive(Clone)]
pub(super) struct Seeded(u64);

impl Seeded {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// How bad the network is.
#[derive(Clone, Copy)]
pub(super) struct Weather {
    /// Of 100.
    pub(super) loss: u64,
    /// Of 100.
    pub(super) duplicates: u64,
    /// Milliseconds, from and to: the difference reorders.
    pub(super) delay: (u64, u64),
}

/// As long as a session lives in silence: the word may be lost, or its direction cut.
const GRACE: Duration = Duration::from_secs(16);

pub(super) const FAIR: Weather = Weather { loss: 0, duplicates: 0, delay: (5, 5) };
pub(super) const FOUL: Weather = Weather { loss: 20, duplicates: 10, delay: (1, 80) };

/// A datagram as it was sent.
#[derive(Clone)]
pub(super) struct Sent {
    pub(super) at: Instant,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

/// One router.
pub(super) struct Node {
    pub(super) identity: Identity,
    pub(super) address: SocketAddr,
    pub(super) sessions: Sessions,
    pub(super) rx: BTreeMap<LaneId, RxLaneKey>,
    pub(super) tx: BTreeMap<PeerId, TxLaneKey>,
    /// Who is up, and the how manieth start of it that is.
    pub(super) up: BTreeMap<PeerId, usize>,
    starts: usize,
    /// When a session with this peer was given up, then when the next one began.
    given_up: BTreeMap<PeerId, Instant>,
    pub(super) messages: Vec<(PeerId, Channel, Vec<u8>)>,
    pub(super) downs: Vec<DownReason>,
    pub(super) events: Vec<SessionEvent>,
    pub(super) switches: usize,
}

impl Node {
    pub(super) fn id(&self) -> PeerId {
        self.identity.peer_id()
    }

    pub(super) fn public(&self) -> PublicIdentity {
        self.identity.public()
    }
}

/// Who a node is.
#[derive(Clone, Copy)]
pub(super) struct Spec {
    pub(super) seed: u8,
    pub(super) fabric: u8,
    pub(super) secret: u8,
    pub(super) capabilities: Capabilities,
}

pub(super) fn member(seed: u8) -> Spec {
    Spec { seed, fabric: 1, secret: 1, capabilities: Capabilities::AES }
}

/// See the file's head.
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) nodes: Vec<Node>,
    pub(super) weather: Weather,
    pub(super) random: Seeded,
    flying: BTreeMap<(Instant, u64), Sent>,
    counter: u64,
    /// Timer calls at one instant, to find a timer that does not move.
    spins: (Option<Instant>, u32),
    /// Everything that was ever sent.
    pub(super) record: Vec<Sent>,
    /// Pairs that cannot reach each other.
    pub(super) cut: BTreeSet<(usize, usize)>,
    /// From the first to the second nothing arrives.
    pub(super) deaf: BTreeSet<(usize, usize)>,
}

impl World {
    pub(super) fn new(seed: u64, weather: Weather) -> Self {
        eprintln!("seed {seed}");
        Self {
            now: Instant::now(),
            nodes: Vec::new(),
            weather,
            random: Seeded::new(seed),
            flying: BTreeMap::new(),
            counter: 0,
            spins: (None, 0),
            record: Vec::new(),
            cut: BTreeSet::new(),
            deaf: BTreeSet::new(),
        }
    }

    pub(super) fn add(&mut self, spec: Spec) -> usize {
        let index = self.nodes.len();
        let address = SocketAddr::from(([10, 0, 0, 1 + u8::try_from(index).expect("few nodes")], 6783));
        let identity = Identity::from_seed([spec.seed; 64]);
        let sessions = self.sessions(&identity, spec);
        self.nodes.push(Node {
            identity,
            address,
            sessions,
            rx: BTreeMap::new(),
            tx: BTreeMap::new(),
            up: BTreeMap::new(),
            starts: 0,
            given_up: BTreeMap::new(),
            messages: Vec::new(),
            downs: Vec::new(),
            events: Vec::new(),
            switches: 0,
        });
        index
    }

    /// `kill -9` and a new start at the same place.
    pub(super) fn restart(&mut self, node: usize, spec: Spec) {
        let identity = self.nodes[node].identity.clone();
        let sessions = self.sessions(&identity, spec);
        let node = &mut self.nodes[node];
        node.sessions = sessions;
        node.starts += 1;
        node.rx.clear();
        node.tx.clear();
        node.up.clear();
    }

    fn sessions(&mut self, identity: &Identity, spec: Spec) -> Sessions {
        let range = "10.32.0.0/12".parse().expect("a range");
        let secret = Secret::from_bytes([spec.secret; 32]);
        let keys = FabricKeys::derive(FabricId([spec.fabric; 16]), range, &secret);
        let config = SessionConfig { capabilities: spec.capabilities, ..SessionConfig::default() };
        let mut random = Seeded::new(self.random.next());
        Sessions::new(config, identity, keys, Box::new(move |buffer| random.fill(buffer)), self.now)
    }

    pub(super) fn id(&self, node: usize) -> PeerId {
        self.nodes[node].id()
    }

    pub(super) fn address(&self, node: usize) -> SocketAddr {
        self.nodes[node].address
    }

    /// Calls into one node and takes what comes out.
    pub(super) fn with(&mut self, node: usize, run: impl FnOnce(&mut Sessions, Instant)) {
        let now = self.now;
        run(&mut self.nodes[node].sessions, now);
        self.drain(node);
    }

    /// Each knows the other as gossip would tell.
    pub(super) fn introduce(&mut self, a: usize, b: usize) {
        for (me, other) in [(a, b), (b, a)] {
            let (id, public) = (self.id(other), self.nodes[other].public());
            let address = self.address(other);
            self.with(me, |sessions, now| sessions.set_peer(id, advert(public, vec![address]), now));
        }
    }

    pub(super) fn is_up(&self, a: usize, b: usize) -> bool {
        let knows = |me: usize, other: usize| {
            self.nodes[me].up.get(&self.id(other)) == Some(&self.nodes[other].starts)
        };
        knows(a, b) && knows(b, a)
    }

    pub(super) fn has_lanes(&self, a: usize, b: usize) -> bool {
        self.nodes[a].tx.contains_key(&self.id(b)) && self.nodes[b].tx.contains_key(&self.id(a))
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until something holds; how long it took, or the whole `limit`.
    pub(super) fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let (start, end) = (self.now, self.now + limit);
        while !done(self) && self.step(end) {}
        self.now.duration_since(start)
    }

    /// The next datagram or timer.
    fn step(&mut self, end: Instant) -> bool {
        let datagram = self.flying.keys().next().copied();
        let timer = (0..self.nodes.len())
            .filter_map(|node| self.nodes[node].sessions.poll_timeout().map(|(at, _)| (at, node)))
            .min();
        let next = datagram.map(|(at, _)| at).into_iter().chain(timer.map(|(at, _)| at)).min();
        let Some(next) = next.filter(|at| *at <= end) else { return false };
        self.now = self.now.max(next);
        match datagram.filter(|(at, _)| *at == next) {
            Some(key) => {
                let sent = self.flying.remove(&key).expect("it is there");
                self.deliver(&sent);
            }
            None => {
                let (_, node) = timer.expect("one of both is next");
                self.spins =
                    if self.spins.0 == Some(next) { (Some(next), self.spins.1 + 1) } else { (Some(next), 0) };
                let why = self.nodes[node].sessions.poll_timeout();
                assert!(self.spins.1 < 50, "a timer does not move: {why:?}");
                self.with(node, |sessions, now| sessions.handle_timeout(now));
            }
        }
        true
    }

    /// Gives a datagram to whoever has its destination, now.
    pub(super) fn deliver(&mut self, sent: &Sent) {
        if let Some(node) = self.nodes.iter().position(|node| node.address == sent.to) {
            self.with(node, |sessions, now| sessions.handle_datagram(sent.from, &sent.bytes, now));
        }
    }

    fn drain(&mut self, node: usize) {
        while let Some(event) = self.nodes[node].sessions.poll_event() {
            self.take(node, event);
        }
        self.check_lanes();
        let mut turns = 0;
        while let Some((to, datagram)) = self.nodes[node].sessions.poll_transmit() {
            turns += 1;
            assert!(turns < 10_000, "endless output");
            assert!(datagram.as_bytes().len() <= 1200, "a datagram of {}", datagram.as_bytes().len());
            let from = self.nodes[node].address;
            self.throw(Sent { at: self.now, from, to, bytes: datagram.as_bytes().to_vec() });
        }
    }

    fn throw(&mut self, sent: Sent) {
        self.record.push(sent.clone());
        let ends = [sent.from, sent.to].map(|a| self.nodes.iter().position(|node| node.address == a));
        if let [Some(from), Some(to)] = ends
            && (self.cut.contains(&(from, to))
                || self.cut.contains(&(to, from))
                || self.deaf.contains(&(from, to)))
        {
            return;
        }
        let copies = 1 + usize::from(self.random.below(100) < self.weather.duplicates);
        for _ in 0..copies {
            if self.random.below(100) < self.weather.loss {
                continue;
            }
            let (least, most) = self.weather.delay;
            let delay = Duration::from_millis(least + self.random.below(most - least + 1));
            self.counter += 1;
            self.flying.insert((self.now + delay, self.counter), sent.clone());
        }
    }

    fn take(&mut self, node: usize, event: SessionEvent) {
        let starts: BTreeMap<PeerId, usize> = self.nodes.iter().map(|n| (n.id(), n.starts)).collect();
        let now = self.now;
        let node = &mut self.nodes[node];
        match event.clone() {
            SessionEvent::Up { peer, .. } => {
                assert!(node.up.insert(peer, starts[&peer]).is_none(), "up twice");
                node.given_up.entry(peer).and_modify(|at| *at = now);
            }
            SessionEvent::Down { peer, reason } => {
                assert!(node.up.remove(&peer).is_some(), "down without up");
                node.tx.remove(&peer);
                assert!(node.rx.values().all(|key| key.peer != peer), "a lane outlives its session");
                node.downs.push(reason);
                node.given_up.insert(peer, now);
            }
            SessionEvent::Message { peer, channel, bytes } => node.messages.push((peer, channel, bytes)),
            SessionEvent::LaneReady { lane: LaneKeys::Rx(key), .. } => {
                assert!(node.rx.insert(key.lane, key).is_none(), "a lane id twice");
            }
            SessionEvent::LaneReady { peer, lane: LaneKeys::Tx(key), .. } => {
                node.tx.insert(peer, key);
                node.switches += 1;
            }
            SessionEvent::LaneRetired { lane, .. } => {
                assert!(node.rx.remove(&lane).is_some(), "retired a lane that was not there");
            }
            SessionEvent::Unreachable { .. }
            | SessionEvent::AddressChanged { .. }
            | SessionEvent::Observed { .. }
            | SessionEvent::CloneDetected { .. } => {}
        }
        node.events.push(event);
    }

    /// A side that has given a session up is known to have done so by its first word on the next one: until that has come, the
    /// other's lane is in vain.
    fn may_disagree(&self, a: usize, b: usize) -> bool {
        let recently = |me: usize, other: usize| {
            let at = self.nodes[me].given_up.get(&self.id(other));
            at.is_some_and(|at| self.now < *at + GRACE)
        };
        recently(a, b) || recently(b, a)
    }

    /// Wherever both sides have a session, what one seals the other opens.
    fn check_lanes(&self) {
        for (a, from) in self.nodes.iter().enumerate() {
            for (b, to) in self.nodes.iter().enumerate() {
                if a == b || !self.is_up(a, b) || self.may_disagree(a, b) {
                    continue;
                }
                let Some(tx) = from.tx.get(&to.id()) else { continue };
                let rx = to.rx.get(&tx.lane);
                let rx = rx.unwrap_or_else(|| panic!("lane {:?} from {a} to {b} has no receiver", tx.lane));
                assert!(rx.peer == from.id() && rx.cipher == tx.cipher && rx.key == tx.key);
            }
        }
    }
}

/// Seals with the one key and opens with the other.
pub(super) fn carries(tx: &TxLaneKey, rx: &RxLaneKey) -> bool {
    let sealing = aead(tx.cipher, &tx.key);
    let opening = aead(rx.cipher, &rx.key);
    let nonce = || Nonce::assume_unique_for_key([0; 12]);
    let mut record = b"frame".to_vec();
    sealing.seal_in_place_append_tag(nonce(), Aad::from(b"header"), &mut record).expect("sealed");
    opening.open_in_place(nonce(), Aad::from(b"header"), &mut record).is_ok_and(|frame| frame == b"frame")
}

fn aead(cipher: Cipher, key: &[u8; 32]) -> LessSafeKey {
    let algorithm = match cipher {
        Cipher::Aes256Gcm => &AES_256_GCM,
        Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
    };
    LessSafeKey::new(UnboundKey::new(algorithm, key).expect("32 bytes"))
}

/// What gossip tells of a peer.
pub(super) fn advert(public: PublicIdentity, addresses: Vec<SocketAddr>) -> Arc<PeerAdvert> {
    let PublicIdentity { ed25519, x25519 } = public;
    let (nickname, version) = ("peer".to_owned(), "test".to_owned());
    Arc::new(PeerAdvert { ed25519, x25519, nickname, addresses, version, mtu: 1390 })
}

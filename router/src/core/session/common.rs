//! What all sessions of a router share: identity, randomness, limits, the outgoing queues, and the HELLOs that wait for an answer.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::x25519::PublicKey;
use gossip::PeerId;

use super::drops::{DropReason, Drops};
use super::guard::Guard;
use super::lanes::LaneIds;
use super::link::{Link, LinkKeys, Role, Seal};
use super::random::{Random, RandomSource};
use super::types::{SessionConfig, SessionEvent};
use crate::core::fabric::FabricKeys;
use crate::core::hello::{Hello, HelloKind, Nonce};
use crate::core::identity::{Identity, PublicIdentity};
use crate::core::sealed::SealedDatagram;

/// A HELLO without an answer is forgotten after this: longer than any round trip, short enough to bound the table.
const PROBE_LIFETIME: Duration = Duration::from_secs(5);
/// What may wait happens on whole beats. Longer ones would save little more, and make what rides on them late.
const BEAT: Duration = Duration::from_secs(1);
/// HELLOs waiting at a time. At 5 s each this allows some three thousand dials a second.
const MAX_PROBES: usize = 16_384;

/// Why a HELLO was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    Peer(PeerId),
    Target,
    CloneCheck,
}

/// A HELLO that waits for its answer.
#[derive(Clone, Copy)]
pub(super) struct Probe {
    pub(super) to: SocketAddr,
    pub(super) purpose: Purpose,
    /// What we said our uptime was.
    pub(super) uptime: u64,
}

/// See the file's head.
pub(super) struct Common {
    pub(super) identity: Identity,
    pub(super) public: PublicIdentity,
    pub(super) me: PeerId,
    pub(super) keys: FabricKeys,
    pub(super) config: SessionConfig,
    pub(super) boot: Nonce,
    started: Instant,
    pub(super) random: Random,
    pub(super) guard: Guard,
    pub(super) lane_ids: LaneIds,
    pub(super) transmits: VecDeque<(SocketAddr, SealedDatagram)>,
    pub(super) events: VecDeque<SessionEvent>,
    pub(super) drops: Drops,
    /// Whose link has this index (24 bits).
    pub(super) indices: BTreeMap<u32, PeerId>,
    probes: BTreeMap<Nonce, Probe>,
    probe_order: VecDeque<(Instant, Nonce)>,
}

impl Common {
    pub(super) fn new(
        config: SessionConfig,
        identity: &Identity,
        keys: FabricKeys,
        random: RandomSource,
        now: Instant,
    ) -> Self {
        let mut random = Random::new(random);
        let boot = random.bytes();
        Self {
            identity: identity.clone(),
            public: identity.public(),
            me: identity.peer_id(),
            keys,
            config,
            boot,
            started: now,
            guard: Guard::new(identity.x25519()),
            lane_ids: LaneIds::new(&mut random),
            random,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            drops: Drops::new(),
            indices: BTreeMap::new(),
            probes: BTreeMap::new(),
            probe_order: VecDeque::new(),
        }
    }

    pub(super) fn send(&mut self, to: SocketAddr, datagram: SealedDatagram) {
        self.transmits.push_back((to, datagram));
    }

    pub(super) fn emit(&mut self, event: SessionEvent) {
        self.events.push_back(event);
    }

    /// Sends a HELLO and remembers why.
    pub(super) fn probe(&mut self, to: SocketAddr, purpose: Purpose, now: Instant) {
        self.expire_probes(now);
        if self.probes.len() >= MAX_PROBES {
            self.drops.count(DropReason::ProbeTableFull);
            return;
        }
        let hello = self.hello(HelloKind::Request, to, [0; 16], now);
        self.probes.insert(hello.nonce, Probe { to, purpose, uptime: hello.uptime });
        self.probe_order.push_back((now + PROBE_LIFETIME, hello.nonce));
        let datagram = hello.emit(&self.identity, &self.keys);
        self.send(to, datagram);
    }

    /// Answers a HELLO.
    pub(super) fn reply(&mut self, to: SocketAddr, request: &Hello, now: Instant) {
        let hello = self.hello(HelloKind::Reply, to, request.nonce, now);
        let datagram = hello.emit(&self.identity, &self.keys);
        self.send(to, datagram);
    }

    /// The HELLO that an echoed nonce belongs to, once.
    pub(super) fn take_probe(&mut self, echo: &Nonce, now: Instant) -> Option<Probe> {
        self.expire_probes(now);
        self.probes.remove(echo)
    }

    /// The same, left in place: a REJECT is not authenticated and must not keep the true reply out.
    pub(super) fn peek_probe(&mut self, echo: &Nonce, now: Instant) -> Option<Probe> {
        self.expire_probes(now);
        self.probes.get(echo).copied()
    }

    /// A link with a new index.
    pub(super) fn new_link(
        &mut self,
        peer: PeerId,
        public: &PublicIdentity,
        role: Role,
        address: SocketAddr,
        now: Instant,
    ) -> Link {
        let mut index = self.random.u32() >> 8;
        while self.indices.contains_key(&index) {
            index = (index + 1) & 0x00ff_ffff;
        }
        self.indices.insert(index, peer);
        let seal = self.seal(public, index);
        Link::new(seal, role, index, address, now)
    }

    fn seal(&self, public: &PublicIdentity, index: u32) -> Seal {
        #[cfg(feature = "simulated")]
        if self.guard.pretends {
            return Seal::pretend(self.guard.public(), public.x25519, *self.keys.psk(), index);
        }
        let keys = LinkKeys {
            secret: self.guard.secret.clone(),
            peer: PublicKey::from(public.x25519),
            psk: *self.keys.psk(),
            limiter: Arc::clone(&self.guard.calm),
        };
        Seal::wire_guard(keys, index)
    }

    pub(super) fn drop_link(&mut self, link: Option<Link>) {
        if let Some(link) = link {
            self.indices.remove(&link.index);
        }
    }

    pub(super) fn uptime(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// The first beat that is not before `at`. Beats count from our start, so that routers do not all beat at once.
    pub(super) fn on_beat(&self, at: Instant) -> Instant {
        let beats = at.saturating_duration_since(self.started).as_nanos().div_ceil(BEAT.as_nanos());
        self.started + BEAT * u32::try_from(beats).unwrap_or(u32::MAX)
    }

    fn hello(&mut self, kind: HelloKind, address: SocketAddr, echo: Nonce, now: Instant) -> Hello {
        Hello {
            kind,
            nonce: self.random.bytes(),
            echo,
            boot: self.boot,
            uptime: self.uptime(now),
            capabilities: self.config.capabilities,
            public: self.public,
            address,
        }
    }

    fn expire_probes(&mut self, now: Instant) {
        while let Some((at, nonce)) = self.probe_order.front() {
            if *at > now {
                return;
            }
            self.probes.remove(nonce);
            self.probe_order.pop_front();
        }
    }
}

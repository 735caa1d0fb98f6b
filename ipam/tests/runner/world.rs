//! Several allocators, one virtual clock, one bad network that spreads records and messages, disks that survive crashes,
//! and a reference that knows which address was promised to whom. Checked after every step; a seed replays.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use gossip::{Kind, PeerId, RecordKey};
use ipam::audit::{Proof, Step};
use ipam::{AllocateError, BlockRecord, Config, Ipam, JournalEntry, Owner, Presence, Rest, Ticket, Want};
use ipnet::Ipv4Net;

/// Small and good enough for tests.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.next() % 100 < chance
    }
}

/// Version and value of a record; no value is a tombstone.
type Stored = (u64, Option<Vec<u8>>);

#[derive(Clone)]
enum Parcel {
    Message(Vec<u8>),
    Record { origin: PeerId, key: RecordKey, stored: Stored },
}

/// What a host is to the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Member,
    /// An operator ran `rmpeer` for it.
    Removed,
    /// Handed its space over and went.
    Left,
}

pub(crate) struct Host {
    pub(crate) id: PeerId,
    /// None while crashed.
    pub(crate) ipam: Option<Ipam>,
    journal: Vec<JournalEntry>,
    store: BTreeMap<(PeerId, RecordKey), Stored>,
    boot: u64,
    version: u64,
    pub(crate) side: usize,
    pub(crate) fate: Fate,
    told: BTreeMap<PeerId, Presence>,
    /// Crashes at the next write to disk, with so many entries of it written.
    trap: Option<usize>,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) seed: u64,
    start: Instant,
    pub(crate) now: Instant,
    range: Ipv4Net,
    pub(crate) hosts: Vec<Host>,
    queue: BTreeMap<(Instant, u64), (usize, PeerId, Parcel)>,
    sequence: u64,
    pub(crate) loss: u64,
    pub(crate) reclaim_after: Option<Duration>,
    /// Who was promised which address.
    promised: BTreeMap<Ipv4Addr, (usize, Owner)>,
    open: BTreeMap<Ticket, (usize, Owner, Instant)>,
    next_ticket: u64,
    next_tick: Instant,
    pub(crate) answers: Vec<(usize, Owner, Result<Ipv4Addr, AllocateError>)>,
    pub(crate) granted: usize,
    /// Everything that was ever published about blocks, as a router's history keeps it.
    pub(crate) steps: Vec<Step>,
    trace: bool,
}

/// Answers come at most this long after their deadline: the wake-up is exact in virtual time.
const SLACK: Duration = Duration::from_millis(1);

impl World {
    /// Hosts that each take one part of the range.
    pub(crate) fn of_seeds(seed: u64, range: Ipv4Net, parts: &[Ipv4Net]) -> World {
        let mut world = World::empty(seed, range);
        for part in parts {
            let host = world.add_host();
            world.with(host, |ipam, now| ipam.found_part(vec![*part], now));
        }
        world
    }

    pub(crate) fn new(seed: u64, range: Ipv4Net, hosts: usize) -> World {
        let mut world = World::empty(seed, range);
        for _ in 0..hosts {
            world.add_host();
        }
        world.with(0, |ipam, now| ipam.found(now));
        world
    }

    pub(crate) fn empty(seed: u64, range: Ipv4Net) -> World {
        let start = Instant::now();
        World {
            rng: Rng::new(seed),
            seed,
            start,
            now: start,
            range,
            hosts: Vec::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            loss: 0,
            reclaim_after: None,
            promised: BTreeMap::new(),
            open: BTreeMap::new(),
            next_ticket: 0,
            next_tick: start,
            answers: Vec::new(),
            granted: 0,
            steps: Vec::new(),
            trace: std::env::var("IPAM_SIM_TRACE").is_ok(),
        }
    }

    pub(crate) fn add_host(&mut self) -> usize {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.rng.next().to_be_bytes());
        bytes[15] = u8::try_from(self.hosts.len()).unwrap();
        let id = PeerId(bytes);
        let ipam = Ipam::new(self.config(), id, self.rng.next(), self.now);
        self.hosts.push(Host {
            id,
            ipam: Some(ipam),
            journal: Vec::new(),
            store: BTreeMap::new(),
            boot: 1,
            version: 0,
            side: 0,
            fate: Fate::Member,
            told: BTreeMap::new(),
            trap: None,
        });
        let index = self.hosts.len() - 1;
        // Membership spreads by gossip; here everybody knows at once, be it only that somebody exists.
        for host in 0..self.hosts.len() {
            self.tell_presence(host);
        }
        index
    }

    fn config(&self) -> Config {
        Config { reclaim_after: self.reclaim_after, ..Config::new(self.range) }
    }

    pub(crate) fn ipam(&self, host: usize) -> &Ipam {
        self.hosts[host].ipam.as_ref().expect("host is up")
    }

    pub(crate) fn up(&self, host: usize) -> bool {
        self.hosts[host].ipam.is_some()
    }

    pub(crate) fn index_of(&self, id: PeerId) -> usize {
        self.hosts.iter().position(|host| host.id == id).expect("known host")
    }

    /// Runs something on the allocator of a host that is up, then carries away what comes out.
    pub(crate) fn with<T>(&mut self, host: usize, action: impl FnOnce(&mut Ipam, Instant) -> T) -> Option<T> {
        let now = self.now;
        let result = action(self.hosts[host].ipam.as_mut()?, now);
        self.flush(host);
        self.check();
        Some(result)
    }

    pub(crate) fn allocate(&mut self, host: usize, owner: &str, want: Want, patience: Duration) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let (owner, deadline) = (Owner(owner.to_owned()), self.now + patience);
        if self.up(host) {
            self.open.insert(ticket, (host, owner.clone(), deadline));
            self.with(host, |ipam, now| ipam.allocate(ticket, owner, want, deadline, now));
        }
        ticket
    }

    pub(crate) fn release(&mut self, host: usize, owner: &Owner, rest: Rest) {
        let released = self.hosts[host].ipam.as_mut().map(|ipam| match rest {
            Rest::Used => ipam.release(owner, self.now),
            Rest::NeverUsed => ipam.release_unused(owner, self.now),
        });
        for addr in released.into_iter().flatten() {
            if self.promised.get(&addr).is_some_and(|(at, _)| *at == host) {
                self.promised.remove(&addr);
            }
        }
        self.flush(host);
        self.check();
    }

    pub(crate) fn promised_at(&self, host: usize) -> Vec<Owner> {
        self.promised.values().filter(|(at, _)| *at == host).map(|(_, owner)| owner.clone()).collect()
    }

    /// The host dies at its next write to disk, somewhere in the middle of it.
    pub(crate) fn set_trap(&mut self, host: usize) {
        self.hosts[host].trap = Some(self.rng.below(4));
    }

    pub(crate) fn crash(&mut self, host: usize) {
        self.log(|| format!("crash {host}"));
        let node = &mut self.hosts[host];
        node.ipam = None;
        node.store.clear();
        node.told.clear();
        node.trap = None;
        self.open.retain(|_, (at, _, _)| *at != host);
    }

    pub(crate) fn restart(&mut self, host: usize) {
        self.log(|| format!("restart {host}"));
        let mut ipam = Ipam::new(self.config(), self.hosts[host].id, self.rng.next(), self.now);
        let node = &mut self.hosts[host];
        for entry in &node.journal {
            // Through bytes, as on a real disk.
            ipam.restore(JournalEntry::decode(&entry.encode()).unwrap()).unwrap();
        }
        ipam.restored(self.now);
        node.boot += 1;
        node.version = 0;
        node.ipam = Some(ipam);
        self.tell_presence(host);
        self.flush(host);
        self.check();
    }

    pub(crate) fn compact(&mut self, host: usize) {
        if let Some(ipam) = &self.hosts[host].ipam {
            self.hosts[host].journal = ipam.snapshot();
        }
    }

    /// The operator declares a host dead.
    pub(crate) fn rmpeer(&mut self, at: usize, dead: usize) {
        self.log(|| format!("rmpeer {dead} at {at}"));
        let id = self.hosts[dead].id;
        let outcome = self.hosts[at].ipam.as_mut().map(|ipam| ipam.remove_peer(id, self.now));
        self.log(|| format!("  {outcome:?}"));
        self.flush(at);
        let written =
            |entry: &JournalEntry| matches!(entry, JournalEntry::Removal(removal) if removal.removed == id);
        // The operator's own host may have died before it wrote that down.
        if self.hosts[at].journal.iter().any(written) {
            self.hosts[dead].fate = Fate::Removed;
            self.promised.retain(|_, (host, _)| *host != dead);
        }
        self.check();
    }

    pub(crate) fn heal(&mut self) {
        self.log(|| "heal".to_owned());
        for host in &mut self.hosts {
            host.side = 0;
        }
    }

    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let parcel = self.queue.first_key_value().map(|(&(at, _), _)| at);
            let wake = self.hosts.iter().filter_map(|host| host.ipam.as_ref()?.poll_timeout());
            let wake = wake.map(|(at, _)| at).min();
            let next = [parcel, wake, Some(self.next_tick)].into_iter().flatten().min().unwrap();
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            self.step();
        }
    }

    fn step(&mut self) {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (to, from, parcel) = entry.remove();
            self.deliver(to, from, parcel);
        }
        for host in 0..self.hosts.len() {
            let due = |ipam: &Ipam| ipam.poll_timeout().is_some_and(|(at, _)| at <= self.now);
            if self.hosts[host].ipam.as_ref().is_some_and(due) {
                self.with(host, Ipam::handle_timeout);
            }
        }
        if self.next_tick <= self.now {
            self.next_tick = self.now + Duration::from_millis(500);
            self.tick();
        }
        for (ticket, (host, owner, deadline)) in &self.open {
            assert!(self.now <= *deadline + SLACK, "{ticket:?} of {owner} at {host} was not answered");
        }
    }

    /// Anti-entropy and failure detection.
    fn tick(&mut self) {
        for host in 0..self.hosts.len() {
            if !self.up(host) {
                continue;
            }
            if self.rng.percent(60) {
                self.tell_presence(host);
            }
            let other = self.rng.below(self.hosts.len());
            if other == host || !self.connected(host, other) {
                continue;
            }
            let newer: Vec<_> = self.hosts[host]
                .store
                .iter()
                .filter(|(name, stored)| {
                    self.hosts[other].store.get(name).is_none_or(|known| known.0 < stored.0)
                })
                .map(|((origin, key), stored)| (*origin, key.clone(), stored.clone()))
                .collect();
            for (origin, key, stored) in newer {
                self.post(host, other, Parcel::Record { origin, key, stored });
            }
        }
    }

    fn connected(&self, a: usize, b: usize) -> bool {
        self.up(a) && self.up(b) && self.hosts[a].side == self.hosts[b].side
    }

    pub(crate) fn tell_presence(&mut self, host: usize) {
        for other in 0..self.hosts.len() {
            let presence = match self.hosts[other].fate {
                Fate::Left => Presence::Left,
                Fate::Member | Fate::Removed if self.connected(host, other) => Presence::Reachable,
                Fate::Member | Fate::Removed => Presence::Unreachable,
            };
            let id = self.hosts[other].id;
            if other != host && self.up(host) && self.hosts[host].told.insert(id, presence) != Some(presence)
            {
                self.with(host, |ipam, now| ipam.handle_reachable(id, presence, now));
            }
        }
    }

    fn post(&mut self, from: usize, to: usize, parcel: Parcel) {
        if !self.connected(from, to) || self.rng.percent(self.loss) {
            return;
        }
        let copies = if self.rng.percent(10) { 2 } else { 1 };
        for _ in 0..copies {
            let spread = if self.rng.percent(10) { 1500 } else { 40 };
            let at = self.now + Duration::from_millis(1 + self.rng.next() % spread);
            self.sequence += 1;
            self.queue.insert((at, self.sequence), (to, self.hosts[from].id, parcel.clone()));
        }
    }

    fn deliver(&mut self, to: usize, from: PeerId, parcel: Parcel) {
        if !self.up(to) || !self.connected(to, self.index_of(from)) {
            return;
        }
        match parcel {
            Parcel::Message(bytes) => {
                let result = self.with(to, |ipam, now| ipam.handle_message(from, &bytes, now));
                assert!(matches!(result, Some(Ok(()))), "peers understand each other: {result:?}");
            }
            Parcel::Record { origin, key, stored } => self.receive_record(to, origin, &key, stored),
        }
    }

    fn receive_record(&mut self, to: usize, origin: PeerId, key: &RecordKey, stored: Stored) {
        let name = (origin, key.clone());
        if self.ipam(to).is_removed(origin)
            || self.hosts[to].store.get(&name).is_some_and(|known| known.0 >= stored.0)
        {
            return;
        }
        if origin == self.hosts[to].id {
            // Somebody holds a record of an earlier life of ours.
            self.with(to, |ipam, now| ipam.handle_record(origin, key, stored.1.as_deref(), now));
            if self.up(to) && !self.hosts[to].store.contains_key(&name) {
                self.publish(to, key.clone(), None);
            }
            return;
        }
        self.hosts[to].store.insert(name, stored.clone());
        self.with(to, |ipam, now| ipam.handle_record(origin, key, stored.1.as_deref(), now));
        self.push(to, origin, key, &stored);
    }

    fn push(&mut self, from: usize, origin: PeerId, key: &RecordKey, stored: &Stored) {
        for _ in 0..2 {
            let to = self.rng.below(self.hosts.len());
            if to != from {
                let parcel = Parcel::Record { origin, key: key.clone(), stored: stored.clone() };
                self.post(from, to, parcel);
            }
        }
    }

    fn publish(&mut self, host: usize, key: RecordKey, value: Option<Vec<u8>>) {
        let node = &mut self.hosts[host];
        node.version += 1;
        let stored = (node.boot << 32 | node.version, value);
        let origin = node.id;
        // Deeds are no records of blocks: they say again what was said before.
        if let (Kind::BLOCK, Some(value)) = (key.kind, &stored.1)
            && let Ok(record) = BlockRecord::decode(value)
        {
            self.steps.push(Step { record, signer: origin, proof: Proof::Signed });
        }
        node.store.insert((origin, key.clone()), stored.clone());
        self.push(host, origin, &key, &stored);
    }

    /// First the disk, then everything else; a trap strikes in between.
    fn flush(&mut self, host: usize) {
        let Some(ipam) = self.hosts[host].ipam.as_mut() else { return };
        let entries: Vec<JournalEntry> = std::iter::from_fn(|| ipam.poll_persist()).collect();
        if !entries.is_empty()
            && let Some(written) = self.hosts[host].trap.take()
        {
            let written = written.min(entries.len());
            self.log(|| format!("host {host} dies writing {written} of {entries:?}"));
            self.hosts[host].journal.extend(entries.into_iter().take(written));
            return self.crash(host);
        }
        for entry in &entries {
            self.log(|| format!("host {host} writes {entry:?}"));
        }
        self.hosts[host].journal.extend(entries);
        let ipam = self.hosts[host].ipam.as_mut().expect("just looked");
        let published: Vec<_> = std::iter::from_fn(|| ipam.poll_publish()).collect();
        let messages: Vec<_> = std::iter::from_fn(|| ipam.poll_transmit()).collect();
        let answers: Vec<_> = std::iter::from_fn(|| ipam.poll_answer()).collect();
        for publish in published {
            self.publish(host, publish.key, publish.value);
        }
        for message in messages {
            assert!(message.payload.len() <= ipam::MAX_MESSAGE);
            if let Some(to) = self.hosts.iter().position(|other| other.id == message.to) {
                self.post(host, to, Parcel::Message(message.payload));
            }
        }
        for answer in answers {
            let (at, owner, _) = self.open.remove(&answer.ticket).expect("one answer for each ticket");
            self.log(|| format!("host {host} answers {owner}: {answer:?}"));
            let result = answer.result.map(|lease| lease.addr);
            if let Ok(addr) = result {
                self.promise(at, addr, &owner);
            }
            self.answers.push((at, owner, result));
        }
        self.hosts[host].forget_removed();
    }

    fn promise(&mut self, host: usize, addr: Ipv4Addr, owner: &Owner) {
        let bits = addr.to_bits();
        assert!(bits != self.range.network().to_bits() && bits != self.range.broadcast().to_bits());
        assert!(self.range.contains(&addr));
        if self.hosts[host].fate == Fate::Removed {
            // Declared dead by the operator, who was wrong; it will hear of it.
            return;
        }
        self.granted += 1;
        if let Some((other, holder)) = self.promised.insert(addr, (host, owner.clone())) {
            assert!(
                other == host && holder == *owner,
                "{addr} leased at {other} to {holder} and at {host} to {owner}"
            );
        }
    }

    /// What has to hold at any time.
    pub(crate) fn check(&self) {
        let mut owned: BTreeMap<u32, (u32, usize)> = BTreeMap::new();
        for (index, host) in self.hosts.iter().enumerate() {
            let Some(ipam) = host.ipam.as_ref().filter(|_| host.fate == Fate::Member) else { continue };
            for block in ipam.own_blocks() {
                let (first, last) = (block.network().to_bits(), block.broadcast().to_bits());
                if let Some((_, &(end, other))) = owned.range(..=last).next_back() {
                    assert!(
                        end < first,
                        "{block} is allocated from at {other} and {index} (seed {})",
                        self.seed
                    );
                }
                owned.insert(first, (last, index));
            }
            assert_eq!(ipam.lost_leases().count(), 0, "host {index} lost leases (seed {})", self.seed);
            let stats = ipam.stats();
            assert_eq!(stats.quarantined().collect::<Vec<_>>(), [], "all are honest (seed {})", self.seed);
        }
        for (addr, (host, owner)) in &self.promised {
            if let Some(ipam) = &self.hosts[*host].ipam {
                assert_eq!(ipam.owner_of(*addr).as_ref(), Some(owner), "lease of {addr} at {host}");
            }
        }
    }

    /// What has to hold when everything has been quiet for long: one view, and nothing lost.
    pub(crate) fn check_quiescent(&self) {
        let live: Vec<usize> =
            (0..self.hosts.len()).filter(|&host| self.hosts[host].fate == Fate::Member).collect();
        let first: Vec<_> = self.ipam(live[0]).blocks().collect();
        let ids: BTreeSet<PeerId> = live.iter().map(|&host| self.hosts[host].id).collect();
        for &host in &live {
            let ipam = self.ipam(host);
            let blocks: Vec<_> = ipam.blocks().collect();
            assert_eq!(blocks, first, "hosts {host} and {} see the same (seed {})", live[0], self.seed);
            let summary = ipam.summary();
            assert_eq!((summary.unknown, summary.contested), (0, 0));
            assert_eq!((summary.unconfirmed, summary.waiting), (0, 0), "host {host}: {summary:#?}");
            assert_eq!(summary.takeovers, [], "host {host}");
            let reserved = [self.range.network(), self.range.broadcast()];
            let mine = |addr: &&Ipv4Addr| ipam.peer_of(**addr) == Some(ipam.me());
            let reserved = reserved.iter().filter(mine).count() as u64;
            assert_eq!(summary.owned, summary.free + summary.used + summary.resting + reserved);
            let own: u64 = ipam.own_blocks().iter().map(|block| block.hosts().count() as u64).sum();
            assert!(own <= summary.owned);
        }
        for block in &first {
            assert!(ids.contains(&block.owner), "{block:?} is owned by a member (seed {})", self.seed);
        }
        for host in self.hosts.iter().filter(|host| host.fate == Fate::Removed) {
            if let Some(ipam) = &host.ipam {
                assert_eq!(ipam.own_blocks(), [], "a removed peer gives up");
                assert_eq!(ipam.leases().count(), 0);
            }
        }
    }

    pub(crate) fn log(&self, line: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>9.3} {}", (self.now - self.start).as_secs_f64(), line());
        }
    }
}

impl Host {
    pub(crate) fn disarm(&mut self) {
        self.trap = None;
    }

    /// Gossip drops the records of a removed peer.
    fn forget_removed(&mut self) {
        if let Some(ipam) = &self.ipam {
            let me = self.id;
            self.store.retain(|(origin, _), _| *origin == me || !ipam.is_removed(*origin));
        }
    }
}

//! The simulation: peers, a router's share of the work (sessions on request), a bad network, and time that jumps.
//!
//! Everything follows from the seed, which every failure prints.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use gossip::{Config, Event, Gossip, Kind, MAX_MESSAGE, MemberState, PeerId, RecordKey};

use crate::signer::{TestKeys, mix, peer, peer_record};

/// How long a handshake takes.
const HANDSHAKE: Duration = Duration::from_millis(50);

/// How long until a router notices that a session carries nothing any more.
const SESSION_TIMEOUT: Duration = Duration::from_secs(20);

/// How bad the network is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    /// Lost messages in a thousand.
    pub(crate) loss: u64,
    /// Messages in a thousand that come twice.
    pub(crate) duplication: u64,
    /// Delays are uniform up to this, which reorders.
    pub(crate) delay: Duration,
}

impl Faults {
    /// A good network.
    pub(crate) const NONE: Faults = Faults { loss: 0, duplication: 0, delay: Duration::from_millis(5) };
    /// A bad one.
    pub(crate) const BAD: Faults = Faults { loss: 50, duplication: 30, delay: Duration::from_millis(100) };
    /// Hardly one at all.
    pub(crate) const TERRIBLE: Faults =
        Faults { loss: 250, duplication: 100, delay: Duration::from_millis(400) };
}

/// One host.
pub(crate) struct Host {
    /// Its gossip; none while it is crashed.
    pub(crate) gossip: Option<Gossip<TestKeys>>,
    /// Everything that happened, with the time.
    pub(crate) events: Vec<(Duration, Event)>,
    /// Peers to which gossip wants sessions.
    pub(crate) wants: BTreeSet<u16>,
    boot: u32,
    wake: Option<Instant>,
}

/// All of it.
pub(crate) struct Sim {
    /// Prints the seed when a test fails.
    pub(crate) seed: u64,
    /// The hosts, by number.
    pub(crate) hosts: BTreeMap<u16, Host>,
    /// The network.
    pub(crate) faults: Faults,
    /// Bytes sent by each host since [`Sim::reset_bytes`].
    pub(crate) bytes: BTreeMap<u16, u64>,
    start: Instant,
    now: Instant,
    rng: u64,
    queue: BinaryHeap<std::cmp::Reverse<(Instant, u64, What)>>,
    serial: u64,
    sessions: BTreeSet<(u16, u16)>,
    /// Hosts can only reach those of the same number.
    sides: BTreeMap<u16, u8>,
    /// Pairs that can never reach each other.
    severed: BTreeSet<(u16, u16)>,
    numbers: BTreeMap<PeerId, u16>,
    config: Config,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Deliver { from: u16, to: u16, payload: Vec<u8> },
    Dial { from: u16, to: u16 },
    TimeOut { one: u16, other: u16 },
    Stale { host: u16, gone: u16 },
}

impl Drop for Sim {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {} at {:?}", self.seed, self.elapsed());
        }
    }
}

impl Sim {
    /// A fabric of `count` hosts that joined one after the other through host 0.
    pub(crate) fn fabric(seed: u64, count: u16) -> Self {
        let mut sim = Sim::empty(seed);
        for n in 0..count {
            sim.boot(n);
            if n > 0 {
                sim.dial(n, 0);
            }
        }
        sim.run(Duration::from_secs(20));
        sim
    }

    /// No hosts yet.
    pub(crate) fn empty(seed: u64) -> Self {
        let start = Instant::now();
        Sim {
            seed,
            hosts: BTreeMap::new(),
            faults: Faults::NONE,
            bytes: BTreeMap::new(),
            start,
            now: start,
            rng: seed,
            queue: BinaryHeap::new(),
            serial: 0,
            sessions: BTreeSet::new(),
            sides: BTreeMap::new(),
            severed: BTreeSet::new(),
            numbers: BTreeMap::new(),
            config: Config::default(),
        }
    }

    /// Starts a host, for the first time or again, as its router would: with one boot more, and its peer record.
    pub(crate) fn boot(&mut self, n: u16) {
        let boot = self.hosts.get(&n).map_or(1, |host| host.boot + 1);
        self.boot_as(n, boot);
    }

    /// Starts a host with a boot counter of choice.
    pub(crate) fn boot_as(&mut self, n: u16, boot: u32) {
        let seed = self.random();
        let mut gossip = Gossip::new(self.config.clone(), peer(n), boot, TestKeys::of(n), seed, self.now);
        gossip.publish(RecordKey::only(Kind::PEER), peer_record(n), self.now).expect("it fits");
        self.numbers.insert(peer(n), n);
        for (one, other) in self.sessions.clone() {
            if one == n || other == n {
                // The other end still believes in a session of which this one knows nothing.
                self.sessions.remove(&(one, other));
                self.schedule(SESSION_TIMEOUT, What::Stale { host: one + other - n, gone: n });
            }
        }
        let events = self.hosts.remove(&n).map(|host| host.events).unwrap_or_default();
        self.hosts.insert(n, Host { gossip: Some(gossip), events, wants: BTreeSet::new(), boot, wake: None });
        self.flush(n);
    }

    /// Asks a host's router to dial another, as `connect` does.
    pub(crate) fn dial(&mut self, from: u16, to: u16) {
        let gossip = self.hosts.get_mut(&from).and_then(|host| host.gossip.as_mut()).expect("it runs");
        gossip.handle_candidate(peer(to), self.now);
        self.flush(from);
    }

    /// `kill -9`: the host says nothing more. Sessions die when the others notice.
    pub(crate) fn crash(&mut self, n: u16) {
        self.hosts.get_mut(&n).expect("it is there").gossip = None;
        for (one, other) in self.sessions.clone() {
            if one == n || other == n {
                self.schedule(SESSION_TIMEOUT, What::TimeOut { one, other });
            }
        }
    }

    /// Cuts the network in two: the given hosts, and all others. Sessions across die when they are noticed to.
    pub(crate) fn partition(&mut self, side: &[u16]) {
        self.sides = side.iter().map(|n| (*n, 1)).collect();
        for (one, other) in self.sessions.clone() {
            if !self.reachable(one, other) {
                self.schedule(SESSION_TIMEOUT, What::TimeOut { one, other });
            }
        }
    }

    /// Makes the network whole.
    pub(crate) fn heal(&mut self) {
        self.sides.clear();
    }

    /// Two hosts that can never reach each other.
    pub(crate) fn sever(&mut self, one: u16, other: u16) {
        self.severed.insert(ordered(one, other));
    }

    /// Does something with a host's gossip, and everything that follows from it at once.
    pub(crate) fn with<R>(&mut self, n: u16, action: impl FnOnce(&mut Gossip<TestKeys>, Instant) -> R) -> R {
        let now = self.now;
        let gossip = self.hosts.get_mut(&n).and_then(|host| host.gossip.as_mut()).expect("it runs");
        let result = action(gossip, now);
        self.flush(n);
        result
    }

    /// Publishes an endpoint record.
    pub(crate) fn publish(&mut self, n: u16, name: u32, value: &[u8]) {
        let key = endpoint(name);
        self.with(n, |gossip, now| gossip.publish(key, value.to_vec(), now)).expect("it fits");
    }

    /// Withdraws an endpoint record.
    pub(crate) fn withdraw(&mut self, n: u16, name: u32) {
        self.with(n, |gossip, now| gossip.withdraw(&endpoint(name), now));
    }

    /// What `n` knows of an endpoint of `origin`.
    pub(crate) fn endpoint_at(&self, n: u16, origin: u16, name: u32) -> Option<Vec<u8>> {
        self.gossip(n).record(peer(origin), &endpoint(name)).and_then(|record| record.value.clone())
    }

    /// A running host's gossip.
    pub(crate) fn gossip(&self, n: u16) -> &Gossip<TestKeys> {
        self.hosts[&n].gossip.as_ref().expect("it runs")
    }

    /// The hosts that run.
    pub(crate) fn running(&self) -> Vec<u16> {
        self.hosts.iter().filter(|(_, host)| host.gossip.is_some()).map(|(n, _)| *n).collect()
    }

    /// How `n` sees `other`.
    pub(crate) fn state_at(&self, n: u16, other: u16) -> Option<MemberState> {
        self.gossip(n).members().find(|member| member.id == peer(other)).map(|member| member.state)
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Forgets the bytes sent.
    pub(crate) fn reset_bytes(&mut self) {
        self.bytes.clear();
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Lets time pass until `done`, at most `limit`. Gives back how long it took.
    pub(crate) fn run_until(&mut self, limit: Duration, what: &str, done: impl Fn(&Sim) -> bool) -> Duration {
        let start = self.now;
        while !done(self) {
            assert!(self.now < start + limit, "not in {limit:?}: {what}\n{}", self.describe());
            self.run(Duration::from_millis(50));
        }
        self.now - start
    }

    /// Whether all running hosts know the same.
    pub(crate) fn converged(&self) -> bool {
        let digests: BTreeSet<u64> = self.running().iter().map(|n| self.gossip(*n).digest()).collect();
        digests.len() <= 1
    }

    /// Whether every running host regards exactly the running ones as alive.
    pub(crate) fn agreed(&self) -> bool {
        let running = self.running();
        running.iter().all(|n| {
            let alive = self.gossip(*n).members().filter(|member| member.state == MemberState::Alive);
            let mut alive: Vec<u16> = alive.map(|member| self.numbers[&member.id]).chain([*n]).collect();
            alive.sort_unstable();
            alive == running
        })
    }

    /// Whether the neighbours of the running hosts make one graph, by edges that both ends see.
    pub(crate) fn connected(&self) -> bool {
        let running = self.running();
        let (mut reached, mut border) = (BTreeSet::from([running[0]]), vec![running[0]]);
        while let Some(n) = border.pop() {
            for other in self.gossip(n).neighbours().map(|id| self.numbers[&id]) {
                let mutual =
                    running.contains(&other) && self.gossip(other).neighbours().any(|back| back == peer(n));
                if mutual && reached.insert(other) {
                    border.push(other);
                }
            }
        }
        reached.len() == running.len()
    }

    /// Times that some host held a running host for dead.
    pub(crate) fn deaths(&self) -> usize {
        let down = |(_, event): &&(Duration, Event)| matches!(event, Event::MemberDown(_));
        self.hosts.values().map(|host| host.events.iter().filter(down).count()).sum()
    }

    /// Everything, for a failure.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        for n in self.running() {
            let gossip = self.gossip(n);
            let members: Vec<String> = gossip
                .members()
                .map(|member| {
                    format!("{}={:?}@{:x}", self.numbers[&member.id], member.state, member.incarnation)
                })
                .collect();
            let neighbours: Vec<u16> = gossip.neighbours().map(|id| self.numbers[&id]).collect();
            text += &format!("{n}: {:016x} neighbours {neighbours:?} members {members:?}\n", gossip.digest());
            text += &format!("   drops {:?}\n", gossip.stats().drops);
        }
        text
    }

    fn step(&mut self, end: Instant) -> bool {
        let wake = self.hosts.iter().filter_map(|(n, host)| Some((host.wake?, *n))).min();
        let due = self.queue.peek().map(|next| next.0.0);
        match (wake, due) {
            (Some((at, n)), due) if due.is_none_or(|due| at < due) => {
                if at > end {
                    return false;
                }
                self.now = self.now.max(at);
                let now = self.now;
                if let Some(gossip) = self.hosts.get_mut(&n).and_then(|host| host.gossip.as_mut()) {
                    gossip.handle_timeout(now);
                }
                self.flush(n);
                true
            }
            (_, Some(at)) if at <= end => {
                self.now = self.now.max(at);
                let what = self.queue.pop().expect("peeked").0.2;
                self.happen(what);
                true
            }
            _ => false,
        }
    }

    fn happen(&mut self, what: What) {
        let now = self.now;
        match what {
            What::Deliver { from, to, payload } => {
                let open = self.sessions.contains(&ordered(from, to)) && self.reachable(from, to);
                if let Some(gossip) = self.hosts.get_mut(&to).and_then(|host| host.gossip.as_mut())
                    && open
                {
                    let result = gossip.handle_message(peer(from), &payload, now);
                    assert!(!matches!(result, Err(gossip::MessageError::Decode(_))), "{result:?}");
                    self.flush(to);
                }
            }
            What::Dial { from, to } => self.try_dial(from, to),
            What::Stale { host, gone } => self.tell_stale(host, gone),
            What::TimeOut { one, other } => {
                let dead = |n| self.hosts[&n].gossip.is_none();
                if (dead(one) || dead(other) || !self.reachable(one, other))
                    && self.sessions.remove(&(one, other))
                {
                    self.tell_down(one, other);
                }
            }
        }
    }

    fn tell_stale(&mut self, host: u16, gone: u16) {
        if self.hosts[&host].gossip.is_some() && !self.sessions.contains(&ordered(host, gone)) {
            self.with(host, |gossip, now| gossip.handle_link_down(peer(gone), now));
            if self.hosts[&host].wants.contains(&gone) {
                self.schedule(HANDSHAKE, What::Dial { from: host, to: gone });
            }
        }
    }

    fn try_dial(&mut self, from: u16, to: u16) {
        if self.hosts[&from].gossip.is_none() || !self.hosts[&from].wants.contains(&to) {
            return;
        }
        let there = self.hosts.get(&to).is_some_and(|host| host.gossip.is_some());
        if !there || !self.reachable(from, to) {
            return self.schedule(Duration::from_secs(2), What::Dial { from, to });
        }
        self.sessions.insert(ordered(from, to));
        for (one, other) in [(from, to), (to, from)] {
            self.with(one, |gossip, now| gossip.handle_link_up(peer(other), now));
        }
    }

    fn tell_down(&mut self, one: u16, other: u16) {
        for (one, other) in [(one, other), (other, one)] {
            if self.hosts[&one].gossip.is_some() {
                self.with(one, |gossip, now| gossip.handle_link_down(peer(other), now));
                if self.hosts[&one].wants.contains(&other) {
                    self.schedule(HANDSHAKE, What::Dial { from: one, to: other });
                }
            }
        }
    }

    /// Takes out everything that a host wants to send or tell.
    fn flush(&mut self, n: u16) {
        while let Some(gossip) = self.hosts.get_mut(&n).and_then(|host| host.gossip.as_mut()) {
            if let Some(transmit) = gossip.poll_transmit() {
                self.send(n, self.numbers[&transmit.to], transmit.payload);
            } else if let Some(event) = gossip.poll_event() {
                self.note(n, event);
            } else {
                break;
            }
        }
        let now = self.now;
        let host = self.hosts.get_mut(&n).expect("it is there");
        // A wake-up for the past would stand still; gossip must never ask for one twice.
        host.wake = host.gossip.as_ref().and_then(|gossip| gossip.poll_timeout()).map(|(at, _)| at.max(now));
    }

    fn send(&mut self, from: u16, to: u16, payload: Vec<u8>) {
        assert!(payload.len() <= MAX_MESSAGE, "{} bytes", payload.len());
        *self.bytes.entry(from).or_default() += payload.len() as u64;
        let copies = match (self.chance(self.faults.loss), self.chance(self.faults.duplication)) {
            (true, _) => 0,
            (false, true) => 2,
            (false, false) => 1,
        };
        for _ in 0..copies {
            let most = self.faults.delay.as_micros() as u64;
            let delay = Duration::from_micros(100 + self.random() % most);
            self.schedule(delay, What::Deliver { from, to, payload: payload.clone() });
        }
    }

    fn note(&mut self, n: u16, event: Event) {
        let elapsed = self.elapsed();
        let host = self.hosts.get_mut(&n).expect("it is there");
        host.events.push((elapsed, event.clone()));
        match event {
            Event::WantLink(id) => {
                let to = self.numbers[&id];
                assert!(host.wants.insert(to), "{n} wants {to} twice");
                if !self.sessions.contains(&ordered(n, to)) || self.hosts[&to].gossip.is_none() {
                    self.schedule(HANDSHAKE, What::Dial { from: n, to });
                }
            }
            Event::DropLink(id) => {
                let to = self.numbers[&id];
                assert!(host.wants.remove(&to), "{n} drops {to}, which it did not want");
                let other_wants = self.hosts.get(&to).is_some_and(|host| host.wants.contains(&n));
                if !other_wants && self.sessions.remove(&ordered(n, to)) {
                    let (one, other) = (n, to);
                    self.tell_down(one, other);
                }
            }
            Event::RecordChanged { .. }
            | Event::MemberUp(_)
            | Event::MemberSuspect(_)
            | Event::MemberDown(_)
            | Event::MemberLeft(_)
            | Event::Quarantined { .. }
            | Event::OwnRecordFound { .. }
            | Event::CloneSuspected { .. } => {}
        }
    }

    fn reachable(&self, one: u16, other: u16) -> bool {
        self.sides.get(&one) == self.sides.get(&other) && !self.severed.contains(&ordered(one, other))
    }

    fn schedule(&mut self, delay: Duration, what: What) {
        self.serial += 1;
        self.queue.push(std::cmp::Reverse((self.now + delay, self.serial, what)));
    }

    fn chance(&mut self, in_a_thousand: u64) -> bool {
        self.random() % 1000 < in_a_thousand
    }

    fn random(&mut self) -> u64 {
        self.rng = self.rng.wrapping_add(1);
        mix(self.rng ^ self.seed.rotate_left(32))
    }
}

/// The key of an endpoint record.
pub(crate) fn endpoint(name: u32) -> RecordKey {
    RecordKey::new(Kind::ENDPOINT, name.to_be_bytes())
}

fn ordered(one: u16, other: u16) -> (u16, u16) {
    (one.min(other), one.max(other))
}

//! Everything together: the hosts, the network between them, the clock, and what is done to them. One step is one event at one host.

mod future;
mod lies;
mod operator;
mod reclaim;
mod settle;
mod suspicion;
mod tables;
mod trouble;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ipam::{Ticket, Want};
use router::core::seeds::Seeds;

use crate::clock::{LocalClock, Queue};
use crate::dice::{Dice, mix};
use crate::history::{History, Subject};
use crate::host::{Fabric, Host, LEASE_DEADLINE, News, nickname};
use crate::model::{Check, Failure, Model};
use crate::network::{Nat, Network, Parcel, SMALLEST_MTU};
use crate::plan::{Act, Plan};
use operator::Order;
pub use settle::Settled;
use trouble::Undo;

/// Datagrams that wait for a router that is busy, as in the shell.
const MAX_WAITING: usize = 4096;
/// Datagrams that one turn of one router may send: a report of all blocks to all members has some hundreds.
const MAX_BURST: usize = 4096;
/// What gossip may hold back for one neighbour: a full push queue, and rumours of all members.
const MAX_HELD_BACK: usize = 3 * 8192;
/// Wake-ups of one router in one second of its own; quiet ones have about twenty.
const MAX_WAKES: u32 = 5_000;
/// Datagrams that are kept to be sent again by the fault `replay`.
const MAX_KEPT: usize = 64;
/// Longest time that the kernel takes for an interface.
const WIRING: Duration = Duration::from_millis(30);

/// What can happen.
pub(crate) enum What {
    Deliver(Parcel),
    Wake { host: u16, life: u32 },
    Wire { host: u16, life: u32, container: u32, address: std::net::Ipv4Addr },
    Act(Act),
    Undo(Undo),
    Order(Order),
}

/// What holds a router up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    /// It does nothing before.
    until: Duration,
    /// Datagrams that wait meanwhile.
    waiting: usize,
    /// It hears everything so much later.
    lag: Duration,
    /// Bytes that it sent.
    sent: u64,
    /// Wake-ups in the present second.
    wakes: (u64, u32),
    /// What it sends, and the most that it sent.
    busy: tables::Busy,
    /// When its tables were looked at.
    looked: Duration,
}

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events.
    pub steps: u64,
    /// Datagrams that were sent.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Faults that were done.
    pub faults: u64,
}

/// What routers sign and seal with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cryptography {
    /// What ships.
    Real,
    /// What `router::core::simulated` puts in its place.
    #[cfg(feature = "simulated")]
    Simulated,
}

impl Cryptography {
    /// The cheapest that this build has.
    #[cfg(feature = "simulated")]
    pub const CHEAPEST: Cryptography = Cryptography::Simulated;
    /// The cheapest that this build has.
    #[cfg(not(feature = "simulated"))]
    pub const CHEAPEST: Cryptography = Cryptography::Real;
}

/// See the top of the file.
pub struct World {
    /// Time since the start.
    pub now: Duration,
    pub(crate) start: Instant,
    pub(crate) queue: Queue<What>,
    /// All hosts that ever were.
    pub hosts: Vec<Host>,
    pub(crate) held: Vec<Held>,
    pub(crate) network: Network,
    /// The reference.
    pub model: Model,
    /// What happened.
    pub history: History,
    /// What was counted.
    pub counts: Counts,
    /// Hash over everything that happened: the same for the same seed.
    pub trace: u64,
    pub(crate) dice: Dice,
    pub(crate) fabric: Fabric,
    pub(crate) next_container: u32,
    /// All members hear each other all the time.
    calm: bool,
    /// When hosts last changed sides.
    parted: Duration,
    /// Whom an operator is removing.
    removing: Option<u16>,
    next_ping: u64,
    kept: Vec<(u16, Vec<u8>)>,
    seed: u64,
    /// Routers pretend to seal and to sign as long as this is held.
    #[cfg(feature = "simulated")]
    _pretending: Option<router::core::simulated::Begun>,
}

impl World {
    /// The world of a plan, before anything happens.
    pub fn new(plan: &Plan) -> World {
        World::with(plan, Cryptography::CHEAPEST)
    }

    /// The same with that cryptography. Nothing that happens depends on it.
    pub fn with(plan: &Plan, cryptography: Cryptography) -> World {
        #[cfg(feature = "simulated")]
        let pretending = (cryptography == Cryptography::Simulated).then(router::core::simulated::begin);
        #[cfg(not(feature = "simulated"))]
        let Cryptography::Real = cryptography;
        let mut world = World {
            now: Duration::ZERO,
            start: Instant::now(),
            queue: Queue::default(),
            hosts: Vec::new(),
            held: Vec::new(),
            network: Network::new(plan.seed),
            model: Model::default(),
            history: History::default(),
            counts: Counts::default(),
            trace: plan.seed,
            dice: Dice::new(plan.seed, 2),
            fabric: fabric_of(plan),
            next_container: 1_000_000,
            calm: plan.is_calm(),
            parted: Duration::ZERO,
            removing: None,
            next_ping: 0,
            kept: Vec::new(),
            seed: plan.seed,
            #[cfg(feature = "simulated")]
            _pretending: pretending,
        };
        world.network.weather = plan.weather;
        for n in 0..plan.peers {
            let nat = if n > 0 && n < 64 && plan.natted >> n & 1 == 1 { Nat::Box } else { Nat::None };
            world.add_host(nat);
            world.queue.push(plan.stagger * u32::from(n), What::Order(Order::Join(n)));
        }
        for (at, act) in &plan.acts {
            world.queue.push(*at, What::Act(act.clone()));
        }
        world
    }

    /// A machine without a fabric.
    pub(crate) fn add_host(&mut self, nat: Nat) -> u16 {
        let number = self.hosts.len() as u16;
        self.network.add(nat);
        let clock = LocalClock::new(self.start);
        self.hosts.push(Host::new(number, self.seed, self.fabric.clone(), clock));
        self.held.push(Held::default());
        self.model.add();
        number
    }

    /// Lets everything happen that happens not after `end`.
    pub fn run(&mut self, end: Duration) -> Result<(), Failure> {
        while let Some((at, what)) = self.queue.pop(end) {
            self.now = self.now.max(at);
            self.counts.steps += 1;
            self.happen(what)?;
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, what: What) -> Result<(), Failure> {
        match what {
            What::Deliver(parcel) => self.deliver(parcel),
            What::Wake { host, life } => self.wake(host, life),
            What::Wire { host, life, container, address } => {
                if let Some(until) = self.is_held(host) {
                    self.queue.push(until, What::Wire { host, life, container, address });
                    return Ok(());
                }
                if self.life(host) != Some(life) {
                    return Ok(());
                }
                self.hosts[usize::from(host)].wire(container, address, self.now);
                self.turn(host)
            }
            What::Act(act) => self.act(act),
            What::Undo(undo) => self.undo(undo),
            What::Order(order) => self.order(order),
        }
    }

    fn deliver(&mut self, parcel: Parcel) -> Result<(), Failure> {
        let host = usize::from(parcel.to);
        if self.hosts[host].router.is_none() {
            return Ok(());
        }
        if let Some(until) = self.is_held(parcel.to) {
            if self.held[host].waiting < MAX_WAITING {
                self.held[host].waiting += 1;
                self.queue.push(until, What::Deliver(parcel));
            }
            return Ok(());
        }
        self.held[host].waiting = 0;
        self.note(parcel.to, parcel.bytes.len() as u64);
        self.hosts[host].handle_datagram(parcel.from, &parcel.bytes, self.now);
        self.turn(parcel.to)
    }

    fn wake(&mut self, host: u16, life: u32) -> Result<(), Failure> {
        if self.life(host) != Some(life) {
            return Ok(());
        }
        let index = usize::from(host);
        if self.hosts[index].router.as_ref().and_then(|router| router.wake) != Some(self.now) {
            return Ok(());
        }
        if let Some(until) = self.is_held(host) {
            self.set_wake(host, until);
            return Ok(());
        }
        let second = self.now.as_secs();
        let wakes = &mut self.held[index].wakes;
        *wakes = if wakes.0 == second { (second, wakes.1 + 1) } else { (second, 1) };
        if wakes.1 > MAX_WAKES {
            let due = self.hosts[index].router.as_ref().and_then(|router| router.node.poll_timeout());
            let text = format!("host {host} wakes again and again for `{}`", due.map_or("", |due| due.1));
            return Err(Failure { check: Check::NoSpinning, text, subject: Subject::All });
        }
        self.note(host, 1 << 32);
        let address = self.network.own_address(host);
        self.hosts[index].wake(address, self.now);
        self.turn(host)?;
        self.check_tables(host)?;
        self.model.check_waits(&self.hosts[index], self.now)
    }

    /// What follows from an input: durable, out, heard, checked.
    pub(crate) fn turn(&mut self, host: u16) -> Result<(), Failure> {
        let index = usize::from(host);
        let result = self.hosts[index].turn(self.now);
        let news = std::mem::take(&mut self.hosts[index].news);
        let wrote = news.iter().any(|news| matches!(news, News::Wrote(_)));
        for news in &news {
            self.history.news(self.now, host, news);
            self.model.hear(host, news, &self.hosts, self.now)?;
            if let &News::Leased(container, address) = news {
                let life = self.hosts[index].lives;
                let at = self.now + self.dice.between(Duration::ZERO, WIRING);
                self.queue.push(at, What::Wire { host, life, container, address });
            }
        }
        let Ok(sent) = result else { return self.die_writing(host) };
        if wrote && self.hosts[index].doubled && self.has_twin(host) {
            self.taint_belief(host);
        }
        let mut delay = Duration::ZERO;
        if wrote {
            delay = self.hosts[index].disk.delay;
            self.held[index].until = self.held[index].until.max(self.now + delay);
            self.held[index].waiting = 0;
        }
        self.check_limits(host, &sent)?;
        for (to, bytes) in sent {
            self.send(host, to, bytes, delay);
        }
        self.model.check_after(&news, &self.hosts[index], &self.hosts)?;
        self.notice_reclaims(host)?;
        self.check_deaths(host)?;
        self.model.check_versions(&self.hosts[index], &self.hosts)?;
        self.schedule(host);
        Ok(())
    }

    fn check_limits(&self, host: u16, sent: &[(SocketAddr, Vec<u8>)]) -> Result<(), Failure> {
        let fail = |text| Err(Failure { check: Check::Limits, text, subject: Subject::All });
        self.check_busy(host)?;
        if sent.len() > MAX_BURST {
            return fail(format!("host {host} sends {} datagrams in one turn", sent.len()));
        }
        if let Some((to, bytes)) = sent.iter().find(|(_, bytes)| bytes.len() > SMALLEST_MTU) {
            return fail(format!("host {host} sends {} bytes to {to}", bytes.len()));
        }
        let router = self.hosts[usize::from(host)].router.as_ref();
        match router.map(|router| router.node.gossip_waiting()) {
            Some(waiting) if waiting > MAX_HELD_BACK => {
                fail(format!("gossip of host {host} holds {waiting} back"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn send(&mut self, host: u16, to: SocketAddr, bytes: Vec<u8>, delay: Duration) {
        self.counts.datagrams += 1;
        self.counts.bytes += bytes.len() as u64;
        self.held[usize::from(host)].sent += bytes.len() as u64;
        self.held[usize::from(host)].busy.count(self.now, bytes.len());
        self.note(host, (2 << 32) + bytes.len() as u64);
        if self.counts.datagrams.is_multiple_of(29) {
            if self.kept.len() >= MAX_KEPT {
                let old = self.dice.index(MAX_KEPT);
                self.kept.swap_remove(old);
            }
            self.kept.push((host, bytes.clone()));
        }
        let (queue, held, now) = (&mut self.queue, &self.held, self.now + delay);
        self.network.send(host, to, bytes, now, |parcel| {
            let at = now + parcel.delay + held[usize::from(parcel.to)].lag;
            queue.push(at, What::Deliver(parcel));
        });
    }

    /// Queues the next wake-up of a host, unless one is queued that is not later.
    pub(crate) fn schedule(&mut self, host: u16) {
        let Some(at) = self.hosts[usize::from(host)].next_wake() else { return };
        // A wake-up for the past would stand still.
        let at = at.max(self.now + Duration::from_micros(20));
        let queued = self.hosts[usize::from(host)].router.as_ref().and_then(|router| router.wake);
        if queued.is_none_or(|queued| at < queued) {
            self.set_wake(host, at);
        }
    }

    fn set_wake(&mut self, host: u16, at: Duration) {
        if let Some(router) = &mut self.hosts[usize::from(host)].router {
            router.wake = Some(at);
            self.queue.push(at, What::Wake { host, life: router.life });
        }
    }

    pub(crate) fn act(&mut self, act: Act) -> Result<(), Failure> {
        // A fleet's life is not in the plan.
        if let Act::Fault(fault) = &act {
            self.calm &= fault.kind.is_calm();
        }
        match act {
            Act::Attach { host, container, want } => {
                if !self.runs(host) {
                    return Ok(());
                }
                let index = usize::from(host);
                let until = self.hosts[index].clock.read(self.now) + LEASE_DEADLINE;
                self.history.note(self.now, host, format!("attach {container} {want:?}"));
                self.model.ask(host, container, until);
                if matches!(want, Want::Fixed(_)) {
                    self.model.insists(container);
                }
                self.hosts[index].attach(container, want, self.now);
                self.turn(host)
            }
            Act::Detach { host, container } => {
                if !self.runs(host) {
                    return Ok(());
                }
                if self.model.waits(host, container) {
                    // The shell works on one container in one flow at a time.
                    let again = What::Act(Act::Detach { host, container });
                    self.queue.push(self.now + Duration::from_millis(50), again);
                    return Ok(());
                }
                self.history.note(self.now, host, format!("detach {container}"));
                let now = self.hosts[usize::from(host)].clock.read(self.now);
                self.model.let_go(host, container, now);
                self.hosts[usize::from(host)].detach(container, self.now);
                self.turn(host)
            }
            Act::Ping { host, other } => {
                if !self.runs(host) || usize::from(other) >= self.hosts.len() {
                    return Ok(());
                }
                self.next_ping += 1;
                let (peer, number) = (self.hosts[usize::from(other)].id, self.next_ping);
                let here = &mut self.hosts[usize::from(host)];
                let now = here.clock.read(self.now);
                self.model.ask_ping(host, number, now + router::core::node::PING_DEADLINE);
                here.with(now, |node, now| node.ping(Ticket(number), peer, now));
                self.turn(host)
            }
            Act::Fault(fault) => {
                self.counts.faults += 1;
                self.history.note(self.now, fault.host, format!("FAULT {fault}"));
                self.fault(fault)
            }
        }
    }

    /// Whether a host exists, runs a router, and is not held up.
    pub(crate) fn runs(&self, host: u16) -> bool {
        self.hosts.get(usize::from(host)).is_some_and(|host| host.router.is_some())
            && self.is_held(host).is_none()
    }

    fn is_held(&self, host: u16) -> Option<Duration> {
        Some(self.held[usize::from(host)].until).filter(|until| *until > self.now)
    }

    fn life(&self, host: u16) -> Option<u32> {
        self.hosts[usize::from(host)].router.as_ref().map(|router| router.life)
    }

    fn note(&mut self, host: u16, what: u64) {
        let at = self.now.as_micros() as u64;
        self.trace = mix(mix(self.trace, at), what ^ u64::from(host) << 48);
    }
}

fn fabric_of(plan: &Plan) -> Fabric {
    let names = (0..plan.rules.seeds).map(nickname).collect();
    let seeds = Seeds::new(names).ok().map(std::sync::Arc::new);
    Fabric { range: plan.range, secret: 0, seeds, reclaim_after: plan.rules.reclaim_after }
}

//! Many control halves of routers in one process: memory between them, UDP to everybody else.
//!
//! They form their fabric among themselves in a time of their own, which stands still while they work, so that a slow machine disturbs nothing.
//! Then their time becomes the real one.
//!
//! Sessions have their real cryptography. Signatures are real as well, but those that were made here are not checked here again: a thousand
//! routers would check each a thousand times. Their disks are as fast as memory and their containers are names: each leases an address and announces an endpoint for it, so that the
//! fabric knows about as much as a real one of this size.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use gossip::MemberState;
use ipam::{Owner, Ticket, Want};
use lab::{Host, NetNs};
use router::core::advert::EndpointAdvert;
use router::core::fabric::{FabricId, FabricKeys, Secret};
use router::core::hello::Capabilities;
use router::core::identity::Identity;
use router::core::mac::Mac;
use router::core::node::{Node, NodeConfig, Output};
use router::core::simulated;
use router::core::token::{Token, TokenKey};
use rustix::event::epoll;

/// The port of all.
const PORT: u16 = 6783;

/// Addresses of their fabric.
const RANGE: &str = "10.32.0.0/12";

/// Members that a token names.
const BOOTSTRAP: usize = 4;

/// Time between two members that join.
const JOIN_EVERY: Duration = Duration::from_millis(20);

/// Time after all know all, until what was caused by joining is over.
const SETTLE: Duration = Duration::from_secs(60);

/// Between two members of the crowd.
const LATENCY: Duration = Duration::from_millis(1);

/// How often it is counted who knows whom.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// How long a member waits for its address.
const LEASE_DEADLINE: Duration = Duration::from_secs(5);

/// How often a member that was refused an address asks again.
const LEASE_AGAIN: Duration = Duration::from_secs(10);

/// Longest datagram.
const MAX_DATAGRAM: usize = 65_536;

/// What the crowd tells and is told.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    stopped: AtomicBool,
    settled: AtomicBool,
    goes_on: AtomicBool,
    joined: AtomicUsize,
    leased: AtomicUsize,
    /// The least that any member counts among the living.
    least: AtomicUsize,
    /// Seconds that have passed for the crowd.
    virtual_time: AtomicU64,
    /// Longest time that it was behind since the last look, in milliseconds.
    lag: AtomicU64,
}

/// Stops the crowd when it is dropped.
pub(crate) struct Stop(Arc<Shared>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Shared {
    /// Ends the crowd.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Ends it when the answer is dropped.
    pub(crate) fn stop_at_the_end(self: &Arc<Self>) -> Stop {
        Stop(Arc::clone(self))
    }

    /// Lets the crowd go on in real time.
    pub(crate) fn go_on(&self) {
        self.goes_on.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Whether every member counts every other among the living and has an address, and has been left alone for a while.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    /// For people.
    pub(crate) fn progress(&self) -> String {
        let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        format!(
            "{} s for them, {} joined, {} have an address, the least that one counts among the living is {}, at most {} ms late",
            self.virtual_time.load(Ordering::Relaxed),
            read(&self.joined),
            read(&self.leased),
            read(&self.least),
            self.lag.swap(0, Ordering::Relaxed)
        )
    }
}

/// Gives the crowd's host all their addresses and the router a way to them.
pub(crate) fn prepare(router: &Host, crowd: &Host) -> Result<()> {
    crowd.ns().ip("route add local 10.78.0.0/16 dev lo")?;
    router.ns().ip(&format!("route add 10.78.0.0/16 via {}", crowd.address())).map(drop)
}

fn address(index: usize) -> SocketAddr {
    let [.., high, low] = (index + 1).to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 78, high, low)), PORT)
}

fn index_of(address: SocketAddr) -> Option<usize> {
    match address.ip() {
        IpAddr::V4(ip) => match ip.octets() {
            [10, 78, high, low] => usize::from(u16::from_be_bytes([high, low])).checked_sub(1),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

struct Member {
    node: Node,
    socket: UdpSocket,
    wake: Option<Instant>,
    lease: Lease,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lease {
    Wanted { again: Instant },
    Had,
}

/// A datagram under way between two members; in order of arrival.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    at: Instant,
    number: u64,
    to: usize,
    from: usize,
    bytes: Vec<u8>,
}

/// See the top of the file.
pub(crate) struct Crowd {
    ns: NetNs,
    token: Token,
    size: usize,
    members: Vec<Member>,
    flights: BinaryHeap<Reverse<Flight>>,
    sent: u64,
    wakes: BTreeSet<(Instant, usize)>,
    epoll: OwnedFd,
    next_join: Instant,
    next_count: Instant,
    shared: Arc<Shared>,
    /// Their time. Instants of the future are as good as others.
    now: Instant,
    started: Instant,
    /// Since when all know all.
    formed: Option<Instant>,
}

impl Crowd {
    /// Nobody yet, of a new fabric.
    pub(crate) fn new(ns: &NetNs, size: usize, shared: Arc<Shared>) -> Result<Self> {
        let now = Instant::now();
        let token = Token {
            fabric: FabricId(router::shell::random::bytes()),
            range: RANGE.parse().context("no range")?,
            addresses: (0..size.min(BOOTSTRAP)).map(address).collect(),
            key: TokenKey::Secret(Secret::from_bytes(router::shell::random::bytes())),
        };
        Ok(Self {
            now,
            started: now,
            formed: None,
            ns: ns.clone(),
            token,
            size,
            members: Vec::new(),
            flights: BinaryHeap::new(),
            sent: 0,
            wakes: BTreeSet::new(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).context("no epoll")?,
            next_join: now,
            next_count: now,
            shared,
        })
    }

    /// What lets another router join.
    pub(crate) fn token(&self) -> String {
        self.token.to_string()
    }

    /// Forms the fabric, and then lives until it is told to stop.
    pub(crate) fn run(&mut self) -> Result<()> {
        let _remembering = simulated::remember_signatures();
        while !self.is_settled() && !self.shared.is_stopped() {
            if self.now >= self.next_join && self.members.len() < self.size {
                self.next_join = self.now + JOIN_EVERY;
                self.join()?;
            }
            self.step();
            let join = (self.members.len() < self.size).then_some(self.next_join);
            let due = self.next_due().into_iter().chain(join).chain([self.next_count]).min();
            self.now = due.map_or(self.now, |due| due.max(self.now));
        }
        self.live()
    }

    fn is_settled(&self) -> bool {
        self.formed.is_some_and(|since| self.now >= since + SETTLE)
    }

    /// In real time.
    fn live(&mut self) -> Result<()> {
        let mut buffer = vec![0; MAX_DATAGRAM];
        self.shared.settled.store(true, Ordering::Relaxed);
        while !self.shared.goes_on.load(Ordering::Relaxed) && !self.shared.is_stopped() {
            std::thread::sleep(LATENCY);
        }
        let (start, virtual_start) = (Instant::now(), self.now);
        while !self.shared.is_stopped() {
            self.now = virtual_start + start.elapsed();
            let flight = self.flights.peek().map(|Reverse(flight)| flight.at);
            let lag = flight.map_or(Duration::ZERO, |at| self.now.saturating_duration_since(at));
            self.shared.lag.fetch_max(lag.as_millis() as u64, Ordering::Relaxed);
            self.step();
            self.receive(&mut buffer)?;
        }
        Ok(())
    }

    /// Whatever is due now.
    fn step(&mut self) {
        self.deliver();
        self.wake();
        if self.now >= self.next_count {
            self.count();
            self.next_count = self.now + COUNT_EVERY;
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let flight = self.flights.peek().map(|Reverse(flight)| flight.at);
        let wake = self.wakes.first().map(|(at, _)| *at);
        flight.into_iter().chain(wake).min()
    }

    /// One more comes: the first makes the fabric, the others join through one that is there.
    fn join(&mut self) -> Result<()> {
        let now = self.now;
        let index = self.members.len();
        let mut keys = [0; 64];
        router::shell::random::fill(&mut keys);
        let TokenKey::Secret(secret) = &self.token.key else { anyhow::bail!("the token has no secret") };
        let config = NodeConfig {
            identity: Arc::new(Identity::from_seed(keys)),
            fabric: self.token.fabric,
            range: self.token.range,
            keys: FabricKeys::derive(self.token.fabric, self.token.range, secret),
            boot: 1,
            nickname: format!("crowd-{index}"),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mtu: 1390,
            capabilities: Capabilities::default(),
        };
        let seed = router::shell::random::seed();
        let mut node = Node::new(config, seed, Box::new(router::shell::random::fill), now);
        node.restore(&[], now);
        node.announce(Mac::of_host(node.me()), EndpointAdvert::default(), now);
        node.set_addresses(vec![address(index)], now);
        match index.checked_sub(1) {
            // A token names several members; which of them is taken here follows from the seed.
            Some(last) => node.try_address(address(seed as usize % (last + 1)), now),
            None => node.found(now),
        }
        let socket = self.ns.enter(|| UdpSocket::bind(address(index)))?.context("no socket")?;
        socket.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.epoll, socket.as_fd(), data, epoll::EventFlags::IN)?;
        let lease = Lease::Wanted { again: now + LEASE_AGAIN };
        self.members.push(Member { node, socket, wake: None, lease });
        self.shared.joined.store(self.members.len(), Ordering::Relaxed);
        self.turn(index);
        Ok(())
    }

    /// What was under way arrives.
    fn deliver(&mut self) {
        while self.flights.peek().is_some_and(|Reverse(flight)| flight.at <= self.now)
            && let Some(Reverse(flight)) = self.flights.pop()
        {
            let Some(member) = self.members.get_mut(flight.to) else { continue };
            member.node.handle_datagram(address(flight.from), &flight.bytes, self.now);
            self.turn(flight.to);
        }
    }

    /// Those whose time has come.
    fn wake(&mut self) {
        let now = self.now;
        while let Some(&(at, index)) = self.wakes.first()
            && at <= now
        {
            self.wakes.pop_first();
            let member = &mut self.members[index];
            member.wake = None;
            member.node.handle_timeout(now);
            if let Lease::Wanted { again } = member.lease
                && again <= now
            {
                member.lease = Lease::Wanted { again: now + LEASE_AGAIN };
                let owner = Owner("container:one/eth0".to_owned());
                member.node.allocate(Ticket(1), owner, Want::Any, now + LEASE_DEADLINE, now);
            }
            self.turn(index);
        }
    }

    /// What came from outside, or nothing until something is due.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<()> {
        let wait = self.next_due().map_or(LATENCY, |due| due.saturating_duration_since(self.now));
        let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: wait.min(LATENCY).as_nanos() as i64 };
        let mut events = Vec::with_capacity(64);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for datagrams"),
        }
        for event in &events {
            let index = event.data.u64() as usize;
            while let Ok((length, from)) = self.members[index].socket.recv_from(buffer) {
                self.members[index].node.handle_datagram(from, &buffer[..length], self.now);
                self.turn(index);
            }
        }
        Ok(())
    }

    /// What a shell does after each input. Everything is durable at once.
    fn turn(&mut self, index: usize) {
        let now = self.now;
        let member = &mut self.members[index];
        while member.node.poll_persist().is_some() {}
        member.node.settle(now);
        while let Some(output) = member.node.poll_output() {
            match output {
                Output::Transmit(to, datagram) => match index_of(to) {
                    Some(to) => {
                        self.sent += 1;
                        let (at, number, from) = (now + LATENCY, self.sent, index);
                        let bytes = datagram.as_bytes().to_vec();
                        self.flights.push(Reverse(Flight { at, number, to, from, bytes }));
                    }
                    // As good as lost on the way; addresses of another family among it.
                    None => drop(member.socket.send_to(datagram.as_bytes(), to)),
                },
                Output::Leased(_, Ok(lease)) => {
                    member.lease = Lease::Had;
                    let advert = EndpointAdvert { v4: Some(lease.addr), ..EndpointAdvert::default() };
                    member.node.announce(Mac::of_container(lease.addr), advert, now);
                    self.shared.leased.fetch_add(1, Ordering::Relaxed);
                }
                Output::Leased(_, Err(_)) | Output::Ponged(..) | Output::PeersChanged => {}
                Output::InstallRx(_) | Output::RetireRx(_) | Output::SetTx(..) | Output::ClearTx(_) => {}
                Output::SetAddress(..) | Output::Endpoint(_) | Output::FloodPeers(_) => {}
                Output::Removed { .. } | Output::BootChanged(_) | Output::Clone(_) => {}
                Output::Evidence(_) | Output::Notice(_) => {}
            }
        }
        let wake = member.node.poll_timeout().map(|(at, _)| at);
        if wake != member.wake {
            self.wakes.extend(wake.map(|at| (at, index)));
            let before = std::mem::replace(&mut member.wake, wake);
            before.map(|at| self.wakes.remove(&(at, index)));
        }
    }

    fn count(&mut self) {
        let alive = |member: &Member| {
            let all = member.node.members();
            1 + all.filter(|m| m.state == MemberState::Alive && m.id != member.node.me()).count()
        };
        let least = self.members.iter().map(alive).min().unwrap_or(0);
        let had = self.members.iter().filter(|member| member.lease == Lease::Had).count();
        self.shared.least.store(least, Ordering::Relaxed);
        self.shared.virtual_time.store((self.now - self.started).as_secs(), Ordering::Relaxed);
        if self.formed.is_none() && self.members.len() == self.size && least == self.size && had == self.size
        {
            self.formed = Some(self.now);
        }
    }
}

//! Whole nodes over one virtual network, each with a disk that keeps what was made durable and nothing else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipam::{Owner, Ticket, Want};
use ipnet::Ipv4Net;

use super::*;
use crate::core::fabric::Secret;
use crate::core::names::Found;

const STEP: Duration = Duration::from_millis(5);
const LATENCY: Duration = Duration::from_millis(10);

/// A small generator for tests: reproducible from its seed (xorshift64*, Vigna 2016).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % sides
    }
}

/// A router, its disk, and what it has told.
struct Host {
    node: Node,
    disk: Vec<Vec<u8>>,
    boot: u32,
    table: BTreeMap<Mac, PeerId>,
    answers: BTreeMap<u64, Result<Lease, AllocateError>>,
    pongs: BTreeMap<u64, Result<Pong, PingError>>,
    /// A full disk refuses every entry.
    disk_full: bool,
    removed_by: Option<PeerId>,
}

struct World {
    now: Instant,
    dice: Dice,
    loss_percent: u64,
    hosts: Vec<Option<Host>>,
    /// Between these nothing passes.
    cut: Vec<[usize; 2]>,
    wire: VecDeque<(Instant, usize, SocketAddr, Vec<u8>)>,
}

fn range() -> Ipv4Net {
    "10.32.0.0/16".parse().expect("range")
}

fn address(host: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(192, 0, 2, host as u8 + 1), 6783))
}

fn node(host: usize, boot: u32, now: Instant) -> Node {
    let fabric = FabricId([7; 16]);
    let secret = Secret::from_bytes([9; 32]);
    let config = NodeConfig {
        identity: Arc::new(Identity::from_seed([host as u8 + 1; 64])),
        fabric,
        range: range(),
        keys: FabricKeys::derive(fabric, range(), &secret),
        boot,
        nickname: format!("host-{host}"),
        version: "test".to_owned(),
        mtu: 1390,
        capabilities: Capabilities::default(),
    };
    let mut state = (host as u64 + 1) * 1_000 + u64::from(boot);
    let random = move |bytes: &mut [u8]| {
        for byte in bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 33) as u8;
        }
    };
    Node::new(config, host as u64, Box::new(random), now)
}

impl World {
    /// `count` hosts; the first creates the fabric, the others dial it.
    fn new(count: usize, seed: u64, loss_percent: u64) -> World {
        let now = Instant::now();
        let mut world = World {
            now,
            dice: Dice(seed | 1),
            loss_percent,
            hosts: Vec::new(),
            cut: Vec::new(),
            wire: VecDeque::new(),
        };
        for host in 0..count {
            world.hosts.push(None);
            world.start(host, Vec::new(), 1);
        }
        world
    }

    fn start(&mut self, host: usize, disk: Vec<Vec<u8>>, boot: u32) {
        let mut node = node(host, boot, self.now);
        assert!(node.restore(&disk, self.now).is_empty(), "the journal fits");
        if host == 0 && boot == 1 {
            node.found(self.now);
        }
        node.set_addresses(vec![address(host)], self.now);
        let first = if host == 0 { 1 } else { 0 };
        node.connect(address(first), self.now);
        self.hosts[host] = Some(Host {
            node,
            disk,
            boot,
            table: BTreeMap::new(),
            answers: BTreeMap::new(),
            pongs: BTreeMap::new(),
            disk_full: false,
            removed_by: None,
        });
    }

    /// Loses everything that was not durable, and comes back.
    fn crash(&mut self, host: usize) {
        let Some(old) = self.hosts[host].take() else { return };
        self.start(host, old.disk, old.boot + 1);
    }

    fn host(&mut self, host: usize) -> &mut Host {
        self.hosts[host].as_mut().expect("host runs")
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            while self.wire.front().is_some_and(|(at, ..)| *at <= self.now) {
                let (_, to, from, bytes) = self.wire.pop_front().expect("looked");
                if let Some(host) = &mut self.hosts[to] {
                    host.node.handle_datagram(from, &bytes, self.now);
                }
            }
            for host in 0..self.hosts.len() {
                self.turn(host);
            }
        }
    }

    fn turn(&mut self, index: usize) {
        let (now, count) = (self.now, self.hosts.len());
        let Some(host) = &mut self.hosts[index] else { return };
        if host.node.poll_timeout().is_some_and(|(at, _)| at <= now) {
            host.node.handle_timeout(now);
        }
        let entries: Vec<Vec<u8>> = std::iter::from_fn(|| host.node.poll_persist()).collect();
        if host.disk_full && !entries.is_empty() {
            host.node.restore(&host.disk.clone(), now);
        } else {
            host.disk.extend(entries);
        }
        host.node.settle(now);
        while let Some(output) = host.node.poll_output() {
            match output {
                Output::Transmit(to, datagram) => {
                    let lost = self.dice.roll(100) < self.loss_percent;
                    let target = (0..count).find(|other| address(*other) == to);
                    let cut =
                        |other| self.cut.iter().any(|pair| pair.contains(&index) && pair.contains(&other));
                    if let (false, Some(target)) = (lost, target.filter(|target| !cut(*target))) {
                        let bytes = datagram.as_bytes().to_vec();
                        self.wire.push_back((now + LATENCY, target, address(index), bytes));
                    }
                }
                Output::Endpoint(Change::Upsert { mac, owner, .. }) => drop(host.table.insert(mac, owner)),
                Output::Endpoint(Change::Remove { mac }) => drop(host.table.remove(&mac)),
                Output::Leased(ticket, result) => drop(host.answers.insert(ticket.0, result)),
                Output::Ponged(ticket, result) => drop(host.pongs.insert(ticket.0, result)),
                Output::InstallRx(_) | Output::RetireRx(_) | Output::SetTx(..) | Output::ClearTx(_) => {}
                Output::SetAddress(..) | Output::FloodPeers(_) | Output::PeersChanged => {}
                Output::Removed { by } => host.removed_by = Some(by),
                Output::BootChanged(_) | Output::Clone(_) | Output::Notice(_) | Output::Evidence(_) => {}
            }
        }
    }

    fn allocate(&mut self, host: usize, ticket: u64, holder: &str) {
        let now = self.now;
        let owner = Owner(holder.to_owned());
        let deadline = now + Duration::from_secs(5);
        self.host(host).node.allocate(Ticket(ticket), owner, Want::Any, deadline, now);
    }

    /// What a host knows of a name.
    fn found(&mut self, host: usize, name: &str) -> Found {
        let names = self.host(host).node.names();
        let names = names.read().expect("nobody panicked");
        names.find(&name.parse().expect("name"))
    }

    fn leased(&mut self, host: usize, ticket: u64) -> Ipv4Addr {
        match self.host(host).answers.get(&ticket) {
            Some(Ok(lease)) => lease.addr,
            other => panic!("ticket {ticket} of host {host}: {other:?}"),
        }
    }
}

#[test]
fn joiner_gets_an_address_and_its_endpoint_reaches_the_founder() {
    let mut world = World::new(2, 1, 0);
    world.run(Duration::from_secs(2));
    world.allocate(0, 1, "a");
    world.allocate(1, 1, "b");
    world.run(Duration::from_secs(2));
    let (a, b) = (world.leased(0, 1), world.leased(1, 1));
    assert_ne!(a, b);
    let (now, me) = (world.now, world.host(1).node.me());
    let advert = EndpointAdvert { v4: Some(b), v6: None, name: None };
    world.host(1).node.announce(Mac::of_container(b), advert, now);
    world.run(Duration::from_secs(1));
    assert_eq!(world.host(0).table.get(&Mac::of_container(b)), Some(&me));
    assert_eq!(world.host(0).node.locate(b.into()), Some(me));
}

/// The router dies between the durable release and the word of it: the others hear it from the next start as soon as records are compared.
#[test]
fn container_that_went_with_its_router_is_not_announced_for_long() {
    let mut world = World::new(2, 1, 0);
    world.run(Duration::from_secs(2));
    world.allocate(1, 1, "b");
    world.run(Duration::from_secs(2));
    let address = world.leased(1, 1);
    let (now, mac) = (world.now, Mac::of_container(address));
    let advert = EndpointAdvert { v4: Some(address), v6: None, name: None };
    world.host(1).node.announce(mac, advert, now);
    world.run(Duration::from_secs(1));
    assert!(world.host(0).table.contains_key(&mac));
    world.loss_percent = 100;
    world.host(1).node.retract(mac, now);
    let released = world.host(1).node.release(&Owner("b".to_owned()), ipam::Rest::Used, now);
    assert_eq!(released, [address]);
    world.turn(1);
    world.crash(1);
    world.loss_percent = 0;
    world.run(Duration::from_secs(12));
    assert!(!world.host(0).table.contains_key(&mac), "still announced");
}

#[test]
fn no_address_is_leased_twice_under_loss_and_crashes() {
    for seed in 1..=3 {
        let mut world = World::new(4, seed, 10);
        world.run(Duration::from_secs(4));
        for round in 0..6 {
            for host in 0..4 {
                world.allocate(host, round, &format!("{host}-{round}"));
            }
            world.run(Duration::from_millis(300));
            let victim = world.dice.roll(4) as usize;
            world.crash(victim);
            world.run(Duration::from_secs(2));
        }
        world.run(Duration::from_secs(10));
        let mut seen = BTreeSet::new();
        for host in 0..4 {
            for (owner, address) in world.host(host).node.leases().collect::<Vec<_>>() {
                assert!(seen.insert(address), "seed {seed}: {address} is leased twice, also by {}", owner.0);
            }
        }
        let views: BTreeSet<String> = (0..4)
            .map(|host| {
                let node = &world.host(host).node;
                let blocks: Vec<String> = node
                    .ipam_summary()
                    .peers
                    .iter()
                    .map(|space| format!("{} {}", space.peer, space.addresses))
                    .collect();
                blocks.join(",")
            })
            .collect();
        assert_eq!(views.len(), 1, "seed {seed}: views differ: {views:#?}");
    }
}

#[test]
fn restart_keeps_leases_and_is_believed() {
    let mut world = World::new(2, 5, 0);
    world.run(Duration::from_secs(2));
    world.allocate(1, 1, "kept");
    world.run(Duration::from_secs(2));
    let before = world.leased(1, 1);
    world.crash(1);
    world.run(Duration::from_secs(3));
    world.allocate(1, 2, "kept");
    world.run(Duration::from_secs(1));
    assert_eq!(world.leased(1, 2), before);
}

#[test]
fn nothing_is_promised_on_a_full_disk_and_nothing_is_lost_by_it() {
    let mut world = World::new(2, 6, 0);
    world.run(Duration::from_secs(2));
    world.allocate(0, 1, "first");
    world.run(Duration::from_secs(1));
    let first = world.leased(0, 1);
    world.host(0).disk_full = true;
    world.allocate(0, 2, "second");
    world.run(Duration::from_secs(1));
    assert!(!world.host(0).answers.contains_key(&2), "an answer left although nothing was durable");
    assert_eq!(world.host(0).node.leases().count(), 1);
    world.host(0).disk_full = false;
    world.allocate(0, 3, "third");
    world.run(Duration::from_secs(1));
    assert_ne!(world.leased(0, 3), first);
}

#[test]
fn ping_measures_the_way_and_says_why_not() {
    let mut world = World::new(2, 7, 0);
    world.run(Duration::from_secs(2));
    let (now, other) = (world.now, world.host(1).node.me());
    world.host(0).node.ping(Ticket(1), other, now);
    world.run(Duration::from_millis(500));
    let pong = world.host(0).pongs[&1].clone().expect("answered");
    assert_eq!(pong.via, Some(address(1)));
    assert!(pong.rtt >= 2 * LATENCY);
    world.hosts[1] = None;
    let now = world.now;
    world.host(0).node.ping(Ticket(2), other, now);
    world.run(PING_DEADLINE + Duration::from_secs(1));
    assert!(matches!(world.host(0).pongs[&2], Err(PingError::NoAnswer { .. })));
}

#[test]
fn removed_peer_that_comes_back_gives_up_its_blocks_and_is_refused() {
    let mut world = World::new(3, 8, 0);
    world.run(Duration::from_secs(3));
    world.allocate(2, 1, "theirs");
    world.run(Duration::from_secs(2));
    let gone = world.host(2).node.me();
    let stopped = world.hosts[2].take();
    world.run(Duration::from_secs(20));
    let now = world.now;
    assert!(matches!(world.host(0).node.remove_peer(gone, now), Removal::Started { .. }));
    world.run(Duration::from_secs(20));
    assert_eq!(world.host(1).node.ipam_summary().peers.iter().filter(|space| space.peer == gone).count(), 0);
    let disk = stopped.expect("it ran").disk;
    world.start(2, disk, 2);
    world.run(Duration::from_secs(20));
    let heir = world.host(0).node.me();
    assert_eq!(world.host(2).removed_by, Some(heir));
    assert_eq!(world.host(2).node.ipam_summary().owned, 0);
    world.run(Duration::from_secs(20));
    assert!(world.host(0).node.sessions().address(gone).is_none(), "the door is closed");
}

fn said(name: &str, address: Ipv4Addr) -> Said {
    Said::new([name.parse().expect("name")], [address.into()]).expect("fits")
}

#[test]
fn stale_peer_brings_no_name_back() {
    let mut world = World::new(3, 9, 0);
    world.run(Duration::from_secs(3));
    let at = Ipv4Addr::new(10, 32, 0, 9);
    let owner = NameOwner::Endpoint(Mac::of_container(at));
    let now = world.now;
    world.host(1).node.name(&owner, said("web", at), now);
    world.run(Duration::from_secs(1));
    for host in 0..3 {
        assert_eq!(world.found(host, "web"), Found::Addresses(vec![at.into()]), "host {host}");
    }
    // The third hears no more, while the second restarts without the container.
    world.cut = vec![[0, 2], [1, 2]];
    world.run(Duration::from_secs(1));
    world.crash(1);
    world.run(Duration::from_secs(40));
    assert_eq!(world.found(0, "web"), Found::Nothing);
    assert_eq!(world.found(2, "web"), Found::Nothing, "its host is dead to the third");
    // First to the third and its memory alone, then to all.
    world.cut = vec![[0, 1], [0, 2]];
    world.run(Duration::from_secs(10));
    assert_eq!([world.found(1, "web"), world.found(2, "web")], [Found::Nothing, Found::Nothing]);
    world.cut.clear();
    world.run(Duration::from_secs(20));
    for host in 0..3 {
        assert_eq!(world.found(host, "web"), Found::Nothing, "host {host}");
    }
}

#[test]
fn names_go_with_their_host_and_come_back_with_it() {
    let mut world = World::new(2, 10, 0);
    world.run(Duration::from_secs(2));
    let at = Ipv4Addr::new(10, 32, 0, 9);
    let (kept, lost) =
        (NameOwner::Endpoint(Mac::of_container(at)), NameOwner::Operator("db".parse().expect("name")));
    let now = world.now;
    world.host(1).node.name(&kept, said("web", at), now);
    world.host(1).node.name(&lost, said("db", at), now);
    world.run(Duration::from_secs(1));
    assert_eq!(world.found(0, "db"), Found::Addresses(vec![at.into()]));
    let disk = world.hosts[1].take().expect("it ran").disk;
    world.run(Duration::from_secs(20));
    assert_eq!(world.found(0, "web"), Found::Nothing);
    world.start(1, disk, 2);
    let now = world.now;
    world.host(1).node.name(&kept, said("web", at), now);
    world.run(Duration::from_secs(5));
    assert_eq!(world.found(0, "web"), Found::Addresses(vec![at.into()]));
    assert_eq!(world.found(0, "db"), Found::Nothing, "it was not said again");
    let now = world.now;
    world.host(1).node.leave(now);
    world.run(Duration::from_secs(1));
    assert_eq!(world.found(0, "web"), Found::Nothing);
}

#[test]
fn removed_peer_that_was_cut_off_hears_of_it_when_it_is_back() {
    let mut world = World::new(3, 8, 0);
    world.run(Duration::from_secs(3));
    let gone = world.host(2).node.me();
    let stopped = world.hosts[2].take();
    // Nobody has noticed yet that it does not answer: it cannot have heard what it is told now.
    let now = world.now;
    assert!(matches!(world.host(0).node.remove_peer(gone, now), Removal::Started { .. }));
    world.run(Duration::from_secs(40));
    world.start(2, stopped.expect("it ran").disk, 2);
    world.run(Duration::from_secs(20));
    let heir = world.host(0).node.me();
    assert_eq!(world.host(2).removed_by, Some(heir));
}

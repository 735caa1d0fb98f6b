//! One host: its disk, its clock, the interfaces of its containers, and a router while one runs.
//!
//! This is the simulation's share of the shell. It keeps the calling order that `router::core::node` states, the order of lease,
//! kernel and record that `router::shell::attach` states, and takes over after a restart what `router::shell::engine` takes over.

mod adopt;
mod flow;

pub(crate) use flow::{is_named, name_of};

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gossip::planted::{Bug, planted};
use gossip::{PeerId, RecordKey};
use ipam::{Owner, Ticket};
use ipnet::Ipv4Net;
use router::core::endpoints::Change;
use router::core::fabric::{FabricId, FabricKeys, Secret};
use router::core::hello::Capabilities;
use router::core::identity::Identity;
use router::core::mac::Mac;
use router::core::node::{Node, NodeConfig, Output};
use router::core::seeds::Seeds;
use router::core::session::ConnectionState;

use crate::clock::LocalClock;
use crate::dice::Dice;
use crate::disk::{Disk, DiskError, File, Membership};

/// Longest wait of a caller for an address, as in the shell.
pub const LEASE_DEADLINE: Duration = Duration::from_secs(5);
/// How often the shell looks at addresses and targets.
const HOUSEKEEPING: Duration = Duration::from_secs(2);
/// A session this old has brought what the neighbour knows, as in the shell.
const HEAR_FOR: Duration = Duration::from_secs(12);
/// Addresses of peers that are kept for the next start, as in the shell.
const MAX_KNOWN_PEERS: usize = 64;
/// Journal entries after which it is compacted. The shell waits for more; here it shall happen in a short life.
const COMPACT_AFTER: usize = 256;

/// How a host comes into a fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It creates the fabric, alone or as one of the seeds.
    Founder,
    /// It has a token.
    Joiner,
}

/// What all hosts of one fabric have in common.
#[derive(Debug, Clone)]
pub struct Fabric {
    /// Its addresses.
    pub range: Ipv4Net,
    /// Which secret, counted from the first one; each replaces the one before.
    pub secret: u8,
    /// The hosts that create it together.
    pub seeds: Option<Arc<Seeds>>,
    /// As `--reclaim-after`.
    pub reclaim_after: Option<Duration>,
}

/// What a host tells its observer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// An entry of the allocation journal was written.
    Wrote(Vec<u8>),
    /// A lease came; the interface can be made.
    Leased(u32, Ipv4Addr),
    /// A container has its interface.
    Wired(u32, Ipv4Addr),
    /// Whoever wanted a container attached was told that it is.
    Attached(u32, Ipv4Addr),
    /// Whoever wanted a container attached was told why it is not.
    Refused(u32, String),
    /// Whoever wanted a container detached was told that it is.
    Detached(u32),
    /// A ping ended, well or not.
    Ponged(Ticket),
    /// The router found itself removed from the fabric.
    Removed(PeerId),
    /// The router found another one with its identity.
    Clone(String),
    /// Something for the log.
    Notice(String),
}

/// Somebody who is told when an entry is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Attached(u32, Ipv4Addr),
    Detached(u32),
    Nobody,
}

/// What exists while the process runs.
pub struct Router {
    /// The code that ships.
    pub node: Node,
    /// Which start of the host's router this is.
    pub life: u32,
    /// When that was.
    pub started: Duration,
    /// Containers with a record.
    pub attachments: BTreeMap<u32, Ipv4Addr>,
    /// The forwarding table as the node told it.
    pub table: BTreeMap<Mac, PeerId>,
    /// When the next wake-up is queued for.
    pub wake: Option<Duration>,
    /// Who removed it.
    pub removed_by: Option<PeerId>,
    /// Another router has its identity.
    pub is_clone: bool,
    /// The journal was damaged; nothing is leased before the fabric was heard.
    pub unsure: bool,
    /// When the shell looks around next.
    next_house: Instant,
    leases: BTreeMap<Ticket, u32>,
    next_ticket: u64,
    after_ipam: Vec<Told>,
    attachment_writes: Vec<(Vec<u8>, Told)>,
    membership: Membership,
    peers_changed: bool,
    /// So many journal entries are not worth a snapshot, as in the shell.
    short: usize,
}

/// Datagrams that leave a host in one turn.
pub type Sent = Vec<(SocketAddr, Vec<u8>)>;

/// See the top of the file.
pub struct Host {
    /// Its number in the simulation.
    pub number: u16,
    /// Its keys.
    pub identity: Arc<Identity>,
    /// The peer that it is.
    pub id: PeerId,
    /// What survives.
    pub disk: Disk,
    /// What it thinks the time is.
    pub clock: LocalClock,
    /// Interfaces of containers, which outlive the process.
    pub kernel: BTreeMap<u32, Ipv4Addr>,
    /// The process, while it runs.
    pub router: Option<Box<Router>>,
    /// What was not yet fetched.
    pub news: Vec<News>,
    /// Its fabric.
    pub fabric: Fabric,
    /// Starts so far.
    pub lives: u32,
    /// Somebody else speaks with its identity, or an earlier life of it that it does not know of: there is a copy, its disk went back
    /// in time, or a boot counter could not be written.
    pub doubled: bool,
    /// The disk takes writes and never says that they are durable.
    pub stuck: bool,
    /// What its router, of a later version, says of kinds that are not known yet.
    pub future: BTreeMap<RecordKey, Vec<u8>>,
    dice: Dice,
}

/// How the process of a router ends of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Died;

impl Host {
    /// A host on which no router has run.
    pub fn new(number: u16, seed: u64, fabric: Fabric, clock: LocalClock) -> Host {
        let mut dice = Dice::new(seed, 1000 + u64::from(number));
        let mut keys = [0; 64];
        dice.fill(&mut keys);
        let identity = Arc::new(Identity::from_seed(keys));
        Host {
            number,
            id: identity.peer_id(),
            identity,
            disk: Disk::default(),
            clock,
            kernel: BTreeMap::new(),
            router: None,
            news: Vec::new(),
            fabric,
            lives: 0,
            doubled: false,
            stuck: false,
            future: BTreeMap::new(),
            dice,
        }
    }

    /// Writes what `up` or `join` writes, for the next start.
    pub fn enter(&mut self, role: Role, targets: Vec<SocketAddr>) -> Result<(), DiskError> {
        let founder = role == Role::Founder;
        self.disk.store(&Membership { founder, boot: 0, targets, known: Vec::new() })
    }

    /// Starts the router with what is on the disk. Nothing happens in no fabric.
    pub fn start(&mut self, address: SocketAddr, at: Duration) {
        let Some(mut membership) = self.disk.membership().cloned() else { return };
        let now = self.clock.read(at);
        membership.boot += u32::from(membership.boot == 0 || !planted(Bug::BootKept));
        self.lives += 1;
        self.disk.sync_skipped = planted(Bug::SyncSkipped);
        let found = self.disk.open(File::Ipam);
        let mut node = self.node(membership.boot, now);
        if found.damaged {
            node.distrust_journal();
        }
        for wrong in node.restore(&found.entries, now) {
            self.news.push(News::Notice(format!("journal: {wrong}")));
        }
        let unsure = node.distrusts_journal();
        let sure = self.fabric.seeds.is_some() || !unsure || membership.known.is_empty();
        if membership.founder && sure {
            self.found(&mut node, now);
        }
        for (key, value) in &self.future {
            node.publish_strange(key.clone(), value.clone(), now);
        }
        node.announce(Mac::of_host(node.me()), Default::default(), now);
        for known in &membership.known {
            node.try_address(*known, now);
        }
        for target in &membership.targets {
            node.connect(*target, now);
        }
        // If it fails, a restart may need longer to be believed.
        self.doubled |= self.disk.store(&membership).is_err();
        self.router = Some(Box::new(Router {
            node,
            life: self.lives,
            started: at,
            attachments: BTreeMap::new(),
            table: BTreeMap::new(),
            wake: None,
            removed_by: None,
            is_clone: false,
            unsure,
            next_house: now + HOUSEKEEPING,
            leases: BTreeMap::new(),
            next_ticket: 0,
            after_ipam: Vec::new(),
            attachment_writes: Vec::new(),
            membership,
            peers_changed: false,
            short: 0,
        }));
        self.adopt(now);
        self.keep_house(address, now);
    }

    /// Creates the fabric, or takes a seed's part of it.
    fn found(&self, node: &mut Node, now: Instant) {
        match &self.fabric.seeds {
            None => node.found(now),
            // A list that leaves somebody without a part is refused before it is used.
            Some(seeds) => {
                drop(seeds.part(&self.nickname(), self.fabric.range).map(|part| node.found_part(part, now)))
            }
        }
    }

    /// What people call it.
    pub fn nickname(&self) -> String {
        nickname(self.number)
    }

    fn node(&mut self, boot: u32, now: Instant) -> Node {
        let fabric = FabricId([7; 16]);
        let secret = Secret::from_bytes([self.fabric.secret + 1; 32]);
        let config = NodeConfig {
            identity: Arc::clone(&self.identity),
            fabric,
            range: self.fabric.range,
            keys: FabricKeys::derive(fabric, self.fabric.range, &secret),
            boot,
            nickname: self.nickname(),
            version: "sim".to_owned(),
            mtu: 1390,
            capabilities: Capabilities::default(),
        };
        let seed = self.dice.roll();
        let mut random = Dice::new(seed, 3);
        let mut node = Node::new(config, seed, Box::new(move |bytes| random.fill(bytes)), now);
        node.set_reclaim_after(self.fabric.reclaim_after);
        if let Some(seeds) = &self.fabric.seeds {
            node.set_seeds(seeds);
        }
        node
    }

    /// The process ends; nothing is said.
    pub fn stop(&mut self) {
        self.router = None;
    }

    /// A datagram arrived.
    pub fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], at: Duration) {
        let now = self.clock.read(at);
        if let Some(router) = &mut self.router {
            router.node.handle_datagram(from, bytes, now);
        }
    }

    /// The time of a wake-up has come.
    pub fn wake(&mut self, address: SocketAddr, at: Duration) {
        let now = self.clock.read(at);
        let Some(router) = &mut self.router else { return };
        router.wake = None;
        if router.node.poll_timeout().is_some_and(|(due, _)| due <= now) {
            router.node.handle_timeout(now);
        }
        if router.next_house <= now {
            router.next_house = now + HOUSEKEEPING;
            self.keep_house(address, now);
        }
    }

    /// When it wants to be woken, in the simulation's time.
    pub fn next_wake(&self) -> Option<Duration> {
        let router = self.router.as_ref()?;
        let due = router.node.poll_timeout().map_or(router.next_house, |(at, _)| at.min(router.next_house));
        self.clock.when(due)
    }

    /// What the engine does after each input: durable first, then out.
    pub fn turn(&mut self, at: Duration) -> Result<Sent, Died> {
        let now = self.clock.read(at);
        if !self.stuck {
            self.persist(now)?;
        }
        let mut sent = Vec::new();
        while let Some(output) = self.router.as_mut().and_then(|router| router.node.poll_output()) {
            self.act(output, &mut sent);
        }
        self.remember_peers();
        Ok(sent)
    }

    fn persist(&mut self, now: Instant) -> Result<(), Died> {
        let Some(router) = &mut self.router else { return Ok(()) };
        let entries: Vec<Vec<u8>> = std::iter::from_fn(|| router.node.poll_persist()).collect();
        let (attachments, told): (Vec<_>, Vec<_>) =
            std::mem::take(&mut router.attachment_writes).into_iter().unzip();
        let waiting = std::mem::take(&mut router.after_ipam);
        let ipam = self.write(File::Ipam, &entries)?;
        let written = self.write(File::Attachments, &attachments)?;
        self.news.extend(entries.into_iter().filter(|_| ipam.is_ok()).map(News::Wrote));
        if ipam.is_ok() {
            self.with(now, |node, now| node.settle(now));
        } else {
            self.undo_turn(now);
        }
        waiting.into_iter().for_each(|told| self.tell(told, ipam, now));
        told.into_iter().for_each(|told| self.tell(told, written, now));
        Ok(())
    }

    fn write(&mut self, file: File, entries: &[Vec<u8>]) -> Result<Result<(), DiskError>, Died> {
        if entries.is_empty() {
            return Ok(Ok(()));
        }
        match self.disk.append(file, entries) {
            Err(DiskError::Died) => Err(Died),
            other => Ok(other),
        }
    }

    /// Nothing of the turn is durable: allocation goes back to what is, and everybody who waits is told.
    fn undo_turn(&mut self, now: Instant) {
        let entries = self.disk.read(File::Ipam).entries;
        self.with(now, |node, now| node.restore(&entries, now));
        if let Some(router) = &mut self.router {
            router.unsure = router.node.distrusts_journal();
            for container in std::mem::take(&mut router.leases).into_values() {
                self.news.push(News::Refused(container, "state is not durable".to_owned()));
            }
        }
    }

    fn act(&mut self, output: Output, sent: &mut Sent) {
        let Some(router) = &mut self.router else { return };
        match output {
            Output::Transmit(to, datagram) => sent.push((to, datagram.as_bytes().to_vec())),
            Output::InstallRx(_) | Output::RetireRx(_) | Output::SetTx(..) | Output::ClearTx(_) => {}
            // Evidence is for people to read; no router acts on it.
            Output::SetAddress(..) | Output::FloodPeers(_) | Output::Evidence(_) => {}
            Output::Endpoint(Change::Upsert { mac, owner, .. }) => drop(router.table.insert(mac, owner)),
            Output::Endpoint(Change::Remove { mac }) => drop(router.table.remove(&mac)),
            Output::Leased(ticket, result) => self.leased(ticket, result),
            Output::Ponged(ticket, _) => self.news.push(News::Ponged(ticket)),
            Output::PeersChanged => router.peers_changed = true,
            Output::Removed { by } => {
                if router.removed_by.replace(by) != Some(by) {
                    self.news.push(News::Removed(by));
                }
            }
            Output::BootChanged(boot) => {
                router.membership.boot = boot;
                self.doubled |= self.disk.store(&router.membership).is_err();
            }
            Output::Clone(text) => {
                router.is_clone = true;
                self.news.push(News::Clone(text));
            }
            Output::Notice(text) => self.news.push(News::Notice(text)),
        }
    }

    fn remember_peers(&mut self) {
        let Some(router) = &mut self.router else { return };
        if !std::mem::take(&mut router.peers_changed) {
            return;
        }
        let known: Vec<SocketAddr> = router
            .node
            .dialable_peers()
            .take(MAX_KNOWN_PEERS)
            .filter_map(|(_, addresses)| addresses.first().copied())
            .collect();
        if known != router.membership.known && !known.is_empty() {
            router.membership.known = known;
            let _ = self.disk.store(&router.membership);
        }
    }

    fn keep_house(&mut self, address: SocketAddr, now: Instant) {
        let Some(router) = &mut self.router else { return };
        router.node.set_addresses(vec![address], now);
        if router.unsure && has_heard_fabric(router, now) {
            router.unsure = false;
            router.node.trust_journal(now);
        }
        let entries = self.disk.entries(File::Ipam);
        if entries > COMPACT_AFTER.max(router.short) {
            let snapshot = router.node.snapshot();
            router.short = 2 * snapshot.len();
            if entries > router.short {
                let _ = self.disk.compact(File::Ipam, &snapshot);
            }
        }
    }

    /// Runs something on the node, if there is one.
    pub fn with<T>(&mut self, now: Instant, run: impl FnOnce(&mut Node, Instant) -> T) -> Option<T> {
        self.router.as_mut().map(|router| run(&mut router.node, now))
    }

    /// Is its router running and neither removed nor a clone?
    pub fn is_member(&self) -> bool {
        self.router.as_ref().is_some_and(|router| router.removed_by.is_none() && !router.is_clone)
    }
}

fn has_heard_fabric(router: &Router, now: Instant) -> bool {
    let heard = |since: Instant| now.saturating_duration_since(since) >= HEAR_FOR;
    let alone = router.membership.known.is_empty() && router.membership.targets.is_empty();
    let mut views = router.node.sessions().connections();
    alone || views.any(|view| view.state == ConnectionState::Ready && heard(view.since))
}

/// What people call a host.
pub fn nickname(number: u16) -> String {
    format!("host-{number}")
}

/// Name of the holder of a container's address, as in the shell.
pub fn holder(container: u32) -> Owner {
    Owner(format!("container:{container}/eth0"))
}

/// The container that a holder's name stands for.
pub fn held_by(owner: &Owner) -> Option<u32> {
    owner.0.strip_prefix("container:")?.strip_suffix("/eth0")?.parse().ok()
}

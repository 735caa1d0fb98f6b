//! The control half of a router in one fabric: gossip, allocation and sessions, tied together without I/O.
//!
//! Calling order, the same for every shell: any number of `handle_*` and requests; then [`Node::poll_persist`] until it is empty; when
//! those entries are durable [`Node::settle`], otherwise [`Node::restore`]; then [`Node::poll_output`] until it is empty; then wait until
//! [`Node::poll_timeout`]. What allocation wants to say leaves only through `settle`, so nothing is promised before it is durable.

mod evidence;
mod keys;
mod pump;
mod strange;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, Instant};

use gossip::planted::{Bug, planted};
use gossip::{Gossip, Kind, MemberState, PeerId, RecordKey};
use ipam::{AllocateError, Ipam, JournalEntry, Lease, Owner, Removal, Ticket, Trust, Want};
use ipnet::{Ipv4Net, Ipv6Net};

use super::advert::{EndpointAdvert, PeerAdvert};
use super::endpoints::{Change, Endpoints, Presence};
use super::fabric::{FabricId, FabricKeys};
use super::hello::Capabilities;
use super::identity::Identity;
use super::mac::Mac;
use super::names::{NameIndex, NameOwner, Said, SharedNames};
use super::sealed::SealedDatagram;
use super::seeds::Seeds;
use super::session::{
    Channel, LaneId, RandomSource, RxLaneKey, SessionConfig, Sessions, TxLaneKey, Want as SessionWant,
};
use keys::NodeKeys;

pub use evidence::{AuditBasis, Evidence};
pub use view::PeerView;

/// How long an explicit ping waits for its answer.
pub const PING_DEADLINE: Duration = Duration::from_secs(3);
/// Pings under way at once.
const MAX_PINGS: usize = 256;
/// Rounds of moving messages between the parts in one turn. Each round only handles what the last one caused, so a handful is
/// enough; the bound keeps a bug from hanging the router.
const MAX_ROUNDS: usize = 64;
/// How long a removed peer that comes back may listen before it is refused: it is told again and again of its removal, so that it
/// gives up its blocks.
const REMOVED_MAY_LISTEN: Duration = Duration::from_secs(15);
/// How often it is told meanwhile.
const REMOVED_IS_TOLD: Duration = Duration::from_secs(1);
/// Endpoint records for addresses that containers brought themselves.
const MAX_FOREIGN_MACS: usize = 1024;

/// What a node is made of.
pub struct NodeConfig {
    /// This router's keys.
    pub identity: Arc<Identity>,
    /// The fabric.
    pub fabric: FabricId,
    /// Its address range.
    pub range: Ipv4Net,
    /// Keys derived from its secret.
    pub keys: FabricKeys,
    /// How often this router was started; orders its records over restarts.
    pub boot: u32,
    /// Name for people.
    pub nickname: String,
    /// Version of the software.
    pub version: String,
    /// MTU of containers here.
    pub mtu: u16,
    /// What this machine can do.
    pub capabilities: Capabilities,
}

/// What the shell has to do.
pub enum Output {
    /// Send a datagram.
    Transmit(SocketAddr, SealedDatagram),
    /// Accept records of this lane.
    InstallRx(RxLaneKey),
    /// Accept them no longer.
    RetireRx(LaneId),
    /// Seal for this peer with this key from now on.
    SetTx(PeerId, SocketAddr, TxLaneKey),
    /// There is no session with this peer any more.
    ClearTx(PeerId),
    /// The peer is at another underlay address now.
    SetAddress(PeerId, SocketAddr),
    /// The forwarding table changed.
    Endpoint(Change),
    /// Who gets broadcast and multicast.
    FloodPeers(Vec<PeerId>),
    /// An allocation came to its end.
    Leased(Ticket, Result<Lease, AllocateError>),
    /// A ping came back, or not.
    Ponged(Ticket, Result<Pong, PingError>),
    /// Peers or their addresses changed; worth remembering over a restart.
    PeersChanged,
    /// Somebody removed this router from the fabric; these leases stand on space that is another's now.
    Removed {
        /// Who did.
        by: PeerId,
    },
    /// This router's boot counter is this now; the shell keeps it for the next start.
    BootChanged(u32),
    /// There is, or was, another router with this one's identity: somebody has to act.
    Clone(String),
    /// A signed record about a block: worth keeping, so that it can be shown later who owns what and why.
    Evidence(Box<Evidence>),
    /// Something an operator wants to see in the log.
    Notice(String),
}

/// A measured way to a peer.
#[derive(Debug, Clone, Copy)]
pub struct Pong {
    /// Who answered.
    pub peer: PeerId,
    /// Time from send to answer.
    pub rtt: Duration,
    /// Underlay address of the peer, `None` for this router itself.
    pub via: Option<SocketAddr>,
}

/// Why a ping had no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PingError {
    /// Too many at once.
    #[error("more than {MAX_PINGS} pings are under way")]
    TooMany,
    /// Nothing came back.
    #[error("no answer from {peer} within {} s{}", PING_DEADLINE.as_secs(), reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default())]
    NoAnswer {
        /// Who should have answered.
        peer: PeerId,
        /// What the session says about it.
        reason: Option<String>,
    },
}

struct PendingPing {
    ticket: Ticket,
    peer: PeerId,
    sent: Instant,
}

/// What this router takes at the start of the fabric.
#[derive(Debug, Clone)]
enum Founding {
    Nothing,
    Range,
    Part(Vec<Ipv4Net>),
}

/// A removed peer that may still listen.
#[derive(Debug, Clone, Copy)]
struct Door {
    closes: Instant,
    tell_at: Instant,
}

impl Door {
    fn open(now: Instant) -> Door {
        Door { closes: now + REMOVED_MAY_LISTEN, tell_at: now }
    }
}

/// See the module's text.
pub struct Node {
    me: PeerId,
    config: NodeConfig,
    range6: Ipv6Net,
    gossip: Gossip<NodeKeys>,
    ipam: Ipam,
    /// Whether the journal is believed.
    trust: Trust,
    sessions: Sessions,
    endpoints: Endpoints,
    /// Names of all peers; whoever answers questions for names reads it too.
    names: SharedNames,
    peers: BTreeMap<PeerId, Arc<PeerAdvert>>,
    /// Peers that were removed, and when the door closes on one that came back: it first learns of its removal.
    removed: BTreeMap<PeerId, Option<Door>>,
    /// How many removals were heeded.
    heeded: usize,
    /// Leaving, and all who could inherit leave as well.
    stranded: bool,
    /// Addresses of local containers and of the host, by MAC.
    local: BTreeMap<Mac, EndpointAdvert>,
    /// What this host says of names, by record.
    local_names: BTreeMap<Vec<u8>, Said>,
    /// Of the addresses, the ones that nobody attached.
    foreign: BTreeSet<Mac>,
    my_addresses: Vec<SocketAddr>,
    observed: BTreeSet<SocketAddr>,
    /// Addresses from before a restart, dialled until the fabric is found.
    remembered: BTreeSet<SocketAddr>,
    pings: BTreeMap<u64, PendingPing>,
    next_ping: u64,
    reclaim_after: Option<Duration>,
    founding: Founding,
    seed: u64,
    /// Something was changed, and the parts have not talked about it yet.
    stirred: bool,
    outputs: VecDeque<Output>,
}

impl Node {
    /// A node that knows nobody yet. `random` fills buffers with bytes from a secure source (a seeded one in simulations).
    pub fn new(config: NodeConfig, seed: u64, random: RandomSource, now: Instant) -> Node {
        let me = config.identity.peer_id();
        let keys = NodeKeys::new(Arc::clone(&config.identity));
        let gossip = Gossip::new(gossip::Config::default(), me, config.boot, keys, seed, now);
        let ipam = Ipam::new(ipam::Config::new(config.range), me, seed, now);
        let session_config = SessionConfig { capabilities: config.capabilities, ..SessionConfig::default() };
        let sessions = Sessions::new(session_config, &config.identity, config.keys.clone(), random, now);
        let range6 = range6(config.fabric);
        Node {
            me,
            config,
            range6,
            gossip,
            ipam,
            trust: Trust::Sure,
            sessions,
            endpoints: Endpoints::new(me),
            names: Arc::new(RwLock::new(NameIndex::new(me))),
            peers: BTreeMap::new(),
            removed: BTreeMap::new(),
            heeded: 0,
            stranded: false,
            local: BTreeMap::new(),
            local_names: BTreeMap::new(),
            foreign: BTreeSet::new(),
            my_addresses: Vec::new(),
            observed: BTreeSet::new(),
            remembered: BTreeSet::new(),
            pings: BTreeMap::new(),
            next_ping: seed,
            reclaim_after: None,
            founding: Founding::Nothing,
            seed,
            stirred: false,
            outputs: VecDeque::new(),
        }
    }

    /// Before [`Node::restore`]: entries of the journal may be missing. What others were given by us, or by whom, has to be heard
    /// before any address of ours is handed out or given away.
    pub fn distrust_journal(&mut self) {
        self.trust = Trust::Unsure;
    }

    /// Whether entries of the journal may be missing: they were at this start, or at an earlier one before the fabric was heard.
    pub fn distrusts_journal(&self) -> bool {
        self.ipam.distrusts_journal()
    }

    /// The fabric was heard since [`Node::distrust_journal`].
    pub fn trust_journal(&mut self, now: Instant) {
        self.trust = Trust::Sure;
        self.ipam.trust(now);
        self.pump(now);
    }

    /// This router creates the fabric and owns its whole range, unless an owner is known already. After `restore`.
    pub fn found(&mut self, now: Instant) {
        self.founding = Founding::Range;
        self.ipam.found(now);
    }

    /// Remove peers that have been dead for so long, if this side is the majority (ADR 0010). Before `restore`.
    pub fn set_reclaim_after(&mut self, time: Option<Duration>) {
        self.reclaim_after = time;
    }

    /// How long a dead peer will still be waited for, if it is going to be reclaimed.
    pub fn reclaim_in(&self, peer: PeerId, now: Instant) -> Option<Duration> {
        self.ipam.reclaim_in(peer, now)
    }

    /// The fabric started from a list of seeds.
    pub fn set_seeds(&mut self, seeds: &Seeds) {
        self.sessions.set_seeds(seeds.to_string());
    }

    /// This router is a seed of the fabric and takes its part of the range, unless an owner of it is known already. After `restore`.
    pub fn found_part(&mut self, parts: Vec<Ipv4Net>, now: Instant) {
        self.founding = Founding::Part(parts.clone());
        self.ipam.found_part(parts, now);
        self.pump(now);
    }

    /// Who has the part that was meant for this router, if it came to nothing.
    pub fn part_taken_by(&self) -> Option<PeerId> {
        self.ipam.part_taken_by()
    }

    /// Puts allocation into the state that the durable journal describes, at the start and after a journal could not be written.
    /// Answers entries that do not fit.
    pub fn restore(&mut self, entries: &[Vec<u8>], now: Instant) -> Vec<String> {
        let mut wrong = Vec::new();
        let config =
            ipam::Config { reclaim_after: self.reclaim_after, ..ipam::Config::new(self.config.range) };
        let before = std::mem::replace(&mut self.ipam, Ipam::new(config, self.me, self.seed, now));
        for (index, bytes) in entries.iter().enumerate() {
            let result = JournalEntry::decode(bytes).map_err(|e| e.to_string());
            if let Err(why) = result.and_then(|entry| self.ipam.restore(entry).map_err(|e| e.to_string())) {
                wrong.push(format!("entry {index}: {why}"));
            }
        }
        match self.trust {
            Trust::Sure => {}
            Trust::Unsure => self.ipam.distrust(),
        }
        self.ipam.restored(now);
        self.ipam.follow_on(before, now);
        self.retell_ipam(now);
        // A claim that could not be written is made again.
        match self.founding.clone() {
            Founding::Nothing => {}
            Founding::Range => self.ipam.found(now),
            Founding::Part(parts) => self.ipam.found_part(parts, now),
        }
        // Gossip and sessions keep no list of who was removed; the journal does.
        self.heed_removals(now);
        self.stirred = true;
        wrong
    }

    /// The journal's content as a snapshot, to replace a long journal by.
    pub fn snapshot(&self) -> Vec<Vec<u8>> {
        self.ipam.snapshot().iter().map(JournalEntry::encode).collect()
    }

    /// A datagram that is not of a data lane arrived.
    pub fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) {
        self.sessions.handle_datagram(from, bytes, now);
        self.pump(now);
    }

    /// The time of [`Node::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.sessions.handle_timeout(now);
        self.gossip.handle_timeout(now);
        self.ipam.handle_timeout(now);
        self.expire_pings(now);
        self.refuse_removed(now);
        self.pump(now);
    }

    /// Dial an address until it is forgotten.
    pub fn connect(&mut self, address: SocketAddr, now: Instant) {
        // Somebody wants it: it is not only tried any more.
        self.remembered.remove(&address);
        self.sessions.connect_address(address, now);
        self.pump(now);
    }

    /// Dial it no longer; a session that exists stays while it is of use.
    pub fn forget(&mut self, address: SocketAddr, now: Instant) {
        self.sessions.forget_address(address, now);
        self.pump(now);
    }

    /// Underlay addresses of this machine, best first.
    pub fn set_addresses(&mut self, addresses: Vec<SocketAddr>, now: Instant) {
        // The shell looks every few seconds, and hardly ever finds others.
        if addresses == self.my_addresses && self.peers.contains_key(&self.me) {
            return;
        }
        self.my_addresses = addresses;
        self.publish_self(now);
        self.pump(now);
    }

    /// The data path has frames for a peer and no lane, or saw traffic on one.
    pub fn want_session(&mut self, peer: PeerId, now: Instant) {
        self.sessions.want(peer, SessionWant::Traffic, now);
        self.pump(now);
    }

    /// The lanes of a session carried traffic since the last call.
    pub fn note_traffic(&mut self, peer: PeerId, now: Instant) {
        self.sessions.note_traffic(peer, now);
    }

    /// Wants an address; ends in [`Output::Leased`] by the deadline.
    pub fn allocate(&mut self, ticket: Ticket, owner: Owner, want: Want, deadline: Instant, now: Instant) {
        self.ipam.allocate(ticket, owner, want, deadline, now);
        self.pump(now);
    }

    /// Gives back what `owner` holds. `unused` addresses were never seen by anybody and need no rest.
    pub fn release(&mut self, owner: &Owner, rest: ipam::Rest, now: Instant) -> Vec<Ipv4Addr> {
        let released = match rest {
            ipam::Rest::Used => self.ipam.release(owner, now),
            ipam::Rest::NeverUsed => self.ipam.release_unused(owner, now),
        };
        self.pump(now);
        released
    }

    /// An endpoint of this host: tell everybody.
    pub fn announce(&mut self, mac: Mac, advert: EndpointAdvert, now: Instant) {
        self.foreign.remove(&mac);
        self.say_endpoint(mac, advert, now);
        self.pump(now);
    }

    fn say_endpoint(&mut self, mac: Mac, advert: EndpointAdvert, now: Instant) {
        self.publish(endpoint_key(mac), advert.emit(), now);
        self.local.insert(mac, advert.clone());
        let ipam = &self.ipam;
        self.endpoints.announce(self.me, mac, advert, |peer, v4| ipam.peer_of(v4) == Some(peer));
    }

    /// It is gone.
    pub fn retract(&mut self, mac: Mac, now: Instant) {
        if !planted(Bug::EndpointKept) {
            self.gossip.withdraw(&endpoint_key(mac), now);
        }
        self.local.remove(&mac);
        self.foreign.remove(&mac);
        let ipam = &self.ipam;
        self.endpoints.withdraw(self.me, mac, |peer, v4| ipam.peer_of(v4) == Some(peer));
        self.pump(now);
    }

    /// Somebody of this host, or the host itself, is found by these names: tell everybody, in place of what was told before. After a
    /// restart before any datagram is handled, or what is still meant may be withdrawn for a moment.
    pub fn name(&mut self, owner: &NameOwner, said: Said, now: Instant) {
        let record = owner.record_name();
        self.publish(RecordKey::new(Kind::NAMES, record.clone()), said.emit(), now);
        self.index().say(self.me, &record, said.clone());
        self.local_names.insert(record, said);
        self.pump(now);
    }

    /// It is found by no name any more.
    pub fn unname(&mut self, owner: &NameOwner, now: Instant) {
        self.unname_record(&owner.record_name(), now);
        self.pump(now);
    }

    fn unname_record(&mut self, record: &[u8], now: Instant) {
        if self.local_names.remove(record).is_some() {
            self.gossip.withdraw(&RecordKey::new(Kind::NAMES, record), now);
            self.index().unsay(self.me, record);
        }
    }

    /// All names, to be read by others as well.
    pub fn names(&self) -> SharedNames {
        Arc::clone(&self.names)
    }

    /// To change it. Nobody panics while it is locked.
    fn index(&self) -> RwLockWriteGuard<'_, NameIndex> {
        self.names.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A frame came from a local address that nobody attached: a veth or a virtual machine that somebody put on the bridge. IP
    /// addresses that it used are announced with it, unless somebody has them.
    pub fn handle_foreign_mac(&mut self, mac: Mac, ips: &[IpAddr], now: Instant) {
        self.meet_foreign(mac, ips, now);
        self.pump(now);
    }

    fn meet_foreign(&mut self, mac: Mac, ips: &[IpAddr], now: Instant) {
        let known = self.local.get(&mac);
        if !mac.is_unicast() || (known.is_none() && self.foreign.len() >= MAX_FOREIGN_MACS) {
            return;
        }
        if known.is_some() && !self.foreign.contains(&mac) {
            return;
        }
        let mut advert = known.cloned().unwrap_or_default();
        for ip in ips.iter().filter(|ip| self.endpoints.holder(**ip).is_none()) {
            match ip {
                IpAddr::V4(v4) => advert.v4 = Some(*v4),
                IpAddr::V6(v6) => advert.v6 = Some(*v6),
            }
        }
        self.say_endpoint(mac, advert, now);
        self.foreign.insert(mac);
    }

    /// Local addresses that nobody attached.
    pub fn foreign_macs(&self) -> impl Iterator<Item = Mac> {
        self.foreign.iter().copied()
    }

    /// A local address that nobody attached was not heard for as long as the bridge remembers, or its port is gone.
    pub fn forget_foreign_mac(&mut self, mac: Mac, now: Instant) {
        if self.foreign.contains(&mac) {
            self.retract(mac, now);
        }
    }

    /// Measures the way to a peer; ends in [`Output::Ponged`].
    pub fn ping(&mut self, ticket: Ticket, peer: PeerId, now: Instant) {
        if peer == self.me {
            let pong = Pong { peer, rtt: Duration::ZERO, via: None };
            self.outputs.push_back(Output::Ponged(ticket, Ok(pong)));
            return;
        }
        if self.pings.len() >= MAX_PINGS {
            self.outputs.push_back(Output::Ponged(ticket, Err(PingError::TooMany)));
            return;
        }
        self.next_ping = self.next_ping.wrapping_add(1);
        let nonce = self.next_ping;
        self.pings.insert(nonce, PendingPing { ticket, peer, sent: now });
        self.sessions.send(peer, Channel::Ping, pump::ping_message(pump::PingKind::Request, nonce), now);
        self.pump(now);
    }

    /// Takes over the address space of a peer that will not come back.
    pub fn remove_peer(&mut self, peer: PeerId, now: Instant) -> Removal {
        let removal = self.ipam.remove_peer(peer, now);
        if self.ipam.is_removed(peer) {
            self.drop_removed(peer, now);
        }
        self.pump(now);
        removal
    }

    /// Gives all space to a live peer and says goodbye. Answers the heir.
    pub fn leave(&mut self, now: Instant) -> Option<PeerId> {
        let heir = self.name_heir(now);
        let macs: Vec<Mac> = self.local.keys().copied().collect();
        macs.into_iter().for_each(|mac| self.retract(mac, now));
        let records: Vec<Vec<u8>> = self.local_names.keys().cloned().collect();
        records.iter().for_each(|record| self.unname_record(record, now));
        self.pump(now);
        heir
    }

    /// The first live member that was not the heir already gets everything.
    fn name_heir(&mut self, now: Instant) -> Option<PeerId> {
        let members = self.gossip.members().filter(|member| member.state == MemberState::Alive);
        let others: Vec<PeerId> = members.map(|member| member.id).filter(|id| *id != self.me).collect();
        let fresh = others.into_iter().filter(|id| !self.ipam.was_heir(*id)).collect::<Vec<_>>();
        fresh.into_iter().find(|heir| self.ipam.handover(*heir, now).is_ok())
    }

    /// The heir is leaving as well, and passes everything back: somebody who stays gets it, if there is anybody.
    pub(super) fn name_other_heir(&mut self, now: Instant) {
        if self.ipam.needs_other_heir() {
            self.stranded = self.name_heir(now).is_none();
        }
    }

    /// After `leave` and once allocation has settled: tells the neighbours.
    pub fn say_goodbye(&mut self, now: Instant) {
        self.gossip.leave(now);
        self.pump(now);
    }

    /// Has the heir taken up everything that `leave` gave it, as far as is known? True without an heir, and when all others leave too.
    pub fn is_handed_over(&self) -> bool {
        self.stranded || self.ipam.summary().leaving_to.is_none() || self.ipam.is_handed_over()
    }

    /// The next journal entry that must be durable before `settle`.
    pub fn poll_persist(&mut self) -> Option<Vec<u8>> {
        self.ipam.poll_persist().map(|entry| entry.encode())
    }

    /// The next thing for the shell to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call `handle_timeout`, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let ping = self.pings.values().map(|p| (p.sent + PING_DEADLINE, "ping deadline")).min();
        let doors = self.removed.values().flatten();
        let refusal =
            doors.map(|door| (door.closes.min(door.tell_at), "tell or refuse a removed peer")).min();
        [self.sessions.poll_timeout(), self.gossip.poll_timeout(), self.ipam.poll_timeout(), ping, refusal]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    /// This router's id.
    pub fn me(&self) -> PeerId {
        self.me
    }

    /// IPv6 prefix of the fabric.
    pub fn range6(&self) -> Ipv6Net {
        self.range6
    }

    /// The IPv6 address that belongs to an IPv4 address.
    pub fn embed(&self, v4: Ipv4Addr) -> Ipv6Addr {
        embed(self.range6, v4)
    }

    /// The peer that holds an address, or owns the space it is in.
    pub fn locate(&self, address: IpAddr) -> Option<PeerId> {
        self.endpoints.holder(address).or_else(|| match address {
            IpAddr::V4(v4) => self.ipam.peer_of(v4),
            IpAddr::V6(_) => None,
        })
    }

    fn publish(&mut self, key: RecordKey, value: Vec<u8>, now: Instant) {
        match self.gossip.publish(key.clone(), value, now) {
            Ok(()) => self.keep_evidence(self.me, &key),
            Err(error) => {
                self.outputs.push_back(Output::Notice(format!("a record cannot be published: {error}")));
            }
        }
    }

    fn publish_self(&mut self, now: Instant) {
        let public = self.config.identity.public();
        let mut addresses = self.my_addresses.clone();
        addresses.extend(self.observed.iter().filter(|a| !self.my_addresses.contains(a)));
        addresses.truncate(super::advert::MAX_ADDRESSES);
        let advert = PeerAdvert {
            ed25519: public.ed25519,
            x25519: public.x25519,
            nickname: self.config.nickname.clone(),
            addresses,
            version: self.config.version.clone(),
            mtu: self.config.mtu,
        };
        self.publish(RecordKey::only(Kind::PEER), advert.emit(), now);
        self.peers.insert(self.me, Arc::new(advert));
    }

    fn expire_pings(&mut self, now: Instant) {
        let over: Vec<u64> = self
            .pings
            .iter()
            .filter(|(_, ping)| now >= ping.sent + PING_DEADLINE)
            .map(|(nonce, _)| *nonce)
            .collect();
        for nonce in over {
            if let Some(ping) = self.pings.remove(&nonce) {
                let reason = self.unreachable_reason(ping.peer);
                let error = PingError::NoAnswer { peer: ping.peer, reason };
                self.outputs.push_back(Output::Ponged(ping.ticket, Err(error)));
            }
        }
    }

    /// Dials an address from before a restart until any peer is found.
    pub fn try_address(&mut self, address: SocketAddr, now: Instant) {
        if !self.sessions.is_dialled(address) {
            self.connect(address, now);
            self.remembered.insert(address);
        }
    }

    fn refuse_removed(&mut self, now: Instant) {
        for (peer, door) in &mut self.removed {
            match door {
                Some(Door { closes, .. }) if *closes <= now => {
                    self.sessions.refuse_peer(*peer, now);
                    *door = None;
                }
                Some(Door { tell_at, .. }) if *tell_at <= now => {
                    *tell_at = now + REMOVED_IS_TOLD;
                    self.ipam.tell_removals(*peer);
                }
                Some(_) | None => {}
            }
        }
    }

    fn set_presence(&mut self, peer: PeerId, presence: Presence) {
        let ipam = &self.ipam;
        self.endpoints.set_present(peer, presence, |p, v4| ipam.peer_of(v4) == Some(p));
        self.index().set_present(peer, presence);
    }
}

fn endpoint_key(mac: Mac) -> RecordKey {
    RecordKey::new(Kind::ENDPOINT, mac.0)
}

/// The fabric's IPv6 prefix: a unique local /48 (RFC 4193) out of the fabric's id, with subnet 0.
pub fn range6(fabric: FabricId) -> Ipv6Net {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &fabric.0);
    let id = digest.as_ref();
    let mut bytes = [0; 16];
    bytes[0] = 0xfd;
    bytes[1..6].copy_from_slice(&id[..5]);
    Ipv6Net::new_assert(Ipv6Addr::from(bytes), 64)
}

/// The IPv6 address of a prefix that carries an IPv4 address in its last four bytes.
pub fn embed(prefix: Ipv6Net, v4: Ipv4Addr) -> Ipv6Addr {
    let mut bytes = prefix.addr().octets();
    bytes[12..].copy_from_slice(&v4.octets());
    Ipv6Addr::from(bytes)
}

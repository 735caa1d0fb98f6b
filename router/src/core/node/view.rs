//! What a node can tell about itself and the fabric, for status, metrics and the start after a restart.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use gossip::{Fill, Kind, MAX_VALUE, Member, MemberState, PeerId, Record, RecordKey, codec};
use ipam::{Ipam, Owner};

use super::Node;
use crate::core::advert::PeerAdvert;
use crate::core::mac::Mac;
use crate::core::session::{ConnectionState, Sessions};

/// A known peer.
#[derive(Debug, Clone)]
pub struct PeerView {
    /// Its id.
    pub id: PeerId,
    /// What it announced, if that came.
    pub advert: Option<PeerAdvert>,
    /// How gossip sees it; `None` for one that was removed.
    pub state: Option<MemberState>,
    /// Peers that it keeps gossip links with.
    pub links: Vec<PeerId>,
    /// Container interfaces on it.
    pub endpoints: usize,
    /// Why there is no session with it, when one is wanted.
    pub unreachable: Option<String>,
}

impl Node {
    /// All peers that are known, this one included, in order of id.
    pub fn peer_views(&self) -> Vec<PeerView> {
        let endpoints = self.endpoints.counts();
        let mut unreachable = self.unreachable_reasons();
        self.peer_states()
            .into_iter()
            .map(|(id, state)| PeerView {
                id,
                advert: self.peers.get(&id).map(|advert| PeerAdvert::clone(advert)),
                state,
                links: self.links_of(id),
                endpoints: endpoints.get(&id).copied().unwrap_or(0),
                unreachable: unreachable.remove(&id),
            })
            .collect()
    }

    /// How gossip sees each of them; `None` for those that were removed.
    pub fn peer_states(&self) -> BTreeMap<PeerId, Option<MemberState>> {
        let mut states: BTreeMap<PeerId, Option<MemberState>> =
            self.gossip.members().map(|member| (member.id, Some(member.state))).collect();
        states.insert(self.me, Some(MemberState::Alive));
        states.extend(self.removed.keys().map(|peer| (*peer, None)));
        states
    }

    /// Name for people.
    pub fn nickname(&self, peer: PeerId) -> String {
        if peer == self.me {
            return self.config.nickname.clone();
        }
        self.peers.get(&peer).map_or_else(|| peer.short(), |advert| advert.nickname.clone())
    }

    /// Is the peer taking part, as far as gossip knows?
    pub fn is_alive(&self, peer: PeerId) -> bool {
        peer == self.me
            || (!self.is_removed(peer)
                && self
                    .gossip
                    .member(peer)
                    .is_some_and(|m| !matches!(m.state, MemberState::Dead | MemberState::Left)))
    }

    /// Is there a member that should answer and does not? Departed and removed ones should not.
    pub fn has_unreachable_members(&self) -> bool {
        self.gossip
            .members()
            .any(|m| matches!(m.state, MemberState::Dead | MemberState::Suspect) && !self.is_removed(m.id))
    }

    /// Was it removed from the fabric?
    pub fn is_removed(&self, peer: PeerId) -> bool {
        self.removed.contains_key(&peer)
    }

    /// Peers with addresses to dial, for remembering.
    pub fn dialable_peers(&self) -> impl Iterator<Item = (PeerId, &[SocketAddr])> {
        self.peers
            .iter()
            .filter(|(peer, advert)| **peer != self.me && !advert.addresses.is_empty())
            .map(|(peer, advert)| (*peer, advert.addresses.as_slice()))
    }

    /// Addresses for a token: this router's own first, then a few of its peers', so that joining works while this one is down.
    pub fn bootstrap_addresses(&self) -> Vec<SocketAddr> {
        const OF_PEERS: usize = 4;
        let mut addresses = self.my_addresses.clone();
        addresses.extend(
            self.dialable_peers().filter_map(|(_, addresses)| addresses.first().copied()).take(OF_PEERS),
        );
        addresses.truncate(crate::core::token::MAX_ADDRESSES);
        addresses
    }

    /// Everything leased on this host.
    pub fn leases(&self) -> impl Iterator<Item = (Owner, Ipv4Addr)> {
        self.ipam.leases()
    }

    /// Whether somebody has an address on this host.
    pub fn holds_any(&self, owner: &Owner) -> bool {
        self.ipam.holds_any(owner)
    }

    /// Allocation in numbers.
    pub fn ipam_summary(&self) -> ipam::Summary {
        self.ipam.summary()
    }

    /// Allocation, to look at.
    pub fn ipam(&self) -> &Ipam {
        &self.ipam
    }

    /// The digest of all that gossip knows: the same where the same is known.
    pub fn gossip_digest(&self) -> u64 {
        self.gossip.digest()
    }

    /// All records that gossip holds, of whatever kind, our own and tombstones included, by origin and key.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.gossip.all_records()
    }

    /// How full all tables are that peers, callers or containers can fill.
    pub fn fill(&self) -> Vec<Fill> {
        let mut fills = self.gossip.fill();
        fills.extend(self.ipam.fill());
        fills.extend(self.sessions.fill());
        fills.push(Fill::of("pings under way", self.pings.len(), super::MAX_PINGS));
        fills.push(Fill::of("addresses that nobody attached", self.foreign.len(), super::MAX_FOREIGN_MACS));
        fills
    }

    /// What gossip holds back for all neighbours together.
    pub fn gossip_waiting(&self) -> usize {
        self.gossip.waiting()
    }

    /// What gossip thinks of each member, by id.
    pub fn members(&self) -> impl Iterator<Item = Member> {
        self.gossip.members()
    }

    /// What gossip thinks of one member.
    pub fn member(&self, peer: PeerId) -> Option<Member> {
        self.gossip.member(peer)
    }

    /// The peers that gossip is exchanged with.
    pub fn neighbours(&self) -> impl Iterator<Item = PeerId> {
        self.gossip.neighbours()
    }

    /// Allocation records that were refused, by reason.
    pub fn ipam_quarantined(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.ipam.stats().quarantined()
    }

    /// The sessions, for their views and counters.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Addresses that more than one peer announces.
    pub fn contested(&self) -> Vec<(Mac, Vec<PeerId>)> {
        self.endpoints.contested().collect()
    }

    /// Counters of gossip.
    pub fn gossip_stats(&self) -> &gossip::Stats {
        self.gossip.stats()
    }

    fn links_of(&self, peer: PeerId) -> Vec<PeerId> {
        let record = self.gossip.record(peer, &RecordKey::only(Kind::ADJACENCY));
        let value = record.and_then(|record| record.value.as_deref());
        value.and_then(|value| codec::decode(value, MAX_VALUE).ok()).unwrap_or_default()
    }

    /// Why there is no session with a peer, when one is wanted.
    pub(super) fn unreachable_reason(&self, peer: PeerId) -> Option<String> {
        self.unreachable_reasons().remove(&peer)
    }

    /// The same of all peers to which it applies.
    fn unreachable_reasons(&self) -> BTreeMap<PeerId, String> {
        let mut reasons: BTreeMap<PeerId, Option<String>> = BTreeMap::new();
        for view in self.sessions.connections() {
            let Some(peer) = view.peer else { continue };
            reasons.entry(peer).or_insert(match view.state {
                ConnectionState::Established | ConnectionState::Ready => None,
                ConnectionState::Connecting
                | ConnectionState::Handshaking
                | ConnectionState::Failed
                | ConnectionState::Ourselves => view.reason,
            });
        }
        reasons.into_iter().filter_map(|(peer, reason)| Some((peer, reason?))).collect()
    }
}

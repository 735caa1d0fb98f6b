//! What a person is shown: who owns what, what is in use here, and what waits for whom.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use gossip::PeerId;
use ipnet::Ipv4Net;

use crate::ipam::{Ipam, Owner, Presence};
use crate::map::Standing;
use crate::space::Use;
use crate::{Config, Stats};

/// A run of addresses of one owner and epoch, as a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// The addresses.
    pub prefix: Ipv4Net,
    /// Who owns them.
    pub owner: PeerId,
    /// How far the line of owners has come.
    pub epoch: u64,
    /// Whether two records contradict each other about it.
    pub standing: Standing,
}

/// How a peer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerStanding {
    /// This peer.
    Myself,
    /// Alive.
    Reachable,
    /// Not to be reached.
    Unreachable,
    /// Said goodbye.
    Left,
    /// The failure detector has not spoken yet.
    Unknown,
    /// Removed; its space is being taken over.
    Removed,
}

/// The space of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSpace {
    /// The owner.
    pub peer: PeerId,
    /// How it stands.
    pub standing: PeerStanding,
    /// Addresses in its blocks.
    pub addresses: u64,
    /// Free ones by its own account, for others; coarse and late.
    pub free: Option<u32>,
    /// Its blocks in ascending order.
    pub blocks: Vec<Block>,
}

/// A takeover that is not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingTakeover {
    /// Whose space.
    pub removed: PeerId,
    /// Addresses that are out of use until then.
    pub addresses: u64,
    /// Members that have to answer first, or to be removed as well.
    pub waiting_for: Vec<PeerId>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The range.
    pub range: Ipv4Net,
    /// Addresses that this peer owns.
    pub owned: u64,
    /// Of these, ready to be handed out.
    pub free: u64,
    /// Of these, handed out.
    pub used: u64,
    /// Of these, released a moment ago.
    pub resting: u64,
    /// Addresses of the range whose owner is not known.
    pub unknown: u64,
    /// Addresses of owners that cannot be reached.
    pub unreachable: u64,
    /// Addresses about which records contradict each other: nobody allocates from them.
    pub contested: u64,
    /// All owners, by id.
    pub peers: Vec<PeerSpace>,
    /// Space of removed peers that this peer is about to take over.
    pub takeovers: Vec<PendingTakeover>,
    /// Callers that wait for an address.
    pub waiting: usize,
    /// Grants that their recipients have not taken up yet.
    pub unconfirmed: usize,
    /// Leases whose addresses went to somebody else.
    pub lost: usize,
    /// Who removed this peer.
    pub removed_by: Option<PeerId>,
    /// Who inherits from this peer, which is leaving.
    pub leaving_to: Option<PeerId>,
}

impl Ipam {
    /// This peer.
    pub fn me(&self) -> PeerId {
        self.me
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What is leased here, in ascending order.
    pub fn leases(&self) -> impl Iterator<Item = (Owner, Ipv4Addr)> + '_ {
        self.space.leases().map(|(addr, holder)| (Owner(holder.to_string()), addr.into()))
    }

    /// Whether `owner` has an address here.
    pub fn holds_any(&self, owner: &Owner) -> bool {
        !self.space.leased_to(&owner.0).is_empty()
    }

    /// Who holds `addr` here.
    pub fn owner_of(&self, addr: Ipv4Addr) -> Option<Owner> {
        match self.space.usage(addr.to_bits()) {
            Use::Leased(holder) => Some(Owner(holder.to_string())),
            Use::Free | Use::Resting | Use::Unusable => None,
        }
    }

    /// Leases whose addresses went to somebody else, because this peer was removed or somebody is faulty. Their holders
    /// have to be detached; `release` forgets them.
    pub fn lost_leases(&self) -> impl Iterator<Item = (Owner, Ipv4Addr)> + '_ {
        self.lost.iter().map(|(&addr, holder)| (Owner(holder.to_string()), addr.into()))
    }

    /// Which peer owns `addr`.
    pub fn peer_of(&self, addr: Ipv4Addr) -> Option<PeerId> {
        self.map.at(addr.to_bits()).map(|holding| holding.owner)
    }

    /// Who owns what, in ascending order.
    pub fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        self.map.iter().flat_map(|(span, holding)| {
            span.blocks().map(move |prefix| Block {
                prefix,
                owner: holding.owner,
                epoch: holding.epoch,
                standing: holding.standing,
            })
        })
    }

    /// What this peer hands out from and may give away, in the fewest blocks.
    pub fn own_blocks(&self) -> Vec<Ipv4Net> {
        self.usable_blocks()
    }

    /// Counters of what was refused, dropped and done.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Everything that the status shows.
    pub fn summary(&self) -> Summary {
        let mut spaces: BTreeMap<PeerId, PeerSpace> = BTreeMap::new();
        let mut contested = 0;
        for block in self.blocks() {
            let size = crate::span::Span::of(block.prefix).size();
            let space = spaces.entry(block.owner).or_insert_with(|| self.empty_space(block.owner));
            space.addresses += size;
            space.blocks.push(block);
            match block.standing {
                Standing::Contested => contested += size,
                Standing::Clean => {}
            }
        }
        let addresses = |peer: PeerId| spaces.get(&peer).map_or(0, |space| space.addresses);
        let takeovers = self.pending_takeovers().map(|removed| PendingTakeover {
            removed,
            addresses: addresses(removed),
            waiting_for: self.takeover_waits_for(removed),
        });
        Summary {
            range: self.config.range,
            owned: addresses(self.me),
            free: self.space.free_count(),
            used: self.space.used_count(),
            resting: self.space.resting_count(),
            unknown: self.map.unowned(self.range),
            unreachable: spaces
                .values()
                .filter(|space| match space.standing {
                    PeerStanding::Unreachable | PeerStanding::Left => true,
                    PeerStanding::Myself
                    | PeerStanding::Reachable
                    | PeerStanding::Unknown
                    | PeerStanding::Removed => false,
                })
                .map(|space| space.addresses)
                .sum(),
            contested,
            takeovers: takeovers.collect(),
            waiting: self.waiting.len(),
            unconfirmed: self.unconfirmed(),
            lost: self.lost.len(),
            removed_by: self.removals.removed_by(self.me),
            leaving_to: self.leaving,
            peers: spaces.into_values().collect(),
        }
    }

    fn empty_space(&self, peer: PeerId) -> PeerSpace {
        let standing = match self.presence(peer) {
            _ if self.removals.is_removed(peer) => PeerStanding::Removed,
            _ if peer == self.me => PeerStanding::Myself,
            Some(Presence::Reachable) => PeerStanding::Reachable,
            Some(Presence::Unreachable) => PeerStanding::Unreachable,
            Some(Presence::Left) => PeerStanding::Left,
            None => PeerStanding::Unknown,
        };
        let free = match standing {
            PeerStanding::Myself => u32::try_from(self.space.free_count()).ok(),
            PeerStanding::Reachable
            | PeerStanding::Unreachable
            | PeerStanding::Left
            | PeerStanding::Unknown
            | PeerStanding::Removed => self.peers.get(&peer).and_then(|peer| peer.free),
        };
        PeerSpace { peer, standing, addresses: 0, free, blocks: Vec::new() }
    }
}

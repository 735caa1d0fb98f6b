//! Who holds which MAC and IP address: the announcements of all peers, resolved into one forwarding table.
//!
//! Two peers may announce the same address, by a move in progress, a mistake, or malice. This router's own endpoints win, then the
//! peer that owns the address space, then the lowest peer id, so that all routers come to the same answer. Endpoints of peers that
//! are not alive are hidden and come back with them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use gossip::PeerId;

use super::advert::EndpointAdvert;
use super::mac::Mac;

/// Endpoints taken from one peer; ten times the containers that any host is known to run.
pub const MAX_PER_PEER: usize = 10_000;

/// A change of the forwarding table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The address is at this peer now.
    Upsert {
        /// Ethernet address.
        mac: Mac,
        /// Where it is.
        owner: PeerId,
        /// Its IP addresses.
        addresses: Vec<IpAddr>,
    },
    /// The address is nowhere.
    Remove {
        /// Ethernet address.
        mac: Mac,
    },
}

/// All announcements and the table made of them.
#[derive(Debug)]
pub struct Endpoints {
    me: PeerId,
    announced: BTreeMap<Mac, BTreeMap<PeerId, EndpointAdvert>>,
    per_peer: BTreeMap<PeerId, usize>,
    present: BTreeSet<PeerId>,
    resolved: BTreeMap<Mac, (PeerId, EndpointAdvert)>,
    by_address: BTreeMap<IpAddr, Mac>,
    changes: VecDeque<Change>,
    refused: u64,
}

impl Endpoints {
    /// An empty table. Only this router itself is present.
    pub fn new(me: PeerId) -> Endpoints {
        Endpoints {
            me,
            announced: BTreeMap::new(),
            per_peer: BTreeMap::new(),
            present: BTreeSet::from([me]),
            resolved: BTreeMap::new(),
            by_address: BTreeMap::new(),
            changes: VecDeque::new(),
            refused: 0,
        }
    }

    /// `origin` announces `mac`. `owns` tells whether a peer owns an address by the allocation records.
    pub fn announce(
        &mut self,
        origin: PeerId,
        mac: Mac,
        advert: EndpointAdvert,
        owns: impl Fn(PeerId, Ipv4Addr) -> bool,
    ) {
        if !self.announced.get(&mac).is_some_and(|holders| holders.contains_key(&origin)) {
            let count = self.per_peer.entry(origin).or_default();
            if *count >= MAX_PER_PEER {
                self.refused += 1;
                return;
            }
            *count += 1;
        }
        self.announced.entry(mac).or_default().insert(origin, advert);
        self.resolve(mac, &owns);
    }

    /// `origin` announces `mac` no longer.
    pub fn withdraw(&mut self, origin: PeerId, mac: Mac, owns: impl Fn(PeerId, Ipv4Addr) -> bool) {
        let Some(holders) = self.announced.get_mut(&mac) else { return };
        if holders.remove(&origin).is_some()
            && let Some(count) = self.per_peer.get_mut(&origin)
        {
            *count -= 1;
        }
        if holders.is_empty() {
            self.announced.remove(&mac);
        }
        self.resolve(mac, &owns);
    }

    /// A peer came or went; its endpoints are shown or hidden.
    pub fn set_present(&mut self, peer: PeerId, presence: Presence, owns: impl Fn(PeerId, Ipv4Addr) -> bool) {
        let changed = match presence {
            Presence::Here => self.present.insert(peer),
            Presence::Gone => peer != self.me && self.present.remove(&peer),
        };
        if changed {
            let theirs = |holders: &BTreeMap<PeerId, EndpointAdvert>| holders.contains_key(&peer);
            let macs: Vec<Mac> =
                self.announced.iter().filter(|(_, h)| theirs(h)).map(|(mac, _)| *mac).collect();
            macs.into_iter().for_each(|mac| self.resolve(mac, &owns));
        }
    }

    /// Ownership of address space changed: decide contested addresses anew.
    pub fn recheck(&mut self, owns: impl Fn(PeerId, Ipv4Addr) -> bool) {
        let contested: Vec<Mac> =
            self.announced.iter().filter(|(_, h)| h.len() > 1).map(|(mac, _)| *mac).collect();
        contested.into_iter().for_each(|mac| self.resolve(mac, &owns));
    }

    /// The next change of the forwarding table.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// Peers, other than this router, that have somebody to hear broadcast and multicast: a container, a device, or a host with an
    /// address of the fabric. A bare bridge is nobody.
    pub fn peers(&self) -> BTreeSet<PeerId> {
        let hears = |(mac, (owner, advert)): &(&Mac, &(PeerId, EndpointAdvert))| {
            *owner != self.me && (**mac != Mac::of_host(*owner) || !advert.addresses().is_empty())
        };
        self.resolved.iter().filter(hears).map(|(_, (owner, _))| *owner).collect()
    }

    /// How many endpoints in the table are at each peer, without its bridge. Whoever has none is not named.
    pub fn counts(&self) -> BTreeMap<PeerId, usize> {
        let mut counts = BTreeMap::new();
        for (owner, _) in self.resolved.values() {
            *counts.entry(*owner).or_default() += 1;
        }
        for (peer, count) in &mut counts {
            let bridge = self.resolved.get(&Mac::of_host(*peer));
            *count -= usize::from(bridge.is_some_and(|(owner, _)| owner == peer));
        }
        counts.retain(|_, count| *count > 0);
        counts
    }

    /// Where an address is.
    pub fn holder(&self, address: IpAddr) -> Option<PeerId> {
        self.by_address.get(&address).and_then(|mac| self.resolved.get(mac)).map(|(owner, _)| *owner)
    }

    /// Announcements that were over the limit of their peer.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Addresses that more than one present peer announces.
    pub fn contested(&self) -> impl Iterator<Item = (Mac, Vec<PeerId>)> {
        self.announced.iter().filter_map(|(mac, holders)| {
            let present: Vec<PeerId> =
                holders.keys().copied().filter(|peer| self.present.contains(peer)).collect();
            (present.len() > 1).then_some((*mac, present))
        })
    }

    fn resolve(&mut self, mac: Mac, owns: &impl Fn(PeerId, Ipv4Addr) -> bool) {
        let winner = self.announced.get(&mac).and_then(|holders| {
            holders
                .iter()
                .filter(|(peer, _)| self.present.contains(peer))
                .min_by_key(|(peer, advert)| {
                    let entitled = mac.container_address().or(advert.v4).is_some_and(|v4| owns(**peer, v4));
                    (**peer != self.me, !entitled, **peer)
                })
                .map(|(peer, advert)| (*peer, advert.clone()))
        });
        if self.resolved.get(&mac) == winner.as_ref() {
            return;
        }
        if let Some((_, old)) = self.resolved.remove(&mac) {
            for address in old.addresses() {
                if self.by_address.get(&address) == Some(&mac) {
                    self.by_address.remove(&address);
                }
            }
        }
        match winner {
            Some((owner, advert)) => {
                let mut addresses = advert.addresses();
                addresses.retain(|address| !self.is_anothers(mac, *address));
                self.by_address.extend(addresses.iter().map(|address| (*address, mac)));
                self.resolved.insert(mac, (owner, advert));
                self.changes.push_back(Change::Upsert { mac, owner, addresses });
            }
            None => self.changes.push_back(Change::Remove { mac }),
        }
    }
}

impl Endpoints {
    /// Does the IP address belong to a container of the fabric, and `mac` is not that container's? Then a device that somebody hung on
    /// a bridge may not take it.
    fn is_anothers(&self, mac: Mac, address: IpAddr) -> bool {
        let Some(holder) = self.by_address.get(&address) else { return false };
        let rightful = |mac: &Mac| mac.container_address().is_some();
        *holder != mac && rightful(holder) && !rightful(&mac)
    }
}

/// Whether a peer takes part at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Alive or only suspected.
    Here,
    /// Dead, departed or removed.
    Gone,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: PeerId = PeerId([1; 16]);
    const LOW: PeerId = PeerId([2; 16]);
    const HIGH: PeerId = PeerId([3; 16]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 9);

    fn advert() -> EndpointAdvert {
        EndpointAdvert { v4: Some(ADDRESS), v6: None, name: None }
    }

    fn table() -> Endpoints {
        let mut table = Endpoints::new(ME);
        for peer in [LOW, HIGH] {
            table.set_present(peer, Presence::Here, |_, _| false);
        }
        table
    }

    #[test]
    fn owner_of_the_space_wins_over_the_lower_id() {
        let mut table = table();
        let mac = Mac::of_container(ADDRESS);
        table.announce(LOW, mac, advert(), |_, _| false);
        table.announce(HIGH, mac, advert(), |peer, _| peer == HIGH);
        assert_eq!(table.holder(ADDRESS.into()), Some(HIGH));
        assert_eq!(table.contested().count(), 1);
        table.withdraw(HIGH, mac, |peer, _| peer == HIGH);
        assert_eq!(table.holder(ADDRESS.into()), Some(LOW));
    }

    #[test]
    fn own_endpoint_is_never_lost_to_a_peer() {
        let mut table = table();
        let mac = Mac::of_container(ADDRESS);
        table.announce(ME, mac, advert(), |_, _| false);
        table.announce(HIGH, mac, advert(), |peer, _| peer == HIGH);
        assert_eq!(table.holder(ADDRESS.into()), Some(ME));
    }

    #[test]
    fn endpoints_of_a_dead_peer_are_hidden_and_come_back() {
        let mut table = table();
        let mac = Mac::of_container(ADDRESS);
        table.announce(LOW, mac, advert(), |_, _| false);
        assert!(matches!(table.poll_change(), Some(Change::Upsert { owner: LOW, .. })));
        table.set_present(LOW, Presence::Gone, |_, _| false);
        assert_eq!(table.poll_change(), Some(Change::Remove { mac }));
        assert!(table.peers().is_empty());
        table.set_present(LOW, Presence::Here, |_, _| false);
        assert!(matches!(table.poll_change(), Some(Change::Upsert { owner: LOW, .. })));
        assert_eq!(table.poll_change(), None);
    }

    #[test]
    fn bare_bridge_is_no_reason_to_send_broadcast() {
        let mut table = table();
        table.announce(LOW, Mac::of_host(LOW), EndpointAdvert::default(), |_, _| false);
        assert!(table.peers().is_empty());
        assert_eq!(table.counts().get(&LOW), None);
        table.announce(LOW, Mac::of_host(LOW), advert(), |_, _| false);
        assert_eq!(table.peers(), BTreeSet::from([LOW]));
    }

    #[test]
    fn device_on_a_bridge_cannot_take_a_containers_address() {
        let mut table = table();
        let stranger = Mac([2, 0, 0, 0, 0, 1]);
        table.announce(HIGH, Mac::of_container(ADDRESS), advert(), |_, _| false);
        table.announce(LOW, stranger, advert(), |_, _| false);
        assert_eq!(table.holder(ADDRESS.into()), Some(HIGH));
        let changes: Vec<Change> = std::iter::from_fn(|| table.poll_change()).collect();
        assert_eq!(changes[1], Change::Upsert { mac: stranger, owner: LOW, addresses: vec![] });
    }

    #[test]
    fn one_peer_cannot_fill_the_table() {
        let mut table = table();
        for n in 0..=MAX_PER_PEER as u32 {
            let address = Ipv4Addr::from(0x0a20_0000 + n);
            table.announce(LOW, Mac::of_container(address), advert(), |_, _| false);
        }
        assert_eq!(table.refused(), 1);
    }
}

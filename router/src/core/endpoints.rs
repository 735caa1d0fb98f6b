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
///
/// A fabric has thousands of peers that announce nothing but their bridge, so what says nothing takes no room.
#[derive(Debug)]
pub struct Endpoints {
    me: PeerId,
    announced: BTreeMap<(PeerId, Mac), Said>,
    holders: BTreeMap<Mac, Holders>,
    /// Those with more than one holder.
    shared: BTreeSet<Mac>,
    counts: BTreeMap<PeerId, Counts>,
    present: BTreeSet<PeerId>,
    resolved: BTreeMap<Mac, (PeerId, Said)>,
    by_address: BTreeMap<IpAddr, Mac>,
    changes: VecDeque<Change>,
    /// Whether [`Endpoints::peers`] are others than when somebody last asked.
    hearers: Hearers,
    refused: u64,
}

/// An announcement; `None` is one that says nothing.
type Said = Option<Box<EndpointAdvert>>;

/// Who announces an address.
#[derive(Debug)]
enum Holders {
    One(PeerId),
    Many(BTreeSet<PeerId>),
}

/// Numbers of endpoints of one peer.
#[derive(Debug, Default)]
struct Counts {
    /// That it announces.
    announced: usize,
    /// In the table, of those that hear broadcast.
    hearing: usize,
}

/// Whether others hear broadcast than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hearers {
    AsBefore,
    Changed,
}

impl Endpoints {
    /// An empty table. Only this router itself is present.
    pub fn new(me: PeerId) -> Endpoints {
        Endpoints {
            me,
            announced: BTreeMap::new(),
            holders: BTreeMap::new(),
            shared: BTreeSet::new(),
            counts: BTreeMap::new(),
            present: BTreeSet::from([me]),
            resolved: BTreeMap::new(),
            by_address: BTreeMap::new(),
            changes: VecDeque::new(),
            hearers: Hearers::AsBefore,
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
        let said = (advert != EndpointAdvert::default()).then(|| Box::new(advert));
        if let Some(held) = self.announced.get_mut(&(origin, mac)) {
            *held = said;
        } else {
            let counts = self.counts.entry(origin).or_default();
            if counts.announced >= MAX_PER_PEER {
                self.refused += 1;
                return;
            }
            counts.announced += 1;
            self.announced.insert((origin, mac), said);
            self.add_holder(mac, origin);
        }
        self.resolve(mac, &owns);
    }

    /// `origin` announces `mac` no longer.
    pub fn withdraw(&mut self, origin: PeerId, mac: Mac, owns: impl Fn(PeerId, Ipv4Addr) -> bool) {
        if self.announced.remove(&(origin, mac)).is_none() {
            return;
        }
        self.remove_holder(mac, origin);
        self.resolve(mac, &owns);
        if let Some(counts) = self.counts.get_mut(&origin) {
            counts.announced -= 1;
            if counts.announced == 0 {
                self.counts.remove(&origin);
            }
        }
    }

    /// A peer came or went; its endpoints are shown or hidden.
    pub fn set_present(&mut self, peer: PeerId, presence: Presence, owns: impl Fn(PeerId, Ipv4Addr) -> bool) {
        let changed = match presence {
            Presence::Here => self.present.insert(peer),
            Presence::Gone => peer != self.me && self.present.remove(&peer),
        };
        if changed {
            let macs: Vec<Mac> = self.macs_of(peer).collect();
            macs.into_iter().for_each(|mac| self.resolve(mac, &owns));
        }
    }

    /// Ownership of address space changed: decide contested addresses anew.
    pub fn recheck(&mut self, owns: impl Fn(PeerId, Ipv4Addr) -> bool) {
        let contested: Vec<Mac> = self.shared.iter().copied().collect();
        contested.into_iter().for_each(|mac| self.resolve(mac, &owns));
    }

    /// The next change of the forwarding table.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// Peers, other than this router, that have somebody to hear broadcast and multicast: a container, a device, or a host with an
    /// address of the fabric. A bare bridge is nobody.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> {
        self.counts.iter().filter(|(_, counts)| counts.hearing > 0).map(|(peer, _)| *peer)
    }

    /// Whether [`Endpoints::peers`] may be others than when this was last asked.
    pub fn take_hearers_changed(&mut self) -> bool {
        std::mem::replace(&mut self.hearers, Hearers::AsBefore) == Hearers::Changed
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
        self.shared.iter().filter_map(|mac| {
            let present: Vec<PeerId> =
                self.holders_of(*mac).filter(|peer| self.present.contains(peer)).collect();
            (present.len() > 1).then_some((*mac, present))
        })
    }

    fn macs_of(&self, peer: PeerId) -> impl Iterator<Item = Mac> {
        self.announced.range((peer, Mac([0; 6]))..=(peer, Mac([0xff; 6]))).map(|((_, mac), _)| *mac)
    }

    fn holders_of(&self, mac: Mac) -> impl Iterator<Item = PeerId> {
        let (one, many) = match self.holders.get(&mac) {
            None => (None, None),
            Some(Holders::One(peer)) => (Some(*peer), None),
            Some(Holders::Many(peers)) => (None, Some(peers)),
        };
        one.into_iter().chain(many.into_iter().flat_map(|peers| peers.iter().copied()))
    }

    fn add_holder(&mut self, mac: Mac, peer: PeerId) {
        match self.holders.entry(mac).or_insert(Holders::One(peer)) {
            Holders::One(one) if *one == peer => {}
            Holders::Many(many) => drop(many.insert(peer)),
            one @ Holders::One(_) => {
                let Holders::One(first) = *one else { return };
                *one = Holders::Many(BTreeSet::from([first, peer]));
                self.shared.insert(mac);
            }
        }
    }

    fn remove_holder(&mut self, mac: Mac, peer: PeerId) {
        let Some(holders) = self.holders.get_mut(&mac) else { return };
        match holders {
            Holders::One(_) => drop(self.holders.remove(&mac)),
            Holders::Many(many) => {
                many.remove(&peer);
                if let (Some(&last), 1) = (many.first(), many.len()) {
                    *holders = Holders::One(last);
                    self.shared.remove(&mac);
                }
            }
        }
    }

    fn resolve(&mut self, mac: Mac, owns: &impl Fn(PeerId, Ipv4Addr) -> bool) {
        let holders = self.holders_of(mac).filter(|peer| self.present.contains(peer));
        let holders = holders.filter_map(|peer| Some((peer, self.announced.get(&(peer, mac))?)));
        let winner = holders.min_by_key(|(peer, said)| {
            let v4 = mac.container_address().or(said.as_ref().and_then(|advert| advert.v4));
            (*peer != self.me, !v4.is_some_and(|v4| owns(*peer, v4)), *peer)
        });
        let winner = winner.map(|(peer, said)| (peer, said.clone()));
        if self.resolved.get(&mac) == winner.as_ref() {
            return;
        }
        if let Some((owner, old)) = self.resolved.remove(&mac) {
            self.count_hearing(mac, owner, &old, |hearing| hearing - 1);
            for address in addresses(&old) {
                if self.by_address.get(&address) == Some(&mac) {
                    self.by_address.remove(&address);
                }
            }
        }
        match winner {
            Some((owner, said)) => {
                let mut addresses = addresses(&said);
                addresses.retain(|address| !self.is_anothers(mac, *address));
                self.by_address.extend(addresses.iter().map(|address| (*address, mac)));
                self.count_hearing(mac, owner, &said, |hearing| hearing + 1);
                self.resolved.insert(mac, (owner, said));
                self.changes.push_back(Change::Upsert { mac, owner, addresses });
            }
            None => self.changes.push_back(Change::Remove { mac }),
        }
    }

    /// An endpoint is shown or hidden: counts it, if it hears broadcast.
    fn count_hearing(&mut self, mac: Mac, owner: PeerId, said: &Said, count: impl Fn(usize) -> usize) {
        if owner == self.me || (mac == Mac::of_host(owner) && addresses(said).is_empty()) {
            return;
        }
        let hearing = &mut self.counts.entry(owner).or_default().hearing;
        let before = *hearing;
        *hearing = count(before);
        if (before == 0) != (*hearing == 0) {
            self.hearers = Hearers::Changed;
        }
    }
}

fn addresses(said: &Said) -> Vec<IpAddr> {
    said.as_ref().map(|advert| advert.addresses()).unwrap_or_default()
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
        assert_eq!(table.peers().count(), 0);
        table.set_present(LOW, Presence::Here, |_, _| false);
        assert!(matches!(table.poll_change(), Some(Change::Upsert { owner: LOW, .. })));
        assert_eq!(table.poll_change(), None);
    }

    #[test]
    fn bare_bridge_is_no_reason_to_send_broadcast() {
        let mut table = table();
        table.announce(LOW, Mac::of_host(LOW), EndpointAdvert::default(), |_, _| false);
        assert_eq!(table.peers().count(), 0);
        assert_eq!(table.counts().get(&LOW), None);
        table.announce(LOW, Mac::of_host(LOW), advert(), |_, _| false);
        assert_eq!(table.peers().collect::<Vec<_>>(), [LOW]);
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

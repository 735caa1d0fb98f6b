//! The forwarding table: which peer each hardware address is at, and which hardware address each container address has.
//!
//! Filled from what peers announce, never learned from traffic. The threads read a snapshot; this is plain data, and cheap to copy.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::keys::PeerId;
use super::shards::Shards;
use crate::core::mac::Mac;

/// Where an endpoint is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// On the bridge of this host.
    Local,
    /// At another router.
    Peer(PeerId),
}

/// A container, or whatever else has a hardware address on the segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Where it is.
    pub owner: Owner,
    /// Its addresses, for which its hardware address is given to those who ask.
    pub ips: Vec<IpAddr>,
}

/// The table.
#[derive(Clone, Default)]
pub struct EndpointTable {
    /// All that is read for each frame: apart from the rest, so that more of it fits the cache.
    owners: Shards<Mac, Owner>,
    by_ip: Shards<IpAddr, Mac>,
    /// The addresses of each endpoint, for changes alone; shared by all snapshots.
    ips: Shards<Mac, Arc<[IpAddr]>>,
    /// Addresses listed by all endpoints together; more than `by_ip` has entries only while some are claimed twice.
    listed: usize,
    flood: Vec<PeerId>,
    ranges: Vec<IpNet>,
    every_hosts: Vec<IpAddr>,
}

impl EndpointTable {
    /// Sets an endpoint, in place of what its hardware address had before. Of two that claim an address, the later one has it.
    pub fn upsert(&mut self, mac: Mac, endpoint: Endpoint) {
        self.remove(mac);
        for ip in &endpoint.ips {
            self.by_ip.insert(*ip, mac);
        }
        self.listed += endpoint.ips.len();
        self.owners.insert(mac, endpoint.owner);
        self.ips.insert(mac, endpoint.ips.into());
    }

    /// Removes an endpoint. An address that another one claims too falls back to that one.
    pub fn remove(&mut self, mac: Mac) -> Option<Endpoint> {
        let removed = Endpoint { owner: self.owners.remove(&mac)?, ips: self.ips.remove(&mac)?.to_vec() };
        let contested = self.listed > self.by_ip.len();
        self.listed -= removed.ips.len();
        for ip in &removed.ips {
            if self.by_ip.get(ip) == Some(&mac) {
                self.by_ip.remove(ip);
                // Removals are frequent and doubly claimed addresses rare, so all endpoints are walked only for these.
                if contested && let Some(other) = self.claimants(*ip).min() {
                    self.by_ip.insert(*ip, other);
                }
            }
        }
        Some(removed)
    }

    /// Who gets broadcast and multicast.
    pub fn set_flood_peers(&mut self, peers: Vec<PeerId>) {
        self.flood = peers;
    }

    /// The ranges whose addresses are all announced: nobody is asked for unknown ones.
    pub fn set_ranges(&mut self, ranges: Vec<IpNet>) {
        self.ranges = ranges;
    }

    /// Addresses that every host has for itself: nobody on another host is asked for them.
    pub fn set_every_hosts(&mut self, addresses: Vec<IpAddr>) {
        self.every_hosts = addresses;
    }

    /// Whether every host has this address for itself.
    pub fn is_every_hosts(&self, ip: IpAddr) -> bool {
        self.every_hosts.contains(&ip)
    }

    /// Where a hardware address is.
    pub fn owner(&self, mac: Mac) -> Option<Owner> {
        self.owners.get(&mac).copied()
    }

    /// Who holds an address.
    pub fn neighbour(&self, ip: IpAddr) -> Option<(Mac, Owner)> {
        let mac = *self.by_ip.get(&ip)?;
        Some((mac, self.owner(mac)?))
    }

    /// Whether every holder of this address would have been announced.
    pub fn in_range(&self, ip: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(&ip))
    }

    /// Who gets broadcast and multicast.
    pub fn flood_peers(&self) -> &[PeerId] {
        &self.flood
    }

    /// How many endpoints there are.
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn claimants(&self, ip: IpAddr) -> impl Iterator<Item = Mac> {
        self.ips.iter().filter(move |(_, ips)| ips.contains(&ip)).map(|(mac, _)| *mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_claim_has_the_address_until_it_goes() {
        let ip: IpAddr = "10.32.0.1".parse().expect("address");
        let (a, b) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        let remote = Owner::Peer(PeerId([9; 16]));
        let mut table = EndpointTable::default();
        table.upsert(a, Endpoint { owner: Owner::Local, ips: vec![ip] });
        table.upsert(b, Endpoint { owner: remote, ips: vec![ip] });
        assert_eq!(table.neighbour(ip), Some((b, remote)));
        table.remove(b);
        assert_eq!(table.neighbour(ip), Some((a, Owner::Local)));
        table.upsert(a, Endpoint { owner: Owner::Local, ips: vec![] });
        assert_eq!(table.neighbour(ip), None);
        assert_eq!(table.owner(a), Some(Owner::Local));
    }

    #[test]
    fn ranges_cover_both_families() {
        let mut table = EndpointTable::default();
        table.set_ranges(vec!["10.32.0.0/12".parse().expect("net"), "fd00:1::/48".parse().expect("net")]);
        assert!(table.in_range("10.47.255.255".parse().expect("address")));
        assert!(table.in_range("fd00:1::1".parse().expect("address")));
        assert!(!table.in_range("10.48.0.0".parse().expect("address")));
        assert!(!table.in_range("fe80::1".parse().expect("address")));
    }
}

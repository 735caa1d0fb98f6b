//! The start after a restart: what still exists is taken over, what was not finished is rolled back, as the shell does it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipam::{Rest, Ticket, Want};

use super::flow::read_entry;
use super::{Host, News, Told, held_by, holder};
use crate::disk::File;

/// How long an address that is in use without a lease is claimed from whoever owns it now, as in the shell.
const READOPT_DEADLINE: Duration = Duration::from_secs(30);

impl Host {
    pub(super) fn adopt(&mut self, now: Instant) {
        let found = self.disk.open(File::Attachments);
        let mut recorded: BTreeMap<u32, Ipv4Addr> = BTreeMap::new();
        for (container, address) in found.entries.iter().filter_map(|entry| read_entry(entry)) {
            match address {
                Some(address) => drop(recorded.insert(container, address)),
                None => drop(recorded.remove(&container)),
            }
        }
        for (&container, &address) in &recorded {
            if self.kernel.contains_key(&container) {
                self.announce(container, address, now);
            } else {
                self.forget(container, now);
            }
        }
        let strays: Vec<u32> =
            self.kernel.keys().filter(|container| !recorded.contains_key(container)).copied().collect();
        for stray in strays {
            self.adopt_stray(stray, found.damaged, now);
        }
        self.roll_back_leases(found.damaged, now);
    }

    /// An interface without a record: of an attach that was not finished, or of one whose record is damaged.
    fn adopt_stray(&mut self, stray: u32, may_be_missing: bool, now: Instant) {
        if !may_be_missing {
            self.kernel.remove(&stray);
            self.news.push(News::Notice(format!("interface of {stray} without a record is removed")));
            return;
        }
        let lease = self.leases().into_iter().find(|(container, _)| *container == stray);
        if let Some((_, address)) = lease {
            self.record(stray, address, Told::Nobody);
            self.announce(stray, address, now);
        }
    }

    fn roll_back_leases(&mut self, may_be_missing: bool, now: Instant) {
        let leases = self.leases();
        let Some(router) = &self.router else { return };
        let attachments = router.attachments.clone();
        for (container, _) in &leases {
            if !may_be_missing && !attachments.contains_key(container) {
                self.release(*container, Rest::Used, now);
            }
        }
        let leased: BTreeSet<Ipv4Addr> = leases.into_iter().map(|(_, address)| address).collect();
        for (container, address) in attachments {
            if !leased.contains(&address) {
                let deadline = now + READOPT_DEADLINE;
                self.with(now, |node, now| {
                    node.allocate(Ticket(0), holder(container), Want::Fixed(address), deadline, now);
                });
            }
        }
    }

    /// Containers with a lease here.
    pub fn leases(&self) -> Vec<(u32, Ipv4Addr)> {
        let Some(router) = &self.router else { return Vec::new() };
        router.node.leases().filter_map(|(owner, address)| Some((held_by(&owner)?, address))).collect()
    }
}

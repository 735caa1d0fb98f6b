//! Attaching and detaching: lease (durable), kernel, record (durable), answer; and back.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipam::{AllocateError, Lease, Owner, Rest, Ticket, Want};
use router::core::advert::EndpointAdvert;
use router::core::mac::Mac;
use router::core::names::{NameOwner, Said};

use super::{Host, LEASE_DEADLINE, News, Told, holder};
use crate::disk::DiskError;

/// First byte of an entry that tells of an attachment.
const ATTACHED: u8 = 1;
/// First byte of an entry that tells of its end.
const DETACHED: u8 = 2;

impl Host {
    /// Somebody wants a container attached.
    pub fn attach(&mut self, container: u32, want: Want, at: Duration) {
        let now = self.clock.read(at);
        let Some(router) = &mut self.router else { return };
        if router.unsure {
            self.news.push(News::Refused(container, "the journal was damaged".to_owned()));
            return;
        }
        router.next_ticket += 1;
        let ticket = Ticket(router.next_ticket);
        router.leases.insert(ticket, container);
        router.node.allocate(ticket, holder(container), want, now + LEASE_DEADLINE, now);
    }

    pub(super) fn leased(&mut self, ticket: Ticket, result: Result<Lease, AllocateError>) {
        let Some(router) = &mut self.router else { return };
        let Some(container) = router.leases.remove(&ticket) else { return };
        self.news.push(match result {
            Ok(lease) => News::Leased(container, lease.addr),
            Err(error) => News::Refused(container, error.to_string()),
        });
    }

    /// Makes the interface of a leased address, then writes the record.
    pub fn wire(&mut self, container: u32, address: Ipv4Addr, at: Duration) {
        let now = self.clock.read(at);
        let Some(router) = &self.router else { return };
        if router.node.ipam().owner_of(address) != Some(holder(container)) {
            // As the shell: the space was given away in between.
            self.kernel.remove(&container);
            return self.news.push(News::Refused(container, "the router leaves, or was removed".to_owned()));
        }
        self.kernel.insert(container, address);
        self.news.push(News::Wired(container, address));
        self.announce(container, address, now);
        self.record(container, address, Told::Attached(container, address));
    }

    pub(super) fn record(&mut self, container: u32, address: Ipv4Addr, told: Told) {
        if let Some(router) = &mut self.router {
            router.attachment_writes.push((attached_entry(container, address), told));
        }
    }

    /// Somebody wants a container detached. Works the same on a container that was never attached.
    pub fn detach(&mut self, container: u32, at: Duration) {
        let now = self.clock.read(at);
        if self.router.is_none() {
            return;
        }
        self.kernel.remove(&container);
        self.forget(container, now);
        self.release(container, Rest::Used, now);
        if let Some(router) = &mut self.router {
            router.after_ipam.push(Told::Detached(container));
        }
    }

    pub(super) fn tell(&mut self, told: Told, durable: Result<(), DiskError>, now: Instant) {
        match (told, durable) {
            (Told::Attached(container, address), Ok(())) => {
                self.news.push(News::Attached(container, address));
            }
            (Told::Attached(container, _), Err(_)) => {
                self.kernel.remove(&container);
                self.forget(container, now);
                self.release(container, Rest::NeverUsed, now);
                self.news.push(News::Refused(container, "state is not durable".to_owned()));
            }
            (Told::Detached(container), Ok(())) => self.news.push(News::Detached(container)),
            (Told::Detached(container), Err(_)) => {
                self.news.push(News::Notice(format!("detach of {container} is not durable")));
            }
            (Told::Nobody, _) => {}
        }
    }

    /// Keeps an attachment in mind and announces it.
    pub(super) fn announce(&mut self, container: u32, address: Ipv4Addr, now: Instant) {
        let Some(router) = &mut self.router else { return };
        let v6 = router.node.embed(address);
        let advert = EndpointAdvert { v4: Some(address), v6: Some(v6), name: None };
        router.node.announce(Mac::of_container(address), advert, now);
        if is_named(container)
            && let Some(said) = said(container, address)
        {
            router.node.name(&NameOwner::Endpoint(Mac::of_container(address)), said, now);
        }
        router.attachments.insert(container, address);
    }

    /// Forgets an attachment and writes that down; that need not be durable.
    pub(super) fn forget(&mut self, container: u32, now: Instant) {
        let Some(router) = &mut self.router else { return };
        if let Some(address) = router.attachments.remove(&container) {
            router.node.retract(Mac::of_container(address), now);
            router.node.unname(&NameOwner::Endpoint(Mac::of_container(address)), now);
        }
        router.attachment_writes.push((detached_entry(container), Told::Nobody));
    }

    pub(super) fn release(&mut self, container: u32, rest: Rest, now: Instant) {
        self.release_owner(&holder(container), rest, now);
    }

    pub(super) fn release_owner(&mut self, owner: &Owner, rest: Rest, now: Instant) {
        self.with(now, |node, now| node.release(owner, rest, now));
    }
}

/// Every fourth container has a name: enough to find what is wrong with names, for a quarter of the records.
pub(crate) fn is_named(container: u32) -> bool {
    container.is_multiple_of(4)
}

/// The same name for several, on all hosts.
pub(crate) fn name_of(container: u32) -> String {
    format!("c{}", container % 16)
}

fn said(container: u32, address: Ipv4Addr) -> Option<Said> {
    Said::new([name_of(container).parse().ok()?], [address.into()]).ok()
}

fn attached_entry(container: u32, address: Ipv4Addr) -> Vec<u8> {
    let mut entry = vec![ATTACHED];
    entry.extend_from_slice(&container.to_be_bytes());
    entry.extend_from_slice(&address.octets());
    entry
}

fn detached_entry(container: u32) -> Vec<u8> {
    let mut entry = vec![DETACHED];
    entry.extend_from_slice(&container.to_be_bytes());
    entry
}

/// Reads what the two above wrote: the container, and its address if it was attached.
pub(super) fn read_entry(entry: &[u8]) -> Option<(u32, Option<Ipv4Addr>)> {
    let number = |at: usize| Some(u32::from_be_bytes(entry.get(at..at + 4)?.try_into().ok()?));
    match *entry.first()? {
        ATTACHED => Some((number(1)?, Some(Ipv4Addr::from_bits(number(5)?)))),
        DETACHED => Some((number(1)?, None)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_round_trip() {
        let address = Ipv4Addr::new(10, 32, 0, 9);
        assert_eq!(read_entry(&attached_entry(7, address)), Some((7, Some(address))));
        assert_eq!(read_entry(&detached_entry(7)), Some((7, None)));
        assert_eq!(read_entry(&[9, 9]), None);
    }
}

//! The end of a life: faults stop, operators put right what only they can, and all views have to become the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::PoisonError;
use std::time::Duration;

use gossip::{MemberState, PeerId};
use ipam::Standing;
use router::core::mac::Mac;

use super::operator::Order;
use super::{What, World};
use crate::history::Subject;
use crate::host::{is_named, name_of};
use crate::model::{Check, Failure, Fate, run};

/// Time before the operators look: removals and deaths have spread.
const FIRST_LOOK: Duration = Duration::from_secs(45);
/// Views have to agree so long after the faults stopped: the longest pauses of a minute twice over, and the operators' own time.
const BOUND: Duration = Duration::from_secs(300);
/// How often they look again at what is left of peers that are gone.
const NEXT_LOOK: Duration = Duration::from_secs(30);
/// The quiet time in which bytes are counted.
const QUIET: Duration = Duration::from_secs(20);
/// Bytes that one quiet router may send in a second, headers not counted. Small fabrics have more probes for each peer.
const QUIET_BYTES: u64 = 10_000;
/// Datagrams that one quiet router may send in a second.
const QUIET_DATAGRAMS: u64 = 100;

/// How a life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// From the end of the faults until all views were the same.
    pub took: Duration,
    /// Bytes that one quiet router sends in a second.
    pub quiet_bytes: u64,
    /// The most bytes, and the most datagrams, that one router sent within ten seconds while things went wrong.
    pub busiest: (u64, u64),
}

/// What keeps views from being the same.
struct Difference {
    check: Check,
    text: String,
    subject: Subject,
}

impl From<Failure> for Difference {
    fn from(Failure { check, text, subject }: Failure) -> Self {
        Difference { check, text, subject }
    }
}

impl World {
    /// Ends all faults and waits until everything is in order again.
    pub fn settle(&mut self) -> Result<Settled, Failure> {
        let start = self.now;
        self.history.note(self.now, 0, "FAULTS STOP");
        let most = self.held.iter().map(|held| held.busy.most);
        let busiest = most.reduce(|a, b| (a.0.max(b.0), a.1.max(b.1))).unwrap_or_default();
        self.stop_faults();
        for host in 0..self.hosts.len() as u16 {
            if self.model.fate(host) != Fate::Gone {
                self.start(host)?;
            }
        }
        self.run(self.now + FIRST_LOOK)?;
        self.look_after()?;
        let mut next_look = self.now + NEXT_LOOK;
        while let Err(difference) = self.compare() {
            if self.now > start + BOUND {
                let Difference { check, text, subject } = difference;
                return Err(Failure { check, text, subject });
            }
            self.run(self.now + Duration::from_secs(1))?;
            if self.now >= next_look {
                next_look = self.now + NEXT_LOOK;
                self.look_after()?;
            }
        }
        let took = self.now - start;
        let quiet_bytes = self.measure_quiet()?;
        Ok(Settled { took, quiet_bytes, busiest })
    }

    fn stop_faults(&mut self) {
        self.queue.retain(|what| match what {
            What::Deliver(_) | What::Wake { .. } | What::Wire { .. } => true,
            What::Order(Order::Goodbye { .. } | Order::Forget { .. } | Order::Join(_)) => true,
            What::Order(Order::Remove { .. }) | What::Act(_) | What::Undo(_) => false,
        });
        self.network.heal();
        for host in 0..self.hosts.len() as u16 {
            let index = usize::from(host);
            let here = &mut self.hosts[index];
            (here.disk.full, here.disk.trap, here.disk.delay) = (false, None, Duration::ZERO);
            here.clock.go(self.now);
            here.stuck = false;
            self.model.unstuck(host, here.clock.read(self.now));
            self.held[index] = super::Held::default();
            if here.fabric.secret != self.fabric.secret {
                here.fabric.secret = self.fabric.secret;
                self.stop(host);
            }
            let leaving = self.hosts[index].router.as_ref().and_then(|r| r.node.ipam().summary().leaving_to);
            // Copies are switched off. Whoever is leaving goes on with that.
            if self.model.fate(host) == Fate::Gone && leaving.is_none() {
                self.stop(host);
            }
            self.schedule(host);
        }
    }

    /// What only people can do: say who will not come back.
    fn look_after(&mut self) -> Result<(), Failure> {
        for host in 0..self.hosts.len() as u16 {
            let index = usize::from(host);
            let Some(router) = &self.hosts[index].router else { continue };
            let id = self.hosts[index].id;
            let clone = router.is_clone && router.node.sessions().is_quarantined();
            match (router.node.ipam().is_removed(id), router.node.ipam().summary().leaving_to) {
                (true, _) => {
                    self.stop(host);
                    self.model.set_fate(host, Fate::Gone);
                }
                (false, Some(_)) => {
                    self.order(Order::Goodbye { host, life: self.hosts[index].lives })?;
                }
                (false, None) if clone => {
                    self.stop(host);
                    self.start(host)?;
                }
                (false, None) if self.model.fate(host) == Fate::Removed => {
                    self.model.set_fate(host, Fate::Member);
                }
                (false, None) => {}
            }
        }
        for gone in 0..self.hosts.len() as u16 {
            if self.model.fate(gone) == Fate::Gone && !self.is_copy(gone) {
                self.order(Order::Remove { at: 0, gone, tries: 0 })?;
            }
        }
        Ok(())
    }

    /// Whether another host has the same identity and belongs to the fabric.
    fn is_copy(&self, host: u16) -> bool {
        let id = self.hosts[usize::from(host)].id;
        let same =
            |other: &crate::host::Host| other.id == id && self.model.fate(other.number) == Fate::Member;
        self.hosts.iter().any(same)
    }

    pub(super) fn members(&self) -> Vec<u16> {
        (0..self.hosts.len() as u16).filter(|host| self.model.fate(*host) == Fate::Member).collect()
    }

    fn compare(&self) -> Result<(), Difference> {
        let members = self.members();
        for &host in &members {
            let here = &self.hosts[usize::from(host)];
            if here.router.is_none() {
                return different(Check::Converged, format!("host {host} does not run"));
            }
        }
        self.compare_membership(&members)?;
        self.check_future(&members).map_err(Difference::from)?;
        self.compare_blocks(&members)?;
        self.compare_tables(&members)?;
        self.compare_names(&members)
    }

    fn compare_membership(&self, members: &[u16]) -> Result<(), Difference> {
        let ids: BTreeSet<PeerId> = members.iter().map(|host| self.hosts[usize::from(*host)].id).collect();
        let mut digest = None;
        for host in members {
            let here = &self.hosts[usize::from(*host)];
            let Some(router) = &here.router else { continue };
            let alive = router.node.members().filter(|member| member.state == MemberState::Alive);
            let alive: BTreeSet<PeerId> = alive.map(|member| member.id).chain([here.id]).collect();
            if alive != ids {
                let text = format!("host {host} holds {} for alive, want {}", alive.len(), ids.len());
                return different(Check::Converged, text);
            }
            let own = router.node.gossip_digest();
            let first = *digest.get_or_insert(own);
            if own != first {
                return different(
                    Check::Converged,
                    format!("host {host} knows other records than the first"),
                );
            }
        }
        Ok(())
    }

    fn compare_blocks(&self, members: &[u16]) -> Result<(), Difference> {
        let ids: BTreeSet<PeerId> = members.iter().map(|host| self.hosts[usize::from(*host)].id).collect();
        let mut first: Option<Vec<ipam::Block>> = None;
        for host in members {
            let Some(router) = &self.hosts[usize::from(*host)].router else { continue };
            let summary = router.node.ipam_summary();
            let unconfirmed = summary.unconfirmed > 0 && self.model.is_pure();
            if summary.waiting > 0 || !summary.takeovers.is_empty() || unconfirmed {
                let text = format!(
                    "host {host} has not come to an end: {} wait, {} unconfirmed, takeovers {:?}",
                    summary.waiting, summary.unconfirmed, summary.takeovers
                );
                return different(Check::SpaceKept, text);
            }
            let blocks: Vec<ipam::Block> = router.node.ipam().blocks().collect();
            for block in &blocks {
                let wrong = block.standing == Standing::Contested || !ids.contains(&block.owner);
                if wrong && !self.model.is_tainted(block.prefix.addr()) {
                    let text = format!("host {host} sees {block:?}, whose owner is nobody who can use it");
                    let subject = Subject::Address(block.prefix.addr());
                    return Err(Difference { check: Check::SpaceKept, text, subject });
                }
            }
            if let Some(run) = self.lost_space(&blocks) {
                let (first, last) = (Ipv4Addr::from_bits(run.0), Ipv4Addr::from_bits(run.1));
                let text = format!("host {host} knows no owner of {first} to {last}");
                return Err(Difference { check: Check::SpaceKept, text, subject: Subject::Address(first) });
            }
            match &first {
                None => first = Some(blocks),
                Some(first) => self.compare_views(*host, &blocks, first)?,
            }
        }
        Ok(())
    }

    /// The first addresses that no block covers, unless somebody's disk lost them or a seed that never came is to take them (ADR 0009).
    fn lost_space(&self, blocks: &[ipam::Block]) -> Option<(u32, u32)> {
        let mut covered: Vec<(u32, u32)> = blocks.iter().map(|block| run(block.prefix)).collect();
        covered.extend(self.model.tainted_runs());
        covered.extend(self.parts_of_missing_seeds());
        covered.sort_unstable();
        let (first, last) = run(self.fabric.range);
        let mut next = first;
        for (from, to) in covered {
            if from > next {
                return Some((next, from - 1));
            }
            next = next.max(to.checked_add(1)?);
        }
        (next <= last).then_some((next, last))
    }

    fn parts_of_missing_seeds(&self) -> Vec<(u32, u32)> {
        let Some(seeds) = &self.fabric.seeds else { return Vec::new() };
        let missing = (0..seeds.names().len() as u16).filter(|host| self.model.fate(*host) != Fate::Member);
        let parts =
            missing.filter_map(|host| seeds.part(&crate::host::nickname(host), self.fabric.range).ok());
        parts.flatten().map(run).collect()
    }

    /// Two views of who owns what, at all borders of both.
    fn compare_views(
        &self,
        host: u16,
        blocks: &[ipam::Block],
        first: &[ipam::Block],
    ) -> Result<(), Difference> {
        if blocks == first {
            return Ok(());
        }
        let at = |blocks: &[ipam::Block], address: Ipv4Addr| {
            let found = blocks.iter().find(|block| block.prefix.contains(&address));
            found.map(|block| (block.owner, block.epoch))
        };
        let borders = blocks.iter().chain(first).flat_map(|b| [b.prefix.network(), b.prefix.broadcast()]);
        for address in borders.filter(|address| !self.model.is_tainted(*address)) {
            let (here, there) = (at(blocks, address), at(first, address));
            if here != there {
                let text = format!("host {host} sees {here:?} own {address}, the first host sees {there:?}");
                let subject = Subject::Address(address);
                return Err(Difference { check: Check::Converged, text, subject });
            }
        }
        Ok(())
    }

    /// The forwarding table of every router has every container, and nothing else.
    fn compare_tables(&self, members: &[u16]) -> Result<(), Difference> {
        let mut wanted: BTreeMap<Ipv4Addr, PeerId> = BTreeMap::new();
        for host in members {
            let here = &self.hosts[usize::from(*host)];
            let Some(router) = &here.router else { continue };
            wanted.extend(router.attachments.values().map(|address| (*address, here.id)));
        }
        wanted.retain(|address, _| !self.model.is_tainted(*address));
        for host in members {
            let Some(router) = &self.hosts[usize::from(*host)].router else { continue };
            let entries =
                router.table.iter().filter_map(|(mac, owner)| Some((mac.container_address()?, *owner)));
            let table: BTreeMap<Ipv4Addr, PeerId> =
                entries.filter(|(address, _)| !self.model.is_tainted(*address)).collect();
            if table != wanted {
                let odd = table.iter().find(|entry| wanted.get(entry.0) != Some(entry.1));
                let missing = wanted.keys().find(|address| !table.contains_key(address));
                let address = missing.copied().or(odd.map(|entry| *entry.0)).unwrap_or(Ipv4Addr::UNSPECIFIED);
                let text = format!(
                    "the table of host {host} lacks {missing:?} ({:?}) and has {odd:?} too much",
                    missing.map(|address| Mac::of_container(*address))
                );
                let subject = Subject::Address(address);
                return Err(Difference { check: Check::Converged, text, subject });
            }
        }
        Ok(())
    }

    /// Every router finds every named container, and nothing else.
    fn compare_names(&self, members: &[u16]) -> Result<(), Difference> {
        let routers =
            members.iter().filter_map(|host| Some((*host, self.hosts[usize::from(*host)].router.as_ref()?)));
        let attached = routers.clone().flat_map(|(_, router)| &router.attachments);
        let wanted: BTreeSet<(String, IpAddr)> = attached
            .filter(|(container, address)| is_named(**container) && !self.model.is_tainted(**address))
            .map(|(container, address)| (name_of(*container), (*address).into()))
            .collect();
        for (host, router) in routers {
            let index = router.node.names();
            let index = index.read().unwrap_or_else(PoisonError::into_inner);
            let found: BTreeSet<(String, IpAddr)> = index
                .entries()
                .flat_map(|(name, _, addresses)| addresses.iter().map(|at| (name.to_string(), *at)))
                .filter(|(_, at)| !matches!(at, IpAddr::V4(at) if self.model.is_tainted(*at)))
                .collect();
            if found != wanted {
                let odd = found.symmetric_difference(&wanted).next();
                let text = format!("host {host} and the containers differ about the name {odd:?}");
                return different(Check::Converged, text);
            }
        }
        Ok(())
    }

    fn measure_quiet(&mut self) -> Result<u64, Failure> {
        let (bytes, datagrams) = (self.counts.bytes, self.counts.datagrams);
        self.held.iter_mut().for_each(|held| held.sent = 0);
        self.run(self.now + QUIET)?;
        let each = self.members().len().max(1) as u64 * QUIET.as_secs();
        let (bytes, datagrams) =
            ((self.counts.bytes - bytes) / each, (self.counts.datagrams - datagrams) / each);
        if bytes > QUIET_BYTES || datagrams > QUIET_DATAGRAMS {
            let each: Vec<u64> = self.held.iter().map(|held| held.sent / QUIET.as_secs()).collect();
            let text =
                format!("a quiet router sends {bytes} bytes in {datagrams} datagrams each second: {each:?}");
            return Err(Failure { check: Check::Budget, text, subject: Subject::All });
        }
        Ok(bytes)
    }
}

fn different(check: Check, text: String) -> Result<(), Difference> {
    Err(Difference { check, text, subject: Subject::All })
}

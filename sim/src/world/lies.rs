//! A member that lies: a whole router whose disk somebody has written to, or who announces what is not its own.
//!
//! It may harm only what it owns itself. That is not so for a record that skips epochs, which nobody can judge (ADR 0004), so no such
//! lie is told here.

use ipam::{JournalEntry, Standing};
use router::core::advert::EndpointAdvert;
use router::core::mac::Mac;

use super::World;
use crate::disk::File;
use crate::fault::{Fault, Kind};
use crate::model::{Failure, Fate};

impl World {
    /// From now on the host is no member in the eyes of the model, but of all other routers.
    pub(super) fn lie(&mut self, fault: Fault) -> Result<bool, Failure> {
        let Fault { kind, host, other, how, .. } = fault;
        let count = self.hosts.len() as u16;
        let third = (other + 1) % count;
        let honest = self.members().into_iter().filter(|n| self.runs(*n) && *n != host).count();
        let fits = self.runs(host)
            && self.model.fate(host) == Fate::Member
            && self.model.fate(other) == Fate::Member;
        if !fits || honest < 2 || host == other || third == host || third == other {
            return Ok(false);
        }
        let index = usize::from(host);
        self.taint_journal(host, &self.hosts[index].disk.clone());
        self.model.set_fate(host, Fate::Gone);
        match kind {
            Kind::LyingEndpoint => self.announce_of(host, other, how)?,
            _ => self.give_of(host, other, third)?,
        }
        Ok(true)
    }

    /// It says that a container of another host is its own.
    fn announce_of(&mut self, host: u16, victim: u16, how: u64) -> Result<(), Failure> {
        let placed = self.model.placed_on(victim);
        if !placed.is_empty() {
            let (_, address) = placed[(how % placed.len() as u64) as usize];
            let here = &mut self.hosts[usize::from(host)];
            let now = here.clock.read(self.now);
            let advert = EndpointAdvert { v4: Some(address), v6: None, name: None };
            here.with(now, |node, now| node.announce(Mac::of_container(address), advert, now));
        }
        self.turn(host)
    }

    /// It gives a block of another host to a third one, with the epoch that comes next.
    fn give_of(&mut self, host: u16, victim: u16, third: u16) -> Result<(), Failure> {
        let index = usize::from(host);
        let (me, victim, owner) =
            (self.hosts[index].id, self.hosts[usize::from(victim)].id, self.hosts[usize::from(third)].id);
        let blocks = self.hosts[index].router.iter().flat_map(|router| router.node.ipam().blocks());
        let theirs = blocks.filter(|block| {
            let known = self.hosts[usize::from(third)]
                .router
                .as_ref()
                .is_some_and(|router| router.node.ipam().blocks().any(|theirs| theirs == *block));
            block.owner == victim && block.standing == Standing::Clean && known
        });
        let forged: Vec<Vec<u8>> = theirs
            .map(|block| {
                let record = ipam::BlockRecord { prefix: block.prefix, owner, epoch: block.epoch + 1 };
                JournalEntry::Block { signer: me, record, standing: Standing::Clean }.encode()
            })
            .collect();
        self.stop(host);
        // A disk without room keeps it honest.
        let _ = self.hosts[index].disk.append(File::Ipam, &forged);
        let address = self.network.own_address(host);
        self.hosts[index].start(address, self.now);
        self.turn(host)
    }
}

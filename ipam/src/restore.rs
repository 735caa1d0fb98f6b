//! The journal: what a restart brings back, and what a compacted journal consists of.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use gossip::RecordKey;
use ipnet::Ipv4Net;

use crate::Ipam;
use crate::doubt::Memory;
use crate::ipam::{Publish, Trust};
use crate::journal::JournalEntry;
use crate::map::{Holding, Standing};
use crate::record::{BlockRecord, FreeRecord};
use crate::span::Span;

/// Why a journal does not fit this allocator: its configuration was changed, or it belongs to another fabric.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A block or address of another range.
    #[error("`{found}` in the journal is outside of the range {range}")]
    OutOfRange {
        /// What the journal says.
        found: Ipv4Net,
        /// The range that is configured.
        range: Ipv4Net,
    },
}

impl Ipam {
    /// Takes one journal entry back in, in the order in which they were written. Finish with [`Ipam::restored`].
    pub fn restore(&mut self, entry: JournalEntry) -> Result<(), RestoreError> {
        match entry {
            JournalEntry::Block { signer, record, standing } => {
                self.check_range(record.prefix)?;
                let holding = Holding { standing, ..Holding::new(signer, &record) };
                self.map.restore(record.prefix, holding);
                if signer == self.me {
                    self.records.insert(record.prefix, record);
                }
            }
            JournalEntry::Lease { addr, owner } => {
                self.check_range(addr.into())?;
                self.space.drop_lease(addr.to_bits());
                self.restoring.remove(&addr.to_bits());
                self.space.lease(addr.to_bits(), &owner);
            }
            JournalEntry::Resting { addr } => {
                self.space.drop_lease(addr.to_bits());
                self.restoring.insert(addr.to_bits());
            }
            JournalEntry::Free { addr } => {
                self.space.drop_lease(addr.to_bits());
            }
            JournalEntry::Lost { addr, owner } => {
                self.space.drop_lease(addr.to_bits());
                self.lost.insert(addr.to_bits(), owner);
            }
            JournalEntry::LostGone { addr } => {
                self.lost.remove(&addr.to_bits());
            }
            JournalEntry::Removal(removal) => {
                // Known or new makes no difference: the consequences are drawn at the end.
                let _ = self.removals.insert(removal);
            }
            JournalEntry::Member(peer) => {
                self.members.insert(peer);
            }
            JournalEntry::HandedOver(heir) => self.leaving = Some(heir),
            JournalEntry::TakenOver(removed) => self.removals.note_taken_over(removed),
            JournalEntry::Distrusted => self.distrust(),
            JournalEntry::Trusted => (self.trust, self.memory) = (Trust::Sure, Memory::Whole),
        }
        Ok(())
    }

    /// Before [`Ipam::restored`]: entries of the journal may be missing. Own space is out of use until [`Ipam::trust`].
    pub fn distrust(&mut self) {
        self.trust = Trust::Unsure;
        self.memory = Memory::Holes;
    }

    /// Whether own space is out of use until [`Ipam::trust`].
    pub fn distrusts_journal(&self) -> bool {
        self.trust == Trust::Unsure
    }

    /// The fabric was heard: what is still ours is ours, and is used again. No-op unless [`Ipam::distrust`] was called.
    pub fn trust(&mut self, now: Instant) {
        if std::mem::replace(&mut self.trust, Trust::Sure) == Trust::Unsure {
            self.out.persist(JournalEntry::Trusted);
            self.regain();
            self.put_to_rest(now);
            self.drop_foreign_leases();
            self.pass_on(now);
            self.turn(now);
        }
    }

    /// All entries are in: rebuilds what follows from them, and publishes again what others may have missed.
    pub fn restored(&mut self, now: Instant) {
        self.listens_until = (!self.records.is_empty()).then(|| now + self.config.removal_settle);
        match self.trust {
            Trust::Sure => {
                self.regain();
                self.put_to_rest(now);
                self.drop_foreign_leases();
            }
            Trust::Unsure => self.out.persist(JournalEntry::Distrusted),
        }
        self.publish_all(now);
        self.take_up_offers(now);
        self.pass_on(now);
        self.claim_inherited(now);
        self.consider_takeovers(now);
        self.consider_forwarding_all(now);
        self.turn(now);
    }

    /// Entries that bring back the present state, fewer than the journal has. Resting addresses rest anew.
    pub fn snapshot(&self) -> Vec<JournalEntry> {
        let mut entries: Vec<JournalEntry> =
            self.members.iter().map(|&peer| JournalEntry::Member(peer)).collect();
        let clean = Standing::Clean;
        entries.extend(self.records.values().map(|&record| JournalEntry::Block {
            signer: self.me,
            record,
            standing: clean,
        }));
        for (span, holding) in self.map.iter() {
            if holding.signer == self.me && holding.standing == clean {
                continue;
            }
            entries.extend(span.blocks().map(|prefix| JournalEntry::Block {
                signer: holding.signer,
                record: BlockRecord { prefix, owner: holding.owner, epoch: holding.epoch },
                standing: holding.standing,
            }));
        }
        entries.extend(self.removals.claims().map(JournalEntry::Removal));
        entries.extend(self.removals.taken_over().map(JournalEntry::TakenOver));
        entries.extend(self.leaving.map(JournalEntry::HandedOver));
        entries.extend((self.trust == Trust::Unsure).then_some(JournalEntry::Distrusted));
        let address = Ipv4Addr::from_bits;
        entries.extend(
            self.space
                .leases()
                .map(|(addr, holder)| JournalEntry::Lease { addr: address(addr), owner: Arc::clone(holder) }),
        );
        let resting = self.space.resting().chain(self.restoring.iter().copied());
        entries.extend(resting.map(|addr| JournalEntry::Resting { addr: address(addr) }));
        entries.extend(
            self.lost
                .iter()
                .map(|(&addr, holder)| JournalEntry::Lost { addr: address(addr), owner: Arc::clone(holder) }),
        );
        entries
    }

    fn put_to_rest(&mut self, now: Instant) {
        for addr in std::mem::take(&mut self.restoring) {
            if self.map.at(addr).is_some_and(|holding| self.is_usable(&holding)) {
                self.space.put_to_rest(addr, now + self.config.rest);
            }
        }
    }

    fn check_range(&self, found: Ipv4Net) -> Result<(), RestoreError> {
        let span = Span::of(found);
        match span.intersection(self.range) == Some(span) {
            true => Ok(()),
            false => Err(RestoreError::OutOfRange { found, range: self.config.range }),
        }
    }

    /// A crash can come between the loss of space and the note about its leases.
    fn drop_foreign_leases(&mut self) {
        let removed = self.removals.is_removed(self.me);
        let ours = |addr| {
            let holding = self.map.at(addr);
            !removed && holding.is_some_and(|holding| holding.owner == self.me && holding.signer == self.me)
        };
        let foreign: Vec<u32> =
            self.space.leases().map(|(addr, _)| addr).filter(|&addr| !ours(addr)).collect();
        for addr in foreign {
            if let Some(holder) = self.space.drop_lease(addr) {
                self.remember_lost(addr, holder);
            }
        }
    }

    /// Somebody published, with our identity, what is filed under `key`: a copy of this router, or an earlier life of it. What we
    /// still say there is said again, or gossip would take it for forgotten and withdraw it.
    pub fn publish_again(&mut self, key: &RecordKey) {
        let block = self.records.values().find(|record| record.key() == *key).map(BlockRecord::encode);
        let deed = self.published.iter().find(|deed| deed.0.key() == *key).map(|deed| deed.encode());
        let mut claims = self.removals.claims().filter(|claim| claim.heir == self.me);
        let removal = claims.find(|claim| claim.key() == *key).map(|claim| claim.encode());
        let free =
            self.reported.filter(|_| FreeRecord::key() == *key).map(|free| FreeRecord { free }.encode());
        if let Some(value) = block.or(deed).or(removal).or(free) {
            self.out.publish(Publish { key: key.clone(), value: Some(value) });
        }
    }

    fn publish_all(&mut self, now: Instant) {
        let mut records: Vec<BlockRecord> = self.records.values().copied().collect();
        // The newest gifts stay known.
        records.sort_by_key(|record| record.epoch);
        for record in records {
            if !self.is_current(&record) {
                self.retire(record.prefix, now);
            }
        }
        for record in self.records.values() {
            self.out.publish(Publish { key: record.key(), value: Some(record.encode()) });
        }
        let own: Vec<_> = self.removals.claims().filter(|removal| removal.heir == self.me).collect();
        for removal in own {
            self.publish_removal(removal);
        }
    }
}

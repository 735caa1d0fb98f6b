//! A member that lies: a whole router whose disk somebody has written to, or who announces what is not its own.
//!
//! It may harm only what it owns itself, also where somebody is who has missed what it lies about (ADR 0011).

use std::time::Duration;

use gossip::wire::{Claim, MAX_ACCUSERS, Message, Rumour};
use gossip::{Kind as RecordKind, PeerId, Record, RecordKey};
use ipam::{JournalEntry, Standing};
use router::core::advert::EndpointAdvert;
use router::core::mac::Mac;

use super::trouble::Undo;
use super::{What, World};
use crate::disk::File;
use crate::fault::{Fault, Kind};
use crate::history::Subject;
use crate::model::{Check, Failure, Fate};

/// How often a liar says again who is dead.
const AGAIN: Duration = Duration::from_millis(500);
/// Rumours in one message; the longest ones have 150 bytes.
const RUMOURS: usize = 6;
/// After so long all members that hear each other have settled on one of two contents. Before gossip withdraws what its origin did not
/// mean, which takes 30 s.
const AGREED: Duration = Duration::from_secs(15);

/// How far ahead of what it knows the epochs of a lying gift are.
const SKIPPED: [u64; 4] = [1, 2, 9, 1000];

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
            Kind::LyingDeath => {
                let until = self.now + fault.lasts;
                self.accuse_all(host, how, until)?;
            }
            Kind::LyingTwice => self.say_two_things(host, how)?,
            _ => self.give_of(host, other, third, how)?,
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

    /// It gives blocks of another host to a third one, with the epoch that comes next or one far ahead.
    fn give_of(&mut self, host: u16, victim: u16, third: u16, how: u64) -> Result<(), Failure> {
        let index = usize::from(host);
        let (me, victim, owner) =
            (self.hosts[index].id, self.hosts[usize::from(victim)].id, self.hosts[usize::from(third)].id);
        let blocks = self.hosts[index].router.iter().flat_map(|router| router.node.ipam().blocks());
        let theirs = blocks.filter(|block| block.owner == victim && block.standing == Standing::Clean);
        let ahead = SKIPPED[(how % SKIPPED.len() as u64) as usize];
        let forged: Vec<Vec<u8>> = theirs
            .map(|block| {
                let record = ipam::BlockRecord { prefix: block.prefix, owner, epoch: block.epoch + ahead };
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

    /// It says to all neighbours that all others are dead, or that three peers cannot reach them.
    pub(super) fn accuse_all(&mut self, host: u16, how: u64, until: Duration) -> Result<(), Failure> {
        if self.now >= until || !self.runs(host) {
            return Ok(());
        }
        self.queue.push(self.now + AGAIN, What::Undo(Undo::Accuse { host, how, until }));
        let here = &mut self.hosts[usize::from(host)];
        let now = here.clock.read(self.now);
        here.with(now, |node, now| {
            let rumours: Vec<Rumour> = node.rumours().collect();
            let subjects: Vec<PeerId> = rumours.iter().map(|rumour| rumour.subject).collect();
            let accuse = |rumour: &Rumour| {
                let others = subjects.iter().copied().filter(|id| *id != rumour.subject);
                let claim = match how % 2 {
                    0 => Claim::Dead,
                    _ => Claim::Suspect { by: others.take(MAX_ACCUSERS).collect() },
                };
                Rumour { claim, ..rumour.clone() }
            };
            let accused: Vec<Rumour> = rumours.iter().map(accuse).collect();
            let neighbours: Vec<PeerId> = node.neighbours().collect();
            for to in neighbours {
                for some in accused.chunks(RUMOURS) {
                    node.send_strange(to, Message::Rumours(some.to_vec()).emit(), now);
                }
            }
        });
        self.turn(host)
    }

    /// It signs two contents with one version and tells every second neighbour one, the rest the other.
    fn say_two_things(&mut self, host: u16, how: u64) -> Result<(), Failure> {
        let here = &mut self.hosts[usize::from(host)];
        let now = here.clock.read(self.now);
        let mut mac = [0x02, 0, 0, 0, 0, 0];
        mac[1..5].copy_from_slice(&(how as u32).to_be_bytes());
        let key = RecordKey::new(RecordKind::ENDPOINT, mac);
        let identity = std::sync::Arc::clone(&here.identity);
        let sign = |name: &str| {
            let value = EndpointAdvert { v4: None, v6: None, name: Some(name.to_owned()) }.emit();
            // Of no boot that ever was, so that its own gossip takes it for forgotten and not at once for a copy's.
            let (origin, version) = (identity.peer_id(), 1 + how % 1000);
            let mut record =
                Record { origin, key: key.clone(), version, value: Some(value), signature: [0; 64] };
            record.signature = identity.sign(&record.signing_bytes());
            record
        };
        let contents = [sign("one"), sign("other")];
        here.with(now, |node, now| {
            let neighbours: Vec<PeerId> = node.neighbours().collect();
            for (n, to) in neighbours.into_iter().enumerate() {
                let message = Message::Push(vec![contents[n % contents.len()].clone()]);
                node.send_strange(to, message.emit(), now);
            }
        });
        let undo = Undo::Agree { origin: identity.peer_id(), key };
        self.queue.push(self.now + AGREED, What::Undo(undo));
        self.turn(host)
    }

    /// All members settled on one of the contents, whichever they heard first.
    pub(super) fn check_agreed(&self, origin: PeerId, key: &RecordKey) -> Result<(), Failure> {
        if !self.calm {
            return Ok(());
        }
        let members = self.members().into_iter().filter(|host| self.has_run_for(*host, AGREED));
        let holds = members.map(|host| {
            let router = self.hosts[usize::from(host)].router.as_ref();
            let mut records = router.into_iter().flat_map(|router| router.node.records());
            let found = records.find(|record| record.origin == origin && record.key == *key);
            (host, found.map(|record| record.value.clone()))
        });
        let holds: Vec<_> = holds.collect();
        match holds.iter().find(|(_, value)| *value != holds[0].1) {
            None => Ok(()),
            Some((host, value)) => {
                let first = (holds[0].0, &holds[0].1);
                let text = format!("of two contents host {host} holds {value:?}, and {first:?}");
                Err(Failure { check: Check::Converged, text, subject: Subject::All })
            }
        }
    }
}

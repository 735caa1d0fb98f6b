//! What this peer says itself: its records and their versions, its incarnation, and the word it gives for both.
//!
//! Things of its own that come back from others show what it forgot (an earlier boot), or that somebody else has its keys.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::gossip::{Event, Gossip};
use crate::keys::{Keys, Verdict};
use crate::membership::Change;
use crate::peer::PeerId;
use crate::planted::{Bug, planted};
use crate::record::{Kind, MAX_NAME, MAX_VALUE, Record, RecordKey};
use crate::rumours::Reach;
use crate::stats::DropReason;
use crate::store::{Judgement, MAX_RECORDS_PER_ORIGIN};
use crate::wire::{Claim, Class, Proven, Rumour, Standing, proof_bytes};

/// The least time between two times that everything is published again because of a clone: two that fight must not
/// flood the fabric.
const CLONE_PAUSE: Duration = Duration::from_secs(10);

/// The least time between two contradictions, for the same reason.
const REFUTE_PAUSE: Duration = Duration::from_millis(100);

/// Why something was not published. Nothing changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The name cannot be carried.
    #[error("record name of {got} bytes is too long, want at most {MAX_NAME}")]
    NameTooLong {
        /// Bytes of the name.
        got: usize,
    },
    /// The value cannot be carried.
    #[error("record value of {got} bytes is too long, want at most {MAX_VALUE}")]
    ValueTooLong {
        /// Bytes of the value.
        got: usize,
    },
    /// Others would refuse it.
    #[error("more than {MAX_RECORDS_PER_ORIGIN} records of one peer")]
    TooManyRecords,
    /// [`Gossip::leave`] was called.
    #[error("this peer has left the fabric")]
    Left,
}

/// What this peer knows of itself.
#[derive(Debug)]
pub(crate) struct Own {
    boot: u32,
    last_version: u64,
    incarnation: u64,
    proof: [u8; 64],
    presence: Presence,
    /// Records of an earlier boot that were found, and when they are withdrawn.
    found: BTreeMap<RecordKey, Instant>,
    next_clone: Instant,
    next_refute: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Here,
    Left,
}

impl Own {
    pub(crate) fn new<K: Keys>(me: PeerId, boot: u32, keys: &K, now: Instant) -> Self {
        let start = u64::from(boot) << 32;
        Own {
            boot,
            last_version: start,
            incarnation: start,
            proof: keys.sign(&proof_bytes(me, start, Proven::Alive)),
            presence: Presence::Here,
            found: BTreeMap::new(),
            next_clone: now,
            next_refute: now,
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.found.values().min().copied()
    }

    pub(crate) fn standing(&self) -> Standing {
        let class = match self.presence {
            Presence::Here => Class::Alive,
            Presence::Left => Class::Left,
        };
        Standing { incarnation: self.incarnation, class }
    }

    pub(crate) fn rumour(&self, me: PeerId) -> Rumour {
        let claim = match self.presence {
            Presence::Here => Claim::Alive,
            Presence::Left => Claim::Left,
        };
        Rumour { subject: me, incarnation: self.incarnation, proof: self.proof, claim }
    }
}

impl<K: Keys> Gossip<K> {
    /// Says something under a key, to everybody. Does nothing when that is what is said already.
    pub fn publish(&mut self, key: RecordKey, value: Vec<u8>, now: Instant) -> Result<(), PublishError> {
        self.note_time(now);
        if self.has_left() {
            return Err(PublishError::Left);
        }
        if key.name.len() > MAX_NAME {
            return Err(PublishError::NameTooLong { got: key.name.len() });
        }
        if value.len() > MAX_VALUE {
            return Err(PublishError::ValueTooLong { got: value.len() });
        }
        self.own.found.remove(&key);
        let held = self.store.get(self.me, &key);
        if held.is_some_and(|held| {
            held.value.as_ref() == Some(&value) && held.version >> 32 >= u64::from(self.own.boot)
        }) {
            return Ok(());
        }
        self.issue(key, Some(value), now).map_err(|_| PublishError::TooManyRecords)
    }

    /// No longer says anything under a key.
    pub fn withdraw(&mut self, key: &RecordKey, now: Instant) {
        self.note_time(now);
        self.own.found.remove(key);
        if !self.has_left() && self.store.get(self.me, key).is_some_and(|held| held.value.is_some()) {
            self.bury(key.clone(), now);
        }
    }

    /// Says goodbye to all linked peers. Drain [`Gossip::poll_transmit`] once more; after that nothing happens here.
    pub fn leave(&mut self, now: Instant) {
        if self.has_left() {
            return;
        }
        self.note_time(now);
        self.flush();
        self.own.presence = Presence::Left;
        self.own.proof = self.keys.sign(&proof_bytes(self.me, self.own.incarnation, Proven::Left));
        self.last_change = now;
        for link in self.links.values_mut() {
            link.rumours.insert(self.me);
        }
    }

    pub(crate) fn has_left(&self) -> bool {
        self.own.presence == Presence::Left
    }

    /// Withdraws what was found and not published again in time.
    pub(crate) fn withdraw_unclaimed(&mut self, now: Instant) {
        let late = self.own.found.extract_if(.., |_, until| *until <= now);
        let keys: Vec<RecordKey> = late.map(|(key, _)| key).collect();
        for key in keys {
            if self.store.get(self.me, &key).is_some_and(|held| held.value.is_some()) {
                self.bury(key, now);
            }
        }
    }

    /// A record of our own came from somebody else.
    pub(crate) fn take_in_own(&mut self, record: Record, from: PeerId, now: Instant) {
        match self.store.judge(&record) {
            Judgement::Repeated => return self.note_repeated(&record, from),
            Judgement::Stale => return self.push_to(from, self.me, &record.key),
            Judgement::News | Judgement::Equivocation => {}
        }
        match self.keys.verify(self.me, &record.signing_bytes(), &record.signature) {
            Verdict::Good => {}
            Verdict::Bad | Verdict::UnknownOrigin => {
                return self.quarantine(&record, DropReason::BadSignature);
            }
        }
        let held = self.store.get(self.me, &record.key).is_some();
        let this_boot = record.version >> 32 >= u64::from(self.own.boot);
        if record.version > self.own.last_version || (held && this_boot) {
            // Never issued here: something new above all that we said, or instead of what we said.
            self.outdo_clone(record.version, now);
        } else if this_boot {
            // Withdrawn so long ago that even the tombstone is forgotten, by everyone but the sender's side.
            return self.bury(record.key, now);
        }
        let wins = match self.store.judge(&record) {
            Judgement::News => true,
            // Of two contents of an earlier boot all others keep the greater one.
            Judgement::Equivocation => {
                self.store.get(self.me, &record.key).is_some_and(|held| record.supersedes(held))
            }
            Judgement::Repeated | Judgement::Stale => false,
        };
        if wins {
            self.find_own(record, from, now);
        }
    }

    /// Somebody says something of this peer itself.
    pub(crate) fn hear_of_self(&mut self, rumour: &Rumour, from: PeerId, now: Instant) {
        if planted(Bug::DeathUndenied) {
            return;
        }
        let (said, mine) = (rumour.standing(), self.own.standing());
        if said.incarnation < mine.incarnation {
            return self.tell(from, self.me);
        }
        if said == mine && rumour.claim == Claim::Alive {
            return;
        }
        let unheard = said.incarnation > mine.incarnation || rumour.claim == Claim::Left;
        if unheard {
            let bytes = proof_bytes(self.me, rumour.incarnation, rumour.claim.needs());
            match self.keys.verify(self.me, &bytes, &rumour.proof) {
                Verdict::Good => self.outdo_clone(rumour.incarnation, now),
                Verdict::Bad | Verdict::UnknownOrigin => self.stats.count(DropReason::BadProof),
            }
        } else if now >= self.own.next_refute {
            self.own.next_refute = now + REFUTE_PAUSE;
            self.stats.refutations += 1;
            self.detector.doubt();
            self.take_incarnation(self.own.incarnation.saturating_add(1), from, now);
        }
    }

    /// Keeps what an earlier boot said until it is clear whether it is still meant.
    fn find_own(&mut self, record: Record, from: PeerId, now: Instant) {
        let (key, value) = (record.key.clone(), record.value.clone());
        match self.store.insert(self.keys.keep(record), now) {
            Ok(_) => {}
            Err(reason) => return self.stats.count(reason),
        }
        self.after_change(self.me, &key, Some(from), now);
        // Adjacency is ours to publish: the next look at the neighbours replaces it.
        if key.kind == Kind::ADJACENCY {
            return self.adjacency.touch();
        }
        if let Some(value) = value {
            self.own.found.insert(key.clone(), now + self.config.own_record_grace);
            self.emit(Event::OwnRecordFound { key, value });
        }
    }

    /// Takes a boot above `found`, and says everything again under it.
    fn outdo_clone(&mut self, found: u64, now: Instant) {
        if now < self.own.next_clone {
            return self.stats.count(DropReason::ClonePause);
        }
        self.own.next_clone = now + CLONE_PAUSE;
        let above = u32::try_from(found >> 32).unwrap_or(u32::MAX).max(self.own.boot).saturating_add(1);
        let start = (u64::from(above) << 32).max(found.saturating_add(1)).max(self.own.last_version);
        self.own.boot = above;
        self.own.last_version = start;
        tracing::warn!(
            found,
            boot = above,
            "something signed by this peer that it never said: a clone, or an old disk"
        );
        self.take_incarnation(start.max(self.own.incarnation.saturating_add(1)), self.me, now);
        let found_before = &self.own.found;
        let ours = self.store.of_origin(self.me).filter(|record| !found_before.contains_key(&record.key));
        let ours: Vec<Record> = ours.cloned().collect();
        for record in ours {
            match record.value {
                Some(value) => {
                    let issued = self.issue(record.key, Some(value), now);
                    issued.expect("a record that is held has room");
                }
                None => self.bury(record.key, now),
            }
        }
        self.emit(Event::CloneSuspected { found, boot: above });
    }

    fn take_incarnation(&mut self, incarnation: u64, from: PeerId, now: Instant) {
        self.own.incarnation = incarnation;
        self.own.proof = self.keys.sign(&proof_bytes(self.me, incarnation, Proven::Alive));
        self.settle(self.me, Change::Renewed, Reach::All, None, now);
        self.tell(from, self.me);
    }

    fn bury(&mut self, key: RecordKey, now: Instant) {
        self.issue(key, None, now).expect("there is room for a tombstone of our own");
    }

    fn issue(&mut self, key: RecordKey, value: Option<Vec<u8>>, now: Instant) -> Result<(), DropReason> {
        // While a copy of this router fights back, what is held may be newer than all that was said here.
        let held = self.store.get(self.me, &key).map_or(0, |held| held.version);
        let version = self.own.last_version.max(held).saturating_add(1);
        let mut record = Record { origin: self.me, key: key.clone(), version, value, signature: [0; 64] };
        record.signature = self.keys.sign(&record.signing_bytes());
        self.store.insert(self.keys.keep(record), now)?;
        self.own.last_version = version;
        self.after_change(self.me, &key, None, now);
        Ok(())
    }
}

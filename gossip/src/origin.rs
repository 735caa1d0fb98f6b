//! What one peer says: its records by key, and the digest of those that count.
//!
//! A fabric knows thousands of origins with a handful of records each, so an origin without many is small.

use std::sync::Arc;
use std::time::Instant;

use crate::hash::Hasher;
use crate::peer::PeerId;
use crate::record::{Kind, Record, RecordKey};
use crate::wire::{KEY_BUCKETS, KeyDigest, Range, Standing};

/// Up to so many records are looked through one after the other; more are searched in order.
const FEW: usize = 16;

/// All records of one origin.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    /// In the order of their keys.
    records: Vec<Held>,
    /// Versions of the tombstones, ascending: who shows the oldest is searched for only when there are too many.
    tombstones: Vec<u64>,
    /// Of the digests of all records that count.
    sum: u64,
    /// How it stands as a member.
    pub(crate) standing: Option<Standing>,
}

/// A record and, if it is a tombstone, how far it is gone.
#[derive(Debug)]
pub(crate) struct Held {
    /// Those of the record's key, so that a record is found without a look at the others, which are elsewhere in memory.
    kind: Kind,
    name: u32,
    /// What is held.
    pub(crate) record: Arc<Record>,
    /// How far a tombstone is gone. In a box, as most records are none.
    grave: Option<Box<Grave>>,
    digest: u64,
}

/// How far a tombstone is gone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grave {
    /// Whether it still counts.
    pub(crate) phase: Phase,
    /// When the next phase begins.
    pub(crate) due: Instant,
}

/// Peers do not forget a tombstone at the same moment. The second phase covers the difference: whoever still counts it
/// and offers it finds it known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Part of the digests.
    Counted,
    /// A tombstone past its age: no longer counted, still in the way of the record that it buried.
    Shield,
}

impl Held {
    /// How far it is gone, if it is a tombstone.
    pub(crate) fn grave(&self) -> Option<Grave> {
        self.grave.as_deref().copied()
    }

    fn counts(&self) -> bool {
        self.grave.as_deref().is_none_or(|grave| grave.phase == Phase::Counted)
    }

    /// Its name, version and check.
    pub(crate) fn key_digest(&self) -> KeyDigest {
        let Record { key, version, .. } = &*self.record;
        KeyDigest { key: key.clone(), version: *version, check: check(self.digest) }
    }

    /// Whether it is what was announced, or newer.
    pub(crate) fn covers(&self, announced: &KeyDigest) -> bool {
        self.record.version > announced.version
            || (self.record.version == announced.version && check(self.digest) == announced.check)
    }
}

impl Origin {
    /// What is held under a key.
    pub(crate) fn get(&self, key: &RecordKey) -> Option<&Held> {
        if self.records.len() > FEW {
            return self.find(key).ok().map(|at| &self.records[at]);
        }
        let name = name_hash(key);
        self.records.iter().find(|held| held.kind == key.kind && held.name == name && held.record.key == *key)
    }

    /// All that is held, by key.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Held> {
        self.records.iter()
    }

    /// All of one kind, by key.
    pub(crate) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Held> {
        let from = self.records.partition_point(|held| held.kind < kind);
        self.records[from..].iter().take_while(move |held| held.kind == kind)
    }

    /// How many there are, tombstones included.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// How many are alive.
    pub(crate) fn live(&self) -> usize {
        self.records.len() - self.tombstones.len()
    }

    /// Versions of all tombstones, ascending.
    pub(crate) fn tombstones(&self) -> &[u64] {
        &self.tombstones
    }

    /// The key of the oldest tombstone.
    pub(crate) fn oldest_tombstone(&self) -> Option<&RecordKey> {
        let oldest = *self.tombstones.first()?;
        let dead = |held: &&Held| held.record.value.is_none() && held.record.version == oldest;
        self.records.iter().find(dead).map(|held| &held.record.key)
    }

    /// Takes in a record under a key that is free.
    /// `due` is when it stops to count, for a tombstone.
    pub(crate) fn insert(&mut self, record: Arc<Record>, due: Option<Instant>) {
        let Err(at) = self.find(&record.key) else { return };
        if due.is_some() {
            let place = self.tombstones.partition_point(|version| *version < record.version);
            make_room(&mut self.tombstones);
            self.tombstones.insert(place, record.version);
        }
        let digest = record.digest();
        self.sum = self.sum.wrapping_add(digest);
        make_room(&mut self.records);
        let grave = due.map(|due| Box::new(Grave { phase: Phase::Counted, due }));
        self.records
            .insert(at, Held { kind: record.key.kind, name: name_hash(&record.key), record, grave, digest });
    }

    /// Gives a record back.
    pub(crate) fn take(&mut self, key: &RecordKey) -> Option<Arc<Record>> {
        let at = self.find(key).ok()?;
        let held = self.records.remove(at);
        if held.counts() {
            self.sum = self.sum.wrapping_sub(held.digest);
        }
        if held.grave.is_some()
            && let Ok(place) = self.tombstones.binary_search(&held.record.version)
        {
            self.tombstones.remove(place);
        }
        Some(held.record)
    }

    /// A tombstone is past its age, and shields until `due`.
    pub(crate) fn stop_counting(&mut self, key: &RecordKey, due: Instant) {
        let Ok(at) = self.find(key) else { return };
        let held = &mut self.records[at];
        if held.counts() {
            self.sum = self.sum.wrapping_sub(held.digest);
        }
        held.grave = Some(Box::new(Grave { phase: Phase::Shield, due }));
    }

    /// The sum of the digests of what counts.
    pub(crate) fn sum(&self) -> u64 {
        self.sum
    }

    /// What the origin adds to its bucket; nothing when nothing of it counts, as others may have forgotten it by then.
    pub(crate) fn digest(&self, id: PeerId) -> u64 {
        if self.sum == 0 {
            return 0;
        }
        let mut hasher = Hasher::default();
        hasher.write(&id.0);
        hasher.write(&self.sum.to_be_bytes());
        if let Some(standing) = self.standing {
            hasher.write(&standing.incarnation.to_be_bytes());
            hasher.write(&[standing.class as u8]);
        }
        hasher.finish()
    }

    /// The sums of all buckets of keys. Made when they are asked for, which only a difference does.
    pub(crate) fn buckets(&self) -> [u64; KEY_BUCKETS] {
        let mut buckets = [0u64; KEY_BUCKETS];
        for held in self.counted() {
            let bucket = &mut buckets[key_bucket(&held.record.key)];
            *bucket = bucket.wrapping_add(held.digest);
        }
        buckets
    }

    /// The counted keys in some buckets and a range, in order.
    pub(crate) fn key_digests(&self, mask: u16, range: &Range<RecordKey>) -> Vec<KeyDigest> {
        let inside = self.counted().filter(|held| {
            range.contains(&held.record.key) && mask & (1 << key_bucket(&held.record.key)) != 0
        });
        inside.map(Held::key_digest).collect()
    }

    fn counted(&self) -> impl Iterator<Item = &Held> {
        self.records.iter().filter(|held| held.counts())
    }

    fn find(&self, key: &RecordKey) -> Result<usize, usize> {
        self.records.binary_search_by(|held| {
            held.kind.cmp(&key.kind).then_with(|| held.record.key.name.cmp(&key.name))
        })
    }
}

/// A part of a hash of a key's name.
fn name_hash(key: &RecordKey) -> u32 {
    let mut hasher = Hasher::default();
    hasher.write(&key.name);
    check(hasher.finish())
}

/// Room for a few more at a time: doubling would keep room for as many again, which most origins never have.
fn make_room<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact(1 + list.len() / 4);
    }
}

/// The bucket of a key within its origin.
pub(crate) fn key_bucket(key: &RecordKey) -> usize {
    let mut hasher = Hasher::default();
    hasher.write(&[key.kind.0, key.name.len() as u8]);
    hasher.write(&key.name);
    usize::try_from(hasher.finish() % KEY_BUCKETS as u64).expect("a small number")
}

/// The part of a digest that goes along with a version.
fn check(digest: u64) -> u32 {
    u32::try_from(digest >> 32).expect("half of it")
}

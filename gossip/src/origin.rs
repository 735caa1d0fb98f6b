//! What one peer says: its records by key, and the digest of those that count.
//!
//! A fabric knows thousands of origins with a handful of records each, so an origin without many is small.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use crate::hash::Hasher;
use crate::peer::PeerId;
use crate::record::{Kind, Record, RecordKey};
use crate::wire::{KEY_BUCKETS, KeyDigest, Range, Standing};

/// All records of one origin.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    /// In the order of their keys.
    records: Vec<Held>,
    /// Tombstones by version, so that the oldest is at hand.
    tombstones: BTreeSet<(u64, RecordKey)>,
    /// Of the digests of all records that count.
    sum: u64,
    /// How it stands as a member.
    pub(crate) standing: Option<Standing>,
}

/// A record and, if it is a tombstone, how far it is gone.
#[derive(Debug)]
pub(crate) struct Held {
    /// What is held.
    pub(crate) record: Arc<Record>,
    /// Whether it still counts.
    pub(crate) phase: Phase,
    /// When the next phase begins. Only for tombstones.
    pub(crate) due: Option<Instant>,
    digest: u64,
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
        self.find(key).ok().map(|at| &self.records[at])
    }

    /// The same, to move its `due`.
    pub(crate) fn get_mut(&mut self, key: &RecordKey) -> Option<&mut Held> {
        self.find(key).ok().map(|at| &mut self.records[at])
    }

    /// All that is held, by key.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Held> {
        self.records.iter()
    }

    /// All of one kind, by key.
    pub(crate) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Held> {
        let from = self.records.partition_point(|held| held.record.key.kind < kind);
        self.records[from..].iter().take_while(move |held| held.record.key.kind == kind)
    }

    /// How many there are, tombstones included.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// How many are alive.
    pub(crate) fn live(&self) -> usize {
        self.records.len() - self.tombstones.len()
    }

    /// Tombstones, by version.
    pub(crate) fn tombstones(&self) -> &BTreeSet<(u64, RecordKey)> {
        &self.tombstones
    }

    /// Takes in a record under a key that is free.
    pub(crate) fn insert(&mut self, record: Arc<Record>, due: Option<Instant>) {
        let Err(at) = self.find(&record.key) else { return };
        if record.value.is_none() {
            self.tombstones.insert((record.version, record.key.clone()));
        }
        let digest = record.digest();
        self.sum = self.sum.wrapping_add(digest);
        if self.records.len() == self.records.capacity() {
            // Doubling would keep room for as many again, which most origins never have.
            self.records.reserve_exact(1 + self.records.len() / 4);
        }
        self.records.insert(at, Held { record, phase: Phase::Counted, due, digest });
    }

    /// Gives a record back.
    pub(crate) fn take(&mut self, key: &RecordKey) -> Option<Arc<Record>> {
        self.stop_counting(key);
        let at = self.find(key).ok()?;
        let record = self.records.remove(at).record;
        self.tombstones.remove(&(record.version, record.key.clone()));
        Some(record)
    }

    /// A tombstone is past its age.
    pub(crate) fn stop_counting(&mut self, key: &RecordKey) {
        let Ok(at) = self.find(key) else { return };
        let held = &mut self.records[at];
        match held.phase {
            Phase::Counted => {
                held.phase = Phase::Shield;
                self.sum = self.sum.wrapping_sub(held.digest);
            }
            Phase::Shield => {}
        }
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
        self.records.iter().filter(|held| held.phase == Phase::Counted)
    }

    fn find(&self, key: &RecordKey) -> Result<usize, usize> {
        self.records.binary_search_by(|held| held.record.key.cmp(key))
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

//! All records that are known, filed by origin, with digests that follow every change.
//!
//! It knows nothing of signatures (what is inserted was verified), links or membership.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeInclusive};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::fill::Fill;
use crate::hash::mix;
use crate::origin::{Held, Origin, Phase};
use crate::peer::PeerId;
use crate::planted::{Bug, planted};
use crate::record::{Kind, Record, RecordKey};
use crate::stats::DropReason;
use crate::wire::{KEY_BUCKETS, KeyDigest, ORIGIN_BUCKETS, OriginDigest, Range, Standing};

/// Origins at most: half as many again as the largest fabric that is simulated.
pub const MAX_ORIGINS: usize = 16_384;

/// Live records of one origin: eight times as many containers as anyone runs on a host.
pub const MAX_RECORDS_PER_ORIGIN: usize = 8_192;

/// Tombstones of one origin. The oldest go first; what they shielded against can then come back until its origin sees it.
pub const MAX_TOMBSTONES_PER_ORIGIN: usize = 2_048;

/// Peers removed from the fabric that are remembered, as many as there can be origins.
const MAX_REMOVED: usize = MAX_ORIGINS;

/// Records of origins whose keys are not known yet: some messages' worth, as the peer record is never far behind.
const MAX_PARKED: usize = 512;

/// Records parked for one origin, so that one unknown cannot push out all others.
const MAX_PARKED_PER_ORIGIN: usize = 64;

/// How a record compares with what is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Newer than what is held, or nothing is.
    News,
    /// Exactly what is held.
    Repeated,
    /// Older than what is held.
    Stale,
    /// Another content with the version that is held. The greater one wins.
    Equivocation,
}

/// All records.
#[derive(Debug)]
pub struct Store {
    origins: BTreeMap<PeerId, Origin>,
    removed: BTreeSet<PeerId>,
    parked: Vec<Record>,
    /// When each tombstone's next phase begins.
    schedule: BTreeSet<(Instant, PeerId, RecordKey)>,
    buckets: [u64; ORIGIN_BUCKETS],
    root: u64,
    tombstone_age: Duration,
}

impl Store {
    /// An empty store, in which tombstones count for `tombstone_age` and shield for as long again.
    pub fn new(tombstone_age: Duration) -> Self {
        Store {
            origins: BTreeMap::new(),
            removed: BTreeSet::new(),
            parked: Vec::new(),
            schedule: BTreeSet::new(),
            buckets: [0; ORIGIN_BUCKETS],
            root: 0,
            tombstone_age,
        }
    }

    /// The record of an origin under a key, tombstones included.
    pub fn get(&self, origin: PeerId, key: &RecordKey) -> Option<&Record> {
        Some(&self.origins.get(&origin)?.get(key)?.record)
    }

    /// The name, version and check of a record, tombstones included.
    pub fn key_digest(&self, origin: PeerId, key: &RecordKey) -> Option<KeyDigest> {
        Some(self.origins.get(&origin)?.get(key)?.key_digest())
    }

    /// Whether an announced record, or a newer one, is held.
    pub fn covers(&self, origin: PeerId, announced: &KeyDigest) -> bool {
        let held = self.origins.get(&origin).and_then(|origin| origin.get(&announced.key));
        held.is_some_and(|held| held.covers(announced))
    }

    /// All records of one kind, without tombstones, by origin and key.
    pub fn records(&self, kind: Kind) -> impl Iterator<Item = &Record> {
        let all = self.origins.values().flat_map(move |origin| origin.of_kind(kind));
        all.map(|held| &*held.record).filter(|record| record.value.is_some())
    }

    /// All records of one origin, tombstones included.
    pub fn of_origin(&self, origin: PeerId) -> impl Iterator<Item = &Record> {
        self.origins.get(&origin).into_iter().flat_map(|origin| origin.records().map(|held| &*held.record))
    }

    /// All records, tombstones included, by origin and key.
    pub fn all(&self) -> impl Iterator<Item = &Record> {
        self.origins.values().flat_map(|origin| origin.records().map(|held| &*held.record))
    }

    /// All origins that have records.
    pub fn origins(&self) -> impl Iterator<Item = PeerId> {
        self.origins.keys().copied()
    }

    /// Compares a record with what is held, before the cost of a signature is spent on it.
    pub fn judge(&self, record: &Record) -> Judgement {
        let Some(origin) = self.origins.get(&record.origin) else { return Judgement::News };
        let Some(held) = origin.get(&record.key) else {
            return match origin.tombstones().first() {
                // It was shed or would be at once.
                Some(oldest)
                    if record.value.is_none()
                        && origin.tombstones().len() >= MAX_TOMBSTONES_PER_ORIGIN
                        && record.version <= *oldest =>
                {
                    Judgement::Stale
                }
                Some(_) | None => Judgement::News,
            };
        };
        match record.version.cmp(&held.record.version) {
            std::cmp::Ordering::Less if planted(Bug::OldRecordWins) => Judgement::News,
            std::cmp::Ordering::Less => Judgement::Stale,
            std::cmp::Ordering::Greater => Judgement::News,
            std::cmp::Ordering::Equal if *record == *held.record => Judgement::Repeated,
            std::cmp::Ordering::Equal => Judgement::Equivocation,
        }
    }

    /// Takes in a verified record that supersedes what is held. Gives back what it replaced.
    pub fn insert(
        &mut self,
        record: impl Into<Arc<Record>>,
        now: Instant,
    ) -> Result<Option<Arc<Record>>, DropReason> {
        let record: Arc<Record> = record.into();
        self.check_room(&record)?;
        let (id, key) = (record.origin, record.key.clone());
        let previous = self.take_out(id, &key);
        let due = record.value.is_none().then(|| now + self.tombstone_age);
        self.schedule.extend(due.map(|at| (at, id, key.clone())));
        self.change(id, |origin| origin.insert(record, due));
        if planted(Bug::TombstoneDropped) && due.is_some() {
            self.take_out(id, &key);
        }
        Ok(previous)
    }

    /// Gives up the oldest tombstone of an origin that has too many. True when it had.
    pub fn shed_tombstone(&mut self, id: PeerId) -> bool {
        let Some(origin) = self.origins.get(&id) else { return false };
        if origin.tombstones().len() <= MAX_TOMBSTONES_PER_ORIGIN {
            return false;
        }
        let key = origin.oldest_tombstone().cloned().expect("there are too many");
        self.take_out(id, &key);
        true
    }

    /// Moves tombstones on to their next phase.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, id, key)) = self.schedule.first().cloned()
            && at <= now
        {
            let held = self.origins.get(&id).and_then(|origin| origin.get(&key));
            let grave = held.and_then(Held::grave).expect("whatever is scheduled is a tombstone");
            match grave.phase {
                Phase::Counted => {
                    let due = at + self.tombstone_age;
                    self.schedule.pop_first();
                    self.schedule.insert((due, id, key.clone()));
                    self.change(id, |origin| origin.stop_counting(&key, due));
                }
                Phase::Shield => drop(self.take_out(id, &key)),
            }
        }
    }

    /// When [`Store::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.schedule.first().map(|(at, ..)| *at)
    }

    /// Drops all records of an origin and refuses them from now on. Gives back those that were alive.
    pub fn remove_origin(&mut self, id: PeerId) -> Vec<Arc<Record>> {
        if self.removed.len() < MAX_REMOVED {
            self.removed.insert(id);
        }
        self.parked.retain(|record| record.origin != id);
        let keys: Vec<RecordKey> = self.of_origin(id).map(|record| record.key.clone()).collect();
        let records = keys.iter().filter_map(|key| self.take_out(id, key));
        records.filter(|record| record.value.is_some()).collect()
    }

    /// Whether an origin was removed.
    pub fn is_removed(&self, id: PeerId) -> bool {
        self.removed.contains(&id)
    }

    /// Notes how an origin stands as a member. Counts only while it has records.
    pub fn set_standing(&mut self, id: PeerId, standing: Option<Standing>) {
        if self.origins.get(&id).is_some_and(|origin| origin.standing != standing) {
            self.change(id, |origin| origin.standing = standing);
        }
    }

    /// Keeps a record until its origin's keys are known. Gives back how many others had to go.
    pub fn park(&mut self, record: Record) -> usize {
        let before = self.parked.len();
        if let Some(same) = self.parked.iter_mut().find(|p| p.origin == record.origin && p.key == record.key)
        {
            if record.version > same.version {
                *same = record;
            }
            return 0;
        }
        let of_same = self.parked.iter().filter(|p| p.origin == record.origin).count();
        if of_same >= MAX_PARKED_PER_ORIGIN {
            let oldest = self.parked.iter().position(|p| p.origin == record.origin).expect("there are some");
            self.parked.remove(oldest);
        } else if before >= MAX_PARKED {
            self.parked.remove(0);
        }
        self.parked.push(record);
        before + 1 - self.parked.len()
    }

    /// Takes out what was parked for an origin.
    pub fn unpark(&mut self, id: PeerId) -> Vec<Record> {
        self.parked.extract_if(.., |record| record.origin == id).collect()
    }

    /// Records waiting for their origin's keys.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// How full its tables are.
    pub(crate) fn fill(&self) -> [Fill; 5] {
        let fullest = |count: fn(&Origin) -> usize| self.origins.values().map(count).max().unwrap_or(0);
        [
            Fill::of("origins", self.origins.len(), MAX_ORIGINS),
            Fill::of("records of an origin", fullest(Origin::live), MAX_RECORDS_PER_ORIGIN),
            Fill::of(
                "tombstones of an origin",
                fullest(|origin| origin.tombstones().len()),
                MAX_TOMBSTONES_PER_ORIGIN,
            ),
            Fill::of("removed origins", self.removed.len(), MAX_REMOVED),
            Fill::of("parked records", self.parked.len(), MAX_PARKED),
        ]
    }

    /// The digest of everything.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The digests of all buckets of origins.
    pub fn buckets(&self) -> &[u64; ORIGIN_BUCKETS] {
        &self.buckets
    }

    /// The digests of the origins in some buckets and a range, in order.
    pub fn origin_digests(&self, mask: u64, range: &Range<PeerId>) -> impl Iterator<Item = OriginDigest> {
        let buckets = (0..ORIGIN_BUCKETS).filter(move |bucket| mask & (1 << bucket) != 0);
        let spans = buckets.filter_map(move |bucket| common(range, &ids_of_bucket(bucket)));
        let inside = spans.flat_map(move |span| self.origins.range(span));
        let digests =
            inside.map(|(&origin, held)| (origin, held.sum(), held.standing)).filter(|(_, sum, _)| *sum != 0);
        digests.map(|(origin, records, standing)| OriginDigest { origin, records, standing })
    }

    /// The digests of all buckets of an origin's keys, and how many records there are, tombstones included.
    pub fn key_buckets(&self, id: PeerId) -> ([u64; KEY_BUCKETS], usize) {
        self.origins.get(&id).map_or(([0; KEY_BUCKETS], 0), |origin| (origin.buckets(), origin.len()))
    }

    /// An origin's counted keys in some buckets and a range, in order.
    pub fn key_digests(&self, id: PeerId, mask: u16, range: &Range<RecordKey>) -> Vec<KeyDigest> {
        self.origins.get(&id).map(|origin| origin.key_digests(mask, range)).unwrap_or_default()
    }

    fn check_room(&self, record: &Record) -> Result<(), DropReason> {
        match self.origins.get(&record.origin) {
            Some(origin) if origin.get(&record.key).is_some() => Ok(()),
            Some(origin) if record.value.is_some() && origin.live() >= MAX_RECORDS_PER_ORIGIN => {
                Err(DropReason::OriginFull)
            }
            None if self.origins.len() >= MAX_ORIGINS => Err(DropReason::OriginsFull),
            Some(_) | None => Ok(()),
        }
    }

    fn take_out(&mut self, id: PeerId, key: &RecordKey) -> Option<Arc<Record>> {
        let held = self.origins.get(&id)?.get(key)?;
        if let Some(grave) = held.grave() {
            self.schedule.remove(&(grave.due, id, key.clone()));
        }
        let mut taken = None;
        self.change(id, |origin| taken = origin.take(key));
        taken
    }

    /// Changes an origin and keeps the bucket that it is part of in step.
    fn change(&mut self, id: PeerId, change: impl FnOnce(&mut Origin)) {
        let bucket = origin_bucket(id);
        let origin = self.origins.entry(id).or_default();
        let before = origin.digest(id);
        change(origin);
        let after = origin.digest(id);
        if origin.len() == 0 {
            self.origins.remove(&id);
        }
        let sum = self.buckets[bucket].wrapping_sub(before).wrapping_add(after);
        self.root =
            self.root.wrapping_sub(share(bucket, self.buckets[bucket])).wrapping_add(share(bucket, sum));
        self.buckets[bucket] = sum;
    }
}

/// The bucket of an origin. Ids are hashes, so that the first bits are as good as any.
pub(crate) fn origin_bucket(id: PeerId) -> usize {
    usize::from(id.0[0]) * ORIGIN_BUCKETS / 256
}

/// First and last id of a bucket, as [`origin_bucket`] has it.
fn ids_of_bucket(bucket: usize) -> RangeInclusive<PeerId> {
    let width = 256 / ORIGIN_BUCKETS;
    let byte = |at: usize| u8::try_from(at).expect("there are at most 256 buckets");
    let (mut first, mut last) = ([0; 16], [0xff; 16]);
    (first[0], last[0]) = (byte(bucket * width), byte(bucket * width + width - 1));
    PeerId(first)..=PeerId(last)
}

/// The part of some ids that is in a range. None where there is no such part, as in a range that a hostile peer turned around.
fn common(range: &Range<PeerId>, ids: &RangeInclusive<PeerId>) -> Option<(Bound<PeerId>, Bound<PeerId>)> {
    let first = match range.after {
        Some(after) if after >= *ids.end() => return None,
        Some(after) if after >= *ids.start() => Bound::Excluded(after),
        Some(_) | None => Bound::Included(*ids.start()),
    };
    let last = range.upto.map_or(*ids.end(), |upto| upto.min(*ids.end()));
    let is_empty = match first {
        Bound::Included(first) | Bound::Excluded(first) => first > last,
        Bound::Unbounded => false,
    };
    (!is_empty).then_some((first, Bound::Included(last)))
}

/// What a bucket adds to the root; nothing while it is empty.
fn share(bucket: usize, sum: u64) -> u64 {
    if sum == 0 { 0 } else { mix(sum ^ mix(bucket as u64 + 1)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(60);

    fn record(origin: u8, name: u16, version: u64, value: Option<&[u8]>) -> Record {
        let key = RecordKey::new(Kind::ENDPOINT, name.to_be_bytes());
        let value = value.map(Into::into);
        Record { origin: PeerId([origin; 16]), key, version, value, signature: [0; 64] }
    }

    fn digests(store: &Store) -> (u64, Vec<OriginDigest>) {
        (store.root(), store.origin_digests(u64::MAX, &Range::all()).collect())
    }

    #[test]
    fn digest_depends_on_content_and_not_on_the_way_there() {
        let now = Instant::now();
        let (mut one, mut other) = (Store::new(AGE), Store::new(AGE));
        one.insert(record(1, 1, 1, Some(b"old")), now).unwrap();
        one.insert(record(1, 1, 2, Some(b"new")), now).unwrap();
        one.insert(record(9, 1, 1, None), now).unwrap();
        other.insert(record(9, 1, 1, None), now).unwrap();
        other.insert(record(7, 3, 1, Some(b"gone")), now).unwrap();
        assert_ne!(digests(&one), digests(&other));
        other.insert(record(1, 1, 2, Some(b"new")), now).unwrap();
        other.remove_origin(PeerId([7; 16]));
        assert_eq!(digests(&one), digests(&other));
    }

    #[test]
    fn standing_counts_only_with_records() {
        let now = Instant::now();
        let mut store = Store::new(AGE);
        let empty = digests(&store);
        let standing = Some(Standing { incarnation: 3, class: crate::wire::Class::Dead });
        store.set_standing(PeerId([1; 16]), standing);
        assert_eq!(digests(&store), empty);
        store.insert(record(1, 1, 1, Some(b"x")), now).unwrap();
        let before = store.root();
        store.set_standing(PeerId([1; 16]), standing);
        assert_ne!(store.root(), before);
        store.remove_origin(PeerId([1; 16]));
        assert_eq!(digests(&store), empty);
    }

    #[test]
    fn a_tombstone_counts_then_shields_then_goes() {
        let now = Instant::now();
        let mut store = Store::new(AGE);
        let empty = store.root();
        store.insert(record(1, 1, 5, None), now).unwrap();
        assert_ne!(store.root(), empty);
        store.handle_timeout(now + AGE);
        assert_eq!(store.root(), empty);
        assert_eq!(store.judge(&record(1, 1, 4, Some(b"buried"))), Judgement::Stale);
        assert_eq!(store.key_digests(PeerId([1; 16]), u16::MAX, &Range::all()), []);
        store.handle_timeout(now + 2 * AGE);
        assert_eq!(store.get(PeerId([1; 16]), &record(1, 1, 0, None).key), None);
        assert_eq!(store.poll_timeout(), None);
    }

    #[test]
    fn tombstones_of_an_origin_are_bounded() {
        let now = Instant::now();
        let mut store = Store::new(AGE);
        let limit = u16::try_from(MAX_TOMBSTONES_PER_ORIGIN).unwrap();
        for n in 0..=limit {
            store.insert(record(1, n, u64::from(n) + 1, None), now).unwrap();
        }
        assert!(store.shed_tombstone(PeerId([1; 16])));
        assert!(!store.shed_tombstone(PeerId([1; 16])));
        assert_eq!(store.judge(&record(1, 0, 1, None)), Judgement::Stale, "the oldest was shed");
        assert_eq!(store.of_origin(PeerId([1; 16])).count(), MAX_TOMBSTONES_PER_ORIGIN);
    }

    #[test]
    fn live_records_of_an_origin_are_bounded() {
        let now = Instant::now();
        let mut store = Store::new(AGE);
        let limit = u16::try_from(MAX_RECORDS_PER_ORIGIN).unwrap();
        for n in 0..limit {
            store.insert(record(1, n, 1, Some(b"")), now).unwrap();
        }
        assert_eq!(store.insert(record(1, limit, 1, Some(b"")), now), Err(DropReason::OriginFull));
        store.insert(record(1, 0, 2, Some(b"a newer version fits")), now).unwrap();
    }

    #[test]
    fn the_parking_lot_is_bounded_and_fair() {
        let mut store = Store::new(AGE);
        store.park(record(1, 1, 1, Some(b"early")));
        let shed: usize = (0..1000).map(|n| store.park(record(2, n, 1, Some(b"flood")))).sum();
        assert_eq!(shed, 1000 - MAX_PARKED_PER_ORIGIN);
        assert_eq!(store.unpark(PeerId([1; 16])).len(), 1);
        assert_eq!(store.unpark(PeerId([2; 16])).len(), MAX_PARKED_PER_ORIGIN);
        assert_eq!(store.parked(), 0);
    }

    #[test]
    fn digests_of_some_buckets_and_a_range_are_those_that_a_walk_finds() {
        let mut store = Store::new(AGE);
        for origin in 0..=255 {
            store.insert(record(origin, 1, 1, Some(b"x")), Instant::now()).unwrap();
        }
        let edges = [
            None,
            Some(PeerId([0; 16])),
            Some(PeerId([77; 16])),
            Some(PeerId([78; 16])),
            Some(PeerId([0xff; 16])),
        ];
        for mask in [u64::MAX, 0, 1, 1 << 63, 0x0018_0000_0018_0000] {
            for (after, upto) in edges.iter().flat_map(|after| edges.map(|upto| (*after, upto))) {
                let range = Range { after, upto };
                let found: Vec<PeerId> =
                    store.origin_digests(mask, &range).map(|entry| entry.origin).collect();
                let inside = |id: &PeerId| mask & (1 << origin_bucket(*id)) != 0 && range.contains(id);
                let walked: Vec<PeerId> = store.origins().filter(inside).collect();
                assert_eq!(found, walked, "{mask:x} {range:?}");
            }
        }
    }

    #[test]
    fn a_range_turned_around_is_empty() {
        let mut store = Store::new(AGE);
        store.insert(record(5, 1, 1, Some(b"x")), Instant::now()).unwrap();
        let range = Range { after: Some(PeerId([9; 16])), upto: Some(PeerId([1; 16])) };
        assert_eq!(store.origin_digests(u64::MAX, &range).count(), 0);
        let range = Range { after: Some(PeerId([9; 16])), upto: Some(PeerId([9; 16])) };
        assert_eq!(store.origin_digests(u64::MAX, &range).count(), 0);
    }
}

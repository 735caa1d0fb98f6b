//! Anti-entropy: two peers find what one has and the other lacks, at a cost that follows the difference.
//!
//! The digests form a tree: everything, buckets of origins, origins, buckets of keys, keys. Whoever sees that a node
//! differs answers with the level below; at the bottom records are pushed and asked for. No step remembers the one before,
//! so that lost messages cost nothing but a later start. Each step is cut off at a bound; the rest is found next time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::gossip::Gossip;
use crate::keys::Keys;
use crate::origin::key_bucket;
use crate::peer::PeerId;
use crate::planted::{Bug, planted};
use crate::record::RecordKey;
use crate::stats::DropReason;
use crate::store::origin_bucket;
use crate::wire::{
    self, IDS_PER_MESSAGE, KEY_BUCKETS, KeyDigest, Message, ORIGIN_BUCKETS, ORIGINS_PER_MESSAGE,
    OriginDigest, Range,
};

/// Messages that one step may answer with: some tens of kilobytes.
const MAX_ANSWERS: usize = 24;

/// Up to so many records the keys are sent at once; above that their buckets are compared first.
const DIRECT_KEYS: usize = 32;

/// How long after a change a difference is no surprise, as the change is still on its way.
const SETTLE: Duration = Duration::from_millis(300);

impl<K: Keys> Gossip<K> {
    /// Compares with one random neighbour, if it is time.
    pub(crate) fn repair_someone(&mut self, now: Instant) {
        if self.next_repair > now {
            return;
        }
        if planted(Bug::RepairSkipped) {
            self.next_repair = now + self.config.repair_interval;
            return;
        }
        self.next_repair = now + self.rng.jitter(self.config.repair_interval);
        let neighbours: Vec<PeerId> = self.mesh.neighbours().collect();
        if let Some(&peer) = self.rng.choose(&neighbours) {
            self.send(peer, &Message::Digest { root: self.store.root() });
        }
    }

    /// A probe or its answer showed the digest of a peer. The lower id of the two acts on a difference.
    pub(crate) fn consider_repair(&mut self, peer: PeerId, root: u64, now: Instant) {
        if planted(Bug::RepairSkipped) {
            return;
        }
        let equal = root == self.store.root();
        let settled = now >= self.last_change + SETTLE;
        let Some(link) = self.links.get_mut(&peer) else { return };
        if equal {
            link.repair_is_useful();
        } else if settled && self.me < peer && link.begin_repair(now) {
            self.handle_digest(peer, root);
        }
    }

    /// The digest of everything that `from` knows.
    pub(crate) fn handle_digest(&mut self, from: PeerId, root: u64) {
        if root != self.store.root() {
            let buckets = self.store.buckets().to_vec();
            self.send(from, &Message::DigestReply { buckets });
        }
    }

    /// The buckets of `from`, since it saw a difference.
    pub(crate) fn handle_digest_reply(&mut self, from: PeerId, buckets: &[u64]) {
        let mut differing: Vec<usize> =
            (0..ORIGIN_BUCKETS).filter(|&n| buckets.get(n) != self.store.buckets().get(n)).collect();
        if !self.may_compare_all(from, buckets, differing.len()) {
            return self.stats.count(DropReason::CompareLater);
        }
        self.rng.shuffle(&mut differing);
        let (mut mask, mut entries) = (0u64, 0);
        for bucket in differing {
            if entries >= MAX_ANSWERS * ORIGINS_PER_MESSAGE {
                break;
            }
            mask |= 1 << bucket;
            entries += self.store.origin_digests(1 << bucket, &Range::all()).count();
        }
        if mask != 0 {
            let entries = self.store.origin_digests(mask, &Range::all()).collect();
            let pieces = cut(entries, |_| 16 + 9 + 1 + 9 + 1, |entry: &OriginDigest| entry.origin);
            for (range, entries) in pieces.into_iter().take(MAX_ANSWERS) {
                self.send(from, &Message::Origins { mask, range, entries });
            }
        }
    }

    /// The origins of `from` in differing buckets.
    pub(crate) fn handle_origins(
        &mut self,
        from: PeerId,
        mask: u64,
        range: &Range<PeerId>,
        entries: Vec<OriginDigest>,
    ) {
        let inside = |id: &PeerId| mask & (1 << origin_bucket(*id)) != 0 && range.contains(id);
        let theirs = by_key(entries.into_iter().filter(|entry| inside(&entry.origin)), |entry| entry.origin);
        let ours = by_key(self.store.origin_digests(mask, range), |entry| entry.origin);
        let all = theirs.keys().chain(ours.keys()).copied().filter(|id| !self.store.is_removed(*id));
        let all: BTreeSet<PeerId> = all.collect();
        let later = self.copies_from_another(from);
        let mut want_rumours = Vec::new();
        for id in all {
            let (their, our) = (theirs.get(&id), ours.get(&id));
            let their_standing = their.and_then(|entry| entry.standing);
            let our_standing = self.standing(id);
            if our_standing > their_standing {
                self.tell(from, id);
            } else if our_standing < their_standing && !later {
                want_rumours.push(id);
            }
            match (their, our) {
                (None, Some(_)) => self.push_all(from, id),
                (Some(_), _) if later => {}
                (Some(_), None) => self.send_keys(from, id, u16::MAX),
                (Some(their), Some(our)) if their.records != our.records => self.descend(from, id),
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        for ids in want_rumours.chunks(IDS_PER_MESSAGE) {
            self.send(from, &Message::WantRumours(ids.to_vec()));
        }
    }

    /// The buckets of an origin's keys at `from`.
    pub(crate) fn handle_key_buckets(&mut self, from: PeerId, origin: PeerId, buckets: &[u64]) {
        let (ours, _) = self.store.key_buckets(origin);
        let differing = (0..KEY_BUCKETS).filter(|&n| buckets.get(n) != Some(&ours[n]));
        let mask = differing.fold(0, |mask, n| mask | 1 << n);
        if mask != 0 {
            self.send_keys(from, origin, mask);
        }
    }

    /// The keys of an origin at `from`: pushes what is newer here, asks for what is newer there.
    pub(crate) fn handle_keys(
        &mut self,
        from: PeerId,
        origin: PeerId,
        mask: u16,
        range: &Range<RecordKey>,
        entries: Vec<KeyDigest>,
    ) {
        if self.store.is_removed(origin) {
            return;
        }
        let inside = |key: &RecordKey| mask & (1 << key_bucket(key)) != 0 && range.contains(key);
        let theirs =
            by_key(entries.into_iter().filter(|entry| inside(&entry.key)), |entry| entry.key.clone());
        let ours = by_key(self.store.key_digests(origin, mask, range).into_iter(), |entry| entry.key.clone());
        let mut useful = false;
        for (key, our) in &ours {
            let newer = theirs.get(key).is_none_or(|their| {
                (our.version, our.check) != (their.version, their.check) && our.version >= their.version
            });
            if newer {
                useful = true;
                self.push_to(from, origin, key);
            }
        }
        let mut wanted = Vec::new();
        for (key, their) in theirs {
            // A tombstone past its age is not among ours, yet it is held and may be newer.
            let held = self.store.get(origin, &key).map(|record| record.version);
            let differs = ours.get(&key).is_some_and(|our| our.check != their.check);
            if held.is_none_or(|held| held < their.version) || (differs && held == Some(their.version)) {
                wanted.push(key);
            }
        }
        useful |= !wanted.is_empty();
        for keys in wire::chunks(wanted, wire::key_size) {
            self.send(from, &Message::Want { origin, keys });
        }
        if useful {
            self.stats.repairs += 1;
            if let Some(link) = self.links.get_mut(&from) {
                link.repair_is_useful();
            }
        }
    }

    fn descend(&mut self, to: PeerId, origin: PeerId) {
        let (buckets, records) = self.store.key_buckets(origin);
        if records <= DIRECT_KEYS {
            self.send_keys(to, origin, u16::MAX);
        } else {
            self.send(to, &Message::KeyBuckets { origin, buckets: buckets.to_vec() });
        }
    }

    fn send_keys(&mut self, to: PeerId, origin: PeerId, mask: u16) {
        let keys = self.store.key_digests(origin, mask, &Range::all());
        let pieces = cut(keys, |entry| wire::key_size(&entry.key), |entry| entry.key.clone());
        for (range, entries) in pieces.into_iter().take(MAX_ANSWERS) {
            self.send(to, &Message::Keys { origin, mask, range, entries });
        }
    }

    fn push_all(&mut self, to: PeerId, origin: PeerId) {
        for entry in self.store.key_digests(origin, u16::MAX, &Range::all()) {
            self.push_to(to, origin, &entry.key);
        }
    }
}

/// Cuts an ordered list into pieces that fit a message, with ranges that cover everything. Never no piece at all: that a
/// list is empty must be said.
fn cut<T, I: Clone>(
    items: Vec<T>,
    size: impl Fn(&T) -> usize,
    id: impl Fn(&T) -> I,
) -> Vec<(Range<I>, Vec<T>)> {
    let pieces = wire::chunks(items, size);
    let count = pieces.len();
    if count == 0 {
        return vec![(Range { after: None, upto: None }, Vec::new())];
    }
    let mut after = None;
    let ranged = pieces.into_iter().enumerate().map(|(n, piece)| {
        let last = piece.last().map(&id);
        let upto = if n + 1 == count { None } else { last };
        let range = Range { after: after.take(), upto: upto.clone() };
        after = upto;
        (range, piece)
    });
    ranged.collect()
}

fn by_key<T, I: Ord>(items: impl Iterator<Item = T>, key: impl Fn(&T) -> I) -> BTreeMap<I, T> {
    items.map(|item| (key(&item), item)).collect()
}

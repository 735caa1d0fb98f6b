//! A hash map in parts that its copies share until one of them changes: a copy costs one pointer for a thousand entries, and a change
//! after it one part.
//!
//! The hasher is foldhash with a seed of its own for each map: keys come from peers, who must not be able to make them collide. They
//! are members, do not see the seed and cannot time a look-up; SipHash, which would resist more, took longer than the rest of
//! a look-up.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::core::mac::Mac;

/// Entries of a shard on average, at most. A change copies one shard and a pointer to each: for a million entries about as many.
const SHARD: usize = 1_024;

/// What can be looked up.
pub(super) trait Key: Copy + Eq {
    /// The key as one number, which is quicker to hash than its bytes. Keys that differ should have numbers that do.
    fn number(&self) -> u128;
}

impl Key for Mac {
    fn number(&self) -> u128 {
        let [a, b, c, d, e, f] = self.0;
        u128::from(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }
}

impl Key for IpAddr {
    fn number(&self) -> u128 {
        match self {
            IpAddr::V4(ip) => u128::from(ip.to_bits()),
            IpAddr::V6(ip) => ip.to_bits(),
        }
    }
}

type Shard<K, V> = HashTable<(K, V)>;

/// The map.
#[derive(Clone)]
pub(super) struct Shards<K, V> {
    seed: DefaultHashBuilder,
    /// A power of two of them.
    shards: Box<[Arc<Shard<K, V>>]>,
    len: usize,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        Shards { seed: DefaultHashBuilder::default(), shards: Box::new([Arc::default()]), len: 0 }
    }
}

impl<K: Key, V: Clone> Shards<K, V> {
    /// What the key has.
    #[inline]
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        let hash = hash(&self.seed, key);
        let shard = &self.shards[place(hash, self.shards.len())];
        shard.find(hash, |(k, _)| k == key).map(|(_, value)| value)
    }

    /// Gives the key a value, in place of the one that it had.
    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.len >= self.shards.len() * SHARD {
            self.grow();
        }
        let (seed, hash) = (&self.seed, hash(&self.seed, &key));
        let shard = Arc::make_mut(&mut self.shards[place(hash, self.shards.len())]);
        match shard.find_mut(hash, |(k, _)| *k == key) {
            Some(entry) => entry.1 = value,
            None => {
                shard.insert_unique(hash, (key, value), |(k, _)| self::hash(seed, k));
                self.len += 1;
            }
        }
    }

    /// Removes the key, and answers what it had.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let hash = hash(&self.seed, key);
        let at = place(hash, self.shards.len());
        // A shard is not copied to find out that there is nothing to remove.
        self.shards[at].find(hash, |(k, _)| k == key)?;
        let shard = Arc::make_mut(&mut self.shards[at]);
        let entry = shard.find_entry(hash, |(k, _)| k == key).ok()?;
        self.len -= 1;
        Some(entry.remove().0.1)
    }

    /// How many keys have a value.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// All keys and values, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|(key, value)| (key, value))
    }

    /// Twice as many shards. They never become fewer: a fabric that was large once may be again.
    fn grow(&mut self) {
        let count = self.shards.len() * 2;
        let mut shards: Box<[Shard<K, V>]> = (0..count).map(|_| HashTable::new()).collect();
        for (key, value) in self.shards.iter().flat_map(|shard| shard.iter()) {
            let hash = hash(&self.seed, key);
            let again = |(k, _): &(K, V)| self::hash(&self.seed, k);
            shards[place(hash, count)].insert_unique(hash, (*key, value.clone()), again);
        }
        self.shards = shards.into_iter().map(Arc::new).collect();
    }
}

#[inline]
fn hash<K: Key>(seed: &DefaultHashBuilder, key: &K) -> u64 {
    seed.hash_one(key.number())
}

/// By bits that the shard's own table does not look at: it uses the highest and, up to its size, the lowest.
#[inline]
fn place(hash: u64, shards: usize) -> usize {
    let middle = (hash >> 28) & 0xffff_ffff;
    usize::try_from(middle).unwrap_or(0) & (shards - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_map_and_copies_stay_as_they_were(
            steps in proptest::collection::vec((0..3u8, 0..40u8, any::<u32>()), 1..200),
        ) {
            let mut map = Shards::default();
            let mut model = BTreeMap::new();
            let mut copies: Vec<(Shards<Mac, u32>, BTreeMap<u8, u32>)> = Vec::new();
            for (kind, key, value) in steps {
                let mac = Mac([2, 0, 0, 0, 0, key]);
                match kind {
                    0 => prop_assert_eq!(map.remove(&mac), model.remove(&key)),
                    _ => {
                        map.insert(mac, value);
                        model.insert(key, value);
                    }
                }
                if value % 8 == 0 {
                    copies.push((map.clone(), model.clone()));
                }
            }
            copies.push((map, model));
            for (map, model) in copies {
                let found: BTreeMap<u8, u32> = map.iter().map(|(mac, value)| (mac.0[5], *value)).collect();
                prop_assert_eq!(&found, &model);
                prop_assert_eq!(map.len(), model.len());
                for key in 0..40 {
                    prop_assert_eq!(map.get(&Mac([2, 0, 0, 0, 0, key])), model.get(&key));
                }
            }
        }
    }

    #[test]
    fn everything_is_found_after_growing() {
        let mut map = Shards::default();
        let key = |i: u32| Mac::of_container(std::net::Ipv4Addr::from(i));
        for i in 0..20_000 {
            map.insert(key(i), i);
        }
        assert_eq!(map.shards.len(), 32);
        assert!((0..20_000).all(|i| map.get(&key(i)) == Some(&i)));
        let longest = map.shards.iter().map(|shard| shard.len()).max().expect("shards");
        assert!(longest < 2 * SHARD, "{longest} entries in one shard");
        let copy = map.clone();
        map.insert(key(7), 0);
        let shared = map.shards.iter().zip(&copy.shards).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!(shared, 31, "a change copies one shard");
    }
}

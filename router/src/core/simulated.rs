//! What a simulation may put in the place of cryptography, so that its time goes to what it tests. Only the feature `simulated` makes it
//! possible, and only the simulator's own build has that; even there nothing of it happens in a thread that has not begun.
//!
//! Keys, signatures and every length stay what they are, nothing here draws from the router's randomness, and whatever was changed on
//! its way is refused as before: a simulation goes the same way with it and without it. What changes is that a signature that was made in
//! this thread is known to be good without being checked again, that sessions seal with a hash (`session::pretend`), and that routers keep
//! equal records in one place.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use gossip::{PeerId, Record};

use crate::core::advert::PeerAdvert;

/// Odd constants without pattern, from the fractions of the golden ratio and of pi.
const FACTORS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0x243f_6a88_85a3_08d3];

/// What one thread has begun.
#[derive(Default)]
struct State {
    /// How many have begun and not ended.
    depth: u32,
    /// Of these, how many only remember signatures.
    remembering: u32,
    /// Hashes of all signatures that were made, with key and message.
    made: HashSet<u128>,
    /// Counts whatever needs a number that never comes again.
    ticks: u64,
    /// Records that routers hold, each once for all of them.
    records: Shared<Record>,
    /// What they read in peer records, likewise.
    adverts: Shared<PeerAdvert>,
}

/// Equal things that are kept in one place, by the hash of what they are made of.
struct Shared<T> {
    kept: HashMap<u128, Arc<T>>,
    /// At so many, those that nobody holds any more are dropped.
    sweep_at: usize,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Shared { kept: HashMap::new(), sweep_at: FIRST_SWEEP }
    }
}

impl<T> Shared<T> {
    fn keep(&mut self, hash: u128, make: impl FnOnce() -> T) -> Arc<T> {
        if self.kept.len() >= self.sweep_at {
            self.kept.retain(|_, kept| Arc::strong_count(kept) > 1);
            self.sweep_at = FIRST_SWEEP.max(2 * self.kept.len());
        }
        Arc::clone(self.kept.entry(hash).or_insert_with(|| Arc::new(make())))
    }
}

/// Shared things that are kept before anybody looks whether they are still held.
const FIRST_SWEEP: usize = 1024;

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// Holds until it is dropped, for the thread that made it.
pub struct Begun(What);

/// What was begun.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    All,
    Remembering,
}

/// Routers that are made in this thread from now on pretend.
pub fn begin() -> Begun {
    STATE.with_borrow_mut(|state| state.depth += 1);
    Begun(What::All)
}

/// Signatures that are made in this thread from now on are known to be good, and nothing else changes: for routers that also talk to others
/// which are real.
pub fn remember_signatures() -> Begun {
    STATE.with_borrow_mut(|state| {
        state.depth += 1;
        state.remembering += 1;
    });
    Begun(What::Remembering)
}

impl Drop for Begun {
    fn drop(&mut self) {
        STATE.with_borrow_mut(|state| {
            state.depth -= 1;
            state.remembering -= u32::from(self.0 == What::Remembering);
            if state.depth == 0 {
                *state = State::default();
            }
        });
    }
}

/// Whether routers of this thread pretend.
pub(in crate::core) fn is_on() -> bool {
    STATE.with_borrow(|state| state.depth > state.remembering)
}

/// A number that is higher than all before it.
pub(in crate::core) fn tick() -> u64 {
    STATE.with_borrow_mut(|state| {
        state.ticks += 1;
        state.ticks
    })
}

/// The owner of `public` signed this.
pub(in crate::core) fn note_signature(public: &[u8; 32], message: &[u8], signature: &[u8; 64]) {
    STATE.with_borrow_mut(|state| {
        if state.depth > 0 {
            state.made.insert(hash(&[public, message, signature]));
        }
    });
}

/// Whether the owner of `public` is known to have signed this.
pub(in crate::core) fn is_signature(public: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    STATE.with_borrow(|state| state.depth > 0 && state.made.contains(&hash(&[public, message, signature])))
}

/// A record, in the one place where all routers of this thread keep it.
pub(in crate::core) fn keep_record(record: Record) -> Arc<Record> {
    let value = record.value.as_deref();
    let hash = hash(&[
        &record.origin.0,
        &[record.key.kind.0, u8::from(value.is_some())],
        &record.key.name,
        &record.version.to_le_bytes(),
        value.unwrap_or_default(),
        &record.signature,
    ]);
    STATE.with_borrow_mut(|state| match state.depth {
        0 => Arc::new(record),
        _ => state.records.keep(hash, || record),
    })
}

/// What `parse` makes of the value of a peer record, if that has not been read before.
pub(in crate::core) fn keep_advert<E>(
    origin: PeerId,
    value: &[u8],
    parse: impl FnOnce() -> Result<PeerAdvert, E>,
) -> Result<Arc<PeerAdvert>, E> {
    STATE.with_borrow_mut(|state| {
        let hash = hash(&[&origin.0, value]);
        match state.adverts.kept.get(&hash) {
            Some(advert) => Ok(Arc::clone(advert)),
            None if state.depth == 0 => parse().map(Arc::new),
            None => parse().map(|advert| state.adverts.keep(hash, || advert)),
        }
    })
}

/// A hash that no accident meets twice, and that whoever wants to can.
pub(in crate::core) fn hash(parts: &[&[u8]]) -> u128 {
    let mut lanes = FACTORS;
    for part in parts {
        absorb(&mut lanes, part.len() as u64);
        let (words, rest) = part.as_chunks::<8>();
        words.iter().for_each(|word| absorb(&mut lanes, u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        absorb(&mut lanes, u64::from_le_bytes(last));
    }
    absorb(&mut lanes, 0);
    u128::from(lanes[0]) << 64 | u128::from(lanes[1])
}

fn absorb(lanes: &mut [u64; 2], word: u64) {
    for (lane, factor) in lanes.iter_mut().zip(FACTORS) {
        let product = u128::from(lane.rotate_left(23) ^ word) * u128::from(factor);
        *lane = (product >> 64) as u64 ^ product as u64 ^ lane.rotate_right(7);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::identity::Identity;

    #[test]
    fn only_signatures_made_meanwhile_are_known() {
        let identity = Identity::from_seed([7; 64]);
        let key = identity.public().ed25519;
        let early = identity.sign(b"early");
        let begun = begin();
        let signature = identity.sign(b"message");
        assert!(is_signature(&key, b"message", &signature));
        assert!(!is_signature(&key, b"massage", &signature));
        assert!(!is_signature(&key, b"early", &early));
        assert!(identity.public().verify(b"early", &early), "then it is checked");
        drop(begun);
        assert!(!is_signature(&key, b"message", &signature));
        assert!(!is_on());
    }

    #[test]
    fn whoever_only_remembers_signatures_pretends_nothing() {
        let identity = Identity::from_seed([7; 64]);
        let begun = remember_signatures();
        let signature = identity.sign(b"message");
        assert!(is_signature(&identity.public().ed25519, b"message", &signature));
        assert!(!is_on());
        let all = begin();
        drop(begun);
        assert!(is_on());
        drop(all);
    }

    #[test]
    fn every_bit_and_every_border_counts() {
        let mut seen =
            HashSet::from([hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]), hash(&[b"abc"]), hash(&[])]);
        assert_eq!(seen.len(), 4);
        for bit in 0..8 * 100 {
            let mut bytes = [0u8; 100];
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(seen.insert(hash(&[&bytes])), "bit {bit}");
        }
    }
}

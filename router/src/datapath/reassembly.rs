//! Puts the fragments of long records together. Bounded in number, per peer and in time.

use std::time::{Duration, Instant};

use super::drops::DropReason;
use super::keys::{LaneId, PeerId};
use super::rebuild::Origin;
use super::wire::{FRAGMENT_HEADER, FragmentHeader};

/// Records being put together at once: two megabytes at most. Order within a lane makes more than a few per peer useless.
const SLOTS: usize = 32;

/// Of those, how many one peer may hold, so that none takes the place of all others.
const SLOTS_PER_PEER: usize = 8;

/// A record that is not whole after this time never will be: fragments leave back to back.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pieces of one record: 64 KiB in pieces of a minimum-MTU datagram are 56.
const MAX_PIECES: usize = 128;

/// The longest record: a super-frame's slice or a frame, each below 64 KiB, with headers.
const MAX_RECORD: usize = 66_000;

struct Slot {
    peer: PeerId,
    /// Lane, and the counter of piece 0.
    whole: (LaneId, u64),
    shape: (usize, usize, usize),
    have: u128,
    since: Instant,
    bytes: Vec<u8>,
}

/// The records being put together by one worker.
#[derive(Default)]
pub struct Reassembly {
    slots: Vec<Slot>,
    spare: Vec<Vec<u8>>,
}

impl Reassembly {
    /// Takes a fragment; returns the record when it is whole. Hand it to `recycle` afterwards. The second part is how many
    /// unfinished records had to go.
    pub fn insert(
        &mut self,
        origin: Origin,
        fragment: &[u8],
        now: Instant,
    ) -> (Result<Option<Vec<u8>>, DropReason>, usize) {
        let expired = self.expire(now);
        let Some((header, whole)) = parse(origin, fragment) else {
            return (Err(DropReason::FragmentInconsistent), expired);
        };
        let shape = (header.count, header.piece, header.total);
        let found = self.slots.iter().position(|slot| slot.whole == whole && slot.peer == origin.peer);
        let (at, evicted) = match found {
            Some(at) => (at, 0),
            None => self.begin(origin.peer, whole, shape, now),
        };
        let slot = &mut self.slots[at];
        let bit = 1u128 << header.index;
        if slot.shape != shape || slot.have & bit != 0 {
            return (Err(DropReason::FragmentInconsistent), expired + evicted);
        }
        slot.have |= bit;
        let piece = &fragment[FRAGMENT_HEADER..];
        let from = header.index * header.piece;
        slot.bytes[from..from + piece.len()].copy_from_slice(piece);
        if slot.have.count_ones() as usize != header.count {
            return (Ok(None), expired + evicted);
        }
        let slot = self.slots.swap_remove(at);
        (Ok(Some(slot.bytes)), expired + evicted)
    }

    /// Takes back the buffer of a record, to use it again.
    pub fn recycle(&mut self, bytes: Vec<u8>) {
        if self.spare.len() < SLOTS_PER_PEER {
            self.spare.push(bytes);
        }
    }

    fn begin(
        &mut self,
        peer: PeerId,
        whole: (LaneId, u64),
        shape: (usize, usize, usize),
        now: Instant,
    ) -> (usize, usize) {
        let of_peer = self.slots.iter().filter(|slot| slot.peer == peer).count();
        let mut evicted = 0;
        if of_peer >= SLOTS_PER_PEER || self.slots.len() >= SLOTS {
            let own_only = of_peer >= SLOTS_PER_PEER;
            let oldest = (0..self.slots.len())
                .filter(|&at| !own_only || self.slots[at].peer == peer)
                .min_by_key(|&at| self.slots[at].since);
            if let Some(oldest) = oldest {
                let slot = self.slots.swap_remove(oldest);
                self.recycle(slot.bytes);
                evicted = 1;
            }
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.resize(shape.2, 0);
        self.slots.push(Slot { peer, whole, shape, have: 0, since: now, bytes });
        (self.slots.len() - 1, evicted)
    }

    fn expire(&mut self, now: Instant) -> usize {
        let before = self.slots.len();
        let mut at = 0;
        while at < self.slots.len() {
            if now.saturating_duration_since(self.slots[at].since) > PATIENCE {
                let slot = self.slots.swap_remove(at);
                self.recycle(slot.bytes);
            } else {
                at += 1;
            }
        }
        before - self.slots.len()
    }
}

fn parse(origin: Origin, fragment: &[u8]) -> Option<(FragmentHeader, (LaneId, u64))> {
    let header = FragmentHeader::parse(fragment)?;
    let piece = fragment.len() - FRAGMENT_HEADER;
    let sane = header.piece > 0
        && header.total <= MAX_RECORD
        && header.count <= MAX_PIECES
        && header.count > 1
        && header.count == header.total.div_ceil(header.piece)
        && header.index < header.count;
    if !sane || piece != header.piece.min(header.total - header.index * header.piece) {
        return None;
    }
    let base = origin.counter.checked_sub(u64::try_from(header.index).ok()?)?;
    Some((header, (origin.lane, base)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn origin(counter: u64) -> Origin {
        Origin { peer: PeerId([1; 16]), lane: LaneId(5), counter }
    }

    fn fragments(record: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let count = record.len().div_ceil(piece);
        let header = |index| FragmentHeader { index, count, piece, total: record.len() };
        let parts = record.chunks(piece).enumerate();
        parts.map(|(i, part)| [&header(i).emit().expect("fits")[..], part].concat()).collect()
    }

    proptest! {
        #[test]
        fn any_order_gives_the_record_back(len in 201..5000usize, piece in 100..200usize, seed in any::<u64>()) {
            let record: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
            let mut parts: Vec<(u64, Vec<u8>)> = (100..).zip(fragments(&record, piece)).collect();
            let mut state = seed | 1;
            for i in (1..parts.len()).rev() {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                parts.swap(i, (state >> 33) as usize % (i + 1));
            }
            let now = Instant::now();
            let mut reassembly = Reassembly::default();
            let last = parts.len() - 1;
            for (i, (counter, part)) in parts.iter().enumerate() {
                let (result, shed) = reassembly.insert(origin(*counter), part, now);
                prop_assert_eq!(shed, 0);
                prop_assert_eq!(result, Ok((i == last).then(|| record.clone())));
            }
        }

        #[test]
        fn arbitrary_fragments_never_panic_and_stay_bounded(
            parts in proptest::collection::vec((any::<u8>(), 0..6u16, 0..6u16, 0..40u16, 0..150u32, 0..60usize), 0..200),
        ) {
            let mut reassembly = Reassembly::default();
            let now = Instant::now();
            for (counter, index, count, piece, total, len) in parts {
                let mut part = vec![3u8, 0];
                part.extend([index, count, piece].iter().flat_map(|field| field.to_be_bytes()));
                part.extend(total.to_be_bytes());
                part.resize(12 + len, 7);
                let _ = reassembly.insert(origin(counter.into()), &part, now);
                prop_assert!(reassembly.slots.len() <= SLOTS_PER_PEER);
            }
        }
    }

    #[test]
    fn unfinished_records_go_with_age() {
        let parts = fragments(&[7; 500], 100);
        let mut reassembly = Reassembly::default();
        let now = Instant::now();
        assert_eq!(reassembly.insert(origin(0), &parts[0], now), (Ok(None), 0));
        assert_eq!(reassembly.insert(origin(50), &parts[0], now + PATIENCE * 2), (Ok(None), 1));
        assert_eq!(reassembly.slots.len(), 1);
    }
}

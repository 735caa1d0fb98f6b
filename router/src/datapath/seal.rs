//! Sealing: the only place that makes something which the underlay socket sends on a lane.
//!
//! An `Outbox` collects the datagrams of one peer in one buffer, so that one send with segmentation offload carries them all:
//! they have equal lengths, but for the last. Plaintext is staged behind the sealed part and never handed out.

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{Context, SHA256};

use super::keys::{Cipher, LaneId, TxLaneKey};
use super::mtu::{MAX_SEGMENTS, MAX_SEND};
use super::wire::{LANE_HEADER, LaneHeader, TAG};

/// After so many datagrams a lane key seals nothing more. 2^36 datagrams of 64 KiB stay far below the limits of both AEADs
/// (draft-irtf-cfrg-aead-limits); with a rekey every two minutes it is never reached.
pub const COUNTER_LIMIT: u64 = 1 << 36;

/// From this counter on the lane wants a successor: half of the limit is hours of notice at any speed.
pub const REKEY_AT: u64 = COUNTER_LIMIT / 2;

/// A key cannot be used: the AEAD refused it, or its counter is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SealError {
    /// The lane needs a new key. Cannot happen in a healthy system.
    #[error("lane counter reached {COUNTER_LIMIT}")]
    CounterUsedUp,
    /// The AEAD failed, which with lengths that fit it does not do.
    #[error("the cipher refused to seal")]
    CipherRefused,
}

/// The sending half of a lane: key and counter in one, owned by one thread. Neither can be copied.
pub struct SealingLane {
    lane: LaneId,
    key: LessSafeKey,
    /// SHA-256 of cipher and key, to know the key again without having it.
    fingerprint: [u8; 32],
    counter: u64,
}

impl SealingLane {
    /// Takes the key; its counter begins at zero.
    pub fn new(key: TxLaneKey) -> Result<SealingLane, SealError> {
        let less_safe = aead_key(key.cipher, &key.key).ok_or(SealError::CipherRefused)?;
        let mut hash = Context::new(&SHA256);
        hash.update(key.cipher.to_string().as_bytes());
        hash.update(&*key.key);
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(hash.finish().as_ref());
        Ok(SealingLane { lane: key.lane, key: less_safe, fingerprint, counter: 0 })
    }

    /// Whether both seal with the same key, in which case only one of them may ever be used: their counters repeat each other.
    pub fn has_key_of(&self, other: &SealingLane) -> bool {
        self.fingerprint == other.fingerprint
    }

    /// Whether a successor should be asked for.
    pub fn wants_rekey(&self) -> bool {
        self.counter >= REKEY_AT
    }

    /// Seals `buffer[LANE_HEADER..LANE_HEADER + plain]` in place: writes the header before and the tag behind it. Returns the
    /// length of the datagram.
    fn seal(&mut self, buffer: &mut [u8], plain: usize) -> Result<usize, SealError> {
        if self.counter >= COUNTER_LIMIT {
            return Err(SealError::CounterUsedUp);
        }
        let counter = self.counter;
        // Counted before use: whatever happens below, this nonce is gone.
        self.counter += 1;
        let header = LaneHeader { lane: self.lane, counter }.emit();
        let end = LANE_HEADER + plain;
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(counter), Aad::from(header), &mut buffer[LANE_HEADER..end])
            .map_err(|_| SealError::CipherRefused)?;
        buffer[..LANE_HEADER].copy_from_slice(&header);
        buffer[end..end + TAG].copy_from_slice(tag.as_ref());
        Ok(end + TAG)
    }
}

/// Datagrams that were sealed: equally long, but for the last. Only this module can make one.
#[derive(Clone, Copy)]
pub struct SealedTrain<'a> {
    bytes: &'a [u8],
    segment: usize,
}

impl<'a> SealedTrain<'a> {
    /// All datagrams, one after the other.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Length of every datagram but the last.
    pub fn segment(&self) -> usize {
        self.segment
    }

    /// How many datagrams there are.
    pub fn count(&self) -> usize {
        self.bytes.len().div_ceil(self.segment)
    }

    /// The datagrams, in groups of at most `count`.
    pub fn groups(&self, count: usize) -> impl Iterator<Item = SealedTrain<'a>> + use<'a> {
        let segment = self.segment;
        self.bytes.chunks(segment * count).map(move |bytes| SealedTrain { bytes, segment })
    }
}

/// Takes the trains that an outbox gives off.
pub trait TrainSink {
    /// Sends it, or counts why not.
    fn send(&mut self, train: SealedTrain<'_>);
}

impl<F: FnMut(SealedTrain<'_>)> TrainSink for F {
    fn send(&mut self, train: SealedTrain<'_>) {
        self(train);
    }
}

/// Datagrams for one peer that wait for their common send, and the plaintext of the next one.
pub struct Outbox {
    buffer: Box<[u8]>,
    sealed: usize,
    segment: usize,
    count: usize,
    staged: usize,
}

impl Default for Outbox {
    fn default() -> Self {
        // Behind a full train there is place for the longest datagram.
        Outbox {
            buffer: vec![0; 2 * MAX_SEND].into_boxed_slice(),
            sealed: 0,
            segment: 0,
            count: 0,
            staged: 0,
        }
    }
}

impl Outbox {
    /// Plaintext staged for the next datagram.
    pub fn staged(&self) -> usize {
        self.staged
    }

    /// Where further plaintext of the next datagram goes; `stage` says how much was written.
    pub fn room(&mut self) -> &mut [u8] {
        let from = self.sealed + LANE_HEADER + self.staged;
        let to = self.sealed + MAX_SEND - TAG;
        &mut self.buffer[from..to]
    }

    /// Adds what was written to `room` to the next datagram.
    pub fn stage(&mut self, written: usize) {
        self.staged += written;
        assert!(LANE_HEADER + self.staged + TAG <= MAX_SEND, "staged more than there was room");
    }

    /// Seals what was staged, after sending what cannot share a train with it. On error the staged plaintext is gone.
    pub fn seal(&mut self, lane: &mut SealingLane, sink: &mut impl TrainSink) -> Result<(), SealError> {
        if self.staged == 0 {
            return Ok(());
        }
        let length = LANE_HEADER + self.staged + TAG;
        if self.count > 0 && !self.takes(length) {
            self.send(sink);
        }
        let plain = std::mem::take(&mut self.staged);
        lane.seal(&mut self.buffer[self.sealed..], plain)?;
        if self.count == 0 {
            self.segment = length;
        }
        self.sealed += length;
        self.count += 1;
        Ok(())
    }

    /// Whether no datagram can be added any more, since the last one was shorter than the others.
    pub fn is_closed(&self) -> bool {
        self.sealed < self.count * self.segment
    }

    /// Whether `count` datagrams of at most `length` bytes can still join what was sealed, as far as its size goes.
    pub fn has_room_for(&self, count: usize, length: usize) -> bool {
        self.count + count <= MAX_SEGMENTS && self.sealed + count * length <= MAX_SEND
    }

    /// Sends what was sealed. What is staged stays.
    pub fn send(&mut self, sink: &mut impl TrainSink) {
        if self.count > 0 {
            sink.send(SealedTrain { bytes: &self.buffer[..self.sealed], segment: self.segment });
            let from = self.sealed + LANE_HEADER;
            self.buffer.copy_within(from..from + self.staged, LANE_HEADER);
            self.sealed = 0;
            self.count = 0;
        }
    }

    fn takes(&self, length: usize) -> bool {
        !self.is_closed()
            && length <= self.segment
            && self.count < MAX_SEGMENTS
            && self.sealed + length <= MAX_SEND
    }
}

/// The nonce of a datagram: four zero bytes and the counter.
pub(super) fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

pub(super) fn aead_key(cipher: Cipher, key: &[u8; 32]) -> Option<LessSafeKey> {
    let algorithm = match cipher {
        Cipher::Aes256Gcm => &AES_256_GCM,
        Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
    };
    UnboundKey::new(algorithm, key).ok().map(LessSafeKey::new)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn lane() -> SealingLane {
        let key = TxLaneKey {
            lane: LaneId(7),
            cipher: Cipher::ChaCha20Poly1305,
            key: zeroize::Zeroizing::new([1; 32]),
        };
        SealingLane::new(key).expect("key")
    }

    proptest! {
        #[test]
        fn trains_keep_order_fit_limits_and_never_repeat_a_nonce(
            lengths in proptest::collection::vec(prop_oneof![Just(1000usize), 1..2000usize, Just(60000)], 1..150),
        ) {
            let (mut lane, mut outbox) = (lane(), Outbox::default());
            let mut counters = Vec::new();
            let mut sizes = Vec::new();
            let mut sink = |train: SealedTrain<'_>| {
                assert!(train.count() <= MAX_SEGMENTS && train.bytes().len() <= MAX_SEND);
                for datagram in train.bytes().chunks(train.segment()) {
                    counters.push(LaneHeader::parse(datagram).expect("header").counter);
                    sizes.push(datagram.len() - LANE_HEADER - TAG);
                }
            };
            for &length in &lengths {
                outbox.room()[..length].fill(9);
                outbox.stage(length);
                outbox.seal(&mut lane, &mut sink).expect("sealed");
            }
            outbox.send(&mut sink);
            let unique: BTreeSet<u64> = counters.iter().copied().collect();
            prop_assert_eq!(unique.len(), counters.len());
            prop_assert!(counters.is_sorted());
            prop_assert_eq!(sizes, lengths);
        }
    }

    #[test]
    fn used_up_lane_seals_nothing() {
        let (mut lane, mut outbox) = (lane(), Outbox::default());
        lane.counter = COUNTER_LIMIT - 1;
        assert!(lane.wants_rekey());
        let mut sent = 0;
        for expected in [Ok(()), Err(SealError::CounterUsedUp)] {
            outbox.stage(10);
            assert_eq!(outbox.seal(&mut lane, &mut |train: SealedTrain<'_>| sent += train.count()), expected);
        }
        outbox.send(&mut |train: SealedTrain<'_>| sent += train.count());
        assert_eq!(sent, 1);
    }
}

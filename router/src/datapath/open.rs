//! Opening: the receiving half of a lane. Checks the counter, opens in place, remembers the counter.

use aws_lc_rs::aead::{Aad, LessSafeKey};

use super::drops::DropReason;
use super::keys::{PeerId, RxLaneKey};
use super::replay::{ReplayWindow, Verdict};
use super::seal::{aead_key, nonce};
use super::wire::{LANE_HEADER, LaneHeader, TAG};

/// Key and replay window of one lane, owned by one thread.
pub struct OpeningLane {
    peer: PeerId,
    key: LessSafeKey,
    window: ReplayWindow,
}

impl OpeningLane {
    /// Takes the key. `None` when the AEAD refuses it.
    pub fn new(key: &RxLaneKey) -> Option<OpeningLane> {
        Some(OpeningLane {
            peer: key.peer,
            key: aead_key(key.cipher, &key.key)?,
            window: ReplayWindow::default(),
        })
    }

    /// Who sends on it.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Opens a datagram in place and returns its record. Only an authentic datagram moves the replay window.
    pub fn open<'a>(
        &mut self,
        header: LaneHeader,
        datagram: &'a mut [u8],
    ) -> Result<&'a mut [u8], DropReason> {
        if datagram.len() < LANE_HEADER + TAG {
            return Err(DropReason::LaneHeaderMalformed);
        }
        match self.window.check(header.counter) {
            Verdict::Fresh => {}
            Verdict::Replayed => return Err(DropReason::Replayed),
            Verdict::TooOld => return Err(DropReason::TooOld),
        }
        let (aad, sealed) = datagram.split_at_mut(LANE_HEADER);
        let record = self
            .key
            .open_in_place(nonce(header.counter), Aad::from(&*aad), sealed)
            .map_err(|_| DropReason::NotAuthentic)?;
        self.window.mark(header.counter);
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::{Cipher, LaneId, TxLaneKey};
    use super::super::seal::{Outbox, SealedTrain, SealingLane};
    use super::*;

    fn sealed(cipher: Cipher, records: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lane =
            SealingLane::new(TxLaneKey { lane: LaneId(9), cipher, key: zeroize::Zeroizing::new([3; 32]) })
                .expect("key");
        let mut outbox = Outbox::default();
        let mut out = Vec::new();
        let mut sink =
            |train: SealedTrain<'_>| out.extend(train.bytes().chunks(train.segment()).map(<[u8]>::to_vec));
        for record in records {
            outbox.room()[..record.len()].copy_from_slice(record);
            outbox.stage(record.len());
            outbox.seal(&mut lane, &mut sink).expect("sealed");
        }
        outbox.send(&mut sink);
        out
    }

    fn open(lane: &mut OpeningLane, datagram: &[u8]) -> Result<Vec<u8>, DropReason> {
        let mut copy = datagram.to_vec();
        let header = LaneHeader::parse(datagram).ok_or(DropReason::LaneHeaderMalformed)?;
        lane.open(header, &mut copy).map(|record| record.to_vec())
    }

    #[test]
    fn opens_once_and_only_what_was_sealed() {
        for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
            let key = RxLaneKey {
                lane: LaneId(9),
                peer: PeerId([0; 16]),
                cipher,
                key: zeroize::Zeroizing::new([3; 32]),
            };
            let mut lane = OpeningLane::new(&key).expect("key");
            let datagrams = sealed(cipher, &[b"one", b"two"]);
            for at in 4..datagrams[0].len() {
                let mut mangled = datagrams[0].clone();
                mangled[at] ^= 0x40;
                let result = open(&mut lane, &mangled);
                // The lane's name is the caller's to look up, but it is part of what is authenticated.
                assert_eq!(result, Err(DropReason::NotAuthentic), "byte {at}");
            }
            assert_eq!(open(&mut lane, &datagrams[1]), Ok(b"two".to_vec()));
            assert_eq!(open(&mut lane, &datagrams[0]), Ok(b"one".to_vec()));
            assert_eq!(open(&mut lane, &datagrams[0]), Err(DropReason::Replayed));
            assert_eq!(open(&mut lane, &datagrams[1][..20]), Err(DropReason::LaneHeaderMalformed));
        }
    }
}

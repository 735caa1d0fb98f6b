//! Keys for tests: a keyed hash in the place of signatures. Forging it is easy, for whoever knows the secret of the origin.

use std::collections::BTreeMap;

use gossip::{PeerId, Signer, Verdict, Verifier};

/// The keys of one peer and of all that it was introduced to.
pub(crate) struct TestKeys {
    secret: u64,
    known: BTreeMap<PeerId, u64>,
}

impl TestKeys {
    /// The keys of peer number `n`.
    pub(crate) fn of(n: u16) -> Self {
        let secret = secret_of(n);
        TestKeys { secret, known: BTreeMap::from([(peer(n), secret)]) }
    }
}

impl Signer for TestKeys {
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        sign(self.secret, message)
    }
}

impl Verifier for TestKeys {
    fn verify(&self, origin: PeerId, message: &[u8], signature: &[u8; 64]) -> Verdict {
        match self.known.get(&origin) {
            None => Verdict::UnknownOrigin,
            Some(secret) if sign(*secret, message) == *signature => Verdict::Good,
            Some(_) => Verdict::Bad,
        }
    }

    fn introduce(&mut self, origin: PeerId, value: &[u8]) -> bool {
        let Some(Ok(secret)) = value.get(..8).map(|bytes| bytes.try_into().map(u64::from_be_bytes)) else {
            return false;
        };
        let good = id_of(secret) == origin;
        if good {
            self.known.insert(origin, secret);
        }
        good
    }
}

/// The id of peer number `n`.
pub(crate) fn peer(n: u16) -> PeerId {
    id_of(secret_of(n))
}

/// The value of its peer record.
pub(crate) fn peer_record(n: u16) -> Vec<u8> {
    secret_of(n).to_be_bytes().to_vec()
}

/// Signs as the peer with `secret`.
pub(crate) fn sign(secret: u64, message: &[u8]) -> [u8; 64] {
    let words =
        message.chunks(8).map(|chunk| chunk.iter().fold(1, |word, byte| word << 8 ^ u64::from(*byte)));
    let hash = words.fold(mix(secret), |hash, word| mix(hash ^ word));
    let mut signature = [0; 64];
    for (lane, part) in signature.chunks_mut(8).enumerate() {
        part.copy_from_slice(&mix(hash ^ lane as u64).to_be_bytes());
    }
    signature
}

/// The secret of peer number `n`.
pub(crate) fn secret_of(n: u16) -> u64 {
    mix(u64::from(n) + 1)
}

fn id_of(secret: u64) -> PeerId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&mix(secret ^ 0x1234).to_be_bytes());
    id[8..].copy_from_slice(&mix(secret ^ 0x5678).to_be_bytes());
    PeerId(id)
}

/// Spreads every bit over all others.
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

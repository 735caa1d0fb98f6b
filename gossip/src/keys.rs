//! What gossip asks of whoever holds keys: to sign for this peer and to check what others signed.
//!
//! Gossip knows neither the algorithm nor what a peer record looks like inside.

use std::sync::Arc;

use crate::peer::PeerId;
use crate::record::Record;

/// Signs as this peer.
pub trait Signer {
    /// The signature of this peer over `message`.
    fn sign(&self, message: &[u8]) -> [u8; 64];
}

/// What became of checking a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// `origin` signed it.
    Good,
    /// `origin` did not sign it.
    Bad,
    /// The keys of `origin` are not known yet: its peer record has not come.
    UnknownOrigin,
}

/// Checks signatures of other peers.
pub trait Verifier {
    /// Whether `signature` is that of `origin` over `message`.
    fn verify(&self, origin: PeerId, message: &[u8], signature: &[u8; 64]) -> Verdict;

    /// Looks into the value of a peer record: true when the keys in it hash to `origin`. Remembers them then.
    ///
    /// A peer record authenticates its keys, since a peer is named after them. Nothing else in the value is proven yet:
    /// the signature is checked after this call, with these keys. Take the rest from [`crate::Event::RecordChanged`].
    fn introduce(&mut self, origin: PeerId, peer_record_value: &[u8]) -> bool;

    /// Puts a record where it is kept. Where many peers live in one process they may keep equal ones in one place.
    fn keep(&self, record: Record) -> Arc<Record> {
        Arc::new(record)
    }
}

/// Both halves, as `Gossip` needs them.
pub trait Keys: Signer + Verifier {}

impl<T: Signer + Verifier> Keys for T {}

/// Serde of a signature: two arrays of the longest size that serde knows.
pub(crate) mod signature_bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(signature: &[u8; 64], serializer: S) -> Result<S::Ok, S::Error> {
        let (mut first, mut second) = ([0u8; 32], [0u8; 32]);
        first.copy_from_slice(&signature[..32]);
        second.copy_from_slice(&signature[32..]);
        (first, second).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 64], D::Error> {
        let (first, second) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&first);
        signature[32..].copy_from_slice(&second);
        Ok(signature)
    }
}

//! Signing and checking of gossip records with the routers' own keys.

use std::collections::BTreeMap;
use std::sync::Arc;

#[cfg(feature = "simulated")]
use gossip::Record;
use gossip::{PeerId, Signer, Verdict, Verifier};

use crate::core::advert::PeerAdvert;
use crate::core::identity::Identity;

/// Peers whose keys are remembered; ten times the largest fabric that we test.
const MAX_KNOWN: usize = 100_000;

/// This router's signing key and everybody's public ones.
pub(super) struct NodeKeys {
    identity: Arc<Identity>,
    /// Of each other peer the last announcement that was read: the node holds the same.
    known: BTreeMap<PeerId, Arc<PeerAdvert>>,
}

impl NodeKeys {
    pub(super) fn new(identity: Arc<Identity>) -> NodeKeys {
        NodeKeys { identity, known: BTreeMap::new() }
    }
}

impl Signer for NodeKeys {
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.identity.sign(message)
    }
}

impl Verifier for NodeKeys {
    fn verify(&self, origin: PeerId, message: &[u8], signature: &[u8; 64]) -> Verdict {
        let public = match self.known.get(&origin) {
            Some(advert) => advert.public(),
            None if origin == self.identity.peer_id() => self.identity.public(),
            None => return Verdict::UnknownOrigin,
        };
        if public.verify(message, signature) { Verdict::Good } else { Verdict::Bad }
    }

    fn introduce(&mut self, origin: PeerId, value: &[u8]) -> bool {
        match PeerAdvert::read(origin, value) {
            Ok(advert) if self.known.len() < MAX_KNOWN || self.known.contains_key(&origin) => {
                self.known.insert(origin, advert);
                true
            }
            Ok(_) | Err(_) => false,
        }
    }

    #[cfg(feature = "simulated")]
    fn keep(&self, record: Record) -> Arc<Record> {
        crate::core::simulated::keep_record(record)
    }
}

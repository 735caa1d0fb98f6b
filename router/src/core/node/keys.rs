//! Signing and checking of gossip records with the routers' own keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use gossip::{PeerId, Signer, Verdict, Verifier};

use crate::core::advert::PeerAdvert;
use crate::core::identity::{Identity, PublicIdentity};

/// Peers whose keys are remembered; ten times the largest fabric that we test.
const MAX_KNOWN: usize = 100_000;

/// This router's signing key and everybody's public ones.
pub(super) struct NodeKeys {
    identity: Arc<Identity>,
    known: BTreeMap<PeerId, PublicIdentity>,
}

impl NodeKeys {
    pub(super) fn new(identity: Arc<Identity>) -> NodeKeys {
        let known = BTreeMap::from([(identity.peer_id(), identity.public())]);
        NodeKeys { identity, known }
    }
}

impl Signer for NodeKeys {
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.identity.sign(message)
    }
}

impl Verifier for NodeKeys {
    fn verify(&self, origin: PeerId, message: &[u8], signature: &[u8; 64]) -> Verdict {
        match self.known.get(&origin) {
            None => Verdict::UnknownOrigin,
            Some(public) if public.verify(message, signature) => Verdict::Good,
            Some(_) => Verdict::Bad,
        }
    }

    fn introduce(&mut self, origin: PeerId, value: &[u8]) -> bool {
        match PeerAdvert::parse(origin, value) {
            Ok(advert) if self.known.len() < MAX_KNOWN || self.known.contains_key(&origin) => {
                self.known.insert(origin, advert.public());
                true
            }
            Ok(_) | Err(_) => false,
        }
    }
}

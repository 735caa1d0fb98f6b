//! Who a router is: an Ed25519 key that signs and an X25519 key that makes sessions. Knows no files: the shell keeps the seed.

use std::sync::Arc;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use boringtun::x25519::{PublicKey, StaticSecret};
use gossip::PeerId;
use zeroize::Zeroizing;

/// Separates the hash that makes a peer id from every other use of SHA-256 over keys.
const PEER_ID_LABEL: &[u8] = b"weave peer id v1";

/// The secret half of a router's identity. Has no `Debug` and is wiped when dropped.
#[derive(Clone)]
pub struct Identity {
    seed: Zeroizing<[u8; 64]>,
    /// Shared between clones: making it of the seed costs a scalar multiplication.
    signing: Arc<Ed25519KeyPair>,
    public: PublicIdentity,
}

impl Identity {
    /// Makes the identity of 64 random bytes: the Ed25519 seed, then the X25519 secret.
    pub fn from_seed(seed: [u8; 64]) -> Self {
        let seed = Zeroizing::new(seed);
        let mut secret = Zeroizing::new([0; 32]);
        secret.copy_from_slice(&seed[32..]);
        let x25519 = PublicKey::from(&StaticSecret::from(*secret)).to_bytes();
        let mut ed25519 = [0; 32];
        let signing = Ed25519KeyPair::from_seed_unchecked(&seed[..32]);
        let signing = Arc::new(signing.expect("every 32 bytes are an Ed25519 seed"));
        ed25519.copy_from_slice(signing.public_key().as_ref());
        Self { seed, signing, public: PublicIdentity { ed25519, x25519 } }
    }

    /// The seed, for the shell to keep on disk.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 64]> {
        self.seed.clone()
    }

    /// The half that everybody may know.
    pub fn public(&self) -> PublicIdentity {
        self.public
    }

    /// The name that follows from the public keys.
    pub fn peer_id(&self) -> PeerId {
        self.public.peer_id()
    }

    /// Signs with the Ed25519 key.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.signing.sign(message).as_ref());
        #[cfg(feature = "simulated")]
        super::simulated::note_signature(&self.public.ed25519, message, &signature);
        signature
    }

    /// The X25519 secret, for the session handshake only.
    pub(in crate::core) fn x25519(&self) -> StaticSecret {
        let mut secret = Zeroizing::new([0; 32]);
        secret.copy_from_slice(&self.seed[32..]);
        StaticSecret::from(*secret)
    }
}

impl gossip::Signer for Identity {
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        Identity::sign(self, message)
    }
}

/// The keys that everybody may know; the peer id is their hash, so that they prove each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PublicIdentity {
    /// Verifies gossip records and HELLOs.
    pub ed25519: [u8; 32],
    /// The static key of the session handshake.
    pub x25519: [u8; 32],
}

impl PublicIdentity {
    /// The first 16 bytes of SHA-256 over a label and both keys.
    pub fn peer_id(&self) -> PeerId {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(PEER_ID_LABEL);
        hash.update(&self.ed25519);
        hash.update(&self.x25519);
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finish().as_ref()[..16]);
        PeerId(id)
    }

    /// Whether `signature` over `message` was made by the owner of these keys.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        #[cfg(feature = "simulated")]
        if super::simulated::is_signature(&self.ed25519, message, signature) {
            return true;
        }
        UnparsedPublicKey::new(&ED25519, self.ed25519).verify(message, signature).is_ok()
    }

    /// Both keys in a row, as peer records carry them.
    pub fn to_bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&self.ed25519);
        bytes[32..].copy_from_slice(&self.x25519);
        bytes
    }

    /// The inverse of [`PublicIdentity::to_bytes`]; any bytes are keys, if not of anybody.
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let mut public = Self { ed25519: [0; 32], x25519: [0; 32] };
        public.ed25519.copy_from_slice(&bytes[..32]);
        public.x25519.copy_from_slice(&bytes[32..]);
        public
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_identity_again() {
        let identity = Identity::from_seed([7; 64]);
        let again = Identity::from_seed(*identity.to_bytes());
        assert_eq!(identity.public(), again.public());
        assert_eq!(identity.peer_id(), again.peer_id());
        assert_ne!(identity.peer_id(), Identity::from_seed([8; 64]).peer_id());
    }

    #[test]
    fn only_the_signed_message_verifies() {
        let identity = Identity::from_seed([7; 64]);
        let signature = identity.sign(b"message");
        assert!(identity.public().verify(b"message", &signature));
        assert!(!identity.public().verify(b"massage", &signature));
        assert!(!Identity::from_seed([8; 64]).public().verify(b"message", &signature));
    }

    #[test]
    fn public_keys_round_trip_as_bytes() {
        let public = Identity::from_seed([7; 64]).public();
        assert_eq!(PublicIdentity::from_bytes(&public.to_bytes()), public);
    }
}

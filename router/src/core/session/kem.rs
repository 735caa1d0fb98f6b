//! ML-KEM-768, the half of the lanes' keys that a quantum computer does not open.

use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use zeroize::Zeroizing;

#[cfg(feature = "simulated")]
use super::pretend;

/// Length of a public key.
pub(super) const KEM_KEY: usize = 1184;
/// Length of what encapsulates a secret.
pub(super) const KEM_CIPHERTEXT: usize = 1088;

/// A secret that both sides have come to.
pub(super) type Shared = Zeroizing<[u8; 32]>;

/// The secret half of a key.
pub(super) enum KemKey {
    /// ML-KEM.
    MlKem(DecapsulationKey),
    /// What stands for it in a simulation.
    #[cfg(feature = "simulated")]
    Pretend(u64),
}

impl KemKey {
    /// A new key, and its public half.
    pub(super) fn generate() -> Option<(Self, Vec<u8>)> {
        #[cfg(feature = "simulated")]
        if crate::core::simulated::is_on() {
            let secret = crate::core::simulated::tick();
            return Some((Self::Pretend(secret), pretend::kem_public::<KEM_KEY>(secret).to_vec()));
        }
        let key = DecapsulationKey::generate(&ML_KEM_768).ok()?;
        let public = key.encapsulation_key().and_then(|key| key.key_bytes()).ok()?;
        Some((Self::MlKem(key), public.as_ref().to_vec()))
    }

    /// The secret that was encapsulated for this key.
    pub(super) fn decapsulate(&self, ciphertext: &[u8; KEM_CIPHERTEXT]) -> Option<Shared> {
        match self {
            Self::MlKem(key) => shared(key.decapsulate(Ciphertext::from(&ciphertext[..])).ok()?.as_ref()),
            #[cfg(feature = "simulated")]
            Self::Pretend(secret) => Some(Zeroizing::new(pretend::kem_decapsulate(*secret, ciphertext))),
        }
    }
}

/// Encapsulates a new secret for a public key.
pub(super) fn encapsulate(public: &[u8; KEM_KEY]) -> Option<(Vec<u8>, Shared)> {
    #[cfg(feature = "simulated")]
    if crate::core::simulated::is_on() {
        let (ciphertext, shared) = pretend::kem_encapsulate::<KEM_CIPHERTEXT>(public);
        return Some((ciphertext.to_vec(), Zeroizing::new(shared)));
    }
    let (ciphertext, secret) = EncapsulationKey::new(&ML_KEM_768, public).ok()?.encapsulate().ok()?;
    Some((ciphertext.as_ref().to_vec(), shared(secret.as_ref())?))
}

fn shared(secret: &[u8]) -> Option<Shared> {
    secret.try_into().ok().map(Zeroizing::new)
}

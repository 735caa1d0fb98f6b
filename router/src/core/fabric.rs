//! What makes a fabric: its id, its secret, and the keys that follow from both. Knows no files and no prompts.

use std::fmt;
use std::str::FromStr;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::hkdf;
use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE};
use ipnet::Ipv4Net;
use thiserror::Error;
use zeroize::Zeroizing;

/// Argon2id memory in KiB: the 64 MiB of RFC 9106's second recommended option, which the smallest router can spare once.
const ARGON2_MEMORY_KIB: u32 = 64 * 1024;
/// Argon2id passes: RFC 9106's second recommended option.
const ARGON2_PASSES: u32 = 3;
/// Argon2id lanes: one, so that the time does not depend on idle cores.
const ARGON2_LANES: u32 = 1;
/// Shortest password accepted: below it even Argon2id does not help against a list of words.
pub const MIN_PASSWORD: usize = 8;

/// The public name of a fabric: 16 random bytes, made once by its founder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FabricId(pub [u8; 16]);

impl fmt::Display for FabricId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_lowercase())
    }
}

impl fmt::Debug for FabricId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for FabricId {
    type Err = FabricError;

    fn from_str(text: &str) -> Result<Self, FabricError> {
        let bytes = BASE32_NOPAD_NOCASE
            .decode(text.as_bytes())
            .map_err(|_| FabricError::NotAFabricId { text: text.to_owned() })?;
        let id = bytes.try_into().map_err(|_| FabricError::NotAFabricId { text: text.to_owned() })?;
        Ok(Self(id))
    }
}

/// Why an id or a password was refused. Nothing changed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FabricError {
    /// The text is not 26 characters of base32.
    #[error("`{text}` is not a fabric id (want 26 characters of base32)")]
    NotAFabricId {
        /// What was given.
        text: String,
    },
    /// The password is too short to be stretched to anything.
    #[error("the password is too short (got {got} bytes, want at least {MIN_PASSWORD})")]
    PasswordTooShort {
        /// Length of what was given.
        got: usize,
    },
    /// Argon2 refused, which only happens without memory.
    #[error("cannot stretch the password: {0}")]
    Argon2(String),
}

/// The secret that makes a member: 32 bytes. Has no `Debug` and is wiped when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// Takes 32 random bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Stretches a human password with Argon2id; the fabric id is the salt, so that equal passwords differ between fabrics.
    /// Takes a noticeable part of a second, by design: call it once.
    pub fn from_password(password: &[u8], fabric: FabricId) -> Result<Self, FabricError> {
        if password.len() < MIN_PASSWORD {
            return Err(FabricError::PasswordTooShort { got: password.len() });
        }
        let params = Params::new(ARGON2_MEMORY_KIB, ARGON2_PASSES, ARGON2_LANES, Some(32))
            .map_err(|error| FabricError::Argon2(error.to_string()))?;
        let mut secret = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password, &fabric.0, secret.as_mut())
            .map_err(|error| FabricError::Argon2(error.to_string()))?;
        Ok(Self(secret))
    }

    /// The bytes, for the token and for the state on disk only.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The keys that all members share, derived from the fabric's id, range and secret, so that a member with another idea of the range
/// cannot make a session and break allocation.
#[derive(Clone)]
pub struct FabricKeys {
    fabric: FabricId,
    range: Ipv4Net,
    hello: Zeroizing<[u8; 32]>,
    psk: Zeroizing<[u8; 32]>,
}

impl FabricKeys {
    /// Derives the keys.
    pub fn derive(fabric: FabricId, range: Ipv4Net, secret: &Secret) -> Self {
        let mut binding = Vec::with_capacity(21);
        binding.extend_from_slice(&fabric.0);
        binding.extend_from_slice(&range.network().octets());
        binding.push(range.prefix_len());
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"weave fabric v1").extract(secret.expose());
        Self {
            fabric,
            range,
            hello: expand(&prk, &[b"hello", &binding]),
            psk: expand(&prk, &[b"session psk", &binding]),
        }
    }

    /// The fabric that the keys belong to.
    pub fn fabric(&self) -> FabricId {
        self.fabric
    }

    /// The range that the keys are bound to.
    pub fn range(&self) -> Ipv4Net {
        self.range
    }

    /// Authenticates HELLO datagrams.
    pub(in crate::core) fn hello(&self) -> &[u8; 32] {
        &self.hello
    }

    /// The pre-shared key of every session handshake.
    pub(in crate::core) fn psk(&self) -> &[u8; 32] {
        &self.psk
    }
}

/// HKDF-Expand to 32 bytes; the parts of `info` are taken as one string.
pub(in crate::core) fn expand(prk: &hkdf::Prk, info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    prk.expand(info, hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(key.as_mut()))
        .expect("32 bytes are within HKDF-SHA256's limit");
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    const FABRIC: FabricId = FabricId([1; 16]);

    fn range(text: &str) -> Ipv4Net {
        text.parse().expect("a range")
    }

    #[test]
    fn fabric_id_round_trips_as_text() {
        let text = FABRIC.to_string();
        assert_eq!(text.len(), 26);
        assert_eq!(text.parse(), Ok(FABRIC));
        assert_eq!(text.to_uppercase().parse(), Ok(FABRIC));
        assert!(matches!("weave".parse::<FabricId>(), Err(FabricError::NotAFabricId { .. })));
        assert!(matches!("".parse::<FabricId>(), Err(FabricError::NotAFabricId { .. })));
    }

    #[test]
    fn keys_differ_by_fabric_range_and_secret() {
        let secret = Secret::from_bytes([2; 32]);
        let keys = FabricKeys::derive(FABRIC, range("10.32.0.0/12"), &secret);
        let others = [
            FabricKeys::derive(FabricId([2; 16]), range("10.32.0.0/12"), &secret),
            FabricKeys::derive(FABRIC, range("10.32.0.0/13"), &secret),
            FabricKeys::derive(FABRIC, range("10.32.0.0/12"), &Secret::from_bytes([3; 32])),
        ];
        assert_ne!(keys.hello(), keys.psk());
        for other in others {
            assert_ne!(keys.hello(), other.hello());
            assert_ne!(keys.psk(), other.psk());
        }
    }

    #[test]
    fn password_secret_depends_on_password_and_fabric() {
        let secret = Secret::from_password(b"correct horse", FABRIC).expect("a secret");
        let again = Secret::from_password(b"correct horse", FABRIC).expect("a secret");
        let elsewhere = Secret::from_password(b"correct horse", FabricId([2; 16])).expect("a secret");
        assert_eq!(secret.expose(), again.expose());
        assert_ne!(secret.expose(), elsewhere.expose());
        let short = Secret::from_password(b"short", FABRIC).err();
        assert_eq!(short, Some(FabricError::PasswordTooShort { got: 5 }));
    }
}

//! A record: what one peer, its origin, says under one key. Only the origin writes it; everybody may carry it.
//!
//! Values are opaque here. Versions are the origin's own counter, never a wall clock.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hash::Hasher;
use crate::peer::PeerId;

/// Bytes of a record's name: a MAC address, a prefix or a peer id, with room to spare.
pub const MAX_NAME: usize = 64;

/// Bytes of a record's value, chosen so that the longest record fits a message of 1,100 bytes.
pub const MAX_VALUE: usize = 920;

/// Separates signatures of records from everything else that an identity signs.
const SIGNING_CONTEXT: &[u8] = b"weave gossip record v1";

/// What a record is about. Kinds that are not known are stored and passed on, so that versions can mix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Kind(pub u8);

impl Kind {
    /// A peer's public keys, addresses, nickname, version: the record that authenticates all others of its origin.
    pub const PEER: Kind = Kind(1);
    /// The peers that a peer has gossip links with.
    pub const ADJACENCY: Kind = Kind(2);
    /// A container: its MAC, addresses, names.
    pub const ENDPOINT: Kind = Kind(3);
    /// A block of the address range and its owner.
    pub const BLOCK: Kind = Kind(4);
    /// A peer that was removed from the fabric.
    pub const REMOVAL: Kind = Kind(5);
    /// How many addresses a peer has free.
    pub const FREE_SPACE: Kind = Kind(6);
    /// Names of a container, or a name that somebody added by hand, with their addresses.
    pub const NAMES: Kind = Kind(7);
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Kind::PEER => f.write_str("peer"),
            Kind::ADJACENCY => f.write_str("adjacency"),
            Kind::ENDPOINT => f.write_str("endpoint"),
            Kind::BLOCK => f.write_str("block"),
            Kind::REMOVAL => f.write_str("removal"),
            Kind::FREE_SPACE => f.write_str("free-space"),
            Kind::NAMES => f.write_str("names"),
            Kind(other) => write!(f, "kind-{other}"),
        }
    }
}

/// What a record is filed under, within its origin.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordKey {
    /// What it is about.
    pub kind: Kind,
    /// Which one of its kind; at most [`MAX_NAME`] bytes, empty where there is only one.
    pub name: Vec<u8>,
}

impl RecordKey {
    /// A key of `kind` with a name.
    pub fn new(kind: Kind, name: impl Into<Vec<u8>>) -> Self {
        RecordKey { kind, name: name.into() }
    }

    /// The key of a kind of which an origin has only one record.
    pub fn only(kind: Kind) -> Self {
        RecordKey { kind, name: Vec::new() }
    }
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/", self.kind)?;
        self.name.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One version of what an origin says under a key, with the origin's signature.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Who says it.
    pub origin: PeerId,
    /// Under which key.
    pub key: RecordKey,
    /// The origin's counter: boot in the upper 32 bits, number within the boot in the lower.
    pub version: u64,
    /// What it says; `None` is a tombstone: it no longer says anything. At most [`MAX_VALUE`] bytes.
    pub value: Option<Vec<u8>>,
    /// The origin's signature over all of the above.
    #[serde(with = "crate::keys::signature_bytes")]
    pub signature: [u8; 64],
}

impl Record {
    /// The bytes that the origin signs. Laid out by hand: the codec may change, old signatures must stay good.
    pub fn signing_bytes(&self) -> Vec<u8> {
        let value = self.value.as_ref().map_or(0, Vec::len);
        let mut bytes = Vec::with_capacity(SIGNING_CONTEXT.len() + 64 + MAX_NAME + value);
        bytes.extend_from_slice(SIGNING_CONTEXT);
        bytes.extend_from_slice(&self.origin.0);
        bytes.push(self.key.kind.0);
        bytes.extend_from_slice(&length(&self.key.name));
        bytes.extend_from_slice(&self.key.name);
        bytes.extend_from_slice(&self.version.to_be_bytes());
        match &self.value {
            Some(value) => {
                bytes.push(1);
                bytes.extend_from_slice(&length(value));
                bytes.extend_from_slice(value);
            }
            None => bytes.push(0),
        }
        bytes
    }

    /// Whether names and values keep to their limits.
    pub fn within_limits(&self) -> bool {
        self.key.name.len() <= MAX_NAME && self.value.as_ref().is_none_or(|value| value.len() <= MAX_VALUE)
    }

    /// Whether this replaces `other` of the same origin and key.
    ///
    /// An honest origin never signs two contents with one version. Should one do it, all peers must still come to the
    /// same end, hence the second criterion.
    pub fn supersedes(&self, other: &Record) -> bool {
        (self.version, &self.value, &self.signature) > (other.version, &other.value, &other.signature)
    }

    /// What this record adds to the digest of its origin.
    pub fn digest(&self) -> u64 {
        let mut hasher = Hasher::default();
        hasher.write(&self.origin.0);
        hasher.write(&[self.key.kind.0, self.key.name.len() as u8]);
        hasher.write(&self.key.name);
        hasher.write(&self.version.to_be_bytes());
        hasher.write(&self.value.as_ref().map_or(u64::MAX, |value| value.len() as u64).to_be_bytes());
        hasher.write(self.value.as_deref().unwrap_or_default());
        hasher.write(&self.signature);
        hasher.finish()
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (boot, number) = (self.version >> 32, self.version & u64::from(u32::MAX));
        write!(f, "{:?}:{:?}@{boot}.{number}", self.origin, self.key)?;
        match &self.value {
            Some(value) => write!(f, "={} bytes", value.len()),
            None => f.write_str("=gone"),
        }
    }
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("records are short").to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &[u8], value: Option<&[u8]>) -> Record {
        let key = RecordKey::new(Kind::ENDPOINT, name);
        Record { origin: PeerId([1; 16]), key, version: 1, value: value.map(Into::into), signature: [0; 64] }
    }

    #[test]
    fn signed_bytes_are_unambiguous() {
        let samples = [
            record(b"ab", Some(b"c")),
            record(b"a", Some(b"bc")),
            record(b"ab", Some(b"")),
            record(b"ab", None),
            record(b"", Some(b"abc")),
        ];
        for (i, one) in samples.iter().enumerate() {
            for other in &samples[i + 1..] {
                assert_ne!(one.signing_bytes(), other.signing_bytes());
                assert_ne!(one.digest(), other.digest());
            }
        }
    }

    #[test]
    fn order_is_total_between_different_records() {
        let (one, other) = (record(b"a", Some(b"x")), record(b"a", None));
        assert!(one.supersedes(&other));
        assert!(!other.supersedes(&one));
        assert!(!one.supersedes(&one));
    }
}

//! What peers gossip about address space: blocks, removals, free counts. Bytes in, checked values out.
//!
//! A [`BlockRecord`] alone does not say who signed it: the gossip record's origin does, and travels beside it.

use std::net::Ipv4Addr;

use gossip::codec::{self, DecodeError};
use gossip::{Kind, PeerId, RecordKey};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// Bytes of the longest record value of ours: a removal with two peer ids takes 33, a block 32.
const MAX_RECORD: usize = 64;

/// `owner` owns `prefix` from `epoch` on. Signed by the owner of the epoch before, or by the owner itself when it takes
/// over what it was granted or folds its blocks together (ADR 0004).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockRecord {
    /// The addresses.
    pub prefix: Ipv4Net,
    /// Who may hand them out.
    pub owner: PeerId,
    /// Grows with each step along the line of owners of an address; no address ever has two owners of one epoch.
    pub epoch: u64,
}

/// Why the value of a record is not taken. Only a faulty or a newer peer sends one; nothing of ours changes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not of our encoding.
    #[error("undecodable record")]
    Undecodable(#[from] DecodeError),
    /// Longer than 32 bits, or with bits set behind the prefix.
    #[error("{first}/{length} is not a prefix")]
    NotAPrefix {
        /// First address.
        first: Ipv4Addr,
        /// Length that was claimed.
        length: u8,
    },
    /// Epochs start at 1 and stay far from the end of their type.
    #[error("epoch {got} is not between 1 and {MAX_EPOCH}")]
    AbsurdEpoch {
        /// Epoch that was claimed.
        got: u64,
    },
    /// Filed under the name of something else.
    #[error("the record is filed under another name than its content")]
    MisfiledName,
}

/// The highest epoch that is taken: so many steps never happen, and every step still has a successor.
pub(crate) const MAX_EPOCH: u64 = 1 << 60;

/// The form of a block in bytes. Prefixes are checked on the way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireBlock {
    first: u32,
    length: u8,
    owner: PeerId,
    epoch: u64,
}

impl BlockRecord {
    /// The value of the gossip record.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&WireBlock::from(*self))
    }

    /// Reads the value of a gossip record of [`Kind::BLOCK`].
    pub fn decode(bytes: &[u8]) -> Result<BlockRecord, RecordError> {
        BlockRecord::try_from(codec::decode::<WireBlock>(bytes, MAX_RECORD)?)
    }

    /// What the value of a gossip record of [`Kind::BLOCK`] that is filed under `key` proves: a step, or a gift that is shown again.
    pub fn stated(key: &RecordKey, bytes: &[u8]) -> Result<BlockRecord, RecordError> {
        let (Said::Step(record) | Said::Deed(Deed(record))) = Said::decode(key, bytes)?;
        Ok(record)
    }

    /// What the record is filed under, below its signer.
    pub fn key(&self) -> RecordKey {
        block_key(self.prefix)
    }
}

/// A gift that was taken up, shown to those who were away. Filed where the gift was, and told apart from it by a mark at the end, so that
/// nobody takes it for an offer (ADR 0011).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deed(pub(crate) BlockRecord);

/// The form of a deed in bytes: longer than a block's, so that neither is read as the other.
#[derive(Serialize, Deserialize)]
struct WireDeed {
    block: WireBlock,
    mark: u8,
}

/// Any other value is for deeds of later versions.
const DEED: u8 = 1;

impl Deed {
    /// The value of the gossip record.
    pub(crate) fn encode(&self) -> Vec<u8> {
        codec::encode(&WireDeed { block: self.0.into(), mark: DEED })
    }

    fn decode(bytes: &[u8]) -> Option<Deed> {
        let wire: WireDeed =
            codec::decode(bytes, MAX_RECORD).ok().filter(|wire: &WireDeed| wire.mark == DEED)?;
        BlockRecord::try_from(wire.block).ok().map(Deed)
    }
}

/// What a peer says about a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// Whose it is from now on.
    Step(BlockRecord),
    /// Whose it was after a gift.
    Deed(Deed),
}

impl Said {
    /// Reads the value of a gossip record of [`Kind::BLOCK`] that is filed under `key`.
    pub(crate) fn decode(key: &RecordKey, bytes: &[u8]) -> Result<Said, RecordError> {
        let said = match Deed::decode(bytes) {
            Some(deed) => Said::Deed(deed),
            None => Said::Step(BlockRecord::decode(bytes)?),
        };
        let (Said::Step(record) | Said::Deed(Deed(record))) = said;
        match record.key() == *key {
            true => Ok(said),
            false => Err(RecordError::MisfiledName),
        }
    }
}

/// The key of the record of `prefix`.
pub(crate) fn block_key(prefix: Ipv4Net) -> RecordKey {
    let mut name = prefix.network().octets().to_vec();
    name.push(prefix.prefix_len());
    RecordKey { kind: Kind::BLOCK, name }
}

impl From<BlockRecord> for WireBlock {
    fn from(block: BlockRecord) -> Self {
        WireBlock {
            first: block.prefix.network().to_bits(),
            length: block.prefix.prefix_len(),
            owner: block.owner,
            epoch: block.epoch,
        }
    }
}

impl TryFrom<WireBlock> for BlockRecord {
    type Error = RecordError;

    fn try_from(wire: WireBlock) -> Result<Self, RecordError> {
        let prefix = checked_prefix(wire.first, wire.length)?;
        if !(1..=MAX_EPOCH).contains(&wire.epoch) {
            return Err(RecordError::AbsurdEpoch { got: wire.epoch });
        }
        Ok(BlockRecord { prefix, owner: wire.owner, epoch: wire.epoch })
    }
}

/// A prefix without bits behind its length.
pub(crate) fn checked_prefix(first: u32, length: u8) -> Result<Ipv4Net, RecordError> {
    let first = Ipv4Addr::from_bits(first);
    match Ipv4Net::new(first, length) {
        Ok(net) if net.trunc() == net => Ok(net),
        Ok(_) | Err(_) => Err(RecordError::NotAPrefix { first, length }),
    }
}

/// `heir` takes over the space of `removed`, which is declared dead. Signed by the heir, never withdrawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovalRecord {
    /// Who is declared dead.
    pub removed: PeerId,
    /// Who takes over, unless somebody with a smaller id wants to as well.
    pub heir: PeerId,
}

impl RemovalRecord {
    /// The value of the gossip record.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads the value of a gossip record of [`Kind::REMOVAL`].
    pub fn decode(bytes: &[u8]) -> Result<RemovalRecord, RecordError> {
        Ok(codec::decode(bytes, MAX_RECORD)?)
    }

    /// What the record is filed under, below its signer.
    pub fn key(&self) -> RecordKey {
        RecordKey { kind: Kind::REMOVAL, name: self.removed.0.to_vec() }
    }
}

/// How many addresses a peer could hand out or give away, coarsely. Only a hint whom to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreeRecord {
    /// Free addresses at the time of publishing.
    pub free: u32,
}

impl FreeRecord {
    /// The value of the gossip record.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads the value of a gossip record of [`Kind::FREE_SPACE`].
    pub fn decode(bytes: &[u8]) -> Result<FreeRecord, RecordError> {
        Ok(codec::decode(bytes, MAX_RECORD)?)
    }

    /// What the record is filed under; each peer has one.
    pub fn key() -> RecordKey {
        RecordKey { kind: Kind::FREE_SPACE, name: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deed_proves_the_gift_and_is_no_offer() {
        let prefix = "10.44.0.0/14".parse().expect("a prefix");
        let gift = BlockRecord { prefix, owner: PeerId([3; 16]), epoch: 4 };
        let (step, deed) = (gift.encode(), Deed(gift).encode());
        assert_eq!(BlockRecord::stated(&gift.key(), &step), Ok(gift));
        assert_eq!(BlockRecord::stated(&gift.key(), &deed), Ok(gift));
        assert!(BlockRecord::decode(&deed).is_err(), "read as an offer");
        let elsewhere = block_key("10.40.0.0/14".parse().expect("a prefix"));
        assert_eq!(BlockRecord::stated(&elsewhere, &deed), Err(RecordError::MisfiledName));
    }
}

//! What has to survive `kill -9`: own blocks, grants made, leases, removals, and who belongs to the fabric.
//!
//! Each entry is small and stands for itself. Replaying entries in the order in which they were written, or a snapshot
//! followed by the entries written after it, brings back what was acknowledged.

use std::net::Ipv4Addr;
use std::sync::Arc;

use gossip::PeerId;
use gossip::codec::{self, DecodeError};
use serde::{Deserialize, Serialize};

use crate::map::Standing;
use crate::record::{BlockRecord, RemovalRecord, WireBlock};

/// Bytes of the longest entry: a lease with an owner of 300 bytes, with room to spare.
pub const MAX_ENTRY: usize = 512;

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalEntry {
    /// `signer` wrote this record. Own ones are grants and holdings; those of others tell who owns the rest.
    Block {
        /// Who wrote it.
        signer: PeerId,
        /// What it says.
        record: BlockRecord,
        /// Whether another record contradicts it.
        standing: Standing,
    },
    /// `owner` holds `addr`.
    Lease {
        /// The address.
        addr: Ipv4Addr,
        /// The holder.
        owner: Arc<str>,
    },
    /// Nobody holds `addr` any more; it rests.
    Resting {
        /// The address.
        addr: Ipv4Addr,
    },
    /// Nobody holds `addr` any more; it was never used.
    Free {
        /// The address.
        addr: Ipv4Addr,
    },
    /// `owner` believes to hold `addr`, which is not ours any more.
    Lost {
        /// The address.
        addr: Ipv4Addr,
        /// The holder.
        owner: Arc<str>,
    },
    /// The holder of a lost address is gone.
    LostGone {
        /// The address.
        addr: Ipv4Addr,
    },
    /// Somebody wants to take over the space of somebody else.
    Removal(RemovalRecord),
    /// A peer of the fabric, which has to be asked before the space of another one is taken over.
    Member(PeerId),
    /// All space goes to this peer, now and when more comes.
    HandedOver(PeerId),
    /// Everybody has answered about this removed peer, and its space was taken over.
    TakenOver(PeerId),
    /// Entries before this one may be missing: nothing is used before the fabric was heard, also after another restart.
    Distrusted,
    /// The fabric was heard since.
    Trusted,
}

/// The form of an entry in bytes.
#[derive(Serialize, Deserialize)]
enum WireEntry {
    Block(PeerId, WireBlock, Standing),
    Lease(u32, String),
    Resting(u32),
    Free(u32),
    Lost(u32, String),
    LostGone(u32),
    Removal(RemovalRecord),
    Member(PeerId),
    HandedOver(PeerId),
    TakenOver(PeerId),
    Distrusted,
    Trusted,
}

/// Why bytes are not a journal entry: the disk or another version of the program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// Not of our encoding.
    #[error("undecodable journal entry")]
    Undecodable(#[from] DecodeError),
    /// The block in it is none.
    #[error("bad block in the journal")]
    BadBlock(#[from] crate::record::RecordError),
}

impl JournalEntry {
    /// The entry in bytes, at most [`MAX_ENTRY`].
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&match self.clone() {
            JournalEntry::Block { signer, record, standing } => {
                WireEntry::Block(signer, record.into(), standing)
            }
            JournalEntry::Lease { addr, owner } => WireEntry::Lease(addr.to_bits(), owner.to_string()),
            JournalEntry::Resting { addr } => WireEntry::Resting(addr.to_bits()),
            JournalEntry::Free { addr } => WireEntry::Free(addr.to_bits()),
            JournalEntry::Lost { addr, owner } => WireEntry::Lost(addr.to_bits(), owner.to_string()),
            JournalEntry::LostGone { addr } => WireEntry::LostGone(addr.to_bits()),
            JournalEntry::Removal(removal) => WireEntry::Removal(removal),
            JournalEntry::Member(peer) => WireEntry::Member(peer),
            JournalEntry::HandedOver(heir) => WireEntry::HandedOver(heir),
            JournalEntry::TakenOver(removed) => WireEntry::TakenOver(removed),
            JournalEntry::Distrusted => WireEntry::Distrusted,
            JournalEntry::Trusted => WireEntry::Trusted,
        })
    }

    /// Reads an entry.
    pub fn decode(bytes: &[u8]) -> Result<JournalEntry, JournalError> {
        Ok(match codec::decode::<WireEntry>(bytes, MAX_ENTRY)? {
            WireEntry::Block(signer, block, standing) => {
                JournalEntry::Block { signer, record: BlockRecord::try_from(block)?, standing }
            }
            WireEntry::Lease(addr, owner) => {
                JournalEntry::Lease { addr: Ipv4Addr::from_bits(addr), owner: owner.into() }
            }
            WireEntry::Resting(addr) => JournalEntry::Resting { addr: Ipv4Addr::from_bits(addr) },
            WireEntry::Free(addr) => JournalEntry::Free { addr: Ipv4Addr::from_bits(addr) },
            WireEntry::Lost(addr, owner) => {
                JournalEntry::Lost { addr: Ipv4Addr::from_bits(addr), owner: owner.into() }
            }
            WireEntry::LostGone(addr) => JournalEntry::LostGone { addr: Ipv4Addr::from_bits(addr) },
            WireEntry::Removal(removal) => JournalEntry::Removal(removal),
            WireEntry::Member(peer) => JournalEntry::Member(peer),
            WireEntry::HandedOver(heir) => JournalEntry::HandedOver(heir),
            WireEntry::TakenOver(removed) => JournalEntry::TakenOver(removed),
            WireEntry::Distrusted => JournalEntry::Distrusted,
            WireEntry::Trusted => JournalEntry::Trusted,
        })
    }
}

// Whoever stores entries with serde gets the same bytes.
impl Serialize for JournalEntry {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.encode().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for JournalEntry {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        JournalEntry::decode(&bytes).map_err(serde::de::Error::custom)
    }
}

//! What two peers say to each other directly. Every message may be lost, doubled or late; none is needed for safety.
//!
//! A [`Message::Give`] carries the record that gossip carries as well: whichever arrives first moves the block.

use std::net::Ipv4Addr;

use gossip::PeerId;
use gossip::codec::{self, DecodeError};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::record::{BlockRecord, RecordError, RemovalRecord, WireBlock, checked_prefix};

/// Bytes of the longest message, so that it fits a datagram of 1,280 bytes with all headers around it.
pub const MAX_MESSAGE: usize = 1100;

/// Blocks in one part of a report: each takes at most 47 bytes.
pub(crate) const REPORT_BLOCKS: usize = 20;

/// Parts of a report: 80,000 blocks, a hundred times what a large fabric has.
pub(crate) const MAX_PARTS: usize = 4096;

/// Removals in one message: each takes at most 32 bytes.
pub(crate) const REMOVALS: usize = 30;

/// The question of an heir.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RemovalQuery {
    /// Counts the repetitions, so that parts of different answers are not mixed.
    pub(crate) round: u64,
    /// What the heir has signed.
    pub(crate) removal: RemovalRecord,
    /// Digest of all removals that the heir knows.
    pub(crate) digest: u64,
}

/// Which part of which answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReportHeader {
    /// Of the question.
    pub(crate) round: u64,
    /// Whose space the question was about.
    pub(crate) removed: PeerId,
    /// Digest of all removals that the answering member knows.
    pub(crate) digest: u64,
    /// Which part this is, from 0.
    pub(crate) part: u16,
    /// How many there are.
    pub(crate) parts: u16,
}

/// One message, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// Please give me space inside `within`.
    Ask { id: u64, within: Ipv4Net },
    /// Please give me this address.
    AskAddress { id: u64, addr: Ipv4Addr },
    /// Here is space, by this record, of which I am the signer.
    Give { id: u64, record: BlockRecord },
    /// You get nothing.
    Deny { id: u64, reason: Deny },
    /// I take over the space of a removed peer: tell me all that you own, and take nothing from that peer from now on.
    RemovalQuery(RemovalQuery),
    /// Part of the answer: records with their signers.
    RemovalReport { header: ReportHeader, blocks: Vec<(PeerId, BlockRecord)> },
    /// Removals that you seem not to know, at most [`REMOVALS`] of them.
    RemovalsKnown { removals: Vec<RemovalRecord> },
    /// Space of removed peers, which you inherit and seem not to know: at most [`REPORT_BLOCKS`] records with their signers.
    LeftBehind { blocks: Vec<(PeerId, BlockRecord)> },
    /// You owned these as far as I know: what became of them?
    AskStanding { mark: u64, blocks: Vec<Ipv4Net> },
    /// As far as I know: at most [`REPORT_BLOCKS`] records with their signers, and the mark of the question.
    Standing { mark: u64, blocks: Vec<(PeerId, BlockRecord)> },
}

/// Why nothing is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Deny {
    /// Nothing free inside what was asked for.
    NoSpace,
    /// The address is leased here, to this holder.
    InUse(String),
    /// The address was released a moment ago.
    Resting,
    /// The address is not ours; perhaps that peer's.
    NotTheOwner(Option<PeerId>),
    /// The address belongs to nobody who could give it: reserved or contested.
    Withheld,
    /// This peer has been removed or is leaving.
    Leaving,
    /// The one who asks has been removed.
    YouAreRemoved,
    /// This peer has just come back and may have been removed meanwhile, or space may be on its way to it: it first hears what the
    /// fabric says.
    NotYet,
}

/// Why a message is not taken. Only a faulty or a newer peer sends one; nothing of ours changes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not of our encoding.
    #[error("undecodable message")]
    Undecodable(#[from] DecodeError),
    /// A block or prefix in it is none, or lies outside of the range.
    #[error("bad block in the message")]
    BadBlock(#[from] RecordError),
}

/// The form of a message in bytes. New variants go to the end.
#[derive(Serialize, Deserialize)]
enum WireMessage {
    Ask { id: u64, first: u32, length: u8 },
    AskAddress { id: u64, addr: u32 },
    Give { id: u64, block: WireBlock },
    Deny { id: u64, reason: Deny },
    RemovalQuery(RemovalQuery),
    RemovalReport { header: ReportHeader, blocks: Vec<(PeerId, WireBlock)> },
    RemovalsKnown { removals: Vec<RemovalRecord> },
    LeftBehind { blocks: Vec<(PeerId, WireBlock)> },
    AskStanding { mark: u64, blocks: Vec<(u32, u8)> },
    Standing { mark: u64, blocks: Vec<(PeerId, WireBlock)> },
}

impl Message {
    pub(crate) fn encode(&self) -> Vec<u8> {
        codec::encode(&match self.clone() {
            Message::Ask { id, within } => {
                WireMessage::Ask { id, first: within.network().to_bits(), length: within.prefix_len() }
            }
            Message::AskAddress { id, addr } => WireMessage::AskAddress { id, addr: addr.to_bits() },
            Message::Give { id, record } => WireMessage::Give { id, block: record.into() },
            Message::Deny { id, reason } => WireMessage::Deny { id, reason },
            Message::RemovalQuery(query) => WireMessage::RemovalQuery(query),
            Message::RemovalReport { header, blocks } => {
                WireMessage::RemovalReport { header, blocks: to_wire(blocks) }
            }
            Message::RemovalsKnown { removals } => WireMessage::RemovalsKnown { removals },
            Message::LeftBehind { blocks } => WireMessage::LeftBehind { blocks: to_wire(blocks) },
            Message::AskStanding { mark, blocks } => WireMessage::AskStanding {
                mark,
                blocks: blocks.iter().map(|net| (net.network().to_bits(), net.prefix_len())).collect(),
            },
            Message::Standing { mark, blocks } => WireMessage::Standing { mark, blocks: to_wire(blocks) },
        })
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Message, MessageError> {
        Ok(match codec::decode::<WireMessage>(bytes, MAX_MESSAGE)? {
            WireMessage::Ask { id, first, length } => {
                Message::Ask { id, within: checked_prefix(first, length)? }
            }
            WireMessage::AskAddress { id, addr } => {
                Message::AskAddress { id, addr: Ipv4Addr::from_bits(addr) }
            }
            WireMessage::Give { id, block } => Message::Give { id, record: BlockRecord::try_from(block)? },
            WireMessage::Deny { id, reason } => Message::Deny { id, reason },
            WireMessage::RemovalQuery(query) => Message::RemovalQuery(query),
            WireMessage::RemovalReport { header, blocks } => {
                Message::RemovalReport { header, blocks: from_wire(blocks)? }
            }
            WireMessage::RemovalsKnown { removals } => Message::RemovalsKnown { removals },
            WireMessage::LeftBehind { blocks } => Message::LeftBehind { blocks: from_wire(blocks)? },
            WireMessage::AskStanding { mark, blocks } => {
                let blocks = blocks.into_iter().map(|(first, length)| checked_prefix(first, length));
                Message::AskStanding { mark, blocks: blocks.collect::<Result<_, _>>()? }
            }
            WireMessage::Standing { mark, blocks } => Message::Standing { mark, blocks: from_wire(blocks)? },
        })
    }
}

fn to_wire(blocks: Vec<(PeerId, BlockRecord)>) -> Vec<(PeerId, WireBlock)> {
    blocks.into_iter().map(|(signer, record)| (signer, record.into())).collect()
}

fn from_wire(blocks: Vec<(PeerId, WireBlock)>) -> Result<Vec<(PeerId, BlockRecord)>, RecordError> {
    blocks.into_iter().map(|(signer, block)| Ok((signer, BlockRecord::try_from(block)?))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_block() -> impl Strategy<Value = BlockRecord> {
        (any::<u32>(), 0..=32u8, any::<[u8; 16]>(), 1..1u64 << 60).prop_map(|(addr, length, owner, epoch)| {
            let prefix = Ipv4Net::new(Ipv4Addr::from_bits(addr), length).unwrap().trunc();
            BlockRecord { prefix, owner: PeerId(owner), epoch }
        })
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let removal = any::<([u8; 16], [u8; 16])>()
            .prop_map(|(a, b)| RemovalRecord { removed: PeerId(a), heir: PeerId(b) });
        let blocks =
            prop::collection::vec((any::<[u8; 16]>().prop_map(PeerId), any_block()), 0..=REPORT_BLOCKS)
                .boxed();
        prop_oneof![
            (any::<u64>(), any_block()).prop_map(|(id, b)| Message::Ask { id, within: b.prefix }),
            any::<(u64, u32)>().prop_map(|(id, a)| Message::AskAddress { id, addr: Ipv4Addr::from_bits(a) }),
            (any::<u64>(), any_block()).prop_map(|(id, record)| Message::Give { id, record }),
            (any::<u64>(), ".{0,75}").prop_map(|(id, s)| Message::Deny { id, reason: Deny::InUse(s) }),
            (any::<(u64, u64)>(), removal.clone()).prop_map(|((round, digest), removal)| {
                Message::RemovalQuery(RemovalQuery { round, removal, digest })
            }),
            (any::<(u64, u64, u16, u16)>(), blocks.clone()).prop_map(
                |((round, digest, part, parts), blocks)| {
                    let header = ReportHeader { round, removed: PeerId([7; 16]), digest, part, parts };
                    Message::RemovalReport { header, blocks }
                }
            ),
            prop::collection::vec(removal, 0..REMOVALS)
                .prop_map(|removals| Message::RemovalsKnown { removals }),
            blocks.clone().prop_map(|blocks| Message::LeftBehind { blocks }),
            (any::<u64>(), prop::collection::vec(any_block().prop_map(|block| block.prefix), 0..64))
                .prop_map(|(mark, blocks)| Message::AskStanding { mark, blocks }),
            (any::<u64>(), blocks).prop_map(|(mark, blocks)| Message::Standing { mark, blocks }),
        ]
    }

    proptest! {
        #[test]
        fn messages_round_trip_and_fit(message in any_message()) {
            let bytes = message.encode();
            prop_assert!(bytes.len() <= MAX_MESSAGE);
            prop_assert_eq!(Message::decode(&bytes).unwrap(), message);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>, kind in 0..11u8) {
            let _ = Message::decode(&bytes);
            bytes.splice(0..0, [codec::VERSION, kind]);
            let _ = Message::decode(&bytes);
        }
    }
}

//! What peers say to each other over a link: the messages, and how lists are cut so that each message fits.
//!
//! Links lose, repeat and reorder messages; no message needs another one to have arrived.

use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError};
use crate::peer::PeerId;
use crate::record::{Record, RecordKey};

/// Bytes of a message at most: fits the smallest path MTU of IPv6 (1,280) with a session's and a tunnel's headers around it.
pub const MAX_MESSAGE: usize = 1100;

/// Parts into which the digest of a store is cut by the origin's id, and so the width of a first comparison: 64 sums are
/// half a message, and at 10,000 origins a part has about 150.
pub const ORIGIN_BUCKETS: usize = 64;

/// Parts into which the digest of one origin is cut by the hash of the key.
pub const KEY_BUCKETS: usize = 16;

/// Encoded bytes of everything in a message around its list: version byte, variant, ids, bounds and a length.
const ENVELOPE: usize = 200;

/// Room for the list in a message that is nothing but a list.
pub(crate) const LIST_ROOM: usize = MAX_MESSAGE - 8;

/// The longest list of fixed-size entries of `entry` bytes that surely fits a message.
pub(crate) const fn fits(entry: usize) -> usize {
    (MAX_MESSAGE - ENVELOPE) / entry
}

/// Origins in one [`Message::Origins`].
pub(crate) const ORIGINS_PER_MESSAGE: usize = fits(16 + 9 + 1 + 9 + 1);

/// Ids in one [`Message::WantRumours`].
pub(crate) const IDS_PER_MESSAGE: usize = fits(16);

/// Peers that back a suspicion, in one rumour. Lifeguard's k: more than three no longer shorten it.
pub const MAX_ACCUSERS: usize = 3;

/// What peers say to each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Are you there? Sent to a neighbour, it also says: you are my neighbour.
    Probe {
        /// Comes back in the answer.
        nonce: u32,
        /// On whose behalf.
        purpose: Purpose,
        /// The sender's view of itself.
        pulse: Pulse,
    },
    /// Answer to a probe.
    Ack {
        /// That of the probe.
        nonce: u32,
        /// The sender's view of itself.
        pulse: Pulse,
    },
    /// Probe `target` for me, please: it does not answer me.
    ProbeRequest {
        /// Comes back in the answer.
        nonce: u32,
        /// Who does not answer.
        target: PeerId,
    },
    /// The target of a [`Message::ProbeRequest`] answered.
    RelayedAck {
        /// That of the request.
        nonce: u32,
    },
    /// I heard your [`Message::ProbeRequest`], the trouble is not between us.
    Nack {
        /// That of the request.
        nonce: u32,
    },
    /// You are not my neighbour: I have enough.
    Prune,
    /// What is known of members.
    Rumours(Vec<Rumour>),
    /// Records, new ones or asked for.
    Push(Vec<Record>),
    /// The digest of everything. Whoever finds a difference answers with [`Message::DigestReply`].
    Digest {
        /// Hash over all buckets.
        root: u64,
    },
    /// The digests of all buckets of origins, [`ORIGIN_BUCKETS`] of them.
    DigestReply {
        /// One sum for each bucket.
        buckets: Vec<u64>,
    },
    /// All origins in some buckets and in a range of ids.
    Origins {
        /// Bit n is set when bucket n is covered.
        mask: u64,
        /// Ids covered.
        range: Range<PeerId>,
        /// All origins there that have records, in order.
        entries: Vec<OriginDigest>,
    },
    /// The digests of all buckets of keys of an origin, [`KEY_BUCKETS`] of them.
    KeyBuckets {
        /// Whose keys.
        origin: PeerId,
        /// One sum for each bucket.
        buckets: Vec<u64>,
    },
    /// All keys of an origin in some buckets and in a range.
    Keys {
        /// Whose keys.
        origin: PeerId,
        /// Bit n is set when bucket n is covered.
        mask: u16,
        /// Keys covered.
        range: Range<RecordKey>,
        /// All keys there with their versions, in order.
        entries: Vec<KeyDigest>,
    },
    /// Send me these records of an origin.
    Want {
        /// Whose records.
        origin: PeerId,
        /// Which.
        keys: Vec<RecordKey>,
    },
    /// Send me what you know of these members.
    WantRumours(Vec<PeerId>),
    /// I have these records; ask for what does not come from elsewhere.
    Announce(Vec<Announcement>),
    /// What you pushed I had from others: announce from now on.
    Lazy,
    /// You announced these records of an origin, and they did not come. Push to me again from now on, these first.
    Graft {
        /// Whose records.
        origin: PeerId,
        /// Which.
        keys: Vec<RecordKey>,
    },
}

/// The name of a record that its sender has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Whose record.
    pub origin: PeerId,
    /// Which, and in which version.
    pub record: KeyDigest,
}

/// On whose behalf a probe is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// The sender regards the receiver as its neighbour.
    Neighbour,
    /// Somebody else asked; says nothing of the sender's own neighbours.
    Relay,
}

/// What every probe and its answer say of their sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulse {
    /// Number of its neighbours.
    pub degree: u8,
    /// Digest of all that it knows.
    pub root: u64,
}

/// A half-open range in the order of keys, so that a long list can be sent in pieces and absence can be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range<T> {
    /// Starts behind this one; from the very first when `None`.
    pub after: Option<T>,
    /// Ends with this one; at the very last when `None`.
    pub upto: Option<T>,
}

impl<T: Ord> Range<T> {
    /// Everything.
    pub fn all() -> Self {
        Range { after: None, upto: None }
    }

    /// Whether `item` lies inside.
    pub fn contains(&self, item: &T) -> bool {
        self.after.as_ref().is_none_or(|after| item > after)
            && self.upto.as_ref().is_none_or(|upto| item <= upto)
    }
}

/// The digest of what is known of one origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginDigest {
    /// Which origin.
    pub origin: PeerId,
    /// Sum over its records.
    pub records: u64,
    /// How it stands as a member, where that can be proven.
    pub standing: Option<Standing>,
}

/// How a member stands, as far as it is settled: a suspicion is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Standing {
    /// Of which of its incarnations this is said.
    pub incarnation: u64,
    /// What is said.
    pub class: Class,
}

/// What is said of an incarnation. In this order: the later one overrules the earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Class {
    /// It lives.
    Alive,
    /// It was given up.
    Dead,
    /// It said goodbye.
    Left,
}

/// One key of an origin, and which version of it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyDigest {
    /// The key.
    pub key: RecordKey,
    /// Its version.
    pub version: u64,
    /// A part of its digest: shows two contents signed with one version.
    pub check: u32,
}

/// What is said of a member, with the member's own word that it was ever in this incarnation.
///
/// Because of that proof nobody can accuse a member in an incarnation that it never took, and thereby run ahead of
/// what it can contradict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rumour {
    /// Of whom.
    pub subject: PeerId,
    /// In which incarnation.
    pub incarnation: u64,
    /// Signature of the subject: over its farewell for [`Claim::Left`], over being alive for all others.
    #[serde(with = "crate::keys::signature_bytes")]
    pub proof: [u8; 64],
    /// What is said.
    pub claim: Claim,
}

/// What a rumour says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// It lives. Signed by itself.
    Alive,
    /// It does not answer these peers.
    Suspect {
        /// Up to [`MAX_ACCUSERS`].
        by: Vec<PeerId>,
    },
    /// It was given up.
    Dead,
    /// It said goodbye. Signed by itself.
    Left,
}

/// What a proof says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proven {
    /// That its signer took this incarnation.
    Alive,
    /// That its signer left in this incarnation.
    Left,
}

impl Claim {
    /// What the proof of a rumour with this claim must say.
    pub fn needs(&self) -> Proven {
        match self {
            Claim::Alive | Claim::Suspect { .. } | Claim::Dead => Proven::Alive,
            Claim::Left => Proven::Left,
        }
    }
}

/// The bytes that a member signs to take an incarnation or to say goodbye.
pub fn proof_bytes(subject: PeerId, incarnation: u64, what: Proven) -> Vec<u8> {
    let context: &[u8] = match what {
        Proven::Alive => b"weave gossip alive v1",
        Proven::Left => b"weave gossip left v1",
    };
    [context, &subject.0, &incarnation.to_be_bytes()].concat()
}

impl Message {
    /// Encodes a message, which must have been built to fit.
    pub fn emit(&self) -> Vec<u8> {
        let bytes = codec::encode(self);
        assert!(bytes.len() <= MAX_MESSAGE, "built a message of {} bytes", bytes.len());
        bytes
    }

    /// Whether the message is a step of a comparison of digests, which costs its receiver a walk over what it knows.
    pub fn compares(&self) -> bool {
        match self {
            Message::Digest { .. }
            | Message::DigestReply { .. }
            | Message::Origins { .. }
            | Message::KeyBuckets { .. }
            | Message::Keys { .. } => true,
            Message::Probe { .. }
            | Message::Ack { .. }
            | Message::ProbeRequest { .. }
            | Message::RelayedAck { .. }
            | Message::Nack { .. }
            | Message::Prune
            | Message::Rumours(_)
            | Message::Push(_)
            | Message::Want { .. }
            | Message::WantRumours(_)
            | Message::Announce(_)
            | Message::Lazy
            | Message::Graft { .. } => false,
        }
    }

    /// Decodes a message and checks all that can be checked without knowing anything else.
    pub fn parse(bytes: &[u8]) -> Result<Message, DecodeError> {
        let message: Message = codec::decode(bytes, MAX_MESSAGE)?;
        let wrong = |reason: &str| Err(DecodeError::Malformed { reason: reason.to_owned() });
        match &message {
            Message::DigestReply { buckets } if buckets.len() != ORIGIN_BUCKETS => {
                wrong("wrong number of buckets")
            }
            Message::KeyBuckets { buckets, .. } if buckets.len() != KEY_BUCKETS => {
                wrong("wrong number of buckets")
            }
            Message::Rumours(rumours)
                if rumours
                    .iter()
                    .any(|r| matches!(&r.claim, Claim::Suspect { by } if by.len() > MAX_ACCUSERS)) =>
            {
                wrong("too many accusers")
            }
            Message::Probe { .. }
            | Message::Ack { .. }
            | Message::ProbeRequest { .. }
            | Message::RelayedAck { .. }
            | Message::Nack { .. }
            | Message::Prune
            | Message::Rumours(_)
            | Message::Push(_)
            | Message::Digest { .. }
            | Message::DigestReply { .. }
            | Message::Origins { .. }
            | Message::KeyBuckets { .. }
            | Message::Keys { .. }
            | Message::Want { .. }
            | Message::WantRumours(_)
            | Message::Announce(_)
            | Message::Lazy
            | Message::Graft { .. } => Ok(message),
        }
    }
}

/// Cuts `items` into runs whose encoded size, as told by `size`, fits a message together with its envelope.
pub(crate) fn chunks<T>(items: Vec<T>, size: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut chunks = Vec::new();
    let (mut run, mut used) = (Vec::new(), ENVELOPE);
    for item in items {
        let bytes = size(&item);
        if used + bytes > MAX_MESSAGE && !run.is_empty() {
            chunks.push(std::mem::take(&mut run));
            used = ENVELOPE;
        }
        used += bytes;
        run.push(item);
    }
    if !run.is_empty() {
        chunks.push(run);
    }
    chunks
}

/// An upper bound of the encoded size of a key with its version and check.
pub(crate) fn key_size(key: &RecordKey) -> usize {
    1 + 3 + key.name.len() + 9 + 5
}

/// An upper bound of the encoded size of an announcement.
pub(crate) fn announcement_size(key: &RecordKey) -> usize {
    16 + key_size(key)
}

/// An upper bound of the encoded size of a record.
pub(crate) fn record_size(record: &Record) -> usize {
    16 + key_size(&record.key) + 1 + 3 + record.value.as_ref().map_or(0, Vec::len) + 64
}

/// An upper bound of the encoded size of a rumour.
pub(crate) fn rumour_size(rumour: &Rumour) -> usize {
    let accusers = match &rumour.claim {
        Claim::Suspect { by } => by.len(),
        Claim::Alive | Claim::Dead | Claim::Left => 0,
    };
    16 + 9 + 64 + 2 + 16 * accusers
}

//! What the caller of an allocator says and hears: who holds what, which address is wanted, and what has to be carried away.

use std::fmt;
use std::net::Ipv4Addr;

use gossip::{PeerId, RecordKey};
use ipnet::Ipv4Net;

use crate::AllocateError;

/// Who holds an address: `cni:CONTAINER/eth0`, `weave:expose`; at most [`crate::MAX_OWNER`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub String);

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one request of a caller; its answer bears the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Which address is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Any of the range.
    Any,
    /// Any of this part of the range.
    In(Ipv4Net),
    /// This one.
    Fixed(Ipv4Addr),
}

/// What becomes of a released address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It was used: nobody gets it for [`crate::Config::rest`].
    Used,
    /// It was never used: free at once.
    NeverUsed,
}

/// Whether a peer can be reached, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// Alive.
    Reachable,
    /// Not to be reached at present; may come back.
    Unreachable,
    /// Said goodbye. It is waited for only while it owns space.
    Left,
}

/// Whether what the journal tells of own space can be relied on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Trust {
    /// It is whole.
    #[default]
    Sure,
    /// Entries may be missing, and with them what was given away: nothing is handed out or given before the fabric was heard.
    Unsure,
}

/// An address that was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub addr: Ipv4Addr,
    /// The prefix length of the range.
    pub prefix_len: u8,
}

/// The answer to [`crate::Ipam::allocate`]: exactly one for each ticket that is not cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Of which request.
    pub ticket: Ticket,
    /// The address, or why there is none.
    pub result: Result<Lease, AllocateError>,
}

/// A message to send; it may get lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// To whom.
    pub to: PeerId,
    /// At most [`crate::MAX_MESSAGE`] bytes.
    pub payload: Vec<u8>,
}

/// A gossip record to publish, or to withdraw when there is no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Under which key.
    pub key: RecordKey,
    /// What to say.
    pub value: Option<Vec<u8>>,
}

/// Why nothing was handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandoverError {
    /// Caller's mistake.
    #[error("a peer cannot hand its space over to itself")]
    ToOneself,
    /// The heir was removed from the fabric.
    #[error("peer {heir} was removed from the fabric")]
    HeirRemoved {
        /// The one who was meant to inherit.
        heir: PeerId,
    },
    /// There is nothing to hand over any more.
    #[error("this peer was removed from the fabric by peer {by}")]
    Removed {
        /// Who took over.
        by: PeerId,
    },
}

//! Why an address was not allocated: who has the space, who does not answer, and what was wrong with the question.

use std::net::Ipv4Addr;

use gossip::PeerId;
use ipnet::Ipv4Net;

use crate::Owner;

/// Why there is no address. Nothing was allocated; the same request may succeed later where that is said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// Caller's mistake.
    #[error("owner has {got} bytes, want at most {}", crate::MAX_OWNER)]
    OwnerTooLong {
        /// Bytes of the owner.
        got: usize,
    },
    /// Caller's mistake.
    #[error("`{asked}` is outside of the range {range}")]
    OutOfRange {
        /// What was asked for.
        asked: Ipv4Net,
        /// What there is.
        range: Ipv4Net,
    },
    /// The first and the last address of the range are never handed out.
    #[error("{addr} is the first or the last address of the range {range}, which are never handed out")]
    Reserved {
        /// What was asked for.
        addr: Ipv4Addr,
        /// The range.
        range: Ipv4Net,
    },
    /// Somebody holds the address.
    #[error("{addr} is in use by `{holder}` at peer {by}")]
    InUse {
        /// What was asked for.
        addr: Ipv4Addr,
        /// Where it is leased.
        by: PeerId,
        /// Who holds it.
        holder: Owner,
    },
    /// Every owner was asked and has nothing; addresses have to be released first.
    #[error("no free address left in {asked} ({resting} resting here)")]
    Exhausted {
        /// Where an address was asked for.
        asked: Ipv4Net,
        /// Own addresses that become free within the rest time.
        resting: u64,
    },
    /// The owner of the address cannot be reached. Should it be gone for good: `rmpeer`.
    #[error("{addr} belongs to peer {owner}, which cannot be reached")]
    OwnerUnreachable {
        /// What was asked for.
        addr: Ipv4Addr,
        /// Who owns it.
        owner: PeerId,
    },
    /// What is free belongs to peers that cannot be reached. Should they be gone for good: `rmpeer`.
    #[error("no peer that can be reached has a free address; unreachable owners: {}", list(owners))]
    OwnersUnreachable {
        /// The first few of them.
        owners: Vec<PeerId>,
    },
    /// Nobody is known who owns what was asked for: this peer has not yet heard from the fabric.
    #[error("no owner of {asked} is known yet")]
    NoSpaceYet {
        /// Where an address was asked for.
        asked: Ipv4Net,
    },
    /// Peers were asked and did not answer, or could not answer yet.
    #[error("deadline passed while waiting for {}", list(waiting_for))]
    DeadlinePassed {
        /// Who was asked.
        waiting_for: Vec<PeerId>,
    },
    /// Everything left belongs to a removed peer, and members that may know of more owners have not answered.
    #[error("the space of removed peer {removed} is not taken over yet; waiting for {}", list(waiting_for))]
    TakeoverPending {
        /// The removed peer.
        removed: PeerId,
        /// Members that did not answer yet.
        waiting_for: Vec<PeerId>,
    },
    /// Two peers claim the address: somebody is faulty or was restored from an old backup.
    #[error("ownership of {addr} is contested")]
    Contested {
        /// What was asked for.
        addr: Ipv4Addr,
    },
    /// This peer has been removed from the fabric; `reset` and join again.
    #[error("this peer was removed from the fabric by peer {by}")]
    Removed {
        /// Who took over.
        by: PeerId,
    },
    /// This peer has handed over its space.
    #[error("this peer is leaving the fabric")]
    Leaving,
    /// More callers wait than there is room for.
    #[error("{limit} requests are waiting already")]
    TooManyWaiting {
        /// The limit.
        limit: usize,
    },
}

fn list(peers: &[PeerId]) -> String {
    if peers.is_empty() {
        return "nobody in particular".to_owned();
    }
    peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

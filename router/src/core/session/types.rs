//! What goes in and out of `Sessions`: configuration, events, reasons, views.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gossip::PeerId;

use super::chunks::Stream;
use super::lane_keys::{Cipher, LaneId, LaneKeys};
use crate::core::fabric::FabricId;
use crate::core::hello::{Capabilities, Reject, RejectReason};
use crate::core::identity::PublicIdentity;

/// How `Sessions` behave.
#[derive(Clone, Copy, Debug)]
pub struct SessionConfig {
    /// What this machine can do. Claiming `AES` without instructions for it costs both sides speed; not claiming it costs
    /// throughput where both have them.
    pub capabilities: Capabilities,
    /// A session that nobody wants and nobody uses is closed after this long; one that never carried a frame after a minute. 1 min to an
    /// hour: less costs handshakes for every burst, more keeps keys and timers of strangers.
    pub idle_after: Duration,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self { capabilities: Capabilities::default(), idle_after: Duration::from_secs(300) }
    }
}

/// Why somebody wants a session. A session with any of them is made again when lost.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Want {
    /// Gossip keeps a link to this neighbour.
    Gossip,
    /// The hot path has frames for this peer; lapses when unused.
    Traffic,
    /// A message is queued; lapses when unused.
    Message,
    /// The user named its address.
    Target,
}

/// What a message is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Channel {
    /// Membership and records.
    Gossip,
    /// Address allocation.
    Ipam,
    /// Path tests of the user.
    Ping,
}

impl Channel {
    pub(super) fn stream(self) -> Stream {
        match self {
            Self::Gossip => Stream::Gossip,
            Self::Ipam => Stream::Ipam,
            Self::Ping => Stream::Ping,
        }
    }
}

/// What happened.
#[derive(Clone)]
pub enum SessionEvent {
    /// There is a session with the peer, and there was none before.
    Up {
        /// Who.
        peer: PeerId,
        /// Its keys, proven.
        public: PublicIdentity,
        /// Where it is.
        address: SocketAddr,
    },
    /// The session is gone, its lanes are retired. It is made again if wanted.
    Down {
        /// Who.
        peer: PeerId,
        /// Why.
        reason: DownReason,
    },
    /// The peer is not there: no session could be made for the wants that there are. Said once for each failed round.
    Unreachable {
        /// Who.
        peer: PeerId,
        /// Why.
        failure: Failure,
    },
    /// A whole message.
    Message {
        /// From whom.
        peer: PeerId,
        /// For what.
        channel: Channel,
        /// The content.
        bytes: Vec<u8>,
    },
    /// A lane key to install.
    LaneReady {
        /// With whom.
        peer: PeerId,
        /// Where the peer is, for a lane to send on.
        address: SocketAddr,
        /// The key.
        lane: LaneKeys,
    },
    /// A receive lane to take out.
    LaneRetired {
        /// With whom.
        peer: PeerId,
        /// Which.
        lane: LaneId,
    },
    /// The session goes to another address from now on.
    AddressChanged {
        /// Who.
        peer: PeerId,
        /// The new one.
        address: SocketAddr,
    },
    /// A peer tells which address our datagrams come from. Said once for each new answer of a peer.
    Observed {
        /// Who says so.
        by: PeerId,
        /// Our address as it sees it.
        our_address: SocketAddr,
    },
    /// Another router runs with our identity, proven by its signature over our fresh nonce.
    CloneDetected {
        /// Where it is.
        address: SocketAddr,
        /// Which of the two started later. If it is ours, all sessions are down and none will be made.
        newer: Newer,
    },
}

/// Which of two clones started later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Newer {
    /// This router: it has quarantined itself.
    Ours,
    /// The other router: it is refused here and quarantines itself there.
    Theirs,
}

/// Why a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DownReason {
    /// The peer has not been heard for too long.
    Silent,
    /// Its keys grew too old and could not be replaced.
    Expired,
    /// We closed it since nobody used it.
    Idle,
    /// The peer closed it since nobody used it.
    PeerIdle,
    /// The peer shuts down.
    PeerLeft,
    /// The peer was started anew without a goodbye, or gave up the session that we still held; an `Up` follows at once.
    PeerRestarted,
    /// We shut down.
    Leaving,
    /// The peer was removed from the fabric.
    Removed,
    /// The peer has removed us.
    RemovedByPeer,
    /// This router is the newer of two clones.
    Quarantined,
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "no datagram from the peer for 15 s",
            Self::Expired => "keys too old and not replaced",
            Self::Idle => "not used",
            Self::PeerIdle => "closed by the peer: not used",
            Self::PeerLeft => "the peer shut down",
            Self::PeerRestarted => "the peer was restarted",
            Self::Leaving => "shutting down",
            Self::Removed => "the peer was removed from the fabric",
            Self::RemovedByPeer => "the peer says that this router was removed from the fabric",
            Self::Quarantined => "another router has the same identity and is older",
        })
    }
}

/// How a refusal because of the list of seeds begins.
pub const OTHER_SEEDS: &str = "other list of seeds";

/// What the far side says for refusing us. Not authenticated: anybody on the path can say it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It belongs to another fabric.
    ForeignFabric {
        /// Ours.
        ours: FabricId,
        /// Theirs.
        theirs: FabricId,
    },
    /// The same password and range, and another list of seeds, so another fabric.
    OtherSeeds {
        /// Our list.
        ours: String,
        /// Theirs.
        theirs: String,
    },
    /// Same fabric, other secret.
    WrongSecret {
        /// Both fabrics' id.
        fabric: FabricId,
    },
    /// It speaks other versions.
    Version {
        /// Its oldest.
        oldest: u8,
        /// Its newest.
        newest: u8,
        /// Ours.
        ours: u8,
    },
    /// It was told that we are removed.
    Removed,
}

impl Refusal {
    pub(super) fn from_reject(reject: &Reject, ours: FabricId, lists: Option<(String, String)>) -> Self {
        match (reject.reason, lists) {
            (RejectReason::ForeignFabric, Some((ours, theirs))) => Self::OtherSeeds { ours, theirs },
            (RejectReason::ForeignFabric, None) => Self::ForeignFabric { ours, theirs: reject.fabric },
            (RejectReason::WrongSecret, _) => Self::WrongSecret { fabric: reject.fabric },
            (RejectReason::Version, _) => Self::Version {
                oldest: reject.oldest,
                newest: reject.newest,
                ours: crate::core::hello::VERSION,
            },
            (RejectReason::Removed, _) => Self::Removed,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForeignFabric { ours, theirs } => {
                write!(f, "other fabric: it is in `{theirs}`, this router is in `{ours}`")
            }
            Self::OtherSeeds { ours, theirs } => {
                write!(f, "{OTHER_SEEDS}: it started from `{theirs}`, this router from `{ours}`")
            }
            Self::WrongSecret { fabric } => write!(f, "wrong secret or range for fabric `{fabric}`"),
            Self::Version { oldest, newest, ours } => {
                write!(f, "no version in common: it speaks {oldest} to {newest}, this router {ours}")
            }
            Self::Removed => f.write_str("this router was removed from the fabric"),
        }
    }
}

/// Why no session could be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// Nobody has told where the peer is.
    NoAddress,
    /// No HELLO was answered.
    NoAnswer {
        /// Everything that was tried.
        addresses: Vec<SocketAddr>,
    },
    /// All that answered refused.
    Refused {
        /// Who refused.
        address: SocketAddr,
        /// What it says.
        refusal: Refusal,
    },
    /// Another peer answers there.
    OtherPeer {
        /// Where.
        address: SocketAddr,
        /// Who answers.
        found: PeerId,
    },
    /// HELLO was answered, the handshake after it was not.
    NoHandshake {
        /// Where.
        address: SocketAddr,
    },
    /// This router itself answers there.
    Ourselves {
        /// Where.
        address: SocketAddr,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => f.write_str("no address known"),
            Self::NoAnswer { addresses } => {
                let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                write!(f, "no answer to HELLO from {}", list.join(", "))
            }
            Self::Refused { address, refusal } => write!(f, "refused by {address}: {refusal}"),
            Self::OtherPeer { address, found } => write!(f, "another peer answers at {address}: {found}"),
            Self::NoHandshake { address } => write!(f, "{address} answers HELLO and not the handshake"),
            Self::Ourselves { address } => write!(f, "{address} is this router"),
        }
    }
}

/// Who began a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// We did.
    Outgoing,
    /// The peer did.
    Incoming,
}

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectionState {
    /// HELLOs are out.
    Connecting,
    /// HELLO was answered, the handshake is under way.
    Handshaking,
    /// There is a session, and no lane yet.
    Established,
    /// There is a session with lanes.
    Ready,
    /// The last round failed; see `reason` and `next_retry`.
    Failed,
    /// The address is our own.
    Ourselves,
}

/// One row of `status connections`.
#[derive(Clone, Debug)]
pub struct ConnectionView {
    /// Who began it.
    pub direction: Direction,
    /// Where the peer is, or the target.
    pub address: Option<SocketAddr>,
    /// How far it has come.
    pub state: ConnectionState,
    /// Who it is, once known.
    pub peer: Option<PeerId>,
    /// The lanes' cipher.
    pub cipher: Option<Cipher>,
    /// Smoothed round trip.
    pub rtt: Option<Duration>,
    /// Why the last round failed, or the last session ended.
    pub reason: Option<String>,
    /// In this state since.
    pub since: Instant,
    /// When it will be tried again.
    pub next_retry: Option<Instant>,
    /// Why the session is kept.
    pub wants: Vec<Want>,
    /// Control messages sent and received.
    pub messages: (u64, u64),
    /// Lane exchanges completed.
    pub lanes: u64,
}

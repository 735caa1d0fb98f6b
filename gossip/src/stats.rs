//! What gossip counts. Every drop, refusal and shed has a reason of its own.

use std::collections::BTreeMap;

use crate::peer::PeerId;

/// Origins for which quarantined records are counted one by one; enough to name the culprits, too few to be a burden.
const MAX_QUARANTINE_ROWS: usize = 256;

/// Why something that came was not used, or something due was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// A message that does not decode. The sender is broken, hostile, or of another version.
    Malformed,
    /// A message from a peer with which no link is up. Happens when a link goes down with messages in flight.
    NoLink,
    /// A record whose signature is not its origin's.
    BadSignature,
    /// A peer record whose keys do not make its origin's id.
    BadIntroduction,
    /// A record with a name or a value above the limits.
    TooLong,
    /// Two contents signed by one origin with one version.
    Equivocation,
    /// A record of an origin that was removed from the fabric.
    RemovedOrigin,
    /// A record whose origin's keys are not known yet, pushed out of the parking lot by others.
    ParkingFull,
    /// A record of one origin too many.
    OriginsFull,
    /// One record too many of its origin.
    OriginFull,
    /// A record that came faster than signatures are checked for one neighbour.
    VerifyBudget,
    /// A step of a comparison of digests that came faster than they are answered for one neighbour.
    CompareBudget,
    /// A comparison with a peer while nearly everything is copied from another one.
    CompareLater,
    /// A tombstone given up early since its origin has too many.
    TombstoneShed,
    /// A record too many waiting for one neighbour. The next comparison of digests makes up for it.
    PushShed,
    /// An announcement of a record that is not here, with too many others waited for. The next comparison of digests makes up for it.
    AnnouncementShed,
    /// A message too many waiting for one neighbour.
    QueueShed,
    /// A statement about a member whose proof is not signed by that member.
    BadProof,
    /// A statement about a member whose keys are not known yet, pushed out of the parking lot by others.
    RumourParkingFull,
    /// A statement about one member too many.
    MembersFull,
    /// An answer to a probe that was not sent, or was given up. Happens on slow paths.
    StrayAck,
    /// A request to probe for somebody, when too many are under way.
    RelayFull,
    /// A notification of a quarantined record that nobody fetched in time.
    EventShed,
    /// Our own adjacency record, since all room for our own records is taken.
    AdjacencyUnpublished,
    /// A sign of a clone, too soon after the last one was answered.
    ClonePause,
}

/// Counters since the start. They only grow, apart from `quarantined`, which is bounded.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// What was not used or not sent, by reason.
    pub drops: BTreeMap<DropReason, u64>,
    /// Records refused, by their claimed origin and the reason, for at most 256 pairs.
    pub quarantined: BTreeMap<(PeerId, DropReason), u64>,
    /// Messages given to the caller for sending.
    pub messages_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Messages taken in.
    pub messages_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Records that were news.
    pub records_accepted: u64,
    /// Records that were known: before the broadcast tree has formed, and after it changed.
    pub records_repeated: u64,
    /// Probes of neighbours that nobody answered within the period.
    pub probes_failed: u64,
    /// Members that did not contradict their suspicion here, and were given up.
    pub deaths: u64,
    /// Times that this peer heard of its own suspicion or death and contradicted.
    pub refutations: u64,
    /// Times that announced records had to be asked for.
    pub grafts: u64,
    /// Comparisons of digests that found a difference.
    pub repairs: u64,
    /// Lifeguard's multiplier: how many times slower than normal this peer judges, as it doubts itself. Not a counter.
    pub health_multiplier: u32,
}

impl Stats {
    /// How often `reason` applied.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(&reason).copied().unwrap_or_default()
    }

    pub(crate) fn count(&mut self, reason: DropReason) {
        *self.drops.entry(reason).or_default() += 1;
    }

    pub(crate) fn count_quarantined(&mut self, origin: PeerId, reason: DropReason) {
        self.count(reason);
        if self.quarantined.len() < MAX_QUARANTINE_ROWS || self.quarantined.contains_key(&(origin, reason)) {
            *self.quarantined.entry((origin, reason)).or_default() += 1;
        }
    }
}

//! Why datagrams and messages are dropped, how often, and who was refused. Nothing is dropped without passing here.

use std::net::SocketAddr;
use std::time::Instant;

/// Refused senders remembered: a screenful and more for `status connections`, nothing for memory.
const MAX_REFUSED: usize = 64;

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident => $text:literal,)+) => {
        /// Why a datagram or a message was dropped.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// For logs, metrics and the status page.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

drop_reasons! {
    /// No byte at all.
    Empty => "empty datagram",
    /// Longer than anything that belongs on the control path.
    TooLong => "datagram too long",
    /// The first byte is no kind that we know; a stranger, or a later version.
    UnknownKind => "unknown kind",
    /// A lane datagram that came to the control path; a fault of ours.
    LaneOnControlPath => "lane datagram on the control path",
    /// A HELLO of a wrong length.
    HelloMalformed => "malformed hello",
    /// A HELLO of a version that we do not speak; refused with our versions.
    HelloVersion => "hello of another version",
    /// A HELLO of another fabric; refused with both ids.
    HelloForeignFabric => "hello of another fabric",
    /// A HELLO that our secret did not authenticate: other secret, other range, or damaged on the way.
    HelloWrongSecret => "hello with a wrong secret",
    /// A member claims keys that it does not have.
    HelloBadSignature => "hello with a bad signature",
    /// Our own HELLO came back: we dialled ourselves, or somebody replays.
    HelloFromSelf => "own hello",
    /// A HELLO of a router with our identity; it is being challenged or was refused.
    HelloFromClone => "hello of a clone",
    /// More HELLOs than we answer in a second; sent again by their senders.
    HelloFlood => "too many hellos",
    /// A HELLO of a removed peer; refused.
    HelloRemoved => "hello of a removed peer",
    /// A reply to nothing that we asked: late, twice, or replayed.
    ReplyUnasked => "unasked hello reply",
    /// A REJECT that is none, or that answers nothing that we asked at that address.
    RejectUnasked => "unasked reject",
    /// Starts like WireGuard and is not.
    HandshakeMalformed => "malformed handshake or session datagram",
    /// A handshake not meant for our key, or damaged.
    HandshakeBadMac => "handshake with a bad mac",
    /// Handshakes come too fast; the sender got a cookie and may come again with it.
    HandshakeUnderLoad => "handshake under load",
    /// A handshake that the peer's key does not open.
    HandshakeInvalid => "invalid handshake",
    /// A handshake of a key that no HELLO and no gossip has named.
    HandshakeUnknownPeer => "handshake of an unknown peer",
    /// A handshake of a removed peer.
    HandshakeRemoved => "handshake of a removed peer",
    /// The same initiation again.
    HandshakeReplayed => "replayed handshake",
    /// Both dialled at once, and ours goes on since we have the lower id. Happens in a healthy fabric.
    HandshakeCrossed => "handshake crossed with ours",
    /// A handshake datagram that answers nothing; duplicates and late ones look so.
    HandshakeUnexpected => "unexpected handshake datagram",
    /// A session datagram for an index that we do not have; the session is gone.
    UnknownSession => "unknown session",
    /// A session datagram that was seen before, or is older than the replay window.
    Replayed => "replayed session datagram",
    /// A session datagram that does not open: damaged or forged.
    BadSeal => "session datagram does not open",
    /// A counter beyond what one key may seal.
    CounterBeyondLimit => "session counter beyond its limit",
    /// Sealed by the peer, and not a chunk of the control channel.
    ChunkMalformed => "malformed chunk",
    /// A chunk of a stream of a later version.
    ChunkUnknownStream => "chunk of an unknown stream",
    /// Parts of a message that never became whole.
    ReassemblyShed => "message not whole in time",
    /// A session message of a later version, or nonsense.
    ControlMalformed => "malformed session message",
    /// A lane message that is late, or repeated after its exchange ended. Happens in a healthy fabric.
    LaneStale => "stale lane message",
    /// A lane message that breaks the rules of the exchange.
    LaneMisbehaved => "lane message against the rules",
    /// A message for a peer whose queue was full while its session was being made.
    QueueFull => "send queue full",
    /// A message that waited too long for a session.
    QueueExpired => "message waited too long",
    /// A message for a peer that neither gossip nor a HELLO has described.
    MessageUnknownPeer => "message for an unknown peer",
    /// A message longer than the control channel takes; a fault of ours.
    MessageTooLong => "message too long",
    /// A dial of an address beyond those that are kept.
    TargetTableFull => "target table full",
    /// A HELLO that was not sent, since too many wait for an answer; its round goes on.
    ProbeTableFull => "too many hellos wait for an answer",
    /// A want for a peer that is not described, beyond those that are kept.
    WantTableFull => "too many wants for unknown peers",
    /// The table of peers is full.
    PeerTableFull => "peer table full",
    /// This router found itself to be the newer of two clones and has stopped.
    Quarantined => "quarantined",
}

/// A sender that was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RefusedSender {
    /// Where it sends from; not proven.
    pub address: SocketAddr,
    /// Why.
    pub reason: DropReason,
    /// How often since it is on the list.
    pub count: u64,
    /// The last time.
    pub last: Instant,
}

/// The counters and the list of refused senders.
pub(super) struct Drops {
    counts: Vec<u64>,
    refused: Vec<RefusedSender>,
}

impl Drops {
    pub(super) fn new() -> Self {
        Self { counts: vec![0; DropReason::ALL.len()], refused: Vec::new() }
    }

    /// Counts a drop.
    pub(super) fn count(&mut self, reason: DropReason) {
        self.add(reason, 1);
    }

    pub(super) fn add(&mut self, reason: DropReason, number: u64) {
        self.counts[reason as usize] += number;
        tracing::trace!(reason = reason.as_str(), number, "dropped");
    }

    /// Counts a drop and remembers the sender.
    pub(super) fn refuse(&mut self, address: SocketAddr, reason: DropReason, now: Instant) {
        self.count(reason);
        let known = self.refused.iter_mut().find(|r| r.address == address && r.reason == reason);
        if let Some(known) = known {
            known.count += 1;
            known.last = now;
            return;
        }
        if self.refused.len() >= MAX_REFUSED {
            let oldest = (0..self.refused.len()).min_by_key(|at| self.refused[*at].last);
            self.refused.swap_remove(oldest.expect("the list is full"));
        }
        self.refused.push(RefusedSender { address, reason, count: 1, last: now });
    }

    pub(super) fn counts(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|reason| (*reason, self.counts[*reason as usize]))
    }

    pub(super) fn of(&self, reason: DropReason) -> u64 {
        self.counts[reason as usize]
    }

    pub(super) fn refused(&self) -> &[RefusedSender] {
        &self.refused
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_list_of_refused_is_bounded_and_keeps_the_newest() {
        let start = Instant::now();
        let mut drops = Drops::new();
        for port in 0..1000 {
            let address = SocketAddr::from(([192, 0, 2, 1], port));
            let now = start + Duration::from_secs(u64::from(port));
            drops.refuse(address, DropReason::HelloWrongSecret, now);
            drops.refuse(address, DropReason::HelloWrongSecret, now);
        }
        assert_eq!(drops.refused().len(), MAX_REFUSED);
        assert!(drops.refused().iter().all(|r| r.count == 2 && r.address.port() >= 1000 - 64));
        assert_eq!(drops.of(DropReason::HelloWrongSecret), 2000);
    }

    #[test]
    fn counters_are_in_the_order_of_the_reasons() {
        for (at, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, at);
        }
    }
}

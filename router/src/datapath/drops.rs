//! Why the hot path let go of a frame or a datagram. Every place that drops names one of these, and every one is counted.

macro_rules! reasons {
    ($($(#[$doc:meta])+ $variant:ident => $name:literal,)+) => {
        /// The reason for which something was dropped.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum DropReason {
            $($(#[$doc])+ $variant,)+
        }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub const ALL: &[DropReason] = &[$(DropReason::$variant,)+];

            /// The reason in kebab-case, as metrics and the status page show it.
            pub fn name(self) -> &'static str {
                match self {
                    $(DropReason::$variant => $name,)+
                }
            }
        }
    };
}

reasons! {
    /// From the TAP device: shorter than an Ethernet header. The kernel does not do this.
    FrameTooShort => "frame-too-short",
    /// From the TAP device: longer than any record can describe.
    FrameTooLong => "frame-too-long",
    /// From the TAP device: the virtio header contradicts the frame (checksum position, headers, lengths).
    OffloadInconsistent => "offload-inconsistent",
    /// From the TAP device: a segmentation offload that we did not switch on.
    OffloadUnknown => "offload-unknown",
    /// A frame whose source address is a multicast address or all zero.
    SourceInvalid => "source-invalid",
    /// A local frame whose source address belongs to an endpoint of another peer: a loop or a spoofed address.
    SourceIsRemote => "source-is-remote",
    /// The destination is a container of this host: the bridge delivered it already. Normal while the bridge relearns.
    DestinationLocal => "destination-local",
    /// Unicast to an address that nobody announced. Never flooded.
    DestinationUnknown => "destination-unknown",
    /// Spanning tree, LLDP and the like, which must not leave their bridge (IEEE 802.1D, 01:80:c2:00:00:0x).
    LinkLocalProtocol => "link-local-protocol",
    /// Somebody asked for the hardware address of an address in our range that no endpoint holds.
    NeighbourUnknown => "neighbour-unknown",
    /// Somebody asked for the hardware address of a container of this host, which answers by itself.
    NeighbourLocal => "neighbour-local",
    /// What every host says when an interface comes up: to the routers of the segment, or to find out whether a link-local address is free.
    /// Peers with a session got it; making one with everybody for its sake would cost each host a session with each other.
    NotWorthASession => "not-worth-a-session",
    /// Waited for a session; newer frames to the same peer pushed it out.
    QueueFull => "queue-full",
    /// Waited for a session for too long.
    QueueExpired => "queue-expired",
    /// Waited for a session while too many other peers had frames waiting.
    QueuesFull => "queues-full",
    /// The lane's counter reached its end; a rekey was asked for long before and did not come.
    LaneExhausted => "lane-exhausted",
    /// The kernel says that the datagram is longer than the path allows.
    PathTooNarrow => "path-too-narrow",
    /// The kernel refused the send for what an earlier datagram met (ICMP unreachable, no route, filter).
    SendRefused => "send-refused",
    /// The kernel refused the send for another reason.
    SendFailed => "send-failed",
    /// The kernel did not take a frame that we wrote to the TAP device.
    TapWriteFailed => "tap-write-failed",
    /// From the wire: nothing in it.
    DatagramEmpty => "datagram-empty",
    /// From the wire: longer than a receive buffer.
    DatagramTruncated => "datagram-truncated",
    /// From the wire: begins as a lane datagram but is too short, of another version, or has reserved bits set.
    LaneHeaderMalformed => "lane-header-malformed",
    /// From the wire: for a lane that we do not have (any more). Normal shortly after a restart or a rekey.
    LaneUnknown => "lane-unknown",
    /// From the wire: a counter that was seen before.
    Replayed => "replayed",
    /// From the wire: a counter so far behind that we cannot tell whether it was seen before.
    TooOld => "too-old",
    /// From the wire: does not open with the lane's key.
    NotAuthentic => "not-authentic",
    /// A peer sealed a record of a kind that we do not know.
    RecordKindUnknown => "record-kind-unknown",
    /// A peer sealed a record that contradicts itself.
    RecordMalformed => "record-malformed",
    /// A peer sealed a slice whose headers, index and length do not fit each other.
    SliceInconsistent => "slice-inconsistent",
    /// A peer sealed a fragment that does not fit the others of its record.
    FragmentInconsistent => "fragment-inconsistent",
    /// The rest of a fragmented record did not arrive in time, or newer ones needed the place.
    FragmentExpired => "fragment-expired",
    /// A peer sent a frame whose source address belongs to an endpoint of another peer, or to one of ours.
    SourceOfOther => "source-of-other",
    /// A peer sent a unicast frame for an address that is not on this host.
    DestinationNotHere => "destination-not-here",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_kebab_case_in_counter_order() {
        let mut seen = std::collections::BTreeSet::new();
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            assert!(seen.insert(reason.name()));
            assert!(reason.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", reason.name());
        }
    }
}

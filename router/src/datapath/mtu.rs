//! What fits where: container MTU, datagram limit and super-frame limit, all from the underlay's MTU.

use super::frame::ETHERNET;
use super::wire;

/// A VLAN tag inside a frame; room is kept so that tagged traffic of containers need not be fragmented.
const VLAN_TAG: usize = 4;

/// UDP payload of the longest send with segmentation offload: 65,535 less an IPv4 and a UDP header.
pub const MAX_SEND: usize = 65_507;

/// Datagrams of one send with segmentation offload; newer kernels take 128, older ones 64 (then the send is split).
pub const MAX_SEGMENTS: usize = 128;

/// The least datagram limit that we work with: the IPv6 minimum MTU of 1,280 less headers.
pub const MIN_DATAGRAM: usize = 1_280 - 40 - 8;

/// Which addresses the underlay socket can reach.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Underlay {
    /// The listen address is an IPv4 one: 20 bytes of IP header.
    Ipv4,
    /// IPv6 or both: 40 bytes of IP header.
    DualStack,
}

impl Underlay {
    /// What a socket bound to `address` can reach.
    pub fn of(address: std::net::SocketAddr) -> Underlay {
        match address {
            std::net::SocketAddr::V4(_) => Underlay::Ipv4,
            std::net::SocketAddr::V6(_) => Underlay::DualStack,
        }
    }

    fn ip_header(self) -> usize {
        match self {
            Underlay::Ipv4 => 20,
            Underlay::DualStack => 40,
        }
    }
}

/// The longest UDP payload that crosses an underlay of this MTU in one packet, at least `MIN_DATAGRAM`.
pub fn datagram_limit(underlay_mtu: usize, underlay: Underlay) -> usize {
    underlay_mtu.saturating_sub(underlay.ip_header() + 8).clamp(MIN_DATAGRAM, MAX_SEND)
}

/// The MTU of containers, such that a frame with one VLAN tag and a slice of a super-frame fit one datagram.
pub fn container_mtu(underlay_mtu: usize, underlay: Underlay) -> usize {
    let overhead = wire::LANE_HEADER + wire::TAG + wire::SLICE_HEADER + ETHERNET + VLAN_TAG;
    datagram_limit(underlay_mtu, underlay) - overhead
}

/// The `gso_max_size` for the containers' devices, such that a super-frame leaves in one send.
///
/// A super-frame of TCP over IPv6 with timestamps has 72 bytes of IP and TCP header in each segment; IPv4 has less. The kernel
/// keeps its own headers below this size, so a super-frame's payload is always a little shorter.
pub fn gso_max_size(underlay_mtu: usize, underlay: Underlay) -> usize {
    let segments = (MAX_SEND / datagram_limit(underlay_mtu, underlay)).min(MAX_SEGMENTS);
    segments * (container_mtu(underlay_mtu, underlay) - 72)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_mtu_of_common_underlays() {
        assert_eq!(container_mtu(1500, Underlay::Ipv4), 1410);
        assert_eq!(container_mtu(1500, Underlay::DualStack), 1390);
        assert_eq!(container_mtu(9001, Underlay::Ipv4), 8911);
        assert_eq!(datagram_limit(1500, Underlay::Ipv4), 1472);
        assert_eq!(datagram_limit(1500, Underlay::DualStack), 1452);
        assert_eq!(datagram_limit(576, Underlay::Ipv4), MIN_DATAGRAM);
        assert_eq!(datagram_limit(1 << 20, Underlay::Ipv4), MAX_SEND);
    }

    #[test]
    fn super_frame_fits_one_send() {
        for mtu in [1280, 1400, 1500, 4000, 9000, 9216] {
            for underlay in [Underlay::Ipv4, Underlay::DualStack] {
                let slice = container_mtu(mtu, underlay) - 72;
                let datagrams = gso_max_size(mtu, underlay).div_ceil(slice);
                assert!(datagrams * datagram_limit(mtu, underlay) <= MAX_SEND, "{mtu}");
                assert!(datagrams <= MAX_SEGMENTS, "{mtu}");
                assert!(gso_max_size(mtu, underlay) > 48_000, "{mtu}");
            }
        }
    }
}

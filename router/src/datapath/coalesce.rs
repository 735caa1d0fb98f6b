//! Which small datagrams may share one UDP super-frame: those of one flow that follow each other, as the kernel's own GRO joins
//! them. A bridge and a veth pair then carry a train for the price of a datagram, and the container's socket gets each
//! by itself. Pure.

use super::checksum;
use super::frame::{Headers, Network, Transport};
use super::wire::FrameFlags;

/// The identification field of IPv4 means nothing on packets that must not be fragmented (RFC 6864 section 4.1).
const DONT_FRAGMENT: u8 = 0x40;

/// The headers of a datagram that may begin or go on a train: UDP, whole, with nothing behind its payload, and with the checksum
/// still open, since one that was made elsewhere must arrive as it is, right or wrong.
pub(super) fn datagram(flags: FrameFlags, frame: &[u8]) -> Option<Headers> {
    if flags != FrameFlags::PartialChecksum {
        return None;
    }
    let headers = Headers::parse(frame)?;
    let length = u16::from_be_bytes([frame[headers.l4 + 4], frame[headers.l4 + 5]]);
    let fits = headers.transport == Transport::Udp
        && headers.claimed_end == frame.len()
        && usize::from(length) == frame.len() - headers.l4
        && frame.len() > headers.len;
    // The kernel makes the headers of each datagram anew, which must not mend what came broken.
    let intact =
        headers.network == Network::Ipv6 || checksum::sum(0, &frame[headers.l3..headers.l4]) == 0xffff;
    (fits && intact).then_some(headers)
}

/// Whether `next`, the headers of a datagram, are what segmentation would make for datagram `index` of a train that `first` leads.
/// `headers` are where they lie in `first`.
pub(super) fn follows(first: &[u8], headers: &Headers, next: &[u8], index: usize) -> bool {
    let Headers { network, l3, l4, .. } = *headers;
    if first.len() != next.len() || first[..l3] != next[..l3] || first[l4..l4 + 4] != next[l4..l4 + 4] {
        return false;
    }
    let (first, next) = (&first[l3..l4], &next[l3..l4]);
    match network {
        Network::Ipv4 => {
            first[..2] == next[..2]
                && first[6..10] == next[6..10]
                && first[12..] == next[12..]
                && (follows_in_id(first, next, index)
                    || (first[6] & DONT_FRAGMENT != 0 && first[4..6] == next[4..6]))
        }
        Network::Ipv6 => first[..4] == next[..4] && first[6..] == next[6..],
    }
}

fn follows_in_id(first: &[u8], next: &[u8], index: usize) -> bool {
    let id = |ip: &[u8]| u16::from_be_bytes([ip[4], ip[5]]);
    u16::try_from(index).is_ok_and(|index| id(next) == id(first).wrapping_add(index))
}

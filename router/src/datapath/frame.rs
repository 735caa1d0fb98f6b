//! Where the headers of an Ethernet frame lie. Only offsets are found here; every one is checked against the bytes given.
//!
//! Lengths that the headers claim are reported, not believed: a super-frame or the headers of a slice do not hold what their
//! IP length says. Callers compare.

use crate::core::mac::Mac;

/// Length of an Ethernet header without tags.
pub const ETHERNET: usize = 14;

/// VLAN tags that are looked through: one 802.1Q tag inside one 802.1ad tag. With more, the frame is carried but not parsed.
const MAX_TAGS: usize = 2;

/// IPv6 extension headers that are looked through before giving up; real packets have one or two.
const MAX_EXTENSIONS: usize = 6;

/// Extension headers of IPv6 that are looked through (RFC 8200 section 4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;

/// Length of an IPv6 address.
const ADDRESS: usize = 16;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const TAGS: [u16; 2] = [0x8100, 0x88a8];

/// Broadcast or multicast: the group bit.
pub fn is_group(mac: Mac) -> bool {
    mac.0[0] & 1 == 1
}

/// Reserved for protocols between neighbouring bridges (IEEE 802.1D table 7-10), which bridges do not forward.
pub fn is_link_local_protocol(mac: Mac) -> bool {
    matches!(mac.0, [0x01, 0x80, 0xc2, 0, 0, last] if last < 0x10)
}

/// Groups that only routers of the segment listen to: all routers, and those that keep track of who listens to which group (224.0.0.2 and
/// 224.0.0.22, RFC 3376; ff02::2 and ff02::16, RFC 3810).
pub fn is_for_routers(mac: Mac) -> bool {
    matches!(mac.0, [0x01, 0x00, 0x5e, 0, 0, 0x02 | 0x16] | [0x33, 0x33, 0, 0, 0, 0x02 | 0x16])
}

/// The outermost header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ethernet {
    /// Receiver.
    pub dst: Mac,
    /// Sender.
    pub src: Mac,
    /// What follows the tags.
    pub ethertype: u16,
    /// Where it follows.
    pub l3: usize,
}

impl Ethernet {
    /// Reads the header and looks through VLAN tags. `None` when the frame is too short.
    pub fn parse(frame: &[u8]) -> Option<Ethernet> {
        let dst = Mac(*frame.first_chunk()?);
        let src = Mac(*frame.get(6..)?.first_chunk()?);
        let mut ethertype = be16(frame, 12)?;
        let mut l3 = ETHERNET;
        for _ in 0..MAX_TAGS {
            if !TAGS.contains(&ethertype) {
                break;
            }
            ethertype = be16(frame, l3 + 2)?;
            l3 += 4;
        }
        Some(Ethernet { dst, src, ethertype, l3 })
    }
}

/// The network protocol of a packet whose headers were found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network {
    /// RFC 791
    Ipv4,
    /// RFC 8200
    Ipv6,
}

/// The transport protocol of a packet whose headers were found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// RFC 9293
    Tcp,
    /// RFC 768
    Udp,
}

impl Transport {
    /// The protocol number in IP headers.
    pub fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        }
    }

    /// Where in the transport header the checksum is.
    pub fn checksum_offset(self) -> usize {
        match self {
            Transport::Tcp => 16,
            Transport::Udp => 6,
        }
    }
}

/// Where the headers of an unfragmented TCP or UDP packet lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers {
    /// IPv4 or IPv6.
    pub network: Network,
    /// Offset of the IP header.
    pub l3: usize,
    /// TCP or UDP.
    pub transport: Transport,
    /// Offset of the transport header.
    pub l4: usize,
    /// Offset of the payload: the length of all headers.
    pub len: usize,
    /// Where the packet ends, if its IP header is to be believed. May lie beyond the bytes.
    pub claimed_end: usize,
    /// Offset of the address that the pseudo-header counts as the destination: behind a routing header it is the final one.
    destination: usize,
}

impl Headers {
    /// Finds the headers. `None` for anything but an unfragmented TCP or UDP packet with complete headers.
    pub fn parse(frame: &[u8]) -> Option<Headers> {
        let ethernet = Ethernet::parse(frame)?;
        match ethernet.ethertype {
            ETHERTYPE_IPV4 => Headers::parse_ipv4(frame, ethernet.l3),
            ETHERTYPE_IPV6 => Headers::parse_ipv6(frame, ethernet.l3),
            _ => None,
        }
    }

    fn parse_ipv4(frame: &[u8], l3: usize) -> Option<Headers> {
        let ip: &[u8; 20] = frame.get(l3..)?.first_chunk()?;
        let header = usize::from(ip[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff; // more-fragments bit and offset
        if ip[0] >> 4 != 4 || header < 20 || total < header || fragment != 0 {
            return None;
        }
        let place = Place { network: Network::Ipv4, l3, destination: l3 + 16, claimed_end: l3 + total };
        Headers::parse_transport(frame, place, ip[9], l3 + header)
    }

    fn parse_ipv6(frame: &[u8], l3: usize) -> Option<Headers> {
        let ip: &[u8; 40] = frame.get(l3..)?.first_chunk()?;
        if ip[0] >> 4 != 6 {
            return None;
        }
        let end = l3 + 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
        let mut destination = l3 + 24;
        let mut next = ip[6];
        let mut at = l3 + 40;
        for _ in 0..MAX_EXTENSIONS {
            match next {
                HOP_BY_HOP | DESTINATION_OPTIONS => {}
                ROUTING => destination = final_destination(frame, at, destination)?,
                // A fragment header hides the transport: such packets are carried without offloads.
                _ => break,
            }
            let extension: &[u8; 2] = frame.get(at..)?.first_chunk()?;
            next = extension[0];
            at += (usize::from(extension[1]) + 1) * 8;
        }
        let place = Place { network: Network::Ipv6, l3, destination, claimed_end: end };
        Headers::parse_transport(frame, place, next, at)
    }

    fn parse_transport(frame: &[u8], place: Place, protocol: u8, l4: usize) -> Option<Headers> {
        let Place { network, l3, destination, claimed_end } = place;
        let (transport, length) = match protocol {
            6 => {
                let tcp: &[u8; 20] = frame.get(l4..)?.first_chunk()?;
                (Transport::Tcp, usize::from(tcp[12] >> 4) * 4)
            }
            17 => (Transport::Udp, 8),
            _ => return None,
        };
        let least = match transport {
            Transport::Tcp => 20,
            Transport::Udp => 8,
        };
        let len = l4 + length;
        if length < least || len > frame.len() || len > claimed_end {
            return None;
        }
        Some(Headers { network, l3, transport, l4, len, claimed_end, destination })
    }

    /// The not yet complemented sum over the pseudo-header for `l4_len` bytes of transport header and payload: what the
    /// checksum field holds while the checksum is left to the device (RFC 9293 section 3.1, RFC 8200 section 8.1).
    pub fn pseudo_header_sum(&self, frame: &[u8], l4_len: usize) -> u16 {
        let (source, size) = match self.network {
            Network::Ipv4 => (self.l3 + 12, 4),
            Network::Ipv6 => (self.l3 + 8, 16),
        };
        let length = u32::try_from(l4_len).unwrap_or(u32::MAX).to_be_bytes();
        let protocol = [0, self.transport.number()];
        let parts = [&frame[source..source + size], &frame[self.destination..self.destination + size]];
        let addresses = parts.iter().fold(0, |sum, part| super::checksum::sum(sum, part));
        super::checksum::sum(super::checksum::sum(addresses, &length), &protocol)
    }
}

/// What the IP header says before the transport is known.
struct Place {
    network: Network,
    l3: usize,
    destination: usize,
    claimed_end: usize,
}

/// Offset of the address that a packet with a routing header at `at` finally goes to (RFC 8200 section 8.1): that of the IP header,
/// at `destination`, when no segments are left. `None` for routes that we do not know.
fn final_destination(frame: &[u8], at: usize, destination: usize) -> Option<usize> {
    let &[_, units, kind, left] = frame.get(at..)?.first_chunk()?;
    let behind = at + (usize::from(units) + 1) * 8;
    let address = match (kind, left) {
        (_, 0) => return Some(destination),
        // A list whose last address is the last to be visited, of one address for a mobile node (RFC 6275 section 6.4.1).
        (0 | 2, _) => behind.checked_sub(ADDRESS)?,
        // Segment routing counts backwards: the first of the list is the last to be visited (RFC 8754 section 2).
        (4, _) => at + 8,
        _ => return None,
    };
    (address >= at + 8 && address + ADDRESS <= behind && behind <= frame.len()).then_some(address)
}

/// Two bytes in network order at an offset, when they are there.
pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// UDP over IPv6 behind a routing header: `(type, segments left, addresses)`; addresses are one byte repeated.
    fn routed(kind: u8, left: u8, addresses: &[u8], destination: u8) -> Vec<u8> {
        let route: Vec<u8> = addresses.iter().flat_map(|byte| [*byte; 16]).collect();
        let mut frame = vec![2; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 16 + route.len() as u8, ROUTING, 64]);
        frame.extend([[1; 16], [destination; 16]].concat());
        frame.extend([17, route.len() as u8 / 8, kind, left, 0, 0, 0, 0]);
        frame.extend(&route);
        frame.extend([0, 1, 0, 2, 0, 8, 0, 0]);
        frame
    }

    #[test]
    fn pseudo_header_counts_the_final_destination() {
        let sum = |frame: &[u8]| Headers::parse(frame).map(|headers| headers.pseudo_header_sum(frame, 8));
        let direct = sum(&routed(4, 0, &[7, 5], 9));
        assert!(direct.is_some());
        // No segments left: wherever it was, it is there now.
        assert_eq!(sum(&routed(200, 0, &[3], 9)), direct);
        // Still on its way: the last to be visited counts.
        assert_eq!(sum(&routed(4, 1, &[9, 5], 5)), direct);
        assert_eq!(sum(&routed(0, 2, &[5, 9], 3)), direct);
        assert_eq!(sum(&routed(2, 1, &[9], 3)), direct);
        // Routes that we cannot read, and lists without an address.
        assert_eq!(sum(&routed(3, 1, &[9], 3)), None);
        for kind in [0, 2, 4] {
            assert_eq!(sum(&routed(kind, 1, &[], 3)), None);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            kind in 0..5u8,
        ) {
            if bytes.len() > 14 {
                let ethertype = [[0x08, 0], [0x86, 0xdd], [0x81, 0], [0x88, 0xa8], [0x86, 0xdd]][usize::from(kind)];
                bytes[12..14].copy_from_slice(&ethertype);
                bytes[14] = if kind == 0 { 0x45 } else { 0x60 };
            }
            if kind == 4 && bytes.len() > 60 {
                bytes[20] = ROUTING;
                bytes[54] = 17;
                bytes[55] %= 12;
                bytes[56] %= 5;
            }
            let _ = Ethernet::parse(&bytes);
            if let Some(headers) = Headers::parse(&bytes) {
                prop_assert!(headers.len <= bytes.len());
                prop_assert!(headers.l4 < headers.len);
                headers.pseudo_header_sum(&bytes, 7);
            }
        }
    }
}

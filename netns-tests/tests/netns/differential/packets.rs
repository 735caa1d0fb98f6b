//! Packets put together by hand, so that they can be wrong on purpose. Knows formats and nothing of who carries them.

use std::net::{Ipv4Addr, Ipv6Addr};

use lab::VNET_HEADER;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
/// For experiments (IEEE 802).
pub(crate) const ETHERTYPE_EXPERIMENT: u16 = 0x88b5;
pub(crate) const ETHERNET: usize = 14;

/// `VIRTIO_NET_HDR_` flags and types (virtio 1.3 section 5.1.6).
pub(crate) const NEEDS_CSUM: u8 = 1;
pub(crate) const DATA_VALID: u8 = 2;
pub(crate) const GSO_TCPV4: u8 = 1;
pub(crate) const GSO_UDP_FRAGMENTS: u8 = 3;
pub(crate) const GSO_TCPV6: u8 = 4;
pub(crate) const GSO_UDP_L4: u8 = 5;
pub(crate) const GSO_ECN: u8 = 0x80;

/// A VLAN tag: its EtherType and what it says.
pub(crate) type Tag = (u16, u16);

/// Both ends of a path, as everybody on the segment knows them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) near_mac: [u8; 6],
    pub(crate) far_mac: [u8; 6],
    pub(crate) near4: Ipv4Addr,
    pub(crate) far4: Ipv4Addr,
    pub(crate) near6: Ipv6Addr,
    pub(crate) far6: Ipv6Addr,
    /// The far container's own address, where the one above is another.
    pub(crate) asked6: Ipv6Addr,
    /// MTU of both ends.
    pub(crate) mtu: usize,
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Ends {
    /// An Ethernet frame to the far end.
    pub(crate) fn frame(&self, tags: &[Tag], ethertype: u16, payload: &[u8]) -> Vec<u8> {
        ethernet(self.far_mac, self.near_mac, tags, ethertype, payload)
    }

    /// A frame with an IP packet, whose extension headers (IPv6) or options (IPv4) are given.
    pub(crate) fn ip(
        &self,
        family: Family,
        tags: &[Tag],
        extra: &Extra,
        next: u8,
        payload: &[u8],
    ) -> Vec<u8> {
        match family {
            Family::V4 => {
                let header = V4 { protocol: next, options: extra.bytes.clone(), ..V4::new(self) };
                self.frame(tags, ETHERTYPE_IPV4, &header.packet(payload))
            }
            Family::V6 => {
                let first = extra.first.unwrap_or(next);
                let mut packet = ipv6(self, first, &[&extra.bytes[..], payload].concat());
                if let Some(via) = extra.via {
                    packet[24..40].copy_from_slice(&via.octets());
                }
                self.frame(tags, ETHERTYPE_IPV6, &packet)
            }
        }
    }

    /// The sum over the pseudo-header, not complemented.
    pub(crate) fn seed(&self, family: Family, protocol: u8, length: usize) -> u16 {
        let addresses = match family {
            Family::V4 => [self.near4.octets(), self.far4.octets()].concat(),
            Family::V6 => [self.near6.octets(), self.far6.octets()].concat(),
        };
        let length = (length as u32).to_be_bytes();
        sum(sum(sum(0, &addresses), &length), &[0, protocol])
    }
}

/// What stands between IP header and transport: options, or a chain of extension headers that ends in the transport.
#[derive(Debug, Clone, Default)]
pub(crate) struct Extra {
    /// Number of the first header of the chain.
    pub(crate) first: Option<u8>,
    /// Where the packet goes first, when a routing header has its final destination.
    pub(crate) via: Option<Ipv6Addr>,
    pub(crate) bytes: Vec<u8>,
}

/// An IPv4 header. Lengths and checksum follow from the packet.
#[derive(Debug, Clone)]
pub(crate) struct V4 {
    pub(crate) tos: u8,
    pub(crate) id: u16,
    /// Flags and offset in units of eight bytes.
    pub(crate) fragment: u16,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) from: Ipv4Addr,
    pub(crate) to: Ipv4Addr,
    /// Padded to a multiple of four bytes.
    pub(crate) options: Vec<u8>,
}

impl V4 {
    pub(crate) const DONT_FRAGMENT: u16 = 0x4000;
    pub(crate) const MORE: u16 = 0x2000;

    pub(crate) fn new(ends: &Ends) -> Self {
        let (from, to) = (ends.near4, ends.far4);
        Self { tos: 0, id: 0x1234, fragment: 0, ttl: 64, protocol: UDP, from, to, options: Vec::new() }
    }

    pub(crate) fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let options = self.options.len().next_multiple_of(4);
        let total = (20 + options + payload.len()) as u16;
        let mut header = vec![0x45 + (options / 4) as u8, self.tos];
        header.extend([total, self.id, self.fragment].iter().flat_map(|field| field.to_be_bytes()));
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend(self.from.octets());
        header.extend(self.to.octets());
        header.extend(&self.options);
        header.resize(20 + options, 0);
        fix_ipv4(&mut header);
        header.extend(payload);
        header
    }
}

/// Sets the header checksum of an IPv4 packet again.
pub(crate) fn fix_ipv4(packet: &mut [u8]) {
    let header = (usize::from(packet[0] & 15) * 4).clamp(20, packet.len());
    packet[10..12].fill(0);
    let sum = !sum(0, &packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

pub(crate) fn ipv6(ends: &Ends, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0x12, 0x34];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(ends.near6.octets());
    packet.extend(ends.far6.octets());
    packet.extend(payload);
    packet
}

pub(crate) fn ethernet(to: [u8; 6], from: [u8; 6], tags: &[Tag], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [to, from].concat();
    for (tpid, tci) in tags {
        frame.extend([tpid.to_be_bytes(), tci.to_be_bytes()].concat());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A UDP datagram with the checksum field as given.
pub(crate) fn udp(ports: (u16, u16), checksum: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let header = [ports.0, ports.1, length, checksum];
    let mut datagram: Vec<u8> = header.iter().flat_map(|field| field.to_be_bytes()).collect();
    datagram.extend(payload);
    datagram
}

/// A TCP segment with the checksum field as given. Options are padded to a multiple of four bytes.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) ports: (u16, u16),
    pub(crate) sequence: u32,
    pub(crate) acknowledged: u32,
    /// The low twelve bits behind the header length.
    pub(crate) flags: u16,
    pub(crate) window: u16,
    pub(crate) checksum: u16,
    pub(crate) urgent: u16,
    pub(crate) options: Vec<u8>,
}

impl Segment {
    pub(crate) const FIN: u16 = 1;
    pub(crate) const PSH: u16 = 8;
    pub(crate) const ACK: u16 = 16;
    pub(crate) const URG: u16 = 32;
    pub(crate) const ECE: u16 = 64;
    pub(crate) const CWR: u16 = 128;

    pub(crate) fn header_len(&self) -> usize {
        20 + self.options.len().next_multiple_of(4)
    }

    pub(crate) fn with(&self, payload: &[u8]) -> Vec<u8> {
        let mut segment = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        segment.extend(self.sequence.to_be_bytes());
        segment.extend(self.acknowledged.to_be_bytes());
        let length = (self.header_len() / 4) as u16;
        let rest = [length << 12 | (self.flags & 0xfff), self.window, self.checksum, self.urgent];
        segment.extend(rest.iter().flat_map(|field| field.to_be_bytes()));
        segment.extend(&self.options);
        segment.resize(self.header_len(), 1);
        segment.extend(payload);
        segment
    }
}

/// Where the checksum stands in the header of a transport protocol.
pub(crate) fn checksum_at(protocol: u8) -> usize {
    if protocol == TCP { 16 } else { 6 }
}

/// Completes the checksum over `bytes`, whose field at the offset is set to zero first.
pub(crate) fn complete(bytes: &mut [u8], at: usize, seed: u16) {
    bytes[at..at + 2].fill(0);
    let sum = match !sum(seed, bytes) {
        0 => 0xffff,
        sum => sum,
    };
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The ones' complement sum (RFC 1071), not complemented.
pub(crate) fn sum(start: u16, bytes: &[u8]) -> u16 {
    let mut total = u32::from(start);
    for pair in bytes.chunks(2) {
        total += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// A virtio-net header.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Vnet {
    pub(crate) flags: u8,
    pub(crate) gso_type: u8,
    pub(crate) hdr_len: u16,
    pub(crate) gso_size: u16,
    pub(crate) csum_start: u16,
    pub(crate) csum_offset: u16,
}

impl Vnet {
    pub(crate) fn emit(&self) -> [u8; VNET_HEADER] {
        let fields = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset];
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        for (place, field) in bytes[2..].chunks_mut(2).zip(fields) {
            place.copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }
}

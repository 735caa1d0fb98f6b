//! Frames that leave checksum or segmentation to the device: partial checksums, super-frames of TCP and UDP, and virtio
//! headers that are not legal.

use super::cases::{Case, Maker};
use super::packets::{
    DATA_VALID, ETHERNET, Ends, Extra, Family, GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_FRAGMENTS, GSO_UDP_L4,
    NEEDS_CSUM, Segment, TCP, Tag, UDP, Vnet, checksum_at, fix_ipv4, udp,
};

/// Longest IP packet.
const MAX_PACKET: usize = 65_535;

/// Segments of one TCP super-frame here: where a kernel cuts it, the queue of the next device (512 frames) holds them.
const MAX_SEGMENTS: usize = 400;

/// Segments of one UDP super-frame that every kernel takes.
const MAX_UDP_SEGMENTS: usize = 64;

/// All kinds, chosen by the seed.
pub(crate) fn generate(ends: &Ends, seed: u64) -> Vec<Case> {
    let mut maker = Maker::new(ends, seed);
    for family in [Family::V4, Family::V6] {
        maker.partial_checksums(family);
        maker.other_checksums(family);
        maker.tcp_sizes(family);
        maker.tcp_flags(family);
        maker.tcp_behind_extras(family);
        maker.udp_sizes(family);
        maker.small_datagrams(family);
        maker.illegal(family);
    }
    maker.cases
}

/// A packet of TCP or UDP whose checksum field holds the sum of the pseudo-header, and where its parts are.
struct Partial {
    frame: Vec<u8>,
    header: Vnet,
}

impl Maker<'_> {
    /// Extension headers or options, sometimes none.
    fn some_extra(&mut self, family: Family, protocol: u8) -> (Extra, String) {
        match family {
            Family::V4 => match self.dice.below(3) {
                0 => (Extra { bytes: vec![148, 4, 0, 0], ..Extra::default() }, "router alert".to_owned()),
                _ => (Extra::default(), "no options".to_owned()),
            },
            Family::V6 => {
                let kinds = self.some_kinds();
                (self.extensions(&kinds, protocol), format!("extensions {kinds:?}"))
            }
        }
    }

    fn partial_checksums(&mut self, family: Family) {
        for protocol in [TCP, UDP] {
            for _ in 0..40 {
                let (extra, chain) = self.some_extra(family, protocol);
                let tags = self.some_tags();
                let room = self.ends.mtu - 60 - extra.bytes.len() - 4 * tags.len();
                let len = self.dice.between(0, room);
                let content = self.dice.bytes(len);
                let transport = match protocol {
                    TCP => self.segment().with(&content),
                    _ => udp((1, 2), 0, &content),
                };
                let made = partial(self.ends, family, &tags, &extra, protocol, transport);
                let what = format!("protocol {protocol}, {family:?}, {chain}, tags {tags:04x?}, {len} bytes");
                self.push_offloaded("partial checksum", what, made.header, made.frame);
            }
        }
        // A sum that comes out as zero, which UDP writes as its other zero (RFC 768).
        let mut content = self.dice.bytes(64);
        let mut datagram = udp((1, 2), 0, &content);
        super::packets::complete(&mut datagram, 6, self.ends.seed(family, UDP, 72));
        let missing = u16::from_be_bytes([datagram[6], datagram[7]]);
        let word = u16::from_be_bytes([content[0], content[1]]);
        let (sum, carry) = word.overflowing_add(missing);
        content[..2].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
        let made = partial(self.ends, family, &[], &Extra::default(), UDP, udp((1, 2), 0, &content));
        self.push_offloaded(
            "partial checksum",
            format!("that becomes zero, {family:?}"),
            made.header,
            made.frame,
        );
    }

    /// Places that are neither TCP's nor UDP's.
    fn other_checksums(&mut self, family: Family) {
        for (name, protocol, offset) in
            [("UDP-Lite", 136, 6), ("SCTP", 132, 8), ("ICMP", 1, 2), ("DCCP", 33, 6), ("unknown", 250, 40)]
        {
            let content = self.dice.bytes(200);
            let frame = self.ends.ip(family, &[], &Extra::default(), protocol, &content);
            let start = (frame.len() - 200) as u16;
            let header =
                Vnet { flags: NEEDS_CSUM, csum_start: start, csum_offset: offset, ..Vnet::default() };
            self.push_offloaded("partial checksum", format!("of {name}, {family:?}"), header, frame);
        }
        let made =
            partial(self.ends, family, &[], &Extra::default(), UDP, udp((1, 2), 0, &self.dice.bytes(99)));
        for (what, start, offset) in [
            ("over the Ethernet header", 0, 40),
            ("over the IP header", ETHERNET as u16, 10),
            ("inside of the payload", made.header.csum_start + 20, 3),
            ("at the end", made.frame.len() as u16 - 2, 0),
        ] {
            let header = Vnet { csum_start: start, csum_offset: offset, ..made.header };
            self.push_offloaded(
                "partial checksum",
                format!("{what}, {family:?}"),
                header,
                made.frame.clone(),
            );
        }
        let valid = Vnet { flags: DATA_VALID, ..Vnet::default() };
        self.push_offloaded(
            "partial checksum",
            format!("called valid, {family:?}"),
            valid,
            made.frame.clone(),
        );
        let experiment = self.ends.frame(&[(0x8100, 3)], 0x88b5, &self.dice.bytes(300));
        let header = Vnet { flags: NEEDS_CSUM, csum_start: 40, csum_offset: 6, ..Vnet::default() };
        self.push_offloaded("partial checksum", "without IP", header, experiment);
    }

    /// A super-frame of TCP with a payload of `len` bytes to be cut at `size`.
    fn push_tcp(
        &mut self,
        family: Family,
        what: &str,
        extra: &Extra,
        tags: &[Tag],
        segment: &Segment,
        (size, len): (usize, usize),
    ) {
        let content = self.dice.bytes(len);
        let made = partial(self.ends, family, tags, extra, TCP, segment.with(&content));
        let kind = if family == Family::V4 { GSO_TCPV4 } else { GSO_TCPV6 };
        let ecn = if segment.flags & Segment::CWR != 0 { GSO_ECN } else { 0 };
        let header = Vnet { gso_type: kind | ecn, gso_size: size as u16, ..made.header };
        let what = format!("{what}, {family:?}, {size} bytes a segment, {len} bytes");
        self.push_offloaded("TCP super-frame", what, header, made.frame);
    }

    fn tcp_sizes(&mut self, family: Family) {
        let none = Extra::default();
        let header = if family == Family::V4 { 20 } else { 40 };
        let full = self.ends.mtu - header - 20;
        for size in [1, 100, 499, 500, 501, 536, 1000, 1300, full - 12, full] {
            let most = (MAX_PACKET - header - 20).min(size * MAX_SEGMENTS);
            let mut lengths = vec![1, size, size + 1, 2 * size, most];
            lengths.extend((0..3).map(|_| self.dice.between(1, most)));
            for len in lengths.into_iter().filter(|len| *len <= most) {
                let segment = self.segment();
                self.push_tcp(family, "plain", &none, &[], &segment, (size, len));
            }
        }
    }

    fn tcp_flags(&mut self, family: Family) {
        for _ in 0..24 {
            let mut segment = self.segment();
            segment.flags = Segment::ACK;
            for flag in [Segment::FIN, Segment::PSH, Segment::URG, Segment::ECE, Segment::CWR] {
                if self.dice.below(3) == 0 {
                    segment.flags |= flag;
                }
            }
            if segment.flags & Segment::URG != 0 {
                segment.urgent = self.dice.below(5000) as u16;
            }
            if self.dice.below(2) == 0 {
                segment.options = [&[1, 1, 8, 10][..], &self.dice.bytes(8)].concat();
            }
            if self.dice.below(4) == 0 {
                // Close to where sequence numbers begin again.
                segment.sequence = u32::MAX - self.dice.below(3000) as u32;
            }
            let tags = self.some_tags();
            let size = self.dice.between(300, self.ends.mtu - 100);
            let len = self.dice.between(size, (30 * size).min(60_000));
            let what = format!("flags {:#05x}, tags {tags:04x?}", segment.flags);
            self.push_tcp(family, &what, &Extra::default(), &tags, &segment, (size, len));
        }
    }

    fn tcp_behind_extras(&mut self, family: Family) {
        for _ in 0..20 {
            let (extra, chain) = self.some_extra(family, TCP);
            let size = self.dice.between(200, self.ends.mtu - 100 - extra.bytes.len());
            let len = self.dice.between(size, (20 * size).min(40_000));
            let segment = self.segment();
            self.push_tcp(family, &chain, &extra, &[], &segment, (size, len));
        }
    }

    fn udp_sizes(&mut self, family: Family) {
        let header = if family == Family::V4 { 20 } else { 40 };
        let full = self.ends.mtu - header - 8;
        for size in [1, 100, 499, 500, 536, 1200, full] {
            let most = (MAX_PACKET - header - 8).min(size * MAX_UDP_SEGMENTS);
            let lengths =
                [1, size, size + 1, 3 * size, most, self.dice.between(1, most), self.dice.between(1, most)];
            for len in lengths.into_iter().filter(|len| *len <= most) {
                let tags = self.some_tags();
                let (extra, chain) = self.some_extra(family, UDP);
                if header + extra.bytes.len() + 8 + size > self.ends.mtu || len + extra.bytes.len() > most {
                    continue;
                }
                let made =
                    partial(self.ends, family, &tags, &extra, UDP, udp((53, 54), 0, &self.dice.bytes(len)));
                let header = Vnet { gso_type: GSO_UDP_L4, gso_size: size as u16, ..made.header };
                let what =
                    format!("{family:?}, {chain}, tags {tags:04x?}, {size} bytes a datagram, {len} bytes");
                self.push_offloaded("UDP super-frame", what, header, made.frame);
            }
        }
    }

    /// Datagrams of one flow right behind each other, which a receiver may join on their way, now and then with one between them
    /// that must not be.
    fn small_datagrams(&mut self, family: Family) {
        let tags = self.some_tags();
        let mut id = self.dice.below(1 << 16) as u16;
        for _ in 0..12 {
            let len = self.dice.between(1, 300);
            for _ in 0..self.dice.between(1, 15) {
                let odd = self.dice.below(10);
                let ports = if odd == 0 { (2, 2) } else { (1, 2) };
                let len = if odd == 1 { self.dice.between(0, len) } else { len };
                id = id.wrapping_add(if odd == 2 { 2 } else { 1 });
                let datagram = udp(ports, 0, &self.dice.bytes(len));
                let mut made = partial(self.ends, family, &tags, &Extra::default(), UDP, datagram);
                if family == Family::V4 {
                    let ip = &mut made.frame[ETHERNET + 4 * tags.len()..];
                    ip[4..6].copy_from_slice(&id.to_be_bytes());
                    ip[1] = if odd == 3 { 4 } else { 0 };
                    fix_ipv4(ip);
                }
                let what = format!("{family:?}, {len} bytes, id {id:04x}, ports {ports:?}, tags {tags:04x?}");
                self.push_offloaded("small datagrams", what, made.header, made.frame);
            }
        }
    }

    fn illegal(&mut self, family: Family) {
        let none = Extra::default();
        let (right, wrong) = match family {
            Family::V4 => (GSO_TCPV4, GSO_TCPV6),
            Family::V6 => (GSO_TCPV6, GSO_TCPV4),
        };
        let segment = self.segment();
        let tcp = partial(self.ends, family, &[], &none, TCP, segment.with(&self.dice.bytes(5000)));
        let datagram = partial(self.ends, family, &[], &none, UDP, udp((1, 2), 0, &self.dice.bytes(5000)));
        let super_tcp = Vnet { gso_type: right, gso_size: 1000, ..tcp.header };
        let super_udp = Vnet { gso_type: GSO_UDP_L4, gso_size: 1000, ..datagram.header };
        let tries = [
            ("TCP called the other family's", Vnet { gso_type: wrong, ..super_tcp }, &tcp),
            ("TCP called UDP", Vnet { gso_type: GSO_UDP_L4, ..super_tcp }, &tcp),
            ("TCP of segments of no size", Vnet { gso_size: 0, ..super_tcp }, &tcp),
            (
                "TCP without a checksum to complete",
                Vnet { flags: 0, csum_start: 0, csum_offset: 0, ..super_tcp },
                &tcp,
            ),
            ("TCP with UDP's place of the checksum", Vnet { csum_offset: 6, ..super_tcp }, &tcp),
            ("TCP with a checksum that starts beyond", Vnet { csum_start: 6000, ..super_tcp }, &tcp),
            ("TCP with a checksum that starts in the payload", Vnet { csum_start: 200, ..super_tcp }, &tcp),
            ("TCP with no length of headers", Vnet { hdr_len: 0, ..super_tcp }, &tcp),
            ("TCP with a length of headers too short", Vnet { hdr_len: 20, ..super_tcp }, &tcp),
            ("TCP with a length of headers too long", Vnet { hdr_len: 1000, ..super_tcp }, &tcp),
            ("TCP with headers longer than the frame", Vnet { hdr_len: 9000, ..super_tcp }, &tcp),
            ("TCP of an unknown type", Vnet { gso_type: 2, ..super_tcp }, &tcp),
            ("TCP with ECN but without the flag", Vnet { gso_type: right | GSO_ECN, ..super_tcp }, &tcp),
            ("nothing but ECN", Vnet { gso_type: GSO_ECN, ..super_tcp }, &tcp),
            ("too long and not a super-frame", Vnet { gso_type: 0, ..super_tcp }, &tcp),
            ("UDP called TCP", Vnet { gso_type: right, ..super_udp }, &datagram),
            ("UDP to be cut by IP", Vnet { gso_type: GSO_UDP_FRAGMENTS, ..super_udp }, &datagram),
            (
                "UDP without a checksum to complete",
                Vnet { flags: 0, csum_start: 0, csum_offset: 0, ..super_udp },
                &datagram,
            ),
            ("UDP of segments of no size", Vnet { gso_size: 0, ..super_udp }, &datagram),
            ("UDP of too many segments", Vnet { gso_size: 10, ..super_udp }, &datagram),
        ];
        for (what, header, packet) in tries {
            // The kernel that cuts it chooses the identification of the fragments.
            if family == Family::V6 && header.gso_type == GSO_UDP_FRAGMENTS {
                continue;
            }
            self.push_offloaded(
                "illegal offload",
                format!("{what}, {family:?}"),
                header,
                packet.frame.clone(),
            );
        }
        let mut cwr = self.segment();
        cwr.flags |= Segment::CWR;
        let made = partial(self.ends, family, &[], &none, TCP, cwr.with(&self.dice.bytes(5000)));
        let header = Vnet { gso_type: right, gso_size: 1000, ..made.header };
        self.push_offloaded("illegal offload", format!("CWR without ECN, {family:?}"), header, made.frame);
        let empty = partial(self.ends, family, &[], &none, TCP, self.segment().with(&[]));
        let header = Vnet { gso_type: right, gso_size: 1000, ..empty.header };
        self.push_offloaded(
            "illegal offload",
            format!("TCP without payload, {family:?}"),
            header,
            empty.frame,
        );
    }
}

fn partial(
    ends: &Ends,
    family: Family,
    tags: &[Tag],
    extra: &Extra,
    protocol: u8,
    transport: Vec<u8>,
) -> Partial {
    let mut transport = transport;
    let seed = ends.seed(family, protocol, transport.len()).to_be_bytes();
    let at = checksum_at(protocol);
    transport[at..at + 2].copy_from_slice(&seed);
    let frame = ends.ip(family, tags, extra, protocol, &transport);
    let start = frame.len() - transport.len();
    let headers = match protocol {
        TCP => usize::from(transport[12] >> 4) * 4,
        _ => 8,
    };
    let header = Vnet {
        flags: NEEDS_CSUM,
        gso_type: 0,
        hdr_len: (start + headers) as u16,
        gso_size: 0,
        csum_start: start as u16,
        csum_offset: at as u16,
    };
    Partial { frame, header }
}

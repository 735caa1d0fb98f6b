//! Frames that are complete: sizes, EtherTypes, tags, groups, address resolution, and IP of all kinds, right and wrong.

use std::net::Ipv4Addr;

use super::cases::{Case, Expect, Maker};
use super::packets::{
    ETHERNET, ETHERTYPE_EXPERIMENT, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ends, Extra, Family, Segment, TCP, UDP,
    V4, checksum_at, complete, ethernet, ipv6, udp,
};

const ARP: u16 = 0x0806;
const ICMPV4: u8 = 1;
const ICMPV6: u8 = 58;
const BROADCAST: [u8; 6] = [0xff; 6];

/// ARP and neighbour discovery are answered from the table of endpoints, so that they need not be flooded.
const ANSWERED: Expect = Expect::KeptBack(
    "asks for an address of the range: the router answers or keeps the question, nothing is flooded",
);
/// Endpoints are announced.
const NOT_FLOODED: Expect = Expect::KeptBack("unicast to an address that nobody announced is not flooded");
/// Protocols between neighbouring bridges must not leave their bridge (IEEE 802.1D table 7-10).
const BETWEEN_BRIDGES: Expect =
    Expect::KeptBack("for bridges only; the kernel's passes spanning tree on while it takes no part in it");

/// All kinds, chosen by the seed.
pub(crate) fn generate(ends: &Ends, seed: u64) -> Vec<Case> {
    let mut maker = Maker::new(ends, seed);
    maker.sizes();
    maker.ethertypes();
    maker.tags();
    maker.groups();
    maker.arp();
    maker.neighbour_discovery();
    maker.malformed_ipv4();
    maker.ipv4_options();
    maker.ipv4_fragments();
    maker.ipv6_extensions();
    maker.malformed_ipv6();
    maker.protocols();
    maker.udp();
    maker.tcp();
    maker.kept_back();
    maker.cases
}

impl Maker<'_> {
    fn sizes(&mut self) {
        let longest = ETHERNET + self.ends.mtu;
        let mut sizes =
            vec![15, 16, 17, 59, 60, 61, longest - 1, longest, longest + 1, longest + 4, longest + 5];
        sizes.extend((0..50).map(|_| self.dice.between(15, longest)));
        for size in sizes {
            let content = self.dice.bytes(size - ETHERNET);
            let frame = self.ends.frame(&[], ETHERTYPE_EXPERIMENT, &content);
            self.push("size", format!("{size} bytes"), frame);
        }
    }

    fn ethertypes(&mut self) {
        let known = [
            0x0805, 0x22f0, 0x8035, 0x809b, 0x8137, 0x8808, 0x8809, 0x8847, 0x8863, 0x8864, 0x888e, 0x88cc,
            0x88e5, 0x88f7, 0x9000, 0xffff,
        ];
        let random: Vec<u16> = (0..20).map(|_| self.dice.between(0x0600, 0xffff) as u16).collect();
        for ethertype in known.into_iter().chain(random).filter(|e| ![0x8100, 0x88a8, ARP].contains(e)) {
            let len = self.dice.between(1, 300);
            let content = self.dice.bytes(len);
            let frame = self.ends.frame(&[], ethertype, &content);
            self.push("EtherType", format!("{ethertype:#06x}"), frame);
        }
        for (name, head) in [
            ("spanning tree", &[0x42, 0x42, 3][..]),
            ("SNAP", &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0]),
            ("IPX", &[0xe0, 0xe0, 3]),
            ("raw 802.3", &[0xff, 0xff]),
            ("NetBIOS", &[0xf0, 0xf0, 3]),
        ] {
            let len = self.dice.between(10, 800);
            let content = [head, &self.dice.bytes(len)].concat();
            // The field is a length here, which need not be true.
            for length in [content.len() as u16, 0, 3, 1500] {
                let frame = self.ends.frame(&[], length, &content);
                self.push("LLC", format!("{name}, length field {length}"), frame);
            }
        }
    }

    fn tags(&mut self) {
        for (outer, inner) in [
            (0x8100, None),
            (0x88a8, None),
            (0x8100, Some(0x8100)),
            (0x88a8, Some(0x8100)),
            (0x9100, Some(0x8100)),
        ] {
            for vlan in [0, 1, 5, 4095, self.tci()] {
                let mut tags = vec![(outer, vlan)];
                tags.extend(inner.map(|tpid| (tpid, self.tci())));
                let room = self.ends.mtu + 4 - 4 * tags.len();
                let len = self.dice.between(1, room);
                let content = self.dice.bytes(len);
                let frame = self.ends.frame(&tags, ETHERTYPE_EXPERIMENT, &content);
                self.push("VLAN", format!("{tags:04x?}, {len} bytes behind"), frame);
                let datagram = self.datagram(Family::V4, 200);
                let frame = self.ends.ip(Family::V4, &tags, &Extra::default(), UDP, &datagram);
                self.push("VLAN", format!("{tags:04x?} before UDP"), frame);
            }
        }
        let three = [(0x88a8, self.tci()), (0x88a8, self.tci()), (0x8100, self.tci())];
        let frame = self.ends.frame(&three, ETHERTYPE_EXPERIMENT, &self.dice.bytes(90));
        self.push("VLAN", "three tags", frame);
        for len in 1..5 {
            let frame = self.ends.frame(&[], 0x8100, &self.dice.bytes(len));
            self.push("VLAN", format!("cut {len} bytes behind its EtherType"), frame);
        }
    }

    fn groups(&mut self) {
        let mut groups = vec![
            BROADCAST,
            [0x01, 0, 0x5e, 0, 0, 1],
            [0x01, 0, 0x5e, 0x7f, 1, 2],
            [0x33, 0x33, 0, 0, 0, 1],
            [0x33, 0x33, 0xff, 1, 2, 3],
        ];
        groups.extend([
            [0x01, 0, 0x0c, 0xcc, 0xcc, 0xcc],
            [0x01, 0x1b, 0x19, 0, 0, 0],
            [0x03, 0, 0, 0, 0, 1],
        ]);
        // Reserved for bridges (IEEE 802.1D table 7-10): no bridge passes them on, the kernel's no more than ours.
        groups.extend((0..17).map(|last| [0x01, 0x80, 0xc2, 0, 0, last]));
        for group in groups {
            for ethertype in [ETHERTYPE_EXPERIMENT, 0x88cc] {
                let len = self.dice.between(1, self.ends.mtu);
                let frame = ethernet(group, self.ends.near_mac, &[], ethertype, &self.dice.bytes(len));
                let expect =
                    if group == [0x01, 0x80, 0xc2, 0, 0, 0] { BETWEEN_BRIDGES } else { Expect::Alike };
                let what = format!("{group:02x?}, EtherType {ethertype:#06x}");
                self.push_expecting("group", what, expect, frame);
            }
        }
        for to in [
            Ipv4Addr::BROADCAST,
            Ipv4Addr::new(224, 0, 0, 1),
            Ipv4Addr::new(239, 77, 1, 2),
            Ipv4Addr::new(10, 47, 255, 255),
        ] {
            let header = V4 { to, ttl: 1, ..V4::new(self.ends) };
            let packet = header.packet(&udp((68, 67), 0, &self.dice.bytes(300)));
            let frame = ethernet(BROADCAST, self.ends.near_mac, &[], ETHERTYPE_IPV4, &packet);
            self.push("group", format!("UDP to {to}"), frame);
        }
    }

    fn arp(&mut self) {
        let ends = *self.ends;
        let outside = Ipv4Addr::new(192, 0, 2, 9);
        for (what, operation, from, to) in [
            ("request from nobody for an address outside of the range", 1, Ipv4Addr::UNSPECIFIED, outside),
            ("reply", 2, ends.near4, ends.far4),
            ("gratuitous reply", 2, ends.near4, ends.near4),
            ("InARP request", 8, ends.near4, ends.far4),
            ("RARP request", 3, ends.near4, ends.far4),
            ("of no known operation", 77, ends.near4, ends.far4),
        ] {
            let body = arp(&ends, operation, from, to);
            for (name, mac) in [("broadcast", BROADCAST), ("unicast", ends.far_mac)] {
                let frame = ethernet(mac, ends.near_mac, &[], ARP, &body);
                self.push("ARP", format!("{what}, {name}"), frame);
            }
            // Padded to the least of Ethernet, as network cards do.
            let padded = [&body[..], &[0; 18]].concat();
            self.push("ARP", format!("{what}, padded"), ends.frame(&[], ARP, &padded));
        }
        let request = arp(&ends, 1, ends.near4, ends.far4);
        self.push("ARP", "request, unicast", ends.frame(&[], ARP, &request));
        for len in [1, 7, 27] {
            let cut = ethernet(BROADCAST, ends.near_mac, &[], ARP, &request[..len]);
            self.push("ARP", format!("request cut to {len} bytes"), cut);
        }
        let tagged = ethernet(BROADCAST, ends.near_mac, &[(0x8100, 7)], ARP, &request);
        self.push("ARP", "request in a VLAN", tagged);
        for to in [ends.far4, ends.near4, Ipv4Addr::new(10, 40, 1, 1)] {
            let body = arp(&ends, 1, ends.near4, to);
            self.push_expecting(
                "ARP",
                format!("request for {to}"),
                ANSWERED,
                ethernet(BROADCAST, ends.near_mac, &[], ARP, &body),
            );
        }
    }

    fn neighbour_discovery(&mut self) {
        let ends = *self.ends;
        let message = |kind: u8, target: [u8; 16], hops: u8| {
            let mut icmp = [vec![kind, 0, 0, 0, 0, 0, 0, 0], target.to_vec(), vec![1, 1]].concat();
            icmp.extend(ends.near_mac);
            let seed = ends.seed(Family::V6, ICMPV6, icmp.len());
            complete(&mut icmp, 2, seed);
            let mut packet = ipv6(&ends, ICMPV6, &icmp);
            packet[7] = hops;
            ethernet([0x33, 0x33, 0xff, 0, 0, 1], ends.near_mac, &[], ETHERTYPE_IPV6, &packet)
        };
        let link_local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
        let frames = [
            ("solicitation for a link-local address", message(135, link_local, 255)),
            ("solicitation that was forwarded", message(135, ends.far6.octets(), 64)),
            ("solicitation for a group", message(135, [0xff; 16], 255)),
            ("advertisement", message(136, ends.near6.octets(), 255)),
            ("router solicitation", message(133, [0; 16], 255)),
            ("router advertisement", message(134, [0; 16], 255)),
            ("redirect", message(137, ends.far6.octets(), 255)),
        ];
        let asked = message(135, ends.asked6.octets(), 255);
        for (what, frame) in frames {
            self.push("neighbour discovery", what, frame);
        }
        self.push_expecting("neighbour discovery", "solicitation", ANSWERED, asked);
    }

    fn protocols(&mut self) {
        for family in [Family::V4, Family::V6] {
            for protocol in
                [0, 1, 2, 4, 33, 41, 46, 47, 50, 51, 58, 88, 89, 103, 112, 115, 132, 136, 143, 250, 255]
            {
                let len = self.dice.between(1, 1200);
                let content = self.dice.bytes(len);
                let frame = self.ends.ip(family, &[], &Extra::default(), protocol, &content);
                self.push("protocol", format!("{protocol} over {family:?}, {len} bytes"), frame);
            }
            for kind in [0, 3, 5, 8, 11, 12, 128, 129, 1, 2] {
                let number = if family == Family::V4 { ICMPV4 } else { ICMPV6 };
                let mut content = [vec![kind, 0, 0, 0], self.dice.bytes(60)].concat();
                complete(
                    &mut content,
                    2,
                    if family == Family::V4 { 0 } else { self.ends.seed(family, number, 64) },
                );
                let frame = self.ends.ip(family, &[], &Extra::default(), number, &content);
                self.push("ICMP", format!("type {kind} over {family:?}"), frame);
            }
        }
    }

    fn udp(&mut self) {
        for family in [Family::V4, Family::V6] {
            for (what, damage) in [
                ("right", None),
                ("checksum zero", Some((6, [0, 0]))),
                ("wrong checksum", Some((6, [0x12, 0x34]))),
                ("length zero", Some((4, [0, 0]))),
                ("length too short", Some((4, [0, 9]))),
                ("length too long", Some((4, [9, 9]))),
                ("port zero", Some((2, [0, 0]))),
                ("VXLAN port", Some((2, [0x12, 0xb5]))),
            ] {
                for len in [0, 1, 2, 333] {
                    let mut datagram = self.datagram(family, len);
                    if let Some((at, bytes)) = damage {
                        datagram[at..at + 2].copy_from_slice(&bytes);
                    }
                    let frame = self.ends.ip(family, &[], &Extra::default(), UDP, &datagram);
                    self.push("UDP", format!("{what}, {len} bytes over {family:?}"), frame);
                }
            }
        }
    }

    fn tcp(&mut self) {
        let lists: [(&str, &[u8]); 7] = [
            ("none", &[]),
            ("MSS, window scale, SACK permitted", &[2, 4, 5, 0x78, 3, 3, 7, 4, 2, 1, 1, 1]),
            ("timestamps", &[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]),
            ("SACK", &[1, 1, 5, 18, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
            ("fast open", &[34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0]),
            ("unknown and cut", &[253, 40, 1, 2]),
            ("of length zero", &[77, 0, 0, 0]),
        ];
        for family in [Family::V4, Family::V6] {
            for (name, options) in lists {
                for _ in 0..4 {
                    let len = self.dice.between(0, 400);
                    let flags = self.dice.below(1 << 12) as u16;
                    let segment = Segment { flags, options: options.to_vec(), ..self.segment() };
                    let content = self.dice.bytes(len);
                    let mut bytes = segment.with(&content);
                    let seed = self.ends.seed(family, TCP, bytes.len());
                    complete(&mut bytes, 16, seed);
                    let frame = self.ends.ip(family, &[], &Extra::default(), TCP, &bytes);
                    self.push(
                        "TCP",
                        format!("flags {flags:#05x}, options {name}, {len} bytes over {family:?}"),
                        frame,
                    );
                }
            }
            for words in [0, 4, 6, 15] {
                let mut bytes = self.transport(family, TCP, 10);
                bytes[12] = words << 4;
                let frame = self.ends.ip(family, &[], &Extra::default(), TCP, &bytes);
                self.push("TCP", format!("header of {words} words over {family:?}"), frame);
            }
        }
    }

    fn kept_back(&mut self) {
        let ends = *self.ends;
        let content = self.dice.bytes(100);
        let stranger = [0x06, 0x77, 1, 2, 3, 4];
        let frame = ethernet(stranger, ends.near_mac, &[], ETHERTYPE_EXPERIMENT, &content);
        self.push_expecting("unknown destination", "unicast", NOT_FLOODED, frame);
        // A frame in the name of the far container is not among these: the near bridge would take it for moved and send it nothing.
        // Neither the kernel's bridge nor we take a group for a sender.
        for from in [[0; 6], BROADCAST, [0x01, 0, 0x5e, 0, 0, 1]] {
            let frame = ethernet(ends.far_mac, from, &[], ETHERTYPE_EXPERIMENT, &content);
            self.push("source that cannot be", format!("{from:02x?}"), frame);
        }
    }

    /// A UDP datagram with the right checksum.
    pub(crate) fn datagram(&mut self, family: Family, len: usize) -> Vec<u8> {
        self.transport(family, UDP, len)
    }

    /// Header and payload of a transport protocol, complete where it has a checksum that is known here.
    pub(crate) fn transport(&mut self, family: Family, protocol: u8, len: usize) -> Vec<u8> {
        let content = self.dice.bytes(len);
        let mut bytes = match protocol {
            UDP => udp((5000, 6000), 0, &content),
            TCP => self.segment().with(&content),
            _ => return content,
        };
        let seed = self.ends.seed(family, protocol, bytes.len());
        complete(&mut bytes, checksum_at(protocol), seed);
        bytes
    }

    /// An ordinary TCP header.
    pub(crate) fn segment(&mut self) -> Segment {
        Segment {
            ports: (7000, 8000),
            sequence: self.dice.below(1 << 32) as u32,
            acknowledged: self.dice.below(1 << 32) as u32,
            flags: Segment::ACK | Segment::PSH,
            window: 500,
            checksum: 0,
            urgent: 0,
            options: Vec::new(),
        }
    }
}

fn arp(ends: &Ends, operation: u16, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4];
    body.extend(operation.to_be_bytes());
    body.extend(ends.near_mac);
    body.extend(from.octets());
    body.extend([0; 6]);
    body.extend(to.octets());
    body
}

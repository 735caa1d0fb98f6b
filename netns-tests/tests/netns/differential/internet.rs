//! IP packets that are complete: options, fragments in any order, extension headers in any chain, and headers that are wrong.

use super::cases::{Expect, Maker};
use super::packets::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Family, TCP, UDP, V4, fix_ipv4, ipv6};

const ICMPV4: u8 = 1;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;

/// The kernel looks into IP headers for congestion marks (RFC 6040).
const HEADER_CUT: Expect = Expect::AsSent("kernel VXLAN drops what is shorter than an IP header");

impl Maker<'_> {
    pub(crate) fn malformed_ipv4(&mut self) {
        let ends = *self.ends;
        let good = V4::new(&ends).packet(&self.datagram(Family::V4, 120));
        let mut damaged = |what: &str, damage: &dyn Fn(&mut Vec<u8>)| {
            for fixed in [false, true] {
                let mut packet = good.clone();
                damage(&mut packet);
                if fixed && packet.len() >= 20 {
                    fix_ipv4(&mut packet);
                }
                let what = format!("{what}, header checksum {}", if fixed { "fixed" } else { "as it falls" });
                let expect = if packet.len() < 20 { HEADER_CUT } else { Expect::Alike };
                self.push_expecting("malformed IPv4", what, expect, ends.frame(&[], ETHERTYPE_IPV4, &packet));
            }
        };
        for version in [0, 5, 6, 15] {
            damaged(&format!("version {version}"), &|p| p[0] = version << 4 | 5);
        }
        for words in [0, 4, 6, 15] {
            damaged(&format!("header of {words} words"), &|p| p[0] = 0x40 | words);
        }
        for length in [0, 19, 20, 27, 28, 60, 147, 149, 1500, 65_535u16] {
            damaged(&format!("total length {length} of 148"), &|p| {
                p[2..4].copy_from_slice(&length.to_be_bytes())
            });
        }
        for len in [1, 2, 19, 20, 21, 27, 28] {
            damaged(&format!("cut to {len} bytes"), &|p| p.truncate(len));
        }
        damaged("wrong header checksum", &|p| p[10] ^= 0x55);
        damaged("no time to live", &|p| p[8] = 0);
        damaged("from everybody", &|p| p[12..16].fill(255));
        damaged("from and to nobody", &|p| p[12..20].fill(0));
        damaged("reserved flag", &|p| p[6] |= 0x80);
        damaged("padding behind the packet", &|p| p.extend([0xee; 33]));
    }

    pub(crate) fn ipv4_options(&mut self) {
        let ends = *self.ends;
        let lists: [(&str, &[u8]); 7] = [
            ("no operation", &[1, 1, 1, 0]),
            ("record route", &[7, 15, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            ("timestamps", &[68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            ("router alert", &[148, 4, 0, 0]),
            ("loose source route", &[131, 7, 4, 10, 32, 0, 9, 0]),
            ("longer than the header", &[7, 200, 4, 0]),
            ("of length zero", &[7, 0, 0, 0]),
        ];
        for (name, options) in lists {
            for protocol in [UDP, TCP, ICMPV4] {
                let content = self.transport(Family::V4, protocol, 60);
                let header = V4 { options: options.to_vec(), protocol, ..V4::new(&ends) };
                let frame = ends.frame(&[], ETHERTYPE_IPV4, &header.packet(&content));
                self.push("IPv4 options", format!("{name}, protocol {protocol}"), frame);
            }
        }
    }

    pub(crate) fn ipv4_fragments(&mut self) {
        let ends = *self.ends;
        for protocol in [UDP, TCP, ICMPV4, 250] {
            let content = self.transport(Family::V4, protocol, 3000);
            // Pieces in units of eight bytes; some overlap, some leave gaps, some come twice.
            let plans: [(&str, &[(u16, u16)]); 7] = [
                ("in order", &[(0, 160), (160, 320), (320, 500)]),
                ("out of order", &[(320, 500), (0, 160), (160, 320)]),
                ("overlapping", &[(0, 170), (150, 330), (300, 500)]),
                ("with a gap", &[(0, 100), (200, 300)]),
                ("twice", &[(0, 100), (0, 100), (100, 200)]),
                ("tiny first", &[(0, 1), (1, 150)]),
                ("far behind", &[(0, 10), (8189, 8190)]),
            ];
            let id = self.dice.below(1 << 16) as u16;
            for (name, pieces) in plans {
                for (from, to) in pieces {
                    let start = (usize::from(*from) * 8).min(content.len());
                    let end = (usize::from(*to) * 8).min(content.len());
                    let more = if end < content.len() { V4::MORE } else { 0 };
                    let header = V4 { id, fragment: more | from, protocol, ..V4::new(&ends) };
                    let piece = if start < end { &content[start..end] } else { &[7; 8][..] };
                    let frame = ends.frame(&[], ETHERTYPE_IPV4, &header.packet(piece));
                    self.push(
                        "IPv4 fragments",
                        format!("{name}, protocol {protocol}, {from} to {to}"),
                        frame,
                    );
                }
            }
            let header = V4 { fragment: V4::MORE | V4::DONT_FRAGMENT, protocol, ..V4::new(&ends) };
            let frame = ends.frame(&[], ETHERTYPE_IPV4, &header.packet(&content[..800]));
            self.push("IPv4 fragments", format!("that must not be, protocol {protocol}"), frame);
        }
    }

    pub(crate) fn ipv6_extensions(&mut self) {
        let ends = *self.ends;
        for kind in [0, 43, 60, 51, 135, 139, 140, 50, 59, 253, 254, 97] {
            for next in [UDP, TCP, ICMPV6, 59, 250] {
                let content = self.transport(Family::V6, next, 100);
                let extra = self.extensions(&[kind], next);
                let frame = ends.ip(Family::V6, &[], &extra, next, &content);
                self.push("IPv6 extensions", format!("{kind} before {next}"), frame);
            }
        }
        for _ in 0..30 {
            let kinds: Vec<u8> =
                (0..self.dice.between(2, 9)).map(|_| self.dice.one_of(&[0, 43, 60, 51, 135, 253])).collect();
            let next = self.dice.one_of(&[UDP, TCP, ICMPV6, 59]);
            let content = self.transport(Family::V6, next, 80);
            let extra = self.extensions(&kinds, next);
            let tags = self.some_tags();
            let frame = ends.ip(Family::V6, &tags, &extra, next, &content);
            self.push("IPv6 extensions", format!("chain {kinds:?} before {next}"), frame);
        }
        let content = self.transport(Family::V6, UDP, 400);
        for (offset, more) in [(0u16, 0u16), (0, 1), (10, 1), (20, 0), (8191, 1), (1, 0)] {
            let fragment =
                [&[UDP, 0][..], &(offset << 3 | more).to_be_bytes(), &self.dice.bytes(4), &content];
            let packet = ipv6(&ends, FRAGMENT, &fragment.concat());
            let frame = ends.frame(&[], ETHERTYPE_IPV6, &packet);
            self.push("IPv6 fragments", format!("at {offset}, more {more}"), frame);
            let behind = self.extensions(&[60], FRAGMENT);
            let frame = ends.ip(Family::V6, &[], &behind, FRAGMENT, &fragment.concat());
            self.push("IPv6 fragments", format!("behind options, at {offset}, more {more}"), frame);
        }
    }

    pub(crate) fn malformed_ipv6(&mut self) {
        let ends = *self.ends;
        let extra = self.extensions(&[0, 60], UDP);
        let content = [&extra.bytes[..], &self.datagram(Family::V6, 120)].concat();
        let good = ipv6(&ends, 0, &content);
        let mut damaged = |what: String, damage: &dyn Fn(&mut Vec<u8>)| {
            let mut packet = good.clone();
            damage(&mut packet);
            let expect = if packet.len() < 40 { HEADER_CUT } else { Expect::Alike };
            self.push_expecting("malformed IPv6", what, expect, ends.frame(&[], ETHERTYPE_IPV6, &packet));
        };
        for version in [0, 4, 5, 15] {
            damaged(format!("version {version}"), &|p| p[0] = version << 4);
        }
        for length in [0, 1, 8, 16, 100, 1500, 65_535u16] {
            damaged(format!("payload length {length}"), &|p| p[4..6].copy_from_slice(&length.to_be_bytes()));
        }
        for len in [1, 39, 40, 41, 47, 48, 56, 60] {
            damaged(format!("cut to {len} bytes"), &|p| p.truncate(len));
        }
        for length in [1, 20, 255] {
            damaged(format!("extension of {length} units"), &|p| p[41] = length);
        }
        damaged("jumbo payload".to_owned(), &|p| {
            p[4..6].fill(0);
            p[42..48].copy_from_slice(&[0xc2, 4, 0, 1, 0, 0]);
        });
        damaged("no hops left".to_owned(), &|p| p[7] = 0);
        damaged("from a group".to_owned(), &|p| p[8] = 0xff);
        damaged("padding behind the packet".to_owned(), &|p| p.extend([0xee; 33]));
    }
}

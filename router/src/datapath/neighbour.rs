//! ARP and IPv6 neighbour solicitations, answered for containers of other hosts, so that the questions need not be flooded.

use std::net::{IpAddr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr,
};

use super::frame::ETHERNET;
use crate::core::mac::Mac;

/// The longest answer: Ethernet, IPv6, neighbour advertisement with one option.
pub const MAX_ANSWER: usize = ETHERNET + 40 + 32;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: EthernetAddress = EthernetAddress([0x33, 0x33, 0, 0, 0, 1]);

/// A question for somebody's hardware address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    /// Whose.
    pub target: IpAddr,
    /// Who asks.
    pub asker: Mac,
    /// The asker's address; `None` while it is still finding out whether it may use it (RFC 5227, RFC 4862 section 5.4).
    pub asker_ip: Option<IpAddr>,
}

impl Question {
    /// Reads an ARP request or a neighbour solicitation. `None` for anything else, and for questions in a VLAN: a VLAN is a
    /// segment of its own, of which we know nothing.
    pub fn parse(frame: &[u8]) -> Option<Question> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        match ethernet.ethertype() {
            EthernetProtocol::Arp => Question::parse_arp(&frame[ETHERNET..]),
            EthernetProtocol::Ipv6 => Question::parse_solicitation(ethernet.src_addr(), &frame[ETHERNET..]),
            _ => None,
        }
    }

    /// Does it find out whether a link-local address may be used (RFC 4862 section 5.4)? It is made of the hardware address, of which the
    /// fabric knows that there is one, or drawn at random.
    pub fn is_for_a_free_link_local(&self) -> bool {
        match self.target {
            IpAddr::V6(target) => self.asker_ip.is_none() && target.is_unicast_link_local(),
            IpAddr::V4(_) => false,
        }
    }

    fn parse_arp(packet: &[u8]) -> Option<Question> {
        let packet = ArpPacket::new_checked(packet).ok()?;
        match ArpRepr::parse(&packet).ok()? {
            ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Request,
                source_hardware_addr,
                source_protocol_addr,
                target_protocol_addr,
                ..
            } => Some(Question {
                target: IpAddr::V4(target_protocol_addr),
                asker: Mac(source_hardware_addr.0),
                asker_ip: (!source_protocol_addr.is_unspecified())
                    .then_some(IpAddr::V4(source_protocol_addr)),
            }),
            _ => None,
        }
    }

    fn parse_solicitation(asker: EthernetAddress, packet: &[u8]) -> Option<Question> {
        let packet = Ipv6Packet::new_checked(packet).ok()?;
        // RFC 4861 section 7.1.1: a hop limit of 255 proves that nobody forwarded it.
        if packet.next_header() != IpProtocol::Icmpv6 || packet.hop_limit() != 255 {
            return None;
        }
        let icmp = Icmpv6Packet::new_checked(packet.payload()).ok()?;
        if icmp.msg_type() != Icmpv6Message::NeighborSolicit
            || icmp.msg_code() != 0
            || packet.payload().len() < 24
        {
            return None;
        }
        let target = icmp.target_addr();
        if target.is_multicast() {
            return None;
        }
        let source = packet.src_addr();
        let asker_ip = (!source.is_unspecified()).then_some(IpAddr::V6(source));
        Some(Question { target: IpAddr::V6(target), asker: Mac(asker.0), asker_ip })
    }

    /// Writes the answer that `mac` holds the address into `out` and returns its length. An asker that probes an address for
    /// its own use is answered too: that is how it learns that it may not.
    pub fn answer(&self, mac: Mac, out: &mut [u8; MAX_ANSWER]) -> usize {
        match self.target {
            IpAddr::V4(target) => {
                let source = match self.asker_ip {
                    Some(IpAddr::V4(source)) => source,
                    Some(IpAddr::V6(_)) | None => std::net::Ipv4Addr::UNSPECIFIED,
                };
                let repr = ArpRepr::EthernetIpv4 {
                    operation: ArpOperation::Reply,
                    source_hardware_addr: EthernetAddress(mac.0),
                    source_protocol_addr: target,
                    target_hardware_addr: EthernetAddress(self.asker.0),
                    target_protocol_addr: source,
                };
                let length = ETHERNET + repr.buffer_len();
                let dst = EthernetAddress(self.asker.0);
                emit_ethernet(&mut out[..length], mac, dst, EthernetProtocol::Arp);
                repr.emit(&mut ArpPacket::new_unchecked(&mut out[ETHERNET..length]));
                length
            }
            IpAddr::V6(target) => self.advertise(mac, target, out),
        }
    }

    fn advertise(&self, mac: Mac, target: Ipv6Addr, out: &mut [u8; MAX_ANSWER]) -> usize {
        // RFC 4861 section 7.2.4: to all nodes and not solicited when the source was unspecified.
        let (to, to_mac, flags) = match self.asker_ip {
            Some(IpAddr::V6(source)) => (
                source,
                EthernetAddress(self.asker.0),
                NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE,
            ),
            Some(IpAddr::V4(_)) | None => (ALL_NODES, ALL_NODES_MAC, NdiscNeighborFlags::OVERRIDE),
        };
        let advert = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
            flags,
            target_addr: target,
            lladdr: Some(EthernetAddress(mac.0).into()),
        });
        let ip = Ipv6Repr {
            src_addr: target,
            dst_addr: to,
            next_header: IpProtocol::Icmpv6,
            payload_len: advert.buffer_len(),
            hop_limit: 255,
        };
        let length = ETHERNET + ip.buffer_len() + advert.buffer_len();
        let out = &mut out[..length];
        emit_ethernet(out, mac, to_mac, EthernetProtocol::Ipv6);
        let mut packet = Ipv6Packet::new_unchecked(&mut out[ETHERNET..]);
        ip.emit(&mut packet);
        let mut icmp = Icmpv6Packet::new_unchecked(packet.payload_mut());
        advert.emit(&target, &to, &mut icmp, &ChecksumCapabilities::default());
        length
    }
}

fn emit_ethernet(out: &mut [u8], src: Mac, dst: EthernetAddress, ethertype: EthernetProtocol) {
    let repr = EthernetRepr { src_addr: EthernetAddress(src.0), dst_addr: dst, ethertype };
    repr.emit(&mut EthernetFrame::new_unchecked(out));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: Mac = Mac([0x0a, 0x77, 10, 32, 0, 2]);

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ascii"), 16).expect("hex"))
            .collect()
    }

    fn answered(question: &[u8]) -> Vec<u8> {
        let mut out = [0; MAX_ANSWER];
        let length = Question::parse(question).expect("question").answer(OURS, &mut out);
        out[..length].to_vec()
    }

    #[test]
    fn arp_request_is_answered() {
        let question = bytes(
            "ffffffffffff 0a770a200001 0806 0001 0800 06 04 0001 0a770a200001 0a200001 000000000000 0a200002",
        );
        let answer = bytes(
            "0a770a200001 0a770a200002 0806 0001 0800 06 04 0002 0a770a200002 0a200002 0a770a200001 0a200001",
        );
        assert_eq!(answered(&question), answer);
    }

    #[test]
    fn arp_probe_is_answered() {
        let question = bytes(
            "ffffffffffff 0a770a200001 0806 0001 0800 06 04 0001 0a770a200001 00000000 000000000000 0a200002",
        );
        let answer = bytes(
            "0a770a200001 0a770a200002 0806 0001 0800 06 04 0002 0a770a200002 0a200002 0a770a200001 00000000",
        );
        assert_eq!(answered(&question), answer);
    }

    #[test]
    fn neighbour_solicitation_is_answered() {
        let question = bytes(
            "3333ff200002 0a770a200001 86dd 60000000 0020 3a ff
             fd000000000000000000000a200001 00 ff0200000000000000000001ff200002
             8700 0000 00000000 fd000000000000000000000a200002 00 0101 0a770a200001",
        );
        // The checksum in the answer was computed by hand from RFC 4443 section 2.3.
        let mut question = question;
        question[14 + 8..14 + 24].copy_from_slice(&bytes("fd00000000000000000000000a200001"));
        question[14 + 48..14 + 64].copy_from_slice(&bytes("fd00000000000000000000000a200002"));
        let answer = answered(&question);
        let expected = bytes(
            "0a770a200001 0a770a200002 86dd 60000000 0020 3a ff
             fd00000000000000000000000a200002 fd00000000000000000000000a200001
             8800 0000 60000000 fd00000000000000000000000a200002 0201 0a770a200002",
        );
        let checksum = 14 + 40 + 2;
        assert_eq!(answer[..checksum], expected[..checksum]);
        assert_eq!(answer[checksum + 2..], expected[checksum + 2..]);
        let length = super::super::checksum::sum(0x20 + 58, &answer[14 + 8..]);
        assert_eq!(length, 0xffff, "checksum does not verify");
    }

    #[test]
    fn duplicate_address_detection_is_answered_to_all_nodes() {
        let question = bytes(
            "3333ff200002 0a770a200001 86dd 60000000 0018 3a ff
             00000000000000000000000000000000 ff0200000000000000000001ff200002
             8700 0000 00000000 fd00000000000000000000000a200002",
        );
        let answer = answered(&question);
        assert_eq!(answer[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(answer[14 + 24..14 + 40], ALL_NODES.octets());
        assert_eq!(answer[14 + 40 + 4], 0x20, "override and not solicited");
    }

    #[test]
    fn forwarded_or_tagged_questions_are_not() {
        let mut question = bytes(
            "3333ff200002 0a770a200001 86dd 60000000 0018 3a fe
             00000000000000000000000000000000 ff0200000000000000000001ff200002
             8700 0000 00000000 fd00000000000000000000000a200002",
        );
        assert_eq!(Question::parse(&question), None);
        question[14 + 7] = 255;
        assert!(Question::parse(&question).is_some());
        question.splice(12..12, [0x81, 0, 0, 5]);
        assert_eq!(Question::parse(&question), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut frame in proptest::collection::vec(any::<u8>(), 0..120), kind in 0..3u8) {
            if frame.len() > 60 && kind > 0 {
                frame[12..14].copy_from_slice(if kind == 1 { &[8, 6] } else { &[0x86, 0xdd] });
                if kind == 2 {
                    frame[14] = 0x60;
                    frame[18..22].copy_from_slice(&[0, 6, 58, 255]);
                    frame[54..56].copy_from_slice(&[135, 0]);
                } else {
                    frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
                }
            }
            if let Some(question) = Question::parse(&frame) {
                question.answer(OURS, &mut [0; MAX_ANSWER]);
            }
        }
    }
}

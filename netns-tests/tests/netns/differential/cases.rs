//! What is sent: one case is one frame, with or without a virtio-net header, and what may become of it.

use std::net::Ipv6Addr;

use lab::VNET_HEADER;

use super::packets::{Ends, Extra, Tag, Vnet};
use crate::support::Dice;

/// Number of the IPv6 extension headers that are made here (IANA "IPv6 Extension Header Types").
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: usize = 16;

/// One frame to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// The kind of traffic, for messages.
    pub(crate) kind: &'static str,
    /// What is special about this one.
    pub(crate) what: String,
    /// In front of the frame, when it leaves something to the device.
    pub(crate) header: Option<[u8; VNET_HEADER]>,
    pub(crate) frame: Vec<u8>,
    /// So many frames it becomes at most.
    pub(crate) segments: usize,
    pub(crate) expect: Expect,
}

impl Case {
    /// Where the checksum stands when it is TCP's and left to the device.
    pub(crate) fn tcp_checksum(&self) -> Option<usize> {
        let header = self.header?;
        let field = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
        (field(8) == TCP_CHECKSUM).then(|| field(6) + TCP_CHECKSUM)
    }
}

/// What is to become of a case on the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// What becomes of it through kernel VXLAN.
    Alike,
    /// The fabric keeps it back by intent, for this reason. It may not come changed, and need not come.
    KeptBack(&'static str),
    /// It arrives as it was sent, although kernel VXLAN drops it, for this reason.
    AsSent(&'static str),
}

/// Makes cases; everything that it chooses follows from the seed.
pub(crate) struct Maker<'a> {
    pub(crate) ends: &'a Ends,
    pub(crate) dice: Dice,
    pub(crate) cases: Vec<Case>,
}

impl<'a> Maker<'a> {
    pub(crate) fn new(ends: &'a Ends, seed: u64) -> Self {
        Self { ends, dice: Dice::new(seed), cases: Vec::new() }
    }

    /// A frame that is complete.
    pub(crate) fn push(&mut self, kind: &'static str, what: impl Into<String>, frame: Vec<u8>) {
        self.cases.push(Case {
            kind,
            what: what.into(),
            header: None,
            frame,
            segments: 1,
            expect: Expect::Alike,
        });
    }

    /// A frame of which something else is expected than what becomes of it through kernel VXLAN.
    pub(crate) fn push_expecting(
        &mut self,
        kind: &'static str,
        what: impl Into<String>,
        expect: Expect,
        frame: Vec<u8>,
    ) {
        self.push(kind, what, frame);
        if let Some(case) = self.cases.last_mut() {
            case.expect = expect;
        }
    }

    /// A frame that leaves something to the device.
    pub(crate) fn push_offloaded(
        &mut self,
        kind: &'static str,
        what: impl Into<String>,
        header: Vnet,
        frame: Vec<u8>,
    ) {
        let segments = match header.gso_size {
            0 => 1,
            size => frame.len().div_ceil(usize::from(size)),
        };
        let (header, what) = (Some(header.emit()), what.into());
        self.cases.push(Case { kind, what, header, frame, segments, expect: Expect::Alike });
    }

    /// No tag most times, else one or two.
    pub(crate) fn some_tags(&mut self) -> Vec<Tag> {
        match self.dice.below(8) {
            0 => vec![(0x8100, self.tci())],
            1 => vec![(0x88a8, self.tci()), (0x8100, self.tci())],
            _ => Vec::new(),
        }
    }

    /// Priority and VLAN of a tag.
    pub(crate) fn tci(&mut self) -> u16 {
        self.dice.below(1 << 16) as u16
    }

    /// A chain of extension headers in front of `next`.
    pub(crate) fn extensions(&mut self, kinds: &[u8], next: u8) -> Extra {
        let mut bytes = Vec::new();
        let mut via = None;
        for (index, kind) in kinds.iter().enumerate() {
            let following = kinds.get(index + 1).copied().unwrap_or(next);
            let start = bytes.len();
            bytes.extend(self.extension(*kind, following));
            // Of the known routes, some are not at their end yet.
            if *kind == ROUTING && matches!(bytes[start + 2], 2 | 4) && self.dice.below(2) == 0 {
                bytes[start + 3] = 1;
                via = Some(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, self.dice.below(1 << 16) as u16));
            }
        }
        Extra { first: kinds.first().copied(), via, bytes }
    }

    /// Kinds of extension headers in the order in which RFC 8200 section 4.1 wants them.
    pub(crate) fn some_kinds(&mut self) -> Vec<u8> {
        let all = [HOP_BY_HOP, DESTINATION, ROUTING, AUTHENTICATION, DESTINATION];
        all.into_iter().filter(|_| self.dice.below(3) == 0).collect()
    }

    /// One extension header.
    pub(crate) fn extension(&mut self, kind: u8, next: u8) -> Vec<u8> {
        match kind {
            HOP_BY_HOP | DESTINATION => {
                // Padding to 8 or 16 bytes: the option PadN (RFC 8200 section 4.2).
                let more = self.dice.between(0, 2);
                let pad = 4 + 8 * more;
                [vec![next, more as u8, 1, pad as u8], vec![0; pad]].concat()
            }
            ROUTING => self.routing(next),
            AUTHENTICATION => {
                // RFC 4302 section 2.2: the length is counted in four bytes, less two.
                [vec![next, 4, 0, 0], self.dice.bytes(20)].concat()
            }
            // Mobility, HIP, shim6 and what nobody has defined have the common form (RFC 6564).
            _ => [vec![next, 1], self.dice.bytes(14)].concat(),
        }
    }

    /// A routing header to the far end, whose route is at its end.
    fn routing(&mut self, next: u8) -> Vec<u8> {
        match self.dice.below(3) {
            // Type 2 (RFC 6275 section 6.4), one address behind.
            0 => [vec![next, 2, 2, 0, 0, 0, 0, 0], self.ends.far6.octets().to_vec()].concat(),
            // Type 4, segment routing (RFC 8754 section 2), two segments behind.
            1 => {
                let (near, far) = (self.ends.near6.octets(), self.ends.far6.octets());
                [vec![next, 4, 4, 0, 1, 0, 0, 0], far.to_vec(), near.to_vec()].concat()
            }
            // An experimental type (RFC 4727 section 3.2).
            _ => [vec![next, 0, 253, 0], self.dice.bytes(4)].concat(),
        }
    }
}

//! The virtio-net header that travels before each frame of a TAP device with `IFF_VNET_HDR` (virtio 1.3 section 5.1.6), in
//! its 10-byte form and in the byte order of the host, which is what the TUN driver uses unless told otherwise.

/// Its length.
pub const LEN: usize = 10;

/// The checksum field holds the sum of the pseudo-header only.
pub const NEEDS_CSUM: u8 = 1;

/// No segmentation left to do.
pub const GSO_NONE: u8 = 0;
/// TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// UDP, cut into datagrams of equal length.
pub const GSO_UDP_L4: u8 = 5;
/// Flag beside a TCP type: the congestion-window-reduced bit is for the first segment only.
pub const GSO_ECN: u8 = 0x80;

/// The header's fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// `NEEDS_CSUM` and others.
    pub flags: u8,
    /// One of the `GSO_` values.
    pub gso_type: u8,
    /// A hint: how much of the frame is headers. Not to be trusted on forwarded frames.
    pub hdr_len: u16,
    /// Payload of each segment.
    pub gso_size: u16,
    /// Where the checksum begins.
    pub csum_start: u16,
    /// Where, counted from there, it is put.
    pub csum_offset: u16,
}

impl Header {
    /// Reads the fields; every combination of bytes is a header.
    pub fn parse(bytes: &[u8; LEN]) -> Header {
        let field = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Header {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: field(2),
            gso_size: field(4),
            csum_start: field(6),
            csum_offset: field(8),
        }
    }

    /// The opposite of `parse`.
    pub fn emit(&self) -> [u8; LEN] {
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[2..4].copy_from_slice(&self.hdr_len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.csum_start.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.csum_offset.to_ne_bytes());
        bytes
    }
}

//! Turns the headers of a super-frame into those of a run of its segments: what a device with segmentation offload does to
//! headers, for one or for many segments at once.

use super::checksum;
use super::frame::{Headers, Network, Transport};
use super::wire::Last;

const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// A run of consecutive segments of one super-frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Index of its first segment in the super-frame.
    pub first: usize,
    /// Payload of every segment but the super-frame's last.
    pub segment: usize,
    /// Payload of the whole run.
    pub payload: usize,
    /// Whether it ends with the super-frame's last segment.
    pub last: Last,
}

/// The run would be longer than IP lengths can say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("run is longer than an IP packet")]
pub struct TooLong;

/// Rewrites `bytes`, the headers of the super-frame, for the run: lengths, IPv4 identification and checksum, sequence number,
/// and flags that belong to the first or the last segment only (RFC 9293, RFC 3168 section 6.1.2). The transport checksum
/// becomes the seed for the length of the run, to be completed by whoever needs it.
pub fn rewrite(bytes: &mut [u8], headers: &Headers, run: Run) -> Result<(), TooLong> {
    let l4_len = headers.len - headers.l4 + run.payload;
    match headers.network {
        Network::Ipv4 => {
            let total = u16::try_from(headers.len - headers.l3 + run.payload).map_err(|_| TooLong)?;
            let ip = &mut bytes[headers.l3..headers.l4];
            ip[2..4].copy_from_slice(&total.to_be_bytes());
            add(&mut ip[4..6], run.first);
            ip[10..12].fill(0);
            let sum = !checksum::sum(0, ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        Network::Ipv6 => {
            let length = u16::try_from(headers.len - headers.l3 - 40 + run.payload).map_err(|_| TooLong)?;
            bytes[headers.l3 + 4..headers.l3 + 6].copy_from_slice(&length.to_be_bytes());
        }
    }
    let transport = &mut bytes[headers.l4..headers.len];
    match headers.transport {
        Transport::Tcp => {
            let before = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
            // Both factors come from 16-bit fields, so the product fits; sequence numbers wrap.
            let skipped = u32::try_from(run.first * run.segment).unwrap_or(0);
            transport[4..8].copy_from_slice(&before.wrapping_add(skipped).to_be_bytes());
            if run.last == Last::No {
                transport[13] &= !(TCP_FIN | TCP_PSH);
            }
            if run.first > 0 {
                transport[13] &= !TCP_CWR;
            }
        }
        Transport::Udp => {
            let length = u16::try_from(l4_len).map_err(|_| TooLong)?;
            transport[4..6].copy_from_slice(&length.to_be_bytes());
        }
    }
    seed(bytes, headers, l4_len);
    Ok(())
}

/// Sets the transport checksum to the sum of the pseudo-header, for `l4_len` bytes of transport header and payload.
pub fn seed(bytes: &mut [u8], headers: &Headers, l4_len: usize) {
    let seed = headers.pseudo_header_sum(bytes, l4_len);
    let at = headers.l4 + headers.transport.checksum_offset();
    bytes[at..at + 2].copy_from_slice(&seed.to_be_bytes());
}

/// Whether the headers say that congestion-window-reduced is set, which asks for the ECN flavour of segmentation.
pub fn has_cwr(bytes: &[u8], headers: &Headers) -> bool {
    match headers.transport {
        Transport::Tcp => bytes[headers.l4 + 13] & TCP_CWR != 0,
        Transport::Udp => false,
    }
}

fn add(field: &mut [u8], number: usize) {
    let before = u16::from_be_bytes([field[0], field[1]]);
    // Identification wraps: only the low bits count.
    let low = u16::try_from(number & 0xffff).unwrap_or(0);
    field.copy_from_slice(&before.wrapping_add(low).to_be_bytes());
}

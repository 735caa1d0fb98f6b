//! Benchmarks of the hot path. Nothing here is used by the product.
//!
//! - `cargo bench -p benches --bench datapath`: criterion, no root: sealing, cutting, rebuilding, lookups.
//! - `cargo run --release -p benches --example tap`: needs root: a TCP stream through our TAP device and through tun-tap's (ADR 0002).

use std::io::IoSlice;
use std::net::SocketAddr;

use router::core::mac::Mac;
use router::datapath::control::ControlInput;
use router::datapath::drops::DropReason;
use router::datapath::frame::{Ethernet, Headers};
use router::datapath::keys::PeerId;
use router::datapath::rebuild::FrameSink;
use router::datapath::seal::SealedTrain;
use router::datapath::send::SenderIo;
use router::datapath::{rewrite, virtio};

/// The address of the container that sends.
pub const SOURCE: Mac = Mac([0x0a, 0x77, 10, 32, 0, 1]);
/// The address of the container that receives.
pub const DESTINATION: Mac = Mac([0x0a, 0x77, 10, 32, 0, 2]);

/// A super-frame of TCP over IPv4 with timestamps, as the kernel hands it over.
pub fn super_frame(payload: usize, segment: usize) -> (virtio::Header, Vec<u8>) {
    let mut frame = [DESTINATION.0, SOURCE.0].concat();
    let total = u16::try_from(52 + payload).unwrap_or(u16::MAX);
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 32, 0, 1, 10, 32, 0, 2]);
    frame.extend([0x80, 0, 0x14, 0x51, 0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0x18, 1, 0, 0, 0, 0, 0]);
    frame.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1]);
    frame.resize(frame.len() + payload, 0x5a);
    let Some(headers) = Headers::parse(&frame) else { return (virtio::Header::default(), frame) };
    rewrite::seed(&mut frame, &headers, 32 + payload);
    let header = virtio::Header {
        flags: virtio::NEEDS_CSUM,
        gso_type: if payload > segment { virtio::GSO_TCPV4 } else { virtio::GSO_NONE },
        hdr_len: 66,
        gso_size: u16::try_from(segment).unwrap_or(u16::MAX),
        csum_start: 34,
        csum_offset: 16,
    };
    (header, frame)
}

/// Takes everything and keeps only counts, or the last train for the other side.
#[derive(Default)]
pub struct Void {
    /// Datagrams given.
    pub datagrams: usize,
    /// Frames written.
    pub frames: usize,
    /// Where the trains of the last round are kept, when they are wanted.
    pub keep: Option<Vec<Vec<u8>>>,
}

impl SenderIo for Void {
    fn send(&mut self, _to: SocketAddr, train: SealedTrain<'_>) -> Result<(), DropReason> {
        self.datagrams += train.count();
        if let Some(keep) = &mut self.keep {
            keep.extend(train.bytes().chunks(train.segment()).map(<[u8]>::to_vec));
        }
        Ok(())
    }

    fn answer(&mut self, _frame: &[u8]) -> Result<(), DropReason> {
        Ok(())
    }

    fn control(&mut self, _input: ControlInput) {}
}

impl FrameSink for Void {
    fn admit(&mut self, _peer: PeerId, _ethernet: &Ethernet) -> Result<(), DropReason> {
        Ok(())
    }

    fn write(&mut self, _peer: PeerId, _parts: &[IoSlice<'_>]) {
        self.frames += 1;
    }

    fn dropped(&mut self, _reason: DropReason, _count: usize) {}
}

//! Small frames: packed into few records, and taken out again.
//!
//! The limit of packing is one copy of the frames and the bare AEAD over as many records as they fill; the decisions about each frame
//! (where it goes, what it is, whether it fits) are what ours adds. The limit of unpacking is one copy of the frames, since the kernel
//! takes each out of the record by a write of its own.

use std::hint::black_box;

use benches::{Forwarder, Lanes, SEGMENT, Table, Void, rebuild_opened, super_frame};
use criterion::{Criterion, Throughput};
use router::datapath::Cipher;

/// A batch of the sender thread.
const FRAMES: usize = 64;
/// An acknowledgement with some payload.
const PAYLOAD: usize = 40;

pub(crate) fn pack(c: &mut Criterion) {
    let mut group = c.benchmark_group("pack and seal 64 frames of 106 B");
    group.throughput(Throughput::Elements(FRAMES as u64));
    let cipher = Cipher::Aes256Gcm;
    group.bench_function(format!("{cipher}/ours"), |b| {
        let (table, mut void) = (Table::with(1000), Void::default());
        let mut forwarder = Forwarder::new(cipher, &mut void);
        let (_, mut frame) = super_frame(PAYLOAD, SEGMENT);
        b.iter(|| {
            for _ in 0..FRAMES {
                forwarder.frame(&table, plain(), &mut frame, &mut void);
            }
            forwarder.flush(&mut void);
        });
    });
    group.bench_function(format!("{cipher}/limit"), |b| {
        let (_, frame) = super_frame(PAYLOAD, SEGMENT);
        let stride = 3 + frame.len();
        let mut out = vec![0u8; FRAMES * stride];
        let (mut lanes, mut void) = (Lanes::new(cipher), Void::default());
        let record = 1440 / stride * stride;
        b.iter(|| {
            for place in out.chunks_mut(stride) {
                place[3..].copy_from_slice(black_box(&frame));
            }
            black_box(&mut out);
            lanes.seal(out.len().div_ceil(record), record, &mut void);
        });
    });
    group.finish();
}

pub(crate) fn unpack(c: &mut Criterion) {
    let mut group = c.benchmark_group("unpack 64 frames of 106 B");
    group.throughput(Throughput::Elements(FRAMES as u64));
    let cipher = Cipher::Aes256Gcm;
    let (table, mut void) = (Table::with(0), Void::keeping());
    let mut forwarder = Forwarder::new(cipher, &mut void);
    let (_, mut frame) = super_frame(PAYLOAD, SEGMENT);
    for _ in 0..FRAMES {
        forwarder.frame(&table, plain(), &mut frame, &mut void);
    }
    forwarder.flush(&mut void);
    let mut lanes = Lanes::new(cipher);
    let mut records: Vec<Vec<u8>> =
        void.datagrams_mut().map(|datagram| lanes.open(datagram).to_vec()).collect();
    group.bench_function("records/ours", |b| {
        let mut void = Void::default();
        b.iter(|| rebuild_opened(&mut records, &mut void));
        assert!(void.frames >= FRAMES);
    });
    group.bench_function("records/limit", |b| {
        let stride = 3 + frame.len();
        let mut out = vec![0u8; frame.len()];
        b.iter(|| {
            for frame in records.iter().flat_map(|record| record[1..].chunks(stride)) {
                out.copy_from_slice(&frame[3..]);
                black_box(&mut out);
            }
        });
    });
    group.finish();
}

fn plain() -> benches::VirtioHeader {
    benches::VirtioHeader::default()
}

//! Cutting a super-frame into records, and making one of records again.
//!
//! The limit of cutting is one copy of the bytes that are sent, headers once a record, and the bare AEAD over them: whoever sends from a
//! frame in one piece must copy each byte to where its datagram is. (Reading the frame scattered avoids the copy and has no
//! limit here.) The limit of rebuilding is one copy of the payload. Rebuilding hands out slices by reference, so it may be below
//! that; the copy says what was saved.

use std::hint::black_box;

use benches::{Forwarder, Lanes, PAYLOAD, SEGMENT, Table, Void, rebuild_opened, super_frame};
use criterion::{BenchmarkId, Criterion, Throughput};
use router::datapath::Cipher;

/// What precedes the payload in each record: slice header, and the headers of a TCP segment over IPv4 with timestamps.
const HEAD: usize = 12 + 66;

pub(crate) fn cut(c: &mut Criterion) {
    let mut group = c.benchmark_group("cut and seal a super-frame of 57 kB");
    group.throughput(Throughput::Bytes(PAYLOAD as u64));
    for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
        group.bench_function(BenchmarkId::new(cipher.to_string(), "ours"), |b| {
            let (table, mut void) = (Table::with(1000), Void::default());
            let mut forwarder = Forwarder::new(cipher, &mut void);
            let (header, mut frame) = super_frame(PAYLOAD, SEGMENT);
            b.iter(|| {
                forwarder.frame(&table, header, &mut frame, &mut void);
                forwarder.flush(&mut void);
            });
        });
        group.bench_function(BenchmarkId::new(cipher.to_string(), "limit"), |b| {
            let mut lanes = Lanes::new(cipher);
            let (_, frame) = super_frame(PAYLOAD, SEGMENT);
            let mut out = vec![0; PAYLOAD / SEGMENT * (HEAD + SEGMENT)];
            let mut void = Void::default();
            b.iter(|| {
                copy_records(&frame, &mut out);
                black_box(&mut out);
                lanes.seal(PAYLOAD / SEGMENT, HEAD + SEGMENT, &mut void);
            });
        });
    }
    group.bench_function("copy alone/limit", |b| {
        let (_, frame) = super_frame(PAYLOAD, SEGMENT);
        let mut out = vec![0; PAYLOAD / SEGMENT * (HEAD + SEGMENT)];
        b.iter(|| {
            copy_records(&frame, &mut out);
            black_box(&mut out);
        });
    });
    group.finish();
}

pub(crate) fn rebuild(c: &mut Criterion) {
    let mut group = c.benchmark_group("rebuild a super-frame of 57 kB");
    group.throughput(Throughput::Bytes(PAYLOAD as u64));
    let mut void = Void::keeping();
    let mut forwarder = Forwarder::new(Cipher::Aes256Gcm, &mut void);
    let (header, mut frame) = super_frame(PAYLOAD, SEGMENT);
    forwarder.frame(&Table::with(0), header, &mut frame, &mut void);
    forwarder.flush(&mut void);
    let mut lanes = Lanes::new(Cipher::Aes256Gcm);
    let mut records: Vec<Vec<u8>> =
        void.datagrams_mut().map(|datagram| lanes.open(datagram).to_vec()).collect();
    assert_eq!(records.len(), PAYLOAD / SEGMENT);
    group.bench_function("records/ours", |b| {
        let mut void = Void::default();
        b.iter(|| rebuild_opened(&mut records, &mut void));
        assert!(void.frames > 0);
    });
    group.bench_function("records/limit", |b| {
        let mut out = vec![0u8; PAYLOAD];
        b.iter(|| {
            for (place, record) in out.chunks_mut(SEGMENT).zip(&records) {
                place.copy_from_slice(&record[HEAD..]);
            }
            black_box(&mut out);
        });
    });
    group.finish();
}

fn copy_records(frame: &[u8], out: &mut [u8]) {
    let (head, payload) = frame.split_at(HEAD - 12);
    for (place, slice) in out.chunks_mut(HEAD + SEGMENT).zip(payload.chunks(SEGMENT)) {
        place[12..HEAD].copy_from_slice(head);
        place[HEAD..].copy_from_slice(slice);
    }
}

//! What a frame is: its headers found and checked against its virtio header; the answer to an ARP request; a checksum.
//!
//! The limit of classification is comparing the headers with others of the same length: each of their bytes must be looked at once. The
//! limit of an answer is the same for the request, and a copy of the answer. The limit of a checksum is the sum of the same
//! bytes as numbers of eight, which is what a core does at best with one pass over memory.

use std::hint::black_box;

use benches::{ARP, answer_arp, arp_request, classify as ours, complete_checksum, frames};
use criterion::{BenchmarkId, Criterion, Throughput};

/// Payload and TCP header of a full segment.
const COVERED: usize = 1390;

pub(crate) fn classify(c: &mut Criterion) {
    let mut group = c.benchmark_group("classify");
    group.throughput(Throughput::Elements(1));
    for (name, header, mut frame, headers) in frames() {
        group.bench_function(BenchmarkId::new(name, "ours"), |b| {
            b.iter(|| ours(black_box(header), black_box(&mut frame)));
        });
        group.bench_function(BenchmarkId::new(name, "limit"), |b| {
            let expected = frame[..headers].to_vec();
            b.iter(|| black_box(&frame)[..headers] == black_box(&expected)[..]);
        });
    }
    group.finish();
}

pub(crate) fn answer(c: &mut Criterion) {
    let mut group = c.benchmark_group("answer an ARP request");
    group.throughput(Throughput::Elements(1));
    let request = arp_request();
    let mut out = [0; ARP];
    group.bench_function("request/ours", |b| b.iter(|| answer_arp(black_box(&request), &mut out)));
    group.bench_function("request/limit", |b| {
        let expected = request.clone();
        let ready = [7u8; ARP];
        b.iter(|| {
            if black_box(&request)[..] == black_box(&expected)[..] {
                out.copy_from_slice(black_box(&ready));
            }
            black_box(&mut out);
        });
    });
    group.finish();
}

pub(crate) fn checksum(c: &mut Criterion) {
    let mut group = c.benchmark_group("complete a checksum");
    group.throughput(Throughput::Bytes(COVERED as u64));
    let mut bytes: Vec<u8> = (0..COVERED).map(|i| u8::try_from(i % 251).unwrap_or(0)).collect();
    group.bench_function("1390 B/ours", |b| b.iter(|| complete_checksum(black_box(&mut bytes))));
    group.bench_function("1390 B/limit", |b| {
        b.iter(|| {
            let words = black_box(&bytes).chunks_exact(8);
            words.fold(0u64, |sum, word| {
                sum.wrapping_add(u64::from_ne_bytes(word.try_into().expect("eight bytes")))
            })
        });
    });
    group.finish();
}

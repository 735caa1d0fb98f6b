//! Micro-benchmarks of the hot path without system calls: what a super-frame costs in our own code, beside what its encryption
//! alone costs.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use benches::{DESTINATION, SOURCE, Void, super_frame};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use router::core::mac::Mac;
use router::datapath::open::OpeningLane;
use router::datapath::rebuild::{Origin, Rebuilder, UdpSegmentation};
use router::datapath::replay::{ReplayWindow, Verdict};
use router::datapath::seal::SealingLane;
use router::datapath::send::{Sender, SenderOrder};
use router::datapath::wire::LaneHeader;
use router::datapath::{
    Cipher, Endpoint, EndpointTable, LaneId, Owner, PeerId, RxLaneKey, TxLaneKey, virtio,
};
use zeroize::Zeroizing;

const LIMIT: usize = 1472;
const SEGMENT: usize = 1358;
const PAYLOAD: usize = 42 * SEGMENT;
const LANE: LaneId = LaneId(0x100);
const PEER: PeerId = PeerId([2; 16]);

fn table(endpoints: u32) -> EndpointTable {
    let mut table = EndpointTable::default();
    table.upsert(SOURCE, Endpoint { owner: Owner::Local, ips: vec![] });
    table.upsert(DESTINATION, Endpoint { owner: Owner::Peer(PEER), ips: vec![] });
    for i in 0..endpoints {
        let [a, b, c, d] = i.to_be_bytes();
        table.upsert(Mac([2, 9, a, b, c, d]), Endpoint { owner: Owner::Peer(PEER), ips: vec![] });
    }
    table
}

fn sender(cipher: Cipher, io: &mut Void) -> Sender {
    let now = Instant::now();
    let mut sender = Sender::new(LIMIT, now, Arc::default());
    let key = TxLaneKey { lane: LANE, cipher, key: Zeroizing::new([7; 32]) };
    let lane = SealingLane::new(key).expect("a key of 32 bytes is taken");
    let address = "192.0.2.1:6783".parse().expect("an address");
    sender.handle_order(SenderOrder::SetTx { peer: PEER, address, lane, traffic: Arc::default() }, now, io);
    sender
}

fn opening(cipher: Cipher) -> OpeningLane {
    let key = RxLaneKey { lane: LANE, peer: PEER, cipher, key: Zeroizing::new([7; 32]) };
    OpeningLane::new(&key).expect("a key of 32 bytes is taken")
}

/// One super-frame from the TAP device to sealed datagrams, and the AEAD alone on as many bytes in as many records.
fn send_super_frame(c: &mut Criterion) {
    let mut group = c.benchmark_group("super-frame of 57 kB");
    group.throughput(Throughput::Bytes(PAYLOAD as u64));
    for (cipher, algorithm) in
        [(Cipher::Aes256Gcm, &AES_256_GCM), (Cipher::ChaCha20Poly1305, &CHACHA20_POLY1305)]
    {
        let (table, mut io) = (table(1000), Void::default());
        let mut sender = sender(cipher, &mut io);
        let (header, mut frame) = super_frame(PAYLOAD, SEGMENT);
        let now = Instant::now();
        group.bench_function(format!("cut and seal, {cipher}"), |b| {
            b.iter(|| {
                sender.handle_frame(&table, header, &mut frame, now, &mut io);
                sender.flush(now, &mut io);
            });
        });
        let key = LessSafeKey::new(UnboundKey::new(algorithm, &[7; 32]).expect("a key of 32 bytes is taken"));
        let mut record = vec![0; 12 + 66 + SEGMENT];
        let mut counter = 0u64;
        group.bench_function(format!("bare seal, {cipher}"), |b| {
            b.iter(|| {
                for _ in 0..PAYLOAD / SEGMENT {
                    counter += 1;
                    let mut nonce = [0; 12];
                    nonce[4..].copy_from_slice(&counter.to_be_bytes());
                    let nonce = Nonce::assume_unique_for_key(nonce);
                    let tag = key.seal_in_place_separate_tag(nonce, Aad::from([0; 16]), &mut record);
                    let _ = black_box(tag.expect("seals"));
                }
            });
        });
    }
    group.finish();
}

/// The sealed datagrams of one super-frame opened and made one super-frame again.
fn receive_super_frame(c: &mut Criterion) {
    let mut group = c.benchmark_group("train of 57 kB");
    group.throughput(Throughput::Bytes(PAYLOAD as u64));
    for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
        let mut io = Void { keep: Some(Vec::new()), ..Void::default() };
        let mut sender = sender(cipher, &mut io);
        let (header, mut frame) = super_frame(PAYLOAD, SEGMENT);
        sender.handle_frame(&table(0), header, &mut frame, Instant::now(), &mut io);
        sender.flush(Instant::now(), &mut io);
        let datagrams = io.keep.take().unwrap_or_default();
        assert_eq!(datagrams.len(), PAYLOAD / SEGMENT);
        group.bench_function(format!("open and rebuild, {cipher}"), |b| {
            b.iter_batched_ref(
                || (datagrams.clone(), opening(cipher)),
                |(datagrams, lane)| {
                    let mut rebuilder = Rebuilder::new(UdpSegmentation::Available);
                    for datagram in datagrams.iter_mut() {
                        let header = LaneHeader::parse(datagram).expect("a lane datagram");
                        let record = lane.open(header, datagram).expect("sealed for this lane");
                        let origin = Origin { peer: PEER, lane: LANE, counter: header.counter };
                        rebuilder.record(origin, record, &mut io);
                    }
                    rebuilder.flush(&mut io);
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

/// Small frames of one batch, which share records.
fn pack_small_frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("64 frames of 106 bytes");
    group.throughput(Throughput::Elements(64));
    let (table, mut io) = (table(1000), Void::default());
    let mut sender = sender(Cipher::Aes256Gcm, &mut io);
    let mut frame = super_frame(40, SEGMENT).1;
    let now = Instant::now();
    group.bench_function("pack and seal, aes-256-gcm", |b| {
        b.iter(|| {
            for _ in 0..64 {
                sender.handle_frame(&table, virtio::Header::default(), &mut frame, now, &mut io);
            }
            sender.flush(now, &mut io);
        });
    });
    group.finish();
}

fn look_up(c: &mut Criterion) {
    let mut group = c.benchmark_group("table lookup");
    for endpoints in [10, 10_000, 100_000] {
        let table = table(endpoints);
        let mut i = 0u32;
        group.bench_function(format!("{endpoints} endpoints"), |b| {
            b.iter(|| {
                i = (i + 7919) % endpoints;
                let [x, y, z, w] = i.to_be_bytes();
                black_box(table.owner(Mac([2, 9, x, y, z, w])))
            });
        });
    }
    group.finish();
}

fn replay(c: &mut Criterion) {
    let mut group = c.benchmark_group("replay window");
    let mut window = ReplayWindow::default();
    let mut counter = 0u64;
    group.bench_function("check and mark, in order", |b| {
        b.iter(|| {
            counter += 1;
            if window.check(black_box(counter)) == Verdict::Fresh {
                window.mark(counter);
            }
        });
    });
    group.bench_function("refuse a replay", |b| b.iter(|| black_box(window.check(black_box(counter - 100)))));
    group.finish();
}

criterion_group!(benches, send_super_frame, receive_super_frame, pack_small_frames, look_up, replay);
criterion_main!(benches);

//! Sealing and opening the records of a train.
//!
//! The limit is the bare AEAD of the same library over as many bytes in as many records, with a nonce and 16 bytes of associated data
//! for each, in place in a cache that is hot: a lane cannot be faster than its cipher. Ours adds the lane's header, counter and
//! replay window, and the train's bookkeeping. Records of 1,436 bytes fill datagrams of an underlay with MTU 1500 and an IPv4
//! address, those of 8,936 an underlay with jumbo frames.

use std::hint::black_box;

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use benches::{Lanes, Void};
use criterion::{BenchmarkId, Criterion, Throughput};
use router::datapath::Cipher;

/// Records of a train and their length: what one send of the kernel takes.
const TRAINS: [(usize, usize); 2] = [(42, 1436), (7, 8936)];
const CIPHERS: [Cipher; 2] = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

pub(crate) fn seal(c: &mut Criterion) {
    for (count, length) in TRAINS {
        let mut group = c.benchmark_group(format!("seal {count} records of {length} B"));
        group.throughput(Throughput::Bytes((count * length) as u64));
        for cipher in CIPHERS {
            group.bench_function(BenchmarkId::new(cipher.to_string(), "ours"), |b| {
                let (mut lanes, mut void) = (Lanes::new(cipher), Void::default());
                b.iter(|| lanes.seal(count, length, &mut void));
            });
            group.bench_function(BenchmarkId::new(cipher.to_string(), "limit"), |b| {
                let mut bare = Bare::new(cipher, count, length);
                b.iter(|| bare.seal());
            });
        }
        group.finish();
    }
}

pub(crate) fn open(c: &mut Criterion) {
    for (count, length) in TRAINS {
        let mut group = c.benchmark_group(format!("open {count} records of {length} B"));
        group.throughput(Throughput::Bytes((count * length) as u64));
        for cipher in CIPHERS {
            group.bench_function(BenchmarkId::new(cipher.to_string(), "ours"), |b| {
                let mut state = (Lanes::new(cipher), Void::keeping());
                super::after(
                    b,
                    &mut state,
                    |(lanes, void)| {
                        void.clear();
                        lanes.seal(count, length, void);
                    },
                    |(lanes, void)| {
                        for datagram in void.datagrams_mut() {
                            black_box(lanes.open(datagram));
                        }
                    },
                );
            });
            group.bench_function(BenchmarkId::new(cipher.to_string(), "limit"), |b| {
                let mut bare = Bare::new(cipher, count, length);
                super::after(b, &mut bare, Bare::seal, Bare::open);
            });
        }
        group.finish();
    }
}

/// The cipher without anything of ours.
struct Bare {
    key: LessSafeKey,
    counter: u64,
    records: Vec<u8>,
    /// Length of a record and its tag.
    stride: usize,
}

impl Bare {
    fn new(cipher: Cipher, count: usize, length: usize) -> Bare {
        let algorithm = match cipher {
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, &[7; 32]).expect("a key of 32 bytes is taken"));
        let stride = length + algorithm.tag_len();
        Bare { key, counter: 0, records: vec![0x5a; count * stride], stride }
    }

    fn seal(&mut self) {
        for record in self.records.chunks_mut(self.stride) {
            self.counter += 1;
            let (plain, place) = record.split_at_mut(self.stride - 16);
            let nonce = nonce(self.counter);
            let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from([0; 16]), plain);
            place.copy_from_slice(tag.expect("seals").as_ref());
        }
    }

    fn open(&mut self) {
        let count = (self.records.len() / self.stride) as u64;
        for (record, counter) in self.records.chunks_mut(self.stride).zip(self.counter - count + 1..) {
            let opened = self.key.open_in_place(nonce(counter), Aad::from([0; 16]), record);
            black_box(opened.expect("opens"));
        }
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

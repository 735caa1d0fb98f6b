//! The forwarding table: whose is an address, and what a change costs.
//!
//! Keys come from peers, so the table hashes with a seed; the limit is a hash map without one, with one multiplication for a hash, from
//! an address in a register to a number: the least that finds one of many addresses that follow no order. An array
//! (`…/array`) shows how much of that is waiting for memory. Two patterns: `one`, the same address again and again, as a bulk flow
//! asks; and `all`, every address in a random order, for which 10⁶ endpoints are more than a cache holds.
//!
//! A change is a change of the control half's copy and a new snapshot for the threads; its limit is the bare map's insertion,
//! without a snapshot.

use std::cell::LazyCell;
use std::hash::{BuildHasherDefault, Hasher};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use benches::Table;
use criterion::{BenchmarkId, Criterion, Throughput};
use router::core::mac::Mac;

const SIZES: [u32; 3] = [10, 10_000, 1_000_000];
/// Look-ups of one round: enough to cross any cache, a power of two.
const ASKED: usize = 1 << 16;

pub(crate) fn owner(c: &mut Criterion) {
    let mut group = c.benchmark_group("owner of a MAC address");
    group.throughput(Throughput::Elements(1));
    for size in SIZES {
        // Made once and only when a bench that was selected wants it.
        let table = LazyCell::new(|| Table::with(size));
        let map = LazyCell::new(|| by_mac(size));
        for (pattern, order) in [("one", vec![size / 2; ASKED]), ("all", shuffled(size))] {
            let name = format!("{size} endpoints, {pattern}");
            let macs: Vec<Mac> = order.iter().map(|i| Table::mac(*i)).collect();
            group.bench_function(BenchmarkId::new(&name, "ours"), |b| {
                let table = &*table;
                b.iter_custom(|rounds| each(rounds, &macs, |mac| table.owner(*mac)));
            });
            group.bench_function(BenchmarkId::new(&name, "limit"), |b| {
                let map = &*map;
                b.iter_custom(|rounds| each(rounds, &macs, |mac| map.get(&number(*mac)).copied()));
            });
            group.bench_function(BenchmarkId::new(&name, "array"), |b| {
                let array: Vec<[u8; 16]> = vec![[1; 16]; size as usize];
                b.iter_custom(|rounds| each(rounds, &order, |i| array[*i as usize]));
            });
        }
    }
    group.finish();
}

pub(crate) fn neighbour(c: &mut Criterion) {
    let mut group = c.benchmark_group("neighbour with an IPv4 address");
    group.throughput(Throughput::Elements(1));
    for size in SIZES {
        let ips: Vec<IpAddr> = shuffled(size).iter().map(|i| ip(*i)).collect();
        let name = format!("{size} endpoints, all");
        group.bench_function(BenchmarkId::new(&name, "ours"), |b| {
            let table = Table::with(size);
            b.iter_custom(|rounds| each(rounds, &ips, |ip| table.neighbour(*ip)));
        });
        group.bench_function(BenchmarkId::new(&name, "limit"), |b| {
            let by_ip: Bare = (0..size).map(|i| (u64::from(0x0a20_0000 + i), i)).collect();
            let by_mac = by_mac(size);
            let find = |ip: &IpAddr| {
                let IpAddr::V4(ip) = ip else { return None };
                let i = *by_ip.get(&u64::from(u32::from(*ip)))?;
                by_mac.get(&number(Table::mac(i))).copied()
            };
            b.iter_custom(|rounds| each(rounds, &ips, find));
        });
    }
    group.finish();
}

pub(crate) fn change(c: &mut Criterion) {
    let mut group = c.benchmark_group("change of the table");
    group.throughput(Throughput::Elements(1));
    group.sample_size(10);
    for size in SIZES {
        let order = shuffled(size);
        let name = format!("{size} endpoints");
        group.bench_function(BenchmarkId::new(&name, "ours"), |b| {
            let mut table = Table::with(size);
            let mut snapshot = table.snapshot();
            b.iter_custom(|rounds| {
                each(rounds, &order, |i| {
                    table.upsert(*i);
                    snapshot = table.snapshot();
                })
            });
            black_box(&snapshot);
        });
        group.bench_function(BenchmarkId::new(&name, "limit"), |b| {
            let mut map = by_mac(size);
            b.iter_custom(|rounds| each(rounds, &order, |i| map.insert(number(Table::mac(*i)), *i)));
        });
    }
    group.finish();
}

/// Asks so many times, going round and round in the questions.
fn each<Q, A>(rounds: u64, questions: &[Q], mut ask: impl FnMut(&Q) -> A) -> std::time::Duration {
    let start = std::time::Instant::now();
    let mut left = rounds;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(questions.len());
        for question in &questions[..now] {
            black_box(ask(black_box(question)));
        }
        left -= now as u64;
    }
    start.elapsed()
}

/// Numbers below `size` in an order that no prefetcher follows (xorshift64).
fn shuffled(size: u32) -> Vec<u32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u32::try_from(state % u64::from(size)).unwrap_or(0)
    };
    (0..ASKED.max(size as usize)).map(|_| next()).collect()
}

fn by_mac(size: u32) -> Bare {
    (0..size).map(|i| (number(Table::mac(i)), i)).collect()
}

fn ip(i: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a20_0000 + i))
}

fn number(mac: Mac) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

type Bare = std::collections::HashMap<u64, u32, BuildHasherDefault<Multiply>>;

/// Fibonacci hashing: a multiplication, no seed, no safety.
#[derive(Default)]
struct Multiply(u64);

impl Hasher for Multiply {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {}

    fn write_u64(&mut self, number: u64) {
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

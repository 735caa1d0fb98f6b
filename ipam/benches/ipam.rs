//! Micro-benchmarks of the allocator alone: what a request costs that is served from own space, with everything that comes out
//! carried away. The journal's disk and the messages of a full fabric are not in it. `cargo bench -p ipam`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use gossip::PeerId;
use ipam::{Config, Ipam, Owner, Ticket, Want};

/// Requests of one measured batch.
const BATCH: u64 = 10_000;

fn founder(now: Instant) -> Ipam {
    let range = "10.0.0.0/8".parse().expect("a prefix");
    let mut ipam = Ipam::new(Config::new(range), PeerId([1; 16]), 1, now);
    ipam.found(now);
    carry_away(&mut ipam);
    ipam
}

fn owners() -> Vec<Owner> {
    (0..BATCH).map(|n| Owner(format!("cni:{n:064x}/eth0"))).collect()
}

/// As the caller does after each request: the journal first, then all the rest.
fn carry_away(ipam: &mut Ipam) {
    while let Some(entry) = ipam.poll_persist() {
        black_box(entry);
    }
    while let Some(publish) = ipam.poll_publish() {
        black_box(publish);
    }
    while let Some(transmit) = ipam.poll_transmit() {
        black_box(transmit);
    }
    while let Some(answer) = ipam.poll_answer() {
        black_box(answer);
    }
}

fn allocate(ipam: &mut Ipam, owners: Vec<Owner>, now: Instant) {
    let deadline = now + Duration::from_secs(5);
    for (ticket, owner) in (0..).zip(owners) {
        ipam.allocate(Ticket(ticket), owner, Want::Any, deadline, now);
        carry_away(ipam);
    }
}

/// Holders that are not known yet.
fn fresh(c: &mut Criterion) {
    let now = Instant::now();
    let mut group = c.benchmark_group("ipam");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("allocate, fresh", |b| {
        b.iter_batched(
            || (founder(now), owners()),
            |(mut ipam, owners)| {
                allocate(&mut ipam, owners, now);
                ipam
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

/// Containers that come and go beside 10,000 that stay.
fn pairs(c: &mut Criterion) {
    let now = Instant::now();
    let mut ipam = founder(now);
    allocate(&mut ipam, owners(), now);
    let coming: Vec<Owner> = (0..BATCH).map(|n| Owner(format!("cni:{n:064x}/eth1"))).collect();
    let mut group = c.benchmark_group("ipam");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("allocate and release", |b| {
        b.iter_batched(
            || coming.clone(),
            |coming| {
                for (ticket, owner) in (0..).zip(coming) {
                    let deadline = now + Duration::from_secs(5);
                    ipam.allocate(Ticket(ticket), owner.clone(), Want::Any, deadline, now);
                    carry_away(&mut ipam);
                    black_box(ipam.release_unused(&owner, now));
                    carry_away(&mut ipam);
                }
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, fresh, pairs);
criterion_main!(benches);

//! Leasing an address from own space: the whole request, with everything that comes out carried away.
//!
//! The limit is what the books alone cost: the next free address out of an interval, one entry by address and one by holder, with the
//! holder's name stored once. It keeps no journal entry and knows no owners, resting addresses, subnets or callers that wait.

use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput};
use gossip::PeerId;
use ipam::{Config, Ipam, Owner, Ticket, Want};

/// Requests of one measured batch: as many containers as a large fabric starts at once.
const BATCH: u64 = 10_000;

pub(crate) fn lease(c: &mut Criterion) {
    let mut group = c.benchmark_group("lease");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("new holders/ours", |b| {
        let now = Instant::now();
        b.iter_batched(
            || (founder(now), names()),
            |(mut ipam, names)| {
                for (ticket, name) in (0..).zip(names) {
                    let deadline = now + Duration::from_secs(5);
                    ipam.allocate(Ticket(ticket), Owner(name), Want::Any, deadline, now);
                    carry_away(&mut ipam);
                }
                ipam
            },
            BatchSize::LargeInput,
        );
    });
    group.bench_function("new holders/limit", |b| {
        b.iter_batched(
            || (Books::default(), names()),
            |(mut books, names)| {
                for name in names {
                    black_box(books.lease(name));
                }
                books
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

/// Containers that come and go beside as many that stay.
pub(crate) fn come_and_go(c: &mut Criterion) {
    let mut group = c.benchmark_group("lease");
    group.throughput(Throughput::Elements(BATCH));
    let now = Instant::now();
    let deadline = now + Duration::from_secs(5);
    let mut ipam = founder(now);
    for (ticket, name) in (0..).zip(names()) {
        ipam.allocate(Ticket(ticket), Owner(name), Want::Any, deadline, now);
        carry_away(&mut ipam);
    }
    let coming: Vec<Owner> = (0..BATCH).map(|n| Owner(format!("cni:{n:064x}/eth1"))).collect();
    group.bench_function("come and go/ours", |b| {
        b.iter_batched(
            || coming.clone(),
            |coming| {
                for (ticket, owner) in (0..).zip(coming) {
                    ipam.allocate(Ticket(ticket), owner.clone(), Want::Any, deadline, now);
                    carry_away(&mut ipam);
                    black_box(ipam.release_unused(&owner, now));
                    carry_away(&mut ipam);
                }
            },
            BatchSize::LargeInput,
        );
    });
    let mut books = Books::default();
    for name in names() {
        books.lease(name);
    }
    group.bench_function("come and go/limit", |b| {
        b.iter_batched(
            || coming.clone(),
            |coming| {
                for Owner(name) in coming {
                    black_box(books.lease(name.clone()));
                    books.release(&name);
                }
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn founder(now: Instant) -> Ipam {
    let mut ipam = Ipam::new(Config::new("10.0.0.0/8".parse().expect("a prefix")), PeerId([1; 16]), 1, now);
    ipam.found(now);
    carry_away(&mut ipam);
    ipam
}

fn names() -> Vec<String> {
    (0..BATCH).map(|n| format!("cni:{n:064x}/eth0")).collect()
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

#[derive(Default)]
struct Books {
    next: u32,
    leases: BTreeMap<u32, Arc<str>>,
    holders: HashMap<Arc<str>, u32>,
}

impl Books {
    fn lease(&mut self, name: String) -> u32 {
        let (address, name) = (self.next, Arc::<str>::from(name));
        self.next += 1;
        self.leases.insert(address, Arc::clone(&name));
        self.holders.insert(name, address);
        address
    }

    fn release(&mut self, name: &str) {
        if let Some(address) = self.holders.remove(name) {
            self.leases.remove(&address);
        }
    }
}

//! The parts of the hot path, and allocation, each beside its limit: what the same bytes or the same question cost when nothing is done that could be
//! left out. A module a part; each says what its limit is and why.
//!
//! Names are `part/what/ours` and `part/what/limit`. Everything runs on one thread and, where it can, on memory that is in the
//! cache, as a train is that was read a moment ago. No system calls: what those cost is seen by `cargo xtask bench` only.

mod aead;
mod allocate;
mod frame;
mod lookup;
mod pack;
mod replay;
mod train;

use std::time::{Duration, Instant};

use criterion::{Bencher, criterion_group, criterion_main};

criterion_group!(
    parts,
    aead::seal,
    aead::open,
    train::cut,
    train::rebuild,
    lookup::owner,
    lookup::neighbour,
    lookup::change,
    frame::classify,
    frame::answer,
    frame::checksum,
    replay::window,
    pack::pack,
    pack::unpack,
    allocate::lease,
    allocate::come_and_go,
);
criterion_main!(parts);

/// Measures `work` alone, each time after `prepare` has made it possible again in the same memory, which thus stays hot. Reading the
/// clock adds some 30 ns to each round, so this is for rounds of microseconds.
fn after<S>(b: &mut Bencher<'_>, state: &mut S, prepare: impl Fn(&mut S), work: impl Fn(&mut S)) {
    b.iter_custom(|rounds| {
        let mut spent = Duration::ZERO;
        for _ in 0..rounds {
            prepare(state);
            let start = Instant::now();
            work(state);
            spent += start.elapsed();
        }
        spent
    });
}

//! The replay window: one question and one mark for each datagram.
//!
//! The limit is a bare bitmap of the same size: read a bit, set it, and empty a word for each 64 counters. It knows no counter that is
//! too old and none that leaves a gap.

use std::hint::black_box;

use benches::Window;
use criterion::{Criterion, Throughput};

const WORDS: u64 = 256;

pub(crate) fn window(c: &mut Criterion) {
    let mut group = c.benchmark_group("replay window");
    group.throughput(Throughput::Elements(1));
    for (name, order) in [("in order", 0u64), ("neighbours swapped", 1)] {
        group.bench_function(format!("{name}/ours"), |b| {
            let (mut window, mut counter) = (Window::default(), 0u64);
            b.iter(|| {
                counter += 1;
                window.accept(black_box(counter ^ order))
            });
        });
        group.bench_function(format!("{name}/limit"), |b| {
            let (mut bits, mut counter) = ([0u64; WORDS as usize], 0u64);
            b.iter(|| {
                counter += 1;
                accept(&mut bits, black_box(counter ^ order))
            });
        });
    }
    group.bench_function("replayed/ours", |b| {
        let mut window = Window::default();
        (0..1000).for_each(|counter| {
            window.accept(counter);
        });
        b.iter(|| window.accept(black_box(500)));
    });
    group.bench_function("replayed/limit", |b| {
        let mut bits = [0u64; WORDS as usize];
        (0..1000).for_each(|counter| {
            accept(&mut bits, counter);
        });
        b.iter(|| accept(&mut bits, black_box(500)));
    });
    group.finish();
}

fn accept(bits: &mut [u64; WORDS as usize], counter: u64) -> bool {
    let word = usize::try_from(counter / 64 % WORDS).unwrap_or(0);
    let bit = 1 << (counter % 64);
    let fresh = bits[word] & bit == 0;
    bits[word] |= bit;
    if counter.is_multiple_of(64) {
        bits[(word + 1) % WORDS as usize] = 0;
    }
    fresh
}

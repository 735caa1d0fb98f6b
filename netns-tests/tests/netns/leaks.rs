//! Nothing leaks, whatever a runtime does in whatever order.

use anyhow::Context;
use lab::Walk;

use crate::support::fabric;

/// Rounds of a test; `cargo run -p netns-tests --example leaks` makes as many as one likes.
const ROUNDS: usize = 15;
/// Any other is as good.
const SEED: u64 = 5;

#[test]
fn careless_runtime_leaks_nothing() {
    fabric(2, |lab| {
        let mut walk = Walk::new(lab.host(1), lab.host(2), SEED)?;
        (0..ROUNDS)
            .try_for_each(|round| walk.round().with_context(|| format!("round {round} of seed {SEED}")))
    });
}

//! Looks for leaks: rounds of calls of the CNI plugin in any order, some cut short, while the router comes and goes. Needs root and the optimised
//! programs.
//!
//! `cargo build --release -p router -p weavectl -p cni-plugin`, then `cargo run -p netns-tests --example leaks [ROUNDS [SEED]]`
//!
//! After each round nothing may be left but what the runtime knows: addresses, interfaces, rules, records, also in another host's view.

use std::io::{self, Write};
use std::time::Instant;

use anyhow::{Context, Result};
use lab::{Lab, Walk};

/// Rounds that the goal is set for.
const ROUNDS: u64 = 1000;

fn main() -> Result<()> {
    let [rounds, seed] = lab::numbers([ROUNDS, 1])?;
    let lab = Lab::fabric(2)?;
    let mut walk = Walk::new(lab.host(1), lab.host(2), seed)?;
    let (mut out, start) = (io::stdout(), Instant::now());
    for round in 0..rounds {
        walk.round().with_context(|| format!("round {round} of seed {seed}"))?;
        if round % 100 == 99 {
            writeln!(out, "{} rounds in {:.0} s", round + 1, start.elapsed().as_secs_f64())?;
        }
    }
    writeln!(
        out,
        "{rounds} rounds of seed {seed} left nothing behind, after {:.1} s at the latest; steps taken: {:?}",
        walk.longest().as_secs_f64(),
        walk.taken()
    )?;
    Ok(())
}

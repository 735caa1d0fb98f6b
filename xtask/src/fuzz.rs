//! `cargo xtask fuzz`: the property tests again and again, with other seeds, until the time is up.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cargo::{self, Counts};
use crate::ui::Ui;

/// Cases of each property in a round: a round takes about a minute, so the time is kept to about that.
const CASES: u32 = 4096;

/// The crates that take bytes from others.
const CRATES: [&str; 4] = ["gossip", "ipam", "router", "cni-plugin"];

/// Run the property tests with many cases
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Stop after the round in which this time is over
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only tests whose name contains this
    filter: Option<String>,
}

/// The command.
pub(crate) fn run(args: &Args, ui: &Ui) -> Result<()> {
    let start = Instant::now();
    let mut rounds = 0;
    while rounds == 0 || start.elapsed() < Duration::from_secs(args.seconds) {
        let counts = round(args)?;
        if counts.failed > 0 {
            bail!(
                "{} properties failed; proptest has saved the cases beside the sources: commit them",
                counts.failed
            );
        }
        rounds += 1;
        ui.good(format!(
            "round {rounds}: {} tests, up to {CASES} cases each, {:.0} s so far",
            counts.passed,
            start.elapsed().as_secs_f64()
        ));
    }
    Ok(())
}

fn round(args: &Args) -> Result<Counts> {
    let mut command = cargo::cargo();
    command.args(["test", "--locked", "--no-fail-fast", "--lib", "--bins", "--tests"]);
    CRATES.iter().for_each(|name| {
        command.args(["-p", name]);
    });
    command.args(&args.filter).env("PROPTEST_CASES", CASES.to_string());
    cargo::test(&mut command)
}

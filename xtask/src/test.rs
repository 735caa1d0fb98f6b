//! `cargo xtask test`: everything that must hold before a change lands.
//!
//! Each profile is built once: lints, tests and the harness in `dev`, the simulator and the programs under test in `sim`.

use anyhow::{Result, bail};

use crate::cargo::{self, Counts};
use crate::steps::Steps;
use crate::tools::{self, Need};
use crate::ui::Ui;
use crate::{bench, dist, netns, setup, sim, tidy};

/// The command.
pub(crate) fn run(ui: &Ui) -> Result<()> {
    if let Err(error) = lab::require_root() {
        bail!("{error:#} (`cargo test` runs what needs no root)");
    }
    setup::ensure(&[Need::Build, Need::Lab], ui)?;
    let mut steps = Steps::new(ui);
    steps.run("house rules", || tidy::run().map(nothing_counted));
    steps.run("format", || cargo::run(&["fmt", "--all", "--", "--check"]).map(nothing_counted));
    steps.run("lints", || lints().map(nothing_counted));
    steps.run("tests without root", || {
        cargo::test(cargo::cargo().args(["test", "--workspace", "--locked", "--no-fail-fast"]))
    });
    steps.run("benchmarks, each once", || benches_once().map(nothing_counted));
    steps.run("simulation, a short round", || sim::short_round().map(nothing_counted));
    steps.run("kernel tests of the router", kernel_tests);
    steps.run("programs under test", || netns::programs().map(drop).map(nothing_counted));
    steps.run("plugin, static and small", || dist::static_plugin().map(drop).map(nothing_counted));
    steps.run("black-box tests in namespaces", || netns::test(&netns::Args::default()));
    steps.run("benchmark, a short round", || bench::check(ui).map(nothing_counted));
    steps.run("licences and advisories", || deny(ui).map(nothing_counted));
    steps.finish()
}

fn nothing_counted((): ()) -> Counts {
    Counts::default()
}

/// All features, so that the tests which need root are linted too.
fn lints() -> Result<()> {
    cargo::run(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--locked",
        "--",
        "--deny",
        "warnings",
    ])
}

/// As `cargo bench -p benches -- --test` does, but with what the tests have built already.
fn benches_once() -> Result<()> {
    cargo::run(&["bench", "--workspace", "--profile", "dev", "--locked", "--bench", "parts", "--", "--test"])
}

/// Selecting the whole workspace keeps the dependencies' features, and so what is built already.
fn kernel_tests() -> Result<Counts> {
    cargo::test(cargo::cargo().args([
        "test",
        "--workspace",
        "--locked",
        "--features",
        "router/root-tests",
        "--test",
        "kernel",
        "--",
        "--test-threads=1",
    ]))
}

/// cargo-deny takes longer to build than everything else; CI has it, and who has it runs it.
fn deny(ui: &Ui) -> Result<()> {
    if tools::find_program("cargo-deny").is_none() {
        ui.say("not run: there is no `cargo-deny`; type `cargo install cargo-deny --locked` to have it");
        return Ok(());
    }
    cargo::run(&["deny", "check"])
}

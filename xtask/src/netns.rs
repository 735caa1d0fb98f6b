//! `cargo xtask netns`: the black-box tests with programs that were just built.

use std::path::PathBuf;

use anyhow::Result;

use crate::cargo::{self, Build, Counts};
use crate::setup;
use crate::steps::Steps;
use crate::tools::Need;
use crate::ui::Ui;

/// Tests that run beside each other: most of them wait for each other's seconds rather than for a core; those that measure run alone.
const THREADS: usize = 3;

/// Run the black-box tests in network namespaces
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Run the tests whose name contains this
    filter: Option<String>,
    /// Print the names and run nothing
    #[arg(long)]
    list: bool,
    /// Show what the tests print, figures among it
    #[arg(long)]
    show: bool,
}

/// The command.
pub(crate) fn run(args: &Args, ui: &Ui) -> Result<()> {
    if args.list {
        return test(args).map(drop);
    }
    lab::require_root()?;
    setup::ensure(&[Need::Build, Need::Lab], ui)?;
    let mut steps = Steps::new(ui);
    steps.run("programs under test", || programs().map(|_| Counts::default()));
    steps.run("black-box tests in namespaces", || test(args));
    steps.finish()
}

/// Builds the programs, and answers their folder.
pub(crate) fn programs() -> Result<PathBuf> {
    cargo::build_programs(Build::Checked)
}

/// Runs the tests; the programs have been built.
pub(crate) fn test(args: &Args) -> Result<Counts> {
    let mut command = cargo::cargo();
    command.args([
        "test",
        "--workspace",
        "--locked",
        "--features",
        "netns-tests/root-tests",
        "--test",
        "netns",
        "--",
    ]);
    command.args(&args.filter);
    if args.list {
        command.arg("--list");
    }
    if args.show {
        command.arg("--show-output");
    }
    command.arg(format!("--test-threads={THREADS}"));
    command.env("WEAVE_DOCKER_PLUGIN", crate::docker_plugin::build()?);
    command.env("WEAVE_BIN_DIR", cargo::folder_of(Build::Checked)?);
    cargo::test(&mut command)
}

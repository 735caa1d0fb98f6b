//! `cargo xtask sim`: builds the simulator, optimised but with all assertions and cheap cryptography, and runs it.

use anyhow::Result;

use crate::cargo::{self, Build};
use crate::ui::Ui;

/// Seeds of a short round: half a minute on two cores.
const SHORT: &str = "200";

/// Run the simulation
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Passed on to `weave-sim`; `--help` explains them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// The command.
pub(crate) fn run(args: &Args, _ui: &Ui) -> Result<()> {
    simulate(&args.rest)
}

/// What puts bugs in needs a build that can.
const PLANTED: &str = "--planted";

/// A few hundred seeds of all faults.
pub(crate) fn short_round() -> Result<()> {
    simulate(&["--seeds", SHORT, "--jobs", "2"].map(str::to_owned))
}

/// Asks the C library for large pages. The routers of a large fleet take gigabytes, touched here and there: 300 of them start in a sixth
/// less time.
const LARGE_PAGES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");

fn simulate(args: &[String]) -> Result<()> {
    let mut words = vec![
        "run",
        "--quiet",
        "--locked",
        "--profile",
        Build::Checked.profile(),
        "-p",
        "sim",
        "--bin",
        "weave-sim",
    ];
    if args.iter().any(|arg| arg == PLANTED) {
        // Beside the others, so that no build is replaced by one with bugs.
        words.extend(["--features", "planted,simulated", "--target-dir", "target/planted", "--"]);
    } else {
        words.extend(["--features", "simulated", "--"]);
    }
    words.extend(args.iter().map(String::as_str));
    cargo::run_with(&words, &[LARGE_PAGES])
}

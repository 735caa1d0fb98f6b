//! Running cargo: the workspace's root, its target folder, builds, and tests whose results are counted.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// How the variables begin that `cargo run` sets for the program that it runs: those of the package, not of the user.
const ADDED_BY_CARGO_RUN: [&str; 6] =
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_", "LD_LIBRARY_PATH"];

/// Tests that passed and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Counts {
    /// Both together.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Root of the workspace.
pub(crate) fn root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}

/// Cargo's target folder, wherever the environment or the configuration put it.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let metadata = metadata()?;
    let folder = metadata["target_directory"].as_str().context("`cargo metadata` names no target folder")?;
    Ok(PathBuf::from(folder))
}

/// `cargo metadata` of the workspace's own packages.
pub(crate) fn metadata() -> Result<serde_json::Value> {
    let mut command = cargo();
    command.args(["metadata", "--format-version", "1", "--no-deps", "--locked", "--offline"]);
    let output = command.output().context("cannot run `cargo metadata`")?;
    if !output.status.success() {
        bail!("`cargo metadata` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("`cargo metadata` answered no JSON")
}

/// What programs are built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Build {
    /// To be installed and measured.
    Shipped,
    /// To be tested: optimised, and with all assertions. The simulator is built so too, so that the two share what they depend on.
    Checked,
}

impl Build {
    /// Cargo's profile.
    pub(crate) fn profile(self) -> &'static str {
        match self {
            Self::Shipped => "release",
            Self::Checked => "sim",
        }
    }
}

/// Builds what the lab runs, and answers the folder.
pub(crate) fn build_programs(build: Build) -> Result<PathBuf> {
    let profile = build.profile();
    run(&["build", "--profile", profile, "--locked", "-p", "router", "-p", "weavectl", "-p", "cni-plugin"])?;
    folder_of(build)
}

/// Where cargo puts programs.
pub(crate) fn folder_of(build: Build) -> Result<PathBuf> {
    Ok(target_dir()?.join(build.profile()))
}

/// Runs cargo with its output shown.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    run_with(args, &[])
}

/// The same with some more environment.
pub(crate) fn run_with(args: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let status = cargo()
        .args(args)
        .envs(environment.iter().copied())
        .status()
        .with_context(|| format!("cannot run `cargo {}`", args.join(" ")))?;
    if status.success() {
        return Ok(());
    }
    bail!("`cargo {}` failed ({status})", args.join(" "))
}

/// Runs `cargo test` with its output shown and counts the results; failed tests are no error here.
pub(crate) fn test(command: &mut Command) -> Result<Counts> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run `cargo test`")?;
    let mut counts = Counts::default();
    let stdout = child.stdout.take().context("`cargo test` without standard output")?;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read what `cargo test` says")?;
        let _closed = writeln!(std::io::stdout(), "{line}");
        counts.add(results_of(&line).unwrap_or_default());
    }
    let status = child.wait().context("cannot wait for `cargo test`")?;
    if !status.success() && counts.failed == 0 {
        bail!("`cargo test` failed without a failed test ({status})");
    }
    Ok(counts)
}

/// Cargo in the workspace's root, with the environment that it had before `cargo run` added to it. Otherwise build scripts that
/// look at such variables, ring's among them, run again each time, and half of the workspace is built again after them.
pub(crate) fn cargo() -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root());
    let added = |name: &str| ADDED_BY_CARGO_RUN.iter().any(|prefix| name.starts_with(prefix));
    for name in env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(|name| added(name)) {
        command.env_remove(name);
    }
    command
}

/// `test result: ok. 3 passed; 0 failed; …`
fn results_of(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |word: &str| {
        let before = rest.split(&format!(" {word}")).next()?;
        before.rsplit(' ').next()?.parse().ok()
    };
    Some(Counts { passed: number("passed")?, failed: number("failed")? })
}

#[cfg(test)]
mod tests {
    use super::{Counts, results_of};

    #[test]
    fn results_are_read_from_the_summary_line_only() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        assert_eq!(results_of(line), Some(Counts { passed: 12, failed: 3 }));
        assert_eq!(results_of("test codec::round_trip ... ok"), None);
    }
}

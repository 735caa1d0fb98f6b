//! `cargo xtask dist`: what is installed on hosts, in one folder.
//!
//! `weave-cni` is one static file: runtimes start it from folders of their own, on systems where nothing else of ours is, and
//! under whatever C library. `weaved` and `weavectl` look up names of hosts, for which glibc wants to be linked dynamically.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cargo::{self, Build};
use crate::ui::Ui;

/// Largest plugin: it is loaded anew for each container, and copied to each host.
const MAX_PLUGIN_BYTES: u64 = 3 * 1024 * 1024;

/// The only one that rustup installs by itself; the others would need a cross compiler.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Build the programs as they are installed
#[derive(clap::Args)]
pub(crate) struct Args {}

/// The command.
pub(crate) fn run(_args: &Args, ui: &Ui) -> Result<()> {
    let programs = cargo::build_programs(Build::Shipped)?;
    let folder = cargo::target_dir()?.join("dist");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    let plugin = static_plugin()?;
    for file in [programs.join("weaved"), programs.join("weavectl"), plugin] {
        let to = folder.join(file.file_name().unwrap_or_default());
        let bytes = fs::copy(&file, &to)
            .with_context(|| format!("cannot copy `{}` to `{}`", file.display(), to.display()))?;
        ui.good(format!("{} ({:.1} MiB)", to.display(), bytes as f64 / 1_048_576.0));
    }
    Ok(())
}

/// Builds the plugin and checks that it is what it must be.
pub(crate) fn static_plugin() -> Result<PathBuf> {
    let file = static_program("cni-plugin", "weave-cni")?;
    starts(&file)?;
    Ok(file)
}

/// Builds a program that needs nothing of the system it runs on, and checks that.
pub(crate) fn static_program(package: &str, program: &str) -> Result<PathBuf> {
    // With a target named, the flag stays away from build scripts and procedural macros.
    let mut command = cargo::cargo();
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    command.args(["build", "--profile", "plugin", "--locked", "-p", package, "--target", TARGET]);
    let status = command.status().context("cannot run `cargo build`")?;
    if !status.success() {
        bail!("building `{program}` failed ({status})");
    }
    let file = cargo::target_dir()?.join(TARGET).join("plugin").join(program);
    let bytes = fs::read(&file).with_context(|| format!("cannot read `{}`", file.display()))?;
    if bytes.len() as u64 > MAX_PLUGIN_BYTES {
        bail!("`{}` has {} bytes (want at most {MAX_PLUGIN_BYTES})", file.display(), bytes.len());
    }
    if wants_an_interpreter(&bytes).with_context(|| format!("`{}` is no ELF file", file.display()))? {
        bail!("`{}` is linked dynamically", file.display());
    }
    Ok(file)
}

/// Whether the program headers name a dynamic linker (ELF-64 specification, `PT_INTERP`).
fn wants_an_interpreter(elf: &[u8]) -> Option<bool> {
    const INTERPRETER: u32 = 3;
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?)));
    let word = |at: usize| Some(u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_le_bytes(elf.get(at..at + 8)?.try_into().ok()?));
    if elf.get(..5)? != b"\x7fELF\x02" {
        return None;
    }
    let (table, size, count) = (usize::try_from(long(32)?).ok()?, half(54)?, half(56)?);
    (0..count).try_fold(false, |found, index| Some(found || word(table + index * size)? == INTERPRETER))
}

fn starts(plugin: &Path) -> Result<()> {
    let output = std::process::Command::new(plugin).env("CNI_COMMAND", "VERSION").output();
    let output = output.with_context(|| format!("cannot start `{}`", plugin.display()))?;
    if output.status.success() && String::from_utf8_lossy(&output.stdout).contains("supportedVersions") {
        return Ok(());
    }
    bail!("`{}` does not tell its versions: {output:?}", plugin.display())
}

#[cfg(test)]
mod tests {
    use super::wants_an_interpreter;

    #[test]
    fn own_test_binary_is_dynamic_and_noise_is_none() {
        let own = std::fs::read(std::env::current_exe().expect("a path")).expect("readable");
        assert_eq!(wants_an_interpreter(&own), Some(true));
        assert_eq!(wants_an_interpreter(b"#!/bin/sh"), None);
        assert_eq!(wants_an_interpreter(&own[..40]), None);
    }
}

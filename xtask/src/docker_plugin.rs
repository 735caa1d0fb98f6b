//! `cargo xtask docker-plugin`: the folder from which `docker plugin create` makes the plugin for Swarm. No registry is asked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cargo;
use crate::dist;
use crate::ui::Ui;

/// Build the plugin for Swarm: `target/docker-plugin`
#[derive(clap::Args)]
pub(crate) struct Args {}

/// The command.
pub(crate) fn run(_args: &Args, ui: &Ui) -> Result<()> {
    let folder = build()?;
    ui.good(format!("docker plugin create weave-fabric:1 {}", folder.display()));
    Ok(())
}

/// Builds it, and answers the folder.
pub(crate) fn build() -> Result<PathBuf> {
    let program = dist::static_program("docker-plugin", "weave-docker")?;
    let folder = cargo::target_dir()?.join("docker-plugin");
    let bin = folder.join("rootfs/bin");
    // Docker mounts the host's files and its socket there, in an image that is otherwise empty.
    for path in ["rootfs/bin", "rootfs/run/weave", "rootfs/run/docker/plugins", "rootfs/etc"] {
        let path = folder.join(path);
        fs::create_dir_all(&path).with_context(|| format!("cannot make `{}`", path.display()))?;
    }
    let to = bin.join("weave-docker");
    fs::copy(&program, &to).with_context(|| format!("cannot copy `{}`", program.display()))?;
    fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).context("cannot set the mode")?;
    let config = cargo::root().join("docker-plugin/config.json");
    fs::copy(&config, folder.join("config.json"))
        .with_context(|| format!("cannot copy `{}`", config.display()))?;
    Ok(folder)
}

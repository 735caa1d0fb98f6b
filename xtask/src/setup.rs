//! `cargo xtask setup`: system packages, only those that are missing, without a question.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::bench;
use crate::cargo::target_dir;
use crate::tools::{self, Need, Tool};
use crate::ui::Ui;

/// A slow mirror takes minutes, not more.
const APT_LIMIT: Duration = Duration::from_secs(600);

/// Install the system packages that the other commands need
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also install, fetch and build the rivals of the benchmark
    #[arg(long)]
    bench: bool,
}

/// The command.
pub(crate) fn run(args: &Args, ui: &Ui) -> Result<()> {
    ensure(&[Need::Build, Need::Lab], ui)?;
    if args.bench {
        ensure(&[Need::Rivals], ui)?;
        bench::ensure_rivals(ui)?;
    }
    ui.good("all packages are there");
    Ok(())
}

/// Installs what is missing for these needs; does nothing, and needs no root, when all is there.
pub(crate) fn ensure(needs: &[Need], ui: &Ui) -> Result<()> {
    let missing = tools::missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    let by_hand = format!("sudo apt-get install --no-install-recommends {}", packages.join(" "));
    if tools::find_program("apt-get").is_none() {
        let names: Vec<&str> = missing.iter().map(Tool::name).collect();
        bail!("missing: `{}`, and there is no apt-get here; install them and try again", names.join("`, `"));
    }
    if lab::require_root().is_err() {
        bail!("missing packages: {}; type `{by_hand}`", packages.join(", "));
    }
    ui.say(format!("installing {}", packages.join(", ")));
    let folder = target_dir()?.join("xtask");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    let log = folder.join("apt.log");
    // The lists of a fresh image are empty or old; an update that fails may still leave enough to install from.
    let updated = apt(&["update"], &log);
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(&packages);
    apt(&install, &log).or_else(|error| updated.and(Err(error)))?;
    let still: Vec<&str> = tools::missing(needs).iter().map(Tool::name).collect();
    if !still.is_empty() {
        bail!("still missing after the installation: `{}`; see `{}`", still.join("`, `"), log.display());
    }
    Ok(())
}

/// Runs apt-get without a terminal; its output goes to the log.
fn apt(args: &[&str], log: &Path) -> Result<()> {
    let file = File::options().create(true).append(true).open(log);
    let file = file.with_context(|| format!("cannot open `{}`", log.display()))?;
    let mut command = Command::new("apt-get");
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C").stdin(Stdio::null());
    command.stdout(file.try_clone().context("cannot share the log")?).stderr(file);
    let mut child = command.spawn().context("cannot start `apt-get`")?;
    let what = format!("`apt-get {}` ended", args.join(" "));
    let ended = lab::until(APT_LIMIT, &what, || child.try_wait().transpose());
    let status = match ended {
        Ok((status, _)) => status.context("cannot wait for `apt-get`")?,
        Err(error) => {
            child.kill().and_then(|()| child.wait()).context("cannot end `apt-get`")?;
            return Err(error);
        }
    };
    if status.success() {
        return Ok(());
    }
    bail!("`apt-get {}` failed ({status}); see `{}`:\n{}", args.join(" "), log.display(), lab::tail(log, 5))
}

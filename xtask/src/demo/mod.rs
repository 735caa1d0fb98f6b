//! `cargo xtask demo`: a fabric of three hosts, and proof of what it claims.
//!
//! Hosts are network namespaces on a switch; containers are attached by running the CNI plugin as a runtime would.

mod acts;
mod http;
mod play;
mod story;

use anyhow::{Result, bail};
use lab::Lab;

use crate::cargo::{self, Build};
use crate::setup;
use crate::tools::Need;
use crate::ui::Ui;
use story::Story;

/// Hosts of the demonstration: the least of which one can fail while two others talk.
const HOSTS: usize = 3;

/// Show a fabric of three hosts at work
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave it running and print how to play with it and how to remove it
    #[arg(long, conflicts_with = "clean")]
    keep: bool,
    /// Remove what `--keep` left running
    #[arg(long)]
    clean: bool,
}

/// The command.
pub(crate) fn run(args: &Args, ui: &Ui) -> Result<()> {
    if args.clean {
        let removed = lab::remove_kept()?;
        match removed.is_empty() {
            true => ui.say("nothing to remove"),
            false => ui.good(format!("removed {}", removed.join(", "))),
        }
        return Ok(());
    }
    lab::require_root()?;
    ui.chapter("Building");
    setup::ensure(&[Need::Build, Need::Lab], ui)?;
    ui.command("cargo build --release -p router -p weavectl -p cni-plugin");
    cargo::build_programs(Build::Shipped)?;

    let mut story = Story::new(ui);
    ui.chapter(format!("{HOSTS} hosts, each a network namespace, on one switch"));
    let lab = Lab::new(HOSTS)?;
    // The lab goes away whatever happens in the acts, so that a failed claim leaves nothing behind either.
    let containers = acts::play(&lab, &mut story)?;
    story.verdict(lab.hosts());
    if story.failed() > 0 {
        bail!("{} of {} claims failed", story.failed(), story.claims());
    }
    if args.keep {
        play::how_to_play(ui, &lab, &containers);
        lab.keep()?;
    }
    Ok(())
}

//! `weavectl`: manages and explains the router of this host. It talks to `weaved` over its socket and knows nothing else of it.

mod args;
mod commands;
mod daemon;
mod failure;
mod render;
mod ui;

use std::process::ExitCode;

use clap::Parser;

use args::Args;
use ui::Ui;

fn main() -> ExitCode {
    let args = Args::parse();
    let mut ui = Ui::new(args.json);
    match commands::run(args, &mut ui) {
        Ok(code) => code,
        Err(failure) => {
            ui.failure(&failure);
            ExitCode::from(failure.exit)
        }
    }
}

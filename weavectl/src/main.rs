//! `weavectl`: manages and explains the router of this host. It talks to `weaved` over its socket and knows nothing else of it.

mod args;
mod commands;
mod daemon;
mod engine;
mod failure;
mod program;
mod render;
mod ui;

use std::process::ExitCode;

use clap::Parser;

use args::Args;
use ui::{Format, Ui};

fn main() -> ExitCode {
    // Not a command of the parser's, so that neither help nor completions know it.
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|first| first == daemon::DETACHED) {
        let failure = daemon::exec_detached(&words.collect::<Vec<_>>());
        Ui::new(Format::Text).failure(&failure);
        return ExitCode::from(failure.exit);
    }
    let args = Args::parse();
    let mut ui = Ui::new(if args.json { Format::Json } else { Format::Text });
    match commands::run(args, &mut ui) {
        Ok(code) => code,
        Err(failure) => {
            ui.failure(&failure);
            ExitCode::from(failure.exit)
        }
    }
}

//! `cargo xtask bench`: the data path beside others, in one run on one machine.
//!
//! Rounds are interleaved over the columns and ratios are taken within a round, so that a machine that is slower at noon
//! than in the morning slows all of them. New columns go into `columns`, new figures into `figures`.

mod columns;
mod figures;
mod report;
mod topology;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::Segments;

use crate::cargo;
use crate::setup;
use crate::tools::Need;
use crate::ui::{self, Ui};
use columns::Column;
use report::{Report, Sample};

/// Measure the data path beside others in one run
#[derive(clap::Args)]
pub(crate) struct Args {
    /// One short round; the figures are a first impression only
    #[arg(long)]
    quick: bool,
    /// Rounds; the median over them is reported
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Columns to measure, by comma; all unless given
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Column>,
    /// Whether packets longer than the MTU cross the wire whole
    #[arg(long, value_enum, default_value_t = WireKind::Whole)]
    wire: WireKind,
    /// Print JSON in place of the table
    #[arg(long)]
    json: bool,
}

/// The wire between the two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum WireKind {
    /// As between virtual machines
    Whole,
    /// Cut to the MTU before they are sent, as for a network card without offloads
    Cut,
}

/// The command.
pub(crate) fn run(args: &Args, ui: &Ui) -> Result<()> {
    lab::require_root()?;
    setup::ensure(&[Need::Build, Need::Lab], ui)?;
    let columns: Vec<Column> = if args.only.is_empty() { Column::ALL.to_vec() } else { args.only.clone() };
    if columns.contains(&Column::WireguardGo) || columns.contains(&Column::Boringtun) {
        // A rival that is absent is reported as that.
        setup::ensure(&[Need::Bench], ui).unwrap_or_else(|error| ui.say(format!("{error:#}")));
    }
    cargo::build_programs()?;
    let (runs, seconds) = if args.quick { (1, 2) } else { (args.runs, args.seconds) };
    let segments = match args.wire {
        WireKind::Whole => Segments::Whole,
        WireKind::Cut => Segments::Cut,
    };
    let mut report = Report::new(segments, runs, seconds, ui::cores());
    let programs = columns::prepare(&columns, ui, &mut report)?;
    for run in 1..=runs {
        for column in columns.iter().filter(|column| programs.has(**column)) {
            ui.say(format!("round {run} of {runs}: {}", column.name()));
            match measure(*column, &programs, segments, seconds) {
                Ok(sample) => report.sample(*column, sample),
                Err(error) => report.fail(*column, &error, ui),
            }
        }
    }
    let folder = cargo::target_dir()?.join("xtask");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    let file = folder.join("bench.json");
    let json = report.json();
    fs::write(&file, &json).with_context(|| format!("cannot write `{}`", file.display()))?;
    match args.json {
        true => ui.line(json),
        false => {
            report.print(ui);
            ui.say(format!("all figures: {}", file.display()));
        }
    }
    match report.has_figures(&columns) {
        true => Ok(()),
        false => bail!("nothing was measured"),
    }
}

/// One column in one round: hosts, tunnel and containers of its own.
fn measure(column: Column, programs: &columns::Programs, segments: Segments, seconds: u32) -> Result<Sample> {
    let topology = column.bring_up(programs, segments)?;
    lab::ping_until_answered(topology.one(), topology.address(), Duration::from_secs(20))
        .context("the containers do not reach each other")?;
    figures::measure(&topology, seconds)
}

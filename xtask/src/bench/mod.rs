//! `cargo xtask bench`: the data path beside others, in one run on one machine.
//!
//! Rounds are interleaved over the data paths and ratios are taken within a round, so that a machine that is slower at noon than in
//! the morning slows all of them. A new data path goes into `datapath`, a new figure into `figures` and `measure`, a new wire into
//! `wire`; what must be reached stands in `bars`.

mod bars;
mod chart;
mod daemon;
mod datapath;
mod figures;
mod json;
mod kernel;
mod machine;
mod measure;
mod nebula;
mod packages;
mod programs;
mod report;
mod table;
mod tinc;
mod topology;
mod vpncloud;
mod weave;
mod wire;
mod wireguard;

pub(crate) use programs::ensure_all as ensure_rivals;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cargo::{self, Build};
use crate::setup;
use crate::tools::Need;
use crate::ui::Ui;
use bars::Holds;
use datapath::Datapath;
use figures::{Figure, Group};
use machine::Machine;
use measure::Plan;
use programs::Programs;
use report::{Report, Sample};
use wire::{Wire, WireArg};

/// How long the first packet may take through a tunnel that was just made.
const REACH_LIMIT: Duration = Duration::from_secs(20);

/// When other processes use more of the machine than this, figures of two cores are off by more than they differ.
const OTHERS_PERCENT: f64 = 8.0;

/// Rounds and seconds of a full run: enough for a median that one disturbance does not move.
const FULL: (u32, u32) = (5, 5);

/// Of a quick one, which has three minutes.
const QUICK: (u32, u32) = (1, 3);

/// Measure the data path beside others in one run
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Three minutes for a first impression: one short round of a few data paths over passthrough and nic
    #[arg(long)]
    quick: bool,
    /// Rounds; the median over them is reported [default: 5, with --quick 1]
    #[arg(long)]
    runs: Option<u32>,
    /// Seconds of each TCP measurement [default: 5, with --quick 3]
    #[arg(long)]
    seconds: Option<u32>,
    /// Data paths to measure, by comma [default: all but weave-before]
    #[arg(long, value_delimiter = ',', value_enum, value_name = "NAME")]
    only: Vec<Datapath>,
    /// What to measure of them, by comma [default: all; on lossy wires only TCP]
    #[arg(long, value_delimiter = ',', value_enum, value_name = "GROUP")]
    figures: Vec<Group>,
    /// Wires to measure over, by comma [default: all]
    #[arg(long, value_delimiter = ',', value_enum)]
    wire: Vec<WireArg>,
    /// Folder of another build's programs, which becomes the data path weave-before
    #[arg(long, value_name = "FOLDER")]
    before: Option<PathBuf>,
    /// Folder for JSON and charts [default: benches/results for a full run, otherwise target/xtask/bench]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Print JSON in place of the tables, an entry a wire
    #[arg(long)]
    json: bool,
}

/// What is to be done, once the arguments are understood.
#[derive(Debug)]
struct Work {
    runs: u32,
    seconds: u32,
    wires: Vec<Wire>,
    datapaths: Vec<Datapath>,
    groups: Vec<Group>,
    out: PathBuf,
}

/// The command.
pub(crate) fn run(args: &Args, ui: &Ui) -> Result<()> {
    lab::require_root()?;
    let work = Work::of(args)?;
    setup::ensure(&[Need::Build, Need::Lab], ui)?;
    if work.datapaths.iter().any(|datapath| datapath.kind() == datapath::Kind::Rival) {
        // A rival that is absent is reported as that.
        setup::ensure(&[Need::Rivals], ui).unwrap_or_else(|error| ui.say(format!("{error:#}")));
    }
    cargo::build_programs(Build::Shipped)?;
    let programs = Programs::prepare(&work.datapaths, args.before.as_deref(), ui);
    let (start, machine) = (Instant::now(), Machine::this());
    let reports = work.run(&programs, &machine, ui, |report| match args.json {
        true => {}
        false => print(report, &machine, ui),
    })?;
    if args.json {
        let texts: Vec<String> =
            reports.iter().map(|report| json::text(report, &machine, &programs.versions())).collect();
        ui.line(format!("[{}]", texts.join(",\n")));
    } else {
        print_bars(&reports, ui);
        let seconds = start.elapsed().as_secs();
        ui.say(format!("measured in {seconds} s; all figures and charts: {}", work.out.display()));
    }
    match reports.iter().all(Report::has_figures) {
        true => Ok(()),
        false => bail!("something could not be measured, see above"),
    }
}

/// The benchmark itself at work, in a quarter of a minute: ours and VXLAN over a wire that cuts and loses, a figure of each kind. What
/// is measured is not looked at: tests may run beside it.
pub(crate) fn check(ui: &Ui) -> Result<()> {
    let work = Work {
        runs: 1,
        seconds: 1,
        wires: vec![Wire::LossyLittle],
        datapaths: vec![Datapath::Vxlan, Datapath::WeaveBefore],
        groups: vec![Group::Latency, Group::Tcp1, Group::Short, Group::Udp],
        out: cargo::target_dir()?.join("xtask/bench-check"),
    };
    // Those that the tests have built already.
    let ours = cargo::folder_of(Build::Checked)?;
    let programs = Programs::prepare(&work.datapaths, Some(&ours), ui);
    let machine = Machine::this();
    let reports = work.run(&programs, &machine, ui, |report| print(report, &machine, ui))?;
    let wanted = [
        Figure::Tcp1,
        Figure::LoadedMedian,
        Figure::Short,
        Figure::Udp64,
        Figure::Udp1400,
        Figure::ReplyMedian,
    ];
    for datapath in &work.datapaths {
        for figure in wanted {
            if reports[0].median(*datapath, figure).is_none() {
                bail!("no {} of {}", figure.name(), datapath.name());
            }
        }
    }
    Ok(())
}

impl Work {
    fn of(args: &Args) -> Result<Self> {
        let or =
            |given: &[Datapath], usual: Vec<Datapath>| if given.is_empty() { usual } else { given.to_vec() };
        let (runs, seconds) = if args.quick { QUICK } else { FULL };
        let full = !args.quick && args.only.is_empty() && args.figures.is_empty() && args.wire.is_empty();
        let mut datapaths =
            or(&args.only, if args.quick { Datapath::QUICK.to_vec() } else { Datapath::usual() });
        if args.before.is_some() {
            datapaths.push(Datapath::WeaveBefore);
        }
        // In the order of the table, each once.
        let datapaths: BTreeSet<Datapath> = datapaths.into_iter().collect();
        let wires: BTreeSet<Wire> = match (args.wire.as_slice(), args.quick) {
            ([], true) => BTreeSet::from([Wire::Passthrough, Wire::Nic]),
            ([], false) => Wire::ALL.into_iter().collect(),
            (given, _) => given.iter().flat_map(|wire| wire.wires()).copied().collect(),
        };
        let groups = match (args.figures.as_slice(), args.quick) {
            ([], true) => Group::QUICK.to_vec(),
            (given, _) => given.to_vec(),
        };
        let out = match (&args.out, full) {
            (Some(folder), _) => folder.clone(),
            (None, true) => cargo::root().join("benches/results"),
            (None, false) => cargo::target_dir()?.join("xtask/bench"),
        };
        Ok(Self {
            runs: args.runs.unwrap_or(runs).max(1),
            seconds: args.seconds.unwrap_or(seconds).max(1),
            wires: wires.into_iter().collect(),
            datapaths: datapaths.into_iter().collect(),
            groups,
            out,
        })
    }

    /// Everything; the files of a wire are written, and it is shown, as soon as it is done.
    fn run(
        &self,
        programs: &Programs,
        machine: &Machine,
        ui: &Ui,
        show: impl Fn(&Report),
    ) -> Result<Vec<Report>> {
        fs::create_dir_all(&self.out).with_context(|| format!("cannot make `{}`", self.out.display()))?;
        let mut reports = Vec::new();
        for wire in &self.wires {
            let report = self.measure(*wire, programs, ui);
            write(&self.out, *wire, "json", &json::text(&report, machine, &programs.versions()))?;
            write(&self.out, *wire, "svg", &chart::svg(&report, machine))?;
            show(&report);
            reports.push(report);
        }
        Ok(reports)
    }

    /// What is measured over a wire: what was asked for, otherwise what means something there.
    fn groups(&self, wire: Wire) -> Vec<Group> {
        match (self.groups.as_slice(), wire.loss()) {
            ([], None) => Group::ALL.to_vec(),
            ([], Some(_)) => Group::LOSSY.to_vec(),
            (given, _) => given.to_vec(),
        }
    }

    /// All rounds over one wire. What fails is in the report.
    fn measure(&self, wire: Wire, programs: &Programs, ui: &Ui) -> Report {
        let groups = self.groups(wire);
        let plan = Plan { seconds: self.seconds, groups: &groups };
        let mut report = Report::new(wire, self.runs, self.seconds, programs.absent().clone());
        for run in 1..=self.runs {
            for datapath in self.datapaths.iter().filter(|d| !programs.absent().contains_key(d)) {
                ui.note(format!("{}, round {run} of {}: {}", wire.name(), self.runs, datapath.name()));
                match one(*datapath, programs, wire, plan) {
                    Ok(sample) => {
                        note_others(&sample, ui);
                        report.sample(*datapath, sample);
                    }
                    Err(error) => {
                        ui.note(format!("{} failed: {error:#}", datapath.name()));
                        report.fail(*datapath, &error);
                    }
                }
            }
        }
        report
    }
}

/// One data path in one round: hosts, tunnel and containers of its own.
fn one(datapath: Datapath, programs: &Programs, wire: Wire, plan: Plan<'_>) -> Result<Sample> {
    let mut topology = datapath.bring_up(programs, wire)?;
    let reached = lab::ping_until_answered(topology.one(), topology.address(), REACH_LIMIT);
    topology.check()?;
    reached.context("the containers do not reach each other")?;
    measure::measure(&mut topology, plan)
}

/// Says so while it can still be helped.
fn note_others(sample: &Sample, ui: &Ui) {
    let others = sample.iter().find(|(figure, _)| *figure == Figure::Others).map(|(_, percent)| *percent);
    if let Some(percent) = others.filter(|percent| *percent > OTHERS_PERCENT) {
        ui.note(format!(
            "other processes used {percent:.0} % of the machine meanwhile: trust this round little"
        ));
    }
}

fn print(report: &Report, machine: &Machine, ui: &Ui) {
    let Report { wire, runs, seconds, .. } = report;
    ui.chapter(format!("wire {}: {}", wire.name(), wire.text()));
    ui.say(format!("medians of {runs} round(s) of {seconds} s, in parentheses the ratio to vxlan, ! where datagrams were lost"));
    ui.say(machine.text());
    ui.line("");
    table::lines(report).iter().for_each(|line| ui.line(line));
}

fn print_bars(reports: &[Report], ui: &Ui) {
    let verdicts = bars::verdicts(reports);
    if verdicts.is_empty() {
        return;
    }
    ui.chapter("what must be reached");
    for verdict in verdicts {
        match verdict.holds {
            Holds::Yes => ui.good(verdict.text),
            Holds::No => ui.miss(verdict.text),
        }
    }
}

fn write(folder: &Path, wire: Wire, ending: &str, text: &str) -> Result<()> {
    let file = folder.join(format!("{}.{ending}", wire.name()));
    fs::write(&file, text).with_context(|| format!("cannot write `{}`", file.display()))
}

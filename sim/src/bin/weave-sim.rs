//! `weave-sim`: runs simulations from the command line.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use sim::fault::Kind;
use sim::figures::Figures;
use sim::fleet::{self, Life};
use sim::plan::Plan;
use sim::plot;
use sim::run::{Failed, Outcome, catch_panics, run};
use sim::scenario::{self, Scenario, Wish};
use sim::shrink::shrink;

/// Simulate whole fabrics on a virtual clock
///
/// Routers are the code that ships; network, disks, clocks and operators are simulated, and everything that can go wrong
/// goes wrong as the seed says. After every step a model checks that no address is in two places, that none has two
/// owners, that nothing acknowledged is lost, and more; at the end all views must become the same. The same seed gives
/// the same run.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  weave-sim --seeds 200                 two hundred seeds of all faults\n  \
    weave-sim --seed 17                   one of them again, with what it does\n  \
    weave-sim --scenario churn --peers 30 --minutes 5\n  weave-sim --scenario fleet --peers 1000   a large fleet, measured\n  \
    weave-sim --list                      scenarios and kinds of fault"
)]
struct Args {
    /// Hosts at the start (drawn from the seed unless given)
    #[arg(long)]
    peers: Option<u16>,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, one after the other
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// What happens; `--list` names the scenarios
    #[arg(long, default_value = "mixed")]
    scenario: String,
    /// Virtual minutes in which things happen (drawn from the seed unless given)
    #[arg(long)]
    minutes: Option<f64>,
    /// Threads; each runs seeds of its own
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Go on after a seed that fails
    #[arg(long)]
    keep_going: bool,
    /// Seconds for making a failing seed smaller
    #[arg(long, default_value_t = 60)]
    shrink: u64,
    /// Run the plan in this file instead of drawing one
    #[arg(long, value_name = "FILE")]
    plan: Option<std::path::PathBuf>,
    /// Write the plan of the seed, or the smaller one if it fails, to this file
    #[arg(long, value_name = "FILE")]
    save: Option<std::path::PathBuf>,
    /// Put in one bug after the other and show after how many seeds each is found
    #[cfg(feature = "planted")]
    #[arg(long)]
    planted: bool,
    /// Only the bug of this name
    #[cfg(feature = "planted")]
    #[arg(long, value_name = "NAME")]
    bug: Option<String>,
    /// Write the figures of `--scenario fleet`, or of one seed of `quiet`, to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<std::path::PathBuf>,
    /// Measure quiet fleets of 10 routers up to `--peers`, and draw how soon records are everywhere and what a router sends
    ///
    /// The figures of each size are kept in the folder as JSON and not measured again as long as they are there.
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, default_missing_value = "target/sim-plot")]
    plot: Option<std::path::PathBuf>,
    /// Print scenarios and kinds of fault
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        list();
        return ExitCode::SUCCESS;
    }
    if let Some(folder) = &args.plot {
        return plot(&args, folder);
    }
    let life = [Life::Quiet, Life::Fleet].into_iter().find(|life| life.name() == args.scenario);
    if let Some(life) = life.filter(|_| args.seeds == 1 && args.plan.is_none() && args.save.is_none()) {
        return fleet(&args, life);
    }
    let Some(scenario) = scenario::named(&args.scenario) else {
        say(&format!("error: no scenario `{}`\nhint: weave-sim --list names them", args.scenario));
        return ExitCode::from(2);
    };
    catch_panics();
    #[cfg(feature = "planted")]
    if args.planted {
        return planted(&args);
    }
    if let Some(file) = &args.plan {
        return one(&args, scenario, file);
    }
    let failed = many(&args, scenario);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Seeds after which a bug counts as not found.
#[cfg(feature = "planted")]
const PATIENCE: u64 = 1000;

/// Puts in each bug and counts the seeds until it is found.
#[cfg(feature = "planted")]
fn planted(args: &Args) -> ExitCode {
    use gossip::planted::{Bug, plant};

    let (Some(scenario), Some(lies), Some(reclaim)) =
        (scenario::named(&args.scenario), scenario::named("lies"), scenario::named("reclaim"))
    else {
        return ExitCode::from(2);
    };
    let mut missed = 0;
    let wanted = |bug: &&Bug| args.bug.as_ref().is_none_or(|name| name == bug.name());
    for &bug in Bug::ALL.iter().filter(wanted) {
        plant(Some(bug));
        let start = std::time::Instant::now();
        let mut found = None;
        for seed in args.seed..args.seed + PATIENCE {
            // Some bugs show only where nothing else goes wrong, or where hosts are dead for long.
            let scenario = match seed % 4 {
                0 => lies,
                2 => reclaim,
                _ => scenario,
            };
            let plan = scenario.plan(seed, &wish(args));
            let outcome = run(&plan);
            // What fails without the bug as well says nothing of it.
            let fails_anyway = || {
                plant(None);
                let fails = run(&plan).result.is_err();
                plant(Some(bug));
                fails
            };
            if let Err(failed) = outcome.result
                && !fails_anyway()
            {
                found = Some((seed + 1 - args.seed, failed.failure));
                break;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        match found {
            Some((seeds, failure)) => say(&format!(
                "{:<20} found after {seeds:>4} seeds, {seconds:>6.1} s: {}: {:.90}",
                bug.name(),
                failure.check.name(),
                failure.text
            )),
            None => {
                missed += 1;
                say(&format!("{:<20} NOT FOUND in {PATIENCE} seeds: {}", bug.name(), bug.about()));
            }
        }
        plant(None);
    }
    say(&format!("{} bugs put in, {missed} not found", Bug::ALL.iter().filter(wanted).count()));
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Measures one fleet.
fn fleet(args: &Args, life: Life) -> ExitCode {
    /// Routers, unless the user says otherwise.
    const PEERS: u16 = 100;
    let figures = match measure(args, life, args.peers.unwrap_or(PEERS)) {
        Ok(figures) => figures,
        Err(failed) => return failed,
    };
    say(&figures.to_string());
    let Some(file) = &args.json else { return ExitCode::SUCCESS };
    keep(&figures, file).map_or_else(refuse, |()| ExitCode::SUCCESS)
}

fn measure(args: &Args, life: Life, peers: u16) -> Result<Figures, ExitCode> {
    let quiet = args.minutes.map(|minutes| Duration::from_secs_f64(minutes.max(0.0) * 60.0));
    let wish = fleet::Wish { life, peers, seed: args.seed, quiet };
    fleet::measure(&wish, &mut |text| eprintln!("{text}")).map_err(|failure| {
        say(&format!("FAILED seed {}: {}: {}", args.seed, failure.check.name(), failure.text));
        ExitCode::FAILURE
    })
}

fn keep(figures: &Figures, file: &Path) -> Result<()> {
    let text = serde_json::to_vec_pretty(figures)?;
    std::fs::write(file, text).with_context(|| format!("cannot write `{}`", file.display()))
}

fn refuse(error: anyhow::Error) -> ExitCode {
    say(&format!("error: {error:#}"));
    ExitCode::FAILURE
}

/// Measures fleets of several sizes, as far as that was not done, and draws them.
fn plot(args: &Args, folder: &Path) -> ExitCode {
    /// The largest fleet, unless the user says otherwise: some minutes.
    const PEERS: u16 = 200;
    let mut fleets = Vec::new();
    for peers in plot::sizes(args.peers.unwrap_or(PEERS)) {
        let file = folder.join(format!("quiet-{peers}-seed-{}.json", args.seed));
        let kept = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let figures = match kept {
            Some(figures) => figures,
            None => match measure(args, Life::Quiet, peers) {
                Ok(figures) => figures,
                Err(failed) => return failed,
            },
        };
        say(&figures.to_string());
        let made = std::fs::create_dir_all(folder).map_err(anyhow::Error::from);
        if let Err(error) = made.and_then(|()| keep(&figures, &file)) {
            return refuse(error);
        }
        fleets.push(figures);
    }
    let charts = match plot::draw(&fleets) {
        Ok(charts) => charts,
        Err(error) => return refuse(error),
    };
    for (name, text) in charts {
        let file = folder.join(name);
        if let Err(error) = std::fs::write(&file, text) {
            return refuse(anyhow::Error::from(error).context(format!("cannot write `{}`", file.display())));
        }
        say(&file.display().to_string());
    }
    ExitCode::SUCCESS
}

/// Runs a plan that was kept.
fn one(args: &Args, scenario: &Scenario, file: &std::path::Path) -> ExitCode {
    let read = std::fs::read_to_string(file).map_err(anyhow::Error::from);
    let plan = match read.and_then(|text| Plan::from_text(&text)) {
        Ok(plan) => plan,
        Err(error) => {
            say(&format!("error: cannot read the plan `{}`: {error:#}", file.display()));
            return ExitCode::from(2);
        }
    };
    let outcome = run(&plan);
    let good = outcome.result.is_ok();
    tell(args, scenario, &plan, outcome);
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn save(args: &Args, plan: &Plan) {
    if let Some(file) = &args.save
        && let Err(error) = std::fs::write(file, plan.to_text())
    {
        say(&format!("error: cannot write `{}`: {error}", file.display()));
    }
}

fn wish(args: &Args) -> Wish {
    let length = args.minutes.map(|minutes| Duration::from_secs_f64(minutes.max(0.0) * 60.0));
    Wish { peers: args.peers, length }
}

/// Runs all seeds; answers how many failed.
fn many(args: &Args, scenario: &Scenario) -> u64 {
    let start = std::time::Instant::now();
    let next = std::sync::atomic::AtomicU64::new(args.seed);
    let end = args.seed.saturating_add(args.seeds);
    let sum = std::sync::Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let stop = sum.lock().is_ok_and(|sum| sum.failed > 0) && !args.keep_going;
                    if seed >= end || stop {
                        return;
                    }
                    let plan = scenario.plan(seed, &wish(args));
                    let outcome = run(&plan);
                    if let Ok(mut sum) = sum.lock() {
                        sum.add(&outcome);
                    }
                    tell(args, scenario, &plan, outcome);
                }
            });
        }
    });
    let Ok(sum) = sum.into_inner() else { return 1 };
    let real = start.elapsed().as_secs_f64();
    say(&format!(
        "{} seeds in {real:.1} s ({:.1} a second), {} failed; {:.0} times as fast as real time; {} steps, {} faults, {} attached, {} refused; \
         settled after {:.0} s at most; most sent in 10 s: {} bytes, {} datagrams; quiet {} B/s",
        sum.seeds,
        sum.seeds as f64 / real,
        sum.failed,
        sum.virtual_time.as_secs_f64() / real,
        sum.steps,
        sum.faults,
        sum.attached,
        sum.refused,
        sum.longest.as_secs_f64(),
        sum.busiest.0,
        sum.busiest.1,
        sum.quiet
    ));
    sum.failed
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    failed: u64,
    virtual_time: Duration,
    steps: u64,
    faults: u64,
    attached: u64,
    refused: u64,
    longest: Duration,
    busiest: (u64, u64),
    quiet: u64,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.failed += u64::from(outcome.result.is_err());
        self.virtual_time += outcome.virtual_time;
        self.steps += outcome.counts.steps;
        self.faults += outcome.counts.faults;
        self.attached += outcome.answers.0;
        self.refused += outcome.answers.1;
        if let Ok(settled) = &outcome.result {
            self.longest = self.longest.max(settled.took);
            self.busiest.0 = self.busiest.0.max(settled.busiest.0);
            self.busiest.1 = self.busiest.1.max(settled.busiest.1);
            self.quiet = self.quiet.max(settled.quiet_bytes);
        }
    }
}

fn tell(args: &Args, scenario: &Scenario, plan: &Plan, outcome: Outcome) {
    match &outcome.result {
        Ok(settled) if args.seeds == 1 => {
            say(&plan.describe());
            save(args, plan);
            say(&format!(
                "seed {}: {} steps, {:.0} s in {:.2} s, trace {:016x}, settled after {:.0} s, quiet {} B/s",
                plan.seed,
                outcome.counts.steps,
                outcome.virtual_time.as_secs_f64(),
                outcome.real_time.as_secs_f64(),
                outcome.trace,
                settled.took.as_secs_f64(),
                settled.quiet_bytes
            ));
        }
        Ok(_) => {}
        Err(failed) => {
            say(&headline(plan, failed));
            if args.keep_going && args.seeds > 1 {
                return;
            }
            let (small, outcome) = shrink(plan, outcome, Duration::from_secs(args.shrink));
            say("made smaller:");
            say(&small.describe());
            save(args, &small);
            if let Err(failed) = &outcome.result {
                say(&failed.history);
                say(&headline(&small, failed));
            }
            say(&format!("again: weave-sim --scenario {} --seed {}", scenario.name, plan.seed));
        }
    }
}

fn headline(plan: &Plan, failed: &Failed) -> String {
    format!(
        "FAILED seed {} at {:.3} s, step {}: {}: {}",
        plan.seed,
        failed.at.as_secs_f64(),
        failed.step,
        failed.failure.check.name(),
        failed.failure.text
    )
}

fn list() {
    say("scenarios:");
    for scenario in scenario::ALL {
        say(&format!("  {:<22} {}", scenario.name, scenario.about));
    }
    say(&format!(
        "  {:<22} {}",
        Life::Fleet.name(),
        "A large fleet joins, churns, falls apart and heals, and is measured."
    ));
    say(&format!("\n{} kinds of fault:", Kind::ALL.len()));
    for kind in Kind::ALL {
        say(&format!("  {:<22} {}", kind.name(), kind.about()));
    }
}

fn say(text: &str) {
    use std::io::Write;
    // A closed pipe ends the output, not the work.
    let _ = writeln!(std::io::stdout(), "{text}");
}

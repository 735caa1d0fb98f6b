//! Measures an idle router with sessions to many others. Needs root and the optimised programs.
//!
//! `cargo build --release -p router -p weavectl -p cni-plugin`, then
//! `cargo run -p netns-tests --example idle [SESSIONS [SECONDS [SECONDS TO STAY]]]`
//!
//! Staying leaves the fabric as it is after the measurement, so that a profiler can look at the process whose id is printed.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::IdleFabric;

/// Sessions that the goal is set for.
const SESSIONS: u64 = 100;

/// Long enough that what happens every few seconds evens out, and half of the time between two handshakes of a session.
const SECONDS: u64 = 60;

fn main() -> Result<()> {
    let [sessions, seconds, stay] = lab::numbers([SESSIONS, SECONDS, 0])?;
    let mut out = io::stdout();
    let start = Instant::now();
    let fabric = IdleFabric::new(usize::try_from(sessions)?)?;
    let pid = fabric.router().pid().context("the router does not run")?;
    writeln!(out, "{sessions} sessions after {:.0?}, router is process {pid}", start.elapsed())?;
    let report = fabric.measure(Duration::from_secs(seconds))?;
    writeln!(
        out,
        "{:.3} % of a core over {:.0} s ({:.2} s by ticks), {:.1} MiB resident",
        report.share() * 100.0,
        report.wall.as_secs_f64(),
        report.ticks.as_secs_f64(),
        report.resident as f64 / f64::from(1 << 20),
    )?;
    for thread in &report.threads {
        writeln!(
            out,
            "  {:<15} {:.3} %, {:.1} wake-ups a second",
            thread.name,
            100.0 * thread.run.as_secs_f64() / report.wall.as_secs_f64(),
            thread.sleeps as f64 / report.wall.as_secs_f64(),
        )?;
    }
    thread::sleep(Duration::from_secs(stay));
    Ok(())
}

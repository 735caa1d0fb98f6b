//! One real router among a thousand: what it costs when nothing happens. Needs root and the optimised programs.
//!
//! `cargo build --release -p router -p weavectl -p cni-plugin`, then
//! `cargo run --profile sim -p sim --features simulated --example crowd [PEERS [SECONDS [SECONDS TO STAY]]] [wait]`
//!
//! The router runs in a namespace and knows nothing of this. The others are the control halves of routers, as they ship and with their
//! real cryptography, in this process: among each other they talk through memory, with the router over UDP, each from an address of its own.
//! With `wait` as the last word the others stop when they have formed their fabric, and go on with the next line of standard input: to form it
//! while the machine is busy, and to measure while it is not. Staying leaves the fabric as it is after the measurement, so that one can look at it with `weavectl` or a profiler.

mod answers;
mod crowd;

use std::env;
use std::fs;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use crowd::{Crowd, Shared};
use lab::{Host, Lab, Threads, Usage, until};

/// Routers besides the one that is looked at.
const PEERS: usize = 999;

/// Long enough that what happens every few seconds evens out, and half of the time between two handshakes of a session.
const SECONDS: u64 = 60;

/// After the router has joined. Whatever was caused by that is over by then.
const REST: Duration = Duration::from_secs(15);

/// A thousand routers that get to know each other on one core need some minutes.
const FORM_LIMIT: Duration = Duration::from_secs(3600);

/// The router has heard of everybody by then.
const JOIN_LIMIT: Duration = Duration::from_secs(60);

/// Where the router serves its metrics.
const METRICS: &str = "127.0.0.1:9100";

fn main() -> Result<()> {
    let mut words: Vec<String> = env::args().skip(1).collect();
    let patience = if words.pop_if(|word| word == "wait").is_some() { Pace::Asked } else { Pace::AtOnce };
    let numbers: Vec<u64> = words
        .iter()
        .map(|word| word.parse().with_context(|| format!("not a number: `{word}`")))
        .collect::<Result<_>>()?;
    let number = |at: usize, default| numbers.get(at).copied().unwrap_or(default);
    let peers = usize::try_from(number(0, PEERS as u64))?;
    let (seconds, stay) = (number(1, SECONDS), number(2, 0));
    let lab = Lab::new(3)?;
    let (router, other) = (lab.host(1), lab.host(3));
    other.start_weaved(&["--log", "info"])?;
    other.up(&[])?;
    crowd::prepare(router, lab.host(2))?;
    let shared = Arc::new(Shared::default());
    let mut crowd = Crowd::new(lab.host(2).ns(), peers, Arc::clone(&shared))?;
    let token = crowd.token();
    // It ends when the shared state says so, which it also does when this function fails.
    let _stop = shared.stop_at_the_end();
    let runner = thread::spawn(move || crowd.run());
    let result = form(&shared, patience)
        .and_then(|()| look(router, &token, peers, seconds, Memory::of(other)?, &shared));
    let mut out = io::stdout();
    if let Some(pid) = router.pid() {
        writeln!(out, "router is process {pid}, socket `{}`", router.socket().display())?;
    }
    thread::sleep(Duration::from_secs(stay));
    shared.stop();
    match runner.join() {
        Ok(ran) => result.and(ran),
        Err(_) => bail!("the crowd panicked"),
    }
}

/// When the crowd goes on in real time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// As soon as its fabric is formed.
    AtOnce,
    /// With the next line of standard input after that.
    Asked,
}

/// Waits until all know all, and for the time to go on.
fn form(shared: &Shared, pace: Pace) -> Result<()> {
    let mut out = io::stdout();
    let start = Instant::now();
    let mut told = Instant::now();
    until(FORM_LIMIT, "the crowd has settled", || {
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            let _closed = writeln!(io::stdout(), "{:>6.0?}: {}", start.elapsed(), shared.progress());
        }
        thread::sleep(Duration::from_millis(200));
        shared.is_settled().then_some(())
    })?;
    writeln!(out, "the crowd has settled after {:.0?}: {}", start.elapsed(), shared.progress())?;
    if pace == Pace::Asked {
        io::stdin().lines().next().transpose().context("cannot read standard input")?;
    }
    shared.go_on();
    Ok(())
}

/// Lets the router join and rest, measures, and asks what a user would ask.
fn look(
    router: &Host,
    token: &str,
    peers: usize,
    seconds: u64,
    alone: Memory,
    shared: &Shared,
) -> Result<()> {
    let mut out = io::stdout();
    router.start_weaved(&["--log", "info", "--metrics", METRICS])?;
    router.join(token)?;
    let (_, time) = until(JOIN_LIMIT, "the router knows all", || {
        (alive(router) == Some(peers as u64 + 1)).then_some(())
    })?;
    writeln!(out, "the router knows all {time:.1?} after it joined")?;
    thread::sleep(REST);
    let before = Sample::of(router)?;
    thread::sleep(Duration::from_secs(seconds));
    let after = Sample::of(router)?;
    report(&before, &after, alone, peers, shared)?;
    answers::ask(router, METRICS)
}

fn report(before: &Sample, after: &Sample, alone: Memory, peers: usize, shared: &Shared) -> Result<()> {
    let mut out = io::stdout();
    let (wall, threads) = after.threads.since(&before.threads);
    let seconds = wall.as_secs_f64();
    let run: Duration = threads.iter().map(|thread| thread.run).sum();
    writeln!(out, "{:.3} % of a core over {seconds:.0} s", 100.0 * run.as_secs_f64() / seconds)?;
    for thread in threads.iter().take(4) {
        let share = 100.0 * thread.run.as_secs_f64() / seconds;
        let wakes = thread.sleeps as f64 / seconds;
        writeln!(out, "  {:<15} {share:.3} %, {wakes:.1} wake-ups a second", thread.name)?;
    }
    let rate = |after: u64, before: u64| (after - before) as f64 / seconds;
    writeln!(
        out,
        "on the wire, headers included: {:.0} B/s in {:.1} packets in, {:.0} B/s in {:.1} packets out",
        rate(after.wire.received, before.wire.received),
        rate(after.wire.packets_in, before.wire.packets_in),
        rate(after.wire.sent, before.wire.sent),
        rate(after.wire.packets_out, before.wire.packets_out),
    )?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let each = |now: u64, then: u64| now.saturating_sub(then) as f64 / peers as f64;
    writeln!(
        out,
        "{:.1} MiB resident ({:.1} alone), {:.1} MiB of it anonymous ({:.1} alone): {:.0} B for each known peer",
        mib(after.memory.resident),
        mib(alone.resident),
        mib(after.memory.anonymous),
        mib(alone.anonymous),
        each(after.memory.anonymous, alone.anonymous),
    )?;
    writeln!(out, "the crowd: {}", shared.progress())?;
    Ok(())
}

fn alive(router: &Host) -> Option<u64> {
    router.json(&["status"]).ok()?["peers"]["alive"].as_u64()
}

/// What is counted of the router at one moment.
struct Sample {
    threads: Threads,
    wire: Wire,
    memory: Memory,
}

/// Counters of the router's device on the underlay.
struct Wire {
    received: u64,
    packets_in: u64,
    sent: u64,
    packets_out: u64,
}

/// Memory of a process.
#[derive(Clone, Copy)]
struct Memory {
    resident: u64,
    /// Heap and stacks, without what it maps of files.
    anonymous: u64,
}

impl Sample {
    fn of(router: &Host) -> Result<Self> {
        let pid = router.pid().context("the router does not run")?;
        let listed: serde_json::Value =
            serde_json::from_str(&router.ns().ip("-j -s link show eth0")?.stdout)?;
        let count = |way: &str, what: &str| {
            listed[0]["stats64"][way][what]
                .as_u64()
                .with_context(|| format!("no {what} of {way} in {listed}"))
        };
        Ok(Self {
            threads: Threads::of(pid)?,
            memory: Memory::of(router)?,
            wire: Wire {
                received: count("rx", "bytes")?,
                packets_in: count("rx", "packets")?,
                sent: count("tx", "bytes")?,
                packets_out: count("tx", "packets")?,
            },
        })
    }
}

impl Memory {
    fn of(router: &Host) -> Result<Self> {
        let pid = router.pid().context("the router does not run")?;
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{path}`"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:"));
        let kibibytes = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        let anonymous = kibibytes.with_context(|| format!("`{path}` is not understood"))? << 10;
        Ok(Self { resident: Usage::of(pid)?.resident, anonymous })
    }
}

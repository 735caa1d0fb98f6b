//! What a known peer costs a router in memory, with a session and without one: counts what is given back when a router is dropped.
//!
//! `cargo run --profile sim -p sim --features simulated --example footprint [PEERS ..]`
//!
//! Fabrics of two or more sizes are formed with the cryptography that ships, nothing shared among routers. The control half is counted, without
//! keys and windows of data lanes, which the data path has.

use std::alloc::{GlobalAlloc, Layout, System};
use std::env;
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router::core::session::ConnectionState;
use sim::network::Weather;
use sim::plan::{Plan, Rules};
use sim::world::{Cryptography, World};

/// Sizes, unless others are wanted.
const PEERS: [u16; 3] = [50, 100, 150];
/// Between two that join.
const STAGGER: Duration = Duration::from_millis(200);
/// After the last has joined: sessions of questions and answers are still there.
const SOON: Duration = Duration::from_secs(30);
/// They are closed by then, and those with neighbours are left.
const LATE: Duration = Duration::from_secs(180);

/// Bytes that are in use, by the sizes that were asked for.
static IN_USE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[expect(unsafe_code, reason = "the allocator's interface is unsafe; every call is passed on as it came")]
// SAFETY: all of it is the system's allocator, beside which sizes are added up.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the rules of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `block` came from `alloc` above with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One router: its sessions, and the bytes that it gave back.
type Sample = (f64, f64);

fn main() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let wanted: Vec<u16> = words
        .iter()
        .map(|word| word.parse().with_context(|| format!("not a number of peers: `{word}`")))
        .collect::<Result<_>>()?;
    let sizes = if wanted.is_empty() { PEERS.to_vec() } else { wanted };
    let mut out = io::stdout();
    let mut lines = Vec::new();
    for peers in sizes {
        for (when, wait) in [("soon", SOON), ("late", LATE)] {
            let samples = measure(peers, wait)?;
            let (base, each) = fit(&samples);
            let sessions = samples.iter().map(|sample| sample.0).sum::<f64>() / samples.len() as f64;
            let bytes = samples.iter().map(|sample| sample.1).sum::<f64>() / samples.len() as f64;
            writeln!(
                out,
                "{peers} routers, {when}: {bytes:.0} B each with {sessions:.1} sessions; {each:.0} B for each session, {base:.0} B without"
            )?;
            lines.push((f64::from(peers), base));
        }
    }
    let (_, each) = fit(&lines);
    writeln!(out, "{each:.0} B for each known peer without a session")?;
    Ok(())
}

/// Forms a fabric, waits, and drops one router after the other.
fn measure(peers: u16, wait: Duration) -> Result<Vec<Sample>> {
    let plan = Plan {
        seed: 1,
        peers,
        natted: 0,
        range: "10.32.0.0/12".parse().context("no range")?,
        rules: Rules::default(),
        weather: Weather::FAIR,
        stagger: STAGGER,
        length: wait,
        acts: Vec::new(),
    };
    let mut world = World::with(&plan, Cryptography::Real);
    let end = STAGGER * u32::from(peers) + wait;
    ensure!(world.run(end).is_ok(), "the simulation failed a check");
    let mut samples = Vec::new();
    for host in &mut world.hosts {
        let Some(router) = host.router.take() else { continue };
        let up = |state| matches!(state, ConnectionState::Established | ConnectionState::Ready);
        let sessions = router.node.sessions().connections().filter(|view| up(view.state)).count();
        let before = IN_USE.load(Ordering::Relaxed);
        drop(router);
        samples.push((sessions as f64, (before - IN_USE.load(Ordering::Relaxed)) as f64));
    }
    Ok(samples)
}

/// The straight line through all points that misses them least: where it begins, and how steep it is.
fn fit(points: &[Sample]) -> (f64, f64) {
    let count = points.len() as f64;
    let mean = |of: fn(&Sample) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let steep = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum::<f64>()
        / points.iter().map(|point| (point.0 - x).powi(2)).sum::<f64>().max(1e-9);
    (y - steep * x, steep)
}

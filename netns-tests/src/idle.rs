//! What a router costs that has sessions with many others and nothing to carry.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::lab::{Lab, LabConfig, Underlay};
use crate::threads::{ThreadUsage, Threads};
use crate::traffic::ping_until_answered;
use crate::usage::Usage;
use crate::wait::until;

/// A hundred routers that start on two cores have other things to do than to answer.
const REACH_LIMIT: Duration = Duration::from_secs(30);

/// Sessions are there once they were pinged through; only the view of them may lag.
const SESSIONS_LIMIT: Duration = Duration::from_secs(10);

/// The start is over when two such spans cost about the same.
const SETTLE_SPAN: Duration = Duration::from_secs(5);

/// After so many spans that still differ, the cost is not the start's.
const SETTLE_SPANS: u32 = 6;

/// What was found.
#[derive(Debug, Clone)]
pub struct IdleReport {
    /// Sessions of the router that was looked at.
    pub sessions: usize,
    /// How long it was looked at.
    pub wall: Duration,
    /// Processor time of the whole process, in the coarse ticks of `stat`.
    pub ticks: Duration,
    /// Resident memory in bytes at the end.
    pub resident: u64,
    /// By thread, the busiest first.
    pub threads: Vec<ThreadUsage>,
}

impl IdleReport {
    /// Processor time as a share of one core.
    pub fn share(&self) -> f64 {
        let run: Duration = self.threads.iter().map(|thread| thread.run).sum();
        run.as_secs_f64() / self.wall.as_secs_f64()
    }
}

/// Routers of one fabric: the first has a session with each of the others, since a container of its has talked to them.
#[derive(Debug)]
pub struct IdleFabric {
    lab: Lab,
    sessions: usize,
}

impl IdleFabric {
    /// Brings it up. The number of sessions is limited by the lab's underlay, a /24 network.
    ///
    /// # Errors
    /// When a router does not start, join or answer.
    pub fn new(sessions: usize) -> Result<Self> {
        let lab = Lab::with(LabConfig { underlay: Underlay::Routed, ..LabConfig::hosts(sessions + 1) })?;
        lab.start_all(&["--log", "warn"])?;
        let token = lab.host(1).up(&[])?;
        let others = &lab.hosts()[1..];
        others.iter().try_for_each(|host| host.join(&token).map(drop))?;
        let container = lab.host(1).attached()?;
        for host in others {
            let address = expose(host)?;
            ping_until_answered(container.ns(), address, REACH_LIMIT)?;
        }
        Ok(Self { lab, sessions })
    }

    /// The router that has all the sessions.
    pub fn router(&self) -> &Host {
        self.lab.host(1)
    }

    /// Waits until the start is over, then measures for so long.
    ///
    /// # Errors
    /// When sessions are missing before or after.
    pub fn measure(&self, window: Duration) -> Result<IdleReport> {
        self.expect_sessions()?;
        let pid = self.router().pid().context("the router does not run")?;
        let mut last = self.span(pid, SETTLE_SPAN)?.share();
        for _ in 0..SETTLE_SPANS {
            let next = self.span(pid, SETTLE_SPAN)?.share();
            if next > last * 0.8 {
                break;
            }
            last = next;
        }
        let report = self.span(pid, window)?;
        self.expect_sessions()?;
        Ok(report)
    }

    fn span(&self, pid: u32, length: Duration) -> Result<IdleReport> {
        let (usage, threads) = (Usage::of(pid)?, Threads::of(pid)?);
        thread::sleep(length);
        let (after, (wall, threads)) = (Usage::of(pid)?, Threads::of(pid)?.since(&threads));
        let ticks = after.cpu.saturating_sub(usage.cpu);
        Ok(IdleReport { sessions: self.sessions, wall, ticks, resident: after.resident, threads })
    }

    fn expect_sessions(&self) -> Result<()> {
        let mut seen = 0;
        let waited = until(SESSIONS_LIMIT, "the router has all sessions", || {
            seen = established(self.router()).unwrap_or(0);
            (seen == self.sessions).then_some(())
        });
        match waited {
            Ok(_) => Ok(()),
            Err(_) => bail!("the router has the wrong sessions (got {seen}, want {})", self.sessions),
        }
    }
}

fn expose(host: &Host) -> Result<IpAddr> {
    let exposed = host.json(&["expose"])?;
    let address = exposed["address"].as_str().and_then(|cidr| cidr.split('/').next());
    let address = address.with_context(|| format!("no address in {exposed}"))?;
    address.parse().with_context(|| format!("no address: {address}"))
}

/// Sessions that can carry frames.
fn established(host: &Host) -> Result<usize> {
    let answer = host.json(&["status", "connections"])?;
    let all = answer["connections"].as_array().with_context(|| format!("no connections in {answer}"))?;
    let ready = |one: &&serde_json::Value| one["state"] == "established" && !one["cipher"].is_null();
    Ok(all.iter().filter(ready).count())
}

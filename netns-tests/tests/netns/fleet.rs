//! Fifty routers on one machine: they start together, some die, some are cut off, and in the end all say the same.
//!
//! Control plane only, with a container here and there. What is checked are the invariants of the simulator's model, asked through the
//! control sockets (`lab::Views`).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::{Container, Host, Lab, LabConfig, Threads, Underlay, Usage, View, Views, until};

use crate::support::{Dice, alone_on, figure, reaches, same};

/// Routers.
const HOSTS: usize = 50;

/// Of these, cut off.
const MINORITY: usize = 12;

/// Routers that die, and that are stopped, in each round.
const KILLED: usize = 5;
const STOPPED: usize = 3;

/// Fifty routers that start on two cores have found each other by then.
const FORM: Duration = Duration::from_secs(45);

/// All views are the same so long after the last fault. A death that was noticed has to be taken back, and the pauses between two tries
/// to reach a peer that did not answer grow to half a minute.
const AGREE: Duration = Duration::from_secs(60);

/// A death is known to all so long after it, on a machine that is busy with the others.
const NOTICE: Duration = Duration::from_secs(75);

/// Two looks at what moves may differ; what is wrong is still wrong after this.
const LOOK_AGAIN: Duration = Duration::from_secs(3);

/// What is looked at when nothing happens.
const QUIET: Duration = Duration::from_secs(6);

/// Neighbours that one router gossips with in the mean: five to eight, whatever the size of the fabric, and some more after a partition.
const MEAN_NEIGHBOURS: usize = 10;

#[test]
fn fifty_routers_agree_after_deaths_and_a_partition() {
    let config = LabConfig { underlay: Underlay::Routed, ..LabConfig::hosts(HOSTS) };
    alone_on(config, |lab| {
        let mut fleet = Fleet::form(lab)?;
        fleet.attach(&[1, 2, 20, 40, 50])?;
        fleet.agree("containers were attached")?;
        reaches(&fleet.containers[0], &fleet.containers[3])?;
        fleet.restarts()?;
        fleet.partition()?;
        fleet.agree("all")?;
        reaches(&fleet.containers[1], &fleet.containers[4])?;
        fleet.measure_quiet()
    });
}

struct Fleet<'a> {
    lab: &'a Lab,
    dice: Dice,
    containers: Vec<Container>,
}

impl<'a> Fleet<'a> {
    /// Starts all routers at once, and lets all join through one.
    fn form(lab: &'a Lab) -> Result<Self> {
        let start = Instant::now();
        lab.start_together(&["--log", "info"])?;
        figure("fleet", &format!("{HOSTS} routers take requests after {:.1?}", start.elapsed()));
        let token = lab.host(1).up(&[])?;
        std::thread::scope(|scope| {
            let others: Vec<_> = lab.hosts()[1..].iter().map(|h| scope.spawn(|| h.join(&token))).collect();
            others.into_iter().try_for_each(|thread| match thread.join() {
                Ok(joined) => joined.map(drop),
                Err(_) => bail!("a thread panicked"),
            })
        })?;
        let fleet = Self { lab, dice: Dice::new(0xf1ee7), containers: Vec::new() };
        fleet.agree_within(FORM, "they joined")?;
        Ok(fleet)
    }

    /// A container on each of these hosts.
    fn attach(&mut self, hosts: &[usize]) -> Result<()> {
        for host in hosts {
            self.containers.push(self.lab.host(*host).attached()?);
        }
        Ok(())
    }

    fn agree(&self, after: &str) -> Result<()> {
        self.agree_within(AGREE, after)
    }

    /// All routers say the same, and nothing is missing.
    fn agree_within(&self, limit: Duration, after: &str) -> Result<()> {
        let mut last = None;
        let all: Vec<&Host> = self.lab.hosts().iter().collect();
        let (_, time) = until(limit, "all views are the same", || {
            Views::of(&all).and_then(|views| views.check_agreed()).map_err(|error| last = Some(error)).ok()
        })
        .with_context(|| format!("after {after}: {}", last.map_or(String::new(), |e| format!("{e:#}"))))?;
        figure("fleet", &format!("all views are the same {time:.1?} after {after}"));
        Ok(())
    }

    /// Whatever goes on, nothing is in two places.
    fn safe(&self) -> Result<()> {
        let running: Vec<&Host> = self.lab.hosts().iter().filter(|host| host.pid().is_some()).collect();
        let mut last = None;
        until(LOOK_AGAIN, "nothing is in two places", || {
            Views::of(&running).and_then(|views| views.check_safe()).map_err(|error| last = Some(error)).ok()
        })
        .with_context(|| last.map_or(String::new(), |e| format!("{e:#}")))
        .map(drop)
    }

    /// Some die, some are stopped, and containers come meanwhile; then all are started again.
    fn restarts(&mut self) -> Result<()> {
        let mut hosts: Vec<usize> = (1..=HOSTS).collect();
        let killed = self.draw(&mut hosts, KILLED);
        let stopped = self.draw(&mut hosts, STOPPED);
        killed.iter().try_for_each(|host| self.lab.host(*host).kill9())?;
        stopped.iter().try_for_each(|host| self.lab.host(*host).sigterm().map(drop))?;
        let new = self.draw(&mut hosts, 2);
        self.attach(&new)?;
        self.safe()?;
        self.start(&[killed, stopped].concat())?;
        self.agree("restarts")
    }

    /// A minority is cut off until both sides have noticed. Both give out addresses and restart routers; some stay dead until the end.
    fn partition(&mut self) -> Result<()> {
        let mut majority: Vec<usize> = (1..=HOSTS).collect();
        let mut minority = self.draw(&mut majority, MINORITY);
        self.lab.wire()?.split(&minority)?;
        let cut = Instant::now();
        let dead = self.draw(&mut majority, KILLED);
        dead.iter().try_for_each(|host| self.lab.host(*host).kill9())?;
        let restarted = [self.draw(&mut majority, 2), self.draw(&mut minority, 2)].concat();
        restarted.iter().try_for_each(|host| self.lab.host(*host).kill9())?;
        let new = [self.draw(&mut majority, 2), self.draw(&mut minority, 2)].concat();
        self.attach(&new)?;
        self.start(&restarted)?;
        let (here, there) = (HOSTS - MINORITY - KILLED, MINORITY);
        let sides = [(majority[0], here), (new[0], here), (minority[0], there), (new[3], there)];
        for (host, want) in sides {
            let host = self.lab.host(host);
            let mut seen = None;
            until(NOTICE, "both sides have noticed", || {
                seen = host.json(&["status"]).ok()?["peers"]["alive"].as_u64();
                (seen == Some(want as u64)).then_some(())
            })
            .with_context(|| format!("{} counts {seen:?} among the living, want {want}", host.nickname()))?;
        }
        figure("fleet", &format!("both sides have noticed {:.1?} after the cut", cut.elapsed()));
        self.safe()?;
        self.lab.wire()?.heal()?;
        self.start(&dead)?;
        self.agree("the partition")
    }

    fn start(&self, hosts: &[usize]) -> Result<()> {
        hosts.iter().try_for_each(|host| self.lab.host(*host).spawn_weaved())?;
        hosts.iter().try_for_each(|host| self.lab.host(*host).wait_ready())
    }

    fn draw(&mut self, from: &mut Vec<usize>, count: usize) -> Vec<usize> {
        (0..count).map(|_| from.remove(self.dice.between(0, from.len() - 1))).collect()
    }

    /// What fifty routers cost that have nothing to do.
    fn measure_quiet(&self) -> Result<()> {
        let hosts = self.lab.hosts();
        let all: Vec<&Host> = hosts.iter().collect();
        let views = Views::of(&all)?;
        let sessions: usize = views.iter().map(View::sessions).sum();
        let neighbours: usize = views.iter().map(View::neighbours).sum();
        let pids: Vec<u32> =
            hosts.iter().map(|h| h.pid().context("a router has ended")).collect::<Result<_>>()?;
        let usage = || pids.iter().map(|pid| Usage::of(*pid)).collect::<Result<Vec<_>>>();
        let before = usage()?;
        std::thread::sleep(QUIET);
        let after = usage()?;
        let cpu: Duration = after.iter().zip(&before).map(|(a, b)| a.cpu.saturating_sub(b.cpu)).sum();
        let resident: u64 = after.iter().map(|usage| usage.resident).sum();
        let threads: usize = pids.iter().map(|pid| Threads::of(*pid).map_or(0, |all| all.count())).sum();
        figure(
            "fleet",
            &format!(
                "{HOSTS} quiet routers: {:.1} % of a core, {:.1} MiB and {:.1} threads each, {:.1} sessions each, {:.1} of them for gossip",
                100.0 * cpu.as_secs_f64() / QUIET.as_secs_f64(),
                resident as f64 / HOSTS as f64 / f64::from(1 << 20),
                threads as f64 / HOSTS as f64,
                sessions as f64 / HOSTS as f64,
                neighbours as f64 / HOSTS as f64,
            ),
        );
        same("neighbours stay few", &(neighbours <= MEAN_NEIGHBOURS * HOSTS), &true)
            .with_context(|| format!("{neighbours} neighbours of {HOSTS} routers"))
    }
}

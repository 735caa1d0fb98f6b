//! Large fleets, measured: how fast they join, how soon all know what is new and who is gone, what it costs when nothing happens.
//!
//! The model checks every step as in any other simulation. What is looked at here is only looked at: apart from the crashes, the loss and
//! the partition, nothing is done to the routers.

use std::time::{Duration, Instant};

use gossip::{MemberState, PeerId};
use router::core::advert::EndpointAdvert;
use router::core::mac::Mac;

use crate::dice::Dice;
use crate::fault::{Fault, Kind};
use crate::figures::{Figures, Phase, Spread};
use crate::history::Subject;
use crate::model::{Check, Failure};
use crate::network::Weather;
use crate::plan::{Act, Plan, Rules};
use crate::world::World;

const SECOND: Duration = Duration::from_secs(1);
/// All routers are started within this time, or one every 200 ms if they are few.
const JOIN: Duration = Duration::from_secs(60);
/// Longest time until all have to know the same.
const BOUND: Duration = Duration::from_secs(600);
/// Between a change and the next measurement.
const PAUSE: Duration = Duration::from_secs(30);
/// How long nothing happens, unless the user says otherwise.
const QUIET: Duration = Duration::from_secs(60);
/// How finely the spreading of a record is timed.
const RECORD_STEP: Duration = Duration::from_millis(20);
/// Observers that know nothing of a record after this time are given up.
const RECORD_BOUND: Duration = Duration::from_secs(30);
/// Records whose spreading is timed.
const RECORDS: u32 = 5;
/// How finely the detection of a crash is timed.
const CRASH_STEP: Duration = Duration::from_millis(100);
/// Observers that have not noticed a crash after this time are given up.
const CRASH_BOUND: Duration = Duration::from_secs(60);
/// Crashes that are timed.
const CRASHES: u32 = 3;
/// How long the churn goes on.
const CHURN: Duration = Duration::from_secs(180);
/// Part of all routers that crash within a minute of churn.
const CHURN_PART: f64 = 0.01;
/// How long a crashed router is away.
const AWAY: Duration = Duration::from_secs(30);
/// How long the halves are apart.
const APART: Duration = Duration::from_secs(60);
/// Datagrams lost in a thousand, where there is loss.
const LOSS: u32 = 50;

/// What a fleet goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It joins and is measured.
    Quiet,
    /// After that come churn and a partition, and everything is checked at the end.
    Fleet,
}

impl Life {
    /// The scenario's name.
    pub fn name(self) -> &'static str {
        match self {
            Life::Quiet => "quiet",
            Life::Fleet => "fleet",
        }
    }
}

/// What the user said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// What it goes through.
    pub life: Life,
    /// Routers.
    pub peers: u16,
    /// What decides everything.
    pub seed: u64,
    /// How long nothing happens, without and with loss.
    pub quiet: Option<Duration>,
}

/// Lives through a fleet's life. `say` is told what has been done.
pub fn measure(wish: &Wish, say: &mut dyn FnMut(&str)) -> Result<Figures, Failure> {
    let start = busy();
    let mut fleet = Fleet::new(wish, say);
    fleet.join()?;
    fleet.rest("settle", PAUSE)?;
    fleet.rest("quiet", wish.quiet.unwrap_or(QUIET))?;
    fleet.figures.record = fleet.phase("records", |fleet| fleet.time_records())?;
    fleet.world.network.weather = Weather { loss: LOSS, ..Weather::FAIR };
    fleet.figures.record_with_loss = fleet.phase("records, loss", |fleet| fleet.time_records())?;
    fleet.watch_deaths(wish.quiet.unwrap_or(QUIET))?;
    fleet.world.network.weather = Weather::FAIR;
    fleet.figures.detection = fleet.phase("crashes", |fleet| fleet.time_crashes())?;
    match wish.life {
        Life::Quiet => {}
        Life::Fleet => {
            fleet.phase("churn", |fleet| fleet.churn())?;
            fleet.figures.after_churn = Some(fleet.phase("after churn", |fleet| fleet.agree())?);
            fleet.phase("partition", |fleet| fleet.part())?;
            fleet.figures.after_partition = Some(fleet.phase("heal", |fleet| fleet.agree())?);
            fleet.phase("checks", |fleet| fleet.world.settle().map(drop))?;
        }
    }
    fleet.figures.real_seconds = (busy() - start).as_secs_f64();
    Ok(fleet.figures)
}

struct Fleet<'a> {
    world: World,
    figures: Figures,
    dice: Dice,
    say: &'a mut dyn FnMut(&str),
    memory: u64,
}

/// Counters of all routers together.
struct Sums {
    at: Duration,
    real: Duration,
    steps: u64,
    bytes: u64,
    datagrams: u64,
    gossip_bytes: u64,
    records: u64,
}

impl<'a> Fleet<'a> {
    fn new(wish: &Wish, say: &'a mut dyn FnMut(&str)) -> Fleet<'a> {
        let memory = resident();
        let plan = Plan {
            seed: wish.seed,
            peers: wish.peers,
            natted: 0,
            range: "10.32.0.0/12".parse().expect("a range"),
            rules: Rules::default(),
            weather: Weather::FAIR,
            stagger: (JOIN / u32::from(wish.peers.max(1))).min(SECOND / 5),
            length: BOUND,
            acts: Vec::new(),
        };
        let figures = Figures {
            scenario: wish.life.name().to_owned(),
            peers: wish.peers,
            seed: wish.seed,
            ..Figures::default()
        };
        Fleet { world: World::new(&plan), figures, dice: Dice::new(wish.seed, 6), say, memory }
    }

    fn join(&mut self) -> Result<(), Failure> {
        let peers = u32::from(self.figures.peers);
        let last = (JOIN / peers.max(1)).min(SECOND / 5) * peers;
        self.phase("starts", |fleet| fleet.world.run(last))?;
        let took = self.phase("agree", |fleet| fleet.agree())?;
        self.figures.join = self.world.now.as_secs_f64();
        self.figures.converged_after_last_start = took;
        let pairs = f64::from(peers) * f64::from(peers.saturating_sub(1));
        self.figures.memory_per_pair = resident().saturating_sub(self.memory) as f64 / pairs.max(1.0);
        Ok(())
    }

    fn rest(&mut self, name: &str, time: Duration) -> Result<(), Failure> {
        self.phase(name, |fleet| fleet.world.run(fleet.world.now + time))?;
        let links: usize = self.routers().map(|(_, node)| node.neighbours().count()).sum();
        self.figures.degree = links as f64 / f64::from(self.figures.peers.max(1));
        Ok(())
    }

    /// Runs a part of the life and notes what it took.
    fn phase<T>(
        &mut self,
        name: &str,
        run: impl FnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let before = self.sums();
        let result = run(self)?;
        let after = self.sums();
        let seconds = (after.at - before.at).as_secs_f64();
        let each = (f64::from(self.figures.peers) * seconds).max(1e-9);
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / each;
        let phase = Phase {
            name: name.to_owned(),
            seconds,
            real_seconds: (after.real - before.real).as_secs_f64(),
            steps: after.steps - before.steps,
            bytes: rate(before.bytes, after.bytes),
            datagrams: rate(before.datagrams, after.datagrams),
            gossip_bytes: rate(before.gossip_bytes, after.gossip_bytes),
            records: rate(before.records, after.records),
        };
        (self.say)(&format!(
            "{name}: {seconds:.0} s in {:.1} s, {:.1} times as fast as real time",
            phase.real_seconds,
            phase.speed()
        ));
        self.figures.phases.push(phase);
        Ok(result)
    }

    fn sums(&self) -> Sums {
        let counts = &self.world.counts;
        let mut sums = Sums {
            at: self.world.now,
            real: busy(),
            steps: counts.steps,
            bytes: counts.bytes,
            datagrams: counts.datagrams,
            gossip_bytes: 0,
            records: 0,
        };
        for (_, node) in self.routers() {
            sums.gossip_bytes += node.gossip_stats().bytes_sent;
            sums.records += node.gossip_stats().records_accepted;
        }
        sums
    }

    fn routers(&self) -> impl Iterator<Item = (u16, &router::core::node::Node)> {
        self.world.hosts.iter().filter_map(|host| Some((host.number, &host.router.as_ref()?.node)))
    }

    /// Waits until all run and know the same; answers how long that took, in seconds.
    fn agree(&mut self) -> Result<f64, Failure> {
        let start = self.world.now;
        while !self.is_agreed() {
            if self.world.now > start + BOUND {
                let mut digests: Vec<u64> = self.routers().map(|(_, node)| node.gossip_digest()).collect();
                let running = digests.len();
                digests.sort_unstable();
                digests.dedup();
                let text = format!("{running} routers have {} views after {BOUND:?}", digests.len());
                return Err(Failure { check: Check::Converged, text, subject: Subject::All });
            }
            self.world.run(self.world.now + SECOND)?;
        }
        Ok((self.world.now - start).as_secs_f64())
    }

    fn is_agreed(&self) -> bool {
        let mut views = self.routers().map(|(_, node)| node.gossip_digest());
        let first = views.next();
        let running = self.routers().count() == self.world.hosts.len();
        let all = || {
            let alive = |node: &router::core::node::Node| {
                node.members().filter(|member| member.state == MemberState::Alive).count()
            };
            self.routers().all(|(_, node)| alive(node) + 1 == self.world.hosts.len())
        };
        running && views.all(|view| Some(view) == first) && all()
    }

    /// How long new records take to get everywhere.
    fn time_records(&mut self) -> Result<Spread, Failure> {
        let (mut times, mut missing) = (Vec::new(), 0);
        for _ in 0..RECORDS {
            let origin = self.dice.index(self.world.hosts.len()) as u16;
            let mut mac = [2, 0, 0, 0, 0, 0];
            self.dice.fill(&mut mac[1..]);
            let mac = Mac(mac);
            self.speak(origin, |node, now| node.announce(mac, EndpointAdvert::default(), now))?;
            let start = self.world.now;
            let mut waiting: Vec<u16> = (0..self.figures.peers).filter(|host| *host != origin).collect();
            while !waiting.is_empty() && self.world.now < start + RECORD_BOUND {
                self.world.run(self.world.now + RECORD_STEP)?;
                let took = (self.world.now - start).as_secs_f64();
                let hosts = &self.world.hosts;
                waiting.retain(|host| {
                    let router = hosts[usize::from(*host)].router.as_ref();
                    let knows = router.is_none_or(|router| router.table.contains_key(&mac));
                    times.extend(knows.then_some(took));
                    !knows
                });
            }
            missing += waiting.len() as u64;
            self.speak(origin, |node, now| node.retract(mac, now))?;
            self.world.run(self.world.now + SECOND)?;
        }
        Ok(Spread::of(times, missing))
    }

    /// Does something at a router, and what follows from it.
    fn speak(
        &mut self,
        host: u16,
        run: impl FnOnce(&mut router::core::node::Node, Instant),
    ) -> Result<(), Failure> {
        let here = &mut self.world.hosts[usize::from(host)];
        let now = here.clock.read(self.world.now);
        here.with(now, run);
        self.world.turn(host)
    }

    /// Waits with loss; nobody may be given up.
    fn watch_deaths(&mut self, time: Duration) -> Result<(), Failure> {
        let before = self.deaths();
        self.phase("quiet, loss", |fleet| fleet.world.run(fleet.world.now + time))?;
        self.figures.false_deaths = self.deaths() - before;
        self.figures.false_deaths_watched = time.as_secs_f64();
        Ok(())
    }

    fn deaths(&self) -> u64 {
        self.routers().map(|(_, node)| node.gossip_stats().deaths).sum()
    }

    /// How long it takes until all have given up a router that crashed.
    fn time_crashes(&mut self) -> Result<Spread, Failure> {
        let (mut times, mut missing) = (Vec::new(), 0);
        for _ in 0..CRASHES {
            let victim = self.dice.index(self.world.hosts.len()) as u16;
            let gone: PeerId = self.world.hosts[usize::from(victim)].id;
            self.crash(victim, CRASH_BOUND)?;
            let start = self.world.now;
            let mut waiting: Vec<u16> = (0..self.figures.peers).filter(|host| *host != victim).collect();
            while !waiting.is_empty() && self.world.now + CRASH_STEP < start + CRASH_BOUND {
                self.world.run(self.world.now + CRASH_STEP)?;
                let took = (self.world.now - start).as_secs_f64();
                let hosts = &self.world.hosts;
                waiting.retain(|host| {
                    let router = hosts[usize::from(*host)].router.as_ref();
                    let state = router.and_then(|router| router.node.member(gone)).map(|member| member.state);
                    let knows = state == Some(MemberState::Dead);
                    times.extend(knows.then_some(took));
                    !knows
                });
            }
            missing += waiting.len() as u64;
            self.world.run(start + CRASH_BOUND + SECOND)?;
            self.agree()?;
        }
        Ok(Spread::of(times, missing))
    }

    fn crash(&mut self, host: u16, lasts: Duration) -> Result<(), Failure> {
        let fault = Fault { kind: Kind::Crash, host, other: 0, lasts, how: 0 };
        self.world.act(Act::Fault(fault))
    }

    /// Routers crash and return all the time.
    fn churn(&mut self) -> Result<(), Failure> {
        let pause = Duration::from_secs_f64(60.0 / (f64::from(self.figures.peers) * CHURN_PART));
        let end = self.world.now + CHURN;
        while self.world.now < end {
            let victim = self.dice.index(self.world.hosts.len()) as u16;
            self.crash(victim, AWAY)?;
            self.world.run((self.world.now + pause).min(end))?;
        }
        self.world.run(end + AWAY)
    }

    /// One half is cut off from the other for a while.
    fn part(&mut self) -> Result<(), Failure> {
        for host in 0..self.figures.peers {
            self.world.network.set_side(host, (host % 2) as u8);
        }
        self.world.run(self.world.now + APART)?;
        self.world.network.heal();
        Ok(())
    }
}

/// Processor time of this thread: that of the clock would count what else the machine does. The clock's where it cannot be read.
fn busy() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let status = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = status.split(' ').next().and_then(|nanos| nanos.parse().ok());
    nanos.map_or_else(|| START.get_or_init(Instant::now).elapsed(), Duration::from_nanos)
}

/// Memory of this process, in bytes; nothing where that cannot be read.
fn resident() -> u64 {
    /// Bytes of a page.
    const PAGE: u64 = 4096;
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * PAGE
}

//! How the figures of one data path are measured in one round.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use lab::{
    Direction, Iperf, MachineTime, NetNs, Ping, PingReport, RequestReply, Requests, Throughput, Window,
    WindowReport,
};

use crate::bench::figures::{Figure, Group};
use crate::bench::report::Sample;
use crate::bench::topology::Topology;

/// Echo requests before anything is measured: caches, keys and neighbours are there then.
const WARM_UP: Ping = Ping { count: 50, interval: Duration::from_millis(10), size: 56 };

/// Time between two echo requests without other load.
const PING_INTERVAL: Duration = Duration::from_millis(2);

/// Time between two echo requests under load.
const LOADED_INTERVAL: Duration = Duration::from_millis(10);

/// Loaded round trips are taken from here on: the connection is made, and its window has opened.
const LOADED_AFTER: Duration = Duration::from_millis(1500);

/// Fewer than this say nothing about a tail.
const LOADED_LEAST: u32 = 50;

/// Small datagrams in flight: what a receive queue of the usual length takes even while its reader does not run.
const IN_FLIGHT_SMALL: u64 = 256;

/// Large ones: each may become two fragments, and the queue of a TUN device has 500 places.
const IN_FLIGHT_LARGE: u64 = 64;

/// Short connections at the same time: more than cores, so that none waits for a wake-up of another.
const AT_ONCE: usize = 8;

/// How long and which.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) seconds: u32,
    pub(crate) groups: &'a [Group],
}

/// All figures of one data path in one round, in the order of the groups.
pub(crate) fn measure(topology: &mut Topology, plan: Plan<'_>) -> Result<Sample> {
    let _lost = WARM_UP.send(topology.one(), topology.address())?;
    let mut sample = Vec::new();
    let (start, used) = (MachineTime::now()?, topology.usage()?.unwrap_or_default());
    for group in Group::ALL.into_iter().filter(|group| plan.groups.contains(group)) {
        let measured = Bench { topology, seconds: plan.seconds }.group(group);
        // A process that died explains more than what its absence did to the measurement.
        topology.check()?;
        sample.extend(measured.with_context(|| format!("cannot measure {group:?}"))?);
    }
    if let Some(usage) = topology.usage()? {
        sample.push((Figure::Memory, usage.resident as f64 / 2.0 / f64::from(1 << 20)));
    }
    let (end, using) = (MachineTime::now()?, topology.usage()?.unwrap_or_default());
    let all = end.user.saturating_sub(start.user);
    let ours = (end.own + using.user).saturating_sub(start.own + used.user);
    let total = end.total.saturating_sub(start.total).as_secs_f64().max(f64::MIN_POSITIVE);
    sample.push((Figure::Others, 100.0 * all.saturating_sub(ours).as_secs_f64() / total));
    Ok(sample)
}

struct Bench<'a> {
    topology: &'a Topology,
    seconds: u32,
}

impl Bench<'_> {
    fn group(&self, group: Group) -> Result<Sample> {
        match group {
            Group::Latency => self.latency(),
            Group::Tcp1 => self.loaded(),
            Group::Tcp4 => Ok(vec![(Figure::Tcp4, self.tcp(4, Direction::Forward)?)]),
            Group::Reverse => Ok(vec![
                (Figure::Tcp1Reverse, self.tcp(1, Direction::Reverse)?),
                (Figure::Tcp4Reverse, self.tcp(4, Direction::Reverse)?),
            ]),
            Group::Both => Ok(vec![
                (Figure::Tcp1Both, self.tcp(1, Direction::Both)?),
                (Figure::Tcp4Both, self.tcp(4, Direction::Both)?),
            ]),
            Group::Short => self.short(),
            Group::Udp => {
                let mut sample = named(self.udp(64, IN_FLIGHT_SMALL)?, Figure::Udp64, Figure::Udp64Lost);
                sample.extend(named(self.udp(1400, IN_FLIGHT_LARGE)?, Figure::Udp1400, Figure::Udp1400Lost));
                Ok(sample)
            }
        }
    }

    /// One stream, echo requests beside it, and what the processes used for it.
    fn loaded(&self) -> Result<Sample> {
        let (one, _, address) = self.ends();
        let count = (self.seconds.saturating_sub(2) * 100).max(LOADED_LEAST);
        let ping = Ping { count, interval: LOADED_INTERVAL, size: 56 };
        let before = self.topology.usage()?;
        let (tcp, ping) = thread::scope(|scope| {
            let load = scope.spawn(|| self.iperf(1, Direction::Forward));
            thread::sleep(LOADED_AFTER);
            let ping = ping.send(one, address);
            let load = load.join().map_err(|_| anyhow!("the thread of the load panicked"));
            load.and_then(|load| Ok((load?, ping?)))
        })?;
        let after = self.topology.usage()?;
        let mut sample = vec![(Figure::Tcp1, tcp.bits_per_second / 1e9)];
        if let (Some(before), Some(after)) = (before, after) {
            let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
            sample.push((Figure::CpuPerGigabyte, cpu / (tcp.bytes / 1e9).max(1e-9)));
        }
        sample.extend(round_trips(&ping, Figure::LoadedMedian, Figure::LoadedTail));
        Ok(sample)
    }

    fn latency(&self) -> Result<Sample> {
        let (one, two, address) = self.ends();
        let count = 250 * self.seconds.clamp(1, 4);
        let ping = Ping { count, interval: PING_INTERVAL, size: 56 }.send(one, address)?;
        let mut sample: Sample = round_trips(&ping, Figure::PingMedian, Figure::PingTail).collect();
        let time = Duration::from_secs(u64::from(self.seconds.min(2)));
        let times = RequestReply { size: 64, time }.run(one, two, address)?;
        let at =
            |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e6;
        sample.extend([(Figure::ReplyMedian, at(50)), (Figure::ReplyTail, at(99))]);
        Ok(sample)
    }

    fn short(&self) -> Result<Sample> {
        let (one, two, address) = self.ends();
        let report =
            Requests { answer: 1024, at_once: AT_ONCE, time: self.brief() }.run(one, two, address)?;
        Ok(vec![(Figure::Short, report.per_second)])
    }

    fn udp(&self, size: usize, in_flight: u64) -> Result<WindowReport> {
        let (one, two, address) = self.ends();
        Window { size, in_flight, time: self.brief() }.run(one, two, address)
    }

    fn tcp(&self, streams: u32, direction: Direction) -> Result<f64> {
        Ok(self.iperf(streams, direction)?.bits_per_second / 1e9)
    }

    fn iperf(&self, streams: u32, direction: Direction) -> Result<Throughput> {
        let (one, two, address) = self.ends();
        Iperf { seconds: self.seconds, streams }.run_towards(direction, one, two, address)
    }

    /// What needs no window to open is measured well in a shorter time.
    fn brief(&self) -> Duration {
        Duration::from_secs(u64::from(self.seconds.min(3)))
    }

    fn ends(&self) -> (&NetNs, &NetNs, IpAddr) {
        (self.topology.one(), self.topology.two(), self.topology.address())
    }
}

fn named(report: WindowReport, rate: Figure, lost: Figure) -> Sample {
    let gone = report.sent.saturating_sub(report.received) as f64 / report.sent.max(1) as f64;
    vec![(rate, report.per_second / 1e3), (lost, gone * 100.0)]
}

fn round_trips(ping: &PingReport, median: Figure, tail: Figure) -> impl Iterator<Item = (Figure, f64)> {
    let at = |figure, percent| ping.percentile_ms(percent).map(|ms| (figure, ms * 1e3));
    [at(median, 50), at(tail, 99)].into_iter().flatten()
}

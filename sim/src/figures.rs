//! What a measured fleet came to, as numbers: for people to read, and for programs as JSON.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Times of many observers, in seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Half of them were not later.
    pub p50: f64,
    /// All but one in a hundred were not later.
    pub p99: f64,
    /// The last of them.
    pub most: f64,
    /// All percentiles, from the first of them (0) to the last (100).
    pub percentiles: Vec<f64>,
    /// Observers.
    pub count: u64,
    /// Observers that were given up; they are not among the times.
    pub missing: u64,
}

impl Spread {
    /// Of these times, and so many observers that saw nothing.
    pub fn of(mut times: Vec<f64>, missing: u64) -> Spread {
        times.sort_by(f64::total_cmp);
        let at = |percent: usize| match times.len() {
            0 => f64::NAN,
            count => times[((count - 1) * percent).div_ceil(100)],
        };
        Spread {
            p50: at(50),
            p99: at(99),
            most: at(100),
            percentiles: (0..=100).map(at).collect(),
            count: times.len() as u64,
            missing,
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:.2} s, p99 {:.2} s, last {:.2} s", self.p50, self.p99, self.most)?;
        if self.missing > 0 {
            write!(f, ", {} of {} NEVER", self.missing, self.missing + self.count)?;
        }
        Ok(())
    }
}

/// A part of a fleet's life.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// What happened in it.
    pub name: String,
    /// How long it took in the simulation, in seconds.
    pub seconds: f64,
    /// How long one processor took to simulate it. Of all figures this one alone, and what follows from it, depends on the machine.
    pub real_seconds: f64,
    /// Events.
    pub steps: u64,
    /// UDP payload that one router sent in a second, sessions and their seals included.
    pub bytes: f64,
    /// Datagrams that one router sent in a second.
    pub datagrams: f64,
    /// Of the bytes, what gossip asked to send.
    pub gossip_bytes: f64,
    /// Records that were news to one router in a second.
    pub records: f64,
}

impl Phase {
    /// How many times faster than real time it was simulated.
    pub fn speed(&self) -> f64 {
        self.seconds / self.real_seconds.max(1e-9)
    }
}

/// What a fleet came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// `quiet` or `fleet`.
    pub scenario: String,
    /// Routers.
    pub peers: u16,
    /// What decided everything.
    pub seed: u64,
    /// From the first start until all knew the same, in seconds.
    pub join: f64,
    /// From the last start until then.
    pub converged_after_last_start: f64,
    /// The parts of its life, in order.
    pub phases: Vec<Phase>,
    /// Until a router knew a new record, without loss.
    pub record: Spread,
    /// The same while one datagram in twenty was lost.
    pub record_with_loss: Spread,
    /// Until a router gave up one that had crashed.
    pub detection: Spread,
    /// Members that were given up and lived, seen by all routers together while one datagram in twenty was lost.
    pub false_deaths: u64,
    /// How long that was watched, in seconds.
    pub false_deaths_watched: f64,
    /// From the end of the churn until all knew the same.
    pub after_churn: Option<f64>,
    /// From the end of the partition until all knew the same.
    pub after_partition: Option<f64>,
    /// Memory of the simulation for each pair of routers that know each other, in bytes.
    pub memory_per_pair: f64,
    /// Links that one router has with neighbours, on average.
    pub degree: f64,
    /// All of it, in seconds of one processor.
    pub real_seconds: f64,
}

impl Figures {
    /// A part of its life by name.
    pub fn phase(&self, name: &str) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.name == name)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} of {} routers, seed {}:", self.scenario, self.peers, self.seed)?;
        writeln!(
            f,
            "  joined and agreed after {:.0} s, {:.0} s after the last start; {:.1} neighbours each",
            self.join, self.converged_after_last_start, self.degree
        )?;
        writeln!(f, "  new record, no loss:   {}", self.record)?;
        writeln!(f, "  new record, 5 % loss:  {}", self.record_with_loss)?;
        writeln!(f, "  crash noticed:         {}", self.detection)?;
        writeln!(f, "  false deaths, 5 % loss: {} in {:.0} s", self.false_deaths, self.false_deaths_watched)?;
        for (name, took) in [("churn", self.after_churn), ("partition", self.after_partition)] {
            if let Some(took) = took {
                writeln!(f, "  agreed {took:.0} s after the end of the {name}")?;
            }
        }
        writeln!(f, "  {:.0} bytes of memory for each pair of routers", self.memory_per_pair)?;
        writeln!(
            f,
            "  {:<12} {:>8} {:>9} {:>8} {:>10} {:>9} {:>9} {:>9} {:>9}",
            "", "virtual", "processor", "speed", "steps", "UDP B/s", "packets/s", "gossip B/s", "records/s"
        )?;
        for phase in &self.phases {
            writeln!(
                f,
                "  {:<12} {:>6.0} s {:>7.1} s {:>7.1}x {:>10} {:>9.0} {:>9.1} {:>10.0} {:>9.2}",
                phase.name,
                phase.seconds,
                phase.real_seconds,
                phase.speed(),
                phase.steps,
                phase.bytes,
                phase.datagrams,
                phase.gossip_bytes,
                phase.records
            )?;
        }
        write!(f, "  {:.1} s in all", self.real_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_seen() {
        let spread = Spread::of((1..=200).rev().map(f64::from).collect(), 3);
        assert_eq!((spread.p50, spread.p99, spread.most), (101.0, 199.0, 200.0));
        assert_eq!((spread.percentiles.len(), spread.count, spread.missing), (101, 200, 3));
        assert!(Spread::of(Vec::new(), 0).p99.is_nan());
    }
}

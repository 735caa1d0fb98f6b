//! What is going to happen in a simulation, drawn from the seed before it begins, so that parts of it can be left out.

mod text;

use std::time::Duration;

use ipam::Want;
use ipnet::Ipv4Net;

use crate::fault::Fault;
use crate::network::Weather;

/// One thing that is done to the fabric from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// A container comes.
    Attach {
        /// On which host.
        host: u16,
        /// Which; each number comes once.
        container: u32,
        /// With which wish.
        want: Want,
    },
    /// A container goes, if it is there.
    Detach {
        /// From which host.
        host: u16,
        /// Which.
        container: u32,
    },
    /// An operator measures a way.
    Ping {
        /// From which host.
        host: u16,
        /// To which.
        other: u16,
    },
    /// Something goes wrong.
    Fault(Fault),
}

impl Act {
    /// The highest number of a host that it names.
    pub fn highest_host(&self) -> u16 {
        match self {
            Act::Attach { host, .. } | Act::Detach { host, .. } => *host,
            Act::Ping { host, other } => *host.max(other),
            Act::Fault(fault) => fault.host.max(fault.other),
        }
    }
}

/// How the operators run the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// So many of the first hosts create the fabric together, from one list (`--seeds`); the first one alone unless there are two.
    pub seeds: u16,
    /// Routers remove peers that have been dead for so long (`--reclaim-after`).
    pub reclaim_after: Option<Duration>,
}

/// A whole life of a fabric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Decides everything that is not written here.
    pub seed: u64,
    /// Hosts at the start; the first one creates the fabric.
    pub peers: u16,
    /// Of these, the ones behind NAT boxes: a bit for each of the first 64.
    pub natted: u64,
    /// The fabric's addresses.
    pub range: Ipv4Net,
    /// How it is run.
    pub rules: Rules,
    /// The weather while nothing is wrong.
    pub weather: Weather,
    /// Time between the starts of two hosts.
    pub stagger: Duration,
    /// How long things are done; after that everything is put right.
    pub length: Duration,
    /// What is done, in order of time.
    pub acts: Vec<(Duration, Act)>,
}

impl Plan {
    /// Whether all members hear each other all the time.
    pub fn is_calm(&self) -> bool {
        let calm = |(_, act): &(Duration, Act)| match act {
            Act::Fault(fault) => fault.kind.is_calm(),
            Act::Attach { .. } | Act::Detach { .. } | Act::Ping { .. } => true,
        };
        self.weather.is_calm() && self.rules.reclaim_after.is_none() && self.acts.iter().all(calm)
    }

    /// The plan without some of its acts.
    pub fn without(&self, first: usize, count: usize) -> Plan {
        let mut plan = self.clone();
        plan.acts.drain(first..(first + count).min(self.acts.len()));
        plan
    }

    /// What a person reads of it.
    pub fn describe(&self) -> String {
        let mut text = format!(
            "  seed {}, {} hosts, range {}, {:.0} s, {:?}, {:?}\n",
            self.seed,
            self.peers,
            self.range,
            self.length.as_secs_f64(),
            self.weather,
            self.rules
        );
        for (at, act) in &self.acts {
            let act = match act {
                Act::Fault(fault) => fault.to_string(),
                other => format!("{other:?}"),
            };
            text += &format!("  {:>9.3} {act}\n", at.as_secs_f64());
        }
        text
    }
}

//! What is measured of a data path.

use std::time::Duration;

use anyhow::Result;
use lab::{Iperf, Ping};

use crate::bench::report::Sample;
use crate::bench::topology::Topology;

/// Requests for the round trip: enough for a median, a second in all.
const PINGS: Ping = Ping { count: 200, interval: Duration::from_millis(5), size: 56 };

/// All figures of one column in one round.
pub(crate) fn measure(topology: &Topology, seconds: u32) -> Result<Sample> {
    let (one, two, address) = (topology.one(), topology.two(), topology.address());
    let tcp = Iperf { seconds, streams: 1 }.run(one, two, address)?;
    let ping = PINGS.send(one, address)?;
    Ok(vec![
        (Figure::Tcp, Some(tcp.bits_per_second / 1e9)),
        (Figure::RoundTrip, ping.median_ms().map(|ms| ms * 1e3)),
    ])
}

/// A figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    /// One TCP stream, container to container.
    Tcp,
    /// Median round trip of single packets.
    RoundTrip,
}

impl Figure {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 2] = [Self::Tcp, Self::RoundTrip];

    /// Its name in tables and JSON, with its unit.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp1_gbps",
            Self::RoundTrip => "rtt_p50_us",
        }
    }
}

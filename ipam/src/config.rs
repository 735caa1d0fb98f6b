//! The knobs of [`crate::Ipam`], each with its meaning, its safe range and the cost of too much and too little.

use std::time::Duration;

use ipnet::Ipv4Net;

/// How one peer allocates. All peers of a fabric have the same range; the rest may differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Addresses of the fabric. Its first and last address are never handed out.
    pub range: Ipv4Net,
    /// How long a released address is not handed out again, so that connections and caches of its last holder die.
    /// Seconds to minutes. Too short: late packets reach a stranger. Too long: churn exhausts the range.
    pub rest: Duration,
    /// How long a peer may take to answer a request for space before the next one is asked. A few round trips.
    /// Too short: two peers give where one was enough. Too long: one dead peer uses up the caller's deadline.
    pub ask_timeout: Duration,
    /// Pause before the first repetition when nobody could give; doubles up to [`Config::ask_pause_max`].
    pub ask_pause: Duration,
    /// Longest pause between rounds. Too short: exhausted fabrics chatter. Too long: freed space is found late.
    pub ask_pause_max: Duration,
    /// Least time between two publications of the own free count. Too short: gossip carries load figures.
    /// Too long: peers ask the wrong ones first.
    pub report_interval: Duration,
    /// Least time between a removal and the use of the removed peer's space, for gossip to tell who has to be asked; and between a
    /// restart and the first gift, for gossip to tell whether this peer was removed meanwhile.
    /// A few times the convergence of gossip; the members that are known are waited for in any case.
    pub removal_settle: Duration,
    /// How long the removed peer itself is waited for when it can still be reached, so that it stops first. Above the time
    /// in which a death is noticed, or a peer that has just died is waited for in vain. Too short: a peer that is removed
    /// while it runs may use its addresses for a moment after the heir does.
    pub removal_patience: Duration,
    /// Least time between something becoming free and the look for scraps to give back, and between two such looks; longer in
    /// large fabrics, and up to twice as long by chance. Too short: what is given back is needed again at once. Too long: blocks pile up.
    pub tidy_pause: Duration,
    /// After how long a dead peer is removed by the living majority; never unless set. Days. Too short: an outage costs hosts their
    /// addresses. Too long: the space of hosts that are gone stays out of use.
    pub reclaim_after: Option<Duration>,
    /// How often members that have not answered about a removal are asked again.
    pub removal_retry: Duration,
}

impl Config {
    /// Defaults for `range`.
    pub fn new(range: Ipv4Net) -> Config {
        Config {
            range: range.trunc(),
            rest: Duration::from_secs(30),
            ask_timeout: Duration::from_millis(400),
            ask_pause: Duration::from_millis(200),
            ask_pause_max: Duration::from_secs(2),
            report_interval: Duration::from_secs(1),
            removal_settle: Duration::from_secs(2),
            removal_patience: Duration::from_secs(8),
            tidy_pause: Duration::from_secs(10),
            reclaim_after: None,
            removal_retry: Duration::from_secs(1),
        }
    }
}

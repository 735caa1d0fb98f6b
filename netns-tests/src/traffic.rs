//! Echo requests: a few of them, or a stream that runs while something else happens.

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::command::{self, Output};
use crate::netns::NetNs;
use crate::wait::until;

/// Time for the answers to the last requests.
const LINGER: Duration = Duration::from_secs(2);

/// Once it has an answer, `ping` waits for the last ones twice as long as the slowest took, which on a busy machine is too short: requests
/// that may still be under way when it leaves are sent again, so often in all.
const TRIES: u32 = 4;

/// Echo requests as `ping` sends them.
#[derive(Debug, Clone, Copy)]
pub struct Ping {
    /// How many.
    pub count: u32,
    /// Time between two.
    pub interval: Duration,
    /// Bytes of payload.
    pub size: u32,
}

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u32,
    /// Requests answered.
    pub answered: u32,
    /// Sequence numbers of the answers in the order of arrival.
    pub sequence: Vec<u32>,
    /// Round trips in milliseconds.
    pub rtt_ms: Vec<f64>,
}

/// A ping that runs until it is stopped.
#[derive(Debug)]
pub struct Pinger {
    child: Option<Child>,
    what: String,
    start: Instant,
}

impl Default for Ping {
    fn default() -> Self {
        Self { count: 3, interval: Duration::from_millis(20), size: 56 }
    }
}

impl Ping {
    /// One request.
    pub fn once() -> Self {
        Self { count: 1, ..Self::default() }
    }

    /// Sends them from a namespace and waits for the answers.
    ///
    /// # Errors
    /// When `ping` cannot be run; lost answers are in the report.
    pub fn send(&self, from: &NetNs, to: IpAddr) -> Result<PingReport> {
        let mut command = self.command(to);
        command.args(["-c", &self.count.to_string()]);
        let limit = self.interval * self.count + LINGER + Duration::from_secs(10);
        PingReport::parse(&from.run(&mut command, &[], limit)?)
    }

    /// Sends them and fails unless all are answered.
    ///
    /// # Errors
    /// See above.
    pub fn expect_all(&self, from: &NetNs, to: IpAddr) -> Result<PingReport> {
        for _ in 1..TRIES {
            let report = self.send(from, to)?;
            if !report.may_have_left_early() {
                return self.all_of(report, from, to);
            }
        }
        self.all_of(self.send(from, to)?, from, to)
    }

    fn all_of(&self, report: PingReport, from: &NetNs, to: IpAddr) -> Result<PingReport> {
        if report.answered != self.count {
            bail!("{} to {to}: got {} answers, want {}", from.name(), report.answered, self.count);
        }
        Ok(report)
    }

    /// Starts to send without an end; the count is ignored.
    ///
    /// # Errors
    /// When `ping` cannot be started.
    pub fn start(&self, from: &NetNs, to: IpAddr) -> Result<Pinger> {
        let mut command = self.command(to);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let what = command::describe(&command);
        Ok(Pinger { child: Some(from.spawn(&mut command)?), what, start: Instant::now() })
    }

    fn command(&self, to: IpAddr) -> Command {
        let mut command = Command::new("ping");
        let (size, interval) = (self.size.to_string(), format!("{:.3}", self.interval.as_secs_f64()));
        command.env("LC_ALL", "C").args([
            "-n",
            "-s",
            &size,
            "-i",
            &interval,
            "-W",
            &LINGER.as_secs().to_string(),
        ]);
        command.arg(to.to_string());
        command
    }
}

impl Pinger {
    /// Stops and counts. A request that was sent just before is not counted unless it was answered.
    ///
    /// # Errors
    /// When `ping` does not end or says something that is not understood.
    pub fn stop(mut self) -> Result<PingReport> {
        let Some(child) = self.child.take() else { bail!("`{}` is stopped already", self.what) };
        kill_process(Pid::from_child(&child), Signal::INT)
            .with_context(|| format!("`{}` has ended", self.what))?;
        let limit = self.start.elapsed() + LINGER + Duration::from_secs(10);
        let output = command::finish(child, &self.what, &[], self.start, limit)?;
        PingReport::parse(&output).map(PingReport::without_the_last)
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ended_already = child.kill();
            let _reaped = child.wait();
        }
    }
}

impl PingReport {
    /// Whether only requests at the end are without an answer, which may have been under way when `ping` left.
    fn may_have_left_early(&self) -> bool {
        let last = self.sequence.iter().max().copied().unwrap_or(0);
        last > 0 && last < self.sent && self.sequence.len() == last as usize
    }

    /// Forgets the very last request if it has no answer: it was sent when `ping` was stopped.
    fn without_the_last(mut self) -> Self {
        self.sent -= u32::from(self.sequence.iter().max().is_some_and(|last| last + 1 == self.sent));
        self
    }

    /// The longest run of requests without an answer between two answers, or before the first.
    pub fn longest_gap(&self) -> u32 {
        let mut sorted = self.sequence.clone();
        sorted.sort_unstable();
        let mut before = 0;
        let mut longest = 0;
        for seq in sorted {
            longest = longest.max(seq.saturating_sub(before + 1));
            before = seq;
        }
        longest.max(self.sent.saturating_sub(before))
    }

    /// The round trip that half of the answers beat.
    pub fn median_ms(&self) -> Option<f64> {
        let mut sorted = self.rtt_ms.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }

    /// The round trip in milliseconds that so many of a hundred answers beat.
    pub fn percentile_ms(&self, percent: usize) -> Option<f64> {
        let mut sorted = self.rtt_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        sorted.get((sorted.len() * percent / 100).min(last)).copied()
    }

    fn parse(output: &Output) -> Result<Self> {
        let summary = output.stdout.lines().find(|line| line.contains("packets transmitted"));
        let Some(summary) = summary else { bail!("`ping` said nothing useful: {}", output.text().trim()) };
        let numbers: Vec<u32> = summary.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [sent, answered, ..] = numbers.as_slice() else { bail!("not understood: {summary}") };
        let field = |line: &str, name: &str| {
            let rest = &line[line.find(name)? + name.len()..];
            rest.split(' ').next().map(str::to_owned)
        };
        let answers = || output.stdout.lines().filter(|line| line.contains(" bytes from "));
        let sequence = answers().filter_map(|line| field(line, "icmp_seq=")?.parse().ok()).collect();
        let rtt_ms = answers().filter_map(|line| field(line, "time=")?.parse().ok()).collect();
        Ok(Self { sent: *sent, answered: *answered, sequence, rtt_ms })
    }
}

/// Sends single requests until one is answered; answers the time that it took.
///
/// # Errors
/// When none is answered within the limit.
pub fn ping_until_answered(from: &NetNs, to: IpAddr, limit: Duration) -> Result<Duration> {
    let start = Instant::now();
    // Short waits, so that what is measured is the fabric and not the pause of `ping`.
    let quick = ["-n", "-c", "1", "-W", "0.05"];
    let what = format!("{} reaches {to}", from.name());
    until(limit, &what, || {
        let mut command = Command::new("ping");
        command.args(quick).arg(to.to_string());
        from.run(&mut command, &[], Duration::from_secs(5)).ok().filter(Output::success)
    })?;
    Ok(start.elapsed())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::PingReport;
    use crate::command::Output;

    const TEXT: &str = "PING 10.0.0.1 (10.0.0.1) 56(84) bytes of data.\n\
        64 bytes from 10.0.0.1: icmp_seq=1 ttl=64 time=0.051 ms\n\
        64 bytes from 10.0.0.1: icmp_seq=4 ttl=64 time=0.031 ms\n\n\
        --- 10.0.0.1 ping statistics ---\n5 packets transmitted, 2 received, 60% packet loss, time 4ms\n";

    #[test]
    fn gaps_are_counted_inside_and_at_the_end() {
        let output =
            Output { code: Some(1), stdout: TEXT.into(), stderr: String::new(), elapsed: Duration::ZERO };
        let report = PingReport::parse(&output).expect("understood");
        assert_eq!((report.sent, report.answered), (5, 2));
        assert_eq!(report.sequence, [1, 4]);
        assert_eq!(report.longest_gap(), 2);
        assert_eq!(report.median_ms(), Some(0.051));
        assert!(!report.may_have_left_early(), "two are missing in the middle");
        let late = PingReport { sent: 3, answered: 2, sequence: vec![2, 1], rtt_ms: Vec::new() };
        assert!(late.may_have_left_early());
        assert_eq!(late.without_the_last().sent, 2);
        assert_eq!((report.percentile_ms(49), report.percentile_ms(100)), (Some(0.031), Some(0.051)));
    }
}

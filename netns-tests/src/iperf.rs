//! How fast TCP goes between two namespaces: `iperf3`.

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::netns::NetNs;
use crate::wait::until;

/// Making the connection and exchanging results take a moment beside the test itself.
const OVERHEAD: Duration = Duration::from_secs(15);

/// How long the server gets to listen.
const LISTEN_LIMIT: Duration = Duration::from_secs(5);

/// One run of `iperf3`.
#[derive(Debug, Clone, Copy)]
pub struct Iperf {
    /// Seconds that count.
    pub seconds: u32,
    /// Parallel streams.
    pub streams: u32,
}

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The client.
    Forward,
    /// The server.
    Reverse,
    /// Both at the same time, with so many streams each.
    Both,
}

/// What `iperf3` measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throughput {
    /// Bits per second of payload at the receiver, of both directions together where both send.
    pub bits_per_second: f64,
    /// Bytes of payload moved, with those of the first second, which does not count for the rate.
    pub bytes: f64,
    /// Segments sent again.
    pub retransmits: u64,
}

impl Iperf {
    /// Sends from one namespace to an address in the other.
    ///
    /// # Errors
    /// When `iperf3` fails.
    pub fn run(&self, from: &NetNs, to: &NetNs, address: IpAddr) -> Result<Throughput> {
        self.run_towards(Direction::Forward, from, to, address)
    }

    /// The same with a direction; `from` is where the client is.
    ///
    /// # Errors
    /// See above.
    pub fn run_towards(
        &self,
        direction: Direction,
        from: &NetNs,
        to: &NetNs,
        address: IpAddr,
    ) -> Result<Throughput> {
        let address = address.to_string();
        let mut server = Command::new("iperf3");
        server
            .args(["-s", "-1", "-B", &address])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut server = to.spawn(&mut server)?;
        let measured = self.measure(direction, from, &address);
        // It has ended by itself after a test that went well.
        let _ended = server.kill();
        server.wait().context("cannot wait for the server of iperf3")?;
        measured
    }

    fn measure(&self, direction: Direction, from: &NetNs, address: &str) -> Result<Throughput> {
        let (seconds, streams) = (self.seconds.to_string(), self.streams.to_string());
        let mut last = String::new();
        let (answer, _) = until(LISTEN_LIMIT, "the server of iperf3 listens", || {
            let mut client = Command::new("iperf3");
            client.args([
                "-c",
                address,
                "-t",
                &seconds,
                "-P",
                &streams,
                "-O",
                "1",
                "-J",
                "--connect-timeout",
                "2000",
            ]);
            match direction {
                Direction::Forward => {}
                Direction::Reverse => drop(client.arg("--reverse")),
                Direction::Both => drop(client.arg("--bidir")),
            }
            let limit = Duration::from_secs(u64::from(self.seconds) + 1) + OVERHEAD;
            match from.run(&mut client, &[], limit) {
                // With `-J` some versions succeed although the server did not listen yet.
                Ok(output) if output.success() && parse(&output.stdout).is_ok() => Some(output.stdout),
                Ok(output) => {
                    last = output.stdout;
                    None
                }
                Err(error) => {
                    last = format!("{error:#}");
                    None
                }
            }
        })
        .with_context(|| last.trim().to_owned())?;
        parse(&answer)
    }
}

fn parse(answer: &str) -> Result<Throughput> {
    let value: Value = serde_json::from_str(answer).context("iperf3 answered no JSON")?;
    let end = &value["end"];
    let Some(received) = end["sum_received"]["bits_per_second"].as_f64() else {
        bail!("iperf3 measured nothing: {}", value["error"]);
    };
    // Where both send, what the client received has a name of its own.
    let back = end["sum_received_bidir_reverse"]["bits_per_second"].as_f64();
    let moved = |interval: &Value| {
        ["sum", "sum_bidir_reverse"]
            .into_iter()
            .filter_map(|sum| interval[sum]["bytes"].as_f64())
            .sum::<f64>()
    };
    Ok(Throughput {
        bits_per_second: received + back.unwrap_or(0.0),
        bytes: value["intervals"].as_array().into_iter().flatten().map(moved).sum(),
        retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::{Throughput, parse};

    #[test]
    fn both_directions_are_added() {
        let answer = r#"{"intervals": [{"sum": {"bytes": 5}, "sum_bidir_reverse": {"bytes": 2}}, {"sum": {"bytes": 1}}],
            "end": {"sum_sent": {"retransmits": 3}, "sum_received": {"bits_per_second": 10},
            "sum_received_bidir_reverse": {"bits_per_second": 4}}}"#;
        let want = Throughput { bits_per_second: 14.0, bytes: 8.0, retransmits: 3 };
        assert_eq!(parse(answer).expect("understood"), want);
        assert!(parse(r#"{"error": "no route"}"#).expect_err("no figures").to_string().contains("no route"));
    }
}

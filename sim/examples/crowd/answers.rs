//! What a user asks of a router that knows a thousand others: how long the answer takes and how long it is.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::Host;

/// What is asked.
const QUESTIONS: [&[&str]; 8] = [
    &["status"],
    &["status", "connections"],
    &["status", "peers"],
    &["status", "ipam"],
    &["ipam", "audit"],
    &["ps"],
    &["report"],
    &["--json", "status", "peers"],
];

/// Times each question is asked; the fastest counts, the others met something else.
const TRIES: usize = 3;

/// Asks everything and prints a line for each.
pub(crate) fn ask(router: &Host, metrics: &str) -> Result<()> {
    let mut out = io::stdout();
    for words in QUESTIONS {
        let mut best = Duration::MAX;
        let mut text = String::new();
        for _ in 0..TRIES {
            let output = router.weavectl(words)?;
            best = best.min(output.elapsed);
            text = output.text();
        }
        let name = words.join(" ");
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        let (lines, bytes) = (text.lines().count(), text.len());
        writeln!(
            out,
            "weavectl {name:<20} {best:>8.1?} {lines:>6} lines, widest {widest:>5}, {bytes:>8} bytes"
        )?;
        let file = router.dir().join(format!("answer {name}"));
        fs::write(&file, &text).with_context(|| format!("cannot write `{}`", file.display()))?;
    }
    let (bytes, time) = router.ns().enter(|| scrape(metrics))??;
    writeln!(out, "metrics {time:>30.1?} {bytes:>31} bytes")?;
    Ok(())
}

fn scrape(address: &str) -> Result<(usize, Duration)> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok((text.len(), start.elapsed()))
}

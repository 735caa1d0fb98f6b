//! Measures how many addresses a second a router leases through its socket, each durable before it is answered. Needs root and the
//! optimised programs.
//!
//! `cargo build --release -p router -p weavectl -p cni-plugin`, then
//! `cargo run -p netns-tests --example allocations [CALLERS [SECONDS]]`
//!
//! Each caller has a connection of its own and asks again when it has its answer; now and then it gives an address back. The state
//! directory is below the temporary folder, on whatever disk that is: a RAM disk would measure no fsync.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use lab::Lab;

/// Callers that the goal is set for.
const CALLERS: u64 = 64;

/// Long enough for the journal to be rewritten some times.
const SECONDS: u64 = 15;

fn main() -> Result<()> {
    let [callers, seconds] = lab::numbers([CALLERS, SECONDS])?;
    let lab = Lab::new(1)?;
    let host = lab.host(1);
    host.start_weaved(&["--log", "warn"])?;
    host.up(&[])?;
    let (socket, stop) = (host.socket(), AtomicBool::new(false));
    let start = Instant::now();
    let mut times: Vec<Duration> = thread::scope(|scope| {
        let (socket, stop) = (&socket, &stop);
        let threads: Vec<_> =
            (0..callers).map(|caller| scope.spawn(move || call(socket, caller, stop))).collect();
        thread::sleep(Duration::from_secs(seconds));
        stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| anyhow!("a caller panicked"))??);
        }
        Ok::<_, anyhow::Error>(all)
    })?;
    let wall = start.elapsed();
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    writeln!(
        io::stdout(),
        "{callers} callers: {:.0} leases/s over {:.1} s, each durable; p50 {:.1?}, p99 {:.1?}, worst {:.1?}",
        times.len() as f64 / wall.as_secs_f64(),
        wall.as_secs_f64(),
        at(50),
        at(99),
        times.last().copied().unwrap_or_default(),
    )?;
    Ok(())
}

/// Leases one address after the other; answers how long each took.
fn call(socket: &Path, caller: u64, stop: &AtomicBool) -> Result<Vec<Duration>> {
    let mut connection = Connection::open(socket)?;
    let mut times = Vec::new();
    for n in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let start = Instant::now();
        connection.post("/v1/lease", &format!(r#"{{"name":"bench-{caller}-{n}"}}"#))?;
        times.push(start.elapsed());
        // One in four stays.
        if n % 4 != 0 {
            connection.post("/v1/release", &format!(r#"{{"name":"bench-{caller}-{n}"}}"#))?;
        }
    }
    Ok(times)
}

/// HTTP as far as the socket speaks it.
struct Connection {
    stream: BufReader<UnixStream>,
}

impl Connection {
    fn open(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("cannot connect")?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    fn post(&mut self, path: &str, body: &str) -> Result<()> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: weave\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes()).context("cannot ask")?;
        let (mut status, mut length) = (String::new(), 0);
        self.stream.read_line(&mut status).context("no answer")?;
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).context("answer cut off")?;
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().context("no length")?;
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).context("answer cut off")?;
        if !status.starts_with("HTTP/1.1 200") {
            bail!("{path}: {}: {}", status.trim(), String::from_utf8_lossy(&answer));
        }
        Ok(())
    }
}

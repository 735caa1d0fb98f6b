//! TCP between namespaces: transfers of known bytes, and connections that must live through what happens meanwhile.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::netns::NetNs;
use crate::text::payload;

/// A connection that moves nothing for so long is dead.
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Bytes that a [`Flow`] sends and expects back at a time.
const ROUND: usize = 1400;

/// Pause between two rounds: a flow shall be alive, not load the machine.
const PAUSE: Duration = Duration::from_millis(2);

/// Sends the bytes over one connection and fails unless exactly these arrive; answers the time that it took.
///
/// # Errors
/// When the connection breaks or stalls, or other bytes arrive.
pub fn transfer(from: &NetNs, to: &NetNs, address: IpAddr, bytes: &[u8]) -> Result<Duration> {
    let start = Instant::now();
    let (mut client, mut server) = connect(from, to, address)?;
    let arrived = thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            let mut arrived = Vec::with_capacity(bytes.len());
            server.read_to_end(&mut arrived).map(|_| arrived)
        });
        client.write_all(bytes).context("the sender's connection broke")?;
        client.shutdown(Shutdown::Write).context("cannot end the transfer")?;
        receiver
            .join()
            .map_err(|_| anyhow!("the receiver panicked"))?
            .context("the receiver's connection broke")
    })?;
    if arrived != bytes {
        let same = arrived.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        bail!("other bytes arrived: {} of {} bytes, the first {same} are right", arrived.len(), bytes.len());
    }
    Ok(start.elapsed())
}

/// A live connection that sends and gets back known bytes until it is stopped.
#[derive(Debug)]
pub struct Flow {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    work: JoinHandle<Result<FlowReport>>,
}

/// How a connection fared.
#[derive(Debug, Clone, Copy)]
pub struct FlowReport {
    /// Rounds of sending and getting back.
    pub rounds: u64,
    /// The longest round.
    pub longest_stall: Duration,
}

impl Flow {
    /// Makes the connection and starts to use it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn start(from: &NetNs, to: &NetNs, address: IpAddr) -> Result<Self> {
        let (client, server) = connect(from, to, address)?;
        thread::spawn(move || echo(server));
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let work = thread::spawn(move || drive(client, &stopped, &counted));
        Ok(Self { stop, rounds, work })
    }

    /// Rounds so far.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When the connection broke or stalled, or other bytes came back.
    pub fn stop(self) -> Result<FlowReport> {
        self.stop.store(true, Ordering::Relaxed);
        self.work.join().map_err(|_| anyhow!("the flow panicked"))?
    }
}

/// Both ends of a new connection.
fn connect(from: &NetNs, to: &NetNs, address: IpAddr) -> Result<(TcpStream, TcpStream)> {
    let listener = to.enter(|| TcpListener::bind(SocketAddr::new(address, 0)))?;
    let listener = listener.with_context(|| format!("cannot listen on {address} in `{}`", to.name()))?;
    let target = listener.local_addr().context("a listener without an address")?;
    let client = from.enter(|| TcpStream::connect_timeout(&target, CONNECT_LIMIT))?;
    let client = client.with_context(|| format!("`{}` cannot connect to {target}", from.name()))?;
    let (server, _) = listener.accept().context("cannot accept")?;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(STALL_LIMIT)).context("cannot set the time-out")?;
        stream.set_write_timeout(Some(STALL_LIMIT)).context("cannot set the time-out")?;
        stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
    }
    Ok((client, server))
}

fn echo(mut server: TcpStream) {
    let mut buffer = [0; ROUND];
    // The other end reports what breaks; here it only ends the loop.
    while server.read_exact(&mut buffer).is_ok() && server.write_all(&buffer).is_ok() {}
}

fn drive(mut client: TcpStream, stop: &AtomicBool, rounds: &AtomicU64) -> Result<FlowReport> {
    let mut report = FlowReport { rounds: 0, longest_stall: Duration::ZERO };
    let mut back = [0; ROUND];
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let sent = payload(report.rounds, ROUND);
        client.write_all(&sent).with_context(|| format!("broken after {} rounds", report.rounds))?;
        client.read_exact(&mut back).with_context(|| format!("broken after {} rounds", report.rounds))?;
        if back.as_slice() != sent {
            bail!("other bytes came back in round {}", report.rounds);
        }
        report.rounds += 1;
        report.longest_stall = report.longest_stall.max(start.elapsed());
        rounds.store(report.rounds, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    Ok(report)
}

//! UDP between namespaces with every datagram accounted for: size, content, order.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::net::sockopt;

use crate::netns::NetNs;
use crate::text::payload;

/// Sequence number in front of each datagram; the rest follows from it.
const HEADER: usize = 4;

/// Both sockets hold a burst of the largest datagrams.
const BUFFER: usize = 16 << 20;

/// Datagrams under way at most in a [`Stream`]: enough to fill super-frames, too few to overflow any queue.
const WINDOW: u32 = 64;

/// How long a stream waits for an acknowledgement before it takes the rest of a window for lost.
const WINDOW_LIMIT: Duration = Duration::from_millis(200);

/// One datagram at a time, each sent back by the other end before the next goes out: each lost packet of the wire costs one
/// datagram at most, so losses can be compared with the wire's count.
#[derive(Debug, Clone)]
pub struct Lockstep {
    /// Sizes of the datagrams, at least 4 bytes each.
    pub sizes: Vec<usize>,
    /// How long to wait for one to come back: longer than any queue holds it, so that a late one counts as lost.
    pub patience: Duration,
}

/// How it went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LockstepReport {
    /// Datagrams sent.
    pub sent: u32,
    /// Those that did not come back.
    pub lost: u32,
    /// Sizes of those.
    pub lost_sizes: Vec<usize>,
}

/// A stream of datagrams: bursts that are packed and put into trains.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Sizes of the datagrams, at least 4 bytes each.
    pub sizes: Vec<usize>,
}

/// When the datagrams of a [`Stream`] leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// In bursts of a window, each when the one before has arrived: as fast as it goes without loss.
    Window,
    /// By the clock, so many each millisecond on average, whatever becomes of them.
    PerMillisecond(u32),
}

/// What arrived of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamReport {
    /// Datagrams sent.
    pub sent: u32,
    /// Datagrams that arrived with the right content.
    pub arrived: u32,
    /// Those that arrived after one of a higher number, or twice.
    pub reordered: u32,
    /// Those with other content.
    pub mangled: u32,
}

impl Lockstep {
    /// Sends all.
    ///
    /// # Errors
    /// When a socket fails or a datagram comes back changed.
    pub fn run(&self, from: &NetNs, to: &NetNs, address: IpAddr) -> Result<LockstepReport> {
        let (client, server) = sockets(from, to, address)?;
        server.set_read_timeout(Some(POLL)).context("cannot set the time-out")?;
        client.set_read_timeout(Some(self.patience)).context("cannot set the time-out")?;
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let echo = scope.spawn(|| reflect(&server, &done));
            let report = self.drive(&client);
            done.store(true, Ordering::Relaxed);
            echo.join().map_err(|_| anyhow!("the reflector panicked"))??;
            report
        })
    }

    fn drive(&self, client: &UdpSocket) -> Result<LockstepReport> {
        let mut report = LockstepReport::default();
        let mut buffer = vec![0; 1 << 16];
        for &size in &self.sizes {
            let datagram = datagram(report.sent, size);
            client.send(&datagram).with_context(|| format!("cannot send {size} bytes"))?;
            if !comes_back(client, &datagram, report.sent, &mut buffer)? {
                report.lost += 1;
                report.lost_sizes.push(size);
            }
            report.sent += 1;
        }
        Ok(report)
    }
}

/// Waits for a datagram; earlier ones that are late count as lost and are passed over.
fn comes_back(client: &UdpSocket, want: &[u8], number: u32, buffer: &mut [u8]) -> Result<bool> {
    loop {
        let len = match client.recv(buffer) {
            Ok(len) => len,
            Err(error) if timed_out(&error) => return Ok(false),
            Err(error) if interrupted(&error) => continue,
            Err(error) => return Err(error).context("cannot receive"),
        };
        if buffer[..len] == *want {
            return Ok(true);
        }
        match number_of(&buffer[..len]) {
            Some(got) if got < number => {}
            got => bail!("number {number} of {} bytes came back as {got:?} of {len} bytes", want.len()),
        }
    }
}

impl Stream {
    /// Sends all in bursts.
    ///
    /// # Errors
    /// When a socket fails; what the network did is in the report.
    pub fn run(&self, from: &NetNs, to: &NetNs, address: IpAddr) -> Result<StreamReport> {
        self.run_at(Pace::Window, from, to, address)
    }

    /// Sends all at a pace.
    ///
    /// # Errors
    /// See above.
    pub fn run_at(&self, pace: Pace, from: &NetNs, to: &NetNs, address: IpAddr) -> Result<StreamReport> {
        let (client, server) = sockets(from, to, address)?;
        server.set_read_timeout(Some(POLL)).context("cannot set the time-out")?;
        client.set_read_timeout(Some(WINDOW_LIMIT)).context("cannot set the time-out")?;
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let receiver = scope.spawn(|| self.receive(&server, &done));
            let sent = match pace {
                Pace::Window => self.send(&client),
                Pace::PerMillisecond(count) => self.send_by_the_clock(&client, count),
            };
            done.store(true, Ordering::Relaxed);
            let report = receiver.join().map_err(|_| anyhow!("the receiver panicked"))??;
            Ok(StreamReport { sent: sent?, ..report })
        })
    }

    /// Bursts of a window, each ended by an acknowledgement or the time-out.
    fn send(&self, client: &UdpSocket) -> Result<u32> {
        let mut ack = [0; HEADER];
        let mut sent = 0;
        for burst in self.sizes.chunks(WINDOW as usize) {
            for &size in burst {
                client.send(&datagram(sent, size)).with_context(|| format!("cannot send {size} bytes"))?;
                sent += 1;
            }
            loop {
                match client.recv(&mut ack) {
                    Ok(_) if number_of(&ack).is_some_and(|number| number + 1 >= sent) => break,
                    Ok(_) => {}
                    Err(error) if timed_out(&error) => break,
                    Err(error) if interrupted(&error) => {}
                    Err(error) => return Err(error).context("cannot receive an acknowledgement"),
                }
            }
        }
        Ok(sent)
    }

    fn send_by_the_clock(&self, client: &UdpSocket, per_millisecond: u32) -> Result<u32> {
        let start = Instant::now();
        let mut sent = 0;
        for &size in &self.sizes {
            let due = Duration::from_millis(u64::from(sent / per_millisecond));
            // A sender that was late catches up in a burst, which the queues have to hold as they hold those of any application.
            if let Some(early) = due.checked_sub(start.elapsed()) {
                thread::sleep(early);
            }
            client.send(&datagram(sent, size)).with_context(|| format!("cannot send {size} bytes"))?;
            sent += 1;
        }
        // The last ones are under way for less than a window may take.
        thread::sleep(WINDOW_LIMIT);
        Ok(sent)
    }

    fn receive(&self, server: &UdpSocket, done: &AtomicBool) -> Result<StreamReport> {
        let mut report = StreamReport::default();
        let mut buffer = vec![0; 1 << 16];
        let mut next = 0;
        loop {
            let (len, from) = match server.recv_from(&mut buffer) {
                Ok(got) => got,
                Err(error) if timed_out(&error) && done.load(Ordering::Relaxed) => return Ok(report),
                Err(error) if timed_out(&error) || interrupted(&error) => continue,
                Err(error) => return Err(error).context("cannot receive"),
            };
            let number = number_of(&buffer[..len]);
            let size = number.and_then(|number| self.sizes.get(number as usize).copied());
            let (Some(number), Some(size)) = (number, size) else {
                report.mangled += 1;
                continue;
            };
            if buffer[..len] != datagram(number, size) {
                report.mangled += 1;
                continue;
            }
            report.arrived += 1;
            report.reordered += u32::from(number < next);
            next = next.max(number + 1);
            if (number + 1) % WINDOW == 0 || number as usize + 1 == self.sizes.len() {
                server.send_to(&number.to_be_bytes(), from).context("cannot acknowledge")?;
            }
        }
    }
}

/// How often a receiving thread looks whether it shall end.
const POLL: Duration = Duration::from_millis(50);

/// Sends everything back to where it came from.
fn reflect(server: &UdpSocket, done: &AtomicBool) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    while !done.load(Ordering::Relaxed) {
        match server.recv_from(&mut buffer) {
            Ok((len, from)) => server.send_to(&buffer[..len], from).map(drop).context("cannot send back")?,
            Err(error) if timed_out(&error) || interrupted(&error) => {}
            Err(error) => return Err(error).context("cannot receive"),
        }
    }
    Ok(())
}

/// A connected socket and the one that it talks to, with large buffers.
fn sockets(from: &NetNs, to: &NetNs, address: IpAddr) -> Result<(UdpSocket, UdpSocket)> {
    let (client, server) = connected(from, to, address)?;
    for socket in [&client, &server] {
        sockopt::set_socket_recv_buffer_size_force(socket, BUFFER).context("cannot enlarge a buffer")?;
    }
    Ok((client, server))
}

/// A connected socket and the one that it talks to.
pub(crate) fn connected(from: &NetNs, to: &NetNs, address: IpAddr) -> Result<(UdpSocket, UdpSocket)> {
    let server =
        to.enter(|| UdpSocket::bind(SocketAddr::new(address, 0)))?.context("cannot bind the server")?;
    let target = server.local_addr().context("a socket without an address")?;
    let any: IpAddr = match address {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    };
    let client =
        from.enter(|| UdpSocket::bind(SocketAddr::new(any, 0)))?.context("cannot bind the client")?;
    client.connect(target).with_context(|| format!("no route to {target} from `{}`", from.name()))?;
    Ok((client, server))
}

fn datagram(number: u32, size: usize) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend(payload(u64::from(number) + 1, size.saturating_sub(HEADER)));
    bytes
}

fn number_of(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk::<HEADER>().map(|head| u32::from_be_bytes(*head))
}

/// A receive with a time limit is not restarted after a stop and a continue (signal(7)).
pub(crate) fn interrupted(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::Interrupted
}

pub(crate) fn timed_out(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

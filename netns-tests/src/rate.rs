//! UDP between namespaces, measured: how many datagrams a second arrive without loss, and how long one takes there and back.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::net::sockopt;

use crate::burst::Burst;
use crate::netns::NetNs;
use crate::udp::{connected, interrupted, timed_out};

/// Buffers of both sockets: several windows of the largest datagrams.
const BUFFER: usize = 4 << 20;

/// Datagrams that the sender hands to the kernel at a time; the last one asks for an acknowledgement.
const BURST: usize = 32;

/// Datagrams that the receiver takes at a time.
const TAKEN: usize = 64;

/// A window that is not acknowledged within this time is given up as lost.
const WINDOW_LIMIT: Duration = Duration::from_millis(20);

/// A reply that takes longer is lost.
const REPLY_LIMIT: Duration = Duration::from_millis(200);

/// How often the receiver looks whether it shall end.
const POLL: Duration = Duration::from_millis(50);

/// Sequence number, then a byte that is 1 where an acknowledgement is wanted.
const HEADER: usize = 9;

/// Largest acknowledgement.
const ACK: usize = 64;

/// Datagrams one way, with so few in flight that no queue overflows: the rate at which nothing is lost.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Bytes of payload, at least 9.
    pub size: usize,
    /// Datagrams in flight at most.
    pub in_flight: u64,
    /// How long to send.
    pub time: Duration,
}

/// What arrived.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowReport {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams received.
    pub received: u64,
    /// Received each second, from the first to the last one.
    pub per_second: f64,
}

/// One datagram at a time and its answer, as a question and an answer of a service.
#[derive(Debug, Clone, Copy)]
pub struct RequestReply {
    /// Bytes of payload both ways, 9 to 64.
    pub size: usize,
    /// How long to ask.
    pub time: Duration,
}

impl Window {
    /// Sends from one namespace to an address in the other.
    ///
    /// # Errors
    /// When a socket fails or nothing arrives; what is lost is in the report.
    pub fn run(&self, from: &NetNs, to: &NetNs, address: IpAddr) -> Result<WindowReport> {
        let ((sent, seen), client) = with_receiver(from, to, address, self.size, |client| self.send(client))?;
        drop(client);
        let (Some(first), Some(last)) = (seen.first, seen.last) else {
            bail!("nothing arrived of {sent} datagrams")
        };
        let time = last.duration_since(first).as_secs_f64();
        let per_second = if time > 0.0 { seen.count as f64 / time } else { 0.0 };
        Ok(WindowReport { sent, received: seen.count, per_second })
    }

    fn send(&self, client: &UdpSocket) -> Result<u64> {
        client.set_read_timeout(Some(WINDOW_LIMIT)).context("cannot set the time-out")?;
        let mut burst = Burst::new(BURST, self.size.max(HEADER));
        let mut acks = Burst::new(TAKEN, ACK);
        let (start, mut sent, mut acknowledged) = (Instant::now(), 0, 0);
        while start.elapsed() < self.time {
            for index in 0..BURST {
                sent += 1;
                let place = burst.place(index);
                place[..8].copy_from_slice(&u64::to_be_bytes(sent));
                place[8] = u8::from(index == BURST - 1);
            }
            burst.send(client).context("cannot send")?;
            while sent - acknowledged >= self.in_flight {
                match acks.receive(client) {
                    Ok(got) => {
                        let newest = (0..got).filter_map(|index| number_of(acks.datagram(index))).max();
                        acknowledged = acknowledged.max(newest.unwrap_or(0));
                    }
                    Err(error) if timed_out(&error) => acknowledged = sent,
                    Err(error) if interrupted(&error) => {}
                    Err(error) => return Err(error).context("cannot receive an acknowledgement"),
                }
            }
        }
        Ok(sent)
    }
}

impl RequestReply {
    /// Asks from one namespace at an address in the other; answers how long each took, shortest first.
    ///
    /// # Errors
    /// When a socket fails or nothing is answered.
    pub fn run(&self, from: &NetNs, to: &NetNs, address: IpAddr) -> Result<Vec<Duration>> {
        let ((mut times, _), client) =
            with_receiver(from, to, address, self.size, |client| self.ask(client))?;
        drop(client);
        if times.is_empty() {
            bail!("no request was answered");
        }
        times.sort_unstable();
        Ok(times)
    }

    fn ask(&self, client: &UdpSocket) -> Result<Vec<Duration>> {
        client.set_read_timeout(Some(REPLY_LIMIT)).context("cannot set the time-out")?;
        let mut request = vec![0; self.size.clamp(HEADER, ACK)];
        let mut reply = [0; ACK];
        let (start, mut number, mut times) = (Instant::now(), 0_u64, Vec::new());
        while start.elapsed() < self.time {
            number += 1;
            request[..8].copy_from_slice(&number.to_be_bytes());
            request[8] = 1;
            let asked = Instant::now();
            client.send(&request).context("cannot send")?;
            loop {
                match client.recv(&mut reply) {
                    Ok(len) if number_of(&reply[..len]) == Some(number) => {
                        times.push(asked.elapsed());
                        break;
                    }
                    // The answer to one that was given up.
                    Ok(_) => {}
                    Err(error) if timed_out(&error) => break,
                    Err(error) if interrupted(&error) => {}
                    Err(error) => return Err(error).context("cannot receive"),
                }
            }
        }
        Ok(times)
    }
}

/// What the receiver saw.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    count: u64,
    first: Option<Instant>,
    last: Option<Instant>,
}

/// Runs a sender while a receiver counts and acknowledges.
fn with_receiver<T>(
    from: &NetNs,
    to: &NetNs,
    address: IpAddr,
    size: usize,
    send: impl FnOnce(&UdpSocket) -> Result<T>,
) -> Result<((T, Seen), UdpSocket)> {
    let (client, server) = connected(from, to, address)?;
    server.set_read_timeout(Some(POLL)).context("cannot set the time-out")?;
    for socket in [&client, &server] {
        sockopt::set_socket_recv_buffer_size_force(socket, BUFFER).context("cannot enlarge a buffer")?;
        sockopt::set_socket_send_buffer_size_force(socket, BUFFER).context("cannot enlarge a buffer")?;
    }
    let peer = SocketAddr::new(local_ip(&client)?, client.local_addr().context("no address")?.port());
    // Connected, so that acknowledgements need no address each.
    server.connect(peer).with_context(|| format!("no route back to {peer} from `{}`", to.name()))?;
    let done = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&server, size, &done));
        let sent = send(&client);
        done.store(true, Ordering::Relaxed);
        let seen = receiver.join().map_err(|_| anyhow!("the receiver panicked"))??;
        Ok::<_, anyhow::Error>((sent?, seen))
    })?;
    Ok((result, client))
}

fn local_ip(socket: &UdpSocket) -> Result<IpAddr> {
    socket.local_addr().map(|address| address.ip()).context("a socket without an address")
}

fn receive(server: &UdpSocket, size: usize, done: &AtomicBool) -> Result<Seen> {
    let mut burst = Burst::new(TAKEN, size.max(HEADER));
    let mut seen = Seen::default();
    loop {
        let got = match burst.receive(server) {
            Ok(got) => got,
            Err(error) if timed_out(&error) && done.load(Ordering::Relaxed) => return Ok(seen),
            Err(error) if timed_out(&error) || interrupted(&error) => continue,
            Err(error) => return Err(error).context("cannot receive"),
        };
        let now = Instant::now();
        for index in 0..got {
            let datagram = burst.datagram(index);
            seen.count += 1;
            seen.first.get_or_insert(now);
            seen.last = Some(now);
            if datagram.get(HEADER - 1) == Some(&1) {
                // One that cannot be sent is one that is lost.
                let _lost = server.send(&datagram[..datagram.len().min(ACK)]);
            }
        }
    }
}

fn number_of(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|head| u64::from_be_bytes(*head))
}

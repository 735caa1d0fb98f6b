//! Sockets of every kind at once: streams with segments of many sizes in both directions, and between them single datagrams and trains of
//! datagrams that are looked at one by one. Both paths carry the same; on both, exactly what was sent has to arrive.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use lab::{Container, NetNs, payload, set_option};
use rustix::net::{SendFlags, send};

use super::paths::{self, Path};
use crate::support::{Dice, drops_of, fabric, fabric_alone, figure, same};

/// Longest payload of UDP over IPv4.
const LONGEST: usize = 65_507;

/// Segments of one send with `UDP_SEGMENT` (`UDP_MAX_SEGMENTS` before Linux 6.9).
const MAX_SEGMENTS: usize = 64;

/// A datagram between saturating streams may meet a full queue, on any network: it is sent again so often.
const TRIES: usize = 30;

/// How long one datagram is waited for.
const PATIENCE: Duration = Duration::from_millis(300);

/// A stream that stands still for so long is dead.
const STALL: Duration = Duration::from_secs(20);

/// Bytes of a stream repeat after so many, a prime number, so that nothing falls on the same place twice.
const PERIOD: usize = 1_000_003;

/// How one stream is written.
struct Style {
    /// `TCP_MAXSEG` of both ends; `None` leaves it alone.
    segment: Option<i32>,
    /// Longest write.
    longest: usize,
}

#[test]
fn sockets_of_every_kind_at_once_carry_what_was_sent() {
    fabric(2, |lab| {
        let paths = paths::make(lab)?;
        for (path, seed) in paths.both.iter().zip([super::SEEDS[0]; 2]) {
            everything_at_once(path, seed, paths.ends.far4, paths.ends.far6)
                .with_context(|| drops_of(lab.hosts().iter()))
                .with_context(|| format!("through {}, seed {seed}", path.name))?;
        }
        Ok(())
    });
}

#[test]
fn paced_datagrams_are_not_lost_with_both_routers_on_one_core() {
    fabric_alone(2, |lab| {
        let paths = paths::make(lab)?;
        let [_, path] = &paths.both;
        for host in lab.hosts() {
            let pid = host.pid().context("the router does not run")?;
            host.ns().tool("taskset", &format!("--all-tasks --cpu-list --pid 0 {pid}"))?;
        }
        let mut dice = Dice::new(0x1c0e);
        let sizes: Vec<usize> = (0..12_000).map(|_| dice.between(4, 1300)).collect();
        for address in [IpAddr::V4(paths.ends.far4), IpAddr::V6(paths.ends.far6)] {
            // 4,000 a second is meant to be far below what one core carries; this is no measure of its capacity.
            let stream = lab::Stream { sizes: sizes.clone() };
            let report = stream.run_at(lab::Pace::PerMillisecond(4), &path.near, &path.far, address)?;
            same(
                "arrived, reordered, mangled",
                &(report.arrived, report.reordered, report.mangled),
                &(12_000, 0, 0),
            )
            .with_context(|| drops_of(lab.hosts().iter()))?;
        }
        Ok(())
    });
}

fn everything_at_once(path: &Path, seed: u64, far4: Ipv4Addr, far6: Ipv6Addr) -> Result<()> {
    let addresses = [IpAddr::V4(far4), IpAddr::V6(far6)];
    let carried = beside_streams((&path.near, &path.far), addresses, seed, || {
        addresses.into_iter().try_for_each(|address| {
            let repeated = datagrams(path, address, seed)? + trains(path, address, seed)?;
            figure(
                &format!("datagrams between streams through {}", path.name),
                &format!("{address}: {repeated} sent again"),
            );
            Ok(())
        })
    })?;
    figure(&format!("streams through {}", path.name), &format!("{} MiB", carried >> 20));
    Ok(())
}

/// Runs the body while streams of all styles run between two containers.
pub(crate) fn while_streams_run(containers: &[Container], body: impl FnOnce() -> Result<()>) -> Result<()> {
    let [near, far] = containers else { bail!("two containers are needed") };
    let carried = beside_streams((near.ns(), far.ns()), far.addresses()?, super::SEEDS[0], body)?;
    figure("streams meanwhile", &format!("{} MiB", carried >> 20));
    Ok(())
}

/// Streams of all styles in both directions, to both addresses, for as long as the body runs. Answers how many bytes they carried.
fn beside_streams(
    (near, far): (&NetNs, &NetNs),
    addresses: [IpAddr; 2],
    seed: u64,
    body: impl FnOnce() -> Result<()>,
) -> Result<usize> {
    let styles = [
        Style { segment: None, longest: 200_000 },
        Style { segment: Some(536), longest: 9_000 },
        Style { segment: Some(1000), longest: 70_000 },
        Style { segment: Some(400), longest: 3_000 },
    ];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut streams = Vec::new();
        for (index, style) in styles.iter().enumerate() {
            let (client, server) = connect(near, far, addresses[index % 2], style)?;
            let done = &done;
            for (number, (from, to)) in [(&client, &server), (&server, &client)].into_iter().enumerate() {
                let (from, to) = (from.try_clone()?, to.try_clone()?);
                let seed = seed + 10 * index as u64 + number as u64;
                streams.push(scope.spawn(move || stream(&from, &to, style, seed, done)));
            }
        }
        let result = body();
        done.store(true, Ordering::Relaxed);
        let mut carried = 0;
        for stream in streams {
            carried += stream.join().map_err(|_| anyhow!("a stream panicked"))??;
        }
        result.map(|()| carried)
    })
}

/// Both ends of a connection.
fn connect(near: &NetNs, far: &NetNs, address: IpAddr, style: &Style) -> Result<(TcpStream, TcpStream)> {
    let limited = |socket: &dyn Fn() -> std::io::Result<()>| match style.segment {
        Some(_) => socket(),
        None => Ok(()),
    };
    let size = style.segment.unwrap_or_default();
    let listener = far.enter(|| TcpListener::bind(SocketAddr::new(address, 0)))?.context("cannot listen")?;
    // Segments to the one who says how long they may be: the listener's say is in its answer to the connection.
    limited(&|| set_option(&listener, libc::IPPROTO_TCP, libc::TCP_MAXSEG, size)).context("no TCP_MAXSEG")?;
    let target = listener.local_addr().context("no address")?;
    let client = near.enter(|| TcpStream::connect_timeout(&target, Duration::from_secs(10)))?;
    let client = client.with_context(|| format!("cannot connect to {target}"))?;
    let (server, _) = listener.accept().context("cannot accept")?;
    for socket in [&client, &server] {
        limited(&|| set_option(socket, libc::IPPROTO_TCP, libc::TCP_MAXSEG, size))
            .context("no TCP_MAXSEG")?;
        // Urgent bytes stay in their place in the stream.
        set_option(socket, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1).context("no SO_OOBINLINE")?;
        socket.set_read_timeout(Some(STALL)).context("cannot set the time-out")?;
        socket.set_write_timeout(Some(STALL)).context("cannot set the time-out")?;
    }
    Ok((client, server))
}

/// One direction of a connection, until the end is asked for: writes of any length, with more to come or urgent or neither. Answers how
/// many bytes were carried.
fn stream(from: &TcpStream, to: &TcpStream, style: &Style, seed: u64, done: &AtomicBool) -> Result<usize> {
    let pattern = [payload(seed, PERIOD), payload(seed, PERIOD)].concat();
    let pattern = &pattern[..];
    thread::scope(|scope| {
        let reader = scope.spawn(move || read_pattern(to, pattern));
        let mut dice = Dice::new(seed);
        let mut written = 0;
        while !done.load(Ordering::Relaxed) {
            let start = written % PERIOD;
            let length = dice.between(1, style.longest.min(PERIOD));
            let flags = match dice.below(8) {
                0..3 => SendFlags::MORE,
                3 => SendFlags::OOB,
                _ => SendFlags::empty(),
            };
            written += send(from, &pattern[start..start + length], flags | SendFlags::NOSIGNAL)
                .with_context(|| format!("cannot write after {written} bytes"))?;
        }
        from.shutdown(std::net::Shutdown::Write).context("cannot end a stream")?;
        let read = reader.join().map_err(|_| anyhow!("the reader panicked"))??;
        same("bytes of a stream", &read, &written)?;
        Ok(written)
    })
}

/// Reads to the end and compares every byte.
fn read_pattern(mut from: &TcpStream, pattern: &[u8]) -> Result<usize> {
    let mut buffer = vec![0; 1 << 16];
    let mut total = 0;
    loop {
        let got = match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).with_context(|| format!("stood still after {total} bytes")),
        };
        let want = &pattern[total % PERIOD..][..got];
        if buffer[..got] != *want {
            let at = buffer.iter().zip(want).take_while(|(a, b)| a == b).count();
            bail!("byte {} of a stream is another than was sent", total + at);
        }
        total += got;
    }
}

/// Datagrams of every size, fragmented by the sender's kernel where they are long. Answers how many had to be sent again.
fn datagrams(path: &Path, address: IpAddr, seed: u64) -> Result<usize> {
    let (client, server) = sockets(path, address)?;
    let mut dice = Dice::new(seed);
    let mut sizes: Vec<usize> =
        (0..12).chain([1300, 1342, 1343, 1362, 1363, 1400, 1472, 65_000, LONGEST]).collect();
    sizes.extend((0..60).map(|_| dice.between(12, 1500)));
    sizes.extend((0..30).map(|_| dice.between(1500, 20_000)));
    sizes.extend((0..8).map(|_| dice.between(20_000, LONGEST)));
    let mut again = 0;
    for size in sizes {
        let content = dice.bytes(size);
        again += deliver(&server, &[&content], || {
            client.send(&content).map(drop).with_context(|| format!("cannot send {size} bytes"))
        })
        .with_context(|| format!("a datagram of {size} bytes to {address}"))?;
    }
    Ok(again)
}

/// Sends that the kernel or a device cuts into datagrams. Answers how many had to be sent again.
fn trains(path: &Path, address: IpAddr, seed: u64) -> Result<usize> {
    let (client, server) = sockets(path, address)?;
    let mut dice = Dice::new(seed);
    let mut again = 0;
    for _ in 0..60 {
        let size = dice.between(1, 1300);
        let most = (size * MAX_SEGMENTS).min(LONGEST);
        let length = dice.between(1, most);
        set_option(&client, libc::SOL_UDP, libc::UDP_SEGMENT, size as i32).context("no UDP_SEGMENT")?;
        let content = dice.bytes(length);
        let parts: Vec<&[u8]> = content.chunks(size).collect();
        again += deliver(&server, &parts, || {
            client.send(&content).map(drop).with_context(|| format!("cannot send {length} bytes in one"))
        })
        .with_context(|| format!("{length} bytes in datagrams of {size} to {address}"))?;
    }
    Ok(again)
}

/// Sends until exactly these datagrams arrive, in this order. What is lost between streams may be sent again; what arrives may not differ.
fn deliver(server: &UdpSocket, parts: &[&[u8]], mut send: impl FnMut() -> Result<()>) -> Result<usize> {
    let mut buffer = vec![0; 1 << 16];
    for again in 0..TRIES {
        send()?;
        let mut next = 0;
        while next < parts.len() {
            let got = match server.recv(&mut buffer) {
                Ok(got) => got,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("cannot receive"),
            };
            // Those between may be lost, but none may come changed, twice or before its turn.
            let found = parts[next..].iter().position(|part| **part == buffer[..got]);
            let Some(ahead) = found else {
                bail!("datagram {next} came changed or out of order, {got} bytes long")
            };
            if ahead > 0 {
                next = usize::MAX;
                break;
            }
            next += 1;
        }
        if next == parts.len() {
            return Ok(again);
        }
        drain(server, &mut buffer)?;
    }
    bail!("lost {TRIES} times")
}

/// Takes what is left of an earlier send.
fn drain(server: &UdpSocket, buffer: &mut [u8]) -> Result<()> {
    loop {
        match server.recv(buffer) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("cannot receive"),
        }
    }
}

/// A socket at each end, the near one connected to the far one.
fn sockets(path: &Path, address: IpAddr) -> Result<(UdpSocket, UdpSocket)> {
    let server = bind(&path.far, address)?;
    let any = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let client = bind(&path.near, any)?;
    client.connect(server.local_addr().context("no address")?).context("no route")?;
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&server, 4 << 20).context("no buffer")?;
    rustix::net::sockopt::set_socket_send_buffer_size_force(&client, 4 << 20).context("no buffer")?;
    server.set_read_timeout(Some(PATIENCE)).context("cannot set the time-out")?;
    Ok((client, server))
}

fn bind(ns: &NetNs, address: IpAddr) -> Result<UdpSocket> {
    ns.enter(|| UdpSocket::bind(SocketAddr::new(address, 0)))?
        .with_context(|| format!("cannot bind {address}"))
}

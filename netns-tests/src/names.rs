//! A client and a server of DNS, each as small as the tests need, written apart from the code under test.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::netns::NetNs;

/// The one address at which every host serves names.
pub const NAMESERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 67, 83));

/// The server's own deadline for an upstream is 5 s.
const LIMIT: Duration = Duration::from_secs(7);

/// How often a server looks whether it shall end.
const POLL: Duration = Duration::from_millis(50);

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// IPv4 addresses.
    A = 1,
    /// Names of an address.
    Ptr = 12,
    /// Mail servers.
    Mx = 15,
    /// IPv6 addresses.
    Aaaa = 28,
}

/// How it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A datagram, for answers of 512 bytes.
    Udp,
    /// A datagram, for answers of so many bytes.
    UdpUpTo(u16),
    /// A connection.
    Tcp,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// 0: no error, 2: server failure, 3: no such name, 5: refused.
    pub code: u8,
    /// Whether the server says that the name is its own.
    pub authoritative: bool,
    /// Whether there is more than the datagram held.
    pub cut: bool,
    /// Addresses, in the order of the answer.
    pub addresses: Vec<IpAddr>,
    /// Names of an address.
    pub names: Vec<String>,
    /// Records that say who has authority, as in answers without content.
    pub authorities: u16,
    /// Seconds for which the first record may be kept.
    pub ttl: Option<u32>,
}

/// Asks a server from within a namespace.
///
/// # Errors
/// When no answer comes in time, or none that can be read.
pub fn ask_name(from: &NetNs, server: IpAddr, name: &str, kind: Kind, transport: Transport) -> Result<Named> {
    let server = SocketAddr::new(server, 53);
    let question = question(name, kind, transport)?;
    let answer = from.enter(|| match transport {
        Transport::Udp | Transport::UdpUpTo(_) => by_udp(server, &question),
        Transport::Tcp => by_tcp(server, &question),
    })?;
    let answer = answer.with_context(|| format!("{server} does not answer {kind:?} of {name}"))?;
    read(&answer, &question).with_context(|| format!("answer to {kind:?} of {name}: {answer:02x?}"))
}

fn question(name: &str, kind: Kind, transport: Transport) -> Result<Vec<u8>> {
    let id = (std::process::id() as u16).to_be_bytes();
    let extra = u8::from(matches!(transport, Transport::UdpUpTo(_)));
    let mut bytes = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, extra];
    for label in name.trim_end_matches('.').split('.') {
        bytes
            .push(u8::try_from(label.len()).ok().filter(|length| *length < 64).context("label is too long")?);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend((kind as u16).to_be_bytes());
    bytes.extend([0, 1]);
    if let Transport::UdpUpTo(size) = transport {
        bytes.extend([0, 0, 41]);
        bytes.extend(size.to_be_bytes());
        bytes.extend([0; 6]);
    }
    Ok(bytes)
}

fn by_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.send(question)?;
    let mut buffer = vec![0; 65_536];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

fn by_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write_framed(&mut stream, question)?;
    read_framed(&mut stream)
}

fn write_framed(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], bytes].concat())
}

fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Reads an answer, with the names in it.
fn read(bytes: &[u8], question: &[u8]) -> Result<Named> {
    let word = |at: usize| -> Result<u16> {
        let pair = bytes.get(at..at + 2).context("cut short")?;
        Ok(u16::from_be_bytes([pair[0], pair[1]]))
    };
    if bytes.get(..2) != question.get(..2) || bytes.get(2).is_none_or(|flags| flags & 0x80 == 0) {
        bail!("not an answer to this question");
    }
    let flags = word(2)?;
    let mut named = Named {
        code: (flags & 15) as u8,
        authoritative: flags & 0x400 != 0,
        cut: flags & 0x200 != 0,
        addresses: Vec::new(),
        names: Vec::new(),
        authorities: word(8)?,
        ttl: None,
    };
    let mut at = 12;
    for _ in 0..word(4)? {
        at = name_at(bytes, at)?.1 + 4;
    }
    for _ in 0..word(6)? {
        at = name_at(bytes, at)?.1;
        let (kind, length) = (word(at)?, usize::from(word(at + 8)?));
        named.ttl.get_or_insert(u32::from(word(at + 4)?) << 16 | u32::from(word(at + 6)?));
        let data = bytes.get(at + 10..at + 10 + length).context("cut short")?;
        match kind {
            1 => named.addresses.push(<[u8; 4]>::try_from(data)?.into()),
            28 => named.addresses.push(<[u8; 16]>::try_from(data)?.into()),
            12 => named.names.push(name_at(bytes, at + 10)?.0),
            _ => {}
        }
        at += 10 + length;
    }
    Ok(named)
}

/// A name, and where what follows it begins. At most 128 labels: a circle of pointers is none.
fn name_at(bytes: &[u8], start: usize) -> Result<(String, usize)> {
    let (mut at, mut end, mut labels) = (start, None, Vec::new());
    for _ in 0..128 {
        let length = *bytes.get(at).context("cut short")?;
        match length {
            0 => return Ok((labels.join("."), end.unwrap_or(at + 1))),
            0xc0.. => {
                end.get_or_insert(at + 2);
                at = usize::from(length & 0x3f) << 8 | usize::from(*bytes.get(at + 1).context("cut short")?);
            }
            _ => {
                let label = bytes.get(at + 1..at + 1 + usize::from(length)).context("cut short")?;
                labels.push(String::from_utf8_lossy(label).into_owned());
                at += 1 + usize::from(length);
            }
        }
    }
    bail!("a name without an end")
}

/// A server that stands for the rest of the world: any name has one address and a minute to be kept, but those that begin with `missing`
/// are not there, with `big` need a connection, and with `silent` get no answer.
#[derive(Debug)]
pub struct NameServer {
    asked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// The address that every name has there.
pub const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 99));

impl NameServer {
    /// Serves in a namespace, at one of its addresses.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(ns: &NetNs, address: IpAddr) -> Result<Self> {
        let sockets = ns.enter(|| {
            Ok::<_, io::Error>((UdpSocket::bind((address, 53))?, TcpListener::bind((address, 53))?))
        })?;
        let (udp, tcp) = sockets.with_context(|| format!("cannot listen on {address}"))?;
        udp.set_read_timeout(Some(POLL)).context("no time-out")?;
        tcp.set_nonblocking(true).context("no time-out")?;
        let (asked, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, over) = (Arc::clone(&asked), Arc::clone(&stop));
        let datagrams = move || {
            let mut buffer = [0; 2048];
            while !over.load(Ordering::Relaxed) {
                let Ok((length, from)) = udp.recv_from(&mut buffer) else { continue };
                count.fetch_add(1, Ordering::Relaxed);
                if let Some(answer) = answer(&buffer[..length], Transport::Udp) {
                    let _gone = udp.send_to(&answer, from);
                }
            }
        };
        let over = Arc::clone(&stop);
        let connections = move || {
            while !over.load(Ordering::Relaxed) {
                match tcp.accept() {
                    Ok((mut stream, _)) => drop(converse(&mut stream)),
                    Err(_) => thread::sleep(POLL),
                }
            }
        };
        Ok(Self { asked, stop, threads: vec![thread::spawn(datagrams), thread::spawn(connections)] })
    }

    /// Datagrams that came.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn converse(stream: &mut TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let question = read_framed(stream)?;
    match answer(&question, Transport::Tcp) {
        Some(answer) => write_framed(stream, &answer),
        None => Ok(()),
    }
}

fn answer(question: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let (name, end) = name_at(question, 12).ok()?;
    let kind = question.get(end..end + 2)?;
    let (mut flags, mut answers, mut authorities, mut records) = ([0x81, 0x80], 0u8, 0u8, Vec::new());
    let pointer = [0xc0, 12];
    match (name.split(['.', '-']).next().unwrap_or_default(), transport) {
        ("silent", _) => return None,
        ("missing", _) => {
            flags[1] |= 3;
            authorities = 1;
            records.extend(pointer);
            // An SOA record for a minute: two names, which are the root, and five numbers.
            records.extend([0, 6, 0, 1, 0, 0, 0, 60, 0, 22, 0, 0]);
            records.extend([0, 0, 0, 1].repeat(4));
            records.extend([0, 0, 0, 60]);
        }
        ("big", Transport::Udp | Transport::UdpUpTo(_)) => flags[0] |= 2,
        (first, _) if kind == [0, 1] => {
            answers = if first == "big" { 100 } else { 1 };
            for last in 0..answers {
                let address = if answers == 1 { [192, 0, 2, 99] } else { [192, 0, 2, last] };
                records.extend(pointer);
                records.extend([0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                records.extend(address);
            }
        }
        _ => {}
    }
    let mut bytes = question.get(..2)?.to_vec();
    bytes.extend(flags);
    bytes.extend([0, 1, 0, answers, 0, authorities, 0, 0]);
    bytes.extend(question.get(12..end + 4)?);
    bytes.extend(records);
    Some(bytes)
}

//! Many short TCP connections between namespaces: each is made, asks, gets an answer and is closed, as web pages once were.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::net::sockopt::{self, Timeout};

use crate::netns::NetNs;

/// Bytes of a question.
const QUESTION: usize = 64;

/// A connection that takes longer has failed: a lost SYN alone costs a second.
const LIMIT: Duration = Duration::from_secs(5);

/// How often a server looks whether it shall end.
const POLL: Duration = Duration::from_millis(100);

/// Every connection takes a port that rests for a while after it; the usual 28,000 would be used up.
const PORTS: &str = "1024 65535";

/// Short connections.
#[derive(Debug, Clone, Copy)]
pub struct Requests {
    /// Bytes of an answer.
    pub answer: usize,
    /// Connections at the same time.
    pub at_once: usize,
    /// How long to ask.
    pub time: Duration,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequestsReport {
    /// Requests that were answered whole.
    pub answered: u64,
    /// Those that were not.
    pub failed: u64,
    /// Answered each second.
    pub per_second: f64,
}

impl Requests {
    /// Asks from one namespace at an address in the other.
    ///
    /// # Errors
    /// When nothing can listen or no request is answered.
    pub fn run(&self, from: &NetNs, to: &NetNs, address: IpAddr) -> Result<RequestsReport> {
        from.sysctl("ipv4/ip_local_port_range", PORTS)?;
        let listener = to.enter(|| TcpListener::bind(SocketAddr::new(address, 0)))?;
        let listener = listener.with_context(|| format!("cannot listen on {address} in `{}`", to.name()))?;
        // `accept` obeys the time limit for receiving (socket(7)).
        sockopt::set_socket_timeout(&listener, Timeout::Recv, Some(POLL))
            .context("cannot set the time-out")?;
        let target = listener.local_addr().context("a listener without an address")?;
        let (done, start) = (AtomicBool::new(false), Instant::now());
        let (answered, failed) = thread::scope(|scope| {
            let servers: Vec<_> =
                (0..self.at_once).map(|_| scope.spawn(|| serve(&listener, self.answer, &done))).collect();
            let clients: Vec<_> =
                (0..self.at_once).map(|_| scope.spawn(|| from.enter(|| self.ask(target, start)))).collect();
            let (mut answered, mut failed) = (0, 0);
            let mut broken = None;
            for client in clients {
                match client.join().map_err(|_| anyhow!("a client panicked")).and_then(|counts| counts) {
                    Ok(counts) => (answered, failed) = (answered + counts.0, failed + counts.1),
                    Err(error) => broken = Some(error),
                }
            }
            let time = start.elapsed();
            done.store(true, Ordering::Relaxed);
            for server in servers {
                server.join().map_err(|_| anyhow!("a server panicked"))?;
            }
            broken.map_or(Ok(((answered, time), failed)), Err)
        })?;
        let (answered, time) = answered;
        if answered == 0 {
            bail!("no request was answered ({failed} failed)");
        }
        Ok(RequestsReport { answered, failed, per_second: answered as f64 / time.as_secs_f64() })
    }

    /// One client: answers how many requests were answered and how many were not.
    fn ask(&self, target: SocketAddr, start: Instant) -> (u64, u64) {
        let (mut answered, mut failed) = (0, 0);
        let mut buffer = vec![0; self.answer + 1];
        while start.elapsed() < self.time {
            match request(target, &mut buffer) {
                Ok(len) if len == self.answer => answered += 1,
                Ok(_) | Err(_) => failed += 1,
            }
        }
        (answered, failed)
    }
}

/// One connection, from its making to its end; answers the bytes of the answer.
fn request(target: SocketAddr, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut stream = TcpStream::connect_timeout(&target, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(&[b'?'; QUESTION])?;
    let mut len = 0;
    loop {
        match stream.read(&mut buffer[len..])? {
            0 => return Ok(len),
            got => len += got,
        }
    }
}

/// Answers one connection after the other until it is told to end.
fn serve(listener: &TcpListener, answer: usize, done: &AtomicBool) {
    let answer = vec![b'!'; answer];
    let mut question = [0; QUESTION];
    while !done.load(Ordering::Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else { continue };
        // The client counts what fails.
        let _counted = stream
            .set_read_timeout(Some(LIMIT))
            .and_then(|()| stream.read_exact(&mut question))
            .and_then(|()| stream.write_all(&answer));
    }
}

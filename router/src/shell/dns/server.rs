//! The sockets: questions by UDP and TCP, each client within its limits.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use rustix::net::sockopt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::PORT;
use super::counters::{Counters, Fate};
use super::forward::Forwarder;
use super::message::{Authority, MAX_QUESTION, NoQuestion, Question, Reply, Transport, Wrong};
use super::rates::Rates;
use super::zone::{Verdict, Zone};
use crate::core::names::SharedNames;
use crate::shell::random;

/// TCP connections at once: answers that did not fit a datagram are rare.
const MAX_CONNECTIONS: usize = 128;
/// Of these, of one client.
const MAX_CONNECTIONS_OF_CLIENT: usize = 16;
/// How long a connection may be silent (RFC 7766 section 6.2.3 leaves it to us), and how long an answer may take to leave.
const IDLE: Duration = Duration::from_secs(10);
/// Questions of one connection, after which its client makes another, so that none is there for ever.
const MAX_QUESTIONS: usize = 1000;
/// Bytes of questions that may wait: some thousand, as the kernel counts them; hundreds of containers that start at once ask at once.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Pause after a system call failed for want of memory or descriptors.
const BREATH: Duration = Duration::from_millis(50);

/// Everything that answers.
pub(super) struct Server {
    pub(super) zone: Zone,
    pub(super) names: SharedNames,
    pub(super) forwarder: Forwarder,
    pub(super) counters: Arc<Counters>,
    connections: Mutex<HashMap<IpAddr, usize>>,
    rates: Mutex<Rates>,
}

/// Both sockets.
pub(super) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Binds them.
    pub(super) async fn bind(address: Ipv4Addr) -> io::Result<Sockets> {
        let udp = UdpSocket::bind((address, PORT)).await?;
        // Without it bursts are cut at the usual size, and answers come all the same.
        if let Err(error) = sockopt::set_socket_recv_buffer_size_force(&udp, RECEIVE_BUFFER) {
            tracing::debug!(%error, "the socket for questions keeps its buffer");
        }
        Ok(Sockets { udp, tcp: TcpListener::bind((address, PORT)).await? })
    }
}

/// What follows from a message.
enum Next {
    Drop,
    Write(Vec<u8>),
    Ask(Question),
}

impl Server {
    pub(super) fn new(
        zone: Zone,
        names: SharedNames,
        forwarder: Forwarder,
        counters: Arc<Counters>,
    ) -> Server {
        Server { zone, names, forwarder, counters, connections: Mutex::default(), rates: Mutex::default() }
    }

    /// Serves until it is dropped.
    pub(super) async fn serve(self: &Arc<Self>, sockets: Sockets) {
        tokio::join!(self.serve_udp(Arc::new(sockets.udp)), self.serve_tcp(sockets.tcp));
    }

    async fn serve_udp(self: &Arc<Self>, socket: Arc<UdpSocket>) {
        // What is longer is cut by the kernel and then does not parse.
        let mut buffer = [0; MAX_QUESTION];
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "cannot receive a question");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            };
            if !self.is_heard(from.ip()) {
                self.counters.add(Fate::TooOften);
                continue;
            }
            match self.take(&buffer[..length], Transport::Udp) {
                Next::Drop => {}
                Next::Write(bytes) => send(&socket, &bytes, from).await,
                Next::Ask(question) => {
                    if let Some(reply) = self.forwarder.too_much(from.ip()) {
                        send(&socket, &question.write(&reply, Transport::Udp), from).await;
                        continue;
                    }
                    let (this, socket) = (Arc::clone(self), Arc::clone(&socket));
                    tokio::spawn(async move {
                        let reply = this.forwarder.ask(&question, from.ip()).await;
                        send(&socket, &question.write(&reply, Transport::Udp), from).await;
                    });
                }
            }
        }
    }

    async fn serve_tcp(self: &Arc<Self>, listener: TcpListener) {
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection for questions");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            };
            if !self.admit(from.ip()) {
                self.counters.add(Fate::TooManyConnections);
                continue;
            }
            let this = Arc::clone(self);
            tokio::spawn(async move {
                if let Err(error) = this.converse(stream, from.ip()).await {
                    tracing::debug!(%error, client = %from.ip(), "connection for questions ended");
                }
                this.dismiss(from.ip());
            });
        }
    }

    /// Questions of one connection, one after the other.
    async fn converse(&self, mut stream: TcpStream, client: IpAddr) -> io::Result<()> {
        for _ in 0..MAX_QUESTIONS {
            let Some(bytes) = tokio::time::timeout(IDLE, read(&mut stream)).await?? else { return Ok(()) };
            let answer = match self.take(&bytes, Transport::Tcp) {
                Next::Drop => return Ok(()),
                Next::Write(answer) => answer,
                Next::Ask(question) => {
                    question.write(&self.forwarder.ask(&question, client).await, Transport::Tcp)
                }
            };
            // Nothing that we write is longer: the encoder's limit is the same.
            let length = u16::try_from(answer.len()).unwrap_or(u16::MAX).to_be_bytes();
            let framed = [&length[..], &answer].concat();
            tokio::time::timeout(IDLE, stream.write_all(&framed)).await??;
        }
        Ok(())
    }

    /// What is ours is answered here and now.
    fn take(&self, bytes: &[u8], transport: Transport) -> Next {
        let question = match Question::parse(bytes) {
            Ok(question) => question,
            Err(NoQuestion::Silence) => {
                self.counters.add(Fate::NotAQuestion);
                return Next::Drop;
            }
            Err(NoQuestion::Answer(answer, wrong)) => {
                self.counters.add(match wrong {
                    Wrong::Malformed => Fate::Malformed,
                    Wrong::Operation => Fate::Refused,
                });
                return Next::Write(answer);
            }
        };
        let verdict = {
            let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
            self.zone.answer(&question, &names, random::seed())
        };
        match verdict {
            Verdict::Reply(reply) => {
                self.counters.add(fate(&reply));
                Next::Write(question.write(&reply, transport))
            }
            Verdict::Forward => match self.forwarder.at_once(&question, Instant::now()) {
                Some(reply) => Next::Write(question.write(&reply, transport)),
                None => Next::Ask(question),
            },
        }
    }

    fn is_heard(&self, client: IpAddr) -> bool {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner).admit(client, Instant::now())
    }

    fn admit(&self, client: IpAddr) -> bool {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = connections.values().sum();
        let of_client = connections.get(&client).copied().unwrap_or_default();
        let room = all < MAX_CONNECTIONS && of_client < MAX_CONNECTIONS_OF_CLIENT;
        if room {
            connections.insert(client, of_client + 1);
        }
        room
    }

    fn dismiss(&self, client: IpAddr) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = connections.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&client);
            }
        }
    }
}

/// A message with its length in front; `None` at the end of the connection.
async fn read(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > MAX_QUESTION {
        return Err(io::Error::other(format!("a question of {length} bytes, want at most {MAX_QUESTION}")));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(Some(bytes))
}

/// An answer that cannot be sent is as good as lost on the way.
async fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, to).await {
        tracing::debug!(%error, %to, "answer not sent");
    }
}

fn fate(reply: &Reply) -> Fate {
    match reply.code {
        ResponseCode::NoError if reply.answers.is_empty() => Fate::NoData,
        ResponseCode::NoError => Fate::Answered,
        ResponseCode::NXDomain if reply.authority == Authority::Ours => Fate::NoSuchName,
        _ => Fate::Refused,
    }
}

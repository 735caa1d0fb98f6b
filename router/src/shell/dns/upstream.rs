//! Asking the resolvers of this host: who they are, and one question to one of them.
//!
//! Each question goes out from a port of its own with an id of its own, and only an answer to that very question from that very server
//! counts (RFC 5452).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::PORT;
use super::counters::{Counters, Fate};
use super::message::{self, MAX_UDP, Question};
use super::options::{MAX_UPSTREAMS, Upstream};
use crate::shell::random;

/// How long one server may take before the next one is asked.
pub(super) const TRY: Duration = Duration::from_secs(2);
/// How often it is looked whether the host asks others now; Weave Net did so too.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Where a host says whom it asks.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Longest file of that kind that is read.
const MAX_FILE: usize = 64 << 10;

/// Whom to ask.
pub(super) struct Upstreams {
    choice: Upstream,
    path: PathBuf,
    /// Where we are: whoever writes our own address into the host's file must not send us in a circle.
    own: Ipv4Addr,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    servers: Vec<SocketAddr>,
    looked: Option<Instant>,
    written: Option<SystemTime>,
}

impl Upstreams {
    /// As the operator chose.
    pub(super) fn new(choice: Upstream, own: Ipv4Addr) -> Upstreams {
        Upstreams { choice, path: RESOLV_CONF.into(), own, known: Mutex::default() }
    }

    /// The servers, best first.
    pub(super) fn servers(&self, now: Instant) -> Vec<SocketAddr> {
        let not_us = |server: &SocketAddr| server.ip() != IpAddr::V4(self.own);
        match &self.choice {
            Upstream::Nobody => Vec::new(),
            Upstream::These(servers) => servers.iter().copied().filter(not_us).collect(),
            Upstream::Host => {
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                if known.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK_EVERY) {
                    known.looked = Some(now);
                    self.look(&mut known);
                }
                known.servers.iter().copied().filter(not_us).collect()
            }
        }
    }

    /// Reads the file if it is another one now. While it cannot be read, those of before are asked.
    fn look(&self, known: &mut Known) {
        let written = std::fs::metadata(&self.path).and_then(|data| data.modified()).ok();
        if written.is_some() && written == known.written {
            return;
        }
        match std::fs::read(&self.path) {
            Ok(bytes) => {
                known.servers = nameservers(&String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_FILE)]));
                known.written = written;
                tracing::debug!(servers = ?known.servers, "asked for names that are not of the fabric");
            }
            Err(error) => tracing::debug!(%error, path = %self.path.display(), "cannot be read"),
        }
    }
}

/// The servers of a `resolv.conf`, as glibc reads it (resolv.conf(5)).
fn nameservers(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = (words.next() == Some("nameserver")).then(|| words.next())??;
        // A link-local IPv6 server has its interface behind a percent sign, for which a number is needed.
        address.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified())
    };
    let servers = text.lines().filter_map(server).map(|ip| SocketAddr::new(ip, PORT));
    servers.take(MAX_UPSTREAMS).collect()
}

/// Asks one server. `None`: no answer in time, or none that is one.
pub(super) async fn ask(
    server: SocketAddr,
    question: &Question,
    counters: &Counters,
) -> Option<(Message, usize)> {
    let id = u16::from_ne_bytes(random::bytes());
    let bytes = written(id, question)?;
    let by_udp = tokio::time::timeout(TRY, ask_udp(server, id, question, &bytes, counters)).await;
    let (message, length) = by_udp.ok()?.ok()?;
    if !message.metadata.truncation {
        return Some((message, length));
    }
    let by_tcp = tokio::time::timeout(TRY, ask_tcp(server, id, question, &bytes)).await;
    by_tcp.ok()?.ok()?
}

/// The question as we ask it: nothing of what the asker wrote but name, type and flags.
fn written(id: u16, question: &Question) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = question.checking_disabled;
    let query = &question.query;
    message.add_query(Query::query(query.name.clone(), query.query_type));
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP).set_version(0).set_dnssec_ok(question.dnssec_ok);
    message.set_edns(edns);
    message::emit(&message, MAX_UDP)
}

async fn ask_udp(
    server: SocketAddr,
    id: u16,
    question: &Question,
    bytes: &[u8],
    counters: &Counters,
) -> io::Result<(Message, usize)> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // From nobody else; and a port without a listener is told at once.
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match answers(&buffer[..length], id, question) {
            Some(message) => return Ok((message, length)),
            None => counters.add(Fate::Stray),
        }
    }
}

async fn ask_tcp(
    server: SocketAddr,
    id: u16,
    question: &Question,
    bytes: &[u8],
) -> io::Result<Option<(Message, usize)>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], bytes].concat()).await?;
    let length = usize::from(stream.read_u16().await?);
    let mut buffer = vec![0; length];
    stream.read_exact(&mut buffer).await?;
    Ok(answers(&buffer, id, question).map(|message| (message, length)))
}

/// The answer to this very question, or nothing.
fn answers(bytes: &[u8], id: u16, question: &Question) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    let metadata = &message.metadata;
    let about = matches!(&message.queries[..], [query] if query.name == question.query.name
        && query.query_type == question.query.query_type
        && query.query_class == question.query.query_class);
    let ours = metadata.id == id && metadata.message_type == MessageType::Response;
    (ours && about && metadata.op_code == OpCode::Query).then_some(message)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::RecordType;
    use proptest::prelude::*;

    use super::*;
    use crate::shell::dns::message::tests::question;

    #[test]
    fn resolv_conf_is_read_as_glibc_does() {
        let text = "# nameserver 192.0.2.1\nsearch example.com\n nameserver 192.0.2.2 # first\nnameserver\n\
                    nameserver fe80::1%eth0\nnameserver 2001:db8::3\nnameserver 192.0.2.4\nnameserver 192.0.2.5\n";
        let want =
            ["192.0.2.2:53", "[2001:db8::3]:53", "192.0.2.4:53"].map(|text| text.parse().expect("address"));
        assert_eq!(nameservers(text), want);
        assert_eq!(nameservers(""), []);
    }

    #[test]
    fn we_never_ask_ourselves() {
        let own = Ipv4Addr::new(169, 254, 67, 83);
        let dir = std::env::temp_dir().join(format!("weave-resolv-{}", std::process::id()));
        std::fs::write(&dir, "nameserver 169.254.67.83\nnameserver 192.0.2.1\n").expect("write");
        let upstreams = Upstreams { path: dir.clone(), ..Upstreams::new(Upstream::Host, own) };
        let now = Instant::now();
        assert_eq!(upstreams.servers(now), ["192.0.2.1:53".parse().expect("address")]);
        std::fs::remove_file(&dir).expect("clean");
        let later = upstreams.servers(now + LOOK_EVERY);
        assert_eq!(later, ["192.0.2.1:53".parse().expect("address")], "those of before");
        let given = Upstream::These(vec![(own, 53).into(), ([192, 0, 2, 2], 53).into()]);
        assert_eq!(Upstreams::new(given, own).servers(now).len(), 1);
        assert_eq!(Upstreams::new(Upstream::Nobody, own).servers(now), []);
    }

    #[test]
    fn only_the_answer_to_our_question_counts() {
        let question = question("example.com.", RecordType::A);
        let answer = |change: fn(&mut Message)| {
            let mut message = Message::response(9, OpCode::Query);
            message.add_query(question.query.clone());
            change(&mut message);
            answers(&message.to_vec().expect("writes"), 9, &question).is_some()
        };
        assert!(answer(|_| ()));
        assert!(!answer(|message| message.metadata.id = 10));
        assert!(!answer(|message| message.metadata.message_type = MessageType::Query));
        assert!(!answer(|message| message.queries.clear()));
        assert!(!answer(|message| message.queries[0].query_type = RecordType::AAAA));
    }

    proptest! {
        #[test]
        fn arbitrary_answers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            answers(&bytes, 9, &question("example.com.", RecordType::A));
        }
    }
}

//! Questions for names that are not ours: from the cache, or asked of an upstream, with a bound on all work.
//!
//! The same question of several clients is asked once. So a circle of resolvers that comes back to us waits for itself and ends with its
//! deadline, instead of going round.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use tokio::sync::OnceCell;

use super::cache::{Cache, Key};
use super::counters::{Counters, Fate};
use super::message::{Authority, Question, Reply};
use super::upstream::{self, Upstreams};

/// Questions under way at once. At 20 ms an answer these are thousands a second; while an upstream is silent they wait for five seconds,
/// each with a socket of its own, and more would only wait longer.
pub(super) const MAX_UNDER_WAY: usize = 256;
/// Of these, of one client: an eighth, so that one container that asks for nonsense leaves room for the others.
pub(super) const MAX_OF_CLIENT: usize = 32;
/// How long a client waits for its answer at most: its own patience (resolv.conf(5): 5 s).
const DEADLINE: Duration = Duration::from_secs(5);

/// See the module's text.
pub(super) struct Forwarder {
    upstreams: Upstreams,
    cache: Mutex<Cache>,
    work: Mutex<Work>,
    counters: Arc<Counters>,
}

/// What is under way.
#[derive(Default)]
struct Work {
    questions: usize,
    clients: HashMap<IpAddr, usize>,
    pending: HashMap<Key, Arc<OnceCell<Reply>>>,
}

/// A place among what is under way, given back when it is dropped.
struct Place<'a> {
    work: &'a Mutex<Work>,
    client: IpAddr,
    key: Key,
}

impl Forwarder {
    pub(super) fn new(upstreams: Upstreams, counters: Arc<Counters>) -> Forwarder {
        Forwarder { upstreams, cache: Mutex::default(), work: Mutex::default(), counters }
    }

    /// Whom it asks.
    pub(super) fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    /// Answers that are kept.
    pub(super) fn cached(&self) -> usize {
        lock(&self.cache).len()
    }

    /// What is known already.
    pub(super) fn at_once(&self, question: &Question, now: Instant) -> Option<Reply> {
        let known = lock(&self.cache).get(&Key::of(question), now);
        known.inspect(|_| self.counters.add(Fate::Cached))
    }

    /// What is answered at once for want of room.
    pub(super) fn too_much(&self, client: IpAddr) -> Option<Reply> {
        let fate = lock(&self.work).room_for(client).err()?;
        self.counters.add(fate);
        Some(Reply::bare(ResponseCode::ServFail))
    }

    /// Asks, if there is room for it. Always comes to a reply.
    pub(super) async fn ask(&self, question: &Question, client: IpAddr) -> Reply {
        let servers = self.upstreams.servers(Instant::now());
        if servers.is_empty() {
            self.counters.add(Fate::NoUpstream);
            return Reply::bare(ResponseCode::Refused);
        }
        let (place, cell) = match self.enter(question, client) {
            Ok(entered) => entered,
            Err(fate) => {
                self.counters.add(fate);
                return Reply::bare(ResponseCode::ServFail);
            }
        };
        let asked = cell.get_or_init(|| async {
            let failed = || Reply::bare(ResponseCode::ServFail);
            let all = tokio::time::timeout(DEADLINE, self.ask_all(&servers, question));
            all.await.ok().flatten().unwrap_or_else(failed)
        });
        // Whoever came second waits for less, since the first began earlier, unless that one gave up.
        let reply = tokio::time::timeout(DEADLINE, asked).await;
        let reply = reply.map_or_else(|_| Reply::bare(ResponseCode::ServFail), Reply::clone);
        drop(place);
        self.counters.add(match reply.code {
            ResponseCode::ServFail => Fate::UpstreamFailed,
            _ => Fate::Forwarded,
        });
        reply
    }

    /// One server after the other, until one gives an answer that helps.
    async fn ask_all(&self, servers: &[std::net::SocketAddr], question: &Question) -> Option<Reply> {
        let mut last = None;
        for server in servers.iter().chain(servers) {
            let Some((message, bytes)) = upstream::ask(*server, question, &self.counters).await else {
                tracing::debug!(%server, "no answer from upstream");
                continue;
            };
            let authority =
                if message.metadata.authentic_data { Authority::Verified } else { Authority::Theirs };
            let code = message.metadata.response_code;
            let reply = Reply { code, authority, answers: message.answers, authorities: message.authorities };
            match code {
                ResponseCode::NoError | ResponseCode::NXDomain => {
                    lock(&self.cache).keep(Key::of(question), &reply, bytes, Instant::now());
                    return Some(reply);
                }
                // Another one may know more.
                _ if last.is_none() => last = Some(reply),
                // Everybody was asked.
                _ => break,
            }
        }
        last
    }

    fn enter(&self, question: &Question, client: IpAddr) -> Result<(Place<'_>, Arc<OnceCell<Reply>>), Fate> {
        let mut work = lock(&self.work);
        work.room_for(client)?;
        *work.clients.entry(client).or_default() += 1;
        work.questions += 1;
        let key = Key::of(question);
        let cell = Arc::clone(work.pending.entry(key.clone()).or_default());
        Ok((Place { work: &self.work, client, key }, cell))
    }
}

impl Work {
    fn room_for(&self, client: IpAddr) -> Result<(), Fate> {
        match self.clients.get(&client) {
            _ if self.questions >= MAX_UNDER_WAY => Err(Fate::Busy),
            Some(questions) if *questions >= MAX_OF_CLIENT => Err(Fate::ClientBusy),
            Some(_) | None => Ok(()),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut work = lock(self.work);
        work.questions -= 1;
        if let Some(count) = work.clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                work.clients.remove(&self.client);
            }
        }
        // The cell is done, or everybody who waited for it is gone: who asks next finds the cache, or begins anew.
        let done = |cell: &Arc<OnceCell<Reply>>| cell.initialized() || Arc::strong_count(cell) <= 2;
        if work.pending.get(&self.key).is_some_and(done) {
            work.pending.remove(&self.key);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::op::{Message, OpCode};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{RData, Record, RecordType};
    use tokio::net::UdpSocket;

    use super::*;
    use crate::shell::dns::message::tests::question;
    use crate::shell::dns::options::Upstream;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 32, 0, 1));

    /// A server on the loopback that answers each question by `change`, or not at all.
    async fn server(change: fn(&mut Message) -> bool) -> (std::net::SocketAddr, Arc<Mutex<usize>>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
        let at = socket.local_addr().expect("address");
        let asked = Arc::new(Mutex::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                *lock(&count) += 1;
                let message = Message::from_vec(&buffer[..length]).expect("parses");
                let mut answer = Message::response(message.metadata.id, OpCode::Query);
                answer.add_queries(message.queries);
                let data = RData::A(A::new(192, 0, 2, 1));
                answer.add_answer(Record::from_rdata(answer.queries[0].name.clone(), 60, data));
                if change(&mut answer) {
                    socket.send_to(&answer.to_vec().expect("writes"), from).await.expect("send");
                }
            }
        });
        (at, asked)
    }

    fn forwarder(servers: Vec<std::net::SocketAddr>) -> Forwarder {
        let own = Ipv4Addr::new(169, 254, 67, 83);
        Forwarder::new(Upstreams::new(Upstream::These(servers), own), Arc::default())
    }

    /// What is under way: questions, clients, keys.
    fn left(forwarder: &Forwarder) -> (usize, usize, usize) {
        let work = lock(&forwarder.work);
        (work.questions, work.clients.len(), work.pending.len())
    }

    #[tokio::test]
    async fn second_asker_is_answered_from_the_cache_and_waiting_ones_together() {
        let (at, asked) = server(|_| true).await;
        let forwarder = forwarder(vec![at]);
        let question = question("example.com.", RecordType::A);
        assert_eq!(forwarder.at_once(&question, Instant::now()), None);
        let together = (0..10).map(|_| forwarder.ask(&question, CLIENT));
        for reply in futures_util::future::join_all(together).await {
            assert_eq!((reply.code, reply.answers.len()), (ResponseCode::NoError, 1));
        }
        assert_eq!(*lock(&asked), 1);
        assert!(forwarder.at_once(&question, Instant::now()).is_some());
        assert_eq!(left(&forwarder), (0, 0, 0));
    }

    #[tokio::test]
    async fn next_server_is_asked_when_one_fails_or_lies() {
        let (fails, _) = server(|answer| {
            answer.metadata.response_code = ResponseCode::ServFail;
            true
        })
        .await;
        let (stray, _) = server(|answer| {
            answer.metadata.id ^= 1;
            true
        })
        .await;
        let (good, _) = server(|_| true).await;
        let forwarder = forwarder(vec![fails, stray, good]);
        let reply = forwarder.ask(&question("example.com.", RecordType::A), CLIENT).await;
        assert_eq!(reply.code, ResponseCode::NoError);
        assert_eq!(forwarder.counters.read(), [(Fate::Forwarded, 1), (Fate::Stray, 1)]);
    }

    #[tokio::test]
    async fn silence_ends_with_the_deadline_and_leaves_nothing() {
        let (silent, _) = server(|_| false).await;
        let forwarder = forwarder(vec![silent]);
        let began = Instant::now();
        let reply = forwarder.ask(&question("example.com.", RecordType::A), CLIENT).await;
        assert_eq!(reply.code, ResponseCode::ServFail);
        assert!(began.elapsed() < DEADLINE + Duration::from_secs(2));
        assert_eq!(left(&forwarder), (0, 0, 0));
        assert_eq!(forwarder.cached(), 0);
    }

    #[tokio::test]
    async fn one_client_leaves_room_for_others() {
        let (silent, _) = server(|_| false).await;
        let forwarder = forwarder(vec![silent]);
        let places: Vec<_> = (0..MAX_OF_CLIENT)
            .map(|n| forwarder.enter(&question(&format!("n{n}.example."), RecordType::A), CLIENT))
            .collect();
        assert!(places.iter().all(Result::is_ok));
        let one_more = question("more.example.", RecordType::A);
        assert_eq!(forwarder.enter(&one_more, CLIENT).err(), Some(Fate::ClientBusy));
        let other = |n: u8| IpAddr::from([10, 33, 0, n]);
        let rest: Vec<_> = (0..=255u8).map(|n| forwarder.enter(&one_more, other(n))).collect();
        let entered = rest.iter().filter(|place| place.is_ok()).count();
        assert_eq!(entered, MAX_UNDER_WAY - MAX_OF_CLIENT);
        drop((places, rest));
        assert_eq!(left(&forwarder), (0, 0, 0));
    }
}

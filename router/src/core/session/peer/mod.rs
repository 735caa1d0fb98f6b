//! One peer: its links (active, previous, being dialled, being answered), what wants it, and all its timers.
//!
//! A new link stands beside the active one until it proves itself: for the initiator by the handshake response, for the responder
//! by the first authenticated session datagram. Nothing that is not authenticated changes the active link.

mod find;
mod receive;
mod talk;

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gossip::{Fill, PeerId};

use super::backoff::Backoff;
use super::chunks::{Reassembly, SessionTag, Stream};
use super::common::Common;
use super::dial::{MAX_CANDIDATES, Round};
use super::drops::DropReason;
use super::lanes::Lanes;
use super::link::Link;
use super::timer::Timer;
use super::types::{DownReason, Failure, SessionEvent, Want};
use crate::core::identity::PublicIdentity;
use find::ANSWER_PATIENCE;
pub(super) use talk::{BYE, BYE_IDLE, BYE_LEAVING, BYE_REMOVED, PING, PONG};

/// An answered handshake that does not prove itself is dropped after this.
const ANSWER_LIFETIME: Duration = Duration::from_secs(10);
/// A replaced link is still opened with for this long: longer than any datagram stays on a path.
const PREVIOUS_LIFETIME: Duration = Duration::from_secs(20);
/// A rekey that failed is tried again after this.
const REKEY_RETRY: Duration = Duration::from_secs(5);
/// WireGuard's REJECT_AFTER_TIME.
const REJECT_AFTER: Duration = Duration::from_secs(180);
/// A ping of one side or the other at least so often, and `PING_PATIENCE` more when one was lost.
const PING_EVERY: Duration = Duration::from_secs(5);
/// Whose ping was the last one waits this much longer than the other, so that they take turns: each ping and its answer show
/// both that the other lives, and pinging at the same time would only cost twice as many wake-ups. More than a beat of
/// `Common::on_beat` and a round trip, or the turns would be missed.
const PING_PATIENCE: Duration = Duration::from_secs(2);
/// A session that carries other words of the peer all the time is pinged only so often: for the round trip, and to say that it is kept.
const PING_WHEN_BUSY: Duration = Duration::from_secs(20);
/// A peer of which nothing came for so long is not busy: above the pause between two probes of gossip.
const BUSY_PAUSE: Duration = Duration::from_millis(1500);
/// A ping so often when the peer has been silent for `PING_EVERY`.
const PING_WHEN_SILENT: Duration = Duration::from_secs(1);
/// A peer that is silent this long is gone: by then it has left seven pings or more unanswered.
const SILENT_AFTER: Duration = Duration::from_secs(15);
/// Messages that wait for a session, of one peer.
const MAX_QUEUE: usize = 64;
/// Bytes that wait for a session, of one peer.
const MAX_QUEUE_BYTES: usize = 256 * 1024;
/// A message that waited this long is dropped: whoever sent it has sent another.
const QUEUE_LIFETIME: Duration = Duration::from_secs(30);
/// A session that nobody wants is closed after so long if it only carried messages: a question of allocation is answered within a second or
/// two. As long as for frames would cost more in pings and keys than a handshake for the next question, on both sides.
const MESSAGE_IDLE: Duration = Duration::from_secs(60);
/// First wait after a failed round of HELLOs.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait after failed rounds: bounds how late a peer without other news is found.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// See the file's head.
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) public: PublicIdentity,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) wants: BTreeSet<Want>,
    pub(super) active: Option<Link>,
    previous: Option<Previous>,
    pub(super) dialing: Option<Dialing>,
    pub(super) answering: Option<Link>,
    pub(super) dial: Dial,
    backoff: Backoff,
    pub(super) failure: Option<Failure>,
    pub(super) down: Option<DownReason>,
    pub(super) since: Instant,
    last_address: Option<SocketAddr>,
    hint: Option<SocketAddr>,
    hint_at: Option<Instant>,
    /// The peer's latest start that we know of: by a fresh HELLO reply or a sealed chunk.
    boot: Option<[u8; 4]>,
    /// The peer's tag of the session that the rest of the router knows of.
    their_tag: Option<SessionTag>,
    /// Ours of it; another one after each session that ended here.
    session_number: u32,
    observed: Option<SocketAddr>,
    seen: VecDeque<[u8; 32]>,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    pub(super) lanes: Lanes,
    reassembly: Reassembly,
    shed: u64,
    message_id: u32,
    last_heard: Instant,
    pub(super) last_used: Instant,
    /// What the session was used for.
    pub(super) usage: Usage,
    last_ping: Instant,
    /// When the peer's latest ping came.
    pinged: Instant,
    pings: VecDeque<(u64, Instant)>,
    ping_number: u64,
    pub(super) rtt: Option<Duration>,
    wanted_by_peer: bool,
    rekey_at: Instant,
    pub(super) sent: u64,
    pub(super) received: u64,
    /// What `Sessions` has noted as the next wake-up.
    pub(super) wake: Option<(Instant, Timer)>,
}

/// What a session was used for since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Usage {
    /// Words of the control half alone.
    Messages,
    /// Frames as well.
    Frames,
}

/// A link that was replaced and still opens what is on its way.
struct Previous {
    link: Link,
    replaced: Instant,
}

/// A handshake that we started.
pub(super) struct Dialing {
    pub(super) link: Link,
    initiations: u32,
    next: Instant,
}

/// How far we are in finding the peer.
pub(super) enum Dial {
    Idle,
    Probing(Round),
    Waiting(Instant),
}

struct Queued {
    stream: Stream,
    message: Vec<u8>,
    at: Instant,
}

impl Peer {
    pub(super) fn new(id: PeerId, public: PublicIdentity, common: &mut Common, now: Instant) -> Self {
        Self {
            id,
            public,
            addresses: Vec::new(),
            wants: BTreeSet::new(),
            active: None,
            previous: None,
            dialing: None,
            answering: None,
            dial: Dial::Idle,
            backoff: Backoff::new(FIRST_RETRY, LAST_RETRY),
            failure: None,
            down: None,
            since: now,
            last_address: None,
            hint: None,
            hint_at: None,
            boot: None,
            their_tag: None,
            session_number: common.random.u32(),
            observed: None,
            seen: VecDeque::new(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            lanes: Lanes::default(),
            reassembly: Reassembly::default(),
            shed: 0,
            message_id: common.random.u32(),
            last_heard: now,
            last_used: now,
            usage: Usage::Messages,
            last_ping: now,
            pinged: now,
            pings: VecDeque::new(),
            ping_number: 0,
            rtt: None,
            wanted_by_peer: false,
            rekey_at: now,
            sent: 0,
            received: 0,
            wake: None,
        }
    }

    /// How full its queues are.
    pub(super) fn fill(&self) -> [Fill; 3] {
        [
            Fill::of("messages for a peer", self.queue.len(), MAX_QUEUE),
            Fill::of("bytes for a peer", self.queue_bytes, MAX_QUEUE_BYTES),
            self.reassembly.fill(),
        ]
    }

    // ---- What the caller wants ----

    pub(super) fn set_addresses(&mut self, addresses: Vec<SocketAddr>, common: &mut Common, now: Instant) {
        let mut addresses = addresses;
        addresses.truncate(MAX_CANDIDATES);
        let news = addresses.iter().any(|address| !self.addresses.contains(address));
        self.addresses = addresses;
        if news && !matches!(self.dial, Dial::Idle) {
            self.dial = Dial::Idle;
            self.backoff.reset();
        }
        self.dial_if_wanted(common, now);
    }

    pub(super) fn want(&mut self, why: Want, common: &mut Common, now: Instant) {
        self.wants.insert(why);
        self.last_used = now;
        self.dial_if_wanted(common, now);
    }

    pub(super) fn send(&mut self, stream: Stream, message: Vec<u8>, common: &mut Common, now: Instant) {
        self.last_used = now;
        if self.active.is_some() {
            self.transmit(stream, &message, common);
            return;
        }
        if self.queue.len() >= MAX_QUEUE || self.queue_bytes + message.len() > MAX_QUEUE_BYTES {
            common.drops.count(DropReason::QueueFull);
            return;
        }
        self.queue_bytes += message.len();
        self.queue.push_back(Queued { stream, message, at: now });
        self.want(Want::Message, common, now);
    }

    /// Tells the peer and ends the session.
    pub(super) fn close(&mut self, reason: DownReason, common: &mut Common, now: Instant) {
        if self.active.is_some() {
            let code = talk::bye_code(reason);
            self.transmit(Stream::Session, &[BYE, code], common);
        }
        self.end(reason, common, now);
    }

    /// Ends the session and every attempt at one.
    pub(super) fn end(&mut self, reason: DownReason, common: &mut Common, now: Instant) {
        common.drop_link(self.previous.take().map(|previous| previous.link));
        common.drop_link(self.dialing.take().map(|dialing| dialing.link));
        common.drop_link(self.answering.take());
        self.dial = Dial::Idle;
        let Some(active) = self.active.take() else { return };
        common.drop_link(Some(active));
        self.session_number = self.session_number.wrapping_add(1);
        self.forget_session(reason, common, now);
        match reason {
            DownReason::PeerIdle | DownReason::PeerLeft | DownReason::RemovedByPeer => {
                self.dial = Dial::Waiting(self.backoff.fail(&mut common.random, now));
            }
            DownReason::Silent
            | DownReason::Expired
            | DownReason::Idle
            | DownReason::PeerRestarted
            | DownReason::Leaving
            | DownReason::Removed
            | DownReason::Quarantined => {}
        }
    }

    fn forget_session(&mut self, reason: DownReason, common: &mut Common, now: Instant) {
        self.since = now;
        self.down = Some(reason);
        self.their_tag = None;
        self.usage = Usage::Messages;
        for lane in self.lanes.clear() {
            common.emit(SessionEvent::LaneRetired { peer: self.id, lane });
        }
        self.reassembly = Reassembly::default();
        self.shed = 0;
        self.pings.clear();
        self.wanted_by_peer = false;
        common.emit(SessionEvent::Down { peer: self.id, reason });
    }

    /// The peer seals under another tag than the session that the rest of the router knows: it was restarted, or gave that session
    /// up. The lanes of the old one have no receiver any more.
    fn note_tag(&mut self, tag: SessionTag, common: &mut Common, now: Instant) {
        self.boot = Some(tag.boot);
        let before = self.their_tag.replace(tag);
        if before.is_some_and(|before| before != tag) {
            self.begin_again(common, now);
            self.their_tag = Some(tag);
        }
    }

    /// Ends the session for the rest of the router, and starts the next on the active link.
    fn begin_again(&mut self, common: &mut Common, now: Instant) {
        self.forget_session(DownReason::PeerRestarted, common, now);
        common.drop_link(self.previous.take().map(|previous| previous.link));
        self.announce(common, now);
    }

    fn announce(&mut self, common: &mut Common, now: Instant) {
        let Some(address) = self.active.as_ref().map(|link| link.address) else { return };
        self.since = now;
        self.last_used = now;
        common.emit(SessionEvent::Up { peer: self.id, public: self.public, address });
    }

    // ---- Time ----

    pub(super) fn handle_timeout(&mut self, common: &mut Common, now: Instant) {
        let late = |since: Instant, lifetime: Duration| now.saturating_duration_since(since) >= lifetime;
        if self.previous.as_ref().is_some_and(|previous| late(previous.replaced, PREVIOUS_LIFETIME)) {
            common.drop_link(self.previous.take().map(|previous| previous.link));
        }
        if self.answering.as_ref().is_some_and(|link| late(link.since, ANSWER_LIFETIME)) {
            common.drop_link(self.answering.take());
        }
        self.step_handshake(common, now);
        if let Some(since) = self.active.as_ref().map(|link| link.since) {
            self.session_timeout(since, common, now);
        }
        self.expire_wants(common, now);
        if self.active.is_none() {
            self.step_round(common, now);
            self.dial_if_wanted(common, now);
        }
        while self.queue.front().is_some_and(|queued| late(queued.at, QUEUE_LIFETIME)) {
            if let Some(queued) = self.queue.pop_front() {
                self.queue_bytes -= queued.message.len();
                common.drops.count(DropReason::QueueExpired);
            }
        }
    }

    fn session_timeout(&mut self, since: Instant, common: &mut Common, now: Instant) {
        if now >= self.last_heard + SILENT_AFTER {
            return self.end(DownReason::Silent, common, now);
        }
        if now >= since + REJECT_AFTER {
            return self.end(DownReason::Expired, common, now);
        }
        if now >= self.next_ping(common) {
            self.ping(common, now);
        }
        if now >= self.rekey_at && self.dialing.is_none() {
            self.rekey_at = now + REKEY_RETRY;
            if let Some(address) = self.active.as_ref().map(|link| link.address) {
                self.start_handshake(address, common, now);
            }
        }
        self.with_lanes(common, |lanes, context| lanes.handle_timeout(context, now));
    }

    /// On the beat, so that the pings of all sessions leave, and their answers come, in few wake-ups.
    fn next_ping(&self, common: &Common) -> Instant {
        if self.last_ping >= self.last_heard + PING_EVERY {
            return common.on_beat(self.last_ping + PING_WHEN_SILENT);
        }
        let (last, patience) = match self.pinged > self.last_ping {
            true => (self.pinged, Duration::ZERO),
            false => (self.last_ping, PING_PATIENCE),
        };
        let busy = (self.last_heard + BUSY_PAUSE).min(last + PING_WHEN_BUSY + patience);
        common.on_beat((last + PING_EVERY + patience).max(busy))
    }

    /// Wants that come from use lapse without it, and a session without wants ends.
    fn expire_wants(&mut self, common: &mut Common, now: Instant) {
        if now < self.last_used + self.idle_after(common) {
            return;
        }
        self.wants.remove(&Want::Traffic);
        self.wants.remove(&Want::Message);
        if self.active.is_some() && self.wants.is_empty() && !self.wanted_by_peer {
            self.close(DownReason::Idle, common, now);
        }
    }

    fn idle_after(&self, common: &Common) -> Duration {
        match self.usage {
            Usage::Frames => common.config.idle_after,
            Usage::Messages if self.wants.contains(&Want::Traffic) => common.config.idle_after,
            Usage::Messages => common.config.idle_after.min(MESSAGE_IDLE),
        }
    }

    /// The earliest time at which `handle_timeout` has something to do, and what.
    pub(super) fn next_wake(&self, common: &Common, now: Instant) -> Option<(Instant, Timer)> {
        let dial = match &self.dial {
            Dial::Idle => None,
            Dial::Probing(round) => Some((round.next, Timer::Hello)),
            Dial::Waiting(until) if self.dials_itself() && self.dialing.is_none() => {
                let answered = self.answering.as_ref().map(|link| link.since + ANSWER_PATIENCE);
                Some((answered.map_or(*until, |patience| patience.max(*until)), Timer::Retry))
            }
            Dial::Waiting(_) => None,
        };
        [
            dial,
            self.answer_wake(now),
            self.idle_wake(common, now),
            self.session_wake(common),
            self.previous.as_ref().map(|previous| (previous.replaced + PREVIOUS_LIFETIME, Timer::Previous)),
            self.dialing.as_ref().map(|dialing| (dialing.next, Timer::Initiation)),
            self.queue.front().map(|queued| (queued.at + QUEUE_LIFETIME, Timer::Queue)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn answer_wake(&self, now: Instant) -> Option<(Instant, Timer)> {
        let since = self.answering.as_ref()?.since;
        let patience_ends = since + ANSWER_PATIENCE;
        let waits = self.active.is_none() && self.dials_itself() && matches!(self.dial, Dial::Idle);
        if waits && patience_ends > now {
            return Some((patience_ends, Timer::Answer));
        }
        Some((since + ANSWER_LIFETIME, Timer::Answer))
    }

    fn idle_wake(&self, common: &Common, now: Instant) -> Option<(Instant, Timer)> {
        let lapsing = self.wants.contains(&Want::Traffic) || self.wants.contains(&Want::Message);
        if !lapsing && (self.active.is_none() || !self.wants.is_empty()) {
            return None;
        }
        let at = self.last_used + self.idle_after(common);
        // Due and still here: the peer wants the session. Look again when its next ping may have said otherwise.
        Some((if at <= now { now + PING_EVERY } else { at }, Timer::Idle))
    }

    fn session_wake(&self, common: &Common) -> Option<(Instant, Timer)> {
        let active = self.active.as_ref()?;
        let rekey = (self.dialing.is_none()).then_some((self.rekey_at, Timer::Rekey));
        let lanes = self.lanes.wake().map(|at| (at, Timer::Lanes));
        [
            (self.last_heard + SILENT_AFTER, Timer::Silence),
            (active.since + REJECT_AFTER, Timer::Expiry),
            (self.next_ping(common), Timer::Ping),
        ]
        .into_iter()
        .chain(rekey)
        .chain(lanes)
        .min()
    }
}

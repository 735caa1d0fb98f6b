//! One peer: its links (active, previous, being dialled, being answered), what wants it, and all its timers.
//!
//! A new link stands beside the active one until it proves itself: for the initiator by the handshake response, for the responder
//! by the first authenticated session datagram. Nothing that is not authenticated changes the active link.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gossip::PeerId;

use super::backoff::Backoff;
use super::chunks::{BootTag, Reassembly, Stream, split};
use super::common::{Common, Purpose};
use super::dial::{MAX_CANDIDATES, Round, RoundStep};
use super::drops::DropReason;
use super::lanes::{LaneAction, LaneContext, Lanes};
use super::link::{Link, Received, Role, WireKind};
use super::types::{DownReason, Failure, Refusal, SessionEvent, Want};
use crate::core::hello::Hello;
use crate::core::identity::PublicIdentity;

/// An initiation without response is sent again: WireGuard waits 5 s, a container's first packet should not.
const REPEAT_INITIATION: Duration = Duration::from_secs(1);
/// Initiations of one attempt.
const MAX_INITIATIONS: u32 = 8;
/// So many of our initiations win over the peer's when both dial and we have the lower id; then theirs is taken, since ours may not arrive.
const CROSSED_INITIATIONS: u32 = 3;
/// An answered handshake that does not prove itself is dropped after this.
const ANSWER_LIFETIME: Duration = Duration::from_secs(10);
/// We do not dial while an answered handshake is this young.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// A replaced link is still opened with for this long: longer than any datagram stays on a path.
const PREVIOUS_LIFETIME: Duration = Duration::from_secs(20);
/// The side with the higher id goes back to a replaced link on which the peer still sends this long after the change.
const FOLLOW_AFTER: Duration = Duration::from_secs(2);
/// WireGuard's REKEY_AFTER_TIME.
const REKEY_AFTER: Duration = Duration::from_secs(120);
/// Head start of the lower id, so that one side rekeys.
const REKEY_PATIENCE: Duration = Duration::from_secs(20);
/// Added to the time of a rekey at random.
const REKEY_JITTER: Duration = Duration::from_secs(10);
/// A rekey that failed is tried again after this.
const REKEY_RETRY: Duration = Duration::from_secs(5);
/// WireGuard's REJECT_AFTER_TIME.
const REJECT_AFTER: Duration = Duration::from_secs(180);
/// A ping at least so often.
const PING_EVERY: Duration = Duration::from_secs(5);
/// A ping so often when the peer has been silent for `PING_EVERY`.
const PING_WHEN_SILENT: Duration = Duration::from_secs(1);
/// A peer that is silent this long is gone: three pings of the first kind and ten of the second.
const SILENT_AFTER: Duration = Duration::from_secs(15);
/// Unanswered pings whose time is remembered.
const MAX_PINGS: usize = 16;
/// Messages that wait for a session, of one peer.
const MAX_QUEUE: usize = 64;
/// Bytes that wait for a session, of one peer.
const MAX_QUEUE_BYTES: usize = 256 * 1024;
/// A message that waited this long is dropped: whoever sent it has sent another.
const QUEUE_LIFETIME: Duration = Duration::from_secs(30);
/// Initiations remembered against replay: more than two hours of rekeys.
const MAX_SEEN: usize = 64;
/// First wait after a failed round of HELLOs.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait after failed rounds: bounds how late a peer without other news is found.
const LAST_RETRY: Duration = Duration::from_secs(60);
/// A HELLO of the peer shortens the wait to this, but not more often than `HINT_EVERY`, since it may be a replay.
const HINT_RETRY: Duration = Duration::from_secs(1);
const HINT_EVERY: Duration = Duration::from_secs(10);

pub(super) const PING: u8 = 1;
pub(super) const PONG: u8 = 2;
pub(super) const BYE: u8 = 3;

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
    /// Of the last fresh HELLO reply or sealed chunk.
    boot: Option<BootTag>,
    /// Of the session that the rest of the router knows of.
    session_boot: Option<BootTag>,
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
    last_ping: Instant,
    pings: VecDeque<(u64, Instant)>,
    ping_number: u64,
    pub(super) rtt: Option<Duration>,
    wanted_by_peer: bool,
    rekey_at: Instant,
    pub(super) sent: u64,
    pub(super) received: u64,
    /// What `Sessions` has noted as the next wake-up.
    pub(super) wake: Option<Instant>,
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
            session_boot: None,
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
            last_ping: now,
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
            let code = bye_code(reason);
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
        self.session_boot = None;
        for lane in self.lanes.clear() {
            common.emit(SessionEvent::LaneRetired { peer: self.id, lane });
        }
        self.reassembly = Reassembly::default();
        self.shed = 0;
        self.pings.clear();
        self.wanted_by_peer = false;
        common.emit(SessionEvent::Down { peer: self.id, reason });
    }

    /// The active link leads to a later start of the peer than the session that the rest of the router knows: the lanes of the
    /// old one have no receiver any more.
    fn note_boot(&mut self, boot: Option<BootTag>, common: &mut Common, now: Instant) {
        let Some(boot) = boot else { return };
        self.boot = Some(boot);
        let before = self.session_boot.replace(boot);
        if before.is_none_or(|before| before == boot) {
            return;
        }
        self.forget_session(DownReason::PeerRestarted, common, now);
        self.session_boot = Some(boot);
        common.drop_link(self.previous.take().map(|previous| previous.link));
        self.announce(common, now);
    }

    fn announce(&mut self, common: &mut Common, now: Instant) {
        let Some(address) = self.active.as_ref().map(|link| link.address) else { return };
        self.since = now;
        self.last_used = now;
        common.emit(SessionEvent::Up { peer: self.id, public: self.public, address });
    }

    // ---- Finding the peer ----

    /// A valid HELLO request came from there: it is alive, if this is not a replay.
    pub(super) fn hint(&mut self, from: SocketAddr, now: Instant) {
        self.hint = Some(from);
        if self.hint_at.is_some_and(|at| now < at + HINT_EVERY) {
            return;
        }
        if let Dial::Waiting(until) = &mut self.dial {
            *until = (*until).min(now + HINT_RETRY);
            self.hint_at = Some(now);
        }
    }

    /// The peer answered our HELLO, freshly and with its own signature.
    pub(super) fn hello_reply(
        &mut self,
        address: SocketAddr,
        hello: &Hello,
        common: &mut Common,
        now: Instant,
    ) {
        let boot = Some(BootTag::of(&hello.boot));
        let restarted = self.session_boot.is_some() && self.session_boot != boot;
        self.boot = boot;
        if self.observed != Some(hello.address) {
            self.observed = Some(hello.address);
            common.emit(SessionEvent::Observed { by: self.id, our_address: hello.address });
        }
        if matches!(self.dial, Dial::Probing(_) | Dial::Waiting(_)) {
            self.dial = Dial::Idle;
        }
        if self.active.is_none() || restarted {
            self.start_handshake(address, common, now);
        }
    }

    pub(super) fn refused(&mut self, address: SocketAddr, refusal: Refusal) {
        if let Dial::Probing(round) = &mut self.dial {
            round.note_refusal(address, refusal);
        }
    }

    pub(super) fn other_peer(&mut self, address: SocketAddr, found: PeerId) {
        if let Dial::Probing(round) = &mut self.dial {
            round.note_other(address, found);
        }
    }

    pub(super) fn ourselves(&mut self, address: SocketAddr) {
        if let Dial::Probing(round) = &mut self.dial {
            round.note_ourselves(address);
        }
    }

    pub(super) fn start_handshake(&mut self, address: SocketAddr, common: &mut Common, now: Instant) {
        if self.busy(now) {
            return;
        }
        let link = common.new_link(self.id, &self.public, Role::Initiator, address, now);
        self.dialing = Some(Dialing { link, initiations: 0, next: now });
        self.step_handshake(common, now);
    }

    fn busy(&self, now: Instant) -> bool {
        let young = |link: &Link| now.saturating_duration_since(link.since) < ANSWER_PATIENCE;
        self.dialing.is_some() || self.answering.as_ref().is_some_and(young)
    }

    /// Targets are dialled by address, apart from this.
    fn dials_itself(&self) -> bool {
        self.wants.iter().any(|want| *want != Want::Target)
    }

    pub(super) fn dial_if_wanted(&mut self, common: &mut Common, now: Instant) {
        if self.active.is_some() || !self.dials_itself() || self.busy(now) {
            return;
        }
        match &self.dial {
            Dial::Idle => {}
            Dial::Waiting(until) if *until <= now => {}
            Dial::Waiting(_) | Dial::Probing(_) => return,
        }
        let mut candidates: Vec<SocketAddr> = Vec::with_capacity(MAX_CANDIDATES + 2);
        for address in self.last_address.iter().chain(&self.addresses).chain(&self.hint) {
            if !candidates.contains(address) {
                candidates.push(*address);
            }
        }
        if !matches!(self.dial, Dial::Waiting(_)) {
            self.since = now;
        }
        self.dial = Dial::Probing(Round::new(candidates, now));
        self.step_round(common, now);
    }

    fn step_round(&mut self, common: &mut Common, now: Instant) {
        let Dial::Probing(round) = &mut self.dial else { return };
        if !self.wants.iter().any(|want| *want != Want::Target) {
            self.dial = Dial::Idle;
            return;
        }
        match round.step(Purpose::Peer(self.id), common, now) {
            RoundStep::Waiting => {}
            RoundStep::Failed(failure) => self.fail(failure, common, now),
        }
    }

    fn fail(&mut self, failure: Failure, common: &mut Common, now: Instant) {
        self.dial = Dial::Waiting(self.backoff.fail(&mut common.random, now));
        common.emit(SessionEvent::Unreachable { peer: self.id, failure: failure.clone() });
        self.failure = Some(failure);
    }

    fn step_handshake(&mut self, common: &mut Common, now: Instant) {
        let Some(dialing) = self.dialing.as_mut().filter(|dialing| dialing.next <= now) else { return };
        if dialing.initiations >= MAX_INITIATIONS {
            let address = dialing.link.address;
            common.drop_link(self.dialing.take().map(|dialing| dialing.link));
            if self.active.is_some() {
                self.rekey_at = now + REKEY_RETRY;
            } else {
                self.fail(Failure::NoHandshake { address }, common, now);
            }
            return;
        }
        dialing.initiations += 1;
        dialing.next = now + REPEAT_INITIATION;
        if let Some(datagram) = dialing.link.initiate() {
            let to = dialing.link.address;
            common.send(to, datagram);
        }
    }

    // ---- Datagrams ----

    /// A handshake initiation that names this peer's key; not yet proven to be fresh.
    pub(super) fn initiation(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        common: &mut Common,
        now: Instant,
    ) -> Result<(), DropReason> {
        let ephemeral: [u8; 32] = datagram
            .get(8..40)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(DropReason::HandshakeMalformed)?;
        if self.seen.contains(&ephemeral) {
            return Err(DropReason::HandshakeReplayed);
        }
        let ours_first = common.me < self.id;
        if ours_first && self.dialing.as_ref().is_some_and(|d| d.initiations <= CROSSED_INITIATIONS) {
            return Err(DropReason::HandshakeCrossed);
        }
        let mut link = match self.answering.take() {
            Some(link) => link,
            None => common.new_link(self.id, &self.public, Role::Responder, from, now),
        };
        let received = link.receive(WireKind::Initiation, datagram);
        match received {
            Received::Respond(response) => {
                link.address = from;
                self.answering = Some(link);
                self.remember(ephemeral);
                common.drop_link(self.dialing.take().map(|dialing| dialing.link));
                common.send(from, response);
                Ok(())
            }
            Received::Dropped(reason) => {
                self.answering = Some(link);
                Err(reason)
            }
            Received::Established(_) | Received::Cookie | Received::Keepalive | Received::Payload(_) => {
                self.answering = Some(link);
                Err(DropReason::HandshakeInvalid)
            }
        }
    }

    fn remember(&mut self, ephemeral: [u8; 32]) {
        self.seen.push_back(ephemeral);
        if self.seen.len() > MAX_SEEN {
            self.seen.pop_front();
        }
    }

    /// A datagram for one of this peer's links.
    pub(super) fn datagram(
        &mut self,
        from: SocketAddr,
        index: u32,
        kind: WireKind,
        datagram: &[u8],
        common: &mut Common,
        now: Instant,
    ) -> Result<(), DropReason> {
        if let Some(active) = self.active.as_mut().filter(|link| link.index == index) {
            let received = active.receive(kind, datagram);
            return self.active_received(from, received, common, now);
        }
        if let Some(previous) = self.previous.as_mut().filter(|previous| previous.link.index == index) {
            let received = previous.link.receive(kind, datagram);
            return self.previous_received(received, common, now);
        }
        if let Some(dialing) = self.dialing.as_mut().filter(|dialing| dialing.link.index == index) {
            let received = dialing.link.receive(kind, datagram);
            return self.dialing_received(from, received, common, now);
        }
        if let Some(answering) = self.answering.as_mut().filter(|link| link.index == index) {
            let received = answering.receive(kind, datagram);
            return self.answering_received(from, received, common, now);
        }
        Err(DropReason::UnknownSession)
    }

    fn active_received(
        &mut self,
        from: SocketAddr,
        received: Received,
        common: &mut Common,
        now: Instant,
    ) -> Result<(), DropReason> {
        match received {
            Received::Dropped(reason) => return Err(reason),
            Received::Cookie => return Ok(()),
            Received::Respond(_) => return Err(DropReason::HandshakeUnexpected),
            // The response to an earlier of our initiations: boringtun has taken its keys, tell the peer.
            Received::Established(keepalive) => common.send(from, keepalive),
            Received::Keepalive => {}
            Received::Payload(payload) => {
                self.heard(from, common, now);
                let boot = BootTag::in_chunk(&payload);
                if boot.is_some() && boot != self.session_boot {
                    self.note_boot(boot, common, now);
                    self.with_lanes(common, |lanes, context| lanes.start(context, now));
                }
                return self.payload(&payload, common, now);
            }
        }
        self.heard(from, common, now);
        Ok(())
    }

    fn heard(&mut self, from: SocketAddr, common: &mut Common, now: Instant) {
        self.last_heard = now;
        if let Some(active) = self.active.as_mut().filter(|link| link.address != from) {
            active.address = from;
            self.last_address = Some(from);
            common.emit(SessionEvent::AddressChanged { peer: self.id, address: from });
        }
    }

    fn previous_received(
        &mut self,
        received: Received,
        common: &mut Common,
        now: Instant,
    ) -> Result<(), DropReason> {
        let payload = match received {
            Received::Dropped(reason) => return Err(reason),
            Received::Cookie | Received::Respond(_) | Received::Established(_) => {
                return Err(DropReason::HandshakeUnexpected);
            }
            Received::Keepalive => None,
            Received::Payload(payload) => Some(payload),
        };
        self.last_heard = now;
        let follow = |previous: &Previous| now.saturating_duration_since(previous.replaced) >= FOLLOW_AFTER;
        if common.me > self.id && self.previous.as_ref().is_some_and(follow) {
            self.follow(now);
        }
        match payload {
            Some(payload) if BootTag::in_chunk(&payload) == self.session_boot => {
                self.payload(&payload, common, now)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The peer still sends on the link that we have replaced: the lower id leads, so go back to it.
    fn follow(&mut self, now: Instant) {
        if let (Some(active), Some(previous)) = (self.active.take(), self.previous.take()) {
            self.active = Some(previous.link);
            self.previous = Some(Previous { link: active, replaced: now });
            self.rekey_at = now + REKEY_RETRY;
        }
    }

    fn dialing_received(
        &mut self,
        from: SocketAddr,
        received: Received,
        common: &mut Common,
        now: Instant,
    ) -> Result<(), DropReason> {
        match received {
            // boringtun's keepalive is not sent: the ping of `promote` proves as much and carries the boot tag.
            Received::Established(_) => {
                let Some(dialing) = self.dialing.take() else { return Ok(()) };
                self.promote(dialing.link, from, self.boot, common, now);
                Ok(())
            }
            Received::Cookie => Ok(()),
            Received::Dropped(reason) => Err(reason),
            Received::Respond(_) | Received::Keepalive | Received::Payload(_) => {
                Err(DropReason::HandshakeUnexpected)
            }
        }
    }

    fn answering_received(
        &mut self,
        from: SocketAddr,
        received: Received,
        common: &mut Common,
        now: Instant,
    ) -> Result<(), DropReason> {
        let payload = match received {
            Received::Payload(payload) => payload,
            Received::Cookie => return Ok(()),
            Received::Dropped(reason) => return Err(reason),
            Received::Keepalive | Received::Respond(_) | Received::Established(_) => {
                return Err(DropReason::HandshakeUnexpected);
            }
        };
        let Some(link) = self.answering.take() else { return Ok(()) };
        self.promote(link, from, BootTag::in_chunk(&payload), common, now);
        self.payload(&payload, common, now)
    }

    /// The link has proven itself: it is the session from now on.
    fn promote(
        &mut self,
        mut link: Link,
        from: SocketAddr,
        boot: Option<BootTag>,
        common: &mut Common,
        now: Instant,
    ) {
        link.address = from;
        link.since = now;
        let patience = if common.me < self.id { Duration::ZERO } else { REKEY_PATIENCE };
        self.rekey_at = now + REKEY_AFTER + patience + common.random.up_to(REKEY_JITTER);
        common.drop_link(self.previous.take().map(|previous| previous.link));
        let replaced = self.active.replace(link);
        let moved = replaced.as_ref().map(|old| old.address != from);
        self.previous = replaced.map(|link| Previous { link, replaced: now });
        self.dial = Dial::Idle;
        self.backoff.reset();
        self.failure = None;
        self.last_address = Some(from);
        self.last_heard = now;
        match moved {
            None => {
                self.down = None;
                self.session_boot = None;
                self.announce(common, now);
            }
            Some(true) => common.emit(SessionEvent::AddressChanged { peer: self.id, address: from }),
            Some(false) => {}
        }
        self.note_boot(boot, common, now);
        self.ping(common, now);
        self.with_lanes(common, |lanes, context| lanes.start(context, now));
        for queued in std::mem::take(&mut self.queue) {
            self.transmit(queued.stream, &queued.message, common);
        }
        self.queue_bytes = 0;
    }

    // ---- Inside the session ----

    fn payload(&mut self, chunk: &[u8], common: &mut Common, now: Instant) -> Result<(), DropReason> {
        let accepted = self.reassembly.accept(chunk, now);
        let shed = self.reassembly.shed();
        common.drops.add(DropReason::ReassemblyShed, shed - self.shed);
        self.shed = shed;
        let Some((stream, message)) = accepted.map_err(super::control::chunk_reason)? else { return Ok(()) };
        super::control::message(self, stream, message, common, now)
    }

    pub(super) fn transmit(&mut self, stream: Stream, message: &[u8], common: &mut Common) {
        let Some(active) = &mut self.active else { return };
        self.message_id = self.message_id.wrapping_add(1);
        let Some(chunks) = split(stream, self.message_id, common.boot_tag, message) else {
            common.drops.count(DropReason::MessageTooLong);
            return;
        };
        self.sent += 1;
        for chunk in chunks {
            if let Some(datagram) = active.seal(&chunk) {
                common.send(active.address, datagram);
            }
        }
    }

    fn ping(&mut self, common: &mut Common, now: Instant) {
        self.ping_number += 1;
        self.last_ping = now;
        self.pings.push_back((self.ping_number, now));
        if self.pings.len() > MAX_PINGS {
            self.pings.pop_front();
        }
        let mut message = vec![PING, u8::from(self.keeps())];
        message.extend_from_slice(&self.ping_number.to_be_bytes());
        self.transmit(Stream::Session, &message, common);
    }

    pub(super) fn pong(&mut self, number: u64, now: Instant) {
        let Some(at) = self.pings.iter().position(|(sent, _)| *sent == number) else { return };
        let Some((_, sent)) = self.pings.remove(at) else { return };
        let sample = now.saturating_duration_since(sent);
        // RFC 6298, section 2: SRTT with alpha = 1/8.
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
    }

    pub(super) fn note_wanted_by_peer(&mut self, flags: u8) {
        self.wanted_by_peer = flags & 1 != 0;
    }

    /// Whether a session is kept without being used.
    fn keeps(&self) -> bool {
        self.wants.contains(&Want::Gossip) || self.wants.contains(&Want::Target)
    }

    pub(super) fn with_lanes<T>(
        &mut self,
        common: &mut Common,
        run: impl FnOnce(&mut Lanes, &mut LaneContext<'_>) -> T,
    ) -> T {
        let mut actions = Vec::new();
        let mut context = LaneContext {
            fabric: common.keys.fabric(),
            me: common.me,
            my_keys: common.public,
            peer: self.id,
            peer_keys: self.public,
            capabilities: common.config.capabilities,
            random: &mut common.random,
            ids: &mut common.lane_ids,
            actions: &mut actions,
        };
        let result = run(&mut self.lanes, &mut context);
        let address = self.active.as_ref().map(|link| link.address);
        for action in actions {
            match (action, address) {
                (LaneAction::Send(message), _) => self.transmit(Stream::Session, &message, common),
                (LaneAction::Retire(lane), _) => {
                    common.emit(SessionEvent::LaneRetired { peer: self.id, lane });
                }
                (LaneAction::Ready(lane), Some(address)) => {
                    common.emit(SessionEvent::LaneReady { peer: self.id, address, lane });
                }
                (LaneAction::Ready(_), None) => {}
            }
        }
        result
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
        if now >= self.next_ping() {
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

    fn next_ping(&self) -> Instant {
        let silent = self.last_ping >= self.last_heard + PING_EVERY;
        self.last_ping + if silent { PING_WHEN_SILENT } else { PING_EVERY }
    }

    /// Wants that come from use lapse without it, and a session without wants ends.
    fn expire_wants(&mut self, common: &mut Common, now: Instant) {
        if now < self.last_used + common.config.idle_after {
            return;
        }
        self.wants.remove(&Want::Traffic);
        self.wants.remove(&Want::Message);
        if self.active.is_some() && self.wants.is_empty() && !self.wanted_by_peer {
            self.close(DownReason::Idle, common, now);
        }
    }

    /// The earliest time at which `handle_timeout` has something to do, and what.
    pub(super) fn next_wake(&self, common: &Common, now: Instant) -> Option<Instant> {
        let dial = match &self.dial {
            Dial::Idle => None,
            Dial::Probing(round) => Some(round.next),
            Dial::Waiting(until) => self.dials_itself().then_some(*until),
        };
        let waits_for_answer =
            self.active.is_none() && self.dials_itself() && matches!(self.dial, Dial::Idle);
        let answering = self.answering.as_ref().map(|link| {
            if waits_for_answer { link.since + ANSWER_PATIENCE } else { link.since + ANSWER_LIFETIME }
        });
        let answering = answering.map(|at| if at <= now { now + ANSWER_PATIENCE } else { at });
        let lapsing = self.wants.contains(&Want::Traffic) || self.wants.contains(&Want::Message);
        let idle_at = self.last_used + common.config.idle_after;
        let closing = self.active.is_some() && self.wants.is_empty();
        let idle = (lapsing || closing).then_some(if idle_at <= now { now + PING_EVERY } else { idle_at });
        let session = self.active.as_ref().map(|link| {
            let ends = (self.last_heard + SILENT_AFTER).min(link.since + REJECT_AFTER);
            let rekey = if self.dialing.is_some() { ends } else { self.rekey_at };
            ends.min(self.next_ping()).min(rekey)
        });
        let lanes = if self.active.is_some() { self.lanes.wake() } else { None };
        [
            dial,
            answering,
            idle,
            session,
            lanes,
            self.previous.as_ref().map(|previous| previous.replaced + PREVIOUS_LIFETIME),
            self.dialing.as_ref().map(|dialing| dialing.next),
            self.queue.front().map(|queued| queued.at + QUEUE_LIFETIME),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

pub(super) const BYE_IDLE: u8 = 0;
pub(super) const BYE_LEAVING: u8 = 1;
pub(super) const BYE_REMOVED: u8 = 2;

fn bye_code(reason: DownReason) -> u8 {
    match reason {
        DownReason::Idle | DownReason::Silent | DownReason::Expired => BYE_IDLE,
        DownReason::Leaving | DownReason::Quarantined => BYE_LEAVING,
        DownReason::Removed => BYE_REMOVED,
        DownReason::PeerIdle
        | DownReason::PeerLeft
        | DownReason::PeerRestarted
        | DownReason::RemovedByPeer => BYE_IDLE,
    }
}

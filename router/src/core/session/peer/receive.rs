//! Datagrams of the peer: handshakes, and what comes on each link.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Dial, Peer, Previous, REKEY_RETRY};
use crate::core::session::chunks::SessionTag;
use crate::core::session::common::Common;
use crate::core::session::drops::DropReason;
use crate::core::session::link::{Link, Received, Role, WireKind};
use crate::core::session::types::SessionEvent;

/// So many of our initiations win over the peer's when both dial and we have the lower id; then theirs is taken, since ours may not arrive.
const CROSSED_INITIATIONS: u32 = 3;
/// The side with the higher id goes back to a replaced link on which the peer still sends this long after the change.
const FOLLOW_AFTER: Duration = Duration::from_secs(2);
/// WireGuard's REKEY_AFTER_TIME.
const REKEY_AFTER: Duration = Duration::from_secs(120);
/// Head start of the lower id, so that one side rekeys.
const REKEY_PATIENCE: Duration = Duration::from_secs(20);
/// Added to the time of a rekey at random.
const REKEY_JITTER: Duration = Duration::from_secs(10);
/// Initiations remembered against replay: more than two hours of rekeys.
const MAX_SEEN: usize = 64;

impl Peer {
    /// A handshake initiation that names this peer's key; not yet proven to be fresh.
    pub(in crate::core::session) fn initiation(
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
        let answered = self.answering.take();
        let known = answered.is_some();
        let mut link = match answered {
            Some(link) => link,
            None => common.new_link(self.id, &self.public, Role::Responder, from, now),
        };
        let received = link.receive(WireKind::Initiation, datagram);
        let good = matches!(received, Received::Respond(_));
        if good {
            link.address = from;
        }
        // Anybody who knows two public keys can make an initiation that names this peer: it must not leave a link behind.
        if good || known {
            self.answering = Some(link);
        } else {
            common.drop_link(Some(link));
        }
        match received {
            Received::Respond(response) => {
                self.remember(ephemeral);
                common.drop_link(self.dialing.take().map(|dialing| dialing.link));
                common.send(from, response);
                Ok(())
            }
            Received::Dropped(reason) => Err(reason),
            Received::Established(_) | Received::Cookie | Received::Keepalive | Received::Payload(_) => {
                Err(DropReason::HandshakeInvalid)
            }
        }
    }

    pub(super) fn remember(&mut self, ephemeral: [u8; 32]) {
        self.seen.push_back(ephemeral);
        if self.seen.len() > MAX_SEEN {
            self.seen.pop_front();
        }
    }

    /// A datagram for one of this peer's links.
    pub(in crate::core::session) fn datagram(
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

    pub(super) fn active_received(
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
                if let Some(tag) = SessionTag::in_chunk(&payload) {
                    let known = self.their_tag;
                    self.note_tag(tag, common, now);
                    if known.is_some_and(|known| known != tag) {
                        self.with_lanes(common, |lanes, context| lanes.start(context, now));
                    }
                }
                return self.payload(&payload, common, now);
            }
        }
        self.heard(from, common, now);
        Ok(())
    }

    pub(super) fn heard(&mut self, from: SocketAddr, common: &mut Common, now: Instant) {
        self.last_heard = now;
        if let Some(active) = self.active.as_mut().filter(|link| link.address != from) {
            active.address = from;
            self.last_address = Some(from);
            common.emit(SessionEvent::AddressChanged { peer: self.id, address: from });
        }
    }

    pub(super) fn previous_received(
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
            Some(payload) if SessionTag::in_chunk(&payload) == self.their_tag => {
                self.payload(&payload, common, now)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The peer still sends on the link that we have replaced: the lower id leads, so go back to it.
    pub(super) fn follow(&mut self, now: Instant) {
        if let (Some(active), Some(previous)) = (self.active.take(), self.previous.take()) {
            self.active = Some(previous.link);
            self.previous = Some(Previous { link: active, replaced: now });
            self.rekey_at = now + REKEY_RETRY;
        }
    }

    pub(super) fn dialing_received(
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
                self.promote(dialing.link, from, common, now);
                self.greet(common, now);
                Ok(())
            }
            Received::Cookie => Ok(()),
            Received::Dropped(reason) => Err(reason),
            Received::Respond(_) | Received::Keepalive | Received::Payload(_) => {
                Err(DropReason::HandshakeUnexpected)
            }
        }
    }

    pub(super) fn answering_received(
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
        self.promote(link, from, common, now);
        if let Some(tag) = SessionTag::in_chunk(&payload) {
            self.note_tag(tag, common, now);
        }
        self.greet(common, now);
        self.payload(&payload, common, now)
    }

    /// The link has proven itself: it is the session from now on.
    pub(super) fn promote(&mut self, mut link: Link, from: SocketAddr, common: &mut Common, now: Instant) {
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
                self.their_tag = None;
                self.announce(common, now);
            }
            Some(true) => common.emit(SessionEvent::AddressChanged { peer: self.id, address: from }),
            Some(false) => {}
        }
        // A fresh HELLO reply has told of a restart, before the peer's first sealed word does.
        if self.their_tag.is_some_and(|tag| self.boot != Some(tag.boot)) {
            self.begin_again(common, now);
        }
    }

    /// The first words on a new link: a ping, which proves it to the peer, the lane offer, and what has waited.
    fn greet(&mut self, common: &mut Common, now: Instant) {
        self.ping(common, now);
        self.with_lanes(common, |lanes, context| lanes.start(context, now));
        for queued in std::mem::take(&mut self.queue) {
            self.transmit(queued.stream, &queued.message, common);
        }
        self.queue_bytes = 0;
    }
}

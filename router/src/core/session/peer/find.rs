//! Finding the peer: rounds of HELLOs, and the handshakes that we start.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gossip::PeerId;

use super::{Dial, Dialing, Peer, REKEY_RETRY};
use crate::core::hello::Hello;
use crate::core::session::chunks::boot_tag;
use crate::core::session::common::{Common, Purpose};
use crate::core::session::dial::{MAX_CANDIDATES, Round, RoundStep};
use crate::core::session::link::{Link, Role};
use crate::core::session::types::{Failure, Refusal, SessionEvent, Want};

/// An initiation without response is sent again: WireGuard waits 5 s, a container's first packet should not.
const REPEAT_INITIATION: Duration = Duration::from_secs(1);
/// Initiations of one attempt.
const MAX_INITIATIONS: u32 = 8;
/// We do not dial while an answered handshake is this young.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// A HELLO of the peer shortens the wait to this, but not more often than `HINT_EVERY`, since it may be a replay.
const HINT_RETRY: Duration = Duration::from_secs(1);
const HINT_EVERY: Duration = Duration::from_secs(10);

impl Peer {
    /// A valid HELLO request came from there: it is alive, if this is not a replay.
    pub(in crate::core::session) fn hint(&mut self, from: SocketAddr, now: Instant) {
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
    pub(in crate::core::session) fn hello_reply(
        &mut self,
        address: SocketAddr,
        hello: &Hello,
        common: &mut Common,
        now: Instant,
    ) {
        let boot = boot_tag(&hello.boot);
        let restarted = self.their_tag.is_some_and(|tag| tag.boot != boot);
        self.boot = Some(boot);
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

    pub(in crate::core::session) fn refused(&mut self, address: SocketAddr, refusal: Refusal) {
        if let Dial::Probing(round) = &mut self.dial {
            round.note_refusal(address, refusal);
        }
    }

    pub(in crate::core::session) fn other_peer(&mut self, address: SocketAddr, found: PeerId) {
        if let Dial::Probing(round) = &mut self.dial {
            round.note_other(address, found);
        }
    }

    pub(in crate::core::session) fn ourselves(&mut self, address: SocketAddr) {
        if let Dial::Probing(round) = &mut self.dial {
            round.note_ourselves(address);
        }
    }

    pub(in crate::core::session) fn start_handshake(
        &mut self,
        address: SocketAddr,
        common: &mut Common,
        now: Instant,
    ) {
        if self.busy(now) {
            return;
        }
        let link = common.new_link(self.id, &self.public, Role::Initiator, address, now);
        self.dialing = Some(Dialing { link, initiations: 0, next: now });
        self.step_handshake(common, now);
    }

    pub(super) fn busy(&self, now: Instant) -> bool {
        let young = |link: &Link| now.saturating_duration_since(link.since) < ANSWER_PATIENCE;
        self.dialing.is_some() || self.answering.as_ref().is_some_and(young)
    }

    /// Targets are dialled by address, apart from this.
    pub(super) fn dials_itself(&self) -> bool {
        self.wants.iter().any(|want| *want != Want::Target)
    }

    pub(in crate::core::session) fn dial_if_wanted(&mut self, common: &mut Common, now: Instant) {
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

    pub(super) fn step_round(&mut self, common: &mut Common, now: Instant) {
        if !self.dials_itself() {
            self.dial = Dial::Idle;
            return;
        }
        let Dial::Probing(round) = &mut self.dial else { return };
        match round.step(Purpose::Peer(self.id), common, now) {
            RoundStep::Waiting => {}
            RoundStep::Failed(failure) => self.fail(failure, common, now),
        }
    }

    pub(super) fn fail(&mut self, failure: Failure, common: &mut Common, now: Instant) {
        self.dial = Dial::Waiting(self.backoff.fail(&mut common.random, now));
        common.emit(SessionEvent::Unreachable { peer: self.id, failure: failure.clone() });
        self.failure = Some(failure);
    }

    pub(super) fn step_handshake(&mut self, common: &mut Common, now: Instant) {
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
}

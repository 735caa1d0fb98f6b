//! An address that the user named: dialled until somebody answers there, and again whenever its session is lost.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gossip::PeerId;

use super::backoff::Backoff;
use super::common::{Common, Purpose};
use super::dial::{Round, RoundStep};
use super::types::{Failure, Refusal};

/// First wait after a failed round.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait: a host that comes up is in the fabric within a minute, even if nobody tells it.
const LAST_RETRY: Duration = Duration::from_secs(60);
/// After an answer, the handshake has this long before the address is asked again.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

/// See the file's head.
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) state: TargetState,
    pub(super) peer: Option<PeerId>,
    pub(super) failure: Option<Failure>,
    pub(super) since: Instant,
    backoff: Backoff,
}

/// How far a target is.
pub(super) enum TargetState {
    Probing(Round),
    Waiting(Instant),
    /// A peer answered; if there is no session by then, the address is asked again.
    Answered(Instant),
    Connected,
    /// This router answers there itself: not asked again.
    Ourselves,
}

impl Target {
    pub(super) fn new(address: SocketAddr, now: Instant) -> Self {
        Self {
            address,
            state: TargetState::Probing(Round::new(vec![address], now)),
            peer: None,
            failure: None,
            since: now,
            backoff: Backoff::new(FIRST_RETRY, LAST_RETRY),
        }
    }

    pub(super) fn handle_timeout(&mut self, common: &mut Common, now: Instant) {
        match &mut self.state {
            TargetState::Probing(round) => match round.step(Purpose::Target, common, now) {
                RoundStep::Waiting => {}
                RoundStep::Failed(failure) => {
                    self.failure = Some(failure);
                    self.wait(common, now);
                }
            },
            TargetState::Waiting(until) if *until <= now => self.probe(now),
            TargetState::Answered(until) if *until <= now => {
                self.failure = Some(Failure::NoHandshake { address: self.address });
                self.wait(common, now);
            }
            TargetState::Waiting(_)
            | TargetState::Answered(_)
            | TargetState::Connected
            | TargetState::Ourselves => {}
        }
    }

    pub(super) fn answered(&mut self, peer: PeerId, now: Instant) {
        self.peer = Some(peer);
        if !matches!(self.state, TargetState::Connected) {
            self.state = TargetState::Answered(now + HANDSHAKE_PATIENCE);
        }
    }

    pub(super) fn connected(&mut self, now: Instant) {
        self.state = TargetState::Connected;
        self.failure = None;
        self.since = now;
        self.backoff.reset();
    }

    pub(super) fn lost(&mut self, common: &mut Common, now: Instant) {
        self.since = now;
        self.wait(common, now);
    }

    pub(super) fn refused(&mut self, refusal: Refusal) {
        if let TargetState::Probing(round) = &mut self.state {
            round.note_refusal(self.address, refusal);
        }
    }

    pub(super) fn is_ourselves(&mut self, now: Instant) {
        self.state = TargetState::Ourselves;
        self.failure = Some(Failure::Ourselves { address: self.address });
        self.since = now;
    }

    /// Asks now instead of later.
    pub(super) fn hurry(&mut self, now: Instant) {
        if matches!(self.state, TargetState::Waiting(_)) {
            self.probe(now);
        }
    }

    pub(super) fn wake(&self) -> Option<Instant> {
        match &self.state {
            TargetState::Probing(round) => Some(round.next),
            TargetState::Waiting(until) | TargetState::Answered(until) => Some(*until),
            TargetState::Connected | TargetState::Ourselves => None,
        }
    }

    fn probe(&mut self, now: Instant) {
        self.state = TargetState::Probing(Round::new(vec![self.address], now));
    }

    fn wait(&mut self, common: &mut Common, now: Instant) {
        self.state = TargetState::Waiting(self.backoff.fail(&mut common.random, now));
    }
}

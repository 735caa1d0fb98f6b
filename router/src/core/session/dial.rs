//! Finding a peer: HELLO probes to its candidate addresses in turn, then a handshake with the first that answers, and the wait after a
//! failure. Knows nothing of what happens once there is a session.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gossip::PeerId;

use super::common::{Common, Purpose};
use super::types::{Failure, Refusal};

/// Candidate addresses of one peer: a host has a few networks, an attacker may claim many.
pub(super) const MAX_CANDIDATES: usize = 8;
/// Each candidate is asked so often in a round: three lost out of three at 20 % loss each way is one round in twenty.
const PASSES: usize = 3;
/// Time between two HELLOs of a round, at least: one answer in time saves the rest.
const GAP: Duration = Duration::from_millis(100);
/// Time of one pass over all candidates, at least.
const PASS: Duration = Duration::from_millis(600);
/// Wait for an answer after the last HELLO of a round.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// One round of HELLOs.
pub(super) struct Round {
    candidates: Vec<SocketAddr>,
    sent: usize,
    pub(super) next: Instant,
    refused: Option<(SocketAddr, Refusal)>,
    other: Option<Failure>,
}

/// How a round goes on.
pub(super) enum RoundStep {
    Waiting,
    Failed(Failure),
}

impl Round {
    pub(super) fn new(candidates: Vec<SocketAddr>, now: Instant) -> Self {
        Self { candidates, sent: 0, next: now, refused: None, other: None }
    }

    /// Sends what is due.
    pub(super) fn step(&mut self, purpose: Purpose, common: &mut Common, now: Instant) -> RoundStep {
        if self.next > now {
            return RoundStep::Waiting;
        }
        let total = self.candidates.len() * PASSES;
        if self.sent >= total {
            return RoundStep::Failed(self.failure());
        }
        let address = self.candidates[self.sent % self.candidates.len()];
        common.probe(address, purpose, now);
        self.sent += 1;
        let count = u32::try_from(self.candidates.len()).unwrap_or(1);
        let gap = if self.sent == total { LAST_WAIT } else { GAP.max(PASS / count) };
        self.next = now + gap;
        RoundStep::Waiting
    }

    pub(super) fn note_refusal(&mut self, address: SocketAddr, refusal: Refusal) {
        self.refused = Some((address, refusal));
    }

    pub(super) fn note_other(&mut self, address: SocketAddr, found: PeerId) {
        self.other = Some(Failure::OtherPeer { address, found });
    }

    pub(super) fn note_ourselves(&mut self, address: SocketAddr) {
        self.other = Some(Failure::Ourselves { address });
    }

    fn failure(&mut self) -> Failure {
        if let Some((address, refusal)) = self.refused.clone() {
            return Failure::Refused { address, refusal };
        }
        if self.candidates.is_empty() {
            return Failure::NoAddress;
        }
        self.other.take().unwrap_or_else(|| Failure::NoAnswer { addresses: self.candidates.clone() })
    }
}
